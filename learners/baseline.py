"""Baselines that do not meta-learn: the features are fixed, and a linear classifier of them is computed from the
support set."""

from __future__ import annotations

from dataclasses import dataclass

import layers
from attacks import Adversary
from lazy import tf
from learners import heads
from model import Episode, Learner, measure, rows
from parameters import (
    BLOCKS,
    Parameter,
    Params,
    conv_blocks,
    features_of,
    kernel_and_bias,
    normal,
    offsets,
    ones,
    zeros,
)
from perturbations.draws import UNPERTURBED, Draw, Noise
from settings import Settings, positive, setting, whole

MOMENTUM = 0.1  # of running averages, for each minibatch


@dataclass(frozen=True)
class HeadSettings(Settings):
    head: str = setting(
        "nearest",
        "the classifier of the features: the nearest class mean, logistic regression (scikit-learn's), ridge "
        "regression, or a cosine classifier that takes gradient steps on the support set",
        choices=heads.HEADS,
        overridable_in=["test"],
    )
    head_penalty: float = setting(
        1.0,
        "L2 penalty P: --head ridge adds P times the squared weights to the sum of the images' losses, logistic P / 2 "
        "times",
        positive,
        overridable_in=["test"],
    )
    head_scale: float = setting(
        10.0, "factor of the logits of --head nearest, ridge and finetune", positive, overridable_in=["test"]
    )
    finetune_steps: int = setting(100, "gradient steps of --head finetune", whole(0), overridable_in=["test"])
    finetune_lr: float = setting(0.1, "step size of --head finetune", positive, overridable_in=["test"])

    def idle(self) -> set[str]:
        return set().union(*heads.HEADS.values()) - heads.HEADS[self.head]


class FixedFeatures(Learner):
    """A linear classifier of features that no task adapts; a subclass computes the features in `embed`.

    A feature vector is divided by its length. head: `nearest`: the class whose mean feature vector is nearest;
    `logistic`: logistic regression; `ridge`: ridge regression of the labels; `finetune`: a cosine classifier
    (learners/heads.py has the sources). head_penalty: weight of the squared weights of logistic and ridge regression.
    head_scale: factor of the logits of all heads but `logistic`: it changes no prediction, except through the steps of
    `finetune`. finetune_steps, finetune_lr: number and size of those steps.
    """

    settings_class = HeadSettings
    settings: HeadSettings
    hooks = frozenset()
    any_way = inspectable = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.jit and self.settings.head == "logistic":
            raise ValueError("scikit-learn computes --head logistic, and XLA cannot compile that: give --jit off")

    def embed(self, params: Params, x: tf.Tensor, shares=None) -> tf.Tensor:
        """Return features [T,N,D] of x [T,N,H,W,C], before they are divided by their length. shares: as in
        `classify`."""
        raise NotImplementedError

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return the head: weights [T,D,way] and biases [T,way]."""
        s, class_shares = self.settings, layers.class_shares(y)
        shares = layers.image_shares(y, class_shares)
        h = heads.unit(self.embed(params, x, shares))
        if s.head == "logistic":
            w, b = heads.logistic(h, y, shares, s.head_penalty)
        elif s.head == "finetune":
            start = noise(0, "dense", tf.TensorShape([h.shape[0], h.shape[-1], y.shape[-1]]))
            start *= (3 * h.shape[-1]) ** -0.5  # the standard deviation of the source's initial weights
            w, b = heads.cosine(h, y, class_shares, start, s.head_scale, s.finetune_steps, s.finetune_lr)
        elif s.head == "ridge":
            w, b = (s.head_scale * part for part in heads.ridge(h, y, shares, s.head_penalty))
        else:
            w, b = (s.head_scale * part for part in heads.of_means(layers.class_means(h, y)))
        return (w, b), 0.0

    def classify(self, params: Params, adapted, x, noise: Noise | None = None, shares=None):
        return layers.dense(heads.unit(self.embed(params, x, shares)), *self.linear(adapted)), 0.0

    def features(self, params: Params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """Return the features [T,N,D] of x, of length 1."""
        return heads.unit(self.embed(params, x, draw.shares))


class Nearest(FixedFeatures):
    """The image itself is the feature vector: its pixels, or the numbers of a dataset of vectors. Nothing is trained.

    Source of the nearest class mean of vectors of length 1: Wang, Chao, Weinberger and van der Maaten, "SimpleShot:
    Revisiting Nearest-Neighbor Classification for Few-Shot Learning" (2019), L2N.
    """

    run_defaults, has_query_loss = {"n_train_iters": 0}, False

    def parameters(self) -> dict[str, Parameter]:
        return {}

    def embed(self, params: Params, x: tf.Tensor, shares=None) -> tf.Tensor:
        return rows(x)


@dataclass(frozen=True)
class BaselineSettings(HeadSettings):
    batch: int = setting(
        64,
        "images of a minibatch of the baseline; --metabatch minibatches make an update",
        whole(1),
        training_only=True,
    )
    test_statistics: str = setting(
        "running",
        "batch norm in testing: by running averages, or by each batch",
        choices=["running", "batch"],
        overridable_in=["test"],
    )


class Baseline(FixedFeatures):
    """MAML's body, trained to tell all training classes apart, by plain cross entropy on minibatches of their images.

    Sources: Chen, Liu, Kira, Wang and Huang, "A Closer Look at Few-shot Classification" (ICLR 2019); Wang, Chao,
    Weinberger and van der Maaten, "SimpleShot" (2019), whose CL2N the features are: the mean feature vector of the
    training images is subtracted, and the difference is divided by its length.

    Minibatches take the training images in a random order, each image once before any comes again. A training task is
    one minibatch, which is normalised by its own statistics. batch: images of a minibatch. In testing, batch norm takes
    running averages (test_statistics `running`), so that a prediction does not depend on the other images; or it takes
    the statistics of the support set and those of the query set, as in MAML (`batch`).

    Differs from the sources: Adam moves the weights, and they do not decay; images are not augmented; batch norm has no
    gain, its epsilon is 1e-3, and its running variance is the mean of biased variances; the mean feature vector is a
    running average over minibatches.
    """

    settings_class = BaselineSettings
    settings: BaselineSettings
    has_query_loss = False

    @property
    def minibatch(self) -> int:
        return self.settings.batch

    def parameters(self) -> dict[str, Parameter]:
        """Return MAML's body, a linear classifier of the training classes, and the running averages."""
        inputs = features_of(self.image_shape, self.channels)
        declared = conv_blocks("theta", self.image_shape, self.channels) | offsets(self.channels)
        declared["classes/dense_w"] = Parameter((inputs, self.train_classes), normal(0.02))
        declared["classes/dense_b"] = Parameter((self.train_classes,), zeros)
        for layer in (f"conv{block}" for block in range(1, BLOCKS + 1)):
            declared[f"running/{layer}_bn/mean"] = Parameter((self.channels,), zeros, trained=False)
            declared[f"running/{layer}_bn/variance"] = Parameter((self.channels,), ones, trained=False)
        return declared | {"running/mean": Parameter((inputs,), zeros, trained=False)}

    def running_step(self, tasks: int) -> float:
        """Return the factor for minibatches that move an average one after the other, each by MOMENTUM."""
        return 1 - (1 - MOMENTUM) ** tasks

    def body(self, params: Params, x: tf.Tensor, training: bool = False, shares=None) -> tuple[dict, tf.Tensor]:
        """Return each block's output [T,N,H,W,C] by name, and in training the penalty of the running averages."""
        outputs, penalty = {}, 0.0
        for layer in (f"conv{block}" for block in range(1, BLOCKS + 1)):
            x, (w, b) = layers.rounded(x, self.bf16), kernel_and_bias(params, f"theta/{layer}")
            offset = params[f"{layer}_bn/beta"]
            running = params[f"running/{layer}_bn/mean"], params[f"running/{layer}_bn/variance"]
            mu = layers.conv(x, w, b)
            if training or self.settings.test_statistics == "batch":
                x = layers.norm_relu_pool(mu, offset, samples=1, stop_bn_backward=False, shares=shares)
            else:
                x = layers.known_norm_relu_pool(mu, offset, *running)
            if training:
                for average, moment in zip(running, layers.group_moments(mu), strict=True):
                    penalty += layers.running_average_penalty(average, moment[:, 0, 0, 0], mu.shape[0])
            outputs[layer] = x
        return outputs, penalty

    def meta_gradient(self, params: Params, episode: Episode, noise: Noise, adversary: Adversary | None = None):
        """Return loss and accuracy of minibatches, and the gradient. episode: its support set is a minibatch, and
        `classes` has the class of each image. Raise ValueError if the number of training classes is unknown."""
        if not self.train_classes:
            raise ValueError("the number of training classes is missing: give train_classes")
        outputs, penalty = self.body(params, episode.support, training=True)
        h = rows(outputs[f"conv{BLOCKS}"])
        logits = layers.dense(layers.rounded(h, self.bf16), *kernel_and_bias(params, "classes/dense"))
        penalty += layers.running_average_penalty(params["running/mean"], tf.reduce_mean(h, 1), h.shape[0])
        numbers = measure(logits, tf.one_hot(episode.classes, self.train_classes, dtype=h.dtype))
        return numbers, dict(zip(params, tf.gradients(numbers["loss"] + penalty, list(params.values())), strict=True))

    def embed(self, params: Params, x: tf.Tensor, shares=None) -> tf.Tensor:
        return rows(self.body(params, x, shares=shares)[0][f"conv{BLOCKS}"]) - params["running/mean"]

    def activations(self, params: Params, adapted, x) -> dict[str, tf.Tensor]:
        """Return each block's output, and `features`, [T,N,D], in testing."""
        outputs = {layer: rows(output) for layer, output in self.body(params, x)[0].items()}
        return outputs | {"features": self.features(params, adapted, x)}
