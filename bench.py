"""Time iterations of meta-training, or of --mode meta_test (a metabatch of test episodes); print one JSON line.

It times main.py's own compiled step, on episodes of random pixels or, with --data_dir, of a dataset's training
classes. gflops counts the multiplications and additions of convolutions and matrix products, without those of an
--adversarial attack; it is null where a loop has some (Reptile's tests), because the graph does not say how often the
loop runs. matmul_gflops is the rate of a float32 4096 x 4096 matrix product in the same process, to compare machines
by. peak_mb is the whole process's memory. --profile adds `profile`: core_ms, the milliseconds of the kernels
of one more iteration, summed over the threads that call kernels (the rest of step_ms x threads is scheduling and
waiting); its parts by kind of kernel (`other`: reductions and copies, for example; the kernels of an XLA program are
not told apart), by layer and by pass; and the types of kernels that take the most. `support backward` is the inner
gradient. The meta-gradient is `query backward` and what goes through the support set's passes. The passes of an attack
are the query set's. The pass `other` is what belongs to no layer: losses, for example, and sums of gradients.
copy_gb_per_s is the rate at which `threads` threads read float32 numbers and write twice their values, to compare
element-wise kernels by.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np

import data
import layers
import main
from errors import UserError, run
from lazy import tf
from model import Learner, make_episode
from perturbations.draws import task_noise
from settings import CommandLine, Settings, setting, to_path, whole
from sources.table import MAKERS
from training import passes, xla_programs
from training.config import Config, UpdateSettings, add_flags
from training.steps import Engine, MetaGradient, flat, read

CLASSES, IMAGES = 100, 100  # of the random data
# The settings of the run that the line repeats, beside its learner's own.
REPEATED = "dataset", "model", "perturbation", "way", "shot", "query", "metabatch", "n_test_mc_samp", "jit", "precision"


@dataclasses.dataclass(frozen=True)
class BenchSettings(Settings):
    """Settings of the timing."""

    iterations: int = setting(10, "iterations that are timed", whole(1))
    size: int | None = setting(
        None,
        "images of N x N random pixels (default: the dataset's, 28 x 28 for one that get_data.py does not make)",
        whole(16, 4096),
    )
    check: bool = setting(
        False,
        "compare the meta-gradient with float64's, without XLA on a CPU; with --export: leave that one in P, for "
        "train_jax.py --check",
    )
    profile: bool = setting(
        False,
        "add the time of one more iteration by pass, layer and kind of kernel, and print it as a table on standard "
        "error; on a CPU, without XLA",
    )
    export: Path | None = setting(
        None,
        "in place of timing, write the training and the test step as XLA programs (--jit on) into the folder P, for "
        "train_jax.py",
        to_path,
        metavar="P",
    )


def read_command(argv: list[str] | None = None) -> tuple[str, bool, BenchSettings, Config]:
    """Read the command line -> the mode, True if --data_dir is given, what is timed, and the settings of the run."""
    first = main.first_flags(argv)
    mode = first.get("mode", "meta_train")
    if mode not in ("meta_train", "meta_test"):
        raise UserError(f"bench.py times meta_train and meta_test, not {mode}")
    chosen = main.chosen_learner({name: first[name] for name in first.keys() - {"savedir", "weights"}}, True)
    description, epilog = (__doc__ or "\n\n").split("\n\n")
    line = CommandLine(main.place_of(mode, chosen), "bench.py", description, epilog)
    line.add("bench.py", [*(one for one in fields(main.CommandSettings) if one.name == "mode"), *fields(BenchSettings)])
    training = UpdateSettings if mode == "meta_train" else None
    add_flags(line, chosen, training)
    flags = line.read(argv)
    own, config, on_dataset = BenchSettings.of(flags), Config.of_flags(flags), "data_dir" in flags
    idle = {"iterations"} if own.export else {"legacy_shared_classes"}
    if mode == "meta_train" and not own.export:
        idle.add("n_test_mc_samp")
    if idle := sorted(idle & flags.keys()):
        raise UserError(f"--{idle[0]} changes nothing that is measured or exported: leave it out")
    if mode != "meta_train" and (own.check or own.export):
        raise UserError("--check and --export need the training step: leave --mode out")
    if on_dataset and own.size:
        raise UserError("--size is for random pixels, --data_dir for a dataset: drop one of them")
    if not on_dataset and (idle := {"train_split", "split"} & flags.keys()):
        raise UserError(f"--{min(idle)} needs a dataset: give its --data_dir, or leave it out")
    if own.profile:
        if own.export:
            raise UserError("--profile times an iteration, and --export none: leave one of them out")
        if config.run.jit == "on":
            raise UserError("--profile cannot time the passes of one XLA program: drop --profile or --jit on")
        if config.own().get("remat"):
            raise UserError("--profile cannot name the passes that --remat repeats: drop one of them")
    if own.export:
        if not on_dataset:
            raise UserError("--export needs the dataset that the run trains on: give its --data_dir")
        if config.run.jit == "off":
            raise UserError("--export writes an XLA program: drop --jit off")
        config = config.with_run(jit="on")
    run = config.run
    if not on_dataset and (max(run.way, config.train_way) > CLASSES or run.shot + run.query > IMAGES):
        raise UserError(f"bench.py's random data has {CLASSES} classes of {IMAGES} images: ask for fewer")
    return mode, on_dataset, own, config


def load_splits(on_dataset: bool, own: BenchSettings, config: Config) -> tuple[data.Split, data.Split, dict]:
    """Return the training classes and the test classes of the dataset, or of random pixels in its images' shape; and
    the dataset's entries of config.json."""
    if on_dataset:
        dataset, splits = main.load_data(config, "train", *["test"] * bool(own.export))
        return splits["train"], splits["test"], dataset.facts
    dataset = config.run.dataset
    *_, depth = image_shape = MAKERS[dataset].image_shape if dataset in MAKERS else (28, 28, 1)
    if own.size:
        image_shape = (own.size, own.size, depth)
    pixels = np.random.default_rng(0).integers(0, 256, (CLASSES, IMAGES, *image_shape), np.uint8)
    split = data.Split(pixels, rotations=1, scale=1 / 255)
    return split, split, {"data_sha256": None}


def count_flops(outputs) -> int | None:
    """Count the multiplications and additions of the convolutions and matrix products that `outputs` depend on. Return
    None if a loop has some, because the graph does not tell how often it runs."""
    seen, stack, total = set(), [t.op for t in outputs], 0
    while stack:
        op = stack.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        stack += [t.op for t in op.inputs] + list(op.control_inputs)
        if op.type in ("While", "StatelessWhile"):
            body = op.graph._get_function(op.get_attr("body").name).graph
            if count_flops([t for one in body.get_operations() for t in one.outputs]) != 0:
                return None
        out = op.outputs[0].shape if op.outputs else None
        if op.type == "Conv2D":
            total += 2 * out.num_elements() * int(np.prod(op.inputs[1].shape[:3]))
        elif op.type == "Conv2DBackpropInput":
            total += 2 * op.inputs[2].shape.num_elements() * int(np.prod(op.inputs[1].shape[:3]))
        elif op.type == "Conv2DBackpropFilter":
            total += 2 * op.inputs[2].shape.num_elements() * int(np.prod(out[:3]))
        elif op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            inner = op.inputs[0].shape[-2 if transposed else -1]
            total += 2 * out.num_elements() * inner
    return total


def task_flops(engine: Engine, image_shape: tuple[int, int, int], samples: int | None) -> int | None:
    """Return the work of one task of a training iteration, or of a test episode with `samples` noise samples; None if
    `count_flops` cannot count it.

    Work is linear in the images' channels. It is counted for two numbers of channels at which the first layer takes no
    shortcut, because the work that a shortcut adds is not the network's.
    """
    *size, depth = image_shape
    learner, counts = copy.copy(engine.learner), []
    for channels in (layers.FEW, layers.FEW + 1):
        learner.image_shape = (*size, channels)
        counts.append(count_flops(traced_task(learner, engine.shot, engine.query, samples).outputs))
    if None in counts:
        return None
    return counts[0] + (counts[1] - counts[0]) * (depth - layers.FEW)


def traced_task(learner: Learner, shot: int, query: int, samples: int | None):
    """Return the graph of one task's training iteration, or of its test with `samples` noise samples."""
    way = learner.way if samples else learner.train_way
    if learner.minibatch and not samples:
        way, shot, query = learner.minibatch, 1, 0
    x_s, x_q = (tf.TensorSpec([1, way * n, *learner.image_shape]) for n in (shot, query))
    params = {name: tf.TensorSpec(parameter.shape) for name, parameter in learner.parameters().items()}

    def task(params, x_s, x_q, seeds):
        classes = tf.zeros([1, way], tf.int32)  # any
        episode, noise = make_episode(x_s, x_q, way, classes), task_noise(seeds)
        if samples:
            return learner.evaluate(params, episode, noise, samples)
        numbers, gradients = learner.meta_gradient(params, episode, noise)
        return numbers, [gradient for gradient in gradients.values() if gradient is not None]

    return tf.function(task, autograph=False).get_concrete_function(params, x_s, x_q, tf.TensorSpec([1, 2], tf.int32))


def matmul_gflops(parallel: int, size: int = 4096) -> float:
    """Return the rate of `parallel` float32 matrix products side by side, which use all cores as a metabatch does."""

    @tf.function(autograph=False)
    def products(a):
        return [tf.reduce_sum((a + i) @ a) for i in range(parallel)]

    a, seconds = tf.random.stateless_normal([size, size], [0, 0]), []
    for _ in range(3):  # the first one compiles
        start = time.perf_counter()
        [out.numpy() for out in products(a)]
        seconds.append(time.perf_counter() - start)
    return parallel * 2 * size**3 / min(seconds) / 1e9


def copy_gb_per_s(parallel: int, numbers: int = 2**24) -> float:
    """Return the rate of `parallel` threads that double `numbers` float32 numbers side by side, as an element-wise
    kernel does: the bytes that they read plus those that they write, in 10^9 a second."""
    arrays = [(np.ones(numbers, np.float32), np.empty(numbers, np.float32)) for _ in range(parallel)]
    seconds = []
    with ThreadPoolExecutor(parallel) as threads:
        for _ in range(9):  # the first one gets memory from the system
            start = time.perf_counter()
            list(threads.map(lambda pair: np.multiply(pair[0], 2, out=pair[1]), arrays))
            seconds.append(time.perf_counter() - start)
    return parallel * 2 * arrays[0][0].nbytes / min(seconds) / 1e9


def first_metabatch(engine: Engine, split: data.Split) -> list[tf.Tensor]:
    """Return what `Engine.mean_gradient` takes for the first iteration."""
    inputs = engine.training_inputs(split, 0)
    return [tf.constant(split.pixels), *(inputs[name] for name in ("classes", "images", "seed"))]


def exact_gradient(engine: Engine, split: data.Split) -> MetaGradient:
    """Return the meta-gradient of the first iteration in float64, task by task on the CPU, with the same noise."""
    learner = engine.learner
    before = learner.jit, learner.bf16
    with tf.device("CPU"):
        learner.jit = learner.bf16 = False
        mean = tf.function(functools.partial(engine.mean_gradient, split, dtype=tf.float64), autograph=False)
        params = {k: tf.cast(v, tf.float64) for k, v in read(engine.params).items()}
        exact = mean(params, *first_metabatch(engine, split))
    learner.jit, learner.bf16 = before
    return exact


def check(engine: Engine, split: data.Split) -> dict:
    """Return the relative errors of the first iteration's meta-gradient (a norm over all parameters) and of its loss,
    compared with `exact_gradient`."""
    mean = engine.compiled(functools.partial(engine.mean_gradient, split))
    single, exact = mean(read(engine.params), *first_metabatch(engine, split)), exact_gradient(engine, split)
    found, wanted = (flat((one.gradients | one.distances).values()).numpy() for one in (single, exact))
    return {
        "gradient_error": xla_programs.relative_error(found, wanted),
        "loss_error": xla_programs.relative_error(single.loss.numpy(), exact.loss.numpy()),
    }


def time_steps(step, iterations: int) -> list[float]:
    """Return the seconds of each of iterations + 2 steps. The first one compiles."""
    seconds = []
    for i in range(iterations + 2):
        start = time.perf_counter()
        step(i)
        seconds.append(time.perf_counter() - start)
    return seconds


def step_of(engine: Engine, mode: str, split: data.Split, samples: int) -> Callable[[int], object]:
    """Return the function that does iteration i, and waits for its end. samples: noise samples of a test."""
    if mode == "meta_test":
        compiled = engine.test_step(split, "test", samples)
        return lambda i: compiled(i * engine.metabatch, engine.metabatch)
    compiled = engine.train_step(split)
    return lambda i: float(engine.run_step(compiled, split, i)[0])


def time_run(engine: Engine, mode: str, split: data.Split, samples: int, iterations: int) -> dict:
    """Return the numbers of the line. samples: noise samples of a test."""
    step = step_of(engine, mode, split, samples)
    seconds = time_steps(step, iterations)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    median = statistics.median(seconds[2:])
    image_shape = split.pixels.shape[-3:]
    work = task_flops(engine, image_shape, samples if mode == "meta_test" else None)
    gflop = None if work is None else engine.metabatch * work / 1e9
    return {
        "ms_per_step": round(1e3 * median, 1),
        "iterations": iterations,
        "tasks_per_s": round(engine.metabatch / median, 2),
        "gflops": gflop and round(gflop / median, 2),
        "matmul_gflops": round(matmul_gflops(engine.parallel), 1),
        "peak_mb": round(peak),
        "compile_s": round(seconds[0] - median, 1),
        "gflop_per_step": gflop and round(gflop, 4),
        "ms_fastest": round(1e3 * min(seconds[2:]), 1),
    }


def profile(engine: Engine, step: Callable[[], object]) -> dict:
    """Return the times of the kernels of a step, and the rate of copies to compare them by."""
    events, ms = passes.record(step)
    rate = copy_gb_per_s(engine.parallel)
    facts = {"step_ms": round(ms, 1), "threads": engine.parallel, "copy_gb_per_s": round(rate, 1)}
    return facts | passes.summary(events)


def bench() -> int:
    mode, on_dataset, own, config = read_command()
    split, test, facts = load_splits(on_dataset, own, config)
    machine = main.start(config.run, distribute=not (own.export or own.check))  # an export and a check use one device
    if own.profile and machine.gpu:
        raise UserError("--profile times the kernels of a CPU: give --gpu_id -1 or leave --profile out")
    config = config.with_facts(train_classes=split.classes)
    engine = main.build_engine(config, split.pixels.shape[-3:], machine)
    samples = config.testing.n_test_mc_samp
    result = {}
    if own.export:
        exact = exact_gradient(engine, split) if own.check else None
        xla_programs.write(own.export, engine, split, test, config.portable() | facts, samples, exact)
        result["program"] = str(own.export)
    else:
        result |= time_run(engine, mode, split, samples, own.iterations)
        if own.profile:
            step = step_of(engine, mode, split, samples)
            result["profile"] = profile(engine, lambda: step(own.iterations + 2))
        if own.check:
            result |= check(engine, split)
    if machine.chief:
        if own.profile:
            title = "core-milliseconds of an iteration of {step_ms} ms on {threads} threads"
            print(title.format(**result["profile"]), passes.table(result["profile"]), sep="\n", file=sys.stderr)
        values = config.values()
        repeated = {"mode": mode} | {name: values[name] for name in REPEATED} | config.own()
        print(json.dumps(result | repeated | {"device": machine.name}))
    return 0


if __name__ == "__main__":
    run(bench)
