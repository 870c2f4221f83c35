"""Optimizers as pure functions of tensors.

An optimizer takes the gradient of all weights in one row, its slots by name, and its step size `rate`. It returns what
is subtracted from the weights, and the next slots: `m` and `v`, each as long as the gradient, and `t`, the number of
updates so far.
"""

from __future__ import annotations

from typing import TypeAlias

from lazy import tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # of Adam in the TF1 code; Keras' default epsilon is 1e-7
CLIP = 3.0  # every element of the meta-gradient is clipped to [-CLIP, CLIP], unless its norm is clipped
Slots: TypeAlias = "dict[str, tf.Tensor]"


def empty_slots(count: int, dtype="float32") -> Slots:
    """Return the slots of `count` weights before the first update."""
    zeros = tf.zeros(count, dtype)
    return {"m": zeros, "v": zeros, "t": tf.zeros([], dtype)}


def clip(gradient: tf.Tensor, norm: float | None) -> tf.Tensor:
    """Clip the gradient's norm to `norm`; None: every element to [-CLIP, CLIP]."""
    return tf.clip_by_norm(gradient, norm) if norm else tf.clip_by_value(gradient, -CLIP, CLIP)


def adam(gradient: tf.Tensor, slots: Slots, rate) -> tuple[tf.Tensor, Slots]:
    """Adam (Kingma and Ba, ICLR 2015) by the formula of Keras, whose own class is no pure function."""
    t = slots["t"] + 1
    m = slots["m"] + (gradient - slots["m"]) * (1 - BETA_1)
    v = slots["v"] + (tf.square(gradient) - slots["v"]) * (1 - BETA_2)
    rate = rate * tf.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    return m * rate / (tf.sqrt(v) + EPSILON), {"m": m, "v": v, "t": t}


def gradient_descent(gradient: tf.Tensor, slots: Slots, rate) -> tuple[tf.Tensor, Slots]:
    """Plain gradient descent; of the slots only `t` changes."""
    return rate * gradient, slots | {"t": slots["t"] + 1}
