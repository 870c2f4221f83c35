"""A run's weights as one file, to give away, to start from, and to train without TensorFlow. Needs numpy alone.

Version 1, numpy.load(allow_pickle=False) reads it:

    format          int64, 1
    about           str, JSON: settings (config.json's, the dataset's digest among them), checkpoint and iteration,
                    weights_sha256 (results have the same), provenance, and test: accuracy and its 95 % interval in
                    percent, episodes and noise samples of the latest test of these weights, where there was one;
                    tests: the same of earlier iterations, each with its `iteration` (train_jax.py --test_every)
    params/NAME     float32, each parameter
    adam/m, adam/v  float32 [trained parameters], and adam/t [], Adam's slots; on request, with the next two
    state/NAME      next [], secs [], window [3], best [2], reported []: as in a checkpoint (checkpoints.State), so that
                    training goes on to the same bits
    best/NAME       float32, each parameter of the best checkpoint, where that is of another iteration

All numbers are finite.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from errors import UserError
from files import parse_json, write_atomically

FORMAT = 1
NAME = "weights.npz"  # what --mode weights writes into a savedir
START = "start.npz"  # in a savedir, the weights that its run began from
SLOTS = ("m", "v", "t")
STATE = {  # name -> an array of its dtype and shape
    "next": np.array(0), "secs": np.array(0.0), "window": np.zeros(3), "best": np.zeros(2), "reported": np.array(0),
}  # fmt: skip
ABOUT = {"settings": dict, "iteration": int, "weights_sha256": str}  # what every file says
LARGEST, MOST = 2**30, 10_000  # bytes of a file and of all that is in it; arrays


@dataclass(frozen=True)
class Weights:
    """The content of a file of weights, or of a checkpoint. `slots` and `state` are empty, or whole: then training
    can go on from them. best: parameters of the best checkpoint where they differ, and are known."""

    about: dict
    params: dict[str, np.ndarray]
    slots: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    best: dict[str, np.ndarray] = field(default_factory=dict)

    def best_checkpoint(self) -> Weights | None:
        """The weights of the best checkpoint alone; None where they are not known."""
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
    """SHA-256 of all parameters, by name."""
    sha256 = hashlib.sha256()
    for name in sorted(params):
        sha256.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return sha256.hexdigest()


def write(path: Path, weights: Weights) -> int:
    """Write the file, whole or not at all -> its size in bytes."""
    groups = {"params": weights.params, "adam": weights.slots, "state": weights.state, "best": weights.best}
    arrays = {f"{group}/{name}": array for group, members in groups.items() for name, array in members.items()}
    file = io.BytesIO()
    np.savez_compressed(file, format=np.int64(FORMAT), about=np.array(json.dumps(weights.about)), **arrays)
    write_atomically(path, file.getvalue())
    return len(file.getvalue())


def names_file(run: Path) -> bool:
    """True if this is the name of a file of weights, and not of a savedir."""
    return not run.is_dir() and (run.exists() or run.suffix == ".npz")


def read(path: Path) -> Weights:
    """What the file at `path` holds.

    UserError: there is none, it is damaged, of another version, or no file of weights.
    """
    if not path.is_file():
        raise UserError(f"there is no file of weights {path}: main.py --mode weights writes one")
    try:
        arrays = unzipped(path)
    except Exception as fault:  # zipfile, numpy and the decompressors have a dozen for a damaged file
        raise UserError(f"{path} is damaged, or no file of weights ({fault}): get it again") from fault
    if (version := arrays.pop("format", np.int64(0)).tolist()) != FORMAT:
        raise UserError(f"{path} is no file of weights of version {FORMAT}: its version is {str(version)[:20]}")
    groups = {group: {} for group in ("params", "adam", "state", "best")}
    try:
        about = parse_json(str(arrays.pop("about")))
        for name, array in arrays.items():
            group, _, member = name.partition("/")
            groups[group][member] = array
        weights = Weights(about, *groups.values())
        refuse_damaged(weights)
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError(f"{path} is damaged, or no file of weights ({fault}): get it again") from fault
    return weights


def unzipped(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an archive. ValueError where its directory declares too much, before any is unpacked; a damaged
    archive raises other exceptions, Python's and numpy's."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = max(path.stat().st_size, sum(member.file_size for member in members))
    if size > LARGEST or len(members) > MOST:
        raise ValueError(
            f"it declares {len(members)} arrays, {size:,} bytes, and may have {MOST} arrays and {LARGEST:,} bytes"
        )
    if not {member.compress_type for member in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise ValueError("it is compressed in a way that numpy does not write")
    with np.load(path, allow_pickle=False) as file:
        return {name: np.asarray(file[name]) for name in file.files}


def refuse_damaged(weights: Weights) -> None:
    """ValueError where the weights are not as the layout above says."""
    about = weights.about
    if not isinstance(about, dict):
        raise ValueError("it does not say what it is")
    for name, kind in ABOUT.items():
        if name not in about:
            raise ValueError(f"it does not say its {name}")
        if type(about[name]) is not kind:
            raise ValueError(f"its {name} is {str(about[name])[:40]!r}, wanted {kind.__name__}")
    tests = about.get("tests", [])
    if not isinstance(tests, list) or not all(isinstance(test, dict) and "iteration" in test for test in tests):
        raise ValueError("its tests are no list of tests")
    if digest(weights.params) != about["weights_sha256"]:
        raise ValueError("its parameters do not match its digest")
    for members, names in ((weights.slots, SLOTS), (weights.state, STATE)):
        if members and set(members) != set(names):
            raise ValueError(f"it holds {' '.join(sorted(members))}, wanted {' '.join(names)}")
    if bool(weights.slots) != bool(weights.state):
        raise ValueError("of Adam's slots and the state it holds one without the other")
    if weights.best and not weights.state:
        raise ValueError("it holds the best parameters without a state")
    if (weights.best or weights.params).keys() != weights.params.keys():
        raise ValueError("its best parameters have other names than its last")
    refuse_other_numbers(weights)


def refuse_other_numbers(weights: Weights) -> None:
    """ValueError where an array is of another dtype, or a state's of another shape, or where a number is not finite."""
    for members in (weights.params, weights.slots, weights.best):
        for name, array in members.items():
            if array.dtype != np.float32:
                raise ValueError(f"its {name} is of {array.dtype}, wanted float32")
            if not np.isfinite(array).all():
                raise ValueError(f"its {name} has a number that is not finite")
    for name, wanted in STATE.items():
        array = weights.state.get(name, wanted)
        if array.dtype != wanted.dtype or array.shape != wanted.shape or not np.isfinite(array).all():
            raise ValueError(
                f"its {name} is not of a training's state: wanted {wanted.dtype} of the shape {wanted.shape}, finite"
            )
    if weights.state and weights.state["next"] != weights.about["iteration"] + 1:
        raise ValueError("its state is of another iteration")


@contextmanager
def unpacked(path: Path, savedir: Path, settings: dict | None) -> Iterator[None]:
    """A savedir that begins with the file of weights at `path`, and with a config.json of these settings, if there
    are any. Where the block ends with a UserError and left nothing, savedir is as it was.

    UserError where savedir holds another run; one that began with the same file may go on.
    """
    start, config, content = savedir / START, savedir / "config.json", path.read_bytes()
    if start.is_file() and start.read_bytes() == content:
        if settings is not None and not config.exists():  # killed between the two
            write_atomically(config, json.dumps(settings, indent=1) + "\n")
        yield
        return
    if config.exists() or start.exists():
        raise UserError(f"{savedir} holds a run already: leave --weights out, or choose another --savedir")
    before = {file.name for file in savedir.iterdir()} if savedir.exists() else None
    savedir.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(start, content)
        if settings is not None:
            write_atomically(config, json.dumps(settings, indent=1) + "\n")
        yield
    except UserError:
        ours = {START, config.name, "meta_train.lock"}
        if {file.name for file in savedir.iterdir()} - (before or set()) <= ours:
            for name in ours - (before or set()):
                (savedir / name).unlink(missing_ok=True)
            if before is None:
                savedir.rmdir()
        raise


def refuse_other_shapes(path: Path, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple]) -> None:
    """UserError where the arrays of the file at `path` are not those of this learner: shapes, by name."""
    names = sorted(arrays.keys() ^ shapes.keys())
    if names:
        holds = "lacks" if names[0] in shapes else "has"
        raise UserError(f"{path} holds the weights of another learner: it {holds} {names[0]}")
    for name, shape in shapes.items():
        if arrays[name].shape != tuple(shape):
            raise UserError(
                f"{path} holds the weights of another learner: its {name} is of the shape {arrays[name].shape}, wanted "
                f"{tuple(shape)} (--way, --channels and the images' size decide that)"
            )
