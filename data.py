"""Arrays on disk -> episodes: indices drawn on the host, pixels gathered inside the compiled step.

A dataset is `DATA_DIR/<name>/` as get_data.py leaves it: train.npy, test.npy and mostly val.npy, each
[characters or classes, images, H, W, C], and manifest.json. With `rotations` 4, every character is four
classes: class c is character c // 4 turned by c % 4 quarter turns. Where classes differ in the number of their
images, an array is [images of all classes, H, W, C], one class after the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from errors import UserError
from lazy import tf
from ranges import UNIT, Range, can_be_range
from sources.arrays import open_npy, read_manifest

# Omniglot's images_evaluation; the other alphabets are its images_background.
EVALUATION = {
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
}  # fmt: skip
MANY = 1000  # images of which `brightness` takes the mean
BACKGROUND_SIZES = {"train": 964, "test": 659}  # characters

STREAMS = {"train": 0, "val": 1, "test": 2}  # keeps the three sequences of episodes apart


@dataclass(frozen=True)
class Split:
    """pixels [K,n,H,W,C], uint8 or float32; pixels * scale are the network's inputs, ink 1 on paper 0.

    counts: of each of K classes, how many images it has, where that differs; then pixels are [sum of counts,H,W,C].
    declared: the range of the network's inputs, where the manifest says it.
    """

    pixels: np.ndarray
    rotations: int
    scale: float
    counts: np.ndarray | None = None
    declared: Range | None = None

    @property
    def range(self) -> Range | None:
        """The range of the network's inputs: the declared one, or that of bytes; None: it is not known."""
        if self.declared is None and self.pixels.dtype == np.uint8:
            return Range(0.0, 255 * self.scale)
        return self.declared

    @property
    def images_per_class(self) -> np.ndarray:
        """How many images each base class has, [K]."""
        return np.full(*self.pixels.shape[:2]) if self.counts is None else self.counts

    @property
    def classes(self) -> int:
        return len(self.images_per_class) * self.rotations

    def image(self, label: int, number: int) -> np.ndarray:
        """One image of a class, turned as the class is (H = W): uint8 [H,W,C], 0 to 255 over the range of the network's
        inputs. UserError where that is not known."""
        base, turns = divmod(label, self.rotations)
        images = self.pixels[base] if self.counts is None else self.pixels[self.counts[:base].sum() :]
        inputs = np.rot90(images[number], turns) * self.scale
        return np.rint(255 * known_range(self, "drawing an image").unit(inputs)).astype(np.uint8)


@dataclass(frozen=True)
class Dataset:
    name: str
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]  # "train", "test", and "val" where the source has validation classes
    sha256: str  # of the manifest's checksums and of how its arrays are read
    prepare: dict | None = None  # how a picture became one of its images (sources/preparation.py), where that is known

    @property
    def facts(self) -> dict:
        """The part of a run's config.json that describes the dataset. Without "range" the range is [0, 1]; with null
        it is not known."""
        facts = {"data_sha256": self.sha256} | ({"prepare": self.prepare} if self.prepare else {})
        facts |= {"brightness": brightness(self.splits["train"])} if self.range else {}
        return facts if self.range == UNIT else facts | {"range": self.range and list(self.range)}

    @property
    def range(self) -> Range | None:
        """The range of its splits; None: it is not known."""
        return self.splits["train"].range


def brightness(split: Split) -> list[float]:
    """Mean and standard deviation of the images' means (0 to 1 in the range of the network's inputs), over MANY images
    that lie evenly in the split."""
    counts = split.images_per_class
    ends = np.cumsum(counts)
    numbers = np.unique(np.linspace(0, ends[-1] - 1, MANY).astype(int))
    classes = np.searchsorted(ends, numbers, "right")
    images = numbers - (ends - counts)[classes]
    means = [split.image(c * split.rotations, i).mean() / 255 for c, i in zip(classes, images, strict=True)]
    return [round(float(np.mean(means)), 4), round(float(np.std(means)), 4)]


def load(data_dir: str, name: str, background: bool = False, makers: Container[str] | None = None) -> Dataset:
    """Read DATA_DIR/<name>/, dealt anew where `background` (see by_alphabet).

    makers: the datasets that get_data.py makes, for the sentence where one is missing. UserError where it is, or where
    it is not what its manifest says.
    """
    folder = Path(data_dir) / name
    manifest = read_manifest(folder, makers=makers)
    shape, splits, declared = tuple(manifest["image_shape"]), {}, manifest.get("range")
    if not (declared is None or can_be_range(declared)):
        raise UserError(f'{folder / "manifest.json"} has the "range" {declared!r}: write "range": [LOWEST, HIGHEST]')
    for split, entry in manifest["splits"].items():
        pixels, counts = open_npy(folder / entry["file"]), counts_of(entry)
        stored = (entry["base_classes"], entry["images_per_class"]) if counts is None else (counts.sum(),)
        if pixels.shape != (*stored, *shape):
            raise UserError(
                f"{folder / entry['file']} has the shape {pixels.shape}, which is not what manifest.json says: "
                f"make it again with get_data.py --force"
            )
        splits[split] = Split(pixels, manifest["rotations"], manifest["scale"], counts, declared and Range(*declared))
    if background:
        names = {split: entry["names"] for split, entry in manifest["splits"].items()}
        splits = by_alphabet(splits, names, f"{folder} is not the whole of Omniglot from its originals")
    return Dataset(name, shape, splits, digest(manifest), manifest.get("prepare"))


def counts_of(entry: dict) -> np.ndarray | None:
    """How many images each class has, by a split's entry of the manifest; None where all have as many."""
    return np.array(entry["images_per_class"]) if isinstance(entry["images_per_class"], list) else None


def digest(manifest: dict) -> str:
    """SHA-256 of what decides the pixels of every class: the arrays' checksums and how they are read."""
    arrays = {split: entry["sha256"] for split, entry in manifest["splits"].items()}
    facts = [arrays, *(manifest[name] for name in ("image_shape", "rotations", "scale"))]
    counts = [entry["images_per_class"] for entry in manifest["splits"].values() if counts_of(entry) is not None]
    facts += [counts] if counts else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def by_alphabet(splits: dict[str, Split], names: dict[str, list[str]], fault: str) -> dict[str, Split]:
    """Omniglot's own two sets: train, its background alphabets, and test, its evaluation alphabets.

    names: of a split's characters, as alphabet/characterNN. Characters are in the order of their names, and
    upright: a class is a character. UserError (`fault`) where they are not all there.
    """
    places = {name: (split, i) for split, characters in names.items() for i, name in enumerate(characters)}
    dealt = {"train": [], "test": []}  # split -> its characters' places
    for name in sorted(places):
        dealt["test" if name.split("/")[0] in EVALUATION else "train"].append(places[name])
    if {split: len(characters) for split, characters in dealt.items()} != BACKGROUND_SIZES:
        raise UserError(f"{fault}: --split background needs that, see get_data.py --help")

    def gather_characters(characters: list[tuple[str, int]]) -> Split:
        pixels = np.stack([splits[split].pixels[i] for split, i in characters])
        return Split(pixels, rotations=1, scale=splits["train"].scale, declared=splits["train"].declared)

    return {split: gather_characters(characters) for split, characters in dealt.items()}


def trainval(dataset: Dataset) -> Split:
    """The training and the validation classes together (Omniglot: the paper's 4800)."""
    parts = [dataset.splits[s] for s in ("train", "val") if s in dataset.splits]
    counts = np.concatenate([p.images_per_class for p in parts])
    if np.ptp(counts) or any(p.counts is not None for p in parts):
        flat = [p.pixels.reshape(-1, *p.pixels.shape[-3:]) for p in parts]
        return replace(parts[0], pixels=np.concatenate(flat), counts=counts)
    return replace(parts[0], pixels=np.concatenate([p.pixels for p in parts]))


def splits_of(dataset: Dataset, train_split: str) -> dict[str, Split]:
    """The dataset's splits as a run has them; train_split "trainval": it trains on the validation classes too."""
    if train_split == "train":
        return dict(dataset.splits)
    return {"train": trainval(dataset), "test": dataset.splits["test"]}


def known_range(split: Split, what: str) -> Range:
    """The range of the network's inputs. UserError, which says that `what` needs it, where it is not known."""
    if split.range is None:
        raise UserError(
            f"{what} needs the range of the network's inputs, which the dataset's manifest.json does not say: add "
            f'"range": [LOWEST, HIGHEST] there'
        )
    return split.range


def check_range(split: Split, name: str, what: str) -> None:
    """UserError where the range is not known, and where a pixel lies outside of it by more than rounding."""
    low, high = known_range(split, what)
    if split.declared is None:  # bytes cannot be outside
        return
    least, most = (float(extreme(split.pixels)) * split.scale for extreme in (np.min, np.max))
    if not min(least - low, high - most) >= -1e-5 * (high - low):
        raise UserError(
            f"the {name} images hold numbers from {least:g} to {most:g}, and the dataset's manifest.json says "
            f'"range": [{low:g}, {high:g}]: correct the manifest, as {what} relies on it'
        )


def check_episode(split: Split, name: str, way: int, shot: int, query: int) -> None:
    """UserError where `split` cannot give such an episode."""
    if way > split.classes:
        raise UserError(f"--way {way} is more than the {split.classes} {name} classes there are: give a smaller one")
    least = split.images_per_class.min()
    if shot + query > least:
        have = f"the {name} classes have" if split.counts is None else f"one of the {name} classes has"
        raise UserError(f"--shot {shot} and --query {query} need {shot + query} images a class, and {have} {least}")


def sample(split: Split, stream: str, seed: int, index: int, tasks: int, way: int, images: int, shared=False):
    """The episodes of one (seed, stream, index), the same for every learner.

    -> classes [tasks,way] and images [tasks,way,images], int32, without repetition inside a task.
    shared: all tasks have the same classes (a fault of the TF1 code's last revision).
    """
    rng = np.random.default_rng([seed, STREAMS[stream], index])
    classes = [rng.choice(split.classes, way, replace=False) for _ in range(1 if shared else tasks)]
    classes = np.broadcast_to(np.stack(classes), (tasks, way))
    order = rng.random((tasks, way, split.images_per_class.max()))
    if split.counts is not None:  # what a class does not have comes last
        order[np.arange(order.shape[-1]) >= split.counts[classes // split.rotations][..., None]] = 1
    numbers = order.argsort(-1)[..., :images]
    return classes.astype(np.int32), numbers.astype(np.int32)


def gather(pixels, classes, images, rotations: int, scale: float, shot: int, counts: np.ndarray | None = None):
    """Episodes' pixels, inside the compiled step; rows are ordered by class.

    pixels, counts: a Split's. classes [T,way], images [T,way,shot+query]
    -> support [T,way*shot,H,W,C] and query [T,way*query,H,W,C], float32.
    """
    tasks, way, n = images.shape
    base = tf.broadcast_to((classes // rotations)[:, :, None], images.shape)
    if counts is None:
        x = tf.gather_nd(pixels, tf.stack([base, images], -1))  # [T,way,n,H,W,C]
    else:
        firsts = tf.constant(np.cumsum(counts) - counts, tf.int32)
        x = tf.gather(pixels, tf.gather(firsts, base) + images)
    if rotations > 1:
        turns = (classes % rotations)[:, :, None, None, None, None]
        side = tf.transpose(x, [0, 1, 2, 4, 3, 5])
        half = tf.reverse(x, [3, 4])
        quarters = (tf.reverse(side, [3]), half, tf.reverse(side, [4]))  # counter-clockwise, as numpy.rot90
        for turn, turned in enumerate(quarters, 1):
            x = tf.where(turns == turn, turned, x)
    x = tf.cast(x, tf.float32) * scale
    rows = x.shape[3:]
    support = tf.reshape(x[:, :, :shot], [tasks, way * shot, *rows])
    return support, tf.reshape(x[:, :, shot:], [tasks, way * (n - shot), *rows])
