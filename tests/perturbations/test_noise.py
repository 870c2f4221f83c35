"""Meta-dropout's noise against its equation."""

import numpy as np
import tensorflow as tf

import layers
from numerics import random_parameters
from perturbations import draws
from perturbations.noise import LearnedNoise

TASKS, IMAGES, WAY, SHAPE, CHANNELS = 2, 6, 3, (16, 18, 2), 3


def test_support_noise_is_the_equation_and_the_query_has_none():
    """mu * softplus(N(a, 1)) on a block, N(logits, softplus(.)) on the head; softplus(a), and nothing, on the query."""
    perturbation, rng = LearnedNoise(), np.random.default_rng(4)
    params = random_parameters(perturbation.parameters(SHAPE, CHANNELS), rng)
    x_s = tf.constant(rng.random((TASKS, IMAGES, *SHAPE)))
    noise = draws.task_noise(tf.constant([[5, task] for task in range(TASKS)]), "float64")

    draw = draws.Draw(noise, 0, draws.TEST_SUPPORT)
    softplus = lambda a: np.log1p(np.exp(a))  # noqa: E731
    mu = tf.random.stateless_normal([TASKS, IMAGES, 16, 18, CHANNELS], [1, 1], dtype=tf.float64)
    a = layers.conv(x_s, params["phi/conv1_w"], params["phi/conv1_b"]).numpy()
    noisy, penalty = perturbation.block(params, {}, "conv1", x_s, mu, draw)
    assert penalty == 0
    np.testing.assert_allclose(noisy, mu * softplus(a + draw("conv1", a.shape).numpy()), rtol=1e-10)
    np.testing.assert_allclose(
        perturbation.block(params, {}, "conv1", x_s, mu, draws.UNPERTURBED)[0], mu * softplus(a), rtol=1e-10
    )

    h = tf.random.stateless_normal([TASKS, 6, CHANNELS], [2, 2], dtype=tf.float64)
    logits = tf.random.stateless_normal([TASKS, 6, WAY], [3, 3], dtype=tf.float64)
    sigma = softplus(h.numpy() @ params["phi/dense_w"].numpy() + params["phi/dense_b"].numpy())  # one for all classes
    noisy, penalty = perturbation.head(params, {}, h, logits, draw)
    assert penalty == 0
    np.testing.assert_allclose(noisy, logits + sigma * draw("dense", logits.shape).numpy(), rtol=1e-10)
    for query in (draws.UNPERTURBED, draws.Draw(noise, 2, draws.TRAINING_QUERY)):
        assert perturbation.head(params, {}, h, logits, query)[0] is logits
        np.testing.assert_array_equal(
            perturbation.block(params, {}, "conv1", x_s, mu, query)[0],
            perturbation.block(params, {}, "conv1", x_s, mu, draws.UNPERTURBED)[0],
        )
