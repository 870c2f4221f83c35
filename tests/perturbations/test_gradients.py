"""MAML with every perturbation, and Meta-SGD: the exact meta-gradient, of loss and penalty, against finite differences.
(`fixed` has nothing to learn, `mixup` is manifold mixup at its first place, test_model.py and test_metanet.py have
learned noise and masks.)"""

import numpy as np
import pytest
import tensorflow as tf

import learners
import numerics
from numerics import noise_of, random_parameters

WAY, SHOT, QUERY, TASKS = 3, 2, 2, 2
SHAPE, CHANNELS = (16, 18, 2), 3
SEEDS = [[5, i] for i in range(TASKS)]
BIASES = {f"theta/conv{block}_b" for block in (1, 2, 3, 4)}
# (learner, perturbation) -> what has no gradient: what batch norm takes away again.
IDLE = {
    ("maml", "independent"): set(), ("maml", "weight"): BIASES,
    ("maml", "additive"): BIASES, ("maml", "deterministic"): set(), ("maml", "variance"): set(),
    ("maml", "parameters"): BIASES, ("maml", "manifold_mixup"): BIASES,
    ("maml", "vib"): BIASES, ("maml", "information_dropout"): BIASES,
    ("metasgd", "noise"): set(),
}  # fmt: skip
SETTINGS = {
    "vib": {"vib_beta": 0.1},
    "information_dropout": {"information_beta": 1e-3},
    "manifold_mixup": {"mix_set": "both"},
}


# The inner steps are computed again in the backward pass for one of each way to have parameters: in blocks and head, of
# a penalty, of the learner. (What is computed again does not know which perturbation it is.)
AGAIN = {("maml", "independent"), ("maml", "information_dropout"), ("metasgd", "noise")}


@pytest.mark.parametrize(("name", "perturbation"), IDLE)
def test_every_parameters_gradient_is_that_of_finite_differences(name, perturbation):
    """The loss of all tasks in one call; the gradient of one task at a time."""
    settings = {"image_shape": SHAPE, "channels": CHANNELS, "way": WAY, "inner_lr": 0.3, "n_steps": 1}
    own = SETTINGS.get(perturbation, {})
    learner, again = (
        learners.make(name, perturbation, meta_gradient="exact", remat=remat, **settings, **own)
        for remat in (False, (name, perturbation) in AGAIN)
    )
    rng = np.random.default_rng(4)
    params = random_parameters(learner.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((TASKS, WAY * n, *SHAPE))) for n in (SHOT, QUERY))
    noise = noise_of(tf.constant(SEEDS))

    @tf.function(autograph=False)
    def loss_of(params):
        loss, penalty = numerics.outer_loss(learner, params, x_s, x_q, noise)
        return tf.reduce_mean(loss + penalty)

    @tf.function(autograph=False)
    def gradients(params):
        seeds = tf.constant(SEEDS)
        return numerics.meta_gradients(again, params, x_s, x_q, seeds, noise_of=noise_of)[2]

    found = numerics.slopes(loss_of, gradients(params), params, rng)
    assert {k for k, (slope, bound) in found.items() if abs(slope) <= bound} == IDLE[name, perturbation]


# What of phi acts through the support set's gradients alone, so that it has no gradient where these are constants.
HEAD = {"phi/dense_w", "phi/dense_b"}
SUPPORT_ALONE = {
    "noise": HEAD, "independent": {"phi/dense_b"}, "weight": "all", "additive": "all", "deterministic": set(),
    "variance": HEAD | {f"phi/deviation_conv{block}_{part}" for block in (1, 2, 3, 4) for part in "wb"},
    "parameters": set(), "vib": set(), "information_dropout": set(),
}  # fmt: skip
CASES = [("maml", perturbation, 1, "first_order") for perturbation in SUPPORT_ALONE]
CASES += [("metasgd", "noise", 1, "first_order"), ("maml", "noise", 0, "published"), ("maml", "variance", 1, "exact")]
QUICK = [("maml", "noise", 1, "first_order"), ("maml", "weight", 1, "first_order")]


@pytest.mark.parametrize(
    ("name", "perturbation", "n_steps", "meta_gradient"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_what_is_said_not_to_be_trained_has_no_gradient_and_all_else_has_one(
    name, perturbation, n_steps, meta_gradient
):
    own = {"meta_gradient": meta_gradient, "n_steps": n_steps, "inner_lr": 0.3} | SETTINGS.get(perturbation, {})
    learner = learners.make(name, perturbation, image_shape=SHAPE, channels=CHANNELS, way=WAY, remat=True, **own)
    rng = np.random.default_rng(4)
    params = random_parameters(learner.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((1, WAY * n, *SHAPE))) for n in (SHOT, QUERY))

    @tf.function(autograph=False)
    def gradients():
        return numerics.meta_gradients(learner, params, x_s, x_q, tf.constant(SEEDS[:1]), noise_of=noise_of)[2]

    phi = {key for key in params if key.startswith("phi/")}
    none = {key for key, gradient in gradients().items() if not np.any(gradient)}
    expected = SUPPORT_ALONE[perturbation] if meta_gradient == "first_order" else HEAD if not n_steps else set()
    assert set(learner.untrained()) == none == (phi if expected == "all" else expected)
