"""runfiles/measures.py measures a classifier over test tasks, and studies make, find and show its results.

The classifiers are fakes, right about pictures that each test counts; the numbers are calculated by hand.
"""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import catalogue
import measures
import numpy as np
import pytest
import tables
from catalogue import Run, Study, drawings, pictures, rejection
from measures import MEASURES, Measure
from outcomes import config_of, digest_of, find_result, outcomes, program_of
from PIL import Image, ImageDraw
from records import Record, read_savedir
from sklearn.base import ClassifierMixin

import data
from conftest import ROOT, assert_refused, call, succeed
from sources.preparation import Preparation
from studies.classifier import Predictions
from studies.draw import SIDE

SHIPPED = ROOT / "pretrained/glyphs_10way_1shot_maml.npz"


def task(images):
    """Return the pictures of a task: the number 20 * class + image stands for each."""
    return [[20 * c + i for i in range(images)] for c in range(5)]


class Fake(ClassifierMixin):
    """A classifier that is right about the first class; of each other class it is right about the pictures whose
    numbers `right` returns, and takes the others for the first class. It refuses to classify its support pictures."""

    def __init__(self, right):
        self.right, self.statistics, self.supports = right, "support", []

    def set_params(self, statistics):
        self.statistics = statistics

    def fit(self, images, labels):
        assert [image // 20 for image in images] == list(labels)
        self.supports.append(images)
        return self

    def predict(self, images):
        assert not {*images} & {*self.supports[-1]}
        return np.array([i // 20 if i % 20 in self.right(self) else 0 for i in (image % 1000 for image in images)])

    def leave_one_out(self):
        return np.arange(len(self.supports[-1])) < 3


def by_row(values):
    found = {}
    for (row, column), value in values:
        found.setdefault(row, {})[column] = pytest.approx(value)
    return found


def test_mixtures_of_query_pictures_with_each_statistics():
    """Of each other class 2, 1 and no picture after the support picture is classified right."""
    fake = Fake(lambda one: {"support": (1, 2), "together": (1,), "query": ()}[one.statistics])
    found = by_row(MEASURES["mixtures"].values(fake, task(20)))
    assert fake.supports == [[0, 20, 40, 60, 80]]
    names = ["1", "5", "20", "75", "5 of one class", "19 of one class", "15 and 15 of two", "19, 3, 1, 1, 1"]
    assert found == {
        "support": dict(zip(names, [1, 1, 12 / 20, 23 / 75, 1, 1, 17 / 30, 24 / 25], strict=True)),
        "together": dict(zip(names, [1, 1, 8 / 20, 19 / 75, 1, 1, 16 / 30, 23 / 25], strict=True)),
        "query": dict(zip(names, [1, 1 / 5, 4 / 20, 15 / 75, 1, 1, 15 / 30, 19 / 25], strict=True)),
    }


def growing(fake):
    """With 5, 7, 10, 14, 15, 20 and 25 support pictures: 1, 2, 4, 6, 6, 9 and 9 of the other pictures 11 to 19."""
    return range(11, 10 + len(fake.supports[-1]) // 2)


def test_support_sets_are_classified_by_the_same_other_pictures():
    found = by_row(MEASURES["support_sets"].values(fake := Fake(growing), task(20)))
    assert fake.supports[1:] == [[0, 1, 2, 20, 40, 60, 80], [*range(10), 20, 40, 60, 80]]
    columns = "1, 1, 1, 1, 1", "3, 1, 1, 1, 1", "10, 1, 1, 1, 1"
    assert found == {
        "accuracy": dict(zip(columns, [13 / 45, 17 / 45, 33 / 45], strict=True)),
        "share of the first class": dict(zip(columns, [41 / 45, 37 / 45, 21 / 45], strict=True)),
    }


def test_leave_one_out_stands_beside_the_accuracy_with_one_picture_less():
    """Three support pictures are classified right when they are left out."""
    found = by_row(MEASURES["leave_one_out"].values(Fake(growing), task(20)))
    columns = "leave-one-out", "one picture less, others", "all pictures, others"
    rows = {"2": [3 / 10, 13 / 45, 25 / 45], "3": [3 / 15, 25 / 45, 33 / 45], "5": [3 / 25, 1, 1]}
    assert found == {shots: dict(zip(columns, values, strict=True)) for shots, values in rows.items()}


class Rejecting:
    """A classifier that is right about all classes but the first one, and surer of them than of others. The similarity
    of a class's pictures 10, 11, ... is 0.551, 0.591, ..., and 0.301, 0.341, ... for a class without support."""

    def __init__(self):
        self.supports = []

    def set_params(self, reject):
        self.reject = reject

    def fit(self, images, labels):
        assert [image // 20 for image in images] == list(labels)
        self.supports.append(images)

    def predict_parts(self, images):
        assert self.reject == 0 and not {*images} & {*self.supports[-1]}
        for part in np.array_split(np.array(images), 2):
            classes, numbers = part // 20, part % 20 - 10
            chosen = np.where(classes == 0, 1, classes % 5)
            likely = np.where(classes < 5, 0.7, 0.6)[:, None] * np.eye(5)[chosen] + 0.06
            yield Predictions(likely, chosen, 0.301 + 0.25 * (classes < 5) + 0.04 * numbers)


def test_pictures_of_classes_without_support_are_to_be_rejected():
    """Of the known classes' pictures the similarity 0.587 is the tenth percentile."""
    tasks = [[20 * c + i for i in range(20)] for c in range(10)]
    found = by_row(MEASURES["rejection"].values(fake := Rejecting(), tasks))
    assert [[image % 20 for image in support] for support in fake.supports] == [[0] * 5, [0, 1, 2, 3, 4] * 5]
    names = "largest probability", "lead of the largest probability", "entropy, negative", "similarity"
    thresholds = ["0.5", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]
    assert found["1-shot: area under the curve"] == dict(zip(names, [1, 1, 1, 0.94], strict=True))
    assert found["1-shot: others accepted"] == dict(zip(names, [0, 0, 0, 0.2], strict=True))
    rejected, others = [0, 0.2, 0.4, 0.5, 0.7, 0.8, 0.9, 1], [0.5, 0.2, *[0] * 6]
    assert found["1-shot, rejected"] == dict(zip(thresholds, rejected, strict=True))
    wrong = [0.2 * (1 - share) for share in rejected]
    assert found["1-shot, taken for another class"] == dict(zip(thresholds, wrong, strict=True))
    assert found["1-shot, others accepted"] == dict(zip(thresholds, others, strict=True))
    assert [row.replace("5", "1") for row in found][5:] == [*found][:5]


def test_drawings_are_classified_as_they_are_and_as_the_page_sends_them(monkeypatch):
    """Of each other class 10 pictures as they are, and 4 as the page sends them; these are 1000 and more here."""
    monkeypatch.setattr(measures, "on_a_canvas", lambda picture: picture + 1000)

    class Drawn(Fake):
        def fit(self, images, labels):
            self.sent = images[0] >= 1000
            return super().fit([image % 1000 for image in images], labels)

    found = by_row(MEASURES["drawings"].values(Drawn(lambda one: range(5 if one.sent else 11)), task(16)))
    values = {"as they are": 55 / 75, "centred and scaled": 31 / 75, "difference": -24 / 75}
    assert found == {"accuracy": values} and MEASURES["drawings"].statistics == "together"


def test_a_drawing_goes_through_a_canvas_as_large_as_the_pages():
    picture = Image.new("L", (105, 105), 255)
    ImageDraw.Draw(picture).line((10, 10, 40, 10), 0, 3)
    sent = measures.on_a_canvas(picture)
    places = np.argwhere(np.asarray(sent.convert("L"), float) < 155)
    assert sent.size[0] == sent.size[1] and np.ptp(places[:, 1]) > 4 * np.ptp(places[:, 0])
    np.testing.assert_allclose((places.min(0) + places.max(0)) / 2 / sent.size[0], 0.5, atol=0.05)
    assert SIDE >= 105


def test_the_pictures_of_a_task_are_those_of_its_test_episode():
    """All pixels of an image are 20 * class + image; a picture is its inverse."""
    values = 20 * np.arange(8)[:, None] + np.arange(16)
    pixels = np.broadcast_to(values[..., None, None, None], (8, 16, 4, 4, 1)).astype(np.uint8)
    split, prepare = data.Split(pixels, rotations=1, scale=1 / 255), Preparation(4, 1, invert=True)
    for number in range(3):
        (classes,), (images,) = data.sample(split, "test", 0, number, 1, 5, 3)
        found = measures.task_pictures(split, prepare, number, 3)
        shown = [[255 - np.asarray(picture)[0, 0].astype(int) for picture in row] for row in found]
        np.testing.assert_array_equal(shown, 20 * classes[:, None] + images)


# ---- the command


def counting(first, asked):
    """Return a measure whose values are the task's first pixel and a constant. It is interrupted at task `first`."""

    def values(classifier, images):
        assert len(images) == 8
        asked.append(len(asked))
        if len(asked) == first:
            os.kill(os.getpid(), signal.SIGINT)
        yield ("a", "b"), np.asarray(images[0][0]).mean() / 255
        yield ("a", "c"), 0.25

    return Measure(values, way=7, others=1)


def test_a_measurement_goes_on_after_an_interruption_and_is_made_once(data_dir, tmp_path, monkeypatch):
    flags = ("--measure", "mixtures", "--tasks", 5, "--samples", 2, "--data_dir", data_dir, "--weights", SHIPPED)
    monkeypatch.setitem(MEASURES, "mixtures", counting(None, asked := []))
    succeed("runfiles/measures.py", *flags, "--savedir", tmp_path / "whole")
    monkeypatch.setitem(MEASURES, "mixtures", counting(2, again := []))
    flags = (*flags, "--savedir", tmp_path / "run")
    done = call("runfiles/measures.py", *flags)
    assert done.returncode == 130 and len(again) == 2 and "after 2 tasks" in done.stderr
    done = succeed("runfiles/measures.py", *flags)
    assert len(again) == len(asked) == 5
    assert "computed before" in call("runfiles/measures.py", *flags).stdout and len(again) == 5
    one, other = (json.loads((tmp_path / name / "measure.json").read_text()) for name in ("whole", "run"))
    assert one["values"] == other["values"] and len(set(one["values"]["a"]["b"])) == 5
    assert one["values"]["a"]["c"] == [25] * 5 and "a, c: 25.00 +- 0.00" in done.stdout
    assert one["settings"].items() >= {"measure": "mixtures", "dataset": "glyphs", "way": 7}.items()
    assert (one["tasks"], one["n_test_mc_samp"], one["iteration"]) == (5, 2, 1000)
    assert len(list((tmp_path / "run/tests").glob("measure-*.json"))) == 1


def test_a_classifier_is_measured_as_it_is_and_its_result_belongs_to_its_study(data_dir, tmp_path):
    """The shipped learner of glyphs, 5-way, on two test tasks; the study finds the result by its settings."""
    flags = ("--measure", "support_sets", "--tasks", 2, "--samples", 1, "--data_dir", data_dir, "--weights", SHIPPED)
    succeed("runfiles/measures.py", *flags, "--savedir", tmp_path / "any")
    tests = {"here": "--measure support_sets --tasks 2 --samples 1", "more": "--measure support_sets --tasks 3"}
    tests = {name: catalogue.Test(flags) for name, flags in tests.items()}
    study = Study("s", "", "", "", {"m": Run("M", weights=str(SHIPPED))}, tests, seeds=(0,))
    (outcome,) = outcomes(study, [read_savedir(tmp_path / "any")])
    (result,) = outcome.results("m", "here").values()
    accuracy, share = ([np.mean(one) for one in columns.values()] for columns in result["values"].values())
    assert min(accuracy) > 85 and 10 < min(share) <= max(share) < 30
    (job,) = outcome.jobs(tmp_path)
    assert job.savedir == tmp_path / "any"
    assert job.commands == [["--measure", "support_sets", "--tasks", "3", "--weights", str(SHIPPED)]]
    assert Path(ROOT / program_of(job.commands[0])) == Path(measures.__file__)


def test_wrong_input_is_refused_in_a_sentence(data_dir, tmp_path):
    def refused(*flags):
        return call("runfiles/measures.py", "--data_dir", data_dir, *flags)

    here = "--savedir", tmp_path / "new"
    assert_refused(refused(), "--savedir is missing")
    assert_refused(refused(*here, "--measure", "pixels"), "invalid choice")
    assert_refused(refused(*here, "--way", 7), "--way is not a flag of measures.py")
    assert_refused(refused(*here), "there is no run in")
    assert_refused(refused(*here, "--weights", SHIPPED, "--measure", "drawings"), "has no originals")
    omniglot = ROOT / "pretrained/omniglot_5way_1shot_maml.npz"
    assert_refused(refused(*here, "--weights", omniglot), "there is no", "omniglot")
    other = tmp_path / "data/glyphs"
    other.mkdir(parents=True)
    for file in (data_dir / "glyphs").iterdir():
        (other / file.name).symlink_to(file)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").unlink()
    manifest["scale"] *= 2
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(refused(*here, "--weights", SHIPPED, "--data_dir", tmp_path / "data"), "other data than the run")
    assert not (tmp_path / "new").exists()


# ---- studies and their tables


def record(study, name, seed, results, digest="d"):
    """Return the record of a run with these results: test and values."""
    training = config_of(study.training(name, seed, {}))
    config = training.to_json() | {"data_sha256": digest + training.run.dataset, "sessions": [{"device": "A chip"}]}
    made = []
    for test, values in results.items():
        settings = measures.MeasureSettings.of(measures.read_command(study.tests[test].flags.split()))
        facts = settings.facts(training.run.dataset)
        facts["settings"] |= {"data_sha256": f"digest of {facts['settings']['dataset']}", "device": "CPU"}
        facts["weights_sha256"] = digest_of(study.runs[name].weights)
        made.append({"mode": "measure", "values": values, "provenance": {"device": "A chip"}} | facts)
    return Record(config, {}, made)


@pytest.mark.parametrize("change", ["measure", "dataset", "way", "tasks", "n_test_mc_samp", "mode"])
def test_a_result_of_another_setting_is_not_the_studys(change):
    one = record(pictures, "maml", 0, {"mixtures": {}})
    (result,) = one.results
    assert find_result(pictures.tests["mixtures"], one) == result
    assert find_result(pictures.tests["support_sets"], one) is None
    assert find_result(catalogue.Test("--mode meta_test"), one) is None
    place = result["settings"] if change in result["settings"] else result
    changed = {**place, change: "other"}
    changed = changed if place is result else result | {"settings": changed}
    assert find_result(pictures.tests["mixtures"], replace(one, results=[changed])) is None


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "---" not in line]


def test_the_interval_is_over_seeds_where_there_are_several():
    assert tables.over_tasks([[90, 91, 98], [94, 95, 99]]) == "94.50 ± 19.06"
    assert tables.over_tasks([[30, 34, 35]]) == "33.00 ± 2.44"


def test_a_measures_table_has_its_rows_and_columns():
    """A difference, which is below 0 in a task, has a sign."""
    values = {"x": {"p": [50, 60, 94], "q": [-4, 1, 6]}, "y": {"p": [1, 2, 6], "q": [0, 1, 5]}}
    other = {"x": {"p": [7, 7, 7], "q": [1, 1, 1]}, "y": {"p": [9, 9, 9], "q": [8, 8, 8]}}
    records = [
        record(pictures, "metadrop", 0, {"mixtures": other, "support_sets": values}),
        record(pictures, "maml", 0, {"mixtures": values}),
    ]
    (outcome,) = outcomes(pictures, records)
    assert cells(pictures.tables["mixtures"](outcome)) == [
        ["learner", "statistics of", "p", "q"],
        ["MAML", "x", "68.00 ± 21.31", "+1.00 ± 4.62"],
        ["MAML", "y", "3.00 ± 2.44", "2.00 ± 2.44"],
        ["Meta-dropout", "x", "7.00 ± 0.00", "1.00 ± 0.00"],
        ["Meta-dropout", "y", "9.00 ± 0.00", "8.00 ± 0.00"],
    ]
    assert [row[0] for row in cells(pictures.tables["support_sets"](outcome))[1:]] == ["Meta-dropout"] * 2
    assert pictures.tables["leave_one_out"](outcome) == ""


def test_a_measures_table_may_have_some_rows_and_runs_of_several_tests():
    thresholds = {"0.5": [9, 9], "0.6": [2, 2], **{key: [4, 4] for key in ("0.7", "0.75", "0.8", "0.85", "0.9")}}
    values = {"1-shot: a": {"p": [7, 7]}, "1-shot: others accepted": {"p": [1, 1]}, "1-shot, rejected": thresholds}
    values |= {"1-shot, taken for another class": thresholds}
    records = [
        record(rejection, "maml", 0, {"5way": values}),
        replace(record(rejection, "maml_20way", 0, {"20way": {"5-shot, others accepted": thresholds}}), curve={}),
    ]
    (outcome,) = outcomes(rejection, records)
    expected = [["learner", "%", "p"], ["MAML", "1-shot: others accepted", "1.00 ± 0.00"]]
    assert cells(rejection.tables["scores"](outcome)) == expected
    assert cells(rejection.tables["thresholds"](outcome)) == [
        ["learner", "%", "0.6", "0.7", "0.75", "0.8", "0.85", "0.9"],
        ["MAML", "1-shot, rejected", "2.00 ± 0.00", *["4.00 ± 0.00"] * 5],
        ["MAML, 20-way", "5-shot, others accepted", "2.00 ± 0.00", *["4.00 ± 0.00"] * 5],
    ]


def test_tests_of_a_run_are_paired_with_the_first_one():
    """Paired differences of two episodes: +10 and +2 from the first test."""
    results = {"3": [60, 72], "1": [50, 70]}
    outcome = SimpleNamespace(
        results=lambda name, test: {0: {"accuracies": results[test], "episodes_sha256": "e"}} if test in results else {}
    )
    assert cells(tables.tests("metadrop", "noise samples", ("1", "3", "10"))(outcome)) == [
        ["noise samples", "accuracy", "from 1"],
        ["1", "60.00 ± 13.86", ""],
        ["3", "66.00 ± 8.32", "+6.00 ± 5.54"],
    ]


def test_the_studies_ask_for_what_the_page_says(tmp_path):
    """The numbers of docs/classify.md."""
    asked = {
        (study.name, name): measures.read_command(test.flags.split())
        for study in (pictures, drawings, rejection)
        for name, test in study.tests.items()
        if "--measure" in test.flags
    }
    assert {key: (flags.get("tasks", 100), flags.get("samples", 10)) for key, flags in asked.items()} == {
        ("drawings", "drawings"): (200, 5),
        **{("pictures", name): (60, 3) for name in ("mixtures", "support_sets", "leave_one_out")},
        ("rejection", "5way"): (60, 3), ("rejection", "20way"): (10, 3),
    }  # fmt: skip
