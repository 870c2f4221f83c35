"""The interface of what perturbs a learner's forward passes."""

from __future__ import annotations

from typing import TypeAlias

from lazy import tf
from parameters import Parameter, Params
from perturbations.draws import Draw
from settings import Settings

Penalty: TypeAlias = "tf.Tensor | float"  # nats a task, [T], or 0.0
HOOKS = ("inputs", "block", "mask", "head", "labels")


class Perturbation:
    """No perturbation, and the interface of all others.

    Shapes: T tasks, N = samples * images rows of one pass (sample-major), H W C a map, D features.
    A subclass declares
      settings_class its settings, a dataclass of flags (settings.py); an instance has them as `settings`
      hooks          those of the five hooks `inputs`, `block`, `mask`, `head` and `labels` that it overrides; every
                     learner that calls these can have it (Learner.hooks)
      random_in      the passes (Draw.where) in which it draws random numbers

    A hook is called in every pass, and `draw.where` says which one this is. params: all meta-learned parameters.
    theta: the weights of the pass, conv1_w to dense_b, [T,...] as the inner steps have adapted them (a Meta Network,
    which has no inner steps, hands its parameters over).

    A hook (but `labels`) gives its output and, beside it, a penalty: nats a task, [T], or 0.0 for none. The loss of the
    pass adds it: of the support set in the inner loop, of the query set in the outer loop (a Meta Network, which has no
    inner loop, adds both there). So a Kullback-Leibler term is averaged over a pass's rows and samples by whoever gives
    it (Draw.mean, in which all classes count the same).
    """

    summary = "nothing is perturbed"  # for --help
    settings_class: type[Settings] = Settings
    settings: Settings
    hooks: frozenset[str] = frozenset()
    random_in: frozenset[str] = frozenset()

    def __init__(self, **settings: object):
        """ValueError if a setting has a value that its flag could not have."""
        self.settings = self.settings_class(**settings)

    def parameters(self, image_shape: tuple[int, int, int], channels: int) -> dict[str, Parameter]:
        """The perturbation's own meta-learned parameters, which no inner step adapts."""
        return {}

    def inputs(self, params: Params, theta: Params, layer: str, x, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb what a layer takes, x [T,N,H,W,C] of conv1 to conv4 or features [T,N,D] of the linear head, `dense`
        -> it, of the same shape, and a penalty."""
        return x, 0.0

    def block(self, params: Params, theta: Params, layer: str, x, mu, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb the convolution `mu` [T,N,H,W,C] of x, before batch norm -> it, and a penalty."""
        return mu, 0.0

    def mask(self, params: Params, theta: Params, layer: str, x, shape, draw: Draw) -> tuple[tf.Tensor | None, Penalty]:
        """What relu(batch_norm(.)), of `shape` [T,N,H,W,C], is multiplied by: [T,samples,1 or N/samples,H,W,C] >= 0,
        or None -> it, and a penalty. x: the layer's input."""
        return None, 0.0

    def head(self, params: Params, theta: Params, x, logits, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb the logits [T,N,way] of the features x [T,N,D] -> them, and a penalty."""
        return logits, 0.0

    def labels(self, y: tf.Tensor, draw: Draw) -> tf.Tensor:
        """What the loss of a pass compares the logits with: one-hot labels y [N,way] -> [N,way] or [T,N,way]."""
        return y

    def factor(self, params: Params, theta: Params, layer: str, x, mu, draw: Draw) -> tf.Tensor | None:
        """What `block` multiplies the convolution `mu` [T,N,H,W,C] of x by, which broadcasts to it; None: nothing."""
        return None
