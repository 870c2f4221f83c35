"""The interface of perturbations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import layers
from lazy import tf
from parameters import Parameter, Params
from perturbations.draws import Draw
from settings import Settings

Penalty: TypeAlias = "tf.Tensor | float"  # nats a task, [T], or 0.0
HOOKS = ("inputs", "block", "mask", "head", "labels")


def unchanged(mu: tf.Tensor) -> tf.Tensor:
    """Return mu."""
    return mu


class Elementwise(NamedTuple):
    """A block's perturbation as an element-wise function: f(mu, *convolutions of the block's input, *maps).

    f: a function at the top of a module, because one that a pass defines would be compiled for each pass (pieces.py).
    kernels: w and b of each convolution. maps: other maps of the shape of mu; no gradient flows to them, and none to
    tensors that f has from elsewhere.
    """

    f: Callable = unchanged
    kernels: tuple[tuple[tf.Tensor, tf.Tensor], ...] = ()
    maps: tuple[tf.Tensor, ...] = ()

    def __call__(self, mu: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Return f for the convolution mu [T,N,H,W,C] of x."""
        return self.f(mu, *(layers.conv(x, *kernel) for kernel in self.kernels), *self.maps)


class Perturbation:
    """No perturbation, and the interface of all others.

    Shapes: T tasks, N = samples * images rows of one pass (sample-major), H W C a map, D features.

    A subclass overrides some of the hooks `inputs`, `block`, `mask`, `head` and `labels`, and declares
      settings_class its settings, a dataclass of flags (settings.py); an instance has them as `settings`
      hooks          the names of the hooks that it overrides; every learner that calls these can have it
      random_in      the passes (Draw.where) in which it draws random numbers
      summary        what it does, for --help

    A learner calls its hooks in every pass; `draw.where` says which pass it is. params: all meta-learned parameters.
    theta: the weights of the pass by name, conv1_w to dense_b, each [T,...], as the inner steps have adapted them (of a
    Meta Network, which adapts no weights: `params`).

    A hook (except `labels`) returns its output and a penalty: nats per task, [T], or 0.0. The penalty is added to the
    loss of the pass: the support set's to the inner loss, the query set's to the outer loss (a Meta Network has no
    inner loss and adds both to the outer one). A hook averages its penalty over rows and samples itself (Draw.mean).
    """

    summary = "nothing is perturbed"
    settings_class: type[Settings] = Settings
    settings: Settings
    hooks: frozenset[str] = frozenset()
    random_in: frozenset[str] = frozenset()

    def __init_subclass__(cls):
        if "block" in vars(cls) and "elementwise" not in vars(cls):
            cls.elementwise = Perturbation.elementwise  # an inherited form would not be that of the new block

    def __init__(self, **settings: object):
        """Raise ValueError if a setting has a value that its flag could not have."""
        self.settings = self.settings_class(**settings)

    def parameters(self, image_shape: tuple[int, int, int], channels: int) -> dict[str, Parameter]:
        """Declare the meta-learned parameters of the perturbation, which no inner step adapts."""
        return {}

    def inputs(self, params: Params, theta: Params, layer: str, x, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb the input of a layer, x [T,N,H,W,C] of conv1 to conv4 or x [T,N,D] of the linear head, `dense`.
        Return it, of the same shape, and a penalty."""
        return x, 0.0

    def elementwise(self, params: Params, layer: str, shape, draw: Draw) -> Elementwise | None:
        """Return the element-wise form of `block` for a mu of this shape [T,N,H,W,C]. None: `block` is overridden, or
        there is a mask."""
        return None if {"block", "mask"} & self.hooks else Elementwise()

    def block(self, params: Params, theta: Params, layer: str, x, mu, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb `mu` [T,N,H,W,C], the convolution of x before batch norm. Return it and a penalty. A subclass
        overrides this or, if it can, `elementwise` alone, which is faster for large maps (pieces.py)."""
        form = self.elementwise(params, layer, mu.shape, draw)
        return (mu if form is None else form(mu, x)), 0.0

    def mask(self, params: Params, theta: Params, layer: str, x, shape, draw: Draw) -> tuple[tf.Tensor | None, Penalty]:
        """Return a factor of relu(batch_norm(.)), which has the `shape` [T,N,H,W,C], and a penalty. The factor is None
        or [T,samples,1 or N/samples,H,W,C] with values of at least 0. x: the layer's input."""
        return None, 0.0

    def head(self, params: Params, theta: Params, x, logits, draw: Draw) -> tuple[tf.Tensor, Penalty]:
        """Perturb the logits [T,N,way] of the features x [T,N,D]. Return them and a penalty."""
        return logits, 0.0

    def labels(self, y: tf.Tensor, draw: Draw) -> tf.Tensor:
        """Return the labels that the loss of a pass compares the logits with, [N,way] or [T,N,way], from the images'
        one-hot labels y [N,way]."""
        return y

    def factor(self, params: Params, theta: Params, layer: str, x, mu, draw: Draw) -> tf.Tensor | None:
        """Return the factor that `block` multiplies `mu` [T,N,H,W,C] by, broadcastable to it; None if `block` does not
        multiply. Figures show the factor."""
        return None
