"""Intervals over episodes, over test classes and over seeds, against closed forms and a simulation."""

import numpy as np
import pytest

from training.intervals import mean_and_interval, over_classes, over_seeds, paired_difference

PAIRS = [[0, 1], [0, 1], [2, 3], [3, 2]]  # the classes of four episodes


def test_the_mean_and_its_interval_are_in_percent():
    """1.96 std / sqrt(4); the standard deviation of 0.5, 0.75, 1 and 0.25 is sqrt(0.078125)."""
    assert mean_and_interval([0.5, 0.75, 1, 0.25]) == pytest.approx((62.5, 27.391833), rel=1e-6)


def test_the_interval_over_classes_is_the_jackknifes_without_the_noise_of_episodes():
    """Without one of the four classes two episodes are left, and the mean 0.7 changes by 0.2. Independent episodes,
    whose variance is 0.04, would give 0.04 * (1/2 - 1/4) = 0.01. The jackknife takes 3/4 of the sum of 0.2**2 - 0.01,
    which is 0.09; the variance over episodes is 0.04 / 4 = 0.01. Student's quantile for 3 degrees of freedom is
    3.1824463."""
    assert over_classes([0.9, 0.9, 0.5, 0.5], PAIRS) == pytest.approx(318.24463 * 0.1**0.5)


def test_classes_have_any_numbers_and_one_that_is_twice_in_an_episode_counts_once():
    """Each of the classes 7, 1 and 4 is in two episodes; the mean changes by 0.2, 0 and 0.2 without it. The quantile
    for 2 degrees of freedom is 4.3026527."""
    classes = [[7, 7], [7, 1], [1, 4], [4, 4]]
    common = 2 / 3 * (0.2**2 + 0 + 0.2**2 - 3 * 0.01)
    assert over_classes([0.9, 0.9, 0.5, 0.5], classes) == pytest.approx(430.26527 * (0.01 + common) ** 0.5)


def test_the_interval_over_classes_is_not_narrower_than_that_over_episodes():
    """Here episodes of the same classes differ as much as they can: the covariance of the classes is negative."""
    accuracies = [0.9, 0.5, 0.9, 0.5]
    assert over_classes(accuracies, PAIRS) == pytest.approx(318.24463 * 0.1)
    assert over_classes(accuracies, PAIRS) > mean_and_interval(accuracies)[1]


@pytest.mark.parametrize("classes", ([[0, 1], [0, 2]], [[0, 1]] * 2))
def test_a_class_that_is_in_every_episode_leaves_no_interval(classes):
    assert over_classes([0.5, 0.7], classes) is None


def simulated(rng, classes: int, episodes: int, way: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw classes, each of which lowers every query image's accuracy in its episodes, its own and its competitors';
    return accuracies and classes of episodes."""
    effects = rng.normal(0, 0.05, classes)
    drawn = rng.random((episodes, classes)).argsort(1)[:, :way]
    return 0.5 + effects[drawn].sum(1) + rng.normal(0, 0.2, episodes), drawn


@pytest.mark.parametrize(("classes", "episodes", "way"), ((20, 300, 5), (100, 200, 10)))
def test_the_interval_over_classes_holds_the_mean_of_all_classes_in_95_percent(classes, episodes, way):
    """Of 300 tests of other classes, to within three standard errors; the interval over episodes in far fewer."""
    tests = [simulated(np.random.default_rng(seed), classes, episodes, way) for seed in range(300)]
    errors = np.array([abs(accuracies.mean() - 0.5) for accuracies, _ in tests])
    wide = np.array([over_classes(*test) for test in tests]) / 100
    narrow = np.array([mean_and_interval(accuracies)[1] for accuracies, _ in tests]) / 100
    assert 0.91 <= np.mean(errors < wide) <= 0.99 and np.mean(errors < narrow) < 0.6
    assert np.mean(wide) == pytest.approx(2 * np.mean(errors**2) ** 0.5, rel=0.12)


def test_a_difference_is_paired_and_has_both_intervals():
    """Where both runs change alike from episode to episode, nothing is left to be unsure of."""
    one = np.array([0.9, 0.8, 0.5, 0.4])
    assert paired_difference(one, one - 0.25, PAIRS) == pytest.approx((-25, 0, 0), abs=1e-6)
    other = one + np.array([0.2, 0.2, -0.2, -0.2])
    assert paired_difference(one, other) == (pytest.approx(0), pytest.approx(19.6), None)
    assert paired_difference(one, other, PAIRS)[2] == pytest.approx(318.24463 * 0.1**0.5)


def test_the_interval_over_seeds_is_students():
    """Of 1, 2 and 6: the standard deviation with 2 degrees of freedom is sqrt(7), the quantile 4.30265."""
    assert over_seeds([1, 2, 6]) == pytest.approx((3, 4.30265 * (7 / 3) ** 0.5), rel=1e-5)
    assert over_seeds([1.5]) == (1.5, None)
