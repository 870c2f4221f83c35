"""The balls of the norms: sizes, projections, directions and random starts."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

import attacks
from linear_classifier import DIMS, linear, norm_of, normals

RNG = np.random.default_rng(0)


def test_the_radii_are_the_papers():
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
def test_a_point_in_the_ball_stays_and_one_outside_is_projected_onto_its_surface(name):
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
    step = attacks.norms.sparse_direction(tf.constant(g), tf.constant(x)).numpy()[0]
    assert set(np.flatnonzero(step)) == set(order[1:5])
    np.testing.assert_allclose(step[order[1:5]], np.sign(g[0, order[1:5]]) / 4)


@pytest.mark.parametrize(("size", "hundredth"), [(28 * 28, 8), (84 * 84 * 3, 212), (49, 1)])
def test_a_hundredth_is_rounded_and_one_at_least(size, hundredth):
    g = tf.constant(RNG.normal(size=(2, size)))
    step = attacks.norms.sparse_direction(g, tf.fill(g.shape, tf.constant(0.5, tf.float64))).numpy()
    assert np.count_nonzero(step, axis=1).tolist() == [hundredth] * 2


def test_a_sparse_step_stays_in_the_box_from_where_it_begins():
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
def test_an_attack_starts_anywhere_in_the_ball(name):
    """Where the box is far away, at a start in the ball of radius 1 times eps."""
    norm, eps, seen = attacks.NORMS[name], 0.3, []
    start = eps * norm.start(normals(5), DIMS)
    x, y = tf.constant(np.full((1, 5, 7, 7, 1), 0.5)), tf.constant(np.tile([1.0, 0.0], (5, 1)))
    d = attacks.norms.random_start(tf.reshape(x, [5, DIMS]), norm, eps, normals(5))
    np.testing.assert_allclose(d, start, atol=1e-12)
    assert norm_of(name, d).max() > 0.9 * eps  # most of the volume is there

    def oracle(x, lost):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return attacks.joint_oracle(linear, y)(x)

    def run(x):
        return attacks.pgd(oracle, x, y, norm, eps, 0.1, 1, 1, lambda restart, k: normals(5)(k)).lost

    tf.function(run, autograph=False)(x)
    np.testing.assert_allclose(seen[1].reshape(5, DIMS) - 0.5, start, atol=1e-12)  # behind the clean images
