"""Fixtures: a small dataset of glyphs; memory freed between tests; commands run in a process or in this one."""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
for name in ("TF_CONFIG", "TF_XLA_FLAGS", "NO_LOCK", "WORKERS", "PORT", "TRAIN_FLAGS", "TEST_FLAGS"):
    os.environ.pop(name, None)  # the program and its scripts read them
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"  # the servers of tests
ROOT = Path(__file__).resolve().parent.parent

# A net and a task small enough that a subprocess spends its time on starting TensorFlow.
SETTINGS = {"dataset": "glyphs", "way": 3, "query": 2, "metabatch": 2, "channels": 4, "n_steps": 1, "gpu_id": "-1"}


def flags_of(settings: dict) -> list[str]:
    """Return the settings that are not None as words of a command line."""
    return [word for name, value in settings.items() if value is not None for word in (f"--{name}", str(value))]


SMALL = flags_of(SETTINGS)


# The test files that take longest, in this order: they run first, so that both workers end at about the same time.
LONGEST = [
    "test_tour.py", "test_main.py", "test_commands.py", "studies/test_robustness.py", "training/test_steps.py",
    "perturbations/test_gradients.py", "studies/test_classifier.py", "learners/test_contract.py", "test_additions.py",
    "test_model.py", "test_parity.py", "learners/test_metanet.py", "learners/test_maml_kinds.py",
    "studies/test_export.py", "studies/test_collapse_study.py", "studies/test_draw.py", "runfiles/test_study.py",
    "figures/test_features.py",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def determinism():
    """Compute deterministically and without TF32, as main.py does. XLA then refuses what it cannot compute so."""
    import tensorflow as tf

    import graphs

    # The collector looks at no object that the import made: none of them is garbage.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    graphs.share_integers()
    graphs.rewrite(False)


@pytest.fixture
def rewritten_graphs():
    """Let TensorFlow rewrite graphs, as it does for users and in every process that `cli` starts."""
    import graphs

    graphs.rewrite(True)
    yield
    graphs.rewrite(False)


@pytest.fixture(autouse=True)
def collect_graphs():
    """Free the graphs of a test that made many objects: graphs refer to themselves, and the collector seldom looks."""
    yield
    if any(gc.get_count()[1:]):
        gc.collect()


@pytest.fixture(scope="module", autouse=True)
def forget_programs(request):
    """Forget a file's compiled programs behind its last test, and what its cached functions returned."""
    yield
    from training import programs

    programs.PROGRAMS.clear()
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's: gives freed memory back
    if malloc_trim:
        malloc_trim(0)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory, worker_id) -> Path:
    """Make the glyphs dataset with get_data.py, once for all of pytest's processes; return its --data_dir."""
    alone = worker_id == "master"
    folder = tmp_path_factory.mktemp("data") if alone else tmp_path_factory.getbasetemp().parent / "data"
    with open(tmp_path_factory.getbasetemp().parent / "data.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait
        if not (folder / "glyphs").exists():
            done = cli("get_data.py", "--dataset", "glyphs", "--data_dir", folder)
            assert done.returncode == 0, done.stderr
    return folder


def cli(program: str, *args, **settings) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, from another folder than the command's."""
    command = [sys.executable, str(ROOT / program), *map(str, args)]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.run(command, text=True, timeout=150, check=False, **settings)


def call(program: str, *args) -> subprocess.CompletedProcess:
    """Run a command in this process, which has loaded TensorFlow: that takes one second where `cli` takes six.

    The number of threads is not the command's; a test of bits or of signals needs `cli`.
    """
    from training import devices

    path, out, err, code = ROOT / program, io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),  # as Python itself does
        mock.patch.object(sys, "argv", [program, *map(str, args)]),
        mock.patch.object(devices, "set_threads", lambda *_: None),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        module = importlib.import_module(path.stem)
        try:
            module.run(getattr(module, "bench" if program == "bench.py" else "main"))
        except SystemExit as left:
            code = left.code or 0
    return subprocess.CompletedProcess([program, *args], code, out.getvalue(), err.getvalue())


def succeed(program: str, *args) -> subprocess.CompletedProcess:
    """Run a command as `call` does, see that its exit code is 0, and return what it printed."""
    done = call(program, *args)
    assert done.returncode == 0, done.stderr
    return done


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 2, and on standard error, but for notes, one sentence that says these words, and no traceback."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.replace("\r", "\n").split("\n") if line.strip()]
    lines = [line for line in lines if not re.search(r"^note: |\| +\d+/\d+ \[", line)]  # notes, a progress bar's
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])
