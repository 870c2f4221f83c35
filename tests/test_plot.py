"""The figures: their geometry against the head itself, every shot, both datasets, the page in a real browser."""

import csv
import errno
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

import collapse
import errors
import exported
import figures
import figures_collapse
import geometry
import page as page_
import plot
from conftest import ROOT

STEPS, QUERY, SIZE = 2, 3, 7


def fake_export(model="metadrop", shot=1, image_shape=(28, 28, 1), way=2, copies=4, tasks=2, images=2, seed=0) -> dict:
    """An export of random numbers, laid out as exported.py says; classes are apart, as a trained net's are."""
    rng = np.random.default_rng(seed)
    support, query, (height, width, _) = way * shot, way * QUERY, image_shape
    copies = copies if model == "metadrop" else 0
    arrays = {
        "fingerprints": np.array([f"{way} {shot} {task}" for task in range(tasks)]),
        "classes": rng.integers(0, 9, (tasks, way)),
        "images": rng.integers(0, 9, (tasks, way, shot + QUERY)),
        "support_labels": np.repeat(np.arange(way), shot),
        "query_labels": np.repeat(np.arange(way), QUERY),
        "head_w": rng.normal(size=(tasks, STEPS + 1, SIZE, way)),
        "head_b": rng.normal(size=(tasks, STEPS + 1, way)),
        "map_images": np.arange(images),
        "map_channels": np.array([0, 3, 5, 7]),
    }
    for role, rows in (("support", support), ("query", query)):
        centres = 3 * arrays["head_w"][..., arrays[f"{role}_labels"]].swapaxes(-1, -2)
        arrays[f"{role}_features"] = centres + rng.normal(size=(tasks, STEPS + 1, rows, SIZE))
        arrays[f"{role}_images"] = rng.integers(0, 256, (tasks, rows, *image_shape), dtype=np.uint8)
        arrays[f"{role}_predictions"] = rng.integers(0, way, (tasks, STEPS + 1, rows))
        for what in ("loss", "accuracy"):
            arrays[f"{role}_{what}"] = rng.random((tasks, STEPS + 1))
    moved = rng.normal(scale=0.3, size=(tasks, 1, copies, support, SIZE))
    arrays["perturbed_features"] = arrays["support_features"][:, :, None] + moved
    for block, layer in enumerate(exported.LAYERS):
        shape = (images, height >> block, width >> block, 4)
        arrays[f"clean_{layer}"] = rng.random((tasks, *shape)).astype(np.float16)
        for what in ("perturbed", "noise"):
            arrays[f"{what}_{layer}"] = rng.random((tasks, copies, *shape)).astype(np.float16)
    return arrays


def write_run(savedir: Path, model="metadrop", version=exported.FORMAT, **settings) -> Path:
    """A savedir with all that plot.py reads."""
    savedir.mkdir(parents=True)
    (savedir / "config.json").write_text(json.dumps({"model": model, "dataset": "<omniglot & more>", "way": 5}))
    arrays = fake_export(model, **settings)
    exported.check(arrays)
    text = json.dumps({"stochastic": model == "metadrop", "iteration": 9})
    np.savez(savedir / exported.NAME, format=np.int64(version), settings=np.array(text), **arrays)
    rng = np.random.default_rng(len(model))
    with open(savedir / "meta_train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["iter", "episodes", "secs", "lr", "loss", "acc", "val_loss", "val_acc", "val_ci95"])
        for i in range(0, 500, 50):
            val = [1.1, 0.5 + i / 1e3, 0.02] if i % 100 == 0 else ["", "", ""]
            table.writerow([i, i * 4, i * 1.5, 1e-3, len(model) - i / 1e3, 0.5 + i / 1e3, *val])
    accuracies = 100 * rng.integers(60, 76, 40) / 75
    test = {"accuracy": accuracies.mean(), "interval95": 1.0, "accuracies": accuracies.tolist()}
    test |= {"episodes_sha256": "abc", "settings": {"way": 5, "query": 15}}
    (savedir / "meta_test.json").write_text(json.dumps(test))
    return savedir


def collapse_rows(spread: str, iterations=(None,), layers=("conv3", "conv4", "logits"), **extra) -> list[dict]:
    """Rows as study.py writes them: every value is told apart by its place."""
    rows = []
    for i in iterations:
        for part in ("support", "query"):
            for step in range(STEPS + 1):
                for number, layer in enumerate(layers):
                    row = ({} if i is None else {"iter": i}) | {"set": part, "step": step, "layer": layer} | extra
                    value = 0.1 + 0.01 * step + 0.1 * number + 0.001 * (i or 0) + 0.3 * (part == "query")
                    for name in collapse.NAMES:
                        row |= {name: value, f"{name}_{spread}": value / 10}
                    rows.append(row)
    return rows


def write_collapse(savedir: Path, kind: str, **settings) -> Path:
    """A savedir with neural collapse, of the kind `watched` or `tested`, and nothing else."""
    savedir.mkdir(parents=True)
    (savedir / "config.json").write_text(json.dumps({"model": savedir.name}))
    if kind == "watched":
        rows = collapse_rows("std", (0, 100), tasks=4, **settings)
        with open(savedir / "collapse.csv", "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        (savedir / "collapse.json").write_text(json.dumps({"rows": collapse_rows("ci95", **settings)}))
    return savedir


def draw(monkeypatch, *argv) -> None:
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, argv)])
    assert plot.main() == 0


QUICK = ("--dpi", 40, "--format", "png")


def test_the_boundary_is_where_the_two_logits_are_equal():
    export = fake_export(way=3, shot=2)
    for pair in ((0, 1), (2, 0)):
        scene = geometry.scene(export, 1, pair, seed=0)
        for step in range(STEPS + 1):
            w, b = export["head_w"][1, step], export["head_b"][1, step]
            features = export["query_features"][1, step][np.isin(export["query_labels"], pair)]
            # walk from a feature to the boundary along axis 1: there the logits are equal
            axis = w[:, pair[0]] - w[:, pair[1]]
            axis = axis / np.sqrt((axis**2).sum())
            x = scene.points["query"][step, :, 0]
            there = features + (scene.boundary[step] - x)[:, None] * axis
            logits = (there @ w + b)[:, list(pair)]
            np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-9)
            # and a point is on the side of the class that the head prefers
            logits = (features @ w + b)[:, list(pair)]
            np.testing.assert_array_equal(x > scene.boundary[step], logits[:, 0] > logits[:, 1])
            owner = (export["query_labels"][np.isin(export["query_labels"], pair)] == pair[1]).astype(int)
            assert scene.accuracy[step] == (logits.argmax(1) == owner).mean()


def test_copies_belong_to_the_class_of_their_image():
    export = fake_export(shot=2, copies=3)
    export["perturbed_features"] = np.repeat(export["support_features"][:, :, None], 3, 2)
    scene = geometry.scene(export, 0, (0, 1), seed=0)
    np.testing.assert_allclose(scene.points["copies"][..., 0], np.tile(scene.points["support"][..., 0], 3))
    np.testing.assert_array_equal(scene.owner["copies"], np.tile(scene.owner["support"], 3))


def test_tsne_is_the_same_from_the_same_seed_and_keeps_neighbours():
    rng = np.random.default_rng(1)
    groups = rng.normal(scale=20, size=(6, 1, SIZE)) + rng.normal(size=(6, 10, SIZE))
    rest = groups.reshape(3, 20, SIZE)
    one = geometry.embed(rest, 0)
    np.testing.assert_array_equal(one, geometry.embed(rest, 0))
    assert (one != geometry.embed(rest, 1)).any()
    assert one.shape == (3, 20) and abs(one).max() == pytest.approx(1)
    spread = one.reshape(6, 10)
    assert np.ptp(spread, axis=1).max() < np.ptp(one) / 3
    assert not geometry.embed(np.zeros((2, 5, SIZE)), 0).any()  # nothing is left to embed
    assert np.isfinite(geometry.embed(rng.normal(size=(1, 4, SIZE)), 0)).all()  # the fewest points there are


def test_many_training_points_are_drawn_smaller():
    sizes = []
    for shot in (1, 10):
        scene = geometry.scene(fake_export(shot=shot), 0, (0, 1), 0)
        ax = figures.boundary_strip({"a": scene}, ("A", "B")).axes[0]
        (dots,) = (dots for dots in ax.collections if np.array_equal(
            dots.get_offsets(), scene.points["support"][0][scene.owner["support"] == 0]))  # fmt: skip
        sizes.append(dots.get_sizes()[0])
    assert sizes == [60, pytest.approx(60 / 5**0.5)]


def test_stochastic_features_of_colour_images(monkeypatch, tmp_path):
    d = write_run(tmp_path / "a", image_shape=(84, 84, 3))
    flags = ("--figures", "features", "--tasks", 1, "--layers", "conv3", "--channels", 5, 3, *QUICK)
    draw(monkeypatch, "--savedir", d, *flags)
    assert len(list((d / "plot").glob("features_task1_image*_samples.gif"))) == 2
    with Image.open(d / "plot/features_task1_image0_samples.gif") as gif:
        assert gif.n_frames == 4 and gif.info["duration"] == 500
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert (frames[0] != frames[1]).any() and (frames[0][:, :100] == frames[1][:, :100]).all()  # only samples move


def test_panels_are_the_samples_mean_and_deviation():
    rng = np.random.default_rng(0)
    row = {"clean": rng.random((5, 5)), "perturbed": rng.random((6, 5, 5)), "noise": rng.random((6, 5, 5))}
    for kind, wanted in (
        ("mean", sum(row["perturbed"]) / 6),
        ("std", np.sqrt(sum((x - sum(row["perturbed"]) / 6) ** 2 for x in row["perturbed"]) / 6)),
        ("mean noise", sum(row["noise"]) / 6),
    ):
        np.testing.assert_allclose(figures.panel(row, kind)[0], wanted)
    np.testing.assert_array_equal(figures.panel(row, "noise", 3)[0], row["noise"][3])


def test_bins_hold_each_accuracy_in_its_own():
    values = 100 * np.array([70, 74, 75, 75]) / 75
    edges = figures.bins(values, 100 / 75)
    counts = np.histogram(values, edges)[0]
    assert counts.sum() == 4 and counts[counts > 0].tolist() == [1, 1, 2]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of two runs, with every figure."""
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / name, name, images=1) for name in ("maml", "metadrop")]
    with pytest.MonkeyPatch.context() as patch:
        draw(patch, "--savedir", runs[0], "--savedir", runs[1], "--tasks", 1, "--layers", "conv2", "--dpi", 40)
    return runs[0] / "plot/index.html"


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        self.links += [attrs[k] for k in ("src", "href") if k in attrs]


def test_the_page_shows_every_figure_and_needs_nothing_from_elsewhere(page):
    text, found = page.read_text(), Links()
    found.feed(text)
    drawn = {p.name for p in page.parent.iterdir() if p.suffix in (".png", ".gif")}
    assert set(found.images) == drawn and len(drawn) == 3 + 2 + 2
    assert all((page.parent / link).is_file() for link in found.links)
    assert {p.stem for p in page.parent.glob("*.png")} == {p.stem for p in page.parent.glob("*.pdf")}
    assert "script" not in found.tags and "link" not in found.tags and "http" not in text
    assert "&lt;omniglot &amp; more&gt;" in text and "<omniglot" not in text
    assert "MAML perturbs nothing" in text and "not paired" not in text
    with Image.open(page.parent / "boundary_task1_steps.gif") as gif:
        assert gif.n_frames == 6 * STEPS + 1 and gif.info["loop"] == 0
        assert np.asarray(gif.convert("RGB"))[0, 0].tolist() == [255] * 3


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_a_browser_loads_every_picture_of_the_page(page, tmp_path):
    report = """<script>addEventListener("load", () => { document.body.innerHTML = Array.from(
      document.images, i => `[${i.getAttribute("src")} ${i.naturalWidth}x${i.naturalHeight}]`).join("") +
      `width ${document.documentElement.scrollWidth}` })</script>"""
    wrapper = page.with_name("in_a_browser.html")
    wrapper.write_text(page.read_text().replace("</body>", report + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=800,600 --dump-dom"
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path}", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    wrapper.unlink()
    loaded = re.findall(r"\[(\S+) (\d+)x(\d+)\]", done.stdout)
    assert len(loaded) == 7, done.stdout + done.stderr
    for name, width, height in loaded:
        with Image.open(page.parent / name) as image:
            assert image.size == (int(width), int(height))
    assert int(re.search(r"width (\d+)", done.stdout)[1]) <= 800  # nothing is wider than the window


def test_the_same_seed_gives_the_same_bytes():
    def drawn():
        scene = geometry.scene(fake_export(), 1, (0, 1), 0)
        fig = figures.boundary_tasks({"a": {1: scene}}, ("A", "B"))
        files = [figures.still(fig, kind, 40) for kind in ("png", "pdf", "svg")]
        return [*files, figures.animation(figures.boundary_frames({"a": scene}, ("A", "B"), moves=1), 40)]

    assert drawn() == drawn()


# What is drawn is what was read.


@pytest.fixture
def recorded(monkeypatch) -> dict[str, list[tuple]]:
    """What figures.py and figures_collapse.py are asked to draw, by function; nothing is drawn."""
    calls = {}

    def record(name, result):
        return lambda *args: calls.setdefault(name, []).append(args) or result()

    for name in ("boundary_tasks", "boundary_strip", "feature_strip", "learning_curves", "accuracy_histogram"):
        monkeypatch.setattr(figures, name, record(name, lambda: Figure((0.1, 0.1))))
    for name in ("boundary_frames", "feature_frames"):
        monkeypatch.setattr(figures, name, record(name, lambda: iter([(Figure((0.1, 0.1)), 80)])))
    for name in ("traces", "by_iteration", "by_step", "by_layer"):
        monkeypatch.setattr(figures_collapse, name, record(name, lambda: Figure((0.1, 0.1))))
    return calls


def test_every_panel_shows_its_own_run(recorded, monkeypatch, tmp_path):
    runs = {"MAML": write_run(tmp_path / "a", "maml", seed=1), "Meta-dropout": write_run(tmp_path / "b", seed=2)}
    flags = ("--classes", 1, 0, "--seed", 3, "--tasks", 1, 0, "--layers", "conv2", "--channels", 7, 3)
    draw(monkeypatch, "--savedir", *runs.values(), *flags, *QUICK)
    exports = {name: dict(np.load(d / exported.NAME)) for name, d in runs.items()}

    def assert_scene(scene, name, task):
        wanted = geometry.scene(exports[name], task, (1, 0), 3)
        np.testing.assert_array_equal(scene.boundary, wanted.boundary)
        for role in wanted.points:
            np.testing.assert_array_equal(scene.points[role], wanted.points[role])

    [(scenes, names)] = recorded["boundary_tasks"]
    assert names == ("class 1 (A)", "class 0 (B)") and list(scenes) == list(runs)
    for name, by_task in scenes.items():
        assert list(by_task) == [1, 0]
        for task, scene in by_task.items():
            assert_scene(scene, name, task)
    for call in ("boundary_strip", "boundary_frames"):
        for task, (by_run, same_names) in zip((1, 0), recorded[call], strict=True):
            assert same_names == names
            for name, scene in by_run.items():
                assert_scene(scene, name, task)

    # the maps of the one run that perturbs: two tasks of two images, channels 7 and 3 of 0 3 5 7
    e = exports["Meta-dropout"]
    assert recorded["feature_strip"] == recorded["feature_frames"]
    wanted = [(task, i) for task in (1, 0) for i in (0, 1)]
    for (image, maps), (task, i) in zip(recorded["feature_strip"], wanted, strict=True):
        np.testing.assert_array_equal(image, e["support_images"][task, e["map_images"][i]])
        assert [row["label"] for row in maps] == ["conv2 ch 7", "conv2 ch 3"]
        for row, j in zip(maps, (3, 1), strict=True):
            np.testing.assert_array_equal(row["clean"], e["clean_conv2"][task, i, ..., j])
            np.testing.assert_array_equal(row["perturbed"], e["perturbed_conv2"][task, :, i, ..., j])
            np.testing.assert_array_equal(row["noise"], e["noise_conv2"][task, :, i, ..., j])

    [(curves,)] = recorded["learning_curves"]
    [(tests, paired, quantum)] = recorded["accuracy_histogram"]
    accuracies = {name: json.loads((d / "meta_test.json").read_text())["accuracies"] for name, d in runs.items()}
    for name, first_loss in (("MAML", 4), ("Meta-dropout", 8)):
        assert curves[name]["loss"][0] == first_loss and curves[name]["secs"].tolist()[:2] == [0, 75]
        np.testing.assert_array_equal(tests[name]["accuracies"], accuracies[name])
    assert quantum == pytest.approx(100 / 75) and list(paired) == ["Meta-dropout − MAML"]
    difference = np.subtract(accuracies["Meta-dropout"], accuracies["MAML"])
    np.testing.assert_array_equal(paired["Meta-dropout − MAML"], difference)


def test_two_runs_of_one_learner_are_told_apart_and_other_tests_not_paired(recorded, monkeypatch, tmp_path):
    runs = [write_run(tmp_path / name, "maml") for name in ("a", "b$x$")]
    test = json.loads((runs[1] / "meta_test.json").read_text()) | {"episodes_sha256": "other"}
    test["settings"] = {"way": 20, "query": 15}
    (runs[1] / "meta_test.json").write_text(json.dumps(test))
    draw(monkeypatch, "--savedir", *runs, "--figures", "histogram", "curves", *QUICK)
    text = (runs[0] / "plot/index.html").read_text()
    assert "MAML (a)" in text and "MAML (b$x$)" in text and "different episodes: not paired" in text
    [(tests, paired, quantum)] = recorded["accuracy_histogram"]
    assert not paired and quantum == pytest.approx(100 / 75)  # the coarser one
    assert list(tests) == ["MAML (a)", r"MAML (b\$x\$)"]  # no formula


def test_a_scene_is_drawn_with_each_class_in_its_colour_at_its_step():
    scene = geometry.scene(fake_export(shot=2), 1, (0, 1), 0)
    names = ("A", "B")

    def assert_panel(ax, step):
        role = {"s": 0}
        spans = {to_rgb(patch.get_facecolor()): patch.get_extents() for patch in ax.patches}
        for which, colour in enumerate(map(to_rgb, figures.CLASS_COLOURS)):
            shown = [dots for dots in ax.collections if to_rgb(dots.get_edgecolor()[0]) in (colour, (0, 0, 0))]
            shown = [dots for dots in shown if not len(f := dots.get_facecolor()) or to_rgb(f[0]) == colour]
            for role in ("support", "copies", "query"):
                points = scene.points[role][step][scene.owner[role] == which]
                assert any(np.array_equal(dots.get_offsets(), points) for dots in shown), (role, which)
            edges = ax.transData.inverted().transform(spans[colour])[:, 0]
            assert edges[which] == pytest.approx(scene.boundary[step])  # class A is to the right
            assert edges[1 - which] == pytest.approx(ax.get_xlim()[1 - which])
        assert ax.lines[0].get_xdata() == pytest.approx([scene.boundary[step]] * 2)
        assert f"{100 * scene.accuracy[step]:.0f} % correct" in ax.get_title()

    for step, ax in enumerate(figures.boundary_strip({"run": scene}, names).axes):
        assert_panel(ax, step)
        assert ax.get_title().startswith(f"step {step}:")
    assert_panel(figures.boundary_tasks({"run": {1: scene}}, names).axes[0], STEPS)
    for frame, (fig, _) in enumerate(figures.boundary_frames({"run": scene}, names, moves=1)):
        assert_panel(fig.axes[0], frame)


def band(ax) -> np.ndarray:
    """The corners [N,2] of a panel's first band, sorted."""
    corners = ax.collections[0].get_paths()[0].vertices
    return np.unique(corners.round(9), axis=0)


def test_curves_and_histogram_have_their_means_and_intervals():
    x = np.arange(4.0)
    run = {"iter": x, "secs": 2 * x, "loss": 3 - x, "acc": x / 9, "val_loss": 4 - x, "val_acc": x / 10}
    fig = figures.learning_curves({"a": run | {"val_ci95": np.full(4, 0.05)}})
    for column, times in ((0, x), (1, 2 * x)):
        wanted = sorted([t, 10 * i + s] for i, t in enumerate(times) for s in (-5, 5))
        np.testing.assert_allclose(band(fig.axes[2 + column]), wanted)
        losses = [line.get_ydata().tolist() for line in fig.axes[column].lines]
        assert losses == [[3, 2, 1, 0], [4, 3, 2, 1]]
    tests = {
        "a": {"accuracies": np.array([60.0, 80]), "accuracy": 70.0, "interval95": 1.25},
        "b": {"accuracies": np.array([80.0, 90]), "accuracy": 85.0, "interval95": 2.5},
    }
    left, right = figures.accuracy_histogram(tests, {"b − a": np.array([20.0, 10])}, 10).axes
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in (left, right)]
    assert labels == [["a: 70.00 ± 1.25 %", "b: 85.00 ± 2.50 %"], ["b − a: +15.00 ± 6.93"]]
    assert [line.get_xdata()[0] for line in left.lines] == [70, 85]
    assert [line.get_xdata()[0] for line in right.lines] == [0, 15]
    assert to_rgb(right.lines[1].get_color()) == to_rgb(left.lines[1].get_color())  # the difference is b's


def test_collapse_is_drawn_with_its_spread_at_its_place():
    runs = {"run": collapse_rows("std", (0, 100), tasks=4)}
    place = lambda step, layer, part: 0.1 + 0.01 * step + 0.1 * layer + 0.3 * (part == "query")  # noqa: E731
    fig = figures_collapse.traces(runs, "support", {"run": "conv4"})
    for column, step in ((0, 0), (1, STEPS)):
        value = place(step, 1, "support")
        for line in fig.axes[column].lines:
            assert line.get_ydata() == pytest.approx([value, value + 0.1])
        within, between = fig.axes[2 + column].lines
        assert within.get_ydata() == pytest.approx([value, value + 0.1])
        assert between.get_ydata() == pytest.approx([1 - value, 0.9 - value])
        wanted = [[0, 0.9 * value], [0, 1.1 * value], [100, 0.9 * (value + 0.1)], [100, 1.1 * (value + 0.1)]]
        np.testing.assert_allclose(band(fig.axes[column]), wanted)
    meta, adapted = figures_collapse.by_iteration(runs, "query", {"run": "conv4"}).axes[0].lines
    assert meta.get_ydata()[0] == pytest.approx(place(0, 1, "query")) and meta.get_linestyle() == "--"
    assert adapted.get_ydata()[0] == pytest.approx(place(STEPS, 1, "query"))
    tested = {"run": collapse_rows("ci95")}
    support, query = figures_collapse.by_step(tested, {"run": "conv4"}).axes[0].lines
    assert support.get_ydata() == pytest.approx([place(step, 1, "support") for step in range(STEPS + 1)])
    assert query.get_ydata() == pytest.approx([place(step, 1, "query") for step in range(STEPS + 1)])
    _, adapted = figures_collapse.by_layer(tested, "query").axes[0].lines
    assert adapted.get_ydata() == pytest.approx([place(STEPS, layer, "query") for layer in range(3)])


# Without --figures: what there is.


def test_what_there_is_is_drawn_and_what_is_missing_is_said(recorded, monkeypatch, tmp_path, capsys):
    runs = [write_collapse(tmp_path / "watched", "watched"), write_collapse(tmp_path / "tested", "tested")]
    runs += [write_run(tmp_path / "maml", "maml"), write_run(tmp_path / "metadrop")]
    for name in (exported.NAME, "meta_test.json"):
        (runs[3] / name).unlink()
    draw(monkeypatch, "--savedir", *runs, *QUICK)
    assert list(recorded["boundary_tasks"][0][0]) == list(recorded["accuracy_histogram"][0][0]) == ["MAML"]
    assert list(recorded["learning_curves"][0][0]) == ["MAML", "Meta-dropout"]
    assert [list(args[0]) for args in recorded["traces"]] == [["watched"]] * 3
    assert list(recorded["by_step"][0][0]) == list(recorded["by_layer"][0][0]) == ["tested"]
    text, said = (runs[0] / "plot/index.html").read_text(), capsys.readouterr().err
    for sentence in (
        f"there is no {runs[3] / exported.NAME}: run main.py --mode export",
        f"there is no {runs[0] / 'meta_train.csv'}: run main.py --mode meta_train",
        f"there is no {runs[0] / 'meta_test.json'}: run main.py --mode meta_test",
        f"there is no neural collapse in {runs[2]}: run main.py --mode collapse",
    ):
        assert sentence in said and f"Not drawn: {sentence}" in text
    assert "MAML perturbs nothing" in text
    assert "Without tested by meta-iterations" in text and "Without watched by inner steps" in text
    # one run alone, watched in training: the last iteration's steps and layers
    recorded.clear()
    draw(monkeypatch, "--savedir", runs[0], *QUICK)
    assert {row["iter"] for row in recorded["by_step"][0][0]["watched"]} == {100}
    # exports of other tasks are not side by side
    other = write_run(tmp_path / "other", shot=2)
    recorded.clear()
    draw(monkeypatch, "--savedir", runs[2], other, *QUICK)
    assert list(recorded["boundary_tasks"][0][0]) == ["MAML"] and "hold different tasks" in capsys.readouterr().err


def test_nothing_is_written_before_all_is_drawn_and_links_lead_to_files(recorded, monkeypatch, tmp_path, capsys):
    d = write_run(tmp_path / "a")
    draw(monkeypatch, "--savedir", d, "--tasks", 0, *QUICK)
    before = {path.name: path.read_bytes() for path in (d / "plot").iterdir()}

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(figures, "learning_curves", interrupted)
        draw(patch, "--savedir", d, "--tasks", 0, 1, *QUICK)
    assert {path.name: path.read_bytes() for path in (d / "plot").iterdir()} == before
    written = []

    def full(path, content):
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path.name)
        path.write_bytes(content)

    monkeypatch.setattr(page_, "write_atomically", full)
    words = "No space left on device): make room"
    assert words in refused(capsys, monkeypatch, "--savedir", d, "--figures", "boundary", "curves", "--tasks", 0, 1)
    assert "index.html" not in written and "boundary_task1.png" in written
    assert (d / "plot/index.html").read_bytes() == before["index.html"]
    links = Links()
    links.feed((d / "plot/index.html").read_text())
    assert links.links and all((d / "plot" / link).is_file() for link in links.links)
    shutil.rmtree(d / "plot")
    (d / "plot").write_text("not a folder")
    recorded.clear()
    assert "cannot write into" in refused(capsys, monkeypatch, "--savedir", d)
    assert not recorded  # said before anything is drawn


# Faults: one sentence, exit code 2.


def refused(capsys, monkeypatch, *argv) -> str:
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, argv)])
    with pytest.raises(SystemExit) as left:
        errors.run(plot.main)
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("plot: ")]  # the bar
    assert left.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_a_savedir_without_what_is_asked_for_is_one_sentence(capsys, monkeypatch, tmp_path):
    assert "--savedir is missing" in refused(capsys, monkeypatch)
    (tmp_path / "empty").mkdir()
    assert "there is no run in" in refused(capsys, monkeypatch, "--savedir", tmp_path / "empty")
    d = write_run(tmp_path / "a", "maml")
    words = "nothing is perturbed"
    assert words in refused(capsys, monkeypatch, "--savedir", d, "--figures", "features")
    for file, figure, remedy in (
        ("meta_test.json", "histogram", "run main.py --mode meta_test"),
        ("meta_train.csv", "curves", "run main.py --mode meta_train"),
        (exported.NAME, "boundary", "run main.py --mode export"),
        (exported.NAME, "features", "run main.py --mode export"),
        ("collapse.csv", "collapse", "run main.py --mode collapse"),
    ):
        (d / file).unlink(missing_ok=True)
        sentence = refused(capsys, monkeypatch, "--savedir", d, "--figures", figure)
        assert f"{remedy} --savedir {d}" in sentence
    sentence = refused(capsys, monkeypatch, "--savedir", d)
    assert "there is nothing to draw" in sentence and f"run main.py --mode export --savedir {d}" in sentence
    assert not (d / "plot").exists()


def test_mistyped_flags_are_one_sentence(capsys, monkeypatch, tmp_path):
    d = write_run(tmp_path / "a")
    for flags, words in (
        (("--tasks", 0, 2), "holds the tasks 0 to 1"),
        (("--tasks", 5, 5), "--tasks 5: "),
        (("--classes", 0, 2), "2 are exported, 0 to 1"),
        (("--classes", 1, 1), "two different ones"),
        (("--channels", 4), "--channels 4 was not exported: choose from 0 3 5 7"),
        (("--format", "jpg"), "'jpg'"),
        (("--dpi", 0), "--dpi: must be a whole number of at least 1 and at most 1200, not '0'"),
        (("--dpi", 100000), "at most 1200"),
        (("--seed", -1), "'-1'"),
        (("--seed", 2**32), "at most 4294967295"),
        (("--savedir", tmp_path / "b/../a"), "names"),
        (("--figures", "curves", "--layers", "conv1"), "--layers has no meaning for --figures curves"),
        (("--figures", "features", "--seed", 0), "--seed has no meaning for --figures features"),
    ):
        (tmp_path / "b").mkdir(exist_ok=True)
        assert words in refused(capsys, monkeypatch, "--savedir", d, *flags), words
    other = write_run(tmp_path / "other", "maml", shot=2)
    words = "hold different tasks"
    assert words in refused(capsys, monkeypatch, "--savedir", d, other, "--figures", "boundary")
    assert not (d / "plot").exists()  # nothing half-written
    with pytest.raises(errors.UserError, match="--dpi 1200 makes a figure of 72000 x 1200 pixels"):
        figures.still(Figure((60, 1)), "png", 1200)


def test_an_export_that_does_not_fit_is_one_sentence(capsys, monkeypatch, tmp_path):
    d = write_run(tmp_path / "old", version=0)
    flags = "--figures", "boundary", "--savedir"
    assert "version 0, and this program reads version 1" in refused(capsys, monkeypatch, *flags, d)
    d = write_run(tmp_path / "bare", copies=0)
    assert "holds no perturbed copies" in refused(capsys, monkeypatch, *flags, d)
    d = write_run(tmp_path / "a", "maml")
    arrays = dict(np.load(d / exported.NAME))
    for name, damage, words in (
        ("support_features", lambda a: np.where(np.arange(len(a))[:, None, None, None] == 1, np.nan, a), "of task 1"),
        ("head_b", lambda a: a + np.inf, "head_b of task 0 are not all finite"),
        ("clean_conv2", lambda a: a * np.nan, "with --checkpoint best"),
        ("head_b", lambda _: np.zeros((2, 3, 5)), "head_b has the shape"),
        ("head_w", lambda a: a.astype(str), "is damaged"),
        ("support_labels", lambda a: a + 1, "support_labels holds other numbers than 0 to 1"),
        ("map_images", lambda a: a - 1, "map_images holds other numbers"),
        ("query_images", lambda a: a[:, :, :0], "query_images has the shape"),
        ("settings", lambda _: np.array("[]"), "is damaged"),
        ("format", lambda _: np.zeros(2), "cannot be read"),
    ):
        np.savez(d / exported.NAME, **arrays | {name: damage(arrays[name])})
        sentence = refused(capsys, monkeypatch, *flags, d)
        assert words in sentence and str(d / exported.NAME) in sentence and "main.py --mode export" in sentence, name
    arrays.pop("head_b")
    np.savez(d / exported.NAME, **arrays)
    assert "it lacks head_b" in refused(capsys, monkeypatch, *flags, d)
    (d / exported.NAME).write_bytes(b"PK")
    assert "cannot be read" in refused(capsys, monkeypatch, *flags, d)
    assert not (d / "plot").exists()


def test_every_array_of_an_export_has_its_shape_checked():
    whole = fake_export()
    exported.check(whole)
    for name in exported.SHAPES:
        array = whole[name]
        for wrong in (array[None], np.repeat(array, 2, -1) if exported.SHAPES[name][-1] != "." else array[..., 0]):
            with pytest.raises(ValueError, match="has the shape"):
                exported.check(whole | {name: wrong})
        with pytest.raises(ValueError, match=f"it lacks {name}"):
            exported.check({k: v for k, v in whole.items() if k != name})


def test_a_head_as_large_as_float32_holds_is_projected():
    export = fake_export()
    large = {name: (export[name] * 1e30).astype(np.float32) for name in ("head_w", "head_b")}
    small, scene = (geometry.scene(export | head, 0, (0, 1), 0) for head in ({}, large))
    np.testing.assert_allclose(scene.boundary, small.boundary, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scene.points["query"][..., 0], small.points["query"][..., 0], rtol=1e-4, atol=1e-4)


def test_damaged_numbers_of_a_run_are_one_sentence(capsys, monkeypatch, tmp_path):
    d = write_run(tmp_path / "a")
    header = "iter,episodes,secs,lr,loss,acc,val_loss,val_acc,val_ci95\n"
    for content, words in (
        ("iter,secs\n1,2\n", "line 2: 'loss'"),
        (header, "no row yet"),
        (header + "0,0,1,1,1,1,,,\n50,4\n", "line 3: 9 cells are wanted"),
        (header + "0,0,1,1,1,1,,,\n50,4,1,1,1,1,,,,7\n", "line 3: 9 cells are wanted"),
        (header + "0,0,1,1,one,1,,,\n", "line 2: could not convert string to float: 'one'): mend or delete"),
        (header + "0" * 200000 + "\n", "field larger than"),
        (b"\xff\xfe", "cannot be read"),
    ):
        (d / "meta_train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        assert words in refused(capsys, monkeypatch, "--savedir", d, "--figures", "curves"), words
    test = json.loads((d / "meta_test.json").read_text())
    for change, words in (
        ({"accuracies": []}, "its accuracies are not a list of numbers"),
        ({"accuracies": [50.0, float("nan")]}, "its accuracies are not a list of numbers"),
        ({"accuracies": [[1.0]]}, "its accuracies are not a list of numbers"),
        ({"accuracy": "high"}, "cannot be read"),
        ({"settings": {}}, "its settings lack query"),
        ({"settings": {"way": 5, "query": 0}}, "cannot be read"),
        ({"settings": {"way": [5], "query": 1}}, "cannot be read"),
        ({"settings": 3}, "cannot be read"),
    ):
        (d / "meta_test.json").write_text(json.dumps(test | change))
        assert words in refused(capsys, monkeypatch, "--savedir", d, "--figures", "histogram"), words
    for number, (settings, words) in enumerate((
        ({"layers": ["logits"]}, "its layers are logits"),
        ({"layers": ["conv4", "dense"]}, "its layers are conv4 dense"),
    )):  # fmt: skip
        for kind in ("watched", "tested"):
            broken = write_collapse(tmp_path / f"{kind}{number}", kind, **settings)
            assert words in refused(capsys, monkeypatch, "--savedir", broken, "--figures", "collapse")
    path = broken.with_name("watched1") / "collapse.csv"
    path.write_text("iter,set,step,layer,tasks,nc1\n0,query,0,conv4,2,1\n")
    assert "it lacks nc2_angle_means" in refused(capsys, monkeypatch, "--savedir", path.parent, "--figures", "collapse")
    assert not (d / "plot").exists()


def test_odd_but_whole_numbers_of_a_run_are_drawn(monkeypatch, tmp_path):
    """A diverged run, an older version's test, a learner and layers of another program, settings of other types."""
    d = write_run(tmp_path / "a")
    config = {"model": ["not", "a name"], "way": "5", "query": 15, "perturbation": 3, "shot": {"of": None}}
    (d / "config.json").write_text(json.dumps(config))
    lines = (d / "meta_train.csv").read_text().splitlines()
    lines[3:] = [re.sub(r"^(\d+,\d+,[^,]+,[^,]+),[^,]+", r"\1,inf" if i % 2 else r"\1,nan", line) for i, line in
                 enumerate(lines[3:])]  # fmt: skip
    (d / "meta_train.csv").write_text("\n".join(lines) + "\n")
    test = json.loads((d / "meta_test.json").read_text())
    test.pop("settings")
    (d / "meta_test.json").write_text(json.dumps(test))
    rows = collapse_rows("ci95", layers=("stem", "head", "logits"), colour=1)
    (d / "collapse.json").write_text(json.dumps({"rows": rows}))
    draw(monkeypatch, "--savedir", d, "--figures", "curves", "histogram", "collapse", *QUICK)
    text = (d / "plot/index.html").read_text()
    assert "<h1>[&#x27;not&#x27;, &#x27;a name&#x27;], 3</h1>" in text
    assert {"curves.png", "histogram.png", "collapse_layers.png"} <= {path.name for path in (d / "plot").iterdir()}


def test_it_starts_without_tensorflow():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import plot; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
