"""Settings: what config.json says is read, whichever version wrote it, and what a flag may change."""

import argparse
import dataclasses
import json

import pytest

import bench
import flags
import get_data
import main
import model
import plot
import settings
import train_jax
from errors import UserError
from settings import Settings

# What the first version wrote, whose learners all had the same settings: no perturbation, no precision, no digest.
OLD = {
    "seed": 5, "gpu_id": "-1", "jit": "auto", "dataset": "omniglot", "data_dir": "elsewhere", "split": "shuffled",
    "way": 5, "shot": 1, "query": 15, "metabatch": 4, "model": "metadrop", "channels": None, "n_steps": 3,
    "inner_lr": 0.4, "meta_gradient": "exact", "meta_lr": 0.001, "n_train_iters": 800, "save_freq": 100,
    "val_every": 100, "n_val_tasks": 100, "n_test_mc_samp": 1,
}  # fmt: skip


@pytest.fixture
def savedir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD))
    return tmp_path


def write(savedir, **changed):
    (savedir / "config.json").write_text(json.dumps(OLD | changed))


def test_an_old_config_is_read_and_what_is_newer_has_its_default(savedir):
    run = Settings.read(savedir)
    assert (run.way, run.seed, run.data_dir, run.precision, run.train_split) == (5, 5, "elsewhere", "float32", "train")
    assert run.own == {"n_steps": 3, "inner_lr": 0.4, "adapt": "all", "meta_gradient": "exact", "remat": False}
    assert {name: value for name, value in run.config().items() if name in OLD} == OLD
    tested = run.for_a_test()  # a test has its own seed and device
    assert (tested.seed, tested.gpu_id, tested.jit, tested.query) == (0, None, "auto", 15)


def test_another_learners_settings_in_an_old_config_are_left_out(savedir):
    write(savedir, model="metanet_original")
    assert Settings.read(savedir).own == {"test_statistics": "running"}


def test_what_this_version_does_not_know_stays_in_the_config(savedir):
    write(savedir, data_sha256="abc", sessions=[{"program": "1"}], from_the_future=7)
    run = Settings.read(savedir)
    assert run.facts == {"data_sha256": "abc", "sessions": [{"program": "1"}], "from_the_future": 7}
    assert run.merged({"n_train_iters": 900}, "resume", "").config()["from_the_future"] == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"way": 1}, "way 1, which no --way can be"),
        ({"model": "maml++"}, "model 'maml[+][+]'"),
        ({"model": "metanet_original", "perturbation": "noise"}, "cannot have the perturbation 'noise'"),
        ({"mask_rates": [0.1, 2]}, "mask_rates"),
        ({"legacy_shared_classes": "yes"}, "legacy_shared_classes 'yes'"),
    ],
)
def test_a_config_that_no_flags_could_give_is_refused(changed, words, savedir):
    write(savedir, **changed)
    with pytest.raises(UserError, match=words):
        Settings.read(savedir)


def test_only_what_is_free_may_differ_from_the_run(savedir):
    run = Settings.read(savedir)
    for where in ("test", "resume"):
        for name, declared in settings.all_settings().items():
            if name not in run.values() or name in ("model", "perturbation"):
                continue
            value = {"gpu_id": "0", "clip_norm": 1.0, "channels": 4}.get(name)
            if value is None:
                other = [choice for choice in declared.choices or () if choice != run.values()[name]]
                default = run.values()[name]
                value = other[0] if other else not default if default is False else f"{default}x"
                value = default + 1 if isinstance(default, int | float) and default is not False else value
            if where in declared.free or not settings.is_kept(name):
                assert run.merged({name: value}, where, "").values()[name] == value
            else:
                with pytest.raises(UserError, match=f"--{name} .* contradicts the run.*: leave it"):
                    run.merged({name: value}, where, "leave it")
            assert run.merged({name: run.values()[name]}, where, "") == run  # the same is no contradiction


def test_every_setting_is_declared_once_and_accepts_its_default():
    own = [owner.settings for owner in (*(entry.learner for entry in model.LEARNERS.values()),)]
    for declared in own:
        assert not declared.keys() & settings.COMMON.keys()
    for name, declared in settings.all_settings().items():
        assert declared.accepts(declared.default), name
    assert dataclasses.asdict(Settings()).keys() == {*settings.COMMON, "own", "facts"}


@pytest.mark.parametrize("text", ["-1", "1.5", "--5", "²", "", "5 6", "101"])
def test_whole_numbers_have_their_range(text):
    assert flags.whole(0, 100)("100") == 100
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number of at (least 0|most 100), not"):
        flags.whole(0, 100)(text)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    """Shells leave it as it is in --flag=~/x, and a folder that is called ~ is nobody's wish."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    paths = set()
    commands = {"main": main.parser(), "plot": plot.parser(), "train_jax": train_jax.parser()}
    for program, parser in commands.items():
        for action in parser._actions:
            if action.nargs == 0 or action.choices or action.dest == "layers":
                continue
            try:
                value = (action.type or str)("~/x")
            except (argparse.ArgumentTypeError, ValueError):
                continue  # not a path
            assert str(value) == f"{tmp_path}/x", (program, action.dest)
            paths.add(f"{program} {action.dest}")
    assert len(paths) == 11, paths
    assert bench.OWN["export"].read("~/x") == tmp_path / "x"
    asked = get_data.parse(["--dataset=mine", "--source=~/x", "--data_dir=~/d", "--split_file=~/x"])
    assert asked.target == tmp_path / "d/mine"
    assert asked.settings["source"] == asked.settings["split_file"] == tmp_path / "x"
    assert get_data.parse(["--dataset=mine", "--source=tfds:~x"]).settings["source"].name == "tfds:~x"
    assert flags.path_text("a/~/b") == "a/~/b"
    with pytest.raises(argparse.ArgumentTypeError, match="it is empty"):
        flags.to_path("")
