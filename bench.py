"""Time meta-training iterations (or --mode meta_test, a metabatch of test episodes); print one JSON line.

What is timed is main.py's own compiled step, on episodes of random pixels. gflops counts the multiplications
and additions of convolutions and matrix products; matmul_gflops is what a float32 4096 x 4096 matrix product
reaches in the same process: the machine's yardstick. peak_mb is the whole process's.
"""

import json
import resource
import statistics
import sys
import time

import numpy as np

import main
from errors import UserError, run

SHAPES = {"omniglot": (28, 28, 1), "glyphs": (28, 28, 1), "mimgnet": (84, 84, 3)}
CLASSES, IMAGES = 100, 100  # of the random data
KEPT = (
    "mode",
    "dataset",
    "model",
    "way",
    "shot",
    "query",
    "metabatch",
    "n_steps",
    "meta_gradient",
    "n_test_mc_samp",
)


def settings_of(argv: list[str]) -> dict:
    p = main.parser()
    p.prog, p.description, p.epilog = "bench.py", __doc__.split("\n\n")[0], __doc__.split("\n\n")[1]
    p.add_argument("--iterations", type=main.whole(1), default=10, metavar="N", help="how many are timed")
    given = vars(p.parse_args(argv))
    if given.pop("maml", False):
        given["model"] = "maml"
    settings = main.DEFAULTS | given
    if settings["mode"] not in ("meta_train", "meta_test"):
        raise UserError(f"bench.py times meta_train and meta_test, not {settings['mode']}")
    if settings["way"] > CLASSES or settings["shot"] + settings["query"] > IMAGES:
        raise UserError(f"bench.py's random data has {CLASSES} classes of {IMAGES} images: ask for fewer")
    return settings


def count_flops(outputs) -> int:
    """Multiplications and additions of the convolutions and matrix products that `outputs` depend on."""
    seen, stack, total = set(), [t.op for t in outputs], 0
    while stack:
        op = stack.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        stack += [t.op for t in op.inputs] + list(op.control_inputs)
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


def task_flops(engine, image_shape, samples: int | None) -> int:
    """Of one task of a training iteration, or of a test episode with `samples` noise samples."""
    import tensorflow as tf

    import model

    way = engine.learner.way
    x_s, x_q = (tf.TensorSpec([1, way * n, *image_shape]) for n in (engine.shot, engine.query))
    params = {k: tf.TensorSpec(v.shape) for k, v in engine.params.items()}

    def task(params, x_s, x_q, seeds):
        if samples:
            return model.evaluate(engine.learner, params, x_s, x_q, model.task_noise(seeds), samples)
        return model.meta_gradients(engine.learner, params, x_s, x_q, seeds)

    graph = tf.function(task, autograph=False).get_concrete_function(params, x_s, x_q, tf.TensorSpec([1, 2], tf.int32))
    return count_flops(graph.outputs)


def matmul_gflops(parallel: int, size: int = 4096) -> float:
    """Of `parallel` float32 matrix products side by side, as the tasks of a metabatch are: all cores work."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def products(a):
        return [tf.reduce_sum((a + i) @ a) for i in range(parallel)]

    a, seconds = tf.random.stateless_normal([size, size], [0, 0]), []
    for _ in range(3):  # the first one compiles
        start = time.perf_counter()
        [out.numpy() for out in products(a)]
        seconds.append(time.perf_counter() - start)
    return parallel * 2 * size**3 / min(seconds) / 1e9


def bench() -> int:
    settings = settings_of(sys.argv[1:])
    testing = settings["mode"] == "meta_test"
    image_shape = SHAPES[settings["dataset"]]
    engine = main.build_engine(settings, image_shape)
    import data

    pixels = np.random.default_rng(0).integers(0, 256, (CLASSES, IMAGES, *image_shape), np.uint8)
    split = data.Split(pixels, rotations=1, scale=1 / 255)
    samples = settings["n_test_mc_samp"]
    if testing:
        compiled = engine.test_step(split, "test", samples)
        step = lambda i: compiled(i * engine.metabatch, engine.metabatch)  # noqa: E731
    else:
        compiled = engine.train_step(split)
        step = lambda i: float(compiled(i)[0])  # noqa: E731
    seconds = []
    for i in range(settings["iterations"] + 2):
        start = time.perf_counter()
        step(i)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    median = statistics.median(seconds[2:])
    work = engine.metabatch * task_flops(engine, image_shape, samples if testing else None)
    result = {
        "ms_per_step": round(1e3 * median, 1),
        "tasks_per_s": round(engine.metabatch / median, 2),
        "gflops": round(work / median / 1e9, 2),
        "matmul_gflops": round(matmul_gflops(engine.parallel), 1),
        "peak_mb": round(peak),
        "compile_s": round(seconds[0] - median, 1),
        "gflop_per_step": round(work / 1e9, 4),
        "ms_fastest": round(1e3 * min(seconds[2:]), 1),
    }
    print(json.dumps(result | {k: settings[k] for k in KEPT}))
    return 0


if __name__ == "__main__":
    run(bench)
