"""Every learner of the table, with every perturbation that it takes, keeps the contract of model.py."""

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
from declared import own_settings
from model import Learner
from perturbations import PERTURBATIONS
from perturbations.base import HOOKS, Perturbation
from perturbations.draws import TEST_SUPPORT, TRAINING_SUPPORT, Draw, task_noise

TASKS, WAY, SHOT, QUERY, SHAPE, VECTOR = 2, 3, 2, 2, (16, 18, 1), (1, 1, 5)
TAKEN = {
    name: [
        perturbation
        for perturbation, kind in PERTURBATIONS.items()
        if (entry.perturbation or perturbation) == perturbation and kind.hooks <= entry.learner.hooks
    ]
    for name, entry in learners.LEARNERS.items()
}
# Of perturbations that perturb the same places in the same way, one stands for all; perturbations/test_gradients.py has
# each of them. Meta-SGD differs from MAML by what its steps multiply.
KINDS = ("none", "noise", "mask", "manifold_mixup", "vib")
# Meta-dropout is MAML with learned noise, by its line in the table.
PAIRS = [
    (name, perturbation)
    for name, taken in TAKEN.items()
    if name != "metadrop"
    for perturbation in taken
    if perturbation in (("noise",) if name == "metasgd" else KINDS)
] + [("metanet_embedding", "information_dropout")]  # a mask with parameters, a price and noise in tests


def test_a_learner_takes_the_perturbations_whose_hooks_it_calls():
    all_of_them = list(PERTURBATIONS)
    assert learners.classes_for("metadrop") == learners.classes_for("maml", "noise")
    assert TAKEN["maml"] == TAKEN["metasgd"] == all_of_them
    assert (TAKEN["metadrop"], TAKEN["protonet"], TAKEN["reptile"]) == (["noise"], ["none"], ["none"])
    for name in ("metanet_embedding", "metanet_original"):
        assert {"none", "mask", "information_dropout"} <= set(TAKEN[name])
        assert not {"noise", "mixup", "manifold_mixup", "vib"} & set(TAKEN[name])
    for name, kind in PERTURBATIONS.items():
        overridden = {hook for hook in HOOKS if getattr(kind, hook) is not getattr(Perturbation, hook)}
        if kind.elementwise is not Perturbation.elementwise:  # the block follows from it
            overridden.add("block")
        assert kind.hooks == overridden, name
    assert all(entry.learner.hooks <= set(HOOKS) for entry in learners.LEARNERS.values())
    for name, taken in TAKEN.items():
        for perturbation in PERTURBATIONS.keys() - taken:
            with pytest.raises(ValueError, match=f"{name} cannot have the perturbation '{perturbation}': it takes"):
                learners.classes_for(name, perturbation)
    with pytest.raises(ValueError, match="there is no learner 'mamml': choose maml or metadrop"):
        learners.make("mamml")


# Images, and vectors: each learner with one perturbation, and MAML with noise on its weights.
CASES = [(*pair, SHAPE) for pair in PAIRS] + [("maml", "weight", VECTOR)]
CASES += [
    (name, next(kind for kind in ("noise", "information_dropout", "none") if kind in taken), VECTOR)
    for name, taken in TAKEN.items()
]


@pytest.mark.parametrize(("name", "perturbation", "image_shape"), CASES)
def test_the_contract_is_kept(name, perturbation, image_shape):
    own = {"n_steps": 1} if "n_steps" in own_settings(name) else {}
    learner = learners.make(name, perturbation, image_shape=image_shape, channels=3, way=WAY, **own)
    params, rng = learner.init(0), np.random.default_rng(0)
    assert {key: value.shape for key, value in params.items()} == {k: p.shape for k, p in learner.parameters().items()}
    running = [key.startswith("running/") for key in params]
    assert running == sorted(running)  # they come last
    x_s, x_q = (tf.constant(rng.random((TASKS, WAY * n, *image_shape)), tf.float32) for n in (SHOT, QUERY))
    y, noise = model.labels(WAY, SHOT), task_noise(tf.constant([[1, 2], [3, 4]]))

    @tf.function(autograph=False)
    def train():
        adapted, support_penalty = learner.adapt(params, x_s, y, noise, training=True)
        logits, query_penalty = learner.classify(params, adapted, x_q, noise)
        return logits, tf.zeros([TASKS]) + support_penalty + query_penalty

    @tf.function(autograph=False)
    def look():
        steps, adapted = learner.trajectory(params, x_s, y, noise), learner.adapt(params, x_s, y, noise)[0]
        narrow = learner.adapt(learner.narrow(params, 2), x_s[:, : 2 * SHOT], model.labels(2, SHOT), noise)[0]
        return {
            "steps": steps,
            "adapted": adapted,
            "logits": learner.classify(params, adapted, x_q)[0],
            "features": learner.features(params, adapted, x_q),
            "linear": learner.linear(adapted),
            "activations": learner.activations(params, adapted, x_q),
            "maps": learner.maps(params, adapted, tf.tile(x_q, [1, 3, 1, 1, 1]), Draw(noise, 9, TRAINING_SUPPORT, 3)),
            "narrow": learner.classify(learner.narrow(params, 2), narrow, x_q)[0],
        }

    logits, penalty = train()
    assert logits.shape == (TASKS, WAY * QUERY, WAY) and np.isfinite(logits).all()
    priced = name.startswith("metanet") or perturbation in ("vib", "information_dropout")
    assert penalty.shape == (TASKS,) and (penalty.numpy() > 0).all() == priced
    assert learner.inspectable
    seen = look()
    assert len(seen["steps"]) == learner.n_steps + 1
    for last, adapted in zip(*map(tf.nest.flatten, (seen["steps"][-1], seen["adapted"])), strict=True):
        np.testing.assert_allclose(last, adapted, rtol=1e-5, atol=1e-6)
    assert all(tensor.shape[0] == TASKS for tensor in tf.nest.flatten(seen["adapted"]))
    expected = layers.dense(seen["features"], *seen["linear"])
    np.testing.assert_allclose(seen["logits"], expected, rtol=1e-5, atol=1e-6)
    assert seen["narrow"].shape == (TASKS, WAY * QUERY, 2)
    np.testing.assert_array_equal(list(seen["activations"].values())[-1], seen["features"])
    assert all(output.shape[:2] == x_q.shape[:2] and output.shape.rank == 3 for output in seen["activations"].values())
    for layer, (block_map, factor) in seen["maps"].items():
        assert layer in seen["activations"] and block_map.shape[:2] == (TASKS, 3 * WAY * QUERY)
        assert factor is None or factor.shape == block_map.shape


@pytest.mark.parametrize(
    ("name", "perturbation"), [(name, kind) for name, taken in TAKEN.items() for kind in taken if kind != "mask"]
)
def test_no_adaptation_draws_the_noise_of_the_unused_step(name, perturbation):
    """Exports and the page to draw on show noise that the learner has not adapted to. (A mask is its task's.)"""
    own = {"n_steps": 2} if "n_steps" in own_settings(name) else {}
    own |= {"n_test_steps": 2} if "n_test_steps" in own_settings(name) else {}
    learner = learners.make(name, perturbation, image_shape=VECTOR, channels=3, way=WAY, **own)
    params, noise, drawn = learner.init(0), task_noise(tf.constant([[1, 2]])), set()

    def recorded(step, layer, shape):
        drawn.add(step)
        return noise(step, layer, shape)

    @tf.function(autograph=False)
    def adapt(x):
        for training in (False, True):
            learner.adapt(params, x, model.labels(WAY, SHOT), recorded, 2 - training, training)
        return 0

    adapt(tf.ones([1, WAY * SHOT, *VECTOR]))
    assert learner.unused_step not in drawn
    assert drawn or not learner.perturbation.random_in & {TEST_SUPPORT, TRAINING_SUPPORT}


@pytest.mark.parametrize("name", TAKEN)
def test_all_learners_of_a_seed_begin_with_the_same_body(name):
    """Whatever else they and their perturbations have, so that runs are paired by their seeds."""
    settings = {"image_shape": SHAPE, "channels": 3, "way": WAY}
    maml = learners.make("maml", **settings).init(1)
    for perturbation in TAKEN[name]:
        params = learners.make(name, perturbation, **settings).init(1)
        plain = learners.make(name, learners.LEARNERS[name].perturbation or "none", **settings).init(1)
        own = [key for key in plain if not key.startswith(("alpha/", "phi/"))]
        assert all(np.array_equal(params[key], plain[key]) for key in own)
        assert all(np.array_equal(params[key], maml[key]) for key in params.keys() & maml.keys())


@pytest.mark.parametrize("name", [name for name in TAKEN if name != "metadrop"])
def test_a_support_set_is_perturbed_in_a_test_where_the_perturbation_says_so(name):
    own = {"n_steps": 1} if "n_steps" in own_settings(name) else {}
    rng = np.random.default_rng(0)
    x_s = tf.constant(rng.random((TASKS, WAY * SHOT, *SHAPE)), tf.float32)
    for perturbation in {"noise", "mask", "information_dropout"} & set(TAKEN[name]):
        learner = learners.make(name, perturbation, image_shape=SHAPE, channels=3, way=WAY, **own)
        params = {key: 0.4 * tf.random.stateless_normal(v.shape, [1, 2]) if key.startswith("phi/") else v
                  for key, v in learner.init(0).items()}  # fmt: skip

        def adapt(seed, samples, learner=learner, params=params):
            seeds = tf.stack([[seed, 2], [seed, 4]])
            return learner.adapt(params, x_s, model.labels(WAY, SHOT), task_noise(seeds), samples)[0]

        adapt = tf.function(adapt, autograph=False)
        one, other, averaged = (tf.nest.flatten(adapt(tf.constant(s), n)) for s, n in ((1, 1), (5, 1), (1, 2)))
        for another in (other, averaged):
            differs = any(not np.array_equal(*pair) for pair in zip(one, another, strict=True))
            assert differs == (TEST_SUPPORT in learner.perturbation.random_in) == (perturbation != "mask"), perturbation


def test_what_a_learner_has_to_have_alone_cannot_be_looked_into():
    class Bare(Learner):
        pass

    settings = {"image_shape": SHAPE, "channels": 3, "way": WAY}
    assert not Bare(perturbation=Perturbation(), **settings).inspectable
    with pytest.raises(TypeError, match="n_steps"):
        Bare(perturbation=Perturbation(), n_steps=3, **settings)
    with pytest.raises(ValueError, match="NoHooks does not call the hook mask of this perturbation"):
        type("NoHooks", (Bare,), {"hooks": frozenset()})(perturbation=PERTURBATIONS["mask"](), **settings)
