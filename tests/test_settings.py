"""Settings: what config.json says is read, whichever version wrote it, and what a flag may change."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import bench
import declared
import get_data
import main
import plot
import settings
import train_jax
from declared import value_of
from errors import UserError
from settings import Settings, accepts, setting, whole
from studies import classify, draw, robustness
from training import config
from training.config import Config

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
    old = Config.read(savedir)
    run = old.run
    assert (run.way, run.seed, run.data_dir, run.precision, run.train_split) == (5, 5, "elsewhere", "float32", "train")
    assert old.own() == {"n_steps": 3, "inner_lr": 0.4, "adapt": "all", "meta_gradient": "exact", "remat": False}
    assert {name: value for name, value in old.to_json().items() if name in OLD} == OLD
    tested = old.for_a_test().run  # a test has its own seed and device
    assert (tested.seed, tested.gpu_id, tested.jit, tested.query) == (0, None, "auto", 15)


def test_another_learners_settings_in_an_old_config_are_left_out(savedir):
    write(savedir, model="metanet_original")
    assert Config.read(savedir).own() == {"test_statistics": "running"}


def test_what_this_version_does_not_know_stays_in_the_config(savedir):
    write(savedir, data_sha256="abc", sessions=[{"program": "1"}], from_the_future=7)
    run = Config.read(savedir)
    assert run.facts == {"data_sha256": "abc", "sessions": [{"program": "1"}], "from_the_future": 7}
    assert run.merged({"n_train_iters": 900}, ["resume"], "").to_json()["from_the_future"] == 7


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"way": 1}, "way cannot be 1 "),
        ({"way": "5"}, "way cannot be '5' "),
        ({"way": 20.0}, "way cannot be 20.0"),
        ({"shot": True}, "shot cannot be True"),
        ({"way": None}, "way cannot be None"),
        ({"way": 10**4000}, "way cannot be 1000*[.]{3} "),
        ({"model": ["maml"]}, "model cannot be"),
        ({"model": None}, "model cannot be None [(]one of maml, metadrop"),
        ({"meta_lr": float("nan")}, "meta_lr cannot be nan"),
        ({"inner_lr": {}}, "inner_lr cannot be {}"),
        ({"sessions": 5}, "sessions 5, which no run can have"),
        ({"brightness": [0.1]}, "brightness \\[0.1\\], which no run can have"),
        ({"brightness": [0.1, "x"]}, "which no run can have"),
        ({"data_sha256": []}, "data_sha256 \\[\\], which no run"),
        ({"prepare": {"size": "28", "channels": 1}}, "prepare .*, which no run"),
        ({"prepare": {"size": 28, "channels": 2}}, "prepare .*, which no run"),
        ({"prepare": {"size": 10**6, "channels": 1}}, "prepare .*, which no run"),
        ({"prepare": {"side": 28}}, "prepare .*, which no run"),
        ({"prepare": [28, 1]}, "prepare .*, which no run"),
        ({"model": "maml++"}, "model cannot be 'maml[+][+]'"),
        ({"model": "metanet_original", "perturbation": "noise"}, "cannot have the perturbation 'noise'"),
        ({"model": "maml", "perturbation": "mask", "mask_rates": [0.1, 2]}, "mask_rates cannot be"),
        ({"legacy_shared_classes": "yes"}, "legacy_shared_classes cannot be 'yes'"),
    ],
)
def test_a_config_that_no_flags_could_give_is_refused(changed, words, savedir):
    write(savedir, **changed)
    with pytest.raises(UserError, match=words):
        Config.read(savedir)


@pytest.mark.parametrize("where", ["test", "resume"])
def test_only_what_is_overridable_may_differ_from_the_run(where, savedir):
    run = Config.read(savedir)
    fields = {field.name: field for part in run.parts for field in dataclasses.fields(part)}
    assert list(fields) == list(run.values())
    for name, field in fields.items():
        value = value_of(dataclass_field(field, run.values()[name]))
        if name in ("model", "perturbation"):  # which decide what other settings there are
            continue
        if where in field.metadata["overridable_in"]:
            assert run.merged({name: value}, [where], "").values()[name] == value
        else:
            with pytest.raises(UserError, match=f"--{name} .* contradicts the run.*: leave it"):
                run.merged({name: value}, [where], "leave it")
        assert run.merged({name: run.values()[name]}, [where], "") == run  # the same is no contradiction


def dataclass_field(field, default):
    """The field with another default."""
    changed = dataclasses.field(default=default, metadata=field.metadata)
    changed.name = field.name
    return changed


def test_what_may_differ_from_the_run_is_what_cannot_contradict_it():
    """In a test what decides the test; in a resumed training what moves nothing that was trained. Others' learners and
    perturbations may have more of it."""
    overridable = {
        "test": "seed gpu_id jit precision data_dir shot query metabatch n_test_mc_samp n_steps inner_lr "
        "test_statistics normalise n_test_steps inner_test_batch",
        "resume": "gpu_id jit data_dir n_train_iters save_freq collapse_every remat",
    }
    for where, names in overridable.items():
        found = {name for name in config.all_names() if where in declared.ALL[name].metadata["overridable_in"]}
        assert found >= set(names.split()), where
        ours = {field.name for kind in (config.RunSettings, config.TrainingSettings, config.TestingSettings)
                for field in dataclasses.fields(kind)}  # fmt: skip
        assert found & ours == set(names.split()) & ours, where
    metasgd = Config.of({"model": "metasgd"})  # whose step sizes are learned
    with pytest.raises(UserError, match=r"--inner_lr .* contradicts the run"):
        metasgd.merged({"inner_lr": 0.2}, ["test"], "")
    assert Config.of({"model": "maml"}).merged({"inner_lr": 0.2}, ["test"], "").own()["inner_lr"] == 0.2


def test_a_test_has_its_own_seed_and_device_and_all_else_of_the_run():
    run = Config.of({"seed": 5, "gpu_id": "1", "jit": "on", "precision": "bf16", "metabatch": 3, "query": 2})
    tested = run.for_a_test()
    assert (tested.run.seed, tested.run.gpu_id, tested.run.jit) == (0, None, "auto")
    assert tested == dataclasses.replace(run, run=dataclasses.replace(run.run, seed=0, gpu_id=None, jit="auto"))


def test_config_json_has_the_keys_and_the_order_that_it_had():
    """Of the run, and not how it is tested."""
    keys = """seed gpu_id jit precision dataset data_dir split train_split way shot query metabatch
        legacy_shared_classes model perturbation channels meta_lr clip_norm adversarial adversarial_steps n_train_iters
        save_freq val_every n_val_tasks collapse_every n_test_mc_samp n_steps inner_lr adapt meta_gradient remat
        mask_rates mask_scaled mask_support_only mask_per_sample data_sha256"""
    run = Config.of({"model": "maml", "perturbation": "mask"}, {"data_sha256": "a"})
    assert " ".join(run.to_json()) == " ".join(keys.split())


def test_a_file_that_travels_says_nothing_of_the_machine():
    session = {"program": "1", "device": "CPU", "command": "main.py --savedir /home/somebody"}
    run = Config.of({"data_dir": "/home/somebody", "gpu_id": "3", "jit": "on"}, {"sessions": [session], "other": 7})
    portable = run.portable()
    assert run.to_json().keys() - portable.keys() == {"data_dir", "gpu_id", "jit"}
    assert portable["sessions"] == [{"program": "1", "device": "CPU"}] and portable["other"] == 7


def test_results_of_other_tests_are_told_apart():
    maml = {"model": "maml", "perturbation": "noise"}
    tests = [
        {}, {"dataset": "glyphs"}, {"split": "background"}, {"way": 5}, {"shot": 2}, {"query": 6}, {"seed": 1},
        {"n_steps": 2}, {"inner_lr": 0.2}, {"meta_gradient": "exact"}, maml, maml | {"perturbation": "fixed"},
    ]  # fmt: skip
    assert len({json.dumps(Config.of(test).identity(), sort_keys=True) for test in tests}) == len(tests)


def test_a_test_is_the_same_however_it_is_computed_and_looked_at():
    same = {"metabatch": 4, "data_dir": "elsewhere", "save_freq": 3, "checkpoint": "best", "meta_lr": 0.5}
    assert Config.of(same).identity() == Config.of({}).identity()


@pytest.mark.parametrize(
    ("reader", "taken", "refused"),
    [
        (settings.positive, ["0.5", "1e-9", "1.2e-38"], ["0", "-1", "inf", "1e39", "1e-39", "nan", "x", ""]),
        (settings.whole(1), ["1", "12"], ["0", "1.0", "", "-", "٣", "9" * 5000]),
        (settings.not_negative, ["0", "2.5"], ["-0.5", "inf", "1e39", "nan", ""]),
        (config.folder_name, ["omniglot", "my-own"], ["", "a/b", "../a", "/a"]),
        (config.norm_and_radius, ["linf:0.02", "l1_dense:3"], ["linf", "l3:1", "linf:0", "linf:x", ":1", "l2:inf"]),
        (config.gpus, ["-1", "0", "0,1"], ["", "0,", "-2", "0,-1", "a"]),
        (robustness.share, ["0.5", "1"], ["0", "1.5", "nan"]),
        (classify.number_of_parts, ["0", "2"], ["1", "-1", "x"]),
        (draw.host, ["box", "Box:9000", "[::1]:80"], ["", "a b", "box:123456"]),
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
    for name, value in least.items():
        field = declared.ALL[name]
        assert accepts(field, value) and not accepts(field, value - 1), name
    for name, value in {
        "seed": 2**31 - 1,
        "n_train_iters": 2**31 - 1,
        "n_test_mc_samp": 100_000,
        "port": 65535,
    }.items():
        field = declared.ALL[name]
        assert accepts(field, value) and not accepts(field, value + 1), name


def test_the_pictures_to_classify_may_be_called_the_query(tmp_path):
    """As before --pictures; a number is then a folder's name, and in all other modes a number of images."""
    for flag in ("--pictures", "--query"):
        assert main.read_command(["--mode", "classify", flag, "7"])["pictures"] == Path("7")
    assert main.read_command(["--query", "7"])["query"] == 7


def test_results_of_attacks_are_compared_by_two_flags():
    for words, results in ((["--attack"], "attack"), (["--results", "attack"], "attack"), ([], None)):
        assert main.read_command(["--mode", "compare", *words]).get("results") == results


def test_a_list_becomes_a_tuple_and_stands_for_one():
    masked = Config.of({"model": "maml", "perturbation": "mask", "mask_rates": [0.1, 0.2, 0.3]})
    assert masked == Config.of(masked.values() | {"mask_rates": (0.1, 0.2, 0.3)})
    assert masked.values()["mask_rates"] == [0.1, 0.2, 0.3]  # as JSON has it
    assert not accepts(declared.ALL["mask_rates"], (0.1, 0.2))
    assert accepts(declared.ALL["eps"], [0.1, 0.2]) and not accepts(declared.ALL["eps"], [0.1, -0.2])
    assert not accepts(declared.ALL["eps"], []) and not accepts(declared.ALL["eps"], 0.1)


@pytest.mark.parametrize("missing", ["dataset", "model", "way", "shot", "query", "seed"])
def test_a_config_without_what_every_run_has_is_refused(missing, savedir):
    (savedir / "config.json").write_text(json.dumps({k: v for k, v in OLD.items() if k != missing}))
    with pytest.raises(UserError, match="cannot be read"):
        Config.read(savedir)


@dataclasses.dataclass(frozen=True)
class Steps(Settings):
    steps: int = setting(5, "how many", whole(0))


def test_settings_are_checked_wherever_they_come_from():
    assert Steps(steps=3).steps == 3 and Steps.of({"steps": 2, "others": 1}) == Steps(2)
    with pytest.raises(ValueError, match=r"steps cannot be -1 \(how many\)"):
        Steps(steps=-1)
    for value in (np.array([1, 2]), [5], "5", 5.0, True, None):
        with pytest.raises(ValueError, match="steps cannot be"):
            Steps(steps=value)
    with pytest.raises(TypeError, match="others"):
        Steps(others=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Steps().steps = 1


def test_numbers_of_numpy_and_paths_are_taken_as_their_flags_would_give_them(tmp_path, monkeypatch):
    """From Python. JSON knows no numbers of numpy's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = {"way": np.int64(5), "inner_lr": np.float64(0.25), "data_dir": tmp_path, "model": "maml"}
    config = Config.of_flags(flags)
    assert json.loads(json.dumps(config.to_json()))["inner_lr"] == 0.25 and type(config.run.way) is int
    assert config.run.data_dir == str(tmp_path)
    assert Config.of_flags({"data_dir": "~/data"}).run.data_dir == str(tmp_path / "data")
    with pytest.raises(UserError, match="way cannot be 1 "):
        Config.of_flags({"way": np.int64(1)})


def test_a_flag_is_declared_once_and_takes_its_default_and_another_value():
    for mode in main.MODES:
        for name, field in declared.fields_of(mode).items():
            assert accepts(field, field.default) and field.name == name
            assert accepts(field, value_of(field)) and value_of(field) != field.default, name
    common = {field.name for kind in (config.RunSettings, config.TrainingSettings, config.TestingSettings)
              for field in dataclasses.fields(kind)}  # fmt: skip
    for owners in config.own_fields().values():
        for owner, fields in owners.items():
            assert not common & {field.name for field in fields}, owner


@pytest.mark.parametrize("text", ["-1", "1.5", "--5", "²", "", "5 6", "101"])
def test_whole_numbers_have_their_range(text):
    assert whole(0, 100)("100") == 100
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be a whole number of at (least 0|most 100), not"):
        whole(0, 100)(text)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    """Shells leave it as it is in --flag=~/x, and a folder that is called ~ is nobody's wish."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").mkdir()
    paths = set()
    commands = {mode: main.command_line(mode, {}) for mode in main.MODES}
    commands |= {"plot": plot.parser(), "train_jax": train_jax.parser()}
    for program, parser in commands.items():
        for action in parser._actions:
            if action.nargs == 0 or action.choices or action.dest == "layers":
                continue
            try:
                value = (action.type or str)("~/x")
            except (argparse.ArgumentTypeError, ValueError):
                continue  # not a path
            assert str(value) == f"{tmp_path}/x", (program, action.dest)
            paths.add(action.dest)
    assert paths >= {"savedir", "weights", "data_dir", "surrogate", "support", "pictures", "out", "program"}, paths
    assert bench.read_command(["--export", "~/x", "--data_dir", "d"])[2].export == tmp_path / "x"
    asked = get_data.parse(["--dataset=mine", "--source=~/x", "--data_dir=~/d", "--split_file=~/x"])
    assert asked.target == tmp_path / "d/mine"
    assert asked.settings.source == asked.settings.split_file == tmp_path / "x"
    assert get_data.parse(["--dataset=mine", "--source=tfds:~x"]).settings.source.name == "tfds:~x"
    assert settings.path_text("a/~/b") == "a/~/b"
    for name in ("~", "~x/y"):  # a folder in the current one may have this name
        assert classify.ClassifySettings.of({"support": settings.to_path(f"./{name}")}).support == Path(name)
    with pytest.raises(argparse.ArgumentTypeError, match="it is empty"):
        settings.to_path("")


def test_help_groups_flags_by_their_owners():
    """A flag that several have is shown once, as the first declares it, with the default of each."""
    many = dataclasses.make_dataclass(
        "Many", [("steps", int, setting(9, "another help", whole(0)))], bases=(Settings,), frozen=True
    )
    groups = settings.by_owners({"a": dataclasses.fields(Steps), "b": dataclasses.fields(Steps)})
    assert {names: [field.name for field in fields] for names, fields in groups.items()} == {("a", "b"): ["steps"]}
    ((field,),) = settings.by_owners({"a": dataclasses.fields(Steps), "b": dataclasses.fields(many)}).values()
    assert field.metadata["help"] == "how many (default: 5 for a, 9 for b)" and field.default is None
    assert len(settings.by_owners({"a": dataclasses.fields(Steps), "b": ()})) == 1
