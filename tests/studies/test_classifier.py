"""A classifier of one's own pictures: what it computes, scikit-learn's conventions, and --mode classify."""

import csv
import os
import re
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import data
import model
from conftest import ROOT, assert_refused, call
from datasets.prepare import Preparation
from studies import classifier as study
from studies import classify as study_of_folders
from studies.classifier import Classifier
from training import engine, weights

MAML, METADROP = (ROOT / "pretrained" / f"glyphs_10way_1shot_{name}.npz" for name in ("maml", "metadrop"))


@pytest.fixture(scope="module")
def pictures(data_dir):
    """Twelve test classes of twelve pictures each, ink on paper: [12,12,28,28] uint8."""
    split = data.load(data_dir, "glyphs").splits["test"]
    return 255 - split.pixels[:12, :12, ..., 0]


@pytest.fixture(scope="module")
def maml():
    return Classifier.load(MAML)


def task(pictures, classes, shots, queries):
    """Support pictures and their labels, query pictures and theirs."""
    support = [pictures[c, i] for c in range(classes) for i in range(shots)]
    query = [pictures[c, 6 + i] for c in range(classes) for i in range(queries)]
    names = [f"class {c}" for c in range(classes)]
    return support, np.repeat(names, shots), query, np.repeat(names, queries)


def test_it_computes_what_a_test_episode_does(maml, pictures):
    """With the query pictures' own statistics, and equally many of all classes: the learner's adapt and classify."""
    support, labels, query, right = task(pictures, 10, 2, 3)
    one = Classifier(MAML, statistics="query").fit(support, labels)
    content = weights.read(MAML)
    learner = model.make("maml", image_shape=(28, 28, 1), channels=64, way=10, n_steps=5, inner_lr=0.1)
    episode = engine.Engine(learner, shot=2, query=3, metabatch=1, seed=0)
    episode.assign(MAML, content.params)
    x_s, x_q = (1 - np.array(x, np.float32)[None, ..., None] / 255 for x in (support, query))
    logits = episode.classify(episode.adapt(x_s, tf.constant([[0, 0]])), x_q)[0]
    np.testing.assert_allclose(one.predict_proba(query), tf.nn.softmax(logits), atol=1e-4)
    assert one.score(query, right) == (one.predict(query) == right).mean() > 0.8


def test_the_support_sets_statistics_make_a_lone_picture_what_it_is_among_others(pictures):
    support, labels, query, right = task(pictures, 10, 1, 2)
    accuracy = {}
    for statistics in engine.STATISTICS:
        one = Classifier(MAML, statistics=statistics).fit(support, labels)
        accuracy[statistics] = np.mean([one.predict([x])[0] == y for x, y in zip(query, right, strict=True)])
    assert accuracy["together"] > 0.75 and accuracy["query"] < accuracy["together"] - 0.1
    x_s, x_q = (1 - np.array(x, np.float32)[None, ..., None] / 255 for x in (support, query[:3]))
    one = Classifier(MAML).fit(support, labels)
    both = one._engine.classify(one._adapted, np.concatenate([x_s, x_q], 1))[0, 10:]
    np.testing.assert_allclose(one.predict_proba(query[:3]), tf.nn.softmax(both), atol=1e-6)


def test_classes_may_have_any_numbers_of_pictures_in_any_order(maml, pictures):
    """And fewer classes than in training; the labels' order is theirs, whatever the pictures'."""
    support, labels, query, right = task(pictures, 4, 3, 3)
    unequal = [0, 1, 2, 3, 4, 6, 9, 10, 11]  # three, two, one and three of the classes
    order = np.random.default_rng(0).permutation(unequal)
    one = clone(maml).fit([support[i] for i in unequal], labels[unequal])
    likely = one.predict_proba(query)
    assert likely.shape == (12, 4) and one.classes_.tolist() == [f"class {c}" for c in range(4)]
    np.testing.assert_allclose(likely.sum(-1), 1, rtol=1e-5)
    assert (one.predict(query) == right).mean() > 0.75
    other = clone(maml).fit([support[i] for i in order], labels[order])
    np.testing.assert_allclose(other.predict_proba(query), likely, atol=1e-3)
    numbers = clone(maml).fit([support[i] for i in unequal], [int(labels[i][-1]) - 9 for i in unequal])
    assert numbers.classes_.tolist() == [-9, -8, -7, -6] and numbers.predict(query).dtype.kind == "i"


def test_it_is_scikit_learns(maml, pictures, tmp_path):
    support, labels, query, _ = task(pictures, 3, 2, 2)
    again = clone(maml)
    assert again.get_params() == {
        "run": MAML, "statistics": "together", "samples": 10, "seed": 0, "checkpoint": "last",
    }  # fmt: skip
    with pytest.raises(NotFittedError):
        again.predict(query)
    for wrong, words in (
        (lambda: again.fit(support, labels[:-1]), "inconsistent numbers of samples"),
        (lambda: again.fit(support[:2], labels[:2]), "number of classes has to be greater than one"),
        (lambda: again.fit([pictures[c, 0] for c in range(11)], range(11)), "trained for 10"),
        (lambda: again.fit(["nowhere.png", "x.png"], [0, 1]), "nowhere.png"),
        (lambda: again.fit("nowhere.png", [0, 1]), "not the one path"),
        (lambda: again.fit([np.zeros((4, 4, 2), np.uint8)] * 2, [0, 1]), "shape"),
        (lambda: again.fit([np.full((4, 4), 2.0)] * 2, [0, 1]), "from 0 to 1"),
        (lambda: again.fit([np.zeros((4, 4), int)] * 2, [0, 1]), "int64"),
        (lambda: Classifier.load(tmp_path / "none.npz"), "there is no file of weights"),
        (lambda: Classifier.load(MAML, statistics="none"), "wanted query or together"),
        (lambda: again.fit([np.zeros((0, 3), np.uint8)] * 2, [0, 1]), "shape (0, 3)"),
        (
            lambda: again.fit([Image.fromarray(np.zeros((4, 4), "f"))] * 2, [0, 1]),
            "does not say which number is white",
        ),
        (lambda: again.fit(support[:2], [["a"], ["b"]]), "a list, one a picture"),
        (lambda: again.fit(support[:2], [None, "b"]), "all strings or all numbers"),
        (lambda: again.fit(support[:2], [np.nan, 1.0]), "NaN"),
        (lambda: clone(again).set_params(samples=0).fit(support, labels), "samples is 0"),
        (lambda: again.fit(support, labels).predict_proba([]), "no picture"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            wrong()
    assert again.fit(support, labels).predict([]).shape == (0,)
    before = again.predict_proba(query)
    for wrong in (lambda: again.fit([*support[:-1], "nowhere.png"], ["p", *labels[1:]]),
                  lambda: again.fit([pictures[c, 0] for c in range(11)], range(11))):  # fmt: skip
        with pytest.raises(ValueError, match=r"nowhere|trained for"):
            wrong()
        np.testing.assert_array_equal(again.predict_proba(query), before)  # the fit before stays whole
        assert again.classes_.tolist() == ["class 0", "class 1", "class 2"]
    with pytest.raises(ValueError, match="statistics is 'quary'"):
        clone(again).fit(support, labels).set_params(statistics="quary").predict(query)
    again.set_params(run=METADROP).fit(support, labels)
    assert np.abs(np.log(again.predict_proba(query) / before)).max() > 0.1  # another run's


class Series:
    """As pandas has it: indexed by a label, and gone through in its order."""

    def __init__(self, values, index):
        self.values, self.index = values, list(index)

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, label):
        return self.values[self.index.index(label)]


def test_pictures_are_taken_in_their_order_and_not_by_an_index(maml, pictures):
    support, labels, query, _ = task(pictures, 3, 1, 1)
    expected = clone(maml).fit(support, labels).predict_proba(query)
    one = clone(maml).fit(Series(support, (2, 1, 0)), labels)
    np.testing.assert_array_equal(one.predict_proba(Series(query, (10, 11, 12))), expected)


def test_the_checkpoint_and_the_precision_are_the_runs(maml):
    bf16 = clone(maml)
    bf16._read()
    assert not bf16.engine_of(3).learner.bf16
    bf16.config, bf16._engines = bf16.config | {"precision": "bf16"}, {}
    assert bf16.engine_of(3).learner.bf16


def test_paths_images_and_arrays_are_the_same_pictures(maml, pictures, tmp_path):
    support, labels, query, _ = task(pictures, 3, 1, 1)
    one = clone(maml).fit(support, labels)
    Image.fromarray(query[0]).save(tmp_path / "a.png")
    kinds = [query[0], query[0][..., None], query[0] / 255, Image.fromarray(query[0]), tmp_path / "a.png"]
    kinds += [str(tmp_path / "a.png"), np.repeat(query[0][..., None], 3, -1)]
    likely = np.concatenate([one.predict_proba([kind]) for kind in kinds])
    np.testing.assert_allclose(likely, np.repeat(likely[:1], len(kinds), 0), atol=1e-3)


def test_one_left_out_is_classified_by_the_others(maml, pictures):
    support, labels, *_ = task(pictures, 3, 3, 1)
    labels = labels.copy()
    labels[4] = "class 0"  # a fault of the labels: class 1 is left with two, and one of class 0 looks otherwise
    lone = [pictures[5, 0]]
    one = clone(maml).fit([*support, *lone], [*labels, "alone"])
    right = one.leave_one_out()
    assert right.shape == (10,) and np.isnan(right[9]) and right[4] == 0
    assert np.nanmean(np.delete(right, 4)) > 0.8
    others = [i for i in range(10) if i != 2]
    by_hand = clone(maml).fit([[*support, *lone][i] for i in others], [[*labels, "alone"][i] for i in others])
    assert (by_hand.predict([support[2]])[0] == labels[2]) == bool(right[2])
    alone = clone(maml).set_params(statistics="query").fit([*support, *lone], [*labels, "alone"])
    np.testing.assert_array_equal(alone.leave_one_out(), right)  # one picture's own statistics would be none


def test_many_pictures_are_classified_by_and_by(maml, pictures, monkeypatch):
    support, labels, query, _ = task(pictures, 3, 1, 4)
    monkeypatch.setattr(study, "BATCH", 5)
    one = clone(maml).fit(support, labels)
    sizes = []
    monkeypatch.setattr(one, "_prepared", lambda images: sizes.append(len(images)) or Classifier._prepared(one, images))
    assert one.predict_proba(query).shape == (12, 3) and sizes == [4, 4, 4]


def test_a_run_says_how_its_pictures_are_prepared():
    own = {"dataset": "mine", "prepare": {"size": 32, "channels": 3, "invert": False}}
    assert study.preparation_of(own) == Preparation(32, 3, False)
    assert study.preparation_of({"dataset": "omniglot"}) == Preparation(28, 1, True)  # of an older version
    assert study.preparation_of({"dataset": "mimgnet"}) == Preparation(84, 3, False)
    with pytest.raises(study.UserError, match="does not say how the images of mine were prepared"):
        study.preparation_of({"dataset": "mine"})


def test_pictures_become_inputs_of_the_runs_range():
    assert study.range_of({"dataset": "mine"}) == (0, 1) and study.range_of({"range": [-1, 3]}) == (-1, 3)
    with pytest.raises(study.UserError, match='does not say what range the inputs of mine had: declare it as "range"'):
        study.range_of({"dataset": "mine", "range": None})
    one = study.Classifier("run")
    one.preparation, one.range = Preparation(32, 1), study.range_of({"range": [-1, 3]})
    inputs = one._prepared([np.full((32, 32), level, np.uint8) for level in (0, 51, 255)])
    np.testing.assert_allclose(inputs.reshape(3, -1), np.tile([[-1], [-0.2], [3]], 1024), atol=1e-6)


# ---- --mode classify


@pytest.fixture
def folders(pictures, tmp_path):
    """support/NAME/*.png of three classes, and query/*.png, whose names begin with their class'."""
    for c, name in enumerate(("ä & b", "two", "3")):
        (tmp_path / "support" / name).mkdir(parents=True)
        (tmp_path / "query" / "deep").mkdir(parents=True, exist_ok=True)
        for i in range(2):
            Image.fromarray(pictures[c, i]).save(tmp_path / "support" / name / f"{i}.png")
        for i in range(3):
            Image.fromarray(pictures[c, 4 + i]).save(tmp_path / "query" / ("deep" if i else "") / f"{name}_{i}.png")
    return tmp_path


def classify(folders, *flags, run=("--weights", MAML)):
    words = ("--support", folders / "support", "--query", folders / "query", "--out", folders / "out" / "p.csv")
    return call("main.py", "--mode", "classify", *run, *words, *flags)


def test_a_table_and_a_page_say_what_the_pictures_are(folders):
    done = classify(folders, "--gpu_id", -1)
    assert done.returncode == 0, done.stderr
    assert "9 pictures, 3 classes" in done.stdout
    assert re.search(r"leave-one-out accuracy on the support pictures: \d+.\d % \(\d of 6; 95 % interval", done.stdout)
    with open(folders / "out" / "p.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "prediction", "3", "two", "ä & b"] and len(rows) == 9
    surest = [max(map(float, row[2:])) for row in rows]
    assert surest == sorted(surest) and all(abs(sum(map(float, row[2:])) - 1) < 1e-3 for row in rows)
    assert all(row[1] == header[2:][np.argmax(list(map(float, row[2:])))] for row in rows)
    assert sum(row[1] == os.path.basename(row[0]).split("_")[0] for row in rows) >= 7
    assert {row[0] for row in rows} == {p.relative_to(folders / "query").as_posix()
                                       for p in (folders / "query").rglob("*.png")}  # fmt: skip
    page = (folders / "out" / "p.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6 + 9 and "ä &amp; b" in page and "ä & b" not in page
    assert "http" not in page  # nothing comes from elsewhere
    direct = Classifier.load(MAML)
    files = sorted((folders / "support").rglob("*.png"))
    direct.fit(files, [file.parent.name for file in files])
    first = direct.predict_proba([folders / "query" / row[0] for row in rows])
    np.testing.assert_allclose(first, [[float(cell) for cell in row[2:]] for row in rows], atol=2e-3)


def test_a_trained_run_classifies_too_and_few_pictures_are_warned_of(folders, data_dir):
    flags = ("--dataset", "glyphs", "--data_dir", data_dir, "--model", "protonet", "--way", 3, "--query", 2)
    flags += ("--n_train_iters", 1, "--val_every", 0, "--channels", 4, "--metabatch", 2, "--gpu_id", -1)
    savedir = folders / "run"
    assert call("main.py", "--savedir", savedir, *flags).returncode == 0
    done = classify(folders, "--query_statistics", "query", run=("--savedir", savedir))
    assert done.returncode == 0, done.stderr
    assert "statistics from 9 query pictures, which is few: --query_statistics together" in done.stdout


def test_remarks_and_page_say_which_support_pictures_were_wrong(folders, monkeypatch):
    assert "(4 of 4; 95 % interval 51 to 100 %)" in study_of_folders.remarks_on(np.ones(4))[0]
    files = sorted((folders / "query").rglob("*.png"))
    names = [file.relative_to(folders / "query").as_posix() for file in files]
    guesses = [study_of_folders.Guess(name, np.array([0.9, 0.1])) for name in names]
    monkeypatch.setattr(study_of_folders, "SHOWN", 2)
    labelled = [("two", file) for file in sorted((folders / "support/two").iterdir())]
    page = study_of_folders.page(guesses, np.array(["two", "3"]), folders / "query", labelled, np.array([1, 0]), [])
    assert page.count('class="wrong"') == 1 and page.index('class="wrong" alt="1.png"')
    assert names[1] in page and names[2] not in page and "7 surer ones are in the table alone" in page


def test_what_classify_is_told_arrives(folders, monkeypatch):
    load = mock.Mock(side_effect=ValueError("stop"))
    monkeypatch.setattr(Classifier, "load", load)
    flags = ("--seed", 7, "--n_test_mc_samp", 3, "--checkpoint", "best", "--query_statistics", "query", "--gpu_id", -1)
    assert_refused(classify(folders, *flags), "stop")
    assert load.call_args.kwargs == {"statistics": "query", "seed": 7, "checkpoint": "best", "samples": 3}


def test_what_is_hidden_is_no_query_picture_and_capitals_are(folders):
    shutil.copytree(folders / "query/deep", folders / "query/.ipynb_checkpoints")
    (folders / "query/deep/two_1.png").rename(folders / "query/deep/two_1.PNG")
    names = [file.name for file in study_of_folders.query_files(folders / "query")[0]]
    assert len(names) == 9 and "two_1.PNG" in names


def test_what_cannot_be_classified_is_refused(folders):
    run = ("--weights", MAML)
    assert_refused(call("main.py", "--mode", "classify", *run, "--query", folders / "query"), "--support is missing")
    assert_refused(call("main.py", "--mode", "classify", *run, "--support", folders / "support"), "--query is missing")
    assert_refused(classify(folders, "--support", folders / "none"), "none is not a folder")
    assert_refused(classify(folders, "--query", 5), "--query 5 is not a folder")
    assert_refused(classify(folders, "--query", folders / "support" / "two" / "none"), "is not a folder")
    assert_refused(classify(folders, "--out", folders / "p.txt"), "ends with .csv")
    assert_refused(classify(folders, "--savedir", folders), "name 2 runs")
    assert_refused(classify(folders, "--inner_lr", 1), "--inner_lr has no meaning in --mode classify")
    assert_refused(call("main.py", "--mode", "classify"), "--savedir is missing")
    assert_refused(call("main.py", "--savedir", folders / "r", "--query", "abc"), "--query must be a whole number")
    (folders / "p.html").mkdir()
    assert_refused(classify(folders, "--out", folders / "p.csv"), "p.html is a folder")
    assert_refused(classify(folders, "--out", MAML / "deep" / "p.csv"), "choose another --out")
    (folders / "support" / "none").mkdir()
    assert_refused(classify(folders), "none holds no picture")
    (folders / "support" / "none").rmdir()
    (folders / "query" / "link.png").symlink_to(folders / "nowhere")
    assert_refused(classify(folders), "link.png cannot be read")
    (folders / "query" / "link.png").unlink()
    assert_refused(classify(folders, "--query", "007"), "--query 007 is not a folder")
    (folders / "empty").mkdir()
    assert_refused(classify(folders, "--query", folders / "empty"), "there is no picture below")
    (folders / "support" / "two" / "bad.png").write_text("no")
    assert_refused(classify(folders), "bad.png is damaged, or of no kind")
    shutil.rmtree(folders / "support" / "two")
    shutil.rmtree(folders / "support" / "3")
    assert_refused(classify(folders), "greater than one")
    assert not (folders / "out").exists()
