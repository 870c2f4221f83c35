"""What rounding may do to a result: bounds that follow from an error analysis, and not from what one machine gave.

A sum of n terms is off by at most n eps of its terms' size, and by about sqrt(n) eps where the terms' errors are
independent (Higham, Accuracy and Stability of Numerical Algorithms, 2002, chapter 4). The longest sums of the
nets in these tests are batch norm's, of 1000 to 4000 terms, so that sqrt(n) is 32 to 64; a loss has gone through four
of them in the support and four in the query pass, whose errors are independent too: sqrt(8) as much.
"""

from unittest import mock

import numpy as np
import tensorflow as tf

import layers
import model
from perturbations import draws

SUMS = 128  # the rounding error of a loss or of a normalised pixel, in units of eps times its size
STEP = 1e-7  # so short that no pixel of these tests' nets passes a maximum or relu's 0


def noise_of(seeds):
    """Draw the noise of tasks in float64."""
    return draws.task_noise(seeds, "float64")


def random_parameters(declared, rng, dtype="float64"):
    """Draw parameters so large that no gradient is rounding alone. declared: what `parameters()` of a learner or of a
    perturbation returns."""
    return {name: tf.constant(0.4 * rng.standard_normal(p.shape), dtype) for name, p in declared.items()}


def numpy_block(x, w, bias, offset, epsilon, mean=None, variance=None, gain=1, mask=1):
    """Compute a block of images x [N,H,W,C] in numpy: convolution by w [3,3,C,D] with zeros around an image, batch norm
    by a given mean and variance or by the batch's, relu, mask, and the maxima of 2 x 2 pixels."""
    n, height, width, _ = x.shape
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    y = sum(padded[:, i : i + height, j : j + width] @ w[i, j] for i in range(3) for j in range(3)) + bias
    mean, variance = (y.mean((0, 1, 2)), y.var((0, 1, 2))) if mean is None else (mean, variance)
    y = (y - mean) / np.sqrt(variance + epsilon) * gain + offset
    y = (np.maximum(y, 0) * mask)[:, : height // 2 * 2, : width // 2 * 2]
    return y.reshape(n, height // 2, 2, width // 2, 2, -1).max((2, 4))


def central_difference(f):
    """f's derivative at 0, and how far rounding and the step may take it from that: f(number) -> float64 array.

    Rounding: two values, each off by SUMS eps |f|, divided by twice the step. Truncation is h^2 f'''/6, a third
    of the distance from the difference over twice the step.
    """
    values = {h: np.asarray(f(h)) for h in (STEP, -STEP, 2 * STEP, -2 * STEP)}
    slope, wider = ((values[h] - values[-h]) / (2 * h) for h in (STEP, 2 * STEP))
    size = max(np.abs(value).max() for value in values.values())
    bound = SUMS * np.finfo(float).eps * size / STEP + np.abs(slope - wider).max() / 3
    return slope, bound


def decided(f, *args):
    """f(*args) in a graph, where float32 would flip no maximum and no relu: f computes in float64, and has no loop.

    One flip moves a meta-gradient by 5 to 30 %, and what flips depends on the processor. So a window's largest pixel
    has to be further from the next one, and from relu's 0, than float32's rounding. Pixels that are equal (blank
    paper, masked ones) have equal gradients whichever is chosen.
    """
    distances, pool, norm_pool, far = [], layers.max_pool, layers.norm_pool, tf.constant(np.inf, tf.float64)

    def watch(x):
        """x: normalised maps [T,N,H,W,C]."""
        tasks, n, height, width, channels = x.shape
        windows = x[:, :, : height // 2 * 2, : width // 2 * 2]
        windows = tf.reshape(windows, [tasks * n, height // 2, 2, width // 2, 2, channels])
        windows = tf.reshape(tf.transpose(windows, [0, 1, 3, 5, 2, 4]), [-1, 4])
        first, second = tf.unstack(tf.math.top_k(windows, 2).values, axis=1)
        relu = tf.where(first == 0, far, tf.abs(first))
        gap = tf.where((first <= 0) | (first - second < 1e-12), far, first - second)
        distances.append(tf.reduce_min(tf.minimum(relu, gap)))

    def watched_pool(x):
        watch(x)
        return pool(x)

    def watched_norm_pool(x, beta, stop):
        watch(layers.batch_norm(x, beta))
        return norm_pool(x, beta, stop)

    def nearest(*args):
        return f(*args), tf.reduce_min(distances)

    with mock.patch.multiple(layers, max_pool=watched_pool, norm_pool=watched_norm_pool):
        result, distance = tf.function(nearest, autograph=False)(*args)
    assert distance > SUMS * np.finfo(np.float32).eps, f"{distance:.1e}: choose other inputs"
    return result


def outer_loss(learner, params, x_s, x_q, noise):
    """Return the outer loss of meta-training, of each task [T], in two parts: the cross entropy of the query sets x_q
    [T,Q,H,W,C] after adaptation to the support sets x_s, and the penalty. For finite differences of it: a test of what
    a learner itself computes calls its meta_gradient or its evaluate."""
    y_s, y_q = (model.labels_of(x, learner.train_way) for x in (x_s, x_q))
    adapted, support_penalty = learner.adapt(params, x_s, y_s, noise, training=True)
    logits, query_penalty = learner.classify(params, adapted, x_q, noise)
    return layers.cross_entropy(logits, learner.targets(y_q, noise)), support_penalty + query_penalty


def outer_slopes(learner, params, x_s, x_q, seed=4):
    """Compare the meta-gradient by every parameter, without noise, with a finite difference of the outer loss along a
    random direction. Return by name the difference and the bound of its error."""

    @tf.function(autograph=False)
    def loss_of(params):
        return tf.reduce_mean(outer_loss(learner, params, x_s, x_q, None)[0])

    @tf.function(autograph=False)
    def gradients(params):
        return meta_gradients(learner, params, x_s, x_q, tf.zeros([len(x_s), 2], tf.int32), 1, lambda seeds: None)[2]

    return slopes(loss_of, gradients(params), params, seed)


def slopes(loss_of, gradients, params, seed=4):
    """Compare gradients of a loss, by the parameters' names, as `outer_slopes` does. seed: or the generator of the
    directions."""
    found, rng = {}, np.random.default_rng(seed)
    for name, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape)
        direction /= np.linalg.norm(direction)
        slope, bound = central_difference(lambda h, n=name, d=direction: loss_of(params | {n: params[n] + h * d}))
        assert abs((np.asarray(gradient) * direction).sum() - slope) <= bound, name
        found[name] = slope, bound
    return found


def meta_gradients(
    learner, params, x_s, x_q, seeds, tasks_at_once=1, noise_of=draws.task_noise, adversary=None, classes=None
):
    """Return mean loss and mean accuracy over tasks, and the meta-gradient by every parameter, float64; of x_s
    [T,S,H,W,C], x_q [T,Q,H,W,C], seeds [T,2] and, if the learner needs them, the numbers of the classes [T,way],
    `tasks_at_once` in one call of the learner."""
    sums, way = [], learner.train_way if classes is None else classes.shape[-1]
    for first in range(0, x_s.shape[0], tasks_at_once):
        group = slice(first, first + tasks_at_once)
        episode = model.make_episode(x_s[group], x_q[group], way, None if classes is None else classes[group])
        numbers, gradients = learner.meta_gradient(params, episode, noise_of(seeds[group]), adversary)
        gradients = {k: tf.zeros_like(params[k]) if g is None else g for k, g in gradients.items()}
        one = {k: tf.reduce_sum(x) for k, x in numbers.items()} | gradients
        sums.append({k: tf.cast(x, tf.float64) for k, x in one.items()})
    means = {k: tf.add_n([one[k] for one in sums]) / x_s.shape[0] for k in sums[0]}
    return means.pop("loss"), means.pop("accuracy"), means
