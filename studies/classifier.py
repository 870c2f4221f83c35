"""A few-shot classifier of your own pictures, with scikit-learn's interface.

    classifier = Classifier.load("pretrained/omniglot_5way_1shot_metadrop.npz")
    classifier.fit(["a/1.png", "b/1.png"], ["a", "b"]).predict(["x.png", "y.png"])

Batch norm takes its statistics from the support set, in which all classes count the same, whatever their numbers of
pictures. The prediction for a picture therefore depends neither on the other pictures that are classified with it, nor
on their order; docs/classify.md says what other choices cost.
"""

from __future__ import annotations

import contextlib
import numbers
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from errors import UserError
from learners.heads import HEADS
from parameters import is_vector
from sources.backbone import Backbone
from sources.pictures import BLACK, WHITE, Paper, from_pillow, read
from studies.left_out import LeftOut
from studies.trained import Trained
from training.steps import QUERY, STATISTICS, SUPPORT

BATCH = 64  # query pictures per call, if their predictions do not depend on each other
LEAST = 8  # blank images fill a call up to this number of query pictures, or to a power of two: few sizes are compiled
FOLDS = 20  # the support pictures are left out in at most this many parts, by default
MEMORY = 8 << 30  # bytes that the maps of an inner step may take with one noise sample
SHARED = 4 << 30  # bytes that they may take with several
MAPS = 16  # maps of the first block that are in memory at once, per image and noise sample: measured
ROUNDING = 1e-6  # a picture's floats may be this far below 0 or above 1
CHECKPOINTS = "last", "best"
NONE, NONE_NUMBER = "none of these", -1  # predictions for rejected pictures, where labels are strings and numbers
Pictures = Sequence  # paths, Pillow's images, or arrays [H,W], [H,W,1], [H,W,3] or [H,W,4], uint8 or floats in [0, 1]


class PictureWarning(UserWarning):
    """Pictures look unlike the training images."""


class Predictions(NamedTuple):
    """Predictions for n pictures. probabilities [n,classes]. chosen [n]: the index of the class with the largest
    probability, or the number of classes if the picture is rejected. similarities [n]: the similarity to the nearest
    class, from 0 to 1 (see `Classifier`); NaN without `reject`."""

    probabilities: np.ndarray
    chosen: np.ndarray
    similarities: np.ndarray


class Fit(NamedTuple):
    """The result of `fit`. x [S,H,W,C], y one-hot [S,classes]: the sorted support images and their labels. order [S]:
    the index of each image in fit's list. adapted: the result of the learner's `adapt`."""

    trained: Trained
    params: dict[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    order: np.ndarray
    adapted: Any


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Turn a UserError from a `with` block or from a decorated function into a ValueError."""
    try:
        yield
    except UserError as fault:
        raise ValueError(f"{fault}") from fault


class Classifier(ClassifierMixin, BaseEstimator):
    """Adapts a trained learner to labelled pictures, and classifies others.

    run: the folder of a run, or a file of weights. Without a run nothing is trained, and `backbone` names a network of
    keras.applications whose features are classified by `head`. backbone_weights: a file of that network's weights
    (sources/backbone.py), also for a run that was trained on its vectors. head: for a backbone and runs of baselines
    (learners/baseline.py); None: the run's head, or `nearest`.

    statistics: the images that batch norm takes its statistics from: the `support` set; or, if there are about equally
    many query pictures of each class, the support set and all query pictures `together`, or all `query` pictures; with
    these two a prediction depends on the other pictures (of learners whose batch norm takes running averages, it does
    not). samples: noise samples of an inner step's loss, fewer if their maps would take more memory than SHARED. seed:
    that noise's seed. checkpoint: a run's `last` or `best`. invert: True if the pictures are light on dark and the
    training data dark on light, or the reverse; transparent areas then become black. reject: a number from 0 to 1;
    `predict` returns NONE, or NONE_NUMBER if labels are numbers, for a picture whose similarity to the nearest class is
    below this number; None: `predict` always names a class. The similarity is the cosine of the angle between the
    picture's features and the mean features of the class. After `fit`: classes_, the labels in order.

    The classifier takes pictures as a camera or a scanner makes them, and prepares them as the training images were
    prepared (sources/preparation.py). A PictureWarning says that they look unlike the training images.
    """

    def __init__(
        self,
        run=None,
        statistics=SUPPORT,
        samples=10,
        seed=0,
        checkpoint="last",
        invert=False,
        reject=None,
        backbone=None,
        backbone_weights=None,
        head=None,
    ):
        self.run, self.statistics, self.samples, self.seed = run, statistics, samples, seed
        self.checkpoint, self.invert, self.reject = checkpoint, invert, reject
        self.backbone, self.backbone_weights, self.head = backbone, backbone_weights, head

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True  # a picture is no row of numbers
        return tags

    @classmethod
    def load(cls, run=None, **settings) -> Classifier:
        """Make a classifier as the constructor does, and raise ValueError now, not in `fit`, if the run or the backbone
        cannot be read."""
        classifier = cls(run, **settings)
        classifier.trained()
        return classifier

    @value_errors()
    def fit(self, images: Pictures, y: Sequence) -> Classifier:
        """Adapt to these pictures and their labels y, all strings or all numbers. A class may have any number of
        pictures; all classes count the same.

        Raise ValueError if a picture cannot be read, the lists differ in length, there is only one class, there are
        more classes than the learner can take or more pictures than fit into MEMORY, or `reject` leaves no label for
        the rejected pictures. An earlier fit then stays.
        """
        trained = self.trained()
        images = self._listed(images)
        classes, indices = classes_of(images, y)
        self._check_reject(trained, classes)
        params = trained.weights_for(len(classes))
        samples = self._samples(trained, len(images))
        x = self._prepared(trained, images)
        self._warn(trained, [contrast_and_brightness(x)])
        contents = [image.tobytes() for image in x]
        if copies := len(x) - len(set(contents)):
            warnings.warn(
                f"{copies} of {len(x)} are copies of others: keep one of each, or accuracies of left-out pictures are "
                f"wrong",
                PictureWarning,
                stacklevel=2,
            )
        # Sorted by class and content, so that the noise of an image does not depend on the order of the list.
        order = np.array(sorted(range(len(x)), key=lambda i: (indices[i], contents[i])))
        x, one_hot = trained.range.inputs(x[order]), np.eye(len(classes), dtype=np.float32)[indices[order]]
        adapted = self._adapt(trained, params, x, one_hot, samples)
        self._fit, self.classes_ = Fit(trained, params, x, one_hot, order, adapted), classes
        return self

    def predict_proba(self, images: Pictures) -> np.ndarray:
        """Return probabilities [n,classes], in the order of classes_. Raise NotFittedError before `fit`; raise
        ValueError if a picture cannot be read."""
        return np.concatenate([part.probabilities for part in self.predict_parts(images)])

    def predict_parts(self, images: Pictures) -> Iterator[Predictions]:
        """Yield predictions in parts, for at most BATCH pictures each, or in one part if they depend on each other."""
        check_is_fitted(self, "classes_")
        self._check_settings()
        self._check_reject(self._fit.trained, self.classes_)
        images, fit, measured = self._listed(images), self._fit, []
        if not images:
            raise ValueError("there is no picture to classify")
        at_once = BATCH
        if self.statistics != SUPPORT:
            at_once = len(images)
            self._samples(fit.trained, at_once + len(fit.x))
        for first in range(0, len(images), at_once):
            x = self._prepared(fit.trained, images[first : first + at_once])
            measured.append(contrast_and_brightness(x))
            yield self._classify(fit, fit.adapted, fit.x, fit.y, fit.trained.range.inputs(x), self.statistics)
        self._warn(fit.trained, measured)

    def predict(self, images: Pictures) -> np.ndarray:
        """Return the label of each picture, [n]; for a rejected picture it is NONE or NONE_NUMBER. Raise the errors of
        `predict_proba`."""
        check_is_fitted(self, "classes_")
        images = images if hasattr(images, "__len__") else self._listed(images)
        if not len(images):
            return self.classes_[:0]
        chosen = np.concatenate([part.chosen for part in self.predict_parts(images)])
        labels = self.classes_
        if self.reject is not None:
            # numpy would make floats of unsigned numbers and -1
            signed = labels.astype(np.int64) if labels.dtype.kind == "u" else labels
            labels = np.append(signed, label_of_rejected(labels))
        return labels[chosen]

    def leave_out(self, folds: int = FOLDS) -> Iterator[tuple[np.ndarray, Predictions]]:
        """Leave out the pictures of `fit`, in at most `folds` parts, and classify each part after adaptation to the
        others. A picture that is alone in its class is never left out. Batch norm takes the support set's statistics
        here, whatever `statistics` is.

        Yield for each part the indices [n] of its pictures in fit's list, and their predictions. Raise ValueError if
        `folds` is 1 or below 0.
        """
        check_is_fitted(self, "classes_")
        if not isinstance(folds, numbers.Integral) or folds < 0 or folds == 1:  # one part would leave no picture
            raise ValueError(f"folds is {folds!r}, wanted 0 or a whole number of at least 2")
        fit, samples = self._fit, self._samples(self._fit.trained, len(self._fit.x))
        for part in parts_to_leave_out(fit.y.argmax(-1), folds):
            x, y = fit.x.copy(), fit.y.copy()
            stays = np.setdiff1d(np.arange(len(x)), part)
            for i in part:  # replace it by a copy of one that stays, without weight: the compiled shapes stay the same
                x[i] = fit.x[stays[fit.y[stays, fit.y[i].argmax()] > 0][0]]
            y[part] = 0
            adapted = self._adapt(fit.trained, fit.params, x, y, samples)
            yield fit.order[part], self._classify(fit, adapted, x, y, fit.x[part], SUPPORT)

    def leave_one_out(self, folds: int = FOLDS) -> np.ndarray:
        """Return 1 for each picture of `fit` that `leave_out` classifies right, 0 for one that it classifies wrong or
        rejects, and NaN for one that is alone in its class: [n], in the order of fit's list."""
        return self._left_out(folds).right

    def confusion_matrix(self, folds: int = FOLDS) -> np.ndarray:
        """Return the numbers of pictures of `fit` that `leave_out` takes for each class: [classes,classes], true by
        predicted class, in the order of classes_, as sklearn.metrics.confusion_matrix has them. With `reject` there is
        one more column, the rejected pictures."""
        counts = self._left_out(folds).matrix()
        return counts[:, :-1] if self.reject is None else counts

    @property
    def inputs_name(self) -> str:
        """The name of the fitted learner's inputs: `pixels`, or `features` of a backbone."""
        check_is_fitted(self, "classes_")
        return "features" if is_vector(self._fit.trained.image_shape) else "pixels"

    def nearest_mean(self) -> Classifier:
        """Return a classifier in which nothing is trained, fitted to the same pictures: a picture gets the class with
        the nearest mean of the learner's inputs. These are pixels or a backbone's vectors, each divided by its length.
        The classifier shows what the learner is worth: compare the results of `leave_one_out`. It rejects
        nothing."""
        check_is_fitted(self, "classes_")
        other, trained, fit = clone(self).set_params(reject=None), self._fit.trained.untrained(), self._fit
        adapted = other._adapt(trained, trained.params, fit.x, fit.y, 1)
        other._fit, other.classes_ = (
            fit._replace(trained=trained, params=trained.params, adapted=adapted),
            self.classes_,
        )
        return other

    def _left_out(self, folds: int) -> LeftOut:
        check_is_fitted(self, "classes_")
        left_out = LeftOut(self._fit.y.argmax(-1)[np.argsort(self._fit.order)], len(self.classes_))
        for places, predictions in self.leave_out(folds):
            left_out.predicted[places] = predictions.chosen
        return left_out

    # ---- the run

    @value_errors()
    def trained(self) -> Trained:
        """Read the learner of `run`, or the backbone. Raise ValueError if that fails, or if a setting is wrong."""
        self._check_settings()
        file = self.backbone_weights and Path(self.backbone_weights)
        if self.run is None:
            trained = Trained.of_backbone(Backbone(self.backbone, file), self.head)
        else:
            trained = Trained.read(Path(self.run), self.checkpoint, file, self.head)
        trained.weights_for(2)
        return trained

    def _check_settings(self) -> None:
        samples, seed, reject = self.samples, self.seed, self.reject
        if (self.run is None) == (self.backbone is None):
            given = "neither" if self.run is None else "both"
            raise ValueError(f"{given} of run and backbone is given, wanted one of them: a run knows its backbone")
        path = "the path of a run's folder or of a file of weights"
        for name, fits, wanted in (
            ("run", isinstance(self.run, str | Path | None), path),
            ("backbone", isinstance(self.backbone, str | None), "the name of a network of keras.applications"),
            ("backbone_weights", isinstance(self.backbone_weights, str | Path | None), "the path of a file"),
            ("head", self.head in (None, *HEADS), f"one of {', '.join(HEADS)}"),
            ("checkpoint", self.checkpoint in CHECKPOINTS, f"one of {', '.join(CHECKPOINTS)}"),
            ("statistics", self.statistics in STATISTICS, f"one of {', '.join(STATISTICS)}"),
            ("samples", isinstance(samples, numbers.Integral) and samples >= 1, "a whole number of at least 1"),
            ("seed", isinstance(seed, numbers.Integral) and 0 <= seed < 2**31, f"a whole number from 0 to {2**31 - 1}"),
            ("invert", isinstance(self.invert, bool | np.bool_), "True or False"),
            ("reject", isinstance(reject, numbers.Real | None) and 0 <= (reject or 0) <= 1, "a number from 0 to 1"),
        ):
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)!r}, wanted {wanted}")

    def _check_reject(self, trained: Trained, classes: np.ndarray) -> None:
        """Raise ValueError if `reject` is set and the learner has no features or the classes leave no label."""
        if self.reject is None:
            return
        label_of_rejected(classes)
        if not trained.programs(len(classes)).learner.inspectable:
            raise ValueError(f"`reject` needs features, and {trained.config['model']} with its settings has none")

    def _samples(self, trained: Trained, images: int) -> int:
        """Return how many noise samples to take, at least 1, so that the maps of this number of images fit into SHARED
        bytes. Raise ValueError if the maps of one sample do not fit into MEMORY bytes."""
        height, width, inputs = trained.image_shape
        channels = trained.channels if trained.params else inputs  # without parameters there are no maps
        one = 4 * height * width * channels * MAPS * images
        if one > MEMORY:
            raise ValueError(
                f"{images} pictures at once need {one / 2**30:.1f} GiB of memory, more than {MEMORY / 2**30:.1f}: give "
                f"at most {images * MEMORY // one}"
            )
        return min(self.samples, max(1, SHARED // one))

    # ---- pictures

    @property
    def paper(self) -> Paper:
        """The colour that transparent pictures are put on."""
        return BLACK if self.invert else WHITE

    def _listed(self, images: Pictures) -> list:
        """List the pictures in order, whatever the index of a pandas series. Raise ValueError for a single picture."""
        if isinstance(images, str | Path | Image.Image):
            raise ValueError(f"wanted a list of pictures, not a single one: {images}")
        shape = getattr(images, "shape", ())
        if len(shape) == 3 and shape[-1] in (1, 3, 4):  # its rows would be read as grey pictures
            raise ValueError(f"wanted a list of pictures, not a single one: an array of the shape {shape}")
        return list(images)

    def _prepared(self, trained: Trained, images: Pictures) -> np.ndarray:
        """Return the pictures as images [n,H,W,C] from 0 to 1, or as a backbone's vectors [n,1,1,C]."""
        pictures = (picture_of(image, self.paper) for image in images)
        pictures = (ImageOps.invert(picture) if self.invert else picture for picture in pictures)
        return trained.preparation.images(pictures)

    def _warn(self, trained: Trained, measured: Sequence[np.ndarray]) -> None:
        """Warn of images that look unlike the training images. measured: results of `contrast_and_brightness`."""
        for sentence in trained.doubts(*np.concatenate(measured, 1)):
            warnings.warn(sentence, PictureWarning, stacklevel=3)

    # ---- computation

    def _adapt(self, trained: Trained, params, x: np.ndarray, y: np.ndarray, samples: int):
        with trained.computing():
            return trained.programs(y.shape[1]).adapt(params, x, y, self.seed, samples)

    def _classify(self, fit: Fit, adapted, support: np.ndarray, y: np.ndarray, x: np.ndarray, statistics: str):
        """Return the predictions for the images x [n,H,W,C]."""
        support_shares = (y / (y.sum(0) * y.shape[1])).sum(1)  # all classes count the same
        query_shares = np.zeros(len(x))
        if statistics != SUPPORT:
            query_shares += 1 / (len(x) + (0 if statistics == QUERY else len(support)))
            support_shares *= 1 - query_shares.sum()
        blank = max(LEAST, 1 << (len(x) - 1).bit_length()) - len(x)
        images = np.concatenate([support, x, np.zeros((blank, *x.shape[1:]), np.float32)])
        shares = np.concatenate([support_shares, query_shares, np.zeros(blank)]).astype(np.float32)
        programs, query = fit.trained.programs(y.shape[1]), slice(len(support), len(support) + len(x))
        with fit.trained.computing():
            probabilities = programs.classify(fit.params, adapted, images, shares)[query]
            if not np.isfinite(probabilities).all():
                raise ValueError("the learner's outputs are not finite: its weights, or the adaptation, diverged")
            chosen = probabilities.argmax(-1)
            if self.reject is None:
                return Predictions(probabilities, chosen, np.full(len(x), np.nan))
            features = programs.features(fit.params, adapted, images, shares)
        similarities = similarities_of(features[query], features[: len(support)], y)
        return Predictions(probabilities, np.where(similarities < self.reject, y.shape[1], chosen), similarities)


def similarities_of(features: np.ndarray, support: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of each of the feature vectors [n,D] to the nearest class mean: [n], 0 where it is
    below 0. support [S,D], y [S,classes]: the support images' feature vectors and labels; an image with a row of zeros
    in y does not count."""
    means = (y / y.sum(0)).T @ support
    cosines = unit(features) @ unit(means).T
    return np.clip(cosines.max(-1), 0, 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [n,D] of length 1, or 0 where they are 0."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def contrast_and_brightness(x: np.ndarray) -> np.ndarray:
    """Return for each of the images x [n,H,W,C] the largest minus the smallest value, and the mean: [2,n]."""
    return np.stack([np.ptp(x, (1, 2, 3)), x.mean((1, 2, 3))])


def parts_to_leave_out(labels: Sequence, folds: int) -> list[np.ndarray]:
    """Divide the indices of pictures with these labels into at most `folds` parts, so that each class keeps a picture
    when a part is left out; pictures that are alone in their class are in no part."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    dealt = np.flatnonzero(counts[classes] > 1)
    dealt = dealt[np.argsort(classes[dealt], kind="stable")]  # sorted by class: a part has few pictures of each
    return [dealt[i::folds] for i in range(min(folds, len(dealt)))]


def kind_of(label: object) -> str:
    """Return the kind of a label: strings, booleans or numbers. Raise ValueError if it is none of these."""
    for kind, name in ((str, "strings"), (bool | np.bool_, "booleans"), (numbers.Real, "numbers")):
        if isinstance(label, kind):
            return name
    raise ValueError(f"labels must be all strings or all numbers, not {type(label).__name__}")


def classes_of(images: list, labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes in order, and the index of each picture's class. Raise ValueError unless there is one label
    for each picture, all labels are of one kind, and there are two classes or more."""
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
    classes, indices = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"The number of classes has to be greater than one; got {len(classes)} class")
    return classes, indices


def label_of_rejected(classes: np.ndarray) -> str | int:
    """Return the prediction for rejected pictures where the labels are these classes. Raise ValueError if it could not
    be distinguished from a class."""
    kind = kind_of(classes[0])
    label = NONE if kind == "strings" else NONE_NUMBER
    if kind == "booleans":
        raise ValueError("labels are booleans, and `reject` needs a third label: give strings or numbers")
    if classes.dtype.kind == "u" and classes.max() > np.iinfo(np.int64).max:
        raise ValueError(f"a label is {classes.max()}, and with `reject` labels are at most 2**63 - 1: give other ones")
    if label in classes:
        raise ValueError(f"a class has the label {label!r}, which `reject` gives to rejected pictures: rename it")
    return label


@value_errors()
def picture_of(image, paper: Paper = WHITE) -> Image.Image:
    """Make a picture from a path, from one of Pillow's images, or from an array [H,W] or [H,W,C], uint8 or floats in
    [0, 1]; transparent areas get the colour `paper`. Raise ValueError if it is none of these."""
    if isinstance(image, Image.Image):
        return from_pillow(image, paper=paper)
    if isinstance(image, str | Path):
        return read(Path(image), paper)
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        shapes = "[H,W], [H,W,1], [H,W,3] or [H,W,4]"
        raise ValueError(f"a picture must be an array {shapes}, not of the shape {pixels.shape}")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < -ROUNDING or pixels.max() > 1 + ROUNDING:
            raise ValueError("a picture of floats must have values from 0 to 1: scale it")
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture must have pixels of uint8, or floats from 0 to 1, not {pixels.dtype}")
    return from_pillow(Image.fromarray(pixels), paper=paper)
