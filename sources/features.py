"""Datasets of vectors that any network has computed: an .npz file of features and labels."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import UserError, reason
from settings import setting
from sources.folders import normalized
from sources.maker import existing_path
from sources.split_arrays import RAW, SplitSettings, write_dataset

EXAMPLE = "np.savez(FILE, features=features, labels=labels)"  # how the file is written
LARGEST = 1e15  # squares of larger numbers would overflow in float32


@dataclass(frozen=True)
class FeaturesSettings(SplitSettings):
    features: Path | None = setting(
        None,
        "an .npz file of vectors that any network has computed: features [n,D], labels [n] (strings or whole numbers) "
        "and perhaps files [n], the pictures' names",
        existing_path,
        metavar="FILE",
    )


def make_from_features(folder: Path, target: Path, settings: FeaturesSettings) -> dict:
    """Make a dataset of vectors in `folder`; return its manifest. Raise UserError if the file or the table of the
    split is at fault."""
    settings.refuse_idle(bool(settings.split_file))
    vectors, labels, files = read_features(settings.features)
    with open(folder / RAW, "wb") as raw:
        raw.write(vectors.data)
    numbers = {}
    for number, label in enumerate(labels):
        numbers.setdefault(label, []).append(number)
    facts = {"pictures": {label: [files[number] for number in numbers[label]] for label in numbers}} if files else {}
    return write_dataset(
        folder, target, numbers, (1, 1, vectors.shape[1]), np.float32, settings, str(settings.features),
        files=[settings.features], scale=1.0, **facts,
    )  # fmt: skip


def read_features(file: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Read a file of features -> vectors, float32 [n,D], the label of each vector, and the name of each vector's
    picture (an empty list, if the file has no names). Raise UserError if it is no such file; nothing in it is
    unpickled."""
    arrays = read_arrays(file)
    if missing := [name for name in ("features", "labels") if name not in arrays]:
        raise UserError(f"{file} has no array {missing[0]}: write it with {EXAMPLE}")
    features, labels = arrays["features"], arrays["labels"]
    if features.ndim != 2 or not features.size or features.dtype.kind not in "fiu":
        raise UserError(
            f"features in {file} are {features.dtype} of the shape {features.shape}: give numbers of the shape [n,D], "
            f"one row per picture"
        )
    for name, kinds, wanted in (("labels", "Uiu", "strings or whole numbers"), ("files", "U", "strings")):
        array = arrays.get(name)
        if array is not None and (array.shape != features.shape[:1] or array.dtype.kind not in kinds):
            raise UserError(
                f"{name} in {file} are {array.dtype} of the shape {array.shape}, beside features of the shape "
                f"{features.shape}: give {len(features)} {wanted}, one per row"
            )
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(features, np.float32)
    if bad := np.flatnonzero(~(np.abs(vectors) <= LARGEST).all(1)).tolist():
        raise UserError(
            f"features in {file} are not finite, or above {LARGEST:g}, in {len(bad)} rows, first in row {bad[0]}: "
            f"correct them, or leave them out"
        )
    labels = [normalized(str(label).strip()) for label in labels]
    if "" in labels:
        raise UserError(f"labels in {file} are empty in row {labels.index('')}: add the label, or leave the row out")
    files, label_of = arrays["files"].tolist() if "files" in arrays else [], {}
    for name, label in zip(files, labels, strict=False):
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{file} has the picture {name} with the labels {label_of[name]} and {label}: keep one")
    return vectors, labels, files


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays that an .npz file of features may have. Raise UserError if they cannot be read."""
    if not zipfile.is_zipfile(file):
        raise UserError(f"{file} is not an .npz file: write it with {EXAMPLE}")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("features", "labels", "files") if name in arrays}
            if others := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{others[0]} is not an array")  # a member that numpy did not write
            return found
    except MemoryError:
        raise
    except Exception as fault:  # numpy and zipfile let their parsers' exceptions through
        raise UserError(
            f"{file} cannot be read ({reason(fault)}): write it again with {EXAMPLE}, and the labels as an array of "
            f"strings or of whole numbers"
        ) from None
