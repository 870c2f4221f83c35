"""Projected gradient descent, and square attack.

Sources: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018: from a random place in the ball go up the loss, step by step, and back into the ball and the box.
Andriushchenko, Croce, Flammarion and Hein, "Square Attack", ECCV 2020: a random search that takes no gradient.
Shapes: T tasks, Q query images of a task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import layers
from attacks.looks import Look, margin, misclassified
from attacks.norms import NORMS, Norm, ascend, beginning, rows_of
from lazy import tf

MADRY = 2.5  # sizes of the ball that the steps of one restart are long together, unless something else is asked for
SQUARE = 0.8  # share of the image that the first squares of a square attack cover, unless something else is asked for
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after how many of 10,000 steps their area is halved


class Worst(NamedTuple):
    """What an attack knows of its images. wrong [T,Q]: was it misclassified at any place that was visited? Its worst
    place: the loss there [T,Q], the image [T,Q,H,W,C], and the class that it is taken for [T,Q]. A place where it is
    misclassified is worse than others, of those the one of the largest loss."""

    wrong: tf.Tensor
    loss: tf.Tensor
    images: tf.Tensor
    labels: tf.Tensor

    @classmethod
    def of_none(cls, x) -> Worst:
        """Before any place was visited."""
        wrong, loss = tf.zeros(x.shape[:2], tf.bool), tf.fill(x.shape[:2], x.dtype.min)
        return cls(wrong, loss, x, tf.zeros(x.shape[:2], tf.int32))

    def and_at(self, images, logits, y) -> Worst:
        """With what these images' logits tell."""
        wrong, loss = misclassified(logits, y), layers.cross_entropies(logits, y)
        better = tf.where(wrong == self.wrong, loss > self.loss, wrong)
        return Worst(
            self.wrong | wrong,
            tf.where(better, loss, self.loss),
            tf.where(better[..., None, None, None], images, self.images),
            tf.where(better, tf.argmax(logits, -1, tf.int32), self.labels),
        )


def pgd(look: Look, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable, clean_start=False):
    """Perturb the images x [T,Q,H,W,C] within eps, so that they are not classified as y, one-hot [Q,way] -> Worst.

    eps, step: radius of the ball, and size of a step in it; scalars, tensors or numbers. normals(number, k): N(0, 1),
    [T*Q,k], others for every number; a restart begins with its own. clean_start: all begin at x.
    """
    rows = rows_of(x)
    eps, step = (tf.convert_to_tensor(number, x.dtype) for number in (eps, step))

    def visit(d, worst):
        images = tf.reshape(rows + d, x.shape)
        logits, gradient = look(images, worst.wrong)
        return gradient, worst.and_at(images, logits, y)

    def descend(restart, worst):
        d = tf.zeros_like(rows) if clean_start else beginning(rows, norm, eps, lambda k: normals(restart, k))

        def once(i, d, worst, _):
            gradient, worst = visit(d, worst)
            return i + 1, ascend(d, gradient, rows, norm, eps, step), worst, tf.reduce_any(gradient != 0)

        # Without a gradient no step goes anywhere: so it is where all are lost, and those that remain are climbed.
        _, d, worst, _ = tf.while_loop(lambda i, d, worst, moves: (i < steps) & moves, once, (0, d, worst, True))
        return restart + 1, visit(d, worst)[1]

    _, worst = visit(tf.zeros_like(rows), Worst.of_none(x))
    # In a ball of radius 0 there is nowhere to go.
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), descend, (0, worst))[1]


def square(
    look: Look, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable, share: float = SQUARE
) -> Worst:
    """As `pgd`, in the Linf ball and without a gradient: squares of every image are set to eps above or below it, at
    random, and stay so where that raises the image's margin. `step` means nothing to it.

    Begins with stripes; the squares cover `share` of the image first, and shrink by the source's schedule. An image
    that is lost stays as it is, as in the authors' code, which does not query it again. Where images are attacked
    together, one image's margin depends on the others: it is what was seen when its last square was accepted.

    Differs from the authors' code, github.com/max-andr/square-attack: share is 0.05 there, and 0.8 for MNIST,
    whose images resemble Omniglot's; here a square may be as large as the image, and may change nothing.
    """
    tasks, queries, height, width, depth = x.shape
    eps = tf.convert_to_tensor(eps, x.dtype)
    thresholds = tf.constant(HALVED, tf.float32) * (steps / 10_000)

    def visit(d, worst):
        images = tf.clip_by_value(x + d, 0.0, 1.0)
        logits, _ = look(images)
        return margin(logits, y), worst.and_at(images, logits, y)

    def moved(place, to, d, worst):
        """d, with the value `to` at this place of the images that are not lost."""
        return tf.where(place & ~worst.wrong[..., None, None, None], to, d)

    def signs(z):
        return tf.where(z > 0, eps, -eps)

    def search(restart, worst):
        first = restart * (steps + 1)
        stripes = tf.reshape(normals(first, width * depth), [tasks, queries, 1, width, depth])
        d = moved(True, signs(stripes), tf.zeros_like(x), worst)
        most, worst = visit(d, worst)

        def once(i, d, most, worst):
            z = tf.reshape(normals(first + 1 + i, 2 + depth), [tasks, queries, 2 + depth])
            halved = tf.reduce_sum(tf.cast(tf.cast(i, tf.float32) > thresholds, tf.float32))
            side = tf.round(tf.sqrt(share * 0.5**halved * height * width))
            side = tf.clip_by_value(tf.cast(side, tf.int32), 1, min(height, width))
            uniform = (1 + tf.math.erf(z[..., :2] * 2**-0.5)) / 2
            room = tf.constant([height, width]) - side
            corner = tf.minimum(tf.cast(uniform * tf.cast(room + 1, x.dtype), tf.int32), room)
            row, column = (tf.range(n) - corner[..., axis, None] for axis, n in enumerate((height, width)))
            row, column = (((place >= 0) & (place < side)) for place in (row, column))
            place = row[:, :, :, None, None] & column[:, :, None, :, None]
            proposal = moved(place, signs(z[:, :, None, None, 2:]), d, worst)
            now, worst = visit(proposal, worst)
            better = now > most
            d = tf.where(better[..., None, None, None], proposal, d)
            return i + 1, d, tf.maximum(now, most), worst

        return restart + 1, tf.while_loop(lambda i, *_: i < steps, once, (0, d, most, worst))[-1]

    _, worst = visit(tf.zeros_like(x), Worst.of_none(x))
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), search, (0, worst))[1]


class Method(NamedTuple):
    """A way to attack. run: called as `pgd`. norms: those in whose balls it moves. gradients: True if it
    takes gradients. squares: True if it sets squares, and so takes a `share`."""

    run: Callable
    norms: tuple[str, ...]
    gradients: bool
    squares: bool


METHODS = {"pgd": Method(pgd, tuple(NORMS), True, False), "square": Method(square, ("linf",), False, True)}
