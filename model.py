"""The paper: what a learner is, MAML, and Meta-dropout, which is MAML with a perturbation: noise on the support set.

Source of the equations: Lee, Nam, Yang and Hwang, "Meta Dropout: Learning to Perturb Latent Features for
Generalization", ICLR 2020, and its TF1 code. Shapes: T tasks, S support and Q query images, M noise samples.
learners/ has the other learners, and the table of all.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import layers
import optimizers
import parameters
import pieces
from attacks import Adversary
from lazy import tf
from parameters import BLOCKS, Parameter, Params, check_size, conv_net, kernel_and_bias, offsets
from perturbations.base import HOOKS, Perturbation
from perturbations.draws import (
    TEST_SUPPORT,
    TRAINING_QUERY,
    TRAINING_SUPPORT,
    UNPERTURBED,
    Draw,
    Noise,
    task_noise,
)
from settings import Settings, positive, setting, whole


class Episode(NamedTuple):
    """T tasks: support [T,S,H,W,C] and query images [T,Q,H,W,C] (float, in the range of the network's inputs; rows are
    ordered by class), their one-hot labels [S,way] and [Q,way], and the numbers of the classes in their split, int32
    [T,way], for learners that know the training classes."""

    support: tf.Tensor
    query: tf.Tensor
    support_labels: tf.Tensor
    query_labels: tf.Tensor
    classes: tf.Tensor | None = None


def make_episode(support: tf.Tensor, query: tf.Tensor, way: int, classes: tf.Tensor | None = None) -> Episode:
    """Return the episode of these images, which are ordered by class, the same number for each class."""
    return Episode(support, query, labels_of(support, way), labels_of(query, way), classes)


def labels(way: int, images: int, dtype="float32") -> tf.Tensor:
    """Return one-hot labels [way*images,way] of rows that are ordered by class."""
    return tf.constant(np.repeat(np.eye(way), images, axis=0), dtype)


def labels_of(x: tf.Tensor, way: int) -> tf.Tensor:
    """Return the labels of a set's images x [T,way*images,H,W,C]."""
    return labels(way, x.shape[1] // way, x.dtype)


def measure(logits: tf.Tensor, y: tf.Tensor, targets: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Return loss [T] (nats) and accuracy [T] (0 to 1) of a query set's logits [T,Q,way] with labels y [Q,way] or
    [T,Q,way].

    targets: the labels that the loss compares the logits with, of the same shapes; None: y.
    """
    loss = layers.cross_entropy(logits, y if targets is None else targets)
    return {"loss": loss, "accuracy": layers.accuracy(logits, y)}


class Learner:
    """A learner adapts to a support set and classifies a query set. This is the whole contract.

    Shapes: T tasks, each on its own; S support and Q query images, rows ordered by class; N = samples * images rows
    of one pass (sample-major); H W C an image, in most datasets in [0, 1], ink 1 on paper 0 (ranges.py); D features;
    way classes.
    All methods are pure functions of tensors, traced into a graph (where `tf.gradients` works), in float32 and in
    float64, of any T. Randomness is the argument `noise` or `draw` (perturbations/draws.py).

    A class declares
      settings_class its settings, a dataclass of flags (settings.py); an instance has them as `settings`
      hooks          the hooks of a perturbation that its passes call (perturbations/base.py)
      any_way        True if it can be tested with another number of classes than it was trained for
      inspectable    True if it has a linear head over features: then `features` and `linear` work
      run_defaults   the defaults of a run's settings that are different for this learner
      has_query_loss False if meta-training has no loss of query images: then --adversarial is refused
      n_steps        its number of inner steps in testing, 0 if it has none
      minibatch      None if a training task is an episode; else the number of training images in a task
      optimizer      how the outer loop makes a step out of a gradient (optimizers.py); `outer_rate` is its size
    and has `parameters`, `adapt` and `classify`. The constructor's other arguments are attributes too: image_shape
    (H, W, C), channels of a convolution, way, perturbation, bf16 (True: factors and results of convolutions and matrix
    products are rounded to bfloat16), jit (True: XLA compiles it) and train_classes, the number of training classes (0
    if it is unknown).

    `adapt` and `classify` return a penalty beside their output, [T] nats or 0.0: in meta-training the outer loss is the
    query set's cross entropy plus both penalties.

    A parameter that is declared with trained=False is a running average. The optimizer does not move it. Its
    gradient is its distance from the value that it moves to (for batch norm: layers.running_average_penalty).
    """

    settings_class: type[Settings] = Settings
    settings: Settings
    hooks = frozenset(HOOKS)
    any_way = inspectable = False
    has_query_loss = True
    run_defaults: dict[str, Any] = {}
    n_steps = 0
    minibatch: int | None = None
    optimizer = staticmethod(optimizers.adam)

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        way: int,
        perturbation: Perturbation,
        bf16: bool = False,
        jit: bool = False,
        train_classes: int = 0,
        **settings: object,
    ):
        """Raise ValueError if a setting has a value that its flag could not have, if images are smaller than 16 x 16
        and no vectors, and if the perturbation needs a hook that this learner does not call."""
        check_size(image_shape)
        if missing := perturbation.hooks - self.hooks:
            raise ValueError(f"{type(self).__name__} does not call the hook {min(missing)} of this perturbation")
        self.image_shape, self.channels, self.way = tuple(image_shape), channels, way
        self.perturbation, self.bf16, self.jit, self.train_classes = perturbation, bf16, jit, train_classes
        self.settings = self.settings_class(**settings)

    @property
    def unused_step(self) -> int:
        """A step number whose noise no adaptation draws. Without inner steps an adaptation draws step 0's."""
        return max(self.n_steps, 1)

    def parameters(self) -> dict[str, Parameter]:
        """Return the shape and the initializer of every meta-learned parameter, by name; the perturbation's too."""
        raise NotImplementedError

    def init(self, seed: int, dtype="float32") -> Params:
        """Return all parameters as they are initialized: a pure function of the seed."""
        return parameters.initialize(self.parameters(), seed, dtype)

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> tuple[Any, Any]:
        """Adapt to the support set x [T,S,H,W,C] with labels y, one-hot [S,way]. Return what `classify` needs, any
        structure of tensors [T,...], and a penalty.

        Every class counts the same, whatever its number of images, in a loss and in batch norm's statistics
        (layers.class_shares). samples: the number of noise samples that an inner loss is averaged over. training: True
        in meta-training.
        """
        raise NotImplementedError

    def classify(self, params: Params, adapted, x, noise: Noise | None = None, shares=None) -> tuple[tf.Tensor, Any]:
        """Return logits [T,Q,way] of the query images x [T,Q,H,W,C], and a penalty. noise: in meta-training only.
        shares [Q]: the weight of each image in batch norm's statistics, at least 0 and of the sum 1; None: equal
        weights."""
        raise NotImplementedError

    def meta_gradient(
        self, params: Params, episode: Episode, noise: Noise, adversary: Adversary | None = None
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor | None]]:
        """Return `measure`'s numbers of the query sets, and the gradient with respect to every parameter, summed over
        the tasks; None where a parameter has no effect. By default this is the derivative of the outer loss.

        adversary: perturbs the query images after adaptation.
        """
        x, y = episode.query, episode.query_labels
        adapted, support_penalty = self.adapt(params, episode.support, episode.support_labels, noise, training=True)
        targets = self.targets(y, noise)
        if adversary:
            x = adversary.perturb(lambda x: self.classify(params, adapted, x, noise)[0], x, targets, noise)
        logits, query_penalty = self.classify(params, adapted, x, noise)
        numbers = measure(logits, y, targets)
        outer_loss = numbers["loss"] + (support_penalty + query_penalty)
        return numbers, dict(zip(params, tf.gradients(outer_loss, list(params.values())), strict=True))

    def evaluate(self, params: Params, episode: Episode, noise: Noise, samples: int = 1) -> dict[str, tf.Tensor]:
        """Return `measure`'s numbers of the query sets in testing. samples: as in `adapt`."""
        adapted, _ = self.adapt(params, episode.support, episode.support_labels, noise, samples)
        return measure(self.classify(params, adapted, episode.query)[0], episode.query_labels)

    def outer_rate(self, meta_lr: float, iteration, last: int):
        """Return the outer loop's step size in this iteration of 0 to `last`."""
        return meta_lr

    def running_step(self, tasks: int) -> float:
        """Return the factor that makes the step of a running average out of its mean gradient over the tasks of a
        metabatch."""
        return 1.0

    @property
    def train_way(self) -> int:
        """Classes of a task in meta-training."""
        return self.way

    def targets(self, y: tf.Tensor, noise: Noise) -> tf.Tensor:
        """Return the labels that the outer loss of meta-training compares the query set's logits with, [Q,way] or
        [T,Q,way], from the images' one-hot labels y [Q,way]. The accuracy compares them with y."""
        return y

    def untrained(self) -> list[str]:
        """Return the names of the parameters that the outer loss does not depend on in meta-training: they stay as
        they are initialized."""
        return []

    # ---- of an inspectable learner (main.py --mode export and collapse, plot.py)

    def features(self, params: Params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """Return the linear head's input [T,N,D] for x [T,N,H,W,C], in testing, perturbed by `draw`; draw.shares: the
        weight of each image in batch norm's statistics, as in `classify`."""
        raise NotImplementedError

    def linear(self, adapted) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the head's weights [T,D,way] and biases [T,way]: unperturbed logits = features @ weights + biases. By
        default they are what `adapt` returns."""
        return adapted

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1) -> list:
        """Return what `adapt` has in testing before its first inner step and after each, n_steps + 1 in all."""
        return [self.adapt(params, x, y, noise, samples)[0]]

    def activations(self, params: Params, adapted, x) -> dict[str, tf.Tensor]:
        """Return each layer's output [T,N,D], unperturbed, in testing. The last one is `features`."""
        return {"features": self.features(params, adapted, x)}

    def maps(self, params: Params, adapted, x, draw: Draw = UNPERTURBED) -> dict[str, tuple]:
        """Return each layer's map [T,N,H,W,C] before pooling, and its factor [T,N,H,W,C] or None. In testing."""
        return {}

    def narrow(self, params: Params, way: int) -> Params:
        """Return the parameters of this learner for its first `way` classes alone."""
        return params


class Block(NamedTuple):
    """One block of a pass: its name, its input, its perturbed convolution, its mask (or None) and its output."""

    layer: str
    inputs: tf.Tensor
    mu: tf.Tensor
    mask: tf.Tensor | None
    output: tf.Tensor


@dataclass(frozen=True)
class MAMLSettings(Settings):
    n_steps: int = setting(5, "inner gradient steps", whole(0), overridable_in=["test"])
    inner_lr: float = setting(0.1, "step size of the inner loop", positive, overridable_in=["test"])
    adapt: str = setting(
        "all",
        "weights that the inner steps adapt: all; head: the last layer alone (ANIL); body: all others (BOIL)",
        choices=["all", "head", "body"],
    )
    meta_gradient: str = setting(
        "published",
        "published: second order with batch norm's backward pass held constant, as the paper's code computes it; "
        "exact: full second order; first_order: no second derivative",
        choices=["published", "exact", "first_order"],
    )
    remat: bool = setting(
        False,
        "compute inner steps again when they are differentiated, in place of keeping their maps: less memory, more "
        "time",
        overridable_in=["resume"],
        training_only=True,
    )


class MAML(Learner):
    """Second-order MAML over four conv blocks and a dense head, with a perturbation of its passes.

    inner_lr: step size of the inner loop. meta_gradient: `published` holds batch norm's backward pass constant when
    the inner gradient is differentiated, `exact` is the full second order, `first_order` none. remat: keep no maps of
    the inner steps; the backward pass computes them again. bf16: parameters, batch norm and losses stay float32.
    Only theta is adapted; phi and batch norm's offsets are not. With adapt `head` the convolutions are not adapted
    (ANIL: Raghu, Raghu, Bengio and Vinyals, ICLR 2020), with `body` the head is not (BOIL: Oh, Yoo, Kim and Yun, ICLR
    2021, whose code adapts batch norm's gain and offset with the body). The inner loss is the support set's cross
    entropy and the perturbation's penalty.
    """

    settings_class = MAMLSettings
    settings: MAMLSettings
    inspectable = True
    heads = ("theta/dense_w", "theta/dense_b")  # the parameters that have a column for every class

    @property
    def n_steps(self) -> int:
        return self.settings.n_steps

    @property
    def stop_bn_backward(self) -> bool:
        """True if batch norm's backward pass is held constant when it is differentiated."""
        return self.settings.meta_gradient == "published"

    def parameters(self) -> dict[str, Parameter]:
        """Return theta, the perturbation's phi and batch norm's offsets, in this order."""
        theta = conv_net("theta", self.image_shape, self.channels, self.way)
        return theta | self.perturbation.parameters(self.image_shape, self.channels) | offsets(self.channels)

    def step_sizes(self, params: Params) -> dict[str, tf.Tensor | float]:
        """Return the step size of each weight that inner steps adapt, by its name without theta/: a number, or a tensor
        of the weight's shape or [T,...]."""
        return {name: self.settings.inner_lr for name in map(theta_name, params) if name and self.adapts(name)}

    def adapts(self, name: str) -> bool:
        """Return True if inner steps adapt this weight of theta."""
        return self.settings.adapt == "all" or (self.settings.adapt == "head") == name.startswith("dense")

    def offset(self, params: Params, theta: Params, layer: str, samples: int) -> tf.Tensor:
        """Return batch norm's offset of a block: [C], or [T*samples,1,1,1,C] if every task has its own."""
        return params[f"{layer}_bn/beta"]

    def forward(self, params: Params, theta: Params, x, draw: Draw, shares=None, record: list | None = None):
        """Return logits [T,N,way] of x [T,N,H,W,C], and the penalty of the pass. shares: the weight of each image in
        batch norm's statistics (layers.shared_statistics). record: a list to which a Block is appended for each block,
        and what the head takes, [T,N,D]."""
        penalties = []
        for layer in (f"conv{block}" for block in range(1, BLOCKS + 1)):
            with draw.scope(layer):
                x, input_penalty = self.perturbation.inputs(params, theta, layer, x, draw)
                x = layers.rounded(x, self.bf16)
                w, b = kernel_and_bias(theta, layer)
                offset, shape = self.offset(params, theta, layer, draw.samples), [*x.shape[:-1], w.shape[-1]]
                # A pass over meta-training's support set is differentiated twice.
                large = draw.where != TRAINING_SUPPORT and pieces.worthwhile(x, w) and record is None and shares is None
                if large and (form := self.perturbation.elementwise(params, layer, shape, draw)):
                    x = pieces.block(x, (w, b), form, offset, draw.samples, draw.where == TRAINING_QUERY)
                    penalties.append(input_penalty)
                    continue
                mu = layers.conv(x, w, b)
                mu, block_penalty = self.perturbation.block(params, theta, layer, x, mu, draw)
                mask, mask_penalty = self.perturbation.mask(params, theta, layer, x, mu.shape, draw)
                output = layers.norm_relu_pool(mu, offset, draw.samples, self.stop_bn_backward, mask, shares)
            if record is not None:
                record.append(Block(layer, x, mu, mask, output))
            x, penalties = output, [*penalties, input_penalty + block_penalty + mask_penalty]
        with draw.scope("head"):
            h, dense_penalty = self.perturbation.inputs(params, theta, "dense", rows(x), draw)
            if record is not None:
                record.append(h)
            h = layers.rounded(h, self.bf16)
            logits = layers.dense(h, theta["dense_w"], theta["dense_b"])
            logits, head_penalty = self.perturbation.head(params, theta, h, logits, draw)
        return logits, sum(penalties) + dense_penalty + head_penalty

    def passes(self, params, theta, x, draw: Draw) -> tuple[list[Block], tf.Tensor]:
        """Return the blocks of a pass, and what its head takes, [T,N,D]."""
        record = []
        self.forward(params, theta, x, draw, draw.shares, record)
        return record[:-1], record[-1]

    def features(self, params, theta, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        return self.passes(params, theta, x, draw)[1]

    def activations(self, params, theta, x) -> dict[str, tf.Tensor]:
        """Return the output of each block, [T,N,D]. The last block's entry is `features`, which differ from its output
        if the perturbation puts a layer before the head."""
        blocks, h = self.passes(params, theta, x, UNPERTURBED)
        return {block.layer: rows(block.output) for block in blocks} | {f"conv{BLOCKS}": h}

    def maps(self, params, theta, x, draw: Draw = UNPERTURBED) -> dict[str, tuple]:
        """Return for each block mask * relu(batch_norm(.)) of the perturbed convolution before pooling, and the factor
        that the perturbation multiplied it by (or None): [T,N,H,W,C] each."""
        maps = {}
        for layer, inputs, mu, mask, _ in self.passes(params, theta, x, draw)[0]:
            groups = tf.reshape(mu, [mu.shape[0] * draw.samples, -1, *mu.shape[2:]])
            normal = layers.batch_norm(groups, self.offset(params, theta, layer, draw.samples))
            if mask is None:
                factor = self.perturbation.factor(params, theta, layer, inputs, mu, draw)
                factor = None if factor is None else tf.broadcast_to(factor, mu.shape)
            else:
                factor = layers.masked(tf.ones_like(mu), mask)
            maps[layer] = layers.masked(tf.nn.relu(tf.reshape(normal, mu.shape)), mask), factor
        return maps

    def linear(self, theta: Params) -> tuple[tf.Tensor, tf.Tensor]:
        return theta["dense_w"], theta["dense_b"]

    def narrow(self, params: Params, way: int) -> Params:
        """Return the parameters with only the first `way` columns of the head."""
        return {k: v[..., :way] if k in self.heads else v for k, v in params.items()}

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return theta of every task after n_steps gradient steps on its support set; the penalties of its passes were
        part of the inner loss."""
        theta, steps = self.inner_loop(params, x, y, noise, samples, training)
        for step in steps:
            theta = step(params, theta)
        return theta, 0.0

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> list[Params]:
        theta, steps = self.inner_loop(params, x, y, noise, samples, training)
        return [*itertools.accumulate(steps, lambda theta, step: step(params, theta), initial=theta)]

    def inner_loop(self, params: Params, x, y, noise: Noise, samples: int, training: bool):
        """Return theta of every task before adaptation, and the inner steps: functions of params and theta that return
        the next theta.

        The LOSS is averaged over `samples` noise samples, which are drawn afresh in every step and normalised apart
        from each other.
        """
        where = TRAINING_SUPPORT if training else TEST_SUPPORT
        if where not in self.perturbation.random_in:
            samples = 1  # all would be equal
        class_shares = layers.class_shares(y)  # None in training: all classes have the same number of images
        if training and self.stop_bn_backward and class_shares is not None:
            raise ValueError(
                "the published meta-gradient is defined for the same number of support images of each class, with "
                "labels that are constants when the function is traced"
            )
        shares = layers.image_shares(y, class_shares)
        theta = {
            theta_name(name): tf.broadcast_to(value, [x.shape[0], *value.shape])
            for name, value in params.items()
            if theta_name(name)
        }
        x, y = tf.tile(x, [1, samples, 1, 1, 1]), tf.tile(y, [samples, 1])
        draws = (Draw(noise, step, where, samples, shares) for step in range(self.n_steps))
        steps = [functools.partial(self.inner_step, x, y, class_shares, draw) for draw in draws]
        return theta, [layers.recomputed(step) for step in steps] if self.settings.remat else steps

    def inner_step(self, x, y, class_shares, draw: Draw, params: Params, theta: Params) -> Params:
        """Return theta after one gradient step on the support loss. class_shares: `layers.class_shares` where classes
        differ in their numbers of images; draw.shares are then set, too."""
        logits, penalty = self.forward(params, theta, x, draw, draw.shares)
        class_shares = None if class_shares is None else class_shares / draw.samples
        loss = layers.cross_entropy(logits, self.perturbation.labels(y, draw), class_shares) + penalty
        sizes = self.step_sizes(params)
        grads = tf.gradients(loss, [theta[name] for name in sizes])
        if self.settings.meta_gradient == "first_order":
            grads = [tf.stop_gradient(g) for g in grads]
        steps = {name: sizes[name] * g for name, g in zip(sizes, grads, strict=True)}
        return {name: v - steps[name] if name in steps else v for name, v in theta.items()}

    def classify(self, params: Params, theta: Params, x: tf.Tensor, noise: Noise | None = None, shares=None):
        return self.forward(params, theta, x, self.query_draw(noise) if noise else UNPERTURBED, shares)

    def targets(self, y: tf.Tensor, noise: Noise) -> tf.Tensor:
        return self.perturbation.labels(y, self.query_draw(noise))

    def untrained(self) -> list[str]:
        """Return the names of the parameters that act through the support set's gradients alone, if the outer loss
        takes these as constants or if there is no inner step. They have no gradient in the graph of one step."""
        if self.n_steps and self.settings.meta_gradient != "first_order":
            return []
        one = copy.copy(self)
        one.settings = dataclasses.replace(self.settings, n_steps=min(self.n_steps, 1), remat=False)
        with tf.Graph().as_default():
            params = {name: tf.zeros(parameter.shape) for name, parameter in one.parameters().items()}
            x, noise = tf.zeros([1, one.train_way, *one.image_shape]), task_noise(tf.zeros([1, 2], tf.int32))
            _, gradients = one.meta_gradient(params, make_episode(x, x, one.train_way), noise)
        return [name for name, gradient in gradients.items() if gradient is None]

    def query_draw(self, noise: Noise) -> Draw:
        """Return the Draw of the query set's pass in meta-training."""
        return Draw(noise, self.n_steps, TRAINING_QUERY)


def theta_name(name: str) -> str | None:
    """Return the parameter's name without theta/; None if it is not one of theta."""
    return name.removeprefix("theta/") if name.startswith("theta/") else None


def rows(x: tf.Tensor) -> tf.Tensor:
    """Return x [T,N,H,W,C] as rows [T,N,D], in NHWC order."""
    return tf.reshape(x, [x.shape[0], x.shape[1], -1])
