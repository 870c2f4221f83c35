"""Set TensorFlow up for this machine: devices, threads, precision, and the processes that share a metabatch."""

import contextlib
import ctypes
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

import layers
from errors import UserError, stderr_silenced, user_error
from files import parse_json
from lazy import tf

FLOAT32, TF32, BF16 = PRECISIONS = ("float32", "tf32", "bf16")
INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # the processor's flag and the name; the first one counts
# For glibc's mallopt: large blocks come from the heap, which keeps freed memory and grows by 64 MB; one arena.
MALLOPT = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26), "M_ARENA_MAX": (-8, 1)}
STARTUP_TIMEOUT = 300  # seconds that a worker waits for the others
WATCHDOG = """
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
    """The devices of this process. name: for people. gpu: True if they are GPUs. parallel: tasks that a CPU computes at
    the same time. strategy: tf.distribute's, which divides a metabatch. alone: True if no other process shares the
    metabatch. chief: True in the process that writes into savedir."""

    name: str
    gpu: bool
    parallel: int
    strategy: object
    alone: bool
    chief: bool


def set_up(gpu_id: str | None, metabatch: int, precision: str, distribute: bool) -> Devices:
    """Import TensorFlow and set it up for a mode. A second call in a process leaves threads and devices as they are.

    gpu_id: numbers of the GPUs to use, or "-1" for the CPU; None: those in CUDA_VISIBLE_DEVICES, or the first GPU if
    there is one. distribute: use all of these GPUs, and the other processes in TF_CONFIG.
    Raise UserError if a GPU cannot be used, or if the other processes do not start.
    """
    if gpu_id is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu_id
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN's kernels take a fifth less of an iteration wherever there is AVX2. TensorFlow uses them by itself only on
    # processors with instructions for neural networks (VNNI and later).
    if "avx2" in layers.processor_flags():
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    workers, index = read_cluster() if distribute else (1, 0)
    with stderr_silenced():  # the first use of `tf` imports TensorFlow, which reports its start whatever the log level
        gpus = tf.config.list_physical_devices("GPU")
    if gpu_id not in (None, "-1") and len(gpus) < len(gpu_id.split(",")):
        usable = f"only {len(gpus)} of these" if gpus else "none of these"
        remedy = NO_CUDA if has_nvidia_gpu() and not gpus else "give others, or -1 for the CPU"
        raise UserError(f"--gpu_id {gpu_id}: TensorFlow can use {usable}: {remedy}")
    cores = usable_cores()
    # Also where processes share the metabatch: the number of threads decides how sums are rounded.
    parallel = min(cores, metabatch)
    set_threads(parallel, cores)
    keep_memory()
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(precision == TF32)
    if workers > 1:
        print(f"worker {index} of {workers}: waiting for the others", file=sys.stderr)
        with stderr_silenced() as stderr, startup_timeout(index, stderr):
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif len(gpus) > 1 and distribute:
        strategy = tf.distribute.MirroredStrategy()
    else:
        strategy = tf.distribute.get_strategy()
    name = describe_devices(gpus if distribute else gpus[:1], cores)
    return Devices(name, bool(gpus), parallel, strategy, workers == 1, index == 0)


def usable_cores(root: Path = Path("/")) -> int:
    """Return how many processor cores this process may use, by its CPU affinity and by the quotas of its control groups
    (of a container: docker --cpus, Kubernetes' limits). A fraction of a core counts as one.

    root: the folder of the system files.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in cpu_quotas(root))]))


def cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of the groups above them.

    In a container the groups usually have the names that they have on the host, but the container's own group is at the
    top of the tree.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, name in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in [controllers, "cpu"] if controllers else ["", "unified"]:
            top, group = root / "sys/fs/cgroup" / mount, PurePosixPath(name).relative_to("/")
            for folder in (group, *group.parents):
                for names in ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]:  # of version 2, of version 1
                    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # `max` or -1: no quota
                        quota, period = (float(word) for n in names for word in (top / folder / n).read_text().split())
                        if quota > 0:
                            yield quota / period


@contextlib.contextmanager
def precision_of_products(precision: str | None):
    """In a `with` block let a GPU multiply in TF32 if the --precision is tf32, and in float32 otherwise."""
    before, wanted = tf.config.experimental.tensor_float_32_execution_enabled(), precision == TF32
    tf.config.experimental.enable_tensor_float_32_execution(wanted)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def set_threads(parallel: int, cores: int) -> None:
    """Use one thread per task, and the remaining cores within its kernels. If TensorFlow has computed already, as in a
    Python program that calls a second mode, its threads stay as they are: sums may then be rounded otherwise than in a
    process of its own."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(parallel)
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // parallel))


def keep_memory() -> None:
    """Make glibc keep freed memory for the next feature maps; other C libraries stay as they are.

    Otherwise glibc returns every large block to the kernel, and a new one costs a page fault for every 4 KB: 1 to 20
    microseconds each in a virtual machine, a fifth of an iteration.
    """
    if platform.libc_ver()[0] == "glibc":
        for parameter, value in MALLOPT.values():
            ctypes.CDLL(None).mallopt(parameter, value)


def describe_devices(gpus: list, cores: int) -> str:
    """Return the names of the devices, such as `CPU, 2 cores of AMD EPYC 7763 with AVX2`, and a hint where CUDA is
    missing for a GPU. The instructions decide how products are rounded."""
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
        return " and ".join(names)
    try:
        processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1].strip()
    except (OSError, TypeError):
        processor = platform.processor() or platform.machine()
    flags = layers.processor_flags()
    width = next((f" with {name}" for flag, name in INSTRUCTIONS.items() if flag in flags), "")
    cpu = f"CPU, {cores} {'core' if cores == 1 else 'cores'} of {processor}{width}"
    idle = has_nvidia_gpu() and os.environ.get("CUDA_VISIBLE_DEVICES") != "-1"
    return f"{cpu}; there is a GPU that TensorFlow cannot use: {NO_CUDA}" if idle else cpu


def has_nvidia_gpu() -> bool:
    """Return True if there is an NVIDIA GPU, even one that TensorFlow cannot use."""
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()


@contextlib.contextmanager
def startup_timeout(index: int, stderr: int | None):
    """In a `with` block end this process, with a sentence and exit code 2, after STARTUP_TIMEOUT seconds.

    TensorFlow waits for the other workers without limit and holds Python's lock meanwhile, so that no thread and no
    signal handler of Python can run. Therefore a second process measures the time and sends SIGINT, signal number 2;
    its handler here is C's _exit, which exits with that number. Ctrl-C ends the waiting in the same way. stderr: the
    file descriptor for the sentence.
    """
    sentence = f"error: worker {index}: the others did not start within {STARTUP_TIMEOUT} s; see their messages, and "
    command = [sys.executable, "-c", WATCHDOG, str(os.getpid()), str(STARTUP_TIMEOUT), f"{sentence}start all again"]
    c, before = ctypes.CDLL(None), signal.getsignal(signal.SIGINT)
    c.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, start_new_session=True) as watchdog:
        c.signal(signal.SIGINT, ctypes.cast(c._exit, ctypes.c_void_p))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            watchdog.kill()


def provenance(device: str) -> dict:
    """Return how a result was made: versions, git revision, device, command and time."""
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
    """Return this program's version, and its git commit if it is in its own repository."""
    root = Path(__file__).resolve().parent.parent
    name = re.search(r'^version = "(.*)"', (root / "pyproject.toml").read_text(), re.MULTILINE)[1]
    if not (root / ".git").exists():
        return name
    command = ["git", "-C", root, "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty= with changes"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return name
    return f"{name}, git {commit}"


def read_cluster() -> tuple[int, int]:
    """Return the number of workers in TF_CONFIG and this process's index; without TF_CONFIG (1, 0)."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1, 0
    example = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
    with user_error("TF_CONFIG cannot be used", f"write it like {example}", ValueError, KeyError, TypeError):
        config = parse_json(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if set(config["cluster"]) != {"worker"} or task["type"] != "worker":
            raise ValueError("all processes have to be workers")
        if not isinstance(workers, list) or not all(re.fullmatch(r".+:\d+", one) for one in workers):
            raise ValueError("each worker needs an address and a port")
        if type(task["index"]) is not int or not 0 <= task["index"] < len(workers):
            raise ValueError(f"there is no worker {task['index']}")
        return len(workers), task["index"]
