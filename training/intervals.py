"""The 95 % intervals of results. Each docstring says what its interval means. Needs no TensorFlow.

Accuracies are shares, 0 to 1; their means and half-widths are in percent.
"""

from collections.abc import Sequence

import numpy as np


def mean_and_interval(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width 1.96 std / sqrt(episodes) of its interval over episodes, in percent.

    The interval says how far this mean may be from that of infinitely many episodes of the same classes. It does not
    say how much other test classes would change the mean.
    """
    percent = 100 * np.asarray(accuracies, np.float64)
    return float(percent.mean()), float(1.96 * percent.std() / np.sqrt(len(percent)))


def over_classes(accuracies: Sequence[float], classes: Sequence[Sequence[int]]) -> float | None:
    """Return the half-width, in percent, of the mean's interval over test classes; None if some class is in every
    episode, because the effect of such a class cannot be seen.

    The interval says how far this mean may be from that of infinitely many episodes of infinitely many classes, from
    which the test classes were drawn at random. It is never narrower than the interval over episodes.

    classes [episodes,way]: each episode's classes, numbered so that the rotations of a character are one class.

    The estimator is the delete-one-class jackknife, to which a bootstrap of the classes is equal to first order, with
    two corrections. Its variance is the sum over classes of the squared change of the mean when the class is left out
    with all its episodes (Efron and Stein 1981). But each of an episode's classes brings in this episode's noise, so
    that the noise is counted `way` times. So each square is taken less what independent episodes would give, and what
    remains, the covariance of different episodes with a common class, is added to the variance over episodes. This is
    the cluster-robust variance for dyadic data of Aronow, Samii and Assenova (2015), except for the denominators. And
    the quantile is Student's with as many degrees of freedom as classes, less 1.
    """
    accuracies = np.asarray(accuracies, np.float64)
    numbers, labels = np.unique(classes, return_inverse=True)
    episodes, count = len(accuracies), len(numbers)
    members = np.arange(episodes)[:, None] * count + labels.reshape(episodes, -1)
    episode, label = np.divmod(np.unique(members), count)  # unique: a class may be twice in an episode, turned
    others = episodes - np.bincount(label)  # episodes without the class
    if not others.all():
        return None
    residuals = accuracies - accuracies.mean()
    sums, squares = (np.bincount(label, values[episode]) for values in (residuals, residuals**2))
    common = (1 - 1 / count) * np.sum((sums / others) ** 2 - squares / (others * episodes))
    variance = residuals.var() / episodes + max(common, 0)
    return float(100 * student(count - 1) * np.sqrt(variance))


def paired_difference(
    one: np.ndarray, other: np.ndarray, classes: Sequence[Sequence[int]] | None = None
) -> tuple[float, float, float | None]:
    """Return, in percent, the mean of other - one on the same episodes, the half-width of its interval over episodes,
    and of that over test classes (None without the episodes' classes).

    The intervals say how far the difference may be from that on infinitely many episodes, of the same classes or of
    all classes, for these two trained networks. Other seeds of the training would give other networks.
    """
    difference = np.asarray(other, np.float64) - np.asarray(one, np.float64)
    return *mean_and_interval(difference), None if classes is None else over_classes(difference, classes)


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of a number that each seed of the training gave, and the half-width of Student's interval; None
    in its place for a single seed. Both have the unit of the values.

    The interval says how far this mean may be from that of infinitely many seeds, on the same test episodes.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), None
    half = student(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution with these degrees of freedom."""
    from scipy.special import stdtrit  # here, because train_jax.py runs where scipy is missing

    return float(stdtrit(freedom, 0.975))
