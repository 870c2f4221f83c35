"""What the programs set up before they compute: devices, threads and memory."""

import os
import platform
import subprocess
import sys

import pytest
import tensorflow as tf

import layers
from conftest import ROOT, SETTINGS, assert_refused, call, flags_of
from training import devices

# Allocates, fills and frees 64 MB, like the maps of a step, and prints how many page faults follow the first time.
ALLOCATE = """
import ctypes, resource, sys
if sys.argv[1:]:
    from training.devices import keep_memory
    keep_memory()
c = ctypes.CDLL(None)
c.malloc.restype, size = ctypes.c_void_p, 2**26
for turn in range(6):
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(c.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    c.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_is_used_again():
    def faults(*args):
        command = [sys.executable, "-c", ALLOCATE, *args]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)

    assert faults("kept") < 100 < faults()


@pytest.mark.parametrize(
    ("groups", "written", "wanted"),
    [
        ("", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),  # a fraction of a core counts as one
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 64),  # more than there are
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),  # the group above has the quota
        ("0::/a/b\n", {"a/b/cpu.max": "100000 50000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/a/b\n", {"cpu.max": "300000 100000"}, 3),  # in a container its group is at the top
        ("5:memory:/x\n4:cpu,cpuacct:/d/1\n",
         {"cpu,cpuacct/d/1/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/d/1/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpu:/\n0::/u\n", {"unified/u/cpu.max": "400000 100000"}, 4),
        ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 64),
    ],
)  # fmt: skip
def test_cores_are_limited_by_the_quota_of_a_container(groups, written, wanted, monkeypatch, tmp_path):
    """The system files are made up, for both versions of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)  # macOS has none
    system = {f"sys/fs/cgroup/{name}": text for name, text in written.items()} | {"proc/self/cgroup": groups}
    for name, text in system.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices.usable_cores(tmp_path) == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert devices.usable_cores(tmp_path) == 1
    assert devices.usable_cores(tmp_path / "none") == 1


def test_there_are_no_more_threads_than_usable_cores(monkeypatch):
    threads = []
    monkeypatch.setattr(devices, "set_threads", lambda parallel, cores: threads.append((parallel, cores)))
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    for metabatch, parallel in ((8, 3), (2, 2)):
        assert devices.set_up("-1", metabatch, devices.FLOAT32, distribute=False).parallel == parallel
    assert threads == [(3, 3), (2, 3)]


def test_every_command_that_computes_keeps_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "set_threads", lambda *_: None)  # too late: TensorFlow has computed in this process
    monkeypatch.setattr(devices, "keep_memory", lambda: calls.append("keep_memory"))
    devices.set_up("-1", 1, devices.FLOAT32, distribute=False)
    assert calls == ["keep_memory"]


def test_a_missing_gpu_is_refused_and_not_replaced_by_the_cpu(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    settings = flags_of(SETTINGS | {"gpu_id": None})
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *settings)
    for gpus in ("7", "0", "0,1"):
        refused = call("main.py", *flags, "--gpu_id", gpus)
        assert_refused(refused, f"--gpu_id {gpus}: TensorFlow can use none of these: give others, or -1 for the CPU")
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    assert_refused(call("main.py", *flags, "--gpu_id", 0), "install CUDA's libraries with: .venv/bin/pip install")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["the only GPU"])
    assert_refused(call("main.py", *flags, "--gpu_id", "0,1"), "TensorFlow can use only 1 of these")
    assert not (tmp_path / "a").exists()


def test_the_device_is_named_with_a_hint_at_a_gpu_without_cuda(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: False)
    for flags, instructions in (({"avx2"}, " with AVX2"), ({"avx2", "avx512f"}, " with AVX-512"), (set(), "")):
        monkeypatch.setattr(layers, "processor_flags", lambda flags=flags: flags)
        name = devices.describe_devices([], 2)
        assert name.startswith("CPU, 2 cores of ") and "GPU" not in name
        assert name.endswith(instructions) and (" with " in name) == bool(flags)
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    name = devices.describe_devices([], 1)
    assert name.startswith("CPU, 1 core of ") and "there is a GPU that TensorFlow cannot use: install CUDA" in name
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # the user chose the CPU
    assert "GPU" not in devices.describe_devices([], 1)
    details = {"device_name": "NVIDIA H100"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices.describe_devices(["a", "b"], 1) == "NVIDIA H100 and NVIDIA H100"


def test_onednn_is_used_on_every_processor_that_has_avx2(tmp_path, monkeypatch):
    """TensorFlow reads the variable when it is imported; what a user sets stays."""
    for flags, wanted in (("fpu avx avx2 fma", True), ("fpu avx avx2_vnni", False)):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        assert ("avx2" in layers.processor_flags(tmp_path / "cpuinfo")) is wanted
    assert not layers.processor_flags(tmp_path / "none")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "")  # so that the test leaves the variable as it was
    monkeypatch.setattr(devices, "set_threads", lambda *_: None)  # too late: TensorFlow has computed in this process
    for has, before, after in ((True, None, "1"), (True, "0", "0"), (False, None, None)):
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
        if before:
            monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before)
        monkeypatch.setattr(layers, "processor_flags", lambda has=has: {"avx2"} if has else set())
        devices.set_up("-1", 1, devices.FLOAT32, distribute=False)
        assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == after
