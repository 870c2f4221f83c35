"""Repeat the kept measurements of bench.py, and make their tables.

    python runfiles/timings.py SET [SET ...]    measure some of SETS; nothing else should be running

docs/results/timings.xz has a line for each measurement: its set, its row, its command and what that printed.
"""

from __future__ import annotations

import json
import lzma
import os
import shlex
import subprocess
import sys

from records import KEPT, ROOT
from tables import markdown
from tqdm import tqdm

from errors import Parser, UserError, run
from files import write_atomically
from learners import LEARNERS
from training.passes import LAYERS

FILE = KEPT / "timings.xz"
SETS = ("rows", "memory", "others", "profile", "learners")
# malloc keeps freed memory, as bench.py tells it; PyTorch and JAX need to be told from outside.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
}  # fmt: skip
HOURS = {"omniglot": 2 * 40000, "mimgnet": 60000}  # iterations at metabatch 4 of a cell of Table 1: Omniglot's has 8
CELLS = {("omniglot", 20), ("mimgnet", 5)}
KINDS = ("convolution", "XLA program", "element-wise", "random numbers", "matrix product", "other")


def read(name: str) -> list[dict]:
    """Return the measurements of a set, in the order in which they were made."""
    return [line for line in read_lines() if line["set"] == name]


def read_lines() -> list[dict]:
    """Return all measurements."""
    return [json.loads(line) for line in lzma.decompress(FILE.read_bytes()).splitlines()]


def measure(names: list[str]) -> None:
    """Measure these sets again, and replace their lines."""
    lines = read_lines()
    for line in tqdm([line for line in lines if line["set"] in names], unit="measurement"):
        command = [sys.executable, *shlex.split(line["command"].removeprefix("python "))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **MALLOC})
        if done.returncode:
            raise UserError(f"{line['command']} failed: {done.stderr.strip().splitlines()[-1:]}")
        line["printed"] = json.loads(done.stdout.strip().splitlines()[-1])
        content = "".join(f"{json.dumps(one)}\n" for one in lines).encode()
        write_atomically(FILE, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def rows(_) -> str:
    """A row per command: time, rate, memory, compiling, and the hours that a cell of Table 1 takes."""
    cells = []
    for line in read("rows"):
        one = line["printed"]
        hours = ""
        if (
            one["mode"] == "meta_train"
            and (one["dataset"], one["way"]) in CELLS
            and one["meta_gradient"] == "published"
        ):
            hours = f"{one['ms_per_step'] * HOURS[one['dataset']] / 3.6e6:.0f}" if not one["remat"] else ""
        times = f"{one['ms_per_step']:.0f}", f"{one['tasks_per_s']:.1f}", f"{one['gflops']:.0f}"
        cells.append([f"`{line['row']}`", *times, one["peak_mb"], f"{one['compile_s']:.0f}", hours])
    head = ["flags", "ms per iteration", "tasks/s", "GFLOP/s", "peak memory, MB", "tracing and compiling, s"]
    return markdown([*head, "hours for the cell"], cells)


def memory(_) -> str:
    """A row per command: the peak memory of the process."""
    return markdown(["flags", "peak, MB"], ([f"`{one['row']}`", one["printed"]["peak_mb"]] for one in read("memory")))


def profile(row: str):
    """Return the table of one iteration by pass, kind of kernel and layer, in milliseconds summed over the threads."""

    def table(_) -> str:
        (line,) = (line for line in read("profile") if line["row"] == row)
        found, cells = line["printed"]["profile"], []
        for name, part in [*found["passes"].items(), ("all", found)]:
            kinds, layers = (
                [part[key].get(one, 0) for one in of] for key, of in (("kinds", KINDS), ("layers", LAYERS))
            )
            cells.append(
                [name, *(f"{value:.0f}" for value in (part["core_ms"], *kinds, *layers[:2], sum(layers[2:4])))]
            )
        return markdown(["core-ms", "all", *KINDS, "conv1", "conv2", "conv3, conv4"], cells)

    return table


def others(_) -> str:
    """A row per learner and meta-gradient: this program, PyTorch and JAX, in milliseconds and MB, and their ratios."""
    found = {
        (one["row"], *map(one["printed"].get, ("model", "meta_gradient"))): one["printed"] for one in read("others")
    }
    ours = {(m, g): one for (row, m, g), one in found.items() if row == "this program"}
    cells = []
    for (model, gradient), own in ours.items():
        parts = [f"{own['ms_per_step']:.0f}, {own['peak_mb']}"]
        for program in ("PyTorch", "JAX"):
            one = found[program, model, gradient]
            parts += [f"{one['ms_per_step']:.0f}, {one['peak_mb']}", f"{one['ms_per_step'] / own['ms_per_step']:.1f}"]
        cells.append([f"{LEARNERS[model].title}, {gradient}", *parts])
    return markdown(["", "this program: ms, MB", "PyTorch: ms, MB", "ratio", "JAX: ms, MB", "ratio"], cells)


def learners(dataset: str):
    """Return the table of all learners on a dataset, a row each: the time of an update and of a test episode, and the
    peak memory of a process that trains and of one that tests."""

    def table(_) -> str:
        found = {}
        for line in read("learners"):
            if line["printed"]["dataset"] == dataset:
                found.setdefault(line["row"], {})[line["printed"]["mode"]] = line["printed"]
        cells = []
        for row, modes in found.items():
            train, test = modes.get("meta_train"), modes["meta_test"]
            trained = [f"{train['ms_per_step']:.0f}", train["peak_mb"]] if train else ["", ""]
            cells.append([f"`{row}`", trained[0], f"{1000 / test['tasks_per_s']:.1f}", trained[1], test["peak_mb"]])
        head = ["ms per update", "ms per test episode", "MB to train", "MB to test"]
        return markdown(["flags", *head], cells)

    return table


def main() -> None:
    parser = Parser(prog="timings.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("sets", nargs="+", choices=SETS, metavar="SET", help=", ".join(SETS))
    measure(parser.parse_args().sets)


if __name__ == "__main__":
    run(main)
