"""How every figure looks. Importing this module sets matplotlib's defaults."""

from collections.abc import Iterator
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb

T = TypeVar("T")

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False,
})  # fmt: skip

# Okabe and Ito's colours: the colour-blind can tell them apart.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
RUN_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)


def coloured(runs: dict[str, T]) -> Iterator[tuple[str, str, T]]:
    """Yield (colour, name, run) of each run. After six runs the colours come again, darker each time."""
    for number, (name, run) in enumerate(runs.items()):
        again, place = divmod(number, len(RUN_COLOURS))
        yield to_hex(0.6**again * np.array(to_rgb(RUN_COLOURS[place]))), name, run
