"""The one reader of pictures: what becomes of odd files, and the sentence that refuses the others."""

import contextlib
import io
import os
import re
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from odd_files import chunk, encoded, photo, png, tiff
from sources import pictures
from sources.pictures import BadPicture, decode

RNG = np.random.default_rng(0)
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
BROKEN = (b"Exif\0\0II*\0", b"Exif\0\0XX", b"Exif\0\0", b"Exif\0\0" + RNG.bytes(60), b"Exif\0\0II*\0\x08\0\0\0\xff\xff")


def pixels(content, **options):
    return np.asarray(decode(content, "x", **options))


def refused(content, words=None, **options):
    with pytest.raises(BadPicture, match=words) as caught:
        decode(content, "a/x.png", **options)
    assert str(caught.value).startswith("a/x.png ") and "\n" not in str(caught.value)


# ---- EXIF


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO"])
def test_broken_exif_is_ignored(kind):
    wanted = pixels(encoded(photo(), kind))
    for exif in BROKEN:
        np.testing.assert_array_equal(pixels(encoded(photo(), kind, exif=exif)), wanted)


def test_broken_exif_is_ignored_where_pillow_does_not_write_it():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    whole = encoded(photo(), "AVIF", exif=exif.tobytes())
    at = whole.index(b"MM\0*")
    np.testing.assert_array_equal(pixels(whole[:at] + b"XXXX" + whole[at + 4 :]), pixels(whole))
    shades = np.asarray(photo())
    for tags in ({34665: ("I", 7)}, {34665: ("I", 1 << 30)}, {700: ("H", [1, 2, 3])}, {34377: ("f", 1.0)}):
        for turn in (1, 6):
            got = pixels(tiff(shades, tags | {274: ("H", turn)}))
            np.testing.assert_array_equal(got, shades if turn == 1 else np.rot90(shades, -1))


def exif_of(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_a_camera_turned_on_its_side_is_turned_back(kind):
    """And only once, though Pillow does some of them on its own."""
    upright = np.asarray(photo())
    for turn, undo in (
        (1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (4, np.flipud),
        (5, lambda x: np.swapaxes(x, 0, 1)), (6, np.rot90), (7, lambda x: np.swapaxes(np.rot90(x, 2), 0, 1)),
        (8, lambda x: np.rot90(x, -1)),
    ):  # fmt: skip
        stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
        options = {"lossless": True} if kind == "WEBP" else {}
        got = decode(encoded(stored, kind, exif=exif_of(turn), **options), "x")
        assert got.size == (48, 32) and not got.info, turn
        assert np.abs(np.asarray(got, int) - upright).max() < (1 if kind in ("PNG", "WEBP", "TIFF") else 40), turn
        again = pictures.from_pillow(got)
        np.testing.assert_array_equal(np.asarray(again), np.asarray(got))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_deep_picture_is_turned_as_an_ordinary_one_is(channels):
    levels = RNG.integers(0, 65536, (3, 5, channels))
    levels[0, 0] = 65535
    turned, plain = (pixels(png(levels, chunk(b"eXIf", exif_of(turn)))) for turn in (6, 1))
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    shallow = [pixels(png(levels >> 8, *facts, depth=8)) for facts in ([chunk(b"eXIf", exif_of(6))], [])]
    np.testing.assert_array_equal(shallow[0], np.rot90(shallow[1], -1))


def test_an_image_of_pillows_is_judged_as_its_file_is():
    content = png(RNG.integers(0, 4096, (5, 4, 3)), chunk(b"sBIT", bytes([12] * 3)))
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(np.asarray(pictures.from_pillow(image)), pixels(content))
        image.load()  # it can still be read by its owner
    broken = Image.open(io.BytesIO(encoded(photo(), "PNG", exif=b"Exif\0\0XX")))
    broken.load()
    np.testing.assert_array_equal(np.asarray(pictures.from_pillow(broken)), np.asarray(photo()))
    with pytest.raises(BadPicture, match="does not say which number is white"):
        pictures.from_pillow(Image.fromarray(np.zeros((2, 2), np.float32)))


# ---- files that are cut, damaged, odd


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_cut_is_found_out(kind):
    """But for a GIF without its last byte or two, whose pixels are all there."""
    content = encoded(photo(200, 100), kind)
    for cut in (1, 2, 3, 12, 54, len(content) // 2, len(content) - 20):
        if kind == "GIF" and cut < 3:
            np.testing.assert_array_equal(pixels(content[:-cut]), pixels(content))
        else:
            refused(content[:-cut], "cut short|damaged")


def test_what_decides_no_pixel_is_not_read():
    """Two megabytes of text, a text that becomes hundreds of them, and chunks with wrong checksums or contents."""
    shades = RNG.integers(0, 256, (4, 5, 3))
    bomb = zlib.compress(bytes(200 << 20), 1)
    for extra in (
        chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
        chunk(b"zTXt", b"Comment\0\0" + bomb),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        chunk(b"iCCP", b"profile\0\0" + bomb),
        chunk(b"tEXt", b"Comment\0x")[:-1] + b"\0",
        chunk(b"pHYs", b"?"),
        chunk(b"gAMA", b""),
    ):
        np.testing.assert_array_equal(pixels(png(shades, extra, depth=8)), shades)
    jpeg = encoded(photo(), "JPEG")
    for marker in (0xE1, 0xE2, 0xED, 0xFE):
        for data in (
            b"http://ns.adobe.com/xap/1.0/\0<",
            b"MPF\0II*\0",
            b"Photoshop 3.0\0008BIM\4\4",
            b"ICC_PROFILE\0\1\1",
        ):
            segment = struct.pack(">BBH", 255, marker, len(data) + 2) + data
            np.testing.assert_array_equal(pixels(jpeg[:2] + segment + jpeg[2:]), pixels(jpeg))
            np.testing.assert_array_equal(pixels(jpeg[:2] + b"\xff\xff\xff" + segment + jpeg[2:]), pixels(jpeg))


def test_a_damaged_tiff_says_nothing_else_on_standard_error(capfd):
    content = encoded(Image.fromarray(np.eye(40) > 0), "TIFF", compression="group4")
    at = content.index(struct.pack("<HHI", 273, 4, 1)) + 8
    (at,) = struct.unpack_from("<I", content, at)
    for i in range(at, at + 20):
        with contextlib.suppress(BadPicture):
            decode(content[:i] + b"\xff" + content[i + 1 :], "x")
    refused(tiff(np.zeros((4, 4), np.uint8), {277: ("I", 10**6)}))
    refused(encoded(photo(), "TIFF", compression="tiff_lzw")[:-40])
    os.write(2, b"spoken again")
    assert capfd.readouterr().err == "spoken again"


def test_what_decides_pixels_must_be_whole():
    content = png([[0, 65535]])
    at = content.index(b"IDAT") + 8
    refused(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :], "checksum of IDAT")
    refused(content.replace(chunk(b"IEND", b""), b""), "its end is missing")
    np.testing.assert_array_equal(pixels(content + b"garbage"), [[0, 255]])
    refused(tiff(np.zeros((4, 4), np.uint8), {257: ("I", 5)}), "pixels are missing")  # Pillow leaves the last row black
    refused(b"", "damaged")
    refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC, which Pillow does not read: save it as JPEG")
    refused(b"I am no picture", "of a kind that is not read: save it as")


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n",
                                     b"\xd7\xcd\xc6\x9a" + bytes(60), b"%PDF-1.4\n"])  # fmt: skip
def test_programs_that_draw_are_not_run(content, monkeypatch):
    monkeypatch.setattr(os, "system", None)
    monkeypatch.setattr("subprocess.check_call", None)
    refused(content, "of a kind that is not read")


def test_too_many_pixels_are_refused_by_their_number():
    content = png(np.zeros((30, 50), np.uint8), depth=8)
    refused(content, re.escape("has 0.0 megapixels (50 x 30), more than 0.0: save a smaller one"), pixels=1499)
    assert pixels(content, pixels=1500).shape == (30, 50)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0))
    bomb = png([[0]]).replace(png([[0]])[8:33], header)
    refused(bomb, re.escape("has 400.0 megapixels (20000 x 20000), more than 268.4"))
    assert pictures.PIXELS > 202e6 and Image.MAX_IMAGE_PIXELS == 89478485  # phones'; Pillow's own is as it was


@pytest.mark.parametrize("size", [(1, 65536), (65536, 1)])
def test_a_side_is_at_most_as_long_as_in_a_jpeg(size):
    """To resize a picture of 1 x 2^28 pixels takes Pillow 13 GB."""
    refused(encoded(Image.new("L", size), "PNG"), "has a side of 65,536 pixels, more than 65,535: cut it")
    assert pixels(encoded(Image.new("L", (65535, 1)), "PNG")).shape == (1, 65535)


def test_a_huge_jpeg_is_decoded_at_a_part_of_its_size(monkeypatch):
    content = encoded(photo(800, 600), "JPEG")
    monkeypatch.setattr(pictures, "SIDE", 100)
    assert decode(content, "x").size == (800, 600)
    monkeypatch.setattr(pictures, "MANY", 479_999)
    assert decode(content, "x").size == (200, 150)  # a quarter: an eighth would have a side of 75


# ---- files


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name has at most 107 bytes
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        for name in ("socket", "folder", "pipe", "zero"):
            with pytest.raises(BadPicture, match=rf"{name}\.png is not a regular file"):
                pictures.read(tmp_path / f"{name}.png")
            (tmp_path / f"{name}.png").rename(tmp_path / name)
            assert not pictures.is_picture(tmp_path / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty.png").touch()
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(pictures.LARGEST + 1)
    for name, words in (
        ("gone", r"gone\.png cannot be read \(No such file"), ("empty", r"empty\.png is empty"),
        ("huge", r"huge\.png has more than 256 MiB"),
    ):  # fmt: skip
        with pytest.raises(BadPicture, match=words):
            pictures.read(tmp_path / f"{name}.png")


def test_which_files_are_pictures(tmp_path):
    for name in ("a.jpg", "a.JFIF", "a.jpe", "a.png", "a.webp", "a.bmp", "a.gif", "a.tif", "a.TIFF", "a.avif", "a.jp2",
                 "a.ppm", "a.pgm", "a.mpo"):  # fmt: skip
        assert pictures.is_picture_name(tmp_path / name) and pictures.is_picture(tmp_path / name), name
    for name in ("a.txt", "a.heic", "a.eps", "a.wmf", "a.pdf", "a.svg", "a", "png", "a.png.txt"):
        assert not pictures.is_picture_name(tmp_path / name), name
    for name, content in (("photo", encoded(photo(), "JPEG", exif=b"Exif\0\0XX")), ("notes", b"P6 is a format"),
                          ("BMW", b"BMW is a make"), ("cut", encoded(photo(), "PNG")[:60])):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        assert pictures.is_picture(tmp_path / name) == (name == "photo"), name
    with pytest.raises(BadPicture, match=r"a\.HEIC is HEIC, which Pillow does not read: save it as JPEG"):
        pictures.read(tmp_path / "a.HEIC")
    (tmp_path / "photo").rename(tmp_path / "photo.txt")
    with pytest.raises(BadPicture, match=r"photo\.txt has no ending of a picture: rename it, for example to \.jpg"):
        pictures.read(tmp_path / "photo.txt")
    note = pictures.note_on_others(
        [tmp_path / name for name in ("a.txt", "b.txt", "c.txt", "d.txt", "e.txt", "f.HEIC")]
    )
    assert note.startswith(f"note: skipped 6 files of a kind that is not read: {tmp_path}/f.HEIC, {tmp_path}/a.txt, ")
    assert note.endswith("and 1 more; Pillow does not read HEIC: save it as JPEG")


def test_the_ending_does_not_say_the_format(tmp_path):
    (tmp_path / "a.jpg").write_bytes(png([[0, 65535]]))
    np.testing.assert_array_equal(np.asarray(pictures.read(tmp_path / "a.jpg")), [[0, 255]])


def test_all_faults_are_in_one_sentence_unless_they_may_be_left_out(tmp_path):
    photo().save(tmp_path / "good.png")
    bad = [tmp_path / f"bad{i}.png" for i in range(7)]
    for file in bad:
        file.write_bytes(b"no")
    files = [*bad, tmp_path / "good.png"]
    good, faults = pictures.readable(files, skip_bad=True)
    assert good == files[-1:] and len(faults) == 7
    with pytest.raises(
        UserError, match=r"^7 pictures cannot be used: .*bad0\.png .*bad4\.png .* and 2 more: .*skip_bad"
    ):
        pictures.readable(files, skip_bad=False)
    assert pictures.readable(files[-1:], skip_bad=False) == (files[-1:], [])


# ---- ranges


def scaled(levels, top):
    return np.rint(np.asarray(levels) / top * 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_png_says_how_many_of_sixteen_bits_count(channels, bits):
    """PNG wants them scaled to sixteen; who leaves them as they are is understood, too."""
    own = RNG.integers(0, 1 << bits, (6, 5, channels))
    own[0, 0] = 0  # dark pictures, which do not use all of the range
    own = own[..., 0] if channels == 1 else own
    says = chunk(b"sBIT", bytes([bits] * channels))
    few, rest = (1 << bits) - 1, 16 - bits
    ways = {
        "left": own, "shifted": own << rest, "repeated": own << rest | own >> (bits - rest),
        "scaled": np.rint(own / few * 65535).astype(int),
    }  # fmt: skip
    for dark in (1, 64):
        for name, levels in ways.items():
            levels = levels // dark if name == "left" else levels
            if dark > 1 and name != "left":
                small = own // dark
                levels = {"shifted": small << rest, "repeated": small << rest | small >> (bits - rest),
                          "scaled": np.rint(small / few * 65535).astype(int)}[name]  # fmt: skip
            wanted = Image.fromarray(scaled(own // dark, few), {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])
            wanted = np.asarray(pictures.from_pillow(wanted), int)
            got = pixels(png(levels, says))
            np.testing.assert_allclose(got, wanted, atol=1 if name == "shifted" else 0, err_msg=f"{name} {dark}")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_that_do_not_say_it_span_all_of_them_or_are_refused(channels):
    levels = RNG.integers(0, 65536, (6, 5, channels))
    levels[0, 0] = 65535
    got = pixels(png(levels))
    colours = levels[..., : channels - (channels % 2 == 0)]
    wanted = scaled(colours, 65535)
    if channels % 2 == 0:
        wanted = np.asarray(Image.fromarray(scaled(levels, 65535), {2: "LA", 4: "RGBA"}[channels]).convert("RGBA"))
        white = Image.new("RGBA", (5, 6), (255,) * 4)
        wanted = np.asarray(Image.alpha_composite(white, Image.fromarray(wanted)).convert("RGB"))
    np.testing.assert_array_equal(got.reshape(wanted.shape), wanted)
    few = levels % 4096
    few[..., channels - 1 :] |= 1
    refused(png(few), "16-bit numbers that are all below 4096, and does not say which number is white: save it with 8")
    assert not pixels(png(np.zeros((2, 2), int))).any()  # black in every range


def test_a_transparent_level_is_white_at_every_depth():
    for depth in (1, 2, 4, 8, 16):
        top = (1 << depth) - 1
        levels = np.array([[0, 1, top]])
        for key in {0, 1, top}:
            got = pixels(png(levels, chunk(b"tRNS", struct.pack(">H", key)), depth=depth))
            wanted = np.where(levels == key, 255, scaled(levels, top))
            np.testing.assert_array_equal(got if got.ndim == 2 else got[..., 0], wanted, err_msg=f"{depth} {key}")
    levels = np.array([[[300, 301, 65535], [300, 302, 65535]]])
    got = pixels(png(levels, chunk(b"tRNS", struct.pack(">HHH", *levels[0, 0]))))
    np.testing.assert_array_equal(got, [[[255, 255, 255], scaled(levels[0, 1], 65535)]])


def test_eight_bits_of_which_few_count():
    levels = RNG.integers(0, 16, (4, 4, 3))
    got = pixels(png(levels, chunk(b"sBIT", bytes([4] * 3)), depth=8))
    np.testing.assert_array_equal(got, 17 * levels)
    for says in (b"\x08\x08\x08", b"\0\0\0", b"\x04", b"\x09\x09\x09"):  # all of them; nonsense
        np.testing.assert_array_equal(pixels(png(levels, chunk(b"sBIT", says), depth=8)), levels)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_says_its_range_or_is_refused(order):
    def read(levels, tags=(), **options):
        return pixels(tiff(levels, tags, order, **options))

    unknown = "does not say which number is white"
    few, all_bits = (RNG.integers(0, top, (4, 6)).astype(np.uint16) for top in (4096, 65536))
    few[0, 0], all_bits[0, 0] = 1, 60000
    refused(tiff(few, order=order), unknown)
    np.testing.assert_array_equal(read(all_bits), scaled(all_bits, 65535))
    for tag in (281, 341):
        np.testing.assert_array_equal(read(few, {tag: ("H", 4095)}), scaled(few, 4095))
    np.testing.assert_array_equal(read(all_bits, {281: ("H", 4095)}), scaled(all_bits, 65535))  # it is not true
    refused(tiff(few, {281: ("H", 4000)}, order), unknown)  # the largest that occurs is no range
    floats = RNG.random((4, 6)).astype(np.float32)
    refused(tiff(floats, order=order), "floats of 32 bits, and does not say which number is white")
    np.testing.assert_array_equal(read(floats, {340: ("f", 0.0), 341: ("f", 1.0)}), scaled(floats, 1))
    np.testing.assert_array_equal(read(floats - 1, {340: ("f", -1.0), 341: ("f", 0.0)}), scaled(floats - 1 + 1, 1))
    refused(tiff(2 * floats, {340: ("f", 0.0), 341: ("f", 1.0)}, order), unknown)
    floats[0, 0] = np.nan
    refused(tiff(floats, {340: ("f", 0.0), 341: ("f", 1.0)}, order), "infinite or NaN")
    signed = few.astype(np.int16)
    refused(tiff(signed, order=order), unknown)
    np.testing.assert_array_equal(read(signed, {341: ("h", 4095)}), scaled(few, 4095))
    both = read(signed - np.int16(2048), {340: ("h", -2048), 341: ("h", 2047)})
    np.testing.assert_array_equal(both, scaled(few, 4095))
    for long in (few.astype(np.int32), few.astype(np.uint32)):
        if order == "<" or long.dtype == np.int32:  # Pillow does not read the other
            refused(tiff(long, order=order), "numbers of 32 bits, and does not say")
            np.testing.assert_array_equal(read(long, {281: ("H", 4095)}), scaled(few, 4095))
    if order == "<":
        long = (all_bits.astype(np.uint32) << 16) | 5
        np.testing.assert_array_equal(read(long), scaled(long, 2**32 - 1))
        np.testing.assert_array_equal(read(all_bits, {262: ("H", 0)}), 255 - scaled(all_bits, 65535))  # white is zero


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_a_tiff_of_sixteen_bits_per_colour_keeps_them(order, compression):
    """Pillow does not write such, but reads them, the high bytes alone, both ways."""
    few = RNG.integers(0, 4096, (8, 6, 3)).astype(np.uint16)
    few[0, 0] = 100
    for levels, tags, top in ((few, {281: ("H", [4095] * 3)}, 4095), (16 * few + 8, {}, 65535)):
        stored = levels.astype(levels.dtype.newbyteorder(order)).tobytes()
        if compression:
            stored = zlib.compress(stored)
            tags = tags | {259: ("H", 8), 279: ("I", len(stored))}
        content = tiff(levels, tags, order)
        if compression:  # the compressed pixels stand behind
            content = tiff(levels, tags | {273: ("I", len(content))}, order) + stored
        np.testing.assert_array_equal(pixels(content), scaled(levels, top))
    refused(tiff(few, order=order), "16-bit numbers that are all below 4096")
    refused(tiff(few, order=order, planar=True), "16 bits|separate planes|damaged")


def test_a_tiff_of_premultiplied_sixteen_bits():
    levels = np.array([[[32768, 0, 0, 32768], [0, 0, 0, 0], [65535, 65535, 0, 65535]]], np.uint16)
    got = pixels(tiff(levels, {338: ("H", 1)}))
    np.testing.assert_allclose(got, [[[255, 127, 127], [255, 255, 255], [255, 255, 0]]], atol=1)


def test_a_file_says_its_range_whatever_its_name(tmp_path):
    (tmp_path / "a.png").write_bytes(tiff(RNG.random((4, 4)).astype(np.float32)))
    with pytest.raises(BadPicture, match=r"a\.png has floats of 32 bits"):
        pictures.read(tmp_path / "a.png")


def test_other_formats_of_many_bits():
    levels = RNG.integers(0, 4096, (3, 4))
    pgm = b"P5 4 3 4095\n" + levels.astype(">u2").tobytes()
    np.testing.assert_allclose(pixels(pgm), scaled(levels, 4095), atol=1)
    deep = RNG.integers(0, 65536, (16, 16)).astype(np.uint16)
    deep[0, 0] = 65535
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(deep), "JPEG2000")), scaled(deep, 65535))
    refused(encoded(Image.fromarray(deep % 4096), "JPEG2000"), "all below 4096")
    image = Image.new("RGB", (4, 4), (9, 3, 0))  # 16 bits per colour, which Pillow does not write
    image.format, image.info["depth"] = "JPEG2000", 16
    with pytest.raises(BadPicture, match="all below 4096"):
        pictures.from_pillow(image)


# ---- colours


def test_inks_are_printed():
    """CMYK of a JPEG is inverted by Adobe's custom, of a TIFF it is not; and YCCK, which Pillow does not write."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1:3] = 255  # magenta and yellow: red
    red = Image.frombytes("CMYK", (16, 16), inks.tobytes())
    for content in (encoded(red, "JPEG", quality=95), encoded(red, "TIFF")):
        np.testing.assert_allclose(pixels(content), np.full((16, 16, 3), (255, 0, 0)), atol=3)
    stored = encoded(Image.frombytes("CMYK", (16, 16), bytes([55, 127, 127, 0]) * 256), "JPEG", quality=100)
    np.testing.assert_allclose(pixels(stored), np.full((16, 16, 3), (200, 128, 128)), atol=3)
    at = stored.index(b"Adobe") + 11
    assert stored[at] == 0
    ycck = stored[:at] + b"\2" + stored[at + 1 :]  # luminance 200 without chrominance: 200 of each ink
    np.testing.assert_allclose(pixels(ycck), np.full((16, 16, 3), 55), atol=3)


def test_palettes_and_transparency():
    shades = np.array([[0, 1, 2]], np.uint8)
    image = Image.fromarray(shades, "P")
    image.putpalette([10, 20, 30, 200, 100, 50, 5, 5, 5])
    wanted = [[[10, 20, 30], [255, 255, 255], [5, 5, 5]]]
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(pixels(encoded(image, kind, transparency=1)), wanted)
    np.testing.assert_array_equal(pixels(encoded(image, "PNG", transparency=bytes([255, 0, 255]))), wanted)
    bits = Image.fromarray(np.array([[True, False]]))
    for kind in ("PNG", "TIFF", "GIF", "BMP", "PPM"):
        got = pixels(encoded(bits, kind))
        np.testing.assert_array_equal(got if got.ndim == 2 else got[..., 0], [[255, 0]])
    both = Image.fromarray(np.array([[[0, 255], [0, 0], [100, 255]]], np.uint8), "LA")
    np.testing.assert_array_equal(pixels(encoded(both, "PNG"))[..., 0], [[0, 255, 100]])
    np.testing.assert_array_equal(pixels(encoded(both, "TIFF"))[..., 0], [[0, 255, 100]])
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    for kind in ("PNG", "WEBP", "AVIF", "TIFF", "JPEG2000"):
        np.testing.assert_array_equal(pixels(encoded(clear, kind)), np.full((4, 4, 3), 255))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "MPO", "AVIF"])
def test_of_several_pictures_the_first_is_read(kind):
    several = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("MPO", "AVIF") else {}
    content = encoded(several[0], kind, save_all=True, append_images=several[1:], **options)
    np.testing.assert_allclose(pixels(content), np.full((32, 32, 3), (255, 0, 0)), atol=4)


def test_colours_that_pillow_does_not_convert_are_named():
    lab = Image.new("LAB", (4, 4))
    refused(encoded(lab, "TIFF"), "has colours of the kind LAB")


def test_a_bmp_whose_alpha_is_0_everywhere_is_not_transparent(tmp_path):
    """Some programs leave the fourth byte of its pixels unused. A header of version 4 has a mask for it."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for alpha, expected in (([0, 0], [50]), ([255, 0], [50, 255])):
        pixels = bytes([50, 50, 50, alpha[0], 50, 50, 50, alpha[1]])
        header = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
        file = tmp_path / "a.bmp"
        file.write_bytes(struct.pack("<2sIHHI", b"BM", 122 + len(pixels), 0, 0, 122) + header + pixels)
        assert np.unique(pictures.read(file)).tolist() == expected


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(UserError, match="has no pixels"):
        pictures.from_pillow(Image.new("L", (0, 3)))
