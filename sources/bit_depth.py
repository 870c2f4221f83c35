"""Pictures of more than 8 bits per channel, and of fewer significant bits than they are stored with, become pictures
of 8 bits. Where the file says the numbers' range, that is used; where it does not, the picture is refused.

Pillow keeps the high bytes of 16-bit colours, so that 12 bits in 16 come out nearly black; of other deep pictures it
does not know the range.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from sources.metadata import UnreadableKind

BLOCK = 1 << 20  # numbers that are worked on at a time
BITS, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339  # a TIFF's tags
MIN_SAMPLE, MAX_SAMPLE, S_MIN_SAMPLE, S_MAX_SAMPLE = 280, 281, 340, 341
WHITE_IS_ZERO, SEPARATE, UNSIGNED, FLOAT = 0, 2, 1, 3  # their values


class UnknownRange(UnreadableKind):
    """It is not known which of a picture's numbers is white."""

    def __init__(self, numbers: str):
        super().__init__(
            f"has {numbers}, and does not say which number is white: save it with 8 bits per channel, scaled so that 0 "
            f"is black and 255 is white"
        )


def eight_bits(image: Image.Image, again: Callable[[], Image.Image] | None = None) -> Image.Image:
    """Decode the image to a mode of 8 bits per channel. again: opens it another time, where it comes from a file.

    UnknownRange where the numbers' range is not known.
    """
    if image.info.get("pairs"):
        both = np.asarray(image)
        return _narrowed(image, both[..., ::2].astype(np.uint16) << 8 | both[..., 1::2], "LA")
    raw = _raw_mode(image)
    if image.format == "TIFF" and len(image.getbands()) > 1 and _tag(image, PLANAR) == SEPARATE and _bits(image) > 8:
        raise UnreadableKind("has more than 8 bits per channel in separate planes: save it with 8 bits, or interleaved")
    if again and len(image.getbands()) > 1 and raw[-4:-1] == ";16":
        return _narrowed(image, *_deep_colours(image, again(), raw))
    if image.mode.startswith("I;16"):
        return _narrowed(image, np.asarray(image).astype(np.uint16, copy=False), "L")
    if image.mode in ("I", "F"):
        return _stretched(image)
    image.load()
    if image.format == "JPEG2000" and image.info.get("depth") == 16 and 0 < np.asarray(image).max() < 16:
        raise UnknownRange("numbers of 16 bits that are all below 4096")
    if image.mode in ("L", "LA", "RGB", "RGBA") and image.info.get("depth") == 8 > min(image.info.get("sbit", [8])):
        return _narrowed(image, np.asarray(image), image.mode)
    return image


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of the way in which it unpacks the file's bytes; empty for an image in memory."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0]) if isinstance(arguments, tuple) else str(arguments)


def _deep_colours(image: Image.Image, twin: Image.Image, raw: str) -> tuple[np.ndarray, str]:
    """All 16 bits of a picture's channels [H,W,C], and the mode that they are of.

    Pillow unpacks the byte that is the high one in the file's order; with the other order the low one.
    """
    order = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    premultiplied = raw.startswith("RGBa")  # Pillow would divide each byte by alpha, and wants all 16 bits for that
    for one, ending in ((image, raw[-1]), (twin, order)):
        name = f"{'RGBA' if premultiplied else raw[:-4]};16{ending}"
        one.tile = [
            tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name) for tile in one.tile
        ]
    levels = np.asarray(image).astype(np.uint16) << 8
    levels |= np.asarray(twin)
    return levels, "RGBa" if premultiplied else image.mode


def _narrowed(image: Image.Image, levels: np.ndarray, mode: str) -> Image.Image:
    """Scale whole numbers of 8 or 16 bits, [H,W] or [H,W,C], to 8 bits."""
    height, width = levels.shape[:2]
    levels = levels.reshape(height, width, -1)
    channels, depth = levels.shape[-1], 8 * levels.itemsize
    present = np.zeros((channels, 1 << depth), bool)  # which numbers occur
    for rows in _blocks(levels):
        for channel, own in enumerate(present):
            own[levels[rows, :, channel]] = True
    alpha = channels - (mode in ("LA", "RGBA", "RGBa"))
    bits = image.info.get("sbit", ())
    whites = _whites(image, present[:alpha], depth, bits[:alpha])
    whites += _whites(image, present[alpha:], depth, bits[alpha:])
    tables = [np.rint(np.minimum(np.arange(1 << depth) / white, 1) * 255).astype(np.uint8) for white in whites]
    out = np.empty(levels.shape, np.uint8)
    for rows in _blocks(levels):
        for channel, table in enumerate(tables):
            out[rows, :, channel] = table[levels[rows, :, channel]]
    if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO:
        out = 255 - out
    if (key := image.info.get("transparency")) is not None:
        out = np.dstack([out, np.where((levels == key).all(-1), 0, 255).astype(np.uint8)])
        mode += "A"
    return Image.frombytes(mode, (width, height), out.tobytes())


def _blocks(levels: np.ndarray) -> Iterator[slice]:
    """Slices of a few rows each, because what is computed of a number takes more memory than the number."""
    step = max(1, BLOCK // levels[0].size)
    return (slice(start, start + step) for start in range(0, len(levels), step))


def _whites(image: Image.Image, present: np.ndarray, depth: int, bits: tuple[int, ...]) -> list[int]:
    """The number that is white in each of these channels, which are of one kind. present [C,number]: which numbers of
    `depth` bits occur. bits: how many of them count, if a PNG says so."""
    top = (1 << depth) - 1
    numbers = np.flatnonzero(present.any(0))
    if not numbers.size:  # no channels
        return []
    if bits:
        own = [(np.flatnonzero(row), count) for row, count in zip(present, bits, strict=True)]
        fit = all(numbers[-1] < 1 << count for numbers, count in own)
        unscaled = fit and not all(_are_scaled(numbers, depth, count) for numbers, count in own)
        return [(1 << count) - 1 if unscaled else top for count in bits]
    if image.format == "TIFF" and (declared := _declared(image, 0, int(numbers[-1]))):
        return [declared[1]] * len(present)
    scaled = image.format == "JPEG2000" and image.info.get("depth", depth) < depth  # by Pillow
    if not scaled and 0 < numbers[-1] < 1 << (depth - 4):
        raise UnknownRange(f"numbers of {depth} bits that are all below {1 << (depth - 4)}")
    return [top] * len(present)


def _are_scaled(numbers: np.ndarray, depth: int, count: int) -> bool:
    """True if numbers of `count` bits are scaled, or shifted, to `depth` bits, as PNG demands; some programs do not."""
    few, top = (1 << count) - 1, (1 << depth) - 1
    scaled = np.rint(np.rint(numbers * (few / top)) * (top / few))
    return bool((scaled == numbers).all() or (numbers % (1 << (depth - count)) == 0).all())


def _stretched(image: Image.Image) -> Image.Image:
    """Scale an image of whole numbers of 32 bits, or of floats, to 8 bits."""
    bits, kind = (_bits(image), _tag(image, SAMPLE_FORMAT) or UNSIGNED) if image.format == "TIFF" else (32, None)
    what = f"{'floats' if image.mode == 'F' else 'numbers'} of {bits} bits"
    numbers = np.asarray(image)
    if kind == UNSIGNED:
        numbers = numbers.view(np.uint32)
    if not np.isfinite(numbers).all():
        raise UnknownRange("numbers that are infinite or NaN")
    smallest, largest = numbers.min(), numbers.max()
    if image.format == "PPM" and image.mode == "I":  # Pillow has scaled it to 16 bits by the largest number it declares
        black, white = 0, 65535
    elif declared := _declared(image, smallest, largest) if kind else None:
        black, white = declared
    elif kind == UNSIGNED and not 0 < largest < 1 << (bits - 4):
        black, white = 0, (1 << bits) - 1
    else:
        raise UnknownRange(what)
    out = np.empty(numbers.shape, np.uint8)
    for rows in _blocks(numbers):
        out[rows] = np.rint((numbers[rows].astype(np.float64) - black) / (float(white) - black) * 255)
    return Image.fromarray(255 - out if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO else out)


def _declared(image: Image.Image, smallest: float, largest: float) -> tuple[float, float] | None:
    """Return (black, white) as a TIFF declares them, or None. A largest whole number that is not 2^n - 1 is taken for
    the largest that occurs, and not for white; and a range that the picture's numbers exceed is ignored."""
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
