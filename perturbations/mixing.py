"""Mixtures of the images of a set, and of their labels.

Sources: Zhang, Cisse, Dauphin and Lopez-Paz, "mixup" (ICLR 2018), github.com/facebookresearch/mixup-cifar10; Verma and
others, "Manifold Mixup" (ICML 2019), github.com/vikasverma1077/manifold_mixup; Yao and others, "MetaMix" (ICML 2021),
github.com/huaxiuyao/MetaMix, for the query set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lazy import tf
from perturbations.base import Perturbation
from perturbations.draws import SUPPORT, TRAINING_QUERY, Draw
from settings import Settings, not_negative, setting

GRID = 4096  # intervals of the table of the distribution of a share
FAR = 100.0  # more than the distance of any two numbers from N(0, 1)


@dataclass(frozen=True)
class MixupSettings(Settings):
    mix_alpha: float | None = setting(
        None,
        "shares of a mixture are Beta(X, X); 0: nothing is mixed (default: 1 for mixup, 2 for manifold_mixup, as in "
        "their sources)",
        not_negative,
    )
    mix_set: str = setting(
        "support",
        "what is mixed: the support set in the inner loop, the query set in the outer loop, or both",
        choices=["support", "query", "both"],
    )


class Mixup(Perturbation):
    """lambda x + (1 - lambda) x[p] replaces the images x, and lambda y + (1 - lambda) y[p] their labels, with
    lambda ~ Beta(alpha, alpha): one lambda and one permutation p of the images per set, inner step and noise sample.
    The loss is the cross entropy with mixed labels, which is the same mixture of two cross entropies.

    mix_alpha: alpha; 0 mixes nothing. mix_set: `support`: the support set in the inner loop, in training and testing;
    `query`: the query set in the outer loop of meta-training; `both`.

    No source mixes the support set in MAML's inner steps. Decided here: it is mixed in testing, too, because the inner
    loop is the training of a task. MetaMix mixes the query set with the support set, and needs as many images of both;
    here the query set is mixed with itself. Accuracy compares the logits with the images' own labels. An image whose
    weight in batch norm's statistics is 0 is no partner of others (`Classifier` leaves pictures out in this way); a
    mixture has the weight of its first image.
    """

    summary = "images of a set are mixed, and their labels"
    settings_class = MixupSettings
    settings: MixupSettings
    hooks = frozenset({"inputs", "labels"})
    sources_alpha = 1.0
    places = ("conv1",)  # a layer drawn from these has its inputs mixed

    @property
    def alpha(self) -> float:
        return self.sources_alpha if self.settings.mix_alpha is None else self.settings.mix_alpha

    @property
    def random_in(self) -> frozenset[str]:
        """Passes whose set is mixed."""
        if not self.alpha:
            return frozenset()
        query = frozenset({TRAINING_QUERY})
        return {"support": SUPPORT, "query": query, "both": SUPPORT | query}[self.settings.mix_set]

    def mixture(self, draw: Draw, rows: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the matrices that mix the `rows` images of each noise sample of a pass, [T,samples,rows,rows], and the
        number of the layer at which they are mixed, [T,samples]."""
        # One draw for all: two draws with the same key would share random bits.
        z = draw("conv1", [None, draw.samples, 2 + rows])
        uniform = 0.5 * (1 + tf.math.erf(z[..., :2] * np.sqrt(0.5)))
        share = beta_quantile(self.alpha, uniform[..., 0])[..., None, None]
        permutation = tf.one_hot(permuted(z[..., 2:], draw.shares), rows, dtype=z.dtype)
        place = tf.minimum(tf.cast(uniform[..., 1] * len(self.places), tf.int32), len(self.places) - 1)
        return share * tf.eye(rows, dtype=z.dtype) + (1 - share) * permutation, place

    def inputs(self, params, theta, layer, x, draw):
        if layer not in self.places or draw.where not in self.random_in:
            return x, 0.0
        tasks, n, *rest = x.shape
        rows = n // draw.samples
        matrix, place = self.mixture(draw, rows)
        here = (place == self.places.index(layer))[..., None, None]
        matrix = tf.where(here, matrix, tf.eye(rows, dtype=matrix.dtype))
        return tf.reshape(matrix @ tf.reshape(x, [tasks, draw.samples, rows, -1]), [tasks, n, *rest]), 0.0

    def labels(self, y, draw):
        if draw.where not in self.random_in:
            return y
        rows = y.shape[0] // draw.samples
        matrix, _ = self.mixture(draw, rows)
        # Not `matrix @ y`: if it has to repeat y for several tasks, TensorFlow 2.21 leaves rows uncomputed on a CPU.
        y = tf.einsum("tsmn,snk->tsmk", matrix, tf.reshape(y, [draw.samples, rows, -1]))
        return tf.reshape(y, [y.shape[0], draw.samples * rows, -1])


class ManifoldMixup(Mixup):
    """Mixup of the input of one of the four blocks, which is drawn per set, inner step and noise sample: the images, or
    the output of the first, second or third block.

    The source's residual network has three such places, and its loss is a binary cross entropy of the softmax; here the
    loss is mixup's.
    """

    summary = "as mixup, of the images or of the output of one of the first three blocks"
    sources_alpha = 2.0
    places = ("conv1", "conv2", "conv3", "conv4")


def permuted(z: tf.Tensor, shares: tf.Tensor | None) -> tf.Tensor:
    """Return the order of random numbers z [...,n]: a permutation of the images that have a weight, and one of those
    that have none. shares: the images' weights [n], or None if all have one."""
    if shares is None:
        return tf.argsort(z)
    without = tf.cast(shares <= 0, z.dtype)
    # In both lists the images with a weight come first: in random order, and by their number.
    shuffled = tf.argsort(z + FAR * without)
    by_number = tf.argsort(tf.range(z.shape[-1], dtype=z.dtype) + z.shape[-1] * without)
    return tf.gather(shuffled, tf.argsort(by_number), axis=-1)


def beta_quantile(alpha: float, probability: tf.Tensor) -> tf.Tensor:
    """Quantile of Beta(alpha, alpha) for a probability in [0, 1], interpolated in a table of GRID intervals."""
    from scipy.special import betaincinv

    table = tf.constant(betaincinv(alpha, alpha, np.linspace(0, 1, GRID + 1)), probability.dtype)
    place = probability * GRID
    before = tf.minimum(tf.cast(place, tf.int32), GRID - 1)
    low, high = tf.gather(table, before), tf.gather(table, before + 1)
    return low + (high - low) * (place - tf.cast(before, place.dtype))
