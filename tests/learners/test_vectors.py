"""The networks on vectors, which are images of one pixel: dense layers, nothing is pooled, gradients are right."""

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
import numerics
import pieces
from numerics import noise_of, random_parameters
from parameters import default_channels
from perturbations import draws

WAY, SHOT, QUERY, CHANNELS, NUMBERS = 3, 4, 3, 4, 5
SHAPE, SEEDS = (1, 1, NUMBERS), [[5, 0], [5, 1]]
BIASES = {f"theta/conv{block}_b" for block in (1, 2, 3, 4)}
# (learner, perturbation) -> what has no gradient: what batch norm takes away again.
IDLE = {
    ("maml", "none"): BIASES, ("metadrop", "noise"): set(), ("protonet", "none"): BIASES,
    ("metanet_embedding", "none"): {"e"},
}  # fmt: skip


def make(name, perturbation="none", image_shape=SHAPE, **settings):
    if name in ("maml", "metadrop"):
        settings = {"n_steps": 1, "inner_lr": 0.3, "meta_gradient": "exact"} | settings
    return learners.make(name, perturbation, image_shape=image_shape, channels=CHANNELS, way=WAY, **settings)


def inputs(learner):
    """Parameters large enough that every gradient counts, and vectors, float64."""
    rng = np.random.default_rng(4)
    params = random_parameters(learner.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((len(SEEDS), WAY * n, *SHAPE))) for n in (SHOT, QUERY))
    return params, x_s, x_q


@pytest.mark.parametrize(("name", "perturbation"), IDLE)
def test_every_parameters_gradient_is_that_of_finite_differences(name, perturbation):
    """Of both tasks in one call; MAML's as one XLA program, too."""
    learner = make(name, perturbation)
    params, x_s, x_q = inputs(learner)

    @tf.function(autograph=False)
    def loss_of(params):
        return tf.reduce_mean(numerics.outer_loss(learner, params, x_s, x_q, noise_of(tf.constant(SEEDS)))[0])

    def gradients(params):
        return numerics.meta_gradients(learner, params, x_s, x_q, tf.constant(SEEDS), len(SEEDS), noise_of)[2]

    for jit in (False, True) if name == "maml" else (False,):
        grads = tf.function(gradients, autograph=False, jit_compile=jit)(params)
        trained = {k: grads[k] for k in params if not k.startswith("running/")}
        found = numerics.slopes(loss_of, trained, params)
        assert {k for k, (slope, bound) in found.items() if abs(slope) <= bound} == IDLE[name, perturbation]


def test_the_body_is_four_dense_layers_with_batch_norm_and_relu():
    """Against numpy, as in MAML's network without convolutions."""
    learner = make("maml", n_steps=0)
    params, x, _ = inputs(learner)
    found = model.rows(learner.passes(params, {k.removeprefix("theta/"): v for k, v in params.items()}, x,
                                      draws.UNPERTURBED)[0][-1].output)  # fmt: skip
    p = {k: v.numpy() for k, v in params.items()}
    for task, rows in enumerate(x.numpy().reshape(len(SEEDS), -1, NUMBERS)):
        for layer in ("conv1", "conv2", "conv3", "conv4"):
            kernel = p[f"theta/{layer}_w"]
            assert kernel.shape == (1, 1, rows.shape[1], CHANNELS)
            rows = rows @ kernel[0, 0] + p[f"theta/{layer}_b"]
            rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + layers.EPSILON) + p[f"{layer}_bn/beta"]
            rows = np.maximum(rows, 0)
        np.testing.assert_allclose(found[task], rows, rtol=1e-9, atol=1e-12)
    assert params["theta/dense_w"].shape == (CHANNELS, WAY)
    kernel = learners.make("maml", image_shape=(1, 1, 500), channels=64, way=5).init(0)["theta/conv1_w"].numpy()
    assert np.abs(kernel).max() <= 0.04 and kernel.std() == pytest.approx(0.0176, rel=0.03)  # as a convolution's


@pytest.mark.parametrize("tasks", [(), (2,)])
def test_a_kernel_of_one_pixel_makes_a_dense_layer(tasks):
    """With weights that all tasks share, and with each task's own."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape) for shape in ((2, 7, 1, 1, 3), (*tasks, 1, 1, 3, 4), (*tasks, 4)))
    rows = (x.reshape(2, 7, 3) @ w.reshape(*tasks, 3, 4)).reshape(2, 7, 1, 1, 4)
    expected = rows + b.reshape(*tasks, 1, 1, 1, 4) if tasks else rows + b
    np.testing.assert_allclose(layers.conv(*map(tf.constant, (x, w, b))), expected, rtol=1e-12)


def test_statistics_of_few_numbers_are_those_of_the_layers_output():
    """The shortcut of `conv_batch_norm` for few input channels."""
    rng = np.random.default_rng(0)
    x, w = (tf.constant(rng.standard_normal(shape)) for shape in ((2, 7, 1, 1, 3), (1, 1, 3, 4)))
    gamma, beta = (tf.constant(rng.standard_normal(4)) for _ in range(2))
    expected = layers.batch_norm_gained(layers.conv(x, w, None), gamma, beta)
    for one, other in zip(layers.conv_batch_norm(x, w, gamma, beta), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_default_channels():
    shapes = {(28, 28, 1): 64, (84, 84, 3): 32, (1, 1, 3): 64, (1, 1, 1024): 64}
    assert {shape: default_channels(shape) for shape in shapes} == shapes


def test_many_vectors_are_not_computed_in_pieces():
    """There is nothing to pool, however large the batch is."""
    chosen = {}
    with tf.Graph().as_default():
        for side in (1, 2):
            x = tf.zeros([1, 20_000, side, side, 64])
            chosen[side] = pieces.worthwhile(x, tf.zeros([1, 1, 64, 64]))
    assert chosen == {1: False, 2: layers.has_cpu_xla()}
