"""The numbers of bench.py's line from times that are given, its count of multiplications and additions, a profile."""

import json
import os
import types

import numpy as np
import pytest
import tensorflow as tf

import bench
import learners
from conftest import assert_refused, call, succeed
from errors import UserError
from training import passes, steps


@pytest.mark.parametrize("mode", ["meta_train", "meta_test"])
def test_the_line_leaves_the_compiled_steps_out(mode, monkeypatch):
    """The first step compiles and the second may have to: the median and the fastest are of those behind them."""
    seconds, calls = [9.0, 4.0, 0.1, 0.9, 0.2, 0.4, 0.3], []
    split = types.SimpleNamespace(pixels=np.zeros((1, 1, 28, 28, 1)))

    def step(*args):
        calls.append(args)
        return [1.0]

    engine = types.SimpleNamespace(
        metabatch=4,
        parallel=2,
        train_step=lambda s: step,
        test_step=lambda *a: step,
        run_step=lambda step, split, i: step(i),
    )

    def times(step, iterations):
        for i in range(iterations + 2):
            step(i)
        return seconds

    monkeypatch.setattr(bench, "time_steps", times)
    monkeypatch.setattr(bench, "task_flops", lambda engine, shape, samples: {None: 3e9, 7: 1e9}[samples])
    memory = types.SimpleNamespace(ru_maxrss=3 * 2**20)  # in KiB on Linux, in bytes on a Mac
    monkeypatch.setattr(bench.sys, "platform", "linux")
    monkeypatch.setattr(bench.resource, "getrusage", lambda _: memory)

    def matmul_gflops(parallel):
        memory.ru_maxrss = 9 * 2**20  # its matrices are not the step's
        return 50.0 * parallel

    monkeypatch.setattr(bench, "matmul_gflops", matmul_gflops)
    line = bench.time_run(engine, mode, split, 7, 5)
    work = 12 if mode == "meta_train" else 4  # billions, of four tasks
    assert (line["ms_per_step"], line["ms_fastest"], line["compile_s"]) == (300, 100, 8.7)
    assert line["tasks_per_s"] == 13.33 and line["gflop_per_step"] == work
    assert line["gflops"] == round(work / 0.3, 2) and line["matmul_gflops"] == 100
    assert (line["peak_mb"], line["iterations"]) == (3 * 2**10, 5)
    assert calls == ([(i,) for i in range(7)] if mode == "meta_train" else [(4 * i, 4) for i in range(7)])
    monkeypatch.setattr(bench, "task_flops", lambda *_: None)
    line = bench.time_run(engine, mode, split, 7, 5)
    assert line["gflops"] is line["gflop_per_step"] is None and line["tasks_per_s"] == 13.33


def test_steps_are_timed_one_by_one(monkeypatch):
    """By a clock that each step moves by its number."""
    now, done = [10.0], []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def step(i):
        now[0] += i + 1
        done.append(i)

    assert bench.time_steps(step, 3) == [1, 2, 3, 4, 5] and done == [0, 1, 2, 3, 4]


def test_flops_are_those_of_convolutions_and_products_and_their_gradients():
    """A convolution's output of 2 x 6 x 5 x 7 numbers takes 3 x 3 x 4 multiplications and additions each, and so do the
    gradients by its input and by its kernel; a product [2,8] [8,3] takes 8 for each of 6 numbers."""

    def convolve(x, w):
        y = tf.nn.conv2d(x, w, 1, "SAME")
        return [y, *tf.gradients(y, [x, w], [y])]

    def multiply(a, b):
        y = tf.tanh(tf.exp(a) @ b)
        return [y, tf.matmul(y, b, transpose_b=True), tf.matmul(a[None], y[None], transpose_a=True)]

    def count(f, *shapes):
        specs = [tf.TensorSpec(shape) for shape in shapes]
        return bench.count_flops(tf.function(f, autograph=False).get_concrete_function(*specs).outputs)

    one = 2 * (2 * 6 * 5 * 7) * (3 * 3 * 4)
    assert count(convolve, (2, 6, 5, 4), (3, 3, 4, 7)) == 3 * one
    assert count(lambda x, w: [tf.nn.conv2d(x, w, 1, "SAME")], (2, 6, 5, 4), (3, 3, 4, 7)) == one
    assert count(multiply, (2, 8), (8, 3)) == 2 * (2 * 3 * 8) + 2 * (2 * 8 * 3) + 2 * (8 * 3 * 2)


def test_the_work_of_a_task_is_its_formula():
    """A Prototypical Network's test: convolutions at four sizes, and logits [9,8] [8,3]."""
    learner = learners.make("protonet", image_shape=(16, 16, 1), channels=8, way=3)
    convolutions = sum(2 * 9 * depth * 8 * side**2 for depth, side in ((1, 16), (8, 8), (8, 4), (8, 2)))
    engine = steps.Engine(learner, shot=2, query=3, metabatch=1, seed=0)
    assert bench.task_flops(engine, (16, 16, 1), 1) == 15 * convolutions + 2 * 9 * 8 * 3


def test_work_in_a_loop_is_not_counted():
    """The graph does not say how often the loop runs. A loop without products counts as nothing."""

    def count(body):
        def f(x):
            return [x @ x, tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, body(y)), (0, x))[1]]

        return bench.count_flops(tf.function(f, autograph=False).get_concrete_function(tf.TensorSpec((4, 4))).outputs)

    assert count(tf.exp) == 2 * 4**3 and count(lambda y: y @ y) is None
    learner = learners.make("reptile", image_shape=(16, 16, 1), channels=8, way=3, n_test_steps=2)
    engine = steps.Engine(learner, shot=2, query=3, metabatch=1, seed=0)
    assert bench.task_flops(engine, (16, 16, 1), 1) is None


def test_idle_flags_are_refused(tmp_path):
    assert_refused(call("bench.py", "--export", tmp_path / "p"), "--export needs the dataset", "--data_dir")
    export = "--export", tmp_path / "p", "--data_dir", tmp_path
    assert_refused(call("bench.py", *export, "--iterations", 3), "--iterations changes nothing")
    assert_refused(call("bench.py", "--legacy_shared_classes"), "--legacy_shared_classes changes nothing")
    assert_refused(call("bench.py", "--n_test_mc_samp", 3), "--n_test_mc_samp changes nothing")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(("flags", "distribute"), [((), True), (("--check",), False), (("--export", "p"), False)])
def test_a_check_and_an_export_are_of_one_device(flags, distribute, monkeypatch):
    """Several devices share a metabatch inside of tf.distribute alone: outside each would take its share for all."""
    seen = []

    def start(run, distribute):
        seen.append(distribute)
        raise UserError("it has started")

    monkeypatch.setattr(bench.main, "start", start)
    monkeypatch.setattr(bench, "load_splits", lambda *_: (None, None, {}))
    assert_refused(call("bench.py", *flags, *(["--data_dir", "data"] if flags else [])), "it has started")
    assert seen == [distribute]


def test_the_work_of_a_minibatch_is_its_formula():
    """Of the baseline: each convolution, and its gradients by the kernel and by the input, except by the images; the
    same of the linear classifier of 5 classes. --shot and --query have no part in it."""
    learner = learners.make("baseline", image_shape=(16, 16, 1), channels=8, way=3, train_classes=5, batch=7)
    first, *others = (2 * 9 * depth * 8 * side**2 for depth, side in ((1, 16), (8, 8), (8, 4), (8, 2)))
    engine = steps.Engine(learner, shot=2, query=3, metabatch=1, seed=0)
    assert bench.task_flops(engine, (16, 16, 1), None) == 7 * (2 * first + 3 * sum(others) + 3 * 2 * 8 * 5)


def test_the_work_of_a_training_task_is_that_of_its_graph():
    """Whatever the images' channels; many have no shortcuts, and no other work in their graph."""
    learner = learners.make("metadrop", image_shape=(16, 16, 20), channels=8, way=2, n_steps=1)
    engine = steps.Engine(learner, shot=1, query=1, metabatch=1, seed=0)
    work = bench.count_flops(bench.traced_task(learner, 1, 1, None).outputs)
    assert bench.task_flops(engine, (16, 16, 20), None) == work


def test_the_yardstick_is_the_fastest_of_the_runs_that_do_not_compile(monkeypatch):
    """Of three: 8, 1 and 2 seconds for two products of 4 x 4 matrices."""
    times = iter([0, 8, 10, 11, 20, 22])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    assert bench.matmul_gflops(2, size=4) == 2 * 2 * 4**3 / 1 / 1e9


def test_the_rate_of_copies_counts_what_is_read_and_what_is_written(monkeypatch):
    """In the fastest of nine runs, of 9, 8, ... and 1 seconds, for three arrays of 5 numbers."""
    times = iter([moment for run in range(9) for moment in (10 * run, 10 * run + 9 - run)])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(times))
    assert bench.copy_gb_per_s(3, numbers=5) == 3 * (2 * 5 * 4) / 1 / 1e9


@pytest.mark.parametrize("mode", ["meta_train", "meta_test"])
def test_a_profile_has_the_time_of_every_pass(mode, monkeypatch):
    """A real one. Its kernels take no more than all cores have, and a good part of what one has."""
    monkeypatch.setattr(bench, "matmul_gflops", lambda parallel: 1.0)
    monkeypatch.setattr(bench, "task_flops", lambda *_: 1e9)
    flags = "--mode", mode, "--way", 5, "--metabatch", 1, "--n_steps", 1, "--channels", 8, "--iterations", 1
    done = succeed("bench.py", *flags, "--profile")
    profile = json.loads(done.stdout)["profile"]
    wanted = {name for name in passes.PASSES if mode == "meta_train" or not name.startswith(("meta", "query backward"))}
    assert profile["passes"].keys() == wanted
    for name in wanted - {"other"}:
        assert profile["passes"][name]["kinds"]["convolution"] > 0, name
        assert profile["passes"][name]["layers"].keys() >= {"conv1", "conv2", "conv3", "conv4"}, name
    assert "random numbers" in profile["passes"]["support forward"]["kinds"]
    assert profile["core_ms"] == pytest.approx(sum(one["core_ms"] for one in profile["passes"].values()), abs=0.1)
    assert 0.1 * profile["step_ms"] < profile["core_ms"] < os.cpu_count() * profile["step_ms"]
    assert profile["threads"] == 1 and profile["copy_gb_per_s"] > 0
    assert passes.table(profile) in done.stderr
