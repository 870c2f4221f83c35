"""Draw decision boundaries in the plane of geometry.py: by task, by inner step, and as an animation.

A side is a class of the pair: 0 is class A, to the right of the boundary, and 1 is class B.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import geometry
from figures.geometry import Scene
from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import BLUE, ORANGE

CLASS_COLOURS = (BLUE, ORANGE)
MARKS = ("o", "^")  # so that the classes are distinct in a grey print, too
WIDTH = 7.5  # inches; the legend needs at least this
AXIS_1, AXIS_2 = "projection on $w_A - w_B$", "t-SNE of the rest"
ROLE_NAMES = {"support": "training point", "copies": "perturbed copy", "query": "test point"}
# The look of the points of a role, as settings of scatter() that override the look of the class.
ROLES = {
    "support": {"s": 60, "linewidths": 1.0, "edgecolors": "black", "zorder": 4},
    "copies": {"s": 14, "linewidths": 0, "alpha": 0.5, "zorder": 2},
    "query": {"s": 16, "linewidths": 0.8, "facecolors": "none", "zorder": 3},
}
Rows = dict[str, dict[str, tuple[Scene, int]]]  # {run name: {start of a panel's title: (scene, snapshot)}}


def count_advances(runs: int, tasks: int) -> int:
    """Return by how many steps `draw` advances the progress bar."""
    return 1 + 3 * tasks


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw all tasks after adaptation; then each task by inner steps, as a figure and as an animation."""
    classes = tuple(f"class {number} ({letter})" for number, letter in zip(selection.classes, "AB", strict=True))
    scenes = {run.label: {} for run in runs}
    for task in selection.tasks:
        for run in runs:
            scenes[run.label][task] = geometry.scene(run.export, task, selection.classes, selection.seed)
        advance()
    caption = (
        "After adaptation. Axis 1 is the projection of the last layer's features on the difference between the two "
        "classes' weights, where the decision boundary is exact. Axis 2 is a 1-D t-SNE of the rest of the features. "
        "Each side has the colour of that one of the two classes which has the larger logit there; the accuracy is "
        "that of the choice between the two."
    )
    section.add("boundary_tasks", caption, by_task(scenes, classes))
    advance()
    for task in selection.tasks:
        task_scenes = {name: tasks[task] for name, tasks in scenes.items()}
        if max(len(scene.boundary) for scene in task_scenes.values()) == 1:  # no inner steps, nothing moves
            advance(2)
            continue
        caption = f"Task {task}, before the first inner step and after each one; one t-SNE for all steps."
        section.add(f"boundary_task{task}", caption, by_step(task_scenes, classes))
        advance()
        caption = f"Task {task}, the same as an animation. Between two steps the points move on straight lines."
        section.add_animation(f"boundary_task{task}_steps", caption, frames(task_scenes, classes))
        advance()


def by_task(scenes: dict[str, dict[int, Scene]], classes: tuple[str, str]) -> Figure:
    """Draw the tasks after adaptation, a row per run and a column per task. scenes: {run name: {task: scene}}."""
    rows = {
        name: {f"task {task}: ": (scene, len(scene.boundary) - 1) for task, scene in tasks.items()}
        for name, tasks in scenes.items()
    }
    return grid(rows, classes, 2.2, 2.0, slice(-1, None))


def by_step(scenes: dict[str, Scene], classes: tuple[str, str]) -> Figure:
    """Draw one task, a row per run and a column per snapshot. scenes: {run name: scene of this task}."""
    rows = {
        name: {f"step {step}: " * (len(scene.boundary) > 1): (scene, step) for step in range(len(scene.boundary))}
        for name, scene in scenes.items()
    }
    return grid(rows, classes, 1.75, 1.75, slice(None))


def grid(rows: Rows, classes: tuple[str, str], width: float, height: float, snapshots: slice) -> Figure:
    """Draw a row of panels per run. width, height: inches of a panel. snapshots: axis 1 spans their points."""
    columns = max(map(len, rows.values()))
    fig = Figure(figsize=(max(WIDTH, 0.5 + width * columns), 0.9 + height * len(rows)))
    axes = fig.subplots(len(rows), columns, squeeze=False)
    for row, (name, panels) in zip(axes, rows.items(), strict=True):
        for ax, (title, (scene, step)) in zip(row, panels.items(), strict=False):
            draw_plane(ax, scene, step, window(scene, snapshots), classes)
            ax.set_title(title + accuracy_text(scene, step))
        for ax in row[len(panels) :]:
            ax.set_axis_off()
        row[0].set_ylabel(f"{name}\n{AXIS_2}")
    for ax in axes[-1]:
        ax.set_xlabel(AXIS_1)
    add_legend(fig, (scene for panels in rows.values() for scene, _ in panels.values()))
    return fig


def frames(scenes: dict[str, Scene], classes: tuple[str, str], moves: int = 6) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds) with the runs side by side. `moves` frames lead from each snapshot to the next; a
    run with fewer steps than the others stays at its last one."""
    fig = Figure(figsize=(max(WIDTH, 3.5 * len(scenes)), 4))
    axes = fig.subplots(1, len(scenes), squeeze=False)[0]
    last = max(len(scene.boundary) for scene in scenes.values()) - 1
    for frame in range(last * moves + 1):
        snapshot, move = divmod(frame, moves)
        t = move / moves
        step = snapshot + t * t * (3 - 2 * t)  # slow near the snapshots
        for ax, (name, scene) in zip(axes, scenes.items(), strict=True):
            ax.clear()
            draw_plane(ax, scene, step, window(scene), classes)
            steps = len(scene.boundary) - 1
            nearest = min(round(step), steps)
            progress = f", inner step {nearest} of {steps}" if steps else ""
            ax.set(xlabel=AXIS_1, ylabel=AXIS_2, title=f"{name}{progress}: {accuracy_text(scene, nearest)}")
        if not frame:
            add_legend(fig, scenes.values())
        yield fig, (80 if move else 2000 if snapshot == last else 900)


def draw_plane(ax: Axes, scene: Scene, step: float, xlim: tuple[float, float], classes: tuple[str, str]) -> None:
    """Draw the points, the boundary and the coloured sides, at a snapshot or between two."""
    points, boundary = interpolate(scene, step)
    crowd = max(1.0, len(scene.side["support"]) / 4)  # many training points are drawn smaller
    for role, name in ROLE_NAMES.items():
        for side, colour in enumerate(CLASS_COLOURS):
            look = {"edgecolors": colour, "facecolors": colour, "marker": MARKS[side]} | ROLES[role]
            look["s"] /= crowd**0.5 if role == "support" else 1
            ax.scatter(*points[role][scene.side[role] == side].T, label=f"{name}, {classes[side]}", **look)
    ax.axvline(boundary, color="black", linewidth=1, linestyle="--", zorder=1.5, label="decision boundary")
    for colour, edge in zip(CLASS_COLOURS, reversed(xlim), strict=True):
        ax.axvspan(boundary, edge, color=colour, alpha=0.07, linewidth=0)
    ax.set(xlim=xlim, ylim=(-1.12, 1.12), yticks=[])
    ax.locator_params(axis="x", nbins=4)


def interpolate(scene: Scene, step: float) -> tuple[dict[str, np.ndarray], float]:
    """Return the points [R,2] by role and the boundary, at a snapshot or on the straight line between two."""
    last = len(scene.boundary) - 1
    low, high = min(int(step), last), min(int(step) + 1, last)
    t = step - int(step)
    points = {role: (1 - t) * p[low] + t * p[high] for role, p in scene.points.items()}
    return points, (1 - t) * scene.boundary[low] + t * scene.boundary[high]


def window(scene: Scene, snapshots: slice = slice(None)) -> tuple[float, float]:
    """Return the range of axis 1 that contains every point and boundary of these snapshots."""
    along = [points[snapshots, :, 0].ravel() for points in scene.points.values()]
    values = np.concatenate([*along, scene.boundary[snapshots]])
    margin = 0.07 * (np.ptp(values) or 1)
    return float(values.min() - margin), float(values.max() + margin)


def accuracy_text(scene: Scene, snapshot: int) -> str:
    return f"{100 * scene.accuracy[snapshot]:.0f} % correct"


def add_legend(fig: Figure, scenes: Iterable[Scene]) -> None:
    """Add a legend of the marks; it names perturbed copies only if a scene has some."""
    copies = any(scene.points["copies"].size for scene in scenes)
    entries = zip(*fig.axes[0].get_legend_handles_labels(), strict=True)
    shown = {label: handle for handle, label in entries if copies or not label.startswith(ROLE_NAMES["copies"])}
    fig.legend(shown.values(), shown, loc="outside lower center", ncol=4)
