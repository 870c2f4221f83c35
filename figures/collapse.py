"""Draw neural collapse. Colours are runs; the meta-model is dashed, the adapted model solid.

A row is a dict as in test_results.read_collapse: set, step, layer, the measures, and their spread (_std or _ci95).
"""

from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from figures.page import Section
from figures.run import Run, layers_of
from figures.selection import Selection
from figures.style import coloured, draw_curve

Rows = list[dict]
Styles = dict[str, tuple[str, dict]]  # {text of the legend: (line style, place of the rows drawn in it)}
# The measures of each panel by its title. Marks distinguish two measures of one panel.
OF_FEATURES = {
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ("nc1",),
    "NC2: equinorm (○ means, ▵ weights)": ("nc2_norm_means", "nc2_norm_weights"),
    "NC2: equiangularity (○ means, ▵ weights)": ("nc2_angle_means", "nc2_angle_weights"),
    "NC2: std of cosines (○ means, ▵ weights)": ("nc2_spread_means", "nc2_spread_weights"),
    "NC3: self-duality": ("nc3",),
    "NC4: share not predicted as the nearest class mean": ("nc4",),
}
OF_LAYERS = {  # none of these needs the weights of the head
    "NC1: $\\mathrm{Tr}(S_W S_B^+)/C$": ("nc1",),
    "share of $\\mathrm{Tr}\\,S_W$": ("share_within",),
    "NC2: equinorm of class means": ("nc2_norm_means",),
    "NC2: equiangularity of class means": ("nc2_angle_means",),
    "NC2: std of class means' cosines": ("nc2_spread_means",),
    "NC4: share not predicted as the nearest class mean": ("nc4",),
}
LOGARITHMIC = ("nc1", "trace_within", "trace_between")
MARKS = ("o", "^")
MODELS = {"meta-model": ("--", {"step": 0}), "adapted": ("-", {"step": -1})}
SETS = {"support": (":", {"set": "support"}), "query": ("-", {"set": "query"})}
TRACES = {"within classes": "-", "between classes": ":"}
MEAN = "mean and standard deviation over the"


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw measurements of training by iterations. Then draw measurements of test tasks or, if there are none, of the
    last training iteration by inner steps and by layers."""
    watched, tested = (
        {run.label: run.collapse[kind] for run in runs if kind in run.collapse} for kind in ("watched", "tested")
    )
    for measured, reason in (
        (watched, "by meta-iterations, because not measured in training (--collapse_every)"),
        (tested, "by inner steps and layers, because not measured on test tasks (--mode collapse)"),
    ):
        absent = [run.name for run in runs if run.label not in measured]
        if measured and absent:
            section.note(f"{', '.join(absent)}: not drawn {reason}.")
    if watched:
        draw_iterations(section, watched)
    spread = "mean and 95 % interval over test tasks"
    if not tested:
        spread = f"{MEAN} training tasks of the last measured iteration"
        tested = {name: [row for row in rows if row["iter"] == rows[-1]["iter"]] for name, rows in watched.items()}
    features = {name: layers_of(rows)[-2] for name, rows in tested.items()}
    caption = f"NC1 to NC4 of the features by inner steps; {spread}.{note_on_zeros(tested, features)}"
    section.add("collapse_steps", caption, by_step(tested, features))
    caption = f"NC1, NC2 and NC4 of the query set by layer (outputs of the blocks after pooling); {spread}."
    section.add("collapse_layers", caption + note_on_zeros(tested, set="query"), by_layer(tested, "query"))
    advance()


def draw_iterations(section: Section, watched: dict[str, Rows]) -> None:
    """Draw the measurements of training by iterations."""
    features, logits = ({name: layers_of(rows)[place] for name, rows in watched.items()} for place in (-2, -1))
    tasks = " or ".join(dict.fromkeys(str(rows[0]["tasks"]) for rows in watched.values()))
    spread = f"{MEAN} {tasks} training tasks of an iteration"
    for name, part, layers, kind in (
        ("query", "query", features, "features of the query set"),
        ("support", "support", features, "features of the support set"),
        ("logits", "query", logits, "logits of the query set"),
    ):
        caption = f"Traces of the covariances within and between classes, and their shares: {kind}; {spread}."
        caption += note_on_zeros(watched, layers, set=part)
        section.add(f"collapse_traces_{name}", caption, traces(watched, part, layers))
    for part in ("query", "support"):
        caption = f"NC1 to NC4 of the features of the {part} set by meta-iterations; {spread}."
        caption += note_on_zeros(watched, features, set=part)
        section.add(f"collapse_iterations_{part}", caption, by_iteration(watched, part, features))


def note_on_zeros(runs: dict[str, Rows], layers: dict[str, str] | None = None, **place) -> str:
    """Return a sentence if a measure that has a logarithmic axis is 0 in a row of this place, and of these layers, {run
    name: layer}."""
    shown = (select(rows, **place, **({"layer": layers[run]} if layers else {})) for run, rows in runs.items())
    zeros = any(row[name] == 0 for rows in shown for row in rows for name in LOGARITHMIC)
    return " Zeros (one row per class has no variance within classes) are not on logarithmic axes." * zeros


def traces(runs: dict[str, Rows], part: str, layers: dict[str, str]) -> Figure:
    """Draw the traces of the covariances, and their shares, by iterations: of the meta-model and the adapted model.

    part: "support" or "query". layers: {run name: layer}.
    """
    fig = Figure(figsize=(7.5, 5.4))
    axes = fig.subplots(2, 2, sharex=True, sharey="row")
    for (upper, lower), (title, (_, place)) in zip(axes.T, MODELS.items(), strict=True):
        for colour, name, rows in coloured(runs):
            for row in (shown := select(rows, set=part, layer=layers[name], **place)):
                spreads = {
                    name.replace("within", "between"): row[name] for name in row if name.startswith("share_within_")
                }
                row.update(spreads, share_between=1 - row["share_within"])
            for which, style in zip(("within", "between"), TRACES.values(), strict=True):
                for ax, measure in ((upper, f"trace_{which}"), (lower, f"share_{which}")):
                    draw_measure(ax, shown, measure, "iter", color=colour, linestyle=style)
        upper.set_title(f"{title}: traces")
        lower.set(title=f"{title}: shares of both traces", ylim=(0, 1))
    set_logarithmic(*axes[0])
    return add_legend(fig, axes[1], runs, TRACES, "meta-iteration")


def by_iteration(runs: dict[str, Rows], part: str, layers: dict[str, str]) -> Figure:
    """Draw NC1 to NC4 by meta-iterations. part: "support" or "query". layers: {run name: layer}."""
    rows = {name: select(rows, set=part, layer=layers[name]) for name, rows in runs.items()}
    return six_panels(rows, OF_FEATURES, MODELS, "iter", "meta-iteration")


def by_step(runs: dict[str, Rows], layers: dict[str, str]) -> Figure:
    """Draw NC1 to NC4 of both sets by inner steps. layers: {run name: layer}."""
    rows = {name: select(rows, layer=layers[name]) for name, rows in runs.items()}
    return six_panels(rows, OF_FEATURES, SETS, "step", "inner steps done")


def by_layer(runs: dict[str, Rows], part: str) -> Figure:
    """Draw NC1, NC2 and NC4 by layer, with the logits last. part: "support" or "query"."""
    layers = [*dict.fromkeys(layer for rows in runs.values() for layer in layers_of(rows)[:-1]), "logits"]
    rows = {
        name: [row | {"place": layers.index(row["layer"])} for row in select(rows, set=part)]
        for name, rows in runs.items()
    }
    fig = six_panels(rows, OF_LAYERS, MODELS, "place", "layer")
    for ax in fig.axes:
        ax.set_xticks(range(len(layers)), layers)
    return fig


def six_panels(
    runs: dict[str, Rows], panels: dict[str, tuple[str, ...]], styles: Styles, x: str, xlabel: str
) -> Figure:
    """Draw six panels. panels: {title: measures}. x: the key in a row of its place on the x axis."""
    fig = Figure(figsize=(7.5, 8.2))
    axes = fig.subplots(3, 2, sharex=True)
    for ax, (title, measures) in zip(axes.ravel(), panels.items(), strict=True):
        for colour, _, rows in coloured(runs):
            for style, place in styles.values():
                shown = select(rows, **place)
                crowded = len(shown) > 30 and len(measures) == 1
                for measure, mark in zip(measures, MARKS, strict=False):
                    look = {"color": colour, "linestyle": style, "marker": None if crowded else mark}
                    draw_measure(ax, shown, measure, x, **look)
        ax.set_title(title)
        if measures[0] in LOGARITHMIC:
            set_logarithmic(ax)
        else:
            ax.set_ylim(bottom=0)
    return add_legend(fig, axes[-1], runs, {name: style for name, (style, _) in styles.items()}, xlabel)


def draw_measure(ax: Axes, rows: Rows, measure: str, x: str, **look) -> None:
    """Draw one measure as a curve, with a band where its spread is defined."""
    points = [(row[x], row[measure], row.get(f"{measure}_std", row.get(f"{measure}_ci95", np.nan))) for row in rows]
    places, centre, spread = np.array(points, float).reshape(-1, 3).T
    if np.isfinite(centre).any():
        draw_curve(ax, places, centre, spread, alpha=0.13, **{"marker": None, "linewidth": 1.2} | look)


def select(rows: Rows, **place) -> Rows:
    """Return copies of the rows at this place (set, step, layer); step -1 is the last."""
    if place.get("step") == -1:
        place["step"] = max((row["step"] for row in rows), default=None)
    return [row.copy() for row in rows if all(row[key] == value for key, value in place.items())]


def set_logarithmic(*axes: Axes) -> None:
    """Give these axes one logarithmic scale around their curves, but not the bands, which may reach below 0."""
    values = np.concatenate([line.get_ydata() for ax in axes for line in ax.lines] or [[1]])
    values = values[np.isfinite(values) & (values > 0)]
    for ax in axes if values.size else ():
        ax.set(yscale="log", ylim=(values.min() / 2, values.max() * 2))


def add_legend(fig: Figure, axes: Iterable[Axes], runs: dict[str, Rows], styles: dict[str, str], xlabel: str) -> Figure:
    """Add a legend of the run colours and line styles to the figure, and `xlabel` to these axes."""
    lines = [Line2D([], [], color=colour, label=name) for colour, name, _ in coloured(runs)]
    lines += [Line2D([], [], color="black", linestyle=style, label=name) for name, style in styles.items()]
    fig.legend(handles=lines, loc="outside lower center", ncol=4)
    for ax in axes:
        ax.set_xlabel(xlabel)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig
