"""Meta-dropout's noise. Source of the equations: Lee, Nam, Yang and Hwang, ICLR 2020 (see model.py)."""

from __future__ import annotations

import layers
from parameters import conv_net
from perturbations.base import Perturbation


class LearnedNoise(Perturbation):
    """Meta-dropout: multiplicative noise on the convolutions, additive on the logits, both input-dependent.

    block: a ~ N(conv(x; phi), 1) on the support, a = conv(x; phi) on the query; mu * softplus(a).
    head: N(logits, softplus(phi_w x + phi_b)) on the support, a standard deviation shared by the classes.
    """

    summary = "learned (Meta-dropout)"
    stochastic = in_testing = True

    def parameters(self, image_shape, channels):
        return conv_net("phi", image_shape, channels, 1)

    def factor(self, params, layer, x, draw):
        a = layers.conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"])
        if draw is not None and not draw.query:
            a += draw(layer, a.shape)
        return layers.softplus(a)

    def block(self, params, layer, x, mu, draw):
        return mu * self.factor(params, layer, x, draw), 0.0

    def head(self, params, x, logits, draw):
        if draw is None or draw.query:
            return logits, 0.0
        sigma = layers.softplus(layers.dense(x, params["phi/dense_w"], params["phi/dense_b"]))
        return logits + sigma * draw("dense", logits.shape), 0.0
