"""Checkpoints: resumed from whatever is left of a run, locked and written whole."""

import itertools
import json
import os
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

import files
from conftest import SETTINGS, assert_refused, call, flags_of, succeed
from errors import Stop, UserError
from test_files import ODD
from test_main import read_csv
from training import checkpoints, loops, steps, test_results, weights

# Without inner steps TensorFlow traces the learner in a second.
FLAGS = (*flags_of(SETTINGS | {"model": "maml", "n_steps": 0}), "--val_every", 0, "--save_freq", 5)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of iterations 0 to 60, with checkpoints of 55 and 60."""
    savedir = tmp_path_factory.mktemp("finished") / "run"
    succeed("main.py", "--savedir", savedir, "--data_dir", data_dir, *FLAGS, "--n_train_iters", 60)
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
def test_a_run_resumes_whatever_the_list_of_checkpoints_says(run, finished, damage):
    """The list may be damaged, empty, of another folder or missing: the checkpoints in the folder decide."""
    path = run / "checkpoints/last/checkpoint"
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    done = resume(run, "--n_train_iters", 70)
    assert done.returncode == 0 and "resumed at iteration 61" in done.stdout, done.stderr
    assert (run / "meta_train.log").read_bytes().startswith((finished / "meta_train.log").read_bytes())
    assert [row["iter"] for row in read_csv(run)] == ["0", "50", "60", "70"]
    assert sorted(p.stem for p in path.parent.glob("*.index")) == ["ckpt-65", "ckpt-70"]  # the earlier ones are deleted


def test_a_run_that_had_a_checkpoint_never_restarts(run, finished):
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


@pytest.mark.parametrize("resumes", [False, True])
def test_a_folder_that_lost_its_config_is_no_empty_one(run, data_dir, resumes):
    """Its logs would be emptied, or its checkpoints trained on under other settings."""
    (run / "config.json").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    flags = ("--savedir", run, "--data_dir", data_dir, *FLAGS, "--n_train_iters", 61, *["--resume"] * resumes)
    assert_refused(call("main.py", *flags), "has checkpoints and no config.json", "choose another --savedir")
    shutil.rmtree(run / "checkpoints")
    for name in ("meta_train.log", "meta_train.csv"):
        assert_refused(call("main.py", *flags), f"has {name} and no config.json")
        (run / name).rename(run / f"{name}.old")
    assert {path.read_bytes() for path in run.rglob("*") if path.is_file()} <= {*before.values()}


def test_data_that_were_replaced_are_refused_even_if_they_are_as_large(run, data_dir, tmp_path):
    shutil.copytree(data_dir / "glyphs", tmp_path / "data/glyphs")
    data = ("--data_dir", tmp_path / "data")
    assert resume(run, *data).returncode == 0
    for name, mode in (("train", "meta_train"), ("test", "meta_test")):
        path = tmp_path / f"data/glyphs/{name}.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = resume(run, *data) if mode == "meta_train" else call("main.py", "--mode", mode, "--savedir", run, *data)
        assert_refused(done, f"{name}.npy differs from its checksum: make it again")
        path.write_bytes(whole)


def test_a_run_restarts_after_a_kill_in_its_first_checkpoint(data_dir, tmp_path):
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    succeed("main.py", *flags)
    folder = tmp_path / "a/checkpoints/last"
    (folder / "ckpt-0.index").unlink()
    (folder / "checkpoint").unlink()
    assert "resumed" not in succeed("main.py", *flags, "--resume").stdout and (folder / "ckpt-0.index").exists()


def test_a_run_from_weights_restarts_after_a_kill_in_its_first_checkpoint(finished, tmp_path):
    """Its first checkpoint is of a later iteration; it restarts from the weights file."""
    run = shutil.copytree(finished, tmp_path / "run")
    succeed("main.py", "--mode", "weights", "--savedir", run, "--slots")
    data = ("--data_dir", json.loads((run / "config.json").read_text())["data_dir"])  # weights files do not have it
    flags = ("--savedir", tmp_path / "a", "--weights", run / "weights.npz", *data, "--n_train_iters", 61)
    succeed("main.py", *flags)
    folder = tmp_path / "a/checkpoints/last"
    (folder / "ckpt-61.index").unlink()
    (folder / "checkpoint").unlink()
    (folder / "ckpt-61_temp").mkdir()
    (folder / "ckpt-61_temp/part-00000-of-00001.index").write_bytes(b"half")
    assert "resumed at iteration 61" in succeed("main.py", *flags).stdout
    assert (folder / "ckpt-61.index").exists() and [row["iter"] for row in read_csv(tmp_path / "a")] == ["61"]


@pytest.mark.parametrize(
    ("left", "there"),
    [
        (["ckpt-30_temp", "ckpt-30.data-00000-of-00001"], False),
        (["ckpt-30.data-00000-of-00001", "ckpt-30.index"], True),
        (["checkpoint"], True),
    ],
)
def test_an_index_or_a_list_shows_that_there_was_a_checkpoint(left, there, tmp_path):
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
    assert "interrupted before the first iteration; continue with --resume" in done.stderr
    assert not list(tmp_path.glob("a/checkpoints/*/*"))
    assert_refused(call("main.py", *flags), "add --resume")
    done = resume(tmp_path / "a")
    assert done.returncode == 0 and "resumed" not in done.stdout, done.stderr
    assert [row["iter"] for row in read_csv(tmp_path / "a")] == ["0"]


def test_a_checkpoint_is_synced_to_the_disk(monkeypatch, data_dir, tmp_path):
    """All its files are synced, and its folder, before an earlier checkpoint is deleted."""
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    succeed("main.py", *flags)
    folder = tmp_path / "a/checkpoints/last"
    wanted = {str(folder), *map(str, folder.glob("ckpt-0.*"))}
    assert len(wanted) == 3 and wanted <= set(synced)
    written = {str(tmp_path / "a" / name) for name in ("meta_train.log", "meta_train.csv")}
    assert written <= set(synced)


def test_a_second_process_in_a_savedir_is_refused(run):
    with files.locked(run / "meta_train.lock", "never mind"):
        done = resume(run, "--n_train_iters", 70)
        assert_refused(done, f"process {os.getpid()} on ", "is training in", "choose another --savedir")
    assert resume(run, "--n_train_iters", 61).returncode == 0


def test_one_of_two_runs_that_start_in_a_savedir_is_refused(monkeypatch, data_dir, tmp_path):
    """The other one starts and ends after this one found savedir empty and before it holds the lock."""
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", 0)
    locked = files.locked

    def late(path, busy):
        monkeypatch.setattr(files, "locked", locked)
        succeed("main.py", *flags)
        return locked(path, busy)

    monkeypatch.setattr(files, "locked", late)
    assert_refused(call("main.py", *flags), "holds a run already")


def test_a_file_in_the_place_of_the_folder_of_results_is_refused_before_a_test(run, tmp_path, monkeypatch):
    savedir = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(savedir / "tests", ignore_errors=True)
    (savedir / "tests").touch()
    monkeypatch.setattr(loops, "run_episodes", None)  # which would compute
    refused = call("main.py", "--mode", "meta_test", "--savedir", savedir, "--n_test_iters", 5)
    assert_refused(refused, "tests is a file, and results are kept in a folder of this name: rename it")


def test_an_unwritable_result_is_refused_before_it_is_computed(run, monkeypatch):
    """And a result that is there already is read from a read-only folder."""
    flags = ("--mode", "meta_test", "--savedir", run, "--n_test_iters", 3)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_synced", full)
        patch.setattr(loops, "run_episodes", None)  # which would compute
        assert_refused(call("main.py", *flags), "cannot write into", "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(test_results, "write_if_changed", full)
        done = call("main.py", *flags)
        assert "accuracy : " in done.stdout
        assert_refused(done, "cannot read or write", "No space left")
    succeed("main.py", *flags)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    monkeypatch.setattr(files, "write_atomically", full)
    done = succeed("main.py", *flags)
    assert "accuracy : " in done.stdout and "tested before" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_log_that_cannot_be_written_is_one_sentence(data_dir, tmp_path):
    (tmp_path / "a").write_text("a file")
    done = call("main.py", "--savedir", tmp_path / "a" / "b", "--data_dir", data_dir, *FLAGS)
    assert_refused(done, "cannot write into", "choose another folder")


def test_a_device_without_memory_is_one_sentence(run, monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[8,300,28,28,64]")

    monkeypatch.setattr(loops, "train", full)
    assert_refused(resume(run), "does not have enough memory", "--metabatch", "--remat")


@pytest.mark.parametrize(("setting", "value"), [("model", "maml++"), ("n_steps", -1), ("inner_lr", "fast")])
def test_a_setting_that_no_flag_could_be_is_one_sentence(run, setting, value):
    path = run / "config.json"
    text = path.read_text()
    assert f'"{setting}": ' in text
    lines = [f' "{setting}": {value!r},'.replace("'", '"') if f'"{setting}": ' in line else line
             for line in text.splitlines()]  # fmt: skip
    path.write_text("\n".join(lines))
    words = f"{setting} cannot be {value!r}"
    for mode in ("meta_test", "export", "collapse"):
        assert_refused(call("main.py", "--mode", mode, "--savedir", run), words)
    assert_refused(resume(run), words)


def test_logs_are_cut_back_to_the_checkpoint_of_a_killed_run(run, finished):
    for name, text in (("meta_train.log", "\nIter 100 start"), ("meta_train.csv", "100,200,1.5,0.001,")):
        with open(run / name, "a") as file:
            file.write(text)
    assert resume(run, "--n_train_iters", 70).returncode == 0
    assert [row["iter"] for row in read_csv(run)] == ["0", "50", "60", "70"]
    log = (run / "meta_train.log").read_text()
    assert log.startswith((finished / "meta_train.log").read_text()) and "Iter 100" not in log


@pytest.mark.parametrize("damage", ["cut", "gone", "longer"])
def test_rows_are_added_to_whole_rows_even_if_somebody_has_changed_the_logs(run, damage):
    for name in ("meta_train.log", "meta_train.csv"):
        path = run / name
        text = path.read_text()
        if damage == "gone":
            path.unlink()
        else:
            path.write_text(text[:-9] if damage == "cut" else text.replace("\n", " \n", 2))
    done = resume(run, "--n_train_iters", 70)
    assert done.returncode == 0, done.stderr
    for name in ("meta_train.log", "meta_train.csv"):
        assert f"{name} was changed since the checkpoint: some of its rows are missing" in done.stderr
    rows = {"cut": ["0", "50", "70"], "gone": ["70"], "longer": ["0", "50", "70"]}[damage]
    assert [row["iter"] for row in read_csv(run)] == rows and all(None not in row.values() for row in read_csv(run))
    assert "\n\nIter 70 start" in (run / "meta_train.log").read_text() or damage == "gone"


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
    assert len(list(last.glob("ckpt-*.data*"))) == 2 and len(list(last.iterdir())) == 5  # with the list
    for mode in ("meta_test", "export", "weights"):
        test = ("--n_test_iters", 2) if mode == "meta_test" else ("--export_tasks", 1) if mode == "export" else ()
        succeed("main.py", "--mode", mode, "--savedir", f"{tmp_path / ODD}/../{ODD}/[{ODD}]", *test)
    assert json.loads((savedir / "meta_test.json").read_text())["iteration"] == 70
    assert "command: " in (savedir / "meta_test.log").read_text(encoding="utf-8")
    assert len(list((savedir / "tensorboard").iterdir())) == 2 and not list(tmp_path.glob("tensorboard"))
    assert weights.read(savedir / "weights.npz").about["iteration"] == 70


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_checkpoint_with_a_number_that_is_not_finite_is_damaged(number, tmp_path):
    params = {"theta/a": tf.Variable([1.0, number])}
    tf.train.Checkpoint(params=params).write(str(tmp_path / "last/ckpt-3"))
    with pytest.raises(UserError, match=r"ckpt-3 is damaged \(its theta/a has a number that is not finite\)"):
        checkpoints.read_checkpoint(tmp_path / "last/ckpt-3")


def test_a_row_of_the_log_is_the_mean_since_the_row_before(data_dir, tmp_path, monkeypatch):
    """Also in a run that was interrupted between two rows."""
    monkeypatch.setattr(steps.Engine, "train_step", lambda *_: lambda i: (i, i / 1000, True, False))
    monkeypatch.setattr(steps.Engine, "training_inputs", lambda engine, split, i, *_: i)
    monkeypatch.setattr(steps.Engine, "local", lambda engine, report: report)
    for iterations in (20, 107, 120):
        flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *FLAGS, "--n_train_iters", iterations)
        succeed("main.py", *flags, "--resume")
    rows = {int(row["iter"]): row for row in read_csv(tmp_path / "a")}
    assert list(rows) == [0, 20, 50, 100, 107, 120]
    for (before, row), (i, _) in zip(itertools.pairwise([-1, *rows]), rows.items(), strict=True):
        mean = np.mean(range(before + 1, i + 1))
        assert row == i and float(rows[i]["loss"]) == mean
        assert float(rows[i]["acc"]) == pytest.approx(mean / 1000) and int(rows[i]["episodes"]) == 2 * i


def test_a_run_past_n_train_iters_is_one_sentence(run):
    config = (run / "config.json").read_text()
    assert_refused(resume(run, "--n_train_iters", 40), "trained to iteration 60 already", "choose more iterations")
    assert (run / "config.json").read_text() == config  # it still has 60


def test_time_is_not_counted_twice(run):
    """secs in the log continue where the run was interrupted."""
    before = float(read_csv(run)[-1]["secs"])
    start = time.time()
    assert resume(run, "--n_train_iters", 70).returncode == 0
    after = float(read_csv(run)[-1]["secs"])
    assert before < after < before + time.time() - start
