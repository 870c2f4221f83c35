"""Meta-learned features for ridge regression (R2-D2)."""

from __future__ import annotations

import numpy as np

import layers
from lazy import tf
from learners import heads
from learners.embedding import Embedding
from model import Params
from parameters import Parameter, constant
from perturbations.draws import UNPERTURBED_SUPPORT, Noise

SCALE = 10.0  # the logits' factor before training


class Ridge(Embedding):
    """Ridge regression of the support set's labels on its embeddings; the gradient of the outer loss goes through the
    solution of the regression.

    Source: Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with differentiable closed-form solvers" (ICLR
    2019), R2-D2. The penalty's factor and the logits' factor are meta-learned, as logarithms. The
    source also learns a number that is added to all logits of an image; it has no effect on the probabilities.

    Differs from the source: the embedding is the last block's output of MAML's body, which is smaller, and no output of
    an earlier block; the support and the query set are each normalised by themselves, in testing, too (the source: by
    both together in training, by running averages in testing); tasks have the same number of classes and images in
    training and in testing; the penalty stands beside the sum of the errors, not their mean; its factor is initialized
    with 1 and the logits' factor with SCALE, because the embeddings are shorter.
    """

    def parameters(self) -> dict[str, Parameter]:
        """Return the embedding's parameters, and the logarithms of the two factors."""
        logarithms = {"log_penalty": 0.0, "log_scale": float(np.log(SCALE))}
        return super().parameters() | {f"ridge/{name}": Parameter((), constant(v)) for name, v in logarithms.items()}

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return the head: weights [T,D,way] and biases [T,way]."""
        shares = layers.image_shares(y, layers.class_shares(y))
        h = self.embed(params, x, shares, UNPERTURBED_SUPPORT)
        head = heads.ridge(h, y, shares, tf.exp(params["ridge/log_penalty"]))
        return tuple(tf.exp(params["ridge/log_scale"]) * part for part in head), 0.0
