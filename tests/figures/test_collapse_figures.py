"""Neural collapse: which run, set, layer and measure every curve is, by the legend and the panel's title."""

import numpy as np
import pytest

from figures import collapse
from figures.page import Section
from figures.run import Run
from figures.style import BLUE, ORANGE
from left_runs import STEPS, collapse_rows, collapse_value
from looks import Look, artists, band, hexed, legend, legend_of, look

# The measures of a panel by its title, as a reader understands it: the first mark is of the means.
SIX = {
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ["nc1"],
    "NC2: equinorm (○ means, ▵ weights)": ["nc2_norm_means", "nc2_norm_weights"],
    "NC2: equiangularity (○ means, ▵ weights)": ["nc2_angle_means", "nc2_angle_weights"],
    "NC2: std of cosines (○ means, ▵ weights)": ["nc2_spread_means", "nc2_spread_weights"],
    "NC3: self-duality": ["nc3"],
    "NC4: share not predicted as the nearest class mean": ["nc4"],
}
BY_LAYER = {
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ["nc1"],
    "share of $\\mathrm{Tr}\\,S_W$": ["share_within"],
    "NC2: equinorm of class means": ["nc2_norm_means"],
    "NC2: equiangularity of class means": ["nc2_angle_means"],
    "NC2: std of class means' cosines": ["nc2_spread_means"],
    "NC4: share not predicted as the nearest class mean": ["nc4"],
}
MARKS = {"o": "○", "^": "▵"}
RUNS = ("one", "other")  # the second one's values are twice the first one's


def runs_of(rows) -> dict[str, list[dict]]:
    """Return two runs with these rows and distinct values."""
    numbers = lambda row: {k: 2 * v for k, v in row.items() if isinstance(v, float)}  # noqa: E731
    return {"one": rows, "other": [row | numbers(row) for row in rows]}


def drawn(fig, ax) -> dict[tuple[str, str, str], tuple]:
    """Return the x and y of a panel's curves by the legend's run (colour) and style (line), and by their mark."""
    looks, curves = legend(fig), {}
    assert all(own.colour == hexed("black") for text, own in looks.items() if text not in RUNS)
    runs = {looks[name].colour: name for name in RUNS}
    styles = {own.line: text for text, own in looks.items() if text not in RUNS}
    for line in artists(ax):
        own = look(line)
        place = (runs[own.colour], styles[own.line], own.marker)
        assert place not in curves
        curves[place] = line.get_xdata(), line.get_ydata()
    return curves


def assert_panels(fig, panels, xs, value, styles):
    """Check the measures of each panel: colours are runs, lines are styles, and the title names the marks. value: the
    expected number of a measure, style and x."""
    assert {ax.get_title(): None for ax in fig.axes}.keys() == panels.keys()
    for ax in fig.axes:
        measures, curves = panels[ax.get_title()], drawn(fig, ax)
        assert set(curves) == {(run, style, mark) for run in RUNS for style in styles
                              for mark in ("o", "^")[: len(measures)]}  # fmt: skip
        for (run, style, mark), (x, y) in curves.items():
            if len(measures) > 1:  # the mark's name in the title
                what = ax.get_title().partition(MARKS[mark])[2].split()[0].strip(",)")
                (measure,) = (name for name in measures if name.endswith(what))
            else:
                (measure,) = measures
            np.testing.assert_array_equal(x, xs)
            wanted = [(1 + (run == "other")) * value(measure, style, place) for place in xs]
            assert y == pytest.approx(wanted), (ax.get_title(), run, style)


def test_curves_by_iterations_are_the_legends_runs_before_and_after_adaptation():
    runs, steps = runs_of(collapse_rows("std", (0, 100), tasks=4)), {"meta-model": 0, "adapted": STEPS}
    for part in ("support", "query"):
        fig = collapse.by_iteration(runs, part, dict.fromkeys(runs, "conv4"))
        value = lambda measure, style, i, part=part: collapse_value(measure, part, steps[style], 1, i)  # noqa: E731
        assert_panels(fig, SIX, [0, 100], value, steps)
        assert [ax.get_xlabel() for ax in fig.axes] == [""] * 4 + ["meta-iteration"] * 2
    assert legend(fig) == {
        "one": Look(hexed(BLUE), "-", "none", "none"),
        "other": Look(hexed(ORANGE), "-", "none", "none"),
        "meta-model": Look(hexed("black"), "--", "none", "none"),
        "adapted": Look(hexed("black"), "-", "none", "none"),
    }
    assert [ax.get_yscale() for ax in fig.axes] == ["log"] + ["linear"] * 5


def test_a_long_curve_has_marks_where_they_tell_two_measures_apart():
    rows = [row for row in collapse_rows("std", range(31), tasks=4) if row["step"] == STEPS]
    fig = collapse.by_iteration({"one": rows}, "query", {"one": "conv4"})
    marks = [{look(line).marker for line in artists(ax)} for ax in fig.axes]
    assert marks == [{"none"}, *3 * [{"o", "^"}], {"none"}, {"none"}]


def test_curves_by_steps_are_the_legends_sets():
    runs = runs_of(collapse_rows("ci95"))
    fig = collapse.by_step(runs, dict.fromkeys(runs, "conv3"))
    value = lambda measure, part, step: collapse_value(measure, part, step, 0)  # noqa: E731
    assert_panels(fig, SIX, range(STEPS + 1), value, ("support", "query"))
    assert fig.axes[-1].get_xlabel() == "inner steps done"


def test_curves_by_layers_are_in_the_order_of_the_layers():
    """Layers are not sorted by name, and runs may have different ones."""
    layers, steps = ("stem", "body", "logits"), {"meta-model": 0, "adapted": STEPS}
    runs = runs_of(collapse_rows("ci95", layers=layers))
    for part in ("support", "query"):
        fig = collapse.by_layer(runs, part)
        value = lambda measure, style, i, part=part: collapse_value(measure, part, steps[style], i)  # noqa: E731
        assert_panels(fig, BY_LAYER, range(3), value, steps)
        assert [text.get_text() for text in fig.axes[-1].get_xticklabels()] == [*layers]
        assert fig.axes[-1].get_xlabel() == "layer"
    more = {"one": runs["one"], "other": collapse_rows("ci95", layers=("stem", "body", "neck", "logits"))}
    fig = collapse.by_layer(more, "query")
    assert [text.get_text() for text in fig.axes[-1].get_xticklabels()] == ["stem", "body", "neck", "logits"]
    assert drawn(fig, fig.axes[0])["one", "adapted", "o"][0].tolist() == [0, 1, 3]


def test_traces_and_shares_are_the_legends():
    """Traces are above their shares, which add to 1; the meta-model is at the left."""
    runs = runs_of(collapse_rows("std", (0, 100), tasks=4))
    fig = collapse.traces(runs, "support", dict.fromkeys(runs, "conv4"))
    titles = [f"{when}: {what}" for what in ("traces", "shares of both traces") for when in ("meta-model", "adapted")]
    assert [ax.get_title() for ax in fig.axes] == titles
    for ax, step in zip(fig.axes, 2 * (0, STEPS), strict=True):
        curves = drawn(fig, ax)
        for run, factor in zip(RUNS, (1, 2), strict=True):
            within, between = (curves[run, f"{which} classes", "none"] for which in ("within", "between"))
            np.testing.assert_array_equal(within[0], [0, 100])
            names = ("share_within", None) if "shares" in ax.get_title() else ("trace_within", "trace_between")
            first, second = (
                [factor * collapse_value(name, "support", step, 1, i) for i in (0, 100)] if name else None
                for name in names
            )
            assert within[1] == pytest.approx(first)
            assert between[1] == pytest.approx(second or [1 - share for share in first])
    assert [ax.get_yscale() for ax in fig.axes] == ["log", "log", "linear", "linear"]
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "", "meta-iteration", "meta-iteration"]
    assert legend(fig)["within classes"].line == "-" and legend_of(fig) is not None


@pytest.mark.parametrize("spread", ["std", "ci95"])
def test_a_band_reaches_its_spread_to_both_sides(spread):
    rows = collapse_rows(spread, (0, 100), tasks=4)
    fig = collapse.by_iteration({"one": [row for row in rows if row["step"] == STEPS]}, "query", {"one": "conv4"})
    # one line is two: the first step there is, and the last
    wanted = [(i, *(factor * collapse_value("nc1", "query", STEPS, 1, i) for factor in (0.9, 1.1))) for i in (0, 100)]
    np.testing.assert_allclose(band(fig.axes[0], BLUE), wanted)


@pytest.fixture
def captions(monkeypatch):
    """captions(**measured) -> by the name of a figure its caption, and the call that draws it."""
    asked = {}
    for name in ("traces", "by_iteration", "by_step", "by_layer"):
        monkeypatch.setattr(collapse, name, lambda *args, name=name: (name, *args))

    def draw(**measured):
        runs = []
        for name, rows in measured.items():
            runs.append(Run(None, {}, name))
            runs[-1].__dict__["collapse"] = rows
        section = Section("Neural collapse", ["png"], 40)
        monkeypatch.setattr(section, "add", lambda name, caption, asked_for: asked.update({name: (caption, asked_for)}))
        collapse.draw(runs, section, None, lambda: None)
        return asked

    return draw


def test_a_caption_says_the_set_the_layer_and_the_spread_of_what_is_drawn(captions):
    watched, tested = collapse_rows("std", (0, 100), tasks=4), collapse_rows("ci95")
    asked = captions(one={"watched": watched, "tested": tested})
    over = "mean and standard deviation over the 4 training tasks of an iteration"
    for name, part, layer, words in (
        ("query", "query", "conv4", "features of the query set"),
        ("support", "support", "conv4", "features of the support set"),
        ("logits", "query", "logits", "logits of the query set"),
    ):
        caption, call = asked[f"collapse_traces_{name}"]
        assert words in caption and over in caption
        assert call == ("traces", {"one": watched}, part, {"one": layer})
    for part in ("query", "support"):
        caption, call = asked[f"collapse_iterations_{part}"]
        assert f"features of the {part} set by meta-iterations" in caption and over in caption
        assert call == ("by_iteration", {"one": watched}, part, {"one": "conv4"})
    for name, words, call in (
        ("steps", "features by inner steps", ("by_step", {"one": tested}, {"one": "conv4"})),
        ("layers", "of the query set by layer", ("by_layer", {"one": tested}, "query")),
    ):
        assert asked[f"collapse_{name}"][1] == call
        assert words in asked[f"collapse_{name}"][0] and "95 % interval over test tasks" in asked[f"collapse_{name}"][0]
    assert len(asked) == 7


def test_a_caption_says_that_zeros_are_not_on_logarithmic_axes(captions):
    """Each kind of rows for itself."""
    kinds = {"watched": collapse_rows("std", (0, 100), tasks=4), "tested": collapse_rows("ci95")}
    names = {"watched": ("collapse_traces_support", "collapse_iterations_query"), "tested": ("collapse_steps",)}
    for kind in (None, *kinds):
        rows = {one: [row.copy() for row in own] for one, own in kinds.items()}
        for row in rows[kind] if kind else ():
            row["nc1"] = 0.0
        asked = captions(one=rows)
        for other, figures in names.items():
            for figure in figures:
                assert ("Zeros (one row per class" in asked[figure][0]) == (other == kind), (kind, figure)
    rows = {one: [row.copy() for row in own] for one, own in kinds.items()}
    for row in rows["tested"]:
        if row["layer"] == "logits":
            row["nc1"] = 0.0
    asked = captions(one=rows)  # of rows that another figure draws
    assert "Zeros" not in asked["collapse_steps"][0] and "Zeros" in asked["collapse_layers"][0]


def test_a_caption_says_what_is_drawn_of_runs_that_were_watched_alone(captions):
    rows = {tasks: collapse_rows("std", (0, 100), tasks=tasks) for tasks in (4, 6)}
    asked = captions(one={"watched": rows[4]}, other={"watched": rows[6]})
    assert "over the 4 or 6 training tasks of an iteration" in asked["collapse_traces_query"][0]
    caption, (_, runs, _) = asked["collapse_steps"]
    assert "standard deviation over the training tasks of the last measured iteration" in caption
    assert {row["iter"] for own in runs.values() for row in own} == {100}
