"""Attacks on a classifier's images. All are pure functions of tensors, traced into a graph.

Shapes: T tasks, Q query images per task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
"""

from attacks.adversary import Adversary
from attacks.methods import MADRY, METHODS, SQUARE, pgd, square
from attacks.norms import NORMS
from attacks.oracles import LOSSES, THREATS, Oracle, joint_oracle, margin, single_oracle

__all__ = [
    "LOSSES", "MADRY", "METHODS", "NORMS", "SQUARE", "THREATS", "Adversary", "Oracle", "joint_oracle", "margin", "pgd",
    "single_oracle", "square",
]  # fmt: skip
