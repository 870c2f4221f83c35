"""The one reader of pictures: which files are pictures, and how a file becomes an upright, opaque picture of 8 bits.

get_data.py, the classifier, --mode classify and the page to draw on read pictures with it, so that each of them takes
and refuses the same files. A file's ending says whether it is meant as a picture, its content says of which format.
"""

from __future__ import annotations

import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TypeAlias

from PIL import Image
from tqdm import tqdm

from errors import UserError
from sources.bit_depth import eight_bits
from sources.metadata import NO_HEIC, UnreadableKind, essence

# No PostScript and no WMF, which are programs; of GIF, TIFF and the like the first picture.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
HEIC = {".heic", ".heif", ".hif"}  # photos of some phones
LARGEST = 256 << 20  # bytes of a file
PIXELS = 1 << 28  # of a picture; phones have 200 million
MANY = 1 << 26  # a JPEG of more pixels is decoded at a half, a quarter or an eighth of its size, as far as
SIDE = 4096  # its sides stay as long as the largest image of a dataset
NAMED = 5  # how many of many files a sentence names
PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA"}
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)  # of the paper, which is seen where a picture is transparent
Paper: TypeAlias = "tuple[int, int, int, int]"
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
LOCK = threading.Lock()  # around Pillow's settings, which belong to the process; and memory holds one picture


class BadPicture(UserError):
    """A picture cannot be read. args: its file; and, as the rest of a sentence, what is wrong and what to do."""

    def __str__(self) -> str:
        return " ".join(self.args)


# ---- which files are pictures


@cache
def endings() -> frozenset[str]:
    """The endings of pictures' names, in lower case."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)


def is_picture_name(path: Path) -> bool:
    """True if the name has a picture's ending."""
    return path.suffix.lower() in endings()


def is_picture(path: Path) -> bool:
    """True if the name has a picture's ending, or has none and the file is a picture."""
    return is_picture_name(path) or (not path.suffix and _is_identified(path))


def _is_identified(path: Path) -> bool:
    try:
        content = _content(path)
        with _guarded(str(path), content):
            _opened(content, FORMATS).close()
    except BadPicture:
        return False
    return True


def note_on_others(files: Sequence[Path]) -> str:
    """A note on files that are no pictures: how many there are, and the first of them."""
    heic = [file for file in files if file.suffix.lower() in HEIC]
    others = [file for file in files if file.suffix.lower() not in HEIC]
    remedy = "; Pillow does not read HEIC: save it as JPEG" if heic else ""
    count = f"{len(files)} {plural(files, 'file')}"
    return f"note: skipped {count} of a kind that is not read: {listed(heic + others)}{remedy}"


def report(faults: Sequence[BadPicture]) -> str:
    """Say how many pictures cannot be read, and why the first of them cannot."""
    return f"{len(faults)} {plural(faults, 'picture')} cannot be read: {listed(faults, '; ')}"


def plural(things: Sequence, noun: str) -> str:
    return noun if len(things) == 1 else f"{noun}s"


def listed(things: Sequence, separator: str = ", ") -> str:
    """Join the first NAMED of these, and say how many more there are; on one line, in printable characters."""
    shown = [text if (text := str(one)).isprintable() else ascii(text) for one in things[:NAMED]]
    return separator.join(shown) + (f" and {len(things) - NAMED} more" if len(things) > NAMED else "")


def readable(files: Iterable[Path], skip_bad: bool) -> tuple[list[Path], list[BadPicture]]:
    """Decode each file -> those that can be read, and why the others cannot. UserError, where some cannot and
    skip_bad is not set."""
    good, bad = [], []
    for file in tqdm(files, desc="check", unit="picture", disable=None, leave=False):
        try:
            read(file)
        except BadPicture as fault:
            bad.append(fault)
        else:
            good.append(file)
    if bad and not skip_bad:
        raise UserError(refusal(bad))
    return good, bad


def refusal(faults: Sequence[BadPicture]) -> str:
    """The sentence that refuses these pictures."""
    return f"{report(faults)}: mend what is wrong, or leave it out with --skip_bad"


# ---- reading


def read(file: Path, paper: Paper = WHITE) -> Image.Image:
    """The picture in a file: upright, on paper where it is transparent, "L" or "RGB". BadPicture where there is none,
    and where it is cut short, damaged, too large, or of an unknown range of numbers."""
    if file.suffix.lower() in HEIC:
        raise BadPicture(str(file), NO_HEIC)
    if file.suffix and not is_picture_name(file):
        raise BadPicture(str(file), "has no ending of a picture: rename it, as to .jpg or .png")
    return decode(_content(file), str(file), paper=paper)


def decode(
    content: bytes, where: str, formats: Sequence[str] = FORMATS, pixels: int = PIXELS, paper: Paper = WHITE
) -> Image.Image:
    """The picture in a file's content, as `read` gives it. where: its name in messages. pixels: at most so many."""
    with _guarded(where, content):
        image = _opened(content, formats)
        width, height = image.size
        if width * height > pixels:
            size = f"{width * height / 1e6:.1f} megapixels ({width} x {height})"
            raise BadPicture(where, f"has {size}, more than {pixels / 1e6:.1f}: save a smaller one")
        if image.format == "JPEG" and width * height > MANY:
            image.draft(None, (SIDE, SIDE))
        return _upright(eight_bits(image, lambda: _opened(content, formats)), paper)


def from_pillow(image: Image.Image, where: str = "a picture", paper: Paper = WHITE) -> Image.Image:
    """Make an image of Pillow's what `read` gives. One that was opened, and not decoded yet, is read anew from its
    file, because Pillow keeps too little of it. BadPicture as in `read`."""
    content = b""
    with _guarded(where):
        stream = getattr(image, "fp", None)
        if stream and image.tile and image.format in FORMATS and image.tell() == 0:
            place = stream.tell()
            stream.seek(0)
            content = stream.read()
            stream.seek(place)
        else:
            image = _upright(eight_bits(image), paper)
    return decode(content, where, paper=paper) if content else image


def _content(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device read without end
            raise BadPicture(str(file), "is no regular file: take it away")
        if status.st_size > LARGEST:
            raise BadPicture(str(file), f"has more than {LARGEST >> 20} MiB: save a smaller one")
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as fault:
        raise BadPicture(str(file), f"cannot be read ({fault.strerror})") from fault
    if not content:
        raise BadPicture(str(file), "is empty: get it again")
    return content


@contextmanager
def _silenced() -> Iterator[None]:
    """Discard what libtiff writes to the process' standard error about the faults of a file."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _guarded(where: str, content: bytes = b"") -> Iterator[None]:
    """Turn whatever Pillow raises into a BadPicture, and show no warning. content: the bytes that are decoded."""
    with LOCK, warnings.catch_warnings(), _silenced() if content[:2] in (b"II", b"MM") else nullcontext():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `decode` has a limit of its own
        try:
            yield
        except BadPicture:
            raise
        except UnreadableKind as fault:
            raise BadPicture(where, f"{fault}") from None
        except Image.UnidentifiedImageError:
            raise BadPicture(where, "is damaged, or of a kind that is not read: save it as JPEG or PNG") from None
        except MemoryError:
            raise BadPicture(where, "takes more memory than there is, or is damaged: save a smaller one") from None
        except Exception as fault:  # Pillow raises many kinds, OSError to SyntaxError
            reason = " ".join(str(fault).split())[:100] or type(fault).__name__
            raise BadPicture(where, f"is cut short or damaged ({reason}): get it again") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _opened(content: bytes, formats: Sequence[str]) -> Image.Image:
    """Pillow's image of the content, not decoded yet; its info has the facts of `essence`."""
    content, facts = essence(content)
    image = Image.open(io.BytesIO(content), formats=[kind for kind in formats if kind in _openers()])
    image.info |= facts
    image.info.pop("xmp", None)  # Pillow looks for a turn in it
    if image.format == "TIFF" and _area(image.tile) < math.prod(image.size):
        raise ValueError("pixels are missing")
    return image


def _area(tiles: Sequence[tuple]) -> int:
    """Count the pixels that these parts of a picture cover."""
    return sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in tiles)


@cache
def _openers() -> frozenset[str]:
    Image.init()
    return frozenset(Image.OPEN)


def _upright(image: Image.Image, paper: Paper) -> Image.Image:
    """Put it on paper where it is transparent, make it "L" or "RGB", and turn it as EXIF says."""
    turn = TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode in PLAIN:
        image = image.convert(PLAIN[image.mode])
    if image.mode == "LAB":
        raise UnreadableKind("has colours of the kind LAB, which Pillow does not convert: save it as RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if type(image) is not Image.Image or image.info:  # let go of the file, and of what is done
        image = image.copy()
        image.info = {}
    return image


def _orientation(image: Image.Image) -> object:
    """EXIF's orientation, a number; None where EXIF is missing or broken."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:
        return None
