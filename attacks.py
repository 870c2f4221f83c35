"""Projected gradient descent on a classifier's images, in the balls of four norms.

Source: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018: from a random place in the ball go up the loss, step by step, and back into the ball and the box.
Shapes: T tasks, Q query images of a task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
All are pure functions of tensors, traced into a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import layers
from lazy import tf

SPARSE = 0.01  # share of the pixels that a sparse step changes (Tramer and Boneh, NeurIPS 2019)
TINY = 1e-12  # below it a gradient counts as none

Look = Callable  # images [T,Q,H,W,C] -> logits [T,Q,way], and the gradient of each image's own loss by it


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
        "$L_\\infty$",
        (0, 0.02, 0.04, 0.06, 0.08, 0.1),
        lambda d: tf.reduce_max(tf.abs(d), -1),
        lambda d, eps: tf.clip_by_value(d, -eps, eps),
        lambda g, x: tf.sign(g),
        start_in_cube,
    ),
    "l2": Norm("$L_2$", (0, 1, 2, 3, 4, 5), length, scale_into(length), per_size(length), start_in_ball),
    "l1": Norm(
        "$L_1$, sparse steps", (0, 20, 40, 60, 80, 100), absolute_sum, project_onto_l1, sparse, start_in_l1_ball
    ),
    "l1_dense": Norm(
        "$L_1$, dense steps",
        (0, 20, 40, 60, 80, 100),
        absolute_sum,
        scale_into(absolute_sum),
        per_size(absolute_sum),
        start_in_l1_ball,
    ),
}


def is_wrong(logits, y):
    """-> [T,Q]"""
    return tf.argmax(logits, -1) != tf.argmax(y, -1)


def together(classify: Callable, y) -> Look:
    """All images of a task are attacked together, and what classifies one sees the others attacked."""

    def look(x):
        logits = classify(x)
        return logits, tf.gradients(layers.cross_entropies(logits, y), x)[0]

    return look


def one_by_one(classify: Callable, clean, y, parallel: int = 1) -> Look:
    """Each image is attacked with the others clean: Q calls of `classify` in place of one."""
    queries = clean.shape[1]

    def look(x):
        def of_one(index):
            image = x[:, index]
            place = tf.reshape(tf.one_hot(index, queries, True, False, dtype=tf.bool), [1, queries, 1, 1, 1])
            logits = classify(tf.where(place, image[:, None], clean))[:, index]
            return logits, tf.gradients(layers.cross_entropies(logits[:, None], y[index][None]), image)[0]

        dtypes = (clean.dtype, clean.dtype)
        logits, gradient = tf.map_fn(
            of_one, tf.range(queries), fn_output_signature=dtypes, parallel_iterations=parallel
        )
        return tf.einsum("qtw->tqw", logits), tf.einsum("qt...->tq...", gradient)

    return look


def attack(look: Look, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable | None):
    """Perturb the images x [T,Q,H,W,C] within eps, so that they are not classified as y, one-hot [Q,way].

    eps, step: radius of the ball, and size of a step in it; scalars, tensors or numbers. normals(restart, k): N(0, 1),
    [T*Q,k], which a restart begins with, or None: all begin at x. -> is the image misclassified at x or at any place
    that was visited, [T,Q]; its worst place, [T,Q,H,W,C]: a misclassified one before others, of those the one of the
    largest loss; and the class that it is taken for there, [T,Q].
    """
    count, dims = x.shape[0] * x.shape[1], x.shape[2:].num_elements()
    rows = tf.reshape(x, [count, dims])
    eps, step = (tf.convert_to_tensor(number, x.dtype) for number in (eps, step))

    def inside(d):
        """In the ball and the box. The box comes last: it only takes from a perturbation, which stays in the ball."""
        return tf.clip_by_value(rows + norm.project(d, eps), 0.0, 1.0) - rows

    def visit(d, wrong, most, worst, label):
        """What is known of the images after a look at x + d -> that, and the gradient there."""
        images = tf.reshape(rows + d, x.shape)
        logits, gradient = look(images)
        now = is_wrong(logits, y)
        score = layers.cross_entropies(logits, y) + tf.where(now, tf.constant(1e6, x.dtype), tf.constant(0, x.dtype))
        better = score > most
        worst = tf.where(better[..., None, None, None], images, worst)
        label = tf.where(better, tf.argmax(logits, -1, tf.int32), label)
        return (wrong | now, tf.where(better, score, most), worst, label), tf.reshape(gradient, [count, dims])

    def descend(restart, *known):
        d = tf.zeros_like(rows)
        if normals is not None:
            d = inside(eps * norm.start(lambda k: normals(restart, k), dims))

        def once(i, d, *known):
            known, gradient = visit(d, *known)
            return i + 1, inside(d + step * norm.direction(gradient, rows + d)), *known

        _, d, *known = tf.while_loop(lambda i, *_: i < steps, once, (0, d, *known))
        return restart + 1, *visit(d, *known)[0]

    none = tf.zeros(x.shape[:2], tf.int32)
    nothing = tf.zeros(x.shape[:2], tf.bool), tf.fill(x.shape[:2], tf.constant(-1, x.dtype)), x, none
    known, _ = visit(tf.zeros_like(rows), *nothing)
    # In a ball of radius 0 there is nowhere to go.
    _, wrong, _, worst, label = tf.while_loop(lambda i, *_: (i < restarts) & (eps > 0), descend, (0, *known))
    return wrong, worst, label
