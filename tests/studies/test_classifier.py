"""A classifier of one's own pictures: what it computes, scikit-learn's conventions, and --mode classify."""

import base64
import copy
import csv
import dataclasses
import errno
import io
import os
import pickle
import re
import shutil
import signal
import threading
import warnings
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import confusion_matrix

import data
import model
from conftest import ROOT, assert_refused, call, succeed
from errors import UserError
from perturbations.draws import UNPERTURBED, task_noise
from sources.preparation import Preparation
from studies import classifier as study
from studies import classify as study_of_folders
from studies import classify_page
from studies import trained as trained_study
from studies.classifier import Classifier
from studies.left_out import LeftOut

MAML, METADROP = (ROOT / "pretrained" / f"glyphs_10way_1shot_{name}.npz" for name in ("maml", "metadrop"))


@pytest.fixture(scope="module")
def pictures(data_dir):
    """Twelve test classes of twelve pictures each, ink on paper: [12,12,28,28] uint8."""
    split = data.load(data_dir, "glyphs").splits["test"]
    return 255 - split.pixels[:12, :12, ..., 0]


@pytest.fixture(scope="module")
def maml():
    return Classifier.load(MAML)


def predictions(probabilities):
    return study.Predictions(probabilities, probabilities.argmax(-1), np.full(len(probabilities), np.nan))


def task(pictures, classes, shots, queries):
    """Support pictures and their labels, query pictures and theirs."""
    support = [pictures[c, i] for c in range(classes) for i in range(shots)]
    query = [pictures[c, 6 + i] for c in range(classes) for i in range(queries)]
    names = [f"class {c}" for c in range(classes)]
    return support, np.repeat(names, shots), query, np.repeat(names, queries)


def test_it_computes_what_a_test_episode_does(pictures):
    """With the query pictures' own statistics, and equally many of all classes: the learner's adapt and classify."""
    support, labels, query, right = task(pictures, 3, 2, 3)
    one = Classifier(MAML, statistics="query").fit(support, labels)
    learner, params = one._fit.trained.programs(3).learner, one._fit.params
    x_s, x_q = (1 - np.array(x, np.float32)[None, ..., None] / 255 for x in (one._fit.x, query))
    x_s, y = one._fit.x[None], model.labels(3, 2)

    @tf.function(autograph=False)
    def episode(params):
        adapted, _ = learner.adapt(params, x_s, y, task_noise(tf.constant([[0, 0]])))
        return tf.nn.softmax(learner.classify(params, adapted, x_q)[0][0])

    found = one.predict_proba(query)
    np.testing.assert_allclose(found, episode(params), atol=0.02)  # a step of float32 may pass a maximum
    assert one.score(query, right) == (one.predict(query) == right).mean() > 0.8


def test_what_a_picture_is_depends_on_no_other_and_on_no_order(maml, pictures):
    """Neither on query pictures, nor on the order of the support set; float32's rounding, of matrix products of
    another number of rows, is some 1e-6 of a logit."""
    support, labels, query, right = task(pictures, 3, 2, 4)
    one = clone(maml).fit(support, labels)
    likely = one.predict_proba(query)
    assert (one.predict(query) == right).mean() > 0.8
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(one.predict_proba([query[i] for i in order]), likely[order], atol=1e-4)
    np.testing.assert_allclose(np.concatenate([one.predict_proba([x]) for x in query[:5]]), likely[:5], atol=1e-4)
    of_one_class = one.predict_proba(query[:4])
    np.testing.assert_allclose(of_one_class, likely[:4], atol=1e-4)
    order = [5, 2, 0, 4, 1, 3]
    other = clone(maml).fit([support[i] for i in order], labels[order])
    np.testing.assert_array_equal(other.predict_proba(query), likely)
    np.testing.assert_array_equal(other.leave_one_out(), one.leave_one_out()[order])


def test_the_other_statistics_are_those_of_all_query_pictures(maml, pictures):
    support, labels, query, _ = task(pictures, 3, 2, 3)
    one = clone(maml).fit(support, labels)
    fit, x_q = one._fit, 1 - np.array(query, np.float32)[..., None] / 255
    programs = fit.trained.programs(3)
    for statistics, images in (("together", np.concatenate([fit.x, x_q])), ("query", x_q)):
        expected = programs.classify(fit.params, fit.adapted, images, np.full(len(images), 1 / len(images), np.float32))
        found = one.set_params(statistics=statistics).predict_proba(query)
        np.testing.assert_allclose(found, expected[-len(query) :], atol=1e-4)
        assert np.abs(one.predict_proba(query[:3]) - found[:3]).max() > 1e-3  # which others there are decides


def test_classes_may_have_any_numbers_of_pictures_and_all_count_the_same(maml, pictures):
    """And fewer classes than in training; the labels' order is theirs, whatever the pictures'."""
    support, labels, query, right = task(pictures, 3, 4, 4)
    unequal = [0, 1, 2, 3, 4, 8]  # four, one and one of the classes
    repeated = [0, 1, 2, 3, 4, 4, 4, 4, 8, 8, 8, 8]
    one, other = (clone(maml).fit([support[i] for i in which], labels[which]) for which in (unequal, repeated))
    likely = one.predict_proba(query)
    assert likely.shape == (12, 3) and one.classes_.tolist() == [f"class {c}" for c in range(3)]
    np.testing.assert_allclose(likely.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(other.predict_proba(query), likely, atol=0.02)  # a step of float32 may pass a maximum
    assert (one.predict(query) == right).mean() > 0.75
    given = mock.Mock(return_value=np.full((6 + 16, 3), 1 / 3))
    with mock.patch.object(trained_study.Programs, "classify", given):
        one.predict(query)
    shares = given.call_args.args[3]
    np.testing.assert_allclose(shares, [1 / 12] * 4 + [1 / 3] * 2 + [0] * 16, rtol=1e-6)  # in batch norm, too
    numbers = clone(maml).fit([support[i] for i in unequal], [int(labels[i][-1]) - 9 for i in unequal])
    assert numbers.classes_.tolist() == [-9, -8, -7] and numbers.predict(query).dtype.kind == "i"


def test_few_programs_serve_all_numbers_of_pictures_and_all_clones(maml, pictures):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    one = clone(maml).fit(support, labels)
    programs = one._fit.trained.programs(3)
    before = programs._adapt.experimental_get_tracing_count()
    for n in range(1, 17):
        clone(maml).fit(support, labels).predict((query * 2)[:n])
    assert programs._adapt.experimental_get_tracing_count() == before
    sizes = {len(f.structured_input_signature[0][2].shape) for f in programs._classify._list_all_concrete_functions()}
    assert sizes == {4} and programs._classify.experimental_get_tracing_count() <= 5  # 8 and 16, and those of tests


def test_a_fitted_classifier_is_copied_and_kept(maml, pictures, tmp_path):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    one = clone(maml).fit(support, labels)
    joblib.dump(one, tmp_path / "one.joblib")
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), joblib.load(tmp_path / "one.joblib")):
        np.testing.assert_array_equal(other.predict_proba(query), one.predict_proba(query))
        np.testing.assert_array_equal(other.leave_one_out(), one.leave_one_out())
    one.set_params(run=tmp_path / "none.npz")
    before = one.predict_proba(query)
    with pytest.raises(ValueError, match="there is no weights file"):
        one.fit(support, labels)
    np.testing.assert_array_equal(one.predict_proba(query), before)


def test_the_memory_that_maps_need_limits_pictures_and_noise_samples(pictures, monkeypatch):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    one = Classifier(METADROP)
    trained = one.trained()
    one_picture = 4 * 28 * 28 * 64 * study.MAPS
    monkeypatch.setattr(study, "MEMORY", 8 * one_picture)
    monkeypatch.setattr(study, "SHARED", 6 * one_picture)
    assert [one._samples(trained, n) for n in (1, 2, 3, 4, 8)] == [6, 3, 2, 1, 1]
    assert Classifier(METADROP, samples=3)._samples(trained, 1) == 3
    with pytest.raises(ValueError, match=r"9 pictures at once need .* GiB of memory, .*: give at most 8"):
        one.fit([*support, *support[:3]], [*labels, *labels[:3]])
    one = Classifier(MAML, statistics="together").fit(support, labels)
    with pytest.raises(ValueError, match=r"18 pictures at once need"):
        one.predict(query)
    assert one.set_params(statistics="support").predict(query).shape == (12,)
    nearest = trained.untrained()  # has no maps: the pixels are the features
    assert Classifier(METADROP)._samples(nearest, 63 * 8) == 1
    with pytest.raises(ValueError, match="513 pictures at once need"):
        Classifier(METADROP)._samples(nearest, 513)


def test_copies_of_a_picture_are_warned_of(maml, pictures):
    support, labels, *_ = task(pictures, 3, 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = clone(maml).fit(support, labels)
    with pytest.warns(study.PictureWarning, match="2 of 6 are copies of others: keep one of each"):
        one.fit([support[0], support[0], support[2], support[2], *support[4:]], labels)


def test_outputs_that_are_not_finite_are_told_of(maml, pictures, monkeypatch):
    support, labels, query, _ = task(pictures, 3, 2, 1)
    one = clone(maml).fit(support, labels)
    monkeypatch.setattr(trained_study.Programs, "classify", lambda *args: np.full((16, 3), np.nan))
    with pytest.raises(ValueError, match="the learner's outputs are not finite"):
        one.predict(query)
    with pytest.raises(ValueError, match="the learner's outputs are not finite"):
        one.leave_one_out()


def test_pictures_that_look_otherwise_than_the_training_images_are_warned_of(maml, pictures):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    expected = clone(maml).fit(support, labels).predict_proba(query)
    negative = [255 - picture for picture in support]
    with pytest.warns(study.PictureWarning, match=r"brightness of 0\.8.* had 0\.15.* look inverted, use --invert"):
        clone(maml).fit(negative, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = clone(maml).set_params(invert=True).fit(negative, labels)
        np.testing.assert_array_equal(one.predict_proba([255 - picture for picture in query]), expected)
        on_nothing = [np.stack([255 - picture] * 3 + [255 - picture], -1) for picture in query]  # white, else nothing
        np.testing.assert_allclose(one.predict_proba(on_nothing), expected, atol=0.2)
    blank = np.full((28, 28, 4), [255, 255, 255, 0], np.uint8)
    with pytest.warns(study.PictureWarning, match="1 of 2 pictures have a single colour"):
        clone(maml).fit(support, labels).predict([blank, query[0]])
    with pytest.warns(study.PictureWarning, match="give pictures with a background like the training images"):
        one.set_params(invert=False).predict([picture // 2 for picture in query])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1, "a"], "not numbers and strings"),
        ([1, "1"], "not numbers and strings"),
        ((1, "1"), "not numbers and strings"),
        ([True, 2], "not booleans and numbers"),
        (np.array([1, "1"], object), "not numbers and strings"),
        ([b"a", b"b"], "not bytes"),
        ([1j, 2], "not complex"),
        ([None, "a"], "not NoneType"),
    ],
)
def test_labels_of_mixed_kinds_are_refused(labels, words):
    with pytest.raises(ValueError, match=words):
        study.classes_of([0, 1], labels)


def test_labels_of_one_kind_are_taken():
    assert study.classes_of([0, 1], ("b", "a"))[0].tolist() == ["a", "b"]
    for labels in (["b", "a"], [2.0, 1], [np.int64(2), 1], np.array(["b", "a"]), [True, False], np.array([2, 1], "O")):
        classes, own = study.classes_of([0, 1], labels)
        assert classes.tolist() == sorted(labels) and own.tolist() == [1, 0]


def test_rounding_takes_no_float_out_of_a_pictures_range():
    picture = study.picture_of(np.array([[1.0000001, -1e-9], [0.5, 1]]))
    assert np.asarray(picture).tolist() == [[255, 0], [128, 255]]
    for wrong in (1.00001, -0.00001):
        with pytest.raises(ValueError, match="from 0 to 1"):
            study.picture_of(np.array([[wrong, 0.0]]))


def test_it_is_scikit_learns(maml, pictures, tmp_path):
    support, labels, query, _ = task(pictures, 3, 2, 2)
    again = clone(maml)
    assert again.get_params() == {
        "run": MAML, "statistics": "support", "samples": 10, "seed": 0, "checkpoint": "last", "invert": False,
        "backbone": None, "backbone_weights": None, "head": None, "reject": None,
    }  # fmt: skip
    with pytest.raises(NotFittedError):
        again.predict(query)
    for wrong, words in (
        (lambda: again.fit(support, labels[:-1]), "inconsistent numbers of samples"),
        (lambda: again.fit(support[:2], labels[:2]), "number of classes has to be greater than one"),
        (lambda: again.fit([pictures[c, 0] for c in range(11)], range(11)), "trained for 10"),
        (lambda: again.fit(["nowhere.png", "x.png"], [0, 1]), "nowhere.png"),
        (lambda: again.fit("nowhere.png", [0, 1]), "not a single one: nowhere.png"),
        (lambda: again.fit([np.zeros((4, 4, 2), np.uint8)] * 2, [0, 1]), "shape"),
        (lambda: again.fit([np.full((4, 4), 2.0)] * 2, [0, 1]), "from 0 to 1"),
        (lambda: again.fit([np.zeros((4, 4), int)] * 2, [0, 1]), "int64"),
        (lambda: Classifier.load(tmp_path / "none.npz"), "there is no weights file"),
        (lambda: Classifier.load(None), "neither of run and backbone is given"),
        (lambda: Classifier.load(MAML, checkpoint="first"), "wanted one of last, best"),
        (lambda: again.fit(support, labels).predict(Image.fromarray(query[0])), "not a single one"),
        (lambda: again.predict(np.zeros((9, 9, 3), np.uint8)), "not a single one: an array of the shape (9, 9, 3)"),
        (lambda: again.predict(np.zeros((9, 9, 1))), "not a single one: an array of the shape (9, 9, 1)"),
        (lambda: Classifier.load(MAML, reject=1.5), "wanted a number from 0 to 1"),
        (lambda: Classifier.load(MAML, invert="no"), "invert is 'no', wanted True or False"),
        (lambda: again.predict([Image.new("L", (0, 0))]), "has no pixels"),
        (lambda: Classifier.load(MAML, statistics="none"), "wanted one of support, together, query"),
        (lambda: again.fit([np.zeros((0, 3), np.uint8)] * 2, [0, 1]), "shape (0, 3)"),
        (
            lambda: again.fit([Image.fromarray(np.zeros((4, 4), "f"))] * 2, [0, 1]),
            "does not say which number is white",
        ),
        (lambda: again.fit(support[:2], [["a", "b"], ["c", "d"]]), "y should be a 1d array"),
        (lambda: again.fit(support[:2], None), "requires y to be passed"),
        (lambda: again.fit(support[:2], [0.5, 1.5]), "Unknown label type: continuous"),
        (lambda: again.fit(support[:2], [None, "b"]), "all strings or all numbers"),
        (lambda: again.fit(support[:2], [np.nan, 1.0]), "NaN"),
        (lambda: clone(again).set_params(samples=0).fit(support, labels), "samples is 0"),
        (lambda: clone(again).set_params(seed=2**31).fit(support, labels), "seed is 2147483648"),
        (lambda: clone(again).set_params(seed=None).fit(support, labels), "seed is None"),
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


def test_the_precision_is_the_runs(maml):
    trained = maml.trained()
    assert not trained.programs(3).learner.bf16
    bf16 = dataclasses.replace(trained, config=trained.config | {"precision": "bf16"})
    assert bf16.programs(3).learner.bf16 and bf16.programs(3) is not trained.programs(3)
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    with dataclasses.replace(trained, config=trained.config | {"precision": "tf32"}).computing():
        assert enabled()
        with trained.computing():
            assert not enabled()
        assert enabled()


def test_threads_do_not_share_what_belongs_to_the_process(maml):
    """Precision and TensorFlow's loudness: the second thread waits, and afterwards all is as it was."""
    trained, seen = maml.trained(), []
    level = tf.get_logger().level

    def compute(name):
        with trained.computing():
            seen.append(name)

    with trained.computing():
        thread = threading.Thread(target=compute, args=["second"])
        thread.start()
        thread.join(0.05)
        seen.append("first")
    thread.join()
    assert seen == ["first", "second"] and tf.get_logger().level == level


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
    likely = {own[0]: left_out.probabilities[0] for own, left_out in one.leave_out()}
    np.testing.assert_allclose(likely[2], by_hand.predict_proba([support[2]])[0], atol=0.02)
    given = mock.Mock(return_value=one._fit.adapted)
    with mock.patch.object(trained_study.Programs, "adapt", given):
        left = [own[0] for own, _ in one.leave_out()]
    for i, call_of in zip(left, given.call_args_list, strict=True):
        _, x, y, *_ = call_of.args
        row = list(one._fit.order).index(i)
        assert not y[row].any() and y.sum() == 9  # it counts nothing, and it is not there
        assert not (x == one._fit.x[row]).all((1, 2, 3)).any()
    in_parts = list(one.leave_out(3))
    assert sorted(i for own, _ in in_parts for i in own) == list(range(9)) and len(in_parts) == 3
    assert list(one.leave_out(0)) == []
    for folds in (1, -1, 2.5):  # of one part nothing stays
        with pytest.raises(ValueError, match=f"folds is {folds}, wanted 0 or a whole number of at least 2"):
            one.leave_one_out(folds)


def test_the_confusion_matrix_is_scikit_learns(maml, pictures):
    """In the order of fit's list, which is not sorted by class; the last class has a single picture."""
    support, labels, *_ = task(pictures, 3, 3, 1)
    support, labels = [*support[::-1], pictures[5, 0]], [*labels[::-1], "d"]
    labels[0] = "class 0"  # a picture of class 2
    one = clone(maml).fit(support, labels)
    predicted = {own[0]: one.classes_[left_out.chosen[0]] for own, left_out in one.leave_out()}
    counts, truth = one.confusion_matrix(), [labels[i] for i in predicted]
    assert (counts == confusion_matrix(truth, list(predicted.values()), labels=one.classes_)).all()
    assert counts.sum(1).tolist() == [4, 3, 2, 0] and counts[0, 2]
    rejecting = one.set_params(reject=1).confusion_matrix()
    assert rejecting.shape == (4, 5) and rejecting[:, 4].tolist() == [4, 3, 2, 0]
    assert (one.leave_one_out()[:-1] == 0).all()


def test_the_nearest_mean_of_the_same_pictures_has_learned_nothing(pictures):
    """Against numpy: the mean of each class's pixels, ink 1, each picture divided by its length. Classes have different
    numbers of pictures."""
    support, labels, query, _ = task(pictures, 3, 3, 4)
    support, labels = [*support[2:], *pictures[2, 3:5]], [*labels[2:], "class 2", "class 2"]
    one = Classifier(METADROP, samples=1, reject=0.9).fit(support, labels)
    nearest = one.nearest_mean()

    def vectors(images):
        x = (255 - np.array(images, float)).reshape(len(images), -1)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def by_numpy(support, labels, query):
        means = np.stack([vectors(support)[np.array(labels) == label].mean(0) for label in one.classes_])
        return one.classes_[np.square(vectors(query)[:, None] - means).sum(-1).argmin(-1)]

    assert (nearest.predict(query) == by_numpy(support, labels, query)).all()
    others = [[*range(i), *range(i + 1, 9)] for i in range(1, 9)]  # the first class has a single picture
    right = [by_numpy([support[j] for j in o], [labels[j] for j in o], [support[i]])[0] == labels[i]
             for i, o in enumerate(others, 1)]  # fmt: skip
    assert nearest.leave_one_out()[1:].tolist() == right and np.isnan(nearest.leave_one_out()[0])
    assert not all(right) and any(right)
    assert one.reject == 0.9 and nearest.reject is None


def test_the_learner_is_compared_with_the_nearest_mean(folders):
    done = classify(folders, "--baseline")
    assert done.returncode == 0, done.stderr
    said = re.search(
        r"^the nearest class mean in pixels: (leave-one-out accuracy on the support pictures: .* \((\d) of 6; .*\)); "
        r"right (\d) pictures? only by the learner, (\d) only by the nearest mean$",
        done.stdout, re.MULTILINE,
    )  # fmt: skip
    learner = int(re.search(r"^leave-one-out accuracy .* \((\d) of 6", done.stdout, re.MULTILINE)[1])
    right, only_learner, only_nearest = map(int, said.groups()[1:])
    assert learner - right == only_learner - only_nearest
    assert said[1] in (folders / "out" / "p.html").read_text()
    assert_refused(classify(folders, "--baseline", "--folds", 0), "--folds 0 leaves out none: drop one")


@pytest.mark.parametrize("weights", [MAML, METADROP])
def test_a_picture_that_is_similar_to_no_class_is_of_none_of_them(pictures, weights):
    """The similarity is the cosine of the features, which batch norm normalises by the support set's statistics, and
    the nearest class mean; that of the pictures of other classes is smaller."""
    support, labels, query, _ = task(pictures, 3, 2, 4)
    query = [*query, *pictures[3:7, 6:9].reshape(-1, 28, 28)]
    one = Classifier(weights, samples=1, reject=0).fit(support, labels)
    (all_known,) = one.predict_parts(query)
    fit, trained = one._fit, one._fit.trained
    learner = trained.programs(3).learner
    x = tf.constant(np.concatenate([fit.x, trained.range.inputs(one._prepared(trained, query))])[None])
    draw = dataclasses.replace(UNPERTURBED, shares=tf.constant([1 / 6] * 6 + [0.0] * 24))
    h = tf.function(lambda params, adapted: learner.features(params, adapted, x, draw)[0])(fit.params, fit.adapted)
    w, b = learner.linear(fit.adapted)
    np.testing.assert_allclose(tf.nn.softmax(h[6:] @ w[0] + b[0]), all_known.probabilities, atol=1e-4)
    means = np.stack([h[0:2], h[2:4], h[4:6]]).mean(1)
    cosines = [[np.dot(v, m) / np.sqrt(np.dot(v, v) * np.dot(m, m)) for m in means] for v in h[6:].numpy()]
    np.testing.assert_allclose(all_known.similarities, np.max(cosines, 1), atol=1e-4)
    assert np.median(all_known.similarities[:12]) > np.median(all_known.similarities[12:])

    middle = float(np.median(all_known.similarities))
    expected = np.where(all_known.similarities < middle, "none of these", one.classes_[all_known.chosen])
    assert (one.predict(query) == one.classes_[all_known.chosen]).all()  # reject=0
    assert (one.set_params(reject=middle).predict(query) == expected).all() and (
        expected == "none of these"
    ).sum() == 12
    np.testing.assert_array_equal(one.predict_proba(query), all_known.probabilities)
    numbers = one.fit(support, np.repeat(np.arange(3, dtype=np.uint8), 2)).predict(query)
    assert ((numbers == -1) == (expected == "none of these")).all()


def test_similarities_count_the_support_images_that_stay_and_no_negative_cosine():
    support, y = np.array([[1.0, 0], [3, 0], [9, 9], [0, 2]]), np.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    features = np.array([[2.0, 2], [0, 5], [-1, -1], [0, 0]])
    np.testing.assert_allclose(study.similarities_of(features, support, y), [0.5**0.5, 1, 0, 0])


def test_a_learner_without_features_rejects_nothing(maml):
    trained = mock.Mock(config={"model": "other"})
    trained.programs.return_value.learner.inspectable = False
    with pytest.raises(ValueError, match="`reject` needs features, and other with its settings has none"):
        clone(maml).set_params(reject=0.5)._check_reject(trained, np.array(["a", "b"]))
    clone(maml)._check_reject(trained, np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "none of these"], "'none of these', which `reject` gives to rejected pictures"),
        ([-1, 1], "-1, which `reject` gives"),
        ([False, True], "labels are booleans"),
    ],
)
def test_a_label_that_rejected_pictures_have_is_refused(maml, pictures, labels, message):
    with pytest.raises(ValueError, match=message):
        clone(maml).set_params(reject=0.5).fit(pictures[:2, 0], labels)
    with pytest.raises(ValueError, match=message):  # by predict, if it is set after fit
        clone(maml).fit(pictures[:2, 0], labels).set_params(reject=0.5).predict(pictures[:2, 0])


def test_parts_leave_every_class_a_picture():
    labels = np.array([0] * 7 + [1] * 2 + [2] + [3] * 30)
    for folds in (2, 3, 5, 20, 100):
        parts = study.parts_to_leave_out(labels, folds)
        assert len(parts) == min(folds, 39) and max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(np.concatenate(parts)) == [i for i in range(40) if labels[i] != 2]
        assert all(set(np.delete(labels, part)) == {0, 1, 2, 3} for part in parts)
    assert len(study.parts_to_leave_out(["a", "a", "b", "b", "c"], 20)) == 4


def test_many_pictures_are_classified_by_and_by(maml, pictures, monkeypatch):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    monkeypatch.setattr(study, "BATCH", 5)
    parts = [len(part.chosen) for part in clone(maml).fit(support, labels).predict_parts(query)]
    assert parts == [5, 5, 2]


def test_a_run_says_how_its_pictures_are_prepared():
    own = {"dataset": "mine", "prepare": {"size": 32, "channels": 3, "invert": False}}
    assert trained_study.preparation_of(own) == Preparation(32, 3, False)
    assert trained_study.preparation_of({"dataset": "omniglot"}) == Preparation(28, 1, True)  # of an older version
    assert trained_study.preparation_of({"dataset": "mimgnet"}) == Preparation(84, 3, False)
    with pytest.raises(UserError, match="does not say how the inputs of mine were made from pictures"):
        trained_study.preparation_of({"dataset": "mine"})


def test_pictures_become_inputs_of_the_runs_range():
    range_of = trained_study.range_of
    assert range_of({"dataset": "mine"}) == (0, 1) and range_of({"range": [-1, 3]}) == (-1, 3)
    with pytest.raises(UserError, match='does not say what range the inputs of mine had: declare it as "range"'):
        range_of({"dataset": "mine", "range": None})


def test_the_network_gets_pictures_in_the_runs_range(maml, pictures, monkeypatch):
    support, labels, query, _ = task(pictures, 3, 2, 4)
    wide = dataclasses.replace(maml.trained(), range=trained_study.range_of({"range": [-1, 3]}))
    given = []

    def adapt(self, params, x, y, *_):
        return given.append(x)

    def classify(self, params, adapted, x, shares):
        given.append(x[6:18])
        return np.full((len(x), 3), 1 / 3)

    monkeypatch.setattr(trained_study.Programs, "adapt", adapt)
    monkeypatch.setattr(trained_study.Programs, "classify", classify)
    one = clone(maml)
    monkeypatch.setattr(one, "trained", lambda: wide)
    one.fit(support, labels).predict(query)
    for x, own in zip(given, (one._fit.order, range(12)), strict=True):
        shown = np.array([(support if len(x) == 6 else query)[i] for i in own])[..., None]
        np.testing.assert_allclose(x, -1 + 4 * (1 - shown / 255), atol=1e-5)


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
    assert "Confusion matrix" in page
    with open(folders / "out" / "p_leave_out.csv", newline="", encoding="utf-8") as file:
        by_class = list(csv.DictReader(file))
    assert [row["class"] for row in by_class] == header[2:] and {row["left_out"] for row in by_class} == {"2"}
    assert "http" not in page  # nothing comes from elsewhere
    direct = Classifier.load(MAML)
    files = sorted((folders / "support").rglob("*.png"))
    direct.fit(files, [file.parent.name for file in files])
    first = direct.predict_proba([folders / "query" / row[0] for row in rows])
    np.testing.assert_allclose(first, [[float(cell) for cell in row[2:]] for row in rows], atol=2e-3)


def test_a_trained_run_classifies_too(folders, data_dir):
    flags = ("--dataset", "glyphs", "--data_dir", data_dir, "--model", "protonet", "--way", 3, "--query", 2)
    flags += ("--n_train_iters", 1, "--val_every", 0, "--channels", 4, "--metabatch", 2, "--gpu_id", -1)
    savedir = folders / "run"
    succeed("main.py", "--savedir", savedir, *flags)
    done = classify(folders, "--query_statistics", "query", run=("--savedir", savedir))
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy on the support pictures: .*\(with --query_statistics support\)", done.stdout)


def test_remarks_and_page_say_which_support_pictures_were_wrong(folders, monkeypatch):
    left_out = LeftOut([0] * 4, 2)
    assert "no class has two" in study_of_folders.remark_on(left_out, 0, 0)
    left_out.predicted[:] = 0
    said = study_of_folders.remark_on(left_out, 4, 4)
    assert said.startswith("leave-one-out accuracy") and said.endswith("(4 of 4; 95 % interval 51 to 100 %)")
    left_out.predicted[1] = 2
    assert study_of_folders.remark_on(left_out, 2, 4).startswith("2-fold cross-validation accuracy")
    assert study_of_folders.remark_on(left_out, 2, 4).endswith("(3 of 4; 95 % interval 30 to 95 %), 1 rejected")
    files = sorted((folders / "query").rglob("*.png"))
    names = [file.relative_to(folders / "query").as_posix() for file in files]
    guesses = [classify_page.Guess(name, np.array([0.9, 0.1])) for name in names]
    monkeypatch.setattr(classify_page, "SHOWN", 2)
    left_out = LeftOut([0, 0], 2)
    left_out.predicted[:] = 0, 1
    labelled = [("two", file) for file in sorted((folders / "support/two").iterdir())]
    page = classify_page.page(guesses, np.array(["two", "3"]), folders / "query", labelled, left_out, [])
    assert page.count('class="wrong"') == 1 and page.index('class="wrong" alt="1.png"')
    assert names[1] in page and names[2] not in page and "The table has 7 more" in page


def test_what_classify_is_told_arrives(folders, monkeypatch):
    load = mock.Mock(side_effect=ValueError("stop"))
    monkeypatch.setattr(Classifier, "load", load)
    flags = ("--seed", 7, "--n_test_mc_samp", 3, "--checkpoint", "best", "--query_statistics", "query", "--gpu_id", -1)
    flags += ("--invert", "--reject", 0.5, "--backbone", "Net", "--backbone_weights", "own.h5", "--head", "ridge")
    assert_refused(classify(folders, *flags), "stop")
    expected = {"statistics": "query", "seed": 7, "checkpoint": "best", "samples": 3, "invert": True, "reject": 0.5}
    expected |= {"backbone": "Net", "backbone_weights": Path("own.h5"), "head": "ridge"}
    assert load.call_args.kwargs == expected


@pytest.mark.parametrize("which", [1, 2])
def test_pictures_that_cannot_be_left_out_are_one_sentence(folders, monkeypatch, which):
    """By the learner, or by the nearest mean beside it."""
    calls = iter(range(100))

    def leave_out(self, folds):
        if next(calls) == which - 1:
            raise ValueError("the learner's outputs are not finite")
        yield from ()

    monkeypatch.setattr(Classifier, "leave_out", leave_out)
    assert_refused(classify(folders, "--baseline"), "the learner's outputs are not finite")
    assert (folders / "out/p.csv").exists() and (folders / "out/p.html").exists()


def test_ctrl_c_keeps_what_is_computed(folders, monkeypatch):
    def ask(stops_after):
        """predict_parts and leave_out of three parts, of which the user stops after so many."""
        calls = iter(range(100))

        def parts(self, files):
            for _ in range(3):
                if next(calls) == stops_after:
                    os.kill(os.getpid(), signal.SIGINT)
                yield predictions(np.full((3, 3), 1 / 3))

        def leave_out(self, folds):
            for i in range(6):
                if next(calls) == stops_after:
                    os.kill(os.getpid(), signal.SIGINT)
                yield np.array([i]), predictions(np.eye(3)[[0]])

        monkeypatch.setattr(Classifier, "predict_parts", parts)
        monkeypatch.setattr(Classifier, "leave_out", leave_out)

    monkeypatch.setattr(Classifier, "fit", lambda self, images, labels: setattr(self, "classes_", np.unique(labels)))
    for stops_after, rows, said in (
        (1, 6, "6 of 9 pictures"),
        (5, 9, "leave-one-out accuracy on the support pictures: 66.7 % (2 of 3; 95"),
        (100, 9, "(2 of 6; 95"),
    ):
        ask(stops_after)
        done = classify(folders)
        assert said in done.stdout and done.returncode == (130 if stops_after < 100 else 0), done.stderr
        assert ("interrupted: the results so far are written" in done.stderr) == (stops_after < 100)
        assert len((folders / "out/p.csv").read_text().splitlines()) == 1 + rows
        assert (stops_after == 1) == ("of 6; 95" not in (folders / "out/p.html").read_text() and stops_after < 5)
        left_out = [] if stops_after == 1 else (folders / "out/p_leave_out.csv").read_text().splitlines()[1:]
        counts = {1: [], 5: ["2,2,2", "2,1,0", "2,0,0"], 100: ["2,2,2", "2,2,0", "2,2,0"]}[stops_after]
        assert [row.partition(",")[2][:5] for row in left_out] == counts
    ask(1)
    assert classify(folders).returncode == 130
    assert not (folders / "out/p_leave_out.csv").exists()  # that of the earlier call
    ask(100)
    assert "accuracy" not in classify(folders, "--folds", 0).stdout
    for one in ("1", "01"):
        assert_refused(classify(folders, "--folds", one), "one part is all pictures")


def test_a_picture_that_goes_while_others_are_classified_is_told_of(folders, monkeypatch):
    monkeypatch.setattr(Classifier, "fit", lambda self, images, labels: setattr(self, "classes_", np.unique(labels)))
    (folders / "out").mkdir()
    (folders / "out/p.html").write_text(classify_page.PAGE.partition("<html")[0])

    def parts(self, files):
        Path(files[0]).unlink()
        yield predictions(np.full((len(files), 3), 1 / 3))

    monkeypatch.setattr(Classifier, "predict_parts", parts)
    assert_refused(classify(folders), "cannot be read (No such file")
    assert len((folders / "out/p.csv").read_text().splitlines()) == 1 + 9  # the table was written before the page
    assert not (folders / "out/p.html").exists()  # that of an earlier call
    monkeypatch.setattr(Classifier, "predict_parts", mock.Mock(side_effect=ValueError("3000 pictures at once")))
    assert_refused(classify(folders), "3000 pictures at once")


def test_a_page_shows_transparent_pictures_on_the_papers_colour(folders):
    file = folders / "white.png"
    Image.fromarray(np.full((4, 4, 4), [255, 255, 255, 0], np.uint8)).save(file)
    paper = Classifier(MAML, invert=True).paper
    shown = classify_page.page([], np.array(["a"]), folders, [("a", file)], LeftOut([0], 1), [], paper)
    content = re.search('base64,([^"]+)', shown).group(1)
    assert not np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L")).any()


def test_pictures_of_one_class_are_refused_by_their_folder(folders):
    for name in ("two", "3"):
        shutil.rmtree(folders / "support" / name)
    assert_refused(classify(folders), "support are of one class: add those of another class")


def test_a_table_that_cannot_be_written_leaves_those_of_an_earlier_call(folders, monkeypatch):
    assert classify(folders).returncode == 0
    before = {file: file.read_bytes() for file in (folders / "out").iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(study_of_folders, "write_atomically", full)
    assert_refused(classify(folders), "cannot write", "No space left")
    assert {file: file.read_bytes() for file in (folders / "out").iterdir()} == before and len(before) == 3


def test_remarks_of_pictures_are_printed_and_on_the_page(folders):
    for file in folders.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    done = classify(folders, "--folds", 0)
    assert done.returncode == 0, done.stderr
    for which in ("support", "query"):
        assert re.search(rf"warning: {which} pictures: the images have a mean brightness of 0\.[789]", done.stdout)
    assert "look inverted" in (folders / "out/p.html").read_text()


def test_rejected_pictures_are_of_none_of_the_classes(folders):
    done = classify(folders, "--reject", 0.99)
    assert done.returncode == 0 and re.search(r"of 6; 95 % interval \d+ to \d+ %\), \d rejected", done.stdout), (
        done.stderr
    )
    with open(folders / "out" / "p.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities) and similarities[0] < 0.99
    sure = [(row["prediction"], similarity) for row, similarity in zip(rows, similarities, strict=True)]
    assert all((prediction == "none of these") == (similarity < 0.99) for prediction, similarity in sure)
    assert (folders / "out/p_leave_out.csv").read_text("utf-8").splitlines()[0].endswith(",none of these")
    (folders / "support/two").rename(folders / "support/none of these")
    assert_refused(classify(folders, "--reject", 0.5), "'none of these', which `reject` gives to rejected pictures")


def test_labels_may_be_in_a_table(folders):
    """The same result as with folders; --skip_bad leaves out a picture of the table that cannot be read."""
    assert classify(folders).returncode == 0
    files = [folders / "out" / name for name in ("p.csv", "p_leave_out.csv")]
    expected = [file.read_bytes() for file in files]
    (folders / "bad.png").write_text("no")
    rows = [f"support/{file.parent.name}/{file.name},{file.parent.name}" for file in folders.glob("support/*/*")]
    table = folders / "labels.CSV"
    table.write_text("\n".join(["file,label", "bad.png,two", *rows]), "utf-8")
    assert_refused(classify(folders, "--support", table), "bad.png is damaged, or of a kind")
    done = classify(folders, "--support", table, "--skip_bad")
    assert done.returncode == 0 and "left out: 1 picture" in done.stderr, done.stderr
    assert [file.read_bytes() for file in files] == expected
    table.write_text("support/two/0.png,two\nsupport/two/2.png,two\n")
    assert_refused(classify(folders, "--support", table), "line 2 names", "which is not there")
    table.rename(folders / "labels.txt")
    assert_refused(classify(folders, "--support", folders / "labels.txt"), "neither a folder nor a table (.csv)")


def test_what_is_hidden_is_no_query_picture_and_capitals_are(folders):
    shutil.copytree(folders / "query/deep", folders / "query/.ipynb_checkpoints")
    (folders / "query/deep/two_1.png").rename(folders / "query/deep/two_1.PNG")
    names = [file.name for file in study_of_folders.query_files(folders / "query")[0]]
    assert len(names) == 9 and "two_1.PNG" in names


def test_what_cannot_be_classified_is_refused(folders):
    run = ("--weights", MAML)
    assert_refused(call("main.py", "--mode", "classify", *run, "--query", folders / "query"), "--support is missing")
    assert_refused(call("main.py", "--mode", "classify", *run, "--support", folders / "support"), "--query is missing")
    assert_refused(classify(folders, "--support", folders / "none"), "none is neither a folder nor a table")
    assert_refused(classify(folders, "--query", 5), "--query 5 is not a folder")
    for share in ("1.1", "nan", "x"):
        assert_refused(classify(folders, "--reject", share), "must be a number from 0 to 1")
    assert_refused(classify(folders, "--query", folders / "support" / "two" / "none"), "is not a folder")
    assert_refused(classify(folders, "--out", folders / "p.txt"), "ends with .csv")
    assert_refused(classify(folders, "--savedir", folders), "name 2 runs")
    assert_refused(classify(folders, "--inner_lr", 1), "--inner_lr is not a flag of --mode classify")
    assert_refused(call("main.py", "--mode", "classify"), "--savedir is missing")
    assert_refused(call("main.py", "--savedir", folders / "r", "--query", "abc"), "--query: must be a whole number")
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
    assert_refused(classify(folders), "bad.png is damaged, or of a kind")
    shutil.rmtree(folders / "support" / "two")
    shutil.rmtree(folders / "support" / "3")
    assert_refused(classify(folders), "are of one class")
    assert not (folders / "out").exists()


def test_labels_that_reject_cannot_join_are_refused(maml, pictures):
    """numpy would make floats of unsigned labels and -1, which no longer are the labels."""
    one = clone(maml).set_params(reject=0.5).fit(pictures[:2, 0], np.array([3, 2**62 + 1], np.uint64))
    assert one.predict(pictures[:2, 0]).dtype == np.int64
    with pytest.raises(ValueError, match=r"labels are at most 2\*\*63 - 1"):
        clone(maml).set_params(reject=0.5).fit(pictures[:2, 0], np.array([3, 2**63], np.uint64))
