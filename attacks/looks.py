"""What an attack sees of a classifier: logits, and the gradient that it follows.

Shapes: T tasks, Q query images of a task, each H W C in [0, 1]; N rows of D = H * W * C numbers; way classes.
"""

from __future__ import annotations

from collections.abc import Callable

import layers
from lazy import tf

# images [T,Q,H,W,C], and which of them are lost [T,Q], if that is known -> logits [T,Q,way], and the gradient by the
# images of their losses.
Look = Callable

# `together`, with `remaining`, and `one_by_one`; and what a title says of it.
THREATS = {"joint": "", "remaining": ", those that remain", "single": ", one at a time"}


def margin(logits, y):
    """By how much the largest logit of another class is above the own one: [T,Q,way], one-hot [Q,way] -> [T,Q]."""
    own = tf.reduce_sum(logits * y, -1)
    return tf.reduce_max(tf.where(tf.broadcast_to(y > 0, logits.shape), logits.dtype.min, logits), -1) - own


def misclassified(logits, y):
    """Is another class' logit the largest? [T,Q,way], one-hot [Q,way] -> bool [T,Q]."""
    return tf.argmax(logits, -1) != tf.argmax(y, -1)


LOSSES = {"cross_entropy": layers.cross_entropies, "margin": margin}  # of an image's logits, [T,Q]


def mean_gradient(losses, x):
    """Of losses [K*T,N], the gradient by x [T,...] of each one's mean over the K draws."""
    return tf.gradients(losses, x)[0] / (losses.shape[0] // x.shape[0])


def together(
    classify: Callable,
    y,
    loss: Callable = layers.cross_entropies,
    guide: Callable | None = None,
    remaining: bool = False,
) -> Look:
    """All images of a task are attacked together, and what classifies one sees the others attacked: the gradient is
    that of the sum of their losses. remaining: of the sum over those that are not lost, neither before nor here. What
    an image does to the others through batch norm then serves those that are still to be lost.

    guide: images -> logits [K*T,Q,way], of whose mean loss the gradient is taken, if it is not to be that of
    `classify`.
    """

    def look(x, lost=None):
        logits = classify(x)
        losses = loss(guide(x) if guide else logits, y)
        if remaining and lost is not None:
            draws = [losses.shape[0] // x.shape[0], 1]
            losses = tf.where(tf.tile(misclassified(logits, y) | lost, draws), tf.zeros_like(losses), losses)
        return logits, mean_gradient(losses, x)

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

    def look(x, lost=None):
        def of_one(index):
            image = x[:, index]
            place = tf.reshape(tf.one_hot(index, queries, True, False, dtype=tf.bool), [1, queries, 1, 1, 1])
            images = tf.where(place, image[:, None], clean)
            logits = classify(images)[:, index]
            guiding = guide(images)[:, index] if guide else logits
            return logits, mean_gradient(loss(guiding[:, None], y[index][None]), image)

        dtypes = (clean.dtype, clean.dtype)
        logits, gradient = tf.map_fn(
            of_one, tf.range(queries), fn_output_signature=dtypes, parallel_iterations=parallel
        )
        return tf.einsum("qtw->tqw", logits), tf.einsum("qt...->tq...", gradient)

    return look
