"""The adversary of meta-training."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import attacks
import layers
import learners
import model
from linear_classifier import WEIGHTS, images_at, linear, norm_of, normals
from perturbations.draws import task_noise
from ranges import Range


@pytest.mark.parametrize("name", attacks.NORMS)
def test_an_adversary_perturbs_within_the_ball_and_raises_the_loss(name):
    x = tf.constant(np.clip(images_at([0.3, 0.1, 0.2], "l2").numpy(), 0, 1))
    y = tf.constant(np.tile([1.0, 0.0], (3, 1)))
    places, seen = [], []

    def noise(step, layer, shape):
        places.append((step, layer))
        return tf.reshape(normals(shape[0] * shape[1])(shape[2]), shape)

    def classify(x):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return linear(x)

    def run(x):
        images = attacks.Adversary(name, 0.5, 7).perturb(classify, x, y, noise)
        return images, tf.gradients(tf.reduce_sum(images), x)

    images, gradient = tf.function(run, autograph=False)(x)
    assert gradient == [None]  # a constant of whatever is differentiated
    assert (
        places == [(attacks.adversary.OUTER_STEP, "dense")] and attacks.adversary.OUTER_STEP > 10_000
    )  # which no inner step is
    d = (images - x).numpy().reshape(3, -1)
    assert images.numpy().min() >= 0 and images.numpy().max() <= 1
    assert (norm_of(name, d) <= 0.5 + 1e-9).all() and (norm_of(name, d) > 0.25).all()
    losses = [layers.cross_entropies(linear(tf.constant(value)), y).numpy() for value in (x.numpy(), images.numpy())]
    assert (losses[1] > losses[0]).all()
    assert np.abs(seen[0] - x.numpy()).max() > 0.01  # it begins at a random place
    moves = np.diff(np.array(seen).reshape(7, 3, -1), axis=0)  # seven steps, each from a place that was looked at
    if name in ("linf", "l2"):  # whose projections lengthen no step
        assert norm_of(name, moves).max() <= 0.5 * 2.5 / 7 + 1e-9
    if name == "linf":  # seven steps, two and a half times as long as the radius, lead into the corner
        corner = np.clip(x.numpy().reshape(3, -1) - 0.5 * np.sign(WEIGHTS[:, 0] - WEIGHTS[:, 1]), 0, 1)
        np.testing.assert_allclose(images.numpy().reshape(3, -1), corner, atol=1e-12)


def test_an_adversary_stays_in_the_range_of_the_inputs():
    """The same attack on images in [0, 1] and on what a network gets in their place; eps is of those in [0, 1]."""
    ends = Range(-3.0, 5.0)
    x = tf.constant(np.clip(images_at([0.3, 0.1, 0.2], "l2").numpy(), 0, 1))
    y = tf.constant(np.tile([1.0, 0.0], (3, 1)))

    def noise(step, layer, shape):
        return tf.reshape(normals(shape[0] * shape[1])(shape[2]), shape)

    @tf.function(autograph=False)
    def run(x):
        unit = attacks.Adversary("linf", 0.6, 3).perturb(linear, x, y, noise)
        adversary = attacks.Adversary("linf", 0.6, 3, ends)
        return unit, adversary.perturb(lambda x: linear((x + 3) / 8), 8 * x - 3, y, noise)

    unit, inputs = (images.numpy() for images in run(x))
    np.testing.assert_allclose(inputs, 8 * unit - 3, atol=1e-9)
    assert inputs.min() == -3 and inputs.max() == 5 and 4 < np.abs(inputs - (8 * x - 3)).max() <= 4.8 + 1e-9


def test_an_adversary_gets_mixed_labels_with_mixed_query_images():
    learner = learners.make("maml", "mixup", mix_set="query", image_shape=(16, 16, 1), channels=3, way=3, n_steps=1)
    params = learner.init(0)
    x_s, x_q = (tf.constant(np.random.default_rng(0).random((2, 3 * n, 16, 16, 1)), tf.float32) for n in (1, 2))
    noise = task_noise(tf.constant([[1, 2], [3, 4]]))
    adversary = mock.Mock(perturb=mock.Mock(side_effect=lambda classify, x, y, noise: x + tf.reduce_sum(y) * 0))

    @tf.function(autograph=False)
    def labels():
        learner.meta_gradient(params, model.make_episode(x_s, x_q, 3), noise, adversary)
        return adversary.perturb.call_args.args[2], learner.targets(model.labels(3, 2), noise)

    mixed, expected = labels()
    np.testing.assert_array_equal(mixed, expected)
    assert mixed.shape == (2, 6, 3)
