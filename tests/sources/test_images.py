"""Datasets of your own pictures: how a picture becomes an image, which files are read, which split a class is in."""

import itertools
import os
import shutil
import subprocess
import sys
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import data
import get_data
from conftest import ROOT, assert_refused, call, succeed
from errors import UserError
from get_data import images_per_class
from originals import manifest_of, touch
from sources import class_split, images, pictures
from sources.class_split import assign_at_random
from sources.preparation import Preparation

RNG = np.random.default_rng(0)


def picture(side=20, channels=3):
    return RNG.integers(0, 256, (side, side, channels), np.uint8)


def lay(root, counts, suffix="png"):
    """Classes of so many random pictures: name -> number. Returns the pixels by class."""
    pixels = {}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        pixels[name] = [picture() for _ in range(count)]
        for number, image in enumerate(pixels[name]):
            Image.fromarray(image).save(root / name / f"{number:03d}.{suffix}")
    return pixels


def get(source, data_dir, *flags, name="mine"):
    return call("get_data.py", "--dataset", name, "--source", source, "--data_dir", data_dir, *flags)


# ---- pictures


def test_a_picture_is_squeezed_into_the_square():
    stripes = np.zeros((10, 40, 3), np.uint8)
    stripes[:, 20:] = 255
    image = Preparation(20, 3)(Image.fromarray(stripes))
    assert image.shape == (20, 20, 3) and image[:, :8].max() < 30 and image[:, 12:].min() > 225
    same = picture()
    np.testing.assert_array_equal(Preparation(20, 3)(Image.fromarray(same)), same)
    squeezed = Preparation(13, 3)(Image.fromarray(same))
    for filter, wanted in ((Image.Resampling.LANCZOS, True), (Image.Resampling.BILINEAR, False)):
        resized = np.asarray(Image.fromarray(same).resize((13, 13), filter))
        assert np.array_equal(squeezed, resized) == wanted, filter


def test_ink_on_paper_is_inverted_and_colour_is_made_grey():
    image = Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    assert (Preparation(4, 1)(image) == 76).all()  # ITU-R 601's luma of red
    assert (Preparation(4, 1, invert=True)(image) == 255 - 76).all()


def test_what_is_transparent_is_white():
    image = np.zeros((4, 4, 4), np.uint8)
    image[:2, :, 3] = 255  # opaque black above
    half = image.copy()
    half[..., 3] = 128
    for kind in ("RGBA", "LA", "P"):
        prepared = Preparation(4, 3)(Image.fromarray(image).convert("RGBA").convert(kind))
        if kind != "P":  # a palette's conversion drops transparency, unless it is saved with it
            assert (prepared[:2] == 0).all() and (prepared[2:] == 255).all()
    assert abs(int(Preparation(4, 1)(Image.fromarray(half))[0, 0, 0]) - 127) <= 1
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    assert (Preparation(4, 3)(palette) == 255).all()


def test_the_transparent_level_of_a_png_of_sixteen_bits_is_white(tmp_path):
    Image.fromarray(np.array([[0, 1000], [257, 65535]], np.uint16)).save(tmp_path / "a.png", transparency=1000)
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["transparency"] == 1000
        assert Preparation(2, 1)(image)[..., 0].tolist() == [[0, 255], [1, 255]]


def test_a_camera_turned_on_its_side_is_turned_back(tmp_path):
    upright = np.zeros((6, 6, 3), np.uint8)
    upright[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(Preparation(6, 3)(image), upright)


def test_sixteen_bits_are_scaled_to_eight():
    levels = np.array([[0, 257, 65535], [128 * 257, 65535, 0], [1, 2, 3]], np.uint16)
    wanted = [[0, 1, 255], [128, 255, 0], [0, 0, 0]]
    assert Preparation(3, 1)(Image.fromarray(levels))[..., 0].tolist() == wanted


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("invert", [False, True])
def test_a_picture_of_an_image_becomes_that_image(channels, invert):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, channels), np.uint8)
    prepare = Preparation(8, channels, invert)
    np.testing.assert_array_equal(prepare(prepare.picture_of(image)), image)


# ---- folders


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "JPEG"])
def test_a_folder_of_classes_becomes_a_dataset_that_trains(suffix, tmp_path):
    pixels = lay(tmp_path / "in", {f"c {i}": 5 for i in range(10)}, suffix)
    done = get(tmp_path / "in", tmp_path, "--size", 20, "--shares", "0.5,0.2,0.3")
    assert done.returncode == 0, done.stderr
    assert "train 5 classes x 5, val 2 classes x 5, test 3 classes x 5 images of 20x20x3" in done.stdout
    made = manifest_of(tmp_path)
    names = [made["splits"][split]["names"] for split in ("train", "val", "test")]
    assert sorted(itertools.chain(*names)) == sorted(pixels)
    assert made["prepare"] == {"size": 20, "channels": 3, "invert": False}
    if suffix in ("png", "bmp"):
        dataset = data.load(tmp_path, "mine")
        for split, own in zip(("train", "val", "test"), names, strict=True):
            np.testing.assert_array_equal(dataset.splits[split].pixels, [pixels[name] for name in own])
    if suffix == "png":
        flags = ("--dataset", "mine", "--way", 4, "--query", 2, "--channels", 2, "--metabatch", 2, "--n_steps", 0)
        flags += ("--val_every", 0, "--n_train_iters", 1, "--model", "maml", "--gpu_id", -1)
        done = succeed("main.py", "--savedir", tmp_path / "run", "--data_dir", tmp_path, *flags)
        assert "note: this run cannot be tested: --way 4 is more than the 3 test classes" in done.stdout


def test_classes_of_unequal_numbers_are_kept_and_a_run_uses_them(tmp_path):
    counts = {f"c{i}": 4 + i for i in range(8)}
    pixels = lay(tmp_path / "in", counts)
    assert get(tmp_path / "in", tmp_path, "--size", 20, "--rotations", 4).returncode == 0
    made, dataset = manifest_of(tmp_path)["splits"], data.load(tmp_path, "mine")
    assert {split: entry["base_classes"] for split, entry in made.items()} == {"train": 4, "val": 2, "test": 2}
    for split, entry in made.items():
        own = dataset.splits[split]
        assert own.images_per_class.tolist() == [counts[name] for name in entry["names"]]
        assert own.classes == 4 * len(entry["names"]) == entry["classes"]
        images = own.pixels.reshape(-1, 20, 20, 3)
        np.testing.assert_array_equal(images, np.concatenate([pixels[name] for name in entry["names"]]))
    flags = ("--dataset", "mine", "--way", 3, "--query", 3, "--channels", 2, "--metabatch", 2, "--n_steps", 0)
    flags += ("--val_every", 0, "--n_train_iters", 1, "--model", "maml", "--train_split", "trainval", "--gpu_id", -1)
    savedir = tmp_path / "run"
    succeed("main.py", "--savedir", savedir, "--data_dir", tmp_path, *flags)
    succeed("main.py", "--mode", "meta_test", "--savedir", savedir, "--n_test_iters", 3)
    more = call("main.py", "--savedir", tmp_path / "b", "--data_dir", tmp_path, *flags, "--shot", 2)
    least = min(counts[name] for split in ("train", "val") for name in made[split]["names"])
    assert_refused(more, f"need 5 images per class, and one of the train classes has {least}")


def read(root, table=None):
    """The classes of a folder's pictures, in order, the split of each class, and the notes."""
    pictures, dealt, notes = images.read_folder(root, table)
    return [picture.label for picture in pictures], dealt, " ".join(notes)


def test_classes_that_are_dealt_already_stay_so(tmp_path):
    odd = os.fsdecode(b"Zo\xeb")  # a name that is not UTF-8
    for split, names in (("Train", "ab"), ("valid", "c"), ("TEST", ("d", odd))):
        lay(tmp_path / "in" / split, dict.fromkeys(names, 2))
    (tmp_path / "in/__MACOSX/train").mkdir(parents=True)
    done = get(tmp_path / "in", tmp_path, "--size", 16)
    assert (
        done.returncode == 0
        and f"skipped files and folders that systems leave behind: {tmp_path}/in/__MACOSX" in done.stderr
    )
    made = manifest_of(tmp_path)
    assert {split: entry["names"] for split, entry in made["splits"].items()} == {
        "train": ["a", "b"], "val": ["c"], "test": [odd, "d"],
    }  # fmt: skip
    assert made["split_seed"] is None


def test_parts_have_many_names_and_a_lone_validation_is_the_test(tmp_path):
    for number, (train, val, test) in enumerate([("train", "validation", "test"), ("Training", "dev", "Eval")]):
        touch(tmp_path / str(number), f"{train}/a/1.png", f"{val}/b/1.png", f"{test}/c/images/1.png")
        assert read(tmp_path / str(number)) == (["a", "b", "c"], {"a": "train", "b": "val", "c": "test"}, "")
    touch(tmp_path / "two", "train/a/1.png", "val/b/1.png")
    _, dealt, notes = read(tmp_path / "two")
    assert dealt == {"a": "train", "b": "test"}
    assert f"there is no test folder: the classes in {tmp_path}/two/val are the test classes" in notes


def test_a_set_for_ordinary_classification_is_put_together_and_dealt(tmp_path):
    accents = [unicodedata.normalize(form, "é") for form in ("NFD", "NFC")]
    touch(tmp_path, f"train/{accents[0]}/1.png", "train/b/1.png", "train/c/1.png", "val/b/2.png", "val/b/3.png")
    touch(tmp_path, f"test/{accents[1]}/2.png", "test/b/4.png")
    labels, dealt, notes = read(tmp_path)
    assert not dealt and {label: labels.count(label) for label in labels} == {accents[0]: 2, "b": 4, "c": 1}
    assert "the same classes are in train and val and test" in notes
    touch(tmp_path, "test/new/1.png")
    with pytest.raises(
        UserError, match=r"the class b in train and in val and in test, but new not in train: .*--split"
    ):
        read(tmp_path)
    (tmp_path / "split.csv").write_text("train,b\ntest,new\n")
    labels, dealt, _ = read(tmp_path, tmp_path / "split.csv")
    assert dealt == {"b": "train", "new": "test"} and labels.count("b") == 4


def test_folders_that_are_no_layout_are_named_with_the_one_that_is_wanted(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/b/1.png", "extra/c/1.png", "README.md")
    with pytest.raises(
        UserError, match=r"extra is beside .*train, and .* expected: .*/CLASS/\*.jpg, or .*train, val and"
    ):
        read(tmp_path)
    (tmp_path / "extra").rename(tmp_path / "Val")
    touch(tmp_path, "valid/d/1.png")
    with pytest.raises(UserError, match=r"Val and .*valid are for the same split"):
        read(tmp_path)
    shutil.rmtree(tmp_path / "Val")
    shutil.rmtree(tmp_path / "valid")
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(UserError, match=r"no folder but .*train: give that one"):
        read(tmp_path)
    touch(tmp_path, "val/images/1.png", "val/annotations.txt")
    with pytest.raises(UserError, match=r"val has no folders of classes: .*give .*train, and its classes are assigned"):
        read(tmp_path)
    (tmp_path / "val/images/1.png").rename(tmp_path / "val/1.png")
    (tmp_path / "val/images").rmdir()
    with pytest.raises(UserError, match="val has no folders of classes"):
        read(tmp_path)
    touch(tmp_path / "vehicles", "train/1.png", "test/images/1.png", "bus/1.png")  # classes with these names
    assert read(tmp_path / "vehicles") == (["bus", "test", "train"], {}, "")


def test_a_table_deals_the_classes_and_leaves_out_others(tmp_path):
    lay(tmp_path / "in", dict.fromkeys([*"abcd", "  e"], 2))
    table = tmp_path / "split.csv"
    table.write_text("\ufeffsplit,class\ntest, b\ntrain,d\ntrain,a\nval,  e\n", encoding="utf-8")  # as Excel does
    flags = ("--size", 16, "--split_file", table)
    (tmp_path / "in/c/000.png").write_bytes(b"damaged")  # of a class that is left out
    assert_refused(get(tmp_path / "in", tmp_path, *flags, "--shares", "1,1,1"), "--shares has no effect, because --spl")
    assert_refused(get(tmp_path / "in", tmp_path, *flags, "--split_seed", 1), "--split_seed has no effect")
    assert get(tmp_path / "in", tmp_path, *flags).returncode == 0
    made = manifest_of(tmp_path)
    assert {split: entry["names"] for split, entry in made["splits"].items()} == {
        "train": ["a", "d"], "val": ["  e"], "test": ["b"],
    }  # fmt: skip
    assert made["source"]["files"][0]["name"] == "split.csv"
    assert "it is complete" in get(tmp_path / "in", tmp_path, *flags).stdout
    table.write_text("Testing,b\n\nTRAIN,d\ntrain,a\nvalidation,  e\n")
    assert class_split.read_split(table, ["a", "b", "  e", "d"]) == {
        "b": "test",
        "d": "train",
        "a": "train",
        "  e": "val",
    }
    table.write_text("test,a\ntrain,b\n")
    assert_refused(get(tmp_path / "in", tmp_path, *flags), "was made with another --split_file", "--force")
    for text, words in (
        ("test,b\ntrain,x\n", "line 2 has the class 'x'"),
        ("test,b\n", "has no train classes"),
        ("test,b\ntrain,b\n", "line 2 has the class b again"),
        ("train,a\ntrain,a\ntest,b\n", "line 2 has the class a again"),
        ("tests,b\n", "line 1 is not SPLIT,CLASS"),
    ):
        table.write_text(text)
        assert_refused(get(tmp_path / "in", tmp_path, "--size", 16, "--split_file", table, "--force"), words)
    assert manifest_of(tmp_path) == made  # a refusal leaves what is there


def test_a_table_and_folders_may_encode_names_in_two_ways(tmp_path):
    table, odd = tmp_path / "split.csv", os.fsdecode(b"Zo\xeb")
    for ours, theirs in (("NFC", "NFD"), ("NFD", "NFC")):
        name = unicodedata.normalize(ours, "Ångström")
        text = unicodedata.normalize(theirs, f'train,Ångström\r\ntest," {odd}"\r\ntest,"a\nb"\r\n')
        table.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert class_split.read_split(table, [name, odd, "a\nb"]) == {name: "train", odd: "test", "a\nb": "test"}
    table.write_bytes("train,Zoë\n".encode("latin-1"))
    with pytest.raises(UserError, match="which the source does not have: correct it, or save the table in UTF-8"):
        class_split.read_split(table, ["Zoë"])


def test_there_are_classes_enough_for_tasks_where_there_can_be():
    def sizes(count, *more):
        dealt = assign_at_random([f"c{i}" for i in range(count)], *more)
        return [len(dealt.get(split, [])) for split in ("train", "val", "test")]

    wanted = {2: [1, 0, 1], 3: [2, 0, 1], 4: [2, 0, 2], 9: [5, 0, 4], 10: [5, 0, 5], 12: [7, 0, 5], 19: [14, 0, 5]}
    wanted |= {20: [10, 5, 5], 24: [14, 5, 5], 40: [26, 6, 8], 1000: [640, 160, 200]}
    assert {count: sizes(count, None, 0) for count in wanted} == wanted
    assert sizes(12, class_split.DEFAULT_SHARES, 0) == [8, 2, 2]  # as they are given
    assert sizes(8, None, 0, 4) == [4, 2, 2]  # of each class come four
    many = [f"c{i}" for i in range(40)]
    assert assign_at_random(many, None, 3) == assign_at_random(many, class_split.DEFAULT_SHARES, 3)


def test_the_largest_tasks_are_said_and_too_small_ones_are_warned_of(tmp_path):
    """Twelve classes can be trained and tested on with --way 5; with other shares they cannot."""
    lay(tmp_path / "in", {f"c{i}": 6 - i % 2 for i in range(12)})
    done = get(tmp_path / "in", tmp_path, "--size", 16)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "train 7 classes x 5 to 6, test 5 classes x 5 to 6 images of 16x16x3; no validation classes" in first
    assert (
        second
        == "tasks: --way at most 5 (test has no more classes), --shot + --query at most 5 (c1 has no more images)"
    )
    flags = ("--size", 16, "--shares", "8,2,2")
    done = get(tmp_path / "in", tmp_path, *flags, name="few")
    assert "validation" not in done.stdout and "tasks: --way at most 2 (test has no more classes)" in done.stdout
    warning = done.stderr.splitlines()[-1]
    assert (
        warning.startswith("warning: there are too few classes for --way 5")
        and "train with --way 2, or give more classes" in warning
    )
    assert warning in get(tmp_path / "in", tmp_path, *flags, name="few").stderr  # whenever it is asked for
    entry = {"classes": 1, "base_classes": 1, "images_per_class": 9, "names": ["a"]}
    sentence, warning = get_data.largest_episodes({"train": entry, "test": entry})
    assert sentence.endswith("--query at most 9") and warning.endswith("give more classes, or other --shares")


def test_the_seed_deals_and_every_split_that_is_needed_has_a_class():
    labels = [f"c{i}" for i in range(20)]
    dealt = assign_at_random(labels, [0.64, 0.16, 0.2], 0)
    assert {split: len(own) for split, own in dealt.items()} == {"train": 13, "val": 3, "test": 4}
    assert dealt == assign_at_random(labels, [0.64, 0.16, 0.2], 0) != assign_at_random(labels, [0.64, 0.16, 0.2], 1)
    for shares in ((0.98, 0.01, 0.01), (0.01, 0.01, 0.98), (0.5, 0, 0.5)):
        for count in (2, 3, 5):
            parts = assign_at_random(labels[:count], shares, 3)
            assert parts["train"] and parts["test"] and sorted(itertools.chain(*parts.values())) == labels[:count]
    with pytest.raises(UserError, match="there is only one class, c0"):
        assign_at_random(labels[:1], [0.64, 0.16, 0.2], 0)


def test_files_that_are_no_images_are_listed_and_refused_or_left_out(tmp_path):
    lay(tmp_path / "in", {"a": 3, "b": 2, "c": 2})
    folder = tmp_path / "in" / "a"
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("I am no image")
    (folder / "notes.txt").write_text("nor am I")
    (folder / "empty.png").write_bytes(b"")
    (folder / "001.png").rename(folder / "png.jpg")  # misnamed, and an image
    (folder / "zcopy.png").write_bytes(whole)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "desktop.ini").write_bytes(b"x")
    for hidden in (tmp_path / "in" / ".git", folder / ".git"):  # neither a class nor a folder in one
        hidden.mkdir()
        (hidden / "logo.png").write_bytes(whole)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with open(folder / "huge.png", "wb") as file:
        file.truncate(pictures.LARGEST + 1)
    done = get(tmp_path / "in", tmp_path, "--size", 20)
    assert_refused(done, "5 pictures cannot be used", "gone.png cannot be read (No such file", "--skip_bad")
    assert not (tmp_path / "mine").exists()
    done = get(tmp_path / "in", tmp_path, "--size", 20, "--skip_bad")
    assert done.returncode == 0 and "6 pictures left out" in done.stdout
    copies = f"note: left out copies of pictures of the same class: {folder / 'zcopy.png'}\n"
    assert copies in done.stderr
    made = manifest_of(tmp_path)
    assert made["left_out"] == 6
    counts = {}
    for entry in made["splits"].values():
        numbers = entry["images_per_class"]
        numbers = numbers if isinstance(numbers, list) else [numbers] * entry["base_classes"]
        counts |= dict(zip(entry["names"], numbers, strict=True))
    assert counts == {"a": 3, "b": 2, "c": 2}


def test_a_picture_in_two_classes_is_refused_or_left_out_of_both(tmp_path):
    """It could be in train and in test. A third copy, in the first class, has no picture to be a copy of."""
    lay(tmp_path / "in", {"a": 3, "b": 3, "c": 3})
    twin = (tmp_path / "in/a/001.png").read_bytes()
    for name in ("b/copy.png", "c/copy.png", "a/later.png"):
        (tmp_path / "in" / name).write_bytes(twin)
    done = get(tmp_path / "in", tmp_path, "--size", 20)
    assert_refused(done, "3 pictures cannot be used", "b/copy.png is a copy of", "a/001.png, in another class")
    assert "a/001.png is in the class b, too" in done.stderr and not (tmp_path / "mine").exists()
    done = get(tmp_path / "in", tmp_path, "--size", 20, "--skip_bad")
    assert done.returncode == 0 and "4 pictures left out" in done.stdout, done.stderr
    assert {
        name: count
        for entry in manifest_of(tmp_path)["splits"].values()
        for name, count in zip(entry["names"], images_per_class(entry), strict=True)
    } == {"a": 2, "b": 3, "c": 3}


def test_pictures_in_wrong_places_are_refused(tmp_path):
    lay(tmp_path / "in", {"a": 1, "b": 1})
    Image.fromarray(picture()).save(tmp_path / "in" / "stray.png")
    assert_refused(get(tmp_path / "in", tmp_path), "stray.png is in no folder of a class")
    (tmp_path / "in" / "stray.png").unlink()
    (tmp_path / "in" / "a" / "deeper").mkdir()
    assert_refused(
        get(tmp_path / "in", tmp_path),
        "deeper is a folder in",
        "/a, which is read as a class: expected:",
        "train, val and test",
    )
    (tmp_path / "empty").mkdir()
    assert_refused(get(tmp_path / "empty", tmp_path), "holds no folder with images")
    (tmp_path / "file").write_text("")
    assert_refused(get(tmp_path / "file", tmp_path), "is not a folder of classes")


def test_the_command_line_of_ones_own_images(tmp_path):
    lay(tmp_path / "in", {"a": 1, "b": 1})
    assert_refused(call("get_data.py", "--dataset", "mine", "--data_dir", tmp_path), "give the --source of your own")
    assert_refused(get(tmp_path / "in", tmp_path, name="../mine"), "must be a dataset's name")
    assert_refused(get("tfds:mnist", tmp_path, name="omniglot"), "choose another name than omniglot")
    assert_refused(get(tmp_path / "in", tmp_path, "--channels", 2), "--channels")
    assert_refused(get(tmp_path / "in", tmp_path, "--size", 1), "--size")
    for shares in ("1,2", "0,1,1", "1,1,0", "inf,0,1", "1,nan,1", "1,-1,1"):
        assert_refused(get(tmp_path / "in", tmp_path, "--shares", shares), "three shares")
    assert_refused(get(tmp_path / "in", tmp_path, "--mirror", "http://127.0.0.1:9"), "--mirror is not a flag of mine")
    big = ("--dataset", "omniglot", "--source", tmp_path / "in", "--data_dir", tmp_path, "--size", 200)
    assert_refused(call("get_data.py", *big), "--size: must be a whole number of at most 105")
    assert get(tmp_path / "in", tmp_path, "--size", 16).returncode == 0
    assert "it is complete" in get(tmp_path / "in", tmp_path, "--size", 16).stdout
    for flag, value in (("--size", 20), ("--channels", 1), ("--split_seed", 3), ("--rotations", 4)):
        flags = ["--size", 16, flag, value] if flag != "--size" else [flag, value]
        assert_refused(get(tmp_path / "in", tmp_path, *flags), f"not {value}: make it again with --force")
    shares = ("--size", 16, "--shares", "1,0,1")
    assert_refused(get(tmp_path / "in", tmp_path, *shares), "has --shares [0.64, 0.16, 0.2]", "with --force")
    assert get(tmp_path / "in", tmp_path, *shares, "--force").returncode == 0
    assert "it is complete" in get(tmp_path / "in", tmp_path, *shares).stdout
    succeed("get_data.py", "--dataset", "mine", "--data_dir", tmp_path, "--verify")


# ---- tensorflow-datasets


def test_the_builder_of_a_folder_gives_what_the_folder_gives(tmp_path, monkeypatch):
    """The real one, ImageFolder, in place of one that is downloaded: the same arrays, whichever way they come."""
    import tensorflow_datasets as tfds

    pixels = lay(tmp_path / "in" / "train", {"a": 2, "b": 3, "c": 2})
    for name, more in lay(tmp_path / "in" / "test", {"a": 1, "b": 2, "c": 1}).items():  # its test images, not ours
        pixels[name] += more
    for file in (tmp_path / "in").glob("*/*/*.png"):
        (tmp_path / "all" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "all" / file.parent.name / f"{file.parts[-3]}{file.name}")
    asked = []

    def builder(name):
        asked.append(name)
        made = tfds.ImageFolder(tmp_path / "in")
        monkeypatch.setattr(made, "download_and_prepare", lambda: None)
        return made

    monkeypatch.setattr(tfds, "builder", builder)
    done = get("tfds:some/thing:1.0.0", tmp_path, "--size", 20)
    assert done.returncode == 0, done.stderr
    assert asked == ["some/thing:1.0.0"]
    assert get(tmp_path / "all", tmp_path, "--size", 20, name="folder").returncode == 0
    one, other = data.load(tmp_path, "mine"), data.load(tmp_path, "folder")
    for split, entry in manifest_of(tmp_path)["splits"].items():
        assert entry["names"] == manifest_of(tmp_path, "folder")["splits"][split]["names"]
        a, b = (dataset.splits[split].pixels.reshape(-1, 20, 20, 3) for dataset in (one, other))
        assert len(a) == len(b) == sum(len(pixels[name]) for name in entry["names"])
        first = 0
        for name in entry["names"]:
            own = slice(first, first + len(pixels[name]))
            assert sorted(x.tobytes() for x in a[own]) == sorted(x.tobytes() for x in b[own])
            first += len(pixels[name])


def builder_of(image, label, **examples):
    """A builder of tensorflow-datasets with these two features and, by split, (pixels, label) of its examples."""
    info = SimpleNamespace(full_name="own/1.0.0", features={"image": image, "label": label}, splits=examples)
    names = ("image", "label")
    read = {split: [dict(zip(names, one, strict=True)) for one in own] for split, own in examples.items()}
    return SimpleNamespace(info=info, as_dataset=lambda split: read[split])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_images_without_a_label_are_left_out_and_grey_ones_are_read(kind, monkeypatch, capsys):
    """What has no label, as many sets' test images, has -1, which would be the last class in Python."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds, "as_numpy", lambda examples: examples)
    grey = RNG.integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    stored = grey.astype(kind) * kind(257 if kind is np.uint16 else 1)
    label = SimpleNamespace(shape=(), np_dtype=np.int64, int2str=["first", "last"].__getitem__)
    train, test = zip(stored, [0, -1, 1], strict=False), zip(stored[3:], [-1, 0], strict=True)
    builder = builder_of(tfds.features.Image(shape=(8, 8, 1), dtype=kind), label, train=train, test=test)
    pictures = list(images.read_builder(builder))
    assert [picture.label for picture in pictures] == ["first", "first", "last"]  # test comes first
    for one, number in zip(pictures, (4, 0, 2), strict=True):
        np.testing.assert_array_equal(Preparation(8, 1)(one.read()), grey[number])
    assert "2 images of own/1.0.0 have no label" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["floats", "deep colour", "12 channels", "video", "text", "several labels"])
def test_a_builder_of_other_images_or_labels_is_refused(fault):
    from tensorflow_datasets import features

    image, label = features.Image(), features.ClassLabel(names=["a", "b"])
    image = {
        "floats": features.Image(shape=(8, 8, 1), dtype=np.float32),
        "deep colour": features.Image(shape=(8, 8, 3), dtype=np.uint16),
        "12 channels": features.Tensor(shape=(8, 8, 12), dtype=np.uint8),
        "video": features.Video(shape=(None, 8, 8, 3)),
    }.get(fault, image)
    label = {"text": features.Text(), "several labels": features.Sequence(label)}.get(fault, label)
    words = (
        "labels other than one class per image"
        if label.np_dtype != np.int64 or label.shape
        else "which are not pictures"
    )
    with pytest.raises(UserError, match=f"own/1.0.0 has .*{words}"):
        list(images.read_builder(builder_of(image, label, train=[])))


def test_a_name_that_is_none_and_a_set_without_labels_are_refused(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    assert_refused(get("tfds:no_such_set_at_all", tmp_path), "could not give no_such_set_at_all")

    class Info:
        full_name, features = "other/1.0.0", {"text": None}

    class Builder:
        info, data_dir, url_infos = Info(), "", {}

        def download_and_prepare(self):
            pass

    monkeypatch.setattr(tfds, "builder", lambda name: Builder())
    assert_refused(get("tfds:other", tmp_path), "other/1.0.0 has no images with labels: choose another")


# ---- size


@pytest.mark.slow
def test_ten_thousand_files_take_no_more_memory_than_a_hundred(tmp_path):
    pixels = picture(64)
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    script += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    peaks = []
    for files in (100, 10_000):
        folder = tmp_path / str(files)
        for c in range(20):
            (folder / f"c{c}").mkdir(parents=True)
        for i in range(files):
            pixels[:8], pixels[8:16] = i % 256, i // 256  # no copies
            Image.fromarray(pixels).save(folder / f"c{i % 20}" / f"{i}.png")
        words = [sys.executable, "-c", script, sys.executable, ROOT / "get_data.py", "--dataset", f"of{files}"]
        words += ["--source", folder, "--data_dir", tmp_path]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 30, peaks  # MB; the images themselves are 211
