"""Meta-SGD."""

from __future__ import annotations

from dataclasses import dataclass

from lazy import tf
from model import MAML, MAMLSettings, theta_name
from parameters import Parameter, Params, constant, uniform
from settings import positive, setting


@dataclass(frozen=True)
class MetaSGDSettings(MAMLSettings):
    inner_lr: float = setting(0.1, "value that every learned step size is initialized with", positive)
    random_steps: bool = setting(
        False,
        "initialize Meta-SGD's step sizes uniformly in [0.005, 0.1] in place of --inner_lr",
        training_only=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.random_steps and self.inner_lr != type(self).inner_lr:
            raise ValueError("with --random_steps no step size is initialized with --inner_lr: leave one of them out")


class MetaSGD(MAML):
    """MAML whose inner steps have a learned size for every weight that they adapt, of either sign.

    Source: Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (2017), whose code was
    not released: theta' = theta - alpha * gradient, alpha of theta's shape, meta-learned with it by the same optimiser.
    alpha is initialized with inner_lr, or, with random_steps, uniform in [0.005, 0.1], the paper's interval. There one
    number is drawn for all weights, here one for every weight; and the paper takes one step, here it is n_steps.
    """

    settings_class = MetaSGDSettings
    settings: MetaSGDSettings
    heads = (*MAML.heads, "alpha/dense_w", "alpha/dense_b")

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters of MAML, then alpha."""
        initializer = uniform(0.005, 0.1) if self.settings.random_steps else constant(self.settings.inner_lr)
        declared = super().parameters()
        names = [name for name in map(theta_name, declared) if name and self.adapts(name)]
        return declared | {f"alpha/{name}": Parameter(declared[f"theta/{name}"].shape, initializer) for name in names}

    def step_sizes(self, params: Params) -> dict[str, tf.Tensor | float]:
        return {name: params[f"alpha/{name}"] for name in super().step_sizes(params)}
