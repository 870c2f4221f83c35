"""A dataset from pictures in folders, one a class, or from an image classification set of tensorflow-datasets."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from errors import UserError
from flags import Setting, to_number, whole
from sources.arrays import ArrayFile, Names, checksum, write_manifest
from sources.folders import Walk, is_inner, same_name
from sources.maker import TFDS, existing_path, is_tfds
from sources.pictures import BadPicture, from_pillow, read, refusal, report
from sources.preparation import Preparation
from sources.tfds import read_prepared

# The names, in any capitals, of the folders that hold a split's classes, and of the splits in a table.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = tuple(PARTS)
LAYOUTS = "{source}/CLASS/*.jpg, or {source}/train, val and test with CLASS/*.jpg in each"
SHARED = (0.64, 0.16, 0.2)  # of the classes, to each split
WAY = 5  # the documented commands' tasks have so many classes
OTHERWISE = "see its catalogue for the name, or give a folder of classes as --source"
PIXELS = {("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1)}  # types and depths of pictures
RAW = "pixels.raw"  # in the folder that is being made: images as they come


def shares_of_classes(text: str) -> list[float]:
    values = [to_number(part) for part in text.split(",")]
    if len(values) != 3 or not all(0 <= value <= 1e6 for value in values) or not values[0] > 0 < values[2]:
        raise argparse.ArgumentTypeError(f"must be three shares, of train,val,test, as in 0.64,0.16,0.2, not {text!r}")
    return values


shares_of_classes.metavar = "TRAIN,VAL,TEST"
SIZE = Setting(84, "side of the images in pixels", whole(16, 4096))
CHANNELS = Setting(3, "3: colour; 1: grey", int, choices=(1, 3))
INVERT = Setting(False, "dark becomes bright, for ink on paper")
ROTATIONS = Setting(1, "4: every class becomes four, turned by quarter turns", int, choices=(1, 4))
SPLIT_SEED = Setting(0, "seed of the shuffle that deals the classes", whole(0, 2**32 - 1))
SHARES = Setting(
    None,
    f"shares of the classes (default: {','.join(map(str, SHARED))}, but at least {WAY} classes to train and {WAY} to "
    f"test if there are {2 * WAY}, and at least {WAY} or none to validate)",
    shares_of_classes,
)
SPLIT_FILE = Setting(
    None, "table with lines of SPLIT,CLASS, where SPLIT is train, val or test; other classes are left out",
    existing_path, metavar="FILE",
)  # fmt: skip
SKIP_BAD = Setting(False, "leave out pictures that cannot be read, and count them in the manifest")
SETTINGS = {
    "size": SIZE, "channels": CHANNELS, "invert": INVERT, "rotations": ROTATIONS, "split_seed": SPLIT_SEED,
    "shares": SHARES, "split_file": SPLIT_FILE, "skip_bad": SKIP_BAD,
}  # fmt: skip


class Picture(NamedTuple):
    """A picture of a source: its class, and the function that makes an image of it (BadPicture where it cannot)."""

    label: str
    prepare: Callable[[Preparation], np.ndarray]


def make_images(
    folder: Path,
    target: Path,
    source: Path,
    size: int,
    channels: int,
    invert: bool,
    rotations: int,
    split_seed: int,
    shares: list[float] | None,
    split_file: Path | None,
    skip_bad: bool,
) -> dict:
    """Make a dataset in `folder` from `source`, a folder (see `read_folder`) or tfds:NAME; returns its manifest.

    UserError where the source, or the table of the split, is at fault.
    """
    prepare = Preparation(size, channels, invert)
    if is_tfds(source):
        name = str(source).removeprefix(TFDS)
        builder = read_prepared(name, lambda builder: builder, OTHERWISE)
        pictures, dealt, given = read_builder(builder), {}, f"tensorflow-datasets {builder.info.full_name}"
    else:
        pictures, dealt, notes = read_folder(source, split_file)
        given = str(source)
        for note in notes:
            print(note, file=sys.stderr)
    places, bad = write_raw(folder / RAW, pictures, prepare, skip_bad)
    if split_file and not dealt:
        dealt = read_split(split_file, places)
    names = in_order(dealt, places) if dealt else deal(sorted(places), shares, split_seed, rotations)
    counts = write_splits(folder, names, places, prepare)
    files = [checksum(split_file)] if split_file else []
    return write_manifest(
        folder, target.name, names, {"given": given, "files": files}, rotations,
        split_seed=None if dealt else split_seed, shares=None if dealt else shares or list(SHARED), counts=counts,
        prepare=prepare._asdict(), left_out=bad,
    )  # fmt: skip


# ---- sources


def read_folder(source: Path, table: Path | None) -> tuple[list[Picture], dict[str, str], list[str]]:
    """Read the pictures in SOURCE/class/ or in SOURCE/PART/class/, where a part is train, val or test (see PARTS) ->
    the pictures, the split of each class where the parts or a `table` (see `read_split`) decide it, and notes on
    the folders.

    Where all classes of the other parts are training classes, too, as in sets for ordinary classification, or where
    there is a table, the pictures of a class are put together. UserError where a picture lies elsewhere, and where
    some classes are in two parts and some are not.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder of classes, one folder each: unpack it, and give that folder")
    walk = Walk()
    parts = parts_of(source, walk)
    pictures, labels, owners = [], {}, {}  # labels: a name in one spelling -> as its first folder has it
    for split, part in (parts or {"": source}).items():
        for name, file in walk.files_by_class(part, LAYOUTS.format(source=source)):
            label = labels.setdefault(same_name(name), name)
            owners.setdefault(label, {})[split] = part.name
            pictures.append(Picture(label, lambda prepare, file=file: prepare(read(file))))
    notes = walk.notes()
    if table or not parts:
        return pictures, read_split(table, owners) if table else {}, notes
    several = [label for label, own in owners.items() if len(own) > 1]
    if alone := [label for label, own in owners.items() if "train" not in own]:
        if several:
            raise UserError(
                f"{source} has the class {several[0]} in {' and in '.join(owners[several[0]].values())}, but "
                f"{alone[0]} not in {parts['train'].name}: a class belongs to one split, so take {several[0]} out of "
                f"one of them, or deal all classes with --split_file"
            )
    elif several:
        notes.append(
            f"note: the same classes are in {' and '.join(part.name for part in parts.values())}: the pictures of each "
            f"class are put together, and the classes dealt to train, val and test, so that tests have other classes"
        )
        return pictures, {}, notes
    if split_of(parts["test"].name) != "test":
        notes.append(f"note: there is no test folder: the classes in {parts['test']} are the test classes")
    return pictures, {label: next(iter(own)) for label, own in owners.items()}, notes


def parts_of(source: Path, walk: Walk) -> dict[str, Path]:
    """Return the folder of each split's classes; an empty dict where the source's folders are classes themselves.

    There is always a train and a test: without a test folder, the validation folder is taken for it. UserError at
    folders that are no splits.
    """
    folders, _ = walk.entries(source)
    named = [(split_of(folder.name), folder) for folder in folders]
    parts = {split: folder for split, folder in reversed(named) if split}
    if "train" not in parts or not holds_classes(parts["train"], walk):  # a class may be called train
        return {}
    layouts = LAYOUTS.format(source=source)
    if others := [folder for split, folder in named if not split]:
        raise UserError(
            f"{others[0]} is beside {parts['train']}, and neither a class nor one of {', '.join(SPLITS)}: move it "
            f"elsewhere; wanted is {layouts}"
        )
    if twins := [(parts[split], folder) for split, folder in named if folder != parts[split]]:
        raise UserError(f"{twins[0][0]} and {twins[0][1]} are for the same split: keep one; wanted is {layouts}")
    if len(parts) == 1:
        raise UserError(f"{source} has nothing but {parts['train']}: give that folder, whose classes are then dealt")
    for part in parts.values():
        if not holds_classes(part, walk):
            raise UserError(
                f"{part} has no folders of classes: move it elsewhere; or give {parts['train']}, whose classes are "
                f"then dealt"
            )
    if "test" not in parts:
        parts["test"] = parts.pop("val")
    return {split: parts[split] for split in SPLITS if split in parts}


def holds_classes(folder: Path, walk: Walk) -> bool:
    """True if a folder holds folders, and not only the one that may lie between a class and its pictures."""
    folders, _ = walk.entries(folder)
    return bool(folders) and not is_inner(folders)


def read_builder(builder) -> Iterator[Picture]:
    """The pictures of all splits of a builder whose examples have an `image` and a `label`. UserError of others."""
    features = builder.info.features
    if not hasattr(features, "keys") or not {"image", "label"} <= set(features.keys()):
        raise UserError(f"{builder.info.full_name} has no image with a label: it is not one for classification")
    import tensorflow_datasets as tfds

    label, image = features["label"], features["image"]
    if label.shape or not np.issubdtype(label.np_dtype, np.integer):
        raise UserError(f"{builder.info.full_name} has other labels than one class an image: {OTHERWISE}")
    one = isinstance(image.shape, tuple) and len(image.shape) == 3
    if not one or (np.dtype(image.np_dtype).name, image.shape[-1]) not in PIXELS:
        kind = f"{image.np_dtype} of the shape {image.shape}"
        raise UserError(f"{builder.info.full_name} has images of {kind}, which are no pictures: {OTHERWISE}")
    name_of, unlabelled = getattr(label, "int2str", str), 0
    for split in sorted(builder.info.splits):
        for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split))):
            if example["label"] < 0:
                unlabelled += 1
                continue
            pixels = example["image"]
            pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            where = f"image {number} of {builder.info.full_name}'s {split}"
            image = partial(from_pillow, Image.fromarray(pixels), where)
            yield Picture(name_of(int(example["label"])), lambda prepare, image=image: prepare(image()))
    if unlabelled:
        print(f"{unlabelled} images of {builder.info.full_name} have no label, and are left out")


# ---- which class is used for what


def split_of(name: str) -> str | None:
    """The split that a folder, or a table, calls so."""
    return next((split for split, names in PARTS.items() if name.strip().lower() in names), None)


def deal(labels: list[str], shares: list[float] | None, seed: int, rotations: int = 1) -> Names:
    """Deal the classes by a seeded shuffle; train and test get one at least. shares: None for SHARED, which
    `enough_for_tasks` then adjusts. UserError where there is only one class."""
    if len(labels) < 2:
        raise UserError(f"there is only one class, {labels[0]}: give at least two, one to train on and one to test")
    order = [labels[i] for i in np.random.RandomState(seed).permutation(len(labels))]
    ends = np.rint(np.cumsum(shares or SHARED) / sum(shares or SHARED) * len(labels)).astype(int)
    ends[0] = np.clip(ends[0], 1, len(labels) - 1)
    ends[1] = np.clip(ends[1], ends[0], len(labels) - 1)
    sizes = np.diff(ends, prepend=0)
    if not shares:
        sizes = enough_for_tasks(*sizes, least=min(-(-WAY // rotations), len(labels) // 2))
    parts = np.split(np.array(order, dtype=object), np.cumsum(sizes)[:2])
    return {split: part.tolist() for split, part in zip(SPLITS, parts, strict=True) if len(part)}


def enough_for_tasks(train: int, val: int, test: int, least: int) -> tuple[int, int, int]:
    """Adjust numbers of classes: test gets at least `least`, and so does val, or none where train would keep less than
    half of all."""
    count, test, val = train + val + test, max(test, least), max(val, least)
    if 2 * (count - val - test) < count:
        val = 0
    return count - val - test, val, test


def read_split(file: Path, labels: Iterable[str]) -> dict[str, str]:
    """class -> split, from a table. UserError where it is none, or names a class that is not there, or one twice."""
    dealt, known = {}, {same_name(label): label for label in labels}
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")  # as the disk's names are read
        reader = csv.reader(io.StringIO(text, newline=""))
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as fault:
        raise UserError(f"{file} is no table of SPLIT,CLASS ({fault})") from None
    for number, row in rows:
        if [cell.strip().lower() for cell in row] == ["split", "class"]:
            continue
        split = split_of(row[0])
        if len(row) != 2 or not split:
            raise UserError(f"{file}, line {number} is not SPLIT,CLASS with train, val or test: {','.join(row)!r}")
        name = same_name(row[1])
        label = known.get(name) or known.get(name.strip())
        if not label:
            raise UserError(
                f"{file}, line {number} has the class {row[1].strip()!r}, which the source does not have: correct it, "
                f"or save the table in UTF-8"
            )
        if label in dealt:
            raise UserError(f"{file}, line {number} has the class {label} again: name it once")
        dealt[label] = split
    if missing := {"train", "test"} - set(dealt.values()):
        raise UserError(f"{file} has no {min(missing)} classes")
    return dealt


def in_order(dealt: dict[str, str], labels: Iterable[str]) -> Names:
    """split -> its classes that have images, by name. UserError where train or test has none."""
    names = {split: sorted(label for label in labels if dealt.get(label) == split) for split in SPLITS}
    if missing := [split for split in ("train", "test") if not names[split]]:
        raise UserError(f"no {missing[0]} class has an image: give some")
    return {split: own for split, own in names.items() if own}


# ---- arrays


def write_raw(
    path: Path, pictures: Iterable[Picture], prepare: Preparation, skip_bad: bool
) -> tuple[dict[str, list[int]], int]:
    """Write the images as they come -> by class the numbers of its images, and how many files were left out.

    Memory holds one picture. UserError, which names the first of them, where some are no images, unless they may be
    left out.
    """
    places, labels, bad, written = {}, set(), [], 0
    total = len(pictures) if isinstance(pictures, list) else None
    with open(path, "wb") as raw:
        for picture in tqdm(pictures, total=total, unit="image", disable=None):
            labels.add(picture.label)
            try:
                image = picture.prepare(prepare)
            except BadPicture as fault:
                bad.append(fault)
                continue
            raw.write(image.tobytes())
            places.setdefault(picture.label, []).append(written)
            written += 1
    if bad and not skip_bad:
        raise UserError(refusal(bad))
    if lost := labels - places.keys():
        raise UserError(f"no picture of the class {min(lost)} is left, so take its folder away: {report(bad)}")
    if bad:
        print(f"note: left out: {report(bad)}", file=sys.stderr)
    return places, len(bad)


def write_splits(folder: Path, names: Names, places: dict[str, list[int]], prepare: Preparation) -> dict:
    """Write each split's array from the raw images, which go away -> by split how many images each class has."""
    shape = (prepare.size, prepare.size, prepare.channels)
    counts = {split: [len(places[label]) for label in labels] for split, labels in names.items()}
    for split, labels in names.items():
        alike = len(set(counts[split])) == 1
        stored = (len(labels), counts[split][0]) if alike else (sum(counts[split]),)
        numbers = itertools.chain.from_iterable(places[label] for label in labels)
        with ArrayFile(folder / f"{split}.npy", (*stored, *shape), np.uint8) as file, open(folder / RAW, "rb") as raw:
            for place, number in enumerate(numbers):
                raw.seek(number * math.prod(shape))
                file.put(place, np.frombuffer(raw.read(math.prod(shape)), np.uint8))
    (folder / RAW).unlink()
    return counts
