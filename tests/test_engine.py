"""The compiled training step: Adam on the clipped meta-gradient, the same for every way of compiling it."""

import numpy as np
import pytest
import tensorflow as tf

import data
import engine
import model

LEARNER = {"image_shape": (16, 16, 1), "channels": 3, "way": 3, "n_steps": 1, "inner_lr": 0.4}
TASKS = {"shot": 1, "query": 2, "metabatch": 2, "seed": 3, "meta_lr": 0.01}


@pytest.fixture
def split():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 16, 16, 1), np.uint8)
    return data.Split(pixels, rotations=4, scale=1 / 255)


def make(name="maml", jit=False, **settings):
    return engine.Engine(model.LEARNERS[name](**LEARNER, jit=jit), **(TASKS | settings))


def parameters(made):
    return {k: v.numpy() for k, v in made.params.items()}


def test_two_updates_are_adam_on_the_clipped_gradient(split, monkeypatch):
    monkeypatch.setattr(engine, "CLIP", 1e-3)  # so that it bites
    made = make()
    step, weights = made.train_step(split), parameters(made)
    m, v = ({k: np.zeros_like(w) for k, w in weights.items()} for _ in range(2))
    for t in (1, 2):
        episode = [tf.constant(x) for x in made.episode(split, "train", t, 2)]
        x_s, x_q = data.gather(tf.constant(split.pixels), *episode, 4, 1 / 255, 1)
        gradients = tf.function(
            lambda p, s, q: model.meta_gradients(made.learner, p, s, q, tf.zeros([2, 2], tf.int32)), autograph=False
        )
        loss, _, grads = gradients({k: tf.constant(w) for k, w in weights.items()}, x_s, x_q)
        clipped = {k: np.clip(g.numpy(), -1e-3, 1e-3) for k, g in grads.items()}
        assert any((np.abs(g) == np.float32(1e-3)).any() for g in clipped.values())
        for k, g in clipped.items():
            m[k], v[k] = 0.9 * m[k] + 0.1 * g, 0.999 * v[k] + 0.001 * g**2
            rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights[k] = np.float32(weights[k] - rate * m[k] / (np.sqrt(v[k]) + 1e-8))
        found = step(t)
        assert found[2] and float(found[0]) == pytest.approx(float(loss), rel=1e-5)
    for k, w in parameters(made).items():
        if np.abs(v[k]).max() > 1e-12:  # Adam makes a step of rounding where the gradient is none
            np.testing.assert_allclose(w, weights[k], rtol=1e-3, atol=2e-5, err_msg=k)


def test_all_tasks_in_one_xla_program_train_as_one_by_one(split):
    """The path of a GPU and that of a CPU; MAML, since XLA draws other noise."""
    plain, jitted = make(), make(jit=True)
    assert (plain.tasks_at_once, jitted.tasks_at_once) == (1, 2)
    steps = [made.train_step(split) for made in (plain, jitted)]
    for i in range(2):
        a, b = (step(i) for step in steps)
        assert float(a[0]) == pytest.approx(float(b[0]), rel=1e-4) and float(a[1]) == float(b[1])
    a, b = (parameters(made)["theta/dense_w"] for made in (plain, jitted))
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_noise_of_an_iteration_is_its_own(split):
    """The same weights and episodes, another iteration's noise: another loss."""
    made = make("metadrop", meta_lr=1e-30)
    step = made.train_step(split)
    made.episode = lambda split, stream, index, tasks, shared: engine.Engine.episode(made, split, stream, 0, tasks)
    assert len({float(step(i)[0]) for i in range(4)}) == 4


def test_losses_that_are_not_finite_are_reported(split):
    made = make()
    made.params["theta/conv1_w"].assign(made.params["theta/conv1_w"] * np.nan)
    assert not made.train_step(split)(0)[2]
