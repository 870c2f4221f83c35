"""Weights files: their content, the runs that start from them, and the files that are refused."""

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import files
import main
import train_jax
from conftest import SETTINGS, assert_refused, call, flags_of, succeed
from errors import UserError
from figures.run import read_curves
from runs import checkpoint
from studies.classifier import Classifier
from training import checkpoints, weights
from training.config import Config

# Without inner steps TensorFlow traces the learner in a second.
LEARNER = {"model": "maml", "channels": 2, "n_steps": 0}
FLAGS = flags_of(SETTINGS | LEARNER | {"val_every": 10, "n_val_tasks": 2, "save_freq": 10})
TEST = ("--n_test_iters", 6)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """A tested run of 21 iterations; its weights are in weights.npz, and with Adam's slots in whole.npz."""
    savedir = tmp_path_factory.mktemp("weights") / "run"
    succeed("main.py", "--savedir", savedir, "--data_dir", data_dir, *FLAGS, "--n_train_iters", 20)
    succeed("main.py", "--mode", "meta_test", "--savedir", savedir, *TEST)
    told = succeed("main.py", "--mode", "weights", "--savedir", savedir, "--slots").stdout
    assert "iteration 20, with Adam, " in told
    (savedir / "weights.npz").rename(savedir / "whole.npz")
    assert "iteration 20, 0.0 MB" in succeed("main.py", "--mode", "weights", "--savedir", savedir).stdout
    return savedir


def test_the_file_has_the_checkpoint_and_a_description(trained):
    plain, whole = (weights.read(trained / name) for name in ("weights.npz", "whole.npz"))
    saved = checkpoint(trained)
    assert len(plain.params) == 14 and not plain.slots and not plain.state
    for name, value in whole.params.items():
        np.testing.assert_array_equal(saved[f"params/{name.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"], value)
        np.testing.assert_array_equal(plain.params[name], value)
    for name in ("m", "v", "t"):
        np.testing.assert_array_equal(saved[f"adam/{name}/.ATTRIBUTES/VARIABLE_VALUE"], whole.slots[name])
    assert int(whole.state["next"]) == 21
    config, test = (json.loads((trained / name).read_text()) for name in ("config.json", "meta_test.json"))
    about = plain.about
    assert about["iteration"] == 20 and about["weights_sha256"] == test["weights_sha256"]
    assert about["test"] == {name: test[name] for name in ("accuracy", "interval95", "episodes", "n_test_mc_samp")}
    assert about["settings"]["data_sha256"] == config["data_sha256"] and about["settings"]["way"] == 3
    assert str(trained) not in json.dumps(about) and not {"data_dir", "gpu_id"} & about["settings"].keys()
    with np.load(trained / "whole.npz", allow_pickle=False) as file:
        assert {"format", "about", "adam/m", "state/window", "params/theta/conv1_w"} <= set(file.files)


@pytest.mark.parametrize("name", ["weights.npz", "whole.npz"])
def test_weights_are_tested_exported_and_compared_as_the_run_is(name, trained, data_dir, tmp_path):
    flags = ("--savedir", tmp_path / "a", "--weights", trained / name, "--data_dir", data_dir, "--gpu_id", "-1")
    succeed("main.py", "--mode", "meta_test", *flags, *TEST)
    first, other = (json.loads((d / "meta_test.json").read_text()) for d in (trained, tmp_path / "a"))
    assert {k: v for k, v in other.items() if k != "provenance"} == {
        k: v for k, v in first.items() if k != "provenance"
    }
    succeed("main.py", "--mode", "export", *flags, "--export_tasks", 1)  # the same file again
    data = ("--data_dir", data_dir)  # weights files do not have it
    again = succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / "a", *TEST, *data).stdout
    assert "tested before" in again
    assert "+0.00 +- 0.00" in succeed("main.py", "--mode", "compare", "--savedir", trained, tmp_path / "a").stdout


def test_training_continues_from_a_file_with_slots_to_the_same_bits(trained, data_dir, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    succeed("main.py", "--savedir", tmp_path / "run", "--resume", "--n_train_iters", 27)
    flags = ("--savedir", tmp_path / "file", "--weights", trained / "whole.npz", "--data_dir", data_dir)
    assert "resumed at iteration 21" in succeed("main.py", *flags, "--n_train_iters", 24).stdout
    succeed("main.py", *flags, "--n_train_iters", 27)  # again, from its own checkpoint
    one, other = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "file")
    assert one.keys() == other.keys()
    for name in one:
        if not name.startswith("window/"):  # sums of the log: the interrupted run wrote one more row
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert list(read_curves(tmp_path / "file")["iter"]) == [24, 27]
    log = (tmp_path / "file/meta_train.log").read_text()
    assert log.startswith("seed: 0\n") and log.count("n_steps: 0\n") == 1 and log.count("\nIter ") == 2
    assert "iteration 27, " in succeed("main.py", "--mode", "weights", "--savedir", tmp_path / "run").stdout
    assert weights.read(tmp_path / "run/weights.npz").about["test"] is None  # the test was of iteration 20


def test_a_new_run_starts_from_weights_alone_with_other_flags(trained, data_dir, tmp_path):
    flags = ("--savedir", tmp_path / "a", "--weights", trained / "weights.npz", "--data_dir", data_dir)
    out = succeed("main.py", *flags, "--n_train_iters", 0, "--meta_lr", 1e-9, "--n_steps", 1).stdout
    assert "resumed" not in out
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert (config["meta_lr"], config["n_steps"], config["way"], config["model"]) == (1e-9, 1, 3, "maml")
    saved, before = checkpoint(tmp_path / "a"), checkpoint(trained)
    assert saved["adam/t/.ATTRIBUTES/VARIABLE_VALUE"] == 1
    for name, value in saved.items():
        if name.startswith("params/"):
            np.testing.assert_allclose(value, before[name], atol=1e-8)
    assert "add --resume" in call("main.py", *flags).stderr
    succeed("main.py", *flags, "--resume", "--n_train_iters", 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mode", "meta_test", "--way", 2), "--way 2 contradicts the run"),
        (("--mode", "meta_test", "--model", "metadrop"), "--model metadrop contradicts the run"),
        (("--mode", "meta_train", "--meta_lr", 1), "--meta_lr 1.0 contradicts the run"),
        (("--mode", "meta_test", "--query", 30), "need 31 images per class"),
    ],
)
def test_what_contradicts_the_file_is_refused_and_nothing_is_left(flags, words, trained, data_dir, tmp_path):
    refused = call(
        "main.py", *flags, "--savedir", tmp_path / "a", "--weights", trained / "whole.npz", "--data_dir", data_dir
    )
    assert_refused(refused, words)
    assert not (tmp_path / "a").exists()


def test_other_shapes_are_refused_and_nothing_is_left(trained, data_dir, tmp_path):
    flags = ("--savedir", tmp_path / "a", "--weights", trained / "weights.npz", "--data_dir", data_dir)
    assert_refused(call("main.py", *flags, "--way", 4), "another learner: its theta/dense_w has the shape", "--way")
    assert_refused(call("main.py", *flags, "--model", "metadrop"), "another learner: it lacks phi/conv1_b")
    assert not (tmp_path / "a").exists()


def test_a_refused_start_leaves_no_folder(trained, data_dir, tmp_path):
    words = "--weights", trained / "weights.npz", "--savedir", tmp_path / "a/b/run", "--data_dir", tmp_path
    assert call("main.py", "--mode", "meta_test", *words).returncode == 2
    assert not (tmp_path / "a").exists()


def test_other_data_are_refused(trained, tmp_path):
    succeed("get_data.py", "--dataset", "glyphs", "--data_dir", tmp_path / "data", "--seed", 1)
    flags = ("--savedir", tmp_path / "a", "--weights", trained / "weights.npz", "--data_dir", tmp_path / "data")
    assert_refused(call("main.py", "--mode", "meta_test", *flags), "other data than the run was trained on")
    succeed("main.py", *flags, "--n_train_iters", 0, "--val_every", 0)  # a new run may use them


def test_a_kill_before_config_json_is_repaired(trained, tmp_path):
    """start.npz is written before config.json."""
    file, settings = trained / "whole.npz", {"model": "maml", "way": 3}
    with weights.starting_in(tmp_path / "a", file, None):  # without settings: training writes config.json
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["start.npz"]
    for settings_of_file, written in ((None, None), (settings, settings), ({"way": 5}, settings)):
        with weights.starting_in(tmp_path / "a", file, settings_of_file):
            config = tmp_path / "a/config.json"
            assert (json.loads(config.read_text()) if config.exists() else None) == written


def test_a_command_that_is_refused_takes_nothing_from_one_that_trains(trained, tmp_path):
    """Both find no run. The first one begins to train, and the second one fails because that has the lock."""
    file, savedir = trained / "weights.npz", tmp_path / "a"
    with weights.starting_in(savedir, file, None), contextlib.ExitStack() as first:
        with pytest.raises(UserError, match="refused"), weights.starting_in(savedir, file, None):
            first.enter_context(files.locked(savedir / weights.LOCK, "is training"))
            raise UserError("refused")
        assert {path.name for path in savedir.iterdir()} == {weights.START, weights.LOCK}
    with pytest.raises(UserError, match="later"), weights.starting_in(tmp_path / "b", file, None):
        with pytest.raises(UserError, match="refused"), weights.starting_in(tmp_path / "b", file, None):
            raise UserError("refused")
        (tmp_path / "b" / weights.START).unlink(missing_ok=True)
        main.refuse_remains(tmp_path / "b", from_weights=False)
        with pytest.raises(UserError, match=r"there is no .*start\.npz: another command has removed it"):
            main.refuse_remains(tmp_path / "b", from_weights=True)
        raise UserError("later")
    assert not (tmp_path / "b").exists()


def test_the_copy_of_an_interrupted_start_is_not_used_in_silence(trained, tmp_path):
    savedir = tmp_path / "a"
    with weights.starting_in(savedir, trained / "weights.npz", None):
        pass  # killed here
    data_dir = json.loads((trained / "config.json").read_text())["data_dir"]
    flags = ("--savedir", savedir, "--data_dir", data_dir, *flags_of(SETTINGS))
    assert_refused(call("main.py", *flags, "--n_train_iters", 0), "has start.npz and no config.json", "choose another")
    words = "start.npz is of another file of weights: remove it"
    assert_refused(call("main.py", *flags, "--weights", trained / "whole.npz"), words)
    assert [path.name for path in savedir.iterdir()] == [weights.START]


def test_the_file_is_written_whole_or_not_at_all(trained, tmp_path):
    with mock.patch.object(weights, "write_atomically") as written:
        size = weights.write(tmp_path / "w.npz", weights.read(trained / "whole.npz"))
    (path, content), _ = written.call_args
    assert path == tmp_path / "w.npz" and len(content) == size and not path.exists()
    path.write_bytes(content)
    assert weights.read(path).about == weights.read(trained / "whole.npz").about


def test_another_run_is_not_overwritten(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a")
    flags = ("--savedir", tmp_path / "a", "--weights", trained / "weights.npz")
    for mode in ("meta_test", "meta_train", "export"):
        assert_refused(call("main.py", "--mode", mode, *flags), "has a run already: leave --weights out")


def damaged(path, trained, kind):
    content = (trained / "whole.npz").read_bytes()
    if kind == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("no weights")
    else:
        with np.load(trained / "whole.npz") as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        if kind == "newer":
            arrays["format"] = np.int64(2)
        elif kind == "changed":
            arrays["params/theta/conv1_w"] = arrays["params/theta/conv1_w"] + 1
        elif kind == "other versions":
            arrays["format"] = np.array([1, 1])
        elif kind == "half the slots":
            del arrays["adam/m"]
        elif kind == "half a state":
            del arrays["state/best"]
        elif kind in ("slots alone", "state alone"):
            lost = "state/" if kind == "slots alone" else "adam/"
            arrays = {name: array for name, array in arrays.items() if not name.startswith(lost)}
        elif kind == "silent":
            del about["iteration"]
        elif kind == "pickled":
            arrays["params/theta/conv1_w"] = np.array([{}], object)
        elif kind in ("nan", "inf"):
            arrays["params/theta/conv1_b"] = np.full(2, float(kind), np.float32)
            params = {name[7:]: array for name, array in arrays.items() if name.startswith("params/")}
            about["weights_sha256"] = weights.digest(params)
        elif kind == "nan in adam":
            arrays["adam/v"] = arrays["adam/v"] * np.nan
        elif kind == "float64":
            arrays["adam/m"] = arrays["adam/m"].astype(np.float64)
        elif kind == "another state":
            arrays["state/window"] = np.zeros(2)
        elif kind == "another iteration":
            arrays["state/next"] = np.array(3)
        elif kind == "other best":
            arrays = {name: array for name, array in arrays.items() if not name.startswith("best/")}
            arrays["best/theta/conv1_w"] = arrays["params/theta/conv1_w"]
        elif kind == "other group":
            arrays["more/x"] = np.zeros(1)
        elif kind in ("a list", "a number", "deep"):
            about = {"a list": [], "a number": about | {"settings": 5}, "deep": about}[kind]
        elif kind == "no iteration":
            about["iteration"] = "20"
        elif kind == "tests":
            about["tests"] = [5]
        text = json.dumps(about) if kind != "deep" else "[" * 100_000 + "]" * 100_000
        np.savez(path, **arrays | {"about": np.array(text)})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("none", "there is no weights file"),
        ("cut short", "is damaged"),
        ("text", "is damaged, or is not a weights file"),
        ("newer", "not a weights file of version 1: its version is 2"),
        ("changed", "its parameters do not match its digest"),
        ("other versions", r"its version is \[1, 1\]"),
        ("half the slots", "it has t v, wanted m v t"),
        ("half a state", "it has next reported secs window, wanted next secs window best reported"),
        ("slots alone", "it needs Adam's slots and a state together"),
        ("state alone", "it needs Adam's slots and a state together"),
        ("silent", "its iteration is 'missing', wanted int"),
        ("pickled", "is damaged"),
        ("nan", "its theta/conv1_b has a number that is not finite"),
        ("inf", "its theta/conv1_b has a number that is not finite"),
        ("nan in adam", "its v has a number that is not finite"),
        ("float64", "its m is float64, wanted float32"),
        ("another state", "its window is wrong: wanted finite float64"),
        ("another iteration", "its state belongs to another iteration"),
        ("other best", "its best parameters have other names than its last ones"),
        ("other group", "is damaged, or is not a weights file"),
        ("a list", "its description is not an object"),
        ("a number", "its settings is 5"),
        ("deep", "nested too deep"),
        ("no iteration", "its iteration is '20'"),
        ("tests", "its tests are not a list of tests"),
    ],
)
def test_a_wrong_file_is_one_sentence(kind, words, trained, tmp_path):
    if kind != "none":
        damaged(tmp_path / "w.npz", trained, kind)
    with pytest.raises(UserError, match=words):
        weights.read(tmp_path / "w.npz")
    flags = ("--mode", "meta_test", "--savedir", tmp_path / "a", "--weights", tmp_path / "w.npz")
    assert_refused(call("main.py", *flags), words.replace("\\", ""))
    assert not (tmp_path / "a").exists()


def archive(path, members: dict[str, bytes], declared: dict[str, int], how=zipfile.ZIP_DEFLATED):
    """Write a zip file of these members; its directory has other sizes for those that are declared."""
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
        for info in file.filelist:
            info.file_size = declared.get(info.filename, info.file_size)


def test_a_too_large_archive_is_refused_before_it_is_unpacked(trained, tmp_path, monkeypatch):
    """And no more is unpacked than the directory declares."""
    path = tmp_path / "w.npz"
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", None)  # it would unpack
        archive(path, {"format.npy": b"", "params/a.npy": b"x"}, {"params/a.npy": 6 << 30})
        with pytest.raises(UserError, match=r"declares 2 arrays, 6,442,450,944 bytes; the limits"):
            weights.read(path)
        patch.setattr(weights, "MAX_ARRAYS", 3)
        archive(path, {f"{i}.npy": b"" for i in range(4)}, {})
        with pytest.raises(UserError, match=r"declares 4 arrays, .* limits are 3 arrays and"):
            weights.read(path)
        archive(path, {"a.npy": b"x"}, {}, zipfile.ZIP_LZMA)
        with pytest.raises(UserError, match="compressed in a way that numpy does not write"):
            weights.read(path)
        patch.setattr(weights, "MAX_BYTES", 1000)
        path.write_bytes((trained / "weights.npz").read_bytes())
        with pytest.raises(UserError, match="limits are 3 arrays and 1,000 bytes"):
            weights.read(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**44,)})
    archive(path, {"params/a.npy": header.getvalue()}, {})
    with pytest.raises(UserError, match="is damaged"):
        weights.read(path)
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(2**20, np.float32))
    archive(path, {"params/a.npy": zeros.getvalue()}, {"params/a.npy": 100})
    with pytest.raises(UserError, match="is damaged"):
        weights.read(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "nosuch"}, "model cannot be 'nosuch'"),
        ({"way": "5"}, "way cannot be '5'"),
        ({"prepare": 7}, "has prepare 7, which no run can have"),
        ({"seed": None}, "seed cannot be None"),
    ],
)
def test_settings_that_no_run_can_have_are_one_sentence_in_every_mode(changed, words, trained, tmp_path):
    content, file = weights.read(trained / "weights.npz"), tmp_path / "w.npz"
    settings = content.about["settings"] | changed
    weights.write(file, dataclasses.replace(content, about=content.about | {"settings": settings}))
    pictures = tmp_path / "pictures"
    for label in "ab":
        (pictures / label).mkdir(parents=True)
        Image.new("L", (28, 28)).save(pictures / label / "1.png")
    for flags in (
        ("--mode", "draw"), ("--mode", "classify", "--support", pictures, "--query", pictures),
        ("--mode", "meta_test", "--savedir", tmp_path / "a"), ("--savedir", tmp_path / "a"),
    ):  # fmt: skip
        assert_refused(call("main.py", *flags, "--weights", file), words)
    assert not (tmp_path / "a").exists()


def test_a_file_without_a_needed_setting_is_refused(trained, tmp_path):
    content = weights.read(trained / "weights.npz")
    settings = {name: value for name, value in content.about["settings"].items() if name != "query"}
    weights.write(tmp_path / "w.npz", dataclasses.replace(content, about=content.about | {"settings": settings}))
    with pytest.raises(UserError, match=r"w\.npz lacks query"):
        Config.read(tmp_path / "w.npz")


def test_a_savedir_that_started_from_a_file_is_read_like_the_file(trained, tmp_path):
    """Also by Classifier. After the savedir's first checkpoint its checkpoints are read."""
    content = weights.read(trained / "weights.npz")
    with weights.starting_in(tmp_path / "a", trained / "weights.npz", content.about["settings"]):
        pass
    for run in (tmp_path / "a", trained / "weights.npz"):
        assert Config.read(run).run.way == 3
        assert weights.digest(checkpoints.read_run(run).params) == content.about["weights_sha256"]
        assert weights.digest(Classifier.load(run).trained().params) == content.about["weights_sha256"]
        with pytest.raises(UserError, match="does not have the weights of the best validation"):
            checkpoints.read_run(run, "best")
    shutil.copytree(trained / "checkpoints", tmp_path / "a/checkpoints")
    assert checkpoints.read_run(tmp_path / "a").about == {"checkpoint": "last", "iteration": 20}


def with_best(trained, path, best: bool):
    """Write trained's whole.npz with iteration 10 as the best, with or without its parameters. Return these."""
    content = weights.read(trained / "whole.npz")
    others = {name: array * 2 for name, array in content.params.items()} if best else {}
    state = content.state | {"best": np.array([0.99, 10.0])}
    weights.write(path, dataclasses.replace(content, state=state, best=others))
    return others


def test_the_best_weights_come_with_the_best_accuracy(trained, data_dir, tmp_path):
    """--checkpoint best of a run that continues from a file is that of the file, until a validation is better."""
    best = with_best(trained, tmp_path / "w.npz", True)
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, "--weights", tmp_path / "w.npz")
    assert "search for the best" not in succeed("main.py", *flags, "--n_train_iters", 21).stdout
    found = checkpoints.read_run(tmp_path / "a", "best")
    assert found.about["iteration"] == 10 and weights.digest(found.params) == weights.digest(best)
    assert checkpoints.read_run(tmp_path / "w.npz", "best").about == found.about
    test = ("--mode", "meta_test", "--savedir", tmp_path / "a", *TEST)
    succeed("main.py", *test, "--checkpoint", "best")
    assert json.loads((tmp_path / "a/meta_test.json").read_text())["iteration"] == 10
    succeed("main.py", "--mode", "weights", "--savedir", tmp_path / "a", "--slots")
    again = weights.read(tmp_path / "a/weights.npz")
    assert (again.about["iteration"], again.state["best"].tolist()) == (21, [0.99, 10])
    assert weights.digest(again.best) == weights.digest(best)
    succeed("main.py", "--mode", "weights", "--savedir", tmp_path / "a", "--checkpoint", "best")
    assert weights.digest(weights.read(tmp_path / "a/weights.npz").params) == weights.digest(best)


def test_without_the_best_weights_the_search_for_the_best_restarts(trained, data_dir, tmp_path):
    """Files of earlier versions have the best accuracy without its weights: no later weights might exceed it."""
    with_best(trained, tmp_path / "w.npz", False)
    flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, "--weights", tmp_path / "w.npz")
    told = succeed("main.py", *flags, "--n_train_iters", 21).stdout
    assert "does not have the weights of the best validation" in told
    found = checkpoints.read_run(tmp_path / "a", "best")
    assert found.about["iteration"] == 21 and found.state["best"][1] == 21


def test_the_last_weights_may_be_the_best(trained, tmp_path):
    content = dataclasses.replace(weights.read(trained / "whole.npz"), best={})
    for iteration, same in ((20, True), (10, False), (-1, False)):
        state = content.state | {"best": np.array([0.5, iteration])}
        found = dataclasses.replace(content, state=state).best_weights()
        assert (found is not None) == same
    program = dataclasses.replace(content, about=content.about | {"iteration": -1})  # before the first iteration
    assert dataclasses.replace(program, state=content.state | {"best": -np.ones(2)}).best_weights() is None


def test_slots_need_a_run_that_has_them(trained, tmp_path):
    with weights.starting_in(
        tmp_path / "a", trained / "weights.npz", weights.read(trained / "weights.npz").about["settings"]
    ):
        pass
    refused = call("main.py", "--mode", "weights", "--savedir", tmp_path / "a", "--slots")
    assert_refused(refused, "has no Adam slots, because it started from weights alone")


def test_another_npz_file_is_refused(trained, tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    with pytest.raises(UserError, match="its version is 0"):
        weights.read(tmp_path / "w.npz")


def test_checkpoint_best_gives_the_weights_of_the_best(trained, tmp_path):
    """Here the best is an earlier checkpoint than the last, and meta_test.json is of the last."""
    savedir = shutil.copytree(trained, tmp_path / "a")
    shutil.rmtree(savedir / "checkpoints/best")
    last = savedir / "checkpoints/last"
    shutil.copytree(last, savedir / "checkpoints/best", ignore=lambda *_: [p.name for p in last.glob("ckpt-20*")])
    (savedir / "checkpoints/best/checkpoint").write_text('model_checkpoint_path: "ckpt-10"\n')
    told = succeed("main.py", "--mode", "weights", "--savedir", savedir, "--checkpoint", "best").stdout
    assert "iteration 10, " in told
    best, other = weights.read(savedir / "weights.npz"), weights.read(trained / "weights.npz").about
    assert (best.about["iteration"], best.about["checkpoint"], best.about["test"]) == (10, "best", None)
    assert best.about["weights_sha256"] == weights.digest(best.params) != other["weights_sha256"]
    assert (other["iteration"], other["checkpoint"]) == (20, "last")
    saved = checkpoint(savedir, "best")["params/theta.Sconv1_w/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(best.params["theta/conv1_w"], saved)


def test_weights_need_a_checkpoint(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a", ignore=shutil.ignore_patterns("ckpt*", "*.npz"))
    assert_refused(call("main.py", "--mode", "weights", "--savedir", tmp_path / "a"), "there is no checkpoint in")


def test_training_without_tensorflow_keeps_the_best_weights(trained, tmp_path):
    """The file's best weights, or its last ones where these are the best."""
    content = weights.read(trained / "whole.npz")
    doubled = {name: array * 2 for name, array in content.params.items()}
    for best, iteration, wanted in ((doubled, 10.0, doubled), ({}, 20.0, content.params), ({}, 10.0, None)):
        state = content.state | {"best": np.array([0.5, iteration])}
        saved = dataclasses.replace(content, state=state, best=best)
        description = {"settings": {}, "samples": 1}
        jax_run = train_jax.JaxRun(tmp_path, description, tmp_path / "w.npz", saved, {})
        jax_run.program = mock.Mock(**{"return_value.device.device_kind": "a device"})
        jax_run.variables |= {f"params/{name}": array + 1 for name, array in content.params.items()}
        jax_run.saved_at = 0.0
        for i in (21, 22):
            jax_run.save(i)
        found = weights.read(tmp_path / "w.npz").best_weights()
        assert (found and weights.digest(found.params)) == (wanted and weights.digest(wanted))
