"""A drawn figure, or the frames of an animation, as the bytes of a picture file."""

import io
from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from errors import UserError

PNG_LIMIT = 2**16  # matplotlib makes no png that is as wide or as high as this, in pixels
COLOURS = 255  # of a gif, taken from its first frame; the last of the 256 places is for white


def still(fig: Figure, kind: str, dpi: int) -> bytes:
    """The figure as png, pdf or svg; the same figure gives the same bytes.

    UserError: it has more pixels than a png can have.
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
    """A GIF that repeats for ever, from (figure, milliseconds) of each frame, all in the colours of the first.

    The frames may be one figure that changes: it is laid out once, so that nothing jumps from frame to frame.
    """
    images, durations, palette = [], [], None
    for fig, milliseconds in frames:
        if palette is None:
            lay_out(fig, dpi)
        pixels = rendered(fig)
        if palette is None:
            palette = palette_with_white(pixels)
        images.append(indexed(pixels, palette))
        durations.append(milliseconds)
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)
    return file.getvalue()


def lay_out(fig: Figure, dpi: int) -> None:
    """Find the places of all parts of the figure at this resolution, and fix them."""
    fig.set_dpi(dpi)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")


def rendered(fig: Figure) -> np.ndarray:
    """The figure's pixels [H,W,3], uint8."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def palette_with_white(pixels: np.ndarray) -> Image.Image:
    """An image whose palette has the colours that suit these pixels, and white as its last."""
    image = Image.fromarray(pixels).quantize(COLOURS)
    colours = image.getpalette()[: 3 * COLOURS]  # fewer, where the pixels have fewer
    image.putpalette([*colours, *(3 * COLOURS - len(colours)) * [0], 255, 255, 255])
    return image


def indexed(pixels: np.ndarray, palette: Image.Image) -> Image.Image:
    """The pixels in the palette's colours; white stays white, where Pillow would take the next grey."""
    image = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    image.paste(COLOURS, mask=Image.fromarray((pixels == 255).all(-1)))
    return image
