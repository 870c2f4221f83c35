"""Linear classifiers of embeddings. A classifier is computed from a support set.

Shapes: T tasks, S support images, D numbers of an embedding h [T,S,D], labels y one-hot [S,way]. A head is weights
[T,D,way] and biases [T,way]. shares [S]: the weight of each image, whose sum is 1 (layers.image_shares); None: equal
weights.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np

import layers
from lazy import LazyModule, tf

linear_model = LazyModule("sklearn.linear_model")
Head: TypeAlias = "tuple[tf.Tensor, tf.Tensor]"
MOMENTUM = 0.9  # of the steps of `cosine`
SMALLEST = 1e-6  # least penalty of `ridge`, as a share of the mean of its matrix's diagonal: ten times float32's eps


def of_means(means: tf.Tensor) -> Head:
    """Return the head that gives an embedding h the class with the nearest of the class means mu [T,way,D].

    Its logits are |h - m|^2 - |h - mu|^2 = 2 (mu - m) . h - (mu - m) . (mu + m), with the mean m of the class means.
    Without m all logits of an embedding would change by the same number; but float32 would round away the differences
    between class means that are close together and far from 0.
    """
    m = tf.reduce_mean(means, 1, keepdims=True)
    return 2 * tf.linalg.matrix_transpose(means - m), -tf.reduce_sum((means - m) * (means + m), -1)


def image_weights(h: tf.Tensor, shares: tf.Tensor | None) -> tf.Tensor:
    """Return the weights [S] of the images of h [T,S,D], whose sum is the number of images that have one."""
    if shares is None:
        return tf.ones(h.shape[1:2], h.dtype)
    return shares * tf.math.count_nonzero(shares, dtype=shares.dtype)


def ridge(h: tf.Tensor, y: tf.Tensor, shares: tf.Tensor | None, penalty) -> Head:
    """Return the head of ridge regression of the one-hot labels: it minimizes

        sum over images of n * share * |h W + b - y|^2  +  penalty * (|W|^2 + |b|^2).

    n is the number of images of share > 0. Source: Bertinetto, Henriques, Torr and Vedaldi, "Meta-learning with
    differentiable closed-form solvers" (ICLR 2019), equations 4 and 6. The number of equations to solve is that of the
    images or that of the numbers in an embedding, whichever is smaller. penalty: above 0; one below SMALLEST times the
    mean of the diagonal of the equations' matrix is raised to that, because float32 could not tell it from 0.
    """
    tasks, images, numbers = h.shape
    root = tf.sqrt(image_weights(h, shares))[:, None]
    x = tf.concat([h, tf.ones([tasks, images, 1], h.dtype)], -1) * root
    few = images <= numbers + 1
    gram = tf.matmul(x, x, transpose_a=not few, transpose_b=few)
    least = SMALLEST * tf.linalg.trace(gram) / gram.shape[-1]
    gram += tf.maximum(least, penalty)[:, None, None] * tf.eye(gram.shape[-1], dtype=h.dtype)
    target = tf.broadcast_to(root * y, [tasks, *y.shape])
    if few:
        solution = tf.matmul(x, tf.linalg.solve(gram, target), transpose_a=True)
    else:
        solution = tf.linalg.solve(gram, tf.matmul(x, target, transpose_a=True))
    return solution[:, :-1], solution[:, -1]


def logistic(h: tf.Tensor, y: tf.Tensor, shares: tf.Tensor | None, penalty: float) -> Head:
    """Return the head of logistic regression, computed by scikit-learn: it minimizes

        sum over images of S * share * cross entropy  +  penalty / 2 * |W|^2.

    Source: Tian, Wang, Krishnan, Tenenbaum and Isola, "Rethinking Few-Shot Image Classification: A Good Embedding Is
    All You Need?" (ECCV 2020), who take penalty 1, but five augmented copies of each support image: as much as penalty
    0.2 here. The head has no gradient with respect to h.
    """
    tasks, _, numbers = h.shape
    one_task, weights = functools.partial(fitted, penalty=penalty), image_weights(h, shares)
    heads = [tf.numpy_function(one_task, [one, y, weights], h.dtype, stateful=False) for one in tf.unstack(h)]
    both = tf.ensure_shape(tf.stack(heads), [tasks, numbers + 1, y.shape[-1]])
    return both[:, :-1], both[:, -1]


def fitted(h: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float) -> np.ndarray:
    """Return the weights and, in the last row, the biases [D+1,way] of `logistic` for one task's h [S,D]."""
    two = y.shape[1] == 2  # scikit-learn has one logit, the second class's less the first one's: W is [-w, w] / 2
    model = linear_model.LogisticRegression(C=(2 if two else 1) / penalty, max_iter=1000, tol=1e-6)
    labels = y.argmax(-1)  # 0 for an image without weight, which has no effect
    model.fit(h.astype(np.float64), labels, sample_weight=weights.astype(np.float64))
    head = np.concatenate([model.coef_.T, model.intercept_[None]])
    if two:
        head = head * [-0.5, 0.5]
    return head.astype(h.dtype)


def cosine(h: tf.Tensor, y: tf.Tensor, class_shares, start: tf.Tensor, scale: float, steps: int, rate: float) -> Head:
    """Return a head without biases, after this number of gradient steps on the support set's cross entropy; its logits
    are scale * cos(h, w) if |h| = 1.

    Source: Chen, Liu, Kira, Wang and Huang, "A Closer Look at Few-shot Classification" (ICLR 2019), the classifier of
    Baseline++ in testing. start: the weights before the first step, [T,D,way]. Momentum and its dampening are the
    source's, 0.9. class_shares: layers.class_shares.

    Differs from the source: a step takes the whole support set, and not four of its images; the lengths of the weights
    have no effect on the logits, and do not decay (the source learns a length for each class, and its scale is 2); the
    network that computes h was not trained with a cosine classifier, and the baseline's h is centred.
    """

    def gradient(w):
        loss = layers.cross_entropy(tf.matmul(h, scale * unit(w, axis=1)), y, class_shares)
        return tf.gradients(tf.reduce_sum(loss), [w])[0]

    def step(state, _):
        w, velocity = state
        velocity = MOMENTUM * velocity + (1 - MOMENTUM) * gradient(w)
        return w - rate * velocity, velocity

    w = start
    if steps:
        velocity = gradient(w)  # PyTorch does not dampen the first step
        w, _ = tf.foldl(step, tf.range(steps - 1), (w - rate * velocity, velocity))
    return scale * unit(w, axis=1), tf.zeros([h.shape[0], y.shape[-1]], h.dtype)


def unit(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Return x divided by its Euclidean length along the axis, or by 1e-12 if it is shorter than that."""
    return tf.math.l2_normalize(x, axis, epsilon=1e-24)


# The heads of --head, and the settings that each uses (learners/baseline.py).
HEADS = {
    "nearest": {"head_scale"}, "logistic": {"head_penalty"}, "ridge": {"head_penalty", "head_scale"},
    "finetune": {"head_scale", "finetune_steps", "finetune_lr"},
}  # fmt: skip
