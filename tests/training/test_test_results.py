"""Results in a savedir: their identity, the latest one, and the comparison of runs. Needs no TensorFlow."""

import json
import math

import numpy as np
import pytest

from errors import UserError
from training import test_results

IDENTITY = {
    "settings": {"way": 5}, "checkpoint": "last", "iteration": 9, "weights_sha256": "w", "n_test_mc_samp": 1,
    "episodes": 4, "episodes_sha256": "a", "tasks": 3,
}  # fmt: skip


def test_the_mean_and_its_interval_are_in_percent():
    """1.96 std / sqrt(4); the standard deviation of 0.5, 0.75, 1 and 0.25 is sqrt(0.078125)."""
    assert test_results.mean_and_interval([0.5, 0.75, 1, 0.25]) == pytest.approx((62.5, 27.391833), rel=1e-6)


@pytest.mark.parametrize("fact", IDENTITY)
def test_each_part_of_the_identity_distinguishes_results(fact, tmp_path):
    files = test_results.ResultFiles(tmp_path, "meta_test", IDENTITY)
    other = test_results.ResultFiles(
        tmp_path, "meta_test", IDENTITY | {fact: {"way": 6} if fact == "settings" else "other"}
    )
    files.write({"accuracy": 1})
    assert files.read() == {"accuracy": 1} | IDENTITY and other.read() is None and files.partial != other.partial
    files.path.rename(other.path)
    assert other.read() is None  # its content has another identity, too


def test_the_latest_result_is_in_savedir_and_all_are_kept(tmp_path):
    first, second = (test_results.ResultFiles(tmp_path, "meta_test", IDENTITY | {"episodes": n}) for n in (4, 5))
    for files, accuracy in ((first, 1), (second, 2), (first, 3)):
        files.write_partial("half")
        files.write({"accuracy": accuracy})
        assert (
            test_results.read_json(tmp_path / "meta_test.json")["accuracy"] == accuracy and not files.partial.exists()
        )
    assert (first.read()["accuracy"], second.read()["accuracy"]) == (3, 2)
    assert len(list((tmp_path / "tests").iterdir())) == 2


def write(savedir, name, **content):
    savedir.mkdir(exist_ok=True)
    (savedir / name).write_text(json.dumps(content))


def test_runs_are_compared_with_the_first_one_episode_by_episode(tmp_path, capsys):
    """The differences are 1, -1, 5, 0 and -2.5: two are better and two are worse."""
    accuracies = {"a": [90, 80, 70, 60, 50], "long": [91, 79, 75, 60, 47.5], "c": [100, 100, 100, 100, 55]}
    for name, values in accuracies.items():
        write(
            tmp_path / name,
            "meta_test.json",
            accuracy=np.mean(values),
            interval95=1.5,
            accuracies=values,
            episodes_sha256="e",
        )
    assert test_results.compare([tmp_path / name for name in accuracies]) == 0
    lines = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "5 test episodes, accuracy and difference in percent, 95 % intervals",
        "a      70.00 +- 1.50",
        "long   70.50 +- 1.50   +0.50 +- 2.22 (better in 40 %, worse in 40 % of episodes)",
        "c      91.00 +- 1.50   +21.00 +- 11.23 (better in 100 %, worse in 0 % of episodes)",
    ]
    write(tmp_path / "c", "meta_test.json", accuracy=1, interval95=1, accuracies=[0, 0, 0, 1, 2], episodes_sha256="e")
    test_results.compare([tmp_path / "a", tmp_path / "c"])
    assert "better in 0 %, worse in 100 % of episodes" in capsys.readouterr().out
    write(tmp_path / "c", "meta_test.json", accuracy=1, interval95=1, accuracies=[1], episodes_sha256="f")
    with pytest.raises(UserError, match="tested on different episodes"):
        test_results.compare([tmp_path / name for name in accuracies])


def test_attacks_are_compared_radius_by_radius(tmp_path, capsys):
    attack = {"attack": {"norm": "linf", "eps": [0, 0.1], "steps": 7}}
    for name, values in (("a", [[90, 80], [40, 20]]), ("b", [[90, 82], [30, 26]])):
        write(
            tmp_path / name, "attack.json", eps=[0, 0.1], accuracies=values, accuracy=[sum(x) / 2 for x in values],
            interval95=[1, 2], episodes_sha256="e", settings=attack,
        )  # fmt: skip
    test_results.compare([tmp_path / "a", tmp_path / "b"], attacks=True)
    lines = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "2 test episodes, accuracy and difference in percent, 95 % intervals",
        "norm linf, steps 7",
        "eps 0",
        "a   85.00 +- 1.00",
        "b   86.00 +- 1.00   +1.00 +- 1.39 (better in 50 %, worse in 0 % of episodes)",
        "eps 0.1",
        "a   30.00 +- 2.00",
        "b   28.00 +- 2.00   -2.00 +- 11.09 (better in 50 %, worse in 50 % of episodes)",
    ]


def test_the_latest_test_of_other_weights_does_not_count(tmp_path):
    write(
        tmp_path, "meta_test.json", weights_sha256="w", accuracy=50, interval95=2, episodes=7, n_test_mc_samp=3, loss=1
    )
    assert test_results.latest_test(tmp_path, "w") == {
        "accuracy": 50,
        "interval95": 2,
        "episodes": 7,
        "n_test_mc_samp": 3,
    }
    assert test_results.latest_test(tmp_path, "v") is None and test_results.latest_test(tmp_path / "none", "w") is None


def test_watched_and_tested_collapse_are_read_separately(tmp_path):
    (tmp_path / "collapse.csv").write_text("iter,set,step,layer,tasks,nc1,nc1_std\n4,query,0,conv1,2,0.5,\n")
    row = {"set": "support", "step": 1, "layer": "logits", "nc1": 0.25, "nc1_ci95": None}
    (tmp_path / "collapse.json").write_text(json.dumps({"rows": [row]}))
    tables = test_results.read_collapse(tmp_path)
    (watched,), (tested,) = tables["watched"], tables["tested"]
    assert math.isnan(watched.pop("nc1_std")) and math.isnan(tested.pop("nc1_ci95"))
    assert watched == {"iter": 4, "set": "query", "step": 0, "layer": "conv1", "tasks": 2, "nc1": 0.5}
    assert tested == {"set": "support", "step": 1, "layer": "logits", "nc1": 0.25}
    (tmp_path / "collapse.csv").unlink()
    assert set(test_results.read_collapse(tmp_path)) == {"tested"}


def test_an_unwritable_partial_result_is_a_warning(tmp_path, capsys):
    files = test_results.ResultFiles(tmp_path, "meta_test", {})
    (tmp_path / "tests").write_text("a file")
    files.write_partial("{}")
    assert "warning: cannot save the results so far in" in capsys.readouterr().err
