"""Learning curves: loss and accuracy of meta-training, by iterations and by wall time."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import coloured


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """One figure of all runs."""
    columns = {run.label: run.curves for run in runs}
    interval = " with its 95 % interval" if any(map(is_validated, columns.values())) else ""
    caption = f"Meta-training: loss, and accuracy{interval}, by iterations and by wall time."
    section.add("curves", caption, learning_curves(columns))
    advance()


def is_validated(run: dict[str, np.ndarray]) -> bool:
    return bool(np.isfinite(run["val_acc"]).any())


def learning_curves(runs: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Above the losses, below the accuracies: of the validation, or of the training where no run has a validation.

    runs: by name the columns of meta_train.csv [rows], NaN where there was no validation. Accuracies are 0 to 1.
    """
    validated = any(map(is_validated, runs.values()))
    fig = Figure(figsize=(7, 4.6))
    axes = fig.subplots(2, 2, sharey="row", sharex="col")
    unit, seconds = unit_of_time(max(run["secs"].max() for run in runs.values()))
    for (losses, accuracies), key, title, scale in zip(
        axes.T, ("iter", "secs"), ("iterations", unit), (1, seconds), strict=True
    ):
        for colour, name, run in coloured(runs):
            x = run[key] / scale
            draw_losses(losses, x, run, name, colour)
            draw_accuracies(accuracies, x, run, colour, validated)
        accuracies.set_xlabel(title)
    axes[0, 0].set_ylabel("query loss (nats)")
    scale_losses(axes[0, 0])
    axes[1, 0].set_ylabel("validation accuracy (%)" if validated else "training accuracy (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return fig


def draw_losses(ax: Axes, x: np.ndarray, run: dict[str, np.ndarray], name: str, colour: str) -> None:
    ax.plot(x, run["loss"], color=colour, linewidth=1, label=f"{name}, training")
    if is_validated(run):
        rows = np.isfinite(run["val_acc"])
        ax.plot(x[rows], run["val_loss"][rows], color=colour, linestyle="--", marker="o", markersize=3, linewidth=1,
                label=f"{name}, validation")  # fmt: skip


def draw_accuracies(ax: Axes, x: np.ndarray, run: dict[str, np.ndarray], colour: str, validated: bool) -> None:
    """In percent: the validation's with its interval, or the training's."""
    if not validated:
        ax.plot(x, 100 * run["acc"], color=colour, linewidth=1)
        return
    rows = np.isfinite(run["val_acc"])
    accuracy, interval = 100 * run["val_acc"][rows], 100 * run["val_ci95"][rows]
    ax.plot(x[rows], accuracy, color=colour, marker="o", markersize=3, linewidth=1, linestyle="--")
    ax.fill_between(x[rows], accuracy - interval, accuracy + interval, color=colour, alpha=0.2, linewidth=0)


def scale_losses(ax: Axes) -> None:
    """A logarithmic axis where the losses span more than a factor of 3; over less it would show no tick."""
    low, high = ax.dataLim.intervaly
    if low > 0 and high > 3 * low:
        ax.set_yscale("log")
        ax.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        ax.yaxis.set_minor_formatter("")


def unit_of_time(seconds: float) -> tuple[str, float]:
    """The unit that suits so long a time, and how many seconds it has."""
    for unit, length in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return unit, length
    return "seconds", 1.0
