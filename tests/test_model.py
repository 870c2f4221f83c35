"""MAML and Meta-dropout: gradients against finite differences, and every way of computing them."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import learners
import model
import numerics
from numerics import decided, noise_of, random_parameters

WAY, SHOT, QUERY, TASKS = 3, 2, 2, 2
SHAPE, CHANNELS, STEPS = (16, 18, 2), 3, 1  # tests/golden has five steps


def learner_of(name="metadrop", meta_gradient="published", image_shape=SHAPE):
    settings = {"image_shape": image_shape, "channels": CHANNELS, "way": WAY, "inner_lr": 0.3}
    return learners.make(name, **settings, n_steps=STEPS, meta_gradient=meta_gradient)


def inputs(name, dtype="float64", tasks=TASKS):
    """Parameters large enough that every gradient counts, support and query images, and a seed a task."""
    rng = np.random.default_rng(4)
    params = random_parameters(learner_of(name).parameters(), rng, dtype)
    x_s, x_q = (tf.constant(rng.random((tasks, WAY * n, *SHAPE)), dtype) for n in (SHOT, QUERY))
    return params, x_s, x_q, tf.constant([[5, i] for i in range(tasks)])


@functools.cache
def compute(name, meta_gradient, tasks_at_once=1):
    """Loss and {name: gradient} as numpy arrays, float64."""

    @tf.function(autograph=False)
    def run(*args):
        return numerics.meta_gradients(learner_of(name, meta_gradient), *args, tasks_at_once, noise_of)

    loss, _, grads = run(*inputs(name))
    return loss.numpy(), {k: g.numpy() for k, g in grads.items()}


def assert_close(a, b, tolerance):
    assert abs(a[0] - b[0]) <= tolerance * abs(a[0])
    for k in a[1]:
        assert np.linalg.norm(a[1][k] - b[1][k]) <= tolerance * max(np.linalg.norm(a[1][k]), 1e-3), k


@pytest.mark.parametrize("name", ["maml", "metadrop"])
def test_exact_meta_gradient_is_that_of_finite_differences(name):
    """Every parameter, along a random direction, in float64."""
    params, x_s, x_q, seeds = inputs(name)
    learner = learner_of(name, "exact")

    @tf.function(autograph=False)
    def loss_of(params):
        return tf.reduce_mean(learner.evaluate(params, model.make_episode(x_s, x_q, WAY), noise_of(seeds))["loss"])

    _, grads = compute(name, "exact")
    for k, (slope, bound) in numerics.slopes(loss_of, {k: grads[k] for k in params}, params).items():
        idle = name == "maml" and "conv" in k and k.endswith("_b")  # batch norm takes it away
        assert abs(slope) <= bound if idle else abs(slope) > 100 * bound, k


@pytest.mark.parametrize(("name", "meta_gradient"), [("metadrop", "exact"), ("maml", "published")])
def test_all_tasks_in_one_call_is_one_task_at_a_time(name, meta_gradient):
    """Loss and gradient: per-task kernels as one batched product, and one convolution a task."""
    assert_close(compute(name, meta_gradient), compute(name, meta_gradient, TASKS), 1e-9)


@pytest.mark.slow
def test_fused_batch_norm_in_float32_is_the_formula_in_float64():
    """Its second derivative; tests/test_parity.py has the published gradient."""
    params, x_s, x_q, seeds = inputs("metadrop")
    learner = learner_of("metadrop", "exact")
    decided(lambda *x: learner.evaluate(params, model.make_episode(*x, WAY), noise_of(seeds))["loss"], x_s, x_q)

    @tf.function(autograph=False)
    def single(*args):
        return numerics.meta_gradients(learner, *args)

    loss, _, grads = single(*inputs("metadrop", "float32"))
    assert_close(compute("metadrop", "exact"), (loss.numpy(), {k: g.numpy() for k, g in grads.items()}), 1e-3)


@pytest.mark.parametrize("name", ["maml", "metadrop"])
def test_the_three_meta_gradients_differ_and_their_loss_does_not(name):
    found = {kind: compute(name, kind) for kind in ("published", "exact", "first_order")}
    for a, b in (("published", "exact"), ("published", "first_order"), ("exact", "first_order")):
        assert found[a][0] == pytest.approx(found[b][0], rel=1e-12)
        x, y = (found[k][1]["theta/conv2_w"] for k in (a, b))
        assert np.linalg.norm(x - y) > 0.02 * np.linalg.norm(x), (a, b)


def test_first_order_is_the_gradient_at_the_adapted_weights():
    params, x_s, x_q, seeds = inputs("maml")
    learner = learner_of("maml", "first_order")

    @tf.function(autograph=False)
    def at_adapted():
        y_s, y_q = (model.labels(WAY, n, tf.float64) for n in (SHOT, QUERY))
        theta, _ = learner.adapt(params, x_s, y_s, noise_of(seeds))
        loss = tf.reduce_mean(model.layers.cross_entropy(learner.classify(params, theta, x_q)[0], y_q))
        return {k: tf.reduce_sum(tf.gradients(loss, [v])[0], 0) for k, v in theta.items()}

    _, grads = compute("maml", "first_order")
    for k, g in at_adapted().items():
        np.testing.assert_allclose(grads[f"theta/{k}"], g, rtol=1e-8, atol=1e-12)


def test_parameters_are_those_of_the_reference():
    params = learners.make("metadrop", image_shape=(84, 84, 3), channels=32, way=5, n_steps=5, inner_lr=0.01).init(1)
    assert len(params) == 24 and len(learner_of("maml").init(0)) == 14
    assert params["theta/dense_w"].shape == (800, 5) and params["phi/dense_w"].shape == (800, 1)
    assert params["phi/conv1_w"].shape == (3, 3, 3, 32) and params["conv4_bn/beta"].shape == (32,)
    kernel, dense = params["theta/conv3_w"].numpy(), params["theta/dense_w"].numpy()
    assert np.abs(kernel).max() <= 0.04 and kernel.std() == pytest.approx(0.0176, rel=0.03)  # truncated at 2 std
    assert np.abs(dense).max() > 0.04 and dense.std() == pytest.approx(0.02, rel=0.05)
    assert all(np.all(v.numpy() == 0) for k, v in params.items() if k.endswith(("_b", "beta")))
    other = learner_of().init(2)
    assert not np.allclose(learner_of().init(1)["theta/conv2_w"], other["theta/conv2_w"])
    assert not np.allclose(other["theta/conv2_w"], other["phi/conv2_w"])


def test_no_two_parameters_of_neighbouring_seeds_begin_alike():
    """Convolutions, dense layers, of theta and of phi: of six seeds each has its own numbers."""
    learner = learner_of()
    drawn = [value.numpy().ravel()[:4] for seed in range(6) for value in learner.init(seed).values()]
    drawn = [tuple(values) for values in drawn if values.any()]
    assert len(set(drawn)) == len(drawn) == 6 * 10


def test_adaptation_is_random_and_averages_the_loss_over_samples():
    """One step is linear in the gradient: M samples in one call are the mean of M calls on the same noise."""
    params, x_s, _, seeds = inputs("metadrop")
    learner, y, samples, images = learner_of(), model.labels(WAY, SHOT, tf.float64), 2, WAY * SHOT

    @tf.function(autograph=False)
    def adapt(seeds):
        noise = noise_of(seeds)

        def part(m):
            def one(step, layer, shape):
                drawn = noise(step, layer, tf.TensorShape([TASKS, samples * images, *shape[2:]]))
                return drawn[:, m * images : (m + 1) * images]

            return one

        return learner.adapt(params, x_s, y, noise, samples)[0], [
            learner.adapt(params, x_s, y, part(m), 1)[0] for m in range(samples)
        ]

    together, apart = adapt(seeds)
    assert not np.allclose(apart[0]["conv2_w"], apart[1]["conv2_w"])
    assert not np.allclose(together["conv2_w"], adapt(seeds + 1)[0]["conv2_w"])
    for k in together:
        np.testing.assert_allclose(together[k], tf.add_n([a[k] for a in apart]) / samples, rtol=1e-9, atol=1e-12)


def test_maml_has_no_noise():
    params, x_s, x_q, seeds = inputs("maml")
    learner = learner_of("maml")

    @tf.function(autograph=False)
    def loss(seeds):
        return learner.evaluate(params, model.make_episode(x_s, x_q, WAY), noise_of(seeds), 5)["loss"]

    np.testing.assert_array_equal(loss(seeds), loss(seeds + 9))


def test_a_loss_may_have_other_targets_and_the_accuracy_is_that_of_the_labels():
    y, targets = tf.constant([[1.0, 0.0], [0.0, 1.0]]), tf.constant([[[0.2, 0.8], [0.3, 0.7]]])
    logits = tf.constant([[[2.0, 0.0], [0.0, 1.0]]])
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    for given, compared in ((None, y), (targets, targets)):
        measured = model.measure(logits, y, given)
        assert measured["accuracy"].numpy().tolist() == [1]
        np.testing.assert_allclose(measured["loss"], -(log_p * compared.numpy()).sum(-1).mean(-1), rtol=1e-6)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="meta_gradient cannot be 'exakt'"):
        learner_of(meta_gradient="exakt")
    with pytest.raises(ValueError, match="images of 28 x 15 leave nothing after 4 poolings"):
        learner_of(image_shape=(28, 15, 3))
