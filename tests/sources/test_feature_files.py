"""get_data.py --features: a dataset of the vectors in an .npz file."""

import json
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest

import data
import get_data
from conftest import assert_refused
from get_data import images_per_class
from originals import command, leftovers

CLASSES, D = 12, 5


def rows(seed=0):
    """Vectors of CLASSES classes, of which the first has two rows more, in a random order; and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), [5] + [3] * (CLASSES - 1)))
    return rng.standard_normal((len(labels), D)) + labels[:, None], np.array([f"class {c:02d}" for c in labels])


LABELS = rows()[1]


def write(path, **arrays):
    features, labels = rows()
    np.savez(path, **{"features": features, "labels": labels} | arrays)
    return path


def make(tmp_path, file, *flags):
    return command("--dataset", "mine", "--features", file, "--data_dir", tmp_path / "data", *flags)


@pytest.mark.parametrize("numbered", [False, True])
def test_every_vector_is_where_the_manifest_says(tmp_path, numbered):
    features, labels = rows()
    labels = np.array([int(label[-2:]) for label in labels]) if numbered else labels
    names = np.array([f"{i}.jpg" for i in range(len(labels))])
    done = make(tmp_path, write(tmp_path / "f.npz", labels=labels, files=names), "--split_seed", 3)
    assert done.returncode == 0, done.stderr
    assert "vectors of 5 numbers" in done.stdout and "--shot + --query at most 3" in done.stdout
    dataset = data.load(str(tmp_path / "data"), "mine")
    manifest = json.loads((tmp_path / "data/mine/manifest.json").read_text())
    assert (dataset.image_shape, dataset.prepare, dataset.range) == ((1, 1, D), None, None)
    assert manifest["split_seed"] == 3 and manifest["source"]["files"][0]["name"] == "f.npz"
    seen = []
    for split, entry in manifest["splits"].items():
        stored, first = dataset.splits[split], 0
        assert (stored.pixels.dtype, stored.scale, stored.rotations) == (np.float32, 1.0, 1)
        for name, count in zip(entry["names"], stored.images_per_class, strict=True):
            mine = labels.astype(str) == name
            np.testing.assert_array_equal(stored.all_images[first : first + count, 0, 0], features[mine].astype("f4"))
            assert manifest["pictures"][name] == names[mine].tolist()
            first, seen = first + count, [*seen, name]
    assert sorted(seen) == sorted(set(labels.astype(str)))


def test_two_spellings_of_a_label_are_one_class(tmp_path):
    labels = LABELS.copy()
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    labels[labels == "class 00"] = [composed, decomposed, composed, decomposed, composed]
    assert make(tmp_path, write(tmp_path / "f.npz", labels=labels)).returncode == 0
    splits = json.loads((tmp_path / "data/mine/manifest.json").read_text())["splits"].values()
    counts = {name: count for one in splits for name, count in zip(one["names"], images_per_class(one), strict=True)}
    assert len(counts) == CLASSES and counts[composed] == 5


def test_a_table_decides_the_split(tmp_path):
    (tmp_path / "split.csv").write_text("train,class 01\ntrain,class 02\ntest,class 00\n")
    done = make(tmp_path, write(tmp_path / "f.npz"), "--split_file", tmp_path / "split.csv")
    assert done.returncode == 0, done.stderr
    dataset = data.load(str(tmp_path / "data"), "mine")
    assert {name: split.images_per_class.tolist() for name, split in dataset.splits.items()} == {
        "train": [3, 3], "test": [5],
    }  # fmt: skip


WITH_INFINITY = rows()[0]
WITH_INFINITY[7, 2] = np.inf


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": LABELS.astype(object)}, ["cannot be read", "array of strings"]),
        ({"labels": LABELS[1:]}, ["labels", "(37,)", "give 38"]),
        ({"labels": np.linspace(0, 1, len(LABELS))}, ["labels", "float64", "strings or whole numbers"]),
        ({"labels": np.ones(len(LABELS), int)}, ["only one class, 1"]),
        ({"labels": np.where(np.arange(len(LABELS)) == 4, " ", LABELS)}, ["labels", "are empty in row 4"]),
        ({"files": np.arange(len(LABELS))}, ["files", "int64", "strings"]),
        ({"files": np.array(["a.jpg"] * len(LABELS))}, ["has the picture a.jpg with the labels", "keep one"]),
        ({"features": WITH_INFINITY}, ["not finite, or above 1e+15, in 1 row", "row 7"]),
        ({"features": rows()[0] * 1e300}, ["in 38 rows"]),
        ({"features": rows()[0] * 1e20}, ["in 38 rows"]),
        ({"features": rows()[0].reshape(-1, 1, D)}, ["(38, 1, 5)", "[n,D]"]),
        ({"features": rows()[0].astype(str)}, ["features", "give numbers"]),
        ({"features": np.zeros((0, D))}, ["(0, 5)", "[n,D]"]),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, words):
    assert_refused(make(tmp_path, write(tmp_path / "f.npz", **arrays)), *words)
    assert not leftovers(tmp_path / "data")


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "lacks.npz", features=rows()[0])
    np.save(tmp_path / "plain.npy", rows()[0])
    whole = write(tmp_path / "whole.npz").read_bytes()
    place = whole.index(b"\x93NUMPY") + 200
    (tmp_path / "damaged.npz").write_bytes(whole[:place] + bytes(16) + whole[place + 16 :])
    for ending in ("", ".npy"):  # numpy returns the bytes of what it has not written
        with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
            for name in ("features", "labels"):
                archive.writestr(name + ending, "1,2,3")
        assert_refused(make(tmp_path, tmp_path / "text.npz"), "features is not an array", "np.savez")
    assert_refused(make(tmp_path, tmp_path / "lacks.npz"), "has no array labels", "np.savez")
    assert_refused(make(tmp_path, tmp_path / "plain.npy"), "is not an .npz file")
    assert_refused(make(tmp_path, tmp_path), "is not an .npz file")
    assert_refused(make(tmp_path, tmp_path / "damaged.npz"), "damaged.npz cannot be read")
    assert_refused(make(tmp_path, tmp_path / "nowhere.npz"), "there is no")
    assert not leftovers(tmp_path / "data")


def test_flags_of_pictures_and_other_datasets_are_refused(tmp_path):
    file = write(tmp_path / "f.npz")
    for flags in (["--size", 28], ["--rotations", 4], ["--source", tmp_path], ["--skip_bad"]):
        assert_refused(make(tmp_path, file, *flags), f"{flags[0]} is not a flag of mine from --features")
    assert_refused(command("--dataset", "glyphs", "--features", file), "--features is not a flag of glyphs")
    assert_refused(command("--dataset", "nothing", "--data_dir", tmp_path), "--source", "--features")
    request = get_data.parse(["--dataset", "mine", "--features", str(file), "--shares", "1,1,1"])
    assert request.settings.features == file and request.settings.shares == (1, 1, 1)


def test_an_existing_dataset_is_that_of_the_same_file_or_is_refused(tmp_path):
    file = write(tmp_path / "f.npz")
    assert make(tmp_path, file).returncode == 0
    assert "it is complete" in make(tmp_path, file).stdout
    other = write(tmp_path / "other.npz", features=rows(1)[0])
    assert_refused(make(tmp_path, other), "another --features", "--force")
    assert_refused(
        command("--dataset", "mine", "--source", tmp_path, "--data_dir", tmp_path / "data"), "vectors of 5 numbers"
    )
    assert make(tmp_path, other, "--force").returncode == 0


def test_vectors_do_not_replace_images_by_accident(tmp_path, data_dir):
    shutil.copytree(data_dir / "glyphs", tmp_path / "data/mine")
    assert_refused(make(tmp_path, write(tmp_path / "f.npz")), "holds images of 28x28x1", "--force")
