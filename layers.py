"""Layers with a task axis: pure functions over tensors, with and without XLA. Their second derivatives are right;
for the published meta-gradient, batch norm's backward pass can be held constant.

Shapes: T tasks, N images of one task (of all its noise samples), H W C a map, D K features in and out, G groups, each
normalised by its own statistics (a task, or one noise sample of a task). A weight is shared by all tasks (its natural
rank) or has a leading task axis. Products are computed in the dtype of the maps (bfloat16, for example) and returned in
the dtype of the weights.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

from lazy import tf

FEW = 8  # for fewer input channels `conv` and `conv_batch_norm` take shortcuts, which are faster on a CPU
EPSILON = 1e-3  # contrib batch_norm's default in the TF1 code; it matters where the weights' std is 0.02
GAINED_EPSILON = 1e-5  # PyTorch's, where there is a gain
# Coefficients, the highest power's first, of the minimax polynomial of degree 8 of log(1 + x) / x in [0, 1]: its
# largest relative error, 3.0e-8, is the smallest that a polynomial of this degree can have.
LOG1P = [0.00523260521, -0.029504882, 0.0782253712, -0.136631966, 0.191059836, -0.248429763, 0.333190961]
LOG1P += [-0.499994931, 0.99999997]


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
    """Return f with rematerialization: intermediate tensors are not kept, but computed again when the results of f are
    differentiated. This takes less memory and more time. f takes and returns any structures (tf.nest). Its results can
    be differentiated once, with respect to the tensors in its arguments, and to no variable from outside."""

    def call(*arguments):
        leaves = tf.nest.flatten(arguments)
        places = [place for place, leaf in enumerate(leaves) if tf.is_tensor(leaf)]

        def compute(*tensors):
            for place, tensor in zip(places, tensors, strict=True):
                leaves[place] = tensor
            return f(*tf.nest.pack_sequence_as(arguments, leaves))

        return freed_with_graph(tf.recompute_grad(compute)(*(leaves[place] for place in places)))

    return call


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the words of Linux' description of the processor, its flags among them; elsewhere none."""
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()


@functools.cache
def has_bfloat16() -> bool:
    """Return True if this machine has bfloat16 instructions: a GPU has them, and so has a processor whose flags say so,
    unless ONEDNN_MAX_CPU_ISA is set, which may forbid oneDNN to use them."""
    native = {"avx512_bf16", "amx_bf16"} & processor_flags() and "ONEDNN_MAX_CPU_ISA" not in os.environ
    return bool(native or tf.config.list_physical_devices("GPU"))


def compiled_by_xla() -> bool:
    """Return True while a program for XLA is traced, which may run on another machine."""
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


@functools.cache
def has_cpu_xla() -> bool:
    """Return True if this TensorFlow can compile a part of a step by XLA for the CPU, and the CPU computes the step."""
    return tf.test.is_built_with_xla() and not tf.config.list_physical_devices("GPU")


def compiled(f: Callable) -> Callable:
    """Return f, a function of structures of tensors, compiled by XLA for the CPU, once for each shape of its arguments.
    It is traced outside of the graph that calls it: otherwise the program, which lives longer, would keep that graph.
    """
    traceable = tf.function(f, autograph=False, jit_compile=True)

    def call(*arguments):
        with tf.init_scope():
            specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), arguments)
            program = traceable.get_concrete_function(*specs)
        return program(*arguments)

    return call


def product(op: Callable, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Return op(x, y), a product whose sums are float32, in the dtype of x.

    A processor without bfloat16 is six times as slow with it as with float32. There the product is computed in float32,
    with the same result: its factors are rounded already, and its result is rounded. (XLA decides this by itself.)
    """
    if x.dtype == tf.bfloat16 and not (compiled_by_xla() or has_bfloat16()):
        return tf.cast(op(tf.cast(x, tf.float32), tf.cast(y, tf.float32)), x.dtype)
    return op(x, y)


def rounded(x: tf.Tensor, bf16: bool) -> tf.Tensor:
    """Return the maps x, rounded to bfloat16 if `bf16`, as convolutions and matrix products take them."""
    return tf.cast(x, tf.bfloat16) if bf16 else x


def conv(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor | None) -> tf.Tensor:
    """3x3 convolution, stride 1, SAME padding, plus the bias. (b is None: no bias, for a kernel that all tasks share.)
    A kernel of one pixel (parameters.kernel_size) makes it a dense layer of every pixel's channels.

    x [T,N,H,W,C]; w [3,3,C,D] and b [D], or w [T,3,3,C,D] and b [T,D] -> [T,N,H,W,D].
    """
    tasks, n, height, width, channels = x.shape
    if w.shape[-4] == 1:
        w = tf.reshape(w, [*w.shape[:-4], channels, w.shape[-1]])
        y = dense(tf.reshape(x, [tasks, -1, channels]), w, tf.zeros(w.shape[-1:], w.dtype) if b is None else b)
        return tf.reshape(y, [*x.shape[:-1], -1])
    if w.shape.rank == 5 and tasks == 1:
        w, b = w[0], b[0]
    dtype, w = w.dtype, tf.cast(w, x.dtype)
    if w.shape.rank == 4:
        rows = tf.reshape(x, [tasks * n, height, width, channels])
        if b is None:
            y = tf.cast(convolve(rows, w), dtype)
        elif channels < FEW and x.dtype == dtype:  # the bias is the kernel of a channel of ones
            rows = tf.concat([rows, tf.ones_like(rows[..., :1])], -1)
            bias = tf.pad(b[None, None, None], [[1, 1], [1, 1], [0, 0], [0, 0]])
            y = convolve(rows, tf.concat([w, bias], 2))
        else:
            y = tf.nn.bias_add(tf.cast(convolve(rows, w), dtype), b)
        return tf.reshape(y, [tasks, n, height, width, -1])
    # A kernel per task: the nine shifts side by side, then one batched matrix product.
    # (tf.vectorized_map cannot do this, and a grouped conv2d has no gradient on the CPU.)
    padded = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
    shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    rows = tf.reshape(tf.concat(shifts, -1), [tasks, n * height * width, 9 * channels])
    y = tf.cast(product(tf.matmul, rows, tf.reshape(w, [tasks, 9 * channels, -1])), dtype) + b[:, None]
    return tf.reshape(y, [tasks, n, height, width, -1])


@custom_gradient
def convolve(x, w):
    """x [N,H,W,C], w [3,3,C,D] -> [N,H,W,D]. The gradient with respect to x is written as a convolution, whose
    kernel is faster on a CPU."""
    y = product(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"), x, w)
    back = convolve_to_few if x.shape[-1] < FEW and x.dtype != tf.bfloat16 else convolve
    return y, lambda dy: (back(dy, turned(w)), kernel_gradient(x, dy))


def convolve_to_few(x, w):
    """`convolve` for a small D, for which a CPU's kernel is slow: one matrix product with the kernel's nine places side
    by side, whose results are then moved to their places and added."""
    n, height, width, channels = x.shape
    places = tf.reshape(tf.einsum("ijcd->cijd", w), [channels, -1])
    y = product(tf.matmul, tf.reshape(x, [-1, channels]), places)
    y = tf.pad(tf.reshape(y, [n, height, width, 9, -1]), [[0, 0], [1, 1], [1, 1], [0, 0], [0, 0]])
    return tf.add_n([y[:, i : i + height, j : j + width, 3 * i + j] for i in range(3) for j in range(3)])


@custom_gradient
def kernel_gradient(x, dy):
    """Gradient of `convolve` by its kernel: x [N,H,W,C], dy [N,H,W,D] -> [3,3,C,D]."""
    settings = {"filter_sizes": [3, 3, x.shape[-1], dy.shape[-1]], "strides": [1, 1, 1, 1], "padding": "SAME"}
    dw = product(lambda x, dy: tf.raw_ops.Conv2DBackpropFilter(input=x, out_backprop=dy, **settings), x, dy)
    return dw, lambda g: (convolve(dy, turned(g)), convolve(x, g))


def turned(w):
    """Return the kernel of the convolution that is the gradient with respect to the input: [3,3,C,D] -> [3,3,D,C]."""
    return tf.transpose(tf.reverse(w, [0, 1]), [0, 1, 3, 2])


def dense(x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """x [T,N,D]; w [D,K] and b [K], or w [T,D,K] and b [T,K] -> [T,N,K]."""
    return tf.cast(product(tf.matmul, x, tf.cast(w, x.dtype)), w.dtype) + (b[:, None] if b.shape.rank == 2 else b)


def batch_norm(x: tf.Tensor, beta: tf.Tensor, stop_bn_backward: bool = False) -> tf.Tensor:
    """Normalise each group of x [G,N,H,W,C] over N, H and W by its own statistics, then add beta [C].

    Biased variance, no gamma, no running averages: the batch at hand, in training and in testing. stop_bn_backward:
    dL/dx is a constant when it is differentiated again, neither x nor the gradient that batch norm receives has a part
    in its derivative. This is the meta-gradient of the TF1 code, because fused batch norm has no second derivative in a
    TF 1.x while loop (its tf.map_fn over tasks).
    """

    def normalise(x):
        mean, rstd = group_statistics(x)
        return (x - mean) * rstd, rstd

    @custom_gradient
    def stopped(x):
        normal, rstd = normalise(x)
        return normal, lambda dy: tf.stop_gradient(rstd * (dy - group_mean(dy) - normal * group_mean(dy * normal)))

    return (stopped(x) if stop_bn_backward else normalise(x)[0]) + beta


def norm_pool(x: tf.Tensor, beta: tf.Tensor, stop_bn_backward: bool) -> tf.Tensor:
    """max_pool(batch_norm(x, beta, stop_bn_backward)): x [G,N,H,W,C] -> [G,N,H//2,W//2,C].

    A maximum commutes with a normalisation, because its factor is positive: a quarter of the pixels is normalised.
    Both derivatives are written out: they pass over the whole map a third as often as TensorFlow's.
    """
    pixels = x.shape[1:4].num_elements()  # of a group

    def mean_of(dy):
        return group_mean(dy) * (dy.shape[1:4].num_elements() / pixels)

    @custom_gradient
    def normalised(x):
        mean, rstd = group_statistics(x)
        maxima, spread, gather = windows(x)
        normal = (maxima - mean) * rstd

        def line(x, slope, offset):
            """offset + slope * (x normalised)"""
            slope *= rstd
            return x * slope + (offset - mean * slope)

        @custom_gradient
        def backward(x, dy):
            dy_mean, dy_normal = mean_of(dy), mean_of(dy * normal)
            # A pixel moves the mean and the standard deviation of its group.
            dx = spread(rstd * dy) - line(x, rstd * dy_normal, rstd * dy_mean)

            def second(g):
                """Gradient of sum(dx * g) by x and by dy."""
                gathered, g_mean = gather(g), mean_of(g)
                g_normal = (mean_of(g * x) - mean * g_mean) * rstd
                by_dy = rstd * (gathered - g_mean - normal * g_normal)
                slope = mean_of(gathered * dy) - dy_mean * g_mean - 3 * dy_normal * g_normal
                offset = dy_normal * g_mean + g_normal * dy_mean
                square = tf.square(rstd)
                by_x = line(x, square * slope, -square * offset) + spread(square * g_normal * dy)
                return -(by_x + square * dy_normal * g), by_dy

            return dx, second

        return normal, lambda dy: tf.stop_gradient(backward(x, dy)) if stop_bn_backward else backward(x, dy)

    return normalised(x) + beta


def batch_norm_gained(x, gamma, beta):
    """`batch_norm` with a gain gamma [C] and PyTorch's epsilon -> the output, mean and unbiased variance [G,C]."""
    # The fused op normalises one group, and has no float64. It is three times as fast on a CPU, and rounds more: its
    # output is 1e-5 off if a channel has 15,000 pixels, and 5e-4 if it has 500,000; two passes are 3e-6 off.
    if x.shape[0] == 1 and x.dtype != tf.float64:
        rows = tf.reshape(x, x.shape[1:])  # x[0] would copy the map, and again in the backward pass
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=rows, scale=gamma, offset=beta, mean=[], variance=[], epsilon=GAINED_EPSILON
        )
        return tf.reshape(y, x.shape), mean[None], variance[None]
    mean, variance = group_moments(x)
    y = (x - mean) * tf.math.rsqrt(variance + GAINED_EPSILON) * gamma + beta
    return y, mean[:, 0, 0, 0], unbiased(variance[:, 0, 0, 0], x.shape)


def conv_batch_norm(x, w, gamma, beta):
    """batch_norm_gained(conv(x)), each task a group. x [T,N,H,W,C], w [3,3,C,D] -> [T,N,H,W,D], [T,D], [T,D].

    The statistics of a convolution's output follow from those of its input, the 9 C pixels under the kernel. For C = 1
    a 9 x 9 covariance replaces four passes over a map of D channels, and their derivatives.
    """
    tasks, n, height, width, channels = x.shape
    if channels >= FEW:
        return batch_norm_gained(conv(x, w, None), gamma, beta)
    count, pixels = n * height * width, w.shape[:2].num_elements()  # of a kernel
    under = tf.reshape(tf.eye(pixels * channels, dtype=w.dtype), [*w.shape[:3], -1])
    x32 = tf.cast(x, w.dtype)
    inputs = tf.reshape(conv(x32, under, None), [tasks, count, -1])  # on a CPU faster than nine shifts
    # A shift changes the rounding of a covariance, nothing else. Without it, the rounding of mean(x)^2 would hide the
    # variance of faint images. The shift is a constant; the mean that remains, because of the border, is small.
    shift = tf.stop_gradient(tf.tile(group_mean(x32)[:, 0, 0], [1, 1, pixels]))
    inputs -= shift
    rest = tf.reduce_mean(inputs, 1, keepdims=True)
    covariance = tf.matmul(inputs, inputs, transpose_a=True) / count - tf.matmul(rest, rest, transpose_a=True)
    kernel = tf.reshape(w, [pixels * channels, -1])
    mean = ((shift + rest) @ kernel)[:, 0]
    # Rounding may make a variance of 0 negative; there the derivative is 0, as the maximum's is.
    variance = tf.maximum(tf.reduce_sum(kernel * (covariance @ kernel), 1), 0)
    gain = gamma * tf.math.rsqrt(variance + GAINED_EPSILON)  # [T,D]
    y = conv(x, w * gain[:, None, None, None], beta - mean * gain)
    return y, mean, unbiased(variance, x.shape)


def unbiased(variance, shape):
    """Unbiased variance of the pixels of a group, from the biased one and the maps' shape [G,N,H,W,C]."""
    count = shape[1:4].num_elements()
    return variance * (count / max(count - 1, 1))


def conv_normalised(x, w, gamma, beta, mean, variance):
    """batch_norm_gained(conv(x)) with this mean and variance [D], in one convolution. w [3,3,C,D] -> as `conv`."""
    gain = gamma * tf.math.rsqrt(variance + GAINED_EPSILON)
    return conv(x, w * gain, beta - mean * gain)


def running_average_penalty(running: tf.Tensor, statistics: tf.Tensor, tasks: int) -> tf.Tensor:
    """Half the squared distance between a running average [C] and the statistics of groups [G,C], summed over the
    groups of each task -> [T]. Its gradient moves the running average towards the statistics, and moves nothing else.
    """
    squares = tf.square(running - tf.stop_gradient(statistics))
    return tf.reduce_sum(tf.reshape(squares, [tasks, -1]), 1) / 2


def group_mean(x):
    """Mean of each group of x [G,N,H,W,C]: [G,1,1,1,C]. Rows first: on a CPU that takes less than half the time of all
    axes at once, and rounds less, because fewer numbers are added to one sum."""
    return tf.reduce_mean(tf.reduce_mean(x, 3, keepdims=True), [1, 2], keepdims=True)


def group_moments(x):
    """Mean and biased variance of each group of x [G,N,H,W,C]: [G,1,1,1,C]."""
    # tf.nn.moments stops the gradient through the mean, so that its second derivative is wrong.
    mean = group_mean(x)
    return mean, group_mean(tf.math.squared_difference(x, mean))


def group_statistics(x):
    """Mean, and 1 / standard deviation, of each group of x [G,N,H,W,C]: [G,1,1,1,C]."""
    mean, variance = group_moments(x)
    return mean, tf.math.rsqrt(variance + EPSILON)


def shared_statistics(x: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and biased variance of each group of x [G,N,H,W,C], in which image n has the weight shares[n] [N]:
    [G,1,1,1,C] each. Shares are at least 0, and their sum is 1."""
    shares = tf.cast(shares, x.dtype)[..., None, None, None]
    mean = tf.reduce_sum(shares * tf.reduce_mean(x, [2, 3], keepdims=True), 1, keepdims=True)
    squares = tf.reduce_mean(tf.math.squared_difference(x, mean), [2, 3], keepdims=True)
    return mean, tf.reduce_sum(shares * squares, 1, keepdims=True)


def batch_norm_shared(x, gamma, beta, shares):
    """Output of `batch_norm_gained` with the mean and variance of `shared_statistics`."""
    mean, variance = shared_statistics(x, shares)
    return (x - mean) * tf.math.rsqrt(variance + GAINED_EPSILON) * gamma + beta


def class_shares(y: tf.Tensor) -> tf.Tensor | None:
    """Weight of an image of each class that makes all classes count the same: labels y, one-hot [S,way] -> [way]. The
    images' weights, y @ class_shares, have the sum 1; a class without images has the weight 0. None if all classes have
    the same number of images, and this is known when the program is traced."""
    if (known := tf.get_static_value(y)) is not None:
        counts = known.sum(0)
        if (counts == counts[0]).all():
            return None
    counts = tf.reduce_sum(y, 0)
    present = tf.cast(counts > 0, y.dtype)
    return present / (tf.maximum(counts, 1) * tf.reduce_sum(present))


def image_shares(y: tf.Tensor, class_shares: tf.Tensor | None) -> tf.Tensor | None:
    """Weight of each image in the statistics of a set, [S], from its labels y, one-hot [S,way]."""
    return None if class_shares is None else tf.linalg.matvec(y, class_shares)


@custom_gradient
def softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)); in float32 the error is at most 5e-7 * max(1, x).

    Computed as -log(sigmoid(-x)), because both derivatives need the sigmoid alone: with them it takes half the time of
    tf.nn.softplus on a CPU. XLA, which computes it in one loop, takes half the time for relu(x) + log(1 + exp(-|x|)).
    """
    if compiled_by_xla():
        return tf.nn.relu(x) + log1p(tf.exp(-tf.abs(x))), lambda dy: dy * tf.sigmoid(x)
    p = tf.sigmoid(-x)

    def backward(dy):
        return dy * (1 - p)

    # Far to the right the sigmoid underflows, and softplus(x) = x.
    return tf.minimum(-tf.math.log(p), tf.maximum(x, 40.0)), backward


def log1p(x: tf.Tensor) -> tf.Tensor:
    """log(1 + x) for x in [0, 1], with a relative error below 2e-7 in float32: there a polynomial, which takes half
    the time of XLA's logarithm."""
    if x.dtype != tf.float32:
        return tf.math.log1p(x)
    return x * functools.reduce(lambda y, coefficient: y * x + coefficient, LOG1P)


def is_pooled(x: tf.Tensor) -> bool:
    """Return False for maps x [T,N,H,W,C] of a single pixel, which poolings leave as they are: vectors."""
    return x.shape[2] * x.shape[3] > 1


@custom_gradient
def max_pool(x: tf.Tensor) -> tf.Tensor:
    """2x2 maxima, stride 2, VALID: [T,N,H,W,C] -> [T,N,H//2,W//2,C]. Of equal elements it takes the first. A map of a
    single pixel stays as it is."""
    maxima, spread, gather = windows(x)

    @custom_gradient
    def backward(dy):
        return spread(dy), gather

    return maxima, backward


def windows(x: tf.Tensor) -> tuple[tf.Tensor, Callable, Callable]:
    """Return the maxima [T,N,H//2,W//2,C] of the 2x2 windows of x [T,N,H,W,C] (or x, if its maps are single pixels),
    and two functions. `spread` puts the numbers of such a map where the maxima are (the first of equal ones), and 0
    elsewhere; `gather` returns the numbers that another map of the shape of x has at these places.

    TensorFlow's kernel for the derivative is three times as slow on a CPU; XLA has no deterministic one, and rounds the
    second derivative to bfloat16 (4 % off). The derivative of tf.reduce_max compares the elements with the maximum: XLA
    computes them again in another fusion with another rounding, none is equal, and gradients were 60 % off. Here
    neighbours are compared with each other, side by side in memory.
    """
    if not is_pooled(x):
        return x, tf.identity, tf.identity
    tasks, n, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    below, right = height % 2, width % 2  # a row and a column outside all windows
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


def norm_relu_pool(x, beta: tf.Tensor, samples: int, stop_bn_backward: bool, mask=None, shares=None) -> tf.Tensor:
    """max_pool(mask * relu(batch_norm(x))), each noise sample of each task normalised by its own statistics.

    x [T,N,H,W,C] with N = samples * images, sample-major; beta [C]; mask as in `relu_pool` -> [T,N,H//2,W//2,C].
    stop_bn_backward: as in `batch_norm` (the published gradient). shares: as in `shared_statistics`; None: all images
    have the same weight.
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
        maxima = norm_pool(groups, beta, stop_bn_backward)
        return tf.nn.relu(tf.reshape(maxima, [tasks, n, *maxima.shape[2:]]))
    return relu_pool(tf.reshape(batch_norm(groups, beta, stop_bn_backward), x.shape), mask)


def known_norm_relu_pool(x: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """max_pool(relu((x - mean) / sqrt(variance + EPSILON) + beta)) with a known mean and variance [C]: x [T,N,H,W,C] ->
    [T,N,H//2,W//2,C]."""
    factor = tf.math.rsqrt(variance + EPSILON)
    return tf.nn.relu(max_pool(x) * factor + (beta - mean * factor))


def relu_pool(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """max_pool(mask * relu(x)): x [T,N,H,W,C]; mask [T,M,1 or N/M,H,W,C] >= 0, or None -> [T,N,H//2,W//2,C].

    The maximum and a factor of at least 0 commute with relu, so relu comes last, on a map four times smaller.
    """
    return tf.nn.relu(max_pool(masked(x, mask)))


def masked(x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """x [T,N,H,W,C] times mask [T,M,1 or N/M,H,W,C], if it is not None."""
    if mask is None:
        return x
    tasks, n, *rest = x.shape
    groups = mask.shape[1]
    return tf.reshape(tf.reshape(x, [tasks, groups, n // groups, *rest]) * mask, x.shape)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor, class_shares: tf.Tensor | None = None) -> tf.Tensor:
    """Cross entropy (nats) of each task, the mean over its rows: logits [T,N,K], labels [N,K] or [T,N,K], which may be
    mixed -> [T]. class_shares [K]: in place of the mean, return the sum in which a label of class c has the weight
    class_shares[c]."""
    if class_shares is None:
        return tf.reduce_mean(cross_entropies(logits, labels), -1)
    # TensorFlow's own cross entropy has a wrong gradient for a row whose labels do not have the sum 1.
    return -tf.reduce_sum(labels * class_shares * tf.nn.log_softmax(logits), [-2, -1])


def cross_entropies(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Cross entropy (nats) of each row: logits [T,N,K], labels [N,K] or [T,N,K], one-hot or mixed ->
    [T,N]."""
    return tf.nn.softmax_cross_entropy_with_logits(tf.broadcast_to(labels, logits.shape), logits)


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Share of rows (0 to 1) of each task whose largest logit is the label's: -> [T], float32."""
    right = tf.equal(tf.argmax(logits, -1), tf.argmax(labels, -1))
    return tf.reduce_mean(tf.cast(right, tf.float32), -1)


def class_means(r: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Mean of r [T,S,K] over the rows of each class, y one-hot [S,way] -> [T,way,K]."""
    return tf.einsum("sc,tsk->tck", y / tf.reduce_sum(y, 0), r)
