"""What perturbs a network's forward passes, and where its randomness comes from.

Shapes: T tasks, N = samples * images rows of one pass (sample-major), H W C a map. All randomness is an argument:
standard normal numbers drawn by stateless ops from (seed of the task, inner step, layer).
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import tensorflow as tf

import layers

Params = dict[str, tf.Tensor]
Noise = Callable[[int, str, tf.TensorShape], tf.Tensor]  # (inner step, layer, [T,N,...]) -> N(0, 1)

BLOCKS = 4


def task_noise(seeds: tf.Tensor, dtype=tf.float32) -> Noise:
    """Standard normal noise from one seed a task, seeds [T,2]: the same however the tasks are grouped."""

    def draw(step, layer, shape):
        place = step * (BLOCKS + 1) + (BLOCKS if layer == "dense" else int(layer[-1]) - 1)
        return tf.stack([standard_normal(shape[1:], fold(s, place), dtype) for s in tf.unstack(seeds)])

    return draw


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """The seed [2] of the number-th thing that `seed` has."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def standard_normal(shape, seed: tf.Tensor, dtype=tf.float32) -> tf.Tensor:
    """N(0, 1) by Box and Muller's transform of Philox' integers.

    Those are the same on every device, with and without XLA; TensorFlow's own normals are not, and take
    twice the time on a CPU.
    """
    count = int(np.prod(shape))
    bits = tf.random.stateless_uniform([2, (count + 1) // 2], seed, None, None, tf.int32, alg="philox")
    u, v = tf.unstack(tf.cast(bits, dtype) * 2.0**-32)  # in [-1/2, 1/2], ends included
    radius = tf.sqrt(-2 * tf.math.log(0.5 - u * (1 - 2.0**-24)))  # of a number in (0, 1)
    angle = 2 * np.pi * v
    return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)[:count], shape)


@dataclass(frozen=True)
class Draw:
    """The randomness of one forward pass: the `step`-th of its tasks, over the support set or the query set.

    masked: masks apply in this pass (they do in training, and not in testing).
    """

    noise: Noise
    step: int
    query: bool = False
    masked: bool = False

    def __call__(self, layer: str, shape) -> tf.Tensor:
        """N(0, 1) of the shape [T,...], this pass's own."""
        return self.noise(self.step, layer, shape)

    def of_task(self, layer: str, shape) -> tf.Tensor:
        """N(0, 1) of the shape [T,...], the same in every pass of a task."""
        return self.noise(0, layer, shape)


class NoPerturbation:
    """None, and the interface. `draw` is a pass's Draw; where it is None, nothing is perturbed."""

    settings: tuple[str, ...] = ()  # main.py's flags that it takes
    stochastic = False  # does it draw anything?
    in_testing = False  # does it perturb the support set of a test?

    def shapes(self, image_shape, channels) -> dict[str, tuple]:
        """Shapes of the perturbation's own meta-learned parameters."""
        return {}

    def block(self, params, layer, x, mu, draw):
        """Perturb the convolution `mu` [T,N,H,W,C] of x, before batch norm."""
        return mu

    def mask(self, layer, shape, samples, draw):
        """What relu(batch_norm(.)), of `shape` [T,N,H,W,C], is multiplied by: [T,samples,1 or N/samples,H,W,C] >= 0,
        or None."""
        return None

    def factor(self, params, layer, x, draw):
        """What `block` multiplies the convolution of x by, [T,N,H,W,C], for figures; None: nothing."""
        return None

    def head(self, params, x, logits, draw):
        """Perturb the logits [T,N,way] of the features x [T,N,D]."""
        return logits


class LearnedNoise(NoPerturbation):
    """Meta-dropout: multiplicative noise on the convolutions, additive on the logits, both input-dependent.

    block: a ~ N(conv(x; phi), 1) on the support, a = conv(x; phi) on the query; mu * softplus(a).
    head: N(logits, softplus(phi_w x + phi_b)) on the support, a standard deviation shared by the classes.
    """

    stochastic = in_testing = True

    def shapes(self, image_shape, channels):
        return conv_net("phi", image_shape, channels, 1)

    def factor(self, params, layer, x, draw):
        a = layers.conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"])
        if draw is not None and not draw.query:
            a += draw(layer, a.shape)
        return layers.softplus(a)

    def block(self, params, layer, x, mu, draw):
        return mu * self.factor(params, layer, x, draw)

    def head(self, params, x, logits, draw):
        if draw is None or draw.query:
            return logits
        sigma = layers.softplus(layers.dense(x, params["phi/dense_w"], params["phi/dense_b"]))
        return logits + sigma * draw("dense", logits.shape)


class Mask(NoPerturbation):
    """One Bernoulli mask a task: its support and query images, in all inner steps, lose the same activations.

    Every pixel of every channel is kept with the probability 1 - rate. It multiplies relu(batch_norm(.)) before
    pooling, in training; in testing there is none. mask_rates: those of blocks 1, 2, 3 and perhaps 4, in [0, 1).
    mask_scaled: what is kept is multiplied by 1 / (1 - rate). The original does not do that, so that activations
    are larger in testing than in training. mask_support_only: the query set has no mask. mask_per_sample: ordinary
    dropout, a mask for every image in every pass. ValueError at wrong rates.
    """

    settings = ("mask_rates", "mask_scaled", "mask_support_only", "mask_per_sample")
    stochastic = True

    def __init__(
        self, mask_rates=(0.05, 0.10, 0.15), mask_scaled=False, mask_support_only=False, mask_per_sample=False
    ):
        if not 3 <= len(mask_rates) <= BLOCKS or not all(0 <= rate < 1 for rate in mask_rates):
            raise ValueError(f"mask_rates are {mask_rates}, wanted three or four in [0, 1)")
        self.rates = {f"conv{block}": rate for block, rate in enumerate(mask_rates, 1)}
        self.scaled, self.support_only, self.per_sample = mask_scaled, mask_support_only, mask_per_sample

    def mask(self, layer, shape, samples, draw):
        rate = self.rates.get(layer, 0)
        if not rate or draw is None or not draw.masked or (self.support_only and draw.query):
            return None
        tasks, n, *pixels = shape
        if self.per_sample:
            z = tf.reshape(draw(layer, shape), [tasks, samples, n // samples, *pixels])
        else:
            z = draw.of_task(layer, [tasks, samples, *pixels])[:, :, None]
        kept = tf.cast(z > NormalDist().inv_cdf(rate), z.dtype)
        return kept / (1 - rate) if self.scaled else kept


PERTURBATIONS = {"none": NoPerturbation, "noise": LearnedNoise, "mask": Mask}


def check_size(image_shape: tuple[int, int, int]) -> None:
    """ValueError where images (H, W, C) are too small for four blocks."""
    height, width, _ = image_shape
    if min(height, width) < 2**BLOCKS:
        raise ValueError(f"images of {height} x {width} leave nothing after {BLOCKS} poolings")


def conv_net(net: str, image_shape: tuple[int, int, int], channels: int, outputs: int) -> dict[str, tuple]:
    """Shapes of a four-block network's weights by name, `net`/conv1_w to `net`/dense_b."""
    height, width, depth = image_shape
    shapes = {}
    for block in range(1, BLOCKS + 1):
        shapes[f"{net}/conv{block}_w"] = (3, 3, depth, channels)
        shapes[f"{net}/conv{block}_b"] = (channels,)
        depth, height, width = channels, height // 2, width // 2
    shapes[f"{net}/dense_w"] = (height * width * depth, outputs)
    shapes[f"{net}/dense_b"] = (outputs,)
    return shapes
