"""Reduce a picture's file to the parts that decide its pixels, before Pillow reads it. The others (texts, previews,
colour profiles, EXIF) may be immense or broken, and Pillow would then refuse the whole picture.
"""

from __future__ import annotations

import re
import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"  # its first bytes
KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # a PNG's chunks that decide pixels
GREY_ALPHA, RGBA = 4, 6  # its types of colour
CHANNELS = {0: 1, 2: 3, GREY_ALPHA: 2, RGBA: 4}  # of them, but for palettes
JPEG = b"\xff\xd8\xff"
EXIF = b"Exif\0\0"
CODESTREAM = b"\xff\x4f\xff\x51"  # begins what a JPEG 2000 says of its samples
JPEG2000 = (b"\0\0\0\x0cjP  ", CODESTREAM)
HEVC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")  # brands of HEIC
NO_HEIC = "is HEIC, which Pillow does not read: save it as JPEG"


class UnreadableKind(ValueError):
    """A picture is whole but of a kind that is not read. Its message continues a sentence that begins with the file."""


def essence(content: bytes) -> tuple[bytes, dict]:
    """Return the file without the parts that decide no pixel, and facts that Pillow does not give: "exif", and those
    that `eight_bits` asks for. Raises an exception of any kind where the file is cut short or damaged."""
    if content.startswith(PNG):
        return _png(content)
    if content.startswith(JPEG):
        return _jpeg(content)
    if content.startswith(JPEG2000):
        return content, {"depth": (content[content.index(CODESTREAM) + 42] & 0x7F) + 1}
    if content[4:8] == b"ftyp" and content[8:12] in HEVC:  # some phones call it .jpg
        raise UnreadableKind(NO_HEIC)
    if content[4:8] == b"ftyp":  # AVIF says its turn elsewhere; a reader is to ignore EXIF's
        return re.sub(rb"(infe[\x02\x03].{7,9}?)Exif", rb"\1skip", content, flags=re.DOTALL), {}
    return content, {}


def _png(content: bytes) -> tuple[bytes, dict]:
    """Return the PNG without the chunks that decide no pixel, and its facts: "exif", "sbit" (significant bits of each
    channel), and "pairs", True where a pixel's bytes are two channels of 16 bits. ValueError where it is cut short or
    damaged."""
    kept, facts, at, kind, depth, colour = [content[:8]], {"exif": b""}, 8, b"", 0, None
    while kind != b"IEND":
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        chunk = content[at : at + 12 + length]
        at += 12 + length
        if at > len(content):
            raise ValueError("its end is missing")
        if kind in (*KEPT, b"sBIT") and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"a checksum of {kind.decode()} is wrong")
        if kind == b"IHDR":
            depth, colour = chunk[16:18]
            if (depth, colour) == (16, GREY_ALPHA):  # as RGBA of 8 bits, which has as many bytes a pixel
                facts["pairs"] = True
                chunk = chunk[:16] + bytes((8, RGBA)) + chunk[18:-4]
                chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
            facts["depth"] = depth
        if kind == b"tRNS" and colour == 0 and depth < 8:  # Pillow scales the pixels, but not always this
            facts["transparency"] = chunk[-5] % (1 << depth) * (255 // ((1 << depth) - 1))
        if kind == b"sBIT" and length == CHANNELS.get(colour) and all(0 < count <= depth for count in chunk[8:-4]):
            facts["sbit"] = tuple(chunk[8:-4])
        if kind == b"eXIf":
            facts["exif"] = chunk[8:-4]
        if kind in KEPT:
            kept.append(chunk)
    return b"".join(kept), facts


def _jpeg(content: bytes) -> tuple[bytes, dict]:
    """Return the JPEG without comments and applications' segments, except those that say its colours; and its EXIF."""
    kept, exif, at = [content[:2]], b"", 2
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == 0xFF:  # a filler
            at += 1
            continue
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA:  # no segment, or the pixels
            break
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == 0xE1 and content.startswith(EXIF, at + 4):
            exif = exif or content[at + 4 : end]
        if marker in (0xE0, 0xEE) or marker < 0xE0:
            kept.append(content[at:end])
        at = end
    return b"".join(kept) + content[at:], {"exif": exif}
