"""VIB and information dropout: their noise, their penalties against quadrature, the passes that have noise."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import integrate, stats

import layers
from perturbations import PERTURBATIONS, draws
from perturbations.information import VIB, InformationDropout

TASKS, SAMPLES, IMAGES, SHAPE, CHANNELS = 2, 2, 3, (16, 18, 2), 3


def parameters(perturbation, size=0.5):
    rng = np.random.default_rng(3)
    declared = perturbation.parameters(SHAPE, CHANNELS)
    return {name: tf.constant(size * rng.standard_normal(p.shape)) for name, p in declared.items()}


def draw(where=draws.TRAINING_SUPPORT, shares=None):
    noise = draws.task_noise(tf.constant([[5, task] for task in range(TASKS)]), "float64")
    return draws.Draw(noise, 1, where, SAMPLES, shares)


H = tf.constant(np.random.default_rng(4).random((TASKS, SAMPLES * IMAGES, CHANNELS)))
X = tf.constant(np.random.default_rng(5).random((TASKS, SAMPLES * IMAGES, *SHAPE)))
MAP = tf.TensorShape([TASKS, SAMPLES * IMAGES, 16, 18, CHANNELS])
ON = draws.SUPPORT | {draws.TRAINING_QUERY}


def test_the_bottleneck_is_its_equation_and_its_price_that_of_quadrature():
    vib = VIB(vib_beta=0.3)
    params = parameters(vib)
    p = {name: value.numpy() for name, value in params.items()}
    mean = H.numpy() @ p["phi/mean_w"] + p["phi/mean_b"]
    sigma = np.log1p(np.exp(H.numpy() @ p["phi/deviation_w"] + p["phi/deviation_b"] - 5))
    z, penalty = vib.inputs(params, {}, "dense", H, draw())
    np.testing.assert_allclose(z, mean + sigma * draw()("dense", H.shape).numpy(), rtol=1e-9)

    def divergence(m, s):
        p, q = stats.norm(m, s), stats.norm()
        return integrate.quad(lambda v: p.pdf(v) * (p.logpdf(v) - q.logpdf(v)), m - 12 * s, m + 12 * s)[0]

    expected = np.vectorize(divergence)(mean, sigma).sum(-1).mean(1)  # over z, and over images and samples
    np.testing.assert_allclose(penalty, 0.3 * expected, rtol=1e-6)


def test_the_bottleneck_is_initialized_with_the_identity():
    vib = VIB()
    declared = vib.parameters((28, 28, 1), 64)
    assert {name: p.shape for name, p in declared.items()} == {
        "phi/mean_w": (64, 64), "phi/mean_b": (64,), "phi/deviation_w": (64, 64), "phi/deviation_b": (64,),
    }  # fmt: skip
    params = {name: p.initializer(p.shape, [0, i], tf.float64) for i, (name, p) in enumerate(declared.items())}
    h = tf.constant(np.random.default_rng(6).random((1, 5, 64)))
    np.testing.assert_allclose(vib.inputs(params, {}, "dense", h, draws.UNPERTURBED)[0], h, rtol=1e-12)
    noise = draws.Draw(draws.task_noise(tf.constant([[1, 2]]), "float64"), 0, draws.TEST_SUPPORT)
    deviation = (vib.inputs(params, {}, "dense", h, noise)[0] - h).numpy().std()
    assert deviation == pytest.approx(np.log1p(np.exp(-5)), rel=0.2)  # the source's 0.0067
    assert VIB().settings.vib_beta == 1e-3 and vib.inputs(params, {}, "conv1", h, noise) == (h, 0.0)


def test_the_price_of_a_very_small_deviation_is_finite_in_float32():
    vib = VIB()
    params = {name: tf.cast(value, tf.float32) for name, value in parameters(vib, 0.0).items()}
    params["phi/deviation_b"] = tf.fill([CHANNELS], -45.0)
    h = tf.cast(H, tf.float32)
    noise = draws.Draw(
        draws.task_noise(tf.constant([[5, task] for task in range(TASKS)])), 1, draws.TEST_SUPPORT, SAMPLES
    )

    @tf.function(autograph=False)
    def price(deviation):
        _, penalty = vib.inputs(params | {"phi/deviation_b": deviation}, {}, "dense", h, noise)
        return penalty, tf.gradients(penalty, deviation)[0]

    penalty, gradient = price(params["phi/deviation_b"])
    np.testing.assert_allclose(penalty, 1e-3 * CHANNELS * (50 - 0.5), rtol=1e-5)  # -ln sigma = 50, the mean is 0
    np.testing.assert_allclose(gradient, np.full(CHANNELS, -1e-3 * TASKS), rtol=1e-5)


def test_information_dropout_is_its_equation_and_its_price_that_of_quadrature():
    dropout = InformationDropout(information_beta=0.2, information_max_alpha=0.6)
    params = parameters(dropout)
    a = layers.conv(X, params["phi/conv1_w"], params["phi/conv1_b"]).numpy()
    alpha = 0.001 + 0.6 / (1 + np.exp(-a))
    factor, penalty = dropout.mask(params, {}, "conv1", X, MAP, draw())
    assert factor.shape == (TASKS, SAMPLES, IMAGES, 16, 18, CHANNELS)
    expected = np.exp(alpha * draw()("conv1", MAP).numpy())
    np.testing.assert_allclose(np.reshape(factor, MAP), expected, rtol=1e-9)

    def divergence(deviation):
        """KL(log-normal || log-uniform) up to the constant that makes it 0 for the largest deviation."""
        entropy = integrate.quad(lambda v: -stats.norm.pdf(v, 0, deviation) * stats.norm.logpdf(v, 0, deviation),
                                 -12 * deviation, 12 * deviation)[0]  # fmt: skip
        return -entropy

    grid = np.linspace(0.01, 0.601, 200)
    prices = np.array([divergence(one) for one in grid]) - divergence(0.601)
    expected = np.interp(alpha, grid, prices)
    assert (alpha > 0.01).all() and (expected > -1e-9).all()
    np.testing.assert_allclose(penalty, 0.2 * expected.sum((2, 3, 4)).mean(1), rtol=1e-3)


@pytest.mark.parametrize("name", ["vib", "information_dropout"])
def test_the_passes_with_noise_and_no_penalty_for_a_price_of_zero(name):
    free = PERTURBATIONS[name](**{{"vib": "vib_beta", "information_dropout": "information_beta"}[name]: 0.0})
    params = parameters(free)

    def noise_of(perturbation, d):
        if name == "vib":
            z, penalty = perturbation.inputs(params, {}, "dense", H, d)
            return (z - perturbation.inputs(params, {}, "dense", H, draws.UNPERTURBED)[0]).numpy(), penalty
        factor, penalty = perturbation.mask(params, {}, "conv1", X, MAP, d)
        return (np.zeros(1) if factor is None else factor.numpy() - 1), penalty

    for where in ON:
        noise, penalty = noise_of(PERTURBATIONS[name](), draw(where))
        assert noise.any() and (penalty.numpy() > 0).all()
        assert not noise_of(free, draw(where))[1].numpy().any()
    noise, penalty = noise_of(PERTURBATIONS[name](), draws.UNPERTURBED)
    assert not noise.any() and penalty == 0
    assert PERTURBATIONS[name].random_in == ON


@pytest.mark.parametrize("name", ["vib", "information_dropout"])
def test_the_penalty_weighs_images_by_their_shares(name):
    perturbation = PERTURBATIONS[name]()
    params = parameters(perturbation)

    def price(images, shares=None):
        """Return the penalty for these images, in each noise sample."""
        rows = [sample * IMAGES + i for sample in range(SAMPLES) for i in images]
        d = draw(shares=None if shares is None else tf.constant(shares, tf.float64))
        if name == "vib":
            return perturbation.inputs(params, {}, "dense", tf.gather(H, rows, axis=1), d)[1]
        shape = [TASKS, len(rows), *MAP[2:]]
        return perturbation.mask(params, {}, "conv1", tf.gather(X, rows, axis=1), shape, d)[1]

    np.testing.assert_allclose(price([0, 1, 2], [0.5, 0.25, 0.25]), price([0, 0, 1, 2]), rtol=1e-9)
