"""The figures: their geometry against the head itself, every shot, both datasets, the page in a real browser."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import errors
import exported
import figures
import geometry
import plot
from conftest import ROOT

STEPS, QUERY, SIZE = 2, 3, 7


def fake_export(model="metadrop", shot=1, image_shape=(28, 28, 1), way=2, copies=4, tasks=2, seed=0) -> dict:
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
        "map_images": np.arange(min(2, support)),
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
        shape = (min(2, support), height >> block, width >> block, 4)
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
            table.writerow([i, i * 4, i * 1.5, 1e-3, 1.2 - i / 1e3, 0.5 + i / 1e3, *val])
    accuracies = 100 * rng.integers(60, 76, 40) / 75
    test = {"accuracy": accuracies.mean(), "interval95": 1.0, "accuracies": accuracies.tolist()}
    test |= {"episodes_sha256": "abc", "settings": {"way": 5, "query": 15}}
    (savedir / "meta_test.json").write_text(json.dumps(test))
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


@pytest.mark.parametrize(("shot", "model"), [(1, "maml"), (2, "metadrop"), (5, "maml"), (10, "metadrop")])
def test_every_shot_has_its_figures(shot, model, monkeypatch, tmp_path):
    d = write_run(tmp_path / "a", model, shot=shot, tasks=1)
    draw(monkeypatch, "--savedir", d, "--figures", "boundary", *QUICK)
    assert {p.name for p in (d / "plot").iterdir()} == {
        "boundary_tasks.png", "boundary_task0.png", "boundary_task0_steps.gif", "index.html",
    }  # fmt: skip
    with Image.open(d / "plot/boundary_task0_steps.gif") as gif:
        assert gif.n_frames == 6 * STEPS + 1 and gif.info["loop"] == 0
        assert np.asarray(gif.convert("RGB"))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("image_shape", [(28, 28, 1), (84, 84, 3)])
def test_stochastic_features_of_grey_and_colour_images(image_shape, monkeypatch, tmp_path):
    d = write_run(tmp_path / "a", image_shape=image_shape)
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
    runs = [write_run(folder / name, name) for name in ("maml", "metadrop")]
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
    assert set(found.images) == drawn and len(drawn) == 3 + 4 + 2
    assert all((page.parent / link).is_file() for link in found.links)
    assert {p.stem for p in page.parent.glob("*.png")} == {p.stem for p in page.parent.glob("*.pdf")}
    assert "script" not in found.tags and "link" not in found.tags and "http" not in text
    assert "&lt;omniglot &amp; more&gt;" in text and "<omniglot" not in text
    assert "MAML perturbs nothing" in text and "not paired" not in text


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
    assert len(loaded) == 9, done.stdout + done.stderr
    for name, width, height in loaded:
        with Image.open(page.parent / name) as image:
            assert image.size == (int(width), int(height))
    assert int(re.search(r"width (\d+)", done.stdout)[1]) <= 800  # nothing is wider than the window


def test_the_same_seed_gives_the_same_bytes(page, monkeypatch, tmp_path):
    runs = [tmp_path / name for name in ("maml", "metadrop")]
    for run in runs:
        shutil.copytree(page.parent.parent.parent / run.name, run)
    shutil.rmtree(runs[0] / "plot")
    draw(monkeypatch, "--savedir", *runs, "--tasks", 1, "--figures", "boundary", "curves", "--dpi", 40)
    drawn = {p.name: p.read_bytes() for p in (runs[0] / "plot").iterdir() if p.name != "index.html"}
    assert len(drawn) == 7 and drawn == {name: (page.parent / name).read_bytes() for name in drawn}


def test_two_runs_of_one_learner_are_told_apart_and_other_tests_not_paired(monkeypatch, tmp_path):
    runs = [write_run(tmp_path / name, "maml") for name in ("a", "b")]
    test = json.loads((runs[1] / "meta_test.json").read_text()) | {"episodes_sha256": "other"}
    (runs[1] / "meta_test.json").write_text(json.dumps(test))
    draw(monkeypatch, "--savedir", *runs, "--figures", "histogram", "curves", *QUICK)
    text = (runs[0] / "plot/index.html").read_text()
    assert "MAML (a)" in text and "MAML (b)" in text and "different episodes: not paired" in text


# Faults: one sentence, exit code 2.


def refused(capsys, monkeypatch, *argv) -> str:
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, argv)])
    with pytest.raises(SystemExit) as left:
        errors.run(plot.main)
    lines = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_a_savedir_without_what_is_needed_is_one_sentence(capsys, monkeypatch, tmp_path):
    assert "--savedir is missing" in refused(capsys, monkeypatch)
    (tmp_path / "empty").mkdir()
    assert "there is no run in" in refused(capsys, monkeypatch, "--savedir", tmp_path / "empty")
    d = write_run(tmp_path / "a", "maml")
    words = "nothing is perturbed"
    assert words in refused(capsys, monkeypatch, "--savedir", d, "--figures", "features")
    (d / "meta_test.json").unlink()
    assert "--mode meta_test" in refused(capsys, monkeypatch, "--savedir", d, "--figures", "histogram")
    (d / "meta_train.csv").write_text("iter,secs\n1,2\n")
    assert "cannot be read" in refused(capsys, monkeypatch, "--savedir", d, "--figures", "curves")
    (d / exported.NAME).unlink()
    assert "run main.py --mode export" in refused(capsys, monkeypatch, "--savedir", d)
    (d / exported.NAME).write_bytes(b"PK")
    assert "cannot be read" in refused(capsys, monkeypatch, "--savedir", d)


def test_an_export_that_does_not_fit_is_one_sentence(capsys, monkeypatch, tmp_path):
    d = write_run(tmp_path / "old", version=0)
    assert "version 0, and this program reads version 1" in refused(capsys, monkeypatch, "--savedir", d)
    d = write_run(tmp_path / "bare", copies=0)
    assert "holds no perturbed copies" in refused(capsys, monkeypatch, "--savedir", d)
    d = write_run(tmp_path / "a")
    for flags, words in (
        (("--tasks", 0, 2), "holds the tasks 0 to 1"),
        (("--classes", 0, 2), "two different ones of 0 to 1"),
        (("--classes", 1, 1), "two different ones"),
        (("--channels", 4), "--channels 4 was not exported: choose from 0 3 5 7"),
        (("--format", "jpg"), "'jpg'"),
        (("--dpi", 0), "--dpi"),
        (("--seed", -1), "'-1'"),
    ):
        assert words in refused(capsys, monkeypatch, "--savedir", d, *flags), words
    other = write_run(tmp_path / "other", "maml", shot=2)
    assert "hold different tasks" in refused(capsys, monkeypatch, "--savedir", d, other)
    assert not (d / "plot").exists()  # nothing half-written
    arrays = dict(np.load(d / exported.NAME))
    arrays["perturbed_features"][1] = np.nan
    np.savez(d / exported.NAME, **arrays)
    assert "task 1 has no usable perturbed copies" in refused(capsys, monkeypatch, "--savedir", d)
    arrays.pop("head_b")
    np.savez(d / exported.NAME, **arrays)
    assert "it lacks head_b" in refused(capsys, monkeypatch, "--savedir", d)
    arrays["head_b"] = np.zeros((2, 3, 5))
    np.savez(d / exported.NAME, **arrays)
    assert "head_b has the shape" in refused(capsys, monkeypatch, "--savedir", d)


def test_it_starts_without_tensorflow():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import plot; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
