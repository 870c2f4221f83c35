"""The training step and the test step of a run as XLA programs, for machines without TensorFlow (train_jax.py).

A folder has train.hlo.gz and test.hlo.gz, serialized HLO modules for one device; program.json; and weights.npz, the
weights that training starts from (weights.py). On request it has exact.npz, the first iteration in float64: the first
moment `m` of Adam, which is the clipped meta-gradient times 1 - beta_1, and the `loss`.

Both programs are pure functions, which take and return a list of arrays. program.json has the names, shapes and dtypes
of these, the run's settings and the dataset's digest. The names are those in the weights file, and

    pixels      of the split, as they are stored: [classes,images,H,W,C]
    classes     int32 [T,way], and images int32 [T,way,shot+query], from data.sample
    seed        int32 [2]: in training the run's seed and the iteration, in the test the test's seed and the stream
    indices     int32 [T], numbers of the test episodes

The training step returns the next iteration's parameters and slots, loss, accuracy, and whether all was finite; the
test step accuracy and loss, [T] each.
"""

from __future__ import annotations

import functools
import gzip
import json
import warnings
from pathlib import Path

import numpy as np

import data
from errors import UserError, user_error
from files import parse_json, write_atomically
from lazy import tf
from training import weights
from training.steps import Engine, MetaGradient, read

FORMAT = 2
DESCRIPTION, EXACT = "program.json", "exact.npz"
TEST_SEED = 0  # the default --seed of a test


def write(
    folder: Path,
    engine: Engine,
    train: data.Split,
    test: data.Split,
    settings: dict,
    samples: int,
    exact: MetaGradient | None = None,
) -> None:
    """Write the folder. samples: noise samples per loss in the test. settings: those of config.json. exact: the
    meta-gradient of the first iteration in float64, for exact.npz.

    Raise UserError if the folder cannot be written, if the outer step size of the learner is not constant, and if it is
    trained on minibatches.
    """
    if engine.learner.minibatch:
        raise UserError(f"--export: --model {settings['model']} is trained on minibatches: train it with main.py")
    if engine.learner.outer_rate(engine.meta_lr, 1, 1) != engine.meta_lr:
        name = settings["model"]
        raise UserError(f"--export: the outer step size of --model {name} is not constant: train it with main.py")
    params, slots = read(engine.params), read(engine.slots)
    inputs = engine.training_inputs(train, 0)
    train_arguments = {"params": params, "adam": slots, "pixels": tf.constant(train.pixels)}
    train_arguments |= {name: inputs[name] for name in ("classes", "images", "seed")}
    classes, images, indices = engine.group_of_episodes(test, "test", 0)
    test_arguments = {"params": params, "pixels": tf.constant(test.pixels), "classes": classes, "images": images}
    test_arguments |= {"indices": indices, "seed": tf.constant([TEST_SEED, data.STREAMS["test"]])}

    def train_step(params, adam, pixels, classes, images, seed):
        step = engine.pure_step(train, params, adam, pixels, classes, images, seed, engine.meta_lr)
        params, slots, loss, accuracy, finite = step
        return {"params": params, "adam": slots, "loss": loss, "accuracy": accuracy, "finite": finite}

    test_step = functools.partial(engine.pure_test, test, samples=samples)
    description = {"format": FORMAT, "settings": settings, "samples": samples}
    with user_error(f"cannot write into {folder}", "choose another --export", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)  # until all files are there
        for name, step, arguments in (("train", train_step, train_arguments), ("test", test_step, test_arguments)):
            hlo, description[name] = compile_step(step, arguments)
            write_atomically(program_file(folder, name), gzip.compress(hlo, mtime=0))
        initial, slots = ({k: v.numpy() for k, v in group.items()} for group in (params, slots))
        about = {"settings": settings, "iteration": -1, "weights_sha256": weights.digest(initial)}
        weights.write(folder / weights.NAME, weights.Weights(about, initial, slots, weights.STATE))
        (folder / EXACT).unlink(missing_ok=True)
        if exact is not None:
            _, moments, _ = engine.update(params, train_arguments["adam"], exact, engine.meta_lr)
            np.savez(folder / EXACT, m=moments["m"].numpy(), loss=exact.loss.numpy())
        write_atomically(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def program_file(folder: Path, name: str) -> Path:
    """Return the path of the program "train" or "test"."""
    return folder / f"{name}.hlo.gz"


def read_description(folder: Path) -> dict:
    """Return the content of a folder's program.json. Raise UserError if it is missing, damaged or of another
    version."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"there is no {path}: write it with bench.py --export {folder}, where TensorFlow is installed")
    with user_error(f"{path} cannot be read", "write it again with bench.py --export", ValueError, KeyError, TypeError):
        description = parse_json(path.read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"its version is {description['format']}")
        description["settings"]["data_sha256"], description["train"]["arguments"], description["test"]["results"]
    return description


def compile_step(step, arguments: dict) -> tuple[bytes, dict]:
    """Compile a step from a dictionary to a dictionary. Return its HLO module, and the names, shapes and dtypes of its
    flat arguments and results."""
    function = tf.function(lambda values: step(**values), autograph=False, jit_compile=True)
    device = tf.nest.flatten(arguments)[0].device
    with warnings.catch_warnings():
        # To give this advice TensorFlow draws a random number, which its op determinism refuses.
        warnings.filterwarnings("ignore", "device_name is being deprecated")
        hlo = function.experimental_get_compiler_ir(arguments)(stage="hlo_serialized", device_name=device)
        results = function.get_concrete_function(arguments).structured_outputs
    return hlo, {"arguments": describe(arguments), "results": describe(results)}


def describe(tensors: dict, group: str = "") -> list[tuple[str, list[int], str]]:
    """Return name, shape and dtype of each tensor, in the order of the names, as tf.nest flattens them."""
    described = []
    for name, value in sorted(tensors.items()):
        if isinstance(value, dict):
            described += describe(value, f"{name}/")
        else:
            described.append((group + name, value.shape.as_list(), value.dtype.name))
    return described


def relative_error(value: np.ndarray, exact: np.ndarray) -> float:
    """Return the norm of the error divided by the norm of the exact value."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))
