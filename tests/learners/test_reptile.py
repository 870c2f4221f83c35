"""Reptile against its definition in numpy, its minibatches, its steps in testing and its outer step size."""

import csv
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
import optimizers
from conftest import SETTINGS, assert_refused, call, flags_of, succeed
from numerics import random_parameters
from perturbations.draws import task_noise
from training.config import Config

WAY, SHOT, QUERY, TASKS, SHAPE = 3, 1, 3, 2, (16, 18, 1)
BIASES = {f"conv{block}_b" for block in range(1, 5)}  # batch norm takes them away: they are not adapted
IMAGES = WAY * (SHOT + QUERY)
SEEDS = tf.constant([[1, 2], [3, 4]])
RUN = SETTINGS | {"model": "reptile", "inner_batch": 3, "n_test_steps": 2, "val_every": 0}


def made(**settings):
    settings = {"n_steps": 5, "inner_batch": 5, "n_test_steps": 7, "inner_test_batch": 2, "inner_lr": 0.01} | settings
    return learners.make("reptile", image_shape=SHAPE, channels=4, way=WAY, **settings)


def inputs(learner, updates=0):
    """Random parameters in float64, whose running averages are those after this many inner steps, and the support and
    query images of two tasks."""
    rng, one = np.random.default_rng(3), 1 - 0.999**updates
    params = random_parameters(learner.parameters(), rng)
    for name, value in params.items():
        if name.startswith("running/"):
            params[name] = tf.constant(one if name.endswith("/one") else one * np.square(value), tf.float64)
    return params, *(tf.constant(rng.random((TASKS, WAY * n, *SHAPE))) for n in (SHOT, QUERY))


def one_hot(images):
    return np.repeat(np.eye(WAY), images, axis=0)


def gradients(theta, x, y):
    """Return the gradients of the summed cross entropy of x [N,H,W,C], y [N,way], and the mean loss and accuracy."""
    with tf.GradientTape() as tape:
        weights = {name: tf.constant(value) for name, value in theta.items()}
        tape.watch(list(weights.values()))
        h = tf.constant(x)[None]
        for block in range(1, 5):
            h = layers.conv(h, weights[f"conv{block}_w"], weights[f"conv{block}_b"])
            h = layers.max_pool(tf.nn.relu(layers.batch_norm(h, weights[f"conv{block}_bn/beta"])))
        logits = layers.dense(tf.reshape(h, [1, len(x), -1]), weights["dense_w"], weights["dense_b"])[0]
        loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(y, logits))
    accuracy = np.mean(np.argmax(logits, -1) == np.argmax(y, -1))
    return {name: g.numpy() for name, g in tape.gradient(loss, weights).items()}, float(loss) / len(x), accuracy


def numpy_inner_loop(params, x, y, seed, steps, size, rate, updates=0):
    """Adam with beta_1 = 0 on the images of one task, in the formula of its paper: return theta, the averages of
    squared gradients, and the loss and accuracy of every minibatch. updates: inner steps that were taken before."""
    theta = {k.removeprefix("theta/"): v.numpy() for k, v in params.items() if k.startswith("theta/")}
    squares = {name: params[f"running/squares/{name}"].numpy() for name in theta if name not in BIASES}
    passes = -(-steps * size // len(x))
    numbers = task_noise(seed[None], "float64")(0, "dense", tf.TensorShape([1, passes, len(x)]))
    order = np.concatenate([np.argsort(one) for one in numbers[0].numpy()])
    measured = []
    for step in range(steps):
        places = order[step * size : (step + 1) * size]
        g, *numbers = gradients(theta, x[places], y[places])
        measured.append(numbers)
        for name in squares:
            squares[name] = 0.999 * squares[name] + 0.001 * g[name] ** 2
            unbiased = squares[name] / (1 - 0.999 ** (updates + step + 1))
            epsilon = 1e-8 / np.sqrt(1 - 0.999 ** (updates + step + 1))  # "epsilon hat" in the paper of Adam
            theta[name] = theta[name] - rate * g[name] / (np.sqrt(unbiased) + epsilon)
    return theta, squares, np.array(measured)


@pytest.mark.parametrize("updates", [0, 40])
def test_the_first_update_is_that_of_numpy(updates):
    """In float64, after this many inner steps: theta moves by the outer rate towards the mean of what Adam made of it
    on each task, and the averages of squared gradients move as if the tasks had followed each other."""
    learner = made()
    params, support, query = inputs(learner, updates)
    episode = model.make_episode(support, query, WAY)

    @tf.function(autograph=False)
    def update():
        numbers, sums = learner.meta_gradient(params, episode, task_noise(SEEDS, "float64"))
        rate, new = learner.outer_rate(0.5, 0, 9), {}
        for name, total in sums.items():
            mean = total / TASKS
            if name.startswith("running/"):
                new[name] = params[name] - mean * learner.running_step(TASKS)
            else:
                slots = optimizers.empty_slots(1, "float64")
                new[name] = params[name] - learner.optimizer(mean, slots, rate)[0]
        return numbers, new

    numbers, new = update()
    x, y = tf.concat([support, query], 1).numpy(), np.concatenate([one_hot(SHOT), one_hot(QUERY)])
    ends = [numpy_inner_loop(params, x[t], y, SEEDS[t], 5, 5, 0.01, updates) for t in range(TASKS)]
    for name in ends[0][0]:
        old = params[f"theta/{name}"].numpy()
        expected = old + 0.5 * (np.mean([theta[name] for theta, *_ in ends], 0) - old)
        np.testing.assert_allclose(new[f"theta/{name}"], expected, rtol=1e-10, atol=1e-10)
        if name in BIASES:
            np.testing.assert_array_equal(new[f"theta/{name}"], old)
            continue
        assert np.abs(expected - old).max() > 1e-3
        keep = 0.999**5
        moved = [squares[name] - keep * params[f"running/squares/{name}"].numpy() for _, squares, _ in ends]
        share = (1 - keep**TASKS) / (1 - keep) / TASKS  # 1 + keep for two tasks, of which each is one half
        expected = keep**TASKS * params[f"running/squares/{name}"].numpy() + share * sum(moved)
        np.testing.assert_allclose(new[f"running/squares/{name}"], expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(new["running/squares/one"], 1 - 0.999 ** (updates + 5 * TASKS), rtol=1e-10)
    measured = np.stack([measured.mean(0) for *_, measured in ends])
    np.testing.assert_allclose(numbers["loss"], measured[:, 0], rtol=1e-10)
    np.testing.assert_allclose(numbers["accuracy"], measured[:, 1], rtol=1e-6)


def test_minibatches_are_drawn_without_replacement_pass_after_pass():
    params, support, query = inputs(made())
    x = tf.concat([support, query], 1)

    def places(x, seeds, **settings):
        labels = tf.constant(np.concatenate([one_hot(SHOT), one_hot(QUERY)]))
        return made(**settings).inner_loop(params, x, labels, task_noise(seeds, "float64"), training=True)[2].numpy()

    drawn = places(x, SEEDS)
    assert drawn.shape == (5, TASKS, 5)
    for t in range(TASKS):
        row = drawn[:, t].ravel()
        assert sorted(row[:IMAGES]) == sorted(row[IMAGES : 2 * IMAGES]) == list(range(IMAGES))
        assert row[:IMAGES].tolist() != row[IMAGES : 2 * IMAGES].tolist()  # shuffled again
        np.testing.assert_array_equal(places(x[t : t + 1], SEEDS[t : t + 1])[:, 0], drawn[:, t])
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])
    whole = places(
        x, SEEDS, inner_batch=2 * IMAGES
    )  # a minibatch of more images than there are has them as often as each other
    assert all(np.bincount(one).tolist() == [2] * IMAGES for one in whole.reshape(-1, 2 * IMAGES))


def test_a_test_has_its_own_steps_and_minibatches_and_continues_the_second_moments():
    learner = made()
    params, support, _ = inputs(learner, 40)

    @tf.function(autograph=False)
    def adapt():
        y, noise = model.labels(WAY, SHOT, "float64"), task_noise(SEEDS, "float64")
        return learner.adapt(params, support, y, noise)[0], learner.trajectory(params, support, y, noise)

    adapted, trajectory = adapt()
    assert len(trajectory) == learner.n_steps + 1 == 8
    for t in range(TASKS):
        inner_loop = numpy_inner_loop(params, support[t].numpy(), one_hot(SHOT), SEEDS[t], 7, 2, 0.01, 40)
        for name, value in params.items():
            if name.startswith("theta/"):
                np.testing.assert_array_equal(trajectory[0][name[6:]][t], value)
        for name, value in inner_loop[0].items():
            np.testing.assert_allclose(adapted[name][t], value, rtol=1e-10, atol=1e-10)
    for name, value in adapted.items():
        np.testing.assert_array_equal(value, trajectory[-1][name])
        assert name in BIASES or np.abs(value - trajectory[-2][name]).max() > 1e-4


def test_query_images_that_no_loss_has_are_not_attacked(data_dir, tmp_path):
    done = call(
        "main.py", "--savedir", tmp_path / "run", *flags_of(RUN | {"data_dir": data_dir}), "--adversarial", "linf:0.1"
    )
    assert_refused(done, "--adversarial needs a loss of query images, and reptile has none")
    assert not (tmp_path / "run").exists()


def test_the_defaults_of_a_run_are_the_published_ones_and_shown():
    shown = " ".join(call("main.py", "--model", "reptile", "--help").stdout.split())
    for flag, default in (("meta_lr X", "1.0"), ("metabatch N", "5"), ("inner_lr X", "0.001"), ("n_steps N", "5")):
        assert re.search(rf"--{flag} (?:(?!--).)*\(default: {re.escape(default)}\)", shown), flag
    config = Config.of({"model": "reptile"})
    assert (config.training.meta_lr, config.run.metabatch) == (1, 5)
    assert (Config.of({}).training.meta_lr, Config.of({}).run.metabatch) == (0.001, 16)


def values_of(savedir):
    """The variables of a run's last checkpoint, and the outer step sizes of its log by iteration."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(savedir / "checkpoints/last")))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("params/")]
    with open(savedir / "meta_train.csv") as file:
        rates = {int(row["iter"]): float(row["lr"]) for row in csv.DictReader(file)}
    return {name: reader.get_tensor(name) for name in names}, rates


def test_the_outer_step_size_falls_linearly_and_a_resumed_run_continues_with_it(data_dir, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    flags = flags_of(RUN | {"data_dir": data_dir, "n_train_iters": 3, "save_freq": 2})
    succeed("main.py", "--savedir", whole, *flags)
    shutil.copytree(whole, cut)
    for file in (cut / "checkpoints/last").glob("ckpt-3*"):
        file.unlink()
    assert "resumed at iteration 3" in succeed("main.py", "--savedir", cut, "--resume").stdout
    (params, rates), (resumed, resumed_rates) = values_of(whole), values_of(cut)
    assert rates == resumed_rates == {0: 1.0, 3: 0.25}
    assert params.keys() == resumed.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    one = params["params/running.Ssquares.Sone/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_allclose(one, 1 - 0.999 ** (4 * 2 * 1), rtol=1e-5)  # updates, tasks and inner steps
    succeed("main.py", "--mode", "meta_test", "--savedir", cut, "--n_test_iters", 2, "--n_test_steps", 3)
    assert "n_test_steps: 3" in (cut / "meta_test.log").read_text()
