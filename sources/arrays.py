"""A dataset's folder: large .npy arrays and manifest.json; a folder is written completely or not at all."""

import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import numpy as np

from errors import UserError, user_error
from files import locked, parse_json, sync, write_atomically
from sources.preparation import can_be_preparation

SCALE = 1 / 255  # from stored uint8 to pixels in [0, 1]
FIELDS = {"format", "dataset", "source", "rotations", "scale", "split_seed", "image_shape", "splits"}  # of a manifest
SPLIT_FIELDS = {"file", "base_classes", "classes", "images_per_class", "bytes", "sha256", "names"}
FILES = {"manifest.json", "train.npy", "val.npy", "test.npy"}  # the files that a dataset's folder may contain
Names = dict[str, list[str]]  # split -> names of its base classes, in the order of the array


@contextmanager
def array_writer(path: Path, shape: tuple[int, ...], dtype: type) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Create an .npy file of shape [..., H, W, C] -> write(number, images), which writes images [..., H, W, C] into the
    file, the first of them as its image `number`.

    Memory holds only the images that are written. This is not a memory map (a full disk would kill the process with
    SIGBUS), nor np.save (its OSError has no errno).
    """
    dtype = np.dtype(dtype)
    image_bytes = math.prod(shape[-3:]) * dtype.itemsize
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        start = file.tell()

        def write(number: int, images: np.ndarray) -> None:
            file.seek(start + number * image_bytes)
            file.write(np.ascontiguousarray(images, dtype).data)

        yield write
        file.flush()
        os.fsync(file.fileno())


def save(path: Path, images: np.ndarray) -> None:
    """Write images [classes, images, H, W, C] to the .npy file `path`."""
    with array_writer(path, images.shape, images.dtype) as write:
        write(0, images)


def open_npy(path: Path) -> np.ndarray:
    """Memory-map the array in an .npy file.

    Raise UserError if the file is missing, is no .npy file, holds no numbers, or has another size than its header
    declares.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with user_error(f"{path} is damaged or cut short", "delete it and get it again", ValueError):
        with open(path, "rb") as file:
            _, size = npy_header(file, str(path))
        if path.stat().st_size != size:
            raise ValueError(f"its header says {size} bytes, and it has {path.stat().st_size}")
        return np.lib.format.open_memmap(path, mode="r")


def npy_header(file: BinaryIO, where: str) -> tuple[tuple[int, ...], int]:
    """Read an .npy file's header -> the shape of its array, and the size in bytes that the whole file should have.

    Raise ValueError if the header is damaged or cut short. Raise UserError if it is no .npy file, or holds no numbers.
    where: the file's name in messages.
    """
    first_bytes = file.read(512)
    if re.match(rb"\s*(<!doctype html|<html|<\?xml|<head)", first_bytes, re.IGNORECASE):
        raise UserError(
            f"{where} is a web page, not an .npy file: the link may have expired; "
            "get train.npy and test.npy with a browser and give their folder as --source, or another --mirror"
        )
    if not first_bytes.startswith(b"\x93NUMPY"):
        raise UserError(f"{where} is not an .npy file: give the right file, or get it again")
    file.seek(0)
    try:
        first_version = np.lib.format.read_magic(file) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first_version else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as fault:  # numpy lets its parsers' exceptions through: SyntaxError, TokenError, ...
        raise ValueError(str(fault).partition("\n")[0]) from None
    if dtype.kind not in "buif":
        raise UserError(f"{where} holds {dtype}, not numbers: give the right file")
    if fortran and len(shape) > 1:
        raise UserError(f"{where} is in Fortran's order: save numpy.ascontiguousarray of it")
    return shape, file.tell() + math.prod(shape) * dtype.itemsize


def refuse_other_shape(shape: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    """Raise UserError unless `shape` equals `wanted`, perhaps after neighbouring axes of `wanted` are merged."""
    products = set(np.cumprod(wanted).tolist())
    if math.prod(shape) != math.prod(wanted) or not set(np.cumprod(shape).tolist()) <= products:
        raise UserError(f"{where} has shape {shape}, not {wanted}: give the authors' file")


def checksum(path: Path) -> dict:
    """Return {"name", "bytes", "sha256"} of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
        return {"name": path.name, "bytes": file.tell(), "sha256": digest.hexdigest()}


@contextmanager
def making(target: Path, replace: bool = True) -> Iterator[Path]:
    """Create a new folder beside `target` to write a dataset into; it replaces `target` if the block ends without an
    exception, and is deleted otherwise.

    The block ends with write_manifest, which also syncs the folder. Only one process at a time can make `target`; a
    later one cleans up after a process that was killed. Raise UserError if another process is making it, or if `target`
    holds files that get_data.py did not write: they are never deleted. replace: if False, raise UserError if another
    process has completed `target` meanwhile.
    """
    target = Path(os.path.realpath(target))  # DATA_DIR/<dataset> may be a link to a larger disk
    if target.is_symlink():
        raise UserError(f"{target} is a link that leads back to itself: remove it")
    if target.exists():
        names = {file.name for file in target.iterdir()}
        if names and ("manifest.json" not in names or names - FILES):
            raise UserError(f"{target} holds files that get_data.py did not make: move them elsewhere")
    lock, new, old = (target.with_name(f".{target.name}.{word}") for word in ("lock", "new", "old"))
    with locked(lock, f"is making {target}: wait for it"):
        try:
            _clean_up(target, new, old)
            if not replace and (target / "manifest.json").exists():
                raise UserError(f"{target} has become complete: give the same command again")
            new.mkdir()
            yield new
            if target.exists():
                target.rename(old)
            new.rename(target)
            sync(target.parent)
        finally:
            _clean_up(target, new, old)


def _clean_up(target: Path, new: Path, old: Path) -> None:
    """Delete new and old; but if target is missing, old becomes target again."""
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
    """Describe the splits' arrays in `folder` and write manifest.json, after all else; return the manifest.

    source: where the images come from, {"given", "files"}. rotations: the number of classes per base class.
    split_seed: None if nothing was shuffled or drawn. counts: split -> number of images per class; needed for arrays
    [images of all classes, H, W, C]. facts: further entries. Everything else is read from the arrays.
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


def check_manifest(manifest: dict) -> None:
    """Raise ValueError, KeyError, TypeError or AttributeError if a manifest lacks an entry or has one of another
    kind."""
    entries, shape, scale = manifest["splits"].values(), manifest["image_shape"], manifest["scale"]
    complete = manifest.keys() >= FIELDS and all(entry.keys() >= SPLIT_FIELDS for entry in entries)
    numbers, source = [*shape, manifest["rotations"]], manifest["source"]
    names = [source["given"], *(one["sha256"] for one in source["files"])]
    complete &= {"train", "test"} <= manifest["splits"].keys() <= {"train", "val", "test"}
    for entry in entries:
        counts = entry["images_per_class"]
        counts = counts if isinstance(counts, list) else [counts] * entry["base_classes"]
        numbers += [*counts, entry["base_classes"], entry["classes"], entry["bytes"]]
        names += [entry["file"], entry["sha256"], *entry["names"]]
        complete &= len(counts) == len(entry["names"]) == entry["base_classes"]
    fits = all(type(one) is int and one > 0 for one in numbers) and all(isinstance(one, str) for one in names)
    fits &= type(scale) in (int, float) and 0 < scale < math.inf and len(shape) == 3 and manifest["format"] == 1
    prepare = manifest.get("prepare")
    turned = manifest["rotations"]
    fits &= turned <= 4 and (turned == 1 or shape[:1] == shape[1:2])  # quarter turns
    if not (complete and fits and (prepare is None or can_be_preparation(prepare))):
        raise ValueError


def read_manifest(folder: Path, makers: Container[str] | None, checksums: bool = False) -> dict:
    """Return a dataset's manifest after checking that its files are complete. checksums: check these too (slower).

    makers: the names of the datasets that get_data.py makes; messages have its command only for these (None: for all).
    Raise UserError if the manifest is missing or damaged, or if a file is missing or differs.
    """
    path = folder / "manifest.json"
    known = makers is None or folder.name in makers
    command = f"python get_data.py --dataset {folder.name} --data_dir {folder.parent}"
    again = f"make it again with {command} --force" if known else "make it again"
    if not path.is_file():
        remedy = f"make it with: {command}" if known else "python get_data.py --help names the ones it makes"
        names = [path.parent.name for path in sorted(folder.parent.glob("[!.]*/manifest.json"))]
        others = f"; {folder.parent} has {', '.join(names)}" if names else ""
        raise UserError(f"there is no dataset in {folder}; {remedy}{others}")
    try:
        manifest = parse_json(path.read_text())
        check_manifest(manifest)
        splits = manifest["splits"].values()
        files = [(folder / split["file"], split["bytes"], split["sha256"]) for split in splits]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: {again}") from None
    for file, size, digest in files:
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{file} is missing or has the wrong size: {again}")
        if checksums and checksum(file)["sha256"] != digest:
            raise UserError(f"{file} differs from its checksum: {again}")
    return manifest
