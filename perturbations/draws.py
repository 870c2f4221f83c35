"""Randomness of forward passes.

It is an argument: standard normal numbers, drawn by stateless ops from (seed of the task, inner step, layer). Shapes: T
tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lazy import tf
from parameters import BLOCKS

# The passes of a task: over its support set or its query set, in meta-training or in a test.
TRAINING_SUPPORT, TRAINING_QUERY = "training support", "training query"
TEST_SUPPORT, TEST_QUERY = "test support", "test query"
SUPPORT = frozenset({TRAINING_SUPPORT, TEST_SUPPORT})

Noise: TypeAlias = "Callable[[int, str, tf.TensorShape], tf.Tensor]"  # (inner step, layer, [T,...]) -> N(0, 1)


def task_noise(seeds: tf.Tensor, dtype="float32") -> Noise:
    """Return standard normal noise from one seed per task, seeds [T,2]: the same however the tasks are grouped."""

    def draw(step, layer, shape):
        place = step * (BLOCKS + 1) + (BLOCKS if layer == "dense" else int(layer[-1]) - 1)
        return tf.stack([standard_normal(shape[1:], fold(s, place), dtype) for s in tf.unstack(seeds)])

    return draw


def fold(seed: tf.Tensor, number) -> tf.Tensor:
    """Derive a seed [2] from a seed [2] and a number."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg="philox")


def standard_normal(shape, seed: tf.Tensor, dtype="float32") -> tf.Tensor:
    """Draw from N(0, 1) by Box and Muller's transform of Philox' integers.

    These integers are the same on every device, with and without XLA. TensorFlow's normals are not, and take twice the
    time on a CPU.
    """
    count = int(np.prod(shape))
    bits = tf.random.stateless_uniform([2, (count + 1) // 2], seed, None, None, tf.int32, alg="philox")
    u, v = tf.unstack(tf.cast(bits, dtype) * 2.0**-32)  # in [-1/2, 1/2], ends included
    radius = tf.sqrt(-2 * tf.math.log(0.5 - u * (1 - 2.0**-24)))  # of a number in (0, 1)
    angle = 2 * np.pi * v
    return tf.reshape(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], 0)[:count], shape)


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
        """Return the name scope of a layer's operations, support/conv1 for example (bench.py --profile reads it)."""
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
    raise ValueError("the pass over a test's query set has no noise")


UNPERTURBED = Draw(no_noise, 0, TEST_QUERY)  # of a pass over a test's query set, or over any images without noise
