"""Neural collapse: runs are colours; the meta-model is dashed, the adapted model solid.

Rows are as test_results.read_collapse gives them: a dict of set, step, layer, measures, and their spread (_std, _ci95).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator

from figures.page import Section
from figures.run import Run, layers_of
from figures.selection import Selection
from figures.style import coloured

Rows = list[dict]
Curve = tuple[str, Rows, Callable[[dict], float]]  # its line style, its rows, and a row's place on the x axis
# The measures of each panel by its title; marks tell two measures of a panel apart.
OF_FEATURES = {
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ("nc1",),
    "NC2: equinorm (○ means, ▵ weights)": ("nc2_norm_means", "nc2_norm_weights"),
    "NC2: equiangularity (○ means, ▵ weights)": ("nc2_angle_means", "nc2_angle_weights"),
    "NC2: std of cosines (○ means, ▵ weights)": ("nc2_spread_means", "nc2_spread_weights"),
    "NC3: self-duality": ("nc3",),
    "NC4: share not of the nearest class mean": ("nc4",),
}
OF_LAYERS = {  # none of these needs the head's weights
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


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """By iterations what has been watched in training; by steps and layers what has been tested, or else watched."""
    watched, tested = (
        {run.label: run.collapse[kind] for run in runs if kind in run.collapse} for kind in ("watched", "tested")
    )
    reason = "by meta-iterations: not watched in training (--collapse_every)"
    note_absent(section, runs, watched, reason)
    reason = "by inner steps and layers: not measured over test tasks (--mode collapse)"
    note_absent(section, runs, tested, reason)
    if watched:
        draw_iterations(section, watched)
    if tested:
        draw_steps_and_layers(section, tested, "mean and 95 % interval over test tasks")
    else:
        spread = "mean and standard deviation over the training tasks of the last iteration measured"
        draw_steps_and_layers(section, {name: last_iteration(rows) for name, rows in watched.items()}, spread)
    advance()


def note_absent(section: Section, runs: list[Run], measured: dict[str, Rows], reason: str) -> None:
    """Say which runs are not among those measured, if some are."""
    absent = [run.name for run in runs if run.label not in measured]
    if measured and absent:
        section.note(f"Without {', '.join(absent)} {reason}.")


def last_iteration(rows: Rows) -> Rows:
    return [row for row in rows if row["iter"] == rows[-1]["iter"]]


def draw_iterations(section: Section, watched: dict[str, Rows]) -> None:
    features, logits = ({name: layers_of(rows)[place] for name, rows in watched.items()} for place in (-2, -1))
    tasks = " or ".join(dict.fromkeys(str(rows[0]["tasks"]) for rows in watched.values()))
    spread = f"mean and standard deviation over the {tasks} training tasks of an iteration"
    for name, part, layers, kind in (
        ("query", "query", features, "features of the query set"),
        ("support", "support", features, "features of the support set"),
        ("logits", "query", logits, "logits of the query set"),
    ):
        caption = f"Traces of the covariances within and between classes, and their shares: {kind}; {spread}."
        section.add(f"collapse_traces_{name}", caption, traces(watched, part, layers))
    for part in ("query", "support"):
        caption = f"NC1 to NC4 of the features of the {part} set by meta-iterations; {spread}."
        section.add(f"collapse_iterations_{part}", caption, by_iteration(watched, part, features))


def draw_steps_and_layers(section: Section, runs: dict[str, Rows], spread: str) -> None:
    features = {name: layers_of(rows)[-2] for name, rows in runs.items()}
    caption = f"NC1 to NC4 of the features by inner steps; {spread}."
    section.add("collapse_steps", caption, by_step(runs, features))
    caption = f"NC1 to NC4 of the query set by layer, blocks' outputs after pooling; {spread}."
    section.add("collapse_layers", caption, by_layer(runs, "query"))


def traces(runs: dict[str, Rows], part: str, layers: dict[str, str]) -> Figure:
    """The traces and their shares, of the meta-model and after adaptation, by iterations.

    part: "support" or "query". layers: the layer by the run's name.
    """
    fig = Figure(figsize=(7.5, 5.4))
    axes = fig.subplots(2, 2, sharex=True, sharey="row")
    for (upper, lower), step, title in zip(axes.T, (0, -1), ("meta-model", "adapted"), strict=True):
        for colour, name, rows in coloured(runs):
            selected = select(rows, set=part, step=step, layer=layers[name])
            draw_pair(upper, selected, "trace_within", "trace_between", colour)
            shares = [row | {"share_between": 1 - row["share_within"]} for row in selected]
            draw_pair(lower, shares, "share_within", "share_between", colour)
        upper.set_title(f"{title}: traces")
        lower.set(title=f"{title}: shares of both traces", ylim=(0, 1))
    set_logarithmic(*axes[0])
    return label(fig, axes[1], runs, {"within classes": "-", "between classes": ":"}, "meta-iteration")


def draw_pair(ax: Axes, rows: Rows, within: str, between: str, colour: str) -> None:
    """Two measures by iterations: within classes solid, between classes dotted."""
    draw_curve(ax, rows, iteration, within, colour, "-")
    draw_curve(ax, rows, iteration, between, colour, ":")


def by_iteration(runs: dict[str, Rows], part: str, layers: dict[str, str]) -> Figure:
    """NC1 to NC4 by meta-iterations. part: "support" or "query". layers: the layer by the run's name."""

    def curves(name: str, rows: Rows) -> Iterator[Curve]:
        for step, style in ((0, META), (-1, ADAPTED)):
            yield style, select(rows, set=part, step=step, layer=layers[name]), iteration

    return six(runs, curves, OF_FEATURES, {"meta-model": META, "adapted": ADAPTED}, "meta-iteration")


def by_step(runs: dict[str, Rows], layers: dict[str, str]) -> Figure:
    """NC1 to NC4 of both sets by inner steps. layers: the layer by the run's name."""

    def curves(name: str, rows: Rows) -> Iterator[Curve]:
        for part, style in (("support", ":"), ("query", "-")):
            yield style, select(rows, set=part, layer=layers[name]), lambda row: row["step"]

    return six(runs, curves, OF_FEATURES, {"support": ":", "query": "-"}, "inner steps done")


def by_layer(runs: dict[str, Rows], part: str) -> Figure:
    """NC1, NC2 and NC4 by layer, the logits last. part: "support" or "query"."""
    layers = [*dict.fromkeys(layer for rows in runs.values() for layer in layers_of(rows)[:-1]), "logits"]

    def curves(name: str, rows: Rows) -> Iterator[Curve]:
        for step, style in ((0, META), (-1, ADAPTED)):
            yield style, select(rows, set=part, step=step), lambda row: layers.index(row["layer"])

    return six(runs, curves, OF_LAYERS, {"meta-model": META, "adapted": ADAPTED}, "layer", layers)


def six(
    runs: dict[str, Rows],
    curves: Callable[[str, Rows], Iterator[Curve]],
    panels: dict[str, tuple[str, ...]],
    styles: dict[str, str],
    xlabel: str,
    ticks: Sequence[str] = (),
) -> Figure:
    """Six panels, their measures by title. curves(name, rows): those of a run in each. styles: the legend's lines."""
    fig = Figure(figsize=(7.5, 8.2))
    axes = fig.subplots(3, 2, sharex=True)
    for ax, (title, measures) in zip(axes.ravel(), panels.items(), strict=True):
        for colour, name, rows in coloured(runs):
            for style, points, x in curves(name, rows):
                draw_measures(ax, points, x, measures, colour, style)
        ax.set_title(title)
        if measures[0] in LOGARITHMIC:
            set_logarithmic(ax)
        else:
            ax.set_ylim(bottom=0)
        if ticks:
            ax.set_xticks(range(len(ticks)), ticks)
    return label(fig, axes[-1], runs, styles, xlabel)


def draw_measures(
    ax: Axes, rows: Rows, x: Callable[[dict], float], measures: tuple[str, ...], colour: str, style: str
) -> None:
    """A curve for each measure, told apart by its marks; a long curve that is alone has none."""
    crowded = len(rows) > 30 and len(measures) == 1
    for measure, mark in zip(measures, MARKS, strict=False):
        draw_curve(ax, rows, x, measure, colour, style, None if crowded else mark)


def draw_curve(
    ax: Axes, rows: Rows, x: Callable[[dict], float], measure: str, colour: str, style: str, mark: str | None = None
) -> None:
    """One curve and the band of its spread, where it is defined."""
    points = [(x(row), row[measure], row.get(f"{measure}_std", row.get(f"{measure}_ci95", np.nan))) for row in rows]
    places, centre, spread = np.array(points, float).reshape(-1, 3).T
    if not np.isfinite(centre).any():
        return
    ax.plot(places, centre, style, color=colour, marker=mark, markersize=3, linewidth=1.2)
    ax.fill_between(places, centre - spread, centre + spread, color=colour, alpha=0.13, linewidth=0)


def iteration(row: dict) -> float:
    return row["iter"]


def select(rows: Rows, **place) -> Rows:
    """The rows of this set, step and layer; step -1 is the last."""
    if place.get("step") == -1:
        place["step"] = max(row["step"] for row in rows)
    return [row for row in rows if all(row[key] == value for key, value in place.items())]


def set_logarithmic(*axes: Axes) -> None:
    """One logarithmic axis around all curves; their bands may reach below 0."""
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines] or [[1]])
    values = values[np.isfinite(values) & (values > 0)]
    for ax in axes if values.size else ():
        ax.set(yscale="log", ylim=(values.min() / 2, values.max() * 2))


def label(fig: Figure, axes: Iterable[Axes], runs: dict[str, Rows], styles: dict[str, str], xlabel: str) -> Figure:
    """A legend of the runs' colours and of the line styles; the label under the lowest axes."""
    lines = [Line2D([], [], color=colour, label=name) for colour, name, _ in coloured(runs)]
    lines += [Line2D([], [], color="black", linestyle=style, label=name) for name, style in styles.items()]
    fig.legend(handles=lines, loc="outside lower center", ncol=4)
    for ax in axes:
        ax.set_xlabel(xlabel)
        if not isinstance(ax.xaxis.get_major_locator(), FixedLocator):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig
