"""A run's training step and test step as XLA programs, for machines without TensorFlow (train_jax.py runs them).

A folder holds train.hlo.gz and test.hlo.gz, serialized HLO modules of one device, program.json, and weights.npz, the
weights that training begins with (weights.py). exact.npz, if it was asked for, has what the first iteration would be
in float64: Adam's first moment `m`, which is the clipped meta-gradient times 1 - beta_1, and the `loss`.

Both programs are pure functions of arrays in one row. program.json says which: names, shapes and dtypes of arguments
and results, the run's settings, and the dataset's digest. Names are those of the file of weights, and

    pixels      the split's, as it is stored: [classes,images,H,W,C]
    classes     int32 [T,way], and images int32 [T,way,shot+query]: data.sample's
    seed        int32 [2]: in training the run's seed and the iteration, in the test the test's seed and the stream
    indices     int32 [T], numbers of the test episodes

Results of training: parameters and slots of the next iteration, loss, accuracy, and whether all was finite. Results of
the test: accuracy and loss, [T] each.
"""

from __future__ import annotations

import functools
import gzip
import json
import warnings
from pathlib import Path

import numpy as np

import data
import layers
from errors import UserError
from files import write_atomically
from lazy import tf
from training import weights
from training.steps import Engine, read

FORMAT = 2
DESCRIPTION, EXACT = "program.json", "exact.npz"
TEST_SEED = 0  # of all tests, unless they are told another


def write(
    folder: Path,
    engine: Engine,
    train: data.Split,
    test: data.Split,
    settings: dict,
    samples: int,
    exact: np.ndarray | None = None,
) -> None:
    """Make the folder. samples: noise samples of a loss in the test. settings: config.json's. exact: `Engine.means` of
    the first iteration in float64, if it is to be there.

    UserError where the folder cannot be written.
    """
    params, slots = read(engine.params), read(engine.slots)
    indices = engine.training_episodes(train, 0), engine.episode(test, "test", 0, engine.metabatch)
    training, testing = ({"classes": tf.constant(c), "images": tf.constant(i)} for c, i in indices)
    train_arguments = {"params": params, "adam": slots, "pixels": tf.constant(train.pixels), **training}
    train_arguments["seed"] = tf.constant([engine.seed, 0])
    test_arguments = {"params": params, "pixels": tf.constant(test.pixels), **testing}
    test_arguments |= {"indices": tf.range(engine.metabatch), "seed": tf.constant([TEST_SEED, data.STREAMS["test"]])}

    def train_step(params, adam, pixels, classes, images, seed):
        params, slots, loss, accuracy, finite = engine.pure_step(train, params, adam, pixels, classes, images, seed)
        return {"params": params, "adam": slots, "loss": loss, "accuracy": accuracy, "finite": finite}

    test_step = functools.partial(engine.pure_test, test, samples=samples)
    description = {"format": FORMAT, "settings": settings, "samples": samples}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)  # until all is there
        for name, step, arguments in (("train", train_step, train_arguments), ("test", test_step, test_arguments)):
            hlo, described = compile_step(step, arguments)
            write_atomically(program_file(folder, name), gzip.compress(hlo, mtime=0))
            description[name] = described
        beginning = {name: value.numpy() for name, value in params.items()}
        about = {"settings": settings, "iteration": -1, "weights_sha256": weights.digest(beginning)}
        state = {
            "next": np.int64(0), "secs": np.float64(0), "window": np.zeros(3), "best": -np.ones(2),
            "reported": np.int64(-1),
        }  # fmt: skip
        state = {name: np.asarray(value) for name, value in state.items()}
        slots = {name: value.numpy() for name, value in slots.items()}
        weights.write(folder / weights.NAME, weights.Weights(about, beginning, slots, state))
        (folder / EXACT).unlink(missing_ok=True)
        if exact is not None:
            _, moments, loss, *_ = engine.update(params, train_arguments["adam"], tf.constant(exact))
            np.savez(folder / EXACT, m=moments["m"].numpy(), loss=loss.numpy())
        write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")  # the last one: it is whole
    except OSError as fault:
        raise UserError(f"cannot write into {folder} ({fault.strerror}): choose another --export") from fault


def program_file(folder: Path, name: str) -> Path:
    """Where the program "train" or "test" is."""
    return folder / f"{name}.hlo.gz"


def read_description(folder: Path) -> dict:
    """What the folder's program.json says. UserError where there is none, or where it is not one of ours."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"there is no {path}: make it where TensorFlow is, with bench.py --export {folder}")
    try:
        description = json.loads(path.read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"its version is {description['format']}")
        description["settings"]["data_sha256"], description["train"]["arguments"], description["test"]["results"]
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError(f"{path} cannot be read ({fault!r}): write it again with bench.py --export") from fault
    return description


def compile_step(step, arguments: dict) -> tuple[bytes, dict]:
    """A step that takes and gives dictionaries -> its HLO module, and what its flat arguments and results are."""
    function = tf.function(lambda values: step(**values), autograph=False, jit_compile=True)
    device = tf.nest.flatten(arguments)[0].device
    with layers.for_other_devices(), warnings.catch_warnings():
        # TensorFlow's advice, a platform's name, draws a random number, which its determinism refuses.
        warnings.filterwarnings("ignore", "device_name is being deprecated")
        hlo = function.experimental_get_compiler_ir(arguments)(stage="hlo_serialized", device_name=device)
        results = function.get_concrete_function(arguments).structured_outputs
    return hlo, {"arguments": describe(arguments), "results": describe(results)}


def relative(value: np.ndarray, exact: np.ndarray) -> float:
    """The norm of the error by that of the exact value."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


def describe(tensors: dict, group: str = "") -> list[tuple[str, list[int], str]]:
    """Name, shape and dtype of each tensor, in the order in which tf.nest flattens them: that of the names."""
    described = []
    for name, value in sorted(tensors.items()):
        if isinstance(value, dict):
            described += describe(value, f"{name}/")
        else:
            described.append((group + name, value.shape.as_list(), value.dtype.name))
    return described
