"""Bernoulli masks of activations, one per task. Source: Komil Parmar's "meta-learning-from-scratch" (2025)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import NormalDist

from lazy import tf
from perturbations.base import Perturbation
from perturbations.draws import TRAINING_QUERY, TRAINING_SUPPORT
from settings import Settings, setting


def rates(text: str) -> list[float]:
    """Read three or four numbers from 0 to below 1, with commas between them."""
    try:
        values = [float(rate) for rate in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (3, 4) or not all(0 <= rate < 1 for rate in values):
        raise argparse.ArgumentTypeError(
            f"must be three or four rates from 0 to below 1, as in 0.05,0.1,0.15, not {text!r}"
        )
    return values


@dataclass(frozen=True)
class MaskSettings(Settings):
    mask_rates: tuple[float, ...] = setting(
        (0.05, 0.1, 0.15),
        "dropout rates of a mask in blocks 1, 2, 3, and perhaps 4",
        rates,
        metavar="P,P,P[,P]",
    )
    mask_scaled: bool = setting(False, "multiply what a mask leaves by 1 / (1 - P)")
    mask_support_only: bool = setting(False, "no mask on the query set")
    mask_per_sample: bool = setting(False, "a mask for every image in every pass: with --mask_scaled, ordinary dropout")


class Mask(Perturbation):
    """One Bernoulli mask per task: its support and query images lose the same activations in all inner steps.

    Each pixel of each channel is kept with the probability 1 - rate. The mask multiplies relu(batch_norm(.)) before
    pooling, in training; in testing there is no mask. mask_rates: the rates of blocks 1, 2, 3 and perhaps 4, in [0, 1).
    mask_scaled: activations that are kept are multiplied by 1 / (1 - rate). The original does not do that: its
    activations are larger in testing than in training. mask_support_only: the query set has no mask. mask_per_sample:
    a mask for every image in every pass; with mask_scaled this is ordinary dropout.
    """

    summary = "Bernoulli mask of activations, the same for all of a task's images, in training only"
    settings_class = MaskSettings
    settings: MaskSettings
    hooks = frozenset({"mask"})

    @property
    def random_in(self) -> frozenset[str]:
        return frozenset({TRAINING_SUPPORT} if self.settings.mask_support_only else {TRAINING_SUPPORT, TRAINING_QUERY})

    def mask(self, params, theta, layer, x, shape, draw):
        rate = dict(enumerate(self.settings.mask_rates, 1)).get(int(layer.removeprefix("conv")), 0)
        if not rate or draw.where not in self.random_in:
            return None, 0.0
        (tasks, n, *pixels), samples = shape, draw.samples
        if self.settings.mask_per_sample:
            z = tf.reshape(draw(layer, shape), [tasks, samples, n // samples, *pixels])
        else:
            z = draw.of_task(layer, [tasks, samples, *pixels])[:, :, None]
        mask = tf.cast(z > NormalDist().inv_cdf(rate), z.dtype)
        return (mask / (1 - rate) if self.settings.mask_scaled else mask), 0.0
