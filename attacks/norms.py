"""The balls of four norms that perturbations of images are kept in, and the steps that an attack takes in them.

Shapes: T tasks, Q query images of a task, each H W C in [0, 1]; N rows of D = H * W * C numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lazy import tf

SPARSE = 0.01  # share of the pixels that a sparse step changes (Tramer and Boneh, NeurIPS 2019)
TINY = 1e-12  # below it a gradient counts as none


class Norm(NamedTuple):
    """A ball of perturbations d [N,D], and how an attack moves in it.

    title: for figures. budgets: the radii of the paper's figure. size(d) -> [N]. project(d, eps) -> a place in the ball
    of radius eps, d itself where it is one. direction(g, x) -> of the gradients g at the images x, both [N,D]: a step
    of size 1 that ascends. start(normals, d) -> random places [N,d], uniform in the ball of radius 1, where normals(k)
    gives N(0, 1), [N,k].
    """

    title: str
    budgets: tuple[float, ...]
    size: Callable
    project: Callable
    direction: Callable
    start: Callable


def absolute_sum(d):
    return tf.reduce_sum(tf.abs(d), -1)


def length(d):
    return tf.sqrt(tf.reduce_sum(tf.square(d), -1))


def scale_into(size: Callable) -> Callable:
    """What is outside the ball is scaled onto it."""

    def project(d, eps):
        return d * tf.minimum(eps / tf.maximum(size(d), TINY), 1.0)[:, None]

    return project


def project_onto_l1(d, eps):
    """The nearest point of the L1 ball: all moduli are lowered by the same amount, to no less than 0.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball", ICML 2008, figure 1.
    """
    descending = tf.sort(tf.abs(d), direction="DESCENDING")
    surplus = tf.cumsum(descending, -1) - eps
    count = tf.cast(tf.range(1, d.shape[-1] + 1), d.dtype)
    # The amount with j moduli left is surplus_j / j; the right j is the last whose smallest modulus is left.
    left = tf.reduce_sum(tf.cast(descending * count > surplus, tf.int32), -1, keepdims=True)
    last = tf.maximum(left - 1, 0)
    amount = tf.gather(surplus, last, batch_dims=1) / tf.cast(last + 1, d.dtype)
    return tf.sign(d) * tf.maximum(tf.abs(d) - tf.maximum(amount, 0.0), 0.0)


def per_size(size: Callable) -> Callable:
    """The direction of the gradient itself."""
    return lambda g, x: g / tf.maximum(size(g), TINY)[:, None]


def sparse(g, x):
    """The signs of the largest hundredth of the gradients, of those that do not lead out of the box."""
    outward = ((x <= 0) & (g < 0)) | ((x >= 1) & (g > 0))
    g = tf.where(outward, tf.zeros_like(g), g)
    chosen = max(1, round(SPARSE * g.shape[-1]))
    least = tf.math.top_k(tf.abs(g), chosen).values[:, -1:]
    kept = tf.where(tf.abs(g) >= tf.maximum(least, TINY), tf.sign(g), tf.zeros_like(g))
    return kept / tf.maximum(absolute_sum(kept), 1.0)[:, None]


def start_in_cube(normals, d):
    return tf.math.erf(normals(d) * 2**-0.5)


def start_in_ball(normals, d):
    """Of a point on the sphere in d + 2 dimensions, d coordinates."""
    z = normals(d + 2)
    return z[:, :d] / length(z)[:, None]


def start_in_l1_ball(normals, d):
    """Of d + 1 exponential numbers, d shares of their sum, with signs."""
    one, other = tf.split(normals(2 * (d + 1)), 2, 1)
    exponential = tf.square(one) + tf.square(other)
    return (tf.sign(one) * exponential)[:, :d] / tf.reduce_sum(exponential, -1, keepdims=True)


NORMS = {
    "linf": Norm(
        "L∞",
        (0, 0.02, 0.04, 0.06, 0.08, 0.1),
        lambda d: tf.reduce_max(tf.abs(d), -1),
        lambda d, eps: tf.clip_by_value(d, -eps, eps),
        lambda g, x: tf.sign(g),
        start_in_cube,
    ),
    "l2": Norm("L2", (0, 1, 2, 3, 4, 5), length, scale_into(length), per_size(length), start_in_ball),
    "l1": Norm("L1, sparse steps", (0, 20, 40, 60, 80, 100), absolute_sum, project_onto_l1, sparse, start_in_l1_ball),
    "l1_dense": Norm(
        "L1, dense steps",
        (0, 20, 40, 60, 80, 100),
        absolute_sum,
        scale_into(absolute_sum),
        per_size(absolute_sum),
        start_in_l1_ball,
    ),
}


def rows_of(x):
    """[T,Q,H,W,C] -> [N,D]"""
    return tf.reshape(x, [x.shape[0] * x.shape[1], x.shape[2:].num_elements()])


def inside(d, rows, norm: Norm, eps):
    """The perturbation d [N,D] of `rows`, in the ball and the box. The box comes last: it only takes from a
    perturbation, which stays in the ball."""
    return tf.clip_by_value(rows + norm.project(d, eps), 0.0, 1.0) - rows


def beginning(rows, norm: Norm, eps, normals: Callable):
    """A random place in the ball and the box. normals(k): N(0, 1), [N,k]."""
    return inside(eps * norm.start(normals, rows.shape[-1]), rows, norm, eps)


def ascend(d, gradient, rows, norm: Norm, eps, step):
    """One step from d, up the gradient [T,Q,H,W,C] there."""
    return inside(d + step * norm.direction(tf.reshape(gradient, rows.shape), rows + d), rows, norm, eps)
