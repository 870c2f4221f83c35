"""Meta-SGD."""

from __future__ import annotations

import dataclasses

from flags import TRAINING, Setting
from lazy import tf
from model import MAML, theta_name
from parameters import Parameter, Params, constant, uniform


class MetaSGD(MAML):
    """MAML whose inner steps have a learned size for every weight that they adapt, of either sign.

    Source: Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning" (2017), whose code was
    not released: theta' = theta - alpha * gradient, alpha of theta's shape, meta-learned with it by the same optimiser.
    alpha begins at inner_lr, or, with random_steps, uniform in [0.005, 0.1], which is the paper's interval. There one
    number is drawn for all weights, here one for every weight; and the paper takes one step, here it is n_steps.
    """

    settings = MAML.settings | {
        "inner_lr": dataclasses.replace(MAML.settings["inner_lr"], free=()),  # in a test it would change nothing
        "random_steps": Setting(
            False,
            "Meta-SGD's step sizes begin uniform in [0.005, 0.1] in place of --inner_lr",
            modes=TRAINING,
        ),
    }

    heads = (*MAML.heads, "alpha/dense_w", "alpha/dense_b")

    def __init__(self, *args, **settings):
        """ValueError also where inner_lr would mean nothing."""
        super().__init__(*args, **settings)
        if self.random_steps and self.inner_lr != self.settings["inner_lr"].default:
            raise ValueError("with --random_steps no step size begins at --inner_lr: leave one of them out")

    def parameters(self) -> dict[str, Parameter]:
        """Those of MAML, then alpha."""
        begins = uniform(0.005, 0.1) if self.random_steps else constant(self.inner_lr)
        declared = super().parameters()
        names = [name for name in map(theta_name, declared) if name and self.adapts(name)]
        return declared | {f"alpha/{name}": Parameter(declared[f"theta/{name}"].shape, begins) for name in names}

    def step_sizes(self, params: Params) -> dict[str, tf.Tensor | float]:
        return {name: params[f"alpha/{name}"] for name in super().step_sizes(params)}
