"""TensorFlow set up for this machine: which devices, how many threads, which precision, how many processes."""

import contextlib
import json
import os
import sys
from typing import NamedTuple

from errors import UserError

FLOAT32, TF32, BF16 = PRECISIONS = ("float32", "tf32", "bf16")


class Devices(NamedTuple):
    """gpu: is there one? parallel: tasks that a CPU computes side by side. strategy: tf.distribute's, which
    shares a metabatch out. alone: is this the only process? chief: does this process write?"""

    gpu: bool
    parallel: int
    strategy: object
    alone: bool
    chief: bool


def start(gpu_id: str | None, metabatch: int, precision: str, distribute: bool) -> Devices:
    """Import TensorFlow as these settings want it; call it once, before anything computes.

    gpu_id: numbers of the GPUs to use, "-1" for none; None: CUDA_VISIBLE_DEVICES, or the first.
    distribute: over all GPUs in use, and over the processes that TF_CONFIG names.
    """
    if gpu_id is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_id
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    workers, index = cluster() if distribute else (1, 0)
    with quiet():
        import tensorflow as tf

        gpus = len(tf.config.list_physical_devices("GPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # By the whole metabatch, also where processes share it: the number of threads decides how sums are rounded.
    parallel = min(cores, metabatch)
    tf.config.threading.set_inter_op_parallelism_threads(parallel)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // parallel))
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(precision == TF32)
    if workers > 1:
        print(f"worker {index} of {workers}: waiting for the others", file=sys.stderr)
        with quiet():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif gpus > 1 and distribute:
        strategy = tf.distribute.MirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    return Devices(gpus > 0, parallel, strategy, workers == 1, index == 0)


def cluster() -> tuple[int, int]:
    """Number of workers in TF_CONFIG, and which one this process is; (1, 0) without it."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1, 0
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if set(config["cluster"]) != {"worker"} or task["type"] != "worker":
            raise ValueError("all processes have to be workers")
        if not isinstance(workers, list) or not 0 <= task["index"] < len(workers):
            raise ValueError(f"there is no worker {task['index']}")
        return len(workers), task["index"]
    except (ValueError, KeyError, TypeError) as fault:
        example = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
        raise UserError(f"TF_CONFIG cannot be used ({fault!r}); it should be like {example}") from fault


@contextlib.contextmanager
def quiet():
    """TensorFlow reports on its start to file descriptor 2, before any log level holds: keep it off."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
