"""Decide which classes are for training, validation and testing: by shares and a seed, or by a table."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from errors import UserError
from sources.arrays import Names
from sources.csv_rows import rows_of
from sources.folders import normalized

# split -> the names, in any capitals, of folders that hold its classes, and of the split in a table.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = tuple(SPLIT_NAMES)
DEFAULT_SHARES = (0.64, 0.16, 0.2)  # of the classes, for each split
WAY = 5  # classes in an episode of the documented commands


def split_of(name: str) -> str | None:
    """Return the split that a folder's name, or a name in a table, stands for, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.strip().lower() in names), None)


def assign_at_random(labels: list[str], shares: list[float] | None, seed: int, rotations: int = 1) -> Names:
    """Assign the classes to splits at random; train and test get at least one class.

    shares: None for DEFAULT_SHARES, adjusted: test and val each get at least the classes of an episode (half of all, if
    there are too few), but val gets none if train would keep less than half of all. Raise UserError if there is only
    one class.
    """
    count = len(labels)
    if count < 2:
        raise UserError(f"there is only one class, {labels[0]}: give at least two, one to train on and one to test")
    order = [labels[i] for i in np.random.RandomState(seed).permutation(count)]
    ends = np.rint(np.cumsum(shares or DEFAULT_SHARES) / sum(shares or DEFAULT_SHARES) * count).astype(int)
    train_end = np.clip(ends[0], 1, count - 1)
    test_start = np.clip(ends[1], train_end, count - 1)
    if not shares:
        least = min(-(-WAY // rotations), count // 2)
        test, val = max(count - test_start, least), max(test_start - train_end, least)
        test_start = count - test
        train_end = test_start - (val if 2 * (test_start - val) >= count else 0)
    names = {"train": order[:train_end], "val": order[train_end:test_start], "test": order[test_start:]}
    return {split: classes for split, classes in names.items() if classes}


def read_table(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (number of the line, split, class) of a table. Raise UserError if it is not a table of SPLIT,CLASS."""
    for number, row in rows_of(file, ("split", "class")):
        split = split_of(row[0])
        if len(row) != 2 or not split:
            raise UserError(f"{file}, line {number} is not SPLIT,CLASS with train, val or test: {','.join(row)!r}")
        yield number, split, normalized(row[1])


def read_split(file: Path, labels: Iterable[str]) -> dict[str, str]:
    """Read a table -> {class: split}. Raise UserError if it is not a table of SPLIT,CLASS, has a class that is not in
    `labels`, has a class twice, or has no class for train or test."""
    split_by_class, known = {}, {normalized(label): label for label in labels}
    for number, split, name in read_table(file):
        label = known.get(name) or known.get(name.strip())
        if not label:
            raise UserError(
                f"{file}, line {number} has the class {name.strip()!r}, which the source does not have: correct it, "
                f"or save the table in UTF-8"
            )
        if label in split_by_class:
            raise UserError(f"{file}, line {number} has the class {label} again: name it once")
        split_by_class[label] = split
    if missing := {"train", "test"} - set(split_by_class.values()):
        raise UserError(f"{file} has no {min(missing)} classes: add some")
    return split_by_class


def group_by_split(split_by_class: dict[str, str], labels: Iterable[str]) -> Names:
    """Group the classes by split -> {split: its classes, sorted}. Raise UserError if train or test has none."""
    names = {split: sorted(label for label in labels if split_by_class.get(label) == split) for split in SPLITS}
    if missing := [split for split in ("train", "test") if not names[split]]:
        raise UserError(f"no {missing[0]} class has an image: give some images")
    return {split: classes for split, classes in names.items() if classes}
