"""The benchmarks by name: their lists of classes, and what becomes of tensorflow-datasets' images and of folders."""

import hashlib
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from conftest import assert_refused
from originals import PARTS, ROOT, command, fake_omniglot, lay, leftovers, manifest_of, replace
from sources import benchmarks, images, omniglot
from sources.benchmarks import BENCHMARKS, OURS
from sources.class_split import assign_at_random, read_table

REAL = Path(os.environ.get("OMNIGLOT", "no folder"))  # a folder with the official archives
SIZES = {
    "cifar_fs": (64, 16, 20), "fc100": (60, 20, 20), "cub": (100, 50, 50), "omniglot_vinyals": (1028, 172, 423),
    "flowers": (65, 17, 20), "dtd": (30, 8, 9), "aircraft": (64, 16, 20), "eurosat": (5, 0, 5),
    "plant_village": (24, 6, 8), "quickdraw": (221, 55, 69),
}  # fmt: skip
OF_IMAGES = [name for name, benchmark in BENCHMARKS.items() if not benchmark.omniglot]


def listed(name):
    """split -> the classes that the list of a benchmark has for it."""
    classes = {"train": [], "val": [], "test": []}
    for _, split, label in read_table(benchmarks.SPLITS / f"{name}.csv"):
        classes[split].append(label)
    return classes


def folders(root, colours):
    """A folder of one colour's pictures for each class: name -> grey level. The classes are in two parts."""
    for number, (name, level) in enumerate(colours.items()):
        for part, side in (("train", 20), ("test", 30)):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (side, side + number), (level,) * 3).save(root / part / name / "a.png")
    return root


# ---- lists


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_list_has_each_class_once(name):
    classes = listed(name)
    assert tuple(len(own) for own in classes.values()) == SIZES[name]
    labels = [*itertools.chain(*classes.values())]
    assert max(Counter(labels).values()) == 1
    if BENCHMARKS[name].split_from == OURS:
        drawn = assign_at_random(sorted(labels), None, 0)
        assert {split: sorted(own) for split, own in classes.items() if own} == {s: sorted(c) for s, c in drawn.items()}


def test_the_published_lists_are_the_papers():
    """The rules by which the papers drew them, where there is one."""
    numbered = {label: split for split, labels in listed("cub").items() for label in labels}
    rule = ["train", "val", "train", "test"]
    assert [numbered[label] for label in sorted(numbered)] == rule * 50
    fine = listed("fc100")
    assert {*fine["train"], *fine["val"], *fine["test"]} == {*itertools.chain(*listed("cifar_fs").values())}
    assert {"baby", "boy", "girl", "man", "woman"} < {*fine["test"]} and {"bed", "couch", "bus"} < {*fine["train"]}
    assert {"shrew", "bear", "crab", "camel"} < {*fine["val"]}
    alphabets = {
        split: {label.split("/")[0] for label in labels} for split, labels in listed("omniglot_vinyals").items()
    }
    assert len(alphabets["train"] | alphabets["val"] | alphabets["test"]) == 50


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cifar_fs", "f74b63c142d04d22"),
        ("fc100", "cd7926d85a821079"),
        ("omniglot_vinyals", "3afbb15da5c87f2e"),
        ("cub", "85567fbd2bb013ed"),
    ],
)
def test_a_published_list_is_as_it_was_when_it_was_compared_with_its_source(name, digest):
    """The SHA-256 of its sorted lines SPLIT,CLASS. sources/splits/README.md names the sources."""
    lines = sorted(f"{split},{label}" for _, split, label in read_table(benchmarks.SPLITS / f"{name}.csv"))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", [name for name in OF_IMAGES if BENCHMARKS[name].split_from == OURS])
def test_a_list_has_tensorflow_datasets_names(name):
    import tensorflow_datasets as tfds

    names = tfds.builder(BENCHMARKS[name].builder).info.features["label"].names
    assert sorted(itertools.chain(*listed(name).values())) == sorted(names)


# ---- tensorflow-datasets


@pytest.fixture
def mocked(monkeypatch):
    """tensorflow-datasets' mock data: a split `train` with two images of each class, in turn; their pixels are the
    class's number."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from sources import tfds as ours

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # which the program sets
    monkeypatch.setattr(ours.requests, "head", lambda *_, **__: None)
    original, lists = tfds.builder, {}

    def builder(name):
        made = original(name)
        split = tfds.core.SplitInfo(name="train", shard_lengths=[1], num_bytes=0)
        made.info.set_splits(tfds.core.splits.SplitDict([split]))
        if name in lists:  # the names come with the download
            made.info.features["label"].names = lists[name]
        return made

    def as_dataset(self, **_):
        features = self.info.features
        shape = [side or 40 for side in features["image"].shape]

        def examples():
            for number in [*range(features["label"].num_classes)] * 2:
                yield {"image": np.full(shape, number % 256, np.uint8), "label": number}

        kinds = {"image": tf.TensorSpec(shape, tf.uint8), "label": tf.TensorSpec((), tf.int64)}
        return tf.data.Dataset.from_generator(examples, output_signature=kinds)

    monkeypatch.setattr(tfds, "builder", builder)
    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        yield lists


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_benchmark_of_tensorflow_datasets_has_its_images_in_the_listed_splits(name, mocked, tmp_path):
    import tensorflow_datasets as tfds

    classes = listed(name)
    labels = sorted(itertools.chain(*classes.values()))
    if name in ("cifar_fs", "fc100"):
        mocked["cifar100"] = labels
    done = command("--dataset", name, "--data_dir", tmp_path, *["--size", 32] * (BENCHMARKS[name].size > 32))
    assert done.returncode == 0, done.stderr
    side, channels = min(BENCHMARKS[name].size, 32), BENCHMARKS[name].channels
    made, dataset = manifest_of(tmp_path, name), data.load(tmp_path, name)
    assert dataset.image_shape == (side, side, channels)
    assert made["prepare"] == {"size": side, "channels": channels, "invert": channels == 1}
    assert made["licence"] == BENCHMARKS[name].licence and made["split_from"] == BENCHMARKS[name].split_from
    assert "tensorflow-datasets" in made["source"]["given"]
    numbers = (
        labels if BENCHMARKS[name].numbered else tfds.builder(BENCHMARKS[name].builder).info.features["label"].names
    )
    for split, own in classes.items():
        if own:
            assert made["splits"][split]["names"] == sorted(own)
            wanted = np.array([numbers.index(label) % 256 for label in sorted(own)])
            shape = (len(own), 2, side, side, channels)
            images = np.broadcast_to(wanted[:, None, None, None, None], shape)
            np.testing.assert_array_equal(dataset.splits[split].pixels, images)
    assert command("--dataset", name, "--data_dir", tmp_path, "--verify").returncode == 0


def test_other_names_in_tensorflow_datasets_are_refused(mocked, tmp_path):
    mocked["cifar100"] = [f"class{number}" for number in range(100)]
    done = command("--dataset", "cifar_fs", "--data_dir", tmp_path)
    assert_refused(done, "lacks 100 of the 100 classes of cifar_fs", "dolphin")
    assert not leftovers(tmp_path)


def test_a_set_that_cannot_be_read_is_one_sentence(mocked, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def broken(*_):
        raise RuntimeError("a record\nis damaged")

    monkeypatch.setattr(tfds, "as_numpy", broken)
    done = command("--dataset", "eurosat", "--data_dir", tmp_path)
    assert_refused(done, "could not give eurosat", "RuntimeError: a record)")


def test_of_a_large_set_the_first_images_of_each_class_are_taken():
    def pictures():
        yield from (images.Picture(label, "", number) for number, label in enumerate("aabacbbc"))
        pytest.fail("all classes were full")

    taken = [(one.label, one.read) for one in benchmarks.first_of_each(pictures(), 2, 3)]
    assert taken == [*zip("aabcbc", (0, 1, 2, 4, 5, 7), strict=True)]
    assert BENCHMARKS["quickdraw"].most == 1000


# ---- folders


def test_a_benchmark_is_made_from_a_folder_of_its_classes(tmp_path):
    classes = listed("eurosat")
    colours = {label: 20 * number for number, label in enumerate(sorted(itertools.chain(*classes.values())))}
    source = folders(tmp_path / "in", colours)
    words = ("--dataset", "eurosat", "--source", source, "--data_dir", tmp_path)
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "train 5 classes x 2, test 5 classes x 2 images of 64x64x3; no validation classes" in done.stdout
    dataset, made = data.load(tmp_path, "eurosat"), manifest_of(tmp_path, "eurosat")
    for split in ("train", "test"):
        assert made["splits"][split]["names"] == sorted(classes[split])
        for label, shown in zip(sorted(classes[split]), dataset.splits[split].pixels, strict=True):
            assert (shown == colours[label]).all()
    assert made["source"]["given"] == str(source) and made["source"]["files"][0]["name"] == "eurosat.csv"
    assert "it is complete" in command(*words).stdout
    assert_refused(command(*words, "--size", 32), "--size 64, not 32", "--force")
    assert "images of 32x32x3" in command(*words, "--size", 32, "--force").stdout
    for flag in ("--split_seed", "--rotations", "--channels", "--seed"):
        assert_refused(command(*words, flag, 1), f"{flag} is not a flag of eurosat")
    assert_refused(command(*words[:2], "--source", "tfds:eurosat"), "choose another name than eurosat")


def test_missing_and_unknown_classes_are_one_sentence(tmp_path, monkeypatch):
    labels = sorted(itertools.chain(*listed("eurosat").values()))
    source = folders(tmp_path / "in", dict.fromkeys(labels, 9) | {"Desert": 9})
    words = ("--dataset", "eurosat", "--source", source, "--data_dir", tmp_path)
    monkeypatch.setattr(benchmarks, "write_raw", lambda *_: pytest.fail("pictures were read"))
    assert_refused(command(*words), "has 1 classes that eurosat does not have (Desert): move them elsewhere")
    for part in ("train", "test"):
        (source / part / "Desert").rename(source / part / "river")
        (source / part / "River" / "a.png").unlink()
        (source / part / "River").rmdir()
    assert_refused(command(*words), "lacks 1 of the 10 classes of eurosat (River)")
    assert not leftovers(tmp_path)


def test_ink_on_paper_in_a_folder_becomes_bright(tmp_path):
    labels = [*itertools.chain(*listed("quickdraw").values())]
    for label in labels:
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.new("L", (16, 16), 255).save(tmp_path / "in" / label / "paper.png")
    words = ("--dataset", "quickdraw", "--source", tmp_path / "in", "--data_dir", tmp_path)
    assert command(*words).returncode == 0
    assert not data.load(tmp_path, "quickdraw").splits["train"].pixels.any()


# ---- Omniglot


def test_the_vinyals_split_is_made_of_omniglots_originals(tmp_path, monkeypatch):
    """The same drawings from the archives and from tensorflow-datasets, with four rotations, in the list's splits."""
    replace(monkeypatch, omniglot.PARTS, **PARTS)
    (tmp_path / "splits").mkdir()
    table = "split,class\ntrain,Greek/character09\ntrain,Zulu/character02\nval,Arcadian/character01\n"
    (tmp_path / "splits/omniglot_vinyals.csv").write_text(table + "test,Greek/character10\ntest,Zulu/character01\n")
    monkeypatch.setattr(benchmarks, "SPLITS", tmp_path / "splits")
    lay(tmp_path / "zips", fake_omniglot(20), True)
    words = ["--dataset", "omniglot_vinyals", "--data_dir", tmp_path]
    done = command(*words, "--source", tmp_path / "zips")
    assert done.returncode == 0, done.stderr
    made = manifest_of(tmp_path, "omniglot_vinyals")
    assert (made["rotations"], made["split_seed"], made["image_shape"]) == (4, None, [28, 28, 1])
    assert {split: entry["names"] for split, entry in made["splits"].items()} == {
        "train": ["Greek/character09", "Zulu/character02"], "val": ["Arcadian/character01"],
        "test": ["Greek/character10", "Zulu/character01"],
    }  # fmt: skip
    assert [entry["classes"] for entry in made["splits"].values()] == [8, 4, 8]
    assert [file["name"] for file in made["source"]["files"]][-1] == "omniglot_vinyals.csv"
    characters, _ = omniglot.read_omniglot(tmp_path / "zips", 28)
    for split, entry in made["splits"].items():
        wanted = [sorted(characters[name], key=lambda drawing: drawing[0]) for name in entry["names"]]
        stored = np.load(tmp_path / "omniglot_vinyals" / f"{split}.npy")
        np.testing.assert_array_equal(stored, [[image for _, image in drawings] for drawings in wanted])
    monkeypatch.setattr(omniglot, "fetch_omniglot", lambda size: (characters, {"given": "fetched", "files": []}))
    assert command(*words, "--force").returncode == 0
    again = manifest_of(tmp_path, "omniglot_vinyals")["splits"]
    assert [entry["sha256"] for entry in again.values()] == [entry["sha256"] for entry in made["splits"].values()]
    assert_refused(command(*words, "--seed", 1), "--seed is not a flag of omniglot_vinyals")


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "images_background.zip").exists(), reason="set OMNIGLOT to the archives' folder")
def test_the_real_omniglot_in_vinyals_split(tmp_path):
    assert command("--dataset", "omniglot_vinyals", "--source", REAL, "--data_dir", tmp_path).returncode == 0
    splits = manifest_of(tmp_path, "omniglot_vinyals")["splits"]
    assert {name: split["classes"] for name, split in splits.items()} == {"train": 4112, "val": 688, "test": 1692}
    assert {name: split["sha256"][:16] for name, split in splits.items()} == {
        "train": "e2b2350a06cad7f9", "val": "8fc3163f40b2ab07", "test": "6d33221437ebf932",
    }  # fmt: skip


# ---- the page


def size_of(bytes_):
    """A download's size as the page has it."""
    return f"{bytes_ / 2**20:.0f} MiB" if bytes_ < 2**30 else f"{bytes_ / 2**30:.1f} GiB"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_has_a_row_for_each_benchmark(name):
    one = BENCHMARKS[name]
    counts = " / ".join(str(one.rotations * count) for count in SIZES[name])
    image = f"{one.size}x{one.size}x{one.channels}"
    row = (
        f"| `{name}` | {one.title} | {counts} | {image} | {one.split_from} | {one.licence} | {size_of(one.download)} |"
    )
    assert row in (ROOT / "docs/data.md").read_text()
