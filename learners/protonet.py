"""Prototypical Networks."""

from __future__ import annotations

from dataclasses import dataclass

import layers
from lazy import tf
from learners import heads
from learners.embedding import Embedding
from model import Params
from perturbations.draws import UNPERTURBED_SUPPORT, Noise
from settings import Settings, positive, setting, whole


@dataclass(frozen=True)
class ProtoNetSettings(Settings):
    train_way: int | None = setting(
        None, "classes of a Prototypical Network's training tasks (default: --way)", whole(2), training_only=True
    )
    normalise: str = setting(
        "apart",
        "how batch norm normalises a Prototypical Network's support and query set: each by its own statistics, or "
        "together, as its authors' code does",
        choices=["apart", "together"],
        overridable_in=["test"],
    )
    temperature: float = setting(1.0, "divisor of a Prototypical Network's squared distances", positive)


class ProtoNet(Embedding):
    """An image has the class whose mean embedding is nearest, by the squared Euclidean distance.

    Source: Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017).
    train_way: classes of a task in training; the source has more than in testing (60 for Omniglot).

    normalise: `apart`: batch norm normalises the support and the query set each by its own statistics. `together`: it
    normalises both by the statistics of both, as the source's code does in training; then the class means depend on the
    query images, and there is no fixed linear head that could be exported.

    temperature: the squared distances, divided by it, are the negative logits; 1 in the source. The more numbers an
    embedding has, the larger are the distances and the first losses: with miniImageNet's 800 numbers the first loss is
    136, and only after hundreds of updates, when the loss is small, the accuracy begins to rise. Source: Ye, Hu, Zhan
    and Sha, "Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions" (CVPR 2020), whose authors take 64
    for miniImageNet.

    Differs from the source: batch norm takes its statistics from the images at hand in testing, too, and has no gain;
    normalise is `apart` by default.
    """

    settings_class = ProtoNetSettings
    settings: ProtoNetSettings

    @property
    def train_way(self) -> int:
        return self.settings.train_way or self.way

    @property
    def inspectable(self) -> bool:
        return self.settings.normalise == "apart"

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return the class means [T,way,D]; with normalise `together`, the support set, which `classify` averages."""
        if self.settings.normalise == "together":
            return {"x": x, "y": tf.broadcast_to(y, [x.shape[0], *y.shape])}, 0.0
        shares = layers.image_shares(y, layers.class_shares(y))
        return layers.class_means(self.embed(params, x, shares, UNPERTURBED_SUPPORT), y), 0.0

    def classify(self, params: Params, adapted, x: tf.Tensor, noise: Noise | None = None, shares=None):
        if self.settings.normalise == "apart":
            return super().classify(params, adapted, x, noise, shares)
        support = adapted["x"].shape[1]
        if shares is not None:  # statistics are taken from x alone
            shares = tf.pad(shares, [[support, 0]])
        h = self.embed(params, tf.concat([adapted["x"], x], 1), shares)
        means = layers.class_means(h[:, :support], adapted["y"][0])
        return layers.dense(h[:, support:], *self.linear(means)), 0.0

    def linear(self, adapted) -> tuple[tf.Tensor, tf.Tensor]:
        weights, biases = heads.of_means(adapted)
        return weights / self.settings.temperature, biases / self.settings.temperature
