"""Assign the classes of a new dataset to train, val and test, and write an array for each of these splits."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import UserError
from settings import Settings, setting, to_number, whole
from sources.arrays import Names, array_writer, checksum, write_manifest
from sources.class_split import DEFAULT_SHARES, WAY, assign_at_random, group_by_split, read_split
from sources.maker import existing_path

RAW = "pixels.raw"  # in the folder that is being made: all images, in the order in which they are read


def shares_of_classes(text: str) -> list[float]:
    values = [to_number(part) for part in text.split(",")]
    if len(values) != 3 or not all(0 <= value <= 1e6 for value in values) or not values[0] > 0 < values[2]:
        raise argparse.ArgumentTypeError(f"must be three shares, of train,val,test, as in 0.64,0.16,0.2, not {text!r}")
    return values


shares_of_classes.metavar = "TRAIN,VAL,TEST"


@dataclass(frozen=True)
class SplitSettings(Settings):
    split_seed: int = setting(0, "seed of the random assignment of classes to train, val and test", whole(0, 2**32 - 1))
    shares: tuple[float, ...] | None = setting(
        None,
        f"shares of the classes (default: {','.join(map(str, DEFAULT_SHARES))}, but at least {WAY} classes to train "
        f"and {WAY} to test if there are {2 * WAY}, and at least {WAY} or none to validate)",
        shares_of_classes,
    )
    split_file: Path | None = setting(
        None,
        "table with lines of SPLIT,CLASS, where SPLIT is train, val or test; other classes are left out",
        existing_path,
        metavar="FILE",
    )

    def refuse_idle(self, decided: bool) -> None:
        """Raise UserError for flags of the random assignment that have no effect. decided: True if the folders or the
        table assign the classes."""
        for name in ("shares", "split_seed"):
            if decided and getattr(self, name) != getattr(SplitSettings, name):
                what = "--split_file" if self.split_file else "the folders train, val and test"
                raise UserError(f"--{name} has no effect, because {what} assign the classes: leave it out")


def write_dataset(
    folder: Path,
    target: Path,
    numbers: Mapping[str, list[int]],
    image_shape: tuple[int, int, int],
    dtype: type,
    settings: SplitSettings,
    given: str,
    split_by_class: Mapping[str, str] | None = None,
    rotations: int = 1,
    files: Sequence[Path] = (),
    **facts: object,
) -> dict:
    """Write the splits' arrays and the manifest of the images in `folder`/RAW; return the manifest.

    numbers: class -> numbers of its images in RAW. split_by_class: class -> split; if it is empty, the settings
    decide. given: the source of the images. files: the manifest gets their checksums. facts: further entries of the
    manifest. Raise UserError if there are too few classes, or if settings.split_file does not fit them.
    """
    table = settings.split_file
    if table and not split_by_class:
        split_by_class = read_split(table, numbers)
    random = not split_by_class
    if random:
        names = assign_at_random(sorted(numbers), settings.shares, settings.split_seed, rotations)
    else:
        names = group_by_split(split_by_class, numbers)
    counts = write_splits(folder, names, numbers, image_shape, dtype)
    source = {"given": given, "files": [checksum(file) for file in (*files, *[table] * bool(table))]}
    return write_manifest(
        folder, target.name, names, source, rotations,
        split_seed=settings.split_seed if random else None,
        shares=list(settings.shares or DEFAULT_SHARES) if random else None,
        counts=counts, **facts,
    )  # fmt: skip


def write_splits(
    folder: Path,
    names: Names,
    numbers: Mapping[str, list[int]],
    image_shape: tuple[int, int, int],
    dtype: type = np.uint8,
) -> dict[str, list[int]]:
    """Write each split's array from the file RAW, and delete RAW -> {split: numbers of images per class}."""
    counts = {split: [len(numbers[label]) for label in labels] for split, labels in names.items()}
    size = math.prod(image_shape) * np.dtype(dtype).itemsize
    for split, labels in names.items():
        alike = len(set(counts[split])) == 1
        stored = (len(labels), counts[split][0]) if alike else (sum(counts[split]),)
        sources = itertools.chain.from_iterable(numbers[label] for label in labels)
        writer = array_writer(folder / f"{split}.npy", (*stored, *image_shape), dtype)
        with writer as write, open(folder / RAW, "rb") as raw:
            for place, number in enumerate(sources):  # no memory map: its pages would count as this process' memory
                raw.seek(number * size)
                write(place, np.frombuffer(raw.read(size), dtype))
    (folder / RAW).unlink()
    return counts
