"""Checkpoints: written while a run trains, and read to resume it or to use its weights."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path

import numpy as np

from errors import UserError, user_error
from files import plain_path, refuse_unwritable, sync, write_atomically
from lazy import tf
from settings import Settings, setting
from training import weights
from training.identity import weights_digest
from training.logs import Logs
from training.steps import Engine
from training.test_results import ResultFiles

KEEP = {"last": 2, "best": 1}  # how many checkpoints of each kind are kept


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(Settings):
    """The checkpoint to read."""

    checkpoint: str = setting("last", "last: the paper's choice; best: highest validation accuracy", choices=list(KEEP))


@dataclasses.dataclass(frozen=True)
class WeightsSettings(CheckpointSettings):
    """How weights are written."""

    slots: bool = setting(False, "write Adam's slots too, so that training can be resumed from the file")


class TrainingState:
    """Everything that training needs to resume, in one checkpoint: parameters, Adam's slots, iteration, sums for the
    log's next row, lengths of the logs.

    writes: False in a process that shares a metabatch with the one that writes; both hold the same values.
    """

    def __init__(self, engine: Engine, savedir: Path, writes: bool = True):
        self.engine, self.writes = engine, writes
        initial = weights.STATE | {"lengths": np.zeros(2, np.int64)}  # of the logs, in bytes
        self.variables = {name: tf.Variable(value) for name, value in initial.items()}
        self.next, self.secs, self.window, self.best, self.reported, self.lengths = self.variables.values()
        self.checkpoint = tf.train.Checkpoint(params=engine.params, adam=engine.slots, **self.variables)
        self.folders = {kind: savedir / "checkpoints" / kind for kind in KEEP}

    def save(self, kind: str, logs: Logs) -> None:
        """Write the checkpoint `last` or `best`; delete an earlier one only after this one is on the disk."""
        if not self.writes:
            return
        folder, name = self.folders[kind], f"ckpt-{int(self.next) - 1}"
        what = f"cannot write a checkpoint into {folder}"
        with user_error(what, "free some space, and continue with --resume", tf.errors.OpError, OSError):
            self.lengths.assign(logs.lengths())
            folder.mkdir(parents=True, exist_ok=True)
            with plain_path(folder) as plain:
                self.checkpoint.write(f"{plain}/{name}")
            for file in (*folder.glob(f"{name}.*"), folder):
                sync(file)
            paths = [path for path in list_checkpoints(folder) if path.name != name] + [folder / name]
            write_atomically(folder / "checkpoint", list_for_tensorflow(paths[-KEEP[kind] :]))
            for path in paths[: -KEEP[kind]]:
                delete_checkpoint(path)

    def describe_last(self) -> str:
        paths = list_checkpoints(self.folders["last"])
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def restore(self) -> bool:
        """Restore the last readable checkpoint, or the weights that the run started from. Return True if training
        resumes from it, and False if it starts at iteration 0."""
        folder = self.folders["last"]
        for path in reversed(list_checkpoints(folder)):
            try:
                saved = read_checkpoint(path)
                if saved.state.keys() != self.variables.keys():
                    raise UserError(f"{path} is an incomplete checkpoint")
            except UserError as fault:
                print(f"warning: {fault}; trying the checkpoint before it", file=sys.stderr)
            else:
                return self.assign(path, saved)
        if had_checkpoint(folder):
            raise UserError(f"no checkpoint of {folder} can be read; train again in a new savedir")
        start = folder.parent.parent / weights.START
        return start.exists() and self.assign(start, weights.read(start))

    def forget_best_after(self, last: int) -> None:
        """Delete the best checkpoint if it is of a later iteration than this training will reach: it was trained with a
        higher --n_train_iters, and by a session that was killed."""
        for path in list_checkpoints(self.folders["best"]) if self.writes else ():
            if int(path.name[5:]) > last:
                delete_checkpoint(path)
                (path.parent / "checkpoint").unlink(missing_ok=True)
                self.best.assign([-1, -1])
                print(f"{path} is past --n_train_iters {last}: the search for the best starts again")

    def assign(self, path: Path, saved: weights.Weights) -> bool:
        """Assign the weights, which were read from `path`. Return True if they have a state to resume from."""
        self.engine.assign(path, saved.params, saved.slots)
        for name, value in saved.state.items():
            self.variables[name].assign(value)
        if path.name == weights.START and saved.state and not saved.best_weights() and self.best[0] >= 0:
            self.best.assign([-1, -1])  # or no later checkpoint might ever reach the accuracy of the lost weights
            print(f"{path} does not have the weights of the best validation: the search for the best starts again")
        return bool(saved.state)


def read_run(run: Path, kind: str = "last") -> weights.Weights:
    """Return the weights of a run, without its learner and its data.

    run: a savedir or a weights file. kind: which checkpoint of a savedir, `last` or `best`; if there is none yet, the
    weights that the run started from. Raise UserError if the weights are missing or damaged.
    """
    if weights.is_weights_file(run):
        saved = weights.read(run)
    else:
        folder, start = run / "checkpoints" / kind, run / weights.START
        if paths := list_checkpoints(folder):
            return read_checkpoint(paths[-1])
        if not start.exists() or had_checkpoint(folder):
            no_best = "the run had no validation classes, or was not validated yet"
            raise UserError(f"there is no checkpoint in {folder}: {'meta-train first' if kind == 'last' else no_best}")
        saved = weights.read(start)
    if kind == "best":
        saved = saved.best_weights()
    if saved is None:
        raise UserError(f"{run} does not have the weights of the best validation: leave --checkpoint best out")
    return saved


def read_to_resume(savedir: Path, kind: str) -> weights.Weights:
    """Return a savedir's weights as `read_run` does, and the best checkpoint's parameters, if it is of another
    iteration: all that training needs to resume."""
    saved = read_run(savedir, kind)
    with contextlib.suppress(UserError):
        best = read_run(savedir, "best")
        if saved.state and best.about["iteration"] == saved.state["best"][1] != saved.about["iteration"]:
            return dataclasses.replace(saved, best=best.params)
    return saved


def load_parameters(engine: Engine, savedir: Path, kind: str = "last") -> int:
    """Assign the parameters of savedir's checkpoint to the engine's variables. Return the checkpoint's iteration."""
    saved = read_run(savedir, kind)
    engine.assign(savedir, saved.params)
    return saved.about["iteration"]


def open_results(
    engine: Engine, savedir: Path, mode: str, *, checkpoint: str, samples: int, settings: dict, **facts
) -> ResultFiles:
    """Load the parameters of savedir's checkpoint. Return the files of the result that `mode` computes from them.

    samples: noise samples of an inner loss. settings, facts: they also distinguish the result from others. Raise
    UserError if there is no result yet and none could be written.
    """
    iteration = load_parameters(engine, savedir, checkpoint)
    identity = {
        "settings": settings,
        "checkpoint": checkpoint,
        "iteration": iteration,
        "weights_sha256": weights_digest(engine),
        "n_test_mc_samp": samples,
    }
    files = ResultFiles(savedir, mode, identity | facts)
    if files.read() is None:
        refuse_unwritable(savedir, f"{mode}.json", f"{mode}.log")
        if (kept := files.path.parent).exists() and not kept.is_dir():
            raise UserError(f"{kept} is a file, and results are kept in a folder of this name: rename it")
        if kept.exists():
            refuse_unwritable(kept, files.path.name)
    return files


def read_checkpoint(path: Path) -> weights.Weights:
    """Return the checkpoint at `path`, with all variables of TrainingState. Raise UserError if it is damaged."""
    suffix, groups = "/.ATTRIBUTES/VARIABLE_VALUE", {"params": {}, "adam": {}, "": {}}
    damaged = tf.errors.OpError, ValueError, IndexError  # what TensorFlow raises for a truncated file
    with plain_path(path.parent) as plain, user_error(f"{path} is damaged", "restore it from a copy", *damaged):
        reader = tf.train.load_checkpoint(f"{plain}/{path.name}")
        for key in sorted(reader.get_variable_to_shape_map()):
            group, _, name = key.removesuffix(suffix).rpartition("/")
            if key.endswith(suffix) and group in groups:
                name = name.replace(".S", "/")  # TensorFlow writes a slash like this
                groups[group][name] = np.asarray(reader.get_tensor(key))
        groups[""].pop("save_counter", None)  # TensorFlow's own, in checkpoints of earlier versions
        about = {"checkpoint": path.parent.name, "iteration": int(path.name.removeprefix("ckpt-"))}
        saved = weights.Weights(about, *groups.values())
        weights.check_arrays(saved)
    return saved


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths, without suffix, of the checkpoints in a folder, by iteration. TensorFlow writes the index last,
    so that a checkpoint with an index is complete."""
    paths = [path.with_suffix("") for path in folder.glob("ckpt-*.index") if path.stem[5:].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def delete_checkpoint(path: Path) -> None:
    """Delete the files of a checkpoint, the index first, so that a kill leaves no index without its data."""
    for file in sorted(path.parent.glob(f"{path.name}.*"), reverse=True):
        file.unlink()


def list_for_tensorflow(paths: list[Path]) -> str:
    """Return the content of a folder's file `checkpoint`, from which tf.train.latest_checkpoint reads the paths."""
    lines = [f'model_checkpoint_path: "{paths[-1].name}"']
    return "\n".join([*lines, *(f'all_model_checkpoint_paths: "{path.name}"' for path in paths)]) + "\n"


def had_checkpoint(folder: Path) -> bool:
    """Return True if a checkpoint in this folder was ever complete: it has an index, or the list that `save` writes
    after it. A kill during the very first one leaves neither."""
    return (folder / "checkpoint").exists() or any(folder.glob("*.index"))
