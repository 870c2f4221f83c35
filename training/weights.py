"""A run's weights in one file, to share, to start a run from, and to train without TensorFlow. Needs numpy alone.

Version 1, numpy.load(allow_pickle=False) reads it:

    format          int64, 1
    about           str, JSON: settings (those of config.json, with the dataset's digest), checkpoint and iteration,
                    weights_sha256 (the same as in results), program (version and commit), and test: accuracy and its
                    95 % interval in percent, episodes and noise samples of the latest test of these weights, if there
                    was one; tests: the same of earlier iterations, with their `iteration`, and trained_on, the device
                    (both by train_jax.py, which leaves checkpoint and program out)
    params/NAME     float32, each parameter
    adam/m, adam/v  float32 [trained parameters], and adam/t [], Adam's slots; optional, together with the next two
    state/NAME      next [], secs [], window [3], best [2], reported []: as in a checkpoint (TrainingState), so that
                    training continues to the same bits
    best/NAME       float32, each parameter of the best checkpoint, if it is of another iteration

All numbers are finite.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from errors import UserError, user_error
from files import locked, parse_json, write_atomically

FORMAT = 1
NAME = "weights.npz"  # what --mode weights writes into a savedir
START = "start.npz"  # the weights that a savedir's run started from
LOCK = "meta_train.lock"  # in a savedir where a training has begun; locked while it runs
SLOTS = ("m", "v", "t")
STATE = {  # before the first iteration
    "next": np.int64(0),  # iteration
    "secs": np.float64(0),  # of training
    "window": np.zeros(3),  # sums of loss and accuracy since the log's last row, and how many iterations these are
    "best": -np.ones(2),  # highest validation accuracy, and its iteration
    "reported": np.int64(-1),  # last iteration with complete logs and validation
}
ABOUT = {"settings": dict, "iteration": int, "weights_sha256": str}  # in every file
MAX_BYTES, MAX_ARRAYS = 2**30, 10_000  # limits of a file and of its unpacked arrays


@dataclass(frozen=True)
class Weights:
    """The content of a weights file or of a checkpoint. Training can continue from it if it has `slots` and `state`; it
    has both or neither. best: the best checkpoint's parameters, if they are known and differ from `params`."""

    about: dict
    params: dict[str, np.ndarray]
    slots: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    best: dict[str, np.ndarray] = field(default_factory=dict)

    def best_weights(self) -> Weights | None:
        """Return the weights of the best checkpoint alone; None if they are not known."""
        if self.about.get("checkpoint") == "best":
            return self
        iteration = int(self.state["best"][1]) if self.state else -1
        if iteration == self.about["iteration"] >= 0:
            return self
        if not self.best:
            return None
        about = {"iteration": iteration, "checkpoint": "best", "weights_sha256": digest(self.best)}
        return Weights(self.about | about | {"test": None, "tests": []}, self.best)


def digest(params: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all parameters, in the order of their names."""
    sha256 = hashlib.sha256()
    for name in sorted(params):
        sha256.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return sha256.hexdigest()


def write(path: Path, weights: Weights) -> int:
    """Write a weights file, whole or not at all. Return its size in bytes."""
    groups = {"params": weights.params, "adam": weights.slots, "state": weights.state, "best": weights.best}
    arrays = {f"{group}/{name}": array for group, members in groups.items() for name, array in members.items()}
    file = io.BytesIO()
    np.savez_compressed(file, format=np.int64(FORMAT), about=np.array(json.dumps(weights.about)), **arrays)
    write_atomically(path, file.getvalue())
    return len(file.getvalue())


def is_weights_file(run: Path) -> bool:
    """Return True if this is the path of a weights file, not of a savedir."""
    return not run.is_dir() and (run.exists() or run.suffix == ".npz")


def read(path: Path) -> Weights:
    """Return the content of a weights file. Raise UserError if it is missing, damaged or of another version."""
    if not path.is_file():
        raise UserError(f"there is no weights file {path}: main.py --mode weights writes one")
    damaged = f"{path} is damaged, or is not a weights file", "get a new copy of it"
    with user_error(*damaged, Exception):  # zipfile, numpy and the decompressors have a dozen for a damaged file
        arrays = read_arrays(path)
    if (version := arrays.pop("format", np.int64(0)).tolist()) != FORMAT:
        raise UserError(f"{path} is not a weights file of version {FORMAT}: its version is {str(version)[:20]}")
    with user_error(*damaged, ValueError, KeyError, TypeError):
        groups = {group: {} for group in ("params", "adam", "state", "best")}
        about = parse_json(str(arrays.pop("about")))
        for name, array in arrays.items():
            group, _, member = name.partition("/")
            groups[group][member] = array
        weights = Weights(about, *groups.values())
        check_content(weights)
    return weights


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file. Raise ValueError, before any is unpacked, if its directory declares too
    many or too large ones. A damaged file raises other exceptions, of Python and of numpy."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = max(path.stat().st_size, sum(member.file_size for member in members))
    if size > MAX_BYTES or len(members) > MAX_ARRAYS:
        limits = f"{MAX_ARRAYS} arrays and {MAX_BYTES:,} bytes"
        raise ValueError(f"it declares {len(members)} arrays, {size:,} bytes; the limits are {limits}")
    if not {member.compress_type for member in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError("it is compressed in a way that numpy does not write")
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def check_content(weights: Weights) -> None:
    """Raise ValueError if the weights differ from the layout above."""
    about = weights.about
    if not isinstance(about, dict):
        raise ValueError("its description is not an object")
    for name, kind in ABOUT.items():
        if type(about.get(name)) is not kind:
            raise ValueError(f"its {name} is {about.get(name, 'missing')!r:.40}, wanted {kind.__name__}")
    tests = about.get("tests", [])
    if not isinstance(tests, list) or not all(isinstance(test, dict) and "iteration" in test for test in tests):
        raise ValueError("its tests are not a list of tests")
    if digest(weights.params) != about["weights_sha256"]:
        raise ValueError("its parameters do not match its digest")
    for members, names in ((weights.slots, SLOTS), (weights.state, STATE)):
        if members and set(members) != set(names):
            raise ValueError(f"it has {' '.join(sorted(members))}, wanted {' '.join(names)}")
    if bool(weights.slots) != bool(weights.state) or (weights.best and not weights.state):
        raise ValueError("it needs Adam's slots and a state together, or neither of them and no best parameters")
    if (weights.best or weights.params).keys() != weights.params.keys():
        raise ValueError("its best parameters have other names than its last ones")
    check_arrays(weights)


def check_arrays(weights: Weights) -> None:
    """Raise ValueError if an array has another dtype than the layout's, a state another shape, or a number is not
    finite."""
    for members in (weights.params, weights.slots, weights.best):
        for name, array in members.items():
            if array.dtype != np.float32:
                raise ValueError(f"its {name} is {array.dtype}, wanted float32")
            if not np.isfinite(array).all():
                raise ValueError(f"its {name} has a number that is not finite")
    for name, wanted in STATE.items():
        array = weights.state.get(name, wanted)
        if array.dtype != wanted.dtype or array.shape != wanted.shape or not np.isfinite(array).all():
            raise ValueError(f"its {name} is wrong: wanted finite {wanted.dtype} of the shape {wanted.shape}")
    if weights.state and weights.state["next"] != weights.about["iteration"] + 1:
        raise ValueError("its state belongs to another iteration")


@contextlib.contextmanager
def starting_in(savedir: Path, path: Path, settings: dict | None) -> Iterator[None]:
    """Make savedir with a copy of the weights file at `path` and, if there are settings, with a config.json. If the
    `with` block raises UserError and wrote no other files, restore savedir as it was before.

    Raise UserError if savedir has another run; a run that started from the same file may continue.
    """
    start, config, content = savedir / START, savedir / "config.json", path.read_bytes()
    started = start.is_file() and start.read_bytes() == content
    if not started and config.exists():
        raise UserError(f"{savedir} has a run already: leave --weights out, or choose another --savedir")
    if not started and start.exists():
        raise UserError(f"{start} is of another file of weights: remove it, or choose another --savedir")
    before = {file.name for file in savedir.iterdir()} if savedir.exists() else None
    parents = [folder for folder in savedir.parents if not folder.exists()]
    savedir.mkdir(parents=True, exist_ok=True)
    wrote = [LOCK] * (LOCK not in (before or ()))
    try:
        if not started:
            write_atomically(start, content)
            wrote.append(START)
        if settings is not None and not config.exists():
            write_atomically(config, json.dumps(settings, indent=1) + "\n")
            wrote.append(config.name)
        yield
    except UserError:
        # While another process trains here it has the lock, and the files are its own.
        with contextlib.suppress(UserError), locked(savedir / LOCK, ""):
            if {file.name for file in savedir.iterdir()} - (before or set()) <= set(wrote):
                for name in wrote:
                    (savedir / name).unlink(missing_ok=True)
                for folder in [savedir, *parents] if before is None else ():
                    folder.rmdir()
        raise


def refuse_other_shapes(path: Path, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> None:
    """Raise UserError if the arrays of the file at `path` do not have this learner's names and shapes."""
    other = f"{path} has the weights of another learner"
    if names := sorted(arrays.keys() ^ shapes.keys()):
        raise UserError(f"{other}: it {'lacks' if names[0] in shapes else 'has'} {names[0]}")
    for name, shape in shapes.items():
        if arrays[name].shape != tuple(shape):
            raise UserError(
                f"{other}: its {name} has the shape {arrays[name].shape}, wanted {tuple(shape)} (it depends on --way, "
                f"--channels and the size of the images)"
            )
