"""runfiles/train_all.py makes many runs, several at a time, and can be interrupted; the runs of regularisers.py."""

import importlib
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest

import main
from conftest import ROOT, assert_refused, call, cli

# In place of main.py: it takes the same flags, trains in no time (or, for 1000000 iterations, until it is stopped), and
# leaves the flags.
STUB = f"""
import importlib.util, json, pathlib, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
spec = importlib.util.spec_from_file_location("real", {str(ROOT / "main.py")!r})
real = sys.modules["real"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
flags = real.read_command()
savedir = pathlib.Path(*flags["savedir"])
if flags.get("n_train_iters") == 10**6:
    def leave(*_):
        print("interrupted and saved")
        sys.exit(130)
    signal.signal(signal.SIGTERM, leave)
    (savedir / "begun").touch()
    time.sleep(100)
with open(savedir / "calls", "a") as file:
    file.write(json.dumps(flags | {{"data_dir": str(flags["data_dir"]), "savedir": None}}) + chr(10))
"""


@pytest.fixture
def house(tmp_path):
    """Return the folder of a copy of the program, with STUB in place of main.py."""
    house = tmp_path / "house"
    shutil.copytree(ROOT / "runfiles", house / "runfiles")
    for path in (*ROOT.glob("*.py"), *(init.parent for init in ROOT.glob("*/__init__.py"))):
        if path.name != "main.py":
            (house / path.name).symlink_to(path)
    (house / "main.py").write_text(STUB)
    return house


def train_all(text: str, *args, root=ROOT) -> subprocess.CompletedProcess:
    words = [sys.executable, root / "runfiles/train_all.py", *args]
    return subprocess.run([str(word) for word in words], input=text, capture_output=True, text=True, check=False)


def calls(savedir) -> list[dict]:
    return [json.loads(line) for line in (savedir / "calls").read_text().splitlines()]


def test_runs_are_trained_and_tested_and_what_fails_is_named(house, tmp_path):
    good, bad, untested = (tmp_path / name for name in ("good", "bad", "untested"))
    text = f"""
        # a comment
        {good} | --model maml --n_train_iters 3 | --n_test_iters 2 | --norm l2 | --norm l1 --eps 1 2
        {bad} | --model maml --inner_lr -1 | --n_test_iters 2
        {untested} | --model maml --n_train_iters 2"""
    done = train_all(text, "--data_dir", "elsewhere", root=house)
    assert_refused(done, "1 of 3 runs failed", str(bad), "train_all.log")
    assert "must be a number above 0" in (bad / "train_all.log").read_text() and not (bad / "calls").exists()
    train, test, *attacks = calls(good)
    where = {"data_dir": "elsewhere", "savedir": None}
    assert train == where | {"mode": "meta_train", "resume": True, "model": "maml", "n_train_iters": 3}
    assert test == where | {"mode": "meta_test", "n_test_iters": 2}
    attack = where | {"mode": "attack"}
    assert attacks == [attack | {"norm": "l2"}, attack | {"norm": "l1", "eps": [1, 2]}]
    assert [call["mode"] for call in calls(untested)] == ["meta_train"]
    done = train_all(text.replace(" --inner_lr -1", ""), "--jobs", 1, root=house)
    assert done.returncode == 0, done.stderr
    assert len(calls(bad)) == 2 and len(calls(good)) == 8  # main.py knows what there is to do


def test_a_run_that_has_no_place_fails_and_the_others_are_made(house, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(train_all(f"{tmp_path}/file | --seed 0", root=house), "file is a file")
    done = train_all(f"{tmp_path}/file/a | --seed 0\n{tmp_path}/b | --seed 0", "--jobs", 1, root=house)
    assert done.returncode == 2 and "1 of 2 runs failed" in done.stderr and "Traceback" not in done.stderr
    assert [call["seed"] for call in calls(tmp_path / "b")] == [0]


def test_an_interrupted_queue_saves_its_runs_and_begins_no_other(house, tmp_path):
    folders = tmp_path / "first", tmp_path / "second"
    words = [sys.executable, house / "runfiles/train_all.py", "--jobs", "1"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([str(word) for word in words], **pipes)
    process.stdin.write("\n".join(f"{folder} | --n_train_iters {10**6} | --seed 1" for folder in folders))
    process.stdin.close()
    began = time.time()
    while not (folders[0] / "begun").exists():
        assert time.time() - began < 60 and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130 and "the same command resumes them" in process.stderr.read()
    process.stderr.close()
    assert (folders[0] / "train_all.log").read_text() == "interrupted and saved\n" and not folders[1].exists()
    assert not (folders[0] / "calls").exists()  # it was not tested


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("results/a", "line 1 is not a run"),
        ("\nresults/a | --model maml | | ", "line 2 is not a run"),
        (" | --model maml", "line 1 is not a run"),
        ("a | --way '3", "line 1 cannot be read (No closing quotation)"),
        ("a | --seed 0\na | --seed 1", "two lines have the savedir a"),
    ],
)
def test_lines_that_are_no_runs_are_refused(text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert_refused(call("runfiles/train_all.py"), words)
    assert_refused(call("runfiles/train_all.py", tmp_path / "none"), "cannot be read")


# ---- the runs of the study

TRAINED = {
    "dataset": "omniglot", "way": 5, "shot": 1, "query": 15, "n_train_iters": 800, "val_every": 200, "n_val_tasks": 200,
}  # fmt: skip
CHOICES = {"model", "perturbation", "meta_gradient", "mix_set", "adapt", "train_way"}
PERTURBED = ("fixed", "independent", "weight", "additive", "deterministic", "variance", "parameters", "mixup", "vib")
EXACT = {"meta_gradient": "exact"}
STUDY = {name: {"perturbation": name} for name in PERTURBED} | {
    "maml": {},
    "metadrop": {"model": "metadrop"},
    "mixup_query": {"perturbation": "mixup", "mix_set": "query"},
    "manifold": {"perturbation": "manifold_mixup"},
    "manifold_query": {"perturbation": "manifold_mixup", "mix_set": "query"},
    "information": {"perturbation": "information_dropout"},
    "metasgd": {"model": "metasgd"},
    "metasgd_noise": {"model": "metasgd", "perturbation": "noise"},
    "head": {"adapt": "head"},
    "body": {"adapt": "body"},
    "protonet": {"model": "protonet"},
    "protonet_wide": {"model": "protonet", "train_way": 60},
    "maml_exact": EXACT,
    "metadrop_exact": {"model": "metadrop"} | EXACT,
    "deterministic_exact": {"perturbation": "deterministic"} | EXACT,
    "parameters_exact": {"perturbation": "parameters"} | EXACT,
}


def study(results, *args) -> list[tuple[str, dict, dict | None]]:
    """Return the folder, the settings of the training, and those of the test or None, for each run of the study."""
    done = call("runfiles/regularisers.py", results, "--runs", *args)
    assert done.returncode == 0, done.stderr
    runs = []
    for line in done.stdout.splitlines():
        folder, *flags = (part.strip() for part in line.split("|"))
        modes = ("meta_train", "meta_test")
        train, *test = (
            main.read_command(["--mode", mode, *shlex.split(part)]) for mode, part in zip(modes, flags, strict=False)
        )
        del train["mode"]
        runs.append((folder.removeprefix(f"{results}/"), train, *(test or [None])))
    return runs


def write_run(savedir, validations=(), accuracy=None, facts=None, seconds=1.0, **config) -> None:
    """facts: further entries of its test. seconds: of an iteration; a validation takes 100."""
    savedir.mkdir(parents=True)
    rows = [f"{50 * i},{50 * seconds * i + 100 * (i // 4)},{1 / (i + 1)},1,,," for i in range(4 * len(validations) - 3)]
    for i, v in enumerate(validations):
        rows[4 * i] = rows[4 * i].removesuffix(",,") + f"1,{v},0.01"
    (savedir / "meta_train.csv").write_text("\n".join(["iter,secs,loss,acc,val_loss,val_acc,val_ci95", *rows]))
    (savedir / "config.json").write_text(json.dumps({"model": "maml", "way": 5} | config))
    if accuracy is not None:
        test = {"accuracy": accuracy, "interval95": 0, "accuracies": [accuracy] * 20, "episodes_sha256": "a"}
        test |= {"iteration": 800, "n_test_mc_samp": 10} | (facts or {})
        (savedir / "meta_test.json").write_text(json.dumps(test))


def test_the_study_has_all_kinds_and_chooses_their_strengths_on_the_validation_classes(tmp_path):
    first = study(tmp_path, 0, "--", "--gpu_id", "-1")
    assert len({folder for folder, *_ in first}) == len(first) == 25 - 6 + 3 * 6
    assert all(train["gpu_id"] == "-1" and train["seed"] == 0 for _, train, _ in first)
    assert {train["perturbation"] for _, train, _ in first if "perturbation" in train} == {
        "fixed", "independent", "weight", "additive", "deterministic", "variance", "parameters", "mixup",
        "manifold_mixup", "vib", "information_dropout", "noise",
    }  # fmt: skip
    trained = {folder: train for folder, train, _ in first}
    kinds = {folder: folder.rsplit("_", 1)[0].partition("-")[0] for folder in trained}
    assert set(kinds.values()) == STUDY.keys()
    for folder, train in trained.items():
        assert {name: train[name] for name in train.keys() & CHOICES} == {"model": "maml"} | STUDY[kinds[folder]], (
            folder
        )
        assert TRAINED.items() <= train.items(), folder
    assert all((test["n_test_iters"], test["n_test_mc_samp"]) == (400, 10) for *_, test in first if test)
    assert trained["protonet_wide_0"]["metabatch"] == 1
    assert trained["maml_0"]["metabatch"] == 4 and trained["vib-1e-4_0"]["vib_beta"] == 1e-4
    untested = {folder for folder, _, test in first if test is None}
    assert untested == {folder for folder in trained if "-" in folder}
    assert_refused(call("runfiles/regularisers.py", tmp_path, "--runs", 1), "not all validations of mixup")
    for folder in untested:  # the second strength is the best at the end, the first one before
        second = folder.split("-", 1)[1][:-2] in ("1", "1e-3", "6e-5")
        write_run(tmp_path / folder, validations=(0.99, 0.5 if second else 0.9, 0.95 if second else 0.9))
    more = study(tmp_path, 1, 2)
    folders = [folder for folder, *_ in more]
    assert all(test["n_test_iters"] == 400 for *_, test in more) and len(set(folders)) == len(folders)
    assert [f for f in folders if "vib" in f] == ["vib-1e-3_0", "vib-1e-3_1", "vib-1e-3_2"]
    assert [f for f in folders if f.startswith("mixup_query")] == [f"mixup_query-1_{seed}" for seed in (0, 1, 2)]
    assert [f for f in folders if f.startswith("fixed")] == ["fixed_1", "fixed_2"]
    assert {train["seed"] for folder, train, _ in more if folder.endswith("_0")} == {0}


def test_the_studys_table_is_paired_with_maml(tmp_path):
    for value, last in (("1e-4", 0.9), ("1e-3", 0.95), ("1e-2", 0.8)):
        write_run(tmp_path / f"vib-{value}_0", (0.2, last), 97, seconds=2, perturbation="vib")
    write_run(tmp_path / "vib-1e-3_1", (0.2, 0.97), 98, seconds=4, perturbation="vib")
    for seed, accuracy in ((0, 95), (1, 97)):
        write_run(tmp_path / f"maml_{seed}", (0.2, 0.93), accuracy, seconds=2)
    done = cli("runfiles/regularisers.py", tmp_path, "--figure", tmp_path / "figure.png")
    assert done.returncode == 0, done.stderr
    maml, vib = done.stdout.splitlines()[2:]
    last = f"{np.mean([1 / 2, 1 / 3, 1 / 4, 1 / 5]):.3f}"  # the loss over 200 iterations
    assert maml == f"| MAML |  | 112,005 | 1.00 | {last} | 93.00 | 2 | 96.00 ± 12.71 |  |  |"
    extra = 2 * (64 * 64 + 64)
    assert vib.startswith(
        f"| VIB | 1e-3 | {112005 + extra:,} | 1.50 | {last} | 96.00 | 2 | 97.50 ± 6.35 | +1.50 ± 6.35 |"
    )
    assert vib.endswith("| +2.00 ± 0.00, +1.00 ± 0.00 |") and (tmp_path / "figure.png").stat().st_size > 10000
    others = {"episodes_sha256": "b", "iteration": 700, "n_test_mc_samp": 1}
    for fact, words in zip(others, ("test episodes", "training iterations", "noise samples"), strict=True):
        write_run(tmp_path / "fixed_0", (0.2, 0.9), 90, {fact: others[fact]}, perturbation="fixed")
        assert_refused(call("runfiles/regularisers.py", tmp_path), f"{words} differ")
        shutil.rmtree(tmp_path / "fixed_0")
    assert_refused(call("runfiles/regularisers.py", tmp_path / "none"), "run runfiles/regularisers.sh first")


def test_the_time_of_an_iteration_leaves_validations_out(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "runfiles")
    regularisers = importlib.import_module("regularisers")
    rows = ["0,9,1,1,1,0.5,0.1", "50,109,1,1,,,", "100,409,1,1,1,0.5,0.1"]  # the second 50 with a validation
    (tmp_path / "meta_train.csv").write_text("\n".join(["iter,secs,loss,acc,val_loss,val_acc,val_ci95", *rows]))
    assert regularisers.seconds(tmp_path) == 2


def test_titles_of_near_points_lie_on_no_other_title(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "runfiles")
    regularisers = importlib.import_module("regularisers")
    fig, ax = plt.subplots(dpi=150)
    points = {"first title": (0.5, 0.5), "second title": (0.501, 0.502), "third title": (0.503, 0.499), "far": (0, 1)}
    ax.plot(*zip(*points.values(), strict=True), "o", ms=4)
    regularisers.write_titles(ax, points)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list(points)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    plt.close(fig)


def test_the_studys_figure_has_differences_from_maml_and_losses_that_are_of_its_kind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "runfiles")
    regularisers = importlib.import_module("regularisers")
    write_run(tmp_path / "maml_0", (0.2, 0.93), 95)
    write_run(tmp_path / "fixed_0", (0.2, 0.9), 97, perturbation="fixed", channels=32)
    write_run(tmp_path / "protonet_wide_0", (0.2, 0.8), 94, model="protonet", train_way=60)
    for alpha, value in (("0.2", 0.7), ("1", 0.8), ("2", 0.7)):
        mixed = {"perturbation": "mixup", "mix_set": "query", "mix_alpha": float(alpha)}
        write_run(tmp_path / f"mixup_query-{alpha}_0", (0.2, value), 96, **mixed)
    rows = regularisers.read_rows(tmp_path)
    assert [name for name, row in rows.items() if np.isnan(row.loss)] == ["mixup_query", "protonet_wide"]
    assert rows["fixed"].parameters < rows["mixup_query"].parameters == rows["maml"].parameters
    with mock.patch("matplotlib.figure.Figure.savefig"):
        regularisers.figure(rows, tmp_path / "figure.png")
    left, right = plt.gcf().axes
    plt.close()
    drawn = {
        label.get_text(): line.get_xdata() for label, line in zip(left.get_yticklabels(), left.lines[::2], strict=False)
    }
    assert drawn == {"fixed noise": [2], "mixup, query": [1], "Prototypical Network, trained 60-way": [-1]}
    assert [text.get_text() for text in right.texts] == ["MAML", "fixed noise"]
