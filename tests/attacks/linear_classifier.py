"""A linear classifier, whose images' distances from the boundary are known."""

import numpy as np
import tensorflow as tf

DIMS = 49
WEIGHTS = np.random.default_rng(0).normal(size=(DIMS, 2))
DUAL = {"linf": 1, "l2": 2, "l1": np.inf, "l1_dense": 2}


def normals(rows, seed=(3, 4)):
    return lambda k: tf.random.stateless_normal([rows, k], seed, dtype=tf.float64)


def norm_of(name, d):
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l1_dense": 1}[name]
    return np.linalg.norm(d, order, -1)


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
