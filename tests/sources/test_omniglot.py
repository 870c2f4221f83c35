"""Omniglot from zips, folders and tensorflow-datasets, whole and faulty."""

import hashlib
import io
import json
import os
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import assert_refused
from errors import UserError
from originals import PARTS, command, fake_omniglot, lay, leftovers, raise_it, replace
from sources import omniglot

REAL = Path(os.environ.get("OMNIGLOT", "no folder"))  # a folder with the official archives
SPLITS = {"train": 3, "val": 1, "test": 1}


def test_omniglot_is_the_same_from_zips_folders_and_tfds(tmp_path):
    files = fake_omniglot()
    lay(tmp_path / "zips", files, True)
    lay(tmp_path / "folders", files, False)
    alphabets = ["Arcadian", "Greek", "Zulu"]
    examples = []
    for name, data in reversed(files.items()):  # in another order than the archives'
        _, alphabet, character, _ = name.split("/")
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        image = np.repeat(grey[:, :, None], 3, axis=2)
        number = int(character.removeprefix("character")) - 1
        examples.append({"image": image, "alphabet": alphabets.index(alphabet), "alphabet_char_id": number})
    characters = {"tfds": omniglot.read_examples(examples, alphabets.__getitem__, 28)}
    for source in ("zips", "zips/images_evaluation.zip", "folders", "folders/images_background"):
        characters[source], _ = omniglot.read_omniglot(tmp_path / source, 28, PARTS, 2)
    wanted = deal(3)
    for route, drawings in characters.items():
        (tmp_path / "out" / route).mkdir(parents=True)
        assert omniglot.write_omniglot(tmp_path / "out" / route, drawings, 3, SPLITS) == wanted
        for split, names in wanted.items():
            array = np.load(tmp_path / "out" / route / f"{split}.npy")
            np.testing.assert_array_equal(array, np.stack([shrunk(files, name, 28) for name in names]))
    assert array.mean() < 100  # ink is 255 and rare, paper 0


def test_omniglot_has_1623_characters_of_which_the_paper_trains_on_1200():
    """1100 of them, and 100 to validate; the authors' arrays have their four turns as classes."""
    assert omniglot.SPLITS == {"train": 1100, "val": 100, "test": 423}
    assert omniglot.PARTS == {"images_background": 964, "images_evaluation": 659}
    assert omniglot.AUTHORS_SHAPES == {"train": (4800, 20, 28, 28, 1), "test": (1692, 20, 28, 28, 1)}
    assert (omniglot.DRAWINGS, omniglot.ORIGINAL_SIDE) == (20, 105)


def deal(seed):
    """split -> names of its characters, of the five of fake_omniglot."""
    names = ["Arcadian/character01", "Greek/character09", "Greek/character10", "Zulu/character01", "Zulu/character02"]
    dealt = [names[i] for i in np.random.RandomState(seed).permutation(5)]
    return {"train": dealt[:3], "val": dealt[3:4], "test": dealt[4:]}


def shrunk(originals, name, size):
    """The drawings of a character as they should be stored, uint8 [drawings, size, size, 1]."""
    images = [Image.open(io.BytesIO(data)).convert("L") for path, data in originals.items() if f"{name}/" in path]
    inks = sorted((255 - np.asarray(image) for image in images), key=lambda ink: hashlib.sha256(ink.tobytes()).digest())
    small = [Image.fromarray(ink).resize((size, size), Image.Resampling.LANCZOS) for ink in inks]
    return np.stack(small)[..., None]


@pytest.mark.parametrize("size", [28, 16])
def test_omniglot_by_the_command_line(tmp_path, monkeypatch, size):
    replace(monkeypatch, omniglot.PARTS, **PARTS)
    replace(monkeypatch, omniglot.SPLITS, **SPLITS)
    originals = fake_omniglot(20)
    lay(tmp_path / "zips", originals, True)
    args = ["--dataset", "omniglot", "--data_dir", tmp_path, "--source", tmp_path / "zips", "--seed", 3]
    done = command(*args, "--size", size)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "omniglot" / "manifest.json").read_text())
    assert (manifest["rotations"], manifest["split_seed"], manifest["image_shape"]) == (4, 3, [size, size, 1])
    assert manifest["source"]["given"] == str(tmp_path / "zips") and len(manifest["source"]["files"]) == 2
    assert manifest["prepare"] == {"size": size, "channels": 1, "invert": True}
    assert {split: entry["names"] for split, entry in manifest["splits"].items()} == deal(3) != deal(0)
    assert [entry["classes"] for entry in manifest["splits"].values()] == [12, 4, 4]
    for split, entry in manifest["splits"].items():
        array = np.load(tmp_path / "omniglot" / f"{split}.npy")
        np.testing.assert_array_equal(array, np.stack([shrunk(originals, name, size) for name in entry["names"]]))
        assert entry["sha256"] == hashlib.sha256((tmp_path / "omniglot" / f"{split}.npy").read_bytes()).hexdigest()
    if size == 16:
        assert_refused(command(*args), "--size 16, not 28", "--force")
    else:
        assert_refused(command(*args[:-1], 4), "--seed 3, not 4", "--force")


def test_omniglot_refused(tmp_path):
    files = fake_omniglot()
    background = [name for name in files if "background" in name]

    def fault(change, zipped=True, source="."):
        changed = dict(files)
        change(changed)
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        folder = lay(tmp_path / "o", changed, zipped)
        with pytest.raises(UserError) as caught:
            omniglot.read_omniglot(folder / source, 28, PARTS, 2)
        return str(caught.value)

    assert "1 drawings, not 2" in fault(lambda f: f.pop(background[0]))
    assert "2 characters, not 3" in fault(lambda f: [f.pop(name) for name in background[:2]])
    for zipped in (True, False):
        assert "damaged" in fault(lambda f: f.update({background[0]: files[background[0]][:-60]}), zipped)
    assert "damaged" in fault(lambda f: f.update({background[0]: b"no image"}))
    small = io.BytesIO()
    Image.new("1", (28, 28)).save(small, "png")
    assert "105 x 105" in fault(lambda f: f.update({background[0]: small.getvalue()}))
    assert "neither" in fault(lambda f: [f.pop(name) for name in background])
    archive = tmp_path / "o" / "images_evaluation.zip"
    data = archive.read_bytes()
    lay(tmp_path / "t", files, True)
    for cut in (data[:-30], data[:50], b"", data[:300] + bytes(50) + data[350:]):
        (tmp_path / "t" / "images_evaluation.zip").write_bytes(cut)
        with pytest.raises(UserError, match="not a whole zip"):
            omniglot.read_omniglot(tmp_path / "t", 28, PARTS, 2)


def test_tfds_that_fails_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # which the program sets
    drawn = {"image": np.zeros((105, 105, 1), np.uint8), "alphabet": 0, "alphabet_char_id": 0}
    builder = types.SimpleNamespace(
        data_dir=str(tmp_path),
        url_infos={"http://127.0.0.1:9/x.zip": None},
        info=types.SimpleNamespace(features={"alphabet": types.SimpleNamespace(int2str=str)}, full_name="omniglot"),
        download_and_prepare=lambda: print("download_and_prepare"),
        as_dataset=lambda split: [drawn],
    )
    tfds = types.SimpleNamespace(disable_progress_bar=lambda: None, as_numpy=lambda examples: examples)

    def make_by(module):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
        result = command("--dataset", "omniglot", "--data_dir", tmp_path / "data")
        assert not leftovers(tmp_path / "data")
        return result

    assert_refused(make_by(None), "ModuleNotFoundError", "--source")
    tfds.builder = {"omniglot": builder}.__getitem__
    offline = make_by(tfds)
    assert_refused(offline, "connection refused", "--source")
    assert "download_and_prepare" not in offline.stdout  # which would try again for minutes
    (tmp_path / "dataset_info.json").write_text("{}")  # prepared by an earlier run: needs no network
    prepared = make_by(tfds)
    assert_refused(prepared, "holds 1 characters, not 1623")
    assert "download_and_prepare" in prepared.stdout
    monkeypatch.setattr(builder, "download_and_prepare", lambda: raise_it(ConnectionError("no\nnetwork")))
    assert_refused(make_by(tfds), "ConnectionError: no)", "--source")


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "images_background.zip").exists(), reason="set OMNIGLOT to the archives' folder")
def test_the_real_omniglot(tmp_path):
    assert command("--dataset", "omniglot", "--source", REAL, "--data_dir", tmp_path).returncode == 0
    manifest = json.loads((tmp_path / "omniglot" / "manifest.json").read_text())
    splits = manifest["splits"]
    assert {name: split["classes"] for name, split in splits.items()} == {
        "train": 4400,
        "val": 400,
        "test": 1692,
    }
    assert len({name for split in splits.values() for name in split["names"]}) == 1623
    assert manifest["image_shape"] == [28, 28, 1] and manifest["scale"] == 1 / 255 and manifest["rotations"] == 4
    assert {name: split["sha256"][:16] for name, split in splits.items()} == {
        "train": "9d29b947a0281e26",
        "val": "cfc1b3639ccdf5bc",
        "test": "a97717bc357195cd",
    }
