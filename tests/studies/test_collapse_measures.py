"""Neural collapse against values that are known: a simplex frame, Gaussian clouds, loops, a trained classifier."""

from itertools import pairwise

import numpy as np
import pytest

from studies import collapse_measures as collapse


def frame(classes: int, dimensions: int, seed=0) -> np.ndarray:
    """A simplex equiangular tight frame, [C,D], turned at random."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimensions, classes)))[0]
    return np.sqrt(classes / (classes - 1)) * (np.eye(classes) - 1 / classes) @ basis.T


@pytest.mark.parametrize(("classes", "dimensions"), [(2, 3), (5, 64), (20, 32)])
def test_a_simplex_frame_is_a_full_collapse(classes, dimensions):
    mu = frame(classes, dimensions)
    labels = np.repeat(np.arange(classes), 4)
    h = 3 * mu[labels] + 7  # classes' means anywhere, of any size
    found = collapse.measures(h, labels, 0.2 * mu.T, labels)
    for name in ("nc1", "nc2_norm_means", "nc2_angle_means", "nc2_spread_means", "nc2_norm_weights",
                 "nc2_angle_weights", "nc2_spread_weights", "nc3", "nc4", "trace_within", "share_within"):  # fmt: skip
        assert found[name] == pytest.approx(0, abs=1e-12), name
    assert found["trace_between"] == pytest.approx(9)  # 3^2, and the frame's vectors are of length 1
    assert set(found) == set(collapse.NAMES)


def test_gaussian_clouds_have_their_covariances_traces():
    rng, rows, classes = np.random.default_rng(1), 40000, 3
    mu = np.array([[3.0, 0, 0, 1], [0, 2, 0, 1], [0, 0, -1, 1]])
    root = rng.standard_normal((4, 4))
    labels = np.repeat(np.arange(classes), rows)
    h = mu[labels] + rng.standard_normal((len(labels), 4)) @ root.T
    found = collapse.measures(h, labels)
    covariance, centred = root @ root.T, mu - mu.mean(0)
    between = centred.T @ centred / classes
    assert found["trace_within"] == pytest.approx(np.trace(covariance), rel=0.01)
    assert found["trace_between"] == pytest.approx(np.trace(between), rel=0.02)
    assert found["nc1"] == pytest.approx(
        np.trace(covariance @ np.linalg.pinv(between, rcond=1e-10)) / classes, rel=0.03
    )


def loops(h, labels, w, predictions) -> dict[str, float]:
    """The definitions, an element at a time."""
    names = sorted(set(labels.tolist()))
    n, d, c = len(h), h.shape[1], len(names)
    mu = {k: sum(h[i] for i in range(n) if labels[i] == k) / sum(labels == k) for k in names}
    centre = sum(mu.values()) / c
    s_w, s_b = np.zeros((d, d)), np.zeros((d, d))
    for a in range(d):
        for b in range(d):
            for i in range(n):
                s_w[a, b] += (h[i, a] - mu[labels[i]][a]) * (h[i, b] - mu[labels[i]][b]) / n
            for k in names:
                s_b[a, b] += (mu[k][a] - centre[a]) * (mu[k][b] - centre[b]) / c
    values, vectors = np.linalg.eigh(s_b)
    largest = range(d - min(d, c - 1), d)
    inverse = sum(np.outer(vectors[:, r], vectors[:, r]) / values[r] for r in largest)
    found = {"trace_within": np.trace(s_w), "trace_between": np.trace(s_b), "nc1": np.trace(s_w @ inverse) / c}
    found["share_within"] = np.trace(s_w) / (np.trace(s_w) + np.trace(s_b))
    means = [mu[k] - centre for k in names]
    for name, vectors in (("means", means), ("weights", list(w.T))):
        norms = [sum(x * x for x in v) ** 0.5 for v in vectors]
        average = sum(norms) / c
        found[f"nc2_norm_{name}"] = (sum((x - average) ** 2 for x in norms) / (c - 1)) ** 0.5 / average
        cosines = [u @ v / (p * q) for i, (u, p) in enumerate(zip(vectors, norms, strict=True))
                   for j, (v, q) in enumerate(zip(vectors, norms, strict=True)) if i != j]  # fmt: skip
        found[f"nc2_angle_{name}"] = sum(abs(x + 1 / (c - 1)) for x in cosines) / len(cosines)
        middle = sum(cosines) / len(cosines)
        found[f"nc2_spread_{name}"] = (sum((x - middle) ** 2 for x in cosines) / len(cosines)) ** 0.5
    size_m = sum(x * x for m in means for x in m) ** 0.5
    size_w = sum(x * x for row in w for x in row) ** 0.5
    found["nc3"] = sum((w[a, k] / size_w - means[k][a] / size_m) ** 2 for a in range(d) for k in range(c))
    nearest = [min(names, key=lambda k: sum((x - mu[k]) ** 2)) for x in h]
    found["nc4"] = sum(a != b for a, b in zip(nearest, predictions, strict=True)) / n
    return found


@pytest.mark.parametrize("dimensions", [2, 7])
def test_a_double_loop_agrees_and_the_order_of_rows_and_the_labels_names_do_not_matter(dimensions):
    rng = np.random.default_rng(dimensions)
    labels = rng.permutation(np.repeat([3, 11, 5, 40], [6, 2, 1, 9]))  # any number of rows a class, any names
    h = rng.standard_normal((18, dimensions)) + labels[:, None] * rng.standard_normal(dimensions) / 10
    w, predictions = rng.standard_normal((dimensions, 4)), rng.choice([3, 11, 5, 40], 18)
    found, expected = collapse.measures(h, labels, w, predictions), loops(h, labels, w, predictions)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-10, abs=1e-12), name
    order = rng.permutation(18)
    again = collapse.measures(h[order], labels[order], w, predictions[order])
    assert again == pytest.approx(found, rel=1e-10)
    float32 = collapse.measures(h.astype(np.float32), labels, w.astype(np.float32), predictions)
    assert float32 == pytest.approx(found, rel=1e-4)


def test_what_is_degenerate_has_a_defined_value_or_a_clear_error():
    rng = np.random.default_rng(0)
    h, labels = rng.standard_normal((6, 4)), np.arange(6)
    one_row = collapse.measures(h, labels)
    assert one_row["trace_within"] == one_row["nc1"] == one_row["share_within"] == 0
    constant = collapse.measures(np.full((6, 4), 0.1), labels % 2, np.zeros((4, 2)))
    assert constant["trace_within"] == constant["trace_between"] == 0
    assert all(np.isnan(constant[k]) for k in ("nc1", "share_within", "nc2_norm_means", "nc2_angle_weights", "nc3"))
    equal = collapse.measures(np.concatenate([h, h[rng.permutation(6)]]), np.repeat([0, 1], 6))  # the same cloud twice
    assert np.isnan(equal["nc1"]) and equal["share_within"] == 1
    part = np.where(np.arange(4) == 2, 0.1, rng.standard_normal((12, 4)))  # one feature is constant
    both = (collapse.measures(x, np.tile(labels, 2)) for x in (part, np.delete(part, 2, 1)))
    assert next(both) == pytest.approx(next(both), rel=1e-12)
    for bad, words in (
        ((h, np.zeros(6)), "needs two classes or more"),
        ((h, labels[:5]), "do not fit"),
        ((h[0], labels), "do not fit"),
        ((np.where(h > 0, np.nan, h), labels), "not finite"),
        ((h, labels, np.ones((4, 5))), "shapes"),
        ((h, labels, np.full((4, 6), np.inf)), "weights are not finite"),
        ((h, labels, None, labels[:2]), "shapes"),
    ):
        with pytest.raises(ValueError, match=words):
            collapse.measures(*bad)


def test_a_classifier_trained_past_zero_error_collapses():
    """scikit-learn's digits: all four fall between the first epochs and long after the last error."""
    import tensorflow as tf
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.data / 16).astype(np.float32), digits.target
    rng = np.random.default_rng(0)
    sizes = (64, 128, 64, 32)
    weights = [tf.Variable(rng.standard_normal(s).astype("f") * (2 / s[0]) ** 0.5) for s in pairwise(sizes)]
    head = tf.Variable(rng.standard_normal((32, 10)).astype("f") * 0.1)
    variables = [*weights, head]
    adam = tf.keras.optimizers.Adam(2e-3)

    def features(x):
        for w in weights:
            x = x @ w
            x = tf.nn.relu((x - tf.reduce_mean(x, 0)) * tf.math.rsqrt(tf.math.reduce_variance(x, 0) + 1e-3))
        return x

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, features(x) @ head))
            loss += 5e-4 * tf.add_n([tf.nn.l2_loss(v) for v in variables])
        adam.apply(tape.gradient(loss, variables), variables)

    def measure():
        h = features(x).numpy()
        predictions = (h @ head.numpy()).argmax(1)
        return collapse.measures(h, y, head.numpy(), predictions), float(np.mean(predictions != y))

    found = []
    for epoch in range(121):
        for rows in rng.permutation(len(x))[:1792].reshape(14, 128):
            step(tf.constant(x[rows]), tf.constant(y[rows], tf.int32))
        if epoch in (0, 120):
            found.append(measure())
    (first, error), (last, no_error) = found
    assert error > 0.01 > 0.003 > no_error
    for name in ("nc1", "nc2_norm_means", "nc2_angle_means", "nc2_norm_weights", "nc2_angle_weights", "nc3"):
        assert last[name] < 0.6 * first[name], (name, first[name], last[name])
    assert last["nc4"] < first["nc4"]
