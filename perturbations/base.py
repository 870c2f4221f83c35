"""The interface of what perturbs a learner's forward passes."""

from __future__ import annotations

from flags import Configured
from lazy import tf
from parameters import Parameter, Params
from perturbations.draws import Draw

HOOKS = ("inputs", "block", "mask", "head", "labels")


class Perturbation(Configured):
    """No perturbation, and the interface of all others.

    Shapes: T tasks, N = samples * images rows of one pass (sample-major), H W C a map, D features.
    `draw` is a pass's randomness; where it is None, nothing is perturbed. A subclass overrides those of the five
    hooks `inputs`, `block`, `mask`, `head` and `labels` that it needs, and every learner that calls these can have it
    (Learner.hooks).

    A hook (but `labels`) gives its output and, beside it, a penalty: nats a task, [T], or 0.0 for none. The loss of the
    pass adds it: of the support set in the inner loop, of the query set in the outer loop (a Meta Network, which has no
    inner loop, adds both there). So a Kullback-Leibler term is averaged over a pass's rows and samples by whoever gives
    it (Draw.mean, in which all classes count the same).
    """

    summary = "nothing is perturbed"  # for --help
    stochastic = False  # does it draw anything for a support set?
    in_testing = False  # does it perturb the support set of a test?

    @classmethod
    def hooks(cls) -> set[str]:
        """The hooks that it needs."""
        return {hook for hook in HOOKS if getattr(cls, hook) is not getattr(Perturbation, hook)}

    def parameters(self, image_shape: tuple[int, int, int], channels: int) -> dict[str, Parameter]:
        """The perturbation's own meta-learned parameters, which no inner step adapts."""
        return {}

    def inputs(self, params: Params, layer: str, x, draw: Draw | None) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Perturb what a layer takes, x [T,N,H,W,C] of conv1 to conv4 or features [T,N,D] of the linear head, `dense`
        -> it, of the same shape, and a penalty."""
        return x, 0.0

    def block(self, params: Params, layer: str, x, mu, draw: Draw | None) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Perturb the convolution `mu` [T,N,H,W,C] of x, before batch norm -> it, and a penalty."""
        return mu, 0.0

    def mask(self, params: Params, layer: str, x, shape, draw: Draw | None):
        """What relu(batch_norm(.)), of `shape` [T,N,H,W,C], is multiplied by: [T,samples,1 or N/samples,H,W,C] >= 0,
        or None -> it, and a penalty. x: the layer's input."""
        return None, 0.0

    def head(self, params: Params, x, logits, draw: Draw | None) -> tuple[tf.Tensor, tf.Tensor | float]:
        """Perturb the logits [T,N,way] of the features x [T,N,D] -> them, and a penalty."""
        return logits, 0.0

    def labels(self, y: tf.Tensor, draw: Draw | None) -> tf.Tensor:
        """What the loss of a pass compares the logits with: one-hot labels y [N,way] -> [N,way] or [T,N,way]."""
        return y

    def factor(self, params: Params, layer: str, x, mu, draw: Draw | None) -> tf.Tensor | None:
        """What `block` multiplies the convolution `mu` [T,N,H,W,C] of x by, which broadcasts to it; None: nothing."""
        return None
