"""Ablations of Meta-dropout's noise: one part of it is removed, or replaced by something simpler.

Lee, Nam, Yang and Hwang (ICLR 2020) compare such kinds of noise without publishing their code. The names are the
paper's; each class says what the paper leaves open. Where a class has noise, the support set has it in training
and in testing, and the query set has none, as in Meta-dropout.
"""

from __future__ import annotations

import math

import layers
from lazy import tf
from parameters import BLOCKS, Initializer, Parameter, constant, conv_blocks, conv_net, kernel_and_bias
from perturbations.base import Elementwise, Perturbation
from perturbations.draws import SUPPORT
from perturbations.noise import LearnedNoise, gated

SMALL = 0.01  # initial standard deviation of additive noise: half the deviation of a kernel's initial weights


def softplus_is(value: float) -> Initializer:
    """Initialize a parameter with the number whose softplus is `value`."""
    return constant(math.log(math.expm1(value)))


def half_open(mu):
    """Return mu * softplus(0)."""
    return mu * math.log(2)


def noise_added(mu, a, z):
    """Return mu + softplus(a) * z."""
    return mu + layers.softplus(a) * z


def gated_by_scaled_noise(mu, a, d, z):
    """Return mu * softplus(a + softplus(d) * z)."""
    return mu * layers.softplus(a + layers.softplus(d) * z)


def added(mu, a):
    """Return mu + softplus(a)."""
    return mu + layers.softplus(a)


class FixedNoise(LearnedNoise):
    """Meta-dropout's noise with phi = 0: the noise has no learned parameters.

    block: mu * softplus(N(0, 1)) on the support, mu * softplus(0) on the query. head: logits + softplus(0) * N(0, 1) on
    the support.
    """

    summary = "Meta-dropout's noise as it is before training, not learned"

    def parameters(self, image_shape, channels):
        return {}

    def elementwise(self, params, layer, shape, draw):
        if draw.where not in SUPPORT:
            return Elementwise(half_open)
        return Elementwise(gated, maps=(draw(layer, shape),))

    def head_deviation(self, params, x):
        return math.log(2)


class IndependentNoise(LearnedNoise):
    """Meta-dropout's noise with the biases of phi alone: a mean per channel of a block, a deviation for the logits.

    The paper says that the mean is trained and independent of the input. Decided here: it is the same for all pixels.
    """

    summary = "learned, a mean per channel, independent of the input"

    def parameters(self, image_shape, channels):
        declared = conv_net("phi", image_shape, channels, 1)
        return {name: parameter for name, parameter in declared.items() if name.endswith("_b")}

    def factor(self, params, theta, layer, x, mu, draw):
        a = params[f"phi/{layer}_b"]
        return layers.softplus(a + draw(layer, mu.shape) if draw.where in SUPPORT else a)

    def block(self, params, theta, layer, x, mu, draw):
        return mu * self.factor(params, theta, layer, x, mu, draw), 0.0

    def head_deviation(self, params, x):
        return layers.softplus(params["phi/dense_b"])


class WeightNoise(Perturbation):
    """Gaussian noise on the weights of theta, with a learned standard deviation per weight, softplus(phi).

    All images of a pass (and noise sample) share one draw; biases have no noise. The deviations are initialized with
    0.01, meta-learned and not adapted; all classes share the head's. The paper gives the name alone.
    """

    summary = "Gaussian on the weights, with learned deviations"
    hooks = frozenset({"block", "head"})
    random_in = SUPPORT

    def parameters(self, image_shape, channels):
        declared = conv_net("phi", image_shape, channels, 1)
        return {name: Parameter(p.shape, softplus_is(SMALL)) for name, p in declared.items() if name.endswith("_w")}

    def block(self, params, theta, layer, x, mu, draw):
        return self.output(params, layer, layers.conv, x, mu, draw), 0.0

    def head(self, params, theta, x, logits, draw):
        return self.output(params, "dense", layers.dense, x, logits, draw), 0.0

    def output(self, params, layer, product, x, y, draw):
        """Return the output of a layer with noise on its weights: y, the output without noise, plus the product of the
        input x and the noise."""
        if draw.where not in SUPPORT:
            return y
        (tasks, n, *rest), samples = x.shape, draw.samples
        deviation = layers.softplus(params[f"phi/{layer}_w"])
        drawn = draw(layer, [tasks, samples, *deviation.shape[:-1], y.shape[-1]])
        noise = deviation * tf.reshape(drawn, [tasks * samples, *drawn.shape[2:]])
        no_bias = tf.zeros([tasks * samples, y.shape[-1]], noise.dtype)
        return y + tf.reshape(product(tf.reshape(x, [tasks * samples, n // samples, *rest]), noise, no_bias), y.shape)


class AdditiveNoise(LearnedNoise):
    """Noise is added to the convolutions: mu + softplus(conv(x; phi)) * N(0, 1) on the support, mu on the query.

    Decided here: the softplus, and that the deviation is 0.01 before training. (In a reproduction of 2021 the deviation
    is 0.01 conv(x; phi), which may be negative.) The head's noise is Meta-dropout's.
    """

    summary = "learned and input-dependent, added to the convolutions"

    def parameters(self, image_shape, channels):
        biases = (f"phi/conv{block}_b" for block in range(1, BLOCKS + 1))
        bias = Parameter((channels,), softplus_is(SMALL))
        return super().parameters(image_shape, channels) | dict.fromkeys(biases, bias)

    def factor(self, params, theta, layer, x, mu, draw):
        return None

    def elementwise(self, params, layer, shape, draw):
        if draw.where not in SUPPORT:
            return Elementwise()
        phi = (kernel_and_bias(params, f"phi/{layer}"),)
        return Elementwise(noise_added, phi, (draw(layer, shape),))


class DeterministicFactor(Perturbation):
    """mu * softplus(conv(x; phi)) on the support and the query: Meta-dropout's factor of the query. There is no noise,
    and phi has no part for the head."""

    summary = "Meta-dropout's factor without its noise"
    hooks = frozenset({"block"})

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    factor = LearnedNoise.factor

    def elementwise(self, params, layer, shape, draw):
        return Elementwise(gated, (kernel_and_bias(params, f"phi/{layer}"),))


class LearnedVariance(LearnedNoise):
    """The standard deviation of a is learned, too: a ~ N(conv(x; phi), softplus(conv(x; phi'))^2) on the support.

    Decided here: the softplus, and that the deviation is Meta-dropout's 1 before training.
    """

    summary = "learned, with a learned deviation in place of 1"

    def parameters(self, image_shape, channels):
        declared, more = super().parameters(image_shape, channels), {}
        for name, parameter in conv_blocks("phi", image_shape, channels).items():
            initializer = softplus_is(1.0) if name.endswith("_b") else parameter.initializer
            more[name.replace("phi/", "phi/deviation_")] = Parameter(parameter.shape, initializer)
        return declared | more

    def elementwise(self, params, layer, shape, draw):
        if draw.where not in SUPPORT:
            return super().elementwise(params, layer, shape, draw)
        kernels = tuple(kernel_and_bias(params, f"phi/{name}") for name in (layer, f"deviation_{layer}"))
        return Elementwise(gated_by_scaled_noise, kernels, (draw(layer, shape),))


class ExtraParameters(Perturbation):
    """phi as additional weights without noise: mu + softplus(conv(x; phi)), on the support and the query.

    `deterministic` has the same parameters and multiplies. They are meta-learned and not adapted. Without the softplus
    they would add nothing: the sum of two convolutions is a convolution. The paper says only that this MAML has as many
    parameters as Meta-dropout.
    """

    summary = "Meta-dropout's parameters as additional weights, without noise"
    hooks = frozenset({"block"})

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    def elementwise(self, params, layer, shape, draw):
        return Elementwise(added, (kernel_and_bias(params, f"phi/{layer}"),))
