"""Attacks on a classifier's images. All are pure functions of tensors, traced into a graph.

Shapes: T tasks, Q query images of a task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
"""

from attacks.adversary import Adversary
from attacks.looks import LOSSES, THREATS, Look, margin, one_by_one, together
from attacks.methods import MADRY, METHODS, SQUARE, Worst, pgd, square
from attacks.norms import NORMS, absolute_sum, length

__all__ = [
    "LOSSES",
    "MADRY",
    "METHODS",
    "NORMS",
    "SQUARE",
    "THREATS",
    "Adversary",
    "Look",
    "Worst",
    "absolute_sum",
    "length",
    "margin",
    "one_by_one",
    "pgd",
    "square",
    "together",
]
