"""Recognize picture files, and read them as upright, opaque pictures with 8 bits per channel.

get_data.py, the classifier, --mode classify and the page to draw on all read pictures with this module, so that they
accept and refuse the same files. A file's ending decides whether it is a picture, its content decides the format.
"""

from __future__ import annotations

import base64
import io
import math
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias

from PIL import Image
from tqdm import tqdm

from errors import UserError, stderr_silenced
from sources.bit_depth import to_eight_bits
from sources.metadata import NO_HEIC, UnreadableKind, strip_metadata

# Neither PostScript nor WMF, which are programs. If a file has several pictures (GIF, TIFF, ...), the first is read.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
HEIC = {".heic", ".heif", ".hif"}  # endings of some phones' photos
LARGEST = 256 << 20  # bytes of a file
PIXELS = 1 << 28  # of a picture; phones take up to 200 million
LONGEST = 65535  # pixels of a side, as in a JPEG: resizing needs memory for the square that has the longer one
MANY = 1 << 26  # a JPEG of more pixels is decoded at 1/2, 1/4 or 1/8 of its size,
SIDE = 4096  # but its sides stay at least this long: the largest --size of get_data.py
NAMED = 5  # how many files a message names
PREFIX = "data:image/png;base64,"  # of the data URL of a PNG
PLAIN = {"1": "L", "La": "LA", "RGBa": "RGBA"}  # modes that are converted before transparency is handled
WHITE, BLACK = (255, 255, 255, 255), (0, 0, 0, 255)  # colours of the paper, which shows where a picture is transparent
Paper: TypeAlias = "tuple[int, int, int, int]"
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
LOCK = threading.Lock()  # Pillow's settings belong to the process; and memory holds one picture at a time


class BadPicture(UserError):
    """A picture cannot be read. args: its file; and the rest of the sentence: the fault and the remedy."""

    def __str__(self) -> str:
        return " ".join(self.args)


# ---- which files are pictures


def is_picture_name(path: Path) -> bool:
    """True if the name has a picture's ending."""
    return Image.registered_extensions().get(path.suffix.lower()) in FORMATS


def is_picture(path: Path) -> bool:
    """True if the name has a picture's ending, or if it has no ending and the content is a picture."""
    if path.suffix:
        return is_picture_name(path)
    try:
        content = _content(path)
        with _guarded(str(path), content):
            _opened(content, FORMATS).close()
    except BadPicture:
        return False
    return True


def note_on_others(files: Sequence[Path]) -> str:
    """Return a note on files that are not pictures: how many they are, and the first of them."""
    heic = [file for file in files if file.suffix.lower() in HEIC]
    others = [file for file in files if file.suffix.lower() not in HEIC]
    remedy = "; Pillow does not read HEIC: save it as JPEG" if heic else ""
    count = f"{len(files)} {plural(files, 'file')}"
    return f"note: skipped {count} of a kind that is not read: {first_few(heic + others)}{remedy}"


def report(faults: Sequence[BadPicture]) -> str:
    """Say how many pictures cannot be used, and why the first of them cannot."""
    return f"{len(faults)} {plural(faults, 'picture')} cannot be used: {first_few(faults, '; ')}"


def plural(things: Sequence, noun: str) -> str:
    return noun if len(things) == 1 else f"{noun}s"


def first_few(things: Sequence, separator: str = ", ") -> str:
    """Join the first NAMED things and say how many more there are, on one line, in printable characters."""
    shown = [text if (text := str(one)).isprintable() else ascii(text) for one in things[:NAMED]]
    return separator.join(shown) + (f" and {len(things) - NAMED} more" if len(things) > NAMED else "")


def readable(files: Iterable[Path], skip_bad: bool) -> tuple[list[Path], list[BadPicture]]:
    """Decode each file -> the files that can be read, and the faults of the others. Raise UserError if there are faults
    and skip_bad is not set."""
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
    """Return the message that refuses these pictures."""
    return f"{report(faults)}: repair or remove them, or leave them out with --skip_bad"


# ---- reading


def read(file: Path, paper: Paper = WHITE) -> Image.Image:
    """Read the picture in a file: upright, on paper where it is transparent, of mode "L" or "RGB". Raise BadPicture if
    it is missing, cut short, damaged, too large, or has numbers of an unknown range."""
    if file.suffix.lower() in HEIC:
        raise BadPicture(str(file), NO_HEIC)
    if file.suffix and not is_picture_name(file):
        raise BadPicture(str(file), "has no ending of a picture: rename it, for example to .jpg or .png")
    return decode(_content(file), str(file), paper=paper)


def decode(
    content: bytes, where: str, formats: Sequence[str] = FORMATS, pixels: int = PIXELS, paper: Paper = WHITE
) -> Image.Image:
    """Return the picture in a file's content as `read` does. where: its name in messages. pixels: their limit."""
    with _guarded(where, content):
        image = _opened(content, formats)
        width, height = image.size
        if width * height > pixels:
            size = f"{width * height / 1e6:.1f} megapixels ({width} x {height})"
            raise BadPicture(where, f"has {size}, more than {pixels / 1e6:.1f}: save a smaller one")
        if max(image.size) > LONGEST:
            raise BadPicture(where, f"has a side of {max(image.size):,} pixels, more than {LONGEST:,}: cut it")
        if image.format == "JPEG" and width * height > MANY:
            image.draft(None, (SIDE, SIDE))
        return _upright(to_eight_bits(image, lambda: _opened(content, formats)), paper)


def from_pillow(image: Image.Image, where: str = "a picture", paper: Paper = WHITE) -> Image.Image:
    """Convert an image of Pillow's as `read` converts a file. If it was opened but not decoded yet, its file is read
    again, because Pillow keeps too little of it. BadPicture as in `read`."""
    content = b""
    with _guarded(where):
        stream = getattr(image, "fp", None)
        if stream and image.tile and image.format in FORMATS and image.tell() == 0:
            place = stream.tell()
            stream.seek(0)
            content = stream.read()
            stream.seek(place)
        else:
            image = _upright(to_eight_bits(image), paper)
    return decode(content, where, paper=paper) if content else image


def _content(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe waits, reading a device may never end
            raise BadPicture(str(file), "is not a regular file: remove it")
        if status.st_size > LARGEST:
            raise BadPicture(str(file), f"has more than {LARGEST >> 20} MiB: save a smaller one")
        with open(file, "rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as fault:
        raise BadPicture(str(file), f"cannot be read ({fault.strerror})") from fault
    if not content:
        raise BadPicture(str(file), "is empty: get it again")
    return content


def url_of(picture: Image.Image) -> str:
    """Return the data URL of a picture, as PNG."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return PREFIX + base64.b64encode(content.getvalue()).decode()


@contextmanager
def _guarded(where: str, content: bytes = b"") -> Iterator[None]:
    """Turn every exception of Pillow's into a BadPicture, and hide warnings. content: the bytes that are decoded."""
    tiff = content[:2] in (b"II", b"MM")  # libtiff writes about damaged files to file descriptor 2
    with LOCK, warnings.catch_warnings(), stderr_silenced() if tiff else nullcontext():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # `decode` has its limit
        try:
            yield
        except BadPicture:
            raise
        except UnreadableKind as fault:
            raise BadPicture(where, f"{fault}") from None
        except Image.UnidentifiedImageError:
            raise BadPicture(where, "is damaged, or of a kind that is not read: save it as JPEG or PNG") from None
        except MemoryError:
            raise BadPicture(where, "needs more memory than there is, or is damaged: save a smaller one") from None
        except Exception as fault:  # Pillow raises many kinds, OSError to SyntaxError
            reason = " ".join(str(fault).split())[:100] or type(fault).__name__
            raise BadPicture(where, f"is cut short or damaged ({reason}): get it again") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _opened(content: bytes, formats: Sequence[str]) -> Image.Image:
    """Open the content with Pillow, without decoding it; the image's info has the facts of `strip_metadata`."""
    content, facts = strip_metadata(content)
    Image.init()
    image = Image.open(io.BytesIO(content), formats=[kind for kind in formats if kind in Image.OPEN])
    image.info |= facts
    image.info.pop("xmp", None)  # Pillow would take the orientation from it
    if image.format == "TIFF":
        covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in image.tile)
        if covered < math.prod(image.size):
            raise ValueError("pixels are missing")
    return image


def _upright(image: Image.Image, paper: Paper) -> Image.Image:
    """Turn the image as EXIF says, put it on paper where it is transparent, and convert it to "L" or "RGB"."""
    if not all(image.size):
        raise UnreadableKind("has no pixels: give another one")
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # EXIF is broken
        turn = None
    image = image if turn is None else image.transpose(turn)
    if image.mode in PLAIN:
        image = image.convert(PLAIN[image.mode])
    if image.mode == "LAB":
        raise UnreadableKind("has colours of the kind LAB, which Pillow does not convert: save it as RGB")
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getextrema()[1]:
        image = image.convert("RGB")  # some programs leave the fourth byte of a BMP's pixel unused
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    if type(image) is not Image.Image or image.info:  # keep neither the file nor facts that have been used
        image = image.copy()
        image.info = {}
    return image
