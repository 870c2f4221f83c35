"""The look that all figures share. Importing this module sets matplotlib's defaults."""

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

matplotlib.rcdefaults()  # figures are the same whatever the user's matplotlibrc says
matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False,
})  # fmt: skip

# The colours of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
RUN_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)


def coloured(runs: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (colour, name, run) for every run. After six runs the colours repeat, darker each time."""
    for number, (name, run) in enumerate(runs.items()):
        repeats, place = divmod(number, len(RUN_COLOURS))
        yield to_hex(0.6**repeats * np.array(to_rgb(RUN_COLOURS[place]))), name, run


def draw_curve(ax: Axes, x: np.ndarray, y: np.ndarray, spread: np.ndarray, alpha: float = 0.2, **look) -> None:
    """Draw a line, and a band from y - spread to y + spread in its colour. look: settings of the line."""
    ax.plot(x, y, **{"marker": "o", "markersize": 3, "linewidth": 1} | look)
    ax.fill_between(x, y - spread, y + spread, color=look["color"], alpha=alpha, linewidth=0)
