"""A block of a pass whose maps fit in no cache, computed in pieces of a few images.

An iteration of meta-training passes over the query set once and differentiates this pass once. The maps of its first
block are the largest (60 MB each for 300 images of Omniglot), and a convolution of so few input channels costs less to
compute again than its result costs to keep. So each of its pieces is computed twice, for the forward pass and for the
gradient, and only the windows' maxima are kept; of a later block the convolutions are kept as well. XLA makes one loop
of a piece's element-wise operations; a convolution is left to TensorFlow, whose own is faster. Shapes: N images, H W C
a map, D channels out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import layers
from lazy import tf
from perturbations.base import Elementwise

MAP = 2**22  # bytes; a smaller map stays in a cache anyway
PIECE = 2**21  # bytes of the convolutions of a piece, unless one image has more


def worthwhile(x: tf.Tensor, w: tf.Tensor) -> bool:
    """Return True if `block` is faster for the images x [T,N,H,W,C] and the kernel w [...,C,D] than whole maps are: for
    a large map of a single task on a CPU."""
    large = 4 * math.prod(x.shape[1:4]) * w.shape[-1] >= MAP
    in_graph = not (tf.executing_eagerly() or layers.compiled_by_xla())
    return x.shape[0] == 1 and layers.is_pooled(x) and large and in_graph and layers.has_cpu_xla()


def largest_divisor(n: int, most: int) -> int:
    """Return the largest divisor of n that is at most `most`, or 1."""
    return max(k for k in range(1, n + 1) if n % k == 0 and (k == 1 or k <= most))


def block(x, weights: tuple, form: Elementwise, beta, samples: int = 1, training: bool = False) -> tf.Tensor:
    """Return max_pool(relu(batch_norm(form(conv(x))))), each noise sample normalised by its own statistics.
    Differentiate it only once: a second derivative is slow, and holds no backward pass constant.

    x [1,N,H,W,C], sample-major -> [1,N,H//2,W//2,D]. weights: w and b as `layers.conv` takes them for one task. beta:
    batch norm's offset, [D] or [samples,1,1,1,D]. training: True if all weights are trained; then all convolutions are
    computed as one, which is faster, but has no gradient with respect to some of the weights alone.
    """
    kernels = [(tf.reshape(w, w.shape[-4:]), tf.reshape(b, [-1])) for w, b in (weights, *form.kernels)]
    if training:
        kernels = [tuple(tf.concat(parts, -1) for parts in zip(*kernels, strict=True))]
    depth = weights[0].shape[-1]

    def convolve(x, *flat):
        return [layers.conv(x, *kernel) for kernel in zip(flat[::2], flat[1::2], strict=True)]

    flat = [tensor for kernel in kernels for tensor in kernel]
    if x.shape[-1] < layers.FEW:
        normal = normalised(convolve, form, depth, samples, [x], flat)
    else:
        normal = normalised(lambda *ys: ys, form, depth, samples, convolve(x, *flat), [])
    output = tf.nn.relu(normal + beta)
    return tf.reshape(output, [1, x.shape[1], *output.shape[2:]])


def normalised(
    convolve: Callable, form: Elementwise, depth: int, samples: int, inputs: list, weights: list
) -> tf.Tensor:
    """Return max_pool(batch_norm(form(convolve(*inputs, *weights)))), without an offset, as groups
    [samples,n,H//2,W//2,D]. depth: D.

    inputs [1,N,H,W,C] with N = samples * n. convolve: a function of some of the images and of the weights, which
    returns convolutions [1,images,H,W,D], or several in one map, and is computed again for the gradient.
    """
    shape, dtype = inputs[0].shape, (weights or inputs)[0].dtype
    n = shape[1] // samples
    size = math.prod(shape[2:4])
    channels = sum(y.shape[-1] for y in (weights[1::2] or inputs))
    images = largest_divisor(n, PIECE // (4 * size * channels))
    pieces_of_sample = n // images
    numbers, count = tf.range(samples * pieces_of_sample), len(inputs)

    def piece(tensors, i):
        """Return the i-th pieces of tensors [1,N,...]: [1,images,...]."""
        return [tf.reshape(x, [-1, 1, images, *x.shape[2:]])[i] for x in tensors]

    def of_sample(x, i):
        """Return the entry of x [samples,1,1,1,D] for the i-th piece, [1,1,1,1,D]."""
        return x[i // pieces_of_sample][None]

    combined, reduced, by_convolutions = programs(form.f, depth)

    @layers.custom_gradient
    def compute(*tensors):
        inputs, weights = tensors[:count], tensors[count:]

        def of_piece(i):
            return reduced(combined(convolve(*piece(inputs, i), *weights), piece(form.maps, i)))

        results = tf.map_fn(of_piece, numbers, fn_output_signature=(dtype,) * 3, parallel_iterations=1)
        maxima, means, variances = (tf.reshape(t, [samples, -1, *t.shape[3:]]) for t in results)
        mean = tf.reduce_mean(means, 1, keepdims=True)
        variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 1, keepdims=True)
        rstd = tf.math.rsqrt(variance + layers.EPSILON)
        normal = (maxima - mean) * rstd

        def gradients(dy):
            dy_mean, dy_normal = (tf.reduce_sum(g, [1, 2, 3], keepdims=True) / (n * size) for g in (dy, dy * normal))
            slope = tf.square(rstd) * dy_normal
            offset, dmaxima = rstd * dy_mean - mean * slope, tf.reshape(rstd * dy, [1, -1, *dy.shape[2:]])

            def gradient_of_piece(i, by_weights: bool):
                """Return the gradients with respect to the weights, or to a piece of the inputs."""
                here = [[tf.identity(t) for t in ts] for ts in (piece(inputs, i), weights)]
                ys = convolve(*here[0], *here[1])
                line = of_sample(slope, i), of_sample(offset, i)
                dys = by_convolutions(ys, piece(form.maps, i), *piece([dmaxima], i), *line)
                return tf.gradients(ys, here[by_weights], dys)

            def add(sums, i):
                return [a + g for a, g in zip(sums, gradient_of_piece(i, True), strict=True)]

            # Two loops: one is pruned where nobody asks for its gradient.
            zeros = [tf.zeros_like(w) for w in weights]
            by_weights = tf.foldl(add, numbers, zeros, parallel_iterations=1) if weights else []
            by_inputs = tf.map_fn(
                lambda i: gradient_of_piece(i, False),
                numbers,
                fn_output_signature=[x.dtype for x in inputs],
                parallel_iterations=1,
            )
            return *(tf.reshape(dx, x.shape) for dx, x in zip(by_inputs, inputs, strict=True)), *by_weights

        return normal, gradients

    return compute(*inputs, *weights)


@functools.lru_cache(maxsize=32)
def programs(f: Callable, depth: int) -> tuple[Callable, Callable, Callable]:
    """Return three functions that XLA compiles, shared by all blocks with the same f: f of the convolutions ys and of
    maps; the windows' maxima, the mean and the variance of its result; the gradients with respect to ys.

    The forward pass takes two, because in one XLA would compute f again for each result.
    """

    def combined(ys, maps):
        return f(*(mu for y in ys for mu in tf.split(y, y.shape[-1] // depth, -1)), *maps)

    def reduced(z):
        return maxima_of(z), *layers.group_moments(z)

    def by_convolutions(ys, maps, dmaxima, slope, offset):
        """Return the gradients with respect to ys, through the maxima and (linear in z) the statistics."""
        z = combined(ys, maps)
        return tf.gradients(z, ys, spread(z, dmaxima) - (z * slope + offset))

    return layers.compiled(combined), layers.compiled(reduced), layers.compiled(by_convolutions)


def windows(x: tf.Tensor) -> list[tf.Tensor]:
    """Return the four pixels of the 2x2 windows of x [T,N,H,W,C], [T,N,H//2,W//2,C] each. (XLA takes less time for
    this than for `layers.windows`, which TensorFlow's own kernels like better.)"""
    tasks, n, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    x = tf.reshape(x[:, :, : 2 * rows, : 2 * columns], [tasks, n, rows, 2, columns, 2, channels])
    return [x[:, :, :, i, :, j] for i in range(2) for j in range(2)]


def maxima_of(x: tf.Tensor) -> tf.Tensor:
    """Return the maxima of the windows of x."""
    return functools.reduce(tf.maximum, windows(x))


def spread(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """Return a map of the shape of x [T,N,H,W,C]: dy [T,N,H//2,W//2,C] where the maxima of the windows of x are (the
    first of equal ones), else 0."""
    a, b, c, d = windows(x)
    top, left, right = tf.maximum(a, b) >= tf.maximum(c, d), a >= b, c >= d
    places = top & left, top & ~left, ~top & right, ~top & ~right
    a, b, c, d = (tf.where(place, dy, tf.zeros_like(dy)) for place in places)
    tasks, n, height, width, channels = x.shape
    dx = tf.stack([tf.stack([a, b], 4), tf.stack([c, d], 4)], 3)
    dx = tf.reshape(dx, [tasks, n, height // 2 * 2, width // 2 * 2, channels])
    return tf.pad(dx, [[0, 0], [0, 0], [0, height % 2], [0, width % 2], [0, 0]])
