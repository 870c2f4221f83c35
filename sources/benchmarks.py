"""The field's benchmarks by name. tensorflow-datasets has their images; sources/splits/NAME.csv has their classes, and
says which classes are for training, validation and testing."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from errors import UserError
from settings import Settings, setting, whole
from sources.arrays import checksum, write_manifest
from sources.class_split import group_by_split, read_table
from sources.folders import normalized
from sources.images import Picture, list_folder, read_builder, write_raw
from sources.maker import FROM_TFDS, Maker, SourceSettings
from sources.omniglot import OriginalsSettings, make_omniglot_by_table
from sources.pictures import first_few
from sources.preparation import Preparation
from sources.split_arrays import RAW, write_splits
from sources.tfds import prepared_builder

SPLITS = Path(__file__).with_name("splits")  # NAME.csv: a table of SPLIT,CLASS
OTHERWISE = "try again, or give the images in a folder of classes as --source (docs/data.md)"
OURS = "drawn with seed 0"  # as your own images are; a list that others published is not here


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of few-shot learning.

    title: its name in papers. builder: the name of its images in tensorflow-datasets. size, channels: of the images.
    split_from: the paper that the list of classes comes from, or OURS. licence: of the images. download: bytes that
    tensorflow-datasets fetches. rotations: 4 if every class becomes four, turned by quarter turns. most: the largest
    number of images of a class that are taken; None: all. numbered: True if tensorflow-datasets numbers the classes, in
    the order of their names. bright_ink: True if the drawings of tensorflow-datasets are bright on black. omniglot:
    True if the characters are read as those of the dataset omniglot.
    """

    title: str
    builder: str
    size: int
    channels: int
    split_from: str
    licence: str
    download: int
    rotations: int = 1
    most: int | None = None
    numbered: bool = False
    bright_ink: bool = False
    omniglot: bool = False


CIFAR_LICENCE = "none stated"
BENCHMARKS = {
    "cifar_fs": Benchmark("CIFAR-FS", "cifar100", 32, 3, "Bertinetto et al. 2019", CIFAR_LICENCE, 168_513_733),
    "fc100": Benchmark("FC100", "cifar100", 32, 3, "Oreshkin et al. 2018", CIFAR_LICENCE, 168_513_733),
    "cub": Benchmark(
        "CUB-200-2011", "caltech_birds2011", 84, 3, "Chen et al. 2019", "non-commercial research and education",
        1_189_858_222, numbered=True,
    ),
    "omniglot_vinyals": Benchmark(
        "Omniglot, Vinyals' split", "omniglot", 28, 1, "Vinyals et al. 2016", "MIT", 18_827_037, rotations=4,
        omniglot=True,
    ),
    "flowers": Benchmark("Oxford flowers", "oxford_flowers102", 84, 3, OURS, "none stated", 344_878_000),
    "dtd": Benchmark("Describable textures", "dtd", 84, 3, OURS, "for research", 625_239_812),
    "aircraft": Benchmark(
        "FGVC-Aircraft", "visual_domain_decathlon/aircraft", 84, 3, OURS, "non-commercial research", 429_854_759
    ),
    "eurosat": Benchmark("EuroSAT", "eurosat/rgb", 64, 3, OURS, "MIT", 94_280_567),
    "plant_village": Benchmark("PlantVillage", "plant_village", 84, 3, OURS, "CC0 1.0", 868_032_562),
    "quickdraw": Benchmark(
        "Quick, Draw!", "quickdraw_bitmap", 28, 1, OURS, "CC BY 4.0", 39_534_220_144, most=1000, bright_ink=True
    ),
}  # fmt: skip


def settings_of(benchmark: Benchmark) -> type[Settings]:
    """Return the class of a benchmark's settings."""
    if benchmark.omniglot:
        return OriginalsSettings

    @dataclass(frozen=True)
    class BenchmarkSettings(SourceSettings):
        size: int = setting(benchmark.size, "side of the images in pixels", whole(16, 4096))
        skip_bad: bool = setting(False, "leave out pictures that cannot be read, and count them in the manifest")

    return BenchmarkSettings


def make_benchmark(folder: Path, target: Path, settings: Settings, name: str) -> dict:
    """Make a benchmark in `folder` through tensorflow-datasets, or from --source, a folder of classes (see
    `list_folder`); return its manifest. Raise UserError if a class of the benchmark is missing, or if the source has
    other classes, too."""
    benchmark, table, source = BENCHMARKS[name], SPLITS / f"{name}.csv", settings.source
    facts = {"licence": benchmark.licence, "split_from": benchmark.split_from}
    if benchmark.omniglot:
        return make_omniglot_by_table(folder, target, settings, table, **facts)
    split_by_class = {label: split for _, split, label in read_table(table)}
    stored = prepare = Preparation(settings.size, benchmark.channels, invert=benchmark.channels == 1)
    if source:
        pictures, places, _, notes = list_folder(source)
        pictures = [picture._replace(label=normalized(picture.label)) for picture in pictures]
        labels, origin = map(normalized, places), str(source)
        for note in notes:
            print(note, file=sys.stderr)
    else:
        with prepared_builder(benchmark.builder, OTHERWISE) as builder:
            pictures, origin = read_builder(builder), f"{FROM_TFDS}{builder.info.full_name}"
            labels = builder.info.features["label"].names
        if benchmark.numbered:
            labels = sorted(split_by_class)
            pictures = (picture._replace(label=labels[int(picture.label)]) for picture in pictures)
        stored = prepare._replace(invert=prepare.invert and not benchmark.bright_ink)
    refuse_other_classes(labels, split_by_class, origin, name)
    chosen = first_of_each(pictures, benchmark.most, len(split_by_class)) if benchmark.most else pictures
    numbers, left_out = write_raw(folder / RAW, chosen, stored, settings.skip_bad, copies=True)
    refuse_other_classes(numbers, split_by_class, origin, name)
    names = group_by_split(split_by_class, numbers)
    counts = write_splits(folder, names, numbers, prepare.image_shape)
    return write_manifest(
        folder, target.name, names, {"given": origin, "files": [checksum(table)]}, benchmark.rotations,
        counts=counts, prepare=prepare._asdict(), left_out=left_out, **facts,
    )  # fmt: skip


def refuse_other_classes(labels: Iterable[str], wanted: Collection[str], origin: str, name: str) -> None:
    """Raise UserError unless `labels` are the `wanted` classes of the benchmark `name`. origin: the source that has
    these labels."""
    labels = dict.fromkeys(labels)
    if missing := [label for label in wanted if label not in labels]:
        raise UserError(
            f"{origin} lacks {len(missing)} of the {len(wanted)} classes of {name} ({first_few(missing)}): give all, "
            f"under these names, or choose another name than {name} for a dataset of your own images"
        )
    if unknown := [label for label in labels if label not in wanted]:
        raise UserError(
            f"{origin} has {len(unknown)} classes that {name} does not have ({first_few(unknown)}): move them elsewhere"
        )


def first_of_each(pictures: Iterable[Picture], most: int, classes: int) -> Iterator[Picture]:
    """Yield the first `most` pictures of each class, and stop when this number of classes has so many."""
    counts, full = Counter(), 0
    for picture in pictures:
        if counts[picture.label] < most:
            counts[picture.label] += 1
            full += counts[picture.label] == most
            yield picture
        if full == classes:
            return


MAKERS = {
    name: Maker(
        partial(make_benchmark, name=name),
        image_shape=(benchmark.size, benchmark.size, benchmark.channels),
        settings=settings_of(benchmark),
    )
    for name, benchmark in BENCHMARKS.items()
}
