"""The adversary of meta-training: it perturbs the query images that a learner is trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attacks.methods import MADRY
from attacks.norms import NORMS, ascend, random_start
from attacks.oracles import joint_oracle
from lazy import tf
from ranges import UNIT, Range

OUTER_STEP = 2**16  # the step number of the adversary's noise; no inner step of a learner has it


class Adversary(NamedTuple):
    """Perturbs all query images of a task together, by `steps` steps of `pgd` from a random point of the ball; the
    lengths of the steps add up to MADRY * eps. The learner is trained on the last point. range: the range of the
    network's inputs; eps is for images in [0, 1].

    Sources: Madry et al. (attacks/methods.py); for query images after adaptation, Goldblum, Fowl and Goldstein,
    "Adversarially Robust Few-Shot Learning: A Meta-Learning Approach", NeurIPS 2020, whose code takes one step as long
    as the ball's radius for MAML, and seven steps of a quarter of it for the other learners.
    """

    norm: str
    eps: float
    steps: int
    range: Range = UNIT

    def perturb(self, classify: Callable, x, y, noise: Callable):
        """Perturb the images x [T,Q,H,W,C] so that `classify`, a function from images to logits, misclassifies them.

        y: one-hot labels [Q,way], or mixed ones [T,Q,way]. noise: perturbations.draws.Noise. Returns the images; no
        gradient flows through them.
        """
        x = self.range.unit(x)
        norm, rows = NORMS[self.norm], tf.reshape(x, [-1, x.shape[2:].num_elements()])
        oracle = joint_oracle(lambda x: classify(self.range.inputs(x)), y)
        eps, step = tf.constant(self.eps, x.dtype), tf.constant(MADRY * self.eps / self.steps, x.dtype)

        def normals(k):
            return tf.reshape(noise(OUTER_STEP, "dense", [*x.shape[:2], k]), [-1, k])

        def take_step(i, d):
            _, gradient = oracle(tf.reshape(rows + d, x.shape))
            return i + 1, ascend(d, gradient, rows, norm, eps, step)

        _, d = tf.while_loop(lambda i, _: i < self.steps, take_step, (0, random_start(rows, norm, eps, normals)))
        return tf.stop_gradient(self.range.inputs(tf.reshape(rows + d, x.shape)))
