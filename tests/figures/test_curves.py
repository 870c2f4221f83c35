"""Learning curves: which run and set every curve is, by the legend, and in which unit."""

import numpy as np
import pytest

from figures import curves
from figures.page import Section
from figures.run import Run, escape_label
from figures.style import BLUE, ORANGE
from looks import Look, assert_unit, band, hexed, legend, only

X = np.arange(4.0)
NONE = np.full(4, np.nan)


def a_run(seconds=1.0, **changed) -> dict[str, np.ndarray]:
    """Return four rows of a log."""
    run = {"iter": 50 * X, "secs": seconds * X, "loss": 3.1 - X, "acc": 0.4 + X / 9, "val_loss": 4.2 - X}
    return run | {"val_acc": 0.3 + X / 10, "val_ci95": 0.05 + X / 100} | changed


def test_curves_are_the_legends_runs_and_sets_over_iterations_and_time():
    runs = {"a": a_run(100.0), "b": a_run(90.0, loss=7 - X, val_loss=8 - X, val_acc=0.5 - X / 10)}
    runs["b"] = {name: np.where(X == 1, np.nan, cells) if "val" in name else cells for name, cells in runs["b"].items()}
    fig = curves.learning_curves(runs)
    dashes = {name: Look(hexed(colour), "--", "o", hexed(colour)) for name, colour in (("a", BLUE), ("b", ORANGE))}
    plain = {name: own._replace(line="-", marker="none", fill="none") for name, own in dashes.items()}
    assert legend(fig) == {
        f"{name}, {part}": own[name] for name in "ab" for part, own in (("training", plain), ("validation", dashes))
    }
    for ax, key, label, scale in zip(
        fig.axes, 2 * ("iter", "secs"), 2 * ("iterations", "minutes"), 2 * (1, 60), strict=True
    ):
        below, shown = ax in fig.axes[2:], only(ax)
        assert ax.get_xlabel() == (label if below else "")
        assert set(shown) == {f"{name}, validation" for name in runs} | (
            set() if below else {f"{name}, training" for name in runs}
        )
        for text, line in shown.items():
            name, part = text.split(", ")
            rows = [0, 2, 3] if (name, part) == ("b", "validation") else [0, 1, 2, 3]
            np.testing.assert_allclose(line.get_xdata(), runs[name][key][rows] / scale)
            if below:
                assert_unit(fig.axes[2].get_ylabel(), line.get_ydata(), runs[name]["val_acc"][rows])
            else:
                np.testing.assert_array_equal(
                    line.get_ydata(), runs[name]["val_loss" if part == "validation" else "loss"][rows]
                )
        for name, colour in (("a", BLUE), ("b", ORANGE)) if below else ():
            rows = np.isfinite(runs[name]["val_acc"])
            accuracy, interval = (100 * runs[name][column][rows] for column in ("val_acc", "val_ci95"))
            wanted = np.transpose([runs[name][key][rows] / scale, accuracy - interval, accuracy + interval])
            np.testing.assert_allclose(band(ax, colour), wanted)
    labels = [ax.get_ylabel() for ax in fig.axes]
    assert labels == ["loss (nats)", "", "validation accuracy (%)", ""]


def test_the_caption_names_runs_whose_training_loss_is_of_another_kind(monkeypatch):
    kinds = {
        "a": {}, "b": {"mix_set": "support"}, "c": {"mix_set": "query"}, "d": {"train_way": 20}, "e": {"train_way": 5},
        "f": {"model": "reptile"}, "g": {"model": "baseline"}, "h": {"model": "one of mine"},
    }  # fmt: skip
    runs, captions = [], []
    for name, config in kinds.items():
        runs.append(Run(None, {"model": "maml", "way": 5} | config, name))
        runs[-1].__dict__["curves"] = a_run()
    section = Section("Curves", ["png"], 40)
    monkeypatch.setattr(section, "add", lambda name, caption, fig: captions.append(caption))
    curves.draw(runs, section, None, lambda: None)
    assert captions[0].endswith("The training loss of c, d, f, g is of another kind than a test's.")
    curves.draw(runs[:2], section, None, lambda: None)
    assert captions[1].endswith("by wall time.")


def test_without_any_validation_the_training_is_drawn_and_said():
    run = a_run(val_loss=NONE, val_acc=NONE, val_ci95=NONE)
    fig = curves.learning_curves({"a": run})
    assert list(legend(fig)) == ["a, training"] and fig.axes[2].get_ylabel() == "training accuracy (%)"
    for ax in fig.axes[2:]:
        assert_unit("(%)", only(ax)["a, training"].get_ydata(), run["acc"])
        assert not ax.collections


def test_the_legend_names_no_curve_that_is_not_there():
    """A run that was never validated beside one that was."""
    runs = {"a": a_run(), "b": a_run(val_loss=NONE, val_acc=NONE, val_ci95=NONE)}
    assert list(legend(curves.learning_curves(runs))) == ["a, training", "a, validation", "b, training"]


@pytest.mark.parametrize(("last", "unit", "shown"), [(119, "seconds", 119), (120, "minutes", 2), (9000, "hours", 2.5)])
def test_time_is_in_the_unit_that_the_axis_says(last, unit, shown):
    fig = curves.learning_curves({"a": a_run(last / 3)})
    assert fig.axes[3].get_xlabel() == unit
    assert fig.axes[3].lines[0].get_xdata()[-1] == pytest.approx(shown)


@pytest.mark.parametrize("validated", [True, False])
def test_the_caption_has_an_interval_where_the_figure_has_one(monkeypatch, validated):
    run, said = Run(None, {}, "a"), []
    run.__dict__["curves"] = a_run() if validated else a_run(val_loss=NONE, val_acc=NONE, val_ci95=NONE)
    section = Section("Learning curves", ["png"], 40)
    monkeypatch.setattr(section, "add", lambda name, caption, fig: said.append((name, caption)))
    curves.draw([run], section, None, lambda: None)
    [(name, caption)] = said
    assert name == "curves" and ("accuracy with its 95 % interval" in caption) == validated


def test_the_legend_tells_many_runs_apart_whatever_they_are_called():
    """Fourteen runs share six colours. A name may start with an underscore and contain a dollar sign."""
    names = [escape_label(f"_{number}$") for number in range(14)]
    looks = legend(curves.learning_curves({name: a_run() for name in names}))  # which wants them distinct
    assert list(looks) == [f"{name}, {part}" for name in names for part in ("training", "validation")]
