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
from collections.abc import Callable

import layers
from lazy import tf
from perturbations.base import Elementwise

MAP = 2**22  # bytes; a smaller map stays in a cache anyway
PIECE = 2**21  # bytes of the convolutions of a piece, unless one image has more


def worthwhile(x: tf.Tensor, w: tf.Tensor) -> bool:
    """Return True if `block` is faster for the images x [T,N,H,W,C] and the kernel w [...,C,D] than whole maps are: for
    a large map of a single task on a CPU."""
    large = 4 * x.shape[1:4].num_elements() * w.shape[-1] >= MAP
    eager_or_xla = tf.executing_eagerly() or layers.compiled_by_xla()
    return x.shape[0] == 1 and large and not eager_or_xla and not tf.config.list_physical_devices("GPU")


def largest_divisor(n: int, most: int) -> int:
    """Return the largest divisor of n that is at most `most`, or 1."""
    return max(k for k in range(1, n + 1) if n % k == 0 and (k == 1 or k <= most))


def block(x: tf.Tensor, weights: tuple, form: Elementwise, beta: tf.Tensor, samples: int = 1) -> tf.Tensor:
    """max_pool(relu(batch_norm(form(conv(x)))), each noise sample normalised by its own statistics. It is made to be
    differentiated once; a second derivative is slow, and holds nothing constant.

    x [1,N,H,W,C], sample-major -> [1,N,H//2,W//2,D]. weights: w and b as `layers.conv` takes them for one task. beta:
    batch norm's offset, [D] or [samples,1,1,1,D].
    """
    kernels = [weights, *form.kernels]
    w = tf.concat([tf.reshape(w, w.shape[-4:]) for w, _ in kernels], -1)
    b = tf.concat([tf.reshape(b, [-1]) for _, b in kernels], -1)

    def combine(y, *maps):
        return form.f(*tf.split(y, len(kernels), -1), *maps)

    if x.shape[-1] < layers.FEW:
        normal = normalised(layers.conv, combine, b.shape[0], samples, form.maps, x, w, b)
    else:
        normal = normalised(tf.identity, combine, b.shape[0], samples, form.maps, layers.conv(x, w, b))
    output = tf.nn.relu(normal + beta)
    return tf.reshape(output, [1, x.shape[1], *output.shape[2:]])


def normalised(convolve: Callable, combine: Callable, depth: int, samples: int, maps, x, *weights) -> tf.Tensor:
    """Return max_pool(batch_norm(combine(convolve(x, *weights), *maps))), without an offset, [samples,n,H//2,W//2,D].

    x [1,N,H,W,C] with N = samples * n. convolve: a function of some images and the weights -> [1,images,H,W,depth],
    computed again for the gradient. maps [1,N,H,W,D]. combine: an element-wise function -> [1,images,H,W,D].
    """
    n = x.shape[1] // samples
    pixels, image = n * x.shape[2:4].num_elements(), 4 * x.shape[2:4].num_elements() * depth
    images = largest_divisor(n, PIECE // image)
    pieces_of_sample = n // images
    numbers = tf.range(samples * pieces_of_sample)

    def piece(x, i):
        """Return the i-th piece of x [1,N,...]: [1,images,...]."""
        return tf.reshape(x, [-1, 1, images, *x.shape[2:]])[i]

    def of_sample(x, i):
        """Return the entry of x [samples,1,1,1,D] for the i-th piece, [1,1,1,1,D]."""
        return x[i // pieces_of_sample][None]

    def reduced(z):
        mean = layers.group_mean(z)
        return maxima_of(z), mean, layers.group_mean(tf.math.squared_difference(z, mean))

    def by_convolutions(dmaxima, slope, offset, y, *maps):
        """Return the gradient by a piece's convolutions y: that of the maxima, and that of the statistics, which is
        linear in z."""
        z = combine(y, *maps)
        return tf.gradients(z, y, spread(z, dmaxima) - (z * slope + offset))[0]

    # Two programs of the forward pass, because XLA would combine once for each consumer in the same program.
    combined, reduced, by_convolutions = (
        tf.function(f, autograph=False, jit_compile=True) for f in (combine, reduced, by_convolutions)
    )

    @layers.custom_gradient
    def compute(x, *weights):
        def of_piece(i):
            return reduced(combined(convolve(piece(x, i), *weights), *(piece(z, i) for z in maps)))

        dtype = (weights[0] if weights else x).dtype
        results = tf.map_fn(of_piece, numbers, fn_output_signature=(dtype,) * 3, parallel_iterations=1)
        maxima, means, variances = (tf.reshape(t, [samples, -1, *t.shape[3:]]) for t in results)
        mean = tf.reduce_mean(means, 1, keepdims=True)
        variance = tf.reduce_mean(variances + tf.math.squared_difference(means, mean), 1, keepdims=True)
        rstd = tf.math.rsqrt(variance + layers.EPSILON)
        normal = (maxima - mean) * rstd

        def gradients(dy):
            dy_mean, dy_normal = (tf.reduce_sum(g, [1, 2, 3], keepdims=True) / pixels for g in (dy, dy * normal))
            slope = tf.square(rstd) * dy_normal
            offset, dmaxima = rstd * dy_mean - mean * slope, tf.reshape(rstd * dy, [1, -1, *dy.shape[2:]])

            def of_piece(i):
                """Return a piece and the weights, and a function of some of them: the gradient by these."""
                args = [tf.identity(t) for t in (piece(x, i), *weights)]
                y, line = convolve(*args), (of_sample(slope, i), of_sample(offset, i))
                dy_piece = by_convolutions(piece(dmaxima, i), *line, y, *(piece(z, i) for z in maps))
                return args, lambda by: tf.gradients(y, by, dy_piece)

            def add(sums, i):
                (_, *weights), gradient = of_piece(i)
                return [a + g for a, g in zip(sums, gradient(weights), strict=True)]

            def by_images(i):
                (images, *_), gradient = of_piece(i)
                return gradient(images)[0]

            # Two loops: one is pruned where nobody asks for its gradient.
            zeros = [tf.zeros_like(w) for w in weights]
            by_weights = tf.foldl(add, numbers, zeros, parallel_iterations=1) if weights else []
            dx = tf.map_fn(by_images, numbers, fn_output_signature=x.dtype, parallel_iterations=1)
            return tf.reshape(dx, x.shape), *by_weights

        return normal, gradients

    return compute(x, *weights)


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
