"""A trained learner for the classifier and the page to draw on: its settings and weights, the preparation of pictures,
and its compiled functions."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from errors import UserError
from lazy import tf
from model import Learner
from parameters import default_channels, is_vector
from perturbations.draws import UNPERTURBED, task_noise
from ranges import UNIT, Range
from sources.backbone import Backbone
from sources.preparation import Preparation
from sources.table import MAKERS
from training import checkpoints, weights
from training.config import FACTS, REQUIRED, Config
from training.devices import precision_of_products
from training.programs import frozen, shared

FAR = 5  # standard deviations: a brightness farther from the training images' causes a warning
COMPUTING = threading.RLock()  # only one thread at a time may change TensorFlow's settings, which all threads share


class Programs:
    """A learner's compiled functions in testing. The weights are arguments; each number of images is compiled once."""

    def __init__(self, learner: Learner):
        self.learner = learner
        self._adapt = tf.function(self._adapt_task, autograph=False)
        self._classify = tf.function(self._classify_images, autograph=False)
        self._features = tf.function(self._features_of_images, autograph=False)

    def adapt(self, params, x: np.ndarray, y: np.ndarray, seed: int, samples: int):
        """Adapt the learner to the support images x [S,H,W,C] with labels y, one-hot [S,way]. Return the learner's
        structure of arrays. samples: noise samples of an inner step's loss; seed: that noise's seed."""
        adapted = self._adapt(params, x, y, np.array([seed, 0], np.int32), samples=samples)
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), adapted)

    def classify(self, params, adapted, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the probabilities [Q,way] of the images x [Q,H,W,C]. shares [Q]: the weight of each image in batch
        norm's statistics."""
        return self._classify(params, adapted, x, shares).numpy()

    def features(self, params, adapted, x: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Return the features [Q,D] of an inspectable learner for the images x [Q,H,W,C]. shares: as in `classify`."""
        return self._features(params, adapted, x, shares).numpy()

    def _adapt_task(self, params, x, y, seed, samples):
        return self.learner.adapt(params, x[None], y, task_noise(seed[None]), samples)[0]

    def _classify_images(self, params, adapted, x, shares):
        return tf.nn.softmax(self.learner.classify(params, adapted, x[None], shares=shares)[0][0])

    def _features_of_images(self, params, adapted, x, shares):
        return self.learner.features(params, adapted, x[None], replace(UNPERTURBED, shares=shares))[0]


@dataclass(frozen=True)
class Trained:
    """A trained learner. config: the run's settings. params: the weights, by name. preparation: turns pictures into
    images, or into vectors. range: the range that images are mapped onto before they enter the network."""

    path: Path
    config: dict
    params: dict[str, np.ndarray]
    preparation: Preparation | Backbone
    range: Range

    @classmethod
    def read(
        cls, path: Path, checkpoint: str, backbone_weights: Path | None = None, head: str | None = None
    ) -> Trained:
        """Read the checkpoint `last` or `best` of a run, or a file of weights.

        backbone_weights: the file of the backbone's weights, if such a file made the vectors that the run was trained
        on. head: as in HeadSettings; None: the run's head. Raise UserError if the run cannot be read, if it does not
        say how its pictures were prepared or what range its inputs had, if other weights made its vectors, or if its
        learner takes no head.
        """
        config = Config.read(path)
        if head and not hasattr(config.learner, "head"):
            raise UserError(f"--head is for baselines, and {path} holds a {config.run.model}: leave it out")
        config = config.to_json() | ({"head": head} if head else {})
        preparation = preparation_of(config, backbone_weights)
        return cls(path, config, checkpoints.read_run(path, checkpoint).params, preparation, range_of(config))

    @classmethod
    def of_backbone(cls, backbone: Backbone, head: str | None = None) -> Trained:
        """Return the classifier of a backbone's vectors in which nothing else is trained. head: as in HeadSettings.
        Raise UserError if the backbone cannot be made."""
        config = {"dataset": backbone.name, "model": "nearest", "way": 2, "shot": 1, "query": 1, "seed": 0}
        config |= {"prepare": backbone.description} | ({"head": head} if head else {})
        return cls(Path(backbone.name), config, {}, backbone, UNIT)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.preparation.image_shape

    @property
    def channels(self) -> int:
        """The number of channels of a convolution."""
        return self.config.get("channels") or default_channels(self.image_shape)

    def untrained(self) -> Trained:
        """Return the classifier by the nearest class mean for the same inputs; nothing in it is trained."""
        kept = {name: value for name, value in self.config.items() if name in (*REQUIRED, *FACTS)}
        return dataclasses.replace(self, config=kept | {"model": "nearest"}, params={})

    def programs(self, way: int) -> Programs:
        """Return the compiled functions for this number of classes. Raise UserError if there is no such learner."""
        learner = Config.of_flags(self.config, self.config).with_run(way=way).make_learner(self.image_shape)
        return shared(lambda: Programs(learner), "Programs", frozen(learner))

    def weights_for(self, way: int) -> dict[str, np.ndarray]:
        """Return the weights for this number of classes. Raise UserError if the learner cannot take so many classes, or
        if the weights do not belong to the learner."""
        learner = self.programs(self.config["way"]).learner
        shapes = {name: parameter.shape for name, parameter in learner.parameters().items()}
        weights.refuse_other_shapes(self.path, self.params, shapes)
        if way > learner.way and not learner.any_way:
            raise UserError(
                f"there are {way} classes, and this learner was trained for {learner.way}: give fewer, or train one "
                f"with --way {way}"
            )
        return self.params if learner.any_way else learner.narrow(self.params, way)

    def doubts(self, spans: np.ndarray, means: np.ndarray) -> list[str]:
        """Return sentences that say how images look unlike the training images: they have a single colour, or another
        brightness (if the run says what brightness its images had). spans [n], means [n]: for each image, the largest
        minus the smallest value, and the mean. There are no sentences for vectors."""
        if is_vector(self.image_shape):
            return []
        sentences, drawn, flag = [], spans >= 2 / 255, "--invert (invert=True)"
        if not drawn.all():
            sentences.append(
                f"{(~drawn).sum()} of {len(spans)} pictures have a single colour, like a white character "
                f"after its transparent background became white: {flag} puts them on black and inverts them"
            )
        expected = self.config.get("brightness") or getattr(MAKERS.get(self.config["dataset"]), "brightness", None)
        if expected and drawn.any():
            (mean, deviation), seen = expected, float(np.median(means[drawn]))
            if (distance := abs(seen - mean)) > FAR * max(deviation, 0.02):
                remedy = "give pictures with a background like the training images'"
                if abs(1 - seen - mean) < distance / 2:
                    remedy = f"they look inverted, use {flag}"
                sentences.append(
                    f"the images have a mean brightness of {seen:.2f}, and the training images had {mean:.2f} +- "
                    f"{deviation:.2f} (from 0 to 1, as the network gets them): {remedy}"
                )
        return sentences

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the run's precision in a `with` block, one thread at a time, without TensorFlow's warning that it
        compiles a function for each new number of images."""
        logger = tf.get_logger()
        with COMPUTING, precision_of_products(self.config.get("precision")):
            level = logger.level
            logger.setLevel(logging.ERROR)
            try:
                yield
            finally:
                logger.setLevel(level)


def preparation_of(config: dict, backbone_weights: Path | None = None) -> Preparation | Backbone:
    """Return the preparation of the run's training images, or the network that made its vectors. Raise UserError if
    neither the run nor its dataset's maker says how the inputs were made, or if `backbone_weights` did not make the
    vectors."""
    described = config.get("prepare") or {}
    if "backbone" in described:
        return Backbone.of(described, backbone_weights)
    if backbone_weights:
        raise UserError(f"--backbone_weights {backbone_weights} is for runs on vectors of a network: leave it out")
    if described:
        return Preparation(**described)
    if config["dataset"] not in MAKERS:
        raise UserError(
            f"the run does not say how the inputs of {config['dataset']} were made from pictures: make the dataset "
            f"with get_data.py --source (for vectors with --backbone, too), and train on that"
        )
    return MAKERS[config["dataset"]].prepare  # an older version's run, on images of the default size


def range_of(config: dict) -> Range:
    """Return the range of the run's inputs; vectors stay as they are. Raise UserError if the dataset did not declare
    it."""
    if "backbone" in (config.get("prepare") or {}):
        return UNIT
    if (ends := config.get("range", UNIT)) is None:
        raise UserError(
            f'the run does not say what range the inputs of {config["dataset"]} had: declare it as "range" in the '
            f"dataset's manifest.json, and train on that"
        )
    return Range(*ends)
