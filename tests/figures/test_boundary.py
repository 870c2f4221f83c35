"""The points of a scene are drawn at their step, and look as the legend says of their role and class."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from figures import boundary, geometry
from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from left_runs import STEPS, fake_export
from looks import legend, legend_of, only

ROLES = {"training point": "support", "perturbed copy": "copies", "test point": "query"}
NAMES = ("class 4 (A)", "class 2 (B)")
AXIS_1, AXIS_2 = "projection on $w_A - w_B$", "t-SNE of the rest"


@pytest.fixture(autouse=True)
def no_tsne(monkeypatch):
    """Replace the slow t-SNE: axis 2 is the first number that axis 1 leaves out."""
    monkeypatch.setattr(geometry, "embed", lambda rest, seed: np.tanh(rest[..., 0]))


def a_scene(task=1, **settings) -> geometry.Scene:
    return geometry.scene(fake_export(shot=2, **settings), task, (0, 1), 0)


def test_many_training_points_are_drawn_smaller():
    sizes = []
    for shot in (1, 10):
        scene = geometry.scene(fake_export(shot=shot), 0, (0, 1), 0)
        ax = boundary.by_step({"a": scene}, NAMES).axes[0]
        sizes.append(only(ax)["training point, class 4 (A)"].get_sizes()[0])
    assert sizes == [60, pytest.approx(60 / 5**0.5)]


def assert_panel(ax, scene, step):
    """Check the points, which the legend names, the boundary and the shades at a snapshot."""
    shown = only(ax)
    roles = {name: role for name, role in ROLES.items() if scene.points[role].size}
    assert set(shown) == {f"{name}, {c}" for name in roles for c in NAMES}
    for name, role in roles.items():
        for side, c in enumerate(NAMES):
            points = scene.points[role][step][scene.side[role] == side]
            np.testing.assert_array_equal(shown[f"{name}, {c}"].get_offsets(), points)
    spans = {to_rgb(patch.get_facecolor()): patch.get_extents() for patch in ax.patches}
    for side, c in enumerate(NAMES):  # a side is shaded in its class's colour
        edges = ax.transData.inverted().transform(spans[to_rgb(legend(ax.figure)[f"training point, {c}"].fill)])[:, 0]
        assert edges[side] == pytest.approx(scene.boundary[step])  # class A is to the right
        assert edges[1 - side] == pytest.approx(ax.get_xlim()[1 - side])
    (line,) = ax.lines
    assert line.get_xdata() == pytest.approx([scene.boundary[step]] * 2)
    named = legend(ax.figure)["decision boundary"]
    assert (named.line, named.marker) == (line.get_linestyle(), "none")
    assert f"{100 * scene.accuracy[step]:.0f} % correct" in ax.get_title()


def test_points_are_what_the_legend_says_at_the_step_of_the_title():
    """Two runs, one without a perturbation."""
    scenes = {"first run": a_scene(), "other run": a_scene(model="maml", seed=5)}
    axes = np.reshape(boundary.by_step(scenes, NAMES).axes, (2, STEPS + 1))
    for row, (name, scene) in zip(axes, scenes.items(), strict=True):
        assert [ax.get_ylabel() for ax in row] == [f"{name}\n{AXIS_2}", "", ""]
        for step, ax in enumerate(row):
            assert_panel(ax, scene, step)
            assert ax.get_title().startswith(f"step {step}:")
    assert [ax.get_xlabel() for ax in axes.ravel()] == 3 * [""] + 3 * [AXIS_1]


def test_the_panels_of_tasks_have_their_titles_and_rows_their_runs():
    scenes = {name: {task: a_scene(task, seed=seed) for task in (1, 0)} for seed, name in enumerate(("one", "other"))}
    axes = np.reshape(boundary.by_task(scenes, NAMES).axes, (2, 2))
    for row, (name, by_task) in zip(axes, scenes.items(), strict=True):
        assert row[0].get_ylabel() == f"{name}\n{AXIS_2}"
        for ax, (task, scene) in zip(row, by_task.items(), strict=True):
            assert_panel(ax, scene, STEPS)
            assert ax.get_title().startswith(f"task {task}:")


def test_each_frame_is_the_step_of_its_title():
    scenes = {"one": a_scene(), "other": a_scene(seed=7)}
    for frame, (fig, _) in enumerate(boundary.frames(scenes, NAMES, moves=1)):
        for ax, (name, scene) in zip(fig.axes, scenes.items(), strict=True):
            assert_panel(ax, scene, frame)
            assert ax.get_title().startswith(f"{name}, inner step {frame} of {STEPS}:")
            assert (ax.get_xlabel(), ax.get_ylabel()) == (AXIS_1, AXIS_2)


def test_a_run_with_fewer_steps_stays_at_its_last_one():
    """A learner without inner steps has one snapshot, whose title names no step."""
    whole, none = a_scene(), a_scene(seed=7)
    points = {role: values[-1:] for role, values in none.points.items()}
    none = geometry.Scene(points, none.side, none.boundary[-1:], none.accuracy[-1:])
    for fig, _ in boundary.frames({"whole": whole, "none": none}, NAMES, moves=2):
        assert_panel(fig.axes[1], none, 0)
        assert fig.axes[1].get_title().startswith("none: ")
    axes = np.reshape(boundary.by_step({"whole": whole, "none": none}, NAMES).axes, (2, STEPS + 1))
    assert_panel(axes[1, 0], none, 0)
    assert "step" not in axes[1, 0].get_title() and not any(ax.axison for ax in axes[1, 1:])


def test_the_legends_marks_are_of_the_size_of_the_points():
    fig = boundary.by_step({"a": geometry.scene(fake_export(), 0, (0, 1), 0)}, NAMES)
    shown = only(fig.axes[0])
    for text, handle in zip(legend_of(fig).get_texts(), legend_of(fig).legend_handles, strict=True):
        if text.get_text() in shown:
            assert handle.get_sizes()[0] == pytest.approx(shown[text.get_text()].get_sizes()[0])


def test_without_copies_the_legend_names_none():
    fig = boundary.by_step({"a": a_scene(model="maml")}, NAMES)
    assert list(legend(fig)) == [f"{name}, {c}" for name in ("training point", "test point") for c in NAMES] + [
        "decision boundary"
    ]


def test_captions_name_the_task_and_the_classes_are_the_pair(monkeypatch):
    asked, run = [], Run(None, {}, "a")
    run.__dict__["export"] = fake_export(way=3)
    section = Section("Decision boundaries", ["png"], 40)
    for name in ("by_task", "by_step", "frames"):
        monkeypatch.setattr(boundary, name, lambda *args, name=name: (name, *args))
    monkeypatch.setattr(section, "add", lambda *args: asked.append(args))
    monkeypatch.setattr(section, "add_animation", lambda *args: asked.append(args))
    boundary.draw([run], section, Selection(tasks=(1, 0), classes=(2, 0)), lambda *_: None)
    [(name, caption, (_, scenes, classes)), *by_task] = asked
    assert name == "boundary_tasks" and "After adaptation" in caption and list(scenes["a"]) == [1, 0]
    assert classes == ("class 2 (A)", "class 0 (B)")
    for (name, caption, (_, own, names)), (task, end) in zip(
        by_task, [(task, end) for task in (1, 0) for end in ("", "_steps")], strict=True
    ):
        assert name == f"boundary_task{task}{end}" and caption.startswith(f"Task {task}")
        wanted = geometry.scene(run.export, task, (2, 0), 0)
        np.testing.assert_array_equal(own["a"].points["query"], wanted.points["query"])
        assert names == classes
