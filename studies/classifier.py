"""A few-shot classifier of one's own pictures, in scikit-learn's conventions.

    classifier = Classifier.load("pretrained/omniglot_5way_1shot_metadrop.npz")
    classifier.fit(["a/1.png", "b/1.png"], ["a", "b"]).predict(["x.png", "y.png"])

Batch norm takes its statistics from the images that are classified together, so that a prediction depends on its
neighbours; docs/classify.md has what that costs.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from tqdm import tqdm

import model
from datasets.pictures import from_pillow, read
from datasets.prepare import Preparation
from datasets.table import MAKERS
from errors import UserError
from lazy import tf
from ranges import UNIT, Range
from settings import Settings
from training import records
from training.devices import BF16
from training.engine import STATISTICS, TOGETHER, Engine

BATCH = 100  # at most so many pictures are classified together
Pictures = Sequence  # of paths, of Pillow's images, or of arrays [H,W], [H,W,3], uint8 or floats in [0, 1]


class Classifier(ClassifierMixin, BaseEstimator):
    """Adapts a trained learner to labelled pictures, and classifies others.

    run: the folder of a run, or a file of weights. statistics: whose images batch norm is normalised by: of the `query`
    pictures that are classified together, or of those and the support set `together`. samples: noise samples of an
    inner step's loss. seed: of that noise. checkpoint: a run's `last` or `best`.
    After `fit`: classes_, the labels in order.

    Pictures are as a camera or a scanner gives them, and become images as those of the training data did (turned,
    squeezed, grey, inverted: datasets/prepare.py).
    """

    def __init__(self, run, statistics: str = TOGETHER, samples: int = 10, seed: int = 0, checkpoint: str = "last"):
        self.run, self.statistics, self.samples, self.seed = run, statistics, samples, seed
        self.checkpoint = checkpoint

    @classmethod
    def load(cls, run, **settings) -> Classifier:
        """As the constructor; and ValueError now, not in `fit`, where the run cannot be read."""
        classifier = cls(run, **settings)
        classifier._read()
        return classifier

    def fit(self, images: Pictures, labels: Sequence) -> Classifier:
        """Learn these pictures' labels, strings or numbers; a class may have any number of them.

        ValueError at a picture that cannot be read, at lists of different lengths, at a single class, and at more
        classes than the learner can take.
        """
        self._read()
        images = self._listed(images)
        classes, own = classes_of(images, labels)
        order = np.argsort(own, kind="stable")
        engine, x = self.engine_of(len(classes)), self._prepared([images[i] for i in order])
        y = np.eye(len(classes), dtype=np.float32)[own[order]]
        adapted = self._adapt(engine, x, y)
        # All at once, so that a fit that fails leaves the one before as it was.
        self._engine, self._adapted, self.classes_ = engine, adapted, classes
        self._x, self._y, self._order = x, y, order
        return self

    def predict_proba(self, images: Pictures) -> np.ndarray:
        """Probabilities [n,classes], in the order of classes_. NotFittedError before `fit`, ValueError at a picture
        that cannot be read."""
        check_is_fitted(self, "classes_")
        self._check_settings()
        images = self._listed(images)
        if not images:
            raise ValueError("there is no picture to classify")
        likely = []
        for part in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
            x = self._prepared([images[i] for i in part])
            likely.append(self._probabilities(self._adapted, self._x, x))
        return np.concatenate(likely)

    def predict(self, images: Pictures) -> np.ndarray:
        """The label of each picture, [n]. As `predict_proba`."""
        check_is_fitted(self, "classes_")
        return self.classes_[self.predict_proba(images).argmax(-1)] if len(images) else self.classes_[:0]

    def leave_one_out(self) -> np.ndarray:
        """Of every picture of `fit` whose class has another one: is it classified right by a classifier that was fitted
        to all others, and normalised with them? In fit's order, [n]; NaN for those whose class has no other."""
        check_is_fitted(self, "classes_")
        right = np.full(len(self._x), np.nan)
        known = np.flatnonzero(self._y[:, self._y.argmax(-1)].sum(0) > 1)
        for i in tqdm(known, desc="leave one out", unit="picture", disable=None, leave=False):
            others = np.arange(len(self._x)) != i
            adapted = self._adapt(self._engine, self._x[others], self._y[others])
            likely = self._probabilities(adapted, self._x[others], self._x[i : i + 1], TOGETHER)[0]
            right[self._order[i]] = likely.argmax() == self._y[i].argmax()
        return right

    # ---- the run

    def _read(self) -> None:
        """Its settings, its parameters and how it prepares pictures."""
        self._check_settings()
        place = (self.run, self.checkpoint)
        if getattr(self, "_place", None) == place:
            return
        path = Path(self.run)
        try:
            self.config = Settings.read(path).config()
            params = records.read_run(path, self.checkpoint).params
            self.preparation, self.range = preparation_of(self.config), range_of(self.config)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
        self._place, self._params, self._engines = place, params, {}

    def _check_settings(self) -> None:
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics is {self.statistics!r}, wanted {' or '.join(STATISTICS)}")
        if not isinstance(self.samples, numbers.Integral) or self.samples < 1:
            raise ValueError(f"samples is {self.samples!r}, wanted a whole number of at least 1")

    def engine_of(self, classes: int) -> Engine:
        """The engine of the learner for so many classes."""
        if classes not in self._engines:
            config, trained_for = self.config, self.config["way"]
            names = model.settings_of(config["model"], config.get("perturbation"))
            own = {name: config[name] for name in names if name in config}
            side, channels = self.preparation.size, self.preparation.channels

            def make(way: int):
                return model.make(
                    config["model"],
                    config.get("perturbation"),
                    image_shape=(side, side, channels),
                    channels=config.get("channels") or (64 if channels == 1 else 32),
                    way=way,
                    bf16=config.get("precision") == BF16,
                    **own,
                )

            trained = make(trained_for)
            if classes > trained_for and not trained.any_way:
                raise ValueError(
                    f"there are {classes} classes, and this learner was trained for {trained_for}: give fewer, or "
                    f"train one with --way {classes}"
                )
            learner = make(classes)
            params = self._params if trained.any_way else trained.narrow(self._params, classes)
            engine = Engine(learner, shot=1, query=1, metabatch=1, seed=self.seed)
            try:
                engine.assign(Path(self.run), {name: np.asarray(value) for name, value in params.items()})
            except UserError as fault:
                raise ValueError(f"{fault}") from fault
            self._engines[classes] = engine
        return self._engines[classes]

    # ---- pictures

    def _listed(self, images: Pictures) -> list:
        """In their order, whatever index a series may have. ValueError at a path, which is not several."""
        if isinstance(images, str | Path):
            raise ValueError(f"wanted a list of pictures, not the one path {images}")
        return list(images)

    def _prepared(self, images: Pictures) -> np.ndarray:
        """[n,H,W,C], the network's inputs."""
        images = np.array([self.preparation(picture_of(image)) for image in images], np.float32) / 255
        return self.range.inputs(images)

    # ---- computation

    def _adapt(self, engine: Engine, x: np.ndarray, y: np.ndarray):
        return engine.adapt(x[None], tf.constant([[self.seed, 0]]), self.samples, y)

    def _probabilities(self, adapted, support: np.ndarray, x: np.ndarray, statistics: str | None = None) -> np.ndarray:
        together = (statistics or self.statistics) == TOGETHER
        return tf.nn.softmax(self._engine.classify(adapted, x[None], support[None] if together else None)[0]).numpy()


def classes_of(images: list, labels: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """The classes in order, and the number of each picture's. ValueError at labels that are not one a picture, strings
    or numbers, and of two classes at least."""
    check_consistent_length(images, labels)
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels are a list, one a picture, not of the shape {labels.shape}")
    try:
        classes, own = np.unique(labels, return_inverse=True)
    except TypeError as fault:
        raise ValueError(f"labels are all strings or all numbers ({fault})") from fault
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("a label is NaN or infinite")
    if len(classes) < 2:
        raise ValueError(f"The number of classes has to be greater than one; got {len(classes)} class")
    return classes, own


def preparation_of(config: dict) -> Preparation:
    """How the run's training data were prepared. UserError where neither the run says so nor its dataset's maker."""
    if config.get("prepare"):
        return Preparation(**config["prepare"])
    if config["dataset"] not in MAKERS:
        raise UserError(
            f"the run does not say how the images of {config['dataset']} were prepared: make the dataset with "
            f"get_data.py --source, and train on that"
        )
    return MAKERS[config["dataset"]].prepare  # a run of an older version, on data of their default size


def range_of(config: dict) -> Range:
    """That of the run's inputs, onto which pictures are mapped. UserError where its data did not say it."""
    if (told := config.get("range", UNIT)) is None:
        raise UserError(
            f'the run does not say what range the inputs of {config["dataset"]} had: declare it as "range" in the '
            f"dataset's manifest.json, and train on that"
        )
    return Range(*told)


def picture_of(image) -> Image.Image:
    """A path, one of Pillow's images, or an array [H,W] or [H,W,C], uint8 or floats in [0, 1]. ValueError at others."""
    if isinstance(image, Image.Image):
        try:
            return from_pillow(image)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
    if isinstance(image, str | Path):
        try:
            return read(Path(image))
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not pixels.size or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"a picture is an array [H,W] or [H,W,3], not of the shape {pixels.shape}")
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError("a picture of floats has values from 0 to 1")
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"a picture has pixels of uint8, or floats from 0 to 1, not {pixels.dtype}")
    return Image.fromarray(pixels)
