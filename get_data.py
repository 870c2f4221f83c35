"""Make DATA_DIR/<dataset>/ from public addresses, from originals that you have, or from nothing (glyphs).

    python get_data.py --dataset omniglot                      # through tensorflow-datasets
    python get_data.py --dataset omniglot --source FOLDER      # images_background.zip, images_evaluation.zip
    python get_data.py --dataset mimgnet                       # the authors' two .npy files
    python get_data.py --dataset mimgnet --source ARCHIVE.tar  # train.csv, val.csv, test.csv, images/*.jpg
    python get_data.py --dataset glyphs                        # drawn here, in seconds
    python get_data.py --dataset omniglot --verify             # are the files what the manifest says?

It leaves train.npy, val.npy (where the source has validation classes) and test.npy, each
[base_classes, images_per_class, H, W, C], and manifest.json, which says how to read them: pixel = stored *
scale, and class rotations * b + r is base class b turned by r quarter turns (np.rot90). A folder appears
whole or not at all. Each faulty input is a UserError: one sentence, exit code 2.
"""

import argparse
import errno
import fcntl
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import platform
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import requests
from PIL import Image
from tqdm import tqdm

from errors import Parser, UserError, run
from glyphs import draw_glyphs

SCALE = 1 / 255  # from stored uint8 to pixels in [0, 1]
MAGIC = b"\x93NUMPY"

OMNIGLOT_PARTS = {"images_background": 964, "images_evaluation": 659}  # archive -> characters
OMNIGLOT_SPLITS = {"train": 1100, "val": 100, "test": 423}  # times 4: 4800 classes and 1692
OMNIGLOT_SIDE, DRAWINGS = 105, 20
OMNIGLOT_SHA256 = {  # of the official archives
    "images_background.zip": "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640",
    "images_evaluation.zip": "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee",
}
OMNIGLOT_AUTHORS = {"train": (4800, 20, 28, 28, 1), "test": (1692, 20, 28, 28, 1)}

MIMGNET_SPLITS = {"train": 64, "val": 16, "test": 20}
MIMGNET_SIDE = 84
MIMGNET_AUTHORS = {"train": (64, 600, 84, 84, 3), "test": (20, 600, 84, 84, 3)}
MIMGNET_URLS = {
    "train": "https://www.dropbox.com/s/ir54llgjfjv3naa/train.npy?dl=1",
    "test": "https://www.dropbox.com/s/i40h3wyjlpxeesr/test.npy?dl=1",
}

GLYPHS_SPLITS = {"train": 100, "val": 20, "test": 30}

ARCHIVE_FAULTS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    gzip.BadGzipFile,
    lzma.LZMAError,
    EOFError,
)
Names = dict[str, list[str]]  # split -> names of its base classes, in the order of the array


# --- arrays on disk ---


class ArrayFile:
    """An .npy file of a known shape, filled in any order; memory holds one block at a time.

    Not a memory map (a full disk would kill the process with SIGBUS), nor np.save (its OSError has no errno).
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type) -> None:
        self.file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self.dtype = np.dtype(dtype)
        self.image_bytes = int(np.prod(shape[2:])) * self.dtype.itemsize
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
    """The array in an .npy file, memory-mapped. UserError: no such file, no .npy, cut short, not numbers."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with open(path, "rb") as file:
        refuse_other_than_npy(file.read(512), str(path))
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as fault:
        raise UserError(f"{path} is damaged or cut short ({fault}): delete it and get it again") from None
    if array.dtype.kind not in "buif":
        raise UserError(f"{path} holds {array.dtype}, not numbers: it is not the file that is wanted")
    return array


def refuse_other_than_npy(beginning: bytes, where: str) -> None:
    """UserError unless these first bytes are those of an .npy file."""
    if beginning[: len(MAGIC)] == MAGIC:
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

    One process at a time: the lock goes with its process, and what a killed one left is cleared away. A
    target that holds anything that this program did not make is refused, never replaced.
    """
    target = target.resolve()  # DATA_DIR/<dataset> may be a link to a larger disk
    if target.exists():
        ours = {"manifest.json", "train.npy", "val.npy", "test.npy"}
        found = {file.name for file in target.iterdir()}
        if found and ("manifest.json" not in found or found - ours):
            raise UserError(f"{target} holds files that get_data.py did not make: move them elsewhere")
    new, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another get_data.py is making {target}: wait for it") from None
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            if target.exists():
                target.rename(old)
            new.rename(target)
        finally:
            for folder in (new, old):
                shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path, made: dict, names: Names) -> dict:
    """Describe the arrays in folder and write manifest.json, last. Returns what it wrote.

    made: "dataset", "source", "rotations", "scale", "split_seed"; the rest is read off the files.
    """
    splits = {}
    for split, classes in names.items():
        file, array = checksum(folder / f"{split}.npy"), open_npy(folder / f"{split}.npy")
        splits[split] = {
            "file": file["name"],
            "base_classes": array.shape[0],
            "classes": made["rotations"] * array.shape[0],
            "images_per_class": array.shape[1],
            "dtype": array.dtype.name,
            "bytes": file["bytes"],
            "sha256": file["sha256"],
            "names": classes,
        }
    versions = {"python": platform.python_version(), "numpy": np.__version__, "pillow": PIL.__version__}
    if "tensorflow_datasets" in sys.modules:
        versions["tensorflow_datasets"] = version("tensorflow-datasets")
    manifest = {
        "format": 1,
        **made,
        "image_shape": list(array.shape[2:]),
        "splits": splits,
        "versions": versions,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with open(folder / "manifest.json", "w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def read_manifest(folder: Path, checksums: bool = False) -> dict:
    """The manifest of a dataset whose files are all there, of the right size (and checksum: slower).

    UserError: no manifest, not one of ours, or a file that is not what it says.
    """
    path = folder / "manifest.json"
    make = f"get_data.py --dataset {folder.name}"
    if not path.is_file():
        raise UserError(f"there is no {path}: make the dataset with {make}")
    try:
        manifest = json.loads(path.read_text())
        files = {split["file"]: split for split in manifest["splits"].values()}
        if manifest["format"] != 1:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged: make it again with {make} --force") from None
    for name, split in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != split["bytes"]:
            raise UserError(f"{file} is missing or has the wrong size: make it again with {make} --force")
        if checksums and checksum(file)["sha256"] != split["sha256"]:
            raise UserError(f"{file} differs from its checksum: make it again with {make} --force")
    return manifest


# --- downloading ---


class Dropped(Exception):
    """A download stopped in a way that another try may mend. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


OTHERWISE = "or get the files by other means and give their folder as --source"


def download(url: str, path: Path, retries: int = 5, timeout: float = 60.0, wait: float = 1.0) -> None:
    """Fetch an .npy file to path; nothing stands at path until all of it is there.

    What arrives goes to path.part, and path.json says which file it is (address, ETag or date, bytes), so
    that this or a later run resumes it and never joins two different files. A try fails when the connection
    drops, when nothing arrives for `timeout` seconds, or on an answer of 408, 429 or 5xx. UserError after
    more than `retries` failures in a row without a new byte, or on any other answer. The pause between tries
    is `wait` seconds, doubled each time, or what the server asks for.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _read_note(note)
    if path.is_file() and known.get("url") == url and known.get("bytes") == path.stat().st_size:
        return
    failures, most = 0, _size(part)
    while True:
        try:
            _fetch(url, part, note, timeout)
            break
        except Dropped as fault:
            failures = failures + 1 if _size(part) <= most else 1
            most = max(most, _size(part))
            if failures > retries:
                raise UserError(
                    f"could not download {url}: {fault}; the same command goes on where this one stopped, "
                    f"{OTHERWISE}"
                ) from None
            time.sleep(max(fault.after, min(wait * 2 ** (failures - 1), 60.0)))
    os.replace(part, path)


def _fetch(url: str, part: Path, note: Path, timeout: float) -> None:
    """One try: go on with part where that is safe, else begin it. Dropped or UserError unless it is whole."""
    known = _read_note(note)
    if known.get("url") != url:
        known = {}
    begun = _size(part) if known.get("validator") else 0  # without one, nothing tells this file from another
    if begun and begun == known["bytes"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if begun:
        headers |= {"Range": f"bytes={begun}-", "If-Range": known["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            _refuse_other_than_file(reply, url)
            if reply.status_code == 200:  # a first try, a changed file, or a server that ignores Range
                length = reply.headers.get("Content-Length")
                known = {"url": url, "validator": _validator(reply), "bytes": int(length) if length else None}
                part.write_bytes(b"")
                note.write_text(json.dumps(known))
            elif not _resumes(reply, begun, known):
                part.unlink(missing_ok=True)
                raise Dropped("the server did not go on with the file that was begun")
            size = _size(part)
            with (
                open(part, "ab") as file,
                tqdm(
                    total=known["bytes"],
                    initial=size,
                    unit="B",
                    unit_scale=True,
                    desc=note.stem,
                    disable=None,
                ) as bar,
            ):
                for chunk in reply.iter_content(1 << 16):
                    if size == 0:
                        refuse_other_than_npy(chunk, url)
                    file.write(chunk)
                    bar.update(len(chunk))
                    size += len(chunk)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        progress = f" after {_size(part)} of {known['bytes']} bytes" if known.get("bytes") else ""
        raise Dropped(_reason(fault, timeout) + progress) from None
    except requests.RequestException as fault:
        raise UserError(f"could not download {url}: {fault}; check the address") from None
    if known["bytes"] is None:  # the server did not say; HTTP's own end mark, or the .npy header, must do
        note.write_text(json.dumps({**known, "bytes": size}))
    elif size != known["bytes"]:
        raise Dropped(f"only {size} of {known['bytes']} bytes arrived")


def _refuse_other_than_file(reply: requests.Response, url: str) -> None:
    answer = f"the server answered {reply.status_code} {reply.reason}"
    if reply.status_code in (408, 429) or reply.status_code >= 500:
        after = reply.headers.get("Retry-After", "")
        raise Dropped(answer, min(float(after), 60.0) if after.isdigit() else 0.0)
    if reply.status_code not in (200, 206, 416):
        raise UserError(f"could not download {url}: {answer}; check the address, {OTHERWISE}")


def _resumes(reply: requests.Response, begun: int, known: dict) -> bool:
    """Is this the rest of the very file that was begun? Some servers ignore If-Range."""
    if reply.status_code != 206 or not begun:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    same = _validator(reply) in (None, known.get("validator"))
    return bool(found and int(found[1]) == begun and int(found[2]) == known["bytes"] and same)


def _validator(reply: requests.Response) -> str | None:
    """What tells this version of the file from another, if the server says: a strong ETag, or the date."""
    etag = reply.headers.get("ETag", "W/")
    return reply.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _reason(fault: Exception, timeout: float) -> str:
    """What requests' nested message comes down to."""
    if isinstance(fault, requests.Timeout) or "timed out" in str(fault):
        return f"nothing arrived for {timeout:g} seconds"
    return _system_error(fault) or "the connection dropped"


def _system_error(fault: Exception) -> str:
    """What the operating system said, if it is in the message: "connection refused"; otherwise ""."""
    found = re.search(r"\[Errno -?\d+\] ([\w ]+)", str(fault))
    return found[1].lower() if found else ""


def _read_note(note: Path) -> dict:
    try:
        return json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# --- archives and folders ---


def contents(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file in a folder, a zip or a tar (compressed or not) whose name is wanted.

    A name has forward slashes; a folder's begins with its own. UserError: not an archive, or damaged.
    """
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                name = file.relative_to(path.parent).as_posix()
                if wanted(name) and file.is_file():
                    yield name, file.read_bytes()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in filter(wanted, archive.namelist()):
                    yield name, archive.read(name)
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and wanted(member.name):
                        yield member.name, archive.extractfile(member).read()
    except ARCHIVE_FAULTS:
        raise UserError(f"{path} is not a whole zip or tar archive: get it again") from None


def decode(data: bytes, where: str, mode: str) -> Image.Image:
    """The image (PNG, JPEG, ...) in data, in Pillow's mode "L" or "RGB". UserError if it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert(mode)
    except Exception:  # Pillow raises many kinds, OSError to SyntaxError
        raise UserError(f"{where} is not an image, or is damaged: get the data again") from None


# --- Omniglot ---

Drawings = dict[tuple[str, int], list[tuple[bytes, np.ndarray]]]  # (alphabet, number) -> what drawing() gives


def drawing(grey: np.ndarray, size: int, where: str) -> tuple[bytes, np.ndarray]:
    """A digest of the drawing [105, 105] (uint8, ink 0), and it as uint8 [size, size, 1], ink 255."""
    if grey.shape != (OMNIGLOT_SIDE, OMNIGLOT_SIDE):
        raise UserError(f"{where} is {grey.shape} pixels, not 105 x 105: give the original Omniglot")
    ink = Image.fromarray(255 - grey)
    small = np.asarray(ink.resize((size, size), Image.Resampling.LANCZOS))
    return hashlib.sha256(ink.tobytes()).digest(), small[:, :, None]


def read_omniglot(
    source: Path, size: int, parts: dict[str, int] = OMNIGLOT_PARTS, drawings: int = DRAWINGS
) -> tuple[Drawings, list[dict]]:
    """The drawings and the originals' checksums, from the official archives or folders.

    source: a folder that holds images_background and images_evaluation, zipped or not, or one of those four.
    parts: how many characters each must hold; drawings: how many a character must have. UserError otherwise.
    """
    found: Drawings = {}
    files = []
    folder = source.parent if source.name.removesuffix(".zip") in parts else source
    for part, count in parts.items():
        options = [folder / f"{part}.zip", folder / part]
        path = next((option for option in options if option.exists()), None)
        if path is None:
            raise UserError(f"there is neither {part}.zip nor {part}/ in {folder}: --source wants both parts")
        if path.is_file():
            file = checksum(path)
            files.append(file | {"official": file["sha256"] == OMNIGLOT_SHA256.get(path.name)})
        pattern = re.compile(rf"(?:^|/){part}/([^/]+)/character(\d+)/\d+_\d+\.png$")
        characters: Drawings = defaultdict(list)
        images = contents(path, pattern.search)
        for name, data in tqdm(images, total=count * drawings, desc=part, unit="image", disable=None):
            alphabet, number = pattern.search(name).groups()
            where = f"{name} in {path}"
            image = drawing(np.asarray(decode(data, where, "L")), size, where)
            characters[alphabet, int(number)].append(image)
        check_omniglot(characters, count, drawings, str(path))
        found |= characters
    return found, files


def read_omniglot_tfds(builder: object, size: int) -> Drawings:
    """The drawings in a prepared tensorflow-datasets builder of Omniglot."""
    import tensorflow_datasets as tfds  # noqa: PLC0415 (seconds to import)

    found: Drawings = defaultdict(list)
    alphabet = builder.info.features["alphabet"]
    for example in tqdm(tfds.as_numpy(builder.as_dataset(split="train+test")), unit="image", disable=None):
        character = alphabet.int2str(int(example["alphabet"])), int(example["alphabet_char_id"]) + 1
        found[character].append(drawing(example["image"][:, :, 0], size, "a drawing"))
    return found


def fetch_omniglot(size: int) -> tuple[Drawings, str]:
    """The drawings through tensorflow-datasets, and what it calls them. UserError when that fails."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would take the GPU's memory to read some PNGs
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("asking tensorflow-datasets for Omniglot (without a network, it tries for minutes)", flush=True)
    try:
        import tensorflow_datasets as tfds  # noqa: PLC0415

        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report each of many retries
        builder = tfds.builder("omniglot")
        builder.download_and_prepare()
        found = read_omniglot_tfds(builder, size)
    except Exception as fault:  # a network, a disk, a changed checksum, a broken installation: anything
        reason = _system_error(fault) or str(fault).partition("\n")[0][:200]
        raise UserError(
            f"tensorflow-datasets could not give Omniglot ({type(fault).__name__}: {reason}): try again, "
            "or get images_background.zip and images_evaluation.zip yourself: --source FOLDER"
        ) from None
    check_omniglot(found, sum(OMNIGLOT_PARTS.values()), DRAWINGS, "tensorflow-datasets' Omniglot")
    return found, f"tensorflow-datasets {builder.info.full_name}"


def check_omniglot(found: Drawings, characters: int, drawings: int, where: str) -> None:
    """UserError unless there are so many characters of so many drawings."""
    if len(found) != characters:
        raise UserError(f"{where} holds {len(found)} characters, not {characters}: give the original one")
    for (alphabet, number), images in found.items():
        if len(images) != drawings:
            raise UserError(
                f"{where}: {alphabet}/character{number:02d} has {len(images)} drawings, not {drawings}: "
                "give the original one"
            )


def write_omniglot(
    folder: Path, found: Drawings, seed: int, splits: dict[str, int] = OMNIGLOT_SPLITS
) -> Names:
    """Deal the characters to the splits by a seeded shuffle, and write each split's array.

    Characters are first put in the order of their names. tensorflow-datasets does not say who made a
    drawing, so a character's drawings are in the order of the originals' digests: whatever the source, the
    same seed gives the same arrays, and another image size the same order.
    """
    order = sorted(found)
    order = [order[i] for i in np.random.RandomState(seed).permutation(len(order))]
    names, start = {}, 0
    for split, count in splits.items():
        mine = order[start : start + count]
        start += count
        by_digest = [sorted(found[character], key=lambda image: image[0]) for character in mine]
        save(folder / f"{split}.npy", np.array([[image for _, image in images] for images in by_digest]))
        names[split] = [f"{alphabet}/character{number:02d}" for alphabet, number in mine]
    return names


# --- miniImageNet ---


def read_tables(source: Path, splits: dict[str, int] = MIMGNET_SPLITS) -> dict[str, dict[str, list[str]]]:
    """split -> class -> its images' file names, from SPLIT.csv (filename,label) in a folder or an archive.

    UserError: a missing or malformed table, a wrong number of classes, unequal classes, a repeated file name.
    """
    tables: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    for name, data in contents(source, lambda name: name.rpartition("/")[2] in {f"{s}.csv" for s in splits}):
        split, where = name.rpartition("/")[2][: -len(".csv")], f"{name} in {source}"
        header, *rows = [line.split(",") for line in data.decode("utf-8-sig", "replace").split()] or [[]]
        if header != ["filename", "label"] or any(len(row) != 2 for row in rows):
            raise UserError(f"{where} is not a table of filename,label: give the original tables")
        classes: dict[str, list[str]] = defaultdict(list)
        for file, label in rows:
            if file in seen:
                raise UserError(f"{where} names {file} a second time: give the original tables")
            seen.add(file)
            classes[label].append(file)
        if len(classes) != splits[split]:
            raise UserError(f"{where} has {len(classes)} classes, not {splits[split]}: give the original one")
        if len(sizes := {len(files) for files in classes.values()}) > 1:
            raise UserError(
                f"{where} has classes of {min(sizes)} to {max(sizes)} images: they must be as many"
            )
        tables[split] = classes
    if missing := [f"{split}.csv" for split in splits if split not in tables]:
        raise UserError(f"there is no {', '.join(missing)} in {source}: it must hold the tables and images/")
    return {split: tables[split] for split in splits}


def write_mimgnet(
    folder: Path, source: Path, splits: dict[str, int] = MIMGNET_SPLITS, side: int = MIMGNET_SIDE
) -> Names:
    """Write the splits' arrays, uint8 [classes, images, side, side, 3], from a folder or an archive.

    An archive is read twice from end to end (tables, images) and never unpacked; memory holds one image.
    """
    tables = read_tables(source, splits)
    place = {}  # file name -> (split, number of the image in its array)
    with ExitStack() as stack:
        arrays = {}
        for split, classes in tables.items():
            files = [file for images in classes.values() for file in images]
            place |= {file: (split, i) for i, file in enumerate(files)}
            shape = (len(classes), len(files) // len(classes), side, side, 3)
            arrays[split] = stack.enter_context(ArrayFile(folder / f"{split}.npy", shape, np.uint8))
        missing = dict.fromkeys(place)  # in the tables' order
        bar = stack.enter_context(tqdm(total=len(place), unit="image", disable=None))
        for name, data in contents(source, lambda name: name.rpartition("/")[2] in place):
            file = name.rpartition("/")[2]
            image = decode(data, f"{name} in {source}", "RGB")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.LANCZOS)
            split, number = place[file]
            arrays[split].put(number, np.asarray(image))
            missing.pop(file, None)
            bar.update()
        if missing:
            raise UserError(
                f"{source} lacks {len(missing)} of the {len(place)} images that its tables name, "
                f"the first is {next(iter(missing))}: it is incomplete or cut short, get it again"
            )
    return {split: list(classes) for split, classes in tables.items()}


# --- the authors' .npy files ---


def write_authors(
    folder: Path, sources: dict[str, Path], shapes: dict[str, tuple[int, ...]]
) -> tuple[Names, float]:
    """Write the authors' arrays as [classes, images, H, W, C]; returns their classes' names and scale.

    sources: split -> .npy file of any number type, flattened or not; shapes: split -> wanted shape. Pixels
    that are whole numbers in 0..255 or multiples of 1/255 in [0, 1] are stored as uint8 with scale 1/255;
    others stay as they are, float32 with scale 1. UserError: another shape, or a pixel that is not finite.
    """
    arrays = {split: _unfold(open_npy(path), shapes[split], path) for split, path in sources.items()}
    unit = whole = True  # so far, in both files: multiples of 1/255 in [0, 1]? whole numbers in 0..255?
    for split, array in arrays.items():
        for images in tqdm(array, desc=f"reading {split}", unit="class", disable=None):
            pixels = images.astype(np.float32)
            if not np.isfinite(pixels).all():
                raise UserError(f"{sources[split]} holds pixels that are not finite: get it again")
            low, high = pixels.min(), pixels.max()
            unit = unit and low >= 0 and high <= 1 and _near_whole(255 * pixels, 1e-2)
            whole = whole and low >= 0 and high <= 255 and _near_whole(pixels, 0)
            if not (unit or whole):
                break
    dtype, factor = (np.uint8, 255 if unit else 1) if unit or whole else (np.float32, 1)
    if dtype == np.float32:
        print("the pixels are not multiples of 1/255: kept as they are (float32), read with scale 1")
    for split, array in arrays.items():
        with ArrayFile(folder / f"{split}.npy", array.shape, dtype) as file:
            for c, images in enumerate(tqdm(array, desc=f"writing {split}", unit="class", disable=None)):
                pixels = images.astype(np.float32)
                file.put(c * array.shape[1], np.rint(factor * pixels) if dtype == np.uint8 else pixels)
    names = {split: [f"{split}{c:04d}" for c in range(len(array))] for split, array in arrays.items()}
    return names, SCALE if dtype == np.uint8 else 1.0


def _near_whole(values: np.ndarray, tolerance: float) -> bool:
    return bool((np.abs(values - np.rint(values)) <= tolerance).all())


def _unfold(array: np.ndarray, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """array in the wanted shape, if it differs from it only by axes merged with their neighbours."""
    ends = set(np.cumprod(shape).tolist())
    if array.size != np.prod(shape) or not set(np.cumprod(array.shape).tolist()) <= ends:
        wanted = (*shape[:2], int(np.prod(shape[2:])))
        raise UserError(f"{path} has shape {array.shape}, not {wanted}: give the authors' file")
    return array.reshape(shape)


# --- the three datasets ---


def make_omniglot(folder: Path, args: argparse.Namespace) -> tuple[dict, Names]:
    """Make it in folder; returns the manifest's "source" to "split_seed", and the names of the classes."""
    if args.source and (args.source / "train.npy").is_file():
        if args.size != 28:
            raise UserError(
                "the authors' arrays are 28 x 28 pixels: another --size needs the original images"
            )
        return _from_authors(folder, args.source, OMNIGLOT_AUTHORS)
    if args.source:
        found, files = read_omniglot(args.source, args.size)
        given = str(args.source)
    else:
        (found, given), files = fetch_omniglot(args.size), []
    names = write_omniglot(folder, found, args.seed)
    source = {"given": given, "files": files}
    return {"source": source, "rotations": 4, "scale": SCALE, "split_seed": args.seed}, names


def make_mimgnet(folder: Path, args: argparse.Namespace) -> tuple[dict, Names]:
    """As make_omniglot."""
    source = args.source
    if source is None:
        source = args.data_dir / "downloads" / "mimgnet"
        for split, url in MIMGNET_URLS.items():
            address = f"{args.mirror.rstrip('/')}/{split}.npy" if args.mirror else url
            download(address, source / f"{split}.npy", args.retries, args.timeout)
        print(f"{source} keeps the originals; it may be deleted")
        made, names = _from_authors(folder, source, MIMGNET_AUTHORS)
        made["source"]["given"] = args.mirror or " and ".join(MIMGNET_URLS.values())
        return made, names
    if (source / "train.npy").is_file():
        return _from_authors(folder, source, MIMGNET_AUTHORS)
    if source.is_dir() and not (source / "train.csv").is_file():
        archive = re.compile(r"mini.*\.(tar|tgz|tar\.\w+|zip)$", re.IGNORECASE)
        archives = [file for file in sorted(source.iterdir()) if archive.match(file.name)]
        if len(archives) != 1:
            raise UserError(
                f"{source} holds neither train.csv nor train.npy, and {len(archives)} archives named like "
                "mini-imagenet.tar: give the folder or the archive that is meant as --source"
            )
        source = archives[0]
    names = write_mimgnet(folder, source)
    files = [checksum(file) for file in ([source] if source.is_file() else sorted(source.glob("*.csv")))]
    made = {"source": {"given": str(args.source), "files": files}, "rotations": 1, "scale": SCALE}
    return {**made, "split_seed": None}, names


def make_glyphs(folder: Path, args: argparse.Namespace) -> tuple[dict, Names]:
    """As make_omniglot."""
    images = draw_glyphs(sum(GLYPHS_SPLITS.values()), DRAWINGS, args.seed)
    names, start = {}, 0
    for split, count in GLYPHS_SPLITS.items():
        save(folder / f"{split}.npy", images[start : start + count])
        names[split] = [f"glyph{c:03d}" for c in range(start, start + count)]
        start += count
    source = {"given": "glyphs.py", "files": []}
    return {"source": source, "rotations": 4, "scale": SCALE, "split_seed": args.seed}, names


def _from_authors(folder: Path, source: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[dict, Names]:
    files = {split: source / f"{split}.npy" for split in shapes}
    names, scale = write_authors(folder, files, shapes)
    print("this source has no validation classes: there is no val.npy")
    source = {"given": str(source), "files": [checksum(file) for file in files.values()]}
    return {"source": source, "rotations": 1, "scale": scale, "split_seed": None}, names


MAKERS = {"omniglot": make_omniglot, "mimgnet": make_mimgnet, "glyphs": make_glyphs}


# --- the command line ---


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Make DATA_DIR/<dataset>/.")
    add = parser.add_argument
    add("--dataset", required=True, choices=MAKERS)
    add("--data_dir", type=Path, default=Path("data"), help="default: data")
    add("--source", type=Path, help="originals that you have: a folder or an archive (see README.md)")
    add("--seed", type=int, help="of the split (omniglot) or of the drawings (glyphs); default: 0")
    add("--size", type=int, help="omniglot: side of the images in pixels; default: 28")
    add("--mirror", metavar="URL", help="mimgnet: a folder with train.npy and test.npy, not the authors'")
    add("--timeout", type=float, default=60.0, help="mimgnet: seconds to wait for a byte; default: 60")
    add("--retries", type=int, default=5, help="mimgnet: failures in a row to bear; default: 5")
    add("--force", action="store_true", help="make it again even if it is there")
    add("--verify", action="store_true", help="only check the files against the manifest's checksums")
    args = parser.parse_args(argv)

    if args.source and args.dataset == "glyphs":
        parser.error("--source: glyphs are drawn here, from nothing")
    if args.source and args.mirror:
        parser.error("give --source or --mirror, not both")
    if args.mirror and args.dataset != "mimgnet":
        parser.error("--mirror is for mimgnet only")
    if args.size is not None and (args.dataset != "omniglot" or not 1 <= args.size <= OMNIGLOT_SIDE):
        parser.error("--size is for omniglot only, from 1 to 105")
    if args.seed is not None and (args.dataset == "mimgnet" or not 0 <= args.seed < 2**32):
        parser.error("--seed is for omniglot and glyphs only, from 0 to 4294967295")
    if args.timeout <= 0 or args.retries < 0:
        parser.error("--timeout must be above 0 and --retries at least 0")
    if args.source and not args.source.exists():
        parser.error(f"--source: there is no {args.source}")
    args.seed = args.seed or 0
    args.size = args.size or 28
    return args


def main(argv: list[str] | None = None) -> None:
    """The command line. UserError for every fault that is not a defect of this program."""
    args = parse(argv)
    target = args.data_dir / args.dataset
    try:
        if args.verify:
            print(f"{target}: {describe(read_manifest(target, checksums=True))}; checksums agree")
        elif (target / "manifest.json").is_file() and not args.force:
            manifest = read_manifest(target)
            _refuse_other_request(manifest, args, target)
            print(f"{target} is complete: {describe(manifest)}")
        else:
            print(f"{target}: {describe(make(args, target))}")
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "check that it exists and may be read and written"
        raise UserError(
            f"{where}{fault.strerror or fault} (making {target}): {remedy}, or give another --data_dir"
        ) from None


def make(args: argparse.Namespace, target: Path) -> dict:
    """Make the dataset at target, and return its manifest."""
    if args.source and args.source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"--source {args.source} is what would be replaced: move it elsewhere")
    with making(target) as folder:
        made, names = MAKERS[args.dataset](folder, args)
        return write_manifest(folder, {"dataset": args.dataset, **made}, names)


def describe(manifest: dict) -> str:
    """One line: the splits, and the images' shape."""
    splits = [
        f"{name} {s['classes']} classes x {s['images_per_class']}" for name, s in manifest["splits"].items()
    ]
    return f"{', '.join(splits)} images of {'x'.join(map(str, manifest['image_shape']))}"


def _refuse_other_request(manifest: dict, args: argparse.Namespace, target: Path) -> None:
    """UserError where what is there was made with another --seed or --size than is asked for now."""
    seed, size = manifest["split_seed"], manifest["image_shape"][0]
    if seed is not None and seed != args.seed:
        raise UserError(f"{target} was made with --seed {seed}, not {args.seed}: make it again with --force")
    if args.dataset == "omniglot" and size != args.size:
        raise UserError(f"{target} was made with --size {size}, not {args.size}: make it again with --force")


if __name__ == "__main__":
    run(main)
