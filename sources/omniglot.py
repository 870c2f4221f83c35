"""Omniglot: 1623 handwritten characters of 20 drawings each, dealt to three splits by a seeded shuffle."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from errors import UserError
from flags import Setting, whole
from sources.archives import contents
from sources.arrays import Names, checksum, save, write_manifest
from sources.authors_arrays import make_from_arrays
from sources.pictures import decode
from sources.preparation import Preparation
from sources.tfds import read_prepared

PARTS = {"images_background": 964, "images_evaluation": 659}  # official archive -> characters
SPLITS = {"train": 1100, "val": 100, "test": 423}  # characters; with four rotations, 4400, 400 and 1692 classes
DRAWINGS = 20  # of a character
ORIGINAL_SIDE = 105  # pixels
AUTHORS_SHAPES = {"train": (4800, 20, 28, 28, 1), "test": (1692, 20, 28, 28, 1)}
# The alphabets of images_evaluation; all others are in images_background.
EVALUATION = {
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
}  # fmt: skip
OTHERWISE = "try again, or get images_background.zip and images_evaluation.zip yourself: --source FOLDER"

SIZE = Setting(28, "side of the images in pixels", whole(16, ORIGINAL_SIDE))


class Drawing(NamedTuple):
    """digest: SHA-256 of the original's pixels; image: uint8 [size, size, 1], ink 255 on paper 0."""

    digest: bytes
    image: np.ndarray


Characters = dict[tuple[str, int], list[Drawing]]  # (alphabet, number from 1 on) -> its drawings


def make_omniglot(folder: Path, target: Path, source: Path | None, seed: int, size: int) -> dict:
    """Make Omniglot in `folder` from its originals, size x size pixels; returns its manifest.

    source: as in read_omniglot; None: through tensorflow-datasets. seed: of the split. UserError as in both.
    """
    characters, origin = read_omniglot(source, size) if source else fetch_omniglot(size)
    names = write_omniglot(folder, characters, seed)
    prepare = Preparation(size, 1, invert=True)._asdict()
    return write_manifest(folder, target.name, names, origin, rotations=4, split_seed=seed, prepare=prepare)


def make_omniglot_from_arrays(folder: Path, target: Path, source: Path) -> dict:
    """Make Omniglot in `folder` from the authors' arrays in the folder `source`; returns its manifest."""
    return make_from_arrays(folder, target, source, AUTHORS_SHAPES, str(source))


def read_omniglot(
    source: Path, size: int, parts: dict[str, int] = PARTS, drawings: int = DRAWINGS
) -> tuple[Characters, dict]:
    """The characters, and the manifest's "source", from the official archives or folders.

    source: a folder that holds images_background and images_evaluation, zipped or not, or one of those four.
    parts: how many characters each must hold; drawings: how many a character must have. UserError otherwise.
    """
    characters, archives = {}, []
    folder = source.parent if source.name.removesuffix(".zip") in parts else source
    for part, count in parts.items():
        path = next((p for p in (folder / f"{part}.zip", folder / part) if p.exists()), None)
        if path is None:
            raise UserError(f"there is neither {part}.zip nor {part}/ in {folder}: --source wants both parts")
        if path.is_file():
            archives.append(checksum(path))
        characters |= _read_part(path, part, size, count, drawings)
    return characters, {"given": str(source), "files": archives}


def _read_part(path: Path, part: str, size: int, count: int, drawings: int) -> Characters:
    """The `count` characters in one official archive or folder."""
    pattern = re.compile(rf"(?:^|/){part}/([^/]+)/character(\d+)/\d+_\d+\.png$")
    characters: Characters = defaultdict(list)
    images = contents(path, pattern.search)
    for name, data, match in tqdm(images, total=count * drawings, desc=part, disable=None):
        where = f"{name} in {path}"
        drawing = shrink(np.asarray(decode(data, where).convert("L")), size, where)
        characters[match[1], int(match[2])].append(drawing)
    refuse_other_characters(characters, count, drawings, str(path))
    return characters


def fetch_omniglot(size: int) -> tuple[Characters, dict]:
    """As read_omniglot, through tensorflow-datasets, which downloads it. UserError when that fails."""

    def read(builder) -> tuple[Characters, str]:
        import tensorflow_datasets as tfds  # which gave the builder, so that it is loaded

        examples = tfds.as_numpy(builder.as_dataset(split="train+test"))
        characters = read_examples(examples, builder.info.features["alphabet"].int2str, size)
        return characters, f"tensorflow-datasets {builder.info.full_name}"

    characters, given = read_prepared("omniglot", read, OTHERWISE)
    refuse_other_characters(characters, sum(PARTS.values()), DRAWINGS, "tensorflow-datasets' Omniglot")
    return characters, {"given": given, "files": []}


def read_examples(examples: Iterable[dict], alphabet_name: Callable[[int], str], size: int) -> Characters:
    """The characters in tensorflow-datasets' examples, which have an alphabet's number in place of its name."""
    characters: Characters = defaultdict(list)
    for example in tqdm(examples, total=DRAWINGS * sum(PARTS.values()), disable=None):
        character = alphabet_name(int(example["alphabet"])), int(example["alphabet_char_id"]) + 1
        characters[character].append(shrink(example["image"][:, :, 0], size, "a drawing"))
    return characters


def shrink(original: np.ndarray, size: int, where: str) -> Drawing:
    """The drawing in an original, uint8 [105, 105], ink 0 on paper 255. UserError where it has another shape."""
    if original.shape != (ORIGINAL_SIDE, ORIGINAL_SIDE):
        raise UserError(f"{where} is {original.shape} pixels, not 105 x 105: give the original Omniglot")
    ink = 255 - original
    image = Image.fromarray(ink).resize((size, size), Image.Resampling.LANCZOS)
    return Drawing(hashlib.sha256(ink.tobytes()).digest(), np.asarray(image)[:, :, None])


def refuse_other_characters(characters: Characters, count: int, drawings: int, where: str) -> None:
    """UserError unless there are `count` characters of `drawings` drawings each."""
    if len(characters) != count:
        raise UserError(f"{where} holds {len(characters)} characters, not {count}: give the original one")
    for (alphabet, number), images in characters.items():
        if len(images) != drawings:
            character = f"{alphabet}/character{number:02d}"
            raise UserError(
                f"{where} holds {len(images)} drawings, not {drawings}, of {character}: give the original one"
            )


def write_omniglot(folder: Path, characters: Characters, seed: int, splits: dict[str, int] = SPLITS) -> Names:
    """Deal the characters to the splits by a seeded shuffle, and write each split's array.

    splits: split -> its number of characters. Returns their names. Each array is uint8 [characters, drawings, size,
    size, 1]. The characters are in the order of their names before the shuffle. tensorflow-datasets does not say who
    made a drawing, so a character's drawings are in the order of the originals' digests. So the same seed gives the
    same arrays from every source, and the same order at every size.
    """
    by_name = sorted(characters)
    shuffled = iter([by_name[i] for i in np.random.RandomState(seed).permutation(len(by_name))])
    names = {}
    for split, count in splits.items():
        dealt = list(itertools.islice(shuffled, count))
        images = [[drawing.image for drawing in _by_digest(characters[character])] for character in dealt]
        save(folder / f"{split}.npy", np.array(images))
        names[split] = [f"{alphabet}/character{number:02d}" for alphabet, number in dealt]
    return names


def _by_digest(drawings: list[Drawing]) -> list[Drawing]:
    return sorted(drawings, key=lambda drawing: drawing.digest)


def background_and_evaluation(names: Names, where: str) -> dict[str, list[tuple[str, int]]]:
    """Return Omniglot's original two sets, "train" (background) and "test" (evaluation): the places (split, number) of
    their characters in the order of their names.

    names: by split, the characters as alphabet/characterNN. UserError if some are missing in `where`.
    """
    places = {name: (split, number) for split, characters in names.items() for number, name in enumerate(characters)}
    sets = {"train": [], "test": []}
    for name in sorted(places):
        sets["test" if name.split("/")[0] in EVALUATION else "train"].append(places[name])
    if [len(characters) for characters in sets.values()] != list(PARTS.values()):
        raise UserError(
            f"{where} is not the whole of Omniglot from its originals: --split background needs that, see "
            f"get_data.py --help"
        )
    return sets
