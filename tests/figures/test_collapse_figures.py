"""Neural collapse: the numbers that are drawn, and their spread."""

import numpy as np
import pytest

from figures import collapse
from left_runs import STEPS, collapse_rows
from plotting import band


def test_collapse_is_drawn_with_its_spread_at_its_place():
    runs = {"run": collapse_rows("std", (0, 100), tasks=4)}
    place = lambda step, layer, part: 0.1 + 0.01 * step + 0.1 * layer + 0.3 * (part == "query")  # noqa: E731
    fig = collapse.traces(runs, "support", {"run": "conv4"})
    for column, step in ((0, 0), (1, STEPS)):
        value = place(step, 1, "support")
        for line in fig.axes[column].lines:
            assert line.get_ydata() == pytest.approx([value, value + 0.1])
        within, between = fig.axes[2 + column].lines
        assert within.get_ydata() == pytest.approx([value, value + 0.1])
        assert between.get_ydata() == pytest.approx([1 - value, 0.9 - value])
        wanted = [[0, 0.9 * value], [0, 1.1 * value], [100, 0.9 * (value + 0.1)], [100, 1.1 * (value + 0.1)]]
        np.testing.assert_allclose(band(fig.axes[column]), wanted)
    meta, adapted = collapse.by_iteration(runs, "query", {"run": "conv4"}).axes[0].lines
    assert meta.get_ydata()[0] == pytest.approx(place(0, 1, "query")) and meta.get_linestyle() == "--"
    assert adapted.get_ydata()[0] == pytest.approx(place(STEPS, 1, "query"))
    tested = {"run": collapse_rows("ci95")}
    support, query = collapse.by_step(tested, {"run": "conv4"}).axes[0].lines
    assert support.get_ydata() == pytest.approx([place(step, 1, "support") for step in range(STEPS + 1)])
    assert query.get_ydata() == pytest.approx([place(step, 1, "query") for step in range(STEPS + 1)])
    _, adapted = collapse.by_layer(tested, "query").axes[0].lines
    assert adapted.get_ydata() == pytest.approx([place(STEPS, layer, "query") for layer in range(3)])
