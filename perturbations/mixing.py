"""Images of a set mixed with each other, and their labels with them.

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

GRID = 4096  # places at which the distribution of a share is tabulated


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
    """lambda x + (1 - lambda) x[p] in place of the images x, and lambda y + (1 - lambda) y[p] in place of their labels,
    with lambda ~ Beta(alpha, alpha): one lambda and one permutation p of the images a set, an inner step and a noise
    sample. The loss is the cross entropy with mixed labels, which is that mixture of two cross entropies.

    mix_alpha: 0 mixes nothing. mix_set: `support`: in the inner loop, where a task is adapted to, in training and in
    testing; `query`: in the outer loop, in meta-training alone; `both`.

    No source mixes the support set inside MAML's steps: that it does so in testing, too, is declared here, because
    there the inner loop is the training of a task. MetaMix mixes the query set with the support set, and needs as
    many images of both; here it is mixed with itself. Accuracy is that of the images' own labels.
    """

    summary = "images of a set are mixed, and their labels"
    settings_class = MixupSettings
    settings: MixupSettings
    hooks = frozenset({"inputs", "labels"})
    sources_alpha = 1.0
    places = ("conv1",)  # the layers of which one, chosen anew each time, has its inputs mixed

    @property
    def alpha(self) -> float:
        return self.sources_alpha if self.settings.mix_alpha is None else self.settings.mix_alpha

    @property
    def random_in(self) -> frozenset[str]:
        """The passes whose set is mixed."""
        if not self.alpha:
            return frozenset()
        query = frozenset({TRAINING_QUERY})
        return {"support": SUPPORT, "query": query, "both": SUPPORT | query}[self.settings.mix_set]

    def mixture(self, draw: Draw, rows: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Of a pass of `rows` images a noise sample: the matrices that mix them, [T,samples,rows,rows], and the number
        of the layer at which they do, [T,samples]."""
        z = draw("conv1", [None, draw.samples, 2 + rows])  # one draw: draws of other shapes begin with the same numbers
        uniform = 0.5 * (1 + tf.math.erf(z[..., :2] * np.sqrt(0.5)))
        share = beta_quantile(self.alpha, uniform[..., 0])[..., None, None]
        permutation = tf.one_hot(tf.argsort(z[..., 2:]), rows, dtype=z.dtype)
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
        y = matrix @ tf.reshape(y, [draw.samples, rows, -1])
        return tf.reshape(y, [y.shape[0], draw.samples * rows, -1])


class ManifoldMixup(Mixup):
    """Mixup of what one of the four blocks takes, which is chosen at random a set, an inner step and a noise sample:
    the images, or the outputs of the first, second or third block.

    The source's residual network has three such places, and its loss on labels of many classes is a binary cross
    entropy of the softmax; here it is mixup's.
    """

    summary = "as mixup, at the images or behind one of the first three blocks"
    sources_alpha = 2.0
    places = ("conv1", "conv2", "conv3", "conv4")


def beta_quantile(alpha: float, probability: tf.Tensor) -> tf.Tensor:
    """The quantile of Beta(alpha, alpha), interpolated between GRID places; probability in [0, 1]."""
    from scipy.special import betaincinv

    table = tf.constant(betaincinv(alpha, alpha, np.linspace(0, 1, GRID + 1)), probability.dtype)
    place = probability * GRID
    before = tf.minimum(tf.cast(place, tf.int32), GRID - 1)
    low, high = tf.gather(table, before), tf.gather(table, before + 1)
    return low + (high - low) * (place - tf.cast(before, place.dtype))
