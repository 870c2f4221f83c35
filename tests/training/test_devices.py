"""What the programs set up before they compute."""

import os
import platform
import subprocess
import sys

import pytest

from conftest import ROOT
from training import devices

# Takes, fills and frees 64 MB, as a step does with its maps, and prints the page faults after the first time.
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
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
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),  # a part of a core is worth a thread
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000"}, 64),  # no more than there are
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),  # of a group above
        ("0::/a/b\n", {"a/b/cpu.max": "100000 50000", "a/cpu.max": "300000 100000"}, 2),
        ("0::/a/b\n", {"cpu.max": "300000 100000"}, 3),  # a container's own group is the top
        ("5:memory:/x\n4:cpu,cpuacct:/d/1\n",
         {"cpu,cpuacct/d/1/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/d/1/cpu.cfs_period_us": "100000\n"}, 3),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpu:/\n0::/u\n", {"unified/u/cpu.max": "400000 100000"}, 4),
        ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000", "cpuset/cpu.cfs_period_us": "100000"}, 64),
    ],
)  # fmt: skip
def test_cores_are_those_that_a_containers_quota_pays_for(groups, written, wanted, monkeypatch, tmp_path):
    """Made-up system files, of both versions of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    system = {f"sys/fs/cgroup/{name}": text for name, text in written.items()} | {"proc/self/cgroup": groups}
    for name, text in system.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert devices.usable_cores(tmp_path) == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert devices.usable_cores(tmp_path) == 1
    assert devices.usable_cores(tmp_path / "none") == 1


def test_threads_are_no_more_than_the_cores_that_may_be_used(monkeypatch):
    threads = []
    monkeypatch.setattr(devices, "set_threads", lambda tf, parallel, cores: threads.append((parallel, cores)))
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    for metabatch, parallel in ((8, 3), (2, 2)):
        assert devices.set_up("-1", metabatch, devices.FLOAT32, distribute=False).parallel == parallel
    assert threads == [(3, 3), (2, 3)]


def test_every_command_that_computes_keeps_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "set_threads", lambda *_: None)  # TensorFlow has been used in this process
    monkeypatch.setattr(devices, "keep_memory", lambda: calls.append("keep_memory"))
    devices.set_up("-1", 1, devices.FLOAT32, distribute=False)
    assert calls == ["keep_memory"]
