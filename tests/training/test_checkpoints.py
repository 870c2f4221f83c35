"""What a run leaves on the disk: resumed from whatever is left of it, locked, written whole; and the devices it asks
for."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

import errors
import files
from conftest import ROOT, SETTINGS, assert_refused, call, flags_of
from errors import Stop, UserError
from test_main import read_csv
from training import checkpoints, devices, logs, loops, steps, test_results, weights

# Without inner steps, so that it is traced in a second.
FLAGS = (*flags_of(SETTINGS | {"model": "maml", "n_steps": 0}), "--val_every", 0, "--save_freq", 5)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of iterations 0 to 60, with checkpoints of 55 and 60."""
    savedir = tmp_path_factory.mktemp("finished") / "run"
    done = call("main.py", "--savedir", savedir, "--data_dir", data_dir, *FLAGS, "--n_train_iters", 60)
    assert done.returncode == 0, done.stderr
    return savedir


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(savedir, *flags):
    return call("main.py", "--savedir", savedir, "--resume", *flags)


def test_a_finished_run_stays_as_it_is(run, finished):
    config = (run / "config.json").read_text()
    done = resume(run)
    assert done.returncode == 0 and "resumed at iteration 61" in done.stdout and "WARNING" not in done.stderr
    assert (run / "config.json").read_text() == config
    for name in ("meta_train.log", "meta_train.csv"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("damage", ["garbage", "", 'model_checkpoint_path: "elsewhere/ckpt-9"\n', None])
def test_tensorflows_list_of_checkpoints_does_not_decide_where_a_run_goes_on(run, finished, damage):
    """What is there does: a list that is damaged, empty, of another folder or missing costs nothing."""
    path = run / "checkpoints/last/checkpoint"
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    done = resume(run, "--n_train_iters", 70)
    assert done.returncode == 0 and "resumed at iteration 61" in done.stdout, done.stderr
    assert (run / "meta_train.log").read_bytes().startswith((finished / "meta_train.log").read_bytes())
    assert [row["iter"] for row in read_csv(run)] == ["0", "50", "60", "70"]
    assert sorted(p.stem for p in path.parent.glob("*.index")) == ["ckpt-65", "ckpt-70"]  # the older ones are gone


def test_a_run_is_never_begun_anew_where_a_checkpoint_was(run, finished):
    for part in (run / "checkpoints/last").glob("ckpt-*"):
        part.write_bytes(b"damaged")
    done = resume(run, "--n_train_iters", 70)
    warnings = [f"ckpt-{number} is damaged" for number in (60, 55)]
    *lines, last = done.stderr.strip().splitlines()
    assert done.returncode == 2 and all(word in line for word, line in zip(warnings, lines, strict=True)), done.stderr
    assert last.startswith("error: no checkpoint of ") and last.endswith("train again in a new savedir")
    assert_refused(call("main.py", "--mode", "meta_test", "--savedir", run), "ckpt-60 is damaged")
    for part in (run / "checkpoints/last").glob("ckpt-*.index"):
        part.unlink()
    assert_refused(resume(run, "--n_train_iters", 70), "no checkpoint of", "train again in a new savedir")
    for name in ("meta_train.log", "meta_train.csv"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


def test_what_a_kill_leaves_of_the_very_first_checkpoint_is_no_checkpoint(data_dir, tmp_path):
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    assert call("main.py", *flags).returncode == 0
    folder = tmp_path / "a/checkpoints/last"
    (folder / "ckpt-0.index").unlink()
    (folder / "checkpoint").unlink()
    done = call("main.py", *flags, "--resume")
    assert done.returncode == 0 and "resumed" not in done.stdout and (folder / "ckpt-0.index").exists()


def test_nor_is_it_where_a_run_began_from_weights(finished, tmp_path):
    """Whose first checkpoint is of a later iteration: it begins again where the file of weights is."""
    run = shutil.copytree(finished, tmp_path / "run")
    assert call("main.py", "--mode", "weights", "--savedir", run, "--slots").returncode == 0
    data = ("--data_dir", json.loads((run / "config.json").read_text())["data_dir"])  # which does not travel
    flags = ("--savedir", tmp_path / "a", "--weights", run / "weights.npz", *data, "--n_train_iters", 61)
    assert call("main.py", *flags).returncode == 0
    folder = tmp_path / "a/checkpoints/last"
    (folder / "ckpt-61.index").unlink()
    (folder / "checkpoint").unlink()
    (folder / "ckpt-61_temp").mkdir()
    (folder / "ckpt-61_temp/part-00000-of-00001.index").write_bytes(b"half")
    done = call("main.py", *flags)
    assert done.returncode == 0 and "resumed at iteration 61" in done.stdout, done.stderr
    assert (folder / "ckpt-61.index").exists() and [row["iter"] for row in read_csv(tmp_path / "a")] == ["61"]


@pytest.mark.parametrize(
    ("left", "there"),
    [
        (["ckpt-30_temp", "ckpt-30.data-00000-of-00001"], False),
        (["ckpt-30.data-00000-of-00001", "ckpt-30.index"], True),
        (["checkpoint"], True),
    ],
)
def test_an_index_or_a_list_says_that_a_checkpoint_was_there(left, there, tmp_path):
    assert not checkpoints.had_checkpoint(tmp_path / "none")
    for name in left:
        (tmp_path / name).write_text("unreadable")
    assert checkpoints.had_checkpoint(tmp_path) == there


def test_a_stop_before_the_first_update_loses_nothing(monkeypatch, data_dir, tmp_path):
    class Asked(Stop):
        def __enter__(self):
            super().__enter__().asked = True
            return self

    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    with monkeypatch.context() as patch:
        patch.setattr(loops, "Stop", Asked)
        done = call("main.py", *flags)
    assert done.returncode == 130, done.stderr
    assert "interrupted before the first iteration; go on with --resume" in done.stderr
    assert not list(tmp_path.glob("a/checkpoints/*/*"))
    assert_refused(call("main.py", *flags), "add --resume")
    done = resume(tmp_path / "a")
    assert done.returncode == 0 and "resumed" not in done.stdout, done.stderr
    assert [row["iter"] for row in read_csv(tmp_path / "a")] == ["0"]


def test_a_checkpoint_is_on_the_disk_before_the_one_before_may_be_lost(monkeypatch, data_dir, tmp_path):
    """Every file of it is synced, and the folder that names it."""
    synced, fsync = [], os.fsync

    def watched(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    assert call("main.py", *flags).returncode == 0
    folder = tmp_path / "a/checkpoints/last"
    wanted = {str(folder), *map(str, folder.glob("ckpt-0.*"))}
    assert len(wanted) == 3 and wanted <= set(synced)
    written = {str(tmp_path / "a" / name) for name in ("meta_train.log", "meta_train.csv")}
    assert written <= set(synced)


def test_a_second_process_is_told_who_holds_the_savedir(run):
    with files.locked(run / "meta_train.lock", "never mind"):
        done = resume(run, "--n_train_iters", 70)
        assert_refused(done, f"process {os.getpid()} on ", "is training in", "choose another --savedir")
    assert resume(run, "--n_train_iters", 61).returncode == 0


def test_a_lock_goes_with_its_process(tmp_path):
    hold = "import files, pathlib, sys, time\nwith files.locked(pathlib.Path(sys.argv[1]), ''):\n print(flush=True)\n"
    hold += " time.sleep(60)"
    command = [sys.executable, "-c", hold, tmp_path / "lock"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    with (
        pytest.raises(UserError, match=f"process {process.pid} on .* holds it"),
        files.locked(tmp_path / "lock", "holds it"),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with files.locked(tmp_path / "lock", "holds it"):
        pass


def test_of_two_that_begin_in_one_savedir_one_is_refused(monkeypatch, data_dir, tmp_path):
    """The other has begun, and ended, between this one's first look and its lock."""
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    locked = files.locked

    def late(path, busy):
        monkeypatch.setattr(files, "locked", locked)
        assert call("main.py", *flags).returncode == 0
        return locked(path, busy)

    monkeypatch.setattr(files, "locked", late)
    assert_refused(call("main.py", *flags), "holds a run already")


def test_a_file_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    files.write_atomically(path, "old")
    parts, replace = [], os.replace

    def watched(part, target):
        parts.append(part.name)
        assert part.read_text() == "new" and path.read_text() == "old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", watched)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            files.write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert len(set(parts)) == 2  # two processes do not write into one temporary file
    monkeypatch.setattr(os, "replace", replace)
    files.write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_result_that_cannot_be_written_is_refused_before_it_is_computed_or_said(run, monkeypatch):
    """And one that is there already is taken from a folder that is read-only."""
    flags = ("--mode", "meta_test", "--savedir", run, "--n_test_iters", 3)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", full)
        patch.setattr(loops, "run_episodes", None)  # which would compute
        assert_refused(call("main.py", *flags), "cannot write into", "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(test_results, "write_if_changed", full)
        done = call("main.py", *flags)
        assert "accuracy : " in done.stdout
        assert_refused(done, "cannot read or write", "No space left")
    assert call("main.py", *flags).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.setattr(files, "write_atomically", full)
    done = call("main.py", *flags)
    assert done.returncode == 0 and "accuracy : " in done.stdout and "tested before" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_what_cannot_be_kept_of_a_test_is_a_warning_and_the_rest_is_computed(tmp_path, capsys):
    store = test_results.ResultFiles(tmp_path, "meta_test", {})
    (tmp_path / "tests").write_text("a file")
    store.write_partial("{}")
    assert "warning: cannot save what is computed so far in" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_one_sentence(data_dir, tmp_path):
    (tmp_path / "a").write_text("a file")
    done = call("main.py", "--savedir", tmp_path / "a" / "b", "--data_dir", data_dir, *FLAGS)
    assert_refused(done, "cannot write into", "choose another folder")


# ---- devices


def test_a_gpu_that_is_not_there_is_an_error_and_not_the_cpu(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    settings = flags_of(SETTINGS | {"gpu_id": None})
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *settings)
    for gpus in ("7", "0", "0,1"):
        refused = call("main.py", *flags, "--gpu_id", gpus)
        assert_refused(refused, f"--gpu_id {gpus}: TensorFlow can use none of these: choose others, or leave --gpu_id")
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    assert_refused(call("main.py", *flags, "--gpu_id", 0), "install CUDA's libraries with: .venv/bin/pip install")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["the only GPU"])
    assert_refused(call("main.py", *flags, "--gpu_id", "0,1"), "TensorFlow can use only 1 of these")
    assert not (tmp_path / "a").exists()


def test_the_device_is_named_and_a_gpu_that_lies_idle_is_mentioned(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: False)
    assert devices.describe_devices(tf, [], 2).startswith("CPU, 2 cores of ") and "GPU" not in devices.describe_devices(
        tf, [], 2
    )
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    assert devices.describe_devices(tf, [], 1).startswith("CPU, 1 core of ")
    assert "there is a GPU that TensorFlow cannot use: install CUDA" in devices.describe_devices(tf, [], 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # asked for the CPU
    assert "GPU" not in devices.describe_devices(tf, [], 1)
    details = {"device_name": "NVIDIA H100"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices.describe_devices(tf, ["a", "b"], 1) == "NVIDIA H100 and NVIDIA H100"


def test_a_device_without_memory_is_one_sentence(run, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[8,300,28,28,64]")

    monkeypatch.setattr(loops, "meta_train", full)
    assert_refused(resume(run), "does not have enough memory", "--metabatch", "--remat")


@pytest.mark.parametrize(("setting", "value"), [("model", "maml++"), ("n_steps", -1), ("inner_lr", "fast")])
def test_a_setting_that_no_flag_could_be_is_one_sentence(run, setting, value):
    path = run / "config.json"
    text = path.read_text()
    assert f'"{setting}": ' in text
    lines = [f' "{setting}": {value!r},'.replace("'", '"') if f'"{setting}": ' in line else line
             for line in text.splitlines()]  # fmt: skip
    path.write_text("\n".join(lines))
    words = f"has {setting} {value!r}, which no --{setting} can be"
    for mode in ("meta_test", "export", "collapse"):
        assert_refused(call("main.py", "--mode", mode, "--savedir", run), words)
    assert_refused(resume(run), words)


def test_what_a_killed_run_logged_after_its_last_checkpoint_is_cut_off(run, finished):
    for name, text in (("meta_train.log", "\nIter 100 start"), ("meta_train.csv", "100,200,1.5,0.001,")):
        with open(run / name, "a") as file:
            file.write(text)
    assert resume(run, "--n_train_iters", 70).returncode == 0
    assert [row["iter"] for row in read_csv(run)] == ["0", "50", "60", "70"]
    log = (run / "meta_train.log").read_text()
    assert log.startswith((finished / "meta_train.log").read_text()) and "Iter 100" not in log


def iterations(savedir) -> dict[str, list[int]]:
    """By tag the iterations that TensorBoard shows."""
    board = event_accumulator.EventAccumulator(str(savedir / "tensorboard"), {"tensors": 0}).Reload()
    return {tag: [event.step for event in board.Tensors(tag)] for tag in board.Tags()["tensors"]}


def test_tensorboard_has_every_iteration_once_after_two_kills(tmp_path):
    """What a run logged after its last checkpoint it logs again: a row of the log, or neural collapse, whose iteration
    the validation after it was cut short at."""
    (tmp_path / "tensorboard").mkdir()
    row, lengths = {"episodes": 0, "secs": 0.0, "lr": 1.0, "loss": 1.0, "acc": 0.5}, None
    for first, reported, session in ((0, -1, (0, 50, 100)), (51, 50, (100, 150, 200)), (151, 149, (150, 200))):
        log, watch = logs.Logs(tmp_path, {}, lengths, first, reported), logs.TensorBoard(tmp_path)
        for i in session:
            if i >= first:
                watch.write(i, {"collapse_query_meta/nc1": 1.0})
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


def test_what_is_no_event_is_cut_off_and_what_tells_the_version_stays(tmp_path):
    board = logs.TensorBoard(tmp_path)
    board.write(3, {"meta_train/loss": 1.0})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert iterations(tmp_path) == {"meta_train/loss": [3]}
    whole = path.read_bytes()
    for end in (b"\x04\0\0\0\0\0\0\0....\xff\xff\xff\xff....", b"\xff" * 30, b"12"):
        path.write_bytes(whole + end)
        logs.cut_events(tmp_path / "tensorboard", 4, 3)
        assert path.read_bytes() == whole
    logs.cut_events(tmp_path / "tensorboard", 0, -1)
    assert iterations(tmp_path) == {} and b"brain.Event" in path.read_bytes()


def test_a_full_disk_is_one_sentence_where_tensorboards_events_go(tmp_path, monkeypatch):
    board = logs.TensorBoard(tmp_path)
    fault = tf.errors.ResourceExhaustedError(None, None, "events; No space left on device")
    monkeypatch.setattr(type(board.writer), "flush", mock.Mock(side_effect=fault))
    with pytest.raises(UserError, match=r"cannot write into .*tensorboard \(events; No space .*continue with --resume"):
        board.write(1, {"a": 1.0})


ODD = "lr[0.1] *?{a,b}\\ж: -" + os.fsdecode(b"\xff")  # what TensorFlow takes for a pattern, and what is not UTF-8


def test_a_savedir_and_its_parent_may_have_any_name(finished, tmp_path):
    savedir = tmp_path / ODD / f"[{ODD}]"
    shutil.copytree(finished, savedir)
    done = resume(f"{savedir}/", "--n_train_iters", 70, "--val_every", 10, "--n_val_tasks", 2)
    assert done.returncode == 2 and "contradicts the run" in done.stderr
    done = resume(f"{savedir}/", "--n_train_iters", 70)
    assert done.returncode == 0 and "resumed at iteration 61" in done.stdout, done.stderr
    assert [row["iter"] for row in read_csv(savedir)] == ["0", "50", "60", "70"]
    last = savedir / "checkpoints/last"
    assert sorted(path.name for path in last.glob("*.index")) == ["ckpt-65.index", "ckpt-70.index"]
    assert len(list(last.glob("ckpt-*.data*"))) == 2 and len(list(last.iterdir())) == 5  # and the list of them
    for mode in ("meta_test", "export", "weights"):
        test = ("--n_test_iters", 2) if mode == "meta_test" else ("--export_tasks", 1) if mode == "export" else ()
        done = call("main.py", "--mode", mode, "--savedir", f"{tmp_path / ODD}/../{ODD}/[{ODD}]", *test)
        assert done.returncode == 0, done.stderr
    assert json.loads((savedir / "meta_test.json").read_text())["iteration"] == 70
    assert "command: " in (savedir / "meta_test.log").read_text(encoding="utf-8")
    assert len(list((savedir / "tensorboard").iterdir())) == 2 and not list(tmp_path.glob("tensorboard"))
    assert weights.read(savedir / "weights.npz").about["iteration"] == 70


def test_where_descriptors_have_no_names_a_link_is_the_folders_other_name(monkeypatch, tmp_path):
    folder = tmp_path / ODD
    folder.mkdir()
    for place in (files.DESCRIPTORS, tmp_path / "none"):
        monkeypatch.setattr(files, "DESCRIPTORS", place)
        with files.plain_path(folder) as name:
            assert os.path.samefile(name, folder) and not {*name} & {*"[]*?\\{}"} and name.isascii()
        assert not os.path.lexists(name)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_checkpoint_with_a_number_that_is_not_finite_is_damaged(number, tmp_path):
    params = {"theta/a": tf.Variable([1.0, number])}
    tf.train.Checkpoint(params=params).write(str(tmp_path / "last/ckpt-3"))
    with pytest.raises(UserError, match=r"ckpt-3 is damaged \(its theta/a has a number that is not finite\)"):
        checkpoints.read_checkpoint(tmp_path / "last/ckpt-3")


def test_a_row_of_the_log_is_the_mean_since_the_row_before(data_dir, tmp_path, monkeypatch):
    """Also over a run that was stopped between two rows."""
    monkeypatch.setattr(steps.Engine, "train_step", lambda *_: lambda i, stop: (i, i / 1000, True, False))
    for iterations in (20, 107, 120):
        flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", iterations)
        assert call("main.py", *flags, "--resume").returncode == 0
    rows = {int(row["iter"]): row for row in read_csv(tmp_path / "a")}
    assert list(rows) == [0, 20, 50, 100, 107, 120]
    for (before, row), (i, _) in zip(itertools.pairwise([-1, *rows]), rows.items(), strict=True):
        mean = np.mean(range(before + 1, i + 1))
        assert row == i and float(rows[i]["loss"]) == mean
        assert float(rows[i]["acc"]) == pytest.approx(mean / 1000) and int(rows[i]["episodes"]) == 2 * i


def test_a_run_that_is_past_its_end_is_one_sentence(run):
    config = (run / "config.json").read_text()
    assert_refused(resume(run, "--n_train_iters", 40), "trained to iteration 60 already", "choose more iterations")
    assert (run / "config.json").read_text() == config  # which still says 60


def test_time_is_not_counted_twice(run):
    """secs in the log go on from where the run was stopped."""
    before = float(read_csv(run)[-1]["secs"])
    begun = time.time()
    assert resume(run, "--n_train_iters", 70).returncode == 0
    after = float(read_csv(run)[-1]["secs"])
    assert before < after < before + time.time() - begun


def test_what_tensorflow_says_is_made_readable():
    text = "{{function_node __wrapped__SaveV2 _device_/CPU:0}} /proc/self/fd/12/ckpt-1.index; Full [Op:SaveV2]\nmore"
    assert errors.reason(ValueError(text)) == "ckpt-1.index; Full"
    assert errors.reason(ValueError()) == "ValueError"
