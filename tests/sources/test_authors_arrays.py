"""The authors' arrays, of every number type and in every state of damage."""

import numpy as np
import pytest

from errors import UserError
from originals import AUTHORS, authors_arrays, npy
from sources.authors_arrays import make_from_arrays, write_authors_arrays


@pytest.mark.parametrize(
    ("kind", "scale", "stored", "unit"),
    [
        (np.uint8, 1, np.uint8, False),
        (np.float64, 1, np.uint8, False),
        (np.float32, 1 / 255, np.uint8, False),
        (np.float32, 1.37, np.float32, False),
        (np.float32, 0.0031, np.float32, True),
        (np.int64, -1, np.float32, False),
    ],
)
def test_the_authors_arrays(tmp_path, kind, scale, stored, unit):
    arrays = authors_arrays(kind, scale)
    files = {split: tmp_path / f"from_{split}.npy" for split in arrays}
    for split, path in files.items():
        np.save(path, arrays[split].reshape(-1, 108) if split == "test" else arrays[split])
    names, read_scale, ends = write_authors_arrays(tmp_path, files, AUTHORS)
    least, most = (extreme([extreme(array) for array in arrays.values()]) for extreme in (np.min, np.max))
    assert ends == (None if stored == np.uint8 else (0, 1) if unit else (np.float32(least), np.float32(most)))
    for split, shape in AUTHORS.items():
        written = np.load(tmp_path / f"{split}.npy")
        assert written.shape == shape and written.dtype == stored and len(names[split]) == shape[0]
        pixels = arrays[split].reshape(shape) / (255 if stored == np.uint8 and scale == 1 else 1)
        np.testing.assert_allclose(written * read_scale, pixels, rtol=1e-6, atol=1e-6)


def test_levels_that_were_rounded_below_are_theirs(tmp_path):
    """Multiples of 1/255, but for a few thousandths."""
    levels = {split: np.random.default_rng(0).integers(1, 256, shape) for split, shape in AUTHORS.items()}
    files = {split: tmp_path / f"from_{split}.npy" for split in AUTHORS}
    for split, own in levels.items():
        np.save(files[split], (own - 0.005) / 255)
    write_authors_arrays(tmp_path, files, AUTHORS)
    for split, own in levels.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{split}.npy"), own)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_run_on_the_authors_arrays_knows_how_their_pictures_were_prepared(tmp_path, channels):
    """Grey ones are Omniglot's, with ink 1 on paper 0."""
    (source := tmp_path / "in").mkdir()
    (out := tmp_path / "out").mkdir()
    shapes = dict.fromkeys(("train", "test"), (2, 3, 8, 8, channels))
    for split, shape in shapes.items():
        np.save(source / f"{split}.npy", np.zeros(shape, np.uint8))
    manifest = make_from_arrays(out, tmp_path / "omniglot", source, shapes, "an address")
    assert manifest["prepare"] == {"size": 8, "channels": channels, "invert": channels == 1}
    assert manifest["source"]["given"] == "an address" and len(manifest["source"]["files"]) == 2


@pytest.mark.parametrize(("kind", "scale", "ends"), [(np.float32, 1.37, [0, 1.37 * 255]), (np.uint8, 1, None)])
def test_the_range_of_the_authors_floats_stands_in_the_manifest(tmp_path, kind, scale, ends):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    for split, array in authors_arrays(kind, scale).items():
        np.save(tmp_path / f"from/{split}.npy", array)
    manifest = make_from_arrays(tmp_path / "to", tmp_path / "omniglot", tmp_path / "from", AUTHORS, "there")
    assert manifest.get("range") == (ends and pytest.approx(ends))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.zeros((600, 64, 3))), "shape"),
        (npy(np.zeros((4, 5, 108))), "shape"),
        (npy(np.full((5, 4, 108), np.nan)), "not finite"),
        (npy(np.full((5, 4, 108), "x")), "not numbers"),
        (npy(np.zeros((5, 4, 108)))[:-9], "cut short"),
        (npy(np.zeros((5, 4, 108))) + b"x", "its header says 17408 bytes, and it has 17409"),
        (npy(np.zeros((5, 4, 108)))[:40], "cut short"),
        (b"", r"not an \.npy"),
        (b"PK\x03\x04 a zip", r"not an \.npy"),
        (b"\n<html>", "web page"),
    ],
)
def test_the_authors_arrays_refused(tmp_path, data, words):
    np.save(tmp_path / "test.npy", authors_arrays()["test"])
    (tmp_path / "train.npy").write_bytes(data)
    files = {split: tmp_path / f"{split}.npy" for split in AUTHORS}
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=words):
        write_authors_arrays(tmp_path / "out", files, AUTHORS)
