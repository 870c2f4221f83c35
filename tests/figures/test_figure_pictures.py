"""Pictures as bytes."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageSequence

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


def test_an_animation_shows_its_frames_in_order_each_for_its_time():
    """A black bar that moves in one figure, as the animations of this program do."""
    places, times = (0.2, 0.8, 0.4, 0.6), (80, 200, 900, 120)
    fig = Figure((1, 1))
    bar = fig.add_artist(Rectangle((0, 0), 0.1, 1, color="black"))

    def frames():
        for place, time in zip(places, times, strict=True):
            bar.set_x(place - 0.05)
            yield fig, time

    with Image.open(io.BytesIO(pictures.animation(frames(), 40))) as gif:
        shown = [(np.asarray(frame.convert("L")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    assert [time for _, time in shown] == [*times]
    middles = [np.flatnonzero(pixels[20] < 128).mean() / 40 for pixels, _ in shown]
    np.testing.assert_allclose(middles, places, atol=0.03)


def test_a_png_with_too_many_pixels_is_refused():
    with pytest.raises(errors.UserError, match="--dpi 1200 makes a figure of 72000 x 1200 pixels"):
        pictures.still(Figure((60, 1)), "png", 1200)
