"""Make many runs, several at a time, each on its own processor core."""

from __future__ import annotations

import os
import queue
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from outcomes import Job, program_of
from records import FAILURE, ROOT
from tqdm import tqdm

from errors import Stop
from training.devices import usable_cores

INTERRUPTED = 130
LOG = "study.log"  # the output of the commands, in the savedir


class Worker(threading.Thread):
    """Make one run after another until there is none left, or until `stop` is called."""

    def __init__(self, waiting: queue.SimpleQueue, core: int | None, data_dir: str, done):
        super().__init__(daemon=True)
        self.waiting, self.core, self.data_dir, self.done = waiting, core, data_dir, done
        self.process, self.stopped, self.lock = None, False, threading.Lock()

    def run(self) -> None:
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})  # of this thread alone, and of the processes that it starts
        while not self.stopped and not self.waiting.empty():
            try:
                job = self.waiting.get_nowait()
            except queue.Empty:
                return
            try:
                code = self.finish(job)
            except OSError as fault:
                tqdm.write(f"{job.savedir} cannot be written ({fault.strerror})", file=sys.stderr)
                code = 2
            self.done(job, code)

    def finish(self, job: Job) -> int:
        """Train, test and attack a run; return the exit code of the command that failed, or 0."""
        job.savedir.mkdir(parents=True, exist_ok=True)
        (job.savedir / FAILURE).unlink(missing_ok=True)
        for words in job.commands:
            command = [sys.executable, str(ROOT / program_of(words)), *words]
            command += ["--savedir", str(job.savedir), "--data_dir", self.data_dir]
            with self.lock, open(job.savedir / LOG, "a") as log:
                if self.stopped:
                    return INTERRUPTED
                log.write(f"$ {shlex.join(command)}\n")
                log.flush()
                self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                # in its own session: Ctrl-C reaches this program alone, which asks the runs to save themselves
            if code := self.process.wait():
                if self.stopped:
                    return INTERRUPTED
                if "meta_train" in words:
                    (job.savedir / FAILURE).write_text((job.savedir / LOG).read_text(errors="replace").splitlines()[-1])
                return code
        return 0

    def stop(self) -> None:
        """Ask the current run to save itself and end. It is asked only once, since a second signal ends it at once."""
        with self.lock:
            if not self.stopped and self.process:
                self.process.terminate()
            self.stopped = True


def cores() -> list[int | None]:
    """Return the usable processor cores, with None for each if the system cannot bind processes to cores."""
    usable = usable_cores()
    return sorted(os.sched_getaffinity(0))[:usable] if hasattr(os, "sched_getaffinity") else [None] * usable


def make(jobs: list[Job], number: int | None, data_dir: str, title: str) -> tuple[bool, list[Path]]:
    """Make these runs, `number` at a time (None: one per core). Return False if they were interrupted, and are saved;
    and the savedirs of those that failed."""
    places, waiting, failed = cores(), queue.SimpleQueue(), []
    places = (places * (number or 1))[: number or len(places)]
    for job in jobs:
        waiting.put(job)
    with Stop() as stop, tqdm(total=len(jobs), unit="run", desc=title) as bar:

        def done(job: Job, code: int) -> None:
            bar.update(not code)
            if code not in (0, INTERRUPTED):
                failed.append(job.savedir)

        workers = [Worker(waiting, core, data_dir, done) for core in places]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                if stop.asked:
                    worker.stop()
                worker.join(0.2)
    return not stop.asked, failed
