"""Settings: what config.json says is read, whichever version wrote it, and what a flag may change."""

import argparse
import dataclasses
import json
import pathlib

import pytest

import bench
import flags
import get_data
import learners
import main
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
        ({"way": "5"}, "way '5', which no --way can be"),
        ({"way": 20.0}, "way 20.0, which no"),
        ({"shot": True}, "shot True, which no"),
        ({"way": None}, "way None, which no"),
        ({"way": 10**4000}, "way 1000*[.]{3}, which no"),
        ({"model": ["maml"]}, "which no --model can be"),
        ({"model": None}, "model None, which no"),
        ({"meta_lr": float("nan")}, "meta_lr nan, which no"),
        ({"inner_lr": {}}, "inner_lr {}, which no"),
        ({"sessions": 5}, "sessions 5, which no run can have"),
        ({"brightness": [0.1]}, "brightness \\[0.1\\], which no run can have"),
        ({"brightness": [0.1, "x"]}, "which no run can have"),
        ({"data_sha256": []}, "data_sha256 \\[\\], which no run"),
        ({"prepare": {"size": "28", "channels": 1}}, "prepare .*, which no run"),
        ({"prepare": {"size": 28, "channels": 2}}, "prepare .*, which no run"),
        ({"prepare": {"size": 10**6, "channels": 1}}, "prepare .*, which no run"),
        ({"prepare": {"side": 28}}, "prepare .*, which no run"),
        ({"prepare": [28, 1]}, "prepare .*, which no run"),
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


def test_what_may_differ_from_the_run_is_what_cannot_contradict_it():
    """In a test what decides the test; in a resumed training what moves nothing that was trained."""
    free = {
        "test": "seed gpu_id jit precision data_dir shot query metabatch n_test_mc_samp n_steps inner_lr "
        "test_statistics normalise",
        "resume": "gpu_id jit data_dir n_train_iters save_freq collapse_every remat",
    }
    declared = settings.all_settings()
    for where, names in free.items():
        found = {name for name, one in declared.items() if where in one.free and settings.is_kept(name)}
        assert found == set(names.split()), where
    metasgd = Settings.of({"model": "metasgd"})  # whose step sizes are learned
    with pytest.raises(UserError, match=r"--inner_lr .* contradicts the run"):
        metasgd.merged({"inner_lr": 0.2}, "test", "")
    assert Settings.of({"model": "maml"}).merged({"inner_lr": 0.2}, "test", "").own["inner_lr"] == 0.2


def test_a_test_has_its_own_seed_and_device_and_all_else_of_the_run():
    run = Settings.of({"seed": 5, "gpu_id": "1", "jit": "on", "precision": "bf16", "metabatch": 3, "query": 2})
    tested = run.for_a_test()
    assert (tested.seed, tested.gpu_id, tested.jit) == (0, None, "auto")
    assert tested == dataclasses.replace(run, seed=0, gpu_id=None, jit="auto")


def test_config_json_has_the_run_and_not_how_it_is_looked_at():
    left_out = {name for name in Settings().values() if name not in Settings().config()}
    shown = ("n_test_iters checkpoint export_tasks export_samples export_images export_channels attack_method norm eps "
             "attack_steps attack_step attack_start restarts threat attack_loss surrogate surrogate_draws")  # fmt: skip
    assert left_out >= set(shown.split()) and not left_out & {"n_test_mc_samp", "seed", "query", "precision", "split"}
    assert all(name in settings.all_settings() for name in left_out)


def test_a_file_that_travels_says_nothing_of_the_machine():
    session = {"program": "1", "device": "CPU", "command": "main.py --savedir /home/somebody"}
    run = Settings.of({"data_dir": "/home/somebody", "gpu_id": "3", "jit": "on"}, {"sessions": [session], "other": 7})
    portable = run.portable()
    assert run.config().keys() - portable.keys() == {"data_dir", "gpu_id", "jit"}
    assert portable["sessions"] == [{"program": "1", "device": "CPU"}] and portable["other"] == 7


def test_results_of_other_tests_are_told_apart():
    maml = {"model": "maml", "perturbation": "noise"}
    tests = [
        {}, {"dataset": "glyphs"}, {"split": "background"}, {"way": 5}, {"shot": 2}, {"query": 6}, {"seed": 1},
        {"n_steps": 2}, {"inner_lr": 0.2}, {"meta_gradient": "exact"}, maml, maml | {"perturbation": "fixed"},
    ]  # fmt: skip
    assert len({json.dumps(Settings.of(test).identity(), sort_keys=True) for test in tests}) == len(tests)


def test_a_test_is_the_same_however_it_is_computed_and_looked_at():
    same = {"metabatch": 4, "data_dir": "elsewhere", "save_freq": 3, "checkpoint": "best", "meta_lr": 0.5}
    assert Settings.of(same).identity() == Settings.of({}).identity()


@pytest.mark.parametrize(
    ("reader", "taken", "refused"),
    [
        (flags.positive, ["0.5", "1e-9"], ["0", "-1", "inf", "nan", "x", ""]),
        (flags.not_negative, ["0", "2.5"], ["-0.5", "inf", "nan", ""]),
        (settings.folder_name, ["omniglot", "my-own"], ["", "a/b", "../a", "/a"]),
        (settings.adversary, ["linf:0.02", "l1_dense:3"], ["linf", "l3:1", "linf:0", "linf:x", ":1", "l2:inf"]),
        (settings.gpus, ["-1", "0", "0,1"], ["", "0,", "-2", "0,-1", "a"]),
        (settings.count_or_folder, ["5", "007", "pictures", "-x"], ["0", "-3", ""]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_reader_takes_what_a_flag_can_be(reader, taken, refused):
    for text in taken:
        reader(text)
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError):
            reader(text)


def test_every_number_has_its_least_value():
    """None is smaller than what a run can do with it, nor larger."""
    least = {
        "seed": 0, "way": 2, "shot": 1, "query": 1, "metabatch": 1, "channels": 1, "n_train_iters": 0, "save_freq": 1,
        "val_every": 0, "n_val_tasks": 1, "collapse_every": 0, "adversarial_steps": 1, "n_test_iters": 1,
        "n_test_mc_samp": 1, "export_tasks": 1, "export_samples": 1, "export_images": 1, "export_channels": 1,
        "attack_steps": 1, "restarts": 1, "surrogate_draws": 1, "n_steps": 0, "train_way": 2, "port": 0,
    }  # fmt: skip
    declared = settings.all_settings() | settings.COMMAND
    for name, value in least.items():
        assert declared[name].accepts(value) and not declared[name].accepts(value - 1), name
    for name, value in {
        "seed": 2**31 - 1,
        "n_train_iters": 2**31 - 1,
        "n_test_mc_samp": 100_000,
        "port": 65535,
    }.items():
        assert declared[name].accepts(value) and not declared[name].accepts(value + 1), name


def test_a_number_of_query_images_is_none_and_a_folder_may_be_named_as_one():
    assert settings.count_or_folder("7") == 7 and settings.count_or_folder("007") == pathlib.Path("007")
    for mode in ("meta_train", "meta_test", "collapse", "attack", "export", "bench"):
        with pytest.raises(UserError, match="--query must be a whole number"):
            settings.refuse_unused({"query": pathlib.Path("pictures")}, mode)
    settings.refuse_unused({"query": pathlib.Path("pictures")}, "classify")


def test_a_tuple_stands_for_a_list():
    assert settings.all_settings()["mask_rates"].accepts((0.1, 0.2, 0.3))
    assert not settings.all_settings()["mask_rates"].accepts((0.1, 0.2))


@pytest.mark.parametrize("missing", ["dataset", "model", "way", "shot", "query", "seed"])
def test_a_config_without_what_every_run_has_is_refused(missing, savedir):
    (savedir / "config.json").write_text(json.dumps({k: v for k, v in OLD.items() if k != missing}))
    with pytest.raises(UserError, match="cannot be read"):
        Settings.read(savedir)


def test_every_setting_is_declared_once_and_accepts_its_default():
    own = [owner.settings for owner in (*(entry.learner for entry in learners.LEARNERS.values()),)]
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
