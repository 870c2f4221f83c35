"""The tables and curves of runfiles/ have numbers calculated by hand. The runs have no symmetry: each kind has
other seeds, each seed has another accuracy, and there are several attacks.

A table that pairs runs by their position, shows columns in another order or halves an interval shows other numbers.
"""

import importlib
import json
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import same_color

import data
from conftest import ROOT, call


@pytest.fixture(autouse=True)
def runfiles(monkeypatch):
    """Let `call` import the scripts."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")


def script(name):
    return importlib.import_module(name)


def write_test(savedir, accuracies, losses=None, **facts) -> None:
    savedir.mkdir(parents=True, exist_ok=True)
    test = {"accuracy": float(np.mean(accuracies)), "interval95": 0.25, "accuracies": accuracies}
    test |= {"losses": losses or [1] * len(accuracies), "episodes_sha256": "a"}
    (savedir / "meta_test.json").write_text(json.dumps(test | facts))


def write_curves(savedir, *rows) -> None:
    """rows: iteration, seconds, loss and, if there is a validation, its accuracy and interval (0 to 1)."""
    savedir.mkdir(parents=True, exist_ok=True)
    lines = ["iter,secs,loss,acc,val_loss,val_acc,val_ci95"]
    for i, seconds, loss, *val in rows:
        lines.append(f"{i},{seconds},{loss},0.5," + (f"2.5,{val[0]},{val[1]}" if val else ",,"))
    (savedir / "meta_train.csv").write_text("\n".join(lines))


def rows_of(program, *args) -> list[list[str]]:
    """Return the cells of every line of the tables that a script prints, without the lines below the heads."""
    done = call(f"runfiles/{program}.py", *args)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


# ---- pairs of runs: seeds 3 and 10 are shared, and 0, 1 and 2 are not

ONE = {0: (10, 20), 3: (50, 70), 10: (60, 68)}
OTHER = {1: (1, 3), 2: (97, 99), 3: (54, 72), 10: (64, 76)}
# 60 and 64, then 63 and 70; Student's t of one degree of freedom is 12.706, and 12.706 std / sqrt(2) = 25.41, 44.47.
# By seed: 3 +- 1.96 * 1 / sqrt(2), and 6 +- 1.96 * 2 / sqrt(2).
PAIRED = ["2", "62.00 ± 25.41", "66.50 ± 44.47", "+4.50 ± 19.06", "+3.00 ± 1.39, +6.00 ± 2.77"]


def write_pair(folder, one, other, **facts) -> None:
    for kind, tests in ((one, ONE), (other, OTHER)):
        for seed, accuracies in tests.items():
            write_test(folder / f"{kind}_{seed}", list(accuracies), **facts)


def test_omni_5way_pairs_the_seeds_that_both_learners_share(tmp_path):
    write_pair(tmp_path / "1shot", "maml_exact", "metadrop_exact")
    write_test(tmp_path / "5shot/maml_published_4", [20, 30])
    write_test(tmp_path / "5shot/metadrop_published_4", [21, 35])
    head, *rows = rows_of("omni_5way", tmp_path)
    assert head[1:] == ["seeds", "MAML", "Meta-dropout", "difference", "difference by seed"]
    assert rows == [
        ["1shot, exact", *PAIRED],
        ["5shot, published", "1", "25.00", "28.00", "+3.00", "+3.00 ± 2.77"],
    ]


def test_precision_pairs_the_seeds_that_both_precisions_share(tmp_path):
    write_pair(tmp_path, "metadrop_float32", "metadrop_bf16")
    head, *rows = rows_of("precision", tmp_path)
    assert head[1:4] == ["seeds", "trained in float32", "trained in bf16"] and rows == [["Meta-dropout", *PAIRED]]


def test_masks_pairs_seeds_and_tasks(tmp_path):
    """The first 200 tasks have other accuracies than all 1000."""

    def write(kind, seed, first, others, loss):
        accuracies = list(first) * 100 + [others] * 800
        write_test(tmp_path / f"metanet_original/{kind}_{seed}", accuracies, [loss] * 200 + [0] * 800)

    write("none", 0, (0, 0), 0, 9)
    write("none", 2, (40, 90), 90, 1)
    write("mask", 2, (50, 90), 100, 0.2)  # means 70 and 94
    write("mask", 5, (80, 95), 100, 0.5)  # 87.5 and 97.5
    head, *rows = rows_of("masks", tmp_path)
    assert head[2:7] == ["seeds", "accuracy", "std of tasks", "tasks above 50 / 80 / 90 %", "loss"]
    (first,), (every,) = (
        [row for row in part if row[:2] == ["Original", "one per task"]] for part in (rows[:2], rows[3:])
    )
    # of 400 tasks 300 are above 50, 200 above 80 and 100 above 90; the stds are 20 and 7.5
    assert first[2:7] == ["2", "78.75 ± 111.18", "13.75", "75.0 / 50.0 / 25.0", "0.3500"]
    assert first[7:] == ["+5.00", "+5.00 ± 0.69"]  # 10 and 0 more than the same tasks of seed 2
    assert every[2:4] == ["2", "95.75 ± 22.24"] and every[6:8] == ["0.0700", "+9.00"]


def test_masks_calls_learners_and_kinds_what_they_are(tmp_path):
    kinds = {
        "none": "none", "mask": "one per task", "scaled": "one per task, scaled by 1/(1-p)",
        "support_only": "one per task, support only", "per_sample": "one per image (dropout)",
    }  # fmt: skip
    learners = {"metanet_embedding": "Embedding-based", "metanet_original": "Original", "maml": "MAML"}
    wanted = set()
    for i, (learner, title) in enumerate(learners.items()):
        for j, (kind, words) in enumerate(kinds.items()):
            write_test(tmp_path / f"{learner}/{kind}_0", [10 * i + j] * 200)
            wanted.add((title, words, f"{10 * i + j}.00"))
    _, *rows = rows_of("masks", tmp_path)
    assert {(learner, kind, accuracy) for learner, kind, _, accuracy, *_ in rows if kind != "mask"} == wanted


def test_rates_takes_inner_and_meta_rates_for_what_they_are_and_pairs_the_best(tmp_path):
    grid = {("0.05", "3e-4"): 0.5, ("0.05", "1e-3"): 0.6, ("0.2", "3e-4"): 0.9, ("0.2", "1e-3"): 0.7}
    for kind in ("maml_published", "maml_exact", "metadrop_published", "metadrop_exact"):
        for (inner, meta), accuracy in grid.items():
            write_curves(tmp_path / f"{kind}_{inner}_{meta}_0", (0, 1, 1, 0.99, 0.1), (800, 9, 1, accuracy, 0.02))
        write_curves(tmp_path / f"{kind}_0.05_1e-3_1", (800, 9, 1, 0.98, 0.02))  # another seed does not choose
    write_pair(tmp_path, "maml_published_0.2_3e-4", "metadrop_exact_0.2_3e-4")
    write_test(tmp_path / "maml_exact_0.2_3e-4_3", [51, 75])
    done = call("runfiles/rates.py", tmp_path, "--best", "metadrop", "exact")
    assert done.stdout == "0.2 3e-4\n"
    rows = rows_of("rates", tmp_path)
    titles = [f"{name}, {gradient}" for name in ("MAML", "Meta-dropout") for gradient in ("published", "exact")]
    for title, (head, *cells) in zip(titles, zip(*[iter(rows[:12])] * 3, strict=True), strict=True):
        assert head == [title, "meta_lr 3e-4", "meta_lr 1e-3"]
        assert cells == [
            ["inner_lr 0.05", "50.00 ± 2.00", "60.00 ± 2.00"],
            ["inner_lr 0.2", "**90.00 ± 2.00**", "70.00 ± 2.00"],
        ]
    assert rows[12][1:5] == ["seeds", "the first", "the second", "difference"] and rows[13:] == [
        ["MAML, published and Meta-dropout, exact", *PAIRED],
        ["MAML, exact and Meta-dropout, exact", "1", "63.00", "63.00", "+0.00", "+0.00 ± 4.16"],
        ["MAML, published and MAML, exact", "1", "60.00", "63.00", "+3.00", "+3.00 ± 2.77"],
    ]


def test_regularisers_pairs_with_maml_by_seed_and_averages_over_its_own_seeds(tmp_path, monkeypatch):
    """Each kind has two training losses, validations and speeds, all distinct."""
    write_pair(tmp_path, "maml", "fixed", iteration=800)
    facts = {"maml": {0: (2, 1, 0.5), 3: (2, 2, 0.6), 10: (2, 3, 0.7)}}
    facts["fixed"] = {1: (4, 5, 0.8), 2: (4, 5, 0.8), 3: (6, 9, 0.9), 10: (6, 9, 0.94)}
    for kind, seeds in facts.items():
        for seed, (seconds, loss, accuracy) in seeds.items():
            break_of = [0, 0, 0, *[5000] * 5]  # seconds that the machine slept: the median leaves them out
            rows = [
                (50 * i, 50 * i * seconds + break_of[i], loss * (2 if i % 2 else 1) if i > 3 else 99) for i in range(8)
            ]
            rows[0] += (0.99, 0.01)
            rows[7] += (accuracy, 0.01)
            write_curves(tmp_path / f"{kind}_{seed}", *rows)
            config = {"model": "maml", "way": 5, "perturbation": "fixed" if kind == "fixed" else None}
            (tmp_path / f"{kind}_{seed}/config.json").write_text(json.dumps(config))
    head, maml, fixed = rows_of("regularisers", tmp_path)
    assert head[3:] == ["time", "training loss", "validation", "seeds", "accuracy", "from MAML", "by seed"]
    # the last four losses are 1, 2, 1 and 2 times the seed's: 1.5 * mean of 1, 2, 3; and of 5, 5, 9, 9
    assert maml[3:7] == ["1.00", "3.000", "60.00", "3"]
    assert fixed[3:] == ["2.50", "10.500", "86.00", "2", PAIRED[2], PAIRED[3], PAIRED[4]]
    regularisers = script("regularisers")
    with mock.patch("matplotlib.figure.Figure.savefig"):
        regularisers.figure(regularisers.read_rows(tmp_path), tmp_path / "never.png")
    left, right = plt.gcf().axes
    plt.close()
    seeds, mean = left.lines[:2]
    assert sorted(seeds.get_xdata()) == [3, 6] and list(mean.get_xdata()) == [4.5]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines] == [(3, 60), (10.5, 86)]
    assert "loss" in right.get_xlabel() and "accuracy" in right.get_ylabel() and "MAML" in left.get_xlabel()


def test_the_last_validation_is_told_in_percent_with_its_own_interval(tmp_path):
    write_curves(tmp_path, (0, 1, 1, 0.9, 0.4), (50, 2, 1, 0.5, 0.3), (100, 3, 1, 0.625, 0.125), (150, 4, 1))
    assert script("tables").last_validation(tmp_path) == (62.5, 12.5)


def test_intervals_over_seeds_are_students():
    """t of two degrees of freedom is 4.303; 1, 2 and 6 have the mean 3 and the deviation sqrt(7)."""
    over_seeds = script("tables").over_seeds
    assert over_seeds([1, 2, 6]) == "3.00 ± 6.57" and over_seeds([1.5], "+") == "+1.50"


# ---- Table 1

PUBLISHED = """
| accuracy, % | Omniglot 20-way 1-shot | Omniglot 20-way 5-shot | miniImageNet 5-way 1-shot | 5-shot |
|---|---|---|---|---|
| MAML, paper | 95.23 ± 0.17 | 98.38 ± 0.07 | 49.58 ± 0.65 | 64.55 ± 0.52 |
| MAML, TF1 repository | 94.63 ± 0.17 | 98.26 ± 0.07 | 48.73 ± 0.64 | 65.70 ± 0.52 |
| MAML, this project | 10.00 ± 0.25 | 11.00 ± 0.25 | 12.00 ± 0.25 | 13.00 ± 0.25 |
| Meta-dropout, paper | 96.63 ± 0.13 | 98.73 ± 0.06 | 51.93 ± 0.67 | 67.42 ± 0.52 |
| Meta-dropout, TF1 repository | 96.17 ± 0.15 | 98.86 ± 0.06 | 51.67 ± 0.64 | 68.12 ± 0.53 |
| Meta-dropout, this project | 20.00 ± 0.25 | 21.00 ± 0.25 | 22.00 ± 0.25 | 23.00 ± 0.25 |
"""
LAST = {"omni_1shot": 40000, "omni_5shot": 40000, "mimg_1shot": 60000, "mimg_5shot": 60000}


def test_table_1_quotes_the_paper_and_the_tf1_repository_beside_the_runs_cells(tmp_path):
    """The paper's numbers are those of its Table 1, the repository's those of its README of 24 April 2020."""
    for i, model in enumerate(("maml", "metadrop")):
        for j, (cell, last) in enumerate(LAST.items()):
            write_test(tmp_path / model / cell, [10 * (i + 1) + j] * 2, iteration=last)
    assert call("runfiles/table1.py", tmp_path).stdout.strip() == PUBLISHED.strip()
    for cell, last in LAST.items():
        write_test(tmp_path / "maml" / cell, [5, 5], iteration=last - 1)
        write_test(tmp_path / "metadrop" / cell, [5, 5], iteration=last - 1)
    (row,) = (row for row in rows_of("table1", tmp_path) if row[0] == "MAML, this project")
    assert row[1:] == [f"5.00 ± 0.25 ({last - 1:,} of {last:,} iterations)" for last in LAST.values()]


CURVES = {
    "maml": {20: (90, 0.3), 10: (80, 0.6)},
    "metadrop": {10: (81.5, 0.8), 20: (89.75, 0.4), 30: (95, 0.2)},
}


def test_table1_curve_draws_each_learners_accuracy_with_its_whole_interval():
    """The paper's accuracies of 20-way 1-shot have the learner's colour."""
    curve = script("table1_curve")
    tests = {
        model: {i: {"accuracy": a, "interval95": c, "episodes": 7 if i == 20 else 9} for i, (a, c) in points.items()}
        for model, points in CURVES.items()
    }
    with mock.patch("matplotlib.figure.Figure.savefig"):
        curve.figure(tests, "never.png")
    (axis,) = plt.gcf().axes
    plt.close()
    drawn = {bars.get_label(): bars for bars in axis.containers}
    paper = {line.get_label(): line for line in axis.lines if "paper" in str(line.get_label())}
    for (model, title), published in zip(
        {"maml": "MAML", "metadrop": "Meta-dropout"}.items(), (95.23, 96.63), strict=True
    ):
        (line, _, (bars,)) = drawn[title]
        points = sorted((i, a, c) for i, (a, c) in CURVES[model].items())
        assert [*zip(*line.get_data(), strict=True)] == [(i, a) for i, a, _ in points]
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        np.testing.assert_allclose(ends, [(a - c, a + c) for _, a, c in points])
        assert set(paper[f"{title}, paper"].get_ydata()) == {published}
        assert same_color(paper[f"{title}, paper"].get_color(), line.get_color())
    assert not same_color(drawn["MAML"][0].get_color(), drawn["Meta-dropout"][0].get_color())
    assert axis.get_ylabel() == "test accuracy (%), 7 episodes" and axis.get_xlabel() == "meta-iteration"


@pytest.mark.parametrize("fact", ["data_sha256", "train_split", "way", "shot", "query", "metabatch"])
def test_table1_curve_compares_runs_that_differ_in_the_learner_alone(fact, monkeypatch):
    curve = script("table1_curve")
    settings = {"data_sha256": "a", "train_split": "train", "way": 5, "shot": 1, "query": 15, "metabatch": 8}
    tests = [{"iteration": 1}]
    files = {
        "one": {"settings": settings | {"model": "maml"}, "tests": tests},
        "other": {"settings": settings | {"model": "metadrop", fact: "other"}, "tests": tests},
    }
    monkeypatch.setattr(curve.weights, "read", lambda path: mock.Mock(about=files[path]))
    with pytest.raises(curve.UserError, match=f"their {fact} differ"):
        curve.read_curves(["one", "other"])


def test_omni_5way_draws_seeds_thin_and_their_mean_thick(tmp_path, monkeypatch):
    omni = script("omni_5way")
    logs = {
        "maml_published": [([9, 1, 2, 3], [0.9, 0.5, np.nan, 0.7]), ([9, 5, 6, 10], [0.9, 0.7, np.nan, 0.8])],
        "metadrop_exact": [([9, 2, 2, 2], [0.9, 0.1, np.nan, 0.2]), ([9, 4, 4, 8], [0.9, 0.3, np.nan, 0.6])],
    }
    runs = {kind: {seed: {"savedir": (kind, seed)} for seed in range(2)} for kind in logs}
    monkeypatch.setattr(omni, "read_runs", lambda folder: runs)

    def read_curves(savedir):
        loss, accuracy = logs[savedir[0]][savedir[1]]
        return {"iter": np.array([0, 50, 100, 150]), "loss": np.array(loss), "val_acc": np.array(accuracy)}

    monkeypatch.setattr(omni, "read_curves", read_curves)
    with mock.patch("matplotlib.figure.Figure.savefig"):
        omni.figure(tmp_path, tmp_path / "never.png")
    axes = plt.gcf().axes
    plt.close()
    wanted = {
        "MAML, published": ("C0", "-", ([1, 2, 3], [5, 6, 10], [3, 4, 6.5]), ([50, 70], [70, 80], [60, 75])),
        "Meta-dropout, exact": ("C1", "--", ([2, 2, 2], [4, 4, 8], [3, 3, 5]), ([10, 20], [30, 60], [20, 40])),
    }
    for axis, iterations, place in zip(axes, ([50, 100, 150], [50, 150]), (2, 3), strict=True):
        lines = iter(axis.lines)
        for label, (color, dash, *_), values in ((k, v, v[place]) for k, v in wanted.items()):
            *seeds, mean = (next(lines) for _ in range(3))
            assert mean.get_label() == label and all(line.get_lw() < mean.get_lw() for line in seeds)
            for line, value in zip((*seeds, mean), values, strict=True):
                assert same_color(line.get_color(), color) and line.get_linestyle() == dash
                np.testing.assert_allclose(line.get_data(), (iterations, value))
    assert "loss" in axes[0].get_ylabel() and axes[0].get_yscale() == "log" and "accuracy" in axes[1].get_ylabel()


@pytest.mark.parametrize(("name", "drawn"), [("omni_5way", "1shot"), ("regularisers", {}), ("table1_curve", {})])
def test_a_figure_is_drawn_where_it_is_asked_for(name, drawn, monkeypatch, tmp_path):
    """The figure goes into the file that --figure names; that of omni_5way.sh has the 1-shot runs."""
    module, figures = script(name), []
    monkeypatch.setattr(module, "figure", lambda *args: figures.append(args))
    monkeypatch.setattr(module, "table", lambda *args: None)
    if name == "omni_5way":
        for shot in ("1shot", "5shot"):
            write_test(tmp_path / shot / "maml_exact_0", [1, 2])
        drawn = tmp_path / drawn
    reader = {"regularisers": "read_rows", "table1_curve": "read_curves"}.get(name)
    if reader:
        monkeypatch.setattr(module, reader, lambda given: drawn)
    for words in ([], ["--figure", tmp_path / "f.png"]):
        assert call(f"runfiles/{name}.py", tmp_path, *words).returncode == 0
    assert figures == [(drawn, tmp_path / "f.png")]


# ---- scripts that classify


def numbered(classes=8, images=16):
    """Return a split in which all pixels of an image are 20 * class + image."""
    values = 20 * np.arange(classes)[:, None] + np.arange(images)
    pixels = np.broadcast_to(values[..., None, None, None], (classes, images, 4, 4, 1)).astype(np.uint8)
    return data.Split(pixels, rotations=1, scale=1 / 255)


def test_the_pictures_of_a_task_are_those_that_meta_test_draws():
    split, prepare = numbered(), mock.Mock(picture_of=lambda image: int(image.ravel()[0]))
    found = [script("tables").task_pictures(split, prepare, task, 5, 3) for task in range(3)]
    for task, pictures in enumerate(found):
        (classes,), (images,) = data.sample(split, "test", 0, task, 1, 5, 3)
        np.testing.assert_array_equal(pictures, 20 * classes[:, None] + images)


def test_unbalanced_prints_each_number_in_its_column(monkeypatch, tmp_path):
    """Its flags are used, and each file of weights has its own rows in three tables."""
    measured, asked = script("unbalanced"), []
    trained = mock.Mock(config={"dataset": "glyphs"})
    made = mock.Mock(trained=lambda: trained)
    monkeypatch.setattr(measured.Classifier, "load", lambda file, samples: asked.append((file.stem, samples)) or made)
    monkeypatch.setattr(measured.data, "load", lambda folder, name: asked.append((folder, name)) or mock.MagicMock())
    monkeypatch.setattr(measured.data, "check_episode", lambda *_: None)
    monkeypatch.setattr(measured, "task_pictures", lambda split, prepare, task, way, images: task)

    def answers(keys, values):
        """Return a measure with these numbers - 0.1 for task 0, and + 0.1 for task 1."""
        return lambda classifier, task: iter(zip(keys, np.array(values) + (task - 0.5) / 5, strict=True))

    mixtures = [(s, m) for s in measured.STATISTICS for m in measured.MIXTURES]
    monkeypatch.setattr(measured, "measure_mixtures", answers(mixtures, np.arange(24) / 100))
    sets = [(n, what) for n in measured.SUPPORT for what in ("accuracy", "first class")]
    monkeypatch.setattr(measured, "measure_support_sets", answers(sets, np.arange(6) / 10))
    shots = [(n, what) for n in measured.SHOTS for what in ("left out", "one less", "others")]
    monkeypatch.setattr(measured, "measure_leave_one_out", answers(shots, np.arange(9) / 10))
    for name in ("measure_mixtures", "measure_support_sets", "measure_leave_one_out"):
        getattr(measured, name).__name__ = name
    flags = ("--tasks", 2, "--samples", 6, "--data_dir", "where")
    rows = rows_of("unbalanced", tmp_path / "a.npz", *flags)
    assert asked == [("a", 6), ("where", "glyphs")]
    assert rows[0] == ["weights", "statistics of", *measured.MIXTURES] and [row[1] for row in rows[1:4]] == [
        "support", "together", "query",
    ]  # fmt: skip
    assert rows[2][2:5] == ["8.0 ± 13.9", "9.0 ± 13.9", "10.0 ± 13.9"]
    assert rows[4][2:] == ["1, 1, 1, 1, 1", "3, 1, 1, 1, 1", "10, 1, 1, 1, 1"]
    assert [[cell.split()[0] for cell in row[2:]] for row in rows[5:7]] == [
        ["0.0", "20.0", "40.0"],
        ["10.0", "30.0", "50.0"],
    ]
    assert rows[7][1:] == ["pictures of each class", "left out", "one less", "others"]
    assert [row[1] for row in rows[8:]] == ["2", "3", "5"]
    assert [cell.split()[0] for cell in rows[9][2:]] == ["30.0", "40.0", "50.0"]


def test_transfer_puts_each_run_on_both_datasets_in_their_columns(monkeypatch, tmp_path):
    """Seeds 0 and 2 of a kind, and one of another; the number of tasks and the folder of the data arrive."""
    transfer, loaded, asked = script("transfer"), [], set()
    scores = {
        ("omniglot_maml_0", "omniglot"): 90, ("omniglot_maml_0", "glyphs"): 50,
        ("omniglot_maml_2", "omniglot"): 94, ("omniglot_maml_2", "glyphs"): 58,
        ("glyphs_metadrop_1", "omniglot"): 71, ("glyphs_metadrop_1", "glyphs"): 83,
        ("pixels", "omniglot"): 31, ("pixels", "glyphs"): 42,
    }  # fmt: skip
    for run in {run for run, _ in scores} - {"pixels"}:
        (tmp_path / run / "checkpoints/last").mkdir(parents=True)

    def accuracy(classifier, dataset, tasks, what, flat=False):
        asked.add(tasks)
        assert flat == (what == "pixels")
        return scores["pixels" if flat else classifier, dataset]

    def load(path, **settings):
        assert settings == {"statistics": "query", "samples": 10}
        return path.name

    class Name(str):
        """A dataset that is its name."""

        name = property(str)

    monkeypatch.setattr(transfer, "accuracy", accuracy)
    monkeypatch.setattr(transfer.Classifier, "load", load)
    monkeypatch.setattr(transfer.data, "load", lambda folder, name: loaded.append(folder) or Name(name))
    head, *rows = rows_of("transfer", tmp_path, "--tasks", 7, "--data_dir", "where")
    assert asked == {7} and set(loaded) == {"where"} and head[3:] == ["on omniglot, %", "on glyphs, %"]
    assert rows == [
        ["", "nearest neighbour in pixels", "", "31.00", "42.00"],
        ["omniglot", "MAML", "2", "92.00 ± 25.41", "54.00 ± 50.82"],
        ["glyphs", "Meta-dropout", "1", "71.00", "83.00"],
    ]


def test_drawings_says_what_the_way_of_a_drawing_adds(monkeypatch, tmp_path):
    """Accuracies of 2 tasks on both ways; the number of tasks and the folder of the originals arrive."""
    drawings, loaded = script("drawings"), []
    hits = iter([15, 30, 60, 30])  # of 75: as they are, centred, and so of the next task

    class Counting:
        def fit(self, support, labels):
            return self

        def predict(self, query):
            right = np.repeat(np.arange(5), 15)
            return np.where(np.arange(75) < next(hits), right, 9)

    monkeypatch.setattr(drawings.Classifier, "load", lambda file, samples, statistics: Counting())
    monkeypatch.setattr(drawings.data, "load", lambda folder, name: loaded.append((folder, name)) or mock.MagicMock())
    monkeypatch.setattr(drawings, "task_pictures", lambda split, prepare, task, way, images: [[0] * images] * way)
    monkeypatch.setattr(drawings, "WAYS", {way: lambda picture: picture for way in drawings.WAYS})
    head, row = rows_of("drawings", "originals", tmp_path / "w.npz", "--tasks", 2)
    assert loaded == [("originals", "omniglot")] and head[1:] == ["as they are", "centred and scaled", "difference"]
    # 20 and 80 %, 40 and 40 %: differences 20 and -40
    assert row == ["w", "50.00 ± 41.58", "40.00 ± 0.00", "-10.00 ± 41.58"]
