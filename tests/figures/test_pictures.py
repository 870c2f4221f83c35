"""The pictures' bytes."""

import pytest
from matplotlib.figure import Figure

import errors
from figures import boundary, geometry, pictures
from left_runs import fake_export


def test_the_same_seed_gives_the_same_bytes():
    def drawn():
        scene = geometry.scene(fake_export(), 1, (0, 1), 0)
        fig = boundary.by_task({"a": {1: scene}}, ("A", "B"))
        files = [pictures.still(fig, kind, 40) for kind in ("png", "pdf", "svg")]
        return [*files, pictures.animation(boundary.frames({"a": scene}, ("A", "B"), moves=1), 40)]

    assert drawn() == drawn()


def test_a_png_with_too_many_pixels_is_refused():
    with pytest.raises(errors.UserError, match="--dpi 1200 makes a figure of 72000 x 1200 pixels"):
        pictures.still(Figure((60, 1)), "png", 1200)
