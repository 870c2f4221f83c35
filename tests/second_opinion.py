"""What torch_maml.py and jax_maml.py share: the shapes of the parameters, the command line and the line of times."""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from parity import SHAPES

LAYERS, EPSILON = ("conv1", "conv2", "conv3", "conv4"), 1e-3  # batch norm's epsilon
INNER_LR, OUTER_LR, CLIP = 0.1, 1e-3, 3.0


def shapes(way: int, side: int, depth: int, channels: int, noisy: bool) -> dict[str, tuple]:
    """Return the parameters' shapes, as in the project."""
    sizes, d = {}, depth
    for net, outputs in (("theta", way), ("phi", 1))[: 1 + noisy]:
        for layer, inputs in zip(LAYERS, (d, channels, channels, channels), strict=True):
            sizes |= {f"{net}/{layer}_w": (3, 3, inputs, channels), f"{net}/{layer}_b": (channels,)}
        sizes |= {f"{net}/dense_w": ((side // 16) ** 2 * channels, outputs), f"{net}/dense_b": (outputs,)}
    return sizes | {f"{layer}_bn/beta": (channels,) for layer in LAYERS}


def theta_of(params: dict) -> dict:
    """Return what the inner steps adapt, by its name without theta/."""
    return {name.removeprefix("theta/"): v for name, v in params.items() if name.startswith("theta/")}


def time_iterations(description: str, prepare: Callable) -> None:
    """Read the command line, time iterations of meta-training as bench.py does, and print one JSON line.

    prepare(args, params, x_s, x_q), of float32 arrays x_s [T,S,H,W,C] and x_q [T,Q,H,W,C], returns a function that
    computes one iteration and waits for it, and a dict that says what computed it. peak_mb is the whole process's.
    """
    p = argparse.ArgumentParser(description=description)
    for name, default in {"way": 20, "shot": 1, "query": 15, "metabatch": 4, "n_steps": 5, "iterations": 5}.items():
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--dataset", choices=list(SHAPES), default="omniglot", help="random pixels in its images' shape")
    p.add_argument("--model", choices=["maml", "metadrop"], default="metadrop")
    p.add_argument("--meta_gradient", choices=["published", "exact"], default="published")
    args, rng = p.parse_args(), np.random.default_rng(0)
    (side, _, depth), channels = SHAPES[args.dataset]
    sizes = shapes(args.way, side, depth, channels, args.model == "metadrop")
    params = {name: 0.02 * rng.standard_normal(size, "float32") for name, size in sizes.items()}
    x_s, x_q = (
        rng.random((args.metabatch, args.way * n, side, side, depth), "float32") for n in (args.shot, args.query)
    )
    iteration, machine = prepare(args, params, x_s, x_q)
    seconds = []
    for _ in range(args.iterations + 2):  # the first one compiles
        start = time.perf_counter()
        iteration()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[2:])
    line = {
        "ms_per_step": round(1e3 * median, 1),
        "ms_fastest": round(1e3 * min(seconds[2:]), 1),
        "compile_s": round(seconds[0] - median, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
    }
    print(json.dumps(line | vars(args) | machine))
