"""The interface of a learner."""

from __future__ import annotations

from typing import Any

import parameters
from flags import Configured
from lazy import tf
from parameters import Parameter, Params, check_size
from perturbations.base import HOOKS, Perturbation
from perturbations.draws import UNPERTURBED, Draw, Noise


class Learner(Configured):
    """What adapts to a support set and classifies a query set. This is the whole contract; nothing else is asked for.

    Shapes: T tasks, each on its own; S support and Q query images, rows ordered by class; N = samples * images rows
    of one pass (sample-major); H W C an image, mostly in [0, 1], ink 1 on paper 0 (ranges.py); D features; way classes.
    All methods are pure functions of tensors, traced into a graph (where `tf.gradients` works), in float32 and in
    float64, of any T. Randomness is the argument `noise` or `draw` (perturbations/draws.py).

    A class declares
      settings       {name: flags.Setting}, its flags, each of which is an attribute of an instance
      hooks          those of a perturbation's hooks that its passes call (perturbations/base.py)
      any_way        can it be tested at another number of classes than it was trained for?
      n_steps        its inner steps, 0 where it has none (or a setting)
    and has `parameters`, `adapt` and `classify`. The constructor's other arguments are attributes too: image_shape
    (H, W, C), channels of a convolution, way, perturbation, bf16 (are the factors of convolutions and matrix products
    rounded to bfloat16?) and jit (will XLA compile it?).

    Parameters whose names begin with running/ are running averages, and come last. They are not trained: the gradient
    of a penalty moves them (layers.lag), and so it takes the way of every gradient over tasks and devices.

    `adapt` and `classify` give a penalty beside their output, [T] nats or 0.0: in meta-training the outer loss is the
    query set's cross entropy and both penalties. What the inner loss adds is the learner's own business.

    Optional, all or none: a learner with a linear head over features can be looked into (main.py --mode export and
    collapse, plot.py). Then it overrides `features` and `linear`, and those of `trajectory`, `activations`, `maps` and
    `narrow` whose default does not say the truth of it.
    """

    hooks = frozenset(HOOKS)
    any_way = False
    n_steps = 0

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        way: int,
        perturbation: Perturbation,
        bf16: bool = False,
        jit: bool = False,
        **settings: object,
    ):
        """ValueError at a setting that its flag could not have, at images below 16 x 16, and at a perturbation that
        needs a hook which this learner does not call."""
        check_size(image_shape)
        if missing := perturbation.hooks - self.hooks:
            raise ValueError(f"{type(self).__name__} has no {min(missing)} that could be perturbed")
        self.image_shape, self.channels, self.way = tuple(image_shape), channels, way
        self.perturbation, self.bf16, self.jit = perturbation, bf16, jit
        super().__init__(**settings)

    def parameters(self) -> dict[str, Parameter]:
        """The meta-learned parameters, the perturbation's among them: shapes, and how each begins."""
        raise NotImplementedError

    def init(self, seed: int, dtype="float32") -> Params:
        """All parameters at their beginning, a pure function of the seed."""
        return parameters.draw(self.parameters(), seed, dtype)

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> tuple[Any, Any]:
        """Learn from the support set x [T,S,H,W,C] with labels y, one-hot [S,way].

        Every class counts the same, whatever its number of images, in a loss and in batch norm's statistics
        (layers.class_shares). samples: noise samples of a loss. -> what `classify` needs, any structure of tensors
        [T,...]; and a penalty.
        """
        raise NotImplementedError

    def classify(self, params: Params, adapted, x, noise: Noise | None = None, shares=None) -> tuple[tf.Tensor, Any]:
        """Logits [T,Q,way] of the query images x [T,Q,H,W,C], and a penalty. noise: in training only. shares [Q]:
        the weight of each image in batch norm's statistics, at least 0 and of the sum 1; None: equal weights."""
        raise NotImplementedError

    @property
    def train_way(self) -> int:
        """Classes of a task in meta-training."""
        return self.way

    def targets(self, y: tf.Tensor, noise: Noise) -> tf.Tensor:
        """What the outer loss of meta-training compares the query set's logits with: one-hot labels y [Q,way] ->
        [Q,way] or [T,Q,way]. The accuracy is that of y."""
        return y

    def untrained(self) -> list[str]:
        """Names of the parameters that no gradient of the outer loss reaches: they stay as they are initialized."""
        return []

    # ---- optional

    @property
    def inspectable(self) -> bool:
        """Has it a linear head over features?"""
        return type(self).linear is not Learner.linear and type(self).features is not Learner.features

    def features(self, params: Params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """The linear head's input: x [T,N,H,W,C] -> [T,N,D], in testing, perturbed by `draw`."""
        raise NotImplementedError

    def linear(self, adapted) -> tuple[tf.Tensor, tf.Tensor]:
        """The head's weights [T,D,way] and biases [T,way]: unperturbed logits = features @ weights + biases."""
        raise NotImplementedError

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1) -> list:
        """What `adapt` has in testing before its first inner step and after each, n_steps + 1 in all."""
        return [self.adapt(params, x, y, noise, samples)[0]]

    def activations(self, params: Params, adapted, x) -> dict[str, tf.Tensor]:
        """By layer, what it puts out, unperturbed, in testing: [T,N,D]. The last ones are `features`."""
        return {"features": self.features(params, adapted, x)}

    def maps(self, params: Params, adapted, x, draw: Draw = UNPERTURBED) -> dict[str, tuple]:
        """By layer, its map [T,N,H,W,C] before pooling, and what multiplied it, [T,N,H,W,C] or None. In testing."""
        return {}

    def narrow(self, params: Params, way: int) -> Params:
        """The parameters of this learner for its first `way` classes alone."""
        return params
