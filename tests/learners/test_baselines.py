"""The linear heads against numpy and scikit-learn; what baselines are trained on, and what their features are."""

import json

import numpy as np
import pytest
import tensorflow as tf

import data
import layers
import learners
import main
import model
import numerics
from conftest import assert_refused, call, flags_of, succeed
from errors import UserError
from learners import heads
from model import Episode
from perturbations.draws import task_noise
from training import weights

WAY, TASKS, SHAPE = 3, 2, (16, 18, 1)
SETTINGS = {"image_shape": SHAPE, "channels": 4, "way": WAY, "train_classes": 5}
UNEQUAL = np.array([0, 0, 1, 1, 1, 2])  # the classes of a support set
HEADS = ("nearest", "logistic", "ridge", "finetune")
NOISE = task_noise(tf.constant([[1, 2], [3, 4]]), "float64")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def inputs(learner):
    """Parameters, a support set of unequal classes with its labels, and a query set; float64."""
    params = {name: tf.constant(0.4 * drawn(*v.shape)) for name, v in learner.init(0).items()}
    params |= {name: tf.abs(value) + 0.5 for name, value in params.items() if name.endswith("variance")}
    x_s, x_q = (tf.constant(np.random.default_rng(n).random((TASKS, n, *SHAPE))) for n in (len(UNEQUAL), 7))
    return params, x_s, tf.constant(np.eye(WAY)[UNEQUAL]), x_q


def graph(f, *args):
    return tf.function(f, autograph=False)(*args)


# ---- heads


@pytest.mark.parametrize("numbers", [2, 40])  # of an embedding: fewer than images, and more
def test_the_ridge_solution_is_numpys(numbers):
    h, y, shares, penalty = drawn(TASKS, 6, numbers), np.eye(WAY)[UNEQUAL], np.array([2, 2, 1, 1, 1, 3]) / 10, 0.3
    for given, used in ((None, np.ones(6)), (tf.constant(shares), 6 * shares)):
        w, b = heads.ridge(tf.constant(h), tf.constant(y), given, penalty)
        for task in range(TASKS):
            x = np.concatenate([h[task], np.ones([6, 1])], 1)
            expected = np.linalg.solve(x.T * used @ x + penalty * np.eye(numbers + 1), x.T * used @ y)
            np.testing.assert_allclose(np.vstack([w[task], b[task]]), expected, rtol=1e-9, atol=1e-11)


def test_the_nearest_mean_in_float32_is_that_of_float64_far_from_zero():
    """The distances of the class means are a 10,000th of their lengths. An entry of the head has three roundings of
    numbers of about the length 8e4, that of h . w 64 of them: 1e-7 * 8e4 * 10 is below the gaps of 3 that count."""
    h = drawn(TASKS, 60, 64) + 3 * drawn(TASKS, 1, 64, seed=1) + 1e4
    h[:, ::3] += 0.5
    h = h.astype(np.float32)
    means = np.stack([h[:, c::3][:, :10].astype(np.float64).mean(1) for c in range(3)], 1)
    distances = np.square(h[:, :, None] - means[:, None]).sum(-1)
    w, b = heads.of_means(tf.constant(means.astype(np.float32)))
    chosen = (tf.matmul(h, w) + b[:, None]).numpy().argmax(-1)
    two = np.sort(distances, -1)
    clear = two[..., 1] - two[..., 0] > 3
    assert clear.mean() > 0.5 and (chosen == distances.argmin(-1))[clear].all()


@pytest.mark.parametrize("copies", [2, 6])  # more numbers in an embedding than images, and fewer
def test_a_penalty_that_float32_takes_for_zero_leaves_a_solution(copies):
    h = np.repeat(drawn(TASKS, WAY, 8), copies, axis=1).astype(np.float32)
    y = np.repeat(np.eye(WAY), copies, axis=0).astype(np.float32)
    w, b = graph(lambda: heads.ridge(tf.constant(h), tf.constant(y), None, 1e-30))
    np.testing.assert_allclose(h @ w + b[:, None], np.broadcast_to(y, (TASKS, *y.shape)), atol=1e-2)


@pytest.mark.parametrize("penalty", [0.5, 0.01])
@pytest.mark.parametrize("way", [2, 3])
def test_logistic_regression_is_at_the_minimum_of_its_loss(way, penalty):
    labels = UNEQUAL % way
    h, y = drawn(TASKS, 6, 5), np.eye(way)[labels]
    shares = y @ (1 / (way * y.sum(0)))
    w, b = (x.numpy() for x in graph(lambda: heads.logistic(*map(tf.constant, (h, y, shares)), penalty)))
    logits = h @ w + b[:, None]
    errors = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) - y
    weighed = 6 * shares[:, None] * errors
    slope = np.swapaxes(h, 1, 2) @ weighed + penalty * w
    assert max(np.abs(slope).max(), np.abs(weighed.sum(1)).max()) < 1e-5 < np.abs(np.swapaxes(h, 1, 2) @ weighed).max()


def test_an_image_without_weight_has_no_part_in_a_head():
    h, y = tf.constant(drawn(TASKS, 6, 5)), tf.constant(np.eye(WAY)[UNEQUAL])
    without = tf.constant(np.eye(WAY)[UNEQUAL] * np.array([1, 1, 1, 0, 1, 1])[:, None])
    stay = [0, 1, 2, 4, 5]
    for head in HEADS:
        learner = learners.make("nearest", head=head, **SETTINGS)
        learner.embed = lambda params, x, shares=None: x[..., 0, 0]
        adapt = tf.function(lambda h, y, learner=learner: learner.adapt({}, h[..., None, None], y, NOISE)[0])
        found, expected = adapt(h, without), adapt(tf.gather(h, stay, axis=1), tf.gather(y, stay))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_the_cosine_classifier_descends_as_numpy_does():
    h, y, w, scale, rate = drawn(TASKS, 6, 5), np.eye(WAY)[UNEQUAL], drawn(TASKS, 5, WAY, seed=1), 3.0, 0.7
    h /= np.linalg.norm(h, axis=-1, keepdims=True)
    shares = 1 / (WAY * y.sum(0))

    def loss(w):
        logits = scale * h @ (w / np.linalg.norm(w, axis=1, keepdims=True))
        return -((logits - np.log(np.exp(logits).sum(-1, keepdims=True))) * y * shares).sum((1, 2))

    start, velocity = w, None
    for _ in range(3):
        gradient = np.zeros_like(w)
        for place in np.ndindex(*w.shape[1:]):
            step = np.zeros(w.shape[1:])
            step[place] = 1e-6
            gradient[(..., *place)] = (loss(w + step) - loss(w - step)) / 2e-6
        velocity = gradient if velocity is None else 0.9 * velocity + 0.1 * gradient  # as PyTorch's SGD
        w = w - rate * velocity
    found, b = graph(lambda: heads.cosine(*map(tf.constant, (h, y, shares, start)), scale, 3, rate))
    np.testing.assert_allclose(found, scale * w / np.linalg.norm(w, axis=1, keepdims=True), rtol=1e-6, atol=1e-7)
    assert not b.numpy().any()
    unmoved, _ = heads.cosine(*map(tf.constant, (h, y, shares, start)), scale, 0, rate)
    np.testing.assert_allclose(unmoved, scale * start / np.linalg.norm(start, axis=1, keepdims=True))


# ---- features


def test_features_of_the_baseline_are_centred_and_have_length_1():
    """Against numpy, by running averages, and so each image for itself."""
    learner = learners.make("baseline", **SETTINGS)
    params, x, y, x_q = inputs(learner)
    p, h = {name: value.numpy() for name, value in params.items()}, x_q[0].numpy()
    for conv in ("conv1", "conv2", "conv3", "conv4"):
        running = (p[f"running/{conv}_bn/{k}"] for k in ("mean", "variance"))
        h = numerics.numpy_block(h, p[f"theta/{conv}_w"], p[f"theta/{conv}_b"], p[f"{conv}_bn/beta"], 1e-3, *running)
    h = h.reshape(len(h), -1) - p["running/mean"]
    expected = h / np.linalg.norm(h, axis=-1, keepdims=True)
    np.testing.assert_allclose(learner.features(params, None, x_q)[0], expected, rtol=1e-9, atol=1e-11)
    adapted, _ = learner.adapt(params, x, y, NOISE)
    together, alone = (learner.classify(params, adapted, images)[0] for images in (x_q, x_q[:, :1]))
    np.testing.assert_allclose(together[:, :1], alone, rtol=1e-9)
    batch = learners.make("baseline", test_statistics="batch", **SETTINGS)
    assert np.abs(batch.features(params, None, x_q)[:, :1] - batch.features(params, None, x_q[:, :1])).max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_the_nearest_mean_of_unit_vectors_needs_no_training(head):
    learner = learners.make("nearest", head=head, head_scale=3.0, **SETTINGS)
    assert learner.init(0) == {}
    _, x, y, x_q = inputs(learner)
    logits = graph(lambda: learner.classify({}, learner.adapt({}, x, y, NOISE)[0], x_q)[0])
    assert np.isfinite(logits).all() and logits.shape == (TASKS, 7, WAY)
    if head == "nearest":
        h_s, h_q = (v.numpy().reshape(TASKS, v.shape[1], -1) for v in (x, x_q))
        h_s, h_q = (h / np.linalg.norm(h, axis=-1, keepdims=True) for h in (h_s, h_q))
        means = np.stack([h_s[:, np.flatnonzero(c == UNEQUAL)].mean(1) for c in range(WAY)], 1)
        from_centre = np.square(h_q - means.mean(1, keepdims=True)).sum(-1, keepdims=True)
        expected = 3 * (from_centre - np.square(h_q[:, :, None] - means[:, None]).sum(-1))
        np.testing.assert_allclose(logits, expected, rtol=1e-9)


def test_xla_does_not_compile_scikit_learn():
    with pytest.raises(ValueError, match=r"scikit-learn computes --head logistic, .* give --jit off"):
        learners.make("baseline", head="logistic", jit=True, **SETTINGS)
    assert learners.make("baseline", jit=True, **SETTINGS).jit


# ---- training


@pytest.mark.parametrize("channels", [4, 8])  # numbers of an embedding: fewer than images, and more
def test_the_gradient_of_ridge_regression_is_that_of_finite_differences(channels):
    learner = learners.make("ridge", **SETTINGS | {"channels": channels})
    params, *_ = inputs(learner)
    x_s, x_q = (tf.constant(np.random.default_rng(n).random((TASKS, WAY * n, *SHAPE))) for n in (2, 3))

    for name, (slope, bound) in numerics.outer_slopes(learner, params, x_s, x_q).items():
        assert (abs(slope) > 100 * bound) == (not name.endswith("_b")), name  # batch norm takes a bias away


def test_the_baselines_gradient_is_that_of_cross_entropy_over_all_training_classes():
    """Averages move towards the statistics of the minibatches, and nothing else moves because of them."""
    learner = learners.make("baseline", **SETTINGS)
    params, x, *_ = inputs(learner)
    classes = tf.constant([[4, 0, 1, 1, 3, 2], [0, 4, 4, 2, 3, 1]])

    def minibatches(params):
        outputs, _ = learner.body(params, x, training=True)
        logits = layers.dense(model.rows(outputs["conv4"]), params["classes/dense_w"], params["classes/dense_b"])
        return layers.cross_entropy(logits, tf.one_hot(classes, 5, dtype=tf.float64)), outputs

    @tf.function(autograph=False)
    def gradients(params):
        episode = Episode(x, x[:, :0], None, None, classes)
        numbers, found = learner.meta_gradient(params, episode, None)
        return numbers, found

    numbers, found = gradients(params)
    losses, outputs = graph(minibatches, params)
    np.testing.assert_allclose(numbers["loss"], losses, rtol=1e-12)
    trained = {name: gradient for name, gradient in found.items() if not name.startswith("running/")}
    loss_of = tf.function(lambda params: tf.reduce_sum(minibatches(params)[0]), autograph=False)
    for name, (slope, bound) in numerics.slopes(loss_of, trained, params).items():
        blocks_bias = name.endswith("_b") and name.startswith("theta/")
        assert (abs(slope) > 100 * bound) == (not blocks_bias), name
    h = model.rows(outputs["conv4"]).numpy()
    distance = TASKS * params["running/mean"].numpy() - h.mean(1).sum(0)
    np.testing.assert_allclose(found["running/mean"], distance, rtol=1e-9, atol=1e-12)
    mu = layers.conv(tf.cast(x, tf.float64), params["theta/conv1_w"], params["theta/conv1_b"]).numpy()
    for name, statistic in (("mean", mu.mean((1, 2, 3))), ("variance", mu.var((1, 2, 3)))):
        average = params[f"running/conv1_bn/{name}"].numpy()
        expected = TASKS * average - statistic.sum(0)
        np.testing.assert_allclose(found[f"running/conv1_bn/{name}"], expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="the number of training classes is missing"):
        unknown = learners.make("baseline", **SETTINGS | {"train_classes": 0})
        unknown.meta_gradient(unknown.init(0), Episode(x, x[:, :0], None, None, classes), None)


@pytest.mark.parametrize("counts", [None, np.array([2, 5, 3])])
def test_minibatches_take_every_image_once_before_any_comes_again(counts):
    stored = np.arange(12 if counts is None else 10, dtype=np.uint8)
    pixels = stored.reshape(3, 4, 1, 1, 1) if counts is None else stored.reshape(-1, 1, 1, 1)
    split = data.Split(pixels, 2, 1.0, counts)
    total, tasks, size = 2 * len(stored), 2, 3
    seen = []
    for index in range(total):  # `tasks * size` rounds
        classes, images = data.sample_minibatches(split, 7, index, tasks, size)
        assert classes.shape == (tasks, size) and images.shape == (tasks, size, 1)
        seen += zip(classes.ravel().tolist(), images.ravel().tolist(), strict=True)
        x, none = data.gather(tf.constant(pixels), *map(tf.constant, (classes, images)), 2, 1.0, 1, counts)
        first = np.concatenate([[0], np.cumsum(split.images_per_class)])
        expected = [first[c // 2] + i for c, i in seen[-tasks * size :]]
        assert x.numpy().ravel().tolist() == expected and none.shape[1] == 0
    rounds = [seen[i : i + total] for i in range(0, len(seen), total)]
    assert len(rounds) == tasks * size
    everything = sorted((c, i) for c in range(6) for i in range(split.images_per_class[c // 2]))
    assert all(sorted(one) == everything for one in rounds)
    assert len({tuple(one) for one in rounds}) == len(rounds)  # each in another order
    first = [np.concatenate([x.ravel() for x in data.sample_minibatches(split, s, 0, tasks, size)]) for s in (7, 7, 8)]
    assert np.array_equal(*first[:2]) and not np.array_equal(*first[1:])


RUN = {"dataset": "glyphs", "way": 3, "query": 2, "metabatch": 2, "channels": 4, "gpu_id": "-1", "n_val_tasks": 4}


def test_the_baseline_is_trained_on_minibatches_and_tested_with_every_head(data_dir, tmp_path):
    run = tmp_path / "run"
    own = {"data_dir": data_dir, "savedir": run, "model": "baseline", "batch": 8, "shot": 2, "n_train_iters": 2}
    own |= {"test_statistics": "batch"}  # running averages are far from all statistics after three updates
    succeed("main.py", *flags_of(RUN | own))
    config = json.loads((run / "config.json").read_text())
    assert (config["train_classes"], config["batch"]) == (400, 8)
    found = {}
    for head in HEADS:
        succeed("main.py", "--mode", "meta_test", "--savedir", run, "--head", head, "--n_test_iters", 8, "--way", 5)
        result = json.loads((run / "meta_test.json").read_text())
        assert result["settings"]["head"] == head and np.isfinite(result["losses"]).all()
        found[head] = result["losses"]
    assert len(set(map(tuple, found.values()))) == len(HEADS)
    for mode in (["weights"], ["collapse", "--n_test_iters", 2]):
        succeed("main.py", "--savedir", run, "--mode", *mode)
    assert weights.read(run / "weights.npz").params["classes/dense_w"].shape == (4, 400)
    words = "--adversarial needs a loss of query images, and baseline has none"
    more = ("--adversarial", "linf:0.1")
    assert_refused(call("main.py", *flags_of(RUN | own | {"savedir": tmp_path / "b"}), *more), words)
    bench = RUN | {"data_dir": data_dir, "model": "baseline", "n_val_tasks": None}
    exported = call("bench.py", *flags_of(bench), "--export", tmp_path / "x")
    assert_refused(exported, "--model baseline is trained on minibatches: train it with main.py")


@pytest.mark.parametrize(
    ("head", "idle"),
    [
        ("nearest", ["head_penalty", "finetune_steps", "finetune_lr"]),
        ("logistic", ["head_scale", "finetune_steps", "finetune_lr"]),
        ("ridge", ["finetune_steps", "finetune_lr"]),
        ("finetune", ["head_penalty"]),
    ],
)
def test_flags_that_a_head_does_not_use_are_refused(head, idle, tmp_path):
    """They would make a second result of the same test."""
    own = {"dataset": "glyphs", "way": 3, "shot": 1, "query": 2, "seed": 0, "model": "nearest"}
    (tmp_path / "config.json").write_text(json.dumps(own))
    names = ["head_penalty", "head_scale", "finetune_steps", "finetune_lr"]
    for name in names:
        if name in idle:
            with pytest.raises(UserError, match=f"--{name} does nothing here"):
                main.config_of_test(tmp_path, {"head": head, name: 3})
        else:
            assert main.config_of_test(tmp_path, {"head": head, name: 3}).own()[name] == 3


def test_what_needs_no_training_is_tested_and_compared_as_every_run(data_dir, tmp_path):
    runs = [tmp_path / head for head in ("nearest", "ridge")]
    for run in runs:
        own = {"data_dir": data_dir, "savedir": run, "model": "nearest", "head": run.name}
        succeed("main.py", *flags_of(RUN | own))
        assert json.loads((run / "config.json").read_text())["n_train_iters"] == 0
        succeed("main.py", "--mode", "meta_test", "--savedir", run, "--n_test_iters", 50)
    accuracies = [json.loads((run / "meta_test.json").read_text())["accuracy"] for run in runs]
    assert min(accuracies) > 60  # of three classes
    assert "50 test episodes" in succeed("main.py", "--mode", "compare", "--savedir", *runs).stdout
    succeed("main.py", "--mode", "weights", "--savedir", runs[0])
