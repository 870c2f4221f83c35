"""The seams between the command line, the data, the engine and the learners: which classes a mode sees, what a flag's
default is, where its value arrives."""

import collections
import contextlib
import dataclasses
import importlib
import json
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import data
import declared
import learners
import main
import model
import optimizers
from conftest import ROOT, SETTINGS, assert_refused, call, flags_of, succeed
from declared import fields_of, other, value_of
from errors import UserError
from settings import Settings
from sources import arrays
from studies import collapse as study
from studies import robustness
from training import devices, identity, loops, programs, steps
from training.config import Config, own_fields

# The base classes of a split, each of one grey that all its images are filled with, whichever way they are turned.
GREYS = {"train": {10, 20, 30, 40, 50, 60}, "val": {100, 110, 120, 130}, "test": {200, 210, 220, 230, 240}}
IMAGES = 5


def small(**changed) -> list[str]:
    """A learner that is traced in a second: without inner steps."""
    return flags_of(SETTINGS | {"model": "maml", "channels": 2, "n_steps": 0} | changed)


def write_greys(data_dir, dataset="glyphs", depth=1, rotations=4):
    """data_dir/dataset with GREYS, 16 x 16 x depth."""
    with arrays.making(data_dir / dataset) as folder:
        for split, greys in GREYS.items():
            images = np.array(sorted(greys), np.uint8)[:, None, None, None, None]
            arrays.save(folder / f"{split}.npy", np.tile(images, (1, IMAGES, 16, 16, depth)))
        names = {split: [f"{split}{grey}" for grey in sorted(greys)] for split, greys in GREYS.items()}
        arrays.write_manifest(folder, dataset, names, {"given": "a test", "files": []}, rotations, split_seed=0)


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("greys")
    write_greys(data_dir)
    write_greys(data_dir, "mimgnet", depth=3, rotations=1)
    return data_dir


@contextlib.contextmanager
def watching():
    """-> for every compiled step, in the order of their tracing, the greys of each task that it computes."""
    traced, gather = [], data.gather

    def watched(*args):
        tasks = []
        traced.append(tasks)

        def look(x_s, x_q):
            for support, query in zip(x_s, x_q, strict=True):
                greys = [set(np.rint(255 * x).astype(int).ravel().tolist()) for x in (support, query)]
                assert greys[0] == greys[1]  # a task's query images are of its support set's classes
                tasks.append(greys[0])

        x_s, x_q = gather(*args)
        with tf.control_dependencies([tf.numpy_function(look, [x_s, x_q], [])]):
            return tf.identity(x_s), tf.identity(x_q)

    # with compiled steps of its own, which no other test's engine shares
    with mock.patch.object(data, "gather", watched), mock.patch.object(programs, "PROGRAMS", collections.OrderedDict()):
        yield traced


def union(tasks: list[set]) -> set[int]:
    return set().union(*tasks)


@pytest.fixture(scope="module")
def trained(greys, tmp_path_factory):
    """A run of 21 iterations, and what its steps saw."""
    flags = ("--n_train_iters", 20, "--val_every", 8, "--n_val_tasks", 6, "--collapse_every", 20)
    savedir = tmp_path_factory.mktemp("runs") / "run"
    with watching() as steps:
        succeed("main.py", "--savedir", savedir, "--data_dir", greys, *small(), *flags)
    return savedir, steps


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "run")


def test_training_sees_the_training_classes_and_validation_those_of_validation(trained):
    """And no others; as many tasks as the flags say: validation before the first update, every 8, and at the end."""
    training, *others = trained[1]
    validation, watch = sorted(others, key=len, reverse=True)
    assert (len(training), len(validation), len(watch)) == (21 * 2, 4 * 6, 2 * 2)
    assert union(training) == GREYS["train"] and union(watch) <= GREYS["train"]
    assert union(validation) == GREYS["val"]
    # every task has classes of its own
    assert not all(a == b for a, b in zip(training[::2], training[1::2], strict=True))


def test_trainval_trains_on_the_validation_classes_too_and_validates_on_none(greys, tmp_path):
    """With --legacy_shared_classes: a metabatch's tasks have the same classes."""
    flags = ("--n_train_iters", 20, "--val_every", 10, "--train_split", "trainval", "--legacy_shared_classes")
    with watching() as steps:
        succeed("main.py", "--savedir", tmp_path / "a", "--data_dir", greys, *small(), *flags)
    (training,) = steps
    assert union(training) == GREYS["train"] | GREYS["val"]
    assert training[::2] == training[1::2] and len(set(map(frozenset, training))) > 1


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("meta_test", ("--n_test_iters", 12, "--metabatch", 4)),
        ("collapse", ("--n_test_iters", 12)),
        ("export", ("--export_tasks", 12, "--way", 3)),
    ],
)
def test_what_looks_at_a_trained_run_sees_the_test_classes(mode, flags, run):
    with watching() as steps, mock.patch.object(data, "sample", wraps=data.sample) as sample:
        succeed("main.py", "--mode", mode, "--savedir", run, *flags)
    (tested,) = steps
    assert len(tested) == 12 and union(tested) == GREYS["test"]
    # and all modes the same episodes: of the stream `test`, of the seed 0, by their numbers
    drawn = {call.args[1:4] for call in sample.call_args_list}
    assert drawn == {("test", 0, i) for i in range(12)}


def test_other_data_than_the_runs_are_refused_wherever_they_are(run, greys, tmp_path):
    """Digests in config.json, results and exports; the same data may move."""
    flags = ("--n_test_iters", 3)
    config = json.loads((run / "config.json").read_text())
    moved = tmp_path / "moved"
    write_greys(moved)
    succeed("main.py", "--mode", "meta_test", "--savedir", run, *flags, "--data_dir", moved)
    assert json.loads((run / "meta_test.json").read_text())["settings"]["data_sha256"] == config["data_sha256"]
    succeed("main.py", "--mode", "export", "--savedir", run, "--export_tasks", 1, "--data_dir", moved)
    with np.load(run / "export.npz") as file:
        assert json.loads(str(file["settings"]))["data_sha256"] == config["data_sha256"]
    pixels = np.load(moved / "glyphs/test.npy")
    with arrays.making(moved / "glyphs") as folder:  # one pixel of the test classes is another
        manifest = json.loads((greys / "glyphs/manifest.json").read_text())
        pixels[0, 0, 0, 0] += 1
        for split in GREYS:
            arrays.save(folder / f"{split}.npy", pixels if split == "test" else np.load(greys / f"glyphs/{split}.npy"))
        names = {split: entry["names"] for split, entry in manifest["splits"].items()}
        arrays.write_manifest(folder, "glyphs", names, manifest["source"], 4, split_seed=0)
    for mode in ("meta_test", "collapse", "export", "meta_train"):
        more = ["--resume"] if mode == "meta_train" else []
        refused = call("main.py", "--mode", mode, "--savedir", run, "--data_dir", moved, *more)
        assert_refused(refused, "other data than the run was trained on", "--data_dir")


@pytest.mark.parametrize("changed", ["roles", "way", "seed", "pixels", "number"])
def test_tests_on_other_episodes_are_told_apart(changed):
    """5 shots and 11 queries draw the same images as 1 shot and 15 queries."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 16, 1), np.uint8)

    def digest(pixels=pixels, shot=1, way=3, seed=0, episodes=4):
        settings = {"image_shape": (16, 16, 1), "channels": 2, "n_steps": 0, "inner_lr": 0.1}
        maml = learners.make("maml", way=way, **settings)
        one = steps.Engine(maml, shot=shot, query=16 - shot, metabatch=1, seed=seed)
        return identity.episodes_digest(one, data.Split(pixels, 4, 1 / 255), episodes)

    other = {"roles": {"shot": 5}, "way": {"way": 4}, "seed": {"seed": 1}, "pixels": {"pixels": pixels ^ 1},
             "number": {"episodes": 5}}[changed]  # fmt: skip
    assert digest() == digest() != digest(**other)


def test_the_digest_of_a_dataset_is_of_all_that_decides_its_pixels(greys):
    manifest = json.loads((greys / "glyphs/manifest.json").read_text())
    entry = manifest["splits"]["val"]
    others = [
        manifest | {"rotations": 1},
        manifest | {"scale": 1.0},
        manifest | {"image_shape": [8, 32, 1]},
        manifest | {"splits": manifest["splits"] | {"val": entry | {"sha256": "another"}}},
    ]
    assert data.load(greys, "glyphs").sha256 == data.digest(manifest)
    assert len({data.digest(m) for m in (manifest, *others)}) == 5
    when = manifest | {"created": "another day", "source": {"given": "another folder", "files": []}}
    assert data.digest(when) == data.digest(manifest)


# ---- flags: their defaults, and where they arrive


def test_the_defaults_are_the_papers_and_the_tf1_codes():
    golden = {
        "seed": 0, "dataset": "omniglot", "data_dir": "data", "way": 20, "shot": 1, "query": 5, "metabatch": 16,
        "model": "metadrop", "n_steps": 5, "inner_lr": 0.1, "meta_gradient": "published", "meta_lr": 1e-3,
        "n_train_iters": 60000, "save_freq": 1000, "n_test_iters": 1000, "n_test_mc_samp": 1,
        "attack_steps": 40, "square_share": 0.8, "mask_rates": (0.05, 0.1, 0.15), "vib_beta": 1e-3,
        "information_beta": 6e-5, "information_max_alpha": 0.7, "mix_alpha": None, "train_way": None,
    }  # fmt: skip
    assert {name: declared.ALL[name].default for name in golden} == golden
    assert declared.fields_of("classify")["n_test_mc_samp"].default == 10
    assert declared.fields_of("export")["way"].default == 2


ALIASES = {"classify": ("query",), "compare": ("attack",)}


@pytest.mark.parametrize("mode", main.MODES)
def test_a_mode_refuses_every_flag_that_it_does_not_use(mode, tmp_path):
    used = fields_of(mode)
    words = [str(word) for name, field in used.items() for word in (f"--{name}", *other(field))]
    assert main.command_line(mode, {}).read(words).keys() == used.keys()
    for name, field in declared.ALL.items():
        if name not in used and name not in ALIASES.get(mode, ()):
            refused = call("main.py", "--mode", mode, "--savedir", tmp_path / "a", f"--{name}", *other(field))
            assert_refused(refused, f"--{name} is not a flag of --mode {mode}", "leave it out")


def test_a_flag_that_argparse_takes_for_a_folder_or_for_nothing_is_refused():
    """It takes an unknown --flag=VALUE for one more folder if there is a space in VALUE, and --flag=-- for no value."""
    run = ("--mode", "meta_test", "--savedir", "a")
    assert_refused(call("main.py", *run, "--out=my table.csv"), "--out is not a flag of --mode meta_test: leave it out")
    assert_refused(call("main.py", *run, "--checkpoint=--"), "--checkpoint: it is empty")
    command = main.read_command([*run, "--data_dir=my data"])
    assert (command["savedir"], command["data_dir"]) == (["a"], "my data")


def test_help_is_shown_whatever_the_run_is(tmp_path):
    for name in ("config.json", "weights.npz"):
        (tmp_path / name).write_text("damaged")
    for place in (("--savedir", tmp_path), ("--weights", tmp_path / "weights.npz")):
        assert "--test_statistics" in succeed("main.py", "--mode", "meta_test", *place, "--help").stdout
        assert call("main.py", "--mode", "meta_test", "--savedir", "a", *place).returncode == 2


@pytest.mark.parametrize("mode", ["meta_train", "attack", "classify"])
def test_help_and_refusals_need_no_tensorflow(mode):
    code = "import sys; sys.modules['tensorflow'] = None; import main; main.run(main.main)"
    for word, exit_code in (("--help", 0), ("--none", 2)):
        command = [sys.executable, "-c", code, "--mode", mode, word]
        asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert asked.returncode == exit_code and f"--mode {mode}" in asked.stdout + asked.stderr, asked.stderr


def test_a_mode_uses_what_it_is_for():
    """Training settings are used in training alone, and a test's own in a test."""
    training = {"train_split", "legacy_shared_classes", "meta_lr", "clip_norm", "adversarial", "n_train_iters"}
    training |= {"val_every", "remat", "random_steps", "train_way", "resume"}
    for mode in main.MODES:
        used = fields_of(mode).keys()
        assert training <= used if mode == "meta_train" else not training & used
        assert ("n_test_iters" in used) == (mode in ("meta_test", "collapse", "attack"))
        assert ("checkpoint" in used) == (mode not in ("meta_train", "draw", "compare"))
        assert ("metabatch" in used) == (mode in ("meta_train", "meta_test", "attack"))
        assert ("way" in used) == main.MODES[mode].learner
    assert fields_of("compare").keys() == {"mode", "savedir", "results"}
    assert fields_of("weights").keys() == {"mode", "savedir", "checkpoint", "slots"}
    assert fields_of("draw").keys() == {"mode", "savedir", "weights", "gpu_id", "data_dir", "port", "host"}


def test_bench_refuses_what_it_does_not_use():
    for flags, words in (
        (("--maml", "--model", "metadrop"), "--maml contradicts --model metadrop"),
        (("--savedir", "a"), "bench.py: --savedir is not a flag of --mode meta_train with --model metadrop"),
        (("--n_train_iters", 5), "--n_train_iters is not a flag of"),
        (("--mode", "meta_test", "--meta_lr", 0.1), "--meta_lr is not a flag of --mode meta_test"),
        (("--mode", "compare"), "bench.py times meta_train and meta_test, not compare"),
        (("--train_split", "trainval"), "--train_split needs a dataset"),
        (("--mode", "meta_test", "--check"), "--check and --export need the training step"),
        (("--profile", "--export", "a"), "--profile times an iteration, and --export none"),
        (("--profile", "--jit", "on"), "--profile cannot time the passes of one XLA program: drop"),
        (("--profile", "--remat"), "--profile cannot name the passes that --remat repeats"),
    ):
        assert_refused(call("bench.py", *flags), words)


@pytest.fixture
def arrive(monkeypatch, greys, tmp_path):
    """arrive(flags) -> what the flags became, at the door of loops.meta_train or another mode's function."""
    from studies import export

    caught = []

    def catch(made, split, *others, **named):
        settings = next(one for one in others if isinstance(one, Settings))
        caught.append({"engine": made, "learner": made.learner, "split": split, "settings": settings, "others": others})
        caught[-1] |= named
        if "begin" in named:  # which writes config.json
            others[1].mkdir(exist_ok=True)
            named["begin"](0)
        return 0

    for module, name in (
        (loops, "train"),
        (loops, "test"),
        (study, "over_tests"),
        (export, "export"),
        (robustness, "over_tests"),
    ):
        monkeypatch.setattr(module, name, catch)

    def arrive(*flags, mode="meta_train", **changed):
        savedir = tmp_path / str(len(caught))
        base = ("--savedir", savedir, "--data_dir", greys, *small(**{"model": None, "n_steps": None} | changed))
        succeed("main.py", *base, *(flags if mode == "meta_train" else ()))
        if mode != "meta_train":
            succeed("main.py", "--mode", mode, "--savedir", savedir, *flags)
        return caught[-1]

    return arrive


def learner(name):
    return lambda arrived: getattr(arrived["learner"], name)


def made(name):
    return lambda arrived: getattr(arrived["engine"], name)


def argument(name):
    return lambda arrived: arrived[name]


MASKED = ("--model", "maml", "--perturbation", "mask")
# Flags -> the mode, where it arrives, what it is there, and what is there without it.
FLAGS = {
    ("--seed", 7): ("meta_train", made("seed"), 7, 0),
    ("--jit", "on"): ("meta_train", learner("jit"), True, False),
    ("--jit", "off"): ("meta_train", learner("jit"), False, False),
    ("--precision", "bf16"): ("meta_train", learner("bf16"), True, False),
    ("--train_split", "trainval"): ("meta_train", lambda a: len(a["split"].pixels), 10, 6),
    ("--way", 4): ("meta_train", learner("way"), 4, 3),
    ("--shot", 2): ("meta_train", made("shot"), 2, 1),
    ("--query", 3): ("meta_train", made("query"), 3, 2),
    ("--metabatch", 4): ("meta_train", made("metabatch"), 4, 2),
    ("--legacy_shared_classes",): ("meta_train", argument("shared_classes"), True, False),
    ("--model", "maml"): ("meta_train", lambda a: bool(a["learner"].perturbation.random_in), False, True),
    ("--maml",): ("meta_train", lambda a: bool(a["learner"].perturbation.random_in), False, True),
    MASKED: ("meta_train", lambda a: type(a["learner"].perturbation).__name__, "Mask", "LearnedNoise"),
    ("--channels", 3): ("meta_train", learner("channels"), 3, 2),
    ("--model", "protonet", "--train_way", 6): ("meta_train", learner("train_way"), 6, 3),
    ("--meta_lr", 0.02): ("meta_train", made("meta_lr"), 0.02, 1e-3),
    ("--clip_norm", 1): ("meta_train", made("clip_norm"), 1, None),
    ("--adversarial", "l2:0.5"): ("meta_train", made("adversary"), ("l2", 0.5, 7, (0.0, 1.0)), None),
    ("--adversarial", "l2:0.5", "--adversarial_steps", 3): (
        "meta_train", made("adversary"), ("l2", 0.5, 3, (0.0, 1.0)), ("l2", 0.5, 7, (0.0, 1.0)),
    ),
    ("--n_test_mc_samp", 3): ("meta_train", argument("val_samples"), 3, 1),
    ("--n_test_mc_samp", 4): ("meta_test", argument("samples"), 4, 1),
    ("--seed", 8): ("meta_test", made("seed"), 8, 0),
    ("--shot", 3): ("meta_test", made("shot"), 3, 1),
    ("--inner_lr", 0.3): ("meta_test", lambda a: a["learner"].settings.inner_lr, 0.3, 0.1),
    ("--n_test_mc_samp", 5): ("collapse", argument("samples"), 5, 1),
    ("--n_test_mc_samp", 6): ("export", argument("samples"), 6, 1),
    ("--n_test_mc_samp", 7): ("attack", argument("samples"), 7, 1),
}  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join("_".join(map(str, f)) for f in FLAGS).split())
def test_a_flag_arrives(flags, arrive):
    mode, where, value, default = FLAGS[flags]
    # what comes before the flag itself, so that it means something, is in both
    own = [i for i, flag in enumerate(flags) if str(flag).startswith("--")][-1]
    context = () if flags == MASKED else flags[:own]
    assert where(arrive(*flags, mode=mode)) == value
    assert where(arrive(*context, mode=mode)) == default


@pytest.mark.parametrize("mode", ["meta_train", "meta_test", "collapse", "export", "attack"])
def test_a_modes_own_flags_arrive_in_the_settings_of_its_function(mode, arrive):
    """All of them, each with another value than the default."""
    entry = main.MODES[mode]
    fields = dataclasses.fields(entry.training or entry.settings())
    usable = [field for field in fields if field.name not in UNUSED]
    words = [word for field in usable for word in (f"--{field.name}", *other(field))]
    arrived = arrive(*words, mode=mode)["settings"]
    assert {field.name: getattr(arrived, field.name) for field in usable} == {
        field.name: tuple(value) if isinstance(value := value_of(field), list) else value for field in usable
    }


@pytest.mark.parametrize("mode", ["meta_test", "collapse", "attack"])
def test_a_mode_reads_the_checkpoint_that_is_asked_for(mode, run):
    module, opened = {"meta_test": loops, "collapse": study, "attack": robustness}[mode], mock.Mock()
    opened.side_effect = UserError("stop")
    with mock.patch.object(module, "open_results", opened):
        assert_refused(call("main.py", "--mode", mode, "--savedir", run, "--checkpoint", "best"), "stop")
    assert opened.call_args.kwargs["checkpoint"] == "best"


# In a run that the others' other values allow: square attack takes no gradient, the surrogate is a run, and --across
# (test_across.py) needs another dataset.
UNUSED = ("across", "attack_method", "square_share", "surrogate", "surrogate_draws", "restarts")


@pytest.mark.parametrize(
    ("settings", "attack"),
    [
        ({}, {"method": "pgd", "norm": "linf", "steps": 40, "step": 0.0625, "start": "random", "restarts": 1}),
        (
            {},
            {"threat": "joint", "loss": "cross_entropy", "square_share": None, "eps": (0, 0.02, 0.04, 0.06, 0.08, 0.1)},
        ),
        ({"norm": "l1"}, {"norm": "l1", "eps": (0, 20, 40, 60, 80, 100)}),
        ({"norm": "l2", "eps": [3]}, {"norm": "l2", "eps": (3,)}),
        ({"attack_steps": 5}, {"steps": 5, "step": 0.5}),
        ({"attack_step": 0.2}, {"steps": 40, "step": 0.2}),
        ({"attack_start": "clean"}, {"start": "clean"}),
        ({"restarts": 3, "threat": "single"}, {"restarts": 3, "threat": "single"}),
        ({"attack_loss": "margin"}, {"loss": "margin"}),
        ({"attack_method": "square"}, {"method": "square", "square_share": 0.8}),
        ({"attack_method": "square", "square_share": 0.05}, {"square_share": 0.05}),
    ],
)
def test_an_attack_is_that_of_its_settings(settings, attack):
    made = robustness.AttackSettings(**settings).attack()
    assert {name: getattr(made, name) for name in attack} == attack


def learner_with(*words) -> model.Learner:
    return Config.of_flags(main.read_command([*map(str, words)])).make_learner((16, 16, 1))


@pytest.mark.parametrize("option", ["--model", "--perturbation"])
def test_the_flags_of_every_learner_and_perturbation_arrive_in_its_settings(option):
    """Each with another value than the default, which it has otherwise; whoever added it."""
    for name, fields in own_fields()[option].items():
        chosen = [option, name] if option == "--model" else ["--model", taker(name), option, name]
        owner = {"--model": lambda made: made, "--perturbation": lambda made: made.perturbation}[option]
        assert owner(learner_with(*chosen)).settings == owner(learner_with(*chosen)).settings_class()
        for field in fields:
            settings = owner(learner_with(*chosen, f"--{field.name}", *other(field))).settings
            value = value_of(field)
            assert getattr(settings, field.name) == (tuple(value) if isinstance(value, list) else value), field.name


def taker(perturbation: str) -> str:
    """A learner that takes this perturbation."""
    for name in learners.LEARNERS:
        with contextlib.suppress(ValueError):
            learners.classes_for(name, perturbation)
            return name
    raise AssertionError(f"no learner takes {perturbation}")


@pytest.mark.parametrize("precision", devices.PRECISIONS)
def test_tf32_is_on_where_it_is_asked_for(precision, arrive):
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        tf.config.experimental.enable_tensor_float_32_execution(precision != "tf32")
        arrive("--precision", precision)
        assert tf.config.experimental.tensor_float_32_execution_enabled() == (precision == "tf32")
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def test_only_the_splits_that_a_mode_uses_have_to_give_its_episodes(arrive, greys, tmp_path):
    """Validation has the fewest classes here, 16 with their turns, the test 20 and training 24."""
    flags = ("--savedir", tmp_path / "a", "--data_dir", greys)
    assert_refused(call("main.py", *flags, *small(way=17)), "--way 17 is more than the 16 val classes")
    never = ("--val_every", 0)
    assert_refused(call("main.py", *flags, *small(way=25), *never), "--way 25 is more than the 24 train classes")
    assert arrive(*never, way=20)["learner"].way == 20
    succeed("main.py", "--savedir", tmp_path / "b", "--data_dir", greys, *small(way=20), *never)
    succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / "b")
    assert_refused(call("main.py", "--mode", "meta_test", "--savedir", tmp_path / "b", "--query", 5), "need 6 images")


@pytest.mark.parametrize(("dataset", "depth", "channels"), [("glyphs", 1, 64), ("mimgnet", 3, 32)])
def test_channels_are_64_for_grey_images_and_32_for_colour(dataset, depth, channels, arrive):
    params = arrive("--dataset", dataset, channels=None)["engine"].params
    assert params["theta/conv1_w"].shape == (3, 3, depth, channels)


def test_an_engine_of_the_defaults_is_the_papers(arrive):
    """Adam's rate, clipping at 3, five inner steps of 0.1; and what a test takes by itself."""
    arrived = arrive()
    assert (optimizers.CLIP, optimizers.BETA_1, optimizers.BETA_2, optimizers.EPSILON) == (3.0, 0.9, 0.999, 1e-8)
    assert arrived["engine"].clip_norm is None and arrived["engine"].meta_lr == 1e-3
    assert (arrived["learner"].settings.n_steps, arrived["learner"].settings.inner_lr) == (5, 0.1)
    # a test's seed is 0 whatever the training's, so that all runs meet the same episodes
    assert arrive(seed=5)["engine"].seed == 5
    for mode in ("meta_test", "collapse", "export"):
        assert arrive(mode=mode, seed=5)["engine"].seed == 0


def test_what_a_result_is_known_by_and_made_with(arrive):
    """Of a test; an export also says what it was trained for, and takes its tasks one by one, as collapse does."""
    for mode in ("meta_test", "collapse", "export"):
        arrived = arrive(mode=mode, metabatch=2)
        identity = arrived["described" if mode == "export" else "identity"]
        assert [identity[name] for name in ("precision", "device", "jit")] == ["float32", "CPU", False]
        assert len(identity["data_sha256"]) == 64
        assert (arrived["engine"].metabatch == 1) == (mode != "meta_test")
        if mode == "export":
            assert (identity["way"], identity["trained_way"], identity["n_test_mc_samp"]) == (2, 3, 1)


def test_an_export_of_more_classes_than_trained_for_is_of_a_learner_that_has_them(arrive):
    protonet = arrive(mode="export", model="protonet")["others"][0]
    succeed("main.py", "--mode", "export", "--savedir", protonet, "--way", 4)
    metadrop = arrive(mode="export")["others"][0]
    assert_refused(call("main.py", "--mode", "export", "--savedir", metadrop, "--way", 4), "--way 4 is more than")


def test_training_without_validation_has_no_validation_classes_and_watches_its_own(arrive):
    with mock.patch.object(study, "Watch") as watch:
        arrived = arrive("--val_every", 0, "--collapse_every", 5, "--legacy_shared_classes")
    assert arrived["others"][0] is None
    made, split, savedir, shared = watch.call_args.args
    assert (made, split, savedir, shared) == (arrived["engine"], arrived["split"], arrived["others"][1], True)
    assert len(arrive()["others"][0].pixels) == len(GREYS["val"])


def test_a_session_in_which_nothing_is_left_to_train_is_none(arrive):
    """Iterations are counted from 0, and the one of --n_train_iters is trained, too."""
    arrived = arrive("--n_train_iters", 9)
    config = arrived["others"][1] / "config.json"
    for first, sessions in ((9, 1), (10, 0)):
        arrived["begin"](first)
        assert len(json.loads(config.read_text())["sessions"]) == sessions


def test_a_session_on_another_device_or_program_is_a_new_one():
    one = {"program": "1", "tensorflow": "2.21", "device": "CPU", "command": "a"}
    assert main.with_session([], one) == [one]
    assert main.with_session([one], one | {"command": "b"}) == [one]
    for name in ("program", "tensorflow", "device"):
        other = one | {name: "another"}
        assert main.with_session([one], other) == [one, other]
        assert main.with_session([one, other], one) == [one, other, one]


def test_a_surrogate_meets_the_tasks_of_the_attacked_run(greys, tmp_path):
    """Whatever its own test would have been; what cannot be changed in it contradicts them."""
    own = {"dataset": "glyphs", "data_dir": str(greys), "model": "maml", "way": 3, "shot": 1, "query": 2, "seed": 0}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(own | {"data_sha256": name}))
    others = {"shot": 2, "query": 3, "seed": 8, "metabatch": 4, "precision": "bf16", "data_dir": "elsewhere"}
    attacked = main.config_of_test(tmp_path / "a", others)
    found = main.config_of_surrogate(attacked, str(tmp_path / "a"))
    assert {name: getattr(found.run, name) for name in others} == others
    for changed in ({"way": 4}, {"dataset": "omniglot"}, {"split": "background"}):
        run = dataclasses.replace(attacked.run, **changed)
        with pytest.raises(UserError, match=r"cannot be used for these tasks .*contradicts the run"):
            main.config_of_surrogate(dataclasses.replace(attacked, run=run), str(tmp_path / "a"))
    with pytest.raises(UserError, match="was trained on other data"):
        main.config_of_surrogate(attacked, str(tmp_path / "b"))


def test_a_learner_of_any_way_alone_may_be_tested_at_another(tmp_path):
    own = {"dataset": "glyphs", "way": 3, "shot": 1, "query": 2, "seed": 0}
    for model_name, free in (("maml", False), ("protonet", True), ("metanet_original", True)):
        (tmp_path / "config.json").write_text(json.dumps(own | {"model": model_name}))
        if free:
            assert main.config_of_test(tmp_path, {"way": 7}).run.way == 7
            continue
        with pytest.raises(UserError, match="--way 7 contradicts the run"):
            main.config_of_test(tmp_path, {"way": 7})


def test_training_tasks_of_more_classes_than_there_are_are_refused(greys, tmp_path):
    """A Prototypical Network's may have more classes than its tests."""
    flags = small(model="protonet", n_steps=None, train_way=25)
    refused = call("main.py", "--savedir", tmp_path / "a", "--data_dir", greys, *flags)
    assert_refused(refused, "--train_way 25 is more than the 24 train classes")


@pytest.mark.parametrize("mode", ["classify", "draw"])
def test_a_mode_that_uses_a_run_computes_where_it_is_told(mode):
    run, room = pathlib.Path("run"), importlib.import_module(f"studies.{mode}")
    with mock.patch.object(main, "start") as start, mock.patch.object(room, mode) as called:
        main.MODES[mode].call([run], {"gpu_id": "3"})
    assert start.call_args.args[0].gpu_id == "3" and called.called


def test_the_shipped_runs_are_two_that_are_there():
    assert len(set(main.SHIPPED)) == 2 and all(path.is_file() for path in main.SHIPPED)


def test_a_repeated_flag_adds_folders(tmp_path):
    assert main.read_command(["--mode", "compare", "--savedir", "a", "--savedir", "b", "c"])["savedir"] == [
        "a",
        "b",
        "c",
    ]
    words = "--mode", "meta_test", "--savedir", tmp_path / "a", "--savedir", tmp_path / "b"
    assert_refused(call("main.py", *words), "--mode meta_test takes one --savedir, not 2")


@pytest.mark.parametrize("words", [["meta_test", "--savedir", "a"], ["--savedir", "a", "-mode", "meta_test"]])
def test_a_word_without_a_flag_is_told_what_it_lacks(words):
    assert_refused(call("main.py", *words), "belongs to no flag: write --NAME", "--mode MODE")


@pytest.mark.parametrize("mode", ["meta_train", "meta_test", "export", "collapse", "attack"])
def test_a_mistyped_flag_from_python_is_refused(mode, tmp_path):
    with pytest.raises(UserError, match=f"--mode {mode} has no flag n_train_iter: see"):
        main.MODES[mode].call(tmp_path, {"n_train_iter": 5})
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_savedir():
    for mode in ("meta_test", "weights", "meta_train"):
        done = call("main.py", "--mode", mode, "--savedir", main.SHIPPED[0])
        assert_refused(done, "is a file: name a folder, and give a file of weights as --weights")


def test_a_mode_takes_one_run(tmp_path):
    for flag, count in (("savedir", 2), ("weights", 3)):
        words = {"savedir": ["a"], "weights": []} | {flag: [str(tmp_path / str(n)) for n in range(count)]}
        flags = [word for name, values in words.items() if values for word in (f"--{name}", *values)]
        assert_refused(call("main.py", "--mode", "meta_test", *flags), f"takes one --{flag}, not {count}")


@pytest.mark.parametrize("mode", ["meta_test", "collapse", "export", "attack"])
def test_every_mode_that_looks_at_a_run_has_its_checkpoint_seed_and_shots(mode, arrive):
    arrived = arrive("--checkpoint", "best", "--seed", 9, "--shot", 2, "--query", 3, "--n_steps", 1, mode=mode)
    engine, learner = arrived["engine"], arrived["learner"]
    assert (engine.seed, engine.shot, engine.query, learner.n_steps) == (9, 2, 3, 1)
    identity = arrived["described" if mode == "export" else "identity"]
    assert arrived["settings"].checkpoint == "best" and (identity["seed"], identity["shot"]) == (9, 2)
