"""The compiled steps: Adam on the clipped meta-gradient, the same for every way of compiling it; tests and episodes."""

import collections
import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

import data
import graphs
import layers
import learners
import model
import numerics
import pieces
from attacks import Adversary
from declared import own_settings
from numerics import decided, noise_of
from perturbations import draws
from ranges import UNIT, Range
from training import programs, steps

LEARNER = {"image_shape": (16, 16, 1), "channels": 3, "way": 3, "train_classes": 24}
MAML = {"n_steps": 1, "inner_lr": 0.4}
OWN = MAML | {"batch": 5}
TASKS = {"shot": 1, "query": 2, "metabatch": 2, "seed": 3, "meta_lr": 0.01}
# Every fourth image is blank: pooling meets ties.
PIXELS = np.random.default_rng(4).integers(0, 256, (6, 5, 16, 16, 1), np.uint8)
PIXELS[:, ::4] = 0
SPLIT = data.Split(PIXELS, rotations=4, scale=1 / 255)
PERTURBATIONS = {"maml": "mask", "metadrop": "noise", "metanet_embedding": "none", "metanet_original": "mask",
                 "metasgd": "manifold_mixup", "protonet": "none", "reptile": "none"}  # fmt: skip

TRAINED = [name for name in learners.LEARNERS if learners.make(name, **LEARNER).parameters()]


def make(name="maml", jit=False, perturbation=None, **settings):
    own = {k: v for k, v in OWN.items() if k in own_settings(name)}
    return steps.Engine(learners.make(name, perturbation, **LEARNER, **own, jit=jit), **(TASKS | settings))


def parameters(made, dtype=tf.float32):
    return {k: tf.cast(v.value(), dtype) for k, v in made.params.items()}


def episode_of(made, iteration):
    """classes, images, seed: what changes from iteration to iteration."""
    inputs = made.training_inputs(SPLIT, iteration)
    return [inputs[name] for name in ("classes", "images", "seed")]


def test_the_adversary_gets_the_range_of_the_splits_inputs(monkeypatch):
    made, met = make(adversary=Adversary("linf", 0.1, 1)), []

    def meta_gradient(params, episode, noise, adversary):
        met.append(adversary)
        return {"loss": tf.zeros([1]), "accuracy": tf.zeros([1])}, params

    monkeypatch.setattr(made.learner, "meta_gradient", meta_gradient)
    for declared in (None, Range(-1, 3)):
        split = dataclasses.replace(SPLIT, declared=declared)
        means_with(made, programs.without_pixels(split))(parameters(made), tf.constant(PIXELS), *episode_of(made, 0))
    assert [adversary.range for adversary in met] == [UNIT, (-1, 3)]


def test_sums_over_tasks_are_float64():
    """So they do not depend on how the tasks are grouped: the mean of 10^8, 1 and -10^8 is a third."""
    made = make(metabatch=3)
    rows = tf.reshape(tf.constant([1e8, 1, -1e8]), [3, 1])
    params = {name: tf.zeros([]) for name in made.params}
    mean = made.mean_of(params, [rows, rows, *[rows] * len(params)])
    for value in (mean.loss, mean.accuracy, mean.gradients["theta/conv1_w"]):
        np.testing.assert_allclose(value, 1 / 3, rtol=1e-12)


def random_mean(made, rng, size=1.0):
    """Return a meta-gradient of all orders of magnitude."""

    def draw(shape=()):
        return tf.constant(size * rng.standard_normal(shape) * 10.0 ** rng.integers(-10, 3, shape))

    return steps.MetaGradient(draw(), draw(), {name: draw(v.shape) for name, v in made.params.items()}, {})


@pytest.mark.parametrize("clip_norm", [None, 5.0])
def test_updates_are_keras_adam_on_the_clipped_gradient(clip_norm):
    """Each element clipped to [-3, 3], or the norm of all together: on gradients of 1e-10 to 100, where epsilon counts
    and where clipping bites. (Of a net's own gradients some are rounding, which Adam makes as large as any.)"""
    made, rng = make(clip_norm=clip_norm), np.random.default_rng(0)
    params, slots = steps.read(made.params), steps.read(made.slots)
    weights, adam = [tf.Variable(v) for v in params.values()], tf.keras.optimizers.Adam(0.01, epsilon=1e-8)
    for size in (1.0, 1e-3, 1e-6):
        mean = random_mean(made, rng, size)
        params, slots, finite = made.update(params, slots, mean, tf.constant(0.01))
        assert finite
        grads = steps.flat(mean.gradients.values()).numpy().astype(np.float32)
        if clip_norm:
            norm = np.linalg.norm(grads)
            assert (norm > clip_norm) == (size == 1)
            grads = grads * min(1, clip_norm / norm)
        else:
            grads = np.clip(grads, -3, 3)
        parts = np.split(grads, np.cumsum([w.shape.num_elements() for w in weights])[:-1])
        adam.apply([tf.reshape(g, w.shape) for g, w in zip(parts, weights, strict=True)], weights)
        for k, w in zip(params, weights, strict=True):
            np.testing.assert_allclose(params[k], w.numpy(), rtol=1e-5, atol=1e-7, err_msg=k)  # a step is 1e-2
    for bad in (np.nan, np.inf):
        first = next(iter(mean.gradients))
        spoilt = mean.gradients | {first: mean.gradients[first] * bad}
        for faulty in (mean._replace(gradients=spoilt), mean._replace(loss=tf.constant(bad, tf.float64))):
            assert not made.update(params, slots, faulty, 0.01)[2]


def means_with(made, split, dtype=tf.float32):
    """Compile `mean_gradient` with its numbers in a row: the meta-gradient by all parameters, loss, accuracy."""

    def means(*args):
        mean = made.mean_gradient(split, *args, dtype=dtype)
        both = mean.gradients | mean.distances
        return steps.flat([*(both[name] for name in made.params), mean.loss, mean.accuracy])

    return made.compiled(means)


@functools.cache
def means_of(name, dtype=tf.float32, jit=False, bf16=False, adversary=None):
    """Return an engine, and a function of classes, images and seed: `means_with`'s numbers."""
    made = make(name, jit, PERTURBATIONS.get(name), adversary=adversary)
    made.learner.bf16 = bf16
    means, pixels = means_with(made, SPLIT, dtype), tf.constant(SPLIT.pixels)
    return made, lambda *episode: means(parameters(made, dtype), pixels, *episode).numpy()


def gradient(name, *args, **settings):
    made, means = means_of(name, *args, **settings)
    return means(*episode_of(made, 0))[:-2]


ROUNDING = numerics.SUMS * np.finfo(np.float32).eps  # of a loss in float32, relative


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


def by_hand(made, stream, index, tasks, dtype=tf.float64):
    """Support and query images by numpy's indices and turns, and the tasks' seeds."""
    classes, images = made.episode(SPLIT, stream, index, tasks)
    return pixels_by_hand(made, classes, images, dtype)


def pixels_by_hand(made, classes, images, dtype=tf.float64):
    """Support images, of which a minibatch consists, and query images."""
    tasks = len(classes)
    x = [[[np.rot90(SPLIT.pixels[c // 4, i], c % 4) for i in row] for c, row in zip(*task, strict=True)]
         for task in zip(classes, images, strict=True)]  # fmt: skip
    x = np.array(x) / 255
    parts = x[:, :, : made.shot], x[:, :, made.shot :]
    x_s, x_q = (part.reshape(tasks, part.shape[1] * part.shape[2], *x.shape[3:]) for part in parts)
    return tf.constant(x_s, dtype), tf.constant(x_q, dtype)


def fold(*numbers):
    """A seed of (the run's seed, the stream), folded with what follows."""
    seed = tf.constant(numbers[:2], tf.int32)
    for number in numbers[2:]:
        seed = draws.fold(seed, number)
    return seed


@pytest.mark.usefixtures("rewritten_graphs")
@pytest.mark.parametrize(
    "name", ["metadrop", *(pytest.param(n, marks=pytest.mark.slow) for n in TRAINED if n != "metadrop")]
)
def test_the_gradient_of_one_xla_program_and_of_fused_kernels_is_that_of_float64_by_hand(name):
    """The path of a GPU, and that of a CPU, against float64, on the same episode with the same noise:
    a task's randomness is that of (run, stream, iteration, task)."""
    made = make(name, perturbation=PERTURBATIONS.get(name))
    inputs, params = made.training_inputs(SPLIT, 0), parameters(made, tf.float64)
    classes, images = (inputs[name].numpy() for name in ("classes", "images"))
    images = pixels_by_hand(made, classes, images)
    seeds = tf.stack([fold(3, 0, 0, task) for task in range(2)])

    def oracle(*x):
        settings = {"tasks_at_once": 2, "noise_of": noise_of, "classes": classes}
        return numerics.meta_gradients(made.learner, params, *x, seeds, **settings)

    loss, accuracy, grads = decided(oracle, *images)
    exact = steps.flat([*grads.values(), loss, accuracy]).numpy()
    for settings in ({}, {"jit": True}):
        own, means = means_of(name, **settings)
        found = means(*episode_of(own, 0))
        assert error(found[:-2], exact[:-2]) < 1e-4
        # Rounding decides between two classes with the same blank support image, except where it is equal for both.
        compared = found[-2:] if name != "ridge" else found[-2:-1]
        np.testing.assert_allclose(compared, exact[-2:][: len(compared)], rtol=ROUNDING)


@pytest.mark.usefixtures("rewritten_graphs")
@pytest.mark.parametrize("name", ["metadrop", "protonet", pytest.param("metanet_original", marks=pytest.mark.slow)])
def test_bf16_rounds_products_and_nothing_else(name):
    """How far that moves a gradient is a matter of which maxima flip; its loss, in nats, moves by a few roundings."""
    (made, bf16), (_, single) = means_of(name, bf16=True), means_of(name)
    found, exact = bf16(*episode_of(made, 0)), single(*episode_of(made, 0))
    assert error(found[:-2], exact[:-2]) > 1e-3
    assert 0 < abs(found[-2] - exact[-2]) < 16 * 2.0**-8 * exact[-2]
    if name == "metadrop":
        made.run_step(made.train_step(SPLIT), SPLIT, 0)
        assert all(v.dtype == tf.float32 for v in (*made.params.values(), *made.slots.values()))
    x = tf.constant([[[1.0, 1 + 2.0**-10]]])  # the second is 1 in bfloat16
    out = layers.dense(tf.cast(x, tf.bfloat16), tf.ones([2, 1]), tf.constant([2.0**-10]))
    assert out.dtype == tf.float32 and float(out[0, 0, 0]) == 2 + 2.0**-10  # the bias is added in float32


@pytest.mark.slow
def test_inner_steps_computed_again_have_the_same_gradient():
    """Two steps, each with masks of its own."""
    settings = LEARNER | MAML | {"n_steps": 2, "mask_per_sample": True}
    plain, again = (steps.Engine(learners.make("maml", "mask", **settings, remat=r), **TASKS) for r in (False, True))
    arguments = [parameters(plain, tf.float64), tf.constant(SPLIT.pixels), *episode_of(plain, 0)]
    exact, found = (means_with(e, SPLIT, tf.float64)(*arguments) for e in (plain, again))
    assert error(found, exact) < 1e-12


def test_the_step_is_a_pure_function():
    """With nothing captured, as the program that `bench.py --export` writes wants it, and train_step's own."""
    made = make("metanet_original", perturbation="mask")
    params, slots = steps.read(made.params), steps.read(made.slots)
    pure = made.compiled(functools.partial(made.pure_step, SPLIT))
    for i in range(2):
        arguments = [tf.constant(SPLIT.pixels), *episode_of(made, i), tf.constant(made.meta_lr)]
        assert not pure.get_concrete_function(params, slots, *arguments).captured_inputs
        params, slots, *_ = pure(params, slots, *arguments)
    step = made.train_step(SPLIT)
    [made.run_step(step, SPLIT, i) for i in range(2)]
    for k, v in parameters(made).items():
        np.testing.assert_array_equal(params[k], v, err_msg=k)


def test_engines_that_compute_the_same_share_a_compiled_step_and_no_others(monkeypatch):
    monkeypatch.setattr(programs, "PROGRAMS", collections.OrderedDict())

    def step_of(split=SPLIT, name="maml", perturbation="mask", own=(), **settings):
        learner = learners.make(name, perturbation, **LEARNER | MAML | dict(own))
        made = steps.Engine(learner, **(TASKS | settings))
        return made.program(steps.Engine.compile_training, programs.without_pixels(split))

    counts = np.array([2, 3])
    uneven = data.Split(PIXELS[0], 4, 1 / 255, counts)
    others = [
        *({"own": own} for own in ({"inner_lr": 0.3}, {"way": 4}, {"mask_rates": [0.1, 0.1, 0.1]}, {"jit": True})),
        {"name": "metasgd"}, {"perturbation": "none"}, {"shot": 2}, {"query": 3},
        {"metabatch": 3}, {"seed": 4}, {"clip_norm": 1.0}, {"adversary": Adversary("l2", 2.0, 3)},
        {"parallel": 2}, {"split": data.Split(PIXELS, 1, 1 / 255)}, {"split": data.Split(PIXELS, 4, 1.0)},
        {"split": uneven}, {"split": dataclasses.replace(uneven, counts=counts[::-1])},
    ]  # fmt: skip
    first = [step_of(), *(step_of(**changed) for changed in others)]
    assert len(set(map(id, first))) == len(first) == len(programs.PROGRAMS)
    assert [step_of(), *(step_of(**changed) for changed in others)] == first
    assert step_of(data.Split(PIXELS // 2, 4, 1 / 255)) is first[0]  # pixels are an argument
    assert step_of(meta_lr=0.1) is first[0]  # and so is the outer step size
    monkeypatch.setattr(programs, "REMEMBERED", len(first))
    assert step_of(seed=5) not in first and step_of() is first[0]  # the one that was used last stays
    assert len(programs.PROGRAMS) == len(first) and step_of(**others[0]) is not first[1]


def test_an_engine_whose_learner_has_no_hash_shares_nothing_and_compiles_once():
    lone = make()
    lone.learner.table = {}
    shared = [made.program(steps.Engine.compile_classifying) for made in (lone, lone, make())]
    assert shared[0] is shared[1] is not shared[2]


def test_an_engine_on_several_devices_shares_nothing_and_its_key_outlives_it():
    """A number in memory would be that of a later engine, which would then take its step."""
    several, other = make(), make()
    assert several.key() == other.key()
    several.replicas = other.replicas = 2
    assert several.key() != other.key() and several.key() is several


@pytest.mark.parametrize("name", ["protonet", "maml"])
def test_the_graphs_of_a_forgotten_step_are_freed(name, monkeypatch):
    """Blocks in pieces share XLA's programs, which outlive a step, and must not keep the graph that called them."""
    if name == "maml":
        monkeypatch.setattr(pieces, "MAP", 1)
        pieces.programs.cache_clear()
    before = graphs.alive()
    monkeypatch.setattr(programs, "PROGRAMS", collections.OrderedDict())
    made = make(name)
    made.run_step(made.train_step(SPLIT), SPLIT, 0)
    assert len(graphs.alive()) > len(before)
    programs.PROGRAMS.clear()
    left = collections.Counter(graphs.alive()) - collections.Counter(before)
    assert left.keys() <= {"combined", "reduced", "by_convolutions"}  # XLA's programs of blocks in pieces


def test_engines_that_share_a_step_have_their_own_numbers():
    one, other = make("protonet"), make("protonet")
    before = parameters(other)
    losses = [float(one.run_step(one.train_step(SPLIT), SPLIT, i)[0]) for i in (0, 0)]
    for name, value in parameters(other).items():
        np.testing.assert_array_equal(value, before[name])
    assert not np.array_equal(parameters(one)["theta/conv1_w"], before["theta/conv1_w"])
    half = data.Split(PIXELS // 2, 4, 1 / 255)
    assert float(other.run_step(other.train_step(SPLIT), SPLIT, 0)[0]) == losses[0] != losses[1]
    assert float(other.run_step(other.train_step(half), half, 0)[0]) not in losses


def test_running_averages_move_as_far_as_the_passes_of_the_metabatch_move_them():
    """By 0.1 of the distance for each pass, in the mean over the passes' orders; Adam and clipping leave them alone."""
    made = make("metanet_original", clip_norm=1e-3)
    w, start = tf.cast(made.params["conv1_w"].value(), tf.float64), np.array([5.0, 6, 7])
    images = by_hand(made, "train", 5, 2)
    passes = np.concatenate([np.mean(layers.conv(x, w, None), (1, 2, 3)) for x in images])  # the means of four
    name = "running/conv1_bn/mean"
    params = parameters(made) | {name: tf.constant(start, tf.float32)}
    compiled = made.compiled(functools.partial(made.pure_step, SPLIT))
    found = compiled(params, steps.read(made.slots), tf.constant(PIXELS), *episode_of(made, 5), 0.01)[0][name]
    orders, rng = [], np.random.default_rng(0)
    for _ in range(3000):
        running = start
        for mean in rng.permutation(passes):
            running = 0.9 * running + 0.1 * mean
        orders.append(running)
    kept = 0.9**4
    np.testing.assert_allclose(found, kept * start + (1 - kept) * passes.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found, np.mean(orders, 0), rtol=1e-3)
    assert made.slots["m"].shape[0] == sum(v.shape.num_elements() for k, v in made.params.items() if "running" not in k)


def test_the_noise_of_an_iteration_is_its_own():
    """The same weights and episodes, another iteration's noise: another loss."""
    made, means = means_of("metadrop")
    classes, images, _ = episode_of(made, 0)
    assert len({means(classes, images, tf.constant([3, i]))[-2] for i in range(4)}) == 4


def test_an_episode_of_a_test_is_its_streams_and_has_its_own_seed():
    """Loss and accuracy of each, by hand in float64; as many as there are asked for."""
    made = make("metadrop")
    step = made.test_step(SPLIT, "val", 2)
    params = parameters(made, tf.float64)

    def oracle(x_s, x_q, seeds):
        episode = model.make_episode(x_s, x_q, made.learner.way)
        return list(made.learner.evaluate(params, episode, noise_of(seeds), 2).values())

    episodes = [[*by_hand(made, "val", i, 1), fold(3, data.STREAMS["val"], i)[None]] for i in (1, 2)]
    expected = decided(oracle, *(tf.concat(part, 0) for part in zip(*episodes, strict=True)))
    for found, exact in zip(step(1, 2).values(), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=ROUNDING)
    assert {name: len(x) for name, x in step(1, 1).items()} == {"loss": 1, "accuracy": 1}


@pytest.mark.parametrize("name", ["maml", "metanet_embedding"])
def test_the_meta_gradient_under_attack_is_that_of_the_attacked_images(name):
    """In float64: query images that the adversary perturbed by hand, which then are constants; one task's noise is its
    own. And its loss is above that of the clean images."""
    adversary = Adversary("l2", 2.0, 3)
    made = make(name, perturbation=PERTURBATIONS.get(name))
    (x_s, x_q), params = by_hand(made, "train", 0, 2), parameters(made, tf.float64)
    x_s, x_q = tf.cast(x_s, tf.float64), tf.cast(x_q, tf.float64)
    seeds = tf.stack([fold(3, 0, 0, task) for task in range(2)])

    @tf.function(autograph=False)
    def attacked():
        y = model.labels_of(x_s, 3)
        adapted = made.learner.adapt(params, x_s, y, noise_of(seeds), 1, True)[0]

        def classify(x):
            return made.learner.classify(params, adapted, x, noise_of(seeds))[0]

        return adversary.perturb(classify, x_q, model.labels_of(x_q, 3), noise_of(seeds))

    def run(x, seeds, **settings):
        call = functools.partial(numerics.meta_gradients, made.learner, noise_of=noise_of, **settings)
        return tf.function(call, autograph=False)(params, x_s, x, seeds)

    by_attack, by_images, clean = (
        run(x_q, seeds, adversary=adversary),
        run(attacked(), seeds, tasks_at_once=2),
        run(x_q, seeds),
    )
    assert by_attack[0] > clean[0] + 1e-3
    np.testing.assert_allclose(by_attack[:2], by_images[:2], rtol=1e-6)  # the accuracy is float32
    one, other = (steps.flat(result[2].values()).numpy() for result in (by_attack, by_images))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())


def test_training_is_attacked_and_a_test_is_not():
    """By the engine's adversary; also as one XLA program."""
    plain, clean = means_of("protonet", tf.float64)  # float32 would flip the sign of a small slope
    made, means = means_of("protonet", tf.float64, adversary=Adversary("linf", 0.1, 2))
    _, compiled = means_of("protonet", tf.float64, jit=True, adversary=Adversary("linf", 0.1, 2))
    episode = episode_of(made, 0)
    attacked = means(*episode)
    assert attacked[-2] > clean(*episode)[-2] + 0.01
    np.testing.assert_allclose(compiled(*episode)[-2], attacked[-2], rtol=1e-4)
    for name, values in made.test_step(SPLIT, "test", 1)(0, 2).items():
        np.testing.assert_array_equal(values, plain.test_step(SPLIT, "test", 1)(0, 2)[name])
