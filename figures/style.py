"""How every figure looks. Importing this module sets matplotlib's defaults."""

import itertools
from collections.abc import Iterator
from typing import TypeVar

import matplotlib

T = TypeVar("T")

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False,
})  # fmt: skip

# Okabe and Ito's colours: the colour-blind can tell them apart.
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
RUN_COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)


def coloured(runs: dict[str, T]) -> Iterator[tuple[str, str, T]]:
    """Yield (colour, name, run) of each run. After six runs the colours repeat."""
    for colour, (name, run) in zip(itertools.cycle(RUN_COLOURS), runs.items(), strict=False):
        yield colour, name, run
