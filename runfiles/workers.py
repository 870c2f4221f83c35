"""Make many runs, several at a time, each on its own processor core."""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from outcomes import Job, program_of
from records import FAILURE, ROOT
from tqdm import tqdm

from errors import Stop
from training.devices import usable_cores

INTERRUPTED = 130
LOG = "study.log"  # the output of the commands, in the savedir
DIVERGED = "not finite"  # what a training says of its loss and gradient if it cannot go on with these settings


def finish(job: Job, data_dir: str, stop: Stop, running: set[subprocess.Popen]) -> int:
    """Train, test and attack a run; return the exit code of the command that failed, or 0. `running` holds the process
    while it runs. A training that diverged leaves what it said in FAILURE."""
    try:
        for words in job.commands:
            if stop.asked:
                return INTERRUPTED
            job.savedir.mkdir(parents=True, exist_ok=True)
            if words is job.commands[0]:
                (job.savedir / FAILURE).unlink(missing_ok=True)
            command = [sys.executable, str(ROOT / program_of(words)), *words]
            command += ["--savedir", str(job.savedir), "--data_dir", data_dir]
            with open(job.savedir / LOG, "a") as log:
                log.write(f"$ {shlex.join(command)}\n")
                log.flush()
                # in its own session: Ctrl-C reaches this program alone, which asks the runs to save themselves
                process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            running.add(process)
            code = process.wait()
            running.discard(process)
            if code and stop.asked:
                return INTERRUPTED
            if code:
                said = (job.savedir / LOG).read_text(errors="replace").splitlines()[-1]
                if "meta_train" in words and DIVERGED in said:
                    (job.savedir / FAILURE).write_text(said.partition(";")[0])
                return code
    except OSError as fault:
        tqdm.write(f"{job.savedir} cannot be written ({fault.strerror})", file=sys.stderr)
        return 2
    return 0


def cores() -> list[int | None]:
    """Return the usable processor cores, with None for each if the system cannot bind processes to cores."""
    usable = usable_cores()
    return sorted(os.sched_getaffinity(0))[:usable] if hasattr(os, "sched_getaffinity") else [None] * usable


def make(jobs: list[Job], number: int | None, data_dir: str, title: str) -> tuple[bool, list[Path]]:
    """Make these runs, `number` at a time (None: one per core). Return False if they were interrupted, and are saved;
    and the savedirs of those that failed."""
    places, free, running, codes = cores(), queue.SimpleQueue(), set(), {}
    for place in (places * (number or 1))[: number or len(places)]:
        free.put(place)

    def bind() -> None:
        if (core := free.get()) is not None:
            os.sched_setaffinity(0, {core})  # of this thread alone, and of the processes that it starts

    with (
        Stop() as stop,
        tqdm(total=len(jobs), unit="run", desc=title) as bar,
        ThreadPoolExecutor(free.qsize(), initializer=bind) as pool,
    ):
        left = {pool.submit(finish, job, data_dir, stop, running): job for job in jobs}
        while left:
            for future in wait(left, 0.2, FIRST_COMPLETED).done:
                codes[left.pop(future).savedir] = code = future.result()
                bar.update(not code)
            while stop.asked and running:
                running.pop().terminate()  # each is asked once: a second signal would end it before it has saved
    return not stop.asked, [job.savedir for job in jobs if codes[job.savedir] not in (0, INTERRUPTED)]
