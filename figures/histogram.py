"""The accuracies of a test's episodes, and the runs' differences on the same episode."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import coloured
from training.test_results import summary


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """One figure of all runs. A run that was tested on the first one's episodes is paired with it."""
    first, paired = runs[0], {}
    for run in runs[1:]:
        if run.test["episodes_sha256"] == first.test["episodes_sha256"]:
            paired[run.label] = run.test["accuracies"] - first.test["accuracies"]
        else:
            section.note(f"{run.name} and {first.name} were tested on different episodes: not paired.")
    quantum = max(run.test["quantum"] for run in runs)
    episodes = " or ".join(dict.fromkeys(str(len(run.test["accuracies"])) for run in runs))
    caption = f"{episodes} test episodes: accuracies"
    caption += ", and their differences on the same episode" if paired else ""
    fig = accuracy_histogram({run.label: run.test for run in runs}, paired, quantum)
    section.add("histogram", f"{caption}; mean (dashed) and its 95 % interval.", fig)
    advance()


def accuracy_histogram(tests: dict[str, dict], paired: dict[str, np.ndarray], quantum: float) -> Figure:
    """Left: accuracies of a test's episodes by run. Right: each run's difference from the first, in `paired`.

    tests: by the run's name accuracies [episodes] (percent), accuracy and interval95; paired: by the run's name its
    differences from the first run [episodes] in points; quantum: what one query image is of an episode, in points.
    """
    panels = 2 if paired else 1
    fig = Figure(figsize=(3.6 * panels, 3.2))
    axes = fig.subplots(1, panels, squeeze=False)[0]
    draw_accuracies(axes[0], tests, quantum)
    if paired:
        draw_differences(axes[1], tests, paired, quantum)
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


def draw_accuracies(ax: Axes, tests: dict[str, dict], quantum: float) -> None:
    edges = bins(np.concatenate([test["accuracies"] for test in tests.values()]), quantum)
    for colour, name, test in coloured(tests):
        label = f"{name}: {test['accuracy']:.2f} ± {test['interval95']:.2f} %"
        draw_counts(ax, test["accuracies"], edges, test["accuracy"], colour, label)
    ax.set(xlabel="accuracy of an episode (%)", ylabel="episodes")


def draw_differences(ax: Axes, tests: dict[str, dict], paired: dict[str, np.ndarray], quantum: float) -> None:
    """Of the runs that are paired, each in its own colour."""
    edges, first = bins(np.concatenate([[0], *paired.values()]), quantum), next(iter(tests))
    ax.axvline(0, color="black", linewidth=0.8)
    for colour, name, _ in coloured(tests):
        if name in paired:
            mean, interval = summary(paired[name] / 100)
            draw_counts(ax, paired[name], edges, mean, colour, f"{name} − {first}: {mean:+.2f} ± {interval:.2f}")
    ax.set(xlabel="difference on the same episode (points)", ylabel="episodes")


def draw_counts(ax: Axes, values: np.ndarray, edges: np.ndarray, mean: float, colour: str, label: str) -> None:
    """How many values are in each bin, and their mean as a dashed line."""
    ax.hist(values, edges, color=colour, alpha=0.25)
    ax.hist(values, edges, color=colour, histtype="step", linewidth=1.2, label=label)
    ax.axvline(mean, color=colour, linestyle="--", linewidth=1)


def bins(values: np.ndarray, quantum: float) -> np.ndarray:
    """Edges of at most about 40 bins, each around as many of the values that an episode can have."""
    width = quantum * max(1, round((np.ptp(values) / quantum + 1) / 40))
    first = quantum * (np.floor(values.min() / quantum + 1e-6) - 0.5)
    return np.arange(first, values.max() + width + quantum / 2, width)
