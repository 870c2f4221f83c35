"""The drawing: each function makes one figure, or the frames of an animation, of what a run has left."""

import io
from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from geometry import Scene

matplotlib.use("Agg")
matplotlib.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 8, "axes.spines.top": False,
    "axes.spines.right": False, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False,
})  # fmt: skip

# Okabe and Ito's colours, which the colour-blind tell apart; in grey the marks tell the classes apart.
CLASS_COLOURS = ("#0072B2", "#D55E00")
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "^")
# How a role looks: size in points^2, whether it is filled, and the rest.
ROLES = {
    "copies": {"s": 11, "filled": True, "alpha": 0.35, "linewidths": 0},
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


def limits(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = margin * (high - low or 1)
    return low - room, high + room


def window(scenes: list[Scene]) -> tuple[float, float]:
    """The range of axis 1 that holds every point and boundary of the scenes."""
    parts = [s.points[role][..., 0].ravel() for s in scenes for role in s.points]
    return limits(np.concatenate([*parts, *(s.boundary for s in scenes)]))


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
    for order, role in enumerate(ROLES):
        for which in (0, 1):
            x, y = points[role][scene.owner[role] == which].T
            ax.scatter(x, y, zorder=2 + order, **look(role, which))
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
    columns = len(next(iter(scenes.values())).boundary)
    fig = Figure(figsize=(0.5 + 1.75 * columns, 0.9 + 1.75 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, (name, scene) in zip(axes, scenes.items(), strict=True):
        for step, ax in enumerate(row):
            draw_plane(ax, scene, step, window([scene]))
            ax.set_title(f"step {step}: {percent(scene.accuracy[step])} right")
        row[0].set_ylabel(f"{name}\nt-SNE of the rest")
    for ax in axes[-1]:
        ax.set_xlabel("projection on $w_A - w_B$")
    legend(fig, names, any(s.points["copies"].size for s in scenes.values()))
    return fig


def boundary_tasks(scenes: dict[str, dict[int, Scene]], names: tuple[str, str]) -> Figure:
    """After the last inner step: a row for every run, a column for every task."""
    columns = len(next(iter(scenes.values())))
    fig = Figure(figsize=(max(5.5, 0.5 + 2.2 * columns), 0.9 + 2.0 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, (name, tasks) in zip(axes, scenes.items(), strict=True):
        for ax, (task, scene) in zip(row, tasks.items(), strict=True):
            draw_plane(ax, scene, len(scene.boundary) - 1, window([scene]))
            ax.set_title(f"task {task}: {percent(scene.accuracy[-1])} right")
        row[0].set_ylabel(f"{name}\nt-SNE of the rest")
    for ax in axes[-1]:
        ax.set_xlabel("projection on $w_A - w_B$")
    legend(fig, names, any(s.points["copies"].size for tasks in scenes.values() for s in tasks.values()))
    return fig


def boundary_frames(scenes: dict[str, Scene], names: tuple[str, str], moves: int = 6) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): the runs side by side, moving from snapshot to snapshot in `moves` frames."""
    fig = Figure(figsize=(max(5.6, 3.3 * len(scenes)), 4), dpi=100)
    axes = fig.subplots(1, len(scenes), squeeze=False)[0]
    legend(fig, names, any(s.points["copies"].size for s in scenes.values()))
    last = max(len(s.boundary) for s in scenes.values()) - 1
    for frame in range(last * moves + 1):
        whole, part = divmod(frame, moves)
        t = part / moves
        step = whole + t * t * (3 - 2 * t)  # slow at the snapshots
        for ax, (name, scene) in zip(axes, scenes.items(), strict=True):
            ax.clear()
            draw_plane(ax, scene, step, window([scene]))
            at = min(round(step), len(scene.boundary) - 1)
            ax.set_title(f"{name}, inner step {at} of {last}: {percent(scene.accuracy[at])} right")
            ax.set(xlabel="projection on $w_A - w_B$", ylabel="t-SNE of the rest")
        yield fig, (80 if part else 2000 if whole == last else 900)


# ---- stochastic features

GREY = {"cmap": "gray"}
COLOUR = {"cmap": "viridis"}


def show(ax, image, **style):
    """An image without axes -> its artist."""
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax.imshow(image, interpolation="nearest", **style)


def show_input(ax, image) -> None:
    """image [H,W,C] uint8, grey or colour."""
    show(ax, image[..., 0] if image.shape[-1] == 1 else image, vmin=0, vmax=255, **GREY)
    ax.set_title("input")


@matplotlib.rc_context({"figure.constrained_layout.h_pad": 0.02, "figure.constrained_layout.w_pad": 0.02})
def feature_figure(image, rows: list[dict], columns: list[str]):
    """The input, and beside it a row of panels for every channel.

    image [H,W,C] uint8; a row has label, clean [h,w], perturbed [M,h,w] and noise [M,h,w] (or M = 0).
    -> the figure, and by column the artists of its rows.
    """
    fig = Figure(figsize=(1.7 + 0.95 * len(columns), 0.3 + 0.95 * len(rows)))
    left, right = fig.subfigures(1, 2, width_ratios=(1.5, 0.2 + 0.95 * len(columns)))
    show_input(left.subplots(), image)
    axes = right.subplots(len(rows), len(columns), squeeze=False)
    artists = {column: [] for column in columns}
    for line, row in zip(axes, rows, strict=True):
        top = max(float(row["clean"].max()), float(row["perturbed"].max())) or 1.0
        scale = GREY | {"vmin": 0, "vmax": top}
        for ax, column in zip(line, columns, strict=True):
            if column == "std":
                std = row["perturbed"].std(0)
                artist = show(ax, std, vmin=0, vmax=std.max() or 1, **COLOUR)
                ax.set_xlabel(f"to {std.max():.2g}", fontsize=6, labelpad=1)
            elif "noise" in column:
                noise = row["noise"].mean(0) if "mean" in column else row["noise"][0]
                spread = row["noise"].mean(0) if "mean" in column else row["noise"]
                artist = show(ax, noise, vmin=spread.min(), vmax=spread.max(), **COLOUR)
                ax.set_xlabel(f"{spread.min():.2g} to {spread.max():.2g}", fontsize=6, labelpad=1)
            else:
                maps = {"noise-free": row["clean"], "mean": row["perturbed"].mean(0)}
                sample = int(column.split()[-1]) - 1 if column.split()[-1].isdigit() else 0
                artist = show(ax, maps.get(column, row["perturbed"][sample]), **scale)
                ax.set_xlabel(f"0 to {top:.2g}", fontsize=6, labelpad=1)
            artists[column].append(artist)
            if line is axes[0]:
                ax.set_title(column)
        line[0].set_ylabel(row["label"])
    return fig, artists


def feature_strip(image, rows: list[dict], samples: int = 4) -> Figure:
    """For papers: noise-free, some samples, mean, standard deviation, and the mean noise where it multiplies."""
    samples = min(samples, len(rows[0]["perturbed"]))
    columns = ["noise-free", *(f"sample {i + 1}" for i in range(samples)), "mean", "std"]
    return feature_figure(image, rows, columns + ["mean noise"] * bool(len(rows[0]["noise"])))[0]


def feature_frames(image, rows: list[dict]) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): one noise sample after the other, beside the mean and the standard deviation."""
    noise = ["noise"] * bool(len(rows[0]["noise"]))
    fig, artists = feature_figure(image, rows, ["noise-free", *noise, "sample", "mean", "std"])
    for sample in range(len(rows[0]["perturbed"])):
        for number, row in enumerate(rows):
            artists["sample"][number].set_data(row["perturbed"][sample])
            if noise:
                artists["noise"][number].set_data(row["noise"][sample])
        yield fig, 500


# ---- numbers of a run

AXES = {"iter": ("iterations", 1.0), "secs": ("minutes", 60.0)}


def learning_curves(runs: dict[str, dict[str, np.ndarray]]) -> Figure:
    """runs: by name the columns of meta_train.csv, NaN where there was no validation. Accuracies are 0 to 1."""
    validated = any(np.isfinite(run["val_acc"]).any() for run in runs.values())
    fig = Figure(figsize=(7, 4.6))
    axes = fig.subplots(2, 2, sharey="row", sharex="col")
    for column, (clock, (title, unit)) in zip(axes.T, AXES.items(), strict=True):
        for colour, (name, run) in zip(cycle(RUN_COLOURS, len(runs)), runs.items(), strict=True):
            x, val = run[clock] / unit, np.isfinite(run["val_acc"])
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
    axes[1, 0].set_ylabel("validation accuracy (%)" if validated else "training accuracy (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=2)
    return fig


def cycle(colours, n: int) -> list:
    return [colours[i % len(colours)] for i in range(n)]


def accuracy_histogram(runs: dict[str, dict], paired: dict[str, np.ndarray]) -> Figure:
    """Left: accuracies of a test's episodes by run. Right: each run's difference from the first, in `paired`.

    runs: by name accuracies (percent), accuracy and interval95; paired: by title differences in points.
    """
    panels = 1 + bool(paired)
    fig = Figure(figsize=(3.6 * panels, 3.2))
    axes = fig.subplots(1, panels, squeeze=False)[0]
    values = np.concatenate([run["accuracies"] for run in runs.values()])
    edges = np.linspace(values.min(), 100, 21) if values.min() < 100 else np.linspace(90, 100, 21)
    for colour, (name, run) in zip(cycle(RUN_COLOURS, len(runs)), runs.items(), strict=True):
        label = f"{name}: {run['accuracy']:.2f} ± {run['interval95']:.2f} %"
        axes[0].hist(run["accuracies"], edges, color=colour, alpha=0.25)
        axes[0].hist(run["accuracies"], edges, color=colour, histtype="step", linewidth=1.2, label=label)
        axes[0].axvline(run["accuracy"], color=colour, linestyle="--", linewidth=1)
    axes[0].set(xlabel="accuracy of an episode (%)", ylabel="episodes")
    for colour, (title, difference) in zip(cycle(RUN_COLOURS, len(runs))[1:], paired.items(), strict=False):
        reach = max(abs(d).max() for d in paired.values()) or 1.0
        mean, band = difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5
        axes[1].hist(difference, np.linspace(-reach, reach, 32), color=colour, alpha=0.4,
                     label=f"{title}: {mean:+.2f} ± {band:.2f}")  # fmt: skip
        axes[1].axvspan(mean - band, mean + band, color=colour, alpha=0.3, linewidth=0)
        axes[1].axvline(mean, color=colour, linewidth=1)
        axes[1].axvline(0, color="black", linewidth=0.8)
        axes[1].set(xlabel="difference on the same episode (points)")
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


# ---- files


def animation(frames: Iterator[tuple[Figure, int]], dpi: int = 110) -> bytes:
    """A GIF that repeats for ever, all frames with the first one's colours."""
    images, times, first = [], [], None
    for fig, milliseconds in frames:
        file = io.BytesIO()
        fig.savefig(file, format="png", dpi=dpi)
        image = Image.open(file).convert("RGB")
        first = first or image.quantize(256)
        images.append(image.quantize(palette=first, dither=Image.Dither.NONE))
        times.append(milliseconds)
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    return file.getvalue()


def still(fig: Figure, kind: str, dpi: int) -> bytes:
    """A figure as png, pdf or svg, the same bytes from the same figure."""
    file = io.BytesIO()
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with matplotlib.rc_context({"svg.hashsalt": "0"}):
        fig.savefig(file, format=kind, dpi=dpi, metadata=dated.get(kind))
    return file.getvalue()
