"""Result of leaving out support pictures: the class that a classifier took each one for, and its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

NOT_LEFT_OUT = -1


class Accuracy(NamedTuple):
    """An accuracy: `right` of `count` pictures were classified right. share, low, high: the share of these pictures and
    its Wilson 95 % interval, from 0 to 1; NaN without pictures."""

    right: int
    count: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, count: int) -> Accuracy:
        if not count:
            return cls(0, 0, *[np.nan] * 3)
        return cls(right, count, right / count, *stats.binomtest(right, count).proportion_ci(method="wilson"))

    def __str__(self) -> str:
        share, low, high = (100 * share for share in self[2:])
        return f"{share:.1f} % ({self.right} of {self.count}; 95 % interval {low:.0f} to {high:.0f} %)"


class LeftOut:
    """Predictions for support pictures that a classifier was not adapted to.

    truth [S]: the index of each picture's class. classes: the number of classes. predicted [S], to be filled in: the
    index of the class that each picture was taken for; `classes` if the picture was rejected; NOT_LEFT_OUT until the
    picture is left out, which never happens to one that is alone in its class.
    """

    def __init__(self, truth: Sequence[int], classes: int):
        self.truth, self.classes = np.asarray(truth), classes
        self.predicted = np.full(len(self.truth), NOT_LEFT_OUT)

    @property
    def done(self) -> np.ndarray:
        """True for each picture that was left out: [S]."""
        return self.predicted != NOT_LEFT_OUT

    @property
    def right(self) -> np.ndarray:
        """1 for each picture that was classified right, 0 for one that was not, NaN for one that was not left out:
        [S]."""
        return np.where(self.done, self.predicted == self.truth, np.nan)

    @property
    def rejected(self) -> int:
        """The number of pictures that were rejected."""
        return int((self.predicted == self.classes).sum())

    def matrix(self) -> np.ndarray:
        """Return the numbers of pictures by true class and predicted class: [classes,classes+1]. The last column counts
        the rejected ones."""
        counts = np.zeros((self.classes, self.classes + 1), int)
        np.add.at(counts, (self.truth[self.done], self.predicted[self.done]), 1)
        return counts

    def accuracy(self) -> Accuracy:
        return Accuracy.of(int((self.predicted == self.truth).sum()), int(self.done.sum()))

    def accuracies(self) -> list[Accuracy]:
        """Return the accuracy of each class."""
        counts = self.matrix()
        return [Accuracy.of(int(row[c]), int(row.sum())) for c, row in enumerate(counts)]
