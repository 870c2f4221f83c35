"""Layers with a task axis: pure functions over tensors, twice differentiable, with and without XLA.

Shapes: T tasks, N images of one task (of all its noise samples), H W C a map, D K features in and out,
G groups that are normalised on their own (a task, or one noise sample of a task).
A weight is shared by all tasks (its natural rank) or has a leading task axis.
Products are computed in the dtype of the maps (bfloat16, for example) and returned in that of the weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lazy import tf

FEW = 8  # input channels below which the shortcuts of `conv` and `conv_batch_norm` are faster, on a CPU
BFLOAT16_AS_FLOAT32 = True  # is a product of bfloat16 computed in float32 where the processor has none?
EPSILON = 1e-3  # contrib batch_norm's default in the TF1 code; it matters where the weights' std is 0.02
GAINED_EPSILON = 1e-5  # PyTorch's, where there is a gain


@contextmanager
def textbook() -> Iterator[None]:
    """Inside it layers are traced without their shortcuts for few input channels, so that their work can be counted."""
    global FEW
    before, FEW = FEW, 0
    try:
        yield
    finally:
        FEW = before


@contextmanager
def for_other_devices() -> Iterator[None]:
    """Inside it products of bfloat16 are traced as such, whatever this processor has."""
    global BFLOAT16_AS_FLOAT32
    before, BFLOAT16_AS_FLOAT32 = BFLOAT16_AS_FLOAT32, False
    try:
        yield
    finally:
        BFLOAT16_AS_FLOAT32 = before


def custom_gradient(f):
    """Return tf.custom_gradient(f), which loads TensorFlow when it is first called, and whose graphs can be freed."""

    @functools.wraps(f)
    def call(*tensors):
        return freed_with_graph(tf.custom_gradient(f)(*tensors))

    return call


def freed_with_graph(results):
    """Return the results of a function that tf.custom_gradient has decorated; their gradient function moves from
    TensorFlow's table to the operation that makes them. TensorFlow never empties this table, and a gradient function
    refers to its graph, so that no such graph would ever be freed."""
    from tensorflow.python.framework import ops

    table = getattr(ops.gradient_registry, "_registry", {})  # none in a version of TensorFlow that does without
    for operation in {tensor.op for tensor in tf.nest.flatten(results) if tf.is_symbolic_tensor(tensor)}:
        name = operation.type == "IdentityN" and operation.node_def.attr["_gradient_op_type"].s.decode()
        if name in table and hasattr(operation, "_gradient_function"):
            gradient = ops.gradient_registry.lookup(name)
            operation._gradient_function = lambda *args, gradient=gradient: freed_with_graph(gradient(*args))
            del table[name]
    return results


def recomputed(f: Callable) -> Callable:
    """Return f, computed again when its results are differentiated, in place of keeping its intermediate tensors: less
    memory, more time. f takes and returns any structures (tf.nest). Its results can be differentiated once, by the
    tensors in its arguments alone: what is differentiated has to be an argument and no variable from outside."""

    def call(*arguments):
        leaves = tf.nest.flatten(arguments)
        places = [place for place, leaf in enumerate(leaves) if tf.is_tensor(leaf)]

        def compute(*tensors):
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            return f(*tf.nest.pack_sequence_as(arguments, leaves))

        return freed_with_graph(tf.recompute_grad(compute)(*(leaves[place] for place in places)))

    return call


@functools.cache
def has_bfloat16() -> bool:
    """Does what computes here multiply bfloat16 by itself? A GPU does, and so do the processors that say so."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags or bool(tf.config.list_physical_devices("GPU"))


def product(op: Callable, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """op(x, y), a product whose sums are float32, in the dtype of x. A processor that has no bfloat16 is six times as
    slow with it as with float32, in which it gets the same: the factors are rounded already, and the result is."""
    if x.dtype == tf.bfloat16 and BFLOAT16_AS_FLOAT32 and not has_bfloat16():
        return tf.cast(op(tf.cast(x, tf.float32), tf.cast(y, tf.float32)), x.dtype)
    return op(x, y)


def rounded(x: tf.Tensor, bf16: bool) -> tf.Tensor:
    """Maps as convolutions and matrix products take them."""
    return tf.cast(x, tf.bfloat16) if bf16 else x


def conv(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor | None) -> tf.Tensor:
    """3x3 convolution, stride 1, SAME padding, with bias (None: without, for kernels that tasks share).

    x [T,N,H,W,C]; w [3,3,C,D] and b [D], or w [T,3,3,C,D] and b [T,D] -> [T,N,H,W,D].
    """
    tasks, n, height, width, channels = x.shape
    if w.shape.rank == 5 and tasks == 1:
        w, b = w[0], b[0]
    dtype, w = w.dtype, tf.cast(w, x.dtype)
    if w.shape.rank == 4:
        rows = tf.reshape(x, [tasks * n, height, width, channels])
        if b is None:
            y = tf.cast(convolve(rows, w), dtype)
        elif channels < FEW and x.dtype == dtype:
            # The bias as the kernel of a channel of ones: its gradient comes with the kernel's.
            rows = tf.concat([rows, tf.ones_like(rows[..., :1])], -1)
            bias = tf.pad(b[None, None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
            y = convolve(rows, tf.concat([w, bias], 2))
        else:
            y = tf.nn.bias_add(tf.cast(convolve(rows, w), dtype), b)
        return tf.reshape(y, [tasks, n, height, width, -1])
    # A kernel for every task: the nine shifts side by side, then one batched matrix product.
    # (tf.vectorized_map cannot do this, and a grouped conv2d has no gradient on the CPU.)
    rows = tf.reshape(columns(x), [tasks, n * height * width, 9 * channels])
    y = tf.cast(product(tf.matmul, rows, tf.reshape(w, [tasks, 9 * channels, -1])), dtype) + b[:, None]
    return tf.reshape(y, [tasks, n, height, width, -1])


@custom_gradient
def convolve(x, w):
    """x [N,H,W,C], w [3,3,C,D] -> [N,H,W,D]. Its gradient by x is a convolution, too, and written as one: the kernel
    for that is faster on a CPU."""
    y = product(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), x, w)
    back = convolve_to_few if x.shape[-1] < FEW and x.dtype != tf.bfloat16 else convolve
    return y, lambda dy: (back(dy, _turned(w)), _convolve_gradient(x, dy))


def convolve_to_few(x, w):
    """`convolve` where D is small, for which a CPU's kernel is slow: one matrix product with the kernel's nine places
    side by side, whose results are moved to where they belong."""
    n, height, width, channels = x.shape
    places = tf.reshape(tf.einsum("ijcd->cijd", w), [channels, -1])
    y = product(tf.matmul, tf.reshape(x, [-1, channels]), places)
    y = tf.pad(tf.reshape(y, [n, height, width, 9, -1]), [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]])
    return tf.add_n([y[:, i : i + height, j : j + width, 3 * i + j] for i in range(3) for j in range(3)])


@custom_gradient
def _convolve_gradient(x, dy):
    """The gradient of `convolve` by its kernel: x [N,H,W,C], dy [N,H,W,D] -> [3,3,C,D]."""
    settings = {"filter_sizes": [3, 3, x.shape[-1], dy.shape[-1]], "strides": [1, 1, 1, 1], "padding": "SAME"}
    dw = product(lambda x, dy: tf.raw_ops.Conv2DBackpropFilter(input=x, out_backprop=dy, **settings), x, dy)
    return dw, lambda g: (convolve(dy, _turned(g)), convolve(x, g))


def _turned(w):
    return tf.transpose(tf.reverse(w, [0, 1]), [0, 1, 3, 2])


def columns(x: tf.Tensor) -> tf.Tensor:
    """The pixels under a 3x3 kernel at every place, side by side: [T,N,H,W,C] -> [T,N,H,W,9C]."""
    height, width = x.shape[2:4]
    padded = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
    return tf.concat([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], -1)


def dense(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x [T,N,D]; w [D,K] and b [K], or w [T,D,K] and b [T,K] -> [T,N,K]."""
    return tf.cast(product(tf.matmul, x, tf.cast(w, x.dtype)), w.dtype) + (b[:, None] if b.shape.rank == 2 else b)


def batch_norm(x: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """Normalise each group of x [G,N,H,W,C] over N, H and W with its own statistics, then add beta [C].

    Biased variance, no gamma, no running averages: the batch at hand, in training and in testing.
    """
    mean, rstd = _statistics(x)
    return (x - mean) * rstd + beta


def batch_norm_held(x: tf.Tensor, beta: tf.Tensor) -> tf.Tensor:
    """`batch_norm` whose dL/dx is held constant when it is differentiated again.

    The TF1 code's meta-gradient: in a TF 1.x while loop (its tf.map_fn over tasks) fused batch norm loses
    its second derivative.
    """

    @custom_gradient
    def normalised(x):
        mean, rstd = _statistics(x)
        normal = (x - mean) * rstd
        return normal, lambda dy: tf.stop_gradient(rstd * (dy - _mean(dy) - normal * _mean(dy * normal)))

    return normalised(x) + beta


def norm_pool(x: tf.Tensor, beta: tf.Tensor, held: bool) -> tf.Tensor:
    """max_pool(batch_norm(x, beta)), or of batch_norm_held: x [G,N,H,W,C] -> [G,N,H//2,W//2,C].

    A maximum commutes with a normalisation, whose factor is positive, so that a quarter of the pixels is normalised.
    Both derivatives are written out: they pass over the whole map a third as often as TensorFlow's.
    """
    pixels = x.shape[1:4].num_elements()  # that are normalised together

    def mean_of(dy):
        return _mean(dy) * (dy.shape[1:4].num_elements() / pixels)

    @custom_gradient
    def normalised(x):
        mean, rstd = _statistics(x)
        maxima, spread, gather = windows(x)
        normal = (maxima - mean) * rstd

        def line(x, slope, offset):
            """offset + slope * z, where z is x normalised."""
            slope *= rstd
            return x * slope + (offset - mean * slope)

        @custom_gradient
        def backward(x, dy):
            dy_mean, dy_normal = mean_of(dy), mean_of(dy * normal)
            # What moves a pixel moves the mean and the standard deviation of all.
            dx = spread(rstd * dy) - line(x, rstd * dy_normal, rstd * dy_mean)

            def second(g):
                """The gradient of sum(dx * g) by x and by dy."""
                gathered, g_mean = gather(g), mean_of(g)
                g_normal = (mean_of(g * x) - mean * g_mean) * rstd
                by_dy = rstd * (gathered - g_mean - normal * g_normal)
                slope = mean_of(gathered * dy) - dy_mean * g_mean - 3 * dy_normal * g_normal
                offset = dy_normal * g_mean + g_normal * dy_mean
                square = tf.square(rstd)
                by_x = line(x, square * slope, -square * offset) + spread(square * g_normal * dy)
                return -(by_x + square * dy_normal * g), by_dy

            return dx, second

        return normal, lambda dy: tf.stop_gradient(backward(x, dy)) if held else backward(x, dy)

    return normalised(x) + beta


def batch_norm_gained(x, gamma, beta):
    """`batch_norm` with a gain gamma [C] and PyTorch's epsilon -> it, and the mean and unbiased variance [G,C]."""
    # The fused op normalises one group, and has no float64. It is three times as fast on a CPU and sums plainly: its
    # output is 1e-5 off where a channel has 15,000 pixels, and 5e-4 where it has 500,000; two passes are 3e-6 off.
    if x.shape[0] == 1 and x.dtype != tf.float64:
        rows = tf.reshape(x, x.shape[1:])  # x[0] would copy the map, and again in the backward pass
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows, scale=gamma, offset=beta, mean=[], variance=[], epsilon=GAINED_EPSILON
        )
        return tf.reshape(y, x.shape), mean[None], variance[None]
    mean = _mean(x)
    variance = _mean(tf.square(x - mean))
    y = (x - mean) * tf.math.rsqrt(variance + GAINED_EPSILON) * gamma + beta
    return y, mean[:, 0, 0, 0], _unbiased(variance[:, 0, 0, 0], x.shape)


def conv_batch_norm(x, w, gamma, beta):
    """batch_norm_gained(conv(x)), every task a group. x [T,N,H,W,C], w [3,3,C,D] -> [T,N,H,W,D], [T,D], [T,D].

    The statistics of a linear map's output are those of its input: of the 9 C pixels under the kernel. Where C is
    1, that is a 9 x 9 covariance in place of four passes over a map of D channels, and their derivatives.
    """
    tasks, n, height, width, channels = x.shape
    if channels >= FEW:
        return batch_norm_gained(conv(x, w, None), gamma, beta)
    count, under = n * height * width, tf.reshape(tf.eye(9 * channels, dtype=w.dtype), [3, 3, channels, -1])
    x32 = tf.cast(x, w.dtype)
    inputs = tf.reshape(conv(x32, under, None), [tasks, count, -1])  # on a CPU faster than `columns`
    # A covariance does not depend on a shift, but its rounding does: without one, that of mean(x)^2 would hide the
    # variance of faint images. The shift is a constant; what the border leaves of the mean is small.
    shift = tf.stop_gradient(tf.tile(_mean(x32)[:, 0, 0], [1, 1, 9]))
    inputs -= shift
    rest = tf.reduce_mean(inputs, 1, keepdims=True)
    covariance = tf.matmul(inputs, inputs, transpose_a=True) / count - tf.matmul(rest, rest, transpose_a=True)
    kernel = tf.reshape(w, [9 * channels, -1])
    mean = ((shift + rest) @ kernel)[:, 0]
    # A variance of 0 is rounded to either side of it; there its derivative is 0, as that of the maximum is.
    variance = tf.maximum(tf.reduce_sum(kernel * (covariance @ kernel), 1), 0)
    gain = gamma * tf.math.rsqrt(variance + GAINED_EPSILON)  # [T,D]
    y = conv(x, w * gain[:, None, None, None], beta - mean * gain)
    return y, mean, _unbiased(variance, x.shape)


def _unbiased(variance, shape):
    count = int(np.prod(shape[1:4]))
    return variance * (count / max(count - 1, 1))


def conv_normalised(x, w, gamma, beta, mean, variance):
    """batch_norm_gained(conv(x)) with given statistics [C], in one convolution. w [3,3,C,D] -> as `conv`."""
    gain = gamma * tf.math.rsqrt(variance + GAINED_EPSILON)
    return conv(x, w * gain, beta - mean * gain)


def lag(running: tf.Tensor, statistics: tf.Tensor, tasks: int) -> tf.Tensor:
    """A penalty whose gradient by a `running` average [C] is how far that lies from the `statistics` of groups [G,C],
    summed over the groups: half the squared distance, of each of the tasks [T]. Nothing else has a gradient of it."""
    squares = tf.square(running - tf.stop_gradient(statistics))
    return tf.reduce_sum(tf.reshape(squares, [tasks, -1]), 1) / 2


def _mean(x):
    """Of each group of x [G,N,H,W,C]: [G,1,1,1,C]. Rows first: on a CPU that takes less than half the time of all axes
    at once, and rounds less, as fewer numbers are added to one sum."""
    return tf.reduce_mean(tf.reduce_mean(x, 3, keepdims=True), [1, 2], keepdims=True)


def _statistics(x):
    """Mean, and 1 / standard deviation, of each group of x [G,N,H,W,C]: [G,1,1,1,C]."""
    # Two reduce_means: tf.nn.moments stops the gradient through the mean, so its second derivative is wrong.
    mean = _mean(x)
    return mean, tf.math.rsqrt(_mean(tf.math.squared_difference(x, mean)) + EPSILON)


def shared_statistics(x: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and biased variance of each group of x [G,N,H,W,C], in which image n has the weight shares[n] [N]:
    [G,1,1,1,C] each. Shares are at least 0, and their sum is 1."""
    shares = tf.cast(shares, x.dtype)[:, None, None, None]
    mean = tf.reduce_sum(shares * tf.reduce_mean(x, [2, 3], keepdims=True), 1, keepdims=True)
    squares = tf.reduce_mean(tf.math.squared_difference(x, mean), [2, 3], keepdims=True)
    return mean, tf.reduce_sum(shares * squares, 1, keepdims=True)


def batch_norm_shared(x, gamma, beta, shares):
    """`batch_norm_gained` with the statistics of `shared_statistics`, alone."""
    mean, variance = shared_statistics(x, shares)
    return (x - mean) * tf.math.rsqrt(variance + GAINED_EPSILON) * gamma + beta


def class_shares(y: tf.Tensor) -> tf.Tensor | None:
    """The weight of each image of a class, so that all classes count the same: labels y, one-hot [S,way] -> [way], such
    that the images' weights y @ class_shares have the sum 1. A class without images has the weight 0. None where it is
    known, when a program is traced, that all classes have the same number of images."""
    if (known := tf.get_static_value(y)) is not None:
        counts = known.sum(0)
        if (counts == counts[0]).all():
            return None
    counts = tf.reduce_sum(y, 0)
    present = tf.cast(counts > 0, y.dtype)
    return present / (tf.maximum(counts, 1) * tf.reduce_sum(present))


def image_shares(y: tf.Tensor, class_shares: tf.Tensor | None) -> tf.Tensor | None:
    """The share [S] of each image in the statistics of a set: labels y, one-hot [S,way]."""
    return None if class_shares is None else tf.linalg.matvec(y, class_shares)


@custom_gradient
def softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)), within 5e-7 of max(1, x) in float32.

    As -log(sigmoid(-x)), whose sigmoid is all that both derivatives need: half the time of tf.nn.softplus on
    a CPU, of which the second derivative is the larger part.
    """
    p = tf.sigmoid(-x)

    def backward(dy):
        return dy * (1 - p)

    # Far to the right the sigmoid underflows, and softplus(x) = x.
    return tf.minimum(-tf.math.log(p), tf.maximum(x, 40.0)), backward


@custom_gradient
def max_pool(x: tf.Tensor) -> tf.Tensor:
    """2x2 maxima, stride 2, VALID: [T,N,H,W,C] -> [T,N,H//2,W//2,C]. Of equal elements it takes the first."""
    maxima, spread, gather = windows(x)

    @custom_gradient
    def backward(dy):
        return spread(dy), gather

    return maxima, backward


def windows(x: tf.Tensor) -> tuple[tf.Tensor, Callable, Callable]:
    """Of the 2x2 windows of x [T,N,H,W,C]: the maxima [T,N,H//2,W//2,C], and two functions. `spread` puts such a map's
    numbers where the maxima are (the first of equal ones), and 0 elsewhere; `gather` takes them from there.

    Neighbours are compared side by side in memory. TensorFlow's kernel for the derivative is three times as slow on a
    CPU; XLA has no deterministic one, and rounds the second derivative to bfloat16 (4 % off). tf.reduce_max is no way
    out: its derivative asks which elements equal the maximum, and where XLA computes them again in another fusion they
    are rounded otherwise and none does: gradients were 60 % off. A choice between two has no such question.
    """
    tasks, n, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    below, right = height % 2, width % 2  # a row and a column that no window has
    paired = [tasks * n * rows, 2, columns, 2, channels]

    def whole(x):
        return x[:, :, : 2 * rows, : 2 * columns] if below or right else x

    # In a row of memory a pixel's right neighbour is C numbers further, and then the lower one a whole row.
    west, east = tf.split(tf.reshape(whole(x), [-1, 2 * channels]), 2, 1)
    north, south = tf.split(tf.reshape(tf.maximum(west, east), [-1, 2 * columns * channels]), 2, 1)
    maxima = tf.reshape(tf.maximum(north, south), [tasks, n, rows, columns, channels])
    is_west, is_north = tf.cast(west >= east, x.dtype), tf.cast(north >= south, x.dtype)
    row = tf.reshape(tf.concat([is_north, 1 - is_north], 1), [-1, channels])  # 1 where the maximum's row is
    place = tf.reshape(tf.concat([row * is_west, row - row * is_west], 1), paired)  # 1 where the maximum is

    def spread(dy):
        dx = place * tf.reshape(dy, [paired[0], 1, columns, 1, channels])
        dx = tf.reshape(dx, [tasks, n, 2 * rows, 2 * columns, channels])
        return tf.pad(dx, [[0, 0], [0, 0], [0, below], [0, right], [0, 0]]) if below or right else dx

    def gather(dx):
        dx = tf.reshape(place * tf.reshape(whole(dx), paired), [tasks * n, 2 * rows, 2 * columns, channels])
        return tf.reshape(4 * tf.nn.avg_pool2d(dx, 2, 2, "VALID"), maxima.shape)

    return maxima, spread, gather


def norm_relu_pool(x: tf.Tensor, beta: tf.Tensor, samples: int, held: bool, mask=None, shares=None) -> tf.Tensor:
    """max_pool(mask * relu(batch_norm(x))), each noise sample of each task normalised on its own.

    x [T,N,H,W,C] with N = samples * images, sample-major; beta [C]; mask as `relu_pool` -> [T,N,H//2,W//2,C].
    `held`: batch norm's backward pass is a constant to the second derivative (the published gradient).
    shares: as in `shared_statistics`; None: all images have the same.
    """
    tasks, n, *rest = x.shape
    groups = tf.reshape(x, [tasks * samples, n // samples, *rest])
    if shares is not None:
        mean, variance = shared_statistics(groups, shares)
        factor = tf.math.rsqrt(variance + EPSILON)
        groups = groups if mask is not None else max_pool(groups)  # the maximum commutes with a positive factor
        normal = (groups - mean) * factor + beta
        normal = tf.reshape(normal, [tasks, n, *normal.shape[2:]])
        return tf.nn.relu(normal) if mask is None else relu_pool(normal, mask)
    if mask is None:
        maxima = norm_pool(groups, beta, held)
        return tf.nn.relu(tf.reshape(maxima, [tasks, n, *maxima.shape[2:]]))
    normal = (batch_norm_held if held else batch_norm)(groups, beta)
    return relu_pool(tf.reshape(normal, x.shape), mask)


def relu_pool(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """max_pool(mask * relu(x)): x [T,N,H,W,C]; mask [T,M,1 or N/M,H,W,C] >= 0, or None -> [T,N,H//2,W//2,C].

    The maximum and a factor of at least 0 commute with relu, so relu comes last, on a map four times smaller.
    """
    return tf.nn.relu(max_pool(masked(x, mask)))


def masked(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """x [T,N,H,W,C] times mask [T,M,1 or N/M,H,W,C], if there is one."""
    if mask is None:
        return x
    tasks, n, *rest = x.shape
    groups = mask.shape[1]
    return tf.reshape(tf.reshape(x, [tasks, groups, n // groups, *rest]) * mask, x.shape)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross entropy (nats) of each task: logits [T,N,K], one-hot labels [N,K] -> [T]."""
    return tf.reduce_mean(cross_entropies(logits, labels), -1)


def balanced_cross_entropy(logits: tf.Tensor, labels: tf.Tensor, class_shares: tf.Tensor | None) -> tf.Tensor:
    """`cross_entropy` in which a label of class c has the weight class_shares[c] [K] (None: the mean over the rows);
    labels [N,K] or [T,N,K] may be mixed."""
    if class_shares is None:
        return cross_entropy(logits, labels)
    # TensorFlow's own cross entropy has a wrong gradient where a row's labels have another sum than 1.
    return -tf.reduce_sum(labels * class_shares * tf.nn.log_softmax(logits), [-2, -1])


def cross_entropies(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross entropy (nats) of each row: logits [T,N,K], one-hot labels [N,K] -> [T,N]."""
    return tf.nn.softmax_cross_entropy_with_logits(tf.broadcast_to(labels, logits.shape), logits)


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Share of rows (0 to 1) of each task whose largest logit is the label's: -> [T], float32."""
    right = tf.equal(tf.argmax(logits, -1), tf.argmax(labels, -1))
    return tf.reduce_mean(tf.cast(right, tf.float32), -1)


def class_means(r: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Mean of r [T,S,K] over the rows of each class, y one-hot [S,way] -> [T,way,K]."""
    return tf.einsum("sc,tsk->tck", y / tf.reduce_sum(y, 0), r)
