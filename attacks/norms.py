"""Balls of four norms for the perturbations of images, and the steps of an attack inside them.

Shapes: T tasks, Q query images per task, each H W C in [0, 1]; N rows of D = H * W * C numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lazy import tf

SPARSE = 0.01  # share of the D numbers that a sparse step changes (Tramer and Boneh, NeurIPS 2019)
TINY = 1e-12  # a gradient with a smaller norm counts as zero


class Norm(NamedTuple):
    """A ball of perturbations d [N,D], and the moves of an attack in it.

    title: the name in figures. budgets: the radii in the paper's figure. project(d, eps): a point of the ball of radius
    eps; d if d is in the ball. direction(g, x): a step of size 1 up the gradients g at the images x, both [N,D].
    start(normals, D): random points [N,D], uniform in the ball of radius 1; normals(k) draws from N(0, 1), [N,k].
    """

    title: str
    budgets: tuple[float, ...]
    project: Callable
    direction: Callable
    start: Callable


def scale_into_ball(order: float) -> Callable:
    """Return a function that scales points outside the ball onto its surface."""
    return lambda d, eps: d * tf.minimum(eps / tf.maximum(tf.norm(d, order, -1, keepdims=True), TINY), 1.0)


def project_onto_l1(d, eps):
    """Return the points of the L1 ball nearest to d: all absolute values fall by one amount per row, but not below 0.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball", ICML 2008, figure 1.
    """
    descending = tf.sort(tf.abs(d), direction="DESCENDING")
    surplus = tf.cumsum(descending, -1) - eps
    count = tf.cast(tf.range(1, d.shape[-1] + 1), d.dtype)
    # If j values stay above 0, the amount is surplus_j / j; the right j is the largest at which the j-th does.
    left = tf.reduce_sum(tf.cast(descending * count > surplus, tf.int32), -1, keepdims=True)
    last = tf.maximum(left - 1, 0)
    amount = tf.gather(surplus, last, batch_dims=1) / tf.cast(last + 1, d.dtype)
    return tf.sign(d) * tf.maximum(tf.abs(d) - tf.maximum(amount, 0.0), 0.0)


def along_gradient(order: float) -> Callable:
    """Return a function that scales gradients to size 1 in this norm."""
    return lambda g, x: g / tf.maximum(tf.norm(g, order, -1, keepdims=True), TINY)


def sparse_direction(g, x):
    """Return a step along the signs of an image's largest gradients, a hundredth of all D, but not of numbers at the
    edge of [0, 1] that would leave it."""
    outward = ((x <= 0) & (g < 0)) | ((x >= 1) & (g > 0))
    g = tf.where(outward, tf.zeros_like(g), g)
    chosen = max(1, round(SPARSE * g.shape[-1]))
    least = tf.math.top_k(tf.abs(g), chosen).values[:, -1:]
    signs = tf.where(tf.abs(g) >= tf.maximum(least, TINY), tf.sign(g), tf.zeros_like(g))
    return signs / tf.maximum(tf.norm(signs, 1, -1, keepdims=True), 1.0)


def uniform_in_cube(normals, d):
    return tf.math.erf(normals(d) * 2**-0.5)


def uniform_in_ball(normals, d):
    """Draw points of the L2 ball: d coordinates of random points on the sphere in d + 2 dimensions."""
    z = normals(d + 2)
    return z[:, :d] / tf.norm(z, axis=-1)[:, None]


def uniform_in_l1_ball(normals, d):
    """Draw points of the L1 ball: d of d + 1 exponential numbers, divided by the sum of all, with random signs."""
    one, other = tf.split(normals(2 * (d + 1)), 2, 1)
    exponential = tf.square(one) + tf.square(other)
    return (tf.sign(one) * exponential)[:, :d] / tf.reduce_sum(exponential, -1, keepdims=True)


LINF, L2, L1 = (0, 0.02, 0.04, 0.06, 0.08, 0.1), (0, 1, 2, 3, 4, 5), (0, 20, 40, 60, 80, 100)
NORMS = {
    "linf": Norm("L∞", LINF, lambda d, eps: tf.clip_by_value(d, -eps, eps), lambda g, x: tf.sign(g), uniform_in_cube),
    "l2": Norm("L2", L2, scale_into_ball(2), along_gradient(2), uniform_in_ball),
    "l1": Norm("L1, sparse steps", L1, project_onto_l1, sparse_direction, uniform_in_l1_ball),
    "l1_dense": Norm("L1, dense steps", L1, scale_into_ball(1), along_gradient(1), uniform_in_l1_ball),
}


def inside(d, rows, norm: Norm, eps):
    """Project perturbations d of images `rows`, both [N,D], into the ball; then clip the images to [0, 1].

    Clipping comes last because it only shortens perturbations: they stay in the ball.
    """
    return tf.clip_by_value(rows + norm.project(d, eps), 0.0, 1.0) - rows


def random_start(rows, norm: Norm, eps, normals: Callable):
    """Draw perturbations of images `rows` [N,D] from the ball. normals(k): draws from N(0, 1), [N,k]."""
    return inside(eps * norm.start(normals, rows.shape[-1]), rows, norm, eps)


def ascend(d, gradient, rows, norm: Norm, eps, step):
    """Move perturbations d one step up the gradient [T,Q,H,W,C]."""
    return inside(d + step * norm.direction(tf.reshape(gradient, rows.shape), rows + d), rows, norm, eps)
