"""Train and test without TensorFlow: python train_jax.py --program P --weights W.npz [flags].

It runs the XLA programs that bench.py --export P wrote, with numpy and JAX alone, on JAX's first device: the same
episodes, the same noise, the same update. It writes W.npz, or continues from it; main.py --weights W.npz reads it.
"""

from __future__ import annotations

import dataclasses
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
from flags import path_text, positive, to_path, whole
from settings import all_settings
from training import weights
from training.test_results import mean_and_interval
from training.xla_programs import EXACT, TEST_SEED, program_file, read_description, relative_error

PRINT_EVERY = 10  # seconds between lines of progress
CHECK_SECONDS = 5  # --check measures iterations for so long, and at least ten
# Settings that may differ between the program and the weights: lengths and frequencies, and what old weights lack.
MAY_DIFFER = {
    "n_train_iters", "save_freq", "val_every", "n_val_tasks", "collapse_every", "n_test_mc_samp", "remat", "prepare",
}  # fmt: skip


class Program:
    """The XLA program "train" or "test" on JAX's first device: a function from arrays by name to results by name, which
    stay on the device."""

    def __init__(self, folder: Path, name: str, description: dict):
        with user_error("JAX cannot be imported", "install it, for example with pip install jax", ImportError):
            import jax
            from jax._src.lib import xla_client  # JAX has no public way to compile a serialized HLO module
        self.name, self.settings, self.device = name, description["settings"], jax.devices()[0]
        self.arguments, self.results = description[name]["arguments"], description[name]["results"]
        path = program_file(folder, name)
        with user_error(f"{path} is missing or damaged", "copy the folder again", OSError, EOFError, zlib.error):
            computation = xla_client.XlaComputation(gzip.decompress(path.read_bytes()))
        module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
        options = xla_client.CompileOptions()
        self.executable = self.device.client.compile_and_load(module, [self.device], options)

    def put(self, array: np.ndarray):
        """Return the array on the device; it may be there already."""
        import jax

        return array if isinstance(array, jax.Array) else jax.device_put(array, self.device)

    def __call__(self, arrays: dict) -> dict:
        row = [self.put(arrays[name]) for name, *_ in self.arguments]
        results = self.executable.execute(row)
        return {name: array for (name, *_), array in zip(self.results, results, strict=True)}

    def sample(self, split: data.Split, seed: int, index: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes and images of episodes, the same as Engine.episode's."""
        way = next(shape[1] for name, shape, _ in self.arguments if name == "classes")
        images, shared = self.settings["shot"] + self.settings["query"], self.settings["legacy_shared_classes"]
        return data.sample(split, self.name, seed, index, tasks, way, images, shared)


def parser() -> Parser:
    p = Parser(prog="train_jax.py", description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[1])
    add = p.add_argument
    add("--program", type=to_path, required=True, metavar="P", help="the folder that bench.py --export P wrote")
    add("--weights", type=to_path, metavar="FILE", help="the weights file to write, and to continue from if it exists")
    add(
        "--check",
        action="store_true",
        help="do not train; print the error of the first iteration's meta-gradient against float64 (for a program of "
        "bench.py --export P --check), and the time of an iteration",
    )
    add(
        "--data_dir",
        type=path_text,
        default="data",
        metavar="DIR",
        help="folder that holds the datasets (default: data)",
    )
    add("--n_train_iters", type=whole(0), metavar="N", help="train to this iteration (default: the program's)")
    add("--seconds", type=positive, metavar="S", help="stop after S seconds of training, with the weights saved")
    add("--save_every", type=positive, default=120.0, metavar="S", help="save every S seconds (default: 120)")
    add("--n_test_iters", type=whole(0), default=0, metavar="N", help="then test on N episodes (default: 0)")
    add("--test_every", type=whole(1), metavar="N", help="test every N iterations, too; the file keeps all results")
    return p


def main() -> int:
    args = parser().parse_args()
    description = read_description(args.program)
    settings = description["settings"]
    if args.check:
        print(json.dumps(check(args.program, description, load_splits(args.data_dir, settings)["train"])))
        return 0
    if not args.weights:
        raise UserError("--weights is missing: name the weights file to write, or to continue from")
    if args.test_every and not args.n_test_iters:
        raise UserError("--test_every needs the number of test episodes: add --n_test_iters")
    saved = read_weights(args.weights, args.program, settings)
    splits = load_splits(args.data_dir, settings)
    last = settings["n_train_iters"] if args.n_train_iters is None else args.n_train_iters
    if last < (done := int(saved.state["next"]) - 1):
        raise UserError(f"{args.weights} is at iteration {done} already, past --n_train_iters {last}: choose more")
    with user_error(f"cannot make the folder of --weights {args.weights}", "choose another", OSError):
        args.weights.parent.mkdir(parents=True, exist_ok=True)
    with Stop() as stop:
        return train_and_test(args, description, saved, splits, last, stop)


def train_and_test(
    args, description: dict, saved: weights.Weights, splits: dict[str, data.Split], last: int, stop: Stop
) -> int:
    """Train from the saved weights to iteration `last`, with the tests that args ask for. Return the exit code."""
    training = tester = None
    for iteration in iterations_to_test(int(saved.state["next"]) - 1, last, args.test_every):
        if int(saved.state["next"]) <= iteration:
            if training is None:
                training = Training(args.program, description, args.weights, saved, splits["train"])
                device, first = training.step.device.device_kind, int(saved.state["next"])
                print(f"device: {device}; iterations {first} to {last}", flush=True)
                end = time.time() + (args.seconds or math.inf)
            training.saved, training.time = saved, time.time()
            done = train(training, iteration, last, end, args.save_every, stop)
            saved = training.saved
            if not done:
                return 130 if stop.asked else 0
        tested = [test["iteration"] for test in saved.about.get("tests", [])]
        if args.n_test_iters and (iteration == last or iteration not in tested):
            tester = tester or Program(args.program, "test", description)
            numbers = test(tester, saved, splits["test"], args.n_test_iters, stop)
            if len(numbers["accuracy"]) < args.n_test_iters:
                print("interrupted: the test was not written", file=sys.stderr)
                return 130
            saved = with_test(saved, numbers, description["samples"])
            weights.write(args.weights, saved)
    return 0


def iterations_to_test(done: int, last: int, every: int | None) -> list[int]:
    """Return the multiples of `every` from the iteration `done` on, and the last iteration."""
    return [i for i in range(every, last, every) if i >= done] + [last] if every else [last]


def read_weights(path: Path, folder: Path, settings: dict) -> weights.Weights:
    """Return the weights at `path`, or where that does not exist those that the program in `folder` starts from.

    Raise UserError where they are of a run with other settings than the program's, or have no slots of Adam.
    """
    saved = weights.read(path if path.exists() else folder / weights.NAME)
    if not saved.state:
        raise UserError(f"{path} has no slots of Adam: write it with main.py --mode weights --slots")
    defaults = {name: declared.default for name, declared in all_settings().items()}
    for name, value in settings.items():
        other = saved.about["settings"].get(name, defaults.get(name))  # files of earlier versions have fewer settings
        if name not in MAY_DIFFER and other != value:
            raise UserError(
                f"{path} is of a run with {name} {other}, but {folder} was made for {value}: export another program"
            )
    return saved


def load_splits(data_dir: str, settings: dict) -> dict[str, data.Split]:
    """Return the splits for training and for tests. Raise UserError where the data are not the program's."""
    dataset = data.load(data_dir, settings["dataset"], settings["split"] == "background")
    if dataset.sha256 != settings["data_sha256"]:
        raise UserError(f"{data_dir}/{dataset.name} has other data than the program was made for: see --data_dir")
    return data.splits_of(dataset, settings["train_split"])


class Training:
    """Training from saved weights: parameters, slots and pixels stay on the device between the iterations."""

    def __init__(self, folder: Path, description: dict, path: Path, saved: weights.Weights, split: data.Split):
        self.settings, self.path, self.saved, self.split = description["settings"], path, saved, split
        self.step = Program(folder, "train", description)
        groups = {"params": saved.params, "adam": saved.slots}
        self.variables = {f"{group}/{k}": value for group, values in groups.items() for k, value in values.items()}
        self.pixels, self.time = self.step.put(np.asarray(split.pixels)), time.time()
        self.loss, self.accuracy, self.finite = None, None, True

    def update(self, i: int) -> None:
        """Start iteration i; the device may still compute it after the return."""
        seed = self.settings["seed"]
        classes, images = self.step.sample(self.split, seed, i, self.settings["metabatch"])
        episode = {"classes": classes, "images": images, "seed": np.array([seed, i], np.int32)}
        results = self.step(self.variables | {"pixels": self.pixels} | episode)
        self.loss, self.accuracy = results["loss"], results["accuracy"]
        self.finite = results["finite"] & self.finite
        self.variables = {name: results[name] for name in self.variables}

    def print_progress(self, i: int, last: int, rate: float) -> None:
        """Print a line about iteration i. Raise UserError where it or an earlier one was not finite."""
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
        now, before = time.time(), self.saved
        state = before.state | {"next": np.asarray(np.int64(i + 1)), "reported": np.asarray(np.int64(i))}
        state |= {"secs": np.asarray(before.state["secs"] + now - self.time), "window": np.zeros(3)}
        settings = before.about["settings"]  # the program's lack some
        kept = MAY_DIFFER & settings.keys()
        settings = settings | {name: value for name, value in self.settings.items() if name not in kept}
        about = {"settings": settings, "iteration": i, "weights_sha256": weights.digest(params), "test": None}
        about |= {"tests": before.about.get("tests", []), "trained_on": f"{self.step.device.device_kind}, JAX"}
        best = before.best_weights()
        self.saved = weights.Weights(about, params, slots, state, best.params if best else {})
        self.time = now
        weights.write(self.path, self.saved)


def train(training: Training, target: int, last: int, end: float, save_every: float, stop: Stop) -> bool:
    """Train to iteration `target` (of `last`), or until the time `end`, and save every `save_every` seconds. Return
    True if the target is reached."""
    first = int(training.saved.state["next"])
    printed = saved = time.time()
    since = first - 1
    for i in range(first, target + 1):
        training.update(i)
        now = time.time()
        leave = i == target or stop.asked or now > end
        if leave or i == first or now - printed > PRINT_EVERY or now - saved > save_every:
            training.print_progress(i, last, (i - since) / max(now - printed, 1e-9))
            printed, since = time.time(), i
        if leave or now - saved > save_every:
            training.save(i)
            saved = time.time()
        if leave and i < target:
            print(f"saved after iteration {i}; the same command continues from there", file=sys.stderr)
            return False
    return True


def check(folder: Path, description: dict, split: data.Split) -> dict:
    """Return the times that this device takes to compile the training step and to compute it, and the relative errors
    of the first iteration's meta-gradient and loss against float64. Raise UserError where the folder lacks those."""
    path = folder / EXACT
    if not path.is_file():
        raise UserError(f"there is no {path}: write it with bench.py --export P --check, where TensorFlow is installed")
    with user_error(f"{path} is damaged", "copy the folder again", Exception), np.load(path) as file:  # of many kinds
        moment, loss = file["m"], file["loss"]
    start = time.perf_counter()
    training = Training(folder, description, folder / weights.NAME, weights.read(folder / weights.NAME), split)
    compiled = time.perf_counter() - start
    training.update(0)
    report = {"device": training.step.device.device_kind, "compile_s": round(compiled, 1)}
    report["gradient_error"] = relative_error(np.asarray(training.variables["adam/m"]), moment)
    report["loss_error"] = abs(float(training.loss) / float(loss) - 1)
    iterations, start = 0, time.perf_counter()
    while iterations < 10 or time.perf_counter() - start < CHECK_SECONDS:
        iterations, before = iterations + 1, training.loss
        training.update(iterations)
        float(before)  # waits for the iteration before this one: the device is at most one behind, as in training
    float(training.loss)
    report["ms_per_iteration"] = round(1e3 * (time.perf_counter() - start) / iterations, 2)
    return report


def test(step: Program, saved: weights.Weights, split: data.Split, episodes: int, stop: Stop) -> dict[str, list]:
    """Return loss and accuracy [episodes] of the first test episodes, the same as meta_test's; fewer after a stop."""
    arrays = {f"params/{name}": step.put(value) for name, value in saved.params.items()}
    arrays |= {
        "pixels": step.put(np.asarray(split.pixels)),
        "seed": np.array([TEST_SEED, data.STREAMS["test"]], np.int32),
    }
    numbers, printed, metabatch = {"loss": [], "accuracy": []}, time.time(), step.settings["metabatch"]
    for first in range(0, episodes, metabatch):
        if stop.asked:
            break
        indices = range(first, first + metabatch)  # the last of them may not be needed
        classes, images = (
            np.concatenate(part) for part in zip(*(step.sample(split, TEST_SEED, i, 1) for i in indices), strict=True)
        )
        results = step(arrays | {"classes": classes, "images": images, "indices": np.array(indices, np.int32)})
        for name, values in numbers.items():
            values += np.asarray(results[name]).tolist()
        if time.time() - printed > PRINT_EVERY:
            line = "{} episodes: accuracy {:.2f} +- {:.2f}"
            print(line.format(len(numbers["accuracy"]), *mean_and_interval(numbers["accuracy"])), flush=True)
            printed = time.time()
    return {name: values[:episodes] for name, values in numbers.items()}


def with_test(saved: weights.Weights, numbers: dict[str, list], samples: int) -> weights.Weights:
    """Print the result of a test. Return the weights with it."""
    accuracy, interval = mean_and_interval(numbers["accuracy"])
    print(f"loss : {np.mean(numbers['loss']):f}")
    print(f"accuracy : {accuracy:f} +- {interval:f}", flush=True)
    result = {"accuracy": accuracy, "interval95": interval, "episodes": len(numbers["accuracy"])}
    result |= {"n_test_mc_samp": samples}
    iteration = saved.about["iteration"]
    others = [test for test in saved.about.get("tests", []) if test["iteration"] != iteration]
    about = saved.about | {"test": result, "tests": [*others, {"iteration": iteration} | result]}
    return dataclasses.replace(saved, about=about)


if __name__ == "__main__":
    run(main)
