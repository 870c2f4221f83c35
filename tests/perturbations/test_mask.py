"""The mask of a task: its statistics, the passes that have it, its options. (The second and third of the original's
four checks; tests/learners/test_metanet.py has the others.)"""

import numpy as np
import pytest
import tensorflow as tf

import layers
from perturbations import draws
from perturbations.mask import Mask

RATES = [0.2, 0.3, 0.1, 0.4]


def masks(mask, count, layer="conv2", step=0, where=draws.TRAINING_SUPPORT):
    """Return the masks of `count` tasks, [count,H,W,C]."""
    noise = draws.task_noise(tf.stack([tf.range(count), 7 * tf.range(count)], 1))
    draw = draws.Draw(noise, step, where)
    values, penalty = mask.mask({}, {}, layer, None, tf.TensorShape([count, 5, 9, 7, 6]), draw)
    assert penalty == 0
    return values.numpy()[:, 0, 0]


def test_masks_differ_between_tasks_as_independent_draws_do():
    """Check 2, over all pairs of 60 tasks; check 3: the share that is kept."""
    mask = Mask(mask_rates=[0.05, 0.3, 0.15])
    found = masks(mask, 60).reshape(60, -1)
    assert set(np.unique(found)) == {0, 1}
    n, p = found.size, 0.7
    assert abs(found.mean() - p) < 4 * np.sqrt(p * (1 - p) / n)
    agree = [(found[i] == found[j]).mean() for i in range(60) for j in range(i)]
    expected, deviation = p**2 + (1 - p) ** 2, np.sqrt(0.58 * 0.42 / found.shape[1])
    assert abs(np.mean(agree) - expected) < 0.01
    assert np.abs(np.array(agree) - expected).max() < 5 * deviation
    correlation = np.corrcoef(found.T)  # pixels and channels are masked apart from each other
    assert abs(correlation[~np.eye(len(correlation), dtype=bool)].mean()) < 0.01
    for layer, rate in (("conv1", 0.05), ("conv3", 0.15)):
        kept = masks(mask, 60, layer)
        assert abs(kept.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / kept.size)
        assert abs(np.corrcoef(kept.ravel(), found.ravel())[0, 1]) < 0.03  # and from layer to layer
    shape = tf.TensorShape([60, 5, 9, 7, 6])
    assert mask.mask({}, {}, "conv4", None, shape, draws.UNPERTURBED)[0] is None


def test_the_mask_of_a_task_is_the_same_in_all_inner_steps_and_for_the_query():
    mask = Mask(mask_rates=RATES)
    first = masks(mask, 3)
    np.testing.assert_array_equal(first, masks(mask, 3, step=4))
    np.testing.assert_array_equal(first, masks(mask, 3, step=5, where=draws.TRAINING_QUERY))


def test_options_of_the_mask():
    shape, noise = tf.TensorShape([2, 6, 8, 8, 5]), draws.task_noise(tf.constant([[1, 2], [1, 3]]))
    support, query = draws.Draw(noise, 0, draws.TRAINING_SUPPORT), draws.Draw(noise, 1, draws.TRAINING_QUERY)

    def mask(draw, layer="conv2", **settings):
        return Mask(mask_rates=RATES, **settings).mask({}, {}, layer, None, shape, draw)[0]

    plain = mask(support).numpy()
    np.testing.assert_allclose(mask(support, mask_scaled=True), plain / 0.7, rtol=1e-6)
    only = mask(support, mask_support_only=True), mask(query, mask_support_only=True)
    np.testing.assert_array_equal(only[0], plain)
    assert only[1] is None
    ordinary = mask(support, mask_per_sample=True).numpy()
    assert ordinary.shape == (2, 1, 6, 8, 8, 5) and ordinary.mean() == pytest.approx(0.7, abs=0.03)
    assert not np.array_equal(ordinary[:, :, 0], ordinary[:, :, 1])
    assert not np.array_equal(ordinary, mask(query, mask_per_sample=True))
    assert mask(query, mask_per_sample=True).shape == ordinary.shape
    samples = mask(draws.Draw(noise, 0, draws.TRAINING_SUPPORT, 3)).numpy()  # of each noise sample its own
    assert samples.shape == (2, 3, 1, 8, 8, 5) and not np.array_equal(samples[:, 0], samples[:, 1])
    assert mask(support, "conv4").numpy().mean() == pytest.approx(0.6, abs=0.1)  # the fourth rate is used
    assert Mask(mask_rates=[0, 0, 0]).mask({}, {}, "conv1", None, shape, support)[0] is None
    for rates in ([0.1, 0.1, 1.0], [0.1, -0.1, 0.1], [0.1, 0.1], [0.1] * 5, [0.1, 0.1, float("nan")]):
        with pytest.raises(ValueError, match="mask_rates"):
            Mask(mask_rates=rates)


def test_a_mask_multiplies_what_relu_leaves_before_pooling():
    rng = np.random.default_rng(1)
    x = tf.constant(rng.standard_normal((2, 6, 7, 8, 3)), tf.float64)
    mask = tf.constant(rng.integers(0, 2, (2, 2, 1, 7, 8, 3)) * 1.25, tf.float64)
    found = layers.relu_pool(x, mask)
    expected = np.maximum(x, 0) * np.repeat(mask[:, :, 0], 3, 1)
    expected = expected[:, :, :6].reshape(2, 6, 3, 2, 4, 2, 3).max((3, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
