"""An embedding of images: the common part of the learners that classify by embeddings."""

from __future__ import annotations

import layers
import pieces
from lazy import tf
from model import Learner, rows
from parameters import BLOCKS, Parameter, Params, conv_blocks, kernel_and_bias, offsets
from perturbations.base import Elementwise
from perturbations.draws import UNPERTURBED, Draw, Noise


class Embedding(Learner):
    """MAML's body, whose last block's output is the embedding of an image; a subclass makes a classifier of it.

    Batch norm takes its statistics from the set of images at hand, in testing too. A test may have any number of
    classes.
    """

    hooks = frozenset()
    any_way = inspectable = True

    def parameters(self) -> dict[str, Parameter]:
        return conv_blocks("theta", self.image_shape, self.channels) | offsets(self.channels)

    def activations(self, params: Params, adapted, x, shares=None, draw: Draw = UNPERTURBED) -> dict[str, tf.Tensor]:
        """Return each block's output, [T,N,D]; the last one is `features`. shares: as in `classify`. draw: says which
        set x is."""
        outputs = {}
        for layer in (f"conv{block}" for block in range(1, BLOCKS + 1)):
            x, weights = layers.rounded(x, self.bf16), kernel_and_bias(params, f"theta/{layer}")
            offset = params[f"{layer}_bn/beta"]
            with draw.scope(layer):
                if shares is None and pieces.worthwhile(x, weights[0]):
                    x = pieces.block(x, weights, Elementwise(), offset)
                else:
                    mu = layers.conv(x, *weights)
                    x = layers.norm_relu_pool(mu, offset, samples=1, stop_bn_backward=False, shares=shares)
            outputs[layer] = rows(x)
        return outputs

    def classify(self, params: Params, adapted, x: tf.Tensor, noise: Noise | None = None, shares=None):
        return layers.dense(self.embed(params, x, shares), *self.linear(adapted)), 0.0

    def features(self, params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        return self.embed(params, x, draw.shares)

    def embed(self, params: Params, x: tf.Tensor, shares=None, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """Return the last block's output [T,N,D] for x [T,N,H,W,C]. shares, draw: as in `activations`."""
        return self.activations(params, None, x, shares, draw)[f"conv{BLOCKS}"]
