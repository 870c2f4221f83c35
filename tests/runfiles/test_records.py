"""Records of runs: read from savedirs and from kept files, merged, and kept."""

import dataclasses
import json
import lzma
import math
import os

import numpy as np
import pytest
import records
from catalogue import gradients
from records import Record, keep, merge, read_kept, read_savedir, read_savedirs

from conftest import assert_refused, call
from study_runs import CHIP, OTHER_CHIP, curve, made, shown, with_result, write
from training import weights
from training.config import REQUIRED

TEST = gradients.tests["test"].flags


def test_a_savedir_has_settings_curve_and_results(tmp_path):
    """A validation that was not made is None. The latest result and those in tests/ are read, each once. A damaged
    one is left out, as is what is no result."""
    record = with_result(made(gradients, "metadrop", 2, [40]), f"{TEST} --n_test_iters 9", [50, 60])
    record = with_result(record, "--mode collapse", [1])
    savedir = write(record, tmp_path / "any")
    (savedir / "tests/collapse-000000000002.json").unlink()  # the latest is left
    (savedir / "tests/meta_test-00000000000a.json").write_text('{"provenance": {}, "accura')
    (savedir / "notes.json").write_text("[1]")
    found = read_savedir(savedir)
    assert {name: found.curve[name] for name in record.curve} == record.curve
    assert sorted(map(str, found.results)) == sorted(map(str, record.results))
    assert (found.settings, found.machine, found.data, found.savedir) == (
        record.settings, "A chip with AVX2", "d", savedir
    )  # fmt: skip
    assert (found.trained, found.iteration, found.complete) == ("2026-01-01", 800, True)
    (savedir / "meta_train.csv").write_text("iter,secs,loss,acc,val_loss,val_acc,val_ci95\n")  # has just begun
    (savedir / "meta_train.lock").touch()
    found = read_savedir(savedir)
    assert found.curve == {} and not found.complete  # it was killed before its first row
    (savedir / "meta_train.lock").unlink()
    assert read_savedir(savedir).complete  # it began with trained weights


def test_a_setting_that_is_newer_than_a_run_has_its_default(tmp_path):
    record = made(gradients, "maml")
    old = {name: value for name, value in record.config.items() if value is not None and name != "adversarial_steps"}
    write(dataclasses.replace(record, config=old), tmp_path)
    assert read_savedir(tmp_path).settings == record.settings
    few = {name: record.config[name] for name in REQUIRED}
    (tmp_path / "config.json").write_text(json.dumps(few | {"of another version": 1}))
    assert dict(read_savedir(tmp_path).settings)["inner_lr"] == "0.1"


def test_a_folders_name_says_nothing(tmp_path):
    """Runs are found three folders deep, and are what their config.json says."""
    for name, folder, accuracy in (("maml", "metadrop_0", 50), ("metadrop", "a/b/maml_1", 70)):
        write(made(gradients, name, 1, [accuracy]), tmp_path / folder)
    outcome = shown(gradients, read_savedirs(tmp_path))
    assert [outcome.results(name)[1]["accuracy"] for name in ("maml", "metadrop")] == [50, 70]


@pytest.mark.parametrize(
    ("devices", "machine"),
    [
        (["CPU, 2 cores of A chip with AVX2"], "A chip with AVX2"),
        (["CPU, 1 core of A chip with AVX2; there is a GPU that TensorFlow cannot use: install"], "A chip with AVX2"),
        (["CPU, 64 cores of A chip"], "A chip"),
        (["NVIDIA H200"], "NVIDIA H200"),
        (["NVIDIA H200", "CPU, 8 cores of A chip", "NVIDIA H200"], "A chip and NVIDIA H200"),
        ([], "?"),
    ],
)
def test_a_kind_of_machine_is_its_processors_name(devices, machine):
    sessions = [{"device": device} for device in devices]
    assert Record({"sessions": sessions}, {}, []).machine == machine
    tests = [{"provenance": one} for one in sessions]
    assert Record({}, {}, tests).machine == machine  # it was only tested
    weights_of = {"sessions": [{"device": "NVIDIA H100"}]}
    assert Record(weights_of, {}, tests).machine == (machine if tests else "NVIDIA H100")
    assert Record(weights_of, curve(800), tests).machine == "NVIDIA H100"


def test_this_machines_kind_is_that_of_the_runs_on_its_processor(monkeypatch):
    from training import devices

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "has_nvidia_gpu", lambda: True)
    run = Record({"sessions": [{"device": devices.describe_devices([], 64)}]}, {}, [])
    assert records.this_machine() == run.machine and "core" not in run.machine


def test_a_file_of_weights_is_a_run_with_the_tests_of_its_training(tmp_path):
    params = {"w": np.zeros(1, np.float32)}
    about = {"settings": made(gradients, "maml", 4).config, "iteration": 9, "weights_sha256": weights.digest(params)}
    about |= {"trained_on": "NVIDIA H200, JAX", "tests": [{"iteration": 5, "accuracy": 50}]}
    weights.write(tmp_path / "w.npz", weights.Weights(about, params))
    found = records.read_weights(tmp_path / "w.npz")
    assert (found.machine, found.complete, found.savedir) == ("NVIDIA H200, JAX", True, None)
    assert found.results == [{"mode": "meta_test", "settings": {}, "iteration": 5, "accuracy": 50}]
    assert found.settings == made(gradients, "maml", 4).settings


def test_records_are_kept_as_they_are_with_six_digits(tmp_path):
    """A file that holds these records already is not written again, in whichever order they come."""
    loss = curve(800, losses=(1 / 3, math.nan))
    found = [made(gradients, name, 0, [200 / 3, 50], curve=loss) for name in ("maml", "metadrop")]
    keep(file := tmp_path / "docs/x.jsonl.xz", found)
    read = read_kept(file)
    assert sorted(one.config["model"] for one in read) == ["maml", "metadrop"] and read[0].savedir is None
    assert read[0].curve["loss"] == [99, 77, 0.333333, None] and read[0].results[0]["accuracies"] == [66.6667, 50]
    os.utime(file, (1, 1))
    keep(file, found[::-1])
    keep(file, read)
    assert file.stat().st_mtime == 1
    keep(file, read[:1])
    assert read_kept(file) == read[:1] and read_kept(tmp_path / "none") == []


def test_kept_files_hold_nothing_of_the_machine(tmp_path):
    """Neither its folders nor its commands, which a savedir has; no weights, and not what no table needs."""
    savedir = write(made(gradients, "metadrop", 0, [50]), tmp_path / "run")
    assert str(tmp_path) in (savedir / "config.json").read_text() + (savedir / "meta_test.json").read_text()
    keep(tmp_path / "x.jsonl.xz", [read_savedir(savedir)])
    kept = lzma.decompress((tmp_path / "x.jsonl.xz").read_bytes()).decode()
    assert "A chip" in kept
    assert not any(word in kept for word in (str(tmp_path), "main.py", "data_dir", "gpu_id", "jit", '"losses"'))


@pytest.mark.parametrize(
    "content", [b"no xz", lzma.compress(b"{}" * 500)[:40], lzma.compress(b"no JSON"), lzma.compress(b'{"config": {}}')]
)
def test_a_damaged_kept_file_is_one_sentence(content, tmp_path):
    (tmp_path / "x.jsonl.xz").write_bytes(content)
    done = call("runfiles/study.py", "gradients", "table", "--kept", tmp_path, "--results", tmp_path / "none")
    assert_refused(done, str(tmp_path / "x.jsonl.xz"), "restore it")


def test_work_on_several_machines_adds_up(tmp_path):
    """The same training, tested here and attacked there, is one record; another kind of machine has its own, and so
    have other data."""
    one, other = (
        made(gradients, "maml", 0, [50]),
        with_result(made(gradients, "maml"), "--mode attack --n_test_iters 4", [[9]]),
    )
    again = made(gradients, "maml", 0, [51], savedir=tmp_path)  # the same test: the later record's counts
    (both,) = merge([one, other, again])
    assert [result["accuracy"] for result in both.results] == [51, [9]] and both.savedir == tmp_path
    copy = made(gradients, "maml", curve=curve(600), savedir=tmp_path / "backup")  # made while it was trained
    (whole,) = merge([one, copy])
    assert whole.iteration == 800 and whole.savedir is None
    (further,) = merge([one, made(gradients, "maml", curve=curve(600)), made(gradients, "maml", curve={})])
    assert further.iteration == 800 and len(further.results) == 1
    assert len(merge([one, made(gradients, "maml", device=OTHER_CHIP), made(gradients, "maml", data="e")])) == 3
    assert len(merge([one, made(gradients, "maml", device=CHIP.replace("2 cores", "1 core"))])) == 1


def test_a_run_that_was_continued_from_its_weights_on_another_machine_is_one_record():
    """Its curve there begins at the iteration of the weights; of an iteration that both have, the later record's row
    counts."""
    whole = curve(800)
    first, second = ({name: column[rows] for name, column in whole.items()} for rows in (slice(2), slice(1, None)))
    second["loss"] = [5.0, *second["loss"][1:]]
    start = made(gradients, "maml", 0, [50], curve=first)
    sessions = [*start.config["sessions"], {"device": OTHER_CHIP, "time": "later"}]
    rest = made(gradients, "maml", 0, [51], curve=second)
    rest = dataclasses.replace(rest, config=rest.config | {"sessions": sessions})
    (both,) = merge([start, rest])
    assert both.curve == whole | {"loss": [whole["loss"][0], 5.0, *whole["loss"][2:]]}
    assert both.results == rest.results and "Another chip" in both.machine and both.iteration == 800


def test_a_run_that_cannot_be_read_is_left_out_with_a_note(tmp_path, capsys):
    """Other people's runs lie in results/, too."""
    write(made(gradients, "maml", 0, [50]), tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text("{")
    assert [record.savedir.name for record in read_savedirs(tmp_path)] == ["good"]
    assert "left out: " in (note := capsys.readouterr().err) and str(tmp_path / "bad") in note
