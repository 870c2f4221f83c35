"""What takes most of a test's time, tracing graphs and calling them for the first time, takes less of it."""

import gc

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import ops


def rewrite(on: bool) -> None:
    """Let TensorFlow rewrite graphs before their first call, as it does for users (it fuses kernels, for example), or
    not, which takes a quarter of the time. Tests of what kernels compute switch it on."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not on})


def alive() -> list[str]:
    """Return the names of the functions' graphs in memory, after the collector has freed what it can. (A plain tf.Graph
    is the default one, which TensorFlow makes when it first asks for it, and keeps.)"""
    gc.collect()
    graphs = [thing for thing in gc.get_objects() if issubclass(type(thing), tf.Graph)]
    return [graph.name for graph in graphs if type(graph) is not tf.Graph]


def share_integers() -> None:
    """Make one constant of a graph's equal integers, from now on.

    TensorFlow makes a constant for every use of a shape, an axis or a permutation: two of five operations of a training
    step. The graph computes the same, since nobody differentiates by an integer. This replaces a private function of
    TensorFlow's; with a version that has none of this name, tests take longer.
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
        shared = getattr(graph, "_shared_integers", None)  # freed with the graph
        if shared is None:
            shared = graph._shared_integers = {}
        key = dtype, array.dtype, array.shape, array.tobytes(), str(args[:1])  # with the shape that is asked for
        if key not in shared:
            shared[key] = create(value, dtype, *args, **more)
        return shared[key]

    ops._create_graph_constant = constant
