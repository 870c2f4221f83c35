"""Train, test and attack many runs, several at a time, each on its own processor core.

python runfiles/train_all.py [--jobs N] [--data_dir DIR] [FILE]

Each line of FILE (default: standard input) is a run: SAVEDIR | flags of the training | flags of the test | flags of an
attack | flags of another attack. Without the later parts it is not tested, or not attacked. A run that exists is
resumed or skipped, so that the same command continues after Ctrl-C, SIGTERM or a crash. The output of a run goes to
SAVEDIR/train_all.log; failed runs are named at the end.
"""

import os
import queue
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from tables import ROOT
from tqdm import tqdm

from errors import Parser, Stop, UserError, run
from settings import path_text, to_path, whole
from training.devices import usable_cores

INTERRUPTED = 130


class Job(NamedTuple):
    savedir: Path
    train: list[str]
    test: list[str] | None
    attacks: list[list[str]]


def read_jobs(text: str) -> list[Job]:
    """Return the runs of these lines. Empty lines and comments (#) are skipped. UserError if another line is no run."""
    jobs = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            savedir, *flags = (part.strip() for part in line.split("|"))
            if not savedir or not flags or not all(flags[2:]):
                form = "SAVEDIR | training flags | test flags | attack flags | ..."
                raise UserError(f"line {number} is not a run: {line!r}; write it as {form}")
            try:
                train, *tests = map(shlex.split, flags)
            except ValueError as fault:
                raise UserError(f"line {number} cannot be read ({fault}): correct {line!r}") from fault
            jobs.append(Job(to_path(savedir), train, tests[0] if tests else None, tests[1:]))
    folders = [job.savedir for job in jobs]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"two lines have the savedir {twice[0]}: give each run its own folder")
    if files := [folder for folder in folders if folder.exists() and not folder.is_dir()]:
        raise UserError(f"{files[0]} is a file: give that run a folder")
    return jobs


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
        where = ["--savedir", str(job.savedir), "--data_dir", self.data_dir]
        commands = [["--mode", "meta_train", "--resume", *where, *job.train]]
        commands += [["--mode", "meta_test", *where, *job.test]] if job.test is not None else []
        commands += [["--mode", "attack", *where, *flags] for flags in job.attacks]
        job.savedir.mkdir(parents=True, exist_ok=True)
        for words in commands:
            with self.lock, open(job.savedir / "train_all.log", "a") as log:
                if self.stopped:
                    return INTERRUPTED
                self.process = subprocess.Popen(
                    [sys.executable, str(ROOT / "main.py"), *words], stdout=log, stderr=log, start_new_session=True
                )  # in its own session: Ctrl-C reaches this program alone, which asks the runs to save themselves
            if code := self.process.wait():
                return INTERRUPTED if self.stopped else code
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


def main() -> int:
    parser = Parser(prog="train_all.py", description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[2])
    parser.add_argument("file", nargs="?", metavar="FILE", help="the runs, one per line (default: standard input)")
    parser.add_argument("--jobs", type=whole(1), metavar="N", help="runs at a time (default: the number of cores)")
    parser.add_argument(
        "--data_dir", type=path_text, default="data", metavar="DIR", help="folder of the datasets (default: data)"
    )
    args = parser.parse_args()
    try:
        jobs = read_jobs(Path(args.file).read_text() if args.file else sys.stdin.read())
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"{args.file} cannot be read ({fault}): give a text file with one run per line") from fault
    places, waiting, failed = cores(), queue.SimpleQueue(), []
    places = (places * (args.jobs or 1))[: args.jobs or len(places)]
    for job in jobs:
        waiting.put(job)
    with Stop() as stop, tqdm(total=len(jobs), unit="run", desc="train_all") as bar:

        def done(job: Job, code: int) -> None:
            bar.update(not code)
            if code not in (0, INTERRUPTED):
                failed.append(job.savedir)

        workers = [Worker(waiting, core, args.data_dir, done) for core in places]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                if stop.asked:
                    worker.stop()
                worker.join(0.2)
    if failed:
        names = ", ".join(map(str, failed))
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed: see train_all.log in {names}, correct the cause and run again"
        )
    if stop.asked:
        print("interrupted, all runs are saved: the same command resumes them", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    run(main)
