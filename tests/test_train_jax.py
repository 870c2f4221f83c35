"""Training without TensorFlow: the same iterations and tests as with it, continued from each other's weights."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import data
import files
import layers
from conftest import ROOT, SETTINGS, assert_refused, call, flags_of, succeed
from declared import own_settings
from errors import UserError
from training import steps, weights, xla_programs
from training.xla_programs import TEST_SEED, compile_step

pytest.importorskip("jax", reason="JAX is not installed")
import train_jax

pytestmark = pytest.mark.slow
FLAGS = flags_of(SETTINGS | {"model": "metadrop", "metabatch": 1, "train_split": "trainval", "n_test_mc_samp": 2})
QUICK = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles faster
# A process with numpy and JAX alone (JAX does not need scipy for these programs).
ABSENT = "tensorflow", "PIL", "tqdm", "scipy", "sklearn", "matplotlib"
WITHOUT = f"import sys; sys.modules |= dict.fromkeys({ABSENT}); import errors, train_jax; errors.run(train_jax.main)"


@pytest.fixture(scope="module")
def program(data_dir, tmp_path_factory):
    """bench.py's export of a Meta-dropout run on the training and validation classes."""
    folder = tmp_path_factory.mktemp("program") / "p"
    succeed("bench.py", *FLAGS, "--data_dir", data_dir, "--export", folder, "--check")
    return folder


def test_a_program_multiplies_bfloat16_on_any_processor(monkeypatch):
    from jax._src.lib import xla_client

    monkeypatch.setattr(layers, "has_bfloat16", lambda: False)

    def step(x, w):
        return {"y": layers.dense(tf.cast(x, tf.bfloat16), w, tf.zeros(2))}

    hlo, _ = compile_step(step, {"x": tf.ones([1, 4, 3]), "w": tf.ones([3, 2])})
    assert re.search(r"bf16\S* dot\(", xla_client.XlaComputation(hlo).as_hlo_text())


def test_a_program_of_float32_lets_no_gpu_round_to_tf32():
    from jax._src.lib import xla_client

    def step(x, w, k):
        x = layers.conv(x, k, tf.zeros([1, 4]))
        return {"y": layers.dense(tf.reshape(x, [1, 5, -1]), w, tf.zeros([1, 2]))}

    shapes = {"x": [1, 5, 16, 16, 3], "k": [1, 3, 3, 3, 4], "w": [1, 1024, 2]}
    hlo, _ = compile_step(step, {name: tf.ones(shape) for name, shape in shapes.items()})
    lines = xla_client.XlaComputation(hlo).as_hlo_text().splitlines()
    products = [line for line in lines if re.search(r" (dot|convolution)\(", line)]
    assert len(products) == 2 and all("operand_precision={highest,highest}" in line for line in products), products


class Stub(train_jax.Program):
    """A program that computes nothing and keeps its arguments. In training iteration 1 is not finite; a test's loss is
    the number of its episode."""

    def __init__(self, folder, name, description, split):
        self.name, self.settings, self.split = name, description["settings"], split
        self.arguments = description[name]["arguments"]
        self.device, self.calls = SimpleNamespace(device_kind="stub"), []

    def put(self, array):
        return array

    def __call__(self, arrays):
        self.calls.append(arrays)
        if "indices" in arrays:
            return {"loss": arrays["indices"] + 0.0, "accuracy": np.ones(len(arrays["indices"]))}
        return arrays | {"loss": np.float32(1), "accuracy": np.float32(1), "finite": arrays["seed"][1] != 1}


def command(program, data_dir, file, *flags) -> list[str]:
    words = ("--program", program, "--weights", file, "--data_dir", data_dir, *flags)
    return [sys.executable, "-c", WITHOUT, *map(str, words)]


def run(*args) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args), cwd=ROOT, env=QUICK, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(scope="module")
def trained(program, data_dir, tmp_path_factory):
    """The weights file of a run of 31 iterations with a test on 6 episodes after every 10, and what the run printed."""
    file = tmp_path_factory.mktemp("jax") / "w.npz"
    done = run(program, data_dir, file, "--n_train_iters", 30, "--n_test_iters", 6, "--test_every", 10)
    assert done.returncode == 0, done.stderr
    return file, done.stdout


@pytest.fixture(scope="module")
def theirs(data_dir, tmp_path_factory):
    """The savedir of TensorFlow's run of 31 iterations."""
    savedir = tmp_path_factory.mktemp("tf") / "run"
    flags = (
        "--savedir",
        savedir,
        "--data_dir",
        data_dir,
        *FLAGS,
        "--jit",
        "on",
        "--n_train_iters",
        30,
        "--val_every",
        0,
    )
    succeed("main.py", *flags)
    succeed("main.py", "--mode", "weights", "--savedir", savedir, "--slots")
    return savedir


def test_an_iteration_equals_tensorflows_from_the_same_weights(program, data_dir, theirs):
    """The loss and Adam's first moment are the same, and so the gradient, except for the rounding of float32.

    Every iteration starts from TensorFlow's state, because two programs drift apart where a pooling maximum flips. A
    flip moves one gradient by up to a third; it is in other iterations on another processor, and most have none.
    """
    description = train_jax.read_description(program)
    settings = description["settings"]
    splits = train_jax.load_splits(data_dir, settings)
    split = splits["train"]
    assert split.classes == 480  # the training and the validation classes
    learner = engine_of(settings)
    step = learner.train_step(split)
    state = weights.read(program / "weights.npz")
    jax_side = train_jax.JaxRun(program, description, program / "never.npz", state, splits)
    errors = []
    for i in range(10):
        for group, variables in (("params", learner.params), ("adam", learner.slots)):
            jax_side.variables |= {f"{group}/{name}": variable.numpy() for name, variable in variables.items()}
        before = learner.slots["m"].numpy()
        loss, accuracy, *_ = learner.run_step(step, split, i)
        jax_side.update(i)
        assert abs(float(jax_side.loss) - float(loss)) < 1e-4 and float(jax_side.accuracy) == pytest.approx(
            float(accuracy)
        )
        gradient, other = (np.asarray(m) - 0.9 * before for m in (learner.slots["m"], jax_side.variables["adam/m"]))
        errors.append(np.linalg.norm(gradient - other) / np.linalg.norm(gradient))
        assert jax_side.finite
    assert np.median(errors) < 1e-3, errors


def engine_of(settings):
    """Return TensorFlow's engine with a program's settings, compiled by XLA."""
    import learners

    learner_settings = {name: settings[name] for name in own_settings(settings["model"])}
    shape = {"image_shape": (28, 28, 1), "channels": settings["channels"], "way": settings["way"]}
    learner = learners.make(settings["model"], **shape, **learner_settings, jit=True)
    tasks = {name: settings[name] for name in ("shot", "query", "metabatch", "seed", "meta_lr")}
    return steps.Engine(learner, **tasks)


def call_jax(program, data_dir, *flags):
    """Run train_jax.py in this process, for commands that compile nothing."""
    return call("train_jax.py", "--program", program, "--data_dir", data_dir, *flags)


def test_a_device_is_checked_against_float64(program, data_dir, tmp_path):
    def check(folder):
        return call_jax(folder, data_dir, "--check")

    done = check(program)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["gradient_error"] < 0.01 and report["loss_error"] < 1e-4, report
    assert report["compile_s"] > 0 and report["ms_per_iteration"] > 0
    other = shutil.copytree(program, tmp_path / "other")
    with np.load(program / "exact.npz") as file:
        np.savez(other / "exact.npz", m=1.25 * file["m"], loss=2 * file["loss"])
    report = json.loads(check(other).stdout)
    assert abs(report["gradient_error"] - 0.2) < 0.02 and abs(report["loss_error"] - 0.5) < 0.01
    content = (other / "exact.npz").read_bytes()
    (other / "exact.npz").write_bytes(content[: len(content) // 2])
    assert_refused(check(other), "exact.npz is damaged", "copy the folder again")
    (other / "exact.npz").unlink()
    assert_refused(check(other), "bench.py --export P --check")
    assert_refused(call_jax(program, data_dir), "--weights is missing")
    assert_refused(
        call_jax(program, data_dir, "--check", "--seconds", 3), "--check does not train: leave --seconds out"
    )


def test_the_whole_run_is_like_tensorflows(trained, theirs):
    """It has the same names and counts, and no weight is further from TensorFlow's than Adam can move it."""
    mine, other = weights.read(trained[0]), weights.read(theirs / "weights.npz")
    assert mine.params.keys() == other.params.keys() and mine.about["iteration"] == other.about["iteration"] == 30
    assert mine.slots["t"] == other.slots["t"] == 31 and int(mine.state["next"]) == 31
    for name, value in mine.params.items():
        # Adam moves a weight by up to its rate, 1e-3, in an iteration, and by as much where the gradient is rounding.
        assert np.abs(value - other.params[name]).max() <= 2 * 31 * 1e-3, name


def test_an_interrupted_run_equals_an_uninterrupted_one(program, data_dir, trained, tmp_path):
    file = tmp_path / "of/folders/w.npz"  # that do not exist
    for iterations in (11, 30):
        done = run(program, data_dir, file, "--n_train_iters", iterations)
        assert done.returncode == 0, done.stderr
    assert "iterations 12 to 30" in done.stdout
    one, other = weights.read(trained[0]), weights.read(file)
    for mine, cut in ((one.params, other.params), (one.slots, other.slots)):
        for name in mine:
            np.testing.assert_array_equal(mine[name], cut[name], err_msg=name)


def test_a_run_has_the_length_that_it_began_with(program, data_dir, trained, tmp_path, monkeypatch):
    """The same command without --n_train_iters continues to it, and so does TensorFlow."""
    monkeypatch.setattr(train_jax, "Program", Stub)
    assert weights.read(trained[0]).about["settings"]["n_train_iters"] == 30
    file = tmp_path / "w.npz"
    assert_refused(call_jax(program, data_dir, "--weights", file), "--n_train_iters is missing")
    assert not list(tmp_path.iterdir())
    assert call_jax(program, data_dir, "--weights", file, "--n_train_iters", 0).returncode == 0
    about = weights.read(file).about
    assert about["settings"]["n_train_iters"] == about["iteration"] == 0
    done = call_jax(program, data_dir, "--weights", file, "--n_test_iters", 2)
    assert done.returncode == 0 and "iterations" not in done.stdout, done.stdout


def test_a_run_that_waits_for_another_continues_from_where_that_one_ended(program, data_dir, tmp_path, monkeypatch):
    """The other one saves between this one's first look at the file and its lock."""
    monkeypatch.setattr(train_jax, "Program", Stub)
    file, state = tmp_path / "w.npz", weights.read(program / "weights.npz")
    weights.write(file, state)
    real = train_jax.load_splits

    def meanwhile(*args):
        moved = {"next": np.int64(8), "reported": np.int64(7)}
        weights.write(file, dataclasses.replace(state, about=state.about | {"iteration": 7}, state=state.state | moved))
        return real(*args)

    monkeypatch.setattr(train_jax, "load_splits", meanwhile)
    done = call_jax(program, data_dir, "--weights", file, "--n_train_iters", 9)
    assert done.returncode == 0 and "iterations 8 to 9" in done.stdout, done.stderr
    assert_refused(call_jax(program, data_dir, "--weights", file, "--n_train_iters", 6), "at iteration")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (ImportError("no JAX"), "this JAX cannot be used (no JAX): install one that is tested"),
        (AttributeError("_xla"), "this JAX cannot be used (_xla): install one"),
    ],
)
def test_another_jax_is_one_sentence(fault, words, program, data_dir, tmp_path, monkeypatch):
    import jax._src.lib

    class Other:
        def __getattr__(self, name):
            raise fault

    monkeypatch.setattr(jax._src.lib, "xla_client", Other())
    done = call_jax(program, data_dir, "--weights", tmp_path / "w.npz", "--n_train_iters", 0)
    assert_refused(done, words, "pip install 'jax>=0.10'")


def test_no_device_is_one_sentence(program, data_dir, tmp_path, monkeypatch):
    import jax

    def devices():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", devices)
    done = call_jax(program, data_dir, "--weights", tmp_path / "w.npz", "--n_train_iters", 0)
    assert_refused(done, "JAX finds no device (Unable to initialize", "JAX_PLATFORMS=cpu")


def test_the_file_keeps_the_tests_of_test_every(program, data_dir, trained):
    """They change nothing: test_an_interrupted_run_equals_an_uninterrupted_one has the same run without them."""
    about = weights.read(trained[0]).about
    assert [test["iteration"] for test in about["tests"]] == [10, 20, 30] and trained[1].count("accuracy :") == 3
    assert len({test["accuracy"] for test in about["tests"]}) > 1  # the weights differ
    assert about["tests"][-1] == {"iteration": 30} | about["test"]
    assert train_jax.iterations_to_test(-1, 30, None) == [30] and train_jax.iterations_to_test(-1, 30, 10) == [
        10,
        20,
        30,
    ]
    assert train_jax.iterations_to_test(10, 30, 10) == [10, 20, 30]  # it was interrupted before the test of 10
    assert train_jax.iterations_to_test(11, 30, 10) == [20, 30] and train_jax.iterations_to_test(40, 30, 10) == [30]
    assert_refused(run(program, data_dir, trained[0], "--test_every", 10), "--n_test_iters")


def test_a_repeated_test_is_listed_once():
    tests = [{"iteration": 10, "accuracy": 50.0}]
    state = weights.Weights({"iteration": 20, "tests": tests}, {})
    for accuracy in (0.25, 0.75):
        state = train_jax.with_test(state, {"loss": [1.0, 2.0], "accuracy": [accuracy, accuracy]}, 2)
    last = {"accuracy": 75.0, "interval95": 0.0, "episodes": 2, "n_test_mc_samp": 2}
    assert state.about["tests"] == [*tests, {"iteration": 20} | last] and state.about["test"] == last


@pytest.fixture
def stubbed(program, data_dir, tmp_path, monkeypatch):
    """Return a function that makes a JaxRun with changed settings; its programs are stubs."""
    monkeypatch.setattr(train_jax, "Program", Stub)

    def make(**changed):
        description = train_jax.read_description(program)
        description["settings"] |= changed
        saved, splits = (
            weights.read(program / "weights.npz"),
            train_jax.load_splits(data_dir, description["settings"]),
        )
        return train_jax.JaxRun(program, description, tmp_path / "w.npz", saved, splits)

    return make


def test_a_test_has_as_many_episodes_as_were_asked_for(stubbed):
    """Also where that is not a multiple of the metabatch."""
    jax_run = stubbed(metabatch=2)
    numbers = jax_run.test(5, SimpleNamespace(asked=False))
    assert numbers == {"loss": [0, 1, 2, 3, 4], "accuracy": [1] * 5}
    calls, split = jax_run.program("test").calls, jax_run.program("test").split
    assert [arrays["indices"].tolist() for arrays in calls] == [[0, 1], [2, 3], [4, 5]]
    drawn = [data.sample(split, "test", TEST_SEED, i, 1, 3, 3) for i in range(6)]
    for name, episodes in zip(("classes", "images"), zip(*drawn, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate([arrays[name] for arrays in calls]), np.concatenate(episodes))


@pytest.mark.parametrize("shared", [False, True])
def test_the_tasks_of_a_metabatch_share_their_classes_with_legacy_shared_classes(shared, stubbed):
    jax_run = stubbed(metabatch=2, legacy_shared_classes=shared)
    jax_run.update(0)
    one, other = jax_run.program("train").calls[0]["classes"]
    assert (one.tolist() == other.tolist()) == shared


def test_a_loss_that_is_not_finite_is_refused_and_the_file_stays(program, data_dir, tmp_path, monkeypatch):
    """Iteration 1 is not finite; the next printed iteration, 3, is."""
    monkeypatch.setattr(train_jax, "Program", Stub)
    file = Path(shutil.copy(program / "weights.npz", tmp_path / "w.npz"))
    before = file.read_bytes()
    done = call_jax(program, data_dir, "--weights", file, "--n_train_iters", 3)
    assert_refused(done, "not finite before iteration 4", "--meta_lr")
    assert file.read_bytes() == before and [path.name for path in tmp_path.glob("[!.]*")] == ["w.npz"]


def test_tensorflow_tests_the_file_with_the_same_result_and_trains_on(program, data_dir, trained, tmp_path):
    file, out = trained
    flags = ("--savedir", tmp_path / "a", "--weights", file, "--data_dir", data_dir, "--gpu_id", "-1")
    succeed("main.py", "--mode", "meta_test", *flags, "--n_test_iters", 6, "--n_test_mc_samp", 2)
    result = json.loads((tmp_path / "a/meta_test.json").read_text())
    loss = float(out.strip().splitlines()[-2].removeprefix("loss : "))
    assert loss == pytest.approx(result["loss"], rel=1e-4)
    about = weights.read(file).about
    assert about["test"]["accuracy"] == pytest.approx(result["accuracy"], abs=100 / 36)  # one image of 36
    assert about["weights_sha256"] == result["weights_sha256"]
    assert "resumed at iteration 31" in succeed("main.py", *flags, "--n_train_iters", 33).stdout


def test_it_continues_from_tensorflows_weights(program, data_dir, theirs, tmp_path):
    """It keeps the settings that the file has and the program lacks, the length of the run and what trained it, and
    the best checkpoint."""
    file, state = tmp_path / "w.npz", weights.read(theirs / "weights.npz")
    best = {name: value + 1 for name, value in state.params.items()}
    weights.write(file, dataclasses.replace(state, best=best, state=state.state | {"best": np.array([0.5, 20.0])}))
    settings = weights.read(file).about["settings"]
    assert settings["n_train_iters"] == 30 and settings["sessions"]
    done = run(program, data_dir, file, "--n_train_iters", 31)
    assert done.returncode == 0 and "iterations 31 to 31" in done.stdout, done.stderr
    after = weights.read(file)
    assert after.about["iteration"] == 31 and after.about["settings"] == settings
    assert after.state["best"].tolist() == [0.5, 20]
    assert all((after.best[name] == value).all() for name, value in best.items())


def test_it_stops_after_seconds_or_a_signal_with_the_weights_saved(program, data_dir, tmp_path):
    file = tmp_path / "w.npz"
    done = run(program, data_dir, file, "--seconds", 0.5, "--n_train_iters", 10**6)
    assert done.returncode == 0 and "the same command continues" in done.stderr, done.stderr
    first = weights.read(file).about["iteration"]
    words = command(program, data_dir, file, "--n_train_iters", 10**6, "--save_every", 0.2)
    process = subprocess.Popen(words, cwd=ROOT, env=QUICK, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while weights.read(file).about["iteration"] == first:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 130 and "saved after iteration" in stderr and "Traceback" not in stderr
    assert weights.read(file).about["iteration"] == int(stderr.split("iteration ")[-1].split(";")[0])


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("way", 4, "is of a run with way 4, but"),
        ("inner_lr", 0.2, "run with inner_lr 0.2"),
        ("seed", 1, "with seed 1"),
        ("meta_lr", 0.01, "with meta_lr 0.01"),
        ("train_split", "train", "with train_split train, but"),
        ("meta_gradient", "first_order", "with meta_gradient first_order"),
        ("precision", "bf16", "with precision bf16"),
        ("metabatch", 2, "with metabatch 2"),
    ],
)
def test_weights_of_another_run_are_refused(setting, value, words, program, tmp_path):
    state = weights.read(program / "weights.npz")
    about = state.about | {"settings": state.about["settings"] | {setting: value}}
    weights.write(tmp_path / "w.npz", weights.Weights(about, state.params, state.slots, state.state))
    with pytest.raises(UserError, match=words):
        train_jax.read_weights(tmp_path / "w.npz", program, train_jax.read_description(program)["settings"])


@pytest.mark.parametrize("name", ["maml", "metadrop"])
def test_it_continues_from_the_pretrained_weights(name, program):
    """They lack facts of the data that programs have now; here they are those of a program of other data."""
    file = ROOT / f"pretrained/omniglot_20way_1shot_{name}.npz"
    own = weights.read(file).about["settings"]
    settings = train_jax.read_description(program)["settings"] | own
    assert {"prepare", "brightness", "train_classes"} <= settings.keys() - own.keys()
    assert train_jax.read_weights(file, program, settings).about["iteration"] == 5000


def test_missing_or_wrong_input_is_one_sentence(program, data_dir, trained, tmp_path):
    state = weights.read(trained[0])
    weights.write(tmp_path / "plain.npz", weights.Weights(state.about, state.params))
    assert_refused(run(program, data_dir, tmp_path / "plain.npz"), "has no slots of Adam")
    done = run(program, data_dir, tmp_path / "plain.npz/w.npz", "--n_train_iters", 0)
    assert_refused(done, "cannot make the folder of --weights")
    content = trained[0].read_bytes()
    assert_refused(run(program, data_dir, trained[0], "--n_train_iters", 29), "at iteration 30 already, past", "29")
    assert trained[0].read_bytes() == content
    assert_refused(run(tmp_path, data_dir, tmp_path / "w.npz"), "bench.py --export")
    weights.write(tmp_path / "other.npz", dataclasses.replace(state, about=state.about | {"settings": {"way": "x"}}))
    assert_refused(run(program, data_dir, tmp_path / "other.npz"), "other.npz")
    with files.locked(tmp_path / ".locked.npz.lock", ""):
        done = run(program, data_dir, tmp_path / "locked.npz", "--n_train_iters", 0)
        assert_refused(done, "writes", "wait for it, or choose another file")
    succeed("get_data.py", "--dataset", "glyphs", "--data_dir", tmp_path / "data", "--seed", 1)
    done = run(program, tmp_path / "data", tmp_path / "w.npz", "--n_train_iters", 0)
    assert_refused(done, "other data than the program was made for")
    assert not (tmp_path / "w.npz").exists()
    (tmp_path / "program.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="its version is 1"):
        train_jax.read_description(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut short", "text", "changed"])
def test_a_damaged_program_is_one_sentence(damage, program, data_dir, tmp_path):
    other = shutil.copytree(program, tmp_path / "other")
    path = other / "train.hlo.gz"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        half = content[: len(content) // 2]
        path.write_bytes({"cut short": half, "text": b"no program", "changed": half + b"\xff" * len(half)}[damage])
    done = call_jax(other, data_dir, "--weights", tmp_path / "w.npz", "--n_train_iters", 0)
    assert_refused(done, "train.hlo.gz is missing or damaged", "copy the folder again")
    assert not (tmp_path / "w.npz").exists()


def test_a_failed_export_leaves_no_description(program, data_dir, tmp_path, monkeypatch):
    """The programs of an earlier export are replaced one by one; its description is deleted first."""
    other = shutil.copytree(program, tmp_path / "other")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xla_programs, "compile_step", full)
    done = call("bench.py", *FLAGS, "--data_dir", data_dir, "--export", other)
    assert_refused(done, "cannot write into", "choose another --export")
    assert not (other / "program.json").exists() and (other / "train.hlo.gz").exists()
    assert_refused(call_jax(other, data_dir, "--weights", tmp_path / "w.npz"), "bench.py --export")


def test_the_loss_of_a_check_is_float64(program):
    with np.load(program / "exact.npz") as file:
        assert file["loss"].dtype == np.float64


def test_the_description_names_all_arrays(program):
    description, state = train_jax.read_description(program), weights.read(program / "weights.npz")
    names = {name: (shape, dtype) for name, shape, dtype in description["train"]["arguments"]}
    arrays = {f"params/{k}": v for k, v in state.params.items()} | {f"adam/{k}": v for k, v in state.slots.items()}
    assert names.keys() == arrays.keys() | {"pixels", "classes", "images", "seed"}
    assert all(names[name] == (list(value.shape), "float32") for name, value in arrays.items())
    results = [name for name, *_ in description["train"]["results"]]
    assert set(results) == arrays.keys() | {"loss", "accuracy", "finite"}
    assert [name for name, *_ in description["test"]["results"]] == ["accuracy", "loss"]
    assert tf.TensorSpec(names["pixels"][0]).shape == (120, 20, 28, 28, 1)
    for settings in (description["settings"], state.about["settings"]):  # nothing of this machine is in them
        assert not {"data_dir", "gpu_id", "jit"} & settings.keys()
