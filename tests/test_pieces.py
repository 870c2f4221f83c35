"""A block in pieces of a few images is the block of whole maps, with its gradients."""

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
import numerics
import perturbations
import pieces
from attacks import Adversary
from numerics import noise_of, random_parameters
from perturbations import draws
from perturbations.base import Elementwise

D = 3


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Maps as small as those of these tests are computed in pieces, of two images of 8 x 8 pixels, or of one."""
    monkeypatch.setattr(pieces, "MAP", 1)
    monkeypatch.setattr(pieces, "PIECE", 2 * 8 * 8 * 2 * D * 4)


def inputs(image, dtype="float64"):
    """Images with equal neighbours and ink on white paper, kernels and biases of two convolutions, an offset."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2, (1, 6, *image)) * (rng.random((1, 6, *image)) < 0.5)
    kernels = [(rng.normal(size=(3, 3, image[-1], D)), rng.normal(size=D)) for _ in range(2)]
    (w, b), (phi, phi_b) = kernels
    return [tf.constant(t, dtype) for t in (x, w[None], b[None], phi, phi_b, rng.normal(size=D))]


FORMS = {
    "maml": lambda phi, z: Elementwise(),
    "metadrop": lambda phi, z: Elementwise(lambda mu, a: mu * layers.softplus(a), (phi,)),
    "noisy": lambda phi, z: Elementwise(lambda mu, a, z: mu * layers.softplus(a + z), (phi,), (z,)),
}


def run(f, args, dy):
    """Return f(*args), and its gradients by args for the output's gradient dy, as numpy arrays."""

    @tf.function(autograph=False)
    def compute(*args):
        y = f(*args)
        return [y, *(g for g in tf.gradients(y, args, dy) if g is not None)]

    return [t.numpy() for t in compute(*args)]


@pytest.mark.parametrize("image", [(8, 8, 1), (9, 7, 3), (8, 8, 9)], ids=["few", "odd", "many"])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("dtype", "training", "tolerance"), [("float64", False, 1e-13), ("float64", True, 1e-13), ("float32", True, 1e-4)]
)
def test_a_block_in_pieces_is_the_block_of_whole_maps(image, name, dtype, training, tolerance):
    """Output, and the gradients by images, kernels, biases and offset. A bias before batch norm has none, so that
    there the error is that of the other gradients. The six images are those of three noise samples if there is noise.
    """
    args, samples = inputs(image, dtype), 3 if name == "noisy" else 1
    z = tf.constant(np.random.default_rng(3).normal(size=(1, 6, *image[:2], D)), dtype)

    def whole(x, w, b, phi, phi_b, beta):
        y = FORMS[name]((phi, phi_b), z)(layers.conv(x, w, b), x)
        return layers.norm_relu_pool(y, beta, samples, stop_bn_backward=True)

    def in_pieces(x, w, b, phi, phi_b, beta):
        assert pieces.worthwhile(x, w)
        return pieces.block(x, (w, b), FORMS[name]((phi, phi_b), z), beta, samples, training)

    rng = np.random.default_rng(2)
    dy = tf.constant(rng.normal(size=(1, 6, image[0] // 2, image[1] // 2, D)), dtype)
    wanted, found = run(whole, args, dy), run(in_pieces, args, dy)
    size = np.linalg.norm(wanted[2])  # of the gradient by a kernel
    for a, b in zip(wanted, found, strict=True):
        assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(a), size)


def test_a_second_derivative_of_a_block_in_pieces_is_exact():
    x, w, b, *_, beta = inputs((8, 8, 1))

    def gradient_of(block):
        def gradient(w):
            y = block(layers.conv(x, w, b) if block is whole else w)
            return tf.gradients(tf.reduce_sum(tf.square(y)), w)[0]

        return gradient

    def whole(mu):
        return layers.norm_relu_pool(mu, beta, samples=1, stop_bn_backward=False)

    def in_pieces(w):
        return pieces.block(x, (w, b), Elementwise(), beta)

    wanted, found = (run(gradient_of(f), [w], w)[1] for f in (whole, in_pieces))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("name", perturbations.PERTURBATIONS)
def test_the_elementwise_form_of_a_perturbation_is_its_block(name):
    """Where there is a form there is no mask, and no gradient is lost: none of a form's function's own tensors."""
    perturbation, rng = perturbations.PERTURBATIONS[name](), np.random.default_rng(4)
    declared = perturbation.parameters((16, 18, 2), D)
    params = random_parameters(declared, rng)
    x, mu = (tf.constant(rng.standard_normal((1, 4, 16, 18, depth))) for depth in (2, D))
    noise = noise_of(tf.constant([[5, 0]]))
    for draw in (draws.UNPERTURBED, *(draws.Draw(noise, 5, w, 2) for w in (draws.TRAINING_QUERY, draws.TEST_SUPPORT))):
        form = perturbation.elementwise(params, "conv1", mu.shape, draw)
        if form is None:
            assert perturbation.hooks & {"block", "mask"}  # nothing else keeps a block from being computed in pieces
            continue
        output, penalty = perturbation.block(params, {}, "conv1", x, mu, draw)
        mask, mask_penalty = perturbation.mask(params, {}, "conv1", x, mu.shape, draw)
        assert mask is None and penalty == mask_penalty == 0
        np.testing.assert_array_equal(form(mu, x), output)
        assert not any(isinstance(cell.cell_contents, tf.Tensor) for cell in form.f.__closure__ or ())


def test_a_subclass_that_overrides_a_block_alone_has_no_inherited_form():
    class Doubled(perturbations.PERTURBATIONS["noise"]):
        def block(self, params, theta, layer, x, mu, draw):
            return 2 * mu, 0.0

    assert Doubled().elementwise({}, "conv1", [1, 4, 8, 8, D], draws.UNPERTURBED) is None


BASE = {"image_shape": (16, 18, 2), "channels": D, "way": 3}


def meta_gradients(one, monkeypatch, smallest, adversary=None):
    """Return loss, accuracy and gradients of two tasks, one after the other, with pieces for maps from this size on."""
    monkeypatch.setattr(pieces, "MAP", smallest)
    rng, blocks = np.random.default_rng(4), []
    params = random_parameters(one.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((2, 3 * n, 16, 18, 2))) for n in (1, 2))
    block = pieces.block
    monkeypatch.setattr(pieces, "block", lambda *args: blocks.append(args) or block(*args))

    @tf.function(autograph=False)
    def compute():
        seeds = tf.constant([[5, 0], [5, 1]])
        return numerics.meta_gradients(one, params, x_s, x_q, seeds, 1, noise_of, adversary)

    loss, accuracy, gradients = compute()
    monkeypatch.setattr(pieces, "block", block)
    return {"loss": loss, "accuracy": accuracy} | gradients, len(blocks)


@pytest.mark.parametrize(
    ("name", "settings", "attacked"),
    [
        ("maml", {"n_steps": 2, "inner_lr": 0.3, "meta_gradient": "exact"}, True),
        ("metadrop", {"n_steps": 1, "inner_lr": 0.3, "remat": True}, False),
        ("protonet", {}, False),
    ],
)
def test_the_meta_gradient_with_pieces_is_the_one_without(name, settings, attacked, monkeypatch):
    """To 1e-12, by every parameter, in float64."""
    adversary = Adversary("linf", 0.1, 2) if attacked else None
    one = learners.make(name, **BASE, **settings)
    wanted, without = meta_gradients(one, monkeypatch, 10**9, adversary)
    found, blocks = meta_gradients(one, monkeypatch, 1, adversary)
    assert without == 0 and blocks > 0
    largest = max(np.linalg.norm(value) for value in wanted.values())
    for key, value in wanted.items():  # what batch norm takes away is rounding in both
        size = max(np.linalg.norm(value), largest / 100)
        assert np.linalg.norm(value - found[key]) <= 1e-12 * size, key


@pytest.mark.parametrize("images", [(1, 1, 1), (1, 2, 3)], ids=["balanced", "unbalanced"])
def test_a_test_with_pieces_is_the_one_without(images, monkeypatch):
    """Loss and accuracy after inner steps with noise samples, of classes with these numbers of images; and each block's
    map, which a figure shows. Only passes whose images have equal weights are in pieces."""
    one, rng = learners.make("metadrop", **BASE, n_steps=2, inner_lr=0.3), np.random.default_rng(4)
    params = random_parameters(one.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((1, n, 16, 18, 2))) for n in (sum(images), 6))
    y_s, y_q = (tf.constant(np.repeat(np.eye(3), n, 0)) for n in (images, 2))
    shares = None if len(set(images)) == 1 else tf.constant([0.3, 0.1, 0.1, 0.1, 0.2, 0.2], tf.float64)

    def run(smallest):
        monkeypatch.setattr(pieces, "MAP", smallest)
        blocks, block = [], pieces.block
        monkeypatch.setattr(pieces, "block", lambda *args: blocks.append(args) or block(*args))

        @tf.function(autograph=False)
        def compute():
            adapted, _ = one.adapt(params, x_s, y_s, noise_of(tf.constant([[5, 0]])), samples=2)
            logits, _ = one.classify(params, adapted, x_q, shares=shares)
            return [
                *model.measure(logits, y_q).values(),
                *(maps for maps, _ in one.maps(params, adapted, x_q).values()),
            ]

        results = [t.numpy() for t in compute()]
        monkeypatch.setattr(pieces, "block", block)
        return results, len(blocks)

    (wanted, without), (found, blocks) = run(10**9), run(1)
    assert without == 0 and blocks == (0 if shares is not None else 3 * 4)  # two steps and the query set's pass
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10)


def test_only_large_maps_of_one_task_on_a_cpu_are_computed_in_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "MAP", 4 * 6 * 8 * 8 * D)
    x, w, *_ = inputs((8, 8, 1))
    asked = []

    def ask(x, w):
        asked.append(pieces.worthwhile(x, w))
        return x

    for jit in (False, True):
        tf.function(ask, autograph=False, jit_compile=jit)(x, w)
    tf.function(ask, autograph=False)(x[:, :5], w)
    tf.function(ask, autograph=False)(tf.concat([x, x], 0), w)
    assert asked == [True, False, False, False]
    assert not pieces.worthwhile(x, w)  # without a graph
