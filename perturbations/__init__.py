"""The table of perturbations, which change a learner's forward passes. A new one is a class, and a line here."""

from perturbations import ablations
from perturbations.base import Perturbation
from perturbations.information import VIB, InformationDropout
from perturbations.mask import Mask
from perturbations.mixing import ManifoldMixup, Mixup
from perturbations.noise import LearnedNoise

PERTURBATIONS: dict[str, type[Perturbation]] = {
    "none": Perturbation,
    "noise": LearnedNoise,
    "fixed": ablations.FixedNoise,
    "independent": ablations.IndependentNoise,
    "weight": ablations.WeightNoise,
    "additive": ablations.AdditiveNoise,
    "deterministic": ablations.DeterministicFactor,
    "variance": ablations.LearnedVariance,
    "parameters": ablations.ExtraParameters,
    "mask": Mask,
    "mixup": Mixup,
    "manifold_mixup": ManifoldMixup,
    "vib": VIB,
    "information_dropout": InformationDropout,
}
