"""The logits and gradients that an attack gets."""

import numpy as np
import pytest
import tensorflow as tf

import attacks
import layers
from linear_classifier import DIMS, images_at, linear

RNG = np.random.default_rng(0)


def coupled(x):
    """A classifier that sees the mean of the task's images, as batch norm does."""
    logits = linear(x)
    return logits - tf.reduce_mean(logits, 1, keepdims=True)


def test_the_joint_oracle_attacks_the_other_images_too_and_the_single_oracle_leaves_them_clean():
    x = images_at([0.05, -0.02, 0.3], "linf")
    y = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], tf.float64)
    moved = x.numpy() + RNG.normal(size=x.shape) * 0.05

    @tf.function(autograph=False)
    def run(moved):
        return attacks.joint_oracle(coupled, y)(moved), attacks.single_oracle(coupled, x, y)(moved)

    (joint, joint_gradient), (single, single_gradient) = run(tf.constant(moved))
    np.testing.assert_allclose(joint, coupled(tf.constant(moved)))
    for i in range(3):
        alone = x.numpy().copy()
        alone[:, i] = moved[:, i]
        np.testing.assert_allclose(single[:, i], coupled(tf.constant(alone))[:, i])
    for place in [(0, 1, 3, 3, 0), (0, 2, 0, 6, 0)]:
        step = np.zeros_like(moved)
        step[place] = 1e-6

        def loss(images):
            return tf.reduce_sum(layers.cross_entropies(coupled(tf.constant(images)), y)).numpy()

        slope = (loss(moved + step) - loss(moved - step)) / 2e-6
        assert joint_gradient[place].numpy() == pytest.approx(slope, rel=1e-5)
        alone = x.numpy().copy()
        alone[:, place[1]] = moved[:, place[1]]

        def own(images, i=place[1]):
            return layers.cross_entropies(coupled(tf.constant(images)), y).numpy()[0, i]

        slope = (own(alone + step) - own(alone - step)) / 2e-6
        assert single_gradient[place].numpy() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("draws", [1, 2])
def test_remaining_sums_the_losses_of_images_that_were_never_lost(draws):
    """Of four images one is lost here, and one was before: what is climbed is the loss of the two others, of all draws
    of a surrogate."""
    x = images_at([0.05, -0.02, 0.3, 0.1], "linf")
    y = tf.constant([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], tf.float64)
    x = tf.concat([x[:, :3], images_at([-0.4], "linf")], 1)
    lost = tf.constant([[True, False, False, False]])
    assert coupled(x).numpy()[0].argmax(-1).tolist() == [0, 1, 0, 1]

    def soft(images):  # so that no loss is all but 0
        return 0.1 * coupled(images)

    def surrogate(images):
        return tf.concat([soft(images), 3 * soft(images)], 0)

    @tf.function(autograph=False)
    def run(x):
        return attacks.joint_oracle(soft, y, surrogate=surrogate if draws == 2 else None, remaining=True)(x, lost)[1]

    gradient = run(x).numpy()
    way = RNG.normal(size=x.shape)

    def loss(t):
        logits = (surrogate if draws == 2 else soft)(x + t * way)
        return tf.reduce_sum(layers.cross_entropies(logits, y).numpy()[:, 2:]).numpy() / draws

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert abs(slope) > 1e-3 and np.sum(gradient * way) == pytest.approx(slope, rel=1e-5)
    assert np.abs(gradient[0, :2]).max() > 0  # the lost ones are moved for what they do to the others


def test_the_margin_is_the_distance_of_the_logits():
    logits, y = RNG.normal(size=(2, 5, 4)), np.eye(4)[[0, 3, 1, 1, 2]]
    margins = attacks.margin(tf.constant(logits), tf.constant(y)).numpy()
    for task in range(2):
        for row in range(5):
            own = y[row].argmax()
            others = np.delete(logits[task, row], own)
            assert margins[task, row] == pytest.approx(others.max() - logits[task, row, own])


@pytest.mark.parametrize("threat", ["joint", "single"])
def test_a_margin_has_a_gradient_where_the_cross_entropy_has_none(threat):
    """float32 of logits that are far apart: the reason for a second loss."""
    x, y = tf.fill([1, 1, 2, 2, 1], 0.5), tf.constant([[1.0, 0.0]])

    def classify(x):
        total = tf.reduce_sum(x, [2, 3, 4])
        return tf.stack([200 * total, -200 * total], -1)

    def gradient(loss):
        def oracle(x):
            if threat == "single":
                return attacks.single_oracle(classify, x, y, loss=attacks.LOSSES[loss])(x)
            return attacks.joint_oracle(classify, y, attacks.LOSSES[loss])(x)

        return tf.function(lambda x: oracle(x)[1], autograph=False)(x)

    assert not gradient("cross_entropy").numpy().any()
    np.testing.assert_allclose(gradient("margin"), np.full(x.shape, -400.0))


def test_remaining_leaves_out_the_lost_images_of_each_task_in_all_draws():
    """Two tasks of one image each, of which the first is lost; a surrogate of two draws a task."""
    x = tf.concat([images_at([distance], "linf") for distance in (-0.2, 0.2)], 0)
    y = tf.constant([[1.0, 0.0]], tf.float64)

    def surrogate(images):
        return 0.1 * tf.concat([linear(images), 2 * linear(images)], 0)

    @tf.function(autograph=False)
    def run(x):
        oracle = attacks.joint_oracle(linear, y, surrogate=surrogate, remaining=True)
        joint = attacks.joint_oracle(linear, y, surrogate=surrogate)
        return oracle(x, tf.zeros([2, 1], tf.bool))[1], joint(x, tf.ones([2, 1], tf.bool))[1]

    remaining, all_of_them = (gradient.numpy() for gradient in run(x))
    assert not remaining[0].any() and all_of_them[0].any()
    np.testing.assert_allclose(remaining[1], all_of_them[1])


@pytest.mark.parametrize("threat", ["joint", "single"])
def test_the_gradient_is_the_surrogates_and_the_logits_are_the_classifiers(threat):
    """Of a surrogate that classifies twice, by two models: the mean of both."""
    x = tf.constant(RNG.uniform(size=(2, 3, 7, 7, 1)))
    y = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], tf.float64)
    others = tf.constant(RNG.normal(size=(4, DIMS, 2)))  # two for each task, in the order of the tasks, twice

    def surrogate(images):
        twice = tf.tile(tf.reshape(images, [2, 3, DIMS]), [2, 1, 1])
        return tf.einsum("kqd,kdc->kqc", twice, others)

    @tf.function(autograph=False)
    def run(x):
        if threat == "single":
            return attacks.single_oracle(linear, x, y, 1, layers.cross_entropies, surrogate)(x)
        return attacks.joint_oracle(linear, y, layers.cross_entropies, surrogate)(x)

    logits, gradient = (value.numpy() for value in run(x))
    np.testing.assert_allclose(logits, linear(x))
    flat = tf.reshape(x, [2, 3, DIMS]).numpy()
    for task in range(2):
        wanted = 0
        for w in (others[task].numpy(), others[task + 2].numpy()):
            score = np.exp(flat[task] @ w)
            wanted = wanted + (score / score.sum(-1, keepdims=True) - y.numpy()) @ w.T
        np.testing.assert_allclose(gradient[task].reshape(3, DIMS), wanted / 2)
