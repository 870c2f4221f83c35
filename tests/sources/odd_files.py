"""Pictures written by hand: what Pillow does not write, or not so wrong."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(levels, *chunks, depth=16):
    """levels [H,W] or [H,W,C]; at a depth below 8 the rows are packed. chunks stand before the pixels."""
    levels = np.asarray(levels)
    height, width = levels.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if levels.ndim == 2 else levels.shape[2]]
    rows = levels.reshape(height, -1).astype(">u2" if depth == 16 else np.uint8)
    if depth < 8:
        bits = np.unpackbits(rows[..., None], axis=-1)[..., -depth:].reshape(height, -1)
        rows = np.packbits(bits, axis=-1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(levels, tags=(), order="<", planar=False):
    """levels [H,W] or [H,W,C]. tags: number -> (struct's letter, value), beside the usual ones, or in their place."""
    levels = np.asarray(levels)
    height, width, channels = (*levels.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    if planar:
        levels = np.moveaxis(levels, -1, 0)
    pixels = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    entries = {
        256: ("I", width), 257: ("I", height), 258: ("H", [8 * levels.itemsize] * channels), 259: ("H", 1),
        262: ("H", 2 if channels >= 3 else 1), 273: ("I", 8), 277: ("H", channels), 278: ("I", height),
        279: ("I", len(pixels)), 284: ("H", 1 + planar), 339: ("H", [kind] * channels),
    } | dict(tags)  # fmt: skip
    if planar:
        part = len(pixels) // channels
        entries |= {273: ("I", [8 + i * part for i in range(channels)]), 279: ("I", [part] * channels)}
    entries = {number: entry for number, entry in sorted(entries.items()) if entry[1] is not None}
    after = 8 + len(pixels) + 2 + 12 * len(entries) + 4
    table, extra = struct.pack(f"{order}H", len(entries)), b""
    for number, (letter, value) in entries.items():
        values = value if isinstance(value, list) else [value]
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        size = {"B": 1, "H": 3, "I": 4, "h": 8, "i": 9, "f": 11, "d": 12}[letter]
        if len(data) > 4:
            data, extra = struct.pack(f"{order}I", after + len(extra)), extra + data
        table += struct.pack(f"{order}HHI", number, size, len(values)) + data.ljust(4, b"\0")
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8 + len(pixels)) + pixels + table + struct.pack(f"{order}I", 0) + extra


def photo(width=48, height=32):
    """Smooth, so that lossy formats keep it."""
    x, y = np.linspace(0, 255, width), np.linspace(0, 255, height)
    shades = np.stack([np.tile(x, (height, 1)), np.tile(y[:, None], (1, width)), np.full((height, width), 90)], -1)
    return Image.fromarray(shades.astype(np.uint8))
