"""Meta-dropout's noise. Source of the equations: Lee, Nam, Yang and Hwang, ICLR 2020 (as in model.py)."""

from __future__ import annotations

import layers
from lazy import tf
from parameters import conv_net, kernel_and_bias
from perturbations.base import Elementwise, Perturbation
from perturbations.draws import SUPPORT


def gated(mu: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """Return mu * softplus(a)."""
    return mu * layers.softplus(a)


def noisily_gated(mu: tf.Tensor, a: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
    """Return mu * softplus(a + z)."""
    return mu * layers.softplus(a + z)


class LearnedNoise(Perturbation):
    """Meta-dropout: multiplicative noise on the convolutions, additive on the logits, both input-dependent.

    block: a ~ N(conv(x; phi), 1) on the support, a = conv(x; phi) on the query; mu * softplus(a).
    head: logits + softplus(phi_w x + phi_b) * N(0, 1) on the support; all classes share the standard deviation.
    """

    summary = "learned (Meta-dropout)"
    hooks = frozenset({"block", "head"})
    random_in = SUPPORT

    def parameters(self, image_shape, channels):
        return conv_net("phi", image_shape, channels, 1)

    def elementwise(self, params, layer, shape, draw):
        phi = (kernel_and_bias(params, f"phi/{layer}"),)
        if draw.where not in SUPPORT:
            return Elementwise(gated, phi)
        return Elementwise(noisily_gated, phi, (draw(layer, shape),))

    def factor(self, params, theta, layer, x, mu, draw):
        return self.elementwise(params, layer, mu.shape, draw)(tf.ones_like(mu), x)

    def head_deviation(self, params, x):
        """Standard deviation of the logits of the features x [T,N,D]: [T,N,1], or a number."""
        return layers.softplus(layers.dense(x, *kernel_and_bias(params, "phi/dense")))

    def head(self, params, theta, x, logits, draw):
        if draw.where not in SUPPORT:
            return logits, 0.0
        return logits + self.head_deviation(params, x) * draw("dense", logits.shape), 0.0
