"""Each ablation of Meta-dropout's noise is its equation, on the support set alone; two are special cases of it."""

import numpy as np
import pytest
import tensorflow as tf

import layers
from numerics import random_parameters
from perturbations import PERTURBATIONS, draws

TASKS, SAMPLES, IMAGES, WAY, SHAPE, CHANNELS = 2, 2, 3, 3, (16, 18, 2), 3
KINDS = ("fixed", "independent", "weight", "additive", "deterministic", "variance", "parameters")


def softplus(a):
    return np.log1p(np.exp(a))


def noise(seed=5):
    return draws.task_noise(tf.constant([[seed, task] for task in range(TASKS)]), "float64")


@pytest.mark.parametrize("name", [name for name, kind in PERTURBATIONS.items() if "block" in kind.hooks])
@pytest.mark.parametrize("where", [draws.TRAINING_SUPPORT, draws.TEST_QUERY])
def test_the_factor_that_figures_show_is_what_multiplies_the_convolution(name, where):
    perturbation, rng = PERTURBATIONS[name](), np.random.default_rng(4)
    params = random_parameters(perturbation.parameters(SHAPE, CHANNELS), rng)
    x, mu = (tf.constant(rng.random((TASKS, IMAGES, 16, 18, depth))) for depth in (2, CHANNELS))
    draw = draws.Draw(noise(), 1, where)
    factor = perturbation.factor(params, {}, "conv1", x, mu, draw)
    if name in KINDS:
        assert (factor is None) == (name in ("weight", "additive", "parameters"))
    if factor is not None:
        output, _ = perturbation.block(params, {}, "conv1", x, mu, draw)
        np.testing.assert_allclose(tf.broadcast_to(factor, mu.shape) * mu, output, rtol=1e-9)


@pytest.fixture
def kind(request):
    """Return a perturbation, large parameters of it, input and output of a block, and of the head."""
    perturbation, rng = PERTURBATIONS[request.param](), np.random.default_rng(4)
    params = random_parameters(perturbation.parameters(SHAPE, CHANNELS), rng)
    x, mu = (tf.constant(rng.random((TASKS, SAMPLES * IMAGES, 16, 18, depth))) for depth in (2, CHANNELS))
    h, logits = (tf.constant(rng.random((TASKS, SAMPLES * IMAGES, size))) for size in (CHANNELS, WAY))
    return perturbation, params, x, mu, h, logits


def phi(params, x, name="conv1"):
    return layers.conv(x, params[f"phi/{name}_w"], params[f"phi/{name}_b"]).numpy()


# kind -> the block's output on the support, from parameters, input, convolution and standard normal numbers
BLOCKS = {
    "fixed": lambda p, x, mu, z: mu * softplus(z),
    "independent": lambda p, x, mu, z: mu * softplus(p["phi/conv1_b"] + z),
    "additive": lambda p, x, mu, z: mu + softplus(phi(p, x)) * z,
    "deterministic": lambda p, x, mu, z: mu * softplus(phi(p, x)),
    "variance": lambda p, x, mu, z: mu * softplus(phi(p, x) + softplus(phi(p, x, "deviation_conv1")) * z),
    "parameters": lambda p, x, mu, z: mu + softplus(phi(p, x)),
}
QUERIES = {
    "fixed": lambda p, x, mu: mu * np.log(2),
    "independent": lambda p, x, mu: mu * softplus(p["phi/conv1_b"]),
    "additive": lambda p, x, mu: mu,
    "deterministic": lambda p, x, mu: mu * softplus(phi(p, x)),
    "variance": lambda p, x, mu: mu * softplus(phi(p, x)),
    "parameters": lambda p, x, mu: mu + softplus(phi(p, x)),
    "weight": lambda p, x, mu: mu,
}
HEADS = {
    "fixed": lambda p, h: np.log(2),
    "independent": lambda p, h: softplus(p["phi/dense_b"]),
    "additive": lambda p, h: softplus(h @ p["phi/dense_w"] + p["phi/dense_b"]),
    "deterministic": lambda p, h: 0.0,
    "variance": lambda p, h: softplus(h @ p["phi/dense_w"] + p["phi/dense_b"]),
    "parameters": lambda p, h: 0.0,
}


@pytest.mark.parametrize("kind", BLOCKS, indirect=True)
def test_the_support_set_has_the_equation(kind, request):
    perturbation, params, x, mu, h, logits = kind
    name = request.node.callspec.params["kind"]
    for where in draws.SUPPORT:
        draw = draws.Draw(noise(), 1, where, SAMPLES)
        block, penalty = perturbation.block(params, {}, "conv1", x, mu, draw)
        z = draw("conv1", mu.shape).numpy()
        np.testing.assert_allclose(block, BLOCKS[name](params, x, mu.numpy(), z), rtol=1e-10)
        assert penalty == 0
        head, penalty = perturbation.head(params, {}, h, logits, draw)
        deviation = HEADS[name]({k: v.numpy() for k, v in params.items()}, h.numpy())
        np.testing.assert_allclose(head, logits + deviation * draw("dense", logits.shape), rtol=1e-10)
        assert penalty == 0


@pytest.mark.parametrize("kind", KINDS, indirect=True)
def test_the_query_set_has_no_noise_in_training_and_in_testing(kind, request):
    perturbation, params, x, mu, h, logits = kind
    name = request.node.callspec.params["kind"]
    for draw in (draws.UNPERTURBED, draws.Draw(noise(), 5, draws.TRAINING_QUERY)):
        block, _ = perturbation.block(params, {}, "conv1", x, mu, draw)
        np.testing.assert_allclose(block, QUERIES[name](params, x, mu.numpy()), rtol=1e-10)
        np.testing.assert_array_equal(perturbation.head(params, {}, h, logits, draw)[0], logits)
        assert perturbation.inputs(params, {}, "conv1", x, draw)[0] is x


@pytest.mark.parametrize("kind", ["weight"], indirect=True)
def test_weight_noise_is_that_of_a_convolution_with_other_weights(kind):
    """One draw a noise sample, which its images share; N(0, softplus(phi)) on the kernel and on the head's weights."""
    perturbation, params, x, _, h, _ = kind
    draw = draws.Draw(noise(), 0, draws.TEST_SUPPORT, SAMPLES)
    kernel = tf.random.stateless_normal([3, 3, 2, CHANNELS], [1, 1], dtype=tf.float64)
    mu = layers.conv(x, kernel, tf.zeros(CHANNELS, tf.float64))
    block, _ = perturbation.block(params, {}, "conv1", x, mu, draw)
    z = draw("conv1", [TASKS, SAMPLES, 3, 3, 2, CHANNELS]).numpy()
    weights = tf.random.stateless_normal([CHANNELS, WAY], [2, 1], dtype=tf.float64)
    head, _ = perturbation.head(params, {}, h, h @ weights, draw)
    z_head = draw("dense", [TASKS, SAMPLES, CHANNELS, WAY]).numpy()
    for task in range(TASKS):
        for sample in range(SAMPLES):
            rows = slice(sample * IMAGES, (sample + 1) * IMAGES)
            noisy = kernel + softplus(params["phi/conv1_w"].numpy()) * z[task, sample]
            own = layers.conv(x[task : task + 1, rows], noisy, tf.zeros(CHANNELS, tf.float64))
            np.testing.assert_allclose(block[task, rows], own[0], rtol=1e-9)
            noisy = weights + softplus(params["phi/dense_w"].numpy()) * z_head[task, sample]
            np.testing.assert_allclose(head[task, rows], h[task, rows] @ noisy, rtol=1e-9)
    assert not np.allclose(z[0, 0], z[0, 1]) and not np.allclose(z[0, 0], z[1, 0])


@pytest.mark.parametrize("kind", ["noise"], indirect=True)
def test_fixed_and_independent_noise_are_metadropout_without_kernels(kind):
    perturbation, params, x, mu, h, logits = kind
    draw = draws.Draw(noise(), 0, draws.TRAINING_SUPPORT, SAMPLES)
    zero = {name: tf.zeros_like(value) for name, value in params.items()}
    biases = {name: value if name.endswith("_b") else tf.zeros_like(value) for name, value in params.items()}
    for name, theirs in (("fixed", zero), ("independent", biases)):
        other = PERTURBATIONS[name]()
        assert other.parameters(SHAPE, CHANNELS).keys() <= params.keys()
        own = {k: params[k] for k in other.parameters(SHAPE, CHANNELS)}
        for hook, arguments in (("block", ("conv1", x, mu)), ("head", (h, logits))):
            wanted = getattr(perturbation, hook)(theirs, {}, *arguments, draw)[0]
            np.testing.assert_allclose(getattr(other, hook)(own, {}, *arguments, draw)[0], wanted, rtol=1e-12)


def test_numbers_of_parameters_and_their_initial_values():
    def count(name):
        return sum(np.prod(p.shape, dtype=int) for p in PERTURBATIONS[name]().parameters((28, 28, 1), 64).values())

    def beginning(name, parameter):
        declared = PERTURBATIONS[name]().parameters((28, 28, 1), 64)[parameter]
        return declared.initializer(declared.shape, [0, 0], tf.float64).numpy()

    convolutions = 9 * 64 + 3 * 9 * 64 * 64 + 4 * 64
    assert {name: count(name) for name in ("noise", *KINDS)} == {
        "noise": convolutions + 65, "fixed": 0, "independent": 4 * 64 + 1, "weight": convolutions - 4 * 64 + 64,
        "additive": convolutions + 65, "deterministic": convolutions, "variance": 2 * convolutions + 65,
        "parameters": convolutions,
    }  # fmt: skip
    for name, parameter in (("weight", "phi/conv2_w"), ("weight", "phi/dense_w"), ("additive", "phi/conv3_b")):
        np.testing.assert_allclose(softplus(beginning(name, parameter)), 0.01, rtol=1e-6)
    np.testing.assert_allclose(softplus(beginning("variance", "phi/deviation_conv3_b")), 1, rtol=1e-6)
    assert not beginning("variance", "phi/conv3_b").any() and not beginning("additive", "phi/dense_b").any()
    assert 0.01 < beginning("variance", "phi/deviation_conv3_w").std() < 0.02
    for name in KINDS:
        still = name in ("deterministic", "parameters")
        assert PERTURBATIONS[name].random_in == (frozenset() if still else draws.SUPPORT)
