"""The figures of attacks: the runs' curves beside the paper's, and the attacked images."""

import json

import numpy as np
import pytest

from conftest import assert_refused, call
from errors import UserError
from figures import robustness
from figures.run import Run, read_attacks


def write_attack(savedir, norm, accuracy, digest, time="2026-01-01", sheet=True):
    eps, accuracies = [0, 0.1, 0.05], np.array(accuracy)[:, None] + [[-1, 1]]
    content = {"eps": eps, "accuracy": accuracy, "interval95": [1, 2, 3], "accuracies": accuracies.tolist()}
    content |= {"episodes_sha256": "a", "provenance": {"time": time}}
    content |= {"settings": {"attack": {"norm": norm, "steps": 7, "restarts": 1, "threat": "joint"}}}
    (savedir / "tests").mkdir(parents=True, exist_ok=True)
    for path in (savedir / "attack.json", savedir / "tests" / f"attack-{digest}.json"):
        path.write_text(json.dumps(content))
    (savedir / "config.json").write_text(json.dumps({"model": "maml"}))
    if sheet:
        images = np.full((3, 2, 16, 16, 1), 0.5)
        images[1, 1, 0, 0], images[2, 1, 0, 1] = 0.6, 0.45
        np.savez(savedir / "tests" / f"attack-{digest}.npz", images=images, labels=[[0, 1], [0, 0], [0, 1]])


def test_the_latest_attack_of_each_norm_is_drawn(tmp_path):
    write_attack(tmp_path, "l2", [90, 20, 60], "b", "2026-01-02")
    write_attack(tmp_path, "l2", [80, 10, 50], "a", "2026-01-01")
    write_attack(tmp_path, "linf", [70, 30, 40], "c", sheet=False)
    run = Run(tmp_path, {"model": "maml"}, "MAML")
    assert run.attacks["l2"]["accuracy"] == [90, 20, 60] and run.attacks["linf"]["sheet"] is None
    (tmp_path / "tests/attack-c.json").unlink()
    assert read_attacks(tmp_path)["linf"]["accuracy"] == [70, 30, 40]  # attack.json is there still
    figure = robustness.panels([run], ["linf", "l2"])
    linf, l2 = figure.axes
    mine = [line for line in l2.lines if line.get_label() == "MAML"]
    np.testing.assert_array_equal(mine[0].get_xdata(), [0, 0.05, 0.1])  # in order
    np.testing.assert_array_equal(mine[0].get_ydata(), [90, 60, 20])
    paper = {line.get_label(): line for line in linf.lines if line.get_linestyle() == ":"}
    assert paper["Meta-dropout, paper"].get_ydata()[-1] == 49.2 and paper["MAML, paper"].get_xdata()[-1] == 0.1


def test_a_sheet_shows_what_was_added_and_what_an_image_is_taken_for(tmp_path):
    write_attack(tmp_path, "l2", [90, 20, 60], "b")
    figure = robustness.sheet(read_attacks(tmp_path)["l2"])
    axes = np.array(figure.axes).reshape(6, 2)
    assert axes[2, 1].get_title() == "0" and axes[2, 0].get_title() == axes[4, 1].get_title() == ""
    added = axes[3, 1].images[0].get_array()
    assert added[0, 0] == pytest.approx(0.1) and np.count_nonzero(added) == 1
    assert axes[5, 1].images[0].get_array()[0, 1] == pytest.approx(-0.05)
    assert axes[5, 1].images[0].get_clim() == pytest.approx((-0.1, 0.1))
    assert axes[2, 0].get_ylabel() == "0.1"


def test_the_page_has_the_attacks_or_says_why_not(tmp_path):
    write_attack(tmp_path, "l1", [90, 20, 60], "b")
    done = call("plot.py", "--savedir", tmp_path, "--figures", "attack", "--format", "png", "--dpi", 40)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "plot/index.html").read_text()
    assert 'src="robustness.png"' in page and 'src="attacked_l1.png"' in page and "2 episodes, 7 steps" in page
    (tmp_path / "tests/attack-b.json").write_text("{")
    with pytest.raises(UserError, match=r"attack-b\.json cannot be read"):
        read_attacks(tmp_path)
    (tmp_path / "attack.json").unlink()
    assert_refused(call("plot.py", "--savedir", tmp_path, "--figures", "attack"), "--mode attack --savedir")
