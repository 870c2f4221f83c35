"""Limits on the information in a representation: a bottleneck before the head, or noise of a learned size after each
block. The information has a price, which is a penalty of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import layers
from lazy import tf
from parameters import Parameter, conv_blocks, features_of, identity, kernel_and_bias, normal, zeros
from perturbations.base import Perturbation
from perturbations.draws import SUPPORT, TRAINING_QUERY
from settings import Settings, not_negative, positive, setting


@dataclass(frozen=True)
class VIBSettings(Settings):
    vib_beta: float = setting(1e-3, "weight of vib's KL divergence in the loss", not_negative)


class VIB(Perturbation):
    """A variational information bottleneck of the features h: in their place the head takes z ~ N(W h + b, sigma^2),
    sigma = softplus(V h + c - 5), and beta times KL(N(W h + b, sigma^2) || N(0, 1)) is added to the loss.

    Source: Alemi, Fischer, Dillon and Murphy, "Deep Variational Information Bottleneck" (ICLR 2017),
    github.com/alexalemi/vib_demo: its beta (vib_beta) of 1e-3, its sum over z, its mean over images, its one sample.
    z is drawn for the support set in training and in testing, and for the query set in training; in a test the query
    set has the mean.

    Decided here: z has as many numbers as h; W is initialized with the identity, so that training starts as without the
    bottleneck; W, b, V and c are meta-learned and not adapted. Their two products stay float32 with bf16.
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
        mean = layers.dense(x, *kernel_and_bias(params, "phi/mean"))
        if draw.where not in self.random_in:
            return mean, 0.0
        # Where this softplus is very small, layers.softplus is 0, and has no logarithm.
        sigma = tf.nn.softplus(layers.dense(x, *kernel_and_bias(params, "phi/deviation")) - 5)
        divergence = tf.reduce_sum(tf.square(mean) + tf.square(sigma) - 2 * tf.math.log(sigma) - 1, -1) / 2
        return mean + sigma * draw("dense", mean.shape), self.settings.vib_beta * draw.mean(divergence)


@dataclass(frozen=True)
class InformationDropoutSettings(Settings):
    information_beta: float = setting(6e-5, "weight of information_dropout's KL divergence in the loss", not_negative)
    information_max_alpha: float = setting(0.7, "largest size of information_dropout's noise", positive)


class InformationDropout(Perturbation):
    """The output of relu is multiplied by exp(alpha n), n ~ N(0, 1), alpha = 0.001 + max_alpha * sigmoid(conv(x; phi))
    for the block's input x; and beta times the KL divergence from the log-uniform prior is added to the loss:
    -ln(alpha / (0.001 + max_alpha)), summed over pixels and channels and averaged over images.

    Source: Achille and Soatto, "Information Dropout" (PAMI 2018), github.com/ucla-vision/information-dropout, cifar.py.
    As there, alpha comes from a convolution without batch norm in each block, a test has no noise, and the mean of the
    factor, exp(alpha^2 / 2), is not divided out. information_max_alpha: max_alpha. information_beta: beta; the source
    divides 3 by its 50,000 training images, and as a task has no such number, the quotient is the setting.

    As in VIB, the support set has noise in training and in testing, the query set in training. In the source
    convolutions with a stride have noise, here all four blocks, which pool.
    """

    summary = "log-normal noise of a learned, input-dependent size after each block"
    settings_class = InformationDropoutSettings
    settings: InformationDropoutSettings
    hooks = frozenset({"mask"})
    random_in = SUPPORT | {TRAINING_QUERY}

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    def mask(self, params, theta, layer, x, shape, draw):
        if draw.where not in self.random_in:
            return None, 0.0
        max_alpha = self.settings.information_max_alpha
        alpha = 0.001 + max_alpha * tf.sigmoid(layers.conv(x, *kernel_and_bias(params, f"phi/{layer}")))
        divergence = tf.reduce_sum(math.log(0.001 + max_alpha) - tf.math.log(alpha), [2, 3, 4])
        tasks, n, *pixels = shape
        factor = tf.reshape(tf.exp(alpha * draw(layer, shape)), [tasks, draw.samples, n // draw.samples, *pixels])
        return factor, self.settings.information_beta * draw.mean(divergence)
