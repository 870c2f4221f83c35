"""Who attacks the query images of meta-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from attacks.looks import together
from attacks.methods import MADRY
from attacks.norms import NORMS, ascend, beginning, rows_of
from lazy import tf
from ranges import UNIT, Range

OUTER = 2**16  # its place among a task's draws: that of an inner step which no learner takes


class Adversary(NamedTuple):
    """Who perturbs the query images of meta-training, so that a learner is trained on them: `steps` steps of `pgd`
    from a random place, MADRY * eps long together, all images of a task together; the last place is trained on. range:
    of the network's inputs; eps is of images in [0, 1].

    Sources: Madry et al.; of query images after adaptation, Goldblum, Fowl and Goldstein, "Adversarially Robust
    Few-Shot Learning: A Meta-Learning Approach", NeurIPS 2020, who train with one step as long as the ball's radius.
    """

    norm: str
    eps: float
    steps: int
    range: Range = UNIT

    def perturb(self, classify: Callable, x, y, noise: Callable):
        """Perturb the images x [T,Q,H,W,C] so that `classify`, images -> logits, does not take them for y, one-hot
        [Q,way], or mixtures [T,Q,way] of such. noise: perturbations.draws.Noise. -> images, constants of whatever is
        differentiated."""
        x = self.range.unit(x)
        norm, rows, look = NORMS[self.norm], rows_of(x), together(lambda x: classify(self.range.inputs(x)), y)
        eps, step = tf.constant(self.eps, x.dtype), tf.constant(MADRY * self.eps / self.steps, x.dtype)

        def normals(k):
            return tf.reshape(noise(OUTER, "dense", [*x.shape[:2], k]), [-1, k])

        def once(i, d):
            _, gradient = look(tf.reshape(rows + d, x.shape))
            return i + 1, ascend(d, gradient, rows, norm, eps, step)

        _, d = tf.while_loop(lambda i, _: i < self.steps, once, (0, beginning(rows, norm, eps, normals)))
        return tf.stop_gradient(self.range.inputs(tf.reshape(rows + d, x.shape)))
