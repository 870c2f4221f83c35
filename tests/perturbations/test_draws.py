"""The randomness of a forward pass: its statistics, and that it is the same wherever it is drawn."""

from unittest import mock

import numpy as np
import tensorflow as tf

from perturbations import draws


def test_noise_is_standard_normal_and_differs_by_task_step_layer_and_seed():
    noise = draws.task_noise(tf.constant([[0, 1], [0, 2]]))
    shape = tf.TensorShape([2, 5, 30, 30, 8])
    numbers = [noise(0, "conv1", shape), noise(1, "conv1", shape), noise(0, "conv2", shape)]
    numbers.append(draws.task_noise(tf.constant([[1, 1], [1, 2]]))(0, "conv1", shape))
    flat = np.stack([d[t].numpy().ravel() for d in numbers for t in range(2)])
    assert np.abs(flat.mean(1)).max() < 4 / np.sqrt(flat.shape[1])
    assert np.abs(flat.std(1) - 1).max() < 4 / np.sqrt(2 * flat.shape[1])
    assert np.abs((flat**4).mean(1) - 3).max() < 4 * np.sqrt(96 / flat.shape[1])
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 5 / np.sqrt(flat.shape[1])
    np.testing.assert_array_equal(noise(0, "conv1", shape), numbers[0])  # the same key, the same noise
    halves = flat.reshape(len(flat), 2, -1)  # the sine and the cosine of each pair
    assert max(abs(np.corrcoef(*pair)[0, 1]) for pair in halves) < 5 / np.sqrt(halves.shape[2])


def test_no_two_places_of_a_task_have_the_same_noise():
    noise = draws.task_noise(tf.constant([[0, 1]]))
    places = [(step, layer) for step in range(6) for layer in ("conv1", "conv2", "conv3", "conv4", "dense")]
    numbers = {tuple(noise(*place, tf.TensorShape([1, 4])).numpy().ravel()) for place in places}
    assert len(numbers) == len(places) == 30


def test_the_ends_of_the_interval_are_finite_in_float32():
    """One in 2^26 draws of 32 bits is rounded to an end, of which the logarithm would be that of 0."""
    ends = np.array([-(2**31), -(2**31) + 1, 0, 2**31 - 1, 2**31 - 2], np.int32)
    with mock.patch.object(tf.random, "stateless_uniform", lambda *_, **__: tf.constant(np.stack([ends, ends]))):
        numbers = draws.standard_normal([10], tf.constant([1, 2])).numpy()
    assert np.isfinite(numbers).all() and np.abs(numbers).max() < 10


def test_noise_is_the_same_under_xla_and_in_float64():
    def draw(dtype):
        return draws.task_noise(tf.constant([[0, 1], [5, 2]]), dtype)(3, "conv2", tf.TensorShape([2, 7, 5, 3]))

    a, b = (tf.function(draw, autograph=False, jit_compile=jit)(tf.float32) for jit in (False, True))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a, draw(tf.float64), rtol=1e-4, atol=1e-5)


def test_many_numbers_are_those_of_the_formula():
    """XLA computes them. The radius of a number near the end of its interval is off by as much in both."""
    count, seed = draws.MANY + 2, tf.constant([3, 4])
    many = draws.standard_normal([2, count // 2], seed).numpy().ravel()
    np.testing.assert_allclose(many, draws.normals(draws.integers(count, seed)), rtol=1e-5, atol=2e-5)
    v = np.linspace(-0.5, 0.5, 1001)
    point = tf.function(draws.point_of_circle, jit_compile=True)(tf.constant(v, tf.float32))
    for found, wanted in zip(point, (np.cos(2 * np.pi * v), np.sin(2 * np.pi * v)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
