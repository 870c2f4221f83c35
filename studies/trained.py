"""A trained learner, as the classifier and the page to draw on use it: its settings, its weights, how a picture becomes
one of its images, and its compiled programs."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import model
from errors import UserError
from lazy import tf
from learners.base import Learner
from perturbations.draws import task_noise
from ranges import UNIT, Range
from settings import Settings
from sources import MAKERS
from sources.preparation import Preparation
from training import checkpoints, weights
from training.devices import BF16, precision_of_products

FAR = 5  # standard deviations of the training images' brightness; pictures farther from it are doubted
COMPUTING = threading.RLock()  # around settings of TensorFlow's, which belong to the process


class Programs:
    """The computations of a learner in testing. Compiled once for each number of images; the weights are arguments."""

    def __init__(self, learner: Learner):
        self.learner = learner
        self._adapt = tf.function(self._adapt_task, autograph=False)
        self._classify = tf.function(self._classify_images, autograph=False)

    def adapt(self, params, x: np.ndarray, y: np.ndarray, seed: int, samples: int):
        """Adapt the learner to the support images x [S,H,W,C], labels y one-hot [S,way]: a structure of
        arrays. samples: noise samples of an inner step's loss; seed: of that noise."""
        adapted = self._adapt(params, x, y, np.array([seed, 0], np.int32), samples=samples)
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), adapted)

    def classify(self, params, adapted, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The probabilities [Q,way] of the images x [Q,H,W,C]. shares [Q]: the weight of each in batch norm's
        statistics."""
        return self._classify(params, adapted, x, shares).numpy()

    def _adapt_task(self, params, x, y, seed, samples):
        return self.learner.adapt(params, x[None], y, task_noise(seed[None]), samples)[0]

    def _classify_images(self, params, adapted, x, shares):
        return tf.nn.softmax(self.learner.classify(params, adapted, x[None], shares=shares)[0][0])


@functools.lru_cache(maxsize=16)
def programs_of(made: str) -> Programs:
    """The programs of the learner that `model.make` gives for these arguments (positional and named, as JSON), the same
    object for every caller. ValueError as in `model.make`."""
    positional, named = json.loads(made)
    return Programs(model.make(*positional, **named))


@dataclass(frozen=True)
class Trained:
    """A trained learner. config: the run's settings. params: its weights, by name. preparation: how a picture becomes
    an image. range: of the network's inputs, onto which images are mapped."""

    path: Path
    config: dict
    params: dict[str, np.ndarray]
    preparation: Preparation
    range: Range

    @classmethod
    def read(cls, path: Path, checkpoint: str) -> Trained:
        """Read the folder of a run, its checkpoint `last` or `best`, or a file of weights. UserError where it cannot be
        read, and where its pictures' preparation, or its inputs' range, is not known."""
        config = Settings.read(path).config()
        return cls(
            path, config, checkpoints.read_run(path, checkpoint).params, preparation_of(config), range_of(config)
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.preparation.size, self.preparation.size, self.preparation.channels

    @property
    def channels(self) -> int:
        """Channels of a convolution."""
        return self.config.get("channels") or (64 if self.preparation.channels == 1 else 32)

    def programs(self, way: int) -> Programs:
        """Its programs for so many classes. ValueError where the settings are those of no learner."""
        name, perturbation = self.config["model"], self.config.get("perturbation")
        own = {key: self.config[key] for key in model.settings_of(name, perturbation) if key in self.config}
        shape = {"image_shape": self.image_shape, "channels": self.channels, "way": way}
        named = shape | {"bf16": self.config.get("precision") == BF16} | own
        return programs_of(json.dumps([[name, perturbation], named], sort_keys=True))

    def weights_for(self, way: int) -> dict[str, np.ndarray]:
        """Its weights for so many classes. ValueError where there are more than the learner can take, and where the
        weights are not the learner's."""
        learner = self.programs(self.config["way"]).learner
        shapes = {name: parameter.shape for name, parameter in learner.parameters().items()}
        try:
            weights.refuse_other_shapes(self.path, self.params, shapes)
        except UserError as fault:
            raise ValueError(f"{fault}") from fault
        if way > learner.way and not learner.any_way:
            raise ValueError(
                f"there are {way} classes, and this learner was trained for {learner.way}: give fewer, or train one "
                f"with --way {way}"
            )
        return self.params if learner.any_way else learner.narrow(self.params, way)

    def doubts(self, spans: np.ndarray, means: np.ndarray) -> list[str]:
        """Sentences on how images differ from those of training: a single colour, or another brightness. spans, means:
        largest less smallest value, and mean, of each image [n]. Nothing is said of brightness where the run does not
        say what its images had."""
        sentences, drawn = [], spans >= 2 / 255
        if not drawn.all():
            sentences.append(
                f"{(~drawn).sum()} of {len(spans)} pictures have a single colour, as white characters on a "
                f"transparent ground do on white paper: --invert (invert=True) puts them on black and inverts them"
            )
        known = self.config.get("brightness") or getattr(MAKERS.get(self.config["dataset"]), "brightness", None)
        if known and drawn.any():
            (mean, deviation), seen = known, float(np.median(means[drawn]))
            if abs(seen - mean) > FAR * max(deviation, 0.02):
                inverted = abs(1 - seen - mean) < abs(seen - mean) / 2
                flag, remedy = "--invert (invert=True)", "give pictures whose background is like the training images'"
                sentences.append(
                    f"the images have a mean brightness of {seen:.2f}, and the training images had {mean:.2f} +- "
                    f"{deviation:.2f} (from 0 to 1, as the network gets them): "
                    + (f"they look inverted, which {flag} mends" if inverted else remedy)
                )
        return sentences

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the run's precision in a `with` block, one thread at a time; and suppress TensorFlow's
        warning that a function is compiled for each new number of images."""
        logger = tf.get_logger()
        with COMPUTING, precision_of_products(self.config.get("precision")):
            level = logger.level
            logger.setLevel(logging.ERROR)
            try:
                yield
            finally:
                logger.setLevel(level)


def preparation_of(config: dict) -> Preparation:
    """The preparation of the run's training data. UserError where neither the run nor its dataset's maker says it."""
    if config.get("prepare"):
        return Preparation(**config["prepare"])
    if config["dataset"] not in MAKERS:
        raise UserError(
            f"the run does not say how the images of {config['dataset']} were prepared: make the dataset with "
            f"get_data.py --source, and train on that"
        )
    return MAKERS[config["dataset"]].prepare  # a run of an older version, on data of their default size


def range_of(config: dict) -> Range:
    """The range of the run's inputs, onto which pictures are mapped. UserError where its data did not say it."""
    if (told := config.get("range", UNIT)) is None:
        raise UserError(
            f'the run does not say what range the inputs of {config["dataset"]} had: declare it as "range" in the '
            f"dataset's manifest.json, and train on that"
        )
    return Range(*told)
