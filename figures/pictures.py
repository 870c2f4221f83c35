"""Turn a figure, or the frames of an animation, into the bytes of a picture file."""

import io
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from errors import UserError

PNG_LIMIT = 2**16  # pixels; matplotlib makes no png that is so wide or so high
COLOURS = 255  # of a gif, taken from its first frame; the last of the 256 places is for white


def still(fig: Figure, kind: str, dpi: int) -> bytes:
    """Return the figure as png, pdf or svg; the same figure gives the same bytes.

    Raise UserError if it has more pixels than a png can have.
    """
    width, height = (round(dpi * inches) for inches in fig.get_size_inches())
    if max(width, height) >= PNG_LIMIT:
        raise UserError(f"--dpi {dpi} makes a figure of {width} x {height} pixels: lower it, or draw fewer --tasks")
    file = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with matplotlib.rc_context({"svg.hashsalt": "0"}):
        fig.savefig(file, format=kind, dpi=dpi, metadata=undated.get(kind))
    return file.getvalue()


def animation(frames: Iterable[tuple[Figure, int]], dpi: int = 110) -> bytes:
    """Return a GIF that repeats for ever, with all frames in the colours of the first.

    frames: (figure, milliseconds) of each frame. One figure may change from frame to frame: the layout of the first
    frame is kept, so that nothing jumps.
    """
    images, durations = [], []
    for fig, milliseconds in frames:
        if not images:
            fig.set_dpi(dpi)
            fig.draw_without_rendering()
            fig.set_layout_engine("none")
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        if not images:
            palette = palette_with_white(pixels)
        images.append(indexed(pixels, palette))
        durations.append(milliseconds)
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return file.getvalue()


def palette_with_white(pixels: np.ndarray) -> Image.Image:
    """Return an image with a palette of colours that suit these pixels [H,W,3]; the last colour is white."""
    image = Image.fromarray(pixels).quantize(COLOURS)
    colours = image.getpalette()[: 3 * COLOURS]  # fewer, if the pixels have fewer
    image.putpalette([*colours, *(3 * COLOURS - len(colours)) * [0], 255, 255, 255])
    return image


def indexed(pixels: np.ndarray, palette: Image.Image) -> Image.Image:
    """Return the pixels in the colours of the palette. White stays white; Pillow would take the nearest grey."""
    image = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    image.paste(COLOURS, mask=Image.fromarray((pixels == 255).all(-1)))
    return image
