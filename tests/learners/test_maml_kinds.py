"""Meta-SGD, and MAML whose head or body alone is adapted (ANIL, BOIL)."""

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
import numerics
from perturbations import draws

WAY, SHOT, QUERY, TASKS, SHAPE, RATE = 3, 2, 2, 2, (16, 18, 1), 0.3


def made(name="maml", **settings):
    return learners.make(name, image_shape=SHAPE, channels=3, way=WAY, **{"inner_lr": RATE, "n_steps": 2} | settings)


def inputs(learner):
    rng = np.random.default_rng(5)
    params = numerics.random_parameters(learner.parameters(), rng)
    return params, *(tf.constant(rng.random((TASKS, WAY * n, *SHAPE))) for n in (SHOT, QUERY))


def losses_and_gradients(learner, params, x_s, x_q):
    @tf.function(autograph=False)
    def run():
        noise = draws.task_noise(tf.constant([[1, task] for task in range(TASKS)]), "float64")
        seeds = tf.zeros([TASKS, 2], tf.int32)
        return numerics.meta_gradients(learner, params, x_s, x_q, seeds, TASKS, lambda seeds: noise)

    loss, _, gradients = run()
    return loss.numpy(), {name: gradient.numpy() for name, gradient in gradients.items()}


def sizes(params, value):
    """alpha, of the same value everywhere, by the weight's name."""
    names = [name.removeprefix("theta/") for name in params if name.startswith("theta/")]
    return {
        f"alpha/{name}": tf.fill(params[f"theta/{name}"].shape, tf.constant(value(name), "float64")) for name in names
    }


@pytest.mark.parametrize("part", ["all", "head", "body"])
def test_what_is_not_adapted_has_steps_of_size_0(part):
    """MAML that adapts a part is Meta-SGD whose other step sizes are 0: the loss, and every gradient that both have."""
    maml, metasgd = made(adapt=part), made("metasgd")
    params, x_s, x_q = inputs(maml)
    adapted = {"all": lambda name: True, "head": lambda name: "dense" in name, "body": lambda name: "conv" in name}[
        part
    ]
    alpha = sizes(params, lambda name: RATE if adapted(name) else 0.0)
    loss, gradients = losses_and_gradients(maml, params, x_s, x_q)
    other_loss, others = losses_and_gradients(metasgd, params | alpha, x_s, x_q)
    assert loss == pytest.approx(other_loss, rel=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, others[name], rtol=1e-8, atol=1e-12)
    assert all(others[f"alpha/{name}"].any() for name in ("conv2_w", "dense_w", "dense_b"))
    params, x_s, x_q = inputs(maml)
    y, noise = model.labels(WAY, SHOT, "float64"), draws.task_noise(tf.constant([[1, 2], [3, 4]]), "float64")
    before, *_, after = tf.function(lambda: maml.trajectory(params, x_s, y, noise), autograph=False)()
    wanted, biases = {name for name in before if adapted(name)}, {f"conv{block}_b" for block in (1, 2, 3, 4)}
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved - biases == wanted - biases and moved <= wanted  # batch norm takes a bias's gradient away
    own = made("metasgd", adapt=part).parameters().keys() - made("maml").parameters().keys()
    assert own == {f"alpha/{name}" for name in wanted}


def test_every_weight_has_its_own_step_of_either_sign():
    metasgd = made("metasgd", n_steps=1)
    params, x_s, _ = inputs(metasgd)
    assert (params["alpha/conv2_w"].numpy() < 0).any()
    plain, y = made(n_steps=1), model.labels(WAY, SHOT, "float64")
    noise = draws.task_noise(tf.constant([[1, 2], [3, 4]]), "float64")

    @tf.function(autograph=False)
    def steps():
        return [learner.trajectory(params, x_s, y, noise) for learner in (metasgd, plain)]

    (before, after), (_, theirs) = steps()
    for name, weight in before.items():
        gradient = (weight - theirs[name]) / RATE
        np.testing.assert_allclose(after[name], weight - params[f"alpha/{name}"] * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("meta_gradient", ["published", "first_order"])
def test_a_step_sizes_gradient_is_that_of_the_step_times_the_losss(meta_gradient):
    """After one step the loss changes with alpha by -g dL/dtheta', whatever is held constant of g."""
    metasgd = made("metasgd", n_steps=1, meta_gradient=meta_gradient)
    params, x_s, x_q = inputs(metasgd)
    noise = draws.task_noise(tf.constant([[1, task] for task in range(TASKS)]), "float64")
    y_s, y_q = (model.labels(WAY, n, "float64") for n in (SHOT, QUERY))

    @tf.function(autograph=False)
    def by_hand():
        before, after = metasgd.trajectory(params, x_s, y_s, noise, training=True)
        support, query = (
            metasgd.forward(params, theta, x, draws.UNPERTURBED)[0] for theta, x in ((before, x_s), (after, x_q))
        )
        names = list(before)
        g, outer = (
            tf.gradients(layers.cross_entropy(logits, y), [theta[name] for name in names])
            for logits, y, theta in ((support, y_s, before), (query, y_q, after))
        )
        return {
            f"alpha/{name}": -tf.reduce_mean(one * other, 0) for name, one, other in zip(names, g, outer, strict=True)
        }

    _, gradients = losses_and_gradients(metasgd, params, x_s, x_q)
    for name, expected in by_hand().items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-8, atol=1e-12, err_msg=name)
    assert np.linalg.norm(gradients["alpha/conv1_w"]) > 1e-3


def test_step_sizes_begin_at_the_inner_rate_or_uniform_and_end_with_the_classes():
    for settings, low, high in (({}, RATE, RATE), ({"random_steps": True, "inner_lr": 0.1}, 0.005, 0.1)):
        params = made("metasgd", **settings).init(3)
        values = np.concatenate([v.numpy().ravel() for name, v in params.items() if name.startswith("alpha/")])
        assert values.min() == pytest.approx(low, rel=0.2) and values.max() == pytest.approx(high, rel=0.2)
        assert len(values) == sum(v.numpy().size for name, v in params.items() if name.startswith("theta/"))
    narrow = made("metasgd").narrow(params, 2)
    assert narrow["alpha/dense_w"].shape[-1] == narrow["alpha/dense_b"].shape[-1] == 2
    with pytest.raises(ValueError, match="leave one of them out"):
        made("metasgd", random_steps=True)  # of another inner_lr than the default
    with pytest.raises(ValueError, match="adapt cannot be 'tail'"):
        made(adapt="tail")
