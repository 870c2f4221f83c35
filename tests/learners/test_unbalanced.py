"""Support sets whose classes have different numbers of images: every class counts the same, in every learner."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import layers
import learners
import model
from declared import own_settings
from perturbations.draws import UNPERTURBED

WAY, SHAPE = 3, (16, 18, 1)
COUNTS = [3, 1, 1]
LABELS = np.repeat(np.arange(WAY), COUNTS)
REPEATED = [0, 1, 2, 3, 3, 3, 4, 4, 4]  # the lone images three times each
SETTINGS = {
    "metanet_embedding": {"test_statistics": "batch"},
    "metanet_original": {"test_statistics": "batch"},
    "reptile": {"n_test_steps": 2, "inner_test_batch": 45},  # every image in every minibatch
}


def no_noise(step, layer, shape):
    """The same for an image and its copies."""
    return tf.zeros(shape, tf.float64)


@pytest.mark.parametrize(("name", "perturbation"), [*((name, None) for name in learners.LEARNERS), ("maml", "vib")])
def test_a_class_of_one_image_counts_as_one_of_three(name, perturbation):
    """What is learned is what is learned where the lone images are repeated, to float64's rounding; where noise has a
    price, too."""
    own = {"n_steps": 2} if "n_steps" in own_settings(name) else {}
    learner = learners.make(name, perturbation, image_shape=SHAPE, channels=3, way=WAY, **own, **SETTINGS.get(name, {}))
    params, rng = learner.init(0, "float64"), np.random.default_rng(0)
    params = {k: v + 0.3 * tf.random.stateless_normal(v.shape, [1, 2], dtype=v.dtype) for k, v in params.items()}
    params = {
        k: tf.abs(v) + 0.1 if k.startswith("running/") and not k.endswith("mean") else v for k, v in params.items()
    }
    x, x_q = (tf.constant(rng.random((1, n, *SHAPE))) for n in (len(LABELS), 4))
    y = tf.constant(np.eye(WAY)[LABELS])

    def beside_a_sum(images):  # the penalty of ridge regression stands beside a sum over the images
        more = np.log(images / len(LABELS))
        return {name: value + more if name == "ridge/log_penalty" else value for name, value in params.items()}

    @tf.function(autograph=False)
    def adapt(x, y):
        return learner.adapt(beside_a_sum(x.shape[1]), x, y, no_noise, 2)[0]

    @tf.function(autograph=False)
    def plainly(x):  # as in training, where all classes have as many images
        return learner.adapt(beside_a_sum(x.shape[1]), x, model.labels(WAY, 3, tf.float64), no_noise, 2)[0]

    @tf.function(autograph=False)
    def classify(adapted, x, shares):
        return learner.classify(params, adapted, x, shares=shares)[0]

    @tf.function(autograph=False)
    def by_features(adapted, x, shares):
        h = learner.features(params, adapted, x, dataclasses.replace(UNPERTURBED, shares=shares))
        return layers.dense(h, *learner.linear(adapted))

    unequal = adapt(x, y)
    repeated = adapt(tf.gather(x, REPEATED, axis=1), tf.gather(y, REPEATED))
    plain = plainly(tf.gather(x, REPEATED, axis=1))
    for a, b, c in zip(*map(tf.nest.flatten, (unequal, repeated, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(b, c, rtol=1e-9, atol=1e-11)
    shares = layers.image_shares(y, layers.class_shares(y))
    both = tf.concat([x, x_q], 1)
    likewise = tf.constant([1 / 9] * 9 + [0.0] * 4, tf.float64)
    found = classify(unequal, both, tf.pad(shares, [[0, 4]]))[:, 5:]
    of_repeated = classify(unequal, tf.concat([tf.gather(x, REPEATED, axis=1), x_q], 1), likewise)[:, 9:]
    np.testing.assert_allclose(found, of_repeated, rtol=1e-9, atol=1e-11)
    if learner.inspectable:
        of_features = by_features(unequal, both, tf.pad(shares, [[0, 4]]))[:, 5:]
        np.testing.assert_allclose(found, of_features, rtol=1e-9, atol=1e-11)
    unweighted = classify(unequal, both, None)[:, 5:]
    if np.abs(unweighted - classify(unequal, x_q, None)).max() > 1e-9:  # predictions depend on the batch
        assert np.abs(found - unweighted).max() > 1e-3


def test_in_a_pass_of_small_minibatches_every_class_counts_the_same(monkeypatch):
    """The loss is replaced by 1 for the images of a class; the large class fills minibatches by itself."""
    counts = [7, 1, 1]
    x, y = tf.zeros([1, 9, *SHAPE], tf.float64), tf.constant(np.eye(WAY)[np.repeat(np.arange(WAY), counts)])
    settings = {"n_test_steps": 3, "inner_test_batch": 3}  # one pass
    learner = learners.make("reptile", image_shape=SHAPE, channels=3, way=WAY, **settings)
    for one in range(WAY):
        monkeypatch.setattr(layers, "cross_entropies", lambda z, y, one=one: y[..., one] + 0 * tf.reduce_sum(z, -1))

        @tf.function(autograph=False)
        def loss():
            start, step, minibatches = learner.inner_loop(learner.init(0, "float64"), x, y, no_noise, training=False)
            return tf.foldl(step, minibatches, start).loss

        np.testing.assert_allclose(loss(), [9 / WAY / 3], rtol=1e-12)  # the mean of each minibatch of three


def test_a_minibatch_of_images_without_weight_moves_nothing():
    """Pictures that are left out have no weight, and a minibatch of Reptile may hold nothing else."""
    settings = {"n_test_steps": 6, "inner_test_batch": 1}
    learner = learners.make("reptile", image_shape=SHAPE, channels=3, way=WAY, **settings)
    params, x = learner.init(0, "float64"), tf.constant(np.random.default_rng(0).random((1, len(LABELS), *SHAPE)))
    y = tf.constant(np.eye(WAY)[LABELS] * np.array([1, 1, 0, 1, 1])[:, None])
    adapted = tf.function(lambda: learner.adapt(params, x, y, no_noise)[0])()
    assert all(np.isfinite(value).all() for value in tf.nest.flatten(adapted))


def test_shares_of_classes_and_images():
    y = tf.constant(np.eye(4)[LABELS])  # the last class has no image
    shares = layers.class_shares(y)
    np.testing.assert_allclose(shares, [1 / 9, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(layers.image_shares(y, shares), np.array([1, 1, 1, 3, 3]) / 9)
    assert layers.class_shares(model.labels(3, 2)) is None and layers.image_shares(y, None) is None


def test_the_published_gradient_needs_equal_classes_and_known_labels():
    """Batch norm with weights has no published gradient: `adapt` would return the exact one in its place."""
    x, y = tf.zeros([1, len(LABELS), *SHAPE]), tf.constant(np.eye(WAY, dtype=np.float32)[LABELS])
    for gradient in ("published", "exact", "first_order"):
        learner = learners.make("maml", image_shape=SHAPE, channels=2, way=WAY, n_steps=0, meta_gradient=gradient)
        params = learner.init(0)
        learner.adapt(params, x, y, no_noise)
        learner.adapt(params, x[:, :WAY], model.labels(WAY, 1), no_noise, training=True)
        if gradient == "published":
            with pytest.raises(ValueError, match="the same number of support images of each class"):
                learner.adapt(params, x, y, no_noise, training=True)
        else:
            learner.adapt(params, x, y, no_noise, training=True)
