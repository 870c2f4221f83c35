"""The output of training while it runs: meta_train.log, meta_train.csv, TensorBoard's scalars and a progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from pathlib import Path

from tqdm import tqdm

from errors import user_error
from files import encode, plain_path
from lazy import tf


class TensorBoard:
    """TensorBoard's scalars, in savedir/tensorboard."""

    def __init__(self, savedir: Path):
        self.folder, path = savedir / "tensorboard", contextlib.ExitStack()
        with self._writing():
            self.folder.mkdir(exist_ok=True)
            self.writer = tf.summary.create_file_writer(path.enter_context(plain_path(self.folder)))
        weakref.finalize(self.writer, path.close)  # the writer checks by this path that its file still exists

    def _writing(self) -> contextlib.AbstractContextManager:
        faults = tf.errors.OpError, OSError
        return user_error(f"cannot write into {self.folder}", "free some space, and continue with --resume", *faults)

    def write(self, iteration: int, scalars: dict[str, float]) -> None:
        """Write the values by tag. Raise UserError if the disk is full."""
        with self._writing():
            with self.writer.as_default(step=iteration):
                for tag, value in scalars.items():
                    tf.summary.scalar(tag, value)
            self.writer.flush()


def cut_events(folder: Path, first: int, reported: int) -> None:
    """Remove the events that a resumed run writes again from TensorBoard's files.

    first: the iteration that training continues with. reported: the last iteration with a row in the logs.
    """
    for path in folder.glob("events.out.tfevents.*"):
        end = 0
        # A file's events are in the order of their iterations. A kill may leave an incomplete one.
        with contextlib.suppress(tf.errors.DataLossError), plain_path(folder) as plain:
            for record in tf.data.TFRecordDataset(f"{plain}/{path.name}").as_numpy_iterator():
                event = tf.compat.v1.Event.FromString(record)
                if any(
                    event.step > reported if value.tag.startswith(("meta_train/", "meta_val/")) else event.step >= first
                    for value in event.summary.value
                ):
                    break
                end += len(record) + 16  # its length and two checksums
        if end < path.stat().st_size:
            os.truncate(path, end)


def cut_log(path: Path, length: int) -> None:
    """Cut a log to the length that it had in the checkpoint. If somebody has changed it since, print a warning, and cut
    it to whole lines."""
    content = path.read_bytes()[:length]
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < length:
        print(f"warning: {path} was changed since the checkpoint: some of its rows are missing", file=sys.stderr)
    os.truncate(path, len(whole))


def progress_bar(**settings) -> tqdm:
    """Return tqdm's bar, which is drawn twice per second on a terminal and every 15 seconds in a file."""
    return tqdm(dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 15, **settings)


class Logs:
    """meta_train.log in the format of the TF1 code, meta_train.csv and TensorBoard's scalars. Without a savedir nothing
    is written.

    lengths: the files' lengths in the checkpoint that the run resumes from; the files are cut to these. first,
    reported: as in `cut_events`.
    """

    COLUMNS = ("iter", "episodes", "secs", "lr", "loss", "acc", "val_loss", "val_acc", "val_ci95")

    def __init__(self, savedir: Path | None, settings: dict, lengths: list[int] | None, first: int, reported: int):
        self.savedir = savedir
        if not savedir:
            return
        self.log, self.csv = (open(savedir / name, "ab") for name in ("meta_train.log", "meta_train.csv"))  # noqa: SIM115
        cut_events(savedir / "tensorboard", first, reported)
        self.tensorboard = TensorBoard(savedir)
        heads = "".join(f"{k}: {v}\n" for k, v in settings.items()) + "\n", ",".join(self.COLUMNS) + "\n"
        for file, length, head in zip((self.log, self.csv), lengths or [0, 0], heads, strict=True):
            cut_log(Path(file.name), length)
            if not os.path.getsize(file.name):
                self._write(file, head)

    @staticmethod
    def _write(file, text: str) -> None:
        file.write(encode(text))
        file.flush()

    def lengths(self) -> list[int]:
        """Sync meta_train.log and meta_train.csv. Return their lengths in bytes."""
        for file in (self.log, self.csv):
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in (self.log, self.csv)]

    def write(self, row: dict) -> None:
        """Write one row of COLUMNS; only after a validation it has the `val_` ones. Accuracies are between 0 and 1."""
        if not self.savedir:
            return
        head = f"episode {row['episodes']}, ({row['secs']:.3f} secs)"
        text = f"\nIter {row['iter']} start, learning rate {row['lr']:f}\n"
        text += f"meta_train: {head}, cent {row['loss']:f}, acc {row['acc']:f}\n"
        scalars = {f"meta_train/{name}": row[name] for name in ("loss", "acc")}
        if "val_acc" in row:
            text += f"meta_val  : {head}, cent {row['val_loss']:f}, acc {row['val_acc']:f}\n"
            scalars |= {f"meta_val/{name}": row[f"val_{name}"] for name in ("loss", "acc")}
        cells = (row.get(name, "") for name in self.COLUMNS)
        self._write(self.log, text)
        self._write(self.csv, ",".join(f"{one:.6g}" if isinstance(one, float) else str(one) for one in cells) + "\n")
        self.tensorboard.write(row["iter"], scalars)
