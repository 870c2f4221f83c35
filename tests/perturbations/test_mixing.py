"""Mixup and manifold mixup: shares, partners and labels; the passes and the layers that are mixed."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import layers
import learners
import model
from numerics import random_parameters
from perturbations import PERTURBATIONS, draws, mixing

TASKS, SAMPLES, ROWS, WAY = 2, 3, 6, 3
LAYERS = ("conv1", "conv2", "conv3", "conv4", "dense")


def draw(tasks=TASKS, step=0, samples=SAMPLES, where=draws.TRAINING_SUPPORT):
    seeds = tf.stack([tf.range(tasks), 7 * tf.range(tasks) + 1], 1)
    return draws.Draw(draws.task_noise(seeds, "float64"), step, where, samples)


def images(tasks=TASKS, samples=SAMPLES):
    """Each sample has the same images, as in an inner step."""
    x = np.random.default_rng(1).random((tasks, 1, ROWS, 4, 5, 2))
    return tf.constant(np.tile(x, (1, samples, 1, 1, 1, 1)).reshape(tasks, -1, 4, 5, 2))


def labels(samples=SAMPLES):
    return tf.constant(np.tile(np.repeat(np.eye(WAY), ROWS // WAY, 0), (samples, 1)))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0, 7.5])
def test_shares_are_of_the_beta_distribution(alpha):
    """Kolmogorov and Smirnov's distance of 4000 shares, and the quantiles themselves."""
    at = np.linspace(0.003, 0.997, 500)
    exact = stats.beta(alpha, alpha).ppf(at)
    np.testing.assert_allclose(mixing.beta_quantile(alpha, tf.constant(at)), exact, atol=5e-5)
    matrix, _ = PERTURBATIONS["mixup"](mix_alpha=alpha).mixture(draw(1, samples=4000), ROWS)
    shares = []
    for m in matrix[0].numpy():
        off = m[~np.eye(ROWS, dtype=bool)]
        if off.any():  # else all images are their own partners
            shares.append(1 - off[off > 0][0])
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    ends = mixing.beta_quantile(alpha, tf.constant([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(ends, [0, 0.5, 1], atol=1e-7)


def test_a_mixture_has_the_share_of_the_image_and_the_rest_of_its_partner():
    """Of two images that are partners: the diagonal is the quantile of the draw's first number."""
    mixup, d = PERTURBATIONS["mixup"](mix_alpha=2.0), draw(1, samples=40)
    matrix, _ = mixup.mixture(d, 2)
    z = d("conv1", [None, 40, 4]).numpy()[0]
    shares = stats.beta(2, 2).ppf(stats.norm.cdf(z[:, 0]))
    exchanged = z[:, 2] > z[:, 3]
    assert 10 < exchanged.sum() < 30
    np.testing.assert_allclose(matrix[0, :, 0, 0], np.where(exchanged, shares, 1), atol=1e-4)


def test_images_and_labels_are_mixed_by_one_share_with_one_permutation():
    """Of a set, an inner step and a noise sample."""
    mixup, d = PERTURBATIONS["mixup"](), draw()
    mixed, penalty = mixup.inputs({}, {}, "conv1", images(), d)
    assert penalty == 0
    x, mixed = (np.reshape(a, (TASKS, SAMPLES, ROWS, -1)) for a in (images(), mixed))
    y = np.reshape(mixup.labels(labels(), d), (TASKS, SAMPLES, ROWS, WAY))
    hard = np.reshape(labels(), (SAMPLES, ROWS, WAY))
    found = set()
    for task in range(TASKS):
        for sample in range(SAMPLES):
            matrix, *_ = np.linalg.lstsq(x[task, sample].T, mixed[task, sample].T, rcond=None)
            matrix = matrix.T  # [mixture, image]
            np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-9)
            share = min(1, max(np.diag(matrix).min(), 0))
            partners = (matrix - share * np.eye(ROWS)) / (1 - share)
            np.testing.assert_allclose(partners, np.rint(partners), atol=1e-6)
            assert (np.rint(partners).sum(0) == 1).all()
            np.testing.assert_allclose(y[task, sample], matrix @ hard[sample], atol=1e-9)
            found.add(round(share, 6))
    assert len(found) == TASKS * SAMPLES
    assert not np.allclose(mixup.labels(labels(), draw(step=1)), mixup.labels(labels(), d))


def test_permutations_are_uniform_and_independent_of_shares_and_places():
    matrix, place = PERTURBATIONS["manifold_mixup"]().mixture(draw(1, samples=3000), 3)
    permutations, shares = [], []
    for m in matrix[0].numpy():
        off = m - np.diag(np.diag(m))
        own = np.diag(m) > 1 - 1e-9  # whose partners are they themselves
        permutations.append(tuple(np.where(own, np.arange(3), off.argmax(1))))
        shares.append(1 - off.max() if off.any() else np.nan)
    _, counts = np.unique(permutations, axis=0, return_counts=True)
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-4
    shares, place = np.array(shares), place[0].numpy()
    known = np.isfinite(shares)
    assert stats.kruskal(*(shares[known & (place == number)] for number in range(4))).pvalue > 1e-4
    first = np.array([permutation[0] for permutation in permutations])
    assert stats.chi2_contingency([[((first == f) & (place == p)).sum() for p in range(4)] for f in range(3)])[1] > 1e-4


def test_images_without_weight_are_no_partners_of_others():
    """As when `Classifier` leaves pictures out. Where all have a weight, nothing changes."""
    mixup, d = PERTURBATIONS["mixup"](), draw(samples=200)
    weights = np.array([1, 0, 2, 1, 0, 1]) / 5
    matrix = mixup.mixture(dataclasses.replace(d, shares=tf.constant(weights)), ROWS)[0].numpy()
    of_kept = matrix[..., weights > 0, :]
    assert not of_kept[..., weights == 0].any() and 0.1 < (of_kept.max(-1) < 1).mean() < 0.9
    for axis in (-1, -2):
        np.testing.assert_allclose(of_kept[..., weights > 0].sum(axis), 1, rtol=1e-12)
    equal = mixup.mixture(dataclasses.replace(d, shares=tf.fill([ROWS], tf.constant(1 / ROWS, tf.float64))), ROWS)[0]
    np.testing.assert_array_equal(equal, mixup.mixture(d, ROWS)[0])


def test_the_loss_of_mixed_labels_is_the_mixture_of_two_losses():
    mixup, d = PERTURBATIONS["mixup"](), draw(samples=1)
    logits = tf.random.stateless_normal([TASKS, ROWS, WAY], [1, 2], dtype=tf.float64)
    (matrix, _), y = mixup.mixture(d, ROWS), labels(1)
    losses = -tf.einsum("tnc,mc->tnm", tf.nn.log_softmax(logits), y)  # of row n with the label of m
    expected = tf.reduce_mean(tf.reduce_sum(losses * matrix[:, 0], -1), -1)
    np.testing.assert_allclose(layers.cross_entropy(logits, mixup.labels(y, d)), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["mixup", "manifold_mixup"])
@pytest.mark.parametrize("mix_set", ["support", "query", "both"])
def test_the_passes_whose_set_is_mixed(name, mix_set):
    mixup, x = PERTURBATIONS[name](mix_set=mix_set), images()
    support, query = mix_set != "query", mix_set != "support"
    for d, mixed in (
        (draw(), support),
        (draw(where=draws.TEST_SUPPORT), support),
        (draw(where=draws.TRAINING_QUERY), query),
        (draws.UNPERTURBED, False),
    ):
        changed = [layer for layer in LAYERS if not np.allclose(mixup.inputs({}, {}, layer, x, d)[0], x)]
        assert bool(changed) == mixed and (mixup.labels(labels(), d).shape.rank == 3) == mixed
        assert (d.where in mixup.random_in) == mixed


def test_manifold_mixup_mixes_at_one_of_four_places_and_mixup_at_the_first():
    """Each noise sample at a place of its own, all equally often, with the labels' mixture."""
    samples = 400
    manifold, d, x = PERTURBATIONS["manifold_mixup"](), draw(1, samples=samples), images(1, samples)
    changed = np.stack(
        [~np.isclose(manifold.inputs({}, {}, layer, x, d)[0], x).reshape(samples, -1).all(1) for layer in LAYERS]
    )
    own = (manifold.mixture(d, ROWS)[0][0] == np.eye(ROWS)).numpy().all((1, 2))  # mixed with themselves
    assert (changed.sum(0)[~own] == 1).all() and not changed[-1].any()
    assert stats.chisquare(changed[:4].sum(1)).pvalue > 1e-4
    place = manifold.mixture(d, ROWS)[1][0, 0].numpy()
    mixed = manifold.inputs({}, {}, LAYERS[place], x, d)[0]
    matrix = manifold.mixture(d, ROWS)[0][0, 0].numpy()
    np.testing.assert_allclose(
        mixed[0, :ROWS].numpy().reshape(ROWS, -1), matrix @ x[0, :ROWS].numpy().reshape(ROWS, -1), rtol=1e-9
    )
    y, hard = manifold.labels(labels(samples), d), labels(1).numpy()  # mixed whatever the place
    matrices = manifold.mixture(d, ROWS)[0][0].numpy()
    np.testing.assert_allclose(np.reshape(y, (samples, ROWS, WAY)), matrices @ hard, atol=1e-12)
    mixup = PERTURBATIONS["mixup"]()
    assert [layer for layer in LAYERS if mixup.inputs({}, {}, layer, x, d)[0] is not x] == ["conv1"]
    assert (PERTURBATIONS["mixup"]().alpha, manifold.alpha) == (1.0, 2.0)


def test_a_share_of_0_mixes_nothing():
    mixup, x = PERTURBATIONS["mixup"](mix_alpha=0.0), images()
    assert mixup.inputs({}, {}, "conv1", x, draw())[0] is x
    assert mixup.labels(labels(), draw()).shape.rank == 2 and not mixup.random_in
    with pytest.raises(ValueError, match="mix_alpha"):
        PERTURBATIONS["mixup"](mix_alpha=-1.0)


def test_labels_of_several_tasks_are_mixed_in_float32():
    """In a graph, whose memory is not empty."""
    mixup, noise = PERTURBATIONS["mixup"](), draws.task_noise(tf.constant([[1, 2], [3, 4]]))
    d = draws.Draw(noise, 0, draws.TRAINING_SUPPORT)

    @tf.function(autograph=False)
    def mixed():
        return mixup.mixture(d, 9)[0], mixup.labels(model.labels(WAY, 3), d)

    for _ in range(4):
        tf.fill([100_000], 1e30)
        matrix, y = mixed()
        np.testing.assert_allclose(y, matrix[:, 0].numpy() @ model.labels(WAY, 3).numpy(), atol=1e-6)


def test_mamls_losses_are_those_of_mixed_images_with_mixed_labels():
    """The inner loss in training and in testing, the outer loss in training alone; the accuracy is of the labels."""
    settings = {"image_shape": (16, 16, 1), "channels": 3, "way": WAY, "n_steps": 1, "inner_lr": 0.3}
    learner = learners.make("maml", "mixup", mix_set="both", **settings)
    rng = np.random.default_rng(4)
    params = random_parameters(learner.parameters(), rng)
    x_s, x_q = (tf.constant(rng.random((TASKS, WAY * n, 16, 16, 1))) for n in (2, 4))
    y_s, y_q = (model.labels(WAY, n, tf.float64) for n in (2, 4))
    mixup, noise = learner.perturbation, draw().noise

    @tf.function(autograph=False)
    def losses():
        results = []
        for training in (True, False):
            support = draws.Draw(noise, 0, draws.TRAINING_SUPPORT if training else draws.TEST_SUPPORT)
            before, after = learner.trajectory(params, x_s, y_s, noise, training=training)
            loss = layers.cross_entropy(learner.forward(params, before, x_s, support)[0], mixup.labels(y_s, support))
            steps = zip(before.values(), tf.gradients(loss, list(before.values())), strict=True)
            wanted = [v - 0.3 * g for v, g in steps]
            query = learner.query_draw(noise) if training else draws.UNPERTURBED
            logits, _ = learner.forward(params, after, x_q, query)
            outer = layers.cross_entropy(logits, mixup.labels(y_q, query)), layers.accuracy(logits, y_q)
            _, penalty = learner.classify(params, after, x_q, noise if training else None)
            episode = model.make_episode(x_s, x_q, WAY)
            if training:
                numbers, _ = learner.meta_gradient(params, episode, noise)
            else:
                numbers = learner.evaluate(params, episode, noise)
            results.append((list(after.values()), wanted, numbers, outer, tf.zeros([]) + penalty))
        return results

    for after, wanted, numbers, outer, penalty in losses():
        for value, expected in zip(after, wanted, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(numbers["loss"], outer[0], rtol=1e-9)
        np.testing.assert_allclose(numbers["accuracy"], outer[1])
        assert penalty == 0
    assert not np.allclose(mixup.labels(y_q, learner.query_draw(noise)), y_q)
