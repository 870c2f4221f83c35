"""The scripts train and test with the published settings, and the tables show their results or refuse them."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest

import declared
import main
from conftest import ROOT, assert_refused, call, cli
from sources.table import MAKERS
from training import weights

DEFAULTS = {name: field.default for name, field in declared.ALL.items()}
SETTINGS = ("dataset", "way", "shot", "metabatch", "inner_lr", "n_train_iters")
PUBLISHED = {
    "omni_1shot": ("omniglot", 20, 1, 8, 0.1, 40000),
    "omni_5shot": ("omniglot", 20, 5, 6, 0.4, 40000),
    "mimg_1shot": ("mimgnet", 5, 1, 4, 0.01, 60000),
    "mimg_5shot": ("mimgnet", 5, 5, 4, 0.01, 60000),
}
META_LR = {"omni_1shot": 3e-4, "omni_5shot": 1e-3, "mimg_1shot": 1e-4, "mimg_5shot": 1e-4}


@pytest.mark.parametrize("cell", PUBLISHED)
@pytest.mark.parametrize("model", ["maml", "metadrop"])
def test_a_cell_has_the_published_settings(model, cell):
    script = [str(ROOT / "runfiles" / f"{model}_{cell}.sh"), "--gpu_id", "1"]
    done = subprocess.run(script, env=os.environ | {"PYTHON": "echo"}, capture_output=True, text=True, check=True)
    train, test = (DEFAULTS | main.read_command(line.split()[1:]) for line in done.stdout.splitlines())
    meta_lr = 1e-3 if model == "maml" and "omni" in cell else META_LR[cell]
    wanted = dict(zip(SETTINGS, PUBLISHED[cell], strict=True)) | {"meta_lr": meta_lr, "mode": "meta_train"}
    wanted |= {"model": model, "query": 15, "n_steps": 5}
    wanted |= {"meta_gradient": "published", "train_split": "trainval" if "omni" in cell else "train", "gpu_id": "1"}
    assert {k: train[k] for k in wanted} == wanted
    assert test["mode"] == "meta_test" and test["savedir"] == train["savedir"] == [f"results/{model}/{cell}"]
    assert (test["metabatch"], test["n_test_iters"]) == (1, 1000)
    assert test["n_test_mc_samp"] == (30 if model == "metadrop" else 1)


def calls(script: str, folder, **environment) -> list[dict]:
    """Return the settings of main.py's calls by a copy of this script in `folder`. Each mode must use its flags."""
    shutil.copytree(ROOT / "runfiles", folder / "runfiles", dirs_exist_ok=True)
    done = subprocess.run(
        ["sh", str(folder / "runfiles" / script), "--gpu_id", "-1"],
        env=os.environ | {"PYTHON": "echo"} | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("main.py")]
    return [DEFAULTS | main.read_command(line) for line in lines]


SCRIPTS = {
    "maml_omni_1shot.sh": {}, "metadrop_mimg_5shot.sh": {}, "table1.sh": {}, "masks.sh": {}, "omni_5way.sh": {},
    "glyphs.sh": {}, "precision.sh": {}, "collapse.sh": {"ITERATIONS": "300"},
}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_old_results_do_not_stand_for_new_ones(script, tmp_path):
    """A script that is run again calls main.py for every run, since main.py knows what has been trained and tested."""
    first = calls(script, tmp_path)
    for flags in first:
        for mode in ("meta_test", "collapse"):
            result = tmp_path / flags["savedir"][0] / f"{mode}.json"
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text("{}")
    assert calls(script, tmp_path) == first
    assert all(flags["resume"] for flags in first if flags["mode"] == "meta_train")
    tests = [flags for flags in first if flags["mode"] in ("meta_test", "collapse")]
    again = calls(script, tmp_path, TEST_FLAGS="--checkpoint best", TRAIN_FLAGS="--save_freq 7", **SCRIPTS[script])
    assert {s["save_freq"] for s in again if s["mode"] == "meta_train"} == {7}
    if "ITERATIONS" in SCRIPTS[script]:
        assert {s["n_train_iters"] for s in again if s["mode"] == "meta_train"} == {300}
    assert [s for s in again if s["mode"] in ("meta_test", "collapse")] == [s | {"checkpoint": "best"} for s in tests]


def test_masks_has_the_published_protocol(tmp_path):
    made = calls("masks.sh", tmp_path, SIZE="105", SEEDS="1 2")
    train, test = ([s for s in made if s["mode"] == mode] for mode in ("meta_train", "meta_test"))
    assert len(train) == len(test) == 2 * 3 * 2 and len({s["savedir"][0] for s in train}) == 12
    for s in train:
        assert s["metabatch"] * (s["n_train_iters"] + 1) == 2000 and s["seed"] in (1, 2)
        wanted = {"way": 5, "shot": 1, "query": 15, "meta_lr": 1e-3, "clip_norm": 1, "split": "background"}
        wanted |= {
            "data_dir": "data/105",
            "gpu_id": "-1",
            "perturbation": "mask" if "mask_" in s["savedir"][0] else None,
        }
        assert {k: s[k] for k in wanted} == wanted
    assert {s["model"]: s["metabatch"] for s in train} == {"metanet_embedding": 8, "metanet_original": 16, "maml": 16}
    assert all(s["n_test_iters"] == 1000 for s in test)


def write_test(savedir, **facts) -> None:
    """Write a meta_test.json with these facts; without them it is like that of an old version."""
    savedir.mkdir(parents=True, exist_ok=True)
    test = {"accuracy": 50, "interval95": 0, "accuracies": [0, 100] * 100, "losses": [1] * 200, "episodes_sha256": "a"}
    (savedir / "meta_test.json").write_text(json.dumps(test | facts))


def test_the_masks_table_pairs_by_seed_and_task(tmp_path):
    for kind, seeds in (("none", (0, 1)), ("mask", (0, 1)), ("per_sample", (1,))):
        for seed in seeds:
            accuracies = [60 + seed + 40 * (i % 2) + (kind == "mask") * (1 + seed) for i in range(200)]
            write_test(tmp_path / "maml" / f"{kind}_{seed}", accuracies=accuracies, losses=[0.5 + seed] * 200)
    shutil.copytree(tmp_path / "maml" / "none_0", tmp_path / "maml" / "none_0_copy")
    done = cli("runfiles/masks.py", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| MAML")]
    assert lines[0].startswith("| MAML | none | 2 | 80.50 ± 6.35 | 20.00 | 100.0 / 50.0 / 50.0 | 1.0000 |  |  |")
    assert lines[1].endswith("| +1.50 ± 6.35 | +1.00 ± 0.00, +2.00 ± 0.00 |")
    assert "| 1 | 81.00 |" in lines[2] and "| +0.00 | +0.00 ± 0.00 |" in lines[2]
    assert_refused(call("runfiles/masks.py", tmp_path / "none"), "run runfiles/masks.sh first")


def test_collapse_has_the_studys_settings(tmp_path):
    made = calls("collapse.sh", tmp_path, DATASET="mimgnet", SHOT="1", LEARNERS="maml metanet_original")
    assert [s["mode"] for s in made] == ["meta_train", "meta_test", "collapse"] * 2 + ["compare"]
    wanted = {"dataset": "mimgnet", "way": 5, "shot": 1, "query": 15, "metabatch": 4, "inner_lr": 0.01, "n_steps": 5}
    assert {k: made[0][k] for k in wanted} == wanted and made[0]["collapse_every"] == 100
    assert made[3]["model"] == "metanet_original" and made[2]["n_test_iters"] == 1000
    alone = calls("collapse.sh", tmp_path / "alone", LEARNERS="maml")
    assert [s["mode"] for s in alone] == ["meta_train", "meta_test", "collapse"]


def test_the_5way_table_pairs_by_seed(tmp_path):
    for model, accuracies in (("maml", [60, 100]), ("metadrop", [70, 94])):
        for seed in (0, 1, 2):
            test = {"accuracy": sum(accuracies) / 2 + seed, "accuracies": [a + seed for a in accuracies] * 100}
            write_test(tmp_path / "1shot" / f"{model}_published_{seed}", **test)
    shutil.rmtree(tmp_path / "1shot" / "metadrop_published_2")
    done = cli("runfiles/omni_5way.py", tmp_path)
    assert done.returncode == 0, done.stderr
    row = "| 1shot, published | 2 | 80.50 ± 6.35 | 82.50 ± 6.35 | +2.00 ± 0.00 | +2.00 ± 1.11, +2.00 ± 1.11 |"
    assert row in done.stdout.splitlines()
    assert_refused(call("runfiles/omni_5way.py", tmp_path / "none"), "run runfiles/omni_5way.sh first")


def test_precision_trains_in_both_and_tests_in_one(tmp_path):
    made = calls("precision.sh", tmp_path)
    train, test = ([s for s in made if s["mode"] == mode] for mode in ("meta_train", "meta_test"))
    runs = {(s["model"], s["precision"], s["seed"]) for s in train}
    assert len(train) == len(test) == len(runs) == 16 and {precision for _, precision, _ in runs} == {"float32", "bf16"}
    assert [s["savedir"] for s in train] == [s["savedir"] for s in test]
    assert {s["precision"] for s in test} == {"float32"} and "--precision float32" in (
        ROOT / "runfiles" / "precision.sh"
    ).read_text()  # a test's default is the run's own
    for s in train:
        assert s["savedir"] == [f"results/precision/{s['model']}_{s['precision']}_{s['seed']}"]
        assert (s["inner_lr"], s["meta_lr"], s["meta_gradient"], s["n_train_iters"]) == (0.1, 1e-3, "published", 800)


def test_the_precision_table_pairs_by_seed(tmp_path):
    for precision, gain in (("float32", 0), ("bf16", 2)):
        for seed in (0, 1):
            accuracies = [60 + gain + seed, 100 - gain + seed] * 100
            write_test(tmp_path / f"maml_{precision}_{seed}", accuracy=80 + gain + seed, accuracies=accuracies)
    done = cli("runfiles/precision.py", tmp_path)
    assert done.returncode == 0, done.stderr
    row = "| MAML | 2 | 80.50 ± 6.35 | 82.50 ± 6.35 | +2.00 ± 0.00 | +0.00 ± 0.28, +0.00 ± 0.28 |"
    assert row in done.stdout.splitlines()
    shutil.rmtree(tmp_path / "maml_bf16_0")
    shutil.rmtree(tmp_path / "maml_bf16_1")
    assert_refused(call("runfiles/precision.py", tmp_path), "run runfiles/precision.sh first")


def write_validation(savedir, *rows) -> None:
    savedir.mkdir(parents=True, exist_ok=True)
    lines = ["iter,secs,loss,acc,val_loss,val_acc,val_ci95", *(f"{i},1,1,1,1,{acc},{ci}" for i, acc, ci in rows)]
    (savedir / "meta_train.csv").write_text("\n".join(lines))


def test_rates_tries_all_and_goes_on_with_the_best(tmp_path):
    """Seed 0 has all rates; two more seeds and the tests have the best ones of rates.py. Diverging runs are skipped."""
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\ncase "$*" in *--best*) echo 0.2 3e-3;; *"inner_lr 0.05"*) exit 2;; *) echo "$@";; esac\n'
    )
    stub.chmod(0o755)
    made = calls("rates.sh", tmp_path, PYTHON=str(stub))
    train, test = ([s for s in made if s["mode"] == mode] for mode in ("meta_train", "meta_test"))
    sweep = {(s["model"], s["meta_gradient"], s["inner_lr"], s["meta_lr"]) for s in train if s["seed"] == 0}
    assert len(sweep) == 2 * 2 * 2 * 3 and {rates[3] for rates in sweep} == {3e-4, 1e-3, 3e-3}
    assert {s["seed"] for s in train if (s["inner_lr"], s["meta_lr"]) == (0.2, 3e-3)} == {0, 1, 2}
    wanted = {
        f"results/rates/{model}_{gradient}_0.2_3e-3_{seed}"
        for model in ("maml", "metadrop")
        for gradient in ("published", "exact")
        for seed in (0, 1, 2)
    }
    assert {s["savedir"][0] for s in test} == wanted and all(s["n_test_iters"] == 400 for s in test)


def test_the_validation_classes_choose_the_rates(tmp_path):
    for model, accuracies in (("maml", (0.9, 0.95)), ("metadrop", (0.97, 0.96))):
        for gradient in ("published", "exact"):
            for meta_lr, accuracy in zip(("3e-4", "1e-3"), accuracies, strict=True):
                savedir = tmp_path / f"{model}_{gradient}_0.1_{meta_lr}_0"
                write_validation(savedir, (0, 0.5, 0.01), (50, "", ""), (400, 0.4, 0.1), (800, accuracy, 0.005))
            write_validation(tmp_path / f"{model}_{gradient}_0.2_1e-3_0", (0, 0.99, 0.01))  # diverged
    write_validation(tmp_path / "maml_published_0.2_3e-4_0")  # has only begun
    for kind, accuracy in (("maml_published_0.1_1e-3", 60), ("metadrop_published_0.1_3e-4", 70)):
        for seed in (0, 1):
            write_test(tmp_path / f"{kind}_{seed}", accuracy=accuracy + seed, accuracies=[accuracy] * 200)
    stray = {"accuracy": 99, "episodes_sha256": "b"}
    write_test(tmp_path / "maml_published_0.1_3e-4_0", **stray)  # not chosen: its test does not count
    best = call("runfiles/rates.py", tmp_path, "--best", "maml", "published")
    assert best.stdout == "0.1 1e-3\n"
    done = cli("runfiles/rates.py", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| MAML, published | meta_lr 3e-4 | meta_lr 1e-3 |" in lines
    assert "| inner_lr 0.1 | 90.00 ± 0.50 | **95.00 ± 0.50** |" in lines
    assert "| inner_lr 0.1 | **97.00 ± 0.50** | 96.00 ± 0.50 |" in lines and "0.2" not in done.stdout
    (row,) = (line for line in lines if "MAML, published and Meta-dropout, published" in line)
    assert row.endswith("| 2 | 60.50 ± 6.35 | 70.50 ± 6.35 | +10.00 ± 0.00 | +10.00 ± 0.00, +10.00 ± 0.00 |")
    assert_refused(call("runfiles/rates.py", tmp_path / "none"), "run runfiles/rates.sh")


MAML, DROP, EXACT = (f"1shot/{kind}_0" for kind in ("maml_published", "metadrop_published", "metadrop_exact"))
ALIKE = {"episodes_sha256": "a", "n_test_mc_samp": 10, "iteration": 800, "settings": {"data_sha256": "c", "n_steps": 5}}
EPISODES, SAMPLES, ITERATION = {"episodes_sha256": "b"}, {"n_test_mc_samp": 1}, {"iteration": 400}
DATA, STEPS = {"settings": {"data_sha256": "d"}}, {"settings": {"n_steps": 1}}


@pytest.fixture
def table(monkeypatch, tmp_path):
    """table(program, runs): write runs (savedir -> facts of its test) and return the program's table of them."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")

    def make(program: str, runs: dict[str, dict]):
        for savedir, facts in runs.items():
            write_test(tmp_path / savedir, **facts)
        return call(program, tmp_path)

    return make


@pytest.mark.parametrize(
    ("program", "first", "second", "facts", "words"),
    [
        ("omni_5way.py", MAML, DROP, EPISODES, "test episodes differ (a and b)"),
        ("omni_5way.py", MAML, DROP, DATA, "data differ (c and d)"),
        ("omni_5way.py", MAML, DROP, ITERATION, "training iterations differ (800 and 400)"),
        ("omni_5way.py", EXACT, DROP, SAMPLES, "noise samples differ (10 and 1)"),
        ("omni_5way.py", EXACT, DROP, STEPS, "inner steps differ (5 and 1)"),
        ("masks.py", "maml/none_0", "metanet_original/none_0", EPISODES, "test episodes differ"),
        ("masks.py", "maml/none_0", "metanet_original/none_0", DATA, "data differ"),
        ("masks.py", "maml/mask_0", "maml/none_0", ITERATION, "training iterations differ"),
        ("masks.py", "maml/mask_0", "maml/none_0", SAMPLES, "noise samples differ"),
        ("table1.py", "maml/omni_1shot", "metadrop/omni_1shot", EPISODES, "test episodes differ"),
        ("table1.py", "maml/omni_1shot", "metadrop/omni_1shot", ITERATION, "training iterations differ"),
        ("table1.py", "maml/omni_1shot", "metadrop/omni_5shot", DATA, "data differ"),
        ("table1.py", "maml/mimg_1shot", "maml/omni_5shot", SAMPLES, "noise samples differ"),
    ],
)
def test_a_table_refuses_mixed_runs(table, tmp_path, program, first, second, facts, words):
    assert_refused(table(program, {first: ALIKE, second: ALIKE | facts}), str(tmp_path / first), words)
    done = table(program, {second: {"settings": {}}})  # an old version's, which does not say
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("program", "first", "second", "facts"),
    [
        ("omni_5way.py", MAML, DROP, SAMPLES),
        ("omni_5way.py", MAML, "5shot/maml_published_0", EPISODES | ITERATION),
        ("masks.py", "maml/none_0", "metanet_original/none_0", ITERATION),
        ("table1.py", "maml/omni_1shot", "metadrop/omni_1shot", SAMPLES),
        ("table1.py", "maml/omni_1shot", "maml/mimg_5shot", EPISODES | ITERATION | DATA),
    ],
)
def test_a_table_shows_what_may_differ(table, program, first, second, facts):
    done = table(program, {first: ALIKE, second: ALIKE | facts})
    assert done.returncode == 0, done.stderr


def test_the_table_shows_what_there_is(tmp_path):
    write_test(tmp_path / "metadrop" / "omni_5shot", accuracy=98.7654, interval95=0.0612)
    done = cli("runfiles/table1.py", tmp_path)
    assert done.returncode == 0 and "| Meta-dropout, this project |  | 98.77 ± 0.06 |  |  |" in done.stdout
    assert "| MAML, this project |  |  |  |  |" in done.stdout
    write_test(tmp_path / "metadrop" / "omni_5shot", accuracy=97, iteration=5000)
    assert "| 97.00 ± 0.00 (5,000 of 40,000 iterations) |" in call("runfiles/table1.py", tmp_path).stdout


def write_weights(path, model, tests, **settings):
    """Write a file of weights, a single number, with tests from training: iteration -> accuracy and interval."""
    params = {"w": np.zeros(1, np.float32)}
    alike = {"data_sha256": "a", "train_split": "trainval", "way": 20, "shot": 1, "query": 15, "metabatch": 8}
    settings = {"model": model} | alike | settings
    about = {"settings": settings, "iteration": 9, "weights_sha256": weights.digest(params)}
    about["tests"] = [{"iteration": i, "accuracy": a, "interval95": c, "episodes": 7} for i, (a, c) in tests.items()]
    weights.write(path, weights.Weights(about, params))


def test_the_curves_are_shown_side_by_side(tmp_path):
    maml, drop = tmp_path / "maml.npz", tmp_path / "drop.npz"
    write_weights(maml, "maml", {20: (90, 0.3), 10: (80, 0.3), 30: (91, 1)})
    write_weights(drop, "metadrop", {10: (81.5, 0.4), 20: (89.75, 0.4)})
    done = cli("runfiles/table1_curve.py", drop, maml, "--figure", tmp_path / "f.png")
    assert done.returncode == 0 and plt.imread(tmp_path / "f.png").shape[2] == 4, done.stderr
    assert done.stdout.splitlines()[0] == "| iteration | MAML | Meta-dropout | difference |"
    assert done.stdout.splitlines()[2:] == [
        "| 10 | 80.00 ± 0.30 | 81.50 ± 0.40 | +1.50 ± 0.50 |",
        "| 20 | 90.00 ± 0.30 | 89.75 ± 0.40 | -0.25 ± 0.50 |",
    ]
    assert_refused(call("runfiles/table1_curve.py", maml), "these are files of maml: give one of maml and one of")
    write_weights(drop, "metadrop", {10: (81.5, 0.4)}, way=5)
    assert_refused(call("runfiles/table1_curve.py", maml, drop), "their way differ")
    write_weights(drop, "metadrop", {})
    assert_refused(call("runfiles/table1_curve.py", maml, drop), str(drop), "train_jax.py --test_every")


def test_the_shipped_curve_is_the_documentations():
    done = call("runfiles/table1_curve.py")
    assert done.returncode == 0 and done.stdout.strip() in (ROOT / "docs/table1.md").read_text()


def test_transfer_trains_both_learners_on_both_datasets(tmp_path):
    done = cli("runfiles/transfer.py", tmp_path, "--runs", "--", "--gpu_id", "-1")
    assert done.returncode == 0, done.stderr
    runs = [[part.strip() for part in line.split("|")] for line in done.stdout.splitlines()]
    flags_of_runs = {folder: main.read_command(flags.split()) for folder, flags in runs}
    assert len(flags_of_runs) == len(runs) == 12
    for folder, flags in flags_of_runs.items():
        dataset, model, seed = folder.removeprefix(f"{tmp_path}/").split("_")
        assert (flags["dataset"], flags["model"], flags["seed"], flags["gpu_id"]) == (dataset, model, int(seed), "-1")
        assert (flags["way"], flags["shot"], flags["n_train_iters"]) == (5, 1, 800)
    assert_refused(call("runfiles/transfer.py", tmp_path), "run runfiles/transfer.sh first")


def numbered_drawings():
    """Return a dataset of 8 test classes of 16 images, in which all pixels of an image are 20 * class + image."""
    import data

    values = 20 * np.arange(8)[:, None] + np.arange(16)
    pixels = np.broadcast_to(values[..., None, None, None], (8, 16, 4, 4, 1)).astype(np.uint8)
    split = data.Split(pixels, rotations=1, scale=1 / 255)
    return data.Dataset("glyphs", (4, 4, 1), {"test": split}, "")


def number_of(picture):
    """Return 20 * class + image of a picture (ink on paper), or of its row of numbers from 0 to 1."""
    first = np.ravel(picture)[0] * (255 if isinstance(picture, np.ndarray) else 1)
    return round(255 - first)


class Knowing:
    """A classifier that knows the classes of `numbered_drawings`; with shift = 1 it answers the next one. It refuses to
    classify its support pictures, and records in `asked` its statistics and the number of query pictures."""

    def __init__(self, shift=0):
        self.shift, self.statistics, self.asked = shift, "together", []

    def fit(self, support, labels):
        self.seen = {number_of(picture) for picture in support}
        self.classes = [number_of(picture) // 20 for picture in support]
        assert len(set(self.classes)) == len(labels) == 5
        return self

    def predict(self, query):
        assert not self.seen & {number_of(picture) for picture in query}
        self.asked.append((self.statistics, len(query)))
        own = [number_of(picture) // 20 for picture in query]
        return (np.array([self.classes.index(c) for c in own]) + self.shift) % 5


def script(name):
    """Import a script of runfiles/."""
    with mock.patch.object(sys, "path", [str(ROOT / "runfiles"), *sys.path]):
        return importlib.import_module(name)


def test_transfer_asks_a_classifier_for_the_classes_of_unseen_drawings():
    """Every pixel shows the class and the image, so `Knowing` is always right, and always wrong with shift = 1."""
    transfer, dataset, knowing = script("transfer"), numbered_drawings(), Knowing()
    assert transfer.accuracy(knowing, dataset, 3, "") == 100
    assert transfer.accuracy(knowing, dataset, 3, "", flat=True) == 100
    assert knowing.asked == [("together", 75)] * 6
    assert transfer.accuracy(Knowing(shift=1), dataset, 3, "") == 0


class Counted(Knowing):
    """`Knowing` for support sets of any size, right on every picture that is left out."""

    def fit(self, support, labels):
        self.counts = np.bincount(labels).tolist()
        first = [support[list(labels).index(c)] for c in range(5)]
        Knowing.fit(self, first, range(5))
        self.seen = {number_of(picture) for picture in support}
        return self

    def leave_one_out(self):
        return np.ones(sum(self.counts))


@pytest.mark.parametrize("shift", [0, 1])
def test_unbalanced_asks_for_all_mixtures_and_support_sets(monkeypatch, shift):
    """`Counted` is right on every mixture, with all statistics, and is never asked for a support picture."""
    measured, knowing, accuracy = script("unbalanced"), Counted(shift), float(shift == 0)
    monkeypatch.setattr(measured, "IMAGES", 16)
    monkeypatch.setattr(measured, "QUERY", 6)
    monkeypatch.setitem(measured.MIXTURES, "19 of one class", (15,))
    monkeypatch.setitem(measured.MIXTURES, "19, 3, 1, 1, 1", (15, 3, 1, 1, 1))
    tables = script("tables")
    split = numbered_drawings().splits["test"]
    pictures = tables.task_pictures(split, MAKERS["glyphs"].prepare, 0, 5, 16)
    measures = dict(measured.measure_mixtures(knowing, pictures))
    assert set(measures) == {(s, m) for s in ("support", "together", "query") for m in measured.MIXTURES}
    assert set(measures.values()) == {accuracy} and knowing.statistics == "support"
    expected = [(s, sum(m)) for m in measured.MIXTURES.values() for s in ("support", "together", "query")]
    assert knowing.asked == expected
    measures = dict(measured.measure_support_sets(knowing, pictures))
    assert knowing.counts == [10, 1, 1, 1, 1] and {measures[n, "accuracy"] for n in measured.SUPPORT} == {accuracy}
    assert {measures[n, "first class"] for n in measured.SUPPORT} == {0.2}
    measures = dict(measured.measure_leave_one_out(knowing, pictures))
    assert {measures[n, "others"] for n in measured.SHOTS} == {accuracy} == {measures[n, "one less"] for n in (2, 3, 5)}
    assert {measures[n, "left out"] for n in measured.SHOTS} == {1} and knowing.counts == [5] * 5
    assert "100.0 ± 0.0" in measured.over_tasks(measured.measure_leave_one_out, knowing, [pictures] * 2, "").values()


def test_drawings_compares_both_ways_on_the_same_pictures(monkeypatch, capsys):
    """A classifier that misclassifies the pictures of one way loses only there."""
    drawings, ways = script("drawings"), []

    class Astray(Knowing):
        def predict(self, query):
            ways.append(query[0].size)
            return (super().predict(query) + (query[0].size == (9, 9))) % 5

    monkeypatch.setitem(drawings.WAYS, "centred and scaled", lambda picture: picture.resize((9, 9)))
    monkeypatch.setattr(drawings.data, "load", lambda folder, name: numbered_drawings())
    monkeypatch.setattr(drawings.Classifier, "load", lambda file, samples, statistics: Astray())
    monkeypatch.setattr(sys, "argv", ["drawings.py", "originals", "any.npz", "--tasks", "3"])
    drawings.main()
    assert ways == [(4, 4), (9, 9)] * 3
    assert "| any | 100.00 ± 0.00 | 0.00 ± 0.00 | -100.00 ± 0.00 |" in capsys.readouterr().out


def test_a_drawing_goes_through_a_canvas_as_large_as_the_pages():
    from PIL import Image, ImageDraw

    from studies.draw import SIDE

    drawings, picture = script("drawings"), Image.new("L", (105, 105), 255)
    ImageDraw.Draw(picture).line((10, 10, 40, 10), 0, 3)
    sent = drawings.on_a_canvas(picture)
    ink = 255 - np.asarray(sent.convert("L"), float)
    places = np.argwhere(ink > 100)
    assert sent.size[0] == sent.size[1] and np.ptp(places[:, 1]) > 4 * np.ptp(places[:, 0])
    np.testing.assert_allclose((places.min(0) + places.max(0)) / 2 / sent.size[0], 0.5, atol=0.05)
    assert SIDE >= 105


def test_a_reader_that_has_enough_is_no_fault_and_a_full_disk_is_one_sentence():
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # a few lines: they are still there when main() is done
    reader, writer = os.pipe()
    os.close(reader)
    done = cli("runfiles/transfer.py", "--runs", stdout=writer, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = cli("runfiles/transfer.py", "--runs", stdout=full, env=buffered)
        assert done.returncode == 2 and done.stderr == "error: cannot read or write the disk: No space left on device\n"
