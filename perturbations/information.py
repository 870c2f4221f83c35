"""What limits the information in a representation: a bottleneck before the head, or noise of a learned size behind
every block. The price of the information is a penalty of the loss that it is in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import layers
from lazy import tf
from parameters import Parameter, conv_blocks, features_of, identity, normal, zeros
from perturbations.base import Perturbation
from perturbations.draws import SUPPORT, TRAINING_QUERY
from settings import Settings, not_negative, positive, setting


@dataclass(frozen=True)
class VIBSettings(Settings):
    vib_beta: float = setting(1e-3, "price of a nat in the bottleneck of vib", not_negative)


class VIB(Perturbation):
    """A variational information bottleneck of the features h that the head takes: z ~ N(W h + b, sigma^2),
    sigma = softplus(V h + c - 5), and beta times KL(N(W h + b, sigma^2) || N(0, 1)) in the loss.

    Source: Alemi, Fischer, Dillon and Murphy, "Deep Variational Information Bottleneck" (ICLR 2017),
    github.com/alexalemi/vib_demo: its beta of 1e-3, its sum over z, its mean over images, its one sample.
    vib_beta: beta. z is drawn for the support set wherever a task is adapted to, and for the query set in
    meta-training; in a test the query set has the mean.

    Declared here: z has as many numbers as h; W begins as the identity, so that the learner begins as it would
    without; W, b, V, c are meta-learned and not adapted, as phi is. Their two products stay float32 with bf16.
    """

    summary = "variational information bottleneck before the head"
    settings_class = VIBSettings
    settings: VIBSettings
    hooks = frozenset({"inputs"})
    random_in = SUPPORT | {TRAINING_QUERY}

    def parameters(self, image_shape, channels):
        size = features_of(image_shape, channels)
        return {
            "phi/mean_w": Parameter((size, size), identity),
            "phi/mean_b": Parameter((size,), zeros),
            "phi/deviation_w": Parameter((size, size), normal(0.02)),
            "phi/deviation_b": Parameter((size,), zeros),
        }

    def inputs(self, params, theta, layer, x, draw):
        if layer != "dense":
            return x, 0.0
        mean = layers.dense(x, params["phi/mean_w"], params["phi/mean_b"])
        if draw.where not in self.random_in:
            return mean, 0.0
        # Its logarithm is taken: layers.softplus is 0 where this one is small.
        sigma = tf.nn.softplus(layers.dense(x, params["phi/deviation_w"], params["phi/deviation_b"]) - 5)
        divergence = tf.reduce_sum(tf.square(mean) + tf.square(sigma) - 2 * tf.math.log(sigma) - 1, -1) / 2
        return mean + sigma * draw("dense", mean.shape), self.settings.vib_beta * draw.mean(divergence)


@dataclass(frozen=True)
class InformationDropoutSettings(Settings):
    information_beta: float = setting(6e-5, "price of a nat in information_dropout's noise", not_negative)
    information_max_alpha: float = setting(0.7, "largest size of information_dropout's noise", positive)


class InformationDropout(Perturbation):
    """A factor exp(alpha n), n ~ N(0, 1), behind relu, alpha = 0.001 + max_alpha * sigmoid(conv(x; phi)) from what the
    block takes; and beta times the KL divergence from the log-uniform prior in the loss, -ln(alpha / (0.001 +
    max_alpha)) of every pixel and channel.

    Source: Achille and Soatto, "Information Dropout" (PAMI 2018), github.com/ucla-vision/information-dropout,
    cifar.py: one convolution of its own a block, no batch norm, no noise in a test, and a mean factor above 1 that is
    not corrected. information_max_alpha: max_alpha. information_beta: beta, by which the sum over a block's pixels and
    channels, averaged over images, is multiplied. The source divides 3 by its 50,000 training images; a task has no
    such number, so that the quotient is what is set.

    As VIB, the support set has noise wherever a task is adapted to, the query set in meta-training. In the source only
    convolutions with a stride have noise, here all four blocks, which pool.
    """

    summary = "log-normal noise of a learned, input-dependent size behind every block"
    settings_class = InformationDropoutSettings
    settings: InformationDropoutSettings
    hooks = frozenset({"mask"})
    random_in = SUPPORT | {TRAINING_QUERY}

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    def mask(self, params, theta, layer, x, shape, draw):
        if draw.where not in self.random_in:
            return None, 0.0
        gate = tf.sigmoid(layers.conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"]))
        max_alpha = self.settings.information_max_alpha
        alpha = 0.001 + max_alpha * gate
        divergence = tf.reduce_sum(math.log(0.001 + max_alpha) - tf.math.log(alpha), [2, 3, 4])
        tasks, n, *pixels = shape
        factor = tf.reshape(tf.exp(alpha * draw(layer, shape)), [tasks, draw.samples, n // draw.samples, *pixels])
        return factor, self.settings.information_beta * draw.mean(divergence)
