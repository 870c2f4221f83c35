"""Omniglot: 1623 handwritten characters, each drawn 20 times; every character is in one of three random splits."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from errors import UserError
from settings import setting, whole
from sources.archives import contents
from sources.arrays import Names, checksum, save, write_manifest
from sources.class_split import group_by_split, read_split
from sources.maker import FROM_TFDS, SeedSettings, SourceSettings
from sources.omniglot_sets import PARTS
from sources.pictures import decode
from sources.preparation import Preparation
from sources.tfds import prepared_builder

SPLITS = {"train": 1100, "val": 100, "test": 423}  # characters; with four rotations, 4400, 400 and 1692 classes
DRAWINGS = 20  # per character
ORIGINAL_SIDE = 105  # pixels
AUTHORS_SHAPES = {"train": (4800, 20, 28, 28, 1), "test": (1692, 20, 28, 28, 1)}
OTHERWISE = "try again, or get images_background.zip and images_evaluation.zip yourself: --source FOLDER"

Drawing = tuple[bytes, np.ndarray]  # SHA-256 of the original's pixels; uint8 [size, size, 1], ink 255 on paper 0
Characters = dict[str, list[Drawing]]  # alphabet/characterNN -> its drawings


@dataclass(frozen=True)
class OriginalsSettings(SourceSettings):
    size: int = setting(28, "side of the images in pixels", whole(16, ORIGINAL_SIDE))


@dataclass(frozen=True)
class OmniglotSettings(SeedSettings, OriginalsSettings):
    """The settings of a split at random."""


def make_omniglot(folder: Path, target: Path, settings: OmniglotSettings) -> dict:
    """Make Omniglot in `folder` from its originals, or through tensorflow-datasets; return its manifest.

    UserError as in read_omniglot and fetch_omniglot.
    """
    characters, facts = obtain_characters(settings)
    names = write_omniglot(folder, characters, settings.seed)
    return write_manifest(folder, target.name, names, split_seed=settings.seed, **facts)


def make_omniglot_by_table(folder: Path, target: Path, settings: OriginalsSettings, table: Path, **more: str) -> dict:
    """Make Omniglot as `make_omniglot` does, with the splits of a table (see `read_split`). more: further entries of
    the manifest."""
    characters, facts = obtain_characters(settings)
    names = group_by_split(read_split(table, characters), characters)
    write_characters(folder, characters, names)
    facts["source"]["files"].append(checksum(table))
    return write_manifest(folder, target.name, names, **facts, **more)


def obtain_characters(settings: OriginalsSettings) -> tuple[Characters, dict]:
    """Read the characters from --source, or fetch them -> the characters, and the manifest's entries on them."""
    source, size = settings.source, settings.size
    characters, origin = read_omniglot(source, size) if source else fetch_omniglot(size)
    return characters, {"source": origin, "rotations": 4, "prepare": Preparation(size, 1, invert=True)._asdict()}


def read_omniglot(
    source: Path, size: int, parts: dict[str, int] = PARTS, drawings: int = DRAWINGS
) -> tuple[Characters, dict]:
    """Read the official archives or folders -> the characters, and the manifest's "source".

    source: a folder that holds images_background and images_evaluation, zipped or not, or one of these.
    parts: the number of characters in each; drawings: the number per character. Raise UserError if these differ.
    """
    characters, archives = {}, []
    folder = source.parent if source.name.removesuffix(".zip") in parts else source
    for part, count in parts.items():
        path = next((p for p in (folder / f"{part}.zip", folder / part) if p.exists()), None)
        if path is None:
            raise UserError(f"there is neither {part}.zip nor {part}/ in {folder}: --source needs both parts")
        if path.is_file():
            archives.append(checksum(path))
        characters |= _read_part(path, part, size, count, drawings)
    return characters, {"given": str(source), "files": archives}


def _read_part(path: Path, part: str, size: int, count: int, drawings: int) -> Characters:
    """Read the `count` characters in one official archive or folder."""
    pattern = re.compile(rf"(?:^|/){part}/([^/]+/character\d+)/\d+_\d+\.png$")
    characters: Characters = defaultdict(list)
    images = contents(path, pattern.search)
    for name, data, match in tqdm(images, total=count * drawings, desc=part, disable=None):
        where = f"{name} in {path}"
        original = np.asarray(decode(data, where).convert("L"))
        characters[match[1]].append(shrink(original, size, where))
    refuse_other_characters(characters, count, drawings, str(path))
    return characters


def fetch_omniglot(size: int) -> tuple[Characters, dict]:
    """Let tensorflow-datasets download Omniglot -> as read_omniglot. Raise UserError if the download fails."""
    with prepared_builder("omniglot", OTHERWISE) as builder:
        import tensorflow_datasets as tfds  # prepared_builder has loaded it

        examples = tfds.as_numpy(builder.as_dataset(split="train+test"))
        characters = read_examples(examples, builder.info.features["alphabet"].int2str, size)
    refuse_other_characters(characters, sum(PARTS.values()), DRAWINGS, "tensorflow-datasets' Omniglot")
    return characters, {"given": f"{FROM_TFDS}{builder.info.full_name}", "files": []}


def read_examples(examples: Iterable[dict], alphabet_name: Callable[[int], str], size: int) -> Characters:
    """Read the characters in tensorflow-datasets' examples, which have numbers in place of alphabets' names."""
    characters: Characters = defaultdict(list)
    for example in tqdm(examples, total=DRAWINGS * sum(PARTS.values()), disable=None):
        alphabet, number = alphabet_name(int(example["alphabet"])), int(example["alphabet_char_id"]) + 1
        drawing = shrink(example["image"][:, :, 0], size, "a drawing")
        characters[f"{alphabet}/character{number:02d}"].append(drawing)
    return characters


def shrink(original: np.ndarray, size: int, where: str) -> Drawing:
    """Shrink an original, uint8 [105, 105], ink 0 on paper 255, to a drawing. Raise UserError if it has another
    shape."""
    if original.shape != (ORIGINAL_SIDE, ORIGINAL_SIDE):
        raise UserError(f"{where} is {original.shape} pixels, not 105 x 105: give the original Omniglot")
    ink = 255 - original
    image = Image.fromarray(ink).resize((size, size), Image.Resampling.LANCZOS)
    return hashlib.sha256(ink.tobytes()).digest(), np.asarray(image)[:, :, None]


def refuse_other_characters(characters: Characters, count: int, drawings: int, where: str) -> None:
    """Raise UserError unless there are `count` characters with `drawings` drawings each."""
    if len(characters) != count:
        raise UserError(f"{where} holds {len(characters)} characters, not {count}: give the original one")
    for name, images in characters.items():
        if len(images) != drawings:
            raise UserError(f"{where} holds {len(images)} drawings, not {drawings}, of {name}: give the original one")


def write_omniglot(folder: Path, characters: Characters, seed: int, splits: dict[str, int] = SPLITS) -> Names:
    """Assign the characters to the splits at random, and write each split's array (see `write_characters`) -> the
    characters' names.

    splits: split -> number of characters. The same seed gives the same arrays from every source, and the same order at
    every size: characters are sorted by name before the shuffle.
    """
    by_name = sorted(characters)
    shuffled = iter([by_name[i] for i in np.random.RandomState(seed).permutation(len(by_name))])
    names = {split: list(itertools.islice(shuffled, count)) for split, count in splits.items()}
    write_characters(folder, characters, names)
    return names


def write_characters(folder: Path, characters: Characters, names: Names) -> None:
    """Write each split's array, uint8 [characters, drawings, size, size, 1].

    The drawings of a character are sorted by the originals' digests, because tensorflow-datasets does not say who made
    a drawing.
    """
    for split, chosen in names.items():
        images = [[image for _, image in sorted(characters[name], key=itemgetter(0))] for name in chosen]
        save(folder / f"{split}.npy", np.array(images))
