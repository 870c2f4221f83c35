"""A run that is tested on another dataset than it was trained on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import data
from conftest import assert_refused, call, flags_of, succeed
from errors import UserError
from sources import arrays
from studies import across
from training import test_results
from training.config import Config

SMALL = {"model": "protonet", "way": 3, "query": 2, "metabatch": 2, "channels": 2, "gpu_id": "-1"}
TEST = ("--n_test_iters", 6)


def write(data_dir, name, shape=(16, 16, 1), seed=0, classes=4, **facts):
    """A dataset of noise. facts: entries of its manifest."""
    random = np.random.default_rng(seed)
    with arrays.making(data_dir / name) as folder:
        names = {split: [f"{split}{number}" for number in range(classes)] for split in ("train", "test")}
        for split in names:
            images = random.integers(0, 256, (classes, 3, *shape), np.uint8)
            arrays.save(folder / f"{split}.npy", images if "range" not in facts else images.astype(np.float32))
        arrays.write_manifest(folder, name, names, {"given": "a test", "files": []}, **facts)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepared = {"size": 16, "channels": 1, "invert": False}
    write(folder, "home", prepare=prepared)
    write(folder, "away", seed=1, classes=5)
    write(folder, "small", (17, 17, 1))
    write(folder, "colour", (16, 16, 3))
    write(folder, "wide", scale=1.0, range=[0, 255])
    write(folder, "unknown", scale=1.0, range=None)
    return folder


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Runs that were trained on `home` and on `away`."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("home", "away"):
        flags = flags_of(SMALL | {"dataset": name, "n_train_iters": 1, "val_every": 0})
        succeed("main.py", "--savedir", folder / name, "--data_dir", data_dir, *flags)
    return folder


def test_of(savedir, *flags):
    return call("main.py", "--mode", "meta_test", "--savedir", savedir, *TEST, *flags)


test_of.__test__ = False


def test_a_run_meets_the_test_episodes_of_another_dataset(runs, data_dir, capsys):
    """They are those of a run that was trained there; the result says where the run was trained."""
    done = test_of(runs / "home", "--dataset", "away", "--across")
    assert done.returncode == 0, done.stderr
    assert test_of(runs / "away").returncode == 0
    across, at_home = (json.loads((runs / name / "meta_test.json").read_text()) for name in ("home", "away"))
    assert across["episodes_sha256"] == at_home["episodes_sha256"]
    own, other = (data.load(data_dir, name).sha256 for name in ("home", "away"))
    settings = across["settings"]
    assert (settings["dataset"], settings["data_sha256"]) == ("away", other)
    assert (settings["trained_on"], settings["trained_data_sha256"]) == ("home", own)
    assert "trained_on" not in at_home["settings"]
    assert "trained_on: home" in (runs / "home/meta_test.log").read_text()
    done = call("main.py", "--mode", "compare", "--savedir", runs / "away", runs / "home")
    lines = done.stdout.splitlines()
    assert lines[2].endswith("; trained on home") and "trained" not in lines[1]
    assert test_results.latest_test(runs / "home", across["weights_sha256"]) is None  # no accuracy of the run's own
    assert test_results.latest_test(runs / "away", at_home["weights_sha256"])
    assert json.loads((runs / "home/config.json").read_text())["dataset"] == "home"
    assert test_of(runs / "home").returncode == 0  # its own test is another result, and both are kept
    assert "trained_on" not in json.loads((runs / "home/meta_test.json").read_text())["settings"]
    assert len([*(runs / "home/tests").glob("meta_test-*.json")]) == 2
    assert "tested before" in test_of(runs / "home", "--dataset", "away", "--across").stdout


@pytest.mark.parametrize(
    ("run", "flags", "words"),
    [
        ("home", ["--dataset", "away"], "contradicts the run, which has home: it cannot be changed in a test without "),
        ("home", ["--across"], "on another dataset than home, which it was trained on: give its name as --dataset"),
        ("home", ["--across", "--dataset", "home"], "on another dataset than home"),
        ("home", ["--across", "--dataset", "nowhere"], "there is no dataset in"),
        ("home", ["--across", "--dataset", "small"], "16x16x1, and {data}/small has 17x17x1: make it at that size, "
         "with get_data.py --size 16"),
        ("away", ["--across", "--dataset", "small"], "16x16x1, and {data}/small has 17x17x1"),
        ("home", ["--across", "--dataset", "colour"], "has 16x16x3: choose another dataset"),
        ("home", ["--across", "--dataset", "wide"], "trained on, [0.0, 1.0], and {data}/wide has [0, 255]: choose"),
        ("home", ["--across", "--dataset", "unknown"], "--across needs the range of the network's inputs"),
        ("home", ["--across", "--dataset", "away", "--model", "maml"], "--model maml contradicts the run"),
        ("home", ["--across", "--dataset", "away", "--way", 6], "--way 6 is more than the 5 test classes"),
        ("home", ["--across", "--dataset", "away", "--split", "background"], "not made from all originals of Omniglot"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_across_is_refused(run, flags, words, runs, data_dir):
    assert_refused(test_of(runs / run, *flags), words.format(data=data_dir))


def test_a_run_on_vectors_is_tested_on_those_of_the_same_network(data_dir, tmp_path):
    network = {"backbone": "Net", "weights": "keras", "features": 8}
    prepared = {"v": network, "w": network, "x": network | {"weights": "0"}, "y": None}
    for seed, (name, prepare) in enumerate(prepared.items()):
        write(data_dir, name, (1, 1, 8), seed, scale=1.0, range=None, prepare=prepare)
    write(data_dir, "long", (1, 1, 9), scale=1.0, range=None)
    flags = flags_of(SMALL | {"dataset": "v", "n_train_iters": 1, "val_every": 0})
    succeed("main.py", "--savedir", tmp_path, "--data_dir", data_dir, *flags)
    assert test_of(tmp_path, "--across", "--dataset", "w").returncode == 0
    assert json.loads((tmp_path / "meta_test.json").read_text())["settings"]["trained_on"] == "v"
    for other in "xy":
        refused = test_of(tmp_path, "--across", "--dataset", other)
        assert_refused(refused, "of the network that made those of v, and", "with the same --backbone")
    assert_refused(test_of(tmp_path, "--across", "--dataset", "long"), "1x1x8, and", "has 1x1x9: choose another")
    assert_refused(test_of(tmp_path, "--across", "--dataset", "colour"), "has 16x16x3: choose another")


def test_a_run_of_unknown_range_is_not_tested_across(runs, tmp_path):
    config = json.loads((runs / "home/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"range": None}))
    done = test_of(tmp_path, "--across", "--dataset", "away")
    assert_refused(done, "and home did not declare it: declare it in the dataset's manifest.json, and train again")


def test_an_older_run_is_taken_for_one_on_images_of_its_datasets_size(tmp_path):
    """It does not say how its pictures were prepared. What is on the disk says more."""
    config = Config.of({"dataset": "omniglot", "data_dir": str(tmp_path)})
    assert across.own_dataset(config, str(tmp_path)) is None
    assert across.trained_shape(config, None) == (28, 28, 1)
    write(tmp_path, "omniglot", (32, 32, 1))
    own = across.own_dataset(config, str(tmp_path / "elsewhere"))
    assert across.trained_shape(config, own) == (32, 32, 1)
    prepared = replace(config, facts={"prepare": {"size": 20, "channels": 3}})
    assert across.trained_shape(prepared, own) == (20, 20, 3)
    with pytest.raises(UserError, match="there is no dataset in"):
        across.trained_shape(config.with_run(dataset="mine"), None)


def test_a_learner_that_knows_its_training_classes_is_tested_on_others(data_dir, tmp_path):
    """The baseline's weights have the number of training classes in their shapes."""
    flags = flags_of(SMALL | {"model": "baseline", "dataset": "home", "batch": 4, "n_train_iters": 1, "val_every": 0})
    succeed("main.py", "--savedir", tmp_path, "--data_dir", data_dir, *flags)
    done = test_of(tmp_path, "--dataset", "away", "--across")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


def test_classes_and_data_that_the_run_has_seen_are_noticed(runs, data_dir, tmp_path):
    """The data may have moved: --data_dir says where both datasets are now."""
    shutil.copytree(data_dir / "home", tmp_path / "home")
    shutil.copytree(data_dir / "home", tmp_path / "copy")
    write(tmp_path, "overlap", seed=2)
    manifest = json.loads((tmp_path / "overlap/manifest.json").read_text())
    manifest["splits"]["test"]["names"] = ["test0", "train2", "train3", "test1"]
    (tmp_path / "overlap/manifest.json").write_text(json.dumps(manifest))
    flags = "--across", "--data_dir", tmp_path, "--dataset"
    assert_refused(test_of(runs / "home", *flags, "copy"), "--across needs other data, and", "copy has those that the")
    done = test_of(runs / "home", *flags, "overlap")
    assert done.returncode == 0, done.stderr
    assert "warning: 2 of the 4 test classes of overlap have the names of classes that the run was" in done.stderr
    assert "(train2, ...)" in done.stderr
    (tmp_path / "home").rename(tmp_path / "gone")
    assert "warning" in test_of(runs / "home", *flags, "overlap", "--n_test_iters", 2).stderr  # where it was trained


def test_a_run_on_vectors_finds_its_moved_data(data_dir, tmp_path):
    """A run on vectors without a backbone does not know their length."""
    write(tmp_path / "old", "plain", (1, 1, 8), scale=1.0, range=None)
    write(tmp_path / "old", "others", (1, 1, 8), seed=1, scale=1.0, range=None)
    flags = flags_of(SMALL | {"dataset": "plain", "n_train_iters": 1, "val_every": 0})
    succeed("main.py", "--savedir", tmp_path / "run", "--data_dir", tmp_path / "old", *flags)
    (tmp_path / "old").rename(tmp_path / "new")
    done = test_of(tmp_path / "run", "--across", "--dataset", "others", "--data_dir", tmp_path / "new")
    assert done.returncode == 0, done.stderr


def test_only_a_dataset_that_has_sizes_is_to_be_made_at_another_one(tmp_path):
    trained = Config.of({"dataset": "mine", "data_dir": str(tmp_path)})
    trained = replace(trained, facts={"prepare": {"size": 17, "channels": 1}})
    for name, remedy in {"omniglot": "get_data.py --size 17", "glyphs": "choose another dataset"}.items():
        write(tmp_path, name)
        with pytest.raises(UserError, match=remedy):
            across.check(trained, trained.with_run(dataset=name))


@pytest.mark.parametrize("mode", ["collapse", "attack", "export"])
def test_no_other_mode_goes_across(mode, runs):
    done = call("main.py", "--mode", mode, "--savedir", runs / "home", "--across", "--dataset", "away")
    assert_refused(done, f"--across is not a flag of --mode {mode}")
