"""The .npy arrays that the paper's authors publish: train.npy and test.npy, without validation classes."""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from ranges import UNIT, Range
from sources.arrays import SCALE, ArrayFile, Names, checksum, open_npy, refuse_other_shape, write_manifest
from sources.preparation import Preparation

Shapes = dict[str, tuple[int, ...]]  # split -> [classes, images, H, W, C] of its array


def holds_authors_arrays(source: Path) -> bool:
    """Is it a folder with the authors' arrays?"""
    return os.path.isfile(source / "train.npy")


def make_from_arrays(folder: Path, target: Path, source: Path, shapes: Shapes, address: str) -> dict:
    """Make a dataset in `folder` from the authors' arrays in the folder `source`; returns its manifest.

    address: where they come from, for the manifest. UserError as in write_authors.
    """
    files = {split: source / f"{split}.npy" for split in shapes}
    names, scale, ends = write_authors(folder, files, shapes)
    print("this source has no validation classes: there is no val.npy")
    origin = {"given": address, "files": [checksum(file) for file in files.values()]}
    *_, side, channels = shapes["train"]
    prepare = Preparation(side, channels, invert=channels == 1)._asdict()  # Omniglot's arrays have ink 1
    facts = {"prepare": prepare} | ({"range": list(ends)} if ends else {})
    return write_manifest(folder, target.name, names, origin, scale=scale, **facts)


def write_authors(folder: Path, files: dict[str, Path], shapes: Shapes) -> tuple[Names, float, Range | None]:
    """Write the authors' arrays as [classes, images, H, W, C]; returns their classes' names, their scale, and their
    range, where it is not that of bytes.

    files: split -> .npy file of any number type, with axes merged or not; shapes: split -> wanted shape. Pixels that
    are multiples of 1/255 in [0, 1], or whole numbers in 0..255, are stored as uint8 with scale 1/255. Others stay
    as they are, float32 with scale 1; their range is [0, 1] where they lie in it, or else that of the least and the
    largest of them. UserError: a file of another shape, or a pixel that is not finite.
    """
    arrays = {split: _open(file, shapes[split]) for split, file in files.items()}
    factor, ends = _factor_to_bytes(arrays, files)
    if factor is None:
        ends = UNIT if UNIT.low <= ends.low and ends.high <= UNIT.high else ends
        print("the pixels are not multiples of 1/255: kept as they are (float32), read with scale 1")
        print(f"their range is taken to be {list(ends)}: correct it in manifest.json, if a pixel can have other values")
    for split, array in arrays.items():
        _write(folder / f"{split}.npy", array, factor, f"writing {split}")
    names = {split: [f"{split}{c:04d}" for c in range(len(array))] for split, array in arrays.items()}
    return names, *((1.0, ends) if factor is None else (SCALE, None))


def _open(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the file, memory-mapped and brought to this shape. UserError where it has another."""
    array = open_npy(file)
    refuse_other_shape(array.shape, shape, str(file))
    return array.reshape(shape)


def _factor_to_bytes(arrays: dict[str, np.ndarray], files: dict[str, Path]) -> tuple[int | None, Range]:
    """Return the factor, 255 or 1, that makes every pixel a whole number in 0..255, or None where neither does; and the
    range from the least to the largest pixel.

    All pixels are read, one class at a time. UserError where one is not finite.
    """
    factors, low, high = [255, 1], np.inf, -np.inf
    for split, array in arrays.items():
        for images in tqdm(array, desc=f"reading {split}", unit="class", disable=None):
            pixels = images.astype(np.float32)
            if not np.isfinite(pixels).all():
                raise UserError(f"{files[split]} holds pixels that are not finite: get it again")
            low, high = min(low, float(pixels.min())), max(high, float(pixels.max()))
            factors = [factor for factor in factors if are_bytes(factor * pixels)]
    return factors[0] if factors else None, Range(low, high)


def _write(path: Path, array: np.ndarray, factor: int | None, progress: str) -> None:
    """Write factor * array as uint8, or the array as float32 where there is no factor, one class at a time."""
    with ArrayFile(path, array.shape, np.float32 if factor is None else np.uint8) as file:
        for c, images in enumerate(tqdm(array, desc=progress, unit="class", disable=None)):
            pixels = images if factor is None else np.rint(factor * images.astype(np.float32))
            file.put(c * array.shape[1], pixels)


def are_bytes(values: np.ndarray) -> bool:
    """Are these whole numbers in 0..255, but for what rounding did to them?"""
    whole = np.rint(values)
    return bool(whole.min() >= 0 and whole.max() <= 255 and (np.abs(values - whole) <= 1e-2).all())
