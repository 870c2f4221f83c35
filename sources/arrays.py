"""A dataset's folder: large .npy arrays and manifest.json, there whole or not at all."""

import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np

from errors import UserError
from files import locked, sync, write_atomically

SCALE = 1 / 255  # from stored uint8 to pixels in [0, 1]
FIELDS = {"format", "dataset", "source", "rotations", "scale", "split_seed", "image_shape", "splits"}  # of a manifest
SPLIT_FIELDS = {"file", "base_classes", "classes", "images_per_class", "bytes", "sha256", "names"}
FILES = {"manifest.json", "train.npy", "val.npy", "test.npy"}  # that a dataset's folder may hold
Names = dict[str, list[str]]  # split -> names of its base classes, in the order of the array


class ArrayFile:
    """An .npy file of a known shape, filled in any order; memory holds one block at a time.

    Not a memory map (a full disk would kill the process with SIGBUS), nor np.save (its OSError has no errno).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self.file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self.dtype = np.dtype(dtype)
        self.image_bytes = int(np.prod(shape[-3:])) * self.dtype.itemsize
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()

    def put(self, first_image: int, block: np.ndarray) -> None:
        """Write images [..., H, W, C] from image number first_image (class * images_per_class + image) on."""
        self.file.seek(self.start + first_image * self.image_bytes)
        self.file.write(np.ascontiguousarray(block, self.dtype).data)

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(self, *_: object) -> None:
        with self.file:
            self.file.flush()
            os.fsync(self.file.fileno())


def save(path: Path, images: np.ndarray) -> None:
    """Write images [classes, images, H, W, C] to path."""
    with ArrayFile(path, images.shape, images.dtype) as file:
        file.put(0, images)


def open_npy(path: Path) -> np.ndarray:
    """The array in an .npy file, memory-mapped.

    UserError: no such file, no .npy, not numbers, or not of the size that its header says.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            _, size = npy_header(file, str(path))
        if path.stat().st_size != size:
            raise ValueError(f"its header says {size} bytes, and it has {path.stat().st_size}")
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as fault:
        raise UserError(f"{path} is damaged or cut short ({fault}): delete it and get it again") from None


def npy_header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], int]:
    """The shape of the array in an .npy file, and the size of the whole file in bytes, as its header says.

    ValueError: a header that is damaged or cut short. UserError: no .npy file, or one that holds no numbers.
    """
    refuse_other_than_npy(file.read(512), where)
    file.seek(0)
    try:
        first_version = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first_version else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except Exception as fault:  # numpy does not catch what its parsers raise: SyntaxError, TokenError, ...
        raise ValueError(str(fault).partition("\n")[0]) from None
    if dtype.kind not in "buif":
        raise UserError(f"{where} holds {dtype}, not numbers: it is not the file that is wanted")
    return shape, file.tell() + math.prod(shape) * dtype.itemsize


def refuse_other_shape(shape: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    """UserError unless shape is the wanted one, or what it becomes when neighbouring axes are merged."""
    products = set(np.cumprod(wanted).tolist())
    if math.prod(shape) != math.prod(wanted) or not set(np.cumprod(shape).tolist()) <= products:
        raise UserError(f"{where} has shape {shape}, not {wanted}: give the authors' file")


def refuse_other_than_npy(beginning: bytes, where: str) -> None:
    """UserError unless these first bytes are those of an .npy file."""
    if beginning.startswith(b"\x93NUMPY"):
        return
    if re.match(rb"\s*(<!doctype html|<html|<\?xml|<head)", beginning, re.IGNORECASE):
        raise UserError(
            f"{where} is a web page, not an .npy file: the link may have expired; "
            "get train.npy and test.npy with a browser and give their folder as --source, or another --mirror"
        )
    raise UserError(f"{where} is not an .npy file: give the right file, or get it again")


def checksum(path: Path) -> dict:
    """{"name", "bytes", "sha256"} of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return {"name": path.name, "bytes": file.tell(), "sha256": digest.hexdigest()}


@contextmanager
def making(target: Path) -> Iterator[Path]:
    """A new folder beside target, which becomes target if the block ends well, and else goes away.

    The block ends with write_manifest, which puts the folder's names on the disk. One process at a time makes it; what
    a killed process left is cleared away, and what it was about to replace comes back. UserError where another process
    makes it, and where target holds anything that write_manifest's callers did not write: it is never replaced.
    """
    target = target.resolve()  # DATA_DIR/<dataset> may be a link to a larger disk
    if target.exists():
        names = {file.name for file in target.iterdir()}
        if names and ("manifest.json" not in names or names - FILES):
            raise UserError(f"{target} holds files that get_data.py did not make: move them elsewhere")
    lock, new, old = (target.with_name(f".{target.name}.{word}") for word in ("lock", "new", "old"))
    with locked(lock, f"is making {target}: wait for it"):
        try:
            _clear_away(target, new, old)
            new.mkdir()
            yield new
            if target.exists():
                target.rename(old)
            new.rename(target)
            sync(target.parent)
        finally:
            _clear_away(target, new, old)


def _clear_away(target: Path, new: Path, old: Path) -> None:
    """Remove new and old, but where nothing took the place of old, it goes back to target."""
    if old.exists() and not target.exists():
        old.rename(target)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(
    folder: Path,
    dataset: str,
    names: Names,
    source: dict,
    rotations: int = 1,
    scale: float = SCALE,
    split_seed: int | None = None,
    counts: dict[str, list[int]] | None = None,
    **facts: object,
) -> dict:
    """Describe the splits' arrays in folder and write manifest.json, last. Returns what it wrote.

    source: where the images come from, {"given", "files"}. rotations: the classes that each base class becomes.
    split_seed: None where nothing was shuffled or drawn. counts: by split, how many images each class has, where an
    array is [images of all classes, H, W, C]. facts: what else it says. The rest is read off the arrays.
    """
    splits = {}
    for split, classes in names.items():
        file, array = checksum(folder / f"{split}.npy"), open_npy(folder / f"{split}.npy")
        base, images = array.shape[:2] if array.ndim == 5 else (len(counts[split]), counts[split])
        splits[split] = {
            "file": file["name"],
            "base_classes": base,
            "classes": rotations * base,
            "images_per_class": images,
            "dtype": array.dtype.name,
            "bytes": file["bytes"],
            "sha256": file["sha256"],
            "names": classes,
        }
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": version("pillow")}
    if "tensorflow_datasets" in sys.modules:
        versions["tensorflow_datasets"] = version("tensorflow-datasets")
    manifest = {
        "format": 1,
        "dataset": dataset,
        "source": source,
        "rotations": rotations,
        "scale": scale,
        "split_seed": split_seed,
        "image_shape": list(array.shape[-3:]),
        **facts,
        "splits": splits,
        "versions": versions,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1))
    return manifest


def read_manifest(folder: Path, checksums: bool = False, makers: Container[str] | None = None) -> dict:
    """The manifest of a dataset whose files are all there, of the right size (and checksum: slower).

    makers: the names of the datasets that get_data.py makes (sources/__init__.py imports this file); None: the folder's
    name is taken for one of them. UserError: no manifest, not one of ours, or a file that is not what it says; where
    get_data.py makes the dataset, the sentence has the command.
    """
    path = folder / "manifest.json"
    known = makers is None or folder.name in makers
    command = f"python get_data.py --dataset {folder.name} --data_dir {folder.parent}"
    again = f"make it again with {command} --force" if known else "make it again"
    if not path.is_file():
        remedy = f"make it with: {command}" if known else "python get_data.py --help names those that it makes"
        raise UserError(f"there is no dataset in {folder}; {remedy}{_neighbours(folder)}")
    try:
        manifest = json.loads(path.read_text())
        splits = manifest["splits"].values()
        files = [(folder / split["file"], split["bytes"], split["sha256"]) for split in splits]
        complete = manifest.keys() >= FIELDS and all(split.keys() >= SPLIT_FIELDS for split in splits)
        if not complete or manifest["format"] != 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: {again}") from None
    for file, size, digest in files:
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{file} is missing or has the wrong size: {again}")
        if checksums and checksum(file)["sha256"] != digest:
            raise UserError(f"{file} differs from its checksum: {again}")
    return manifest


def _neighbours(folder: Path) -> str:
    """What a sentence about a missing dataset says of the other ones in DATA_DIR: "; DATA_DIR has glyphs", or "" ."""
    names = sorted(path.parent.name for path in folder.parent.glob("*/manifest.json"))
    names = [name for name in names if not name.startswith(".")]  # what a killed get_data.py left
    return f"; {folder.parent} has {', '.join(names)}" if names else ""
