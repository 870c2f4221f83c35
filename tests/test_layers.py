"""The layers against numpy formulas, and their first and second derivatives against finite differences."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import graphs
import layers
from numerics import central_difference, decided

pytestmark = pytest.mark.usefixtures("rewritten_graphs")


@pytest.fixture
def normal():
    """normal(*shape) draws, in every test from the same start: inputs do not depend on which tests ran before."""
    rng = np.random.default_rng(0)
    return lambda *shape: rng.standard_normal(shape)


def conv_formula(x, w, b):
    """3x3 SAME convolution by its definition: x [N,H,W,C], w [3,3,C,D], b [D]."""
    _, height, width, _ = x.shape
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    out = np.zeros((*x.shape[:3], w.shape[-1])) + b
    for i in range(height):
        for j in range(width):
            out[:, i, j] += np.einsum("nklc,klcd->nd", padded[:, i : i + 3, j : j + 3], w)
    return out


def norm_formula(x, beta):
    """Batch norm by its definition: x [N,H,W,C], beta [C]."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-3) + beta


def pool_formula(x):
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("per_task", [False, True])
@pytest.mark.parametrize("channels", [3, layers.FEW])
def test_conv_is_the_formula(normal, tasks, per_task, channels):
    x, lead = normal(tasks, 2, 5, 6, channels), (tasks,) if per_task else ()
    w, b = normal(*lead, 3, 3, channels, 4), normal(*lead, 4)
    y = layers.conv(*map(tf.constant, (x, w, b)))
    for t in range(tasks):
        expected = conv_formula(x[t], w[t] if per_task else w, b[t] if per_task else b)
        np.testing.assert_allclose(y[t], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["conv", "dense"])
def test_bfloat16_products_are_the_same_on_a_processor_without_them(normal, monkeypatch, name):
    """Output and gradients: sums of 27 products in float32 differ by their order, and then both are rounded."""
    x, w = (normal(1, 2, 6, 6, 3), normal(3, 3, 3, 4)) if name == "conv" else (normal(1, 8, 27), normal(27, 4))
    x, w = (np.asarray(tf.cast(tf.cast(a, tf.bfloat16), tf.float32)) for a in (x, w))

    @tf.function(autograph=False)
    def derivatives(dtype):
        x_, w_ = tf.constant(x), tf.constant(w)
        y = getattr(layers, name)(tf.cast(x_, dtype), w_, tf.zeros(4))
        return [y, *tf.gradients(tf.reduce_sum(tf.square(y)), [x_, w_])]

    results = []
    for native in (True, False):
        monkeypatch.setattr(layers, "has_bfloat16", lambda native=native: native)
        results.append(derivatives.get_concrete_function(tf.bfloat16)())
        derivatives = tf.function(derivatives.python_function, autograph=False)
    exact = derivatives(tf.float32)
    for native, emulated, single in zip(*results, exact, strict=True):
        scale = np.abs(single).max()
        np.testing.assert_allclose(native, emulated, rtol=0, atol=2.0**-6 * scale)
        assert np.abs(emulated - single).max() > 1e-4 * scale  # it is rounded
        np.testing.assert_array_equal(emulated, tf.cast(tf.cast(emulated, tf.bfloat16), tf.float32))


@pytest.mark.parametrize("per_task", [False, True])
def test_dense_is_the_formula(normal, per_task):
    x = normal(3, 4, 5)
    w, b = (normal(3, 5, 2), normal(3, 2)) if per_task else (normal(5, 2), normal(2))
    y = layers.dense(*map(tf.constant, (x, w, b)))
    for t in range(3):
        np.testing.assert_allclose(y[t], x[t] @ (w[t] if per_task else w) + (b[t] if per_task else b), rtol=1e-10)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
def test_batch_norm_is_the_formula_for_each_group(normal, stop, groups, dtype, tolerance):
    x, beta = normal(groups, 4, 5, 6, 3) * 0.03 + 1, normal(3)  # small variance: epsilon matters
    y = layers.batch_norm(tf.constant(x, dtype), tf.constant(beta, dtype), stop)
    for g in range(groups):
        np.testing.assert_allclose(
            y[g], norm_formula(x[g].astype(dtype).astype(float), beta), rtol=0, atol=50 * tolerance
        )


@pytest.mark.parametrize("jit", [False, True])
def test_softplus_and_its_two_derivatives_are_the_formulas(jit):
    x = np.array([-200, -90, -30, -3, -0.5, 0, 0.5, 3, 11, 17, 39.9, 40.1, 90, 200], np.float32)

    def derivatives(x):
        y = layers.softplus(x)
        first = tf.gradients(y, x)[0]
        return y, first, tf.gradients(first, x)[0]

    found = tf.function(derivatives, autograph=False, jit_compile=jit)(tf.constant(x))
    wide = x.astype(np.float64)
    s = np.exp(-np.logaddexp(0, -wide))
    for f, exact in zip(found, (np.logaddexp(0, wide), s, s * (1 - s)), strict=True):
        np.testing.assert_allclose(f, exact, rtol=5e-7, atol=5e-7)  # four roundings of float32


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (3, 3), (21, 2)])
def test_max_pool_drops_the_odd_row_and_column(normal, size):
    x = normal(2, 4, *size, 3)
    np.testing.assert_array_equal(layers.max_pool(tf.constant(x)), [pool_formula(task) for task in x])


@pytest.mark.parametrize("stop", [False, True])
def test_block_is_norm_relu_pool_with_every_sample_normalised_by_its_own_statistics(normal, stop):
    x, beta = normal(2, 3 * 4, 6, 7, 5), normal(5)  # 2 tasks, 3 samples of 4 images
    y = layers.norm_relu_pool(tf.constant(x), tf.constant(beta), 3, stop)
    for t in range(2):
        for s in range(3):
            rows = slice(4 * s, 4 * s + 4)
            expected = pool_formula(np.maximum(norm_formula(x[t, rows], beta), 0))
            np.testing.assert_allclose(y[t, rows], expected, rtol=1e-9, atol=1e-10)


def test_shares_are_a_weighted_mean_and_variance(normal):
    x, beta, shares = normal(2, 4, 6, 7, 5) + 3, normal(5), np.array([0.5, 0.2, 0.3, 0])
    y = layers.norm_relu_pool(tf.constant(x), tf.constant(beta), 1, False, shares=tf.constant(shares))
    weight = shares[None, :, None, None, None] / (6 * 7)
    mean = (weight * x).sum((1, 2, 3), keepdims=True)
    normed = (x - mean) / np.sqrt((weight * (x - mean) ** 2).sum((1, 2, 3), keepdims=True) + layers.EPSILON)
    expected = np.array([pool_formula(np.maximum(task + beta, 0)) for task in normed])
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-10)


def test_in_a_balanced_cross_entropy_classes_count_the_same(normal):
    logits, labels, shares = normal(2, 5, 3), np.eye(3)[[0, 0, 0, 1, 2]], [1 / 9, 1 / 3, 1 / 3]
    repeated = [0, 1, 2, 3, 3, 3, 4, 4, 4]
    expected = layers.cross_entropy(tf.constant(logits[:, repeated]), tf.constant(labels[repeated]))
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = layers.cross_entropy(x, tf.constant(labels), tf.constant(shares, tf.float64))
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(tape.gradient(loss, x), (labels @ shares)[:, None] * (p - labels), rtol=1e-12)
    mixed = 0.3 * labels + 0.7 * labels[::-1]  # a label's parts count as their classes do
    log_p = np.log(p)
    np.testing.assert_allclose(
        layers.cross_entropy(x, tf.constant(mixed), tf.constant(shares, tf.float64)),
        -(mixed * shares * log_p).sum((1, 2)), rtol=1e-12,
    )  # fmt: skip


def test_cross_entropy_and_accuracy_are_the_formulas(normal):
    logits, labels = normal(2, 6, 3), np.eye(3)[[0, 0, 1, 1, 2, 2]]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(log_p * labels).sum(-1).mean(-1)
    np.testing.assert_allclose(layers.cross_entropy(tf.constant(logits), tf.constant(labels)), expected, rtol=1e-10)
    right = (logits.argmax(-1) == labels.argmax(-1)).mean(-1)
    np.testing.assert_allclose(layers.accuracy(tf.constant(logits), tf.constant(labels)), right, rtol=1e-6)


def directional(f, x, jit):
    """-> (f's gradient at x, its derivative along a fixed random v), and the gradient at x + step * v by step."""
    v = np.random.default_rng(7).standard_normal(x.shape)

    @tf.function(jit_compile=jit, autograph=False)
    def second(x):
        (g,) = tf.gradients(f(x), [x])
        return g, tf.gradients(tf.reduce_sum(g * tf.cast(v, x.dtype)), [x], unconnected_gradients="zero")[0]

    return [out.numpy() for out in second(tf.constant(x))], lambda step: second(tf.constant(x + step * v))[0]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_second_derivative_of_the_block_is_that_of_finite_differences(normal, groups, jit):
    beta, c = tf.constant(normal(3)), tf.constant(normal(groups, 4, 3, 2, 3))

    def f(x):
        return tf.reduce_sum(tf.square(layers.norm_relu_pool(x, beta, 1, False)) * c)

    x = normal(groups, 4, 6, 5, 3)
    (_, second), gradient_at = directional(f, x, jit)
    slope, bound = central_difference(gradient_at)
    assert np.abs(second - slope).max() <= bound < 1e-4 * np.abs(slope).max()


@pytest.mark.parametrize("jit", [False, True])
def test_derivatives_of_the_block_in_float32_are_float64s(normal, jit):
    beta, c, x = normal(3), normal(2, 4, 3, 2, 3), normal(2, 4, 6, 5, 3)

    def f(x):
        y = layers.norm_relu_pool(x, tf.cast(beta, x.dtype), 1, False)
        return tf.reduce_sum(tf.square(y) * tf.cast(c, x.dtype))

    decided(f, tf.constant(x))
    exact, _ = directional(f, x, False)
    single, _ = directional(f, x.astype("float32"), jit)
    for a, b in zip(single, exact, strict=True):
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-4


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(("groups", "dtype"), [(1, "float32"), (2, "float32"), (2, "float64")])
def test_a_stopped_batch_norm_has_the_same_gradient_and_no_second_derivative(normal, groups, dtype, jit):
    beta, c, x = normal(3), normal(groups, 4, 6, 5, 3), normal(groups, 4, 6, 5, 3)

    def loss(stop):
        # linear in the output: the only second derivative is batch norm's own
        return lambda x: tf.reduce_sum(layers.batch_norm(x, tf.cast(beta, dtype), stop) * tf.cast(c, dtype))

    (exact, second), _ = directional(loss(False), x.astype(dtype), jit)
    (stopped, none), _ = directional(loss(True), x.astype(dtype), jit)
    np.testing.assert_allclose(stopped, exact, rtol=1e-3, atol=1e-5)
    assert np.abs(second).max() > 1e-2 and np.abs(none).max() == 0

    def beta_gradient(stop):
        @tf.function(autograph=False)
        def gradient(b):
            y = layers.batch_norm(tf.constant(x, dtype), b, stop)
            return tf.gradients(tf.reduce_sum(y * tf.cast(c, dtype)), [b])[0]

        return gradient(tf.constant(beta, dtype))

    np.testing.assert_allclose(beta_gradient(True), beta_gradient(False), rtol=1e-3)


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_of_equal_pixels_goes_to_the_first(jit):
    """Blank paper is full of ties."""
    x = np.ones((1, 1, 4, 6, 2))
    x[0, 0, 0, 0] = 0  # the first of the next window's three
    x[0, 0, 2:, 2:4] = [[[2, 1], [2, 3]], [[2, 3], [2, 3]]]
    (g, _), _ = directional(lambda x: tf.reduce_sum(layers.max_pool(x) * 5.0), x, jit)
    expected = np.zeros_like(x)
    for row, column, channel in itertools.product((0, 2), (0, 2, 4), (0, 1)):
        window = x[0, 0, row : row + 2, column : column + 2, channel]
        i, j = divmod(window.argmax(), 2)  # numpy takes the first
        expected[0, 0, row + i, column + j, channel] = 5
    np.testing.assert_array_equal(g, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_derivative_of_max_pool_under_jit_is_not_rounded(normal, dtype):
    """XLA's own second derivative picks the winner among bfloat16 values."""
    x = (1 + 1e-4 * normal(1, 2, 7, 6, 3)).astype(dtype)  # bfloat16 cannot tell these apart
    c = normal(1, 2, 3, 3, 3)

    def f(x):
        return tf.reduce_sum(tf.pow(layers.max_pool(x), 3) * tf.cast(c, x.dtype))

    (_, plain), _ = directional(f, x, False)
    (_, jitted), _ = directional(f, x, True)
    np.testing.assert_allclose(jitted, plain, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (7, 5)])
def test_block_has_the_derivatives_of_its_plain_form(normal, size, stop, masked):
    """Of pooling what is normalised, by TensorFlow's own kernels and derivatives."""
    x, beta, c, v = (
        normal(2, 3, *size, 4),
        normal(4),
        normal(2, 3, size[0] // 2, size[1] // 2, 4),
        normal(2, 3, *size, 4),
    )
    mask = tf.constant(np.random.default_rng(2).integers(0, 2, (2, 1, 3, *size, 4)) * 1.5) if masked else None

    def plain(x, beta):
        rows = tf.reshape(layers.masked(tf.nn.relu(layers.batch_norm(x, beta, stop)), mask), [-1, *size, 4])
        return tf.reshape(tf.nn.max_pool2d(rows, 2, 2, "VALID"), c.shape)

    @tf.function(autograph=False)
    def derivatives(block):
        arguments = [tf.constant(x), tf.constant(beta)]
        y = tf.pow(block(*arguments), 2) * c
        first = tf.gradients(y, arguments)
        return y, first, tf.gradients(tf.reduce_sum(first[0] * v) + tf.reduce_sum(tf.square(first[1])), arguments)

    ours = derivatives(lambda x, beta: layers.norm_relu_pool(x, beta, 1, stop, mask))
    theirs = derivatives(plain)
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_has_the_derivatives_of_tensorflows(normal, channels):
    x, w, c = normal(2, 5, 6, channels), normal(3, 3, channels, 4), normal(2, 5, 6, 4)

    @tf.function(autograph=False)
    def derivatives(conv):
        arguments = [tf.constant(x), tf.constant(w)]
        y = tf.reduce_sum(tf.pow(conv(*arguments), 3) * c)
        first = tf.gradients(y, arguments)
        return first, tf.gradients(sum(tf.reduce_sum(tf.square(g)) for g in first), arguments)

    ours, theirs = (
        derivatives(lambda x, w: layers.convolve(x, w)),
        derivatives(lambda x, w: tf.nn.conv2d(x, w, 1, "SAME")),
    )
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


@pytest.mark.parametrize("jit", [False, True])
def test_layers_know_that_xla_will_compile_them(jit):
    """Also inside a loop."""
    answers = []

    def f(x):
        answers.append(layers.compiled_by_xla())
        return tf.map_fn(lambda y: answers.append(layers.compiled_by_xla()) or y, x)

    tf.function(f, autograph=False, jit_compile=jit)(tf.ones([2]))
    assert answers == [jit, jit]


@pytest.mark.parametrize(
    ("flags", "native"), [("sse avx512_bf16", True), ("amx_bf16 amx_tile", True), ("sse avx512f", False)]
)
def test_a_processor_says_whether_it_multiplies_bfloat16(flags, native, monkeypatch):
    monkeypatch.setattr(layers.Path, "read_text", lambda path: f"flags : {flags}")
    monkeypatch.setattr(layers.Path, "exists", lambda path: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert layers.has_bfloat16.__wrapped__() == native
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # oneDNN refuses bfloat16
    assert not layers.has_bfloat16.__wrapped__()


def test_a_gained_batch_norm_of_one_group_is_the_formula(normal):
    """Fused in float32, written out in float64: output, mean, and the unbiased variance."""
    x, gamma, beta = normal(1, 4, 3, 3, 2) * 0.01 + 1, normal(2), normal(2)  # small variance: epsilon matters
    mean, variance = x.mean((1, 2, 3)), x.var((1, 2, 3))
    expected = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, mean, variance * 36 / 35
    # float32 has an error of 1e-7 of 1, that is 1e-5 of a deviation: a hundred times that, and a variance twice.
    for dtype, tolerance in (("float32", 2e-3), ("float64", 1e-12)):
        found = layers.batch_norm_gained(*(tf.constant(a, dtype) for a in (x, gamma, beta)))
        for one, wanted, least in zip(found, expected, (tolerance, 0, 0), strict=True):
            np.testing.assert_allclose(one, wanted, rtol=tolerance, atol=least)


def test_what_is_computed_again_has_the_same_results_and_derivative(normal):
    """Of structures, beside what is no tensor, of a gradient step; and from the arguments alone."""
    x, w = normal(1, 2, 4, 4, 1), {"b": normal(1), "a": normal(1)}

    def f(x, w, samples):
        z = layers.norm_relu_pool(x * w["a"] + w["b"] ** 2, w["a"], samples, stop_bn_backward=False)
        return {"z": z, "step": tf.gradients(z**2, x)[0]}

    @tf.function(autograph=False)
    def derivatives(f):
        arguments = tf.constant(x), {name: tf.constant(value) for name, value in w.items()}
        results = f(*arguments, 2)
        return results, tf.gradients(list(results.values()), tf.nest.flatten(arguments))

    for ours, plain in zip(*map(tf.nest.flatten, (derivatives(layers.recomputed(f)), derivatives(f))), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)
    with tf.Graph().as_default():  # the derivative's operations do not take those of the first computation
        a = tf.ones([3])
        y = layers.recomputed(lambda a: tf.exp(tf.tanh(a)))(a)
        outer = {op.name for op in tf.compat.v1.get_default_graph().get_operations() if op.type in ("Exp", "Tanh")}
        before, todo = set(), [tf.gradients(y, a)[0].op]
        while todo:
            op = todo.pop()
            before.add(op.name)
            todo += [tensor.op for tensor in op.inputs if tensor.op.name not in before]
        assert len(outer) == 2 and not outer & before


@pytest.mark.parametrize("again", [False, True])
def test_a_graph_with_gradient_functions_is_freed(again):
    def loss(x):
        return tf.reduce_sum(layers.norm_relu_pool(x, tf.zeros([1]), 1, stop_bn_backward=False))

    @tf.function(autograph=False)
    def gradient(x):
        return tf.gradients((layers.recomputed(loss) if again else loss)(x), x)

    before = len(graphs.alive())
    gradient(tf.ones([1, 2, 4, 4, 1]))
    assert len(graphs.alive()) == before + 1
    del gradient
    assert len(graphs.alive()) == before
