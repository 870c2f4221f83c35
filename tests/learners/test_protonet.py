"""Prototypical Networks against their definition; and the wider tasks that they are trained on."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import data
import learners
import model
import numerics
from conftest import SETTINGS, call, flags_of, succeed

WAY, SHOT, QUERY, TASKS, SHAPE = 3, 2, 4, 2, (16, 18, 1)


def made(**settings):
    return learners.make("protonet", image_shape=SHAPE, channels=4, way=WAY, **settings)


def inputs(learner, way=WAY):
    rng = np.random.default_rng(3)
    params = numerics.random_parameters(learner.parameters(), rng)
    return params, *(tf.constant(rng.random((TASKS, way * n, *SHAPE))) for n in (SHOT, QUERY))


@pytest.mark.parametrize("temperature", [1.0, 64.0])
def test_logits_are_the_negative_squared_distances_from_the_class_means(temperature):
    learner = made(temperature=temperature)
    params, x_s, x_q = inputs(learner)
    means, penalty = learner.adapt(params, x_s, model.labels(WAY, SHOT, "float64"), None)
    assert penalty == 0
    logits, penalty = learner.classify(params, means, x_q)
    assert penalty == 0
    h_s, h_q = (learner.features(params, None, x).numpy() for x in (x_s, x_q))
    centres = h_s.reshape(TASKS, WAY, SHOT, -1).mean(2)
    distances = np.square(h_q[:, :, None] - centres[:, None]).sum(-1)
    expected = np.square(h_q - centres.mean(1, keepdims=True)).sum(-1, keepdims=True) - distances
    np.testing.assert_allclose(logits, expected / temperature, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.argmax(logits, -1), distances.argmin(-1))


def test_training_may_have_more_classes_or_fewer():
    assert [made(**own).train_way for own in ({}, {"train_way": 2}, {"train_way": 60})] == [WAY, 2, 60]


def numpy_embedding(params, x):
    """x [N,H,W,C] -> [N,D], all normalised together."""
    p = {name: value.numpy() for name, value in params.items()}
    for conv in ("conv1", "conv2", "conv3", "conv4"):
        x = numerics.numpy_block(x, p[f"theta/{conv}_w"], p[f"theta/{conv}_b"], p[f"{conv}_bn/beta"], 1e-3)
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("normalise", ["apart", "together"])
def test_support_and_query_set_are_normalised_as_it_is_told(normalise):
    """Against numpy: in one batch, as the source's code does it, or in two. Other shares than equal ones are those of
    the query images alone, of which a half is left out here."""
    learner = made(normalise=normalise, temperature=2.0)
    params, x_s, x_q = inputs(learner)
    half = np.repeat([1.0, 0.0], WAY * QUERY // 2) * 2 / (WAY * QUERY)
    adapted, _ = learner.adapt(params, x_s, model.labels(WAY, SHOT, "float64"), None)
    found, _ = learner.classify(params, adapted, x_q)
    of_half, _ = learner.classify(params, adapted, x_q, shares=tf.constant(half))
    for t in range(TASKS):
        s, q = x_s[t].numpy(), x_q[t].numpy()
        if normalise == "together":
            h_s, h_q = np.split(numpy_embedding(params, np.concatenate([s, q])), [len(s)])
        else:
            h_s, h_q = numpy_embedding(params, s), numpy_embedding(params, q)
        means = h_s.reshape(WAY, SHOT, -1).mean(1)
        distances = np.square(h_q[:, None] - means).sum(-1)
        expected = np.square(h_q - means.mean(0)).sum(-1, keepdims=True) - distances
        np.testing.assert_allclose(found[t], expected / 2, rtol=1e-9, atol=1e-11)
        assert np.abs(of_half[t] - found[t]).max() > 1e-3
    alone, _ = learner.classify(params, adapted, x_q[:, : WAY * QUERY // 2], shares=tf.constant(half[half > 0]))
    np.testing.assert_allclose(of_half[:, : WAY * QUERY // 2], alone, rtol=1e-9, atol=1e-11)
    assert learner.inspectable == (normalise == "apart")


def test_the_body_is_that_of_maml():
    params, x_s, _ = inputs(made())
    maml = learners.make("maml", image_shape=SHAPE, channels=4, way=WAY)
    theta = {name.removeprefix("theta/"): value for name, value in params.items() if name.startswith("theta/")}
    assert {f"theta/{name}" for name in ("dense_w", "dense_b")} == maml.parameters().keys() - made().parameters().keys()
    theta |= {"dense_w": tf.zeros([4, WAY], tf.float64), "dense_b": tf.zeros(WAY, tf.float64)}
    np.testing.assert_allclose(maml.features(params, theta, x_s), made().features(params, None, x_s), rtol=1e-9)


@pytest.mark.parametrize("normalise", ["apart", "together"])
def test_every_parameters_gradient_is_that_of_finite_differences(normalise):
    learner = made(train_way=5, normalise=normalise, temperature=2.0)
    params, x_s, x_q = inputs(learner, way=5)  # the wider tasks of training
    for name, (slope, bound) in numerics.outer_slopes(learner, params, x_s, x_q).items():
        assert (abs(slope) > 100 * bound) == (not name.endswith("_b")), name  # batch norm takes a bias away


@pytest.mark.slow
def test_training_has_as_many_classes_as_it_is_told_and_all_else_the_runs(data_dir, tmp_path):
    flags = flags_of(SETTINGS | {"model": "protonet", "n_steps": None, "data_dir": data_dir})
    with mock.patch.object(data, "sample", wraps=data.sample) as sample:
        words = ("--train_way", 6, "--n_train_iters", 3, "--n_val_tasks", 2, "--collapse_every", 3)
        succeed("main.py", "--savedir", tmp_path / "a", *flags, *words)
        for way in (3, 5):  # any number of classes can be tested
            flags = ("--mode", "meta_test", "--savedir", tmp_path / "a", "--n_test_iters", 3, "--way", way)
            succeed("main.py", *flags)
    ways = {(drawn.args[1], drawn.args[5]) for drawn in sample.call_args_list}
    assert ways == {("train", 6), ("train", 3), ("val", 3), ("test", 3), ("test", 5)}  # train of 3: the collapse watch
    words = ("--savedir", tmp_path / "b", "--train_way", 2000)
    done = call("main.py", *words, *flags_of(SETTINGS | {"model": "protonet", "n_steps": None, "data_dir": data_dir}))
    assert done.returncode == 2 and "--train_way 2000 is more than" in done.stderr
