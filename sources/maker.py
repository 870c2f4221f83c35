"""The declaration of how get_data.py makes a dataset, and the flags that several makers share."""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from settings import Settings, setting, to_path, whole
from sources.preparation import Preparation

TFDS = "tfds:"  # start of a --source that names a dataset of tensorflow-datasets
FROM_TFDS = "tensorflow-datasets "  # start of the source in a manifest


class Variant(NamedTuple):
    """One way to make a dataset.

    make: make(folder, target, settings) -> manifest. It fills the empty `folder`, which becomes `target`,
        DATA_DIR/<dataset>, if it succeeds. It raises UserError if the source is at fault, OSError if the disk is.
    settings: the class of its settings, which are its flags; all other flags are refused.
    title: follows the dataset's name in messages, as in "mimgnet from --source".
    suits: True if the value of the flag is meant for this variant.
    flag: the flag that chooses this variant.
    """

    make: Callable[[Path, Path, Any], dict]
    settings: type[Settings]
    title: str = ""
    suits: Callable[[Any], bool] = lambda value: True
    flag: str = "source"


@dataclass(frozen=True)
class Maker:
    """How a dataset is made: an entry of the table in sources/table.py.

    make, settings: as in Variant; used if no flag chooses a variant.
    image_shape: (height, width, channels) of its images by default.
    variants: the other ways to make it; the first one that the flags choose is taken.
    brightness: data.brightness of its training images, for runs whose config.json does not have it.
    """

    make: Callable[[Path, Path, Any], dict]
    image_shape: tuple[int, int, int]
    settings: type[Settings] = Settings
    variants: tuple[Variant, ...] = ()
    brightness: tuple[float, float] | None = None

    @property
    def prepare(self) -> Preparation:
        """The default preparation of pictures for the dataset; in grey images ink is 1 on paper 0."""
        side, _, channels = self.image_shape
        return Preparation(side, channels, invert=channels == 1)

    def variant(self, flags: Mapping[str, Any]) -> Variant:
        """Return the way to make the dataset with these flags."""
        suitable = (one for one in self.variants if one.flag in flags and one.suits(flags[one.flag]))
        return next(suitable, Variant(self.make, self.settings))

    def flags(self) -> list[Field]:
        """Return the flags of the maker and of its variants, each name once."""
        kinds = self.settings, *(variant.settings for variant in self.variants)
        return list({field.name: field for kind in kinds for field in fields(kind)}.values())


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


@dataclass(frozen=True)
class SourceSettings(Settings):
    source: Path | None = setting(
        None,
        "the originals: a folder or an archive for omniglot, omniglot_vinyals and mimgnet, a folder of classes for the "
        "other benchmarks and your own images, or tfds:NAME (see docs/data.md)",
        source,
    )


@dataclass(frozen=True)
class SeedSettings(Settings):
    seed: int = setting(0, "seed of the split, or of the drawings", whole(0, 2**32 - 1))
