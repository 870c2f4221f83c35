"""The attack: its balls against plain solvers, its steps, and what it does to classifiers whose worst case is known."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

import attacks
import layers
import model
from perturbations.draws import task_noise
from ranges import Range

RNG = np.random.default_rng(0)
DIMS = 49


def normals(rows, seed=(3, 4)):
    return lambda k: tf.random.stateless_normal([rows, k], seed, dtype=tf.float64)


def norm_of(name, d):
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l1_dense": 1}[name]
    return np.linalg.norm(d, order, -1)


@pytest.mark.parametrize("name", attacks.NORMS)
def test_a_size_is_the_norm(name):
    d = RNG.normal(size=(5, DIMS))
    np.testing.assert_allclose(attacks.NORMS[name].size(tf.constant(d)), norm_of(name, d))


def test_the_radii_are_those_of_the_papers_figure():
    assert {name: norm.budgets for name, norm in attacks.NORMS.items()} == {
        "linf": (0, 0.02, 0.04, 0.06, 0.08, 0.1),
        "l2": (0, 1, 2, 3, 4, 5),
        "l1": (0, 20, 40, 60, 80, 100),
        "l1_dense": (0, 20, 40, 60, 80, 100),
    }


@pytest.mark.parametrize("name", ["linf", "l2", "l1"])
@pytest.mark.parametrize("eps", [0.3, 2.0])
def test_a_projection_is_the_nearest_place(name, eps):
    """Against scipy's solver for constraints, from where the projection is not."""
    d = RNG.normal(size=(3, 6)) * [[0.01], [1], [5]]
    projected = attacks.NORMS[name].project(tf.constant(d), eps).numpy()
    for row, mine in zip(d, projected, strict=True):
        if name == "l1":  # d = p - q with p, q >= 0: smooth constraints

            def distance(pq, row=row):
                return np.sum((pq[:6] - pq[6:] - row) ** 2)

            inside = {"type": "ineq", "fun": lambda pq: eps - pq.sum()}
            best = optimize.minimize(distance, np.full(12, eps / 24), bounds=[(0, None)] * 12, constraints=inside)
            nearest = best.x[:6] - best.x[6:]
        elif name == "l2":
            inside = {"type": "ineq", "fun": lambda p: eps**2 - p @ p}
            best = optimize.minimize(lambda p, row=row: np.sum((p - row) ** 2), np.zeros(6), constraints=inside)
            nearest = best.x
        else:
            best = optimize.minimize(lambda p, row=row: np.sum((p - row) ** 2), np.zeros(6), bounds=[(-eps, eps)] * 6)
            nearest = best.x
        np.testing.assert_allclose(mine, nearest, atol=1e-3)
        assert norm_of(name, mine) <= eps * (1 + 1e-9)


@pytest.mark.parametrize("name", attacks.NORMS)
def test_what_is_inside_stays_and_what_is_outside_comes_in(name):
    d = RNG.normal(size=(4, DIMS))
    d[0] *= 0.9 / norm_of(name, d[0])
    d[1] = 0
    projected = attacks.NORMS[name].project(tf.constant(d), 1.0).numpy()
    np.testing.assert_allclose(projected[:2], d[:2], atol=1e-12)
    np.testing.assert_allclose(norm_of(name, projected[2:]), 1)


@pytest.mark.parametrize("name", attacks.NORMS)
def test_a_direction_is_of_size_one_and_ascends(name):
    norm, g, x = attacks.NORMS[name], RNG.normal(size=(4, 400)), RNG.uniform(0.1, 0.9, (4, 400))
    step = norm.direction(tf.constant(g), tf.constant(x)).numpy()
    np.testing.assert_allclose(norm_of(name, step), 1)
    assert (np.sum(step * g, -1) > 0).all()
    assert not norm.direction(tf.zeros([1, 9], tf.float64), tf.zeros([1, 9], tf.float64)).numpy().any()
    faint = norm.direction(tf.constant(1e-9 * g), tf.constant(x)).numpy()  # of an image that is classified surely
    np.testing.assert_allclose(faint, step, rtol=1e-9)


def test_a_sparse_step_changes_a_hundredth_and_does_not_leave_the_box():
    g, x = RNG.normal(size=(1, 400)), np.full((1, 400), 0.5)
    order = np.argsort(-np.abs(g[0]))
    x[0, order[0]] = float(g[0, order[0]] > 0)  # the largest would lead out
    step = attacks.norms.sparse(tf.constant(g), tf.constant(x)).numpy()[0]
    assert set(np.flatnonzero(step)) == set(order[1:5])
    np.testing.assert_allclose(step[order[1:5]], np.sign(g[0, order[1:5]]) / 4)


@pytest.mark.parametrize(("size", "hundredth"), [(28 * 28, 8), (84 * 84 * 3, 212), (49, 1)])
def test_a_hundredth_is_rounded_and_one_at_least(size, hundredth):
    g = tf.constant(RNG.normal(size=(2, size)))
    step = attacks.norms.sparse(g, tf.fill(g.shape, tf.constant(0.5, tf.float64))).numpy()
    assert np.count_nonzero(step, axis=1).tolist() == [hundredth] * 2


def test_a_sparse_step_looks_at_the_box_from_where_it_begins():
    """Two of 200 pixels move. The steepest has come to the edge of the box, though the clean image is inside."""
    norm, rows = attacks.NORMS["l1"], np.full((1, 200), 0.5)
    d, g = np.zeros((1, 200)), RNG.normal(size=(1, 200))
    order = np.argsort(-np.abs(g[0]))
    d[0, order[0]] = 0.5 * np.sign(g[0, order[0]])
    moved = attacks.norms.ascend(*map(tf.constant, (d, g, rows)), norm, 10.0, 0.1).numpy() - d
    assert set(np.flatnonzero(moved)) == set(order[1:3])


@pytest.mark.parametrize("name", attacks.NORMS)
def test_a_start_is_uniform_in_the_ball(name):
    """The share of the volume within a radius r is r^D; a coordinate is symmetric."""
    start = attacks.NORMS[name].start(normals(20000), 3).numpy()
    sizes = norm_of(name, start)
    assert start.shape == (20000, 3) and sizes.max() <= 1 + 1e-9
    for r in (0.5, 0.8):
        assert abs(np.mean(sizes < r) - r**3) < 4 * np.sqrt(r**3 * (1 - r**3) / 20000)
    assert np.abs(start.mean(0)).max() < 4 * start.std() / np.sqrt(20000)
    assert abs(np.mean(start[:, 0] * start[:, 1])) < 0.02  # no quadrant is preferred


@pytest.mark.parametrize("name", attacks.NORMS)
def test_an_attack_begins_in_all_of_the_ball(name):
    """Where the box is far away, at a start in the ball of radius 1 times eps."""
    norm, eps, seen = attacks.NORMS[name], 0.3, []
    start = eps * norm.start(normals(5), DIMS)
    x, y = tf.constant(np.full((1, 5, 7, 7, 1), 0.5)), tf.constant(np.tile([1.0, 0.0], (5, 1)))
    d = attacks.norms.beginning(tf.reshape(x, [5, DIMS]), norm, eps, normals(5))
    np.testing.assert_allclose(d, start, atol=1e-12)
    assert norm_of(name, d).max() > 0.9 * eps  # most of the volume is there

    def look(x, lost):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return attacks.together(linear, y)(x)

    def run(x):
        return attacks.pgd(look, x, y, norm, eps, 0.1, 1, 1, lambda restart, k: normals(5)(k)).wrong

    tf.function(run, autograph=False)(x)
    np.testing.assert_allclose(seen[1].reshape(5, DIMS) - 0.5, start, atol=1e-12)  # behind the clean images


WEIGHTS = RNG.normal(size=(DIMS, 2))
DUAL = {"linf": 1, "l2": 2, "l1": np.inf, "l1_dense": 2}


def linear(x):
    """Two classes, of which the images' distances from the boundary are known."""
    flat = tf.reshape(x, [*x.shape[:2], -1])
    return tf.einsum("tqd,dk->tqk", flat, tf.constant(WEIGHTS))


def images_at(distances, name):
    """Images [1,Q,7,7,1] whose margin is what a perturbation of these sizes in the dual norm can just take."""
    w = WEIGHTS[:, 0] - WEIGHTS[:, 1]
    reach = np.linalg.norm(w, 2) ** 2 / np.linalg.norm(w, 1) if name == "l1_dense" else np.linalg.norm(w, DUAL[name])
    x = np.full((len(distances), DIMS), 0.5)
    x += (np.array(distances)[:, None] * reach - x @ w[:, None]) * w / (w @ w)
    return tf.constant(x.reshape(1, -1, 7, 7, 1))


@pytest.mark.parametrize("name", attacks.NORMS)
@pytest.mark.parametrize("threat", ["joint", "single"])
def test_a_linear_classifier_falls_exactly_where_it_must(name, threat):
    """An image at the distance a from the boundary is lost to an attack of eps > a, and to none of eps < a. Dense L1
    steps go along the gradient, so that they reach as far as its length by its L1 norm."""
    distances = [0.02, 0.09, 0.11, 0.15, -0.05]
    x, y = images_at(distances, name), tf.constant(np.tile([1.0, 0.0], (5, 1)))
    assert x.numpy().min() >= 0 and x.numpy().max() <= 1

    @tf.function(autograph=False)
    def run(x):
        look = attacks.together(linear, y) if threat == "joint" else attacks.one_by_one(linear, x, y)
        return attacks.pgd(look, x, y, attacks.NORMS[name], 0.1, 0.025, 40, 2, lambda restart, k: normals(5)(k))

    wrong, _, worst, label = (value.numpy() for value in run(x))
    assert (label == wrong).all()  # of two classes the other one
    assert wrong[0].tolist() == [True, True, False, False, True]
    d = (worst - x.numpy())[0].reshape(5, -1)
    assert (norm_of(name, d) <= 0.1 + 1e-9).all()
    logits = linear(tf.constant(worst)).numpy()[0]
    assert (logits.argmax(-1) == wrong[0]).all()  # the images that it gives back are those that do it


def test_eps_0_is_no_attack_and_the_box_is_kept():
    x = tf.constant(RNG.integers(0, 2, (1, 6, 7, 7, 1)).astype(float))
    y = tf.constant(np.tile([1.0, 0.0], (6, 1)))

    @tf.function(autograph=False)
    def run(x, eps, step):
        return attacks.pgd(
            attacks.together(linear, y), x, y, attacks.NORMS["linf"], eps, step, 5, 1, lambda _, k: normals(6)(k)
        )

    wrong, _, worst, _ = run(x, tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64))
    np.testing.assert_array_equal(wrong[0], linear(x).numpy()[0].argmax(-1) == 1)
    np.testing.assert_array_equal(worst, x)
    _, _, worst, _ = run(x, tf.constant(0.3, tf.float64), tf.constant(0.1, tf.float64))
    assert worst.numpy().min() >= 0 and worst.numpy().max() <= 1
    assert norm_of("linf", (worst - x).numpy().reshape(6, -1)).max() <= 0.3 + 1e-9


def coupled(x):
    """A classifier that sees the mean of the task's images, as batch norm does."""
    logits = linear(x)
    return logits - tf.reduce_mean(logits, 1, keepdims=True)


def test_together_sees_the_others_attacked_and_one_by_one_sees_them_clean():
    x = images_at([0.05, -0.02, 0.3], "linf")
    y = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], tf.float64)
    moved = x.numpy() + RNG.normal(size=x.shape) * 0.05

    @tf.function(autograph=False)
    def run(moved):
        return attacks.together(coupled, y)(moved), attacks.one_by_one(coupled, x, y)(moved)

    (joint, joint_gradient), (single, single_gradient) = run(tf.constant(moved))
    np.testing.assert_allclose(joint, coupled(tf.constant(moved)))
    for i in range(3):
        alone = x.numpy().copy()
        alone[:, i] = moved[:, i]
        np.testing.assert_allclose(single[:, i], coupled(tf.constant(alone))[:, i])
    for place in [(0, 1, 3, 3, 0), (0, 2, 0, 6, 0)]:
        step = np.zeros_like(moved)
        step[place] = 1e-6

        def loss(images):
            return tf.reduce_sum(layers.cross_entropies(coupled(tf.constant(images)), y)).numpy()

        slope = (loss(moved + step) - loss(moved - step)) / 2e-6
        assert joint_gradient[place].numpy() == pytest.approx(slope, rel=1e-5)
        alone = x.numpy().copy()
        alone[:, place[1]] = moved[:, place[1]]

        def own(images, i=place[1]):
            return layers.cross_entropies(coupled(tf.constant(images)), y).numpy()[0, i]

        slope = (own(alone + step) - own(alone - step)) / 2e-6
        assert single_gradient[place].numpy() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_losses_of_those_that_remain_are_the_sum_over_images_that_were_never_lost(draws):
    """Of four images one is lost here, and one was before: what is climbed is the loss of the two others, of all draws
    of a guide."""
    x = images_at([0.05, -0.02, 0.3, 0.1], "linf")
    y = tf.constant([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], tf.float64)
    x = tf.concat([x[:, :3], images_at([-0.4], "linf")], 1)
    lost = tf.constant([[True, False, False, False]])
    assert coupled(x).numpy()[0].argmax(-1).tolist() == [0, 1, 0, 1]

    def soft(images):  # so that no loss is all but 0
        return 0.1 * coupled(images)

    def guide(images):
        return tf.concat([soft(images), 3 * soft(images)], 0)

    @tf.function(autograph=False)
    def run(x):
        return attacks.together(soft, y, guide=guide if draws == 2 else None, remaining=True)(x, lost)[1]

    gradient = run(x).numpy()
    way = RNG.normal(size=x.shape)

    def loss(t):
        logits = (guide if draws == 2 else soft)(x + t * way)
        return tf.reduce_sum(layers.cross_entropies(logits, y).numpy()[:, 2:]).numpy() / draws

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert abs(slope) > 1e-3 and np.sum(gradient * way) == pytest.approx(slope, rel=1e-5)
    assert np.abs(gradient[0, :2]).max() > 0  # the lost ones are moved for what they do to the others


def test_an_attack_tells_which_images_are_lost():
    """Those of all steps and restarts so far, though some are right again: what is lost climbs back."""
    seen, y = [], tf.constant(np.tile([1.0, 0.0], (3, 1)))
    x = images_at([0.05, 0.5, -0.05], "linf")

    def look(images, lost):
        logits, gradient = attacks.together(linear, y)(images)
        tf.numpy_function(lambda lost, logits: seen.append((lost[0].copy(), logits[0].copy())), [lost, logits], [])
        back = attacks.looks.misclassified(logits, y)[..., None, None, None]
        return logits, tf.where(back, -gradient, gradient)

    def run(x):
        def draw(restart, k):
            return normals(3, tf.stack([restart, 7]))(k)

        return attacks.pgd(look, x, y, attacks.NORMS["linf"], 0.1, 0.1, 3, 3, draw).wrong

    wrong = tf.function(run, autograph=False)(x).numpy()[0]
    assert len(seen) == 1 + 3 * 4
    so_far, again = np.zeros(3, bool), np.zeros(3, bool)
    for lost, logits in seen:
        np.testing.assert_array_equal(lost, so_far)
        here = logits.argmax(-1) == 1
        again |= so_far & ~here
        so_far |= here
    assert wrong.tolist() == so_far.tolist() and not wrong[1] and wrong[2] and again[0] and again[2]


@pytest.mark.parametrize(("remaining", "looks"), [(False, 1 + 2 * 21), (True, 1 + 5 + 2)])
def test_an_attack_of_those_that_remain_ends_where_all_are_lost(remaining, looks):
    """Both images are lost behind three steps. A restart looks at its first and its last place at least."""
    x, y, count = images_at([0.05, 0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (2, 1))), []

    def counted(images):
        tf.numpy_function(lambda images: count.append(images.shape), [images], [])
        return linear(images)

    def run(x):
        look = attacks.together(counted, y, remaining=remaining)

        def draw(restart, k):  # both restarts begin at the clean image
            return tf.zeros([2, k], tf.float64)

        return attacks.pgd(look, x, y, attacks.NORMS["linf"], 0.1, 0.02, 20, 2, draw)

    wrong, _, images, _ = tf.function(run, autograph=False)(x)
    assert wrong.numpy().all() and len(count) == looks
    assert np.abs(images - x).max() == pytest.approx(0.06 if remaining else 0.1)


def test_pixels_that_do_not_matter_do_not_stop_an_attack():
    """A classifier that sees one pixel falls, though the gradient by all others is 0."""
    x, y = tf.constant(np.full((1, 2, 2, 2, 1), 0.5)), tf.constant([[1.0, 0.0], [0.0, 1.0]], tf.float64)

    def classify(x):
        seen = x[:, :, 0, 0, 0] - tf.constant([0.45, 0.55], tf.float64)
        return tf.stack([seen, -seen], -1)

    def run(x):
        look = attacks.together(classify, y, remaining=True)
        return attacks.pgd(look, x, y, attacks.NORMS["linf"], 0.1, 0.02, 10, 1, None, clean_start=True).wrong

    assert tf.function(run, autograph=False)(x).numpy().all()


def test_more_restarts_and_steps_find_what_fewer_miss():
    """A loss whose gradient vanishes in most places: a single start seldom finds the way."""
    y = tf.constant(np.tile([1.0, 0.0], (40, 1)))
    x = tf.constant(np.full((1, 40, 7, 7, 1), 0.5))

    def pocket(x):  # wrong only near one corner of the ball in two coordinates
        d = tf.reshape(x, [1, 40, -1])[..., :2] - 0.5
        near = tf.nn.relu(1 - tf.reduce_sum(tf.square(d - 0.08), -1) / 0.003)
        return tf.stack([tf.fill(near.shape, tf.constant(0.5, tf.float64)), near], -1)

    def share(restarts):
        @tf.function(autograph=False)
        def run(x):
            def draw(restart, k):
                return normals(40, tf.stack([restart, 7]))(k)

            look = attacks.together(pocket, y)
            return attacks.pgd(look, x, y, attacks.NORMS["linf"], 0.1, 0.02, 10, restarts, draw).wrong

        return run(x).numpy().mean()

    one, many = share(1), share(20)
    assert 0 < one < 0.7 and many > one + 0.2


def test_the_first_and_the_last_place_are_looked_at():
    """One step from the clean image: the place behind it is the last, and is looked at."""
    x, y = images_at([0.05, -0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (2, 1)))

    def wrong(step):
        def run(x):
            look = attacks.together(linear, y)
            return attacks.pgd(look, x, y, attacks.NORMS["linf"], 0.2, step, 1, 1, None, clean_start=True).wrong

        return tf.function(run, autograph=False)(x).numpy()[0].tolist()

    assert wrong(0.06) == [True, True] and wrong(0.04) == [False, True]


def test_a_misclassified_place_is_worse_than_one_of_a_larger_loss():
    """Of three classes, the own one may lose narrowly to one other, or share its loss between both."""
    y = tf.constant([[1.0, 0.0, 0.0]])
    places = {"narrow": [1.0, 0.9, 0.9], "lost": [1.0, 1.1, -5.0], "far": [0.0, 2.0, -5.0], "right": [3.0, 0.0, 0.0]}
    losses = {name: layers.cross_entropies(tf.constant([[row]]), y).numpy().item() for name, row in places.items()}
    assert losses["narrow"] > losses["lost"]
    for order, last in (("narrow lost right", "lost"), ("lost narrow", "lost"), ("far lost narrow", "far")):
        worst = attacks.Worst.of_none(tf.zeros([1, 1, 1, 1, 1]))
        for name in order.split():
            number = list(places).index(name)
            worst = worst.and_at(tf.fill([1, 1, 1, 1, 1], float(number)), tf.constant([[places[name]]]), y)
        assert worst.wrong.numpy().all() and worst.labels.numpy().item() == 1
        assert worst.images.numpy().item() == list(places).index(last)
        assert worst.loss.numpy().item() == pytest.approx(losses[last])


def test_the_margin_is_the_distance_of_the_logits():
    logits, y = RNG.normal(size=(2, 5, 4)), np.eye(4)[[0, 3, 1, 1, 2]]
    margins = attacks.margin(tf.constant(logits), tf.constant(y)).numpy()
    for task in range(2):
        for row in range(5):
            own = y[row].argmax()
            others = np.delete(logits[task, row], own)
            assert margins[task, row] == pytest.approx(others.max() - logits[task, row, own])


@pytest.mark.parametrize("threat", ["joint", "single"])
def test_a_margin_has_a_gradient_where_the_cross_entropy_has_none(threat):
    """float32 of logits that are far apart: the reason for a second loss."""
    x, y = tf.fill([1, 1, 2, 2, 1], 0.5), tf.constant([[1.0, 0.0]])

    def classify(x):
        total = tf.reduce_sum(x, [2, 3, 4])
        return tf.stack([200 * total, -200 * total], -1)

    def gradient(loss):
        def look(x):
            if threat == "single":
                return attacks.one_by_one(classify, x, y, loss=attacks.LOSSES[loss])(x)
            return attacks.together(classify, y, attacks.LOSSES[loss])(x)

        return tf.function(lambda x: look(x)[1], autograph=False)(x)

    assert not gradient("cross_entropy").numpy().any()
    np.testing.assert_allclose(gradient("margin"), np.full(x.shape, -400.0))


def test_the_losses_of_a_task_that_is_lost_are_not_those_of_another_in_any_draw():
    """Two tasks of one image each, of which the first is lost; a guide of two draws a task."""
    x = tf.concat([images_at([distance], "linf") for distance in (-0.2, 0.2)], 0)
    y = tf.constant([[1.0, 0.0]], tf.float64)

    def guide(images):
        return 0.1 * tf.concat([linear(images), 2 * linear(images)], 0)

    @tf.function(autograph=False)
    def run(x):
        look = attacks.together(linear, y, guide=guide, remaining=True)
        joint = attacks.together(linear, y, guide=guide)
        return look(x, tf.zeros([2, 1], tf.bool))[1], joint(x, tf.ones([2, 1], tf.bool))[1]

    remaining, all_of_them = (gradient.numpy() for gradient in run(x))
    assert not remaining[0].any() and all_of_them[0].any()
    np.testing.assert_allclose(remaining[1], all_of_them[1])


@pytest.mark.parametrize("threat", ["joint", "single"])
def test_the_gradient_is_that_of_the_guide_and_the_logits_are_not(threat):
    """Of a guide that classifies twice, by two models: the mean of both."""
    x = tf.constant(RNG.uniform(size=(2, 3, 7, 7, 1)))
    y = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], tf.float64)
    others = tf.constant(RNG.normal(size=(4, DIMS, 2)))  # two for each task, in the order of the tasks, twice

    def guide(images):
        twice = tf.tile(tf.reshape(images, [2, 3, DIMS]), [2, 1, 1])
        return tf.einsum("kqd,kdc->kqc", twice, others)

    @tf.function(autograph=False)
    def run(x):
        if threat == "single":
            return attacks.one_by_one(linear, x, y, 1, layers.cross_entropies, guide)(x)
        return attacks.together(linear, y, layers.cross_entropies, guide)(x)

    logits, gradient = (value.numpy() for value in run(x))
    np.testing.assert_allclose(logits, linear(x))
    flat = tf.reshape(x, [2, 3, DIMS]).numpy()
    for task in range(2):
        wanted = 0
        for w in (others[task].numpy(), others[task + 2].numpy()):
            score = np.exp(flat[task] @ w)
            wanted = wanted + (score / score.sum(-1, keepdims=True) - y.numpy()) @ w.T
        np.testing.assert_allclose(gradient[task].reshape(3, DIMS), wanted / 2)


# ---- square attack


def test_square_attack_stays_in_the_ball_and_the_box_and_finds_what_is_within_reach():
    """A linear classifier falls to the corner of the ball; a random search comes close to it."""
    x, y = images_at([0.02, 0.05, 0.15, -0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (4, 1)))

    def run(x):
        numbers = lambda number, k: normals(4, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(attacks.together(linear, y), x, y, attacks.NORMS["linf"], 0.1, None, 600, 1, numbers)

    wrong, loss, images, labels = (value.numpy() for value in tf.function(run, autograph=False)(x))
    assert wrong[0].tolist() == [True, True, False, True] and (labels == wrong).all()
    assert images.min() >= 0 and images.max() <= 1 and np.abs(images - x).max() <= 0.1 + 1e-9
    np.testing.assert_allclose(loss, layers.cross_entropies(linear(tf.constant(images)), y))
    # Without a gradient it is nearly at the corner that a gradient's signs lead to.
    w = WEIGHTS[:, 0] - WEIGHTS[:, 1]
    moved = -((images - x.numpy())[0].reshape(4, DIMS) @ w) / (0.1 * np.abs(w).sum())
    assert moved[2] > 0.9


def never_lost(x):
    """A look at a classifier that takes nothing for the second class, but is the less sure of it the more ink there
    is."""
    ink = tf.reduce_mean(tf.round(x), [2, 3, 4])
    return tf.stack([tf.ones_like(ink), ink], -1), None


def test_a_square_attack_stays_in_the_box():
    x = tf.constant(RNG.integers(0, 2, (1, 3, 7, 7, 1)).astype(float))
    y, numbers = tf.constant(np.tile([1.0, 0.0], (3, 1))), lambda number, k: normals(3, tf.stack([number, 1]))(k)

    def run(x):
        return attacks.square(never_lost, x, y, attacks.NORMS["linf"], 0.6, None, 10, 1, numbers).images

    images = tf.function(run, autograph=False)(x).numpy()
    assert images.min() >= 0 and images.max() <= 1 and np.abs(images - x).max() == pytest.approx(0.6)


def test_a_square_attack_needs_no_gradient_and_its_squares_shrink():
    """Of a classifier whose gradient is 0 everywhere."""
    steps, seen = 100, []
    x, y = tf.constant(np.full((1, 2, 9, 9, 1), 0.5)), tf.constant(np.tile([1.0, 0.0], (2, 1)))

    def look(x):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return never_lost(x)

    def run(x):
        numbers = lambda number, k: normals(2, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(look, x, y, attacks.NORMS["linf"], 0.1, None, steps, 1, numbers).images

    images = tf.function(run, autograph=False)(x)
    assert (tf.reduce_mean(tf.round(images), [2, 3, 4]).numpy() > 0.9).all()  # ink nearly everywhere
    assert len(seen) == steps + 2  # the clean image, stripes, and every proposal
    stripes, proposals = seen[1], seen[2:]
    assert (stripes == stripes[:, :, :1]).all()  # along the columns
    assert {round(float(v), 6) for v in np.unique(np.stack(proposals))} <= {0.4, 0.6}
    changed = [np.abs(proposal - stripes)[0, 0] > 0 for proposal in proposals[:1]]
    rows, columns = np.flatnonzero(changed[0].any(1)), np.flatnonzero(changed[0].any(0))
    assert 1 <= len(rows) <= 8 and 1 <= len(columns) <= 8  # the first squares are 8 x 8
    late = [np.abs(a - b)[0, 0, ..., 0] > 0 for a, b in zip(proposals[-10:], proposals[-11:-1], strict=True)]
    assert max(place.sum() for place in late) <= 2  # the last are single pixels: one given back, one tried


def test_a_square_attack_moves_no_image_that_is_lost():
    """Of three images that are lost at the clean place, on the way, and never; with two restarts."""
    steps, seen = 20, []
    x, y = tf.constant(np.full((1, 3, 9, 9, 1), 0.5)), tf.constant(np.tile([1.0, 0.0], (3, 1)))

    def look(x):
        tf.numpy_function(lambda value: seen.append(value[0].copy()), [x], [])
        ink = tf.reduce_mean(x, [2, 3, 4])
        return tf.stack([tf.constant([[0.4, 0.55, 0.7]], ink.dtype), ink], -1), None

    def run(x):
        numbers = lambda number, k: normals(3, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(look, x, y, attacks.NORMS["linf"], 0.1, None, steps, 2, numbers).wrong

    assert tf.function(run, autograph=False)(x).numpy().tolist() == [[True, True, False]]
    clean, first, again = seen[0], np.array(seen[1 : steps + 2]), np.array(seen[steps + 2 :])
    assert (first[:, 0] == clean[0]).all() and (again[:, :2] == clean[:2]).all()
    lost = int(np.argmax(first[:, 1].mean((1, 2, 3)) > 0.55))
    assert 0 < lost < steps and (first[lost:, 1] == first[lost, 1]).all()
    assert (np.abs(first[:lost, 1] - 0.5) > 0.09).all() and (np.abs(first[:, 2] - 0.5) > 0.09).all()


def proposals_of(shape, steps, normals, margins=None, **more):
    """What a square attack within 0.1 tries on a grey image of this shape, [1+steps,H,W,C]: stripes, and, as no image's
    margin is better than another's, these with one square each. margins: of the image, the stripes and the others."""
    seen, x = [], tf.constant(np.full((1, 1, *shape), 0.5))

    def look(x):
        def margin(value):
            seen.append(value[0, 0].copy())
            return np.float64(margins[len(seen) - 1] if margins else 0)

        other = tf.reshape(tf.numpy_function(margin, [x], tf.float64), [1, 1, 1])
        return tf.concat([tf.zeros_like(other), other], -1), None

    def run(x):
        y = tf.constant([[1.0, 0.0]], tf.float64)
        return attacks.square(look, x, y, attacks.NORMS["linf"], 0.1, None, steps, 1, normals, **more).wrong

    tf.function(run, autograph=False)(x)
    return np.stack(seen[1:])


def falling(number, k):
    """All stripes are above the image, all squares below it, at random places."""
    places = tf.random.stateless_normal([1, k], tf.stack([number, 1]), dtype=tf.float64)
    squares = tf.concat([places[:, :2], tf.fill([1, k - 2], tf.constant(-1.0, tf.float64))], 1)
    return tf.where(number > 0, squares, tf.ones_like(squares))


@pytest.mark.parametrize(
    ("size", "more", "sides"),
    # sqrt(share / 2^n) of the image's side, of n = 0, 1, ... halvings
    [
        (28, {}, [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]),  # a share of 0.8
        (40, {}, [36, 25, 18, 13, 9, 6, 4, 3, 2, 2]),
        (40, {"share": 0.05}, [9, 6, 4, 3, 2, 2, 1, 1, 1, 1]),
    ],
)
def test_the_squares_of_a_square_attack_follow_the_schedule(size, more, sides):
    """Their area is halved behind the steps 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000; here are 400,
    and the thresholds themselves are left out, as they are rounded."""

    stripes, *proposals = proposals_of((size, size, 1), 400, falling, **more)
    np.testing.assert_allclose(stripes, 0.6)
    halvings = np.array([0.4, 2, 8, 20, 40, 80, 160, 240, 320])
    corners = set()
    for number, proposal in enumerate(proposals):
        if number in halvings:
            continue
        side = sides[np.sum(number > halvings)]
        row, column = (axis.min() for axis in np.nonzero(proposal[..., 0] < 0.5))
        expected = np.full((size, size, 1), 0.6)
        expected[row : row + side, column : column + side] = 0.4
        np.testing.assert_allclose(proposal, expected, err_msg=f"step {number}")
        corners.add((row, column))
    assert len(corners) > 100


@pytest.mark.parametrize("shape", [(6, 12, 1), (12, 6, 1)])
def test_squares_lie_everywhere_in_an_image_that_is_no_square(shape):
    """Each wholly in it, and all of them together at each of its four edges."""
    stripes, *proposals = proposals_of(shape, 300, falling)
    first, last = [], []
    for proposal in proposals:
        rows, columns = np.nonzero((proposal != stripes).any(-1))
        first.append((rows.min(), columns.min()))
        last.append((rows.max(), columns.max()))
        assert np.ptp(rows) == np.ptp(columns) and len(rows) == (1 + np.ptp(rows)) ** 2
    assert last[0] == (first[0][0] + 5, first[0][1] + 5)  # sqrt(0.8 * 72) = 7.6 is more than the image's side
    assert np.min(first, 0).tolist() == [0, 0] and np.max(last, 0).tolist() == [shape[0] - 1, shape[1] - 1]


def test_a_square_is_compared_with_the_best_one_and_not_with_the_one_before():
    """Of the clean image, the stripes, and what is proposed: -4 is given back, so is -3, and -1 stays."""
    stripes, *proposals = proposals_of((16, 16, 1), 7, falling, [-5, -2, -4, -3, -1, -6, -6, -6, -6])
    changed = [(proposal != stripes).sum() for proposal in proposals]
    assert changed[:3] == [14**2, 3**2, 2**2]
    assert all(4 <= number <= 5 for number in changed[3:])  # beside it one pixel


def test_the_channels_of_a_square_attack_have_signs_of_their_own():
    def numbers(number, k):
        return tf.random.stateless_normal([1, k], tf.stack([number, 2]), dtype=tf.float64)

    stripes, *proposals = proposals_of((6, 6, 3), 10, numbers)
    signs = np.sign(numbers(0, 18).numpy()).reshape(6, 3)
    np.testing.assert_allclose(stripes, np.broadcast_to(0.5 + 0.1 * signs, (6, 6, 3)))
    for number, proposal in enumerate(proposals, 1):
        changed = (proposal != stripes).any(-1)
        signs = np.sign(numbers(number, 5).numpy())[0, 2:]
        np.testing.assert_allclose(proposal[changed], np.broadcast_to(0.5 + 0.1 * signs, (changed.sum(), 3)))


def test_more_restarts_of_a_square_attack_have_draws_of_their_own():
    x, y = images_at([0.05], "linf"), tf.constant([[1.0, 0.0]], tf.float64)
    numbers = []

    def draw(number, k):
        tf.numpy_function(lambda n: numbers.append(int(n)), [number], [])
        return normals(1, tf.stack([number, 1]))(k)

    def run(x):
        look = attacks.together(linear, y)
        return attacks.square(look, x, y, attacks.NORMS["linf"], 0.01, None, 5, 3, draw).wrong

    tf.function(run, autograph=False)(x)
    assert sorted(numbers) == list(range(18))


# ---- the adversary of meta-training


@pytest.mark.parametrize("name", attacks.NORMS)
def test_an_adversary_perturbs_within_the_ball_and_raises_the_loss(name):
    x = tf.constant(np.clip(images_at([0.3, 0.1, 0.2], "l2").numpy(), 0, 1))
    y = tf.constant(np.tile([1.0, 0.0], (3, 1)))
    places, seen = [], []

    def noise(step, layer, shape):
        places.append((step, layer))
        return tf.reshape(normals(shape[0] * shape[1])(shape[2]), shape)

    def classify(x):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return linear(x)

    def run(x):
        images = attacks.Adversary(name, 0.5, 7).perturb(classify, x, y, noise)
        return images, tf.gradients(tf.reduce_sum(images), x)

    images, gradient = tf.function(run, autograph=False)(x)
    assert gradient == [None]  # a constant of whatever is differentiated
    assert places == [(attacks.adversary.OUTER, "dense")] and attacks.adversary.OUTER > 10_000  # which no inner step is
    d = (images - x).numpy().reshape(3, -1)
    assert images.numpy().min() >= 0 and images.numpy().max() <= 1
    assert (norm_of(name, d) <= 0.5 + 1e-9).all() and (norm_of(name, d) > 0.25).all()
    losses = [layers.cross_entropies(linear(tf.constant(value)), y).numpy() for value in (x.numpy(), images.numpy())]
    assert (losses[1] > losses[0]).all()
    assert np.abs(seen[0] - x.numpy()).max() > 0.01  # it begins at a random place
    moves = np.diff(np.array(seen).reshape(7, 3, -1), axis=0)  # seven steps, each from a place that was looked at
    if name in ("linf", "l2"):  # whose projections lengthen no step
        assert norm_of(name, moves).max() <= 0.5 * 2.5 / 7 + 1e-9
    if name == "linf":  # seven steps, two and a half times as long as the radius, lead into the corner
        corner = np.clip(x.numpy().reshape(3, -1) - 0.5 * np.sign(WEIGHTS[:, 0] - WEIGHTS[:, 1]), 0, 1)
        np.testing.assert_allclose(images.numpy().reshape(3, -1), corner, atol=1e-12)


def test_an_adversary_keeps_to_the_range_of_the_inputs():
    """The same attack on images in [0, 1] and on what a network gets in their place; eps is of those in [0, 1]."""
    ends = Range(-3.0, 5.0)
    x = tf.constant(np.clip(images_at([0.3, 0.1, 0.2], "l2").numpy(), 0, 1))
    y = tf.constant(np.tile([1.0, 0.0], (3, 1)))

    def noise(step, layer, shape):
        return tf.reshape(normals(shape[0] * shape[1])(shape[2]), shape)

    @tf.function(autograph=False)
    def run(x):
        unit = attacks.Adversary("linf", 0.6, 3).perturb(linear, x, y, noise)
        adversary = attacks.Adversary("linf", 0.6, 3, ends)
        return unit, adversary.perturb(lambda x: linear((x + 3) / 8), 8 * x - 3, y, noise)

    unit, inputs = (images.numpy() for images in run(x))
    np.testing.assert_allclose(inputs, 8 * unit - 3, atol=1e-9)
    assert inputs.min() == -3 and inputs.max() == 5 and 4 < np.abs(inputs - (8 * x - 3)).max() <= 4.8 + 1e-9


def test_an_adversary_meets_mixed_query_images_with_their_mixed_labels():
    learner = model.make("maml", "mixup", mix_set="query", image_shape=(16, 16, 1), channels=3, way=3, n_steps=1)
    params = learner.init(0)
    x_s, x_q = (tf.constant(np.random.default_rng(0).random((2, 3 * n, 16, 16, 1)), tf.float32) for n in (1, 2))
    noise = task_noise(tf.constant([[1, 2], [3, 4]]))
    adversary = mock.Mock(perturb=mock.Mock(side_effect=lambda classify, x, y, noise: x + tf.reduce_sum(y) * 0))

    @tf.function(autograph=False)
    def labels():
        seen = []
        for training in (True, False):
            model.evaluate(learner, params, x_s, x_q, noise, training=training, adversary=adversary)
            seen.append(adversary.perturb.call_args.args[2])
        return *seen, learner.targets(model.labels(3, 2), noise)

    mixed, plain, expected = labels()
    np.testing.assert_array_equal(mixed, expected)
    np.testing.assert_array_equal(plain, model.labels(3, 2))
    assert mixed.shape == (2, 6, 3)
