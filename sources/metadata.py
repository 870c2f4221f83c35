"""Remove the parts of a picture file that affect no pixel, before Pillow reads it: texts, previews, colour profiles and
EXIF may be huge or broken, and Pillow would then refuse the whole picture.
"""

from __future__ import annotations

import re
import zlib

PNG = b"\x89PNG\r\n\x1a\n"  # its first bytes
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # a PNG's chunks that decide pixels
GREY_ALPHA, RGBA = 4, 6  # a PNG's colour types
CHANNELS = {0: 1, 2: 3, GREY_ALPHA: 2, RGBA: 4}  # colour type -> channels, except for palettes
JPEG = b"\xff\xd8\xff"
EXIF = b"Exif\0\0"
CODESTREAM = b"\xff\x4f\xff\x51"  # in a JPEG 2000, the bytes before the description of its samples
JPEG2000 = (b"\0\0\0\x0cjP  ", CODESTREAM)
HEVC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # brands of HEIC
NO_HEIC = "is HEIC, which Pillow does not read: save it as JPEG"


class UnreadableKind(ValueError):
    """A picture is whole but of a kind that is not read. Its message continues a sentence that starts with the file."""


def strip_metadata(content: bytes) -> tuple[bytes, dict]:
    """Return the file without the parts that affect no pixel, and facts that Pillow does not give: "exif", and those
    that `to_eight_bits` needs. Raises an exception of any type if the file is cut short or damaged."""
    if content.startswith(PNG):
        return _strip_png(content)
    if content.startswith(JPEG):
        return _strip_jpeg(content)
    if content.startswith(JPEG2000):
        return content, {"depth": (content[content.index(CODESTREAM) + 42] & 0x7F) + 1}
    if content[4:8] == b"ftyp" and content[8:12] in HEVC:  # some phones name it .jpg
        raise UnreadableKind(NO_HEIC)
    if content[4:8] == b"ftyp":  # AVIF stores its rotation elsewhere, and readers have to ignore that in EXIF
        return re.sub(rb"(infe[\x02\x03].{7,9}?)Exif", rb"\1skip", content, flags=re.DOTALL), {}
    return content, {}


def _strip_png(content: bytes) -> tuple[bytes, dict]:
    """Return the PNG's chunks that decide pixels, and its facts: "exif", "depth" (bits per channel), "sbit"
    (significant bits of each channel), "transparency" (a grey level), and "pairs", True if the four bytes of a pixel
    are two channels of 16 bits. Raise ValueError if it is cut short or damaged."""
    kept, facts, at, kind, depth, colour = [content[:8]], {"exif": b""}, 8, b"", 0, None
    while kind != b"IEND":
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        chunk = content[at : at + 12 + length]
        at += 12 + length
        if at > len(content):
            raise ValueError("its end is missing")
        data = chunk[8:-4]
        if kind in (*PIXEL_CHUNKS, b"sBIT") and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"a checksum of {kind.decode()} is wrong")
        if kind == b"IHDR":
            depth, colour = data[8:10]
            facts["depth"] = depth
            if (depth, colour) == (16, GREY_ALPHA):  # Pillow reads RGBA of 8 bits instead: as many bytes per pixel
                facts["pairs"] = True
                chunk = chunk[:16] + bytes((8, RGBA)) + chunk[18:-4]
                chunk += zlib.crc32(chunk[4:]).to_bytes(4, "big")
        if kind == b"tRNS" and colour == 0 and depth < 8:  # Pillow scales the pixels, but not always this level
            facts["transparency"] = data[-1] % (1 << depth) * (255 // ((1 << depth) - 1))
        if kind == b"sBIT" and length == CHANNELS.get(colour) and all(0 < count <= depth for count in data):
            facts["sbit"] = tuple(data)
        if kind == b"eXIf":
            facts["exif"] = data
        if kind in PIXEL_CHUNKS:
            kept.append(chunk)
    return b"".join(kept), facts


def _strip_jpeg(content: bytes) -> tuple[bytes, dict]:
    """Return the JPEG without comments and applications' segments, except the segments that decide its colours; and
    its EXIF."""
    kept, exif, at = [content[:2]], b"", 2
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xFF:  # a filler
            at += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA:  # not a segment, or the pixels
            break
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xE1 and content.startswith(EXIF, at + 4):
            exif = exif or content[at + 4 : end]
        if marker in (0xE0, 0xEE) or marker < 0xE0:
            kept.append(content[at:end])
        at = end
    return b"".join(kept) + content[at:], {"exif": exif}
