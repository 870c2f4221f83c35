"""Train and test without TensorFlow: python train_jax.py --program P --weights W.npz [flags].

It runs the XLA programs that bench.py --export P wrote, with numpy and JAX alone, on the accelerator that JAX finds:
the same episodes, the same noise, the same update. W.npz is gone on from, or begun, and main.py --weights W.npz takes
it from there.
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
from errors import Parser, Stop, UserError, run
from flags import path_text, positive, to_path, whole
from settings import all_settings
from training import weights
from training.program import EXACT, TEST_SEED, program_file, read_description, relative
from training.test_results import summary

SAY_EVERY = 10  # seconds between lines of progress
CHECK_SECONDS = 5  # for which --check times iterations, at least ten of them
# What may differ between the program and the weights: how long, how often, and what an older version did not say.
FREE = {
    "n_train_iters", "save_freq", "val_every", "n_val_tasks", "collapse_every", "n_test_mc_samp", "remat", "prepare",
}  # fmt: skip


class Program:
    """One XLA program on JAX's first device: arrays by name -> results by name, which stay on the device."""

    def __init__(self, folder: Path, name: str, described: dict):
        try:
            import jax
            from jax._src.lib import xla_client  # JAX has no public way to compile a serialized HLO module
        except ImportError as fault:
            raise UserError(
                f"JAX cannot be imported ({fault}): install it, for example with pip install jax"
            ) from fault
        self.device, self.arguments, self.results = jax.devices()[0], described["arguments"], described["results"]
        self.way = next(shape[1] for name, shape, _ in self.arguments if name == "classes")
        path = program_file(folder, name)
        try:
            hlo = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as fault:
            raise UserError(f"{path} is missing or damaged ({fault}): copy the folder again") from fault
        computation = xla_client.XlaComputation(hlo)
        module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
        options = xla_client.CompileOptions()
        self.executable = self.device.client.compile_and_load(module, [self.device], options)

    def put(self, array: np.ndarray):
        """The array on the device, where it may be already."""
        import jax

        return array if isinstance(array, jax.Array) else jax.device_put(array, self.device)

    def __call__(self, arrays: dict) -> dict:
        row = [self.put(arrays[name]) for name, *_ in self.arguments]
        results = self.executable.execute(row)
        return {name: array for (name, *_), array in zip(self.results, results, strict=True)}


def parser() -> Parser:
    p = Parser(prog="train_jax.py", description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[1])
    add = p.add_argument
    add("--program", type=to_path, required=True, metavar="P", help="the folder that bench.py --export P wrote")
    add("--weights", type=to_path, metavar="FILE", help="to go on from, where it is; written by this one")
    add(
        "--check",
        action="store_true",
        help="in place of training, print the error of the first iteration's "
        "meta-gradient against float64 (for a program of bench.py --export P --check), and the time that one takes",
    )
    add(
        "--data_dir",
        type=path_text,
        default="data",
        metavar="DIR",
        help="folder that holds the datasets (default: data)",
    )
    add("--n_train_iters", type=whole(0), metavar="N", help="train to this iteration (default: the program's)")
    add("--seconds", type=positive, metavar="S", help="stop training after so many seconds, with the weights saved")
    add("--save_every", type=positive, default=120.0, metavar="S", help="seconds between savings (default: 120)")
    add("--n_test_iters", type=whole(0), default=0, metavar="N", help="then test so many episodes (default: 0)")
    add("--test_every", type=whole(1), metavar="N", help="test after every N iterations, too; the file keeps them all")
    return p


def main() -> int:
    args = parser().parse_args()
    description = read_description(args.program)
    settings = description["settings"]
    if args.check:
        print(json.dumps(check(args.program, description, load_splits(args.data_dir, settings)["train"])))
        return 0
    if not args.weights:
        raise UserError("--weights is missing: give the file that training goes on from, or is to write")
    if args.test_every and not args.n_test_iters:
        raise UserError("--test_every is of tests: give their --n_test_iters, too")
    state = begin(args.weights, args.program, settings)
    splits = load_splits(args.data_dir, settings)
    last = settings["n_train_iters"] if args.n_train_iters is None else args.n_train_iters
    if last < (done := int(state.state["next"]) - 1):
        raise UserError(f"{args.weights} is at iteration {done} already, past --n_train_iters {last}: choose more")
    make_room(args.weights)
    with Stop() as stop:
        return follow(args, description, state, splits, last, stop)


def follow(args, description: dict, state: weights.Weights, splits: dict, last: int, stop: Stop) -> int:
    """Train to iteration `last`, with the tests that were asked for -> the exit code. splits: `load_splits`'."""
    training = tester = None
    for pause in pauses(int(state.state["next"]) - 1, last, args.test_every):
        if int(state.state["next"]) <= pause:
            if training is None:
                training = Training(args.program, description, args.weights, state, splits["train"])
                device, first = training.step.device.device_kind, int(state.state["next"])
                print(f"device: {device}; iterations {first} to {last}", flush=True)
                end = time.time() + (args.seconds or math.inf)
            training.state, training.began = state, time.time()
            done = train(training, pause, last, end, args.save_every, stop)
            state = training.state
            if not done:
                return 130 if stop.asked else 0
        tested = [test["iteration"] for test in state.about.get("tests", [])]
        if args.n_test_iters and (pause == last or pause not in tested):
            tester = tester or Program(args.program, "test", description["test"])
            numbers = test(tester, state, splits["test"], description["settings"], args.n_test_iters, stop)
            if len(numbers["accuracy"]) < args.n_test_iters:
                print("interrupted: the test was not written", file=sys.stderr)
                return 130
            state = with_test(state, numbers, description["samples"])
            weights.write(args.weights, state)
    return 0


def pauses(done: int, last: int, every: int | None) -> list[int]:
    """The iterations, from the one that is done on, after which there is a test: the multiples of `every`, and the
    last."""
    return [i for i in range(every, last, every) if i >= done] + [last] if every else [last]


def begin(path: Path, folder: Path, settings: dict) -> weights.Weights:
    """The weights to go on from: those at `path`, or, where there are none, those that the program begins with.

    UserError where they are of a run with other settings than the program's, or lack Adam's slots.
    """
    state = weights.read(path if path.exists() else folder / weights.NAME)
    if not state.state:
        raise UserError(f"{path} has no slots of Adam's: write it with main.py --mode weights --slots")
    defaults = {name: declared.default for name, declared in all_settings().items()}
    for name, value in settings.items():
        other = state.about["settings"].get(name, defaults.get(name))  # an older version's file has fewer
        if name not in FREE and other != value:
            raise UserError(
                f"{path} is of a run with {name} {other}, and {folder} was made for {value}: export another"
            )
    return state


def make_room(path: Path) -> None:
    """The folder of the file that is to be written, before hours of work. UserError where it cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(f"cannot make the folder of --weights {path} ({fault.strerror}): choose another") from fault


def load_splits(data_dir: str, settings: dict) -> dict[str, data.Split]:
    """The splits that the run trains on and is tested on. UserError where they are not the program's data."""
    dataset = data.load(data_dir, settings["dataset"], settings["split"] == "background")
    if dataset.sha256 != settings["data_sha256"]:
        raise UserError(f"{data_dir}/{dataset.name} holds other data than the program was made for: see --data_dir")
    return data.splits_of(dataset, settings["train_split"])


class Training:
    """Training from a state on: parameters, slots and pixels stay on the device between the iterations."""

    def __init__(self, folder: Path, description: dict, path: Path, state: weights.Weights, split: data.Split):
        self.settings, self.path, self.state, self.split = description["settings"], path, state, split
        self.step = Program(folder, "train", description["train"])
        groups = {"params": state.params, "adam": state.slots}
        self.changing = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        self.pixels, self.began = self.step.put(np.asarray(split.pixels)), time.time()
        self.loss, self.accuracy, self.finite = None, None, True

    def update(self, i: int) -> None:
        """Iteration i. The device may still be at it when this returns."""
        seed = self.settings["seed"]
        classes, images = sample(self.split, "train", seed, i, self.settings["metabatch"], self.step.way, self.settings)
        episode = {"classes": classes, "images": images, "seed": np.array([seed, i], np.int32)}
        results = self.step(self.changing | {"pixels": self.pixels} | episode)
        self.loss, self.accuracy = results["loss"], results["accuracy"]
        self.finite = results["finite"] & self.finite
        self.changing = {name: results[name] for name in self.changing}

    def say(self, i: int, last: int, rate: float) -> None:
        """Print a line of iteration i. UserError where one so far was not finite."""
        loss, accuracy = float(self.loss), float(self.accuracy)
        if not bool(self.finite):
            raise UserError(
                f"the loss or its gradient was not finite before iteration {i + 1}: lower --meta_lr or --inner_lr; "
                f"{self.path}, if it is there, has the last good weights"
            )
        print(f"iteration {i} of {last}: loss {loss:.3f}, acc {accuracy:.3f}, {rate:.2f} it/s", flush=True)

    def save(self, i: int) -> None:
        """Write the weights after iteration i."""
        params, slots = (
            {name.removeprefix(group): np.asarray(value) for name, value in self.changing.items() if group in name}
            for group in ("params/", "adam/")
        )
        now = time.time()
        state = self.state.state | {"next": np.asarray(np.int64(i + 1)), "reported": np.asarray(np.int64(i))}
        state |= {"secs": np.asarray(self.state.state["secs"] + now - self.began), "window": np.zeros(3)}
        before = self.state.about["settings"]  # has more than the program's: how long, and facts of the data
        settings = before | {name: value for name, value in self.settings.items() if name not in FREE & before.keys()}
        about = {"settings": settings, "iteration": i, "weights_sha256": weights.digest(params)}
        about |= {"test": None, "tests": self.state.about.get("tests", [])}
        about |= {"trained_on": f"{self.step.device.device_kind}, JAX"}
        best = self.state.best_checkpoint()  # of the training that this one goes on from
        self.state, self.began = weights.Weights(about, params, slots, state), now
        self.state = dataclasses.replace(self.state, best=best.params if best else {})
        weights.write(self.path, self.state)


def train(training: Training, pause: int, last: int, end: float, save_every: float, stop: Stop) -> bool:
    """Train to iteration `pause` (of `last`), or to the time `end`, saving every so many seconds. -> Is it done?"""
    first = int(training.state.state["next"])
    said = saved = time.time()
    since = first - 1
    for i in range(first, pause + 1):
        training.update(i)
        now = time.time()
        leave = i == pause or stop.asked or now > end
        if leave or i == first or now - said > SAY_EVERY or now - saved > save_every:
            training.say(i, last, (i - since) / max(now - said, 1e-9))
            said, since = time.time(), i
        if leave or now - saved > save_every:
            training.save(i)
            saved = time.time()
        if leave and i < pause:
            print(f"saved after iteration {i}; the same command goes on from there", file=sys.stderr)
            return False
    return True


def check(folder: Path, description: dict, split: data.Split) -> dict:
    """What the first iteration is on this device: the time to compile it and the time that it takes, and the relative
    errors of its meta-gradient and loss against float64. UserError where the program came without those."""
    if not (folder / EXACT).is_file():
        raise UserError(f"there is no {folder / EXACT}: make it where TensorFlow is, with bench.py --export P --check")
    try:
        with np.load(folder / EXACT) as file:
            moment, loss = file["m"], file["loss"]
    except Exception as fault:  # zipfile and numpy have several for a damaged file
        raise UserError(f"{folder / EXACT} is damaged ({fault}): copy the folder again") from fault
    began = time.perf_counter()
    training = Training(folder, description, folder / weights.NAME, weights.read(folder / weights.NAME), split)
    compiled = time.perf_counter() - began
    training.update(0)
    said = {"device": training.step.device.device_kind, "compile_s": round(compiled, 1)}
    said["gradient_error"] = relative(np.asarray(training.changing["adam/m"]), moment)
    said["loss_error"] = abs(float(training.loss) / float(loss) - 1)
    iterations, began = 0, time.perf_counter()
    while iterations < 10 or time.perf_counter() - began < CHECK_SECONDS:
        iterations, before = iterations + 1, training.loss
        training.update(iterations)
        float(before)  # waits for the iteration before: the device may fall one behind, as in training, and no more
    float(training.loss)
    said["ms_per_iteration"] = round(1e3 * (time.perf_counter() - began) / iterations, 2)
    return said


def sample(split: data.Split, stream: str, seed: int, index: int, tasks: int, way: int, settings: dict):
    """Indices of episodes, as Engine.episode draws them."""
    images = settings["shot"] + settings["query"]
    return data.sample(split, stream, seed, index, tasks, way, images, settings["legacy_shared_classes"])


def test(step: Program, state: weights.Weights, split: data.Split, settings: dict, episodes: int, stop: Stop) -> dict:
    """Loss and accuracy [episodes] of the first test episodes, those of meta_test; fewer where it was interrupted."""
    arrays = {f"params/{name}": step.put(value) for name, value in state.params.items()}
    arrays |= {
        "pixels": step.put(np.asarray(split.pixels)),
        "seed": np.array([TEST_SEED, data.STREAMS["test"]], np.int32),
    }
    numbers, said = {"loss": [], "accuracy": []}, time.time()
    for first in range(0, episodes, settings["metabatch"]):
        if stop.asked:
            break
        indices = range(first, first + settings["metabatch"])  # the last ones may reach beyond the end
        drawn = [sample(split, "test", TEST_SEED, i, 1, step.way, settings) for i in indices]
        classes, images = (np.concatenate(part) for part in zip(*drawn, strict=True))
        results = step(arrays | {"classes": classes, "images": images, "indices": np.array(indices, np.int32)})
        for name, values in numbers.items():
            values += np.asarray(results[name]).tolist()
        if time.time() - said > SAY_EVERY:
            line = "{} episodes: accuracy {:.2f} +- {:.2f}"
            print(line.format(len(numbers["accuracy"]), *summary(numbers["accuracy"])), flush=True)
            said = time.time()
    return {name: values[:episodes] for name, values in numbers.items()}


def with_test(state: weights.Weights, numbers: dict, samples: int) -> weights.Weights:
    """The state with these numbers of its test, which are printed."""
    accuracy, interval = summary(numbers["accuracy"])
    print(f"loss : {np.mean(numbers['loss']):f}")
    print(f"accuracy : {accuracy:f} +- {interval:f}", flush=True)
    result = {"accuracy": accuracy, "interval95": interval, "episodes": len(numbers["accuracy"])}
    result |= {"n_test_mc_samp": samples}
    iteration = state.about["iteration"]
    others = [test for test in state.about.get("tests", []) if test["iteration"] != iteration]
    about = state.about | {"test": result, "tests": [*others, {"iteration": iteration} | result]}
    return dataclasses.replace(state, about=about)


if __name__ == "__main__":
    run(main)
