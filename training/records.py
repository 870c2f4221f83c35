"""What a run leaves in its savedir and shows on the terminal: checkpoints, logs, progress."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from files import sync, write_atomically
from lazy import tf
from training import weights
from training.engine import Engine
from training.results import Store


def progress(**settings) -> tqdm:
    # A line a second on a terminal, few in a file.
    return tqdm(dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 15, **settings)


class Logs:
    """meta_train.log in the TF1 code's format, meta_train.csv, and TensorBoard scalars, in one folder; or none.

    `lengths` belongs into the checkpoint: a resumed run cuts the files back to where the checkpoint was.
    """

    COLUMNS = ("iter", "episodes", "secs", "lr", "loss", "acc", "val_loss", "val_acc", "val_ci95")

    def __init__(self, savedir: Path | None, settings: dict, lengths: list[int] | None):
        self.savedir = savedir
        if not savedir:
            return
        self.files = [open(savedir / name, "ab") for name in ("meta_train.log", "meta_train.csv")]  # noqa: SIM115
        self.board = tf.summary.create_file_writer(str(savedir / "tensorboard"))
        for file, length in zip(self.files, lengths or [0, 0], strict=True):
            file.truncate(min(length, os.fstat(file.fileno()).st_size))
        if not any(lengths or []):
            self._write(0, "".join(f"{k}: {v}\n" for k, v in settings.items()) + "\n")
            self._write(1, ",".join(self.COLUMNS) + "\n")

    def _write(self, file, text):
        self.files[file].write(text.encode())
        self.files[file].flush()

    def lengths(self) -> list[int]:
        for file in self.files:
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in self.files]

    def row(self, row: dict) -> None:
        """One row of COLUMNS; the val_ ones are there only at a validation. Accuracies are 0 to 1."""
        if not self.savedir:
            return
        head = f"episode {row['episodes']}, ({row['secs']:.3f} secs)"
        self._write(0, f"\nIter {row['iter']} start, learning rate {row['lr']:f}\n")
        self._write(0, f"meta_train: {head}, cent {row['loss']:f}, acc {row['acc']:f}\n")
        if "val_acc" in row:
            self._write(0, f"meta_val  : {head}, cent {row['val_loss']:f}, acc {row['val_acc']:f}\n")
        values = (row.get(name, "") for name in self.COLUMNS)
        self._write(1, ",".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values) + "\n")
        with self.board.as_default(step=row["iter"]):
            for name in ("loss", "acc", "val_loss", "val_acc"):
                if name in row:
                    kind = "meta_val" if name.startswith("val_") else "meta_train"
                    tf.summary.scalar(f"{kind}/{name.removeprefix('val_')}", row[name])
        self.board.flush()


class State:
    """All that a resumed run needs, in one checkpoint: parameters, Adam, iteration, window sums, log lengths.

    Of processes that share a metabatch all hold the same, and one `writes`.
    """

    def __init__(self, engine: Engine, savedir: Path, writes: bool = True):
        self.engine, self.writes = engine, writes
        self.next = tf.Variable(0, dtype=tf.int64)  # iteration to do next
        self.secs = tf.Variable(0.0, dtype=tf.float64)
        self.window = tf.Variable([0.0, 0.0, 0.0], dtype=tf.float64)  # sums of loss, accuracy; iterations
        self.best = tf.Variable([-1.0, -1.0], dtype=tf.float64)  # validation accuracy, its iteration
        self.reported = tf.Variable(-1, dtype=tf.int64)  # iteration up to which the logs are complete
        self.lengths = tf.Variable([0, 0], dtype=tf.int64)
        self.checkpoint = tf.train.Checkpoint(
            params=engine.params, adam=engine.slots, next=self.next, secs=self.secs,
            window=self.window, best=self.best, reported=self.reported, lengths=self.lengths,
        )  # fmt: skip
        self.folders = {kind: savedir / "checkpoints" / kind for kind in ("last", "best")}
        self.managers = {}
        if not writes:
            return
        for kind, keep in (("last", 2), ("best", 1)):
            folder = self.folders[kind]
            # TensorFlow goes by its list of a folder's checkpoints; ours is what is there.
            if paths := checkpoints(folder):
                write_atomically(folder / "checkpoint", checkpoint_list(paths))
            elif kind == "last" and were_there(folder):
                raise UserError(f"no checkpoint of {folder} can be read; train again in a new savedir")
            else:
                (folder / "checkpoint").unlink(missing_ok=True)
            self.managers[kind] = tf.train.CheckpointManager(self.checkpoint, str(folder), keep)

    def save(self, kind: str, logs: Logs) -> None:
        """Write the checkpoint `last` or `best`; an earlier one stays until this one is whole."""
        if not self.writes:
            return
        manager = self.managers[kind]
        self.lengths.assign(logs.lengths())
        try:
            path = Path(manager.save(checkpoint_number=int(self.next) - 1))
            for file in (*path.parent.glob(f"{path.name}.*"), path.parent):
                sync(file)
        except (tf.errors.OpError, OSError) as fault:
            raise UserError(
                f"cannot write a checkpoint into {manager.directory} ({str(fault).splitlines()[0]}): make room there "
                f"and go on with --resume"
            ) from fault

    def last_good(self) -> str:
        paths = checkpoints(self.folders["last"])
        return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was made yet"

    def restore(self) -> bool:
        """Go back to the last checkpoint that can be read; False where there never was one."""
        folder = self.folders["last"]
        for path in reversed(checkpoints(folder)):
            try:
                self.checkpoint.restore(path).assert_consumed()
                return True
            except unreadable() as fault:
                first = str(fault).splitlines()[0]
                print(f"warning: {path} is damaged ({first}); trying the one before", file=sys.stderr)
        if were_there(folder):
            raise UserError(f"no checkpoint of {folder} can be read; train again in a new savedir")
        return self.start_from(folder.parent.parent / weights.START)

    def start_from(self, path: Path) -> bool:
        """Take what the file of weights holds, if it is there. True where that is a whole state, to go on from."""
        if not path.exists():
            return False
        start = weights.read(path)
        self.engine.assign(path, start.params, start.slots)
        for name, value in start.state.items():
            getattr(self, name).assign(value)
        return bool(start.state)


def load_parameters(engine: Engine, savedir: Path, kind: str = "last") -> int:
    """Read the parameters of savedir's checkpoint, `last` or `best`, or those that it started from where there is no
    checkpoint yet; returns the iteration."""
    folder = savedir / "checkpoints" / kind
    paths, start = checkpoints(folder), savedir / weights.START
    if not paths and kind == "last" and start.exists() and not were_there(folder):
        read = weights.read(start)
        engine.assign(start, read.params)
        return int(read.about["iteration"])
    if not paths:
        reason = (
            "meta-train first" if kind == "last" else "the run had no validation classes, or none was validated yet"
        )
        raise UserError(f"there is no checkpoint in {folder}: {reason}")
    try:
        reader = tf.train.Checkpoint(params=engine.params).restore(paths[-1])
        reader.assert_existing_objects_matched().expect_partial()
    except unreadable() as fault:
        raise UserError(f"{paths[-1]} is damaged or of another model ({str(fault).splitlines()[0]})") from fault
    return int(paths[-1].rsplit("-", 1)[1])


def open_store(
    engine: Engine, savedir: Path, mode: str, *, checkpoint: str, samples: int, settings: dict, **facts
) -> Store:
    """Read the parameters of savedir's checkpoint -> where what `mode` finds out about them is kept.

    samples: noise samples of a loss in adaptation. settings, facts: what else tells the result from another.
    """
    iteration = load_parameters(engine, savedir, checkpoint)
    identity = {
        "settings": settings,
        "checkpoint": checkpoint,
        "iteration": iteration,
        "weights_sha256": engine.weights_digest(),
        "n_test_mc_samp": samples,
    }
    return Store(savedir, mode, identity | facts)


def read_checkpoint(savedir: Path, kind: str = "last") -> tuple[int, dict[str, dict[str, np.ndarray]]]:
    """What savedir's checkpoint, `last` or `best`, holds: its iteration, and by name the arrays of "params", "adam"
    and "state". It makes no learner and needs no data. UserError where it is missing or damaged."""
    paths = checkpoints(savedir / "checkpoints" / kind)
    if not paths:
        raise UserError(f"there is no checkpoint in {savedir / 'checkpoints' / kind}: meta-train first")
    suffix, groups = "/.ATTRIBUTES/VARIABLE_VALUE", {"params": {}, "adam": {}, "state": {}}
    try:
        reader = tf.train.load_checkpoint(paths[-1])
        for key in sorted(reader.get_variable_to_shape_map()):
            if key.endswith(suffix):
                group, _, name = key.removesuffix(suffix).rpartition("/")
                array = np.asarray(reader.get_tensor(key))
                if group in ("params", "adam"):
                    groups[group][name.replace(".S", "/")] = array  # as TensorFlow writes a slash
                elif name in weights.STATE:
                    groups["state"][name] = array
    except unreadable() as fault:
        raise UserError(f"{paths[-1]} is damaged ({str(fault).splitlines()[0]})") from fault
    return int(paths[-1].rsplit("-", 1)[1]), groups


def unreadable() -> tuple[type[Exception], ...]:
    """What TensorFlow raises at a checkpoint that is truncated, or of another model."""
    return tf.errors.OpError, AssertionError, ValueError, IndexError


def checkpoints(folder: Path) -> list[str]:
    """The checkpoints in a folder, by iteration. TensorFlow writes a checkpoint's index last."""
    paths = [path.with_suffix("") for path in folder.glob("ckpt-*.index") if path.stem[5:].isdigit()]
    return [str(path) for path in sorted(paths, key=lambda path: int(path.name[5:]))]


def checkpoint_list(paths: list[str]) -> str:
    """The file `checkpoint` of a folder as tf.train.CheckpointManager reads it; one without a time it would keep for
    ever."""
    lines = [f'model_checkpoint_path: "{Path(paths[-1]).name}"']
    for path in paths:
        lines.append(f'all_model_checkpoint_paths: "{Path(path).name}"')
        lines.append(f"all_model_checkpoint_timestamps: {Path(f'{path}.index').stat().st_mtime}")
    return "\n".join(lines) + "\n"


def were_there(folder: Path) -> bool:
    """Was there ever a whole checkpoint in this folder? What a kill leaves of the very first one does not count: an
    index is the last file of a checkpoint, and the list of a folder's checkpoints comes behind it."""
    return (folder / "checkpoint").exists() or any(folder.glob("*.index"))
