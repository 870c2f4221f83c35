"""The .npy arrays that the paper's authors publish: train.npy and test.npy, without validation classes."""

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from ranges import UNIT, Range
from sources.arrays import SCALE, Names, array_writer, checksum, open_npy, refuse_other_shape, write_manifest
from sources.preparation import Preparation

Shapes = dict[str, tuple[int, ...]]  # split -> [classes, images, H, W, C] of its array


def holds_authors_arrays(source: Path) -> bool:
    """True if the folder `source` holds the authors' arrays."""
    return os.path.isfile(source / "train.npy")


def make_from_arrays(folder: Path, target: Path, source: Path, shapes: Shapes, address: str | None = None) -> dict:
    """Make a dataset in `folder` from the authors' arrays in the folder `source`; return its manifest.

    address: where they come from, for the manifest (default: source). UserError as in write_authors_arrays.
    """
    files = {split: source / f"{split}.npy" for split in shapes}
    names, scale, inputs_range = write_authors_arrays(folder, files, shapes)
    origin = {"given": address or str(source), "files": [checksum(file) for file in files.values()]}
    *_, side, channels = shapes["train"]
    prepare = Preparation(side, channels, invert=channels == 1)._asdict()  # in Omniglot's arrays ink is 1
    facts = {"prepare": prepare} | ({"range": list(inputs_range)} if inputs_range else {})
    return write_manifest(folder, target.name, names, origin, scale=scale, **facts)


def write_authors_arrays(folder: Path, files: dict[str, Path], shapes: Shapes) -> tuple[Names, float, Range | None]:
    """Write the authors' arrays as [classes, images, H, W, C] -> names of their classes, scale, and range of the
    network's inputs (None: that of uint8).

    files: split -> .npy file of any number type, its axes merged or not; shapes: split -> shape to write. Pixels that
    are multiples of 1/255 in [0, 1], or whole numbers in 0..255, are stored as uint8 with scale 1/255. Others are
    stored as they are, as float32 with scale 1; their range is [0, 1] if they all lie in it, otherwise that from the
    smallest to the largest pixel. UserError: a file of another shape, or a pixel that is not finite.
    """
    arrays = {}
    for split, file in files.items():
        array = open_npy(file)
        refuse_other_shape(array.shape, shapes[split], str(file))
        arrays[split] = array.reshape(shapes[split])
    factor, inputs_range = _factor_to_bytes(arrays, files)
    if factor is None:
        inputs_range = UNIT if UNIT.low <= inputs_range.low and inputs_range.high <= UNIT.high else inputs_range
        print("the pixels are not multiples of 1/255: they are stored as they are (float32), with scale 1")
        print(f"their range is assumed to be {list(inputs_range)}: correct manifest.json if that is wrong")
    for split, array in arrays.items():
        with array_writer(folder / f"{split}.npy", array.shape, np.float32 if factor is None else np.uint8) as write:
            for c, images in enumerate(tqdm(array, desc=f"writing {split}", unit="class", disable=None)):
                pixels = images if factor is None else np.rint(factor * images.astype(np.float32))
                write(c * array.shape[1], pixels)
    names = {split: [f"{split}{c:04d}" for c in range(len(array))] for split, array in arrays.items()}
    return names, *((1.0, inputs_range) if factor is None else (SCALE, None))


def _factor_to_bytes(arrays: dict[str, np.ndarray], files: dict[str, Path]) -> tuple[int | None, Range]:
    """Return the factor, 255 or 1, that makes every pixel a whole number in 0..255, or None if neither does; and the
    range from the smallest to the largest pixel.

    Read all pixels, one class at a time. Raise UserError if one is not finite.
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


def are_bytes(values: np.ndarray) -> bool:
    """True if these are whole numbers in 0..255, apart from rounding errors."""
    whole = np.rint(values)
    return bool(whole.min() >= 0 and whole.max() <= 255 and (np.abs(values - whole) <= 1e-2).all())
