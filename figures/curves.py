"""Draw learning curves: loss and accuracy of meta-training, by iterations and by wall time."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from figures.page import Section
from figures.run import Run, has_query_loss
from figures.selection import Selection
from figures.style import coloured, draw_curve


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw one figure of all runs."""
    columns = {run.label: run.curves for run in runs}
    interval = " with its 95 % interval" if any(map(is_validated, columns.values())) else ""
    caption = f"Meta-training: loss, and accuracy{interval}, by iterations and by wall time."
    if others := [run.name for run in runs if not has_query_loss(run.config)]:
        caption += f" The training loss of {', '.join(others)} is of another kind than a test's."
    section.add("curves", caption, learning_curves(columns))
    advance()


def is_validated(run: dict[str, np.ndarray]) -> bool:
    """True if the run was validated in training."""
    return bool(np.isfinite(run["val_acc"]).any())


def learning_curves(runs: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw the losses and, below them, the validation accuracies, or the training accuracies if no run was validated.

    runs: {name: columns of meta_train.csv}, each [rows], NaN in rows without validation. Accuracies are 0 to 1.
    """
    validated = any(map(is_validated, runs.values()))
    fig = Figure(figsize=(7, 4.6))
    axes = fig.subplots(2, 2, sharey="row", sharex="col")
    longest, units = max(run["secs"].max() for run in runs.values()), (("hours", 3600), ("minutes", 60))
    unit, seconds = next(((unit, seconds) for unit, seconds in units if longest >= 2 * seconds), ("seconds", 1))
    columns = (("iter", "iterations", 1), ("secs", unit, seconds))
    for (losses, accuracies), (key, title, scale) in zip(axes.T, columns, strict=True):
        for colour, name, run in coloured(runs):
            x = run[key] / scale
            losses.plot(x, run["loss"], color=colour, linewidth=1, label=f"{name}, training")
            if not validated:
                accuracies.plot(x, 100 * run["acc"], color=colour, linewidth=1)
            if is_validated(run):
                rows = np.isfinite(run["val_acc"])
                x, loss, accuracy, interval = (c[rows] for c in (x, run["val_loss"], run["val_acc"], run["val_ci95"]))
                losses.plot(x, loss, "o--", color=colour, markersize=3, linewidth=1, label=f"{name}, validation")
                draw_curve(accuracies, x, 100 * accuracy, 100 * interval, color=colour, linestyle="--")
        accuracies.set_xlabel(title)
    axes[0, 0].set_ylabel("loss (nats)")
    scale_losses(axes[0, 0])
    axes[1, 0].set_ylabel("validation accuracy (%)" if validated else "training accuracy (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return fig


def scale_losses(ax: Axes) -> None:
    """Make the axis logarithmic if the losses span more than a factor of 3; over less it would show no tick."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high > 3 * low:
        ax.set_yscale("log")
        ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        ax.yaxis.set_minor_formatter("")
