"""The histogram: its bins, means and intervals."""

import numpy as np
from matplotlib.colors import to_rgb

from figures import histogram


def test_bins_hold_each_accuracy_in_its_own():
    values = 100 * np.array([70, 74, 75, 75]) / 75
    edges = histogram.bins(values, 100 / 75)
    counts = np.histogram(values, edges)[0]
    assert counts.sum() == 4 and counts[counts > 0].tolist() == [1, 1, 2]


def test_the_histogram_has_its_means_and_intervals():
    tests = {
        "a": {"accuracies": np.array([60.0, 80]), "accuracy": 70.0, "interval95": 1.25},
        "b": {"accuracies": np.array([80.0, 90]), "accuracy": 85.0, "interval95": 2.5},
    }
    left, right = histogram.accuracy_histogram(tests, {"b": np.array([20.0, 10])}, 10).axes
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in (left, right)]
    assert labels == [["a: 70.00 ± 1.25 %", "b: 85.00 ± 2.50 %"], ["b − a: +15.00 ± 6.93"]]
    assert [line.get_xdata()[0] for line in left.lines] == [70, 85]
    assert [line.get_xdata()[0] for line in right.lines] == [0, 15]
    assert to_rgb(right.lines[1].get_color()) == to_rgb(left.lines[1].get_color())  # the difference is b's


def test_a_difference_has_its_runs_colour_where_another_run_is_not_paired():
    test = {"accuracies": np.array([60.0, 80]), "accuracy": 70.0, "interval95": 1.25}
    left, right = histogram.accuracy_histogram(dict.fromkeys("abc", test), {"c": np.array([20.0, 10])}, 10).axes
    assert to_rgb(right.lines[1].get_color()) == to_rgb(left.lines[2].get_color())
