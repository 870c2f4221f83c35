"""A queue of runs: each on a core of its own, several at a time, and interrupted without loss."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import workers
from outcomes import Job
from records import FAILURE

from conftest import ROOT

# In place of main.py: it writes down its words, diverges for a way of 1, fails for a way of 7, and does not end for a
# way of 9.
STUB = """
import pathlib, signal, sys, time
if __name__ != "__main__":
    from real_main import *
else:
    words = sys.argv[1:]
    savedir = pathlib.Path(words[words.index("--savedir") + 1])
    if "9" in words:
        def leave(*_):
            print("saved", flush=True)
            sys.exit(130)
        signal.signal(signal.SIGTERM, leave)
        (savedir / "begun").touch()
        time.sleep(100)
    if "1" in words:
        sys.exit("error: its gradient is not finite; the last one is in a folder")
    if "7" in words:
        sys.exit("error: another process is training in a folder")
    print("made")
"""


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Return the folder of a copy of the program, with STUB in place of main.py."""
    house = tmp_path / "house"
    shutil.copytree(ROOT / "runfiles", house / "runfiles")
    for path in (*ROOT.glob("*.py"), *(init.parent for init in ROOT.glob("*/__init__.py"))):
        (house / (path.name if path.name != "main.py" else "real_main.py")).symlink_to(path)
    (house / "main.py").write_text(STUB)
    monkeypatch.setattr(workers, "ROOT", house)
    return house


def log(savedir: Path) -> list[str]:
    return (savedir / workers.LOG).read_text().splitlines()


def test_the_commands_of_a_run_follow_one_another(house, tmp_path):
    commands = [["--mode", "meta_train", "--way", "5"], ["--mode", "meta_test", "--shot", "2"]]
    assert workers.make([Job(tmp_path / "deep/a b", commands)], None, "the data", "title") == (True, [])
    place = shlex.join(["--savedir", str(tmp_path / "deep/a b"), "--data_dir", "the data"])
    main = shlex.join([sys.executable, str(house / "main.py")])
    wanted = [[f"$ {main} {shlex.join(command)} {place}", "made"] for command in commands]
    assert log(tmp_path / "deep/a b") == [*wanted[0], *wanted[1]]


def test_what_fails_is_named_and_the_others_are_made(house, tmp_path):
    """A run whose training failed is not tested. One that diverged keeps what the training said, without folders, until
    it is made again; one that was killed or found no place keeps nothing, since its settings may be good."""
    (tmp_path / "file").touch()
    both = [["--mode", "meta_train", "--way", "5"], ["--mode", "meta_test"]]
    jobs = [
        Job(tmp_path / "bad", [["--mode", "meta_train", "--way", "1"], *both]),
        Job(tmp_path / "file/a", both),
        Job(tmp_path / "busy", [["--mode", "meta_train", "--way", "7"], *both]),
        Job(tmp_path / "untested", [both[0], ["--mode", "meta_test", "--way", "1"]]),
        Job(tmp_path / "good", both),
    ]
    finished, failed = workers.make(jobs, 1, "data", "title")
    assert finished and failed == [tmp_path / name for name in ("bad", "file/a", "busy", "untested")]
    assert log(tmp_path / "good")[1::2] == ["made"] * 2 and len(log(tmp_path / "bad")[1:]) == 1
    said = {job.savedir.name: (job.savedir / FAILURE).exists() for job in jobs}
    assert said == {"bad": True, "a": False, "busy": False, "untested": False, "good": False}
    assert (tmp_path / "bad" / FAILURE).read_text() == "error: its gradient is not finite"
    assert workers.make([Job(tmp_path / "bad", both)], 1, "data", "title") == (True, [])
    assert not (tmp_path / "bad" / FAILURE).exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to a core")
@pytest.mark.parametrize("number", [None, 1, 3])
def test_runs_are_made_on_cores_of_their_own(number, tmp_path, monkeypatch):
    """As many at a time as there are cores, or as many as are asked for; the commands of a run stay on one core."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = (allowed * 2)[:2]
    at_once = number or len(cores)
    started, most, working, lock = [], [0], set(), threading.Barrier(at_once, timeout=30)

    class Process:
        def __init__(self, command, stdout, **settings):
            started.append((stdout.name, *os.sched_getaffinity(0)))
            working.add(self)
            most.append(max(most[-1], len(working)))

        def wait(self):
            lock.wait()  # for the others: so many are at work
            time.sleep(0.1)  # for more, if there are too many workers
            working.remove(self)
            return 0

    monkeypatch.setattr(workers, "cores", lambda: cores)
    monkeypatch.setattr(workers.subprocess, "Popen", Process)
    runs = 2 * at_once
    jobs = [Job(tmp_path / str(i), [["a"], ["b"]]) for i in range(runs)]
    assert workers.make(jobs, number, "data", "title") == (True, [])
    assert len(started) == 2 * runs and len({place for place, _ in started}) == runs == len(set(started))
    assert {core for _, core in started} == set(cores[:at_once]) and most[-1] == at_once
    assert sorted(os.sched_getaffinity(0)) == allowed  # this thread is bound to no core


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_saves_its_runs_and_begins_no_other(number, house, tmp_path, data_dir):
    """The same command resumes them."""
    program = [sys.executable, house / "runfiles/study.py", "five_shot", "--jobs", "1", "--results", "results"]
    program += ["--data_dir", data_dir, "--", "--dataset", "glyphs", "--way", "9"]
    process = subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "results/five_shot/dataset_glyphs_way_9"
    first, began = folder / "maml_0", time.time()
    while not (first / "begun").exists():
        assert time.time() - began < 150 and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=150)
    assert process.returncode == 130 and "interrupted, all runs are saved: the same command resumes them" in error
    begun = log(first)
    assert begun[1:] == ["saved"] and "--mode meta_train --resume" in begun[0] and "Traceback" not in error
    assert [path.name for path in folder.iterdir()] == ["maml_0"]
