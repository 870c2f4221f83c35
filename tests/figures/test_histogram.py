"""The histogram: its bins, means and intervals, and which run each is of."""

import itertools
import re

import numpy as np
import pytest

from figures import histogram
from figures.page import Section
from figures.run import Run
from figures.style import BLUE, GREEN, ORANGE
from looks import Look, hexed, legend, only


def test_bins_hold_each_accuracy_in_its_own():
    values = 100 * np.array([70, 74, 75, 75]) / 75
    edges = histogram.bins(values, 100 / 75)
    counts = np.histogram(values, edges)[0]
    assert counts.sum() == 4 and counts[counts > 0].tolist() == [1, 1, 2]


def a_test(*accuracies, interval=1.25, episodes="abc") -> dict:
    """Return a result of meta_test."""
    test = {"accuracies": np.array(accuracies, float), "accuracy": np.mean(accuracies), "interval95": interval}
    return test | {"episodes_sha256": episodes, "quantum": 10.0}


TESTS = {"a": a_test(60, 80, 80), "b": a_test(80, 90, 100, interval=2.5), "c": a_test(50, 60, 40, interval=3)}


def assert_names(ax, wanted):
    """wanted: the run's colour, the counted values and the mean (also in the text), by the legend's text."""
    shown = only(ax, ax)
    assert legend(ax) == {text: Look(hexed(colour), "-", "none", "none") for text, (colour, *_) in wanted.items()}
    for text, (colour, values, mean) in wanted.items():
        steps = shown[text].get_xy()  # up and down, and along
        edges, heights = steps[1::2, 0], steps[1:-1:2, 1]
        assert {(value - 5, value + 5) for value in values} <= {*itertools.pairwise(edges)}
        np.testing.assert_array_equal(heights, np.histogram(values, edges)[0])
        (line,) = (line for line in ax.lines if (line.get_color(), line.get_linestyle()) == (colour, "--"))
        assert line.get_xdata()[0] == pytest.approx(mean)
        assert float(re.search(r"[+-]?[\d.]+(?= ±)", text)[0]) == pytest.approx(mean, abs=0.005)


def test_each_legends_text_is_beside_its_runs_counts_and_has_their_mean_and_interval():
    """The second run is not paired: the third one's difference has the third colour."""
    left, right = histogram.accuracy_histogram(TESTS, {"c": np.array([-10.0, -20, -40])}, 10).axes
    assert_names(
        left,
        {
            "a: 73.33 ± 1.25 %": (BLUE, [60, 80, 80], 220 / 3),
            "b: 90.00 ± 2.50 %": (ORANGE, [80, 90, 100], 90),
            "c: 50.00 ± 3.00 %": (GREEN, [50, 60, 40], 50),
        },
    )
    interval = 1.96 * np.std([10, 20, 40]) / 3**0.5
    assert_names(right, {f"c − a: -23.33 ± {interval:.2f}": (GREEN, [-10, -20, -40], -70 / 3)})
    assert right.lines[0].get_xdata()[0] == 0  # beside it, no difference
    assert [ax.get_xlabel() for ax in (left, right)] == [
        "accuracy of an episode (%)",
        "difference on the same episode (points)",
    ]
    assert [ax.get_ylabel() for ax in (left, right)] == ["episodes"] * 2


def test_bins_hold_as_many_accuracies_of_every_run(monkeypatch):
    """75 and 100 query images: a bin is as wide as 3 of one run's steps and 4 of the other's."""
    runs, asked = [], []
    for images in (75, 100):
        runs.append(Run(None, {}, str(images)))
        values = 100 * np.arange(images + 1) / images
        runs[-1].__dict__["test"] = a_test(*values) | {"quantum": 100 / images, "episodes_sha256": str(images)}
    monkeypatch.setattr(histogram, "accuracy_histogram", lambda tests, paired, quantum: asked.append((tests, quantum)))
    section = Section("Accuracies", ["png"], 40)
    monkeypatch.setattr(section, "add", lambda *_: None)
    histogram.draw(runs, section, None, lambda: None)
    ((tests, quantum),) = asked
    edges = histogram.bins(np.concatenate([test["accuracies"] for test in tests.values()]), quantum)
    for test, steps in zip(tests.values(), (3, 4), strict=True):
        assert set(np.histogram(test["accuracies"], edges)[0][1:-1]) == {steps}


def test_the_difference_is_of_the_run_less_the_first_one(monkeypatch):
    runs, asked = [], []
    for name, test in TESTS.items():
        runs.append(Run(None, {}, name))
        runs[-1].__dict__["test"] = test | ({"episodes_sha256": "other"} if name == "b" else {})
    runs[1].test["accuracies"] = np.array([80.0, 90])
    section = Section("Accuracies", ["png"], 40)
    monkeypatch.setattr(section, "add", lambda name, caption, fig: asked.append((name, caption)))
    monkeypatch.setattr(histogram, "accuracy_histogram", lambda *args: asked.append(args))
    histogram.draw(runs, section, None, lambda: None)
    (tests, paired, quantum), (name, caption) = asked
    assert {name: test["accuracies"].tolist() for name, test in tests.items()} == {
        "a": [60, 80, 80], "b": [80, 90], "c": [50, 60, 40]
    }  # fmt: skip
    assert list(paired) == ["c"] and paired["c"].tolist() == [-10, -20, -40] and quantum == 10
    assert section.parts == ["<p>b and a were tested on different episodes: not paired.</p>"]
    assert name == "histogram" and caption.startswith("Accuracies of 3 or 2 test episodes, and differences on the same")
