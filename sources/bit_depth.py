"""Convert pictures to 8 bits per channel, if they are stored with more, or if not all stored bits are significant.
The range of their numbers is read from the file; if the file does not say it, the picture is refused.

Pillow keeps the high bytes of 16-bit colours, so that 12 bits in 16 come out nearly black; it does not know the range
of other deep pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from sources.metadata import UnreadableKind

BLOCK = 1 << 20  # numbers that are converted at a time, because that takes several times their memory
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # a TIFF's tags
MAX_SAMPLE, S_MIN_SAMPLE, S_MAX_SAMPLE = 281, 340, 341
WHITE_IS_ZERO, SEPARATE, UNSIGNED, FLOAT = 0, 2, 1, 3  # their values


class UnknownRange(UnreadableKind):
    """The file does not say which of a picture's numbers is white."""

    def __init__(self, numbers: str):
        super().__init__(
            f"has {numbers}, and does not say which number is white: save it with 8 bits per channel, scaled so that 0 "
            f"is black and 255 is white"
        )


def to_eight_bits(image: Image.Image, reopen: Callable[[], Image.Image] | None = None) -> Image.Image:
    """Decode the image to a mode of 8 bits per channel. reopen: a function that opens the image's file again.

    UnknownRange if the range of its numbers is unknown.
    """
    if image.info.get("pairs"):
        both = np.asarray(image)
        return _scale_levels(image, both[..., ::2].astype(np.uint16) << 8 | both[..., 1::2], "LA")
    layout = image.tile[0][3] if getattr(image, "tile", ()) else ""
    raw = str(layout[0] if isinstance(layout, tuple) else layout)  # Pillow's name for the order of the file's bytes
    if image.format == "TIFF" and len(image.getbands()) > 1 and _tag(image, PLANAR) == SEPARATE and _bits(image) > 8:
        raise UnreadableKind("has more than 8 bits per channel in separate planes: save it with 8 bits, or interleaved")
    if reopen and len(image.getbands()) > 1 and raw[-4:-1] == ";16":
        return _scale_levels(image, *_deep_colours(image, reopen(), raw))
    if image.mode.startswith("I;16"):
        return _scale_levels(image, np.asarray(image).astype(np.uint16, copy=False), "L")
    if image.mode in ("I", "F"):
        return _scale_numbers(image)
    image.load()
    if image.format == "JPEG2000" and image.info.get("depth") == 16 and 0 < np.asarray(image).max() < 16:
        raise UnknownRange("16-bit numbers that are all below 4096")
    if image.mode in ("L", "LA", "RGB", "RGBA") and image.info.get("depth") == 8 > min(image.info.get("sbit", [8])):
        return _scale_levels(image, np.asarray(image), image.mode)
    return image


def _deep_colours(image: Image.Image, twin: Image.Image, raw: str) -> tuple[np.ndarray, str]:
    """Return all 16 bits of a picture's channels [H,W,C], and their mode.

    Pillow unpacks only one byte: the high byte with the file's byte order, the low byte with the other order.
    """
    order = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    premultiplied = raw.startswith("RGBa")  # Pillow would divide each byte by alpha, which needs all 16 bits
    for one, ending in ((image, raw[-1]), (twin, order)):
        name = f"{'RGBA' if premultiplied else raw[:-4]};16{ending}"
        one.tile = [
            tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name) for tile in one.tile
        ]
    levels = np.asarray(image).astype(np.uint16) << 8
    levels |= np.asarray(twin)
    return levels, "RGBa" if premultiplied else image.mode


def _scale_levels(image: Image.Image, levels: np.ndarray, mode: str) -> Image.Image:
    """Scale whole numbers of 8 or 16 bits, [H,W] or [H,W,C], to 8 bits."""
    depth, flat = 8 * levels.itemsize, levels.reshape(levels.shape[0] * levels.shape[1], -1)
    channels = np.arange(flat.shape[1])
    present = np.zeros((len(channels), 1 << depth), bool)  # which numbers occur in each channel
    for (block,) in _blocks(flat):
        present[channels, block] = True
    colours = len(channels) - (mode in ("LA", "RGBA", "RGBa"))  # the others: alpha
    bits = image.info.get("sbit", ())
    whites = _white_levels(image, present[:colours], depth, bits[:colours])
    whites += _white_levels(image, present[colours:], depth, bits[colours:])
    return _scale(image, flat, 0, np.array(whites), mode)


def _scale(image: Image.Image, numbers: np.ndarray, black: float, white: np.ndarray | float, mode: str) -> Image.Image:
    """Make an image of this mode from numbers [H*W,C], scaled from [black, white] to 0..255."""
    out = np.empty(numbers.shape, np.uint8)
    for block, scaled in _blocks(numbers, out):
        scaled[:] = np.rint(np.minimum((block.astype(np.float64) - black) / (white - black), 1) * 255)
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        out = 255 - out
    if (key := image.info.get("transparency")) is not None:
        out = np.column_stack([out, np.where((numbers == key).all(-1), 0, 255).astype(np.uint8)])
        mode += "A"
    scaled = Image.frombytes(mode, image.size, out.tobytes())
    if "exif" in image.info:  # it says which way is up
        scaled.info["exif"] = image.info["exif"]
    return scaled


def _blocks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Split arrays of one shape along their first axis into blocks of about BLOCK numbers."""
    return zip(*(np.array_split(array, array.size // BLOCK + 1) for array in arrays), strict=True)


def _white_levels(image: Image.Image, present: np.ndarray, depth: int, bits: tuple[int, ...]) -> list[int]:
    """Return the number that is white in each channel; the channels are all colours, or all alpha. present [C,number]:
    True if a channel has this number, of `depth` bits. bits: the significant bits per channel, if a PNG says them."""
    top = (1 << depth) - 1
    numbers = np.flatnonzero(present.any(0))
    if not numbers.size:  # no channels
        return []
    if bits:
        by_channel = [(np.flatnonzero(row), count) for row, count in zip(present, bits, strict=True)]
        fit = all(numbers[-1] < 1 << count for numbers, count in by_channel)
        unscaled = fit and not all(_are_scaled(numbers, depth, count) for numbers, count in by_channel)
        return [(1 << count) - 1 if unscaled else top for count in bits]
    if image.format == "TIFF" and (declared := _declared_range(image, 0, int(numbers[-1]))):
        return [declared[1]] * len(present)
    scaled = image.format == "JPEG2000" and image.info.get("depth", depth) < depth  # by Pillow
    if not scaled and 0 < numbers[-1] < 1 << (depth - 4):
        raise UnknownRange(f"{depth}-bit numbers that are all below {1 << (depth - 4)}")
    return [top] * len(present)


def _are_scaled(numbers: np.ndarray, depth: int, count: int) -> bool:
    """True if numbers of `count` bits are scaled or shifted to `depth` bits. PNG's standard demands it; not all
    programs do it."""
    few, top = (1 << count) - 1, (1 << depth) - 1
    scaled = np.rint(np.rint(numbers * (few / top)) * (top / few))
    return bool((scaled == numbers).all() or (numbers % (1 << (depth - count)) == 0).all())


def _scale_numbers(image: Image.Image) -> Image.Image:
    """Scale an image of whole numbers of 32 bits, or of floats, to 8 bits."""
    bits, kind = (_bits(image), _tag(image, SAMPLE_FORMAT) or UNSIGNED) if image.format == "TIFF" else (32, None)
    numbers = np.asarray(image)
    if kind == UNSIGNED:
        numbers = numbers.view(np.uint32)
    if not np.isfinite(numbers).all():
        raise UnknownRange("numbers that are infinite or NaN")
    smallest, largest = numbers.min(), numbers.max()
    if image.format == "PPM" and image.mode == "I":  # Pillow has scaled it to 16 bits, from the maximum in its header
        black, white = 0, 65535
    elif declared := _declared_range(image, smallest, largest) if kind else None:
        black, white = declared
    elif kind == UNSIGNED and not 0 < largest < 1 << (bits - 4):
        black, white = 0, (1 << bits) - 1
    else:
        raise UnknownRange(f"{'floats' if image.mode == 'F' else 'numbers'} of {bits} bits")
    return _scale(image, numbers.reshape(-1, 1), black, float(white), "L")


def _declared_range(image: Image.Image, smallest: float, largest: float) -> tuple[float, float] | None:
    """Return (black, white) as a TIFF declares them, or None. A declared maximum that is a whole number other than
    2^n - 1 is ignored, because it is the largest number that occurs rather than white. A range that the
    picture's numbers exceed is ignored, too."""
    bits, kind = _bits(image), _tag(image, SAMPLE_FORMAT) or UNSIGNED
    black, white = _tag(image, S_MIN_SAMPLE) or 0, _tag(image, S_MAX_SAMPLE)
    if kind != FLOAT:
        white = _tag(image, MAX_SAMPLE) if white is None else white
        white = white if white in [(1 << count) - 1 for count in range(1, bits + 1)] else None
        black = black if white and black == -white - 1 else 0
        if kind == UNSIGNED and bits not in (16, 32):  # Pillow has left 12 bits as they are
            white = (1 << bits) - 1
    return (black, white) if white is not None and black <= smallest and largest <= white and black < white else None


def _bits(image: Image.Image) -> int:
    return int(_tag(image, BITS) or 1)


def _tag(image: Image.Image, number: int) -> float | None:
    """Return the number in a TIFF's tag; the first, if there are several."""
    value = getattr(image, "tag_v2", {}).get(number)
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int | float) else None
