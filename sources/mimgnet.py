"""miniImageNet: the authors' two arrays, downloaded; or 64 / 16 / 20 classes from the original images and tables."""

import argparse
import itertools
import posixpath
import re
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from settings import Settings, setting, to_number, whole
from sources.archives import contents
from sources.arrays import Names, array_writer, checksum, write_manifest
from sources.authors_arrays import make_from_arrays
from sources.download import download
from sources.maker import SourceSettings
from sources.pictures import decode
from sources.preparation import Preparation

SPLITS = {"train": 64, "val": 16, "test": 20}  # classes
SIDE = 84  # pixels
AUTHORS_SHAPES = {"train": (64, 600, 84, 84, 3), "test": (20, 600, 84, 84, 3)}
AUTHORS_URLS = {
    "train": "https://www.dropbox.com/s/ir54llgjfjv3naa/train.npy?dl=1",
    "test": "https://www.dropbox.com/s/i40h3wyjlpxeesr/test.npy?dl=1",
}
Classes = dict[str, list[str]]  # class -> its images' file names


def web_address(text: str) -> str:
    """Read the address of a web folder from a flag."""
    if not re.match(r"https?://[^/]", text):
        raise argparse.ArgumentTypeError(f"must be an address like https://HOST/FOLDER, not {text!r}")
    return text


def seconds(text: str) -> float:
    """Read a number of seconds, from a thousandth to a day, from a flag."""
    value = to_number(text)
    if not 0.001 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0.001 to 86400, not {text!r}")
    return value


@dataclass(frozen=True)
class MimgnetSettings(Settings):
    mirror: str | None = setting(
        None, "another web folder than the authors', with train.npy and test.npy", web_address, metavar="URL"
    )
    timeout: float = setting(60.0, "seconds without a byte after which a try of the download fails", seconds)
    retries: int = setting(5, "failures in a row, without a new byte, that a download survives", whole(0, 1000))


def make_mimgnet(folder: Path, target: Path, settings: MimgnetSettings) -> dict:
    """Download the authors' arrays, or a mirror's, and make miniImageNet in `folder`; return its manifest.

    The downloads stay in DATA_DIR/downloads. UserError as in download and write_authors_arrays.
    """
    mirror, downloads = settings.mirror, target.parent / "downloads" / target.name
    for split, shape in AUTHORS_SHAPES.items():
        url = f"{mirror.rstrip('/')}/{split}.npy" if mirror else AUTHORS_URLS[split]
        download(url, downloads / f"{split}.npy", shape, retries=settings.retries, timeout=settings.timeout)
    print(f"{downloads} keeps the originals; it may be deleted")
    address = mirror or " and ".join(AUTHORS_URLS.values())
    return make_from_arrays(folder, target, downloads, AUTHORS_SHAPES, address)


def make_mimgnet_from_source(folder: Path, target: Path, settings: SourceSettings) -> dict:
    """Make miniImageNet in `folder` from a --source; return its manifest.

    The source is a folder or an archive with tables and images, or a folder with one such archive. Raise UserError if
    it is none of these, or is damaged.
    """
    originals = find_originals(settings.source)
    names = write_mimgnet(folder, originals)
    files = [originals] if originals.is_file() else sorted(originals.glob("*.csv"))
    origin = {"given": str(settings.source), "files": [checksum(f) for f in files]}
    return write_manifest(folder, target.name, names, origin, prepare=Preparation(SIDE, 3)._asdict())


def find_originals(source: Path) -> Path:
    """Return the folder or the archive with tables and images: `source`, or the only archive in it. Else UserError."""
    if not source.is_dir() or (source / "train.csv").is_file():
        return source
    pattern = re.compile(r"mini.*\.(tar|tgz|tar\.\w+|zip)$", re.IGNORECASE)
    archives = [file for file in sorted(source.iterdir()) if pattern.match(file.name)]
    if len(archives) != 1:
        raise UserError(
            f"{source} holds neither train.csv nor train.npy, and not one but {len(archives)} archives named like "
            "mini-imagenet.tar: give the right folder or archive as --source"
        )
    return archives[0]


def read_tables(source: Path, splits: dict[str, int] = SPLITS) -> dict[str, Classes]:
    """Read SPLIT.csv (filename,label) in a folder or an archive -> {split: {class: its images' file names}}.

    splits: split -> number of classes. Raise UserError if a table is missing or malformed, if the number of classes is
    wrong, if classes differ in their numbers of images, if a file name is repeated, or if a class is in two tables.
    """
    tables: dict[str, Classes] = {}
    images: set[str] = set()  # of all tables
    first_split: dict[str, str] = {}  # class -> the first split that has it
    split_of_table = {f"{split}.csv": split for split in splits}
    for name, table, split in contents(source, lambda name: split_of_table.get(posixpath.basename(name))):
        where = f"{name} in {source}"
        classes: Classes = defaultdict(list)
        header, *rows = [line.split(",") for line in table.decode("utf-8-sig", "replace").split()] or [[]]
        if header != ["filename", "label"] or any(len(row) != 2 for row in rows):
            raise UserError(f"{where} is not a table of filename,label: give the original tables")
        for image, label in rows:
            if image in images:
                raise UserError(f"{where} names {image} a second time: give the original tables")
            if first_split.setdefault(label, split) != split:
                twice = f"{where} has the class {label}, which {first_split[label]}.csv has too"
                raise UserError(f"{twice}: give the original tables")
            images.add(image)
            classes[label].append(image)
        if len(classes) != splits[split]:
            raise UserError(f"{where} has {len(classes)} classes, not {splits[split]}: give the original one")
        if len(sizes := {len(images) for images in classes.values()}) > 1:
            raise UserError(f"{where} has classes of {min(sizes)} to {max(sizes)} images: give the original one")
        tables[split] = classes
    if missing := [table for table, split in split_of_table.items() if split not in tables]:
        raise UserError(f"there is no {', '.join(missing)} in {source}: it must hold the tables and images/")
    return {split: tables[split] for split in splits}


def write_mimgnet(folder: Path, source: Path, splits: dict[str, int] = SPLITS, side: int = SIDE) -> Names:
    """Write the splits' arrays, uint8 [classes, images, side, side, 3], from a folder or an archive -> classes' names.

    An archive is read twice from end to end (tables, images) and never unpacked; memory holds one image. UserError as
    in read_tables, or if an image is damaged, missing or repeated.
    """
    tables, prepare, places = read_tables(source, splits), Preparation(side, 3), {}
    with ExitStack() as stack:
        for split, classes in tables.items():
            images = list(itertools.chain.from_iterable(classes.values()))
            shape = (len(classes), len(images) // len(classes), side, side, 3)
            write = stack.enter_context(array_writer(folder / f"{split}.npy", shape, np.uint8))
            places |= {image: (write, number) for number, image in enumerate(images)}
        missing = dict.fromkeys(places)  # in the tables' order
        selected = contents(source, lambda name: places.get(posixpath.basename(name)))
        for name, data, (write, number) in tqdm(selected, total=len(places), unit="image", disable=None):
            image = prepare(decode(data, f"{name} in {source}"))
            if posixpath.basename(name) not in missing:
                raise UserError(f"{name} in {source} is a second image of that name: keep only one of them")
            write(number, image)
            del missing[posixpath.basename(name)]
        if missing:
            raise UserError(
                f"{source} lacks {len(missing)} of the {len(places)} images that its tables name, the first is "
                f"{next(iter(missing))}: it is incomplete or cut short, get it again"
            )
    return {split: list(classes) for split, classes in tables.items()}
