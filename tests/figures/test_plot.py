"""plot.py draws what it reads, says what is missing, and answers a mistyped flag with one sentence."""

import errno
import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from conftest import assert_refused, call
from figures import boundary, collapse, curves, features, geometry, histogram, page, run
from left_runs import write_collapse, write_run
from plotting import QUICK, Links, draw
from studies import export_format


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model": "maml"}, "MAML"),
        ({"model": "maml", "perturbation": "none", "adapt": "all"}, "MAML"),
        ({"model": "maml", "perturbation": "vib"}, "MAML, vib"),
        ({"model": "metasgd", "perturbation": "noise", "adapt": "head"}, "Meta-SGD, noise, head adapted"),
        ({"model": "maml", "meta_gradient": "published", "adversarial": "l2:1"}, "MAML, adversarial l2:1"),
        ({"model": "metadrop", "meta_gradient": "exact"}, "Meta-dropout, exact gradient"),
        ({"model": "maml", "meta_gradient": "first_order"}, "MAML, first order gradient"),
        ({"model": "maml", "perturbation": "mixup", "mix_set": "support"}, "MAML, mixup"),
        ({"model": "maml", "perturbation": "mixup", "mix_set": "query"}, "MAML, mixup, query set"),
        ({"model": "protonet", "way": 5, "train_way": None}, "Prototypical Network"),
        ({"model": "protonet", "way": 5, "train_way": 5}, "Prototypical Network"),
        ({"model": "protonet", "way": 5, "train_way": 60}, "Prototypical Network, trained 60-way"),
        ({"model": "of the future"}, "of the future"),
    ],
)
def test_a_run_is_called_after_its_learner_and_what_sets_it_apart(config, name):
    assert run.describe(config) == name


@pytest.fixture
def recorded(monkeypatch) -> dict[str, list[tuple]]:
    """Record the arguments of the drawing functions of figures/, by module and function, and draw nothing."""
    calls = {}

    def record(module, function, draw_nothing):
        name = f"{module.__name__.removeprefix('figures.')}.{function}"
        monkeypatch.setattr(module, function, lambda *args: calls.setdefault(name, []).append(args) or draw_nothing())

    for module, function in (
        (boundary, "by_task"),
        (boundary, "by_step"),
        (features, "strip"),
        (curves, "learning_curves"),
        (histogram, "accuracy_histogram"),
        (collapse, "traces"),
        (collapse, "by_iteration"),
        (collapse, "by_step"),
        (collapse, "by_layer"),
    ):
        record(module, function, lambda: Figure((0.1, 0.1)))
    for module in (boundary, features):
        record(module, "frames", lambda: iter([(Figure((0.1, 0.1)), 80)]))
    return calls


def test_every_panel_shows_its_own_run(recorded, tmp_path):
    runs = {"MAML": write_run(tmp_path / "a", "maml", seed=1), "Meta-dropout": write_run(tmp_path / "b", seed=2)}
    flags = ("--classes", 1, 0, "--seed", 3, "--tasks", 1, 0, "--layers", "conv2", "--channels", 7, 3)
    draw("--savedir", *runs.values(), *flags, *QUICK)
    exports = {name: dict(np.load(d / export_format.NAME)) for name, d in runs.items()}

    def assert_scene(scene, name, task):
        wanted = geometry.scene(exports[name], task, (1, 0), 3)
        np.testing.assert_array_equal(scene.boundary, wanted.boundary)
        for role in wanted.points:
            np.testing.assert_array_equal(scene.points[role], wanted.points[role])

    [(scenes, names)] = recorded["boundary.by_task"]
    assert names == ("class 1 (A)", "class 0 (B)") and list(scenes) == list(runs)
    for name, by_task in scenes.items():
        assert list(by_task) == [1, 0]
        for task, scene in by_task.items():
            assert_scene(scene, name, task)
    for function in ("boundary.by_step", "boundary.frames"):
        for task, (by_run, same_names) in zip((1, 0), recorded[function], strict=True):
            assert same_names == names
            for name, scene in by_run.items():
                assert_scene(scene, name, task)

    # the maps of the one run that perturbs: two tasks of two images, channels 7 and 3 of 0 3 5 7
    e = exports["Meta-dropout"]
    assert recorded["features.strip"] == recorded["features.frames"]
    wanted = [(task, i) for task in (1, 0) for i in (0, 1)]
    for (image, channels), (task, i) in zip(recorded["features.strip"], wanted, strict=True):
        np.testing.assert_array_equal(image, e["support_images"][task, e["map_images"][i]])
        assert [channel.label for channel in channels] == ["conv2 ch 7", "conv2 ch 3"]
        for channel, j in zip(channels, (3, 1), strict=True):
            np.testing.assert_array_equal(channel.clean, e["clean_conv2"][task, i, ..., j])
            np.testing.assert_array_equal(channel.perturbed, e["perturbed_conv2"][task, :, i, ..., j])
            np.testing.assert_array_equal(channel.noise, e["noise_conv2"][task, :, i, ..., j])

    [(columns,)] = recorded["curves.learning_curves"]
    [(tests, paired, quantum)] = recorded["histogram.accuracy_histogram"]
    accuracies = {name: json.loads((d / "meta_test.json").read_text())["accuracies"] for name, d in runs.items()}
    for name, first_loss in (("MAML", 4), ("Meta-dropout", 8)):
        assert columns[name]["loss"][0] == first_loss and columns[name]["secs"].tolist()[:2] == [0, 75]
        np.testing.assert_array_equal(tests[name]["accuracies"], accuracies[name])
    assert quantum == pytest.approx(100 / 75) and list(paired) == ["Meta-dropout"]
    difference = np.subtract(accuracies["Meta-dropout"], accuracies["MAML"])
    np.testing.assert_array_equal(paired["Meta-dropout"], difference)


def test_two_runs_of_one_learner_are_told_apart_and_other_tests_not_paired(recorded, tmp_path):
    runs = [write_run(tmp_path / name, "maml") for name in ("a", "b$x$")]
    test = json.loads((runs[1] / "meta_test.json").read_text()) | {"episodes_sha256": "other"}
    test["settings"] = {"way": 20, "query": 15}
    (runs[1] / "meta_test.json").write_text(json.dumps(test))
    draw("--savedir", *runs, "--figures", "histogram", "curves", *QUICK)
    text = (runs[0] / "plot/index.html").read_text()
    assert "MAML (a)" in text and "MAML (b$x$)" in text and "different episodes: not paired" in text
    [(tests, paired, quantum)] = recorded["histogram.accuracy_histogram"]
    assert not paired and quantum == pytest.approx(100 / 75)  # the coarser one
    assert list(tests) == ["MAML (a)", r"MAML (b\$x\$)"]  # no formula


def test_what_there_is_is_drawn_and_what_is_missing_is_said(recorded, tmp_path):
    runs = [write_collapse(tmp_path / "watched", "watched"), write_collapse(tmp_path / "tested", "tested")]
    runs += [write_run(tmp_path / "maml", "maml"), write_run(tmp_path / "metadrop")]
    for name in (export_format.NAME, "meta_test.json"):
        (runs[3] / name).unlink()
    said = draw("--savedir", *runs, *QUICK)
    assert list(recorded["boundary.by_task"][0][0]) == list(recorded["histogram.accuracy_histogram"][0][0]) == ["MAML"]
    assert list(recorded["curves.learning_curves"][0][0]) == ["MAML", "Meta-dropout"]
    assert [list(args[0]) for args in recorded["collapse.traces"]] == [["watched"]] * 3
    assert list(recorded["collapse.by_step"][0][0]) == list(recorded["collapse.by_layer"][0][0]) == ["tested"]
    text = (runs[0] / "plot/index.html").read_text()
    for sentence in (
        f"there is no {runs[3] / export_format.NAME}: run main.py --mode export",
        f"there is no {runs[0] / 'meta_train.csv'}: run main.py --mode meta_train",
        f"there is no {runs[0] / 'meta_test.json'}: run main.py --mode meta_test",
        f"there is no measurement of neural collapse in {runs[2]}: run main.py --mode collapse",
    ):
        assert sentence in said and f"Not drawn: {sentence}" in text
    assert "MAML has no stochastic features" in text
    assert "tested: not drawn by meta-iterations" in text and "watched: not drawn by inner steps" in text
    # one run alone, watched in training: the last iteration's steps and layers
    recorded.clear()
    draw("--savedir", runs[0], *QUICK)
    assert {row["iter"] for row in recorded["collapse.by_step"][0][0]["watched"]} == {100}
    # exports of other tasks are not side by side
    other = write_run(tmp_path / "other", shot=2)
    recorded.clear()
    assert "hold different tasks" in draw("--savedir", runs[2], other, *QUICK)
    assert list(recorded["boundary.by_task"][0][0]) == ["MAML"]


def test_layers_have_the_names_that_the_export_gives_them_or_there_are_none(recorded, tmp_path):
    runs = [write_run(tmp_path / "named", layers=("stem", "body", "top")), write_run(tmp_path / "bare", layers=())]
    draw("--savedir", *runs, "--tasks", 0, "--channels", 5, *QUICK)
    strips = recorded["features.strip"]
    assert [[channel.label for channel in channels] for _, channels in strips] == 2 * [["stem ch 5", "body ch 5"]]
    assert list(recorded["boundary.by_task"][0][0]) == ["Meta-dropout (named)", "Meta-dropout (bare)"]
    assert "Meta-dropout (bare) has no layer maps." in (runs[0] / "plot/index.html").read_text()
    recorded.clear()
    draw("--savedir", *runs, "--tasks", 0, "--layers", "top", "--channels", 5, *QUICK)
    assert [channel.label for channel in recorded["features.strip"][0][1]] == ["top ch 5"]


def test_nothing_is_written_before_all_is_drawn_and_links_lead_to_files(recorded, monkeypatch, tmp_path):
    d = write_run(tmp_path / "a")
    draw("--savedir", d, "--tasks", 0, *QUICK)
    before = {path.name: path.read_bytes() for path in (d / "plot").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(curves, "learning_curves", interrupted)
        assert call("plot.py", "--savedir", d, "--tasks", 0, 1, *QUICK).returncode == 130
    assert {path.name: path.read_bytes() for path in (d / "plot").iterdir()} == before
    written = []

    def full(path, content):
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr(page, "write_atomically", full)
    words = "No space left on device): free some space"
    assert_refused(call("plot.py", "--savedir", d, "--figures", "boundary", "curves", "--tasks", 0, 1), words)
    assert "index.html" not in written and "boundary_task1.png" in written
    assert (d / "plot/index.html").read_bytes() == before["index.html"]
    links = Links()
    links.feed((d / "plot/index.html").read_text())
    assert links.links and all((d / "plot" / link).is_file() for link in links.links)
    shutil.rmtree(d / "plot")
    (d / "plot").write_text("not a folder")
    recorded.clear()
    assert_refused(call("plot.py", "--savedir", d), "cannot write into")
    assert not recorded  # said before anything is drawn


def test_a_savedir_without_what_is_asked_for_is_one_sentence(tmp_path):
    assert_refused(call("plot.py"), "--savedir is missing")
    (tmp_path / "empty").mkdir()
    assert_refused(call("plot.py", "--savedir", tmp_path / "empty"), "there is no run in")
    d = write_run(tmp_path / "a", "maml")
    assert_refused(call("plot.py", "--savedir", d, "--figures", "features"), "no noise perturbs its images")
    bare = write_run(tmp_path / "bare", layers=())
    assert_refused(call("plot.py", "--savedir", bare, "--figures", "features"), "Meta-dropout has no layer maps")
    for file, figure, remedy in (
        ("meta_test.json", "histogram", "run main.py --mode meta_test"),
        ("meta_train.csv", "curves", "run main.py --mode meta_train"),
        (export_format.NAME, "boundary", "run main.py --mode export"),
        (export_format.NAME, "features", "run main.py --mode export"),
        ("collapse.csv", "collapse", "run main.py --mode collapse"),
    ):
        (d / file).unlink(missing_ok=True)
        assert_refused(call("plot.py", "--savedir", d, "--figures", figure), f"{remedy} --savedir {d}")
    remedy = f"run main.py --mode export --savedir {d}"
    assert_refused(call("plot.py", "--savedir", d), "there is nothing to draw", remedy)
    assert not (d / "plot").exists()


def test_mistyped_flags_are_one_sentence(tmp_path):
    d = write_run(tmp_path / "a")
    for flags, words in (
        (("--tasks", 0, 2), "holds the tasks 0 to 1"),
        (("--tasks", 5, 5), "--tasks 5: "),
        (("--classes", 0, 2), "the exported classes are 0 to 1"),
        (("--classes", 1, 1), "give two different classes"),
        (("--layers", "conv2", "conv9"), "--layers conv9 was not exported: choose from conv1 conv2 conv3 conv4"),
        (("--channels", 4), "--channels 4 was not exported: choose from 0 3 5 7"),
        (("--format", "jpg"), "'jpg'"),
        (("--dpi", 9), "--dpi: must be a whole number of at least 10, not '9'"),
        (("--dpi", 100000), "at most 1200"),
        (("--seed", -1), "'-1'"),
        (("--seed", 2**32), "at most 4294967295"),
        (("--savedir", tmp_path / "b/../a"), "names a folder twice"),
        (("--figures", "curves", "--layers", "conv1"), "--layers has no meaning for --figures curves"),
        (("--figures", "features", "--seed", 0), "--seed has no meaning for --figures features"),
    ):
        (tmp_path / "b").mkdir(exist_ok=True)
        assert_refused(call("plot.py", "--savedir", d, *flags), words)
    other = write_run(tmp_path / "other", "maml", shot=2)
    assert_refused(call("plot.py", "--savedir", d, other, "--figures", "boundary"), "hold different tasks")
    assert not (d / "plot").exists()  # nothing half-written
