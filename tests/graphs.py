"""Graphs in less time, for tests: tracing them and calling them for the first time is most of what a test takes."""

import gc

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops


def rewrite(on: bool) -> None:
    """Let TensorFlow rewrite graphs before their first call (it fuses kernels, for example), as it does for users, or
    not: that takes a quarter of the time, and tests whose subject is what kernels compute have it on."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not on})


def alive() -> int:
    """Return the number of graphs in memory, after the collector has freed what it can."""
    gc.collect()
    return sum(issubclass(type(thing), tf.Graph) for thing in gc.get_objects())


def share_integers() -> None:
    """Let equal integers of a graph be one constant, from now on.

    Every shape, axis and permutation is a constant of its own, two of five operations of a training step. Nobody
    differentiates by an integer, so that a graph computes the same. The function is TensorFlow's own: where a version
    has none of this name, tests take longer.
    """
    create = getattr(ops, "_create_graph_constant", None)
    if create is None:
        return

    def constant(value, dtype, *args, **more):
        whole = dtype is None or tf.as_dtype(dtype).is_integer
        array = np.asarray(value) if whole and isinstance(value, int | np.integer | list | tuple | np.ndarray) else None
        if array is None or array.dtype.kind != "i" or array.size > 8:
            return create(value, dtype, *args, **more)
        graph = ops.get_default_graph()
        shared = getattr(graph, "_shared_integers", None)  # the graph has them, and they die with it
        if shared is None:
            shared = graph._shared_integers = {}
        key = dtype, array.dtype, array.shape, array.tobytes(), str(args[:1])  # with the shape that is asked for
        if key not in shared:
            shared[key] = create(value, dtype, *args, **more)
        return shared[key]

    ops._create_graph_constant = constant
