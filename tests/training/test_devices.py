"""What the programs set up before they compute."""

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


def test_every_command_that_computes_keeps_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(devices, "set_threads", lambda *_: None)  # TensorFlow has been used in this process
    monkeypatch.setattr(devices, "keep_memory", lambda: calls.append("keep_memory"))
    devices.start("-1", 1, devices.FLOAT32, distribute=False)
    assert calls == ["keep_memory"]
