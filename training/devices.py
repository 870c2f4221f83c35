"""TensorFlow set up for this machine: which devices, how many threads, which precision, how many processes."""

import contextlib
import ctypes
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from errors import UserError

FLOAT32, TF32, BF16 = PRECISIONS = ("float32", "tf32", "bf16")
# glibc's mallopt: no maps of their own for large blocks, nothing given back, 64 MB asked for at a time, one heap.
MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26), "M_ARENA_MAX": (-8, 1)}
PATIENCE = 300  # seconds that a worker waits for the others
WATCH = """
import os, signal, sys, time
process, seconds, sentence = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.2)
    if os.getppid() != process:  # it has died
        sys.exit()
print(sentence, file=sys.stderr, flush=True)
os.kill(process, signal.SIGINT)
"""
NO_CUDA = 'install CUDA\'s libraries with: .venv/bin/pip install ".[cuda]"'


class Devices(NamedTuple):
    """name: what computes, for people. gpu: is it a GPU? parallel: tasks that a CPU computes side by side.
    strategy: tf.distribute's, which shares a metabatch out. alone: is this the only process? chief: does it write?"""

    name: str
    gpu: bool
    parallel: int
    strategy: object
    alone: bool
    chief: bool


def start(gpu_id: str | None, metabatch: int, precision: str, distribute: bool) -> Devices:
    """Import TensorFlow as these settings want it; call it once, before anything computes.

    gpu_id: numbers of the GPUs to use, "-1" for none; None: CUDA_VISIBLE_DEVICES, or the first, if there is one.
    distribute: over all GPUs in use, and over the processes that TF_CONFIG names.
    UserError where a GPU that gpu_id names cannot be used, or where the other processes do not come.
    """
    if gpu_id is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_id
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    workers, index = cluster() if distribute else (1, 0)
    with quiet():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    if gpu_id not in (None, "-1") and len(gpus) < len(gpu_id.split(",")):
        have = f"only {len(gpus)} of these" if gpus else "none of these"
        remedy = NO_CUDA if nvidia() and not gpus else "choose others, or leave --gpu_id out"
        raise UserError(f"--gpu_id {gpu_id}: TensorFlow can use {have}: {remedy}")
    cores = usable_cores()
    # By the whole metabatch, also where processes share it: the number of threads decides how sums are rounded.
    parallel = min(cores, metabatch)
    set_threads(tf, parallel, cores)
    keep_memory()
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(precision == TF32)
    if workers > 1:
        print(f"worker {index} of {workers}: waiting for the others", file=sys.stderr)
        with quiet() as stderr, patience(index, stderr):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif len(gpus) > 1 and distribute:
        strategy = tf.distribute.MirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    return Devices(name_of(tf, gpus, cores), bool(gpus), parallel, strategy, workers == 1, index == 0)


def usable_cores(root: Path = Path("/")) -> int:
    """The processor cores that this process may use: those that it is bound to, or fewer where the quota of its control
    group, or of one above it, allows fewer (a container's: docker --cpus, Kubernetes' limits). A fraction of a core
    counts as one: threads that are paused part of the time do more than one thread fewer would.

    root: where the system's files are.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in quotas(root))]))


def quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's control groups, in cores: of version 2 in cpu.max, of version 1 in two files.

    Inside a container the groups mostly have the names that the host gives them, and the top is the container's own.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in [controllers, "cpu"] if controllers else ["", "unified"]:
            top, own = root / "sys/fs/cgroup" / mount, PurePosixPath(name).relative_to("/")
            for group in (own, *own.parents):
                quota, period = read_quota(top / group, 2 if not controllers else 1)
                if quota > 0 and period > 0:
                    yield quota / period


def read_quota(group: Path, version: int) -> tuple[float, float]:
    """A control group's quota and its period, in microseconds; the quota is not above 0 where the group has none."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota.replace("max", "-1")), float(period)
    except (OSError, ValueError):
        return -1, 1


@contextlib.contextmanager
def tensor_float_32(precision: str | None):
    """Compute in this --precision in a `with` block, for callers that have no command line: a GPU multiplies in TF32 if
    it is tf32, and in float32 otherwise. Afterwards TensorFlow is set as before."""
    import tensorflow as tf

    before, wanted = tf.config.experimental.tensor_float_32_execution_enabled(), precision == TF32
    tf.config.experimental.enable_tensor_float_32_execution(wanted)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def set_threads(tf, parallel: int, cores: int) -> None:
    """One thread a task, and the cores that are left for its kernels. TensorFlow has to be fresh."""
    tf.config.threading.set_inter_op_parallelism_threads(parallel)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // parallel))


def keep_memory() -> None:
    """Freed memory stays with the process for the next maps of the same sizes.

    Otherwise glibc gives every large map back to the kernel, and a new one costs a page fault for every 4 KB: 1 to 20
    microseconds each in a virtual machine, a fifth of an iteration. Other C libraries keep their own ways.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if platform.libc_ver()[0] == "glibc" and mallopt:
        for parameter, value in MALLOPT.values():
            mallopt(parameter, value)


def name_of(tf, gpus: list, cores: int) -> str:
    """The devices in use, such as `2 cores of an AMD EPYC 7763`, and a hint where a GPU lies idle for want of CUDA."""
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
        return " and ".join(names)
    try:
        processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        processor = platform.processor() or platform.machine()
    cpu = f"CPU, {cores} {'core' if cores == 1 else 'cores'} of {processor}"
    idle = nvidia() and os.environ["CUDA_VISIBLE_DEVICES"] != "-1"
    return f"{cpu}; there is a GPU that TensorFlow cannot use: {NO_CUDA}" if idle else cpu


def nvidia() -> bool:
    """Is there an NVIDIA GPU, whether or not TensorFlow can use it?"""
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()


@contextlib.contextmanager
def patience(index: int, stderr: int):
    """End this process with a sentence, and exit code 2, where the others have not come within PATIENCE seconds.

    TensorFlow itself waits for ever, and holds Python's lock while it does, so that no thread or signal handler of
    Python's can run. So a second process watches the clock, and its signal, whose number is 2, is handled by C's
    _exit, whose argument is the number. Ctrl-C ends the waiting in the same way. stderr: the file descriptor to speak
    on.
    """
    sentence = f"error: worker {index}: the others have not come within {PATIENCE} s; see what they say, and start "
    command = [sys.executable, "-c", WATCH, str(os.getpid()), str(PATIENCE), f"{sentence}all of them again"]
    c, before = ctypes.CDLL(None), signal.getsignal(signal.SIGINT)
    c.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, start_new_session=True) as watch:
        c.signal(signal.SIGINT, ctypes.cast(c._exit, ctypes.c_void_p))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            watch.kill()


def provenance(device: str) -> dict:
    """What makes a result here and now: this program's version and git revision, TensorFlow's, the device, the
    command, the time."""
    return {
        "program": revision(),
        "tensorflow": sys.modules["tensorflow"].__version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "device": device,
        "command": shlex.join(sys.argv),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def revision() -> str:
    """This program's version, and its git commit where it stands in a repository of its own."""
    root = Path(__file__).resolve().parent.parent
    name = re.search(r'^version = "(.*)"', (root / "pyproject.toml").read_text(), re.MULTILINE)[1]
    if not (root / ".git").exists():
        return name
    try:
        git = [
            subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, timeout=10, check=True).stdout
            for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return name
    return f"{name}, git {git[0].strip()}{' with changes' if git[1] else ''}"


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
    """TensorFlow reports on its start to file descriptor 2, before any log level holds: keep it off.

    Yields a copy of the descriptor, for what has to be said meanwhile."""
    sys.stderr.flush()
    spoken, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield spoken
    finally:
        os.dup2(spoken, 2)
        os.close(spoken)
        os.close(null)
