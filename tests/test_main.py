"""The command line, run as a user runs it: every mode, faults, kills and interruptions."""

import csv
import dataclasses
import functools
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bench
import declared
import main
from conftest import ROOT, SETTINGS, SMALL, assert_refused, call, cli, flags_of, succeed
from declared import fields_of
from errors import UserError
from runs import checkpoint
from studies import export_format
from training import config, test_results
from training.intervals import over_classes

OF_RUN = config.all_names()


def train(data_dir, savedir, *args, how=call):
    return how("main.py", "--savedir", savedir, "--data_dir", data_dir, *SMALL, *args)


def assert_same_run(one: Path, other: Path):
    """Bit-identical parameters, Adam and counters, and the same log but for the times."""
    a, b = checkpoint(one), checkpoint(other)
    assert a.keys() == b.keys() and len([n for n in a if n.startswith("params")]) == 24
    assert {n.split("/")[1] for n in a if n.startswith("adam/")} == {"m", "v", "t"}
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    rows = [[{k: v for k, v in r.items() if k != "secs"} for r in read_csv(d)] for d in (one, other)]
    assert rows[0] == rows[1]
    logs = [re.sub(r"\(.* secs\)", "", (d / "meta_train.log").read_text()) for d in (one, other)]
    assert logs[0].split("\n\n", 1)[1] == logs[1].split("\n\n", 1)[1]


def read_csv(savedir) -> list[dict]:
    with open(savedir / "meta_train.csv") as f:
        return list(csv.DictReader(f))


TRAINING = ("--n_train_iters", 120, "--save_freq", 20, "--val_every", 60, "--n_val_tasks", 4)


TESTED = ("--n_test_iters", 7, "--n_test_mc_samp", 2)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Path:
    """A Meta-dropout run that was never interrupted, in a process of its own: for the same bits, the same threads."""
    savedir = tmp_path_factory.mktemp("runs") / "metadrop"
    done = train(data_dir, savedir, *TRAINING, how=cli)
    assert done.returncode == 0, done.stderr
    return savedir


@pytest.fixture(scope="module")
def tested(run) -> Path:
    done = succeed("main.py", "--mode", "meta_test", "--savedir", run, *TESTED)
    device, wide, accuracy = done.stdout.strip().splitlines()
    assert device.startswith("device: CPU, ") and re.fullmatch(r"accuracy : \d+\.\d+ \+- \d+\.\d+", accuracy)
    assert re.fullmatch(r"interval over test classes : \+- \d+\.\d+", wide)
    return run


def test_data_that_moved_are_asked_for(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text()) | {"data_dir": "/home/somebody/data"}
    (copy / "config.json").write_text(json.dumps(config))
    done = call("main.py", "--mode", "meta_test", "--savedir", copy, "--n_test_iters", 2)
    assert_refused(done, "there is no dataset in /home/somebody/data", "in another folder, give that as --data_dir")


def test_meta_train_leaves_the_logs_of_the_reference(run):
    log = (run / "meta_train.log").read_text()
    assert "inner_lr: 0.1\n" in log and "n_train_iters: 120\n" in log
    head = r"\nIter 50 start, learning rate 0\.001000\nmeta_train: episode 100, "
    assert re.search(head + r"\(\d+\.\d{3} secs\), cent \d\.\d{6}, acc \d\.\d{6}\n", log)
    assert log.count("meta_val  : ") == 3
    rows = read_csv(run)
    assert [r["iter"] for r in rows] == ["0", "50", "60", "100", "120"]
    assert [r["iter"] for r in rows if r["val_acc"]] == ["0", "60", "120"]
    assert all(0 < float(r["loss"]) < 2 and 0 <= float(r["acc"]) <= 1 for r in rows)
    assert json.loads((run / "config.json").read_text())["way"] == 3
    assert list((run / "tensorboard").glob("events*"))
    best = max((float(r["val_acc"]), -int(r["iter"])) for r in rows if r["val_acc"])
    assert checkpoint(run, "best")["next/.ATTRIBUTES/VARIABLE_VALUE"] == 1 - best[1]


@pytest.mark.parametrize("iterations", [(30,), pytest.param((30, 75), marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_is_never_killed(iterations, run, data_dir, tmp_path):
    command = [sys.executable, ROOT / "main.py", "--savedir", tmp_path / "killed", "--data_dir", data_dir, *SMALL]
    command, kills = [*map(str, [*command, *TRAINING])], 0
    for iteration in iterations:  # killed inside a window of the log, some time after this iteration
        process = subprocess.Popen([*command, "--resume"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wanted = f"ckpt-{iteration // 20 * 20}.index"
        while process.poll() is None and not (tmp_path / "killed/checkpoints/last" / wanted).exists():
            time.sleep(0.01)
        time.sleep(0.05)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    done = train(data_dir, tmp_path / "killed", *TRAINING, "--resume", how=cli)
    assert done.returncode == 0 and kills == len(iterations) and "resumed at iteration" in done.stdout, done.stderr
    assert_same_run(run, tmp_path / "killed")


@pytest.mark.slow
def test_interrupted_saves_and_goes_on(run, data_dir, tmp_path):
    command = [sys.executable, ROOT / "main.py", "--savedir", tmp_path / "a", "--data_dir", data_dir]
    command += [*SMALL, *TRAINING]
    process = subprocess.Popen(map(str, command), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "a/checkpoints/last/ckpt-0.index").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 130 and "interrupted and saved after iteration" in stderr, stderr
    assert "Traceback" not in stderr
    done = cli("main.py", "--savedir", tmp_path / "a", "--resume")  # config.json says the rest
    assert done.returncode == 0, done.stderr
    assert_same_run(run, tmp_path / "a")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(run, data_dir, tmp_path):
    """And goes on from there as a run does that never had the last one."""
    damaged, without = (shutil.copytree(run, tmp_path / name) for name in ("damaged", "without"))
    for part in (without / "checkpoints/last").glob("ckpt-120.*"):
        part.unlink()
    path = next((damaged / "checkpoints/last").glob("ckpt-120.data*"))
    path.write_bytes(path.read_bytes()[:1000])
    for savedir in (damaged, without):
        done = succeed("main.py", "--savedir", savedir, "--resume")
        assert "resumed at iteration 101" in done.stdout
        assert ("ckpt-120 is damaged" in done.stderr) == (savedir == damaged)
    assert_same_run(without, damaged)
    rows = [[row["iter"] for row in read_csv(savedir)] for savedir in (run, damaged)]
    assert rows[0] == rows[1]
    path.write_bytes(b"")
    assert_refused(call("main.py", "--mode", "meta_test", "--savedir", damaged), "ckpt-120", "damaged")


def test_meta_test_writes_its_result(tested):
    *_, wide, _, last = (tested / "meta_test.log").read_text().strip().splitlines()
    result = json.loads((tested / "meta_test.json").read_text())
    accs = np.array(result["accuracies"])
    assert len(accs) == result["episodes"] == 7 and result["n_test_mc_samp"] == 2 and result["iteration"] == 120
    assert last == f"accuracy : {accs.mean():f} +- {1.96 * accs.std() / np.sqrt(7):f}"
    assert wide == f"interval over test classes : +- {result['interval95_classes']:f}"
    assert result["interval95_classes"] == pytest.approx(over_classes(accs / 100, result["classes"]))
    assert np.shape(result["classes"]) == (7, result["settings"]["way"])
    assert not list((tested / "tests").glob("*.part"))


def again(tested, tmp_path, *flags) -> tuple[dict, dict]:
    """The result of `tested`, and of the same test in a copy where that was not tested."""
    shutil.copytree(tested, tmp_path / "a", ignore=shutil.ignore_patterns("meta_test*"))
    succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / "a", *TESTED, *flags)
    return tuple(json.loads((d / "meta_test.json").read_text()) for d in (tested, tmp_path / "a"))


def test_meta_test_is_the_same_whatever_the_metabatch(tested, tmp_path):
    before, after = again(tested, tmp_path, "--metabatch", 3)
    assert after["accuracies"] == before["accuracies"]
    np.testing.assert_allclose(after["losses"], before["losses"], rtol=1e-4)


def test_meta_test_goes_on_from_what_an_interrupted_one_left(tested, tmp_path):
    """Of the same test: what another identity left, such as another precision's, is another file."""
    shutil.copytree(tested, tmp_path / "b", ignore=shutil.ignore_patterns("meta_test*"))
    before = json.loads((tested / "meta_test.json").read_text())
    store = test_results.ResultFiles(tmp_path / "b", "meta_test", test_results.identity_of(before))
    store.write_partial(json.dumps({"losses": [0.0] * 5, "accs": [0.0] * 5}))
    for flags, taken in (((), True), (("--precision", "bf16"), False), (("--seed", 1), False)):
        succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / "b", *TESTED, *flags)
        after = json.loads((tmp_path / "b/meta_test.json").read_text())
        assert (after["losses"][:5] == [0.0] * 5) == taken, flags
        if taken:
            assert after["accuracies"] == [0.0] * 5 + before["accuracies"][5:]
            assert after["classes"] == before["classes"]
    assert not store.partial.exists() and len(list((tmp_path / "b/tests").iterdir())) == 3


def test_what_decides_a_result_identifies_it(tested):
    """The weights, by their numbers; and XLA and a GPU round otherwise."""
    result = json.loads((tested / "meta_test.json").read_text())
    digest, settings = hashlib.sha256(), result["settings"]
    for key, value in sorted(checkpoint(tested).items()):
        if key.startswith("params/"):
            name = key.removeprefix("params/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE").replace(".S", "/")
            digest.update(name.encode() + value.tobytes())
    assert result["weights_sha256"] == digest.hexdigest()
    assert {"precision", "device", "jit", "data_sha256", "seed", "n_steps", "inner_lr"} <= settings.keys()
    place = test_results.ResultFiles(tested, "meta_test", {"settings": settings}).path
    for name, value in (("jit", True), ("device", "GPU"), ("precision", "tf32"), ("data_sha256", "another")):
        assert settings[name] != value
        assert test_results.ResultFiles(tested, "meta_test", {"settings": settings | {name: value}}).path != place, name


def test_results_of_other_tests_are_kept_and_one_that_is_there_is_taken(tested, tmp_path):
    shutil.copytree(tested, tmp_path / "a")
    path, first = tmp_path / "a/meta_test.json", json.loads((tested / "meta_test.json").read_text())
    shutil.rmtree(tmp_path / "a/tests")  # as versions of the program left it that kept one result alone
    flags = ("--mode", "meta_test", "--savedir", tmp_path / "a", "--n_test_mc_samp", 2)
    done = call("main.py", *flags, "--n_test_iters", 3)
    assert "had the result of another test, which is now in" in done.stdout
    assert json.loads(path.read_text())["accuracies"] == first["accuracies"][:3]
    kept = {p: json.loads(p.read_text())["episodes"] for p in (tmp_path / "a/tests").iterdir()}
    assert sorted(kept.values()) == [3, 7]
    (seven,) = (p for p, episodes in kept.items() if episodes == 7)
    seven.write_text(json.dumps(first | {"accuracy": 12.5}))  # so that it shows where a result comes from
    done = call("main.py", *flags, "--n_test_iters", 7)
    assert "tested before" in done.stdout and "\naccuracy : 12.500000" in done.stdout
    assert json.loads(path.read_text())["accuracy"] == 12.5
    assert (tmp_path / "a/meta_test.log").read_text().strip().splitlines()[-1].startswith("accuracy : 12.500000")
    succeed("main.py", "--savedir", tmp_path / "a", "--resume", "--n_train_iters", 121)
    done = call("main.py", *flags, "--n_test_iters", 7)  # other weights: another result
    assert "tested before" not in done.stdout and json.loads(path.read_text())["iteration"] == 121


def test_a_result_of_an_earlier_version_gets_its_classes(tested, tmp_path):
    """Nothing is computed again; the same command then changes nothing."""
    shutil.copytree(tested, tmp_path / "a")
    whole = json.loads((tested / "meta_test.json").read_text())
    (kept,) = (tmp_path / "a/tests").iterdir()
    new = ("classes", "interval95_classes")
    kept.write_text(json.dumps({name: value for name, value in whole.items() if name not in new}, indent=1) + "\n")
    for _ in range(2):
        assert "tested before" in succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / "a", *TESTED).stdout
        assert json.loads((tmp_path / "a/meta_test.json").read_text()) == json.loads(kept.read_text()) == whole


def test_results_say_what_made_them(tested, tmp_path):
    result = json.loads((tested / "meta_test.json").read_text())
    config = json.loads((tested / "config.json").read_text())
    made = result["provenance"]
    assert made["tensorflow"].startswith("2.") and "--n_test_iters 7" in made["command"] and "CPU" in made["device"]
    version = re.search(r'version = "(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert made["program"].startswith(version) and made["time"].startswith("20")
    if (ROOT / ".git").exists() and shutil.which("git"):
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
        assert not head or f"git {head[:12]}" in made["program"]  # git lists no folder of another user's
    assert result["settings"]["data_sha256"] == config["data_sha256"] and len(config["data_sha256"]) == 64
    assert (result["settings"]["precision"], result["settings"]["device"]) == ("float32", "CPU")
    (session,) = config["sessions"]
    assert {k: session[k] for k in ("program", "device", "tensorflow")} == {
        k: made[k] for k in ("program", "device", "tensorflow")
    }


def test_every_learner_meets_the_same_test_episodes_and_compare_pairs_them(tested, data_dir, tmp_path):
    maml = tmp_path / "maml"
    assert train(data_dir, maml, "--maml", "--n_train_iters", 10, "--seed", 5, "--val_every", 0).returncode == 0
    succeed("main.py", "--mode", "meta_test", "--savedir", maml, "--n_test_iters", 7)
    a, b = (json.loads((d / "meta_test.json").read_text()) for d in (maml, tested))
    assert a["episodes_sha256"] == b["episodes_sha256"] and a["settings"]["model"] == "maml"
    done = call("main.py", "--mode", "compare", "--savedir", maml, tested)
    difference = np.array(b["accuracies"]) - np.array(a["accuracies"])
    last = done.stdout.strip().splitlines()[-1]
    assert f"{difference.mean():+.2f} +- {1.96 * difference.std() / np.sqrt(7):.2f}" in last, done.stdout + done.stderr
    (maml / "meta_test.json").write_text(json.dumps(a | {"episodes_sha256": "another"}))
    assert_refused(call("main.py", "--mode", "compare", "--savedir", maml, tested), "different episodes")
    assert not (maml / "checkpoints/best").exists() or not list((maml / "checkpoints/best").iterdir())


def test_best_checkpoint_can_be_tested_and_shot_changed(run, tmp_path):
    shutil.copytree(run, tmp_path / "a")
    flags = ("--mode", "meta_test", "--savedir", tmp_path / "a", "--n_test_iters", 2)
    succeed("main.py", *flags, "--checkpoint", "best", "--shot", 2)
    result = json.loads((tmp_path / "a/meta_test.json").read_text())
    assert result["checkpoint"] == "best" and result["settings"]["shot"] == 2


META_NETWORK = ("--model", "metanet_original", "--perturbation", "mask", "--mask_rates", "0.1,0.2,0.3,0.1")


def train_meta_network(data_dir, savedir, iterations):
    flags = flags_of(SETTINGS | {"n_steps": None, "clip_norm": 1, "save_freq": 5, "n_train_iters": iterations})
    succeed("main.py", "--savedir", savedir, "--data_dir", data_dir, *flags, *META_NETWORK, "--resume")


@pytest.fixture(scope="module")
def meta_network(data_dir, tmp_path_factory) -> Path:
    """A masked Meta Network."""
    savedir = tmp_path_factory.mktemp("metanet") / "run"
    train_meta_network(data_dir, savedir, 20)
    return savedir


@pytest.mark.slow
def test_a_meta_network_that_was_stopped_goes_on_with_its_running_averages(meta_network, data_dir, tmp_path):
    for iterations in (7, 20):
        train_meta_network(data_dir, tmp_path / "cut", iterations)
    a, b = checkpoint(meta_network), checkpoint(tmp_path / "cut")
    for name in a:
        if name.startswith(("params", "adam")):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert np.abs(a["params/running.Sconv2_bn.Smean/.ATTRIBUTES/VARIABLE_VALUE"]).max() > 0.01


def test_a_meta_network_goes_the_way_of_every_learner(meta_network, tested, tmp_path):
    whole = shutil.copytree(meta_network, tmp_path / "run")
    config = json.loads((whole / "config.json").read_text())
    assert config["mask_rates"] == [0.1, 0.2, 0.3, 0.1] and "inner_lr" not in config
    succeed("main.py", "--mode", "meta_test", "--savedir", whole, "--n_test_iters", 7)
    assert "perturbation: mask\n" in (whole / "meta_test.log").read_text()
    assert "better in" in succeed("main.py", "--mode", "compare", "--savedir", tested, whole).stdout
    exports = [call("main.py", "--mode", "export", "--savedir", d, "--export_tasks", 1) for d in (whole, tested)]
    assert [e.returncode for e in exports] == [0, 0], exports[0].stderr
    found = export_format.read(whole)
    assert found["support_features"].shape[1] == 1 and set(np.unique(found["noise_conv2"])) == {0, 1}
    assert found["noise_conv2"].mean() == pytest.approx(0.8, abs=0.05)
    assert not found["perturbed_conv2"][found["noise_conv2"] == 0].any() and found["perturbed_conv2"].any()
    quick = ("--tasks", 0, "--layers", "conv2", "--format", "png", "--dpi", 40)
    succeed("plot.py", "--savedir", whole, tested, *quick)
    page = (whole / "plot/index.html").read_text()
    assert "Meta Network (original), mask" in page and "Meta-dropout" in page


def test_a_meta_network_is_tested_at_any_way_and_by_batch_statistics(meta_network, tmp_path):
    shutil.copytree(meta_network, tmp_path / "a")
    flags = ("--mode", "meta_test", "--savedir", tmp_path / "a", "--n_test_iters", 4, "--way", 6)
    succeed("main.py", *flags)
    one = json.loads((tmp_path / "a/meta_test.json").read_text())
    succeed("main.py", *flags, "--test_statistics", "batch")
    other = json.loads((tmp_path / "a/meta_test.json").read_text())
    assert one["settings"]["way"] == 6 and one["losses"] != other["losses"]
    assert one["episodes_sha256"] == other["episodes_sha256"]


def test_flags_that_mean_nothing_to_the_learner_are_refused(meta_network, run, data_dir, tmp_path):
    settings = ("--savedir", tmp_path / "a", "--dataset", "glyphs", "--data_dir", data_dir, "--way", 3)
    for flags, words in (
        (
            (*META_NETWORK, "--inner_lr", 0.1),
            "--inner_lr is not a flag of --mode meta_train with --model metanet_",
        ),
        (
            ("--maml", "--mask_scaled"),
            "--mask_scaled is not a flag of --mode meta_train with --model maml: leave",
        ),
        (("--model", "metanet_embedding", "--perturbation", "noise"), "it takes none or mask"),
        (("--maml", "--split", "background"), "was not made from all originals of Omniglot"),
    ):
        assert_refused(call("main.py", *settings, *flags), words)
    assert not (tmp_path / "a").exists()
    done = call("main.py", "--mode", "meta_test", "--savedir", run, "--way", 5)
    assert_refused(done, "--way 5 contradicts the run, which has 3")
    done = call("main.py", "--mode", "export", "--savedir", meta_network, "--way", 121)
    assert_refused(done, "--way 121 is more than the 120 test classes")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data_dir, tmp_path):
    flags = ("--n_train_iters", 50, "--save_freq", 1, "--val_every", 0, "--meta_lr", "1e30")
    done = train(data_dir, tmp_path / "a", *flags)
    assert_refused(done, "iteration ", "not finite", "--meta_lr", "the last good checkpoint is")
    kept = int(re.search(r"ckpt-(\d+)", done.stderr)[1])
    assert int(re.search(r"iteration (\d+)", done.stderr)[1]) == kept + 1
    assert all(np.isfinite(v).all() for n, v in checkpoint(tmp_path / "a").items() if n.startswith("params"))


@pytest.fixture
def small_yardstick(monkeypatch):
    monkeypatch.setattr(bench, "matmul_gflops", functools.partial(bench.matmul_gflops, size=256))


def test_bench_prints_one_json_line(small_yardstick):
    done = succeed("bench.py", *SMALL, "--iterations", 2, "--mode", "meta_test", "--n_test_mc_samp", 2)
    line = json.loads(done.stdout)
    numbers = ("ms_per_step", "tasks_per_s", "gflops", "matmul_gflops", "peak_mb", "compile_s")
    assert all(line[k] > 0 for k in numbers) and len(done.stdout.strip().splitlines()) == 1
    rounding = 0.051 + 0.0051 * line["ms_per_step"] / line["tasks_per_s"]  # one digit after the point, and two
    assert line["ms_per_step"] == pytest.approx(2e3 / line["tasks_per_s"], abs=rounding)
    assert line["device"].startswith("CPU, ")


@pytest.mark.slow
def test_bench_checks_the_gradient(small_yardstick, data_dir):
    flags = ("--iterations", 1, "--jit", "on", "--precision", "bf16", "--data_dir", data_dir, "--check")
    done = succeed("bench.py", *SMALL, *flags)
    line = json.loads(done.stdout)
    assert 1e-3 < line["gradient_error"] < 1 and line["loss_error"] < 0.05  # bfloat16 is that far off at the start
    assert line["ms_per_step"] > 0


@pytest.mark.parametrize("factor", [1, 4])
def test_bench_check_measures_how_far_a_gradient_is_from_float64s(small_yardstick, monkeypatch, factor):
    """Rounding may flip a maximum, which moves it by a third at most; a quarter of float64's is 75 % off."""
    exact = bench.exact_gradient

    def scaled(*args):
        mean = exact(*args)
        return mean._replace(gradients={name: factor * one for name, one in mean.gradients.items()})

    monkeypatch.setattr(bench, "exact_gradient", scaled)
    flags = flags_of(SETTINGS | {"model": "protonet", "n_steps": None, "metabatch": 1})
    done = succeed("bench.py", *flags, "--iterations", 1, "--check")
    assert json.loads(done.stdout)["gradient_error"] == pytest.approx(1 - 1 / factor, abs=0.35 / factor)


@pytest.mark.slow
def test_bench_exports_the_step(data_dir, tmp_path):
    done = succeed("bench.py", *SMALL, "--data_dir", data_dir, "--export", tmp_path / "step")
    line = json.loads(done.stdout)
    assert line["program"] == str(tmp_path / "step") and "ms_per_step" not in line
    described = json.loads((tmp_path / "step/program.json").read_text())  # tests/test_train_jax.py has the rest
    assert {path.name for path in (tmp_path / "step").iterdir()} == {
        "train.hlo.gz", "test.hlo.gz", "program.json", "weights.npz",
    }  # fmt: skip
    assert (tmp_path / "step/train.hlo.gz").stat().st_size > 10000
    assert len(described["train"]["arguments"]) == 24 + 3 + 4 and len(described["train"]["results"]) == 24 + 3 + 3


def test_a_step_of_changing_size_is_not_exported(data_dir, tmp_path):
    flags = (*flags_of(SETTINGS | {"model": "reptile", "n_steps": 1}), "--data_dir", data_dir)
    refused = call("bench.py", *flags, "--export", tmp_path / "step")
    assert_refused(refused, "the outer step size of --model reptile is not constant")
    assert not (tmp_path / "step").exists()


# Faults of the command line. In this process: nothing of them needs TensorFlow.


MASKED = ("--savedir", "a", "--maml", "--perturbation", "mask")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--savedir", "a", "--modus", "x"], "--modus is not a flag of --mode meta_train"),
        (["--savedir", "a", "--mode", "train"], "'train'"),
        (["--savedir", "a", "--way", "1"], "at least 2, not '1'"),
        (["--savedir", "a", "--way", "five"], "at least 2, not 'five'"),
        (["--savedir", "a", "--inner_lr", "-0.1"], "--inner_lr"),
        (["--savedir", "a", "--meta_lr", "nan"], "above 0 (at least 1.2e-38) and below 3.4e+38, not 'nan'"),
        (["--savedir", "a", "--dataset", "mnist"], "no dataset in data/mnist"),
        (["--savedir", "a", "--dataset", "../mnist"], "must be a dataset's name"),
        (["--savedir", "a", "--model", "maml++"], "'maml++'"),
        (["--savedir", "a", "--maml", "--model", "metadrop"], "--maml contradicts --model metadrop"),
        (["--savedir", "a", "--gpu_id", "0,"], "0,1, or -1 for none, not '0,'"),
        (["--savedir", "a", "--gpu_id", "0,-1"], "not '0,-1'"),
        (["--savedir", "a", "--seed", "4294967296"], "at most 2147483647"),
        (["--savedir", "a", "--jit", "yes"], "'yes'"),
        (["--savedir", "a", "--precision", "fp16"], "'fp16'"),
        (["--savedir", "a", "--perturbation", "masks"], "'masks'"),
        (["--savedir", "a", "--n_test_mc_samp", "10000000000"], "must be a whole number of at most 100000, not"),
        ([*MASKED, "--mask_rates", "0.1,0.1"], "three or four rates from 0 to below 1"),
        ([*MASKED, "--mask_rates", "0.1,0.1,1"], "not '0.1,0.1,1'"),
        ([*MASKED, "--mask_rates", "0.1,-0.1,nan"], "not '0.1,-0.1,nan'"),
        (["--savedir", "a", "--clip_norm", "0"], "above 0 (at least 1.2e-38) and below 3.4e+38, not '0'"),
        (["--mode", "meta_train"], "--savedir is missing"),
        (["--mode", "meta_test", "--savedir", "a", "b"], "takes one --savedir"),
        (["--mode", "compare", "--savedir", "a"], "two or more"),
        (["--mode", "meta_test", "--savedir", "nowhere"], "there is no run in nowhere"),
        (
            ["--savedir", "a", "--data_dir", "nowhere"],
            "no dataset in nowhere/omniglot; make it with: python get_data.py",
        ),
    ],
)
def test_a_mistyped_command_line_is_one_sentence(flags, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert_refused(call("main.py", *flags), words)
    assert not list(tmp_path.iterdir())  # nothing half-written


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mode", "meta_test", "--maml"], "--model maml contradicts the run, which has metadrop"),
        (["--mode", "meta_test", "--inner_lr", 0.5, "--meta_gradient", "exact"], "--meta_gradient exact contradicts"),
        (["--mode", "meta_test", "--dataset", "omniglot"], "contradicts the run"),
        (["--mode", "meta_test", "--query", 20], "need 21 images per class"),
        (["--mode", "meta_train"], "holds a run already"),
        (["--mode", "meta_train", "--resume", "--inner_lr", 0.2], "--inner_lr 0.2 contradicts"),
        (["--mode", "meta_train", "--resume", "--seed", 1], "--seed 1 contradicts"),
        (["--mode", "meta_train", "--resume", "--precision", "bf16"], "--precision bf16 contradicts"),
    ],
)
def test_flags_that_contradict_the_run_are_refused(flags, words, run):
    assert_refused(call("main.py", "--savedir", run, *flags), words)


def test_a_damaged_config_is_one_sentence(tmp_path):
    for text in ("{", "{}", "[]"):
        (tmp_path / "config.json").write_text(text)
        assert_refused(call("main.py", "--mode", "meta_test", "--savedir", tmp_path), "cannot be read")


def test_compare_needs_tests(run, tmp_path):
    shutil.copytree(run, tmp_path / "a")
    (tmp_path / "a/meta_test.json").write_text("{}")
    assert_refused(call("main.py", "--mode", "compare", "--savedir", tmp_path / "a", tmp_path), "cannot be read")
    assert_refused(
        call("main.py", "--mode", "compare", "--savedir", tmp_path, tmp_path), "run main.py --mode meta_test"
    )


def test_places_that_cannot_be_are_one_sentence(tmp_path, monkeypatch):
    shipped = ROOT / "pretrained/glyphs_10way_1shot_maml.npz"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for flags, words in (
        (("--savedir", ""), "--savedir: it is empty"),
        (("--savedir", "a", "--data_dir", ""), "--data_dir: it is empty"),
        (("--mode", "attack", "--savedir", "a", "--surrogate", ""), "--surrogate: it is empty"),
        (("--mode", "meta_test", "--savedir", "a" * 300), "File name too long"),
        (("--mode", "meta_test", "--savedir", tmp_path / "file", "--weights", shipped), "file: name a folder"),
        (("--mode", "meta_test", "--savedir", tmp_path / "file/run", "--weights", shipped), "Not a directory"),
        (("--savedir", "a", "--adversarial_steps", 3), "--adversarial_steps needs an attack"),
        (("--savedir", "a", "--meta_lr", "inf"), "must be a number above 0"),
    ):  # fmt: skip
        assert_refused(call("main.py", *flags), words)
    assert_refused(call("bench.py", "--export", ""), "--export: it is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", main.MODES)
def test_help_shows_the_flags_of_the_mode_and_the_defaults(mode):
    """Of a run all that a test may override; by learner and perturbation."""
    done = call("main.py", "--mode", mode, "--help")
    shown = " ".join(done.stdout.split())
    assert done.returncode == 0 and "(default: False)" not in shown and "(default: None)" not in shown
    assert all(name in shown for name in main.MODES)
    used, own = fields_of(mode), {field.name for field in dataclasses.fields(main.MODES[mode].settings())}
    places = {"test", "at_any_way"} if "metabatch" in used else {"test"}
    for name, field in declared.ALL.items():
        overridable = places & {*field.metadata["overridable_in"]}
        shown = mode == "meta_train" or name not in OF_RUN - own or bool(overridable)
        assert bool(re.search(rf"\n  --{name}\s", done.stdout)) == (name in used and shown), name


def test_help_of_a_run_or_a_learner_shows_its_flags(run):
    for words, flags, others in (
        (("--model", "protonet"), ("train_way", "normalise", "temperature"), ("n_steps", "mask_rates")),
        (("--maml", "--perturbation", "mask"), ("n_steps", "mask_rates"), ("train_way", "vib_beta")),
        (("--mode", "meta_test", "--savedir", run), ("n_steps", "inner_lr"), ("normalise", "adapt", "way")),
        (("--mode", "meta_test", "--model", "protonet"), ("way", "normalise"), ("train_way", "temperature", "n_steps")),
    ):
        shown = call("main.py", *words, "--help").stdout
        assert all(f"  --{name} " in shown for name in flags) and not any(f"--{name} " in shown for name in others)
    shown = call("main.py", "--help").stdout
    assert (
        re.search(r"\n--model maml or metadrop[\w ]*:\n  --\w", shown) and "\n--perturbation mask:\n  --mask_" in shown
    )


def test_what_is_not_trained_is_said_and_a_perturbation_that_learns_nothing_is_refused(capsys):
    def learner(untrained, *own):
        perturbation = SimpleNamespace(parameters=lambda *_: dict.fromkeys(own))
        return SimpleNamespace(untrained=lambda: untrained, perturbation=perturbation, image_shape=(), channels=1)

    main.refuse_idle_perturbation(learner([], "phi/a"))
    main.refuse_idle_perturbation(learner([]))
    assert capsys.readouterr().out == ""
    main.refuse_idle_perturbation(learner(["phi/b", "alpha/w"], "phi/a", "phi/b"))
    assert "not trained: phi/b, alpha/w, since they only act through" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"would be trained .phi/a, phi/b.*--meta_gradient published or exact"):
        main.refuse_idle_perturbation(learner(["phi/a", "phi/b"], "phi/a", "phi/b"))


FROM_PYTHON = """
import sys
from pathlib import Path
import main
run, other, data_dir = sys.argv[1:]
run, other = Path(run), Path(other)
assert main.meta_test(run, {"n_test_iters": 4}) == 0
assert main.weights(run, {"slots": True}) == 0  # another number of threads
for call, flags in (
    (main.meta_test, {"weights": run / "weights.npz"}), (main.weights, {"slot": True}), (main.export, {"weights": 1}),
):
    try:
        call(run, flags)
    except main.UserError as fault:
        print(fault)
flags = {"n_test_iters": 4, "data_dir": data_dir}
with main.start_from(run / "weights.npz", other, "meta_test", flags):
    assert main.meta_test(other, flags) == 0
"""


def test_modes_follow_each_other_in_a_python_program(run, data_dir, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    words = [sys.executable, "-c", FROM_PYTHON, run, tmp_path / "other", data_dir]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--mode weights has no flag slot: see" in done.stdout
    assert 'has no flag weights: call it in `with main.start_from(FILE, savedir, "meta_test", flags):`' in done.stdout
    first, other = (json.loads((folder / "meta_test.json").read_text()) for folder in (run, tmp_path / "other"))
    assert first["accuracies"] == other["accuracies"]
