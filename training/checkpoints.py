"""What a run leaves in its savedir and shows on the terminal: checkpoints, logs, progress."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import struct
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import UserError
from files import refuse_unwritable, sync, to_bytes, write_atomically
from lazy import tf
from training import weights
from training.steps import Engine
from training.test_results import Store

KEEP = {"last": 2, "best": 1}  # checkpoints of each kind
DESCRIPTORS = Path("/proc/self/fd")  # names of what this process has open, on Linux


@contextlib.contextmanager
def plain_name(folder: Path) -> Iterator[str]:
    """Yield another name of this folder for TensorFlow, which takes brackets, stars, question marks and backslashes in
    a path for a pattern, and refuses a path that is not UTF-8."""
    with contextlib.ExitStack() as stack:
        if DESCRIPTORS.is_dir():
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            yield str(DESCRIPTORS / str(descriptor))
        else:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "folder"
            link.symlink_to(folder.absolute())
            yield str(link)


class Board:
    """TensorBoard's scalars, in savedir/tensorboard."""

    def __init__(self, savedir: Path):
        self.folder = savedir / "tensorboard"
        self.folder.mkdir(exist_ok=True)
        name = contextlib.ExitStack()
        self.writer = tf.summary.create_file_writer(name.enter_context(plain_name(self.folder)))
        weakref.finalize(self.writer, name.close)  # it looks by this name whether its file is still there

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        """Write these values, by tag. UserError where the disk is full."""
        try:
            with self.writer.as_default(step=iteration):
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value)
            self.writer.flush()
        except tf.errors.OpError as fault:
            raise UserError(
                f"cannot write into {self.folder} ({first_line(fault)}): make room there, and go on with --resume"
            ) from fault


def cut_events(folder: Path, first: int, reported: int) -> None:
    """Cut TensorBoard's events back to a checkpoint from which training goes on with iteration `first`, and whose logs
    are complete up to `reported`. A file's events are in the order of their iterations."""
    for path in folder.glob("events.out.tfevents.*"):
        content, end = path.read_bytes(), 0
        while (event := event_at(content, end)) and not any(
            event.step > reported if value.tag.startswith(("meta_train/", "meta_val/")) else event.step >= first
            for value in event.summary.value
        ):
            end += 16 + struct.unpack_from("<Q", content, end)[0]
        if end < len(content):
            os.truncate(path, end)


def event_at(content: bytes, start: int):
    """TensorBoard's event at this place of a file: 8 bytes of length, 4 of a checksum, the event, 4 of its checksum.
    None at the file's end, and where a kill left a part of an event."""
    if start + 8 > len(content):
        return None
    end = start + 12 + struct.unpack_from("<Q", content, start)[0]
    if end + 4 > len(content):
        return None
    try:
        return tf.compat.v1.Event.FromString(content[start + 12 : end])
    except Exception:  # protobuf's own, at what is no event
        return None


def progress(**settings) -> tqdm:
    # A line a second on a terminal, few in a file.
    return tqdm(dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 15, **settings)


class Logs:
    """meta_train.log in the TF1 code's format, meta_train.csv, and TensorBoard scalars, in one folder; or none.

    `lengths` belongs into the checkpoint: a resumed run cuts the files back to where the checkpoint was. first,
    reported: as in `cut_events`.
    """

    COLUMNS = ("iter", "episodes", "secs", "lr", "loss", "acc", "val_loss", "val_acc", "val_ci95")

    def __init__(self, savedir: Path | None, settings: dict, lengths: list[int] | None, first: int, reported: int):
        self.savedir = savedir
        if not savedir:
            return
        self.files = [open(savedir / name, "ab") for name in ("meta_train.log", "meta_train.csv")]  # noqa: SIM115
        cut_events(savedir / "tensorboard", first, reported)
        self.board = Board(savedir)
        for file, length in zip(self.files, lengths or [0, 0], strict=True):
            file.truncate(min(length, os.fstat(file.fileno()).st_size))
        if not any(lengths or []):
            self._write(0, "".join(f"{k}: {v}\n" for k, v in settings.items()) + "\n")
            self._write(1, ",".join(self.COLUMNS) + "\n")

    def _write(self, file, text):
        self.files[file].write(to_bytes(text))
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
        scalars = {}
        for name in ("loss", "acc", "val_loss", "val_acc"):
            if name in row:
                kind = "meta_val" if name.startswith("val_") else "meta_train"
                scalars[f"{kind}/{name.removeprefix('val_')}"] = row[name]
        self.board.write(row["iter"], scalars)


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
        names = ("next", "secs", "window", "best", "reported", "lengths")
        self.variables = {name: getattr(self, name) for name in names}
        self.checkpoint = tf.train.Checkpoint(params=engine.params, adam=engine.slots, **self.variables)
        self.folders = {kind: savedir / "checkpoints" / kind for kind in KEEP}

    def save(self, kind: str, logs: Logs) -> None:
        """Write the checkpoint `last` or `best`; an earlier one stays until this one is whole and on the disk."""
        if not self.writes:
            return
        folder, name = self.folders[kind], f"ckpt-{int(self.next) - 1}"
        try:
            self.lengths.assign(logs.lengths())
            folder.mkdir(parents=True, exist_ok=True)
            with plain_name(folder) as place:
                self.checkpoint.write(f"{place}/{name}")
            for file in (*folder.glob(f"{name}.*"), folder):
                sync(file)
            earlier = [path for path in checkpoints(folder) if path.name != name]
            keep = KEEP[kind] - 1  # of the earlier ones
            old, kept = earlier[: len(earlier) - keep], earlier[len(earlier) - keep :]
            write_atomically(folder / "checkpoint", checkpoint_list([*kept, folder / name]))
            for path in old:
                for file in sorted(folder.glob(f"{path.name}.*"), reverse=True):  # its index first
                    file.unlink()
        except (tf.errors.OpError, OSError) as fault:
            raise UserError(
                f"cannot write a checkpoint into {folder} ({first_line(fault)}): make room there, and go on with "
                f"--resume"
            ) from fault

    def last_good(self) -> str:
        paths = checkpoints(self.folders["last"])
        return f"the last good checkpoint is {paths[-1]}" if paths else "no checkpoint was made yet"

    def restore(self) -> bool:
        """Go back to the last checkpoint that can be read; False where there never was one."""
        folder = self.folders["last"]
        for path in reversed(checkpoints(folder)):
            try:
                found = read_checkpoint(path)
            except UserError as fault:
                print(f"warning: {fault}; trying the one before", file=sys.stderr)
            else:
                if found.state.keys() == self.variables.keys():
                    return self.take(path, found)
                print(f"warning: {path} is an incomplete checkpoint; trying the one before", file=sys.stderr)
        if were_there(folder):
            raise UserError(f"no checkpoint of {folder} can be read; train again in a new savedir")
        start = folder.parent.parent / weights.START
        return start.exists() and self.take(start, weights.read(start))

    def take(self, path: Path, found: weights.Weights) -> bool:
        """Take the weights that were found at `path`. True if they have a whole state, from which training resumes."""
        self.engine.assign(path, found.params, found.slots)
        for name, value in found.state.items():
            self.variables[name].assign(value)
        if path.name == weights.START and found.state and not found.best_checkpoint() and self.best[0] >= 0:
            self.best.assign([-1, -1])  # an accuracy whose weights are lost is none to be compared with
            print(f"{path} does not hold the weights of the best validation: the best checkpoint is sought anew")
        return bool(found.state)


def read_run(run: Path, kind: str = "last") -> weights.Weights:
    """The weights of a run, which is a savedir or a file of weights: a savedir's checkpoint, `last` or `best`, or the
    file that it began with where there is none yet. Needs no learner and no data. UserError where they are missing or
    damaged."""
    if weights.names_file(run):
        found = weights.read(run)
    else:
        folder, start = run / "checkpoints" / kind, run / weights.START
        if paths := checkpoints(folder):
            return read_checkpoint(paths[-1])
        if not start.exists() or were_there(folder):
            never = "the run had no validation classes, or was not validated yet"
            raise UserError(f"there is no checkpoint in {folder}: {'meta-train first' if kind == 'last' else never}")
        found = weights.read(start)
    if kind == "best":
        found = found.best_checkpoint()
    if found is None:
        raise UserError(f"{run} does not hold the weights of the best validation: leave --checkpoint best out")
    return found


def read_whole(savedir: Path, kind: str) -> weights.Weights:
    """Read a savedir as `read_run` does, and the best checkpoint's parameters where they differ: all that training
    resumes from."""
    found = read_run(savedir, kind)
    with contextlib.suppress(UserError):
        best = read_run(savedir, "best")
        if found.state and best.about["iteration"] == found.state["best"][1] != found.about["iteration"]:
            return dataclasses.replace(found, best=best.params)
    return found


def load_parameters(engine: Engine, savedir: Path, kind: str = "last") -> int:
    """Read the parameters of savedir's checkpoint, as `read_run`; returns the iteration."""
    found = read_run(savedir, kind)
    engine.assign(savedir, found.params)
    return found.about["iteration"]


def open_store(
    engine: Engine, savedir: Path, mode: str, *, checkpoint: str, samples: int, settings: dict, **facts
) -> Store:
    """Read the parameters of savedir's checkpoint -> where what `mode` finds out about them is kept.

    samples: noise samples of a loss in adaptation. settings, facts: what else tells the result from another. UserError
    where the result is still to be computed and could not be written.
    """
    iteration = load_parameters(engine, savedir, checkpoint)
    identity = {
        "settings": settings,
        "checkpoint": checkpoint,
        "iteration": iteration,
        "weights_sha256": engine.weights_digest(),
        "n_test_mc_samp": samples,
    }
    store = Store(savedir, mode, identity | facts)
    if store.read() is None:
        refuse_unwritable(savedir)
    return store


def read_checkpoint(path: Path) -> weights.Weights:
    """Read the checkpoint with this name; its state has all variables of `State`. UserError where it is damaged."""
    suffix, groups = "/.ATTRIBUTES/VARIABLE_VALUE", {"params": {}, "adam": {}, "": {}}
    with plain_name(path.parent) as place:
        try:
            reader = tf.train.load_checkpoint(f"{place}/{path.name}")
            for key in sorted(reader.get_variable_to_shape_map()):
                group, _, name = key.removesuffix(suffix).rpartition("/")
                if key.endswith(suffix) and group in groups:
                    name = name.replace(".S", "/")  # as TensorFlow writes a slash
                    groups[group][name] = np.asarray(reader.get_tensor(key))
            groups[""].pop("save_counter", None)  # TensorFlow's own, in a checkpoint of an earlier version
            about = {"checkpoint": path.parent.name, "iteration": int(path.name.removeprefix("ckpt-"))}
            found = weights.Weights(about, *groups.values())
            weights.refuse_other_numbers(found)
        except (tf.errors.OpError, ValueError, IndexError) as fault:  # TensorFlow's at a file that was cut
            raise UserError(f"{path} is damaged ({first_line(fault)})") from fault
    return found


def first_line(fault: Exception) -> str:
    """The first line of an exception's message, without what only TensorFlow's authors can read."""
    text = next(iter(str(fault).splitlines()), type(fault).__name__)
    return re.sub(r"\{\{.*?\}\} | \[Op:\w+\]|/proc/self/fd/\d+/", "", text)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, by iteration: their names without endings. TensorFlow writes a checkpoint's index
    last."""
    paths = [path.with_suffix("") for path in folder.glob("ckpt-*.index") if path.stem[5:].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def checkpoint_list(paths: list[Path]) -> str:
    """The file `checkpoint` of a folder, in which tf.train.latest_checkpoint looks."""
    lines = [f'model_checkpoint_path: "{paths[-1].name}"']
    return "\n".join([*lines, *(f'all_model_checkpoint_paths: "{path.name}"' for path in paths)]) + "\n"


def were_there(folder: Path) -> bool:
    """Was there ever a whole checkpoint in this folder? What a kill leaves of the very first one does not count: an
    index is the last file of a checkpoint, and the list of a folder's checkpoints comes behind it."""
    return (folder / "checkpoint").exists() or any(folder.glob("*.index"))
