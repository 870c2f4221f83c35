"""The drawing: each function makes one figure, or the frames of an animation, of what a run has left."""

import io
from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator
from PIL import Image

from errors import UserError
from geometry import Scene
from results import summary

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False,
})  # fmt: skip

# Okabe and Ito's colours, which the colour-blind tell apart; in grey the marks tell the classes apart.
CLASS_COLOURS = ("#0072B2", "#D55E00")
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "^")
WIDTH = 7.5  # inches, the least that the boundary's legend needs
# How a role looks: size in points^2, whether it is filled, and the rest.
ROLES = {
    "copies": {"s": 14, "filled": True, "alpha": 0.5, "linewidths": 0},
    "query": {"s": 16, "filled": False, "linewidths": 0.8},
    "support": {"s": 60, "filled": True, "linewidths": 1.0, "edgecolors": "black"},
}
ROLE_NAMES = {"support": "training point", "copies": "perturbed copy", "query": "test point"}


def look(role: str, which: int) -> dict:
    """scatter()'s settings for one role of one class."""
    style, colour = dict(ROLES[role]), CLASS_COLOURS[which]
    filled = style.pop("filled")
    style = {"edgecolors": colour} | style
    return style | {"marker": MARKS[which], "facecolors": colour if filled else "none"}


def window(scene: Scene, snapshots=slice(None)) -> tuple[float, float]:
    """The range of axis 1 that holds every point and boundary of these snapshots."""
    parts = [points[snapshots, :, 0].ravel() for points in scene.points.values()]
    values = np.concatenate([*parts, scene.boundary[snapshots]])
    room = 0.07 * (np.ptp(values) or 1)
    return float(values.min() - room), float(values.max() + room)


def between(scene: Scene, step: float):
    """Points by role, and the boundary, at a snapshot or on the straight way between two."""
    low = min(int(step), len(scene.boundary) - 1)
    high, t = min(low + 1, len(scene.boundary) - 1), step - low
    points = {role: (1 - t) * p[low] + t * p[high] for role, p in scene.points.items()}
    return points, (1 - t) * scene.boundary[low] + t * scene.boundary[high]


def draw_plane(ax, scene: Scene, step: float, xlim) -> None:
    points, boundary = between(scene, step)
    for which, edge in enumerate((xlim[1], xlim[0])):
        ax.axvspan(boundary, edge, color=CLASS_COLOURS[which], alpha=0.07, linewidth=0)
    ax.axvline(boundary, color="black", linewidth=1, linestyle="--")
    crowd = max(1.0, len(scene.owner["support"]) / 4)  # many training points are drawn smaller
    for order, role in enumerate(ROLES):
        for which in (0, 1):
            x, y = points[role][scene.owner[role] == which].T
            style = look(role, which)
            style["s"] /= crowd**0.5 if role == "support" else 1
            ax.scatter(x, y, zorder=2 + order, **style)
    ax.set(xlim=xlim, ylim=(-1.12, 1.12), yticks=[])
    ax.locator_params(axis="x", nbins=4)


def legend(fig: Figure, names: tuple[str, str], copies: bool) -> None:
    handles = []
    for role in ("support", "copies", "query"):
        if role == "copies" and not copies:
            continue
        for which in (0, 1):
            style = look(role, which)
            handles.append(Line2D(
                [], [], linestyle="none", marker=style["marker"], markersize=style["s"] ** 0.5,
                markerfacecolor=style["facecolors"], markeredgecolor=style["edgecolors"],
                markeredgewidth=style["linewidths"], alpha=style.get("alpha"),
                label=f"{ROLE_NAMES[role]}, {names[which]}",
            ))  # fmt: skip
    handles.append(Line2D([], [], color="black", linewidth=1, linestyle="--", label="decision boundary"))
    fig.legend(handles=handles, loc="outside lower center", ncol=4)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def boundary_strip(scenes: dict[str, Scene], names: tuple[str, str]) -> Figure:
    """One task: a row for every run, a column for every inner step."""
    columns = max(len(scene.boundary) for scene in scenes.values())
    fig = Figure(figsize=(max(WIDTH, 0.5 + 1.75 * columns), 0.9 + 1.75 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, (name, scene) in zip(axes, scenes.items(), strict=True):
        for ax in row[len(scene.boundary) :]:
            ax.set_axis_off()
        for step, ax in enumerate(row[: len(scene.boundary)]):
            draw_plane(ax, scene, step, window(scene))
            steps = f"step {step}: " if len(scene.boundary) > 1 else ""
            ax.set_title(f"{steps}{percent(scene.accuracy[step])} correct")
        row[0].set_ylabel(f"{name}\nt-SNE of the rest")
    for ax in axes[-1]:
        ax.set_xlabel("projection on $w_A - w_B$")
    legend(fig, names, any(s.points["copies"].size for s in scenes.values()))
    return fig


def boundary_tasks(scenes: dict[str, dict[int, Scene]], names: tuple[str, str]) -> Figure:
    """After adaptation: a row for every run, a column for every task."""
    columns = len(next(iter(scenes.values())))
    fig = Figure(figsize=(max(WIDTH, 0.5 + 2.2 * columns), 0.9 + 2.0 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, (name, tasks) in zip(axes, scenes.items(), strict=True):
        for ax, (task, scene) in zip(row, tasks.items(), strict=True):
            draw_plane(ax, scene, len(scene.boundary) - 1, window(scene, slice(-1, None)))
            ax.set_title(f"task {task}: {percent(scene.accuracy[-1])} correct")
        row[0].set_ylabel(f"{name}\nt-SNE of the rest")
    for ax in axes[-1]:
        ax.set_xlabel("projection on $w_A - w_B$")
    legend(fig, names, any(s.points["copies"].size for tasks in scenes.values() for s in tasks.values()))
    return fig


def boundary_frames(scenes: dict[str, Scene], names: tuple[str, str], moves: int = 6) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): the runs side by side, moving from snapshot to snapshot in `moves` frames."""
    fig = Figure(figsize=(max(WIDTH, 3.5 * len(scenes)), 4))
    axes = fig.subplots(1, len(scenes), squeeze=False)[0]
    legend(fig, names, any(s.points["copies"].size for s in scenes.values()))
    last = max(len(s.boundary) for s in scenes.values()) - 1
    for frame in range(last * moves + 1):
        whole, part = divmod(frame, moves)
        t = part / moves
        step = whole + t * t * (3 - 2 * t)  # slow at the snapshots
        for ax, (name, scene) in zip(axes, scenes.items(), strict=True):
            ax.clear()
            draw_plane(ax, scene, step, window(scene))
            own = len(scene.boundary) - 1
            at = min(round(step), own)
            steps = f", inner step {at} of {own}" if own else ""
            ax.set_title(f"{name}{steps}: {percent(scene.accuracy[at])} correct")
            ax.set(xlabel="projection on $w_A - w_B$", ylabel="t-SNE of the rest")
        yield fig, (80 if part else 2000 if whole == last else 900)


# ---- stochastic features


def show(ax, image, **style):
    """An image without axes -> its artist."""
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax.imshow(image, interpolation="nearest", **style)


def show_input(ax, image) -> None:
    """image [H,W,C] uint8, grey or colour."""
    show(ax, image[..., 0] if image.shape[-1] == 1 else image, vmin=0, vmax=255, cmap="gray")
    ax.set_title("input")


def panel(row: dict, kind: str, sample: int = 0):
    """One map [h,w] of a row, and what its colours span: (lowest, highest)."""
    grey = 0.0, float(np.quantile([*row["clean"][None], *row["perturbed"]], 0.998)) or 1.0  # a few pixels may shine
    if kind == "clean":
        return row["clean"], grey
    if kind == "sample":
        return row["perturbed"][sample], grey
    if kind == "mean":
        return row["perturbed"].mean(0), grey
    if kind == "std":
        std = row["perturbed"].std(0)
        return std, (0.0, float(std.max()) or 1.0)
    noise = row["noise"].mean(0) if kind == "mean noise" else row["noise"]
    span = float(noise.min()), float(noise.max())
    return (noise if kind == "mean noise" else noise[sample]), span


@matplotlib.rc_context({"figure.constrained_layout.h_pad": 0.02, "figure.constrained_layout.w_pad": 0.02})
def feature_figure(image, rows: list[dict], columns: dict[str, tuple]):
    """The input, and beside it a row of panels for every channel.

    image [H,W,C] uint8; a row has label, clean [h,w], perturbed [M,h,w] and noise [M,h,w] (or M = 0);
    columns: by title what `panel` takes. -> the figure, and by kind the artists of its rows.
    """
    fig = Figure(figsize=(1.7 + 0.95 * len(columns), 0.3 + 1.05 * len(rows)))
    left, right = fig.subfigures(1, 2, width_ratios=(1.5, 0.2 + 0.95 * len(columns)))
    show_input(left.subplots(), image)
    axes = right.subplots(len(rows), len(columns), squeeze=False)
    artists = {}
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        for ax, (title, what) in zip(line, columns.items(), strict=True):
            values, (low, high) = panel(row, *what)
            grey = what[0] in ("clean", "sample", "mean")
            artist = show(ax, values, vmin=low, vmax=high, cmap="gray" if grey else "viridis")
            artists.setdefault(what[0], []).append(artist)
            if ax is line[0] or not grey:  # the grey panels of a row have one scale
                ax.set_xlabel(f"{low:.2g} to {high:.2g}", fontsize=6, labelpad=1)
            if number == 0:
                ax.set_title(title)
        line[0].set_ylabel(row["label"])
    return fig, artists


def feature_strip(image, rows: list[dict], samples: int = 4) -> Figure:
    """For papers: noise-free, some samples, mean, standard deviation, and the mean noise where it multiplies."""
    samples = min(samples, len(rows[0]["perturbed"]))
    columns = {"noise-free": ("clean",)} | {f"sample {i + 1}": ("sample", i) for i in range(samples)}
    columns |= {"mean": ("mean",), "std": ("std",)}
    if len(rows[0]["noise"]):
        columns["mean noise"] = ("mean noise",)
    return feature_figure(image, rows, columns)[0]


def feature_frames(image, rows: list[dict]) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): one noise sample after the other, beside the mean and the standard deviation."""
    moving = {"a sample": ("sample",)} | ({"its noise": ("noise",)} if len(rows[0]["noise"]) else {})
    columns = {"noise-free": ("clean",)} | moving | {"mean": ("mean",), "std": ("std",)}
    fig, artists = feature_figure(image, rows, columns)
    for sample in range(len(rows[0]["perturbed"])):
        for (kind,) in moving.values():
            for artist, row in zip(artists[kind], rows, strict=True):
                artist.set_data(panel(row, kind, sample)[0])
        yield fig, 500


# ---- numbers of a run


def clock(seconds: float) -> tuple[str, float]:
    """The unit that suits so long a time, and its seconds."""
    return next((c for c in (("hours", 3600.0), ("minutes", 60.0)) if seconds >= 2 * c[1]), ("seconds", 1.0))


def learning_curves(runs: dict[str, dict[str, np.ndarray]]) -> Figure:
    """runs: by name the columns of meta_train.csv, NaN where there was no validation. Accuracies are 0 to 1."""
    validated = any(np.isfinite(run["val_acc"]).any() for run in runs.values())
    fig = Figure(figsize=(7, 4.6))
    axes = fig.subplots(2, 2, sharey="row", sharex="col")
    longest = max(run["secs"].max() for run in runs.values())
    for column, key, (title, unit) in zip(axes.T, ("iter", "secs"), (("iterations", 1), clock(longest)), strict=True):
        for colour, (name, run) in zip(cycle(RUN_COLOURS, len(runs)), runs.items(), strict=True):
            x, val = run[key] / unit, np.isfinite(run["val_acc"])
            column[0].plot(x, run["loss"], color=colour, linewidth=1, label=f"{name}, training")
            if validated:
                column[0].plot(x[val], run["val_loss"][val], color=colour, linestyle="--", marker="o", markersize=3,
                               linewidth=1, label=f"{name}, validation")  # fmt: skip
                acc, band = 100 * run["val_acc"][val], 100 * run["val_ci95"][val]
                column[1].plot(x[val], acc, color=colour, marker="o", markersize=3, linewidth=1, linestyle="--")
                column[1].fill_between(x[val], acc - band, acc + band, color=colour, alpha=0.2, linewidth=0)
            else:
                column[1].plot(x, 100 * run["acc"], color=colour, linewidth=1)
        column[1].set_xlabel(title)
    axes[0, 0].set_ylabel("query loss (nats)")
    low, high = axes[0, 0].dataLim.intervaly
    if low > 0 and high > 3 * low:  # else it would show no tick
        axes[0, 0].set_yscale("log")
        axes[0, 0].yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
        axes[0, 0].yaxis.set_minor_formatter("")
    axes[1, 0].set_ylabel("validation accuracy (%)" if validated else "training accuracy (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return fig


def cycle(colours, n: int) -> list:
    return [colours[i % len(colours)] for i in range(n)]


def bins(values: np.ndarray, quantum: float) -> np.ndarray:
    """Edges of at most about 40 bins, each around as many of the values that an episode can have."""
    width = quantum * max(1, round((np.ptp(values) / quantum + 1) / 40))
    first = quantum * (np.floor(values.min() / quantum + 1e-6) - 0.5)
    return np.arange(first, values.max() + width + quantum / 2, width)


def accuracy_histogram(runs: dict[str, dict], paired: dict[str, np.ndarray], quantum: float) -> Figure:
    """Left: accuracies of a test's episodes by run. Right: each run's difference from the first, in `paired`.

    runs: by name accuracies (percent), accuracy and interval95; paired: by title differences in points;
    quantum: what one query image is of an episode, in points.
    """
    panels = 1 + bool(paired)
    fig = Figure(figsize=(3.6 * panels, 3.2))
    axes = fig.subplots(1, panels, squeeze=False)[0]
    edges = bins(np.concatenate([run["accuracies"] for run in runs.values()]), quantum)
    colours = cycle(RUN_COLOURS, len(runs))
    for colour, (name, run) in zip(colours, runs.items(), strict=True):
        label = f"{name}: {run['accuracy']:.2f} ± {run['interval95']:.2f} %"
        axes[0].hist(run["accuracies"], edges, color=colour, alpha=0.25)
        axes[0].hist(run["accuracies"], edges, color=colour, histtype="step", linewidth=1.2, label=label)
        axes[0].axvline(run["accuracy"], color=colour, linestyle="--", linewidth=1)
    axes[0].set(xlabel="accuracy of an episode (%)", ylabel="episodes")
    if paired:
        edges = bins(np.concatenate([[0], *paired.values()]), quantum)
        axes[1].axvline(0, color="black", linewidth=0.8)
        axes[1].set(xlabel="difference on the same episode (points)", ylabel="episodes")
    for colour, (title, difference) in zip(colours[1:], paired.items(), strict=False):
        mean, band = summary(difference / 100)
        label = f"{title}: {mean:+.2f} ± {band:.2f}"
        axes[1].hist(difference, edges, color=colour, alpha=0.25)
        axes[1].hist(difference, edges, color=colour, histtype="step", linewidth=1.2, label=label)
        axes[1].axvline(mean, color=colour, linestyle="--", linewidth=1)
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


# ---- files


def animation(frames: Iterator[tuple[Figure, int]], dpi: int = 110) -> bytes:
    """A GIF that repeats for ever, all frames with the first one's colours."""
    images, times, colours = [], [], None
    for fig, milliseconds in frames:
        if colours is None:
            fig.set_dpi(dpi)
            fig.draw_without_rendering()
            fig.set_layout_engine("none")  # laid out once: nothing jumps, and it is slow
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        image = Image.fromarray(pixels)
        if colours is None:
            colours = image.quantize(255)
            colours.putpalette([*colours.getpalette()[: 3 * 255], 255, 255, 255])
        indexed = image.quantize(palette=colours, dither=Image.Dither.NONE)
        paper = Image.fromarray((pixels == 255).all(-1))  # Pillow takes the next grey for white
        indexed.paste(255, mask=paper)
        images.append(indexed)
        times.append(milliseconds)
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    return file.getvalue()


def still(fig: Figure, kind: str, dpi: int) -> bytes:
    """A figure as png, pdf or svg, the same bytes from the same figure. UserError: more pixels than a png can be."""
    width, height = (round(dpi * inches) for inches in fig.get_size_inches())
    if max(width, height) >= 2**16:  # matplotlib's limit
        raise UserError(f"--dpi {dpi} makes a figure of {width} x {height} pixels: lower it, or draw fewer --tasks")
    file = io.BytesIO()
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with matplotlib.rc_context({"svg.hashsalt": "0"}):
        fig.savefig(file, format=kind, dpi=dpi, metadata=dated.get(kind))
    return file.getvalue()
