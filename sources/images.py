"""Datasets of your own pictures, in one folder per class, and of tensorflow-datasets' sets for classification."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from errors import UserError
from settings import setting, whole
from sources.class_split import SPLITS, read_split, split_of
from sources.folders import Walk, is_inner, normalized
from sources.maker import FROM_TFDS, TFDS, SourceSettings, is_tfds
from sources.pictures import BadPicture, first_few, from_pillow, read, refusal, report
from sources.preparation import Preparation
from sources.split_arrays import RAW, SplitSettings, write_dataset
from sources.tfds import one_sentence, prepared_builder

SKIP_BAD = "leave out pictures that cannot be read or are in several classes, and count them in the manifest"
LAYOUTS = "{source}/CLASS/*.jpg, or {source}/train, val and test with CLASS/*.jpg in each"
OTHERWISE = "choose another from the catalogue of tensorflow-datasets, or give a folder of classes as --source"
PIXELS = {("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1)}  # types and numbers of channels that are read


class Picture(NamedTuple):
    """A picture: its class, its name in messages, and a function that reads it or raises BadPicture."""

    label: str
    name: str
    read: Callable[[], Image.Image]


@dataclass(frozen=True)
class ImagesSettings(SplitSettings, SourceSettings):
    size: int = setting(84, "side of the images in pixels", whole(16, 4096))
    channels: int = setting(3, "3: colour; 1: grey", int, choices=(1, 3))
    invert: bool = setting(False, "make dark pixels bright, for ink on paper")
    rotations: int = setting(1, "4: every class becomes four, turned by quarter turns", int, choices=(1, 4))
    skip_bad: bool = setting(False, SKIP_BAD)


def make_images(folder: Path, target: Path, settings: ImagesSettings) -> dict:
    """Make a dataset in `folder` from `source`, a folder (see `read_folder`) or tfds:NAME; return its manifest.

    Raise UserError if the source or the table of the split is at fault.
    """
    prepare = Preparation(settings.size, settings.channels, settings.invert)
    pictures, split_by_class, origin = find_pictures(settings.source, settings.split_file)
    settings.refuse_idle(bool(split_by_class))
    numbers, left_out = write_raw(folder / RAW, pictures, prepare, settings.skip_bad)
    return write_dataset(
        folder, target, numbers, prepare.image_shape, np.uint8, settings, origin, split_by_class, settings.rotations,
        prepare=prepare._asdict(), left_out=left_out,
    )  # fmt: skip


# ---- sources


def find_pictures(source: Path, table: Path | None) -> tuple[Iterable[Picture], dict[str, str], str]:
    """Find the pictures in a folder (see `read_folder`) or of tfds:NAME, and print notes -> the pictures, {class:
    split} if the folders or the table decide it, and where they come from."""
    if is_tfds(source):
        with prepared_builder(str(source).removeprefix(TFDS), OTHERWISE) as builder:
            return read_builder(builder), {}, f"{FROM_TFDS}{builder.info.full_name}"
    pictures, split_by_class, notes = read_folder(source, table)
    for note in notes:
        print(note, file=sys.stderr)
    return pictures, split_by_class, str(source)


def read_folder(source: Path, table: Path | None) -> tuple[list[Picture], dict[str, str], list[str]]:
    """List the pictures in SOURCE/class/, or in SOURCE/train/class/, SOURCE/val/class/ and SOURCE/test/class/ -> the
    pictures, {class: split} if the folders or a `table` (see `read_split`) decide it, and notes on the folders.

    If all classes of val and test are also in train, as in sets for ordinary classification, or if there is a table,
    the pictures of a class are put together. Raise UserError if a picture lies elsewhere, or if only some classes are
    in several splits.
    """
    pictures, places, folders, notes = list_folder(source)
    if table:
        split_by_class = read_split(table, places)
        return [picture for picture in pictures if picture.label in split_by_class], split_by_class, notes
    if not folders:
        return pictures, {}, notes
    repeated = [label for label, splits in places.items() if len(splits) > 1]
    untrained = [label for label, splits in places.items() if "train" not in splits]
    if repeated and untrained:
        raise UserError(
            f"{source} has the class {repeated[0]} in {' and in '.join(places[repeated[0]].values())}, but "
            f"{untrained[0]} not in {folders['train'].name}: a class belongs to one split, so take {repeated[0]} out "
            f"of one of them, or assign all classes with --split_file"
        )
    if repeated:
        notes.append(
            f"note: the same classes are in {' and '.join(folder.name for folder in folders.values())}: the pictures "
            f"of each class are put together, and the classes are assigned to train, val and test at random, because "
            f"test classes must not be training classes"
        )
        return pictures, {}, notes
    if split_of(folders["test"].name) != "test":
        notes.append(f"note: there is no test folder: the classes in {folders['test']} are the test classes")
    return pictures, {label: next(iter(splits)) for label, splits in places.items()}, notes


def list_folder(source: Path) -> tuple[list[Picture], dict[str, dict[str, str]], dict[str, Path], list[str]]:
    """List the pictures in a folder as `read_folder` does -> the pictures, {class: {split: name of the split's
    folder}}, {split: its folder}, and notes on the folders; the split is "" where the classes are in no split's
    folder."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder of classes, one folder each: unpack it, and give that folder")
    walk = Walk()
    folders = split_folders(source, walk)
    pictures, labels, places = [], {}, {}  # labels: normalized name -> name of its first folder
    for split, folder in (folders or {"": source}).items():
        for name, file in walk.files_by_class(folder, LAYOUTS.format(source=source)):
            label = labels.setdefault(normalized(name), name)
            places.setdefault(label, {})[split] = folder.name
            pictures.append(Picture(label, str(file), partial(read, file)))
    return pictures, places, folders, walk.notes()


def split_folders(source: Path, walk: Walk) -> dict[str, Path]:
    """Return {split: folder of its classes}; empty if the folders in `source` are classes themselves.

    Train and test are always there: without a test folder, the validation folder takes its place. Raise UserError if
    folders are neither splits nor classes.
    """
    names, _ = walk.entries(source)
    named = [(split_of(folder.name), folder) for folder in names]
    folders = {split: folder for split, folder in reversed(named) if split}
    if "train" not in folders or not holds_classes(folders["train"], walk):  # a class may be called train
        return {}
    layouts, train = LAYOUTS.format(source=source), folders["train"]
    if others := [folder for split, folder in named if not split]:
        raise UserError(
            f"{others[0]} is beside {train}, and neither a class nor one of {', '.join(SPLITS)}: move it elsewhere; "
            f"expected: {layouts}"
        )
    if twins := [(folders[split], folder) for split, folder in named if folder != folders[split]]:
        raise UserError(f"{twins[0][0]} and {twins[0][1]} are for the same split: keep one; expected: {layouts}")
    if len(folders) == 1:
        raise UserError(f"{source} has no folder but {train}: give that one, and its classes are assigned at random")
    if empty := [folder for folder in folders.values() if not holds_classes(folder, walk)]:
        raise UserError(
            f"{empty[0]} has no folders of classes: move it elsewhere; or give {train}, and its classes are assigned "
            f"at random"
        )
    if "test" not in folders:
        folders["test"] = folders.pop("val")
    return {split: folders[split] for split in SPLITS if split in folders}


def holds_classes(folder: Path, walk: Walk) -> bool:
    """True if a folder holds folders, and not only INNER."""
    folders, _ = walk.entries(folder)
    return bool(folders) and not is_inner(folders)


def read_builder(builder) -> Iterator[Picture]:
    """Yield the pictures in all splits of a builder. Raise UserError unless its examples have an `image` and a
    `label`."""
    features, name = builder.info.features, builder.info.full_name
    if not hasattr(features, "keys") or not {"image", "label"} <= set(features.keys()):
        raise UserError(f"{name} has no images with labels: {OTHERWISE}")
    import tensorflow_datasets as tfds

    label, image = features["label"], features["image"]
    if label.shape or not np.issubdtype(label.np_dtype, np.integer):
        raise UserError(f"{name} has labels other than one class per image: {OTHERWISE}")
    one = isinstance(image.shape, tuple) and len(image.shape) == 3
    if not one or (np.dtype(image.np_dtype).name, image.shape[-1]) not in PIXELS:
        raise UserError(
            f"{name} has images of {image.np_dtype} of the shape {image.shape}, which are not pictures: {OTHERWISE}"
        )
    name_of, unlabelled = getattr(label, "int2str", str), 0
    with one_sentence(name, OTHERWISE):
        for split in sorted(builder.info.splits):
            for number, example in enumerate(tfds.as_numpy(builder.as_dataset(split=split))):
                if example["label"] < 0:
                    unlabelled += 1
                    continue
                pixels = example["image"]
                pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
                where = f"image {number} of {name}'s {split}"
                reader = partial(from_pillow, Image.fromarray(pixels), where)
                yield Picture(name_of(int(example["label"])), where, reader)
    if unlabelled:
        print(f"{unlabelled} images of {name} have no label, and are left out")


# ---- arrays


def write_raw(
    path: Path,
    pictures: Iterable[Picture],
    prepare: Preparation,
    skip_bad: bool,
    embed: Callable[[np.ndarray], np.ndarray] = np.asarray,
    at_once: int = 1,
    copies: bool = False,
) -> tuple[dict[str, list[int]], int]:
    """Write the images one after the other -> {class: numbers of its images}, and how many pictures were left out.

    embed: makes what is written of `at_once` images, uint8 [n,H,W,C] -> [n,...]. copies: True if all pictures belong to
    the dataset, even those that are alike; otherwise a picture is left out that its class has already, since it could
    be in the support and in the query set of a task. Memory holds one picture and so many images. Raise UserError if
    pictures cannot be read, or are in several classes, and skip_bad is not set; it names the first of them.
    """
    numbers, labels, bad, images, count = {}, set(), [], [], 0
    first, repeated = {}, []  # digest of an image -> its picture and number
    total = len(pictures) if isinstance(pictures, list) else None
    with open(path, "wb") as raw:
        for label, name, reader in tqdm(pictures, total=total, unit="image", disable=None):
            labels.add(label)
            try:
                image = prepare(reader())
            except BadPicture as fault:
                bad.append(fault)
                continue
            before = first.setdefault(hashlib.sha256(image.tobytes()).digest(), (label, name, count))
            if not copies and before[2] < count:
                if before[0] == label:
                    repeated.append(name)
                    continue
                bad.append(BadPicture(name, f"is a copy of {before[1]}, in another class"))
                if before[2] in numbers[before[0]]:
                    numbers[before[0]].remove(before[2])
                    bad.append(BadPicture(before[1], f"is in the class {label}, too"))
                continue
            images.append(image)
            numbers.setdefault(label, []).append(count)
            count += 1
            if len(images) == at_once:
                raw.write(embed(np.array(images)).tobytes())
                images = []
        if images:
            raw.write(embed(np.array(images)).tobytes())
    if bad and not skip_bad:
        raise UserError(refusal(bad))
    if lost := labels - {label for label, own in numbers.items() if own}:
        raise UserError(f"no picture of the class {min(lost)} can be read, so remove its folder: {report(bad)}")
    if bad:
        print(f"note: left out: {report(bad)}", file=sys.stderr)
    if repeated:
        print(f"note: left out copies of pictures of the same class: {first_few(repeated)}", file=sys.stderr)
    return numbers, len(bad) + len(repeated)
