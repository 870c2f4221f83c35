"""Attacks on a classifier's images: projected gradient descent in the balls of four norms, and square attack.

Sources: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards Deep Learning Models Resistant to Adversarial Attacks",
ICLR 2018: from a random place in the ball go up the loss, step by step, and back into the ball and the box.
Andriushchenko, Croce, Flammarion and Hein, "Square Attack", ECCV 2020: a random search that takes no gradient.
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
MADRY = 2.5  # sizes of the ball that the steps of one restart are long together, unless something else is asked for
OUTER = 2**16  # the adversary's place among a task's draws: that of an inner step which no learner takes
SQUARE = 0.8  # share of the image that the first squares of a square attack cover
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after how many of 10,000 steps their area is halved

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


def margin(logits, y):
    """By how much the largest logit of another class is above the own one: [T,Q,way], one-hot [Q,way] -> [T,Q]."""
    own = tf.reduce_sum(logits * y, -1)
    return tf.reduce_max(tf.where(tf.broadcast_to(y > 0, logits.shape), logits.dtype.min, logits), -1) - own


LOSSES = {"cross_entropy": layers.cross_entropies, "margin": margin}  # of an image's logits, [T,Q]


def together(classify: Callable, y, loss: Callable = layers.cross_entropies, guide: Callable | None = None) -> Look:
    """All images of a task are attacked together, and what classifies one sees the others attacked.

    guide: images -> logits [K*T,Q,way], of which the gradient is taken, if it is not to be that of `classify`.
    """

    def look(x):
        logits = classify(x)
        return logits, tf.gradients(loss(guide(x) if guide else logits, y), x)[0]

    return look


def one_by_one(
    classify: Callable,
    clean,
    y,
    parallel: int = 1,
    loss: Callable = layers.cross_entropies,
    guide: Callable | None = None,
) -> Look:
    """Each image is attacked with the others clean: Q calls of `classify` in place of one. guide: as of `together`."""
    queries = clean.shape[1]

    def look(x):
        def of_one(index):
            image = x[:, index]
            place = tf.reshape(tf.one_hot(index, queries, True, False, dtype=tf.bool), [1, queries, 1, 1, 1])
            images = tf.where(place, image[:, None], clean)
            logits = classify(images)[:, index]
            guiding = guide(images)[:, index] if guide else logits
            return logits, tf.gradients(loss(guiding[:, None], y[index][None]), image)[0]

        dtypes = (clean.dtype, clean.dtype)
        logits, gradient = tf.map_fn(
            of_one, tf.range(queries), fn_output_signature=dtypes, parallel_iterations=parallel
        )
        return tf.einsum("qtw->tqw", logits), tf.einsum("qt...->tq...", gradient)

    return look


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
        labels = tf.argmax(logits, -1, tf.int32)
        wrong = labels != tf.argmax(y, -1, tf.int32)
        loss = layers.cross_entropies(logits, y)
        better = tf.where(wrong == self.wrong, loss > self.loss, wrong)
        return Worst(
            self.wrong | wrong,
            tf.where(better, loss, self.loss),
            tf.where(better[..., None, None, None], images, self.images),
            tf.where(better, labels, self.labels),
        )


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


def pgd(look: Look, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable, clean_start=False):
    """Perturb the images x [T,Q,H,W,C] within eps, so that they are not classified as y, one-hot [Q,way] -> Worst.

    eps, step: radius of the ball, and size of a step in it; scalars, tensors or numbers. normals(number, k): N(0, 1),
    [T*Q,k], others for every number; a restart begins with its own. clean_start: all begin at x.
    """
    rows = rows_of(x)
    eps, step = (tf.convert_to_tensor(number, x.dtype) for number in (eps, step))

    def visit(d, worst):
        images = tf.reshape(rows + d, x.shape)
        logits, gradient = look(images)
        return gradient, worst.and_at(images, logits, y)

    def descend(restart, worst):
        d = tf.zeros_like(rows) if clean_start else beginning(rows, norm, eps, lambda k: normals(restart, k))

        def once(i, d, worst):
            gradient, worst = visit(d, worst)
            return i + 1, ascend(d, gradient, rows, norm, eps, step), worst

        _, d, worst = tf.while_loop(lambda i, *_: i < steps, once, (0, d, worst))
        return restart + 1, visit(d, worst)[1]

    _, worst = visit(tf.zeros_like(rows), Worst.of_none(x))
    # In a ball of radius 0 there is nowhere to go.
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), descend, (0, worst))[1]


def square(look: Look, x, y, norm: Norm, eps, step, steps: int, restarts: int, normals: Callable) -> Worst:
    """As `pgd`, in the Linf ball and without a gradient: squares of every image are set to eps above or below it, at
    random, and stay so where that raises the image's margin. `step` means nothing to it.

    Begins with stripes; the squares shrink by the source's schedule. Where images are attacked together, one image's
    margin depends on the others: it is what was seen when its last square was accepted.
    """
    tasks, queries, height, width, depth = x.shape
    eps = tf.convert_to_tensor(eps, x.dtype)
    thresholds = tf.constant(HALVED, tf.float32) * (steps / 10_000)

    def visit(d, worst):
        images = tf.clip_by_value(x + d, 0.0, 1.0)
        logits, _ = look(images)
        return margin(logits, y), worst.and_at(images, logits, y)

    def signs(z):
        return tf.where(z > 0, eps, -eps)

    def search(restart, worst):
        first = restart * (steps + 1)
        stripes = tf.reshape(normals(first, width * depth), [tasks, queries, 1, width, depth])
        d = tf.broadcast_to(signs(stripes), x.shape)
        most, worst = visit(d, worst)

        def once(i, d, most, worst):
            z = tf.reshape(normals(first + 1 + i, 2 + depth), [tasks, queries, 2 + depth])
            halved = tf.reduce_sum(tf.cast(tf.cast(i, tf.float32) > thresholds, tf.float32))
            side = tf.round(tf.sqrt(SQUARE * 0.5**halved * height * width))
            side = tf.clip_by_value(tf.cast(side, tf.int32), 1, min(height, width))
            uniform = (1 + tf.math.erf(z[..., :2] * 2**-0.5)) / 2
            room = tf.constant([height, width]) - side
            corner = tf.minimum(tf.cast(uniform * tf.cast(room + 1, x.dtype), tf.int32), room)
            row, column = (tf.range(n) - corner[..., axis, None] for axis, n in enumerate((height, width)))
            row, column = (((place >= 0) & (place < side)) for place in (row, column))
            place = row[:, :, :, None, None] & column[:, :, None, :, None]
            proposal = tf.where(place, signs(z[:, :, None, None, 2:]), d)
            now, worst = visit(proposal, worst)
            better = now > most
            d = tf.where(better[..., None, None, None], proposal, d)
            return i + 1, d, tf.maximum(now, most), worst

        return restart + 1, tf.while_loop(lambda i, *_: i < steps, once, (0, d, most, worst))[-1]

    _, worst = visit(tf.zeros_like(x), Worst.of_none(x))
    return tf.while_loop(lambda i, _: (i < restarts) & (eps > 0), search, (0, worst))[1]


class Method(NamedTuple):
    """A way to attack. run: called as `pgd`. norms: those in whose balls it moves. gradients: does it take any?"""

    run: Callable
    norms: tuple[str, ...]
    gradients: bool


METHODS = {"pgd": Method(pgd, tuple(NORMS), True), "square": Method(square, ("linf",), False)}


class Adversary(NamedTuple):
    """Who perturbs the query images of meta-training, so that a learner is trained on them: `steps` steps of `pgd`
    from a random place, MADRY * eps long together, all images of a task together; the last place is trained on.

    Sources: Madry et al.; of query images after adaptation, Goldblum, Fowl and Goldstein, "Adversarially Robust
    Few-Shot Learning: A Meta-Learning Approach", NeurIPS 2020, who train with one step as long as the ball's radius.
    """

    norm: str
    eps: float
    steps: int

    def perturb(self, classify: Callable, x, y, noise: Callable):
        """Perturb the images x [T,Q,H,W,C] so that `classify`, images -> logits, does not take them for y, one-hot
        [Q,way]. noise: perturbations.draws.Noise. -> images, constants of whatever is differentiated."""
        norm, rows, look = NORMS[self.norm], rows_of(x), together(classify, y)
        eps, step = tf.constant(self.eps, x.dtype), tf.constant(MADRY * self.eps / self.steps, x.dtype)

        def normals(k):
            return tf.reshape(noise(OUTER, "dense", [*x.shape[:2], k]), [-1, k])

        def once(i, d):
            _, gradient = look(tf.reshape(rows + d, x.shape))
            return i + 1, ascend(d, gradient, rows, norm, eps, step)

        _, d = tf.while_loop(lambda i, _: i < self.steps, once, (0, beginning(rows, norm, eps, normals)))
        return tf.stop_gradient(tf.reshape(rows + d, x.shape))
