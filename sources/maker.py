"""How get_data.py makes a dataset: what its maker declares, and the flags that several makers share."""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from flags import Setting, to_path, whole
from sources.preparation import Preparation

TFDS = "tfds:"  # start of a --source that names a dataset of tensorflow-datasets


class Variant(NamedTuple):
    """One way to make a dataset.

    make: make(folder, target, **settings) -> manifest. It fills the empty `folder`, which becomes `target`,
        DATA_DIR/<dataset>, if it succeeds. It gets a value for each setting, and raises UserError if the source is at
        fault, OSError if the disk is.
    settings: its flags by name; all other flags are refused.
    title: follows the dataset's name in messages, as in "mimgnet from --source".
    suits: True if a --source is meant for this variant.
    """

    make: Callable[..., dict]
    settings: dict[str, Setting]
    title: str = ""
    suits: Callable[[Path], bool] = lambda source: True


@dataclass(frozen=True)
class Maker:
    """How a dataset is made: an entry of the table in sources/table.py.

    make, settings: as in Variant, if there is no --source, or one that suits no variant.
    image_shape: (height, width, channels) of its images by default.
    variants: the other ways to make it; the first one that suits a --source is taken.
    brightness: data.brightness of its training images, for runs whose config.json does not have it.
    """

    make: Callable[..., dict]
    image_shape: tuple[int, int, int]
    settings: dict[str, Setting]
    variants: tuple[Variant, ...] = ()
    brightness: tuple[float, float] | None = None

    @property
    def prepare(self) -> Preparation:
        """How a picture becomes an image of the dataset by default; in grey images ink is 1 on paper 0."""
        side, _, channels = self.image_shape
        return Preparation(side, channels, invert=channels == 1)

    def variant(self, source: Path | None) -> Variant:
        """The way to make the dataset from this --source, or without one (None)."""
        suitable = (variant for variant in self.variants if source is not None and variant.suits(source))
        return next(suitable, Variant(self.make, self.settings))

    def all_settings(self) -> dict[str, Setting]:
        """The flags of the maker and of its variants."""
        settings = dict(self.settings)
        for variant in self.variants:
            settings |= variant.settings
        return settings


def all_flags(makers: dict[str, Maker]) -> dict[str, Setting]:
    """The flags of all makers by name; their help texts say which datasets use them."""
    settings: dict[str, dict[str, Setting]] = defaultdict(dict)  # flag -> dataset -> setting
    for dataset, maker in makers.items():
        for name, setting in maker.all_settings().items():
            settings[name][dataset] = setting
    return {name: shared(by_dataset) for name, by_dataset in settings.items()}


def shared(settings: dict[str, Setting]) -> Setting:
    """Join the settings of several datasets with the same flag; the help text names the datasets and defaults."""
    last = list(settings.values())[-1]
    described = replace(last, help=f"{', '.join(settings)}: {last.help}")
    if all(setting.default == last.default for setting in settings.values()):
        return described
    defaults = ", ".join(f"{setting.default} for {dataset}" for dataset, setting in settings.items())
    return replace(described, default=None, help=f"{described.help} (default: {defaults})")


def source(text: str) -> Path:
    """Read the path of an existing folder or file, or tfds:NAME, from a flag."""
    return Path(text) if is_tfds(text) else existing_path(text)


def is_tfds(text: str | Path) -> bool:
    """True if it names a dataset of tensorflow-datasets."""
    return str(text).startswith(TFDS) and len(str(text)) > len(TFDS)


def existing_path(text: str) -> Path:
    """Read the path of an existing folder or file from a flag."""
    place = to_path(text)
    if not (os.path.isdir(place) or os.path.isfile(place)):
        raise argparse.ArgumentTypeError(f"there is no folder and no file {place}")
    return place


SOURCE = Setting(
    None, "originals that you have: a folder or an archive; your own images: a folder of classes, or tfds:NAME (see "
    "docs/data.md)", source,
)  # fmt: skip
SEED = Setting(0, "seed of the split, or of the drawings", whole(0, 2**32 - 1))
