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
import hashlib
import itertools
import logging
import os
import posixpath
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import requests
from PIL import Image
from tqdm import tqdm

from arrays import (
    SCALE,
    ArrayFile,
    Names,
    checksum,
    making,
    open_npy,
    read_manifest,
    refuse_other_shape,
    save,
    write_manifest,
)
from download import contents, decode, download, system_error
from errors import Parser, UserError, run
from glyphs import draw_glyphs

OMNIGLOT_PARTS = {"images_background": 964, "images_evaluation": 659}  # archive -> characters
OMNIGLOT_SPLITS = {"train": 1100, "val": 100, "test": 423}  # times 4: 4800 classes and 1692
OMNIGLOT_SIDE, DRAWINGS = 105, 20
OMNIGLOT_AUTHORS = {"train": (4800, 20, 28, 28, 1), "test": (1692, 20, 28, 28, 1)}

MIMGNET_SPLITS = {"train": 64, "val": 16, "test": 20}
MIMGNET_AUTHORS = {"train": (64, 600, 84, 84, 3), "test": (20, 600, 84, 84, 3)}
MIMGNET_URLS = {
    "train": "https://www.dropbox.com/s/ir54llgjfjv3naa/train.npy?dl=1",
    "test": "https://www.dropbox.com/s/i40h3wyjlpxeesr/test.npy?dl=1",
}

GLYPHS_SPLITS = {"train": 100, "val": 20, "test": 30}
Shapes = dict[str, tuple[int, ...]]  # split -> the shape of its array


# --- Omniglot ---

Drawings = dict[tuple[str, int], list[tuple[bytes, np.ndarray]]]  # (alphabet, number) -> what drawing() gives


def drawing(grey: np.ndarray, size: int, where: str) -> tuple[bytes, np.ndarray]:
    """A digest of the drawing [105, 105] (uint8, ink 0), and it as uint8 [size, size, 1], ink 255."""
    if grey.shape != (OMNIGLOT_SIDE, OMNIGLOT_SIDE):
        raise UserError(f"{where} is {grey.shape} pixels, not 105 x 105: give the original Omniglot")
    ink = 255 - grey
    small = Image.fromarray(ink).resize((size, size), Image.Resampling.LANCZOS)
    return hashlib.sha256(ink.tobytes()).digest(), np.asarray(small)[:, :, None]


def read_omniglot(
    source: Path, size: int, parts: dict[str, int] = OMNIGLOT_PARTS, drawings: int = DRAWINGS
) -> tuple[Drawings, dict]:
    """The drawings, and the manifest's "source", from the official archives or folders.

    source: a folder that holds images_background and images_evaluation, zipped or not, or one of those four.
    parts: how many characters each must hold; drawings: how many a character must have. UserError otherwise.
    """
    found, files = {}, []
    folder = source.parent if source.name.removesuffix(".zip") in parts else source
    for part, count in parts.items():
        path = next((p for p in (folder / f"{part}.zip", folder / part) if p.exists()), None)
        if path is None:
            raise UserError(f"there is neither {part}.zip nor {part}/ in {folder}: --source wants both parts")
        if path.is_file():
            files.append(checksum(path))
        pattern = re.compile(rf"(?:^|/){part}/([^/]+)/character(\d+)/\d+_\d+\.png$")
        characters: Drawings = defaultdict(list)
        images = contents(path, pattern.search)
        for name, data, match in tqdm(images, total=count * drawings, desc=part, disable=None):
            where = f"{name} in {path}"
            image = drawing(np.asarray(decode(data, where, "L")), size, where)
            characters[match[1], int(match[2])].append(image)
        check_omniglot(characters, count, drawings, str(path))
        found |= characters
    return found, {"given": str(source), "files": files}


def fetch_omniglot(size: int) -> tuple[Drawings, dict]:
    """As read_omniglot, through tensorflow-datasets. UserError when that fails."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # TensorFlow would take the GPU's memory to read some PNGs
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("asking tensorflow-datasets for Omniglot", flush=True)
    try:
        import tensorflow_datasets as tfds  # takes seconds

        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it would report each of many retries
        builder = tfds.builder("omniglot")
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():  # it has yet to be downloaded
            requests.head(next(iter(builder.url_infos)), timeout=10)  # no network? Its own retries take minutes
        builder.download_and_prepare()
        examples = tfds.as_numpy(builder.as_dataset(split="train+test"))
        found = read_omniglot_tfds(examples, builder.info.features["alphabet"].int2str, size)
    except Exception as fault:  # a network, a disk, a changed checksum, a broken installation: anything
        reason = system_error(fault) or str(fault).partition("\n")[0][:200]
        raise UserError(
            f"tensorflow-datasets could not give Omniglot ({type(fault).__name__}: {reason}): try again, "
            "or get images_background.zip and images_evaluation.zip yourself: --source FOLDER"
        ) from None
    check_omniglot(found, sum(OMNIGLOT_PARTS.values()), DRAWINGS, "tensorflow-datasets' Omniglot")
    return found, {"given": f"tensorflow-datasets {builder.info.full_name}", "files": []}


def read_omniglot_tfds(examples: Iterable[dict], alphabet: Callable[[int], str], size: int) -> Drawings:
    """The drawings in tensorflow-datasets' examples; alphabet: from its number of one to the name."""
    found: Drawings = defaultdict(list)
    for example in tqdm(examples, total=DRAWINGS * sum(OMNIGLOT_PARTS.values()), disable=None):
        character = alphabet(int(example["alphabet"])), int(example["alphabet_char_id"]) + 1
        found[character].append(drawing(example["image"][:, :, 0], size, "a drawing"))
    return found


def check_omniglot(found: Drawings, characters: int, drawings: int, where: str) -> None:
    """UserError unless there are so many characters of so many drawings."""
    faults = [] if len(found) == characters else [f"{len(found)} characters, not {characters}"]
    for (alphabet, number), images in found.items():
        if len(images) != drawings:
            faults.append(f"{len(images)} drawings, not {drawings}, of {alphabet}/character{number:02d}")
    if faults:
        raise UserError(f"{where} holds {faults[0]}: give the original one")


def write_omniglot(folder: Path, found: Drawings, seed: int, splits: dict[str, int] = OMNIGLOT_SPLITS) -> Names:
    """Deal the characters to the splits by a seeded shuffle, and write each split's array.

    Characters are first put in the order of their names. tensorflow-datasets does not say who made a
    drawing, so a character's drawings are in the order of the originals' digests: whatever the source, the
    same seed gives the same arrays, and another image size the same order.
    """
    order = sorted(found)
    shuffled = iter([order[i] for i in np.random.RandomState(seed).permutation(len(order))])
    names = {}
    for split, count in splits.items():
        mine = list(itertools.islice(shuffled, count))
        by_digest = [sorted(found[character], key=lambda image: image[0]) for character in mine]
        save(folder / f"{split}.npy", np.array([[image for _, image in images] for images in by_digest]))
        names[split] = [f"{alphabet}/character{number:02d}" for alphabet, number in mine]
    return names


def make_omniglot(folder: Path, args: argparse.Namespace) -> dict:
    """Make it in folder; returns its manifest."""
    if holds_authors_arrays(args.source):
        return from_authors(folder, args, args.source, OMNIGLOT_AUTHORS)
    found, source = read_omniglot(args.source, args.size) if args.source else fetch_omniglot(args.size)
    names = write_omniglot(folder, found, args.seed)
    return write_manifest(folder, args.dataset, names, source, rotations=4, split_seed=args.seed)


# --- miniImageNet ---


def read_tables(source: Path, splits: dict[str, int] = MIMGNET_SPLITS) -> dict[str, dict[str, list[str]]]:
    """split -> class -> its images' file names, from SPLIT.csv (filename,label) in a folder or an archive.

    UserError: a missing or malformed table, a wrong number of classes, unequal classes, a repeated file name, a
    class that is in two tables.
    """
    tables: dict[str, dict[str, list[str]]] = {}
    seen: set[str] = set()
    split_of: dict[str, str] = {}  # class -> the first split that has it
    table_of = {f"{split}.csv": split for split in splits}
    for name, data, split in contents(source, lambda name: table_of.get(posixpath.basename(name))):
        where = f"{name} in {source}"
        header, *rows = [line.split(",") for line in data.decode("utf-8-sig", "replace").split()] or [[]]
        if header != ["filename", "label"] or any(len(row) != 2 for row in rows):
            raise UserError(f"{where} is not a table of filename,label: give the original tables")
        classes: dict[str, list[str]] = defaultdict(list)
        for file, label in rows:
            if file in seen:
                raise UserError(f"{where} names {file} a second time: give the original tables")
            if split_of.setdefault(label, split) != split:
                raise UserError(f"{where} has the class {label} of {split_of[label]}.csv: give the original tables")
            seen.add(file)
            classes[label].append(file)
        if len(classes) != splits[split]:
            raise UserError(f"{where} has {len(classes)} classes, not {splits[split]}: give the original one")
        if len(sizes := {len(files) for files in classes.values()}) > 1:
            raise UserError(f"{where} has classes of {min(sizes)} to {max(sizes)} images: give the original one")
        tables[split] = classes
    if missing := [table for table, split in table_of.items() if split not in tables]:
        raise UserError(f"there is no {', '.join(missing)} in {source}: it must hold the tables and images/")
    return {split: tables[split] for split in splits}


def write_mimgnet(folder: Path, source: Path, splits: dict[str, int] = MIMGNET_SPLITS, side: int = 84) -> Names:
    """Write the splits' arrays, uint8 [classes, images, side, side, 3], from a folder or an archive.

    An archive is read twice from end to end (tables, images) and never unpacked; memory holds one image.
    """
    tables = read_tables(source, splits)
    places, arrays = {}, {}  # file name -> (split, number of the image in its array); split -> ArrayFile
    with ExitStack() as stack:
        for split, classes in tables.items():
            files = [file for images in classes.values() for file in images]
            places |= {file: (split, i) for i, file in enumerate(files)}
            shape = (len(classes), len(files) // len(classes), side, side, 3)
            arrays[split] = stack.enter_context(ArrayFile(folder / f"{split}.npy", shape, np.uint8))
        missing = {place: file for file, place in places.items()}
        images = contents(source, lambda name: places.get(posixpath.basename(name)))
        for name, data, (split, number) in tqdm(images, total=len(places), unit="image", disable=None):
            image = decode(data, f"{name} in {source}", "RGB")
            if image.size != (side, side):
                image = image.resize((side, side), Image.Resampling.LANCZOS)
            arrays[split].put(number, np.asarray(image))
            if missing.pop((split, number), None) is None:
                raise UserError(f"{name} in {source} is a second image of that name: leave one of them there")
    if missing:
        raise UserError(
            f"{source} lacks {len(missing)} of the {len(places)} images that its tables name, "
            f"the first is {next(iter(missing.values()))}: it is incomplete or cut short, get it again"
        )
    return {split: list(classes) for split, classes in tables.items()}


def make_mimgnet(folder: Path, args: argparse.Namespace) -> dict:
    """As make_omniglot."""
    source = args.source
    if source is None:
        source = args.data_dir / "downloads" / "mimgnet"
        for split, url in MIMGNET_URLS.items():
            address = f"{args.mirror.rstrip('/')}/{split}.npy" if args.mirror else url
            shape = MIMGNET_AUTHORS[split]
            download(address, source / f"{split}.npy", shape, retries=args.retries, timeout=args.timeout)
        print(f"{source} keeps the originals; it may be deleted")
    if holds_authors_arrays(source):
        return from_authors(folder, args, source, MIMGNET_AUTHORS)
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
    return write_manifest(folder, args.dataset, names, {"given": str(args.source), "files": files})


# --- the authors' .npy files ---


def holds_authors_arrays(source: Path | None) -> bool:
    return source is not None and os.path.isfile(source / "train.npy")


def from_authors(folder: Path, args: argparse.Namespace, source: Path, shapes: Shapes) -> dict:
    """As make_omniglot, from the folder source."""
    files = {split: source / f"{split}.npy" for split in shapes}
    names, scale = write_authors(folder, files, shapes)
    print("this source has no validation classes: there is no val.npy")
    given = str(args.source or args.mirror or " and ".join(MIMGNET_URLS.values()))
    made_from = {"given": given, "files": [checksum(file) for file in files.values()]}
    return write_manifest(folder, args.dataset, names, made_from, scale=scale)


def write_authors(folder: Path, sources: dict[str, Path], shapes: Shapes) -> tuple[Names, float]:
    """Write the authors' arrays as [classes, images, H, W, C]; returns their classes' names and scale.

    sources: split -> .npy file of any number type, flattened or not; shapes: split -> wanted shape. Pixels
    that are multiples of 1/255 in [0, 1] or whole numbers in 0..255 are stored as uint8 with scale 1/255;
    others stay as they are, float32 with scale 1. UserError: another shape, or a pixel that is not finite.
    """
    arrays = {}
    for split, path in sources.items():
        array = open_npy(path)
        refuse_other_shape(array.shape, shapes[split], str(path))
        arrays[split] = array.reshape(shapes[split])
    factors = [255, 1]  # those that make every pixel so far a whole number in 0..255
    for split, array in arrays.items():
        for images in tqdm(array, desc=f"reading {split}", unit="class", disable=None):
            pixels = images.astype(np.float32)
            if not np.isfinite(pixels).all():
                raise UserError(f"{sources[split]} holds pixels that are not finite: get it again")
            factors = [factor for factor in factors if are_bytes(factor * pixels)]
    dtype, scale = (np.uint8, SCALE) if factors else (np.float32, 1.0)
    if not factors:
        print("the pixels are not multiples of 1/255: kept as they are (float32), read with scale 1")
    for split, array in arrays.items():
        with ArrayFile(folder / f"{split}.npy", array.shape, dtype) as file:
            for c, images in enumerate(tqdm(array, desc=f"writing {split}", unit="class", disable=None)):
                pixels = np.rint(factors[0] * images.astype(np.float32)) if factors else images
                file.put(c * array.shape[1], pixels)
    return {split: [f"{split}{c:04d}" for c in range(len(array))] for split, array in arrays.items()}, scale


def are_bytes(values: np.ndarray) -> bool:
    """Are these whole numbers in 0..255, but for what rounding did to them?"""
    whole = np.rint(values)
    return bool(whole.min() >= 0 and whole.max() <= 255 and (np.abs(values - whole) <= 1e-2).all())


# --- glyphs ---


def make_glyphs(folder: Path, args: argparse.Namespace) -> dict:
    """As make_omniglot."""
    images = draw_glyphs(sum(GLYPHS_SPLITS.values()), DRAWINGS, args.seed)
    names, start = {}, 0
    for split, count in GLYPHS_SPLITS.items():
        save(folder / f"{split}.npy", images[start : start + count])
        names[split] = [f"glyph{c:03d}" for c in range(start, start + count)]
        start += count
    source = {"given": "glyphs.py", "files": []}
    return write_manifest(folder, args.dataset, names, source, rotations=4, split_seed=args.seed)


# --- the command line ---

MAKERS = {"omniglot": make_omniglot, "mimgnet": make_mimgnet, "glyphs": make_glyphs}

# What is asked for -> the flags that it takes beside --dataset and --data_dir, and their defaults. All others, which
# it would not heed, are refused.
FLAGS = {
    "--verify": {"verify": True},
    "omniglot": {"source": None, "seed": 0, "size": 28, "force": False},
    "omniglot from the authors' arrays": {"source": None, "force": False},
    "mimgnet": {"mirror": None, "timeout": 60.0, "retries": 5, "force": False},
    "mimgnet from --source": {"source": None, "force": False},
    "glyphs": {"seed": 0, "force": False},
}
LIMITS = {"seed": (0, 2**32 - 1), "size": (1, OMNIGLOT_SIDE), "timeout": (0.001, 86400), "retries": (0, 1000)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The flags, those that are not in question as None; leaves with a sentence and exit code 2 where one is wrong."""
    parser = Parser(description="Make DATA_DIR/<dataset>/.", argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--dataset", required=True, choices=MAKERS)
    add("--data_dir", type=folder_name, default=Path("data"), help="default: data")
    add("--source", type=folder_name, help="originals that you have: a folder or an archive (see README.md)")
    add("--seed", type=int, help="of the split (omniglot) or of the drawings (glyphs); default: 0")
    add("--size", type=int, help="omniglot: side of the images in pixels; default: 28")
    add("--mirror", metavar="URL", help="mimgnet: a folder with train.npy and test.npy, not the authors'")
    add("--timeout", type=float, help="mimgnet: seconds to wait for a byte; default: 60")
    add("--retries", type=int, help="mimgnet: failures in a row to bear; default: 5")
    add("--force", action="store_true", help="make it again even if it is there")
    add("--verify", action="store_true", help="only check the files against the manifest's checksums")
    asked = vars(parser.parse_args(argv))

    task, source = asked["dataset"], asked.get("source")
    if "verify" in asked:
        task = "--verify"
    elif task == "omniglot" and holds_authors_arrays(source):
        task = "omniglot from the authors' arrays"
    elif task == "mimgnet" and source:
        task = "mimgnet from --source"
    for flag in asked.keys() - {"dataset", "data_dir"} - FLAGS[task].keys():
        takes = ", ".join(f"--{name}" for name in FLAGS[task])
        parser.error(f"--{flag} has no meaning for {task}, which takes --dataset, --data_dir, {takes}")
    for flag, (low, high) in LIMITS.items():
        if flag in asked and not low <= asked[flag] <= high:  # nan is not
            parser.error(f"--{flag} {asked[flag]} is not from {low} to {high}")
    if source and not (os.path.isdir(source) or os.path.isfile(source)):
        parser.error(f"--source: there is no folder and no file {source}")
    if not re.match(r"https?://[^/]", asked.get("mirror", "http://-")):
        parser.error(f"--mirror {asked['mirror']} is not an address like https://HOST/FOLDER")
    nothing = dict.fromkeys(flag for flags in FLAGS.values() for flag in flags)
    return argparse.Namespace(**nothing | FLAGS[task] | asked)


def folder_name(text: str) -> Path:
    if not text:  # an unset variable of the shell; it would be the current folder
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


def main(argv: list[str] | None = None) -> None:
    """The command line. UserError for every fault that is not a defect of this program."""
    args = parse(argv)
    target = args.data_dir / args.dataset
    try:
        if args.verify:
            manifest, how = read_manifest(target, checksums=True), "; checksums agree"
        elif (target / "manifest.json").is_file() and not args.force:
            manifest = read_manifest(target)
            how = f"; it is complete, made from {manifest['source']['given']} (--force makes it again)"
            for option, present in (("seed", manifest["split_seed"]), ("size", manifest["image_shape"][0])):
                wanted = vars(args)[option]
                if None not in (present, wanted) and present != wanted:
                    raise UserError(f"{target} has --{option} {present}, not {wanted}: make it again with --force")
        elif args.source and args.source.resolve().is_relative_to(target.resolve()):
            raise UserError(f"--source {args.source} is what would be replaced: move it elsewhere")
        else:
            with making(target) as folder:
                manifest, how = MAKERS[args.dataset](folder, args), ""
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "check that it exists and may be read and written"
        raise UserError(
            f"{where}{fault.strerror or fault} (making {target}): {remedy}, or give another --data_dir"
        ) from None
    splits = manifest["splits"].items()
    counts = ", ".join(f"{name} {split['classes']} classes x {split['images_per_class']}" for name, split in splits)
    print(f"{target}: {counts} images of {'x'.join(map(str, manifest['image_shape']))}{how}")


if __name__ == "__main__":
    run(main)
