"""Datasets and episodes: `load` opens a dataset's arrays, `sample` draws on the host which images an episode holds, and
`gather` takes their pixels inside the compiled step.

A dataset is a folder DATA_DIR/<name>/ that get_data.py makes: train.npy, test.npy, in most datasets val.npy, and
manifest.json. With `rotations` 4 every base class is four classes: class c is base class c // 4, turned by c % 4
quarter turns (Omniglot's base classes are its characters).
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
from parameters import is_vector
from ranges import UNIT, Range, can_be_range
from sources.arrays import open_npy, read_manifest
from sources.omniglot_sets import EVALUATION, PARTS

STREAMS = {"train": 0, "val": 1, "test": 2}  # part of an episode's seed: each stream has other episodes
MEASURED = 1000  # images that `brightness` measures


@dataclass(frozen=True)
class Split:
    """The images of the training, validation or test classes.

    pixels: [K,n,H,W,C], uint8 or float32: n images of each of K base classes. pixels * scale are the network's inputs.
    counts: [K], the number of images per base class, if these numbers differ; pixels are then [sum of counts,H,W,C],
    one class after the other. declared: the range of the network's inputs, if the manifest declares it. names: those of
    the base classes, if they are known.
    """

    pixels: np.ndarray
    rotations: int
    scale: float
    counts: np.ndarray | None = None
    declared: Range | None = None
    names: tuple[str, ...] = ()

    @property
    def range(self) -> Range | None:
        """The range of the network's inputs: declared, or from uint8 pixels; None if unknown."""
        if self.declared is None and self.pixels.dtype == np.uint8:
            return Range(0.0, 255 * self.scale)
        return self.declared

    @property
    def images_per_class(self) -> np.ndarray:
        """The number of images per base class, [K]."""
        return np.full(*self.pixels.shape[:2]) if self.counts is None else self.counts

    @property
    def classes(self) -> int:
        return len(self.images_per_class) * self.rotations

    @property
    def all_images(self) -> np.ndarray:
        """The pixels of all images, one base class after the other, [N,H,W,C]."""
        return self.pixels.reshape(-1, *self.pixels.shape[-3:])

    def image(self, label: int, number: int) -> np.ndarray:
        """Return image `number` of class `label`, turned as the class is, as uint8 (see `visible`)."""
        base, turns = divmod(label, self.rotations)
        return self.visible(np.rot90(self.all_images[self.images_per_class[:base].sum() + number], turns))

    def visible(self, pixels: np.ndarray) -> np.ndarray:
        """Map pixels to uint8, 0 to 255 over the range of the network's inputs. Raise UserError if that range is
        unknown."""
        return np.rint(255 * known_range(self, "drawing an image").unit(pixels * self.scale)).astype(np.uint8)


@dataclass(frozen=True)
class Dataset:
    """A dataset's splits, and the facts on them in a run's config.json."""

    name: str
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]  # "train", "test", and "val" if the dataset has validation classes
    sha256: str  # see `digest`
    prepare: dict | None = None  # how a picture becomes an image (sources/preparation.py), if the manifest has it

    @property
    def facts(self) -> dict:
        """The part of a run's config.json that describes the dataset. Without "range" the range is [0, 1]; null means
        that it is unknown."""
        facts = {"data_sha256": self.sha256} | ({"prepare": self.prepare} if self.prepare else {})
        facts |= {"brightness": brightness(self.splits["train"])} if self.range else {}
        return facts if self.range == UNIT else facts | {"range": self.range and list(self.range)}

    @property
    def range(self) -> Range | None:
        """The range of the network's inputs, the same in all splits; None: unknown."""
        return self.splits["train"].range


def load(
    data_dir: str,
    name: str,
    background: bool = False,
    makers: Container[str] | None = None,
    checksums: bool = False,
) -> Dataset:
    """Open the dataset DATA_DIR/<name>/; its arrays stay on the disk until they are used.

    background: regroup Omniglot by its original two sets of alphabets. makers, checksums: see read_manifest. UserError
    if the dataset is missing, or differs from its manifest.
    """
    folder = Path(data_dir) / name
    manifest = read_manifest(folder, makers, checksums)
    shape, splits, declared = tuple(manifest["image_shape"]), {}, manifest.get("range")
    if not (declared is None or can_be_range(declared)):
        raise UserError(f'{folder / "manifest.json"} has the "range" {declared!r}: write "range": [LOWEST, HIGHEST]')
    for split, entry in manifest["splits"].items():
        pixels, count = open_npy(folder / entry["file"]), entry["images_per_class"]
        counts = np.array(count) if isinstance(count, list) else None
        stored = (entry["base_classes"], count) if counts is None else (counts.sum(),)
        if pixels.shape != (*stored, *shape):
            raise UserError(
                f"{folder / entry['file']} has the shape {pixels.shape}, which differs from manifest.json: "
                f"make it again with get_data.py --force"
            )
        rotations, scale, names = manifest["rotations"], manifest["scale"], tuple(entry.get("names", ()))
        splits[split] = Split(pixels, rotations, scale, counts, declared and Range(*declared), names)
    if background:
        splits = regroup_by_alphabet(splits, str(folder))
    return Dataset(name, shape, splits, digest(manifest), manifest.get("prepare"))


def splits_of(dataset: Dataset, train_split: str) -> dict[str, Split]:
    """Return the splits that a run uses. train_split: "train", or "trainval" to train on the validation classes too
    (Omniglot: the paper's 4800 classes)."""
    if train_split == "train":
        return dict(dataset.splits)
    joined = [dataset.splits[s] for s in ("train", "val") if s in dataset.splits]
    pixels = np.concatenate([split.all_images for split in joined])
    counts = np.concatenate([split.images_per_class for split in joined])
    if not np.ptp(counts):
        pixels, counts = pixels.reshape(len(counts), -1, *dataset.image_shape), None
    names = sum((split.names for split in joined), ())
    return {"train": replace(joined[0], pixels=pixels, counts=counts, names=names), "test": dataset.splits["test"]}


def sample(split: Split, stream: str, seed: int, index: int, tasks: int, way: int, images: int, shared=False):
    """Draw `tasks` episodes; they depend on these arguments alone, so that learners with episodes of the same size get
    the same ones.

    -> classes [tasks,way] and image numbers [tasks,way,images], int32, without repetition inside a task.
    shared: all tasks have the same classes (a fault of the TF1 code's last revision).
    """
    rng = np.random.default_rng([seed, STREAMS[stream], index])
    classes = [rng.choice(split.classes, way, replace=False) for _ in range(1 if shared else tasks)]
    classes = np.broadcast_to(np.stack(classes), (tasks, way))
    counts = split.images_per_class
    order = rng.random((tasks, way, counts.max()))
    order[np.arange(counts.max()) >= counts[classes // split.rotations][..., None]] = 1  # last: images that it lacks
    numbers = order.argsort(-1)[..., :images]
    return classes.astype(np.int32), numbers.astype(np.int32)


def sample_minibatches(split: Split, seed: int, index: int, tasks: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images of iteration `index` in `tasks` minibatches: classes [tasks,size] and image numbers
    [tasks,size,1], int32. All images come in a random order, and again in another one when all have come; the order
    depends on the seed alone.
    """
    counts = np.repeat(split.images_per_class, split.rotations)  # of each class
    ends, places = np.cumsum(counts), index * tasks * size + np.arange(tasks * size)
    rounds, places = np.divmod(places, ends[-1])
    images = np.empty_like(places)
    for number in np.unique(rounds):
        order = np.random.default_rng([seed, STREAMS["train"], number]).permutation(ends[-1])
        images[rounds == number] = order[places[rounds == number]]
    classes = np.searchsorted(ends, images, side="right")
    numbers = images - (ends - counts)[classes]
    return classes.reshape(tasks, size).astype(np.int32), numbers.reshape(tasks, size, 1).astype(np.int32)


def gather(pixels, classes, images, rotations: int, scale: float, shot: int, counts: np.ndarray | None = None):
    """Take the episodes' pixels, inside the compiled step; rows are ordered by class.

    pixels, rotations, scale, counts: of a Split. classes [T,way], images [T,way,shot+query]: from `sample`.
    -> support [T,way*shot,H,W,C] and query [T,way*query,H,W,C], float32.
    """
    tasks, way, n = images.shape
    counts = np.full(*pixels.shape[:2]) if counts is None else counts
    first = tf.constant(np.cumsum(counts) - counts, tf.int32)  # the first image of each base class
    rows = tf.gather(first, classes // rotations)[:, :, None] + images
    x = tf.gather(tf.reshape(pixels, [-1, *pixels.shape[-3:]]), rows)  # [T,way,n,H,W,C]
    if rotations > 1:
        turns = (classes % rotations)[:, :, None, None, None, None]
        side = tf.transpose(x, [0, 1, 2, 4, 3, 5])
        half = tf.reverse(x, [3, 4])
        quarters = (tf.reverse(side, [3]), half, tf.reverse(side, [4]))  # counter-clockwise, as numpy.rot90
        for turn, turned in enumerate(quarters, 1):
            x = tf.where(turns == turn, turned, x)
    x = tf.cast(x, tf.float32) * scale
    support = tf.reshape(x[:, :, :shot], [tasks, way * shot, *x.shape[3:]])
    return support, tf.reshape(x[:, :, shot:], [tasks, way * (n - shot), *x.shape[3:]])


def check_episode(split: Split, name: str, way: int, shot: int, query: int, flag: str = "way") -> None:
    """Raise UserError if the `name` split has too few classes, or too few images in a class, for an episode. flag: the
    one that gives `way`."""
    if way > split.classes:
        raise UserError(f"--{flag} {way} is more than the {split.classes} {name} classes: give a smaller one")
    least = split.images_per_class.min()
    if shot + query > least:
        have = f"the {name} classes have" if split.counts is None else f"one of the {name} classes has"
        raise UserError(f"--shot {shot} and --query {query} need {shot + query} images per class, and {have} {least}")


def check_range(split: Split, name: str, user: str) -> None:
    """Raise UserError if the range is unknown, or a pixel of the `name` images is outside by more than rounding."""
    low, high = known_range(split, user)
    if split.declared is None:  # the range of uint8
        return
    least, most = (float(extreme(split.pixels)) * split.scale for extreme in (np.min, np.max))
    if not min(least - low, high - most) >= -1e-5 * (high - low):
        raise UserError(
            f"the {name} images hold numbers from {least:g} to {most:g}, but the dataset's manifest.json says "
            f'"range": [{low:g}, {high:g}]: correct the manifest, because {user} needs the range'
        )


def known_range(split: Split, user: str) -> Range:
    """Return the range of the network's inputs. Raise UserError if it is unknown, or if the inputs are vectors; it says
    that `user` needs the range."""
    if is_vector(split.pixels.shape[-3:]):
        raise UserError(f"{user} is for images, and this dataset holds vectors: take a dataset of images")
    if split.range is None:
        raise UserError(
            f"{user} needs the range of the network's inputs, which the dataset's manifest.json lacks: add "
            f'"range": [LOWEST, HIGHEST] there'
        )
    return split.range


def brightness(split: Split) -> list[float]:
    """Mean and standard deviation of the images' mean values (0: lowest, 1: highest input), measured on MEASURED images
    spread evenly over the split."""
    numbers = np.unique(np.linspace(0, len(split.all_images) - 1, MEASURED).astype(int))
    means = [split.visible(split.all_images[i]).mean() / 255 for i in numbers]
    return [round(float(np.mean(means)), 4), round(float(np.std(means)), 4)]


def digest(manifest: dict) -> str:
    """SHA-256 of everything that decides the pixels of every class: the arrays' checksums and how they are read."""
    entries = manifest["splits"]
    facts = [{split: entry["sha256"] for split, entry in entries.items()}]
    facts += [manifest[name] for name in ("image_shape", "rotations", "scale")]
    counts = [entry["images_per_class"] for entry in entries.values() if isinstance(entry["images_per_class"], list)]
    facts += [counts] if counts else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def regroup_by_alphabet(splits: dict[str, Split], where: str) -> dict[str, Split]:
    """Return Omniglot's original two sets, upright: the background alphabets as train, the evaluation alphabets as
    test; characters are sorted by name, alphabet/characterNN. Raise UserError if some are missing in `where`."""
    places = {name: (split, number) for split in splits for number, name in enumerate(splits[split].names)}
    regrouped = {}
    for split, size in zip(("train", "test"), PARTS.values(), strict=True):
        chosen = [name for name in sorted(places) if (name.split("/")[0] in EVALUATION) == (split == "test")]
        if len(chosen) != size:
            raise UserError(
                f"{where} was not made from all originals of Omniglot: --split background needs that, see "
                f"get_data.py --help"
            )
        pixels = np.stack([splits[old].pixels[number] for old, number in map(places.get, chosen)])
        regrouped[split] = replace(splits["train"], pixels=pixels, rotations=1, names=tuple(chosen))
    return regrouped
