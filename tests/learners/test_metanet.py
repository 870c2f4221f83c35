"""Meta Networks against numpy, finite differences and the four checks of the original; and the mask of a task."""

import functools
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
import numerics
from numerics import SUMS, decided, noise_of, numpy_block
from perturbations import draws

WAY, SHOT, QUERY, TASKS = 3, 2, 4, 2
SHAPE, CHANNELS = (19, 16, 1), 4  # odd, as 105 is
NAMES = ["metanet_embedding", "metanet_original"]
RATES = [0.2, 0.3, 0.1, 0.4]
# What adds the same number to all logits of an image, or what batch norm takes away again, has no gradient.
IDLE = {
    "metanet_embedding": {"e"},
    "metanet_original": {"weight/dense2_b", "bias/dense2_b"},
    "maml": {f"theta/conv{block}_b" for block in (1, 2, 3, 4)},
}


def make(name, perturbation="none", image_shape=SHAPE, channels=CHANNELS, way=WAY, **settings):
    if name == "maml":
        settings = {"n_steps": 2, "inner_lr": 0.3, "meta_gradient": "exact"} | settings
    return learners.make(name, perturbation, image_shape=image_shape, channels=channels, way=way, **settings)


def inputs(learner, dtype="float64", tasks=TASKS):
    """Parameters large enough that every gradient counts, images, a seed a task."""
    rng = np.random.default_rng(6)
    params = {}
    for name, value in learner.init(0).items():
        size = 0.3 if value.shape.rank > 1 else 0.2
        params[name] = tf.cast(value, dtype) + tf.constant(size * rng.standard_normal(value.shape), dtype)
        if name.endswith("variance"):
            params[name] = tf.abs(params[name]) + 0.5
    x_s, x_q = (tf.constant(rng.random((tasks, WAY * n, *learner.image_shape)), dtype) for n in (SHOT, QUERY))
    return params, x_s, x_q, tf.constant([[5, i] for i in range(tasks)])


def graph(f, *args, jit=False):
    """f(*args) as it is called in a step: in a graph, where tf.gradients works."""
    return tf.function(f, autograph=False, jit_compile=jit)(*args)


# ---- the formulas, in numpy


def numpy_embedding(params, x, masks, statistics=False):
    """x [N,H,W,C] -> [N,64]; masks {layer: [H,W,C]}; statistics: normalise by the running ones, or by the batch's."""
    p = {k: np.asarray(v) for k, v in params.items()}
    for conv in ("conv1", "conv2", "conv3", "conv4"):
        running = [p[f"running/{conv}_bn/{k}"] if statistics else None for k in ("mean", "variance")]
        gain, offset = p[f"{conv}_bn/gamma"], p[f"{conv}_bn/beta"]
        x = numpy_block(x, p[f"{conv}_w"], 0, offset, 1e-5, *running, gain, masks.get(conv, 1))
    return x.reshape(len(x), -1) @ p["dense_w"] + p["dense_b"]


def numpy_logits(name, params, h_s, h_q):
    """The equations as their source writes them."""
    p = {k: np.asarray(v) for k, v in params.items()}
    y = np.repeat(np.arange(WAY), SHOT)
    if name == "metanet_embedding":
        w = np.array([p["U"] @ h + p["e"] for h in h_s])  # w_i = U h_i + e
        classes = [w[y == c].mean(0) for c in range(WAY)]
        return np.array([[(p["V"] @ h) @ w_c for w_c in classes] for h in h_q])
    r = np.array([np.tanh(p["U"] @ h + p["e"]) for h in h_s])
    classes = np.array([r[y == c].mean(0) for c in range(WAY)])

    def generate(name):
        hidden = np.maximum(classes @ p[f"{name}/dense1_w"] + p[f"{name}/dense1_b"], 0)
        return hidden @ p[f"{name}/dense2_w"] + p[f"{name}/dense2_b"]

    return h_q @ generate("weight").T + generate("bias")[:, 0]


def numpy_masks(noise, task):
    """{layer: [H,W,C]}: of every normal number, is it over the quantile of the layer's rate?"""
    sizes = {"conv1": (19, 16), "conv2": (9, 8), "conv3": (4, 4), "conv4": (2, 2)}
    drawn = {k: noise(0, k, tf.TensorShape([TASKS, 1, *size, CHANNELS]))[task, 0].numpy() for k, size in sizes.items()}
    return {k: drawn[k] > NormalDist().inv_cdf(rate) for k, rate in zip(sizes, RATES, strict=True)}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_formula_in_numpy(name, training):
    """In training with the task's mask on its support and its query set."""
    learner = make(name, "mask", mask_rates=RATES)
    params, x_s, x_q, seeds = inputs(learner)
    noise = draws.task_noise(seeds, tf.float64)
    adapted, _ = learner.adapt(params, x_s, model.labels(WAY, SHOT, tf.float64), noise, 1, training)
    found, _ = learner.classify(params, adapted, x_q, noise if training else None)
    for t in range(TASKS):
        masks = numpy_masks(noise, t) if training else {}
        h_s, h_q = (numpy_embedding(params, x[t].numpy(), masks, not training) for x in (x_s, x_q))
        np.testing.assert_allclose(found[t], numpy_logits(name, params, h_s, h_q), rtol=1e-8, atol=1e-10)


def test_batch_statistics_on_request():
    params, x_s, x_q, _ = inputs(make("metanet_original"))
    learner = make("metanet_original", test_statistics="batch")
    adapted, _ = learner.adapt(params, x_s, model.labels(WAY, SHOT, tf.float64), None)
    h_s, h_q = (numpy_embedding(params, x[0].numpy(), {}) for x in (x_s, x_q))
    expected = numpy_logits("metanet_original", params, h_s, h_q)
    np.testing.assert_allclose(learner.classify(params, adapted, x_q)[0][0], expected, rtol=1e-8, atol=1e-10)


# ---- gradients


@pytest.mark.parametrize(
    ("name", "per_sample"), [("metanet_embedding", False), ("metanet_original", True), ("maml", False)]
)
def test_the_gradient_with_a_mask_is_that_of_finite_differences(name, per_sample):
    """Of every parameter, along a random direction; a running average's is its distance from what it follows."""
    one_step = {"n_steps": 1} if name == "maml" else {}
    learner = make(name, "mask", mask_rates=RATES, mask_per_sample=per_sample, **one_step)
    params, x_s, x_q, seeds = inputs(learner)

    @tf.function(autograph=False)
    def loss_of(params):
        return tf.reduce_mean(numerics.outer_loss(learner, params, x_s, x_q, noise_of(seeds))[0])

    grads = graph(lambda: numerics.meta_gradients(learner, params, x_s, x_q, seeds, 1, noise_of))[2]
    trained = {k: grads[k] for k in params if not k.startswith("running/")}
    for k, (slope, bound) in numerics.slopes(loss_of, trained, params).items():
        assert abs(slope) <= bound if k in IDLE[name] else abs(slope) > 100 * bound, k
    assert all(np.abs(gradient).max() > 1e-3 for k, gradient in grads.items() if k.startswith("running/"))
    if name != "maml":
        x = np.asarray(x_s), np.asarray(x_q)
        padded = [np.pad(a, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]) for a in x]
        w = params["conv1_w"].numpy()
        maps = [sum(p[:, :, i : i + 19, j : j + 16] @ w[i, j] for i in range(3) for j in range(3)) for p in padded]
        for statistic, f in (("mean", lambda m: m.mean((1, 2, 3))), ("variance", lambda m: variance(m))):
            distance = sum(params[f"running/conv1_bn/{statistic}"].numpy() - f(m).mean(0) for m in maps)
            np.testing.assert_allclose(grads[f"running/conv1_bn/{statistic}"], distance, rtol=1e-9)


def variance(maps):
    """Unbiased, by task and channel."""
    return np.stack([m.reshape(-1, m.shape[-1]).var(0, ddof=1) for m in maps])


@pytest.mark.slow
@pytest.mark.usefixtures("rewritten_graphs")
@pytest.mark.parametrize("name", [*NAMES, "maml"])
def test_float32_fused_and_under_xla_is_the_formula_in_float64(name):
    """With more channels, two exact inner steps and large parameters, each on its own."""

    def gradient(dtype, at_once, jit=False, run=graph):
        learner = make(name, "mask", mask_rates=RATES, channels=8, jit=jit)
        params, x_s, x_q, seeds = inputs(learner, dtype)
        f = lambda *a: numerics.meta_gradients(learner, *a, at_once, lambda s: draws.task_noise(s, dtype))  # noqa: E731
        return run(f, params, x_s, x_q, seeds)[2]

    exact = gradient("float64", TASKS, run=decided)
    for settings in ({"at_once": 1}, {"at_once": TASKS, "jit": True, "run": functools.partial(graph, jit=True)}):
        for k, g in gradient("float32", **settings).items():
            assert np.linalg.norm(g - exact[k]) <= 2e-4 * max(np.linalg.norm(exact[k]), 0.05), k


def test_the_first_layers_statistics_from_its_inputs_are_those_of_its_output():
    rng = np.random.default_rng(0)
    x = tf.constant(rng.random((2, 6, 11, 9, 2)), tf.float64)
    w = tf.constant(rng.standard_normal((3, 3, 2, 5)), tf.float64)
    gamma, beta = (tf.constant(rng.standard_normal(5), tf.float64) for _ in range(2))
    found = layers.conv_batch_norm(x, w, gamma, beta)
    expected = layers.batch_norm_gained(layers.conv(x, w, None), gamma, beta)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)

    def derivatives(norm, x, w):
        first = tf.gradients([tf.pow(output, 3) for output in norm(x, w)], [x, w])
        return *first, *tf.gradients([tf.pow(slope, 2) for slope in first], [x, w])

    ours = graph(lambda x, w: derivatives(lambda x, w: layers.conv_batch_norm(x, w, gamma, beta), x, w), x, w)
    plain = lambda x, w: layers.batch_norm_gained(layers.conv(x, w, None), gamma, beta)  # noqa: E731
    for a, b in zip(ours, graph(lambda x, w: derivatives(plain, x, w), x, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())


def test_the_first_layers_statistics_of_faint_images_are_float64s():
    """0.5 +- 0.001, as float32 has it. Less its mean a pixel is exact; then sums are rounded. A normalised pixel is a
    difference of numbers of the size of 0.5 over the deviation."""
    x = (0.5 + 0.001 * np.random.default_rng(0).standard_normal((2, 6, 19, 17, 1))).astype(np.float32)
    taps = np.zeros((3, 3, 1, 8), np.float32)
    taps[1, 1] = np.linspace(2, 9, 8)  # only the middle: at a border there is more variance
    (y, mean, variance), exact = (
        layers.conv_batch_norm(*(tf.constant(a, dtype) for a in (x, taps, np.ones(8), np.zeros(8))))
        for dtype in ("float32", "float64")
    )
    wide = np.float64(x).reshape(2, -1, 1) * np.float64(taps[1, 1])
    np.testing.assert_allclose(exact[1], wide.mean(1), rtol=1e-12)
    np.testing.assert_allclose(exact[2], wide.var(1, ddof=1), rtol=1e-9)
    rounding = SUMS * np.finfo(np.float32).eps
    np.testing.assert_allclose(mean, exact[1], rtol=rounding)
    np.testing.assert_allclose(variance, exact[2], rtol=rounding)
    np.testing.assert_allclose(y, exact[0], rtol=0, atol=rounding * (wide / wide.std(1, keepdims=True)).max())


def test_the_variance_of_constant_images_is_not_negative():
    """mean(x^2) - mean(x)^2 of equal pixels is rounded to either side of 0."""
    taps = np.zeros((3, 3, 1, 8), np.float32)
    taps[1, 1] = np.linspace(0.5, 2, 8)  # only the middle: no border is seen

    def variance_of(w):
        x = tf.fill([6, 19, 17, 1], 1.0) * (10.0 ** np.arange(5, dtype=np.float32) + 0.1)[:, None, None, None, None]
        y, _, variance = layers.conv_batch_norm(x, w, tf.ones(8), tf.zeros(8))
        return variance, tf.gradients(variance, w)[0], tf.gradients(y, w)[0], y

    variance, slope, *rest = graph(variance_of, tf.constant(taps))
    assert np.min(variance) >= 0 and all(np.isfinite(x).all() for x in (slope, *rest))
    x = 0.1 * np.random.default_rng(0).standard_normal((2, 6, 19, 17, 1)).astype("f")
    of_noise = layers.conv_batch_norm(tf.constant(x), tf.constant(taps), tf.ones(8), tf.zeros(8))[2]
    np.testing.assert_allclose(of_noise, taps[1, 1] ** 2 * x.reshape(2, -1).var(1, ddof=1)[:, None], rtol=1e-4)


# ---- the original's four checks (its tests print them and assert nothing), and symmetries


@pytest.mark.parametrize("name", NAMES)
def test_equal_images_have_equal_embeddings_in_support_and_query(name):
    """Check 1, the mask is the same: with the same images as support and query set, and batch norm thus equal."""
    learner = make(name, "mask", mask_rates=RATES)
    params, x, _, seeds = inputs(learner)
    noise = draws.task_noise(seeds, "float64")
    passes = [
        draws.Draw(noise, step, where) for step, where in enumerate((draws.TRAINING_SUPPORT, draws.TRAINING_QUERY))
    ]
    support, query = (learner.embed(params, x, draw, True)[0] for draw in passes)
    np.testing.assert_array_equal(support, query)
    unmasked, _ = learner.embed(params, x, draws.UNPERTURBED, True)
    assert np.linalg.norm(support - unmasked) > 0.1 * np.linalg.norm(unmasked)
    x = tf.repeat(x[:, :1], 3, 1)  # and inside a set
    same, _ = learner.embed(params, x, passes[0], True)
    np.testing.assert_allclose(same[:, :1] + 0 * same, same, rtol=1e-12)


def numbers_of(learner, params, x_s, x_q, noise, training, samples=1):
    """Return the learner's loss and accuracy of the query sets x_q, in meta-training or in testing."""
    episode = model.make_episode(x_s, x_q, WAY)
    if training:
        return learner.meta_gradient(params, episode, noise)[0]
    return learner.evaluate(params, episode, noise, samples)


@pytest.mark.parametrize("name", [*NAMES, "maml"])
def test_no_mask_in_testing(name):
    """Check 4: with and without, the same weights give the same test, whatever the seed; in training they do not."""
    one_step = {"n_steps": 1} if name == "maml" else {}
    plain, masked = make(name, **one_step), make(name, "mask", mask_rates=RATES, **one_step)
    params, x_s, x_q, seeds = inputs(plain)

    def loss(learner, training):
        @tf.function(autograph=False)
        def compiled(seeds):
            return numbers_of(learner, params, x_s, x_q, draws.task_noise(seeds, "float64"), training, 3)["loss"]

        return compiled

    tested, trained = loss(masked, False), loss(masked, True)
    np.testing.assert_array_equal(loss(plain, False)(seeds), tested(seeds))
    np.testing.assert_array_equal(tested(seeds), tested(seeds + 1))
    first = trained(seeds)
    assert np.abs(first - trained(seeds + 1)).min() > 1e-4
    np.testing.assert_array_equal(first, trained(seeds))


@pytest.mark.parametrize("support_only", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "maml"])
def test_the_query_set_of_a_training_task_has_its_mask(name, support_only):
    settings = {"n_steps": 0} if name == "maml" else {"test_statistics": "batch"}
    learner = make(name, "mask", mask_rates=RATES, mask_support_only=support_only, **settings)
    params, x_s, x_q, seeds = inputs(learner)
    noise = draws.task_noise(seeds, "float64")
    adapted = graph(lambda: learner.adapt(params, x_s, model.labels(WAY, SHOT, tf.float64), noise, 1, True)[0])
    draw = (
        draws.UNPERTURBED if support_only else draws.Draw(noise, 0, draws.TRAINING_SUPPORT)
    )  # that of the support set
    expected = layers.dense(learner.features(params, adapted, x_q, draw), *learner.linear(adapted))
    found, _ = learner.classify(params, adapted, x_q, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.allclose(found, learner.classify(params, adapted, x_q)[0]) == support_only


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [*NAMES, "maml"])
def test_every_pass_has_its_own_draw(name, training):
    """The inner steps one number each, the query set another; masks apply in training alone."""
    learner, passes = make(name, "mask", mask_rates=RATES), []
    params, x_s, x_q, seeds = inputs(learner)

    def mask(params, theta, layer, x, shape, draw):
        if layer == "conv1":
            passes.append((draw.step, draw.where))
        return None, 0.0

    learner.perturbation.mask = mask
    noise = draws.task_noise(seeds, "float64")
    graph(lambda: numbers_of(learner, params, x_s, x_q, noise, training)["loss"])
    support = draws.TRAINING_SUPPORT if training else draws.TEST_SUPPORT
    steps = [(step, support) for step in range(max(learner.n_steps, 1))]
    assert passes == [*steps, (len(steps), draws.TRAINING_QUERY) if training else (0, draws.TEST_QUERY)]


@pytest.mark.parametrize("perturbation", ["none", "mask"])
@pytest.mark.parametrize("name", NAMES)
def test_permutations_permute_the_logits_and_nothing_else(name, perturbation):
    learner = make(name, perturbation)
    params, x_s, x_q, seeds = inputs(learner)
    noise, y = draws.task_noise(seeds, "float64"), model.labels(WAY, SHOT, tf.float64).numpy()

    def logits(order, relabel, queries):
        adapted, _ = learner.adapt(
            params, tf.gather(x_s, order, axis=1), tf.constant(y[order][:, relabel]), noise, 1, True
        )
        return learner.classify(params, adapted, tf.gather(x_q, queries, axis=1), noise)[0].numpy()

    rows, classes, queries = np.arange(WAY * SHOT), np.arange(WAY), np.arange(WAY * QUERY)
    rng = np.random.default_rng(2)
    plain = logits(rows, classes, queries)
    np.testing.assert_allclose(logits(rng.permutation(rows), classes, queries), plain, rtol=1e-9)
    np.testing.assert_allclose(logits(rows, [2, 0, 1], queries), plain[:, :, [2, 0, 1]], rtol=1e-9)
    shuffled = rng.permutation(queries)
    np.testing.assert_allclose(logits(rows, classes, shuffled), plain[:, shuffled], rtol=1e-9)
    assert np.ptp(plain) > 1e-3


# ---- shapes, and what is refused


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_shape", [(105, 105, 1), (84, 84, 3), (16, 33, 1)])
def test_any_image_size_way_and_shot(name, image_shape):
    learner = make(name, "mask", image_shape=image_shape, channels=2, way=5)
    params = learner.init(0)
    height, width = (side // 16 for side in image_shape[:2])
    assert params["dense_w"].shape == (height * width * 2, 64)
    x = tf.zeros([1, 4 * 3, *image_shape])
    adapted, _ = learner.adapt(params, x, model.labels(4, 3), None)
    assert learner.classify(params, adapted, x[:, :7])[0].shape == (1, 7, 4)


def test_initial_values():
    params = make("metanet_original", image_shape=(105, 105, 1), channels=64).init(1)
    assert params["dense_w"].shape == (2304, 64)
    for name, inputs in (
        ("conv1_w", 9),
        ("conv2_w", 576),
        ("dense_w", 2304),
        ("weight/dense1_w", 128),
        ("dense_b", 2304),
    ):
        bound = inputs**-0.5
        values = params[name].numpy()
        assert np.abs(values).max() <= bound and values.std() == pytest.approx(bound / np.sqrt(3), rel=0.2), name
    assert params["U"].numpy().std() == pytest.approx(0.01, rel=0.05)
    assert all(np.all(v == 1) for k, v in params.items() if k.endswith(("gamma", "variance")))
    assert all(np.all(v == 0) for k, v in params.items() if k.endswith(("beta", "mean")))


def test_wrong_settings_and_supports_are_refused():
    for name in (*NAMES, "maml"):
        with pytest.raises(ValueError, match="images of 15 x 28 leave nothing after 4 poolings"):
            make(name, image_shape=(15, 28, 1))
    with pytest.raises(ValueError, match="test_statistics"):
        make("metanet_original", test_statistics="none")
    with pytest.raises(ValueError, match="takes none or mask"):
        make("metanet_original", "noise")
    learner = make("metanet_embedding")
    params, x_s, *_ = inputs(learner)
    y = model.labels(WAY, SHOT, tf.float64).numpy()
    with pytest.raises(ValueError, match=r"no image of the classes \[3\]"):
        learner.adapt(params, x_s, tf.constant(np.pad(y, [(0, 0), (0, 1)])), None)
    with pytest.raises(ValueError, match="not one-hot"):
        learner.adapt(params, x_s, tf.constant(y * 2), None)
