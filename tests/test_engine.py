"""The compiled training step: Adam on the clipped meta-gradient, the same for every way of compiling it."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import data
import engine
import layers
import learners
import model

LEARNER = {"image_shape": (16, 16, 1), "channels": 3, "way": 3}
MAML = {"n_steps": 1, "inner_lr": 0.4}
TASKS = {"shot": 1, "query": 2, "metabatch": 2, "seed": 3, "meta_lr": 0.01}


@pytest.fixture
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 16, 16, 1), np.uint8)
    return data.Split(pixels, rotations=4, scale=1 / 255)


def make(name="maml", jit=False, perturbation=None, **settings):
    own = {k: v for k, v in MAML.items() if k in learners.settings_of(name)}
    return engine.Engine(learners.make(name, perturbation, **LEARNER, **own, jit=jit), **(TASKS | settings))


def parameters(made):
    return {k: v.numpy() for k, v in made.params.items()}


@pytest.mark.parametrize("clip_norm", [None, 0.02])
def test_two_updates_are_keras_adam_on_the_clipped_gradient(split, monkeypatch, clip_norm):
    """Each element clipped, or the norm of all together."""
    monkeypatch.setattr(engine, "CLIP", 1e-3)  # so that it bites
    made = make(clip_norm=clip_norm)
    step, weights = made.train_step(split), {k: tf.Variable(v) for k, v in made.params.items()}
    adam, clipped = tf.keras.optimizers.Adam(0.01, epsilon=1e-8), False

    @tf.function(autograph=False)
    def gradients(params, x_s, x_q):
        return model.meta_gradients(made.learner, params, x_s, x_q, tf.zeros([2, 2], tf.int32))

    for t in (1, 2):
        episode = [tf.constant(x) for x in made.episode(split, "train", t, 2)]
        x_s, x_q = data.gather(tf.constant(split.pixels), *episode, 4, 1 / 255, 1)
        loss, _, grads = gradients({k: v.value() for k, v in weights.items()}, x_s, x_q)
        grads = [tf.cast(g, tf.float32) for g in grads.values()]
        if clip_norm:
            grads, norm = tf.clip_by_global_norm(grads, clip_norm)
            clipped |= norm > clip_norm
        else:
            clipped |= any((np.abs(g) > 1e-3).any() for g in grads)
            grads = [tf.clip_by_value(g, -1e-3, 1e-3) for g in grads]
        adam.apply(grads, list(weights.values()))
        found = step(t)
        assert found[2] and not found[3] and float(found[0]) == pytest.approx(float(loss), rel=1e-5)
    assert clipped
    for k, w in parameters(made).items():
        if clip_norm and "conv" in k and k.endswith("_b"):
            continue  # batch norm takes it away: its gradient is rounding
        np.testing.assert_allclose(w, weights[k].numpy(), rtol=1e-5, atol=1e-7, err_msg=k)


def gradient(made, split, dtype=tf.float32):
    arguments = (split.pixels, *made.episode(split, "train", 0, made.metabatch), np.array([made.seed, 0], np.int32))
    params = {k: tf.cast(v, dtype) for k, v in made.params.items()}
    means = made.compiled(functools.partial(made.means, split, dtype=dtype))
    return means(params, *map(tf.constant, arguments)).numpy()[:-2]


def error(found, exact):
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("name", learners.LEARNERS)
def test_the_gradient_of_one_xla_program_is_that_of_float64_task_by_task(split, name):
    """The path of a GPU against the oracle, with the same noise. Every fourth image is blank: pooling meets ties."""
    split.pixels[:, ::4] = 0
    exact = gradient(make(name), split, tf.float64)
    assert error(gradient(make(name, jit=True), split), exact) < 1e-4
    assert error(gradient(make(name), split), exact) < 1e-4


@pytest.mark.parametrize("name", ["metadrop", "metanet_original"])
def test_bf16_rounds_products_and_nothing_else(split, name):
    exact = gradient(make(name), split)
    made = make(name)
    made.learner.bf16 = True
    assert 1e-3 < error(gradient(made, split), exact) < 0.5
    step = made.train_step(split)
    step(0)
    assert all(v.dtype == tf.float32 for v in (*made.params.values(), *made.slots.values()))
    x = tf.constant([[[1.0, 1 + 2.0**-10]]])  # the second is 1 in bfloat16
    out = layers.dense(tf.cast(x, tf.bfloat16), tf.ones([2, 1]), tf.constant([2.0**-10]))
    assert out.dtype == tf.float32 and float(out[0, 0, 0]) == 2 + 2.0**-10  # the bias is added in float32


@pytest.mark.parametrize(("name", "perturbation"), [("maml", "none"), ("metadrop", "noise"), ("maml", "mask")])
def test_inner_steps_computed_again_have_the_same_gradient(split, name, perturbation):
    made = make(name, perturbation=perturbation)
    exact = gradient(made, split, tf.float64)
    made.learner.remat = True
    assert error(gradient(made, split, tf.float64), exact) < 1e-12


def test_the_step_is_a_pure_function(split):
    """With nothing captured, as the program that `bench.py --export` writes wants it, and train_step's own."""
    made = make("metadrop")
    params, slots = engine.read(made.params), engine.read(made.slots)
    pure = made.compiled(functools.partial(made.pure_step, split))
    for i in range(2):
        arguments = (split.pixels, *made.episode(split, "train", i, 2), np.array([made.seed, i], np.int32))
        arguments = [tf.constant(x) for x in arguments]
        assert not pure.get_concrete_function(params, slots, *arguments).captured_inputs
        params, slots, *_ = pure(params, slots, *arguments)
    step = made.train_step(split)
    [step(i) for i in range(2)]
    for k, v in parameters(made).items():
        np.testing.assert_array_equal(params[k], v, err_msg=k)


def test_running_averages_move_as_far_as_the_passes_of_the_metabatch_move_them(split):
    """By 0.1 of the distance for each pass, in the mean over the passes' orders; Adam and clipping leave them alone."""
    made = make("metanet_original", clip_norm=1e-3, metabatch=3)
    classes, images = (tf.constant(x) for x in made.episode(split, "train", 5, 3))
    x = data.gather(tf.constant(split.pixels), classes, images, 4, 1 / 255, 1)
    maps = [layers.conv(tf.cast(part, tf.float64), tf.cast(made.params["conv1_w"], tf.float64), None) for part in x]
    means = np.concatenate([np.mean(m, (1, 2, 3)) for m in maps])  # of six passes
    made.params["running/conv1_bn/mean"].assign([5, 6, 7])
    made.train_step(split)(5)
    orders, rng = [], np.random.default_rng(0)
    for _ in range(3000):
        running = np.array([5.0, 6, 7])
        for mean in rng.permutation(means):
            running = 0.9 * running + 0.1 * mean
        orders.append(running)
    kept = 0.9**6
    found = made.params["running/conv1_bn/mean"].numpy()
    np.testing.assert_allclose(found, kept * np.array([5, 6, 7]) + (1 - kept) * means.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found, np.mean(orders, 0), rtol=1e-3)
    assert made.slots["m"].shape[0] == sum(v.shape.num_elements() for k, v in made.params.items() if "running" not in k)


def test_the_noise_of_an_iteration_is_its_own(split):
    """The same weights and episodes, another iteration's noise: another loss."""
    made = make("metadrop", meta_lr=1e-30)
    step = made.train_step(split)
    made.episode = lambda split, stream, index, tasks, shared: engine.Engine.episode(made, split, stream, 0, tasks)
    assert len({float(step(i)[0]) for i in range(4)}) == 4


def test_losses_that_are_not_finite_are_reported(split):
    made = make()
    made.params["theta/conv1_w"].assign(made.params["theta/conv1_w"] * np.nan)
    assert not made.train_step(split)(0)[2]
