"""Draw the accuracies of a test's episodes, and the differences between runs on the same episode."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import coloured
from training.intervals import mean_and_interval


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw one figure of all runs. The runs that were tested on the first run's episodes are paired with it."""
    first, paired = runs[0], {}
    for run in runs[1:]:
        if run.test["episodes_sha256"] == first.test["episodes_sha256"]:
            paired[run.label] = run.test["accuracies"] - first.test["accuracies"]
        else:
            section.note(f"{run.name} and {first.name} were tested on different episodes: not paired.")
    quantum = 100 / math.gcd(*(round(100 / run.test["quantum"]) for run in runs))  # a multiple of each run's
    episodes = " or ".join(dict.fromkeys(str(len(run.test["accuracies"])) for run in runs))
    caption = f"Accuracies of {episodes} test episodes"
    caption += ", and differences on the same episode" if paired else ""
    fig = accuracy_histogram({run.label: run.test for run in runs}, paired, quantum)
    section.add("histogram", f"{caption}. Dashed: means; the legend has their 95 % intervals.", fig)
    advance()


def accuracy_histogram(tests: dict[str, dict], paired: dict[str, np.ndarray], quantum: float) -> Figure:
    """Draw the episodes' accuracies at the left and, if there are any, the differences in `paired` at the right.

    tests: {run name: accuracies [episodes], accuracy and interval95}, in percent. paired: {run name: differences
    from the first run [episodes]}, in points. quantum: one query image's share of an episode's accuracy, in points, or
    a common multiple of the runs' shares.
    """
    panels = 2 if paired else 1
    fig = Figure(figsize=(3.6 * panels, 3.2))
    axes = fig.subplots(1, panels, squeeze=False)[0]
    edges = bins(np.concatenate([test["accuracies"] for test in tests.values()]), quantum)
    for colour, name, test in coloured(tests):
        label = f"{name}: {test['accuracy']:.2f} ± {test['interval95']:.2f} %"
        draw_counts(axes[0], test["accuracies"], edges, test["accuracy"], colour, label)
    axes[0].set(xlabel="accuracy of an episode (%)", ylabel="episodes")
    if paired:
        edges, first = bins(np.concatenate([[0], *paired.values()]), quantum), next(iter(tests))
        axes[1].axvline(0, color="black", linewidth=0.8)
        for colour, name, _ in coloured(tests):
            if name in paired:
                mean, interval = mean_and_interval(paired[name] / 100)
                label = f"{name} − {first}: {mean:+.2f} ± {interval:.2f}"
                draw_counts(axes[1], paired[name], edges, mean, colour, label)
        axes[1].set(xlabel="difference on the same episode (points)", ylabel="episodes")
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


def draw_counts(ax: Axes, values: np.ndarray, edges: np.ndarray, mean: float, colour: str, label: str) -> None:
    """Draw a histogram of the values, and their mean as a dashed line."""
    ax.hist(values, edges, color=colour, alpha=0.25)
    ax.hist(values, edges, color=colour, histtype="step", linewidth=1.2, label=label)
    ax.axvline(mean, color=colour, linestyle="--", linewidth=1)


def bins(values: np.ndarray, quantum: float) -> np.ndarray:
    """Return the edges of about 40 bins at most; all contain the same number of an episode's possible accuracies."""
    width = quantum * max(1, round((np.ptp(values) / quantum + 1) / 40))
    first = quantum * (np.floor(values.min() / quantum + 1e-6) - 0.5)
    return np.arange(first, values.max() + width + quantum / 2, width)
