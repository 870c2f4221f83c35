"""What a learner shows of its layers is what its passes compute. All of it without a graph, in float64."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
from declared import own_settings
from numerics import random_parameters
from perturbations import draws

WAY, SHOT, TASKS, SHAPE, CHANNELS = 3, 2, 2, (19, 16, 1), 3
NOISE = draws.task_noise(tf.constant([[1, 2], [3, 4]]), "float64")


def made(name, perturbation=None, **settings):
    """-> the learner, parameters large enough to see, theta, images."""
    own = {"n_steps": 2, "inner_lr": 0.3} if "n_steps" in own_settings(name) else {}
    learner = learners.make(name, perturbation, image_shape=SHAPE, channels=CHANNELS, way=WAY, **own | settings)
    rng = np.random.default_rng(8)
    params = random_parameters(learner.parameters(), rng)
    params = {k: tf.abs(v) + 0.5 if k.endswith("variance") else v for k, v in params.items()}
    theta = {model.theta_name(k): v for k, v in params.items() if model.theta_name(k)}
    return learner, params, theta, tf.constant(rng.random((TASKS, WAY * SHOT, *SHAPE)))


def pooled(x):
    """2x2 maxima of [T,N,H,W,C], flat."""
    height, width = (side // 2 for side in x.shape[2:4])
    x = np.asarray(x)[:, :, : 2 * height, : 2 * width]
    return x.reshape(*x.shape[:2], height, 2, width, 2, -1).max((3, 5)).reshape(*x.shape[:2], -1)


@pytest.mark.parametrize(
    ("name", "perturbation", "settings"),
    [
        ("maml", "none", {}),
        ("metadrop", "noise", {}),
        ("maml", "vib", {}),
        ("metanet_original", "none", {"test_statistics": "running"}),
        ("metanet_embedding", "none", {"test_statistics": "batch"}),
    ],
)
def test_activations_are_the_pooled_maps_and_the_last_ones_the_features(name, perturbation, settings):
    learner, params, theta, x = made(name, perturbation, **settings)
    maps, activations = learner.maps(params, theta, x), learner.activations(params, theta, x)
    assert list(maps) == ["conv1", "conv2", "conv3", "conv4"]
    last = list(activations)[-1]
    for layer, (block_map, _) in maps.items():
        if layer != last or perturbation != "vib":  # which has a layer of its own behind the last block
            np.testing.assert_allclose(activations[layer], pooled(block_map), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(activations[last], learner.features(params, theta, x))
    if perturbation == "vib":
        features = pooled(maps["conv4"][0]) @ params["phi/mean_w"] + params["phi/mean_b"]
        np.testing.assert_allclose(activations[last], features, rtol=1e-9)
    alone = learner.maps(params, theta, x[:, :1])["conv1"][0]
    assert np.allclose(alone, maps["conv1"][0][:, :1]) == (settings.get("test_statistics") == "running")


def test_a_map_is_normalised_with_its_own_noise_sample_and_has_its_factor():
    """Of Meta-dropout, by its equation."""
    learner, params, theta, x = made("metadrop")
    draw = draws.Draw(NOISE, 1, draws.TEST_SUPPORT, 2)
    block_map, factor = learner.maps(params, theta, tf.tile(x, [1, 2, 1, 1, 1]), draw)["conv1"]
    x = tf.tile(x, [1, 2, 1, 1, 1])
    mu, a = (layers.conv(x, params[f"{net}/conv1_w"], params[f"{net}/conv1_b"]).numpy() for net in ("theta", "phi"))
    expected = np.log1p(np.exp(a + draw("conv1", mu.shape).numpy()))
    np.testing.assert_allclose(factor, expected, rtol=1e-9)
    mu = (mu * expected).reshape(TASKS, 2, WAY * SHOT, *mu.shape[2:])
    mean, variance = mu.mean((2, 3, 4), keepdims=True), mu.var((2, 3, 4), keepdims=True)
    normal = (mu - mean) / np.sqrt(variance + 1e-3) + params["conv1_bn/beta"].numpy()
    np.testing.assert_allclose(block_map, np.maximum(normal, 0).reshape(block_map.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["maml", "metanet_original"])
def test_a_masked_map_is_0_where_the_mask_is(name):
    learner, params, theta, x = made(name, "mask", mask_rates=[0.5, 0.5, 0.5])
    maps = learner.maps(params, theta, x, draws.Draw(NOISE, 0, draws.TRAINING_SUPPORT))
    for layer in ("conv1", "conv2", "conv3"):
        block_map, mask = (value.numpy() for value in maps[layer])
        assert set(np.unique(mask)) == {0, 1} and not block_map[mask == 0].any() and (block_map[mask == 1] > 0).any()
        assert (mask == mask[:, :1]).all()  # a task's images lose the same
    assert maps["conv4"][1] is None or name == "maml"


@pytest.mark.parametrize("name", ["maml", "metasgd"])
def test_a_narrow_learner_has_the_first_classes(name):
    learner, params, *_ = made(name)
    narrow = learner.narrow(params, 2)
    assert narrow.keys() == params.keys()
    for key, value in params.items():
        head = key.startswith(("theta/dense", "alpha/dense"))
        np.testing.assert_array_equal(narrow[key], value[..., :2] if head else value)


@pytest.mark.parametrize(("perturbation", "training", "samples"), [("none", False, 1), ("noise", False, 3),
                                                                  ("mask", False, 1), ("mask", True, 3)])  # fmt: skip
def test_samples_are_drawn_where_they_differ(perturbation, training, samples):
    """And the labels go with their images."""
    learner, params, _, x = made("maml", perturbation)
    passes = []

    def step(x, y, class_shares, draw, params, theta):
        passes.append((x.numpy(), y.numpy(), draw.step, draw.samples, draw.where))
        return theta

    y = model.labels(WAY, SHOT, "float64")
    with mock.patch.object(learner, "inner_step", step):
        learner.adapt(params, x, y, NOISE, 3, training)
    assert len(passes) == 2
    for number, (images, labels, *draw) in enumerate(passes):
        assert draw == [number, samples, draws.TRAINING_SUPPORT if training else draws.TEST_SUPPORT]
        np.testing.assert_array_equal(images, np.concatenate([x] * samples, 1))
        np.testing.assert_array_equal(labels, np.concatenate([y] * samples))


@pytest.mark.parametrize("remat", [False, True])
def test_inner_steps_are_computed_again_where_that_is_asked_for(remat):
    learner, params, _, x = made("maml", remat=remat)
    with (
        mock.patch.object(learner, "inner_step", lambda x, y, shares, draw, params, theta: theta),
        mock.patch.object(tf, "recompute_grad", side_effect=lambda step: step) as again,
    ):
        learner.trajectory(params, x, model.labels(WAY, SHOT, "float64"), NOISE)
    assert again.call_count == (2 if remat else 0)


@pytest.mark.parametrize("name", ["metanet_embedding", "metanet_original"])
def test_a_tasks_penalty_is_its_own(name):
    learner, params, _, x = made(name)
    y = model.labels(WAY, SHOT, "float64")
    penalties = learner.adapt(params, x, y, NOISE, training=True)[1].numpy()
    alone = [learner.adapt(params, x[t : t + 1], y, NOISE, training=True)[1].numpy()[0] for t in range(TASKS)]
    np.testing.assert_allclose(penalties, alone, rtol=1e-9)
    assert penalties[0] != penalties[1]
