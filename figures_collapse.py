"""The drawing of neural collapse: runs are colours; the meta-model is dashed, the adapted model solid.

Rows are as results.read_collapse gives them: a dict of set, step, layer, measures, and their spread (_std, _ci95).
"""

from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from figures import RUN_COLOURS, cycle

Runs = dict[str, list[dict]]
# A panel's title, and its measures, which marks tell apart.
FOUR = {
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ("nc1",),
    "NC2: equinorm (○ means, ▵ weights)": ("nc2_norm_means", "nc2_norm_weights"),
    "NC2: equiangularity (○ means, ▵ weights)": ("nc2_angle_means", "nc2_angle_weights"),
    "NC2: std of cosines (○ means, ▵ weights)": ("nc2_spread_means", "nc2_spread_weights"),
    "NC3: self-duality": ("nc3",),
    "NC4: share not of the nearest class mean": ("nc4",),
}
LAYERS = {  # what has no need of the head's weights
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ("nc1",),
    "share of $\\mathrm{Tr}\\,S_W$": ("share_within",),
    "NC2: equinorm of class means": ("nc2_norm_means",),
    "NC2: equiangularity of class means": ("nc2_angle_means",),
    "NC2: std of class means' cosines": ("nc2_spread_means",),
    "NC4: share not of the nearest class mean": ("nc4",),
}
LOGARITHMIC = ("nc1", "trace_within", "trace_between")
MARKS = ("o", "^")
META, ADAPTED = "--", "-"


def select(rows: Iterable[dict], **place) -> list[dict]:
    """The rows of this set, step and layer; step -1 is the last."""
    rows = list(rows)
    if place.get("step") == -1:
        place["step"] = max(row["step"] for row in rows)
    return [row for row in rows if all(row[k] == v for k, v in place.items())]


def draw(ax, rows: list[dict], x: Callable[[dict], float], measure: str, colour, style="-", mark=None) -> None:
    """One curve and the band of its spread, where it is defined."""
    points = [(x(row), row[measure], row.get(f"{measure}_std", row.get(f"{measure}_ci95", np.nan))) for row in rows]
    at, centre, spread = np.array(points, float).reshape(-1, 3).T
    if not np.isfinite(centre).any():
        return
    ax.plot(at, centre, style, color=colour, marker=mark, markersize=3, linewidth=1.2)
    ax.fill_between(at, centre - spread, centre + spread, color=colour, alpha=0.13, linewidth=0)


def logarithmic(*axes) -> None:
    """One logarithmic axis around all curves; their bands may reach below 0."""
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines] or [[1]])
    values = values[np.isfinite(values) & (values > 0)]
    for ax in axes if values.size else ():
        ax.set(yscale="log", ylim=(values.min() / 2, values.max() * 2))


def finish(fig: Figure, axes, runs: Runs, styles: dict[str, str], label: str) -> Figure:
    lines = [Line2D([], [], color=c, label=name) for c, name in zip(cycle(RUN_COLOURS, len(runs)), runs, strict=True)]
    lines += [Line2D([], [], color="black", linestyle=style, label=name) for name, style in styles.items()]
    fig.legend(handles=lines, loc="outside lower center", ncol=4)
    for ax in axes:
        ax.set_xlabel(label)
        if not isinstance(ax.xaxis.get_major_locator(), FixedLocator):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def traces(runs: Runs, part: str, layer: dict[str, str]) -> Figure:
    """The study's four panels: traces and their shares, of the meta-model and after adaptation, by iterations."""
    fig = Figure(figsize=(7.5, 5.4))
    axes = fig.subplots(2, 2, sharex=True, sharey="row")
    for column, (step, title) in zip(axes.T, ((0, "meta-model"), (-1, "adapted")), strict=True):
        for colour, (name, rows) in zip(cycle(RUN_COLOURS, len(runs)), runs.items(), strict=True):
            chosen = select(rows, set=part, step=step, layer=layer[name])
            for measure, style in (("trace_within", "-"), ("trace_between", ":")):
                draw(column[0], chosen, lambda row: row["iter"], measure, colour, style)
            shares = [row | {"share_between": 1 - row["share_within"]} for row in chosen]
            for measure, style in (("share_within", "-"), ("share_between", ":")):
                draw(column[1], shares, lambda row: row["iter"], measure, colour, style)
        column[0].set_title(f"{title}: traces")
        column[1].set(title=f"{title}: shares of both traces", ylim=(0, 1))
    logarithmic(*axes[0])
    return finish(fig, axes[1], runs, {"within classes": "-", "between classes": ":"}, "meta-iteration")


def six(runs: Runs, curves: Callable, panels: dict[str, tuple], styles: dict, label: str, ticks=()) -> Figure:
    """`panels` of NC1 to NC4; curves(name, rows) -> (style, rows, x) of each curve of a run."""
    fig = Figure(figsize=(7.5, 8.2))
    axes = fig.subplots(3, 2, sharex=True)
    for ax, (title, measures) in zip(axes.ravel(), panels.items(), strict=True):
        for colour, (name, rows) in zip(cycle(RUN_COLOURS, len(runs)), runs.items(), strict=True):
            for style, chosen, x in curves(name, rows):
                for measure, mark in zip(measures, MARKS, strict=False):
                    crowded = len(chosen) > 30 and len(measures) == 1
                    draw(ax, chosen, x, measure, colour, style, None if crowded else mark)
        ax.set_title(title)
        if measures[0] in LOGARITHMIC:
            logarithmic(ax)
        else:
            ax.set_ylim(bottom=0)
        if ticks:
            ax.set_xticks(range(len(ticks)), ticks)
    return finish(fig, axes[-1], runs, styles, label)


def by_iteration(runs: Runs, part: str, layer: dict[str, str]) -> Figure:
    def curves(name, rows):
        for step, style in ((0, META), (-1, ADAPTED)):
            yield style, select(rows, set=part, step=step, layer=layer[name]), lambda row: row["iter"]

    return six(runs, curves, FOUR, {"meta-model": META, "adapted": ADAPTED}, "meta-iteration")


def by_step(runs: Runs, layer: dict[str, str]) -> Figure:
    def curves(name, rows):
        for part, style in (("support", ":"), ("query", "-")):
            yield style, select(rows, set=part, layer=layer[name]), lambda row: row["step"]

    return six(runs, curves, FOUR, {"support": ":", "query": "-"}, "inner steps done")


def by_layer(runs: Runs, part: str) -> Figure:
    layers = list(dict.fromkeys(row["layer"] for rows in runs.values() for row in rows if row["layer"] != "logits"))
    layers = [*sorted(layers), "logits"]

    def curves(name, rows):
        for step, style in ((0, META), (-1, ADAPTED)):
            yield style, select(rows, set=part, step=step), lambda row: layers.index(row["layer"])

    return six(runs, curves, LAYERS, {"meta-model": META, "adapted": ADAPTED}, "layer", layers)
