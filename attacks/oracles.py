"""Oracles: functions that an attack asks for the logits of images and for the gradient to follow.

Shapes: T tasks, Q query images per task, each H W C in [0, 1]; way classes. An image is lost if it was misclassified at
any point that the attack has visited.
"""

from __future__ import annotations

from collections.abc import Callable

import layers
from lazy import tf

# A function of images [T,Q,H,W,C], and of the images lost so far [T,Q] (or None), that returns logits [T,Q,way] and the
# gradient of the images' losses with respect to the images.
Oracle = Callable

# The threat models: `joint_oracle`, the same with `remaining`, and `single_oracle`. The texts end a figure's title.
THREATS = {"joint": "", "remaining": ", remaining images", "single": ", one image at a time"}


def margin(logits, y):
    """Return the largest other logit minus the true class' logit: [T,Q,way], one-hot [Q,way] -> [T,Q]."""
    others = tf.where(tf.broadcast_to(y > 0, logits.shape), logits.dtype.min, logits)
    return tf.reduce_max(others, -1) - tf.reduce_sum(logits * y, -1)


def misclassified(logits, y):
    """Return True where another class has the largest logit: [T,Q,way], one-hot [Q,way] -> bool [T,Q]."""
    return tf.argmax(logits, -1) != tf.argmax(y, -1)


LOSSES = {"cross_entropy": layers.cross_entropies, "margin": margin}  # of each image's logits, [T,Q]


def mean_gradient(losses, x):
    """Return the gradient of the losses [K*T,N] of K noise draws with respect to x [T,...], averaged over the draws."""
    return tf.gradients(losses, x)[0] / (losses.shape[0] // x.shape[0])


def joint_oracle(
    classify: Callable, y, loss: Callable = layers.cross_entropies, surrogate: Callable | None = None, remaining=False
) -> Oracle:
    """Return an oracle that attacks all images of a task together, up the sum of their losses.

    remaining: sum only the losses of images that are neither lost yet nor misclassified here. The other images still
    move: batch norm lets them change the remaining images' losses.
    surrogate: another classifier, images -> logits [K*T,Q,way] of K noise draws; the oracle follows its mean loss.
    """

    def oracle(x, lost=None):
        logits = classify(x)
        losses = loss(surrogate(x) if surrogate else logits, y)
        if remaining and lost is not None:
            draws = [losses.shape[0] // x.shape[0], 1]
            losses = tf.where(tf.tile(misclassified(logits, y) | lost, draws), tf.zeros_like(losses), losses)
        return logits, mean_gradient(losses, x)

    return oracle


def single_oracle(
    classify: Callable, clean, y, parallel=1, loss: Callable = layers.cross_entropies, surrogate: Callable | None = None
) -> Oracle:
    """Return an oracle that attacks each image while the others are clean, by Q calls of `classify`, `parallel` of them
    at the same time. surrogate: as in `joint_oracle`."""
    queries = clean.shape[1]

    def oracle(x, lost=None):
        def attack_one(index):
            image = x[:, index]
            place = tf.reshape(tf.one_hot(index, queries, True, False, dtype=tf.bool), [1, queries, 1, 1, 1])
            images = tf.where(place, image[:, None], clean)
            logits = classify(images)[:, index]
            followed = surrogate(images)[:, index] if surrogate else logits
            return logits, mean_gradient(loss(followed[:, None], y[index][None]), image)

        kinds = {"fn_output_signature": (clean.dtype, clean.dtype), "parallel_iterations": parallel}
        logits, gradient = tf.map_fn(attack_one, tf.range(queries), **kinds)
        return tf.einsum("qtw->tqw", logits), tf.einsum("qt...->tq...", gradient)

    return oracle
