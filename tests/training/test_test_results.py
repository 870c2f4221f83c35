"""Results in a savedir: their identity, the latest one, and the comparison of runs. Needs no TensorFlow."""

import json
import math
import sys

import numpy as np
import pytest

from errors import UserError
from training import test_results

IDENTITY = {
    "settings": {"way": 5}, "checkpoint": "last", "iteration": 9, "weights_sha256": "w", "n_test_mc_samp": 1,
    "episodes": 4, "episodes_sha256": "a", "tasks": 3,
}  # fmt: skip


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


def test_each_entry_of_a_result_is_a_line(tmp_path):
    files = test_results.ResultFiles(tmp_path, "meta_test", {"episodes": 2})
    files.write({"accuracy": 1.5, "classes": [[0, 1], [2, 3]]})
    assert files.latest.read_text() == '{\n "accuracy": 1.5,\n "classes": [[0, 1], [2, 3]],\n "episodes": 2\n}\n'


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
        "5 test episodes, accuracy and difference in percent, 95 % intervals over episodes",
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


def test_compared_runs_have_an_interval_over_classes_if_one_of_them_recorded_the_classes(tmp_path, capsys):
    """The numbers of test_intervals.py; the differences are -10, -20, 0 and 10, and b is from an earlier version. A
    damaged record is refused."""
    tests = {"a": [90, 90, 50, 50], "b": [80, 70, 50, 60]}
    record = {"classes": [[0, 1], [0, 1], [2, 3], [3, 2]]}
    for name, values in tests.items():
        content = {"accuracy": np.mean(values), "interval95": 19.6, "accuracies": values, "episodes_sha256": "e"}
        write(tmp_path / name, "meta_test.json", **content, **(record if name == "a" else {}))
    savedirs = [tmp_path / name for name in tests]
    test_results.compare(savedirs)
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("percent, 95 % intervals over episodes; classes: also over other test classes")
    assert lines[0].endswith("a   70.00 +- 19.60, classes +- 100.64")
    # Without a class the mean changes by 10 points; variances: 125 over all episodes, 31.25 over their mean
    half = 3.1824463 * (31.25 + 0.75 * 4 * (100 - 31.25)) ** 0.5
    assert f"-5.00 +- 10.96, classes +- {half:.2f} (better in 25 %, worse in 50 % of episodes)" in lines[1]
    damages = [{"accuracies": [1, 2, 3], "episodes": 4}, {"accuracies": 5}, {"accuracies": [[1, 2, 3, 4]]}]
    damages += [{"settings": "x"}, {"settings": [1]}]
    for damage in (*damages, {"accuracy": "x"}, {"accuracy": [1, 2]}, {"interval95": {}}):
        write(tmp_path / "b", "meta_test.json", **content | damage)
        with pytest.raises(UserError, match=r"b/meta_test\.json cannot be read"):
            test_results.compare(savedirs)
    write(tmp_path / "b", "meta_test.json", **content | {"accuracies": [1, 2, 3]})
    with pytest.raises(UserError, match="tested on different episodes"):
        test_results.compare(savedirs)
    for damage in ([[0, 1]] * 3, [[0, 1], [0]] * 2, [0, 1, 2, 3], "abcd", [[None, 1]] * 4, [[]] * 4):
        write(tmp_path / "b", "meta_test.json", **content, classes=damage)
        with pytest.raises(UserError, match=r"b/meta_test\.json cannot be read"):
            test_results.compare(savedirs)


def test_attacks_are_compared_radius_by_radius(tmp_path, capsys):
    attack = {"attack": {"norm": "linf", "eps": [0, 0.1], "steps": 7}}
    for name, values in (("a", [[90, 80], [40, 20]]), ("b", [[90, 82], [30, 26]])):
        write(
            tmp_path / name, "attack.json", eps=[0, 0.1], accuracies=values, accuracy=[sum(x) / 2 for x in values],
            interval95=[1, 2], episodes_sha256="e", settings=attack,
        )  # fmt: skip
    test_results.compare([tmp_path / "a", tmp_path / "b"], attacks=True)
    lines = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    content = json.loads((tmp_path / "b/attack.json").read_text()) | {"eps": ["a", 0.1]}
    write(tmp_path / "b", "attack.json", **content)
    with pytest.raises(UserError, match=r"b/attack\.json cannot be read"):
        test_results.read_attack(tmp_path / "b/attack.json")
    for name, value in (("norm", "l7"), ("threat", "x$y"), ("method", None)):
        settings = {"attack": attack["attack"] | {name: value}}
        write(tmp_path / "b", "attack.json", **content | {"eps": [0, 0.1], "settings": settings})
        with pytest.raises(UserError, match=rf"its {name} is "):
            test_results.read_attack(tmp_path / "b/attack.json")
    assert lines == [
        "2 test episodes, accuracy and difference in percent, 95 % intervals over episodes",
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
    write(tmp_path / "text", "meta_test.json", weights_sha256="w", settings="x")
    assert test_results.latest_test(tmp_path / "text", "w") is None
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


def test_a_result_is_written_where_nobody_reads_it(tmp_path, monkeypatch):
    """The reader of standard output has ended, or there is no standard output."""

    def show(result):
        raise BrokenPipeError

    files = test_results.ResultFiles(tmp_path, "attack", {"settings": {}})
    with pytest.raises(BrokenPipeError):
        files.show_and_write({"a": 1}, show)
    assert files.read() == {"a": 1, "settings": {}}
    monkeypatch.setattr(sys, "stdout", None)
    files.show_and_write({"a": 2}, print)
    assert files.read()["a"] == 2
