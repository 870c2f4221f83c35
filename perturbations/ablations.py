"""What is left of Meta-dropout's noise when one part of it is taken away, or replaced by something simpler.

Lee, Nam, Yang and Hwang (ICLR 2020) compare such kinds of noise and released no code of them. The names are the
paper's; what they stand for is declared here, and each class says what its source leaves open. As in Meta-dropout the
support set is perturbed wherever a task is adapted to, in training and in testing, and the query set never.
"""

from __future__ import annotations

import math

import layers
from lazy import tf
from parameters import BLOCKS, Parameter, constant, conv_blocks, conv_net
from perturbations.base import Perturbation
from perturbations.draws import SUPPORT
from perturbations.noise import LearnedNoise

SMALL = 0.01  # what a learned standard deviation of additive noise begins with: half of that of a kernel's weights


def before_softplus(value: float) -> float:
    """The number whose softplus is `value`."""
    return math.log(math.expm1(value))


class FixedNoise(LearnedNoise):
    """Nothing is learned: Meta-dropout's noise where phi is 0, as it is at the beginning.

    block: mu * softplus(N(0, 1)) on the support, mu * softplus(0) on the query. head: N(logits, softplus(0)) on the
    support.
    """

    summary = "as Meta-dropout's at its beginning, not learned"

    def parameters(self, image_shape, channels):
        return {}

    def mean(self, params, layer, x):
        return 0.0

    def head_deviation(self, params, x):
        return math.log(2)


class IndependentNoise(LearnedNoise):
    """Learned, and independent of the input: of phi the biases alone, a mean for every channel of a block and one
    deviation for the logits.

    The source says that the mean is trainable and does not see the input; that it has no place, either, is declared
    here: a convolution of no input has its bias everywhere.
    """

    summary = "learned, a mean for every channel, which does not see the input"

    def parameters(self, image_shape, channels):
        declared = conv_net("phi", image_shape, channels, 1)
        return {name: parameter for name, parameter in declared.items() if name.endswith("_b")}

    def mean(self, params, layer, x):
        return params[f"phi/{layer}_b"]

    def head_deviation(self, params, x):
        return layers.softplus(params["phi/dense_b"])


class WeightNoise(Perturbation):
    """Gaussian noise on the weights of theta, of a learned standard deviation for every weight, softplus(phi).

    One draw a pass (and noise sample), shared by its images; biases have none. The deviations, 0.01 at the beginning,
    are meta-learned and not adapted; the head's are shared by the classes. The source says no more than the name.
    """

    summary = "Gaussian on the weights, of learned sizes"
    hooks = frozenset({"block", "head"})
    random_in = SUPPORT

    def parameters(self, image_shape, channels):
        begins = constant(before_softplus(SMALL))
        declared = conv_net("phi", image_shape, channels, 1)
        return {name: Parameter(p.shape, begins) for name, p in declared.items() if name.endswith("_w")}

    def noise(self, params, layer, x, draw, columns):
        """x [T,N,...] with the samples on the task axis, and as many draws of the layer's noise, with `columns`
        outputs."""
        tasks, rows, *rest = x.shape
        deviation = layers.softplus(params[f"phi/{layer}_w"])
        drawn = draw(layer, [tasks, draw.samples, *deviation.shape[:-1], columns])
        x = tf.reshape(x, [tasks * draw.samples, rows // draw.samples, *rest])
        return x, deviation * tf.reshape(drawn, [x.shape[0], *drawn.shape[2:]])

    def block(self, params, theta, layer, x, mu, draw):
        if draw.where not in SUPPORT:
            return mu, 0.0
        x, kernel = self.noise(params, layer, x, draw, mu.shape[-1])
        change = layers.conv(x, kernel, tf.zeros([x.shape[0], mu.shape[-1]], kernel.dtype))
        return mu + tf.reshape(change, mu.shape), 0.0

    def head(self, params, theta, x, logits, draw):
        if draw.where not in SUPPORT:
            return logits, 0.0
        x, weights = self.noise(params, "dense", x, draw, logits.shape[-1])
        change = layers.dense(x, weights, tf.zeros([x.shape[0], logits.shape[-1]], weights.dtype))
        return logits + tf.reshape(change, logits.shape), 0.0


class AdditiveNoise(LearnedNoise):
    """Added to the convolutions in place of multiplied: N(mu, softplus(conv(x; phi))) on the support, mu on the query.

    The deviation begins at 0.01 where it is declared here that it is one (in a reproduction of 2021 it is
    0.01 conv(x; phi), which may be negative). The head's noise is Meta-dropout's.
    """

    summary = "learned and input-dependent, added to the convolutions"

    def parameters(self, image_shape, channels):
        begins = Parameter((channels,), constant(before_softplus(SMALL)))
        biases = (f"phi/conv{block}_b" for block in range(1, BLOCKS + 1))
        return super().parameters(image_shape, channels) | dict.fromkeys(biases, begins)

    def factor(self, params, theta, layer, x, mu, draw):
        return None

    def block(self, params, theta, layer, x, mu, draw):
        if draw.where not in SUPPORT:
            return mu, 0.0
        return mu + layers.softplus(self.mean(params, layer, x)) * draw(layer, mu.shape), 0.0


class DeterministicFactor(Perturbation):
    """mu * softplus(conv(x; phi)) on the support, too: what Meta-dropout does on the query. Nothing is drawn, and the
    logits are left alone, so that phi has no part for the head."""

    summary = "Meta-dropout's factor without its noise"
    hooks = frozenset({"block"})

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    def factor(self, params, theta, layer, x, mu, draw):
        return layers.softplus(layers.conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"]))

    def block(self, params, theta, layer, x, mu, draw):
        return mu * self.factor(params, theta, layer, x, mu, draw), 0.0


class LearnedVariance(LearnedNoise):
    """phi gives the standard deviation of a, too: a ~ N(conv(x; phi), softplus(conv(x; phi'))^2) on the support.

    It begins at Meta-dropout's 1; the source does not say how it is kept positive, nor where it begins.
    """

    summary = "learned, with a learned deviation in place of 1"

    def parameters(self, image_shape, channels):
        declared, more = super().parameters(image_shape, channels), {}
        for name, parameter in conv_blocks("phi", image_shape, channels).items():
            begins = constant(before_softplus(1.0)) if name.endswith("_b") else parameter.begins
            more[name.replace("phi/", "phi/deviation_")] = Parameter(parameter.shape, begins)
        return declared | more

    def deviation(self, params, layer, x):
        w, b = (params[f"phi/deviation_{layer}_{part}"] for part in "wb")
        return layers.softplus(layers.conv(x, w, b))


class ExtraParameters(Perturbation):
    """phi as plain further weights, without noise: mu + softplus(conv(x; phi)), on the support and the query.

    As many parameters as `deterministic`, which differs from it by multiplying. They are meta-learned and not adapted,
    as phi is. Without the softplus they would add nothing: a sum of two convolutions is one. The source says only that
    MAML had as many parameters.
    """

    summary = "Meta-dropout's parameters as further weights, without noise"
    hooks = frozenset({"block"})

    def parameters(self, image_shape, channels):
        return conv_blocks("phi", image_shape, channels)

    def block(self, params, theta, layer, x, mu, draw):
        w, b = (params[f"phi/{layer}_{part}"] for part in "wb")
        return mu + layers.softplus(layers.conv(x, w, b)), 0.0
