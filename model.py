"""MAML and Meta-dropout: parameters, inner loop, meta-loss and its gradient.

Source of the equations: Lee, Nam, Yang and Hwang, "Meta Dropout: Learning to Perturb Latent Features for
Generalization", ICLR 2020, and its TF1 code. Shapes: T tasks, S support and Q query images, M noise samples.

Upper floors get a learner here: LEARNERS is the table of all. A new one is a class and one line.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import NamedTuple

import numpy as np

import layers
from attacks import Adversary
from flags import TRAINING, Setting, positive, whole
from lazy import tf
from learners.base import Learner
from learners.metanet import EmbeddingMetaNetwork, OriginalMetaNetwork
from learners.protonet import ProtoNet
from parameters import BLOCKS, Parameter, Params, constant, conv_net, offsets, uniform
from perturbations import PERTURBATIONS
from perturbations.draws import TEST_SUPPORT, TRAINING_QUERY, TRAINING_SUPPORT, UNPERTURBED, Draw, Noise, task_noise


class MAML(Learner):
    """Second-order MAML over four conv blocks and a dense head, with a perturbation of the support pass.

    inner_lr: step size of the inner loop. meta_gradient: `published` holds batch norm's backward pass constant when
    the inner gradient is differentiated, `exact` is the full second order, `first_order` none. remat: keep no maps of
    the inner steps; the backward pass computes them again. bf16: parameters, batch norm and losses stay float32.
    Only theta is adapted; phi and batch norm's offsets are not. Of theta, adapt `head` leaves the convolutions as they
    are (ANIL: Raghu, Raghu, Bengio and Vinyals, ICLR 2020), and `body` the head (BOIL: Oh, Yoo, Kim and Yun, ICLR
    2021). The inner loss is the support set's cross entropy and the perturbation's penalty.
    """

    settings = {
        "n_steps": Setting(5, "inner gradient steps", whole(0), free=("test",)),
        "inner_lr": Setting(0.1, "step size of the inner loop", positive, free=("test",)),
        "adapt": Setting(
            "all", "what the inner steps adapt: all of theta; its head alone, on features that stay (ANIL); its body "
            "alone, under a head that stays (BOIL)", choices=["all", "head", "body"], attribute="adapted_part",
        ),
        "meta_gradient": Setting(
            "published", "published: second order with batch norm's backward pass held constant, as the paper's code "
            "computes it; exact: full second order; first_order: no second derivative",
            choices=["published", "exact", "first_order"],
        ),
        "remat": Setting(
            False, "compute inner steps again when they are differentiated, in place of keeping their maps: less "
            "memory, more time", modes=TRAINING, free=("resume",),
        ),
    }  # fmt: skip

    heads = ("theta/dense_w", "theta/dense_b")  # the parameters that have a column for every class

    def parameters(self) -> dict[str, Parameter]:
        """theta, then the perturbation's phi, then batch norm's offsets."""
        theta = conv_net("theta", self.image_shape, self.channels, self.way)
        return theta | self.perturbation.parameters(self.image_shape, self.channels) | offsets(self.channels)

    def step_sizes(self, params: Params) -> dict[str, tf.Tensor | float]:
        """What an inner step multiplies a weight's gradient by, by the weight's name without theta/: a number, or a
        tensor of the weight's shape or [T,...]."""
        return {name: self.inner_lr for name in map(theta_name, params) if name and self.adapts(name)}

    def adapts(self, name: str) -> bool:
        """Do inner steps adapt this weight of theta?"""
        return self.adapted_part == "all" or (self.adapted_part == "head") == name.startswith("dense")

    def blocks(self, params, theta, x, draw, shares=None):
        """Yield each block's name, input, perturbed convolution, mask (or None), output and penalty. shares: the
        weight of each image in batch norm's statistics (layers.shared_statistics)."""
        for block in range(1, BLOCKS + 1):
            layer = f"conv{block}"
            x, input_penalty = self.perturbation.inputs(params, theta, layer, x, draw)
            x = layers.rounded(x, self.bf16)
            mu = layers.conv(x, theta[f"{layer}_w"], theta[f"{layer}_b"])
            mu, penalty = self.perturbation.block(params, theta, layer, x, mu, draw)
            mask, mask_penalty = self.perturbation.mask(params, theta, layer, x, mu.shape, draw)
            held = self.meta_gradient == "published"
            output = layers.norm_relu_pool(mu, params[f"{layer}_bn/beta"], draw.samples, held, mask, shares)
            yield layer, x, mu, mask, output, input_penalty + penalty + mask_penalty
            x = output

    def embed(self, params: Params, theta: Params, x, draw: Draw, shares=None):
        """x [T,N,H,W,C] -> what the head takes, [T,N,D], and the penalty so far."""
        *_, outputs, penalties = zip(*self.blocks(params, theta, x, draw, shares), strict=True)
        h, penalty = self.perturbation.inputs(params, theta, "dense", rows(outputs[-1]), draw)
        return h, sum(penalties) + penalty

    def forward(self, params: Params, theta: Params, x, draw: Draw, shares=None):
        """x [T,N,H,W,C] -> logits [T,N,way], and the penalty of the pass. shares: as in `blocks`."""
        h, embed_penalty = self.embed(params, theta, x, draw, shares)
        h = layers.rounded(h, self.bf16)
        logits = layers.dense(h, theta["dense_w"], theta["dense_b"])
        logits, penalty = self.perturbation.head(params, theta, h, logits, draw)
        return logits, embed_penalty + penalty

    def features(self, params, theta, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        return self.embed(params, theta, x, draw)[0]

    def activations(self, params, theta, x) -> dict[str, tf.Tensor]:
        """Each block's output, [T,N,D]; in place of the last one's `features`, which are the same unless the
        perturbation has a layer of its own before the head."""
        outputs = {layer: rows(output) for layer, *_, output, _ in self.blocks(params, theta, x, UNPERTURBED)}
        last = f"conv{BLOCKS}"
        return outputs | {last: self.perturbation.inputs(params, theta, "dense", outputs[last], UNPERTURBED)[0]}

    def maps(self, params, theta, x, draw: Draw = UNPERTURBED) -> dict[str, tuple]:
        """By layer: mask * relu(batch_norm(.)) of the perturbed convolution, before pooling, [T,N,H,W,C], and
        what the perturbation multiplied by (or None)."""
        maps = {}
        for layer, inputs, mu, mask, *_ in self.blocks(params, theta, x, draw):
            groups = tf.reshape(mu, [mu.shape[0] * draw.samples, -1, *mu.shape[2:]])
            normal = layers.batch_norm(groups, params[f"{layer}_bn/beta"])
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
        """With only the head's first `way` columns."""
        return {k: v[..., :way] if k in self.heads else v for k, v in params.items()}

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """theta of every task after n_steps gradient steps on its support set; its penalties were the inner loss's."""
        return self.trajectory(params, x, y, noise, samples, training)[-1], 0.0

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> list[Params]:
        """theta of every task before the first and after each of n_steps gradient steps on its support set.

        The LOSS is averaged over `samples` noise samples, which are drawn afresh in every step and normalised apart
        from each other.
        """
        tasks = x.shape[0]
        where = TRAINING_SUPPORT if training else TEST_SUPPORT
        if where not in self.perturbation.random_in:
            samples = 1  # all would be equal
        class_shares = layers.class_shares(y)  # None in training, whose classes all have as many images
        shares = layers.image_shares(y, class_shares)
        x, y = tf.tile(x, [1, samples, 1, 1, 1]), tf.tile(y, [samples, 1])
        theta = {
            theta_name(name): tf.broadcast_to(value, [tasks, *value.shape])
            for name, value in params.items()
            if theta_name(name)
        }
        thetas = [theta]
        for step in range(self.n_steps):
            # What is differentiated has to be an argument, if it is to be computed again.
            def one(*values, step=step):
                meta_learned = dict(zip(params, values, strict=False))
                theta = dict(zip(thetas[0], values[len(params) :], strict=True))
                draw = Draw(noise, step, where, samples, shares)
                return list(self.inner_step(meta_learned, theta, x, y, draw, class_shares).values())

            one = tf.recompute_grad(one) if self.remat else one
            theta = dict(zip(theta, layers.freed_with_graph(one(*params.values(), *theta.values())), strict=True))
            thetas.append(theta)
        return thetas

    def inner_step(self, params: Params, theta: Params, x, y, draw: Draw, class_shares=None) -> Params:
        """One gradient step on the support loss. class_shares: `layers.class_shares` where classes differ in their
        numbers of images; draw.shares are then set, too."""
        logits, penalty = self.forward(params, theta, x, draw, draw.shares)
        class_shares = None if class_shares is None else class_shares / draw.samples
        loss = layers.balanced_cross_entropy(logits, self.perturbation.labels(y, draw), class_shares) + penalty
        sizes = self.step_sizes(params)
        grads = tf.gradients(loss, [theta[name] for name in sizes])
        if self.meta_gradient == "first_order":
            grads = [tf.stop_gradient(g) for g in grads]
        steps = {name: sizes[name] * g for name, g in zip(sizes, grads, strict=True)}
        return {name: v - steps[name] if name in steps else v for name, v in theta.items()}

    def classify(self, params: Params, theta: Params, x: tf.Tensor, noise: Noise | None = None, shares=None):
        return self.forward(params, theta, x, self.query_draw(noise) if noise else UNPERTURBED, shares)

    def targets(self, y: tf.Tensor, noise: Noise) -> tf.Tensor:
        return self.perturbation.labels(y, self.query_draw(noise))

    def untrained(self) -> list[str]:
        """Names of the parameters that act through the support set's gradients alone, where these are constants to the
        outer loss, or where there is no inner step. Found by tracing one step: they have no gradient in its graph."""
        if self.n_steps and self.meta_gradient != "first_order":
            return []
        one = copy.copy(self)
        one.n_steps, one.remat = min(self.n_steps, 1), False
        with tf.Graph().as_default():
            params = {name: tf.zeros(parameter.shape) for name, parameter in one.parameters().items()}
            x, noise = tf.zeros([1, one.train_way, *one.image_shape]), task_noise(tf.zeros([1, 2], tf.int32))
            numbers, penalty = evaluate(one, params, x, x, noise, training=True)
            loss = penalty + numbers["loss"]
            found = tf.gradients(loss, list(params.values()))
        return [name for name, gradient in zip(params, found, strict=True) if gradient is None]

    def query_draw(self, noise: Noise) -> Draw:
        """The randomness of the query set's pass in meta-training."""
        return Draw(noise, self.n_steps, TRAINING_QUERY)


class MetaSGD(MAML):
    """MAML whose inner steps have a learned size for every weight that they adapt, of either sign.

    Source: Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (2017), whose code was
    not released: theta' = theta - alpha * gradient, alpha of theta's shape, meta-learned with it by the same optimiser.
    alpha begins at inner_lr, or, with random_steps, uniform in [0.005, 0.1], which is the paper's interval. There one
    number is drawn for all weights, here one for every weight; and the paper takes one step, here it is n_steps.
    """

    settings = MAML.settings | {
        "inner_lr": dataclasses.replace(MAML.settings["inner_lr"], free=()),  # in a test it would change nothing
        "random_steps": Setting(
            False,
            "Meta-SGD's step sizes begin uniform in [0.005, 0.1] in place of --inner_lr",
            modes=TRAINING,
        ),
    }

    heads = (*MAML.heads, "alpha/dense_w", "alpha/dense_b")

    def __init__(self, *args, **settings):
        """ValueError also where inner_lr would mean nothing."""
        super().__init__(*args, **settings)
        if self.random_steps and self.inner_lr != self.settings["inner_lr"].default:
            raise ValueError("with --random_steps no step size begins at --inner_lr: leave one of them out")

    def parameters(self) -> dict[str, Parameter]:
        """Those of MAML, then alpha."""
        begins = uniform(0.005, 0.1) if self.random_steps else constant(self.inner_lr)
        declared = super().parameters()
        names = [name for name in map(theta_name, declared) if name and self.adapts(name)]
        return declared | {f"alpha/{name}": Parameter(declared[f"theta/{name}"].shape, begins) for name in names}

    def step_sizes(self, params: Params) -> dict[str, tf.Tensor | float]:
        return {name: params[f"alpha/{name}"] for name in super().step_sizes(params)}


def theta_name(name: str) -> str | None:
    """The name of a parameter of theta without the net's; None for another's."""
    return name.removeprefix("theta/") if name.startswith("theta/") else None


def rows(x: tf.Tensor) -> tf.Tensor:
    """[T,N,H,W,C] -> [T,N,D], in NHWC order."""
    return tf.reshape(x, [x.shape[0], x.shape[1], -1])


class Entry(NamedTuple):
    """A line of the table of learners. title: its name in figures. perturbation: the only one that it has (None: it
    takes any whose hooks it calls, and none by itself)."""

    learner: type[Learner]
    title: str
    perturbation: str | None = None


LEARNERS = {
    "maml": Entry(MAML, "MAML"),
    "metadrop": Entry(MAML, "Meta-dropout", "noise"),
    "metasgd": Entry(MetaSGD, "Meta-SGD"),
    "protonet": Entry(ProtoNet, "Prototypical Network"),
    "metanet_embedding": Entry(EmbeddingMetaNetwork, "Meta Network (embedding)"),
    "metanet_original": Entry(OriginalMetaNetwork, "Meta Network (original)"),
}


def parts(name: str, perturbation: str | None = None) -> tuple[type[Learner], type]:
    """The classes of the learner `name` and of its perturbation (None: its own). ValueError where it cannot have it."""
    entry = LEARNERS[name]
    if entry.perturbation:
        allowed = [entry.perturbation]
    else:
        allowed = [key for key, kind in PERTURBATIONS.items() if kind.hooks <= entry.learner.hooks]
    perturbation = perturbation or entry.perturbation or "none"
    if perturbation not in allowed:
        raise ValueError(f"{name} cannot have the perturbation {perturbation!r}: it takes {' or '.join(allowed)}")
    return entry.learner, PERTURBATIONS[perturbation]


def settings_of(name: str, perturbation: str | None = None) -> dict[str, Setting]:
    """What this learner, and this perturbation of it, have for settings. ValueError as `parts`."""
    learner, kind = parts(name, perturbation)
    return learner.settings | kind.settings


def make(name: str, perturbation: str | None = None, **settings) -> Learner:
    """The learner `name` with this perturbation. ValueError as `parts`, and at what a constructor refuses.

    settings: the constructor's; those of the perturbation among them go to it.
    """
    learner, kind = parts(name, perturbation)
    own = {key: settings.pop(key) for key in kind.settings if key in settings}
    return learner(perturbation=kind(**own), **settings)


def labels(way: int, images: int, dtype="float32") -> tf.Tensor:
    """One-hot labels [way*images,way] of an episode's rows, which are ordered by class."""
    return tf.constant(np.repeat(np.eye(way), images, axis=0), dtype)


def labels_of(x: tf.Tensor, way: int) -> tf.Tensor:
    """The labels of a set's images x [T,way*images,H,W,C]."""
    return labels(way, x.shape[1] // way, x.dtype)


def measure(logits: tf.Tensor, y: tf.Tensor, targets: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """What is said of a query set's logits [T,Q,way]: loss [T] (nats) and accuracy [T] (0 to 1). targets: what the loss
    compares them with, if not the labels y."""
    loss = layers.cross_entropy(logits, y if targets is None else targets)
    return {"loss": loss, "accuracy": layers.accuracy(logits, y)}


def evaluate(
    learner: Learner,
    params: Params,
    x_s,
    x_q,
    noise: Noise,
    samples: int = 1,
    training: bool = False,
    adversary: Adversary | None = None,
):
    """Adapt to the support sets x_s [T,S,H,W,C] and classify the query sets x_q [T,Q,H,W,C], which an `adversary`
    may perturb between the two.

    -> `measure`'s numbers, and the penalty that the outer loss adds.
    """
    way = learner.train_way if training else learner.way
    adapted, support_penalty = learner.adapt(params, x_s, labels_of(x_s, way), noise, samples, training)
    y, query_noise = labels_of(x_q, way), noise if training else None
    targets = learner.targets(y, noise) if training else y
    if adversary:
        x_q = adversary.perturb(lambda x: learner.classify(params, adapted, x, query_noise)[0], x_q, targets, noise)
    logits, query_penalty = learner.classify(params, adapted, x_q, query_noise)
    numbers = measure(logits, y, targets)
    return numbers, support_penalty + query_penalty


def by_task(f, tensors, dtypes, tasks_at_once: int, parallel: int):
    """Call f on groups of `tasks_at_once` tasks of `tensors` [T,...], and stack its results [groups,...].

    f gives a structure of tensors, of these dtypes. On a CPU one task at a time, on as many cores as there are
    (`parallel`), is fastest: a task's maps stay in the cache and its kernels need no task axis. On a GPU all tasks go
    in one call.
    """
    tasks = tensors[0].shape[0]
    if tasks == tasks_at_once:
        return tf.nest.map_structure(lambda result: result[None], f(*tensors))
    if tasks % tasks_at_once:
        raise ValueError(f"{tasks} tasks cannot be split into groups of {tasks_at_once}")
    groups = [tf.reshape(x, [tasks // tasks_at_once, tasks_at_once, *x.shape[1:]]) for x in tensors]
    return tf.map_fn(lambda group: f(*group), groups, fn_output_signature=dtypes, parallel_iterations=parallel)


def meta_gradients(
    learner, params: Params, x_s, x_q, seeds, tasks_at_once=1, parallel=1, noise_of=task_noise, adversary=None
) -> tuple[tf.Tensor, tf.Tensor, Params]:
    """Mean query loss and accuracy over tasks, and the gradient of that loss and its penalty by every parameter:
    float64, so that the sum over tasks does not depend on how they are grouped.

    x_s [T,S,H,W,C], x_q [T,Q,H,W,C]; noise_of(seeds of a group) -> its Noise, seeds [T,2]. adversary: as in `evaluate`.
    """

    def group(x_s, x_q, seeds):
        numbers, penalty = evaluate(learner, params, x_s, x_q, noise_of(seeds), 1, True, adversary)
        grads = tf.gradients(numbers["loss"] + penalty, list(params.values()), unconnected_gradients="zero")
        return [tf.reduce_sum(numbers["loss"]), tf.reduce_sum(numbers["accuracy"]), *grads]

    dtypes = [x_s.dtype, tf.float32] + [x_s.dtype] * len(params)
    sums = by_task(group, [x_s, x_q, seeds], dtypes, tasks_at_once, parallel)
    loss, acc, *grads = [tf.reduce_sum(tf.cast(s, tf.float64), 0) / x_s.shape[0] for s in sums]
    return loss, acc, dict(zip(params, grads, strict=True))
