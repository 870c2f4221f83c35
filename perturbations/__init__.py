"""What perturbs a learner's forward passes: the table. A new one is a class, and a line here."""

from perturbations.base import Perturbation
from perturbations.mask import Mask
from perturbations.noise import LearnedNoise

PERTURBATIONS: dict[str, type[Perturbation]] = {"none": Perturbation, "noise": LearnedNoise, "mask": Mask}
