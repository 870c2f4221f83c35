"""Digests of weights and of test episodes, which identify a result; a check that all processes train the same run."""

from __future__ import annotations

import hashlib
import json
import zlib

import data
from lazy import tf
from training import weights
from training.steps import Engine, mean_over_replicas


def weights_digest(engine: Engine) -> str:
    """Return the SHA-256 of all parameters, by name."""
    return weights.digest({name: variable.numpy() for name, variable in engine.params.items()})


def episodes_digest(engine: Engine, split: data.Split, episodes: int) -> str:
    """Return the SHA-256 of the first test episodes: their images, and which of them are support and which query."""
    tasks = f"{zlib.crc32(split.pixels)} {engine.learner.way} {engine.shot} {engine.query}"
    tasks += f" {split.counts.tolist()}" if split.counts is not None else ""
    digest = hashlib.sha256(tasks.encode())
    for i in range(episodes):
        for indices in engine.episode(split, "test", i):
            digest.update(indices.tobytes())
    return digest.hexdigest()


def same_everywhere(strategy: tf.distribute.Strategy, *facts) -> bool:
    """Return True if all processes call this with the same facts, which JSON can hold."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
    number = tf.constant(int.from_bytes(digest[:6], "big"), tf.float64)

    @tf.function(autograph=False)
    def mean():
        return strategy.run(lambda: mean_over_replicas(number))

    return float(strategy.experimental_local_results(mean())[0]) == float(number)
