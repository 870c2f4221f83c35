"""A few-shot classifier of one's own pictures, in scikit-learn's conventions.

    classifier = Classifier.load("pretrained/omniglot_5way_1shot_metadrop.npz")
    classifier.fit(["a/1.png", "b/1.png"], ["a", "b"]).predict(["x.png", "y.png"])

Batch norm takes its statistics from the support set, in which all classes count the same, whatever their numbers of
pictures. So the prediction for a picture depends neither on the other pictures that are classified with it, nor on
their order; docs/classify.md has what other choices cost.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from errors import UserError
from sources.pictures import BLACK, WHITE, Paper, from_pillow, read
from studies.trained import Trained
from training.steps import QUERY, STATISTICS, SUPPORT

BATCH = 64  # query pictures in one call, where they do not depend on each other
LEAST = 8  # a call's number of query pictures is filled up to this, or to a power of two: each is compiled once
FOLDS = 20  # pictures are left out in at most so many parts
MEMORY = 8 << 30  # bytes of maps that an inner step may hold, and
SHARED = 4 << 30  # that noise samples share
MAPS = 16  # maps of the first block that an inner step holds at the same time, of each image and noise sample: measured
ROUNDING = 1e-6  # so far a picture's floats may be below 0 or above 1
KINDS = "last", "best"  # of a run's checkpoints
Pictures = Sequence  # of paths, of Pillow's images, or of arrays [H,W], [H,W,3], uint8 or floats in [0, 1]


class PictureWarning(UserWarning):
    """Pictures do not look as the training images did."""


class Fit(NamedTuple):
    """The result of `fit`. x [S,H,W,C], y one-hot [S,classes]: the support images. order [S]: their places in the list
    that was given. adapted: what the learner made of them."""

    trained: Trained
    params: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    order: np.ndarray
    adapted: Any


class Classifier(ClassifierMixin, BaseEstimator):
    """Adapts a trained learner to labelled pictures, and classifies others.

    run: the folder of a run, or a file of weights. statistics: the images that batch norm takes its statistics from:
    the `support` set; or, if there are about equally many query pictures of each class, the support set and all query
    pictures `together`, or all pictures of the `query` alone, in which case a prediction depends on the other pictures.
    samples: noise samples of an inner step's loss, fewer where their maps would not fit into SHARED. seed: of that
    noise. checkpoint: a run's `last` or `best`. invert: the pictures are light on dark where the training data's were
    dark on light, or the reverse; what is transparent becomes black.
    After `fit`: classes_, the labels in order.

    Pictures are as a camera or a scanner gives them, and become images as those of the training data did (turned,
    squeezed, grey, inverted: sources/preparation.py). A PictureWarning warns of pictures that look unlike those.
    """

    def __init__(
        self,
        run,
        statistics: str = SUPPORT,
        samples: int = 10,
        seed: int = 0,
        checkpoint: str = "last",
        invert: bool = False,
    ):
        self.run, self.statistics, self.samples, self.seed = run, statistics, samples, seed
        self.checkpoint, self.invert = checkpoint, invert

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True  # a picture is no row of numbers
        return tags

    @classmethod
    def load(cls, run, **settings) -> Classifier:
        """Make a classifier as the constructor does; ValueError at once, rather than in `fit`, if the run cannot be
        read."""
        classifier = cls(run, **settings)
        classifier.trained()
        return classifier

    def fit(self, images: Pictures, y: Sequence) -> Classifier:
        """Learn these pictures' labels y, all strings or all numbers; a class may have any number of them, and all
        classes count the same.

        ValueError at a picture that cannot be read, at lists of different lengths, at a single class, at more classes
        than the learner can take, and at more pictures than fit into MEMORY. An earlier fit then stays as it was.
        """
        trained = self.trained()
        images = self._listed(images)
        classes, own = classes_of(images, y)
        params = trained.weights_for(len(classes))
        samples = self._samples(trained, len(images))
        x = self._prepared(trained, images)
        self._warn(trained, [look_of(x)])
        # In an order of their own, so that the noise that each of them gets does not depend on that of the input.
        order = np.array(sorted(range(len(x)), key=lambda i: (own[i], x[i].tobytes())))
        x, one_hot = trained.range.inputs(x[order]), np.eye(len(classes), dtype=np.float32)[own[order]]
        adapted = self._adapt(trained, params, x, one_hot, samples)
        self._fit, self.classes_ = Fit(trained, params, x, one_hot, order, adapted), classes
        return self

    def predict_proba(self, images: Pictures) -> np.ndarray:
        """Probabilities [n,classes], in the order of classes_. NotFittedError before `fit`, ValueError at a picture
        that cannot be read."""
        return np.concatenate(list(self.predict_parts(images)))

    def predict_parts(self, images: Pictures) -> Iterator[np.ndarray]:
        """Yield the probabilities in parts, which `predict_proba` puts together: [BATCH,classes] at most, or all at
        once where the predictions depend on each other."""
        check_is_fitted(self, "classes_")
        self._check_settings()
        images, fit, looks = self._listed(images), self._fit, []
        if not images:
            raise ValueError("there is no picture to classify")
        at_once = BATCH
        if self.statistics != SUPPORT:
            at_once = len(images)
            self._samples(fit.trained, at_once + len(fit.x))
        for first in range(0, len(images), at_once):
            x = self._prepared(fit.trained, images[first : first + at_once])
            looks.append(look_of(x))
            yield self._classify(fit, fit.adapted, fit.x, fit.y, fit.trained.range.inputs(x), self.statistics)
        self._warn(fit.trained, looks)

    def predict(self, images: Pictures) -> np.ndarray:
        """The label of each picture, [n]. Errors as in `predict_proba`."""
        check_is_fitted(self, "classes_")
        images = images if hasattr(images, "__len__") else self._listed(images)
        return self.classes_[self.predict_proba(images).argmax(-1)] if len(images) else self.classes_[:0]

    def leave_out(self, folds: int = FOLDS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Leave out each picture of `fit` whose class has another one, and classify it by a learner that is adapted to
        those that stay: one at a time, or, of more than `folds` pictures, in so many parts.

        Yields, for each part, its pictures' numbers in fit's order [n] and their probabilities [n,classes]. ValueError
        where `folds` is 1, or below 0.
        """
        check_is_fitted(self, "classes_")
        if not isinstance(folds, numbers.Integral) or folds < 0 or folds == 1:  # of one part nothing stays
            raise ValueError(f"folds is {folds!r}, wanted 0 or a whole number of at least 2")
        fit, samples = self._fit, self._samples(self._fit.trained, len(self._fit.x))
        for part in parts_to_leave_out(fit.y.argmax(-1), folds):
            x, y = fit.x.copy(), fit.y.copy()
            stays = np.setdiff1d(np.arange(len(x)), part)
            for i in part:  # a copy of one that stays takes its place, and counts nothing: the program stays the same
                x[i] = fit.x[stays[fit.y[stays, fit.y[i].argmax()] > 0][0]]
            y[part] = 0
            adapted = self._adapt(fit.trained, fit.params, x, y, samples)
            yield fit.order[part], self._classify(fit, adapted, x, y, fit.x[part], SUPPORT)

    def leave_one_out(self, folds: int = FOLDS) -> np.ndarray:
        """1 for each picture of `fit` that `leave_out` classifies right, 0 for one that it classifies wrong, NaN where
        the class has no other picture: in fit's order, [n]."""
        check_is_fitted(self, "classes_")
        right, labels = np.full(len(self._fit.x), np.nan), np.empty(len(self._fit.x))
        labels[self._fit.order] = self._fit.y.argmax(-1)
        for own, likely in self.leave_out(folds):
            right[own] = likely.argmax(-1) == labels[own]
        return right

    # ---- the run

    def trained(self) -> Trained:
        """The learner of `run`. ValueError where it cannot be read."""
        self._check_settings()
        try:
            trained = Trained.read(Path(self.run), self.checkpoint)
            trained.weights_for(2)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
        return trained

    def _check_settings(self) -> None:
        if not isinstance(self.run, str | Path):
            raise ValueError(f"run is {self.run!r}, wanted the path of a run's folder or of a file of weights")
        if self.checkpoint not in KINDS:
            raise ValueError(f"checkpoint is {self.checkpoint!r}, wanted one of {', '.join(KINDS)}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics is {self.statistics!r}, wanted one of {', '.join(STATISTICS)}")
        if not isinstance(self.samples, numbers.Integral) or self.samples < 1:
            raise ValueError(f"samples is {self.samples!r}, wanted a whole number of at least 1")
        if not isinstance(self.seed, numbers.Integral) or not 0 <= self.seed < 2**31:
            raise ValueError(f"seed is {self.seed!r}, wanted a whole number from 0 to {2**31 - 1}")

    def _samples(self, trained: Trained, images: int) -> int:
        """As many noise samples of so many images as fit into SHARED, and one at least. ValueError where one does not
        fit into MEMORY."""
        height, width, _ = trained.image_shape
        one = 4 * height * width * trained.channels * MAPS * images
        if one > MEMORY:
            raise ValueError(
                f"{images} pictures at once need {one / 2**30:.1f} GiB of memory, more than {MEMORY / 2**30:.1f}: give "
                f"at most {images * MEMORY // one}"
            )
        return min(self.samples, max(1, SHARED // one))

    # ---- pictures

    @property
    def paper(self) -> Paper:
        """The colour on which transparent pictures are put."""
        return BLACK if self.invert else WHITE

    def _listed(self, images: Pictures) -> list:
        """List the pictures in their order, whatever index a series may have. ValueError at a single one."""
        if isinstance(images, str | Path):
            raise ValueError(f"wanted a list of pictures, not the one path {images}")
        if isinstance(images, Image.Image):
            raise ValueError("wanted a list of pictures, not a single one")
        return list(images)

    def _prepared(self, trained: Trained, images: Pictures) -> np.ndarray:
        """Make images [n,H,W,C] from 0 to 1."""
        pictures = (picture_of(image, self.paper) for image in images)
        pictures = (ImageOps.invert(picture) if self.invert else picture for picture in pictures)
        return np.array([trained.preparation(picture) for picture in pictures], np.float32) / 255

    def _warn(self, trained: Trained, looks: Sequence[np.ndarray]) -> None:
        """Warn of images that are unlike those of training. looks: `look_of` their parts."""
        for sentence in trained.doubts(*np.concatenate(looks, 1)):
            warnings.warn(sentence, PictureWarning, stacklevel=3)

    # ---- computation

    def _adapt(self, trained: Trained, params, x: np.ndarray, y: np.ndarray, samples: int):
        with trained.computing():
            return trained.programs(y.shape[1]).adapt(params, x, y, self.seed, samples)

    def _classify(self, fit: Fit, adapted, support: np.ndarray, y: np.ndarray, x: np.ndarray, statistics: str):
        """The probabilities [n,classes] of the images x [n,H,W,C]."""
        of_support = (y / (y.sum(0) * y.shape[1])).sum(1)  # all classes count the same
        of_query = np.zeros(len(x))
        if statistics != SUPPORT:
            of_query += 1 / (len(x) + (0 if statistics == QUERY else len(support)))
            of_support *= 1 - of_query.sum()
        more = max(LEAST, 1 << (len(x) - 1).bit_length()) - len(x)
        images = np.concatenate([support, x, np.zeros((more, *x.shape[1:]), np.float32)])
        shares = np.concatenate([of_support, of_query, np.zeros(more)]).astype(np.float32)
        with fit.trained.computing():
            likely = fit.trained.programs(y.shape[1]).classify(fit.params, adapted, images, shares)
        return likely[len(support) : len(support) + len(x)]


def look_of(x: np.ndarray) -> np.ndarray:
    """Largest less smallest value, and mean, of each of the images x [n,H,W,C]: [2,n]."""
    return np.stack([np.ptp(x, (1, 2, 3)), x.mean((1, 2, 3))])


def parts_to_leave_out(labels: np.ndarray, folds: int) -> list[np.ndarray]:
    """Deal the pictures whose class has another one, by number, into at most `folds` parts, so that each class keeps
    one when a part is left out. labels [S]: the number of each picture's class."""
    counts = np.bincount(labels)
    known = np.flatnonzero(counts[labels] > 1)
    known = known[np.argsort(labels[known], kind="stable")]  # one class after the other: a part has few of each
    parts = [known[i::folds] for i in range(min(folds, len(known)))]
    return [part for part in parts if len(part)]


def number_of_parts(labels: Sequence, folds: int) -> int:
    """The number of parts in which `Classifier.leave_out` leaves out pictures with these labels."""
    return len(parts_to_leave_out(np.unique(labels, return_inverse=True)[1], folds))


def kind_of(label: object) -> str:
    """The kind of a label; labels of two kinds are never equal. ValueError where it is no label."""
    if isinstance(label, str):
        return "strings"
    if isinstance(label, bool | np.bool_):
        return "booleans"
    if isinstance(label, numbers.Real):
        return "numbers"
    raise ValueError(f"labels must be all strings or all numbers, not {type(label).__name__}")


def classes_of(images: list, labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and the number of each picture's. ValueError at labels that are not one for each picture,
    all strings or all numbers, and of two classes at least."""
    if labels is None:
        raise ValueError("requires y to be passed, but the target y is None: give a label for each picture")
    if not hasattr(labels, "__array__"):  # numpy would make mixed ones strings
        labels = np.array(list(labels), dtype=object)
    check_consistent_length(images, labels)
    labels = column_or_1d(labels, warn=True)
    if len(kinds := sorted({kind_of(label) for label in labels})) > 1:
        raise ValueError(f"labels must be all strings or all numbers, not {' and '.join(kinds)}")
    labels = np.array(labels.tolist()) if labels.dtype == object else labels
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    classes, own = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"The number of classes has to be greater than one; got {len(classes)} class")
    return classes, own


def picture_of(image, paper: Paper = WHITE) -> Image.Image:
    """A path, one of Pillow's images, or an array [H,W] or [H,W,C], uint8 or floats in [0, 1], on `paper` where it is
    transparent. ValueError at others."""
    if isinstance(image, Image.Image):
        try:
            return from_pillow(image, paper=paper)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
    if isinstance(image, str | Path):
        try:
            return read(Path(image), paper)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"a picture must be an array [H,W], [H,W,3] or [H,W,4], not of the shape {pixels.shape}")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < -ROUNDING or pixels.max() > 1 + ROUNDING:
            raise ValueError("a picture of floats must have values from 0 to 1: scale it")
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture must have pixels of uint8, or floats from 0 to 1, not {pixels.dtype}")
    return from_pillow(Image.fromarray(pixels), paper=paper)
