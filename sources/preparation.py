"""The conversion of pictures to images of a dataset, when the dataset is made and whenever a trained run sees one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lazy import LazyModule

# train_jax.py runs without Pillow.
Image, pictures = LazyModule("PIL.Image"), LazyModule("sources.pictures")
MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode
BACKBONE = {"backbone": str, "weights": str, "features": int}  # the description of a Backbone


class Preparation(NamedTuple):
    """Converts pictures to images. size: side in pixels. channels: 1 for grey, 3 for colour. invert: dark becomes
    bright, for ink on paper.

    A manifest stores it as {"size", "channels", "invert"}.
    """

    size: int
    channels: int
    invert: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.channels

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Make a picture upright and opaque (sources/pictures.py), convert it to grey or colour, resize it to the
        square, and invert it -> uint8 [size,size,channels]. Raise BadPicture if its range is unknown."""
        image = pictures.from_pillow(image).convert(MODES[self.channels])
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(self.size, self.size, self.channels)
        return 255 - pixels if self.invert else pixels

    def images(self, pictures: Iterable[Image.Image]) -> np.ndarray:
        """Return the images of pictures, from 0 to 1, float32 [n,size,size,channels]."""
        return np.array([self(picture) for picture in pictures], np.float32) / 255

    def picture_of(self, image: np.ndarray) -> Image.Image:
        """Return the picture, of the same size, that is converted to this image, uint8 [H,W,channels]."""
        pixels = 255 - image if self.invert else image
        return Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels)


def shape_of(description: dict) -> tuple[int, int, int]:
    """Return the shape of the images that a Preparation or a Backbone of this description makes."""
    if "backbone" in description:
        return 1, 1, description["features"]
    return Preparation(**description).image_shape


def can_be_preparation(value: object) -> bool:
    """True if this value, from a manifest or a run, describes a Preparation, or a Backbone (sources/backbone.py)."""
    if isinstance(value, dict) and value.keys() == BACKBONE.keys():
        return all(type(value[name]) is kind for name, kind in BACKBONE.items()) and value["features"] > 0
    try:
        size, channels, invert, *_ = Preparation(**value)
    except TypeError:
        return False
    return type(size) is type(channels) is int and 0 < size <= 10_000 and channels in MODES and type(invert) is bool
