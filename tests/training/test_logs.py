"""The logs of a training: TensorBoard's files after kills, and a full disk."""

from unittest import mock

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from errors import UserError
from training import logs


def iterations(savedir) -> dict[str, list[int]]:
    """Return the iterations that TensorBoard shows, by tag."""
    board = event_accumulator.EventAccumulator(str(savedir / "tensorboard"), {"tensors": 0}).Reload()
    return {tag: sorted(event.step for event in board.Tensors(tag)) for tag in board.Tags()["tensors"]}


def test_tensorboard_has_every_iteration_once_after_two_kills(tmp_path):
    """A resumed run writes again what it wrote after its last checkpoint: rows of the log, and neural collapse of an
    iteration whose validation was interrupted."""
    (tmp_path / "tensorboard").mkdir()
    row, lengths = {"episodes": 0, "secs": 0.0, "lr": 1.0, "loss": 1.0, "acc": 0.5}, None
    for first, reported, session in ((0, -1, (0, 50, 100)), (51, 50, (100, 150, 200)), (151, 149, (150, 200))):
        log, collapse = logs.Logs(tmp_path, {}, lengths, first, reported), logs.TensorBoard(tmp_path)
        for i in session:
            if i >= first:
                collapse.write(i, {"collapse_query_meta/nc1": 1.0})
            log.write(row | {"iter": i} | ({"val_loss": 1.0, "val_acc": 0.5} if i != 50 else {}))
        lengths = log.lengths()
        for path in (tmp_path / "tensorboard").iterdir():  # a kill leaves a part of an event
            with open(path, "ab") as file:
                file.write(b"\x18\0\0\0\0\0\0\0half")
    assert iterations(tmp_path) == {
        "meta_train/loss": [0, 50, 100, 150, 200],
        "meta_train/acc": [0, 50, 100, 150, 200],
        "meta_val/loss": [0, 100, 150, 200],
        "meta_val/acc": [0, 100, 150, 200],
        "collapse_query_meta/nc1": [0, 50, 100, 150, 200],
    }


def test_an_incomplete_event_is_removed_and_the_files_version_stays(tmp_path):
    board = logs.TensorBoard(tmp_path)
    board.write(3, {"meta_train/loss": 1.0})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert iterations(tmp_path) == {"meta_train/loss": [3]}
    complete = path.read_bytes()
    for end in (b"\x04\0\0\0\0\0\0\0....\xff\xff\xff\xff....", b"\xff" * 30, b"12"):
        path.write_bytes(complete + end)
        logs.cut_events(tmp_path / "tensorboard", 4, 3)
        assert path.read_bytes() == complete
    logs.cut_events(tmp_path / "tensorboard", 0, -1)
    assert iterations(tmp_path) == {} and b"brain.Event" in path.read_bytes()


def test_a_disk_that_is_full_for_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    board = logs.TensorBoard(tmp_path)
    fault = tf.errors.ResourceExhaustedError(None, None, "events; No space left on device")
    monkeypatch.setattr(type(board.writer), "flush", mock.Mock(side_effect=fault))
    with pytest.raises(UserError, match=r"cannot write into .*tensorboard \(events; No space .*continue with --resume"):
        board.write(1, {"a": 1.0})
