"""Learning curves: the numbers that are drawn, and their intervals."""

import numpy as np

from figures import curves
from plotting import band


def test_curves_have_their_means_and_intervals():
    x = np.arange(4.0)
    run = {"iter": x, "secs": 2 * x, "loss": 3 - x, "acc": x / 9, "val_loss": 4 - x, "val_acc": x / 10}
    fig = curves.learning_curves({"a": run | {"val_ci95": np.full(4, 0.05)}})
    for column, times in ((0, x), (1, 2 * x)):
        wanted = sorted([t, 10 * i + s] for i, t in enumerate(times) for s in (-5, 5))
        np.testing.assert_allclose(band(fig.axes[2 + column]), wanted)
        losses = [line.get_ydata().tolist() for line in fig.axes[column].lines]
        assert losses == [[3, 2, 1, 0], [4, 3, 2, 1]]
