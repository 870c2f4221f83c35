"""Reptile."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import layers
import optimizers
from attacks import Adversary
from lazy import tf
from learners import heads
from model import MAML, Episode, theta_name
from parameters import Parameter, Params, conv_net, offsets, zeros
from perturbations.draws import UNPERTURBED_SUPPORT, Noise
from settings import Settings, positive, setting, whole

SQUARES = "running/squares/"  # begins the names of the running averages of squared gradients


class State(NamedTuple):
    """The inner loops of T tasks after some steps: theta; running averages of its squared gradients and, as `one`, of
    the number 1; the sums of the losses and of the accuracies [T] of the minibatches so far."""

    theta: Params
    squares: Params
    loss: tf.Tensor
    accuracy: tf.Tensor


@dataclass(frozen=True)
class ReptileSettings(Settings):
    n_steps: int = setting(5, "inner gradient steps", whole(1), training_only=True)
    n_test_steps: int = setting(50, "inner steps of Reptile in testing", whole(0), overridable_in=["test"])
    inner_batch: int = setting(10, "images of an inner step of Reptile in training", whole(1), training_only=True)
    inner_test_batch: int = setting(
        5, "images of an inner step of Reptile in testing", whole(1), overridable_in=["test"]
    )
    inner_lr: float = setting(0.001, "step size of the inner loop", positive, overridable_in=["test"])


class Reptile(MAML):
    """Reptile trains theta on every task for a few steps of Adam, and moves it towards the mean of the trained ones.

    Source: Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms" (2018), and its code,
    github.com/openai/supervised-reptile. An inner step takes a minibatch: in training, inner_batch images of a task's
    support and query set together (shot + query is the code's --train-shots); in testing, inner_test_batch support
    images. Minibatches are drawn without replacement; when all images were drawn, they are shuffled again. Batch norm's
    offsets are adapted, too. The outer step size falls linearly from meta_lr to 0. For Omniglot 5-way 1-shot the source
    has shot + query 10, metabatch 5, meta_lr 1, 100,000 updates and the defaults of the settings here. It reports
    97.68 % with transductive batch norm, as it is here, and 95.39 % where every query image is normalised with the
    support set alone.

    Adam has beta_1 = 0. As in the source's code, its second moments continue from task to task and into tests, and a
    minibatch's loss is the sum over its images: after training with 10 images, a test's steps with 5 are half as long.
    Here the moments are running averages: all tasks of a metabatch start with the same ones, which then move as far as
    if the tasks had followed each other. `one` is 1 - beta_2^t after t steps, and corrects them for their start at 0.

    Differs from the source: the network is MAML's, which pools where the source's convolutions have strides, has no
    gain in batch norm and another initializer. The biases of convolutions are not adapted: batch norm takes them away.
    Each element of a mean update is clipped to [-3, 3], as all meta-gradients are here.
    """

    settings_class = ReptileSettings
    settings: ReptileSettings
    run_defaults = {"meta_lr": 1.0, "metabatch": 5}
    hooks, has_query_loss, stop_bn_backward = frozenset(), False, False
    heads = (*MAML.heads, f"{SQUARES}dense_w", f"{SQUARES}dense_b")
    optimizer = staticmethod(optimizers.gradient_descent)

    @property
    def n_steps(self) -> int:
        return self.settings.n_test_steps

    def parameters(self) -> dict[str, Parameter]:
        """Return theta, which includes batch norm's offsets, and the running averages."""
        theta = conv_net("theta", self.image_shape, self.channels, self.way)
        theta |= {f"theta/{name}": parameter for name, parameter in offsets(self.channels).items()}
        shapes = {theta_name(name): parameter.shape for name, parameter in theta.items()}
        shapes = {name: shape for name, shape in shapes.items() if self.adapts(name)} | {"one": ()}
        return theta | {SQUARES + name: Parameter(shape, zeros, trained=False) for name, shape in shapes.items()}

    def adapts(self, name: str) -> bool:
        """Return False for the bias of a convolution: its gradient is a rounding error, out of which Adam would make a
        whole step."""
        return not (name.startswith("conv") and name.endswith("_b"))

    def offset(self, params: Params, theta: Params, layer: str, samples: int) -> tf.Tensor:
        return tf.repeat(theta[f"{layer}_bn/beta"], samples, 0)[:, None, None, None]

    def outer_rate(self, meta_lr: float, iteration: int, last: int) -> float:
        """Return meta_lr in iteration 0 and linearly less in later ones; it would be 0 in iteration last + 1."""
        return meta_lr * (1 - iteration / (last + 1))

    def running_step(self, tasks: int) -> float:
        """Return the factor by which the averages move as far as the inner loops of all tasks would move them one after
        the other. One loop keeps the share `keep` of an average, and all loops keep^tasks."""
        keep = optimizers.BETA_2**self.settings.n_steps
        return (1 - keep**tasks) / (1 - keep)

    def meta_gradient(self, params: Params, episode: Episode, noise: Noise, adversary: Adversary | None = None):
        """Return the mean loss and accuracy of the minibatches, each before its step, and every parameter minus its
        value at the end of the inner loop, summed over the tasks."""
        x = tf.concat([episode.support, episode.query], 1)
        y = tf.concat([episode.support_labels, episode.query_labels], 0)
        start, step, minibatches = self.inner_loop(params, x, y, noise, training=True)
        end = functools.reduce(step, tf.unstack(minibatches), start)
        ends = {f"theta/{name}": value for name, value in end.theta.items()}
        ends |= {SQUARES + name: value for name, value in end.squares.items()}
        numbers = {"loss": end.loss / self.settings.n_steps, "accuracy": end.accuracy / self.settings.n_steps}
        return numbers, {name: tf.reduce_sum(value - ends[name], 0) for name, value in params.items()}

    def untrained(self) -> list[str]:
        return []

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return theta of every task after the inner loop of a test, and no penalty."""
        start, step, minibatches = self.inner_loop(params, x, y, noise, training=False)
        return tf.foldl(step, minibatches, start).theta, 0.0

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1) -> list[Params]:
        start, step, minibatches = self.inner_loop(params, x, y, noise, training=False)
        thetas = {name: tf.unstack(steps) for name, steps in tf.scan(step, minibatches, start).theta.items()}
        return [start.theta, *(dict(zip(thetas, values, strict=True)) for values in zip(*thetas.values(), strict=True))]

    def inner_loop(self, params: Params, x, y, noise: Noise, training: bool):
        """Return the State before the inner loops on images x [T,N,H,W,C] with labels y [N,way]; an inner step, which
        is a function of a State and of the places [T,size] of a minibatch in x; and the places of all minibatches,
        [steps,T,size]."""
        tasks, images = x.shape[:2]
        s = self.settings
        steps, size = (s.n_steps, s.inner_batch) if training else (s.n_test_steps, s.inner_test_batch)
        passes = -(-steps * size // images)
        order = tf.argsort(noise(0, "dense", tf.TensorShape([tasks, passes, images])))
        places = tf.reshape(tf.reshape(order, [tasks, -1])[:, : steps * size], [tasks, steps, size])
        shares = layers.image_shares(y, layers.class_shares(y))
        importance = None if shares is None else heads.image_weights(x, shares)

        def step(state: State, places: tf.Tensor) -> State:
            weights = None if importance is None else tf.gather(importance, places)
            return self.inner_step(state, tf.gather(x, places, batch_dims=1), tf.gather(y, places), weights)

        starts = {name: tf.broadcast_to(value, [tasks, *value.shape]) for name, value in params.items()}
        theta = {theta_name(name): value for name, value in starts.items() if theta_name(name)}
        squares = {name.removeprefix(SQUARES): value for name, value in starts.items() if name.startswith(SQUARES)}
        start = State(theta, squares, tf.zeros([tasks], x.dtype), tf.zeros([tasks]))
        return start, step, tf.transpose(places, [1, 0, 2])

    def inner_step(self, state: State, x, y, importance) -> State:
        """Return the State after one step on the minibatch x [T,B,H,W,C] with labels y [T,B,way]. importance [T,B]: the
        images' weights in the loss if classes differ in their numbers of images, else None; over a pass they have the
        mean 1. A minibatch whose images all have the weight 0 moves nothing but Adam's moments."""
        total = None if importance is None else tf.reduce_sum(importance, -1, keepdims=True)
        shares = None if importance is None else tf.math.divide_no_nan(importance, total)
        logits, _ = self.forward({}, state.theta, x, UNPERTURBED_SUPPORT, shares)
        losses = layers.cross_entropies(logits, y)
        losses = losses if importance is None else importance * losses
        weights = {name: value for name, value in state.theta.items() if self.adapts(name)}
        gradients = dict(zip(weights, tf.gradients(tf.reduce_sum(losses), list(weights.values())), strict=True))
        now = {name: tf.square(gradient) for name, gradient in gradients.items()} | {"one": tf.ones_like(state.loss)}
        squares = {name: v + (now[name] - v) * (1 - optimizers.BETA_2) for name, v in state.squares.items()}
        rate = self.settings.inner_lr * tf.sqrt(squares["one"][0])  # the same in all tasks
        for name, gradient in gradients.items():
            weights[name] -= rate * gradient / (tf.sqrt(squares[name]) + optimizers.EPSILON)
        loss, accuracy = tf.reduce_mean(losses, -1), layers.accuracy(logits, y)
        return State(state.theta | weights, squares, state.loss + loss, state.accuracy + accuracy)
