"""Vectors of pictures: the pooled features of a network of keras.applications, and datasets of them."""

from __future__ import annotations

import argparse
import difflib
import functools
import hashlib
import inspect
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from errors import UserError, user_error
from lazy import LazyModule
from settings import setting
from sources.arrays import checksum
from sources.features import LARGEST
from sources.images import SKIP_BAD, find_pictures, write_raw
from sources.maker import SourceSettings, existing_path
from sources.preparation import Preparation
from sources.split_arrays import RAW, SplitSettings, write_dataset

if TYPE_CHECKING:
    from PIL import Image

keras = LazyModule("keras")  # takes seconds
AT_ONCE = 32  # pictures that the network takes at once
DOWNLOADED = "keras"  # stands for the weights of Keras' own download
COMMON, SIZES = 224, {  # side of the pictures that a network takes by default, in pixels
    "InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299, "NASNetLarge": 331, "EfficientNetB1": 240,
    "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380, "EfficientNetB5": 456, "EfficientNetB6": 528,
    "EfficientNetB7": 600, "EfficientNetV2B1": 240, "EfficientNetV2B2": 260, "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480,
}  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """A network of keras.applications, which maps pictures to vectors: its features, averaged over the pixels.

    name: the network's name there, MobileNetV3Small for example. weights: a file (.weights.h5 or .h5) of the weights of
    the network without its classifier; None: the weights that Keras downloads, trained on ImageNet. Pictures are
    made upright, opaque and coloured (sources/pictures.py), squeezed into the square that the network takes by default,
    and preprocessed as Keras says for this network. Raise UserError if there is no such network, if its weights cannot
    be downloaded, or if the file does not fit.
    """

    name: str
    weights: Path | None = None

    @classmethod
    def of(cls, description: Mapping[str, object], weights: Path | None = None) -> Backbone:
        """Return the backbone with this `description`. weights: the file of its weights, if Keras did not download
        them. Raise UserError if the description names other weights."""
        backbone, wanted = cls(str(description["backbone"]), weights), description["weights"]
        if weights is None and wanted != DOWNLOADED:
            raise UserError(
                f"the vectors were made by {backbone.name} with a file of weights (SHA-256 {str(wanted)[:12]}...): "
                f"give that file as --backbone_weights"
            )
        if backbone.weights_sha256 != wanted:
            made = "Keras' own download" if wanted == DOWNLOADED else f"another file (SHA-256 {str(wanted)[:12]}...)"
            remedy = "leave it out" if wanted == DOWNLOADED else "give that file"
            raise UserError(
                f"--backbone_weights {weights} has other weights than those that made the vectors, which are of "
                f"{made}: {remedy}"
            )
        return backbone

    @property
    def description(self) -> dict[str, object]:
        """The backbone as it stands in manifests and runs, under "prepare"."""
        return {"backbone": self.name, "weights": self.weights_sha256, "features": self.features}

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The SHA-256 of the file of weights, or DOWNLOADED."""
        with user_error(f"cannot read --backbone_weights {self.weights}", "give the file of weights", OSError):
            return checksum(self.weights)["sha256"] if self.weights else DOWNLOADED

    @property
    def preparation(self) -> Preparation:
        """The conversion of a picture to the image that the network takes."""
        return Preparation(SIZES.get(self.name, COMMON), channels=3)

    @property
    def features(self) -> int:
        """The length of a vector."""
        return self.network[0].output_shape[-1]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of a vector as an image of one pixel."""
        return 1, 1, self.features

    @functools.cached_property
    def network(self) -> tuple:
        """The Keras model, and its function that preprocesses images. The first use builds it, which takes seconds."""
        return load_network(self.name, self.weights, self.weights_sha256, self.preparation.size)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the vectors, float32 [n,D], of images that `preparation` has made, uint8 [n,size,size,3]. Raise
        UserError if their numbers are too large or not finite."""
        model, preprocess = self.network
        vectors = np.asarray(model.predict_on_batch(preprocess(np.array(images, np.float32))), np.float32)
        if not (np.abs(vectors) <= LARGEST).all():
            raise UserError(
                f"the vectors of --backbone {self.name} are not finite, or above {LARGEST:g}: give other "
                f"--backbone_weights"
            )
        return vectors

    def __call__(self, pictures: Iterable[Image.Image]) -> np.ndarray:
        """Return the vectors of pictures, float32 [n,D], with a progress bar. A picture is taken when it is needed, so
        that many do not have to fit into memory. Raise BadPicture if a picture has an unknown range."""
        vectors, waiting = [np.zeros((0, self.features), np.float32)], []
        for picture in tqdm(pictures, desc=self.name, unit="picture", disable=None, leave=False):
            waiting.append(self.preparation(picture))
            if len(waiting) == AT_ONCE:
                vectors.append(self.embed(np.array(waiting)))
                waiting = []
        if waiting:
            vectors.append(self.embed(np.array(waiting)))
        return np.concatenate(vectors)

    def images(self, pictures: Iterable[Image.Image]) -> np.ndarray:
        """Return the vectors of pictures as images of one pixel, [n,1,1,D]."""
        return self(pictures)[:, None, None]


def constructor_of(name: str):
    """Return the constructor of a network of keras.applications. Raise UserError if there is none of this name."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"  # before the first use of `keras`, which imports it
    constructors = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    if name not in constructors:
        names = {one.lower(): one for one in constructors}
        close = [names[one] for one in difflib.get_close_matches(name.lower(), names, n=5)]
        raise UserError(f"keras.applications has no network {name}: choose {' or '.join(close or constructors)}")
    return constructors[name]


@functools.lru_cache(maxsize=2)
def load_network(name: str, weights: Path | None, sha256: str, size: int) -> tuple:
    """Return the model of this name with pooled features for images [n,size,size,3], and its function that preprocesses
    images. sha256: of the file of weights; it makes the cache read a changed file again. UserError as in Backbone."""
    constructor = constructor_of(name)
    # The user's ~/.keras/keras.json may say otherwise.
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    settings = {"include_top": False, "pooling": "avg", "input_shape": (size, size, 3)}
    if weights is None:
        remedy = "try again, or give a file of them as --backbone_weights"
        # a network, a disk, a changed checksum, ...
        with user_error(f"Keras could not download the weights of {name}", remedy, Exception):
            model = constructor(weights="imagenet", **settings)
    else:
        refuse_keras_efficientnet(name, weights, inspect.getmodule(constructor))
        model = constructor(weights=None, **settings)
        remedy = f"give weights of {name} without its classifier (include_top=False), as .weights.h5 or .h5"
        # Keras and h5py raise many kinds
        with user_error(f"--backbone_weights {weights} does not fit {name}", remedy, Exception):
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                model.load_weights(weights)
            if doubts := [one.message for one in warned if one.category is UserWarning]:
                raise ValueError(f"{doubts[0]}")  # of weights that would stay as they are initialized
    return model, inspect.getmodule(constructor).preprocess_input


def refuse_keras_efficientnet(name: str, weights: Path, module: ModuleType) -> None:
    """Raise UserError if the file has Keras' own weights of EfficientNetB0 to B7. Keras scales the images for its own
    download, but not for a file, which would give wrong vectors. module: Keras', of the network."""
    _, own = getattr(module, "WEIGHTS_HASHES", {}).get(name[-2:].lower(), ("", ""))  # with its classifier, and without
    if name.startswith("EfficientNetB") and hashlib.md5(weights.read_bytes()).hexdigest() == own:
        place = f"~/.keras/models/{name.lower()}_notop.h5"
        raise UserError(
            f"Keras scales the images for its own weights of {name} only if it loads them itself: move {weights} to "
            f"{place}, and leave --backbone_weights out"
        )


# ---- datasets


def network_name(text: str) -> str:
    """Read the name of a network from a flag."""
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"must be a network's name, as MobileNetV3Small, not {text!r}")
    return text


network_name.metavar = "MobileNetV3Small"


@dataclass(frozen=True)
class BackboneSettings(SplitSettings, SourceSettings):
    backbone: str | None = setting(
        None,
        "make vectors of the pictures in --source: the pooled features of this network of keras.applications",
        network_name,
    )
    backbone_weights: Path | None = setting(
        None,
        "file of the network's weights, .weights.h5 or .h5 (default: Keras' own download, trained on ImageNet)",
        existing_path,
        metavar="FILE",
    )
    skip_bad: bool = setting(False, SKIP_BAD)


def make_with_backbone(folder: Path, target: Path, settings: BackboneSettings) -> dict:
    """Make a dataset of vectors in `folder` from the pictures in `source`, a folder or tfds:NAME, as `make_images`
    finds them; return its manifest. Raise UserError if the source, the table of the split or the network is at
    fault."""
    backbone = Backbone(settings.backbone, settings.backbone_weights)
    image_shape = backbone.image_shape  # builds the network: a fault is told before pictures are read
    pictures, split_by_class, origin = find_pictures(settings.source, settings.split_file)
    settings.refuse_idle(bool(split_by_class))
    numbers, left_out = write_raw(
        folder / RAW, pictures, backbone.preparation, settings.skip_bad, backbone.embed, AT_ONCE
    )
    return write_dataset(
        folder, target, numbers, image_shape, np.float32, settings, origin, split_by_class, scale=1.0,
        files=[settings.backbone_weights] * bool(settings.backbone_weights), prepare=backbone.description,
        left_out=left_out,
    )  # fmt: skip
