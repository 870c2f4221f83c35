"""Randomness of forward passes.

It is an argument: standard normal numbers, drawn by stateless ops from (seed of the task, inner step, layer). Shapes: T
tasks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

import layers
from lazy import tf
from parameters import BLOCKS

# The passes of a task: over its support set or its query set, in meta-training or in a test.
TRAINING_SUPPORT, TRAINING_QUERY = "training support", "training query"
TEST_SUPPORT, TEST_QUERY = "test support", "test query"
SUPPORT = frozenset({TRAINING_SUPPORT, TEST_SUPPORT})

MANY = 2**16  # numbers; for fewer, starting XLA's program takes longer than they do

Noise: TypeAlias = "Callable[[int, str, tf.TensorShape], tf.Tensor]"  # (inner step, layer, [T,...]) -> N(0, 1)


def task_noise(seeds: tf.Tensor, dtype="float32") -> Noise:
    """Return standard normal noise from one seed per task, seeds [T,2]: the same however the tasks are grouped."""

    def draw(step, layer, shape):
        place = step * (BLOCKS + 1) + (BLOCKS if layer == "dense" else int(layer[-1]) - 1)
        with tf.name_scope("noise"):  # bench.py --profile reads it
            return tf.stack([standard_normal(shape[1:], fold(s, place), dtype) for s in tf.unstack(seeds)])

    return draw


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """Derive a seed [2] from a seed [2] and a number."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def standard_normal(shape, seed: tf.Tensor, dtype="float32") -> tf.Tensor:
    """Draw from N(0, 1) by Box and Muller's transform of Philox' integers.

    These integers are the same on every device, with and without XLA. TensorFlow's normals are not, and take twice the
    time on a CPU. Where there are many numbers, XLA computes them, in half the time again.
    """
    count = int(np.prod(shape))
    many = count >= MANY and dtype == "float32"
    if not many or layers.compiled_by_xla() or not layers.has_cpu_xla():
        return tf.reshape(normals(integers(count, seed), dtype)[:count], shape)
    # Two programs, because in one XLA would compute each integer more than once.
    bits, transform = programs(count)
    return tf.reshape(transform(bits(seed))[:count], shape)


@functools.lru_cache(maxsize=32)
def programs(count: int) -> tuple[Callable, Callable]:
    """Return `integers` of so many numbers, a function of the seed, and `normals`, both compiled."""
    return layers.compiled(functools.partial(integers, count)), layers.compiled(normals)


def integers(count: int, seed: tf.Tensor) -> tf.Tensor:
    """Draw two int32 for each pair of `count` numbers: [2,pairs]."""
    return tf.random.stateless_uniform([2, (count + 1) // 2], seed, None, None, tf.int32, alg="philox")


def normals(bits: tf.Tensor, dtype="float32") -> tf.Tensor:
    """Return the pairs of numbers from N(0, 1) of `integers`, the first ones of all pairs and then the second ones."""
    u, v = tf.unstack(tf.cast(bits, dtype) * 2.0**-32)  # in [-1/2, 1/2], ends included
    radius = tf.sqrt(-2 * tf.math.log(0.5 - u * (1 - 2.0**-24)))  # of a number in (0, 1)
    cosine, sine = point_of_circle(v)
    return tf.concat([radius * cosine, radius * sine], 0)


def point_of_circle(v: tf.Tensor) -> tf.Tensor:
    """Return cos(2 pi v) and sin(2 pi v), for v in [-1/2, 1/2]."""
    if not (layers.compiled_by_xla() and v.dtype == tf.float32):
        return tf.cos(2 * np.pi * v), tf.sin(2 * np.pi * v)
    # On a CPU XLA's own take ten times as long as Taylor's series of cos(pi v) and sin(pi v), to within 1e-8.
    terms = [(-1) ** (k // 2) * math.pi**k / math.factorial(k) for k in range(14)]
    square = tf.square(v)
    cosine, sine = (functools.reduce(lambda y, term: y * square + term, terms[first::-2]) for first in (12, 13))
    sine *= v
    return 1 - 2 * tf.square(sine), 2 * cosine * sine


@dataclass(frozen=True)
class Draw:
    """Randomness of one forward pass, which is the `step`-th pass of its tasks.

    where: TRAINING_SUPPORT, TRAINING_QUERY, TEST_SUPPORT or TEST_QUERY. samples: number of copies of each image in the
    pass, each copy with other noise. shares [images]: the weight of each image, if classes have different numbers of
    images (layers.image_shares).
    """

    noise: Noise
    step: int
    where: str
    samples: int = 1
    shares: tf.Tensor | None = None

    def scope(self, layer: str):
        """Return the name scope of the operations of a layer, support/conv1 for example, or of the head, support/head.
        bench.py --profile reads it."""
        return tf.name_scope(f"{'support' if self.where in SUPPORT else 'query'}/{layer}")

    def __call__(self, layer: str, shape) -> tf.Tensor:
        """Draw from N(0, 1) for this pass, [T,...]. layer: conv1 to conv4, or dense."""
        return self.noise(self.step, layer, shape)

    def of_task(self, layer: str, shape) -> tf.Tensor:
        """Draw from N(0, 1), [T,...], the same in every pass of a task."""
        return self.noise(0, layer, shape)

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        """Mean of x [T,N] over the images and samples of the pass -> [T]; all classes count the same."""
        if self.shares is None:
            return tf.reduce_mean(x, 1)
        return tf.linalg.matvec(x, tf.tile(self.shares, [self.samples])) / self.samples


def no_noise(step, layer, shape):
    raise ValueError("this pass has no noise: it cannot draw numbers")


UNPERTURBED = Draw(no_noise, 0, TEST_QUERY)  # of a pass over a test's query set, or over any images without noise
UNPERTURBED_SUPPORT = Draw(no_noise, 0, TEST_SUPPORT)  # of a pass over a support set without noise
