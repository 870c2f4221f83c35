"""What is drawn of a scene: every point in its class's colour, at its step."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from figures import boundary, geometry
from left_runs import STEPS, fake_export


def test_many_training_points_are_drawn_smaller():
    sizes = []
    for shot in (1, 10):
        scene = geometry.scene(fake_export(shot=shot), 0, (0, 1), 0)
        ax = boundary.by_step({"a": scene}, ("A", "B")).axes[0]
        (dots,) = (dots for dots in ax.collections if np.array_equal(
            dots.get_offsets(), scene.points["support"][0][scene.owner["support"] == 0]))  # fmt: skip
        sizes.append(dots.get_sizes()[0])
    assert sizes == [60, pytest.approx(60 / 5**0.5)]


def test_a_scene_is_drawn_with_each_class_in_its_colour_at_its_step():
    scene = geometry.scene(fake_export(shot=2), 1, (0, 1), 0)
    names = ("A", "B")

    def assert_panel(ax, step):
        spans = {to_rgb(patch.get_facecolor()): patch.get_extents() for patch in ax.patches}
        for which, colour in enumerate(map(to_rgb, boundary.CLASS_COLOURS)):
            shown = [dots for dots in ax.collections if to_rgb(dots.get_edgecolor()[0]) in (colour, (0, 0, 0))]
            shown = [dots for dots in shown if not len(f := dots.get_facecolor()) or to_rgb(f[0]) == colour]
            for role in ("support", "copies", "query"):
                points = scene.points[role][step][scene.owner[role] == which]
                assert any(np.array_equal(dots.get_offsets(), points) for dots in shown), (role, which)
            edges = ax.transData.inverted().transform(spans[colour])[:, 0]
            assert edges[which] == pytest.approx(scene.boundary[step])  # class A is to the right
            assert edges[1 - which] == pytest.approx(ax.get_xlim()[1 - which])
        assert ax.lines[0].get_xdata() == pytest.approx([scene.boundary[step]] * 2)
        assert f"{100 * scene.accuracy[step]:.0f} % correct" in ax.get_title()

    for step, ax in enumerate(boundary.by_step({"run": scene}, names).axes):
        assert_panel(ax, step)
        assert ax.get_title().startswith(f"step {step}:")
    assert_panel(boundary.by_task({"run": {1: scene}}, names).axes[0], STEPS)
    for frame, (fig, _) in enumerate(boundary.frames({"run": scene}, names, moves=1)):
        assert_panel(fig.axes[0], frame)
