"""Train and test without TensorFlow: python train_jax.py --program P --weights W.npz [flags].

It runs the XLA programs that bench.py --export P wrote, with numpy and JAX alone, on JAX's first device: the same
episodes, the same noise, the same update. It writes W.npz, or continues from it; main.py --weights W.npz reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gzip
import json
import math
import sys
import time
import zlib
from pathlib import Path

import numpy as np

import data
from errors import Parser, Stop, UserError, run, user_error
from files import locked, refuse_unwritable
from settings import path_text, positive, to_path, whole
from training import weights
from training.config import Config
from training.intervals import mean_and_interval
from training.test_results import refuse_diverged
from training.xla_programs import EXACT, TEST_SEED, program_file, read_description, relative_error

NO_JAX = "install one that is tested, with Python 3.11 or newer: pip install 'jax>=0.10'"
PRINT_EVERY = 10  # seconds between lines of progress
CHECK_SECONDS = 5  # --check measures iterations for so long, and at least ten
# Settings that may differ between the program and the weights: lengths and frequencies.
MAY_DIFFER = {"n_train_iters", "save_freq", "val_every", "n_val_tasks", "collapse_every", "n_test_mc_samp", "remat"}
TRAINING = (
    "weights",
    "n_train_iters",
    "seconds",
    "save_every",
    "n_test_iters",
    "test_every",
)  # flags that --check has no use for


def parser() -> Parser:
    description, epilog = (__doc__ or "\n\n").split("\n\n")
    p = Parser(prog="train_jax.py", description=description, epilog=epilog)
    add = p.add_argument
    add("--program", type=to_path, required=True, metavar="P", help="the folder that bench.py --export P wrote")
    add("--weights", type=to_path, metavar="FILE", help="the weights file to write, and to continue from if it exists")
    check = "do not train; print the error of the first iteration's meta-gradient against float64 (for a program of "
    add(
        "--check",
        action="store_true",
        help=f"{check}bench.py --export P --check --data_dir DIR), and the time of an iteration",
    )
    add("--data_dir", type=path_text, default="data", metavar="DIR", help="folder of the datasets (default: data)")
    add(
        "--n_train_iters",
        type=whole(0),
        metavar="N",
        help="train to this iteration (default: the length of FILE's run)",
    )
    add("--seconds", type=positive, metavar="S", help="stop S seconds after the start, tests included, and save")
    add("--save_every", type=positive, default=120.0, metavar="S", help="save every S seconds (default: 120)")
    add("--n_test_iters", type=whole(0), default=0, metavar="N", help="then test on N episodes (default: 0)")
    add("--test_every", type=whole(1), metavar="N", help="test every N iterations, too; the file keeps all results")
    return p


def main() -> int:
    p = parser()
    args = p.parse_args()
    description = read_description(args.program)
    settings = description["settings"]
    if args.check:
        if idle := [name for name in TRAINING if getattr(args, name) != p.get_default(name)]:
            raise UserError(f"--check does not train: leave --{idle[0]} out")
        print(json.dumps(check(args.program, description, load_splits(args.data_dir, settings))))
        return 0
    if not args.weights:
        raise UserError("--weights is missing: name the weights file to write, or to continue from")
    if args.test_every and not args.n_test_iters:
        raise UserError("--test_every needs the number of test episodes: add --n_test_iters")
    begin(args, settings)
    splits = load_splits(args.data_dir, settings)
    with user_error(f"cannot make the folder of --weights {args.weights}", "choose another", OSError):
        args.weights.parent.mkdir(parents=True, exist_ok=True)
    refuse_unwritable(args.weights.parent, args.weights.name)
    lock = args.weights.with_name(f".{args.weights.name}.lock")
    with locked(lock, f"writes {args.weights}: wait for it, or choose another file"), Stop() as stop:
        saved, last = begin(args, settings)  # again: the process that held the lock may have moved the weights on
        return train_and_test(JaxRun(args.program, description, args.weights, saved, splits), args, last, stop)


def begin(args: argparse.Namespace, settings: dict) -> tuple[weights.Weights, int]:
    """Return the weights to train on, and the last iteration. Raise UserError where they do not fit each other."""
    saved, last = read_weights(args.weights, args.program, settings), args.n_train_iters
    if not args.weights.exists():
        if last is None:
            raise UserError("--n_train_iters is missing: give the last iteration of the training")
        saved.about["settings"]["n_train_iters"] = last
    elif last is None:
        last = saved.about["settings"]["n_train_iters"]
    if last < (done := saved.about["iteration"]):
        raise UserError(f"{args.weights} is at iteration {done} already, past --n_train_iters {last}: choose more")
    return saved, last


def read_weights(path: Path, folder: Path, settings: dict) -> weights.Weights:
    """Return the weights at `path`, or, if there is no such file, those that the program in `folder` starts from.

    Raise UserError where they are of a run with other settings than the program's, or have no slots of Adam.
    """
    source = path if path.exists() else folder / weights.NAME
    saved = weights.read(source)
    if not saved.state:
        raise UserError(f"{path} has no slots of Adam: write it with main.py --mode weights --slots")
    # A file of an earlier version has fewer settings, which have defaults, and fewer facts of the data, which have none
    # and follow from the data's digest.
    trained = Config.read(source).values() | saved.about["settings"]
    for name, value in settings.items():
        other = trained.get(name, value)
        if name not in MAY_DIFFER and other != value:
            raise UserError(f"{path} is of a run with {name} {other}, but {folder} has {value}: export another program")
    return saved


def load_splits(data_dir: str, settings: dict) -> dict[str, data.Split]:
    """Return the splits for training and for tests. Raise UserError where the data are not the program's."""
    dataset = data.load(data_dir, settings["dataset"], settings["split"] == "background", checksums=True)
    if dataset.sha256 != settings["data_sha256"]:
        raise UserError(f"{data_dir}/{dataset.name} has other data than the program was made for: see --data_dir")
    return data.splits_of(dataset, settings["train_split"])


def train_and_test(jax_run: JaxRun, args: argparse.Namespace, last: int, stop: Stop) -> int:
    """Train to iteration `last`, with the tests that the command line asks for. Return the exit code."""
    end = None
    for iteration in iterations_to_test(jax_run.iteration, last, args.test_every):
        if jax_run.iteration < iteration:
            if end is None:
                print(f"device: {jax_run.device_name}; iterations {jax_run.iteration + 1} to {last}", flush=True)
                end = time.time() + (args.seconds or math.inf)
            if not jax_run.train(iteration, last, end, args.save_every, stop):
                return 130 if stop.asked else 0
        kept = [(test["iteration"], test["episodes"]) for test in jax_run.saved.about.get("tests", [])]
        if args.n_test_iters and (iteration == last or (iteration, args.n_test_iters) not in kept):
            numbers = jax_run.test(args.n_test_iters, stop)
            if len(numbers["accuracy"]) < args.n_test_iters:
                print("interrupted: the test was not written", file=sys.stderr)
                return 130
            jax_run.saved = with_test(jax_run.saved, numbers, jax_run.samples)
            weights.write(args.weights, jax_run.saved)
            tested = jax_run.saved.about["test"]
            print(f"loss : {np.mean(numbers['loss']):f}")
            print(f"accuracy : {tested['accuracy']:f} +- {tested['interval95']:f}", flush=True)
    return 0


def iterations_to_test(done: int, last: int, every: int | None) -> list[int]:
    """Return the iterations to test after: the multiples of `every` from `done` on, and the last one."""
    return [i for i in range(every, last, every) if i >= done] + [last] if every else [last]


class Program:
    """The XLA program "train" or "test" on JAX's first device: a function from arrays by name to results by name, which
    stay on the device. It has the pixels of its split there, too."""

    def __init__(self, folder: Path, name: str, description: dict, split: data.Split):
        with user_error("this JAX cannot be used", NO_JAX, ImportError, AttributeError):
            import jax
            from jax._src.lib import xla_client  # JAX has no public way to compile a serialized HLO module

            to_mlir = xla_client._xla.mlir.xla_computation_to_mlir_module
        with user_error("JAX finds no device", "mend its driver, or set JAX_PLATFORMS=cpu", RuntimeError):
            self.device = jax.devices()[0]
        self.name, self.settings, self.split = name, description["settings"], split
        self.arguments, self.results = description[name]["arguments"], description[name]["results"]
        path = program_file(folder, name)
        with user_error(f"{path} is missing or damaged", "copy the folder again", OSError, EOFError, zlib.error):
            computation = xla_client.XlaComputation(gzip.decompress(path.read_bytes()))
        start = time.perf_counter()
        with user_error("this JAX cannot compile a program", NO_JAX, AttributeError, TypeError):
            options = xla_client.CompileOptions()
            self.executable = self.device.client.compile_and_load(to_mlir(computation), [self.device], options)
        self.compile_s = time.perf_counter() - start
        self.pixels = self.put(np.asarray(split.pixels))

    def put(self, array: np.ndarray):
        """Return the array on the device. Copy it, unless it is there."""
        import jax

        return array if isinstance(array, jax.Array) else jax.device_put(array, self.device)

    def sample(self, seed: int, index: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes and images of episodes, the same as Engine.episode's."""
        way = next(shape[1] for name, shape, _ in self.arguments if name == "classes")
        images, shared = self.settings["shot"] + self.settings["query"], self.settings["legacy_shared_classes"]
        return data.sample(self.split, self.name, seed, index, tasks, way, images, shared)

    def __call__(self, arrays: dict) -> dict:
        arrays = arrays | {"pixels": self.pixels}
        results = self.executable.execute([self.put(arrays[name]) for name, *_ in self.arguments])
        return {name: array for (name, *_), array in zip(self.results, results, strict=True)}


class JaxRun:
    """A run that is saved in one weights file: its training and its tests on JAX's first device."""

    def __init__(
        self, folder: Path, description: dict, path: Path, saved: weights.Weights, splits: dict[str, data.Split]
    ):
        self.path, self.saved, self.settings = path, saved, description["settings"]
        self.samples = description["samples"]  # noise samples per loss in the test
        self.program = functools.cache(lambda name: Program(folder, name, description, splits[name]))
        groups = {"params": saved.params, "adam": saved.slots}
        self.variables = {f"{group}/{k}": value for group, values in groups.items() for k, value in values.items()}
        self.finite = True

    @property
    def iteration(self) -> int:
        """The iteration of the saved weights."""
        return self.saved.about["iteration"]

    @property
    def device_name(self) -> str:
        return self.program("train").device.device_kind

    def train(self, target: int, last: int, end: float, save_every: float, stop: Stop) -> bool:
        """Train to iteration `target` (of `last`), or until the time `end`, and save every `save_every` seconds. Return
        True if the target is reached."""
        before = first = self.iteration + 1
        printed = self.saved_at = time.time()
        for i in range(first, target + 1):
            self.update(i)
            now = time.time()
            leave = i == target or stop.asked or now > end
            save = leave or now - self.saved_at > save_every
            if save or i == first or now - printed > PRINT_EVERY:
                try:
                    self.print_progress(i, last, (i + 1 - before) / max(now - printed, 1e-9))
                except OSError:  # nobody reads standard output any more
                    self.save(i)
                    raise
                printed, before = time.time(), i + 1
            if save:
                self.save(i)
            if leave and i < target:
                print(f"saved after iteration {i}; the same command continues from there", file=sys.stderr)
                return False
        return True

    def update(self, i: int) -> None:
        """Start iteration i; the device may still compute it after the return."""
        step, seed = self.program("train"), self.settings["seed"]
        classes, images = step.sample(seed, i, self.settings["metabatch"])
        episodes = {"classes": classes, "images": images, "seed": np.array([seed, i], np.int32)}
        results = step(self.variables | episodes)
        self.loss, self.accuracy = results["loss"], results["accuracy"]
        self.finite = results["finite"] & self.finite
        self.variables = {name: results[name] for name in self.variables}

    def print_progress(self, i: int, last: int, rate: float) -> None:
        """Print loss, accuracy and speed. Raise UserError if iteration i or an earlier one was not finite."""
        loss, accuracy = float(self.loss), float(self.accuracy)
        if not bool(self.finite):
            raise UserError(
                f"the loss or its gradient was not finite before iteration {i + 1}: lower --meta_lr or --inner_lr; "
                f"{self.path}, if it exists, has the last good weights"
            )
        print(f"iteration {i} of {last}: loss {loss:.3f}, acc {accuracy:.3f}, {rate:.2f} it/s", flush=True)

    def save(self, i: int) -> None:
        """Write the weights after iteration i."""
        params, slots = (
            {name.removeprefix(group): np.asarray(value) for name, value in self.variables.items() if group in name}
            for group in ("params/", "adam/")
        )
        now, before, best = time.time(), self.saved, self.saved.best_weights()
        state = {"next": np.int64(i + 1), "secs": before.state["secs"] + now - self.saved_at, "window": np.zeros(3)}
        state |= {"best": before.state["best"], "reported": np.int64(i)}
        about = {"settings": before.about["settings"], "iteration": i, "weights_sha256": weights.digest(params)}
        about |= {"test": None, "tests": before.about.get("tests", []), "trained_on": f"{self.device_name}, JAX"}
        kept = MAY_DIFFER & about["settings"].keys()
        about["settings"] = about["settings"] | {k: v for k, v in self.settings.items() if k not in kept}
        self.saved = weights.Weights(about, params, slots, state, best.params if best else {})
        self.saved_at = now
        weights.write(self.path, self.saved)

    def test(self, episodes: int, stop: Stop) -> dict[str, list]:
        """Return loss and accuracy [episodes] of the first test episodes, the same as meta_test's; fewer after a
        stop."""
        step, metabatch = self.program("test"), self.settings["metabatch"]
        arrays = {name: step.put(value) for name, value in self.variables.items()}
        arrays["seed"] = np.array([TEST_SEED, data.STREAMS["test"]], np.int32)
        numbers, printed = {"loss": [], "accuracy": []}, time.time()
        for first in range(0, episodes, metabatch):
            if stop.asked:
                break
            indices = range(first, first + metabatch)  # the last of them may be too many
            drawn = [step.sample(TEST_SEED, i, 1) for i in indices]
            classes, images = (np.concatenate(part) for part in zip(*drawn, strict=True))
            results = step(arrays | {"classes": classes, "images": images, "indices": np.array(indices, np.int32)})
            refuse_diverged(np.asarray(results["loss"])[: episodes - first], first)
            for name, values in numbers.items():
                values += np.asarray(results[name]).tolist()
            if time.time() - printed > PRINT_EVERY:
                line = "{} episodes: accuracy {:.2f} +- {:.2f}"
                print(line.format(len(numbers["accuracy"]), *mean_and_interval(numbers["accuracy"])), flush=True)
                printed = time.time()
        return {name: values[:episodes] for name, values in numbers.items()}


def with_test(saved: weights.Weights, numbers: dict[str, list], samples: int) -> weights.Weights:
    """Return the weights with a test's result in their description."""
    accuracy, interval = mean_and_interval(numbers["accuracy"])
    result = {"accuracy": accuracy, "interval95": interval, "episodes": len(numbers["accuracy"])}
    result |= {"n_test_mc_samp": samples}
    iteration = saved.about["iteration"]
    others = [test for test in saved.about.get("tests", []) if test["iteration"] != iteration]
    about = saved.about | {"test": result, "tests": [*others, {"iteration": iteration} | result]}
    return dataclasses.replace(saved, about=about)


def check(folder: Path, description: dict, splits: dict[str, data.Split]) -> dict:
    """Return this device's times to compile the training step and to compute it, and the relative errors of the first
    iteration's meta-gradient and loss against float64. Raise UserError where the folder lacks exact.npz."""
    path, initial = folder / EXACT, folder / weights.NAME
    if not path.is_file():
        raise UserError(
            f"there is no {path}: write it with bench.py --export P --check --data_dir DIR, where there is TensorFlow"
        )
    with user_error(f"{path} is damaged", "copy the folder again", Exception), np.load(path) as file:  # of many kinds
        moment, loss = file["m"], file["loss"]
    jax_run = JaxRun(folder, description, initial, weights.read(initial), splits)
    report = {"device": jax_run.device_name, "compile_s": round(jax_run.program("train").compile_s, 1)}
    jax_run.update(0)
    report["gradient_error"] = relative_error(np.asarray(jax_run.variables["adam/m"]), moment)
    report["loss_error"] = abs(float(jax_run.loss) / float(loss) - 1)
    iterations, start = 0, time.perf_counter()
    while iterations < 10 or time.perf_counter() - start < CHECK_SECONDS:
        iterations, before = iterations + 1, jax_run.loss
        jax_run.update(iterations)
        float(before)  # waits for the iteration before this one, so that the device is at most one behind
    float(jax_run.loss)
    report["ms_per_iteration"] = round(1e3 * (time.perf_counter() - start) / iterations, 2)
    return report


if __name__ == "__main__":
    run(main)
