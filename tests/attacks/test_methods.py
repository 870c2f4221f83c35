"""Projected gradient descent and Square Attack, on classifiers whose worst case is known."""

import numpy as np
import pytest
import tensorflow as tf

import attacks
import layers
from linear_classifier import DIMS, WEIGHTS, images_at, linear, norm_of, normals

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", attacks.NORMS)
@pytest.mark.parametrize("threat", ["joint", "single"])
def test_images_of_a_linear_classifier_are_lost_if_the_boundary_is_within_eps(name, threat):
    """An image at the distance a from the boundary is lost to an attack of eps > a, and to none of eps < a. Dense L1
    steps go along the gradient, so that they reach as far as its length by its L1 norm."""
    distances = [0.02, 0.09, 0.11, 0.15, -0.05]
    x, y = images_at(distances, name), tf.constant(np.tile([1.0, 0.0], (5, 1)))
    assert x.numpy().min() >= 0 and x.numpy().max() <= 1

    @tf.function(autograph=False)
    def run(x):
        oracle = attacks.joint_oracle(linear, y) if threat == "joint" else attacks.single_oracle(linear, x, y)
        return attacks.pgd(oracle, x, y, attacks.NORMS[name], 0.1, 0.025, 40, 2, lambda restart, k: normals(5)(k))

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
            attacks.joint_oracle(linear, y), x, y, attacks.NORMS["linf"], eps, step, 5, 1, lambda _, k: normals(6)(k)
        )

    wrong, _, worst, _ = run(x, tf.constant(0.0, tf.float64), tf.constant(0.0, tf.float64))
    np.testing.assert_array_equal(wrong[0], linear(x).numpy()[0].argmax(-1) == 1)
    np.testing.assert_array_equal(worst, x)
    _, _, worst, _ = run(x, tf.constant(0.3, tf.float64), tf.constant(0.1, tf.float64))
    assert worst.numpy().min() >= 0 and worst.numpy().max() <= 1
    assert norm_of("linf", (worst - x).numpy().reshape(6, -1)).max() <= 0.3 + 1e-9


def test_an_attack_tells_its_oracle_which_images_are_lost():
    """Those of all steps and restarts so far, though some are right again: what is lost climbs back."""
    seen, y = [], tf.constant(np.tile([1.0, 0.0], (3, 1)))
    x = images_at([0.05, 0.5, -0.05], "linf")

    def oracle(images, lost):
        logits, gradient = attacks.joint_oracle(linear, y)(images)
        tf.numpy_function(lambda lost, logits: seen.append((lost[0].copy(), logits[0].copy())), [lost, logits], [])
        back = attacks.oracles.misclassified(logits, y)[..., None, None, None]
        return logits, tf.where(back, -gradient, gradient)

    def run(x):
        def draw(restart, k):
            return normals(3, tf.stack([restart, 7]))(k)

        return attacks.pgd(oracle, x, y, attacks.NORMS["linf"], 0.1, 0.1, 3, 3, draw).lost

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
def test_with_remaining_an_attack_ends_when_all_images_are_lost(remaining, looks):
    """Both images are lost behind three steps. A restart looks at its first and its last place at least."""
    x, y, count = images_at([0.05, 0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (2, 1))), []

    def counted(images):
        tf.numpy_function(lambda images: count.append(images.shape), [images], [])
        return linear(images)

    def run(x):
        oracle = attacks.joint_oracle(counted, y, remaining=remaining)

        def draw(restart, k):  # both restarts begin at the clean image
            return tf.zeros([2, k], tf.float64)

        return attacks.pgd(oracle, x, y, attacks.NORMS["linf"], 0.1, 0.02, 20, 2, draw)

    wrong, _, images, _ = tf.function(run, autograph=False)(x)
    assert wrong.numpy().all() and len(count) == looks
    assert np.abs(images - x).max() == pytest.approx(0.06 if remaining else 0.1)


def test_pixels_with_gradient_0_do_not_stop_an_attack():
    """A classifier that sees one pixel falls, though the gradient by all others is 0."""
    x, y = tf.constant(np.full((1, 2, 2, 2, 1), 0.5)), tf.constant([[1.0, 0.0], [0.0, 1.0]], tf.float64)

    def classify(x):
        seen = x[:, :, 0, 0, 0] - tf.constant([0.45, 0.55], tf.float64)
        return tf.stack([seen, -seen], -1)

    def run(x):
        oracle = attacks.joint_oracle(classify, y, remaining=True)
        return attacks.pgd(oracle, x, y, attacks.NORMS["linf"], 0.1, 0.02, 10, 1, None, clean_start=True).lost

    assert tf.function(run, autograph=False)(x).numpy().all()


def test_more_restarts_misclassify_more_images():
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

            oracle = attacks.joint_oracle(pocket, y)
            return attacks.pgd(oracle, x, y, attacks.NORMS["linf"], 0.1, 0.02, 10, restarts, draw).lost

        return run(x).numpy().mean()

    one, many = share(1), share(20)
    assert 0 < one < 0.7 and many > one + 0.2


def test_the_first_and_the_last_point_are_visited():
    """One step from the clean image: the place behind it is the last, and is looked at."""
    x, y = images_at([0.05, -0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (2, 1)))

    def wrong(step):
        def run(x):
            oracle = attacks.joint_oracle(linear, y)
            return attacks.pgd(oracle, x, y, attacks.NORMS["linf"], 0.2, step, 1, 1, None, clean_start=True).lost

        return tf.function(run, autograph=False)(x).numpy()[0].tolist()

    assert wrong(0.06) == [True, True] and wrong(0.04) == [False, True]


def test_a_misclassified_point_is_worse_than_one_with_a_larger_loss():
    """Of three classes, the own one may lose narrowly to one other, or share its loss between both."""
    y = tf.constant([[1.0, 0.0, 0.0]])
    places = {"narrow": [1.0, 0.9, 0.9], "lost": [1.0, 1.1, -5.0], "far": [0.0, 2.0, -5.0], "right": [3.0, 0.0, 0.0]}
    losses = {name: layers.cross_entropies(tf.constant([[row]]), y).numpy().item() for name, row in places.items()}
    assert losses["narrow"] > losses["lost"]
    for order, last in (("narrow lost right", "lost"), ("lost narrow", "lost"), ("far lost narrow", "far")):
        worst = attacks.methods.WorstCase.initial(tf.zeros([1, 1, 1, 1, 1]))
        for name in order.split():
            number = list(places).index(name)
            worst = worst.updated(tf.fill([1, 1, 1, 1, 1], float(number)), tf.constant([[places[name]]]), y)
        assert worst.lost.numpy().all() and worst.labels.numpy().item() == 1
        assert worst.images.numpy().item() == list(places).index(last)
        assert worst.loss.numpy().item() == pytest.approx(losses[last])


def test_square_attack_stays_in_the_ball_and_the_box_and_misclassifies_images_near_the_boundary():
    """A linear classifier falls to the corner of the ball; a random search comes close to it."""
    x, y = images_at([0.02, 0.05, 0.15, -0.05], "linf"), tf.constant(np.tile([1.0, 0.0], (4, 1)))

    def run(x):
        numbers = lambda number, k: normals(4, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(attacks.joint_oracle(linear, y), x, y, attacks.NORMS["linf"], 0.1, None, 600, 1, numbers)

    wrong, loss, images, labels = (value.numpy() for value in tf.function(run, autograph=False)(x))
    assert wrong[0].tolist() == [True, True, False, True] and (labels == wrong).all()
    assert images.min() >= 0 and images.max() <= 1 and np.abs(images - x).max() <= 0.1 + 1e-9
    np.testing.assert_allclose(loss, layers.cross_entropies(linear(tf.constant(images)), y))
    # Without a gradient it is nearly at the corner that a gradient's signs lead to.
    w = WEIGHTS[:, 0] - WEIGHTS[:, 1]
    moved = -((images - x.numpy())[0].reshape(4, DIMS) @ w) / (0.1 * np.abs(w).sum())
    assert moved[2] > 0.9


def never_lost(x):
    """A oracle at a classifier that takes nothing for the second class, but is the less sure of it the more ink there
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

    def oracle(x):
        tf.numpy_function(lambda value: seen.append(value.copy()), [x], [])
        return never_lost(x)

    def run(x):
        numbers = lambda number, k: normals(2, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(oracle, x, y, attacks.NORMS["linf"], 0.1, None, steps, 1, numbers).images

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

    def oracle(x):
        tf.numpy_function(lambda value: seen.append(value[0].copy()), [x], [])
        ink = tf.reduce_mean(x, [2, 3, 4])
        return tf.stack([tf.constant([[0.4, 0.55, 0.7]], ink.dtype), ink], -1), None

    def run(x):
        numbers = lambda number, k: normals(3, tf.stack([number, 1]))(k)  # noqa: E731
        return attacks.square(oracle, x, y, attacks.NORMS["linf"], 0.1, None, steps, 2, numbers).lost

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

    def oracle(x):
        def margin(value):
            seen.append(value[0, 0].copy())
            return np.float64(margins[len(seen) - 1] if margins else 0)

        other = tf.reshape(tf.numpy_function(margin, [x], tf.float64), [1, 1, 1])
        return tf.concat([tf.zeros_like(other), other], -1), None

    def run(x):
        y = tf.constant([[1.0, 0.0]], tf.float64)
        return attacks.square(oracle, x, y, attacks.NORMS["linf"], 0.1, None, steps, 1, normals, **more).lost

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
def test_squares_lie_anywhere_in_an_oblong_image(shape):
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


def test_a_square_is_compared_with_the_best_one_not_with_the_last_one():
    """Of the clean image, the stripes, and what is proposed: -4 is given back, so is -3, and -1 stays."""
    stripes, *proposals = proposals_of((16, 16, 1), 7, falling, [-5, -2, -4, -3, -1, -6, -6, -6, -6])
    changed = [(proposal != stripes).sum() for proposal in proposals]
    assert changed[:3] == [14**2, 3**2, 2**2]
    assert all(4 <= number <= 5 for number in changed[3:])  # beside it one pixel


def test_the_channels_of_a_square_attack_have_independent_signs():
    def numbers(number, k):
        return tf.random.stateless_normal([1, k], tf.stack([number, 2]), dtype=tf.float64)

    stripes, *proposals = proposals_of((6, 6, 3), 10, numbers)
    signs = np.sign(numbers(0, 18).numpy()).reshape(6, 3)
    np.testing.assert_allclose(stripes, np.broadcast_to(0.5 + 0.1 * signs, (6, 6, 3)))
    for number, proposal in enumerate(proposals, 1):
        changed = (proposal != stripes).any(-1)
        signs = np.sign(numbers(number, 5).numpy())[0, 2:]
        np.testing.assert_allclose(proposal[changed], np.broadcast_to(0.5 + 0.1 * signs, (changed.sum(), 3)))


def test_restarts_of_a_square_attack_have_independent_draws():
    x, y = images_at([0.05], "linf"), tf.constant([[1.0, 0.0]], tf.float64)
    numbers = []

    def draw(number, k):
        tf.numpy_function(lambda n: numbers.append(int(n)), [number], [])
        return normals(1, tf.stack([number, 1]))(k)

    def run(x):
        oracle = attacks.joint_oracle(linear, y)
        return attacks.square(oracle, x, y, attacks.NORMS["linf"], 0.01, None, 5, 3, draw).lost

    tf.function(run, autograph=False)(x)
    assert sorted(numbers) == list(range(18))
