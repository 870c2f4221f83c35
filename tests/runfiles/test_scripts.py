"""The shell scripts of runfiles/: the flags of each command, the names of the runs, and that the flags of a script
reach every command.

A stub stands for Python and writes down how it was called; nothing is trained.
"""

import importlib
import json
import os
import shutil
import subprocess
import threading

import pytest

import main
from conftest import ROOT, call

STUB = """#!/bin/sh
printf '%s|%s\\n' "${TF_CONFIG-}" "$*" >> "$CALLS"
case "$*" in *--best*) echo 0.2 3e-3 ;; esac
"""
GIVEN = ["--gpu_id", "-1"]


@pytest.fixture
def commands(tmp_path):
    """commands(script, words, **environment) -> the words after `python` of each command that it starts."""
    shutil.copytree(ROOT / "runfiles", tmp_path / "runfiles")
    stub, log = tmp_path / "stub", tmp_path / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(script, *words, with_config=False, **environment) -> list:
        log.unlink(missing_ok=True)
        environment = os.environ | {"PYTHON": str(stub), "CALLS": str(log)} | environment
        command = ["sh", str(tmp_path / "runfiles" / script), *(words or GIVEN)]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        lines = [line.split("|", 1) for line in log.read_text().splitlines()]
        return [(config, line.split()) if with_config else line.split() for config, line in lines]

    return run


def flags_of(calls, mode=None) -> list[dict]:
    """Return the flags of main.py in these commands, of one mode or of all. Each mode must use its flags."""
    given = [main.read_command(words[1:]) for words in calls if words[0] == "main.py"]
    for flags in given:
        flags |= {name: [str(place) for place in flags[name]] for name in ("savedir", "weights") if name in flags}
    return [flags for flags in given if mode in (None, flags["mode"])]


def others(calls) -> list[str]:
    """Return the commands of other programs than main.py."""
    return [" ".join(words) for words in calls if words[0] != "main.py"]


def savedirs(given) -> list[str]:
    return [" ".join(flags["savedir"]) for flags in given]


FIVE_WAY = {
    "dataset": "omniglot",
    "way": 5,
    "query": 15,
    "metabatch": 4,
    "meta_lr": 1e-3,
    "gpu_id": "-1",
    "resume": True,
}


def test_omni_5way(commands):
    calls = commands("omni_5way.sh", SEEDS="7")
    wanted = {
        f"results/omni_5way/{shot}shot/{model}_{gradient}_7": FIVE_WAY
        | {"mode": "meta_train", "shot": shot, "model": model, "meta_gradient": gradient, "inner_lr": 0.1, "seed": 7}
        | {"n_train_iters": 800 if shot == 1 else 400, "val_every": 200, "n_val_tasks": 100, "save_freq": 200}
        for shot, gradients in ((1, ("published", "exact")), (5, ("published",)))
        for model in ("maml", "metadrop")
        for gradient in gradients
    }
    train, test = flags_of(calls, "meta_train"), flags_of(calls, "meta_test")
    assert {flags.pop("savedir")[0]: flags for flags in train} == wanted and len(train) == len(wanted) == 6
    assert savedirs(test) == [*wanted]
    alike = {"mode": "meta_test", "n_test_iters": 400, "n_test_mc_samp": 10, "gpu_id": "-1"}
    assert all(flags == alike | {"savedir": flags["savedir"]} for flags in test)
    assert others(calls) == ["runfiles/omni_5way.py results/omni_5way --figure results/omni_5way/gradients.png"]
    seeds = [(flags["shot"], flags["seed"]) for flags in flags_of(commands("omni_5way.sh"), "meta_train")]
    assert sorted(set(seeds)) == [(1, 0), (1, 1), (1, 2), (1, 3), (5, 0), (5, 1), (5, 2)]


def test_glyphs(commands):
    calls = commands("glyphs.sh")
    train, test = flags_of(calls, "meta_train"), flags_of(calls, "meta_test")
    wanted = {
        "mode": "meta_train",
        "dataset": "glyphs",
        "way": 10,
        "shot": 1,
        "query": 5,
        "metabatch": 4,
        "resume": True,
    }
    wanted |= {"n_train_iters": 1000, "val_every": 200, "n_val_tasks": 100, "save_freq": 100, "gpu_id": "-1"}
    folders = [["results/glyphs/maml"], ["results/glyphs/metadrop"]]
    assert train == [wanted | {"savedir": d, "model": d[0].split("/")[-1]} for d in folders]
    tested = {"mode": "meta_test", "n_test_iters": 1000, "n_test_mc_samp": 10, "gpu_id": "-1"}
    assert test == [tested | {"savedir": d} for d in folders]
    assert flags_of(calls, "compare") == [{"mode": "compare", "savedir": [*folders[0], *folders[1]]}]
    assert others(calls) == ["get_data.py --dataset glyphs"]


def test_demo_shows_the_pretrained_pair(commands):
    calls = commands("demo.sh")
    *runs, last = flags_of(calls)
    assert last == {"mode": "compare", "savedir": ["results/demo/maml", "results/demo/metadrop"]}
    assert [flags["mode"] for flags in runs] == ["meta_train"] + 2 * ["meta_test", "export"]
    for flags, model in zip(runs[1:], ("maml", "maml", "metadrop", "metadrop"), strict=True):
        assert flags["savedir"] == [f"results/demo/{model}"]
        if flags["mode"] == "meta_test":
            assert flags["weights"] == [f"pretrained/glyphs_10way_1shot_{model}.npz"] and flags["n_test_iters"] == 60
            assert (ROOT / flags["weights"][0]).is_file()
    assert others(calls) == [
        "get_data.py --dataset glyphs",
        "plot.py --savedir results/demo/maml results/demo/metadrop --figures boundary features histogram --format png",
    ]


def test_rates_names_a_run_after_its_rates(commands):
    calls = commands("rates.sh")
    train, test = flags_of(calls, "meta_train"), flags_of(calls, "meta_test")
    for flags in train:
        named = "_".join(str(flags[n]) for n in ("model", "meta_gradient", "inner_lr", "meta_lr", "seed"))
        written = {"0.0003": "3e-4", "0.001": "1e-3", "0.003": "3e-3"}
        for number, words in written.items():
            named = named.replace(f"_{number}_", f"_{words}_")
        assert flags["savedir"] == [f"results/rates/{named}"]
        wanted = FIVE_WAY | {"shot": 1, "n_train_iters": 800, "val_every": 800, "n_val_tasks": 400}
        wanted |= {"meta_lr": flags["meta_lr"]}
        assert {name: flags[name] for name in wanted} == wanted
    swept = {(flags["inner_lr"], flags["meta_lr"]) for flags in train if flags["seed"] == 0}
    assert swept == {(inner, meta) for inner in (0.05, 0.1, 0.2) for meta in (3e-4, 1e-3, 3e-3)}
    assert all((f["n_test_iters"], f["n_test_mc_samp"], f["gpu_id"]) == (400, 10, "-1") for f in test)
    assert len(test) == len(set(savedirs(test))) == 12
    best = [line for line in others(calls) if "--best" in line]
    assert best == [f"runfiles/rates.py results/rates --best {model} {gradient}"
                    for model in ("maml", "metadrop") for gradient in ("published", "exact")]  # fmt: skip


def test_table1_makes_all_cells_and_then_the_table(commands):
    calls = commands("table1.sh")
    cells = [
        f"results/{model}/{data}_{shot}shot"
        for data in ("omni", "mimg")
        for shot in (1, 5)
        for model in ("maml", "metadrop")
    ]
    assert savedirs(flags_of(calls, "meta_train")) == savedirs(flags_of(calls, "meta_test")) == cells
    assert all(flags["gpu_id"] == "-1" for flags in flags_of(calls)) and calls[-1] == ["runfiles/table1.py"]


BY_TRAIN_ALL = {"regularisers.sh", "robustness.sh", "transfer.sh"}
TRAINING = {path.name for path in (ROOT / "runfiles").glob("*.sh")} - BY_TRAIN_ALL - {"demo.sh", "workers.sh"}


@pytest.mark.parametrize("script", sorted(TRAINING))
def test_flags_for_all_and_for_training_or_tests_alone_reach_them(script, commands):
    """The flags of a script reach every run; TRAIN_FLAGS and TEST_FLAGS override the script's."""
    more = {"TRAIN_FLAGS": "--save_freq 7 --n_train_iters 3", "TEST_FLAGS": "--checkpoint best --n_test_iters 5"}
    calls = flags_of(commands(script, "--gpu_id", "-1", "--precision", "bf16", **more))
    train, tests = ([f for f in calls if f["mode"] in modes] for modes in (["meta_train"], ["meta_test", "collapse"]))
    assert train and tests and len(train) + len(tests) == sum(flags["mode"] != "compare" for flags in calls)
    for flags in (*train, *tests):
        assert (flags["gpu_id"], flags["precision"]) == ("-1", "bf16")
    assert {(flags["save_freq"], flags["n_train_iters"], flags["resume"]) for flags in train} == {(7, 3, True)}
    assert {(flags["checkpoint"], flags["n_test_iters"]) for flags in tests} == {("best", 5)}
    assert set(savedirs(tests)) <= set(savedirs(train))


def test_masks_tells_each_learner_its_tasks_and_each_kind_its_mask(commands):
    """2000 tasks of the background set, five small exact inner steps of MAML; other kinds if KINDS names them."""
    calls = commands("masks.sh", SEEDS="4", KINDS="none mask scaled support_only per_sample", DATA="d", SOURCE="s")
    train, test = flags_of(calls, "meta_train"), flags_of(calls, "meta_test")
    alike = {"mode": "meta_train", "dataset": "omniglot", "data_dir": "d", "split": "background", "way": 5, "shot": 1}
    alike |= {"query": 15, "meta_lr": 1e-3, "clip_norm": 1, "seed": 4, "save_freq": 50, "gpu_id": "-1", "resume": True}
    learners = {
        "metanet_embedding": {"metabatch": 8, "n_train_iters": 249},
        "metanet_original": {"metabatch": 16, "n_train_iters": 124},
        "maml": {"metabatch": 16, "n_train_iters": 124, "n_steps": 5, "inner_lr": 0.01, "meta_gradient": "exact"},
    }
    kinds = {"none": {}, "mask": {"perturbation": "mask"}}
    kinds |= {kind: {"perturbation": "mask", f"mask_{kind}": True} for kind in ("scaled", "support_only", "per_sample")}
    wanted = {
        f"results/masks/28/{model}/{kind}_4": alike | {"model": model} | own | mask
        for model, own in learners.items()
        for kind, mask in kinds.items()
    }
    assert {flags.pop("savedir")[0]: {k: v for k, v in flags.items() if k != "data_dir"} | {
        "data_dir": str(flags["data_dir"])} for flags in train} == wanted  # fmt: skip
    assert savedirs(test) == [*wanted] and all((f["metabatch"], f["n_test_iters"]) == (4, 1000) for f in test)
    assert others(calls) == [
        "get_data.py --dataset omniglot --size 28 --data_dir d --source s", "runfiles/masks.py results/masks/28",
    ]  # fmt: skip


@pytest.mark.parametrize(("script", "parts"), [
    ("regularisers", ["--runs 0 --", "--runs 1 2 --"]),
    ("robustness", ["--runs --", "--probes --"]),
    ("transfer", ["--runs --"]),
])  # fmt: skip
def test_a_study_hands_its_runs_to_train_all(script, parts, commands):
    """train_all.py takes JOBS; the flags of the script reach the list of runs."""
    folder = f"results/{script}"
    for jobs, words in (({}, ""), ({"JOBS": "3"}, " --jobs 3")):
        calls = others(commands(f"{script}.sh", **jobs))
        assert [line for line in calls if "--runs" in line or "--probes" in line] == [
            f"runfiles/{script}.py {folder} {part} --gpu_id -1" for part in parts
        ]
        assert [line for line in calls if "train_all" in line] == [f"runfiles/train_all.py{words}"] * len(parts)
    figure = f" --figure {folder}/regularisers.png" if script == "regularisers" else ""
    assert calls[-1] == f"runfiles/{script}.py {folder}{figure}"


def test_robustness_attacks_the_pretrained_pair_in_three_ways(commands):
    attacks = flags_of(commands("robustness.sh"))
    wanted = [
        {
            "mode": "attack", "savedir": [f"results/robustness/{model}_20way_0"], "norm": norm, "threat": threat,
            "weights": [f"pretrained/omniglot_20way_1shot_{model}.npz"], "query": 3, "n_test_iters": 100,
            "n_test_mc_samp": 10, "metabatch": 2, "gpu_id": "-1",
        }
        for norm, threat in (("linf", "joint"), ("linf", "remaining"), ("l2", "joint"))
        for model in ("maml", "metadrop")
    ]  # fmt: skip
    assert attacks == wanted and all((ROOT / flags["weights"][0]).is_file() for flags in attacks)


def test_workers_are_told_of_each_other(commands):
    """Each worker has its own number, and all have the same addresses and flags."""
    calls = commands("workers.sh", "--savedir", "d", "--way", "3", with_config=True, WORKERS="3", PORT="9000")
    assert {tuple(words) for _, words in calls} == {("main.py", "--mode", "meta_train", "--savedir", "d", "--way", "3")}
    configs = [json.loads(config) for config, _ in calls]
    addresses = ["localhost:9000", "localhost:9001", "localhost:9002"]
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    assert sorted(config["task"]["index"] for config in configs) == [0, 1, 2]
    assert {config["task"]["type"] for config in configs} == {"worker"}


def test_the_flags_that_a_study_is_given_reach_training_tests_and_attacks(monkeypatch, tmp_path):
    """Runs with and without a strength; test_robustness_runs.py checks the attacks on the regularisers."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")
    for program, words in (("regularisers", ["--runs", 0]), ("robustness", ["--runs"]), ("robustness", ["--probes"])):
        done = call(f"runfiles/{program}.py", tmp_path, *words, "--", "--gpu_id", "-1", "--metabatch", "8")
        assert done.returncode == 0, done.stderr
        parts = [part for line in done.stdout.splitlines() for part in line.split(" | ")[1:]]
        assert len(parts) > 20 and all(part.endswith("--gpu_id -1 --metabatch 8") for part in parts), program


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to a core")
def test_train_all_trains_tests_and_attacks_with_what_a_line_says(monkeypatch, tmp_path):
    """The commands of a run follow one another on one core; as many runs as cores are made at a time."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")
    train_all, started, lock = importlib.import_module("train_all"), [], threading.Barrier(2, timeout=30)

    class Process:
        def __init__(self, words, **pipes):
            (core,) = os.sched_getaffinity(0)
            started.append((core, words[2:], pipes["stdout"].name))

        def wait(self):
            lock.wait()  # for the other run: two are at work
            return 0

    cores = (sorted(os.sched_getaffinity(0)) * 2)[:2]
    monkeypatch.setattr(train_all, "cores", lambda: cores)
    monkeypatch.setattr(train_all.subprocess, "Popen", Process)
    runs = tmp_path / "runs"
    runs.write_text("\n".join(f"{tmp_path}/{name} | --seed {i} | --shot 2 | --norm l2" for i, name in enumerate("ab")))
    done = call("runfiles/train_all.py", runs, "--data_dir", "where")
    assert done.returncode == 0, done.stderr
    assert {core for core, *_ in started} == set(cores)
    for i, name in enumerate("ab"):
        own = [(core, words) for core, words, log in started if log == str(tmp_path / name / "train_all.log")]
        place = f"--savedir {tmp_path}/{name} --data_dir where"
        assert [" ".join(words) for _, words in own] == [
            f"--mode meta_train --resume {place} --seed {i}", f"--mode meta_test {place} --shot 2",
            f"--mode attack {place} --norm l2",
        ]  # fmt: skip
        assert len({core for core, _ in own}) == 1
