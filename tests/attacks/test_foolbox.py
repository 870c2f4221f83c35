"""A second opinion: foolbox's attacks take no more images from the same adapted classifiers than ours do."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import attacks
import data
import learners
from conftest import ROOT
from perturbations.draws import fold
from studies import robustness
from training import steps, weights

foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
EPISODES, STEPS = 6, 40
STEP = attacks.MADRY / STEPS
WITH = {"rel_stepsize": STEP, "steps": STEPS}
FOOLBOX = {  # its attack, and a radius that takes about half of the images
    "linf": (functools.partial(foolbox.attacks.LinfProjectedGradientDescentAttack, **WITH), 0.15),
    "l2": (functools.partial(foolbox.attacks.L2ProjectedGradientDescentAttack, **WITH), 2.0),
    "l1_dense": (functools.partial(foolbox.attacks.L1ProjectedGradientDescentAttack, **WITH), 40.0),
    "l1": (functools.partial(foolbox.attacks.SparseL1DescentAttack, **WITH), 10.0),
}


@pytest.fixture(scope="module", params=["maml", "metadrop"])
def trained(request, data_dir):
    """The engine of the weights in pretrained/, and the test classes."""
    file = ROOT / "pretrained" / f"glyphs_10way_1shot_{request.param}.npz"
    content = weights.read(file)
    learner = learners.make(request.param, image_shape=(28, 28, 1), channels=64, way=10, n_steps=5, inner_lr=0.1)
    one = steps.Engine(learner, shot=1, query=3, metabatch=1, seed=0)
    one.assign(file, content.params)
    return one, data.splits_of(data.load(data_dir, "glyphs"), "train")["test"]


def by_foolbox(one, split, make_attack, eps: float) -> np.ndarray:
    """Which query images foolbox takes, all of a task in one batch, as batch norm wants it: [EPISODES,Q]."""
    lost = []
    for episode in range(EPISODES):
        classes, images = one.episode(split, "test", episode)
        x_s, x_q = one.images(split, tf.constant(split.pixels), tf.constant(classes), tf.constant(images))
        adapted = one.adapt(x_s, fold(one.stream_seed("test"), episode)[None])
        classifier = foolbox.TensorFlowModel(lambda x, a=adapted: one.classify(a, x[None])[0], bounds=(0, 1))
        tf.random.set_seed(episode)
        labels = tf.constant(np.repeat(np.arange(10), 3))  # of int64: foolbox compares dtypes by an old numpy's means
        _, clipped, adversarial = make_attack()(classifier, x_q[0], labels, epsilons=[eps])
        assert np.max(np.abs(clipped[0] - x_q[0])) > 0
        lost.append(adversarial.numpy()[0])
    return np.stack(lost)


@pytest.mark.slow
@pytest.mark.parametrize("norm", attacks.NORMS)
def test_foolbox_takes_no_more_images_than_we_do(trained, norm):
    """To a point, and to what other random starts do: of the images that one of the two takes and the other does not,
    either may take the more. It keeps the last place of an image, we the worst, so that it may take fewer."""
    one, split = trained
    make_attack, eps = FOOLBOX[norm]
    ours = robustness.Attack("pgd", norm, (eps,), STEPS, STEP, "random", 1, "joint", "cross_entropy")
    step = robustness.attack_step(one, split, 1, ours)
    own = np.stack([step(episode, 1)[0][0, 0] for episode in range(EPISODES)])
    theirs = by_foolbox(one, split, make_attack, eps)
    print(f"{norm} {eps}: ours {100 * own.mean():.1f} %, foolbox {100 * theirs.mean():.1f} % lost")
    assert 0.1 < own.mean() < 0.98
    by_chance = 2 * np.sqrt(np.sum(own != theirs)) / own.size
    assert theirs.mean() < own.mean() + 0.01 + by_chance
    assert theirs.mean() > own.mean() - 0.15  # it is the same attack
