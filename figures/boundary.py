"""Decision boundaries of runs, in the plane of geometry.py: task by task, step by step, and moving.

A side is the number of a class in the pair: 0 is class A, to the right of the boundary, and 1 is class B.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures import geometry
from figures.geometry import Scene
from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import BLUE, ORANGE

CLASS_COLOURS = (BLUE, ORANGE)
MARKS = ("o", "^")  # they tell the classes apart where the colours are printed in grey
WIDTH = 7.5  # inches, the least that the legend needs
AXIS_1, AXIS_2 = "projection on $w_A - w_B$", "t-SNE of the rest"
# How a role looks: size in points^2, whether it is filled, and the rest.
ROLES = {
    "copies": {"s": 14, "filled": True, "alpha": 0.5, "linewidths": 0},
    "query": {"s": 16, "filled": False, "linewidths": 0.8},
    "support": {"s": 60, "filled": True, "linewidths": 1.0, "edgecolors": "black"},
}
ROLE_NAMES = {"support": "training point", "copies": "perturbed copy", "query": "test point"}


def work(runs: int, tasks: int) -> int:
    """How far `draw` advances."""
    return 1 + 3 * tasks


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """All tasks after adaptation; then each task over the inner steps, as a strip and moving."""
    classes = tuple(f"class {number} ({letter})" for number, letter in zip(selection.classes, "AB", strict=True))
    scenes = {run.label: {} for run in runs}
    for task in selection.tasks:
        for run in runs:
            scenes[run.label][task] = geometry.scene(run.export, task, selection.classes, selection.seed)
        advance()
    caption = (
        "After adaptation. Axis 1 is the last layer's features projected on the difference of the two classes' "
        "weights, so the boundary is exact; axis 2 is a 1-D t-SNE of what is left. The shaded side is where a class "
        "is predicted."
    )
    section.add("boundary_tasks", caption, by_task(scenes, classes))
    advance()
    for task in selection.tasks:
        task_scenes = {name: tasks[task] for name, tasks in scenes.items()}
        if max(len(scene.boundary) for scene in task_scenes.values()) == 1:  # no steps, nothing moves
            advance(2)
            continue
        caption = f"Task {task}, from before the first inner step to after the last, one t-SNE for all steps."
        section.add(f"boundary_task{task}", caption, by_step(task_scenes, classes))
        advance()
        caption = f"Task {task}: the same, moving; between two steps on straight lines."
        section.add_animation(f"boundary_task{task}_steps", caption, frames(task_scenes, classes))
        advance()


def by_task(scenes: dict[str, dict[int, Scene]], classes: tuple[str, str]) -> Figure:
    """After adaptation: a row for every run, a column for every task. scenes: by the run's name, then by task."""
    columns = len(next(iter(scenes.values())))
    fig = Figure(figsize=(max(WIDTH, 0.5 + 2.2 * columns), 0.9 + 2.0 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, tasks in zip(axes, scenes.values(), strict=True):
        for ax, (task, scene) in zip(row, tasks.items(), strict=True):
            draw_plane(ax, scene, len(scene.boundary) - 1, window(scene, slice(-1, None)))
            ax.set_title(f"task {task}: {correct(scene, -1)}")
    label_grid(axes, list(scenes))
    add_legend(fig, [scene for tasks in scenes.values() for scene in tasks.values()], classes)
    return fig


def by_step(scenes: dict[str, Scene], classes: tuple[str, str]) -> Figure:
    """One task: a row for every run, a column for every snapshot. scenes: by the run's name."""
    columns = max(len(scene.boundary) for scene in scenes.values())
    fig = Figure(figsize=(max(WIDTH, 0.5 + 1.75 * columns), 0.9 + 1.75 * len(scenes)))
    axes = fig.subplots(len(scenes), columns, squeeze=False)
    for row, scene in zip(axes, scenes.values(), strict=True):
        snapshots = len(scene.boundary)
        for ax in row[snapshots:]:
            ax.set_axis_off()
        for step, ax in enumerate(row[:snapshots]):
            draw_plane(ax, scene, step, window(scene))
            prefix = f"step {step}: " if snapshots > 1 else ""
            ax.set_title(f"{prefix}{correct(scene, step)}")
    label_grid(axes, list(scenes))
    add_legend(fig, scenes.values(), classes)
    return fig


def frames(scenes: dict[str, Scene], classes: tuple[str, str], moves: int = 6) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): the runs side by side, moving from snapshot to snapshot in `moves` frames."""
    fig = Figure(figsize=(max(WIDTH, 3.5 * len(scenes)), 4))
    axes = fig.subplots(1, len(scenes), squeeze=False)[0]
    add_legend(fig, scenes.values(), classes)
    last = max(len(scene.boundary) for scene in scenes.values()) - 1
    for frame in range(last * moves + 1):
        snapshot, move = divmod(frame, moves)
        t = move / moves
        step = snapshot + t * t * (3 - 2 * t)  # slow at the snapshots
        for ax, (name, scene) in zip(axes, scenes.items(), strict=True):
            ax.clear()
            draw_moment(ax, name, scene, step)
        yield fig, (80 if move else 2000 if snapshot == last else 900)


def draw_moment(ax: Axes, name: str, scene: Scene, step: float) -> None:
    """One run's panel of the animation; a run with fewer steps than the others stays at its last."""
    draw_plane(ax, scene, step, window(scene))
    last = len(scene.boundary) - 1
    nearest = min(round(step), last)
    progress = f", inner step {nearest} of {last}" if last else ""
    ax.set_title(f"{name}{progress}: {correct(scene, nearest)}")
    ax.set(xlabel=AXIS_1, ylabel=AXIS_2)


def draw_plane(ax: Axes, scene: Scene, step: float, xlim: tuple[float, float]) -> None:
    """The shaded sides, the boundary, and every point, at a snapshot or between two."""
    points, boundary = interpolate(scene, step)
    for side, edge in enumerate((xlim[1], xlim[0])):
        ax.axvspan(boundary, edge, color=CLASS_COLOURS[side], alpha=0.07, linewidth=0)
    ax.axvline(boundary, color="black", linewidth=1, linestyle="--")
    crowd = max(1.0, len(scene.owner["support"]) / 4)  # many training points are drawn smaller
    for order, role in enumerate(ROLES):
        for side in (0, 1):
            x, y = points[role][scene.owner[role] == side].T
            style = look(role, side)
            style["s"] /= crowd**0.5 if role == "support" else 1
            ax.scatter(x, y, zorder=2 + order, **style)
    ax.set(xlim=xlim, ylim=(-1.12, 1.12), yticks=[])
    ax.locator_params(axis="x", nbins=4)


def interpolate(scene: Scene, step: float) -> tuple[dict[str, np.ndarray], float]:
    """Points [R,2] by role, and the boundary, at a snapshot or on the straight way between two."""
    low = min(int(step), len(scene.boundary) - 1)
    high, t = min(low + 1, len(scene.boundary) - 1), step - low
    points = {role: (1 - t) * p[low] + t * p[high] for role, p in scene.points.items()}
    return points, (1 - t) * scene.boundary[low] + t * scene.boundary[high]


def window(scene: Scene, snapshots: slice = slice(None)) -> tuple[float, float]:
    """The range of axis 1 that holds every point and boundary of these snapshots."""
    parts = [points[snapshots, :, 0].ravel() for points in scene.points.values()]
    values = np.concatenate([*parts, scene.boundary[snapshots]])
    margin = 0.07 * (np.ptp(values) or 1)
    return float(values.min() - margin), float(values.max() + margin)


def look(role: str, side: int) -> dict:
    """scatter()'s settings for the points of one role and one class."""
    style, colour = dict(ROLES[role]), CLASS_COLOURS[side]
    filled = style.pop("filled")
    style = {"edgecolors": colour} | style
    return style | {"marker": MARKS[side], "facecolors": colour if filled else "none"}


def correct(scene: Scene, snapshot: int) -> str:
    return f"{100 * scene.accuracy[snapshot]:.0f} % correct"


def label_grid(axes: np.ndarray, names: list[str]) -> None:
    """The labels of a grid of planes, axes [runs,columns]: the runs' names at the left, axis 1 at the bottom."""
    for row, name in zip(axes, names, strict=True):
        row[0].set_ylabel(f"{name}\n{AXIS_2}")
    for ax in axes[-1]:
        ax.set_xlabel(AXIS_1)


def add_legend(fig: Figure, scenes: Iterable[Scene], classes: tuple[str, str]) -> None:
    """What each mark is; perturbed copies are only named where a scene has some."""
    copies = any(scene.points["copies"].size for scene in scenes)
    roles = [role for role in ROLE_NAMES if role != "copies" or copies]
    handles = [legend_mark(role, side, classes[side]) for role in roles for side in (0, 1)]
    handles.append(Line2D([], [], color="black", linewidth=1, linestyle="--", label="decision boundary"))
    fig.legend(handles=handles, loc="outside lower center", ncol=4)


def legend_mark(role: str, side: int, class_name: str) -> Line2D:
    style = look(role, side)
    return Line2D(
        [], [], linestyle="none", marker=style["marker"], markersize=style["s"] ** 0.5,
        markerfacecolor=style["facecolors"], markeredgecolor=style["edgecolors"],
        markeredgewidth=style["linewidths"], alpha=style.get("alpha"), label=f"{ROLE_NAMES[role]}, {class_name}",
    )  # fmt: skip
