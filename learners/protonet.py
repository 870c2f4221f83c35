"""Prototypical Networks."""

from __future__ import annotations

from dataclasses import dataclass

import layers
import pieces
from lazy import tf
from model import Learner, rows
from parameters import BLOCKS, Parameter, Params, conv_blocks, kernel_and_bias, offsets
from perturbations.base import Elementwise
from perturbations.draws import UNPERTURBED, UNPERTURBED_SUPPORT, Draw, Noise
from settings import Settings, setting, whole


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


class ProtoNet(Learner):
    """An image has the class whose mean embedding is nearest, by the squared Euclidean distance.

    Source: Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017). As a linear head:
    -|h - mu|^2 = 2 mu . h - |mu|^2 - |h|^2, without the last term, which is the same for all classes.
    train_way: classes of a task in training; the source has more than in testing (60 for Omniglot).

    normalise: `apart`: batch norm normalises the support and the query set each by its own statistics. `together`: it
    normalises both by the statistics of both, as the source's code does in training; then the class means depend on the
    query images, and there is no fixed linear head that could be exported.

    The embedding is MAML's body. Differs from the source: batch norm takes its statistics from the images at hand in
    testing, too, and has no gain; normalise is `apart` by default.
    """

    settings_class = ProtoNetSettings
    settings: ProtoNetSettings
    hooks = frozenset()
    any_way = True

    @property
    def train_way(self) -> int:
        return self.settings.train_way or self.way

    @property
    def inspectable(self) -> bool:
        return self.settings.normalise == "apart"

    def parameters(self) -> dict[str, Parameter]:
        return conv_blocks("theta", self.image_shape, self.channels) | offsets(self.channels)

    def activations(self, params: Params, adapted, x, shares=None, draw: Draw = UNPERTURBED) -> dict[str, tf.Tensor]:
        """Return each block's output, [T,N,D]; the last one is `features`. shares: as in `classify`. draw: which set
        it is."""
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

    def features(self, params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        return self.embed(params, x)

    def embed(self, params: Params, x: tf.Tensor, shares=None, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """Return the last block's output [T,N,D] for x [T,N,H,W,C]. shares, draw: as in `activations`."""
        return self.activations(params, None, x, shares, draw)[f"conv{BLOCKS}"]

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return the class means [T,way,D]; with normalise `together`, the support set, which `classify` averages."""
        if self.settings.normalise == "together":
            return {"x": x, "y": tf.broadcast_to(y, [x.shape[0], *y.shape])}, 0.0
        shares = layers.image_shares(y, layers.class_shares(y))
        return layers.class_means(self.embed(params, x, shares, UNPERTURBED_SUPPORT), y), 0.0

    def classify(self, params: Params, adapted, x: tf.Tensor, noise: Noise | None = None, shares=None):
        if self.settings.normalise == "apart":
            return layers.dense(self.embed(params, x, shares), *self.linear(adapted)), 0.0
        support = adapted["x"].shape[1]
        if shares is not None:  # statistics are taken from x alone
            shares = tf.pad(shares, [[support, 0]])
        h = self.embed(params, tf.concat([adapted["x"], x], 1), shares)
        means = layers.class_means(h[:, :support], adapted["y"][0])
        return layers.dense(h[:, support:], *self.linear(means)), 0.0

    def linear(self, adapted) -> tuple[tf.Tensor, tf.Tensor]:
        return 2 * tf.linalg.matrix_transpose(adapted), -tf.reduce_sum(tf.square(adapted), -1)
