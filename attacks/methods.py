"""Projected gradient descent, and Square Attack.

Sources: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018: from a random point of the ball go up the loss; after every step go back into the ball and into [0, 1].
Andriushchenko, Croce, Flammarion and Hein, "Square Attack", ECCV 2020: a random search that uses no gradient.
Shapes: T tasks, Q query images per task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import layers
from attacks.norms import NORMS, Norm, ascend, random_start
from attacks.oracles import Oracle, margin, misclassified
from lazy import tf

MADRY = 2.5  # default total length of the steps of one restart, in radii of the ball
SQUARE = 0.8  # default share of the image that the first squares of Square Attack cover
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 steps; the area is halved after each of these


class WorstCase(NamedTuple):
    """The worst result so far for each image. lost [T,Q]: True if it was misclassified at any visited point. loss
    [T,Q], images [T,Q,H,W,C], labels [T,Q] (the predicted class): at the worst point. A misclassified point is worse
    than a correct one; between two misclassified or two correct ones, the larger loss decides."""

    lost: tf.Tensor
    loss: tf.Tensor
    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def initial(cls, x) -> WorstCase:
        """Return the WorstCase of images x before the attack visits a point."""
        lost, loss = tf.zeros(x.shape[:2], tf.bool), tf.fill(x.shape[:2], x.dtype.min)
        return cls(lost, loss, x, tf.zeros(x.shape[:2], tf.int32))

    def updated(self, images, logits, y) -> WorstCase:
        """Return the WorstCase after a visit to perturbed images with these logits."""
        lost, loss = misclassified(logits, y), layers.cross_entropies(logits, y)
        worse = tf.where(lost == self.lost, loss > self.loss, lost)
        return WorstCase(
            self.lost | lost,
            tf.where(worse, loss, self.loss),
            tf.where(worse[..., None, None, None], images, self.images),
            tf.where(worse, tf.argmax(logits, -1, tf.int32), self.labels),
        )


def pgd(oracle: Oracle, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable, clean_start=False):
    """Perturb the images x [T,Q,H,W,C] within the ball so that they are not classified as y, one-hot [Q,way]; return
    the WorstCase.

    eps, step: the radius and the size of a step, numbers or scalar tensors. normals(number, k): draws from N(0, 1),
    [T*Q,k], independent for each number; every restart takes another. clean_start: all restarts begin at x.
    """
    rows = tf.reshape(x, [-1, x.shape[2:].num_elements()])
    eps, step = (tf.convert_to_tensor(number, x.dtype) for number in (eps, step))

    def visit(d, worst):
        images = tf.reshape(rows + d, x.shape)
        logits, gradient = oracle(images, worst.lost)
        return gradient, worst.updated(images, logits, y)

    def descend(restart, worst):
        d = tf.zeros_like(rows) if clean_start else random_start(rows, norm, eps, lambda k: normals(restart, k))

        def take_step(i, d, worst, _):
            gradient, worst = visit(d, worst)
            return i + 1, ascend(d, gradient, rows, norm, eps, step), worst, tf.reduce_any(gradient != 0)

        # A restart ends when the gradient is 0, as with threat `remaining` when all images are lost.
        _, d, worst, _ = tf.while_loop(lambda i, d, worst, moves: (i < steps) & moves, take_step, (0, d, worst, True))
        return restart + 1, visit(d, worst)[1]

    _, worst = visit(tf.zeros_like(rows), WorstCase.initial(x))
    # A ball of radius 0 has no point but x.
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), descend, (0, worst))[1]


def square(
    oracle: Oracle, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable, share: float = SQUARE
) -> WorstCase:
    """Perturb like `pgd`, but in the Linf ball and without gradients: set a random square of every image to eps above
    or below x, and keep it if that raises the image's margin. `step` is ignored.

    The first perturbation is stripes. The squares first cover `share` of the image, and shrink by the source's
    schedule. Lost images do not change any more in a restart, and are clean in later ones; the authors' code does not
    query them again. If images are attacked together, an image's margin depends on the others: it is compared with the
    margin at the last accepted square.

    Differs from the authors' code, github.com/max-andr/square-attack: there, share is 0.05, and 0.8 for MNIST, which
    resembles Omniglot; here a square may be as large as the image, and may change nothing.
    """
    tasks, queries, height, width, depth = x.shape
    eps = tf.convert_to_tensor(eps, x.dtype)
    thresholds = tf.constant(HALVINGS, tf.float32) * (steps / 10_000)

    def visit(d, worst):
        images = tf.clip_by_value(x + d, 0.0, 1.0)
        logits, _ = oracle(images)
        return margin(logits, y), worst.updated(images, logits, y)

    def changed(place, value, d, worst):
        """Return d, but `value` where the mask `place` is True in an image that is not lost."""
        return tf.where(place & ~worst.lost[..., None, None, None], value, d)

    def signs(z):
        return tf.where(z > 0, eps, -eps)

    def search(restart, worst):
        first = restart * (steps + 1)
        stripes = tf.reshape(normals(first, width * depth), [tasks, queries, 1, width, depth])
        d = changed(True, signs(stripes), tf.zeros_like(x), worst)
        most, worst = visit(d, worst)

        def try_squares(i, d, most, worst):
            z = tf.reshape(normals(first + 1 + i, 2 + depth), [tasks, queries, 2 + depth])
            halvings = tf.reduce_sum(tf.cast(tf.cast(i, tf.float32) > thresholds, tf.float32))
            side = tf.round(tf.sqrt(share * 0.5**halvings * height * width))
            side = tf.clip_by_value(tf.cast(side, tf.int32), 1, min(height, width))
            uniform = (1 + tf.math.erf(z[..., :2] * 2**-0.5)) / 2
            room = tf.constant([height, width]) - side
            corner = tf.minimum(tf.cast(uniform * tf.cast(room + 1, x.dtype), tf.int32), room)
            places = (tf.range(n) - corner[..., axis, None] for axis, n in enumerate((height, width)))
            row, column = ((place >= 0) & (place < side) for place in places)
            place = row[:, :, :, None, None] & column[:, :, None, :, None]
            proposal = changed(place, signs(z[:, :, None, None, 2:]), d, worst)
            now, worst = visit(proposal, worst)
            better = now > most
            d = tf.where(better[..., None, None, None], proposal, d)
            return i + 1, d, tf.maximum(now, most), worst

        return restart + 1, tf.while_loop(lambda i, *_: i < steps, try_squares, (0, d, most, worst))[-1]

    _, worst = visit(tf.zeros_like(x), WorstCase.initial(x))
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), search, (0, worst))[1]


class Method(NamedTuple):
    """An attack. run: called like `pgd`. norms: names of the norms that it can use. gradients: True if it uses
    gradients. squares: True if it takes a `share`."""

    run: Callable
    norms: tuple[str, ...]
    gradients: bool
    squares: bool


METHODS = {"pgd": Method(pgd, tuple(NORMS), True, False), "square": Method(square, ("linf",), False, True)}
