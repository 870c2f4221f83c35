"""The shell scripts of runfiles/: the flags of each command, and that the flags of a script reach every command.

A stub stands for Python and writes down how it was called; nothing is trained.
"""

import json
import os
import shutil
import subprocess
import time

import pytest

import declared
import main
from conftest import ROOT

STUB = """#!/bin/sh
printf '%s|%s\\n' "${TF_CONFIG-}" "$*" >> "$CALLS"
"""
GIVEN = ["--gpu_id", "-1"]
MODELS = ("maml", "metadrop")
DEFAULTS = {name: field.default for name, field in declared.ALL.items()}
SETTINGS = ("dataset", "way", "shot", "metabatch", "inner_lr", "n_train_iters")
CELLS = {
    "omni_1shot": ("omniglot", 20, 1, 8, 0.1, 40000),
    "omni_5shot": ("omniglot", 20, 5, 6, 0.4, 40000),
    "mimg_1shot": ("mimgnet", 5, 1, 4, 0.01, 60000),
    "mimg_5shot": ("mimgnet", 5, 5, 4, 0.01, 60000),
}
META_LR = {"omni_1shot": 3e-4, "omni_5shot": 1e-3, "mimg_1shot": 1e-4, "mimg_5shot": 1e-4}  # of Meta-dropout


@pytest.fixture
def commands(tmp_path):
    """commands(script, words, **environment) -> the words after `python` of each command that it starts."""
    shutil.copytree(ROOT / "runfiles", tmp_path / "runfiles")
    stub, log = tmp_path / "stub", tmp_path / "calls"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(script, *words, with_config=False, **environment) -> list:
        environment = os.environ | {"PYTHON": str(stub), "CALLS": str(log)} | environment
        command = ["sh", str(tmp_path / "runfiles" / script), *(words or GIVEN)]
        subprocess.run(command, env=environment, capture_output=True, check=True)
        lines = [line.split("|", 1) for line in log.read_text().splitlines()]
        return [(config, line.split()) if with_config else line.split() for config, line in lines]

    return run


def flags_of(calls, mode=None) -> list[dict]:
    """Return the flags of main.py in these commands, of one mode or of all. Each mode must use its flags."""
    given = [main.read_command(words[1:]) for words in calls if words[0] == "main.py"]
    return [flags for flags in given if mode in (None, flags["mode"])]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("model", MODELS)
def test_a_cell_has_the_published_settings(model, cell, commands):
    train, test = (DEFAULTS | flags for flags in flags_of(commands(f"{model}_{cell}.sh")))
    wanted = dict(zip(SETTINGS, CELLS[cell], strict=True)) | {"mode": "meta_train", "model": model, "resume": True}
    wanted |= {"query": 15, "n_steps": 5, "meta_gradient": "published", "gpu_id": "-1"}
    wanted |= {"meta_lr": 1e-3 if model == "maml" and "omni" in cell else META_LR[cell]}
    wanted |= {"train_split": "trainval" if "omni" in cell else "train"}
    assert {name: train[name] for name in wanted} == wanted
    assert test["mode"] == "meta_test" and test["savedir"] == train["savedir"] == [f"results/{model}/{cell}"]
    samples = 30 if model == "metadrop" else 1
    assert (test["metabatch"], test["n_test_iters"], test["n_test_mc_samp"], test["gpu_id"]) == (1, 1000, samples, "-1")


def test_table1_makes_all_cells_and_then_the_table(commands):
    calls = commands("table1.sh")
    folders = [[f"results/{model}/{cell}"] for cell in CELLS for model in MODELS]
    for mode in ("meta_train", "meta_test"):
        assert [flags["savedir"] for flags in flags_of(calls, mode)] == folders
    assert all(flags["gpu_id"] == "-1" for flags in flags_of(calls))
    assert calls[-1] == ["runfiles/study.py", "table1", "table"] and len(calls) == 17


@pytest.mark.parametrize("script", [*(f"{model}_{cell}.sh" for cell in CELLS for model in MODELS), "table1.sh"])
def test_flags_for_all_and_for_training_or_tests_alone_reach_them(script, commands):
    """The flags of a script reach every run; TRAIN_FLAGS and TEST_FLAGS override the script's."""
    more = {"TRAIN_FLAGS": "--save_freq 7 --n_train_iters 3", "TEST_FLAGS": "--checkpoint best --n_test_iters 5"}
    calls = commands(script, "--gpu_id", "-1", "--precision", "bf16", **more)
    train, tests = (flags_of(calls, mode) for mode in ("meta_train", "meta_test"))
    assert len(train) == len(tests) == (8 if script == "table1.sh" else 1)
    assert {(flags["gpu_id"], flags["precision"]) for flags in (*train, *tests)} == {("-1", "bf16")}
    assert {(flags["save_freq"], flags["n_train_iters"], flags["resume"]) for flags in train} == {(7, 3, True)}
    assert {(flags["checkpoint"], flags["n_test_iters"]) for flags in tests} == {("best", 5)}


def test_demo_shows_the_pretrained_pair(commands):
    calls = commands("demo.sh")
    *runs, last = flags_of(calls)
    assert last == {"mode": "compare", "savedir": ["results/demo/maml", "results/demo/metadrop"]}
    assert [flags["mode"] for flags in runs] == ["meta_train"] + 2 * ["meta_test", "export"]
    for flags, model in zip(runs[1:], ("maml", "maml", "metadrop", "metadrop"), strict=True):
        assert flags["savedir"] == [f"results/demo/{model}"]
        if flags["mode"] == "meta_test":
            (weights,) = map(str, flags["weights"])
            assert weights == f"pretrained/glyphs_10way_1shot_{model}.npz" and (ROOT / weights).is_file()
    assert [" ".join(words) for words in calls if words[0] != "main.py"] == [
        "get_data.py --dataset glyphs",
        "plot.py --savedir results/demo/maml results/demo/metadrop --figures boundary features histogram --format png",
    ]


def test_a_stop_reaches_all_workers_and_is_waited_for(tmp_path):
    stub, log = tmp_path / "stub", tmp_path / "calls"
    stub.write_text(
        "#!/bin/sh\ncase $TF_CONFIG in *'\"index\": 1'*) seconds=1;; *) seconds=0;; esac # one is slower\n"
        "trap 'sleep $seconds; echo stopped >> \"$CALLS\"; exit 130' TERM\n"
        'echo up >> "$CALLS"\nfor i in $(seq 300); do sleep 0.1; done\n'
    )
    stub.chmod(0o755)
    log.touch()
    environment = os.environ | {"PYTHON": str(stub), "CALLS": str(log)}
    with subprocess.Popen(["sh", str(ROOT / "runfiles/workers.sh"), "--way", "5"], env=environment) as script:
        while log.read_text().split() != ["up"] * 2:
            assert script.poll() is None
            time.sleep(0.02)
        script.terminate()
        assert script.wait(60) == 130
    assert log.read_text().split() == ["up"] * 2 + ["stopped"] * 2


def test_a_worker_that_fails_is_the_scripts_failure(tmp_path):
    stub = tmp_path / "stub"
    stub.write_text('#!/bin/sh\ncase $TF_CONFIG in *"\\"index\\": 1"*) exit 2;; esac\n')
    stub.chmod(0o755)
    done = subprocess.run(
        ["sh", str(ROOT / "runfiles/workers.sh")], env=os.environ | {"PYTHON": str(stub)}, check=False
    )
    assert done.returncode == 2


def test_workers_are_told_of_each_other(commands):
    """Each worker has its own number, and all have the same addresses and flags."""
    calls = commands("workers.sh", "--savedir", "d", "--way", "3", with_config=True, WORKERS="3", PORT="9000")
    assert {tuple(words) for _, words in calls} == {("main.py", "--mode", "meta_train", "--savedir", "d", "--way", "3")}
    configs = [json.loads(config) for config, _ in calls]
    addresses = ["localhost:9000", "localhost:9001", "localhost:9002"]
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    assert sorted(config["task"]["index"] for config in configs) == [0, 1, 2]
    assert {config["task"]["type"] for config in configs} == {"worker"}
