"""Measure the classifier (studies/classifier.py) of a trained run over test tasks, as its users call it.

    python runfiles/measures.py --measure MEASURE --savedir D [--weights FILE] [flags]

The result is D/tests/measure-<digest>.json; the latest one is D/measure.json, too. It has a value for each task, in
percent, by row and column. An interrupted measurement goes on when the same command is given again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from records import Record  # imported first: it lets this program import those of the folder above
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

import data
from errors import UserError, run
from files import refuse_unwritable
from main import load_data, start, start_from
from settings import CommandLine, Settings, path_text, setting, to_path, whole
from sources.preparation import Preparation
from studies.classifier import Classifier, Predictions
from studies.draw import SIDE, centred
from studies.resumable import run_study
from studies.trained import Trained, preparation_of
from training.checkpoints import read_run
from training.config import Config, RunSettings, gpus
from training.devices import provenance
from training.intervals import mean_and_interval
from training.steps import STATISTICS, SUPPORT, TOGETHER
from training.test_results import ResultFiles
from training.weights import digest

WAY, QUERIES, IMAGES, OTHERS = 5, 15, 20, 9
# Query pictures of each class. Their order does not matter: all are classified in one call.
MIXTURES = {
    "1": (1,), "5": (1,) * 5, "20": (4,) * 5, "75": (15,) * 5, "5 of one class": (5,), "19 of one class": (19,),
    "15 and 15 of two": (15, 15), "19, 3, 1, 1, 1": (19, 3, 1, 1, 1),
}  # fmt: skip
SUPPORT_SETS = (1, 1, 1, 1, 1), (3, 1, 1, 1, 1), (10, 1, 1, 1, 1)  # pictures of each class
SHOTS = 2, 3, 5  # where leave-one-out is compared with the accuracy on other pictures
KNOWN_SHOTS, KNOWN_QUERIES = (1, 5), 10  # support and query pictures of each class where others are to be rejected
REJECTED = 10  # percent of the pictures of the classes that are rejected where scores are compared
THRESHOLDS = 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95  # of the similarity
Pictures = list[list]  # of a task, a list for each class: Pillow's images, or the rows of numbers of a classifier
Values = Iterator[tuple[tuple[str, str], float]]  # row and column, and a value from 0 to 1


def numbered(pictures: Pictures, numbers: tuple[int, ...], first: int = 0) -> tuple[list, np.ndarray]:
    """Return pictures and labels: numbers[c] pictures of class c, starting at its picture `first`."""
    chosen = [row[first : first + n] for row, n in zip(pictures, numbers, strict=False)]
    return [picture for row in chosen for picture in row], np.repeat(np.arange(len(numbers)), numbers)


def one_shot(classifier, pictures: Pictures) -> float:
    """Return the accuracy after one picture of each class, on QUERIES other pictures of each."""
    support, query = numbered(pictures, (1,) * WAY), numbered(pictures, (QUERIES,) * WAY, 1)
    return classifier.fit(*support).score(*query)


def measure_mixtures(classifier: Classifier, pictures: Pictures) -> Values:
    """Accuracy, 1-shot, by the pictures that batch norm takes its statistics from and the mixture of query pictures."""
    classifier.fit(*numbered(pictures, (1,) * WAY))
    for statistics in STATISTICS:
        classifier.set_params(statistics=statistics)
        for name, mixture in MIXTURES.items():
            yield (statistics, name), classifier.score(*numbered(pictures, mixture, 1))


def measure_support_sets(classifier: Classifier, pictures: Pictures) -> Values:
    """Accuracy by the support pictures of each class, and how many predictions name the first class."""
    images, right = numbered(pictures, (OTHERS,) * WAY, IMAGES - OTHERS)
    for numbers in SUPPORT_SETS:
        predicted, column = classifier.fit(*numbered(pictures, numbers)).predict(images), ", ".join(map(str, numbers))
        yield ("accuracy", column), np.mean(predicted == right)
        yield ("share of the first class", column), np.mean(predicted == 0)


def measure_leave_one_out(classifier: Classifier, pictures: Pictures) -> Values:
    """Accuracy by leave-one-out; on other pictures, with one support picture less of each class; and on other pictures,
    with all support pictures."""
    others = numbered(pictures, (OTHERS,) * WAY, IMAGES - OTHERS)
    for shots in SHOTS:
        fewer, support = (numbered(pictures, (number,) * WAY) for number in (shots - 1, shots))
        of_all = classifier.fit(*support).score(*others)
        yield (str(shots), "leave-one-out"), np.mean(classifier.leave_one_out())
        yield (str(shots), "one picture less, others"), classifier.fit(*fewer).score(*others)
        yield (str(shots), "all pictures, others"), of_all


def scores(found: Predictions) -> dict[str, np.ndarray]:
    """Return for each picture numbers that should be larger if it is a picture of one of the classes, by name."""
    ordered = np.sort(found.probabilities, -1)
    return {
        "largest probability": ordered[:, -1],
        "lead of the largest probability": ordered[:, -1] - ordered[:, -2],
        "entropy, negative": -entropy(found.probabilities, axis=-1),
        "similarity": found.similarities,
    }


def measure_rejection(classifier: Classifier, pictures: Pictures) -> Values:
    """Rejection of pictures of classes without support pictures, the second half: by score, and by a threshold of the
    similarity."""
    way = len(pictures) // 2
    classifier.set_params(reject=0)
    for shots in KNOWN_SHOTS:
        classifier.fit(*numbered(pictures[:way], (shots,) * way))
        images, right = numbered(pictures, (KNOWN_QUERIES,) * 2 * way, IMAGES - KNOWN_QUERIES)
        found = [*classifier.predict_parts(images)]
        found = Predictions(*map(np.concatenate, zip(*found, strict=True)))
        known, hits = right < way, found.chosen == right
        for name, values in scores(found).items():
            threshold = np.percentile(values[known], REJECTED)
            yield (f"{shots}-shot: area under the curve", name), roc_auc_score(known, values)
            yield (f"{shots}-shot: others accepted", name), np.mean(values[~known] >= threshold)
        for threshold in THRESHOLDS:
            accepted = found.similarities >= threshold
            column = f"{threshold:g}"
            yield (f"{shots}-shot, rejected", column), np.mean(~accepted[known])
            yield (f"{shots}-shot, taken for another class", column), np.mean((accepted & ~hits)[known])
            yield (f"{shots}-shot, others accepted", column), np.mean(accepted[~known])


def on_a_canvas(picture: Image.Image) -> Image.Image:
    """Return the picture as the page of --mode draw would show and send it."""
    return centred(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def measure_drawings(classifier: Classifier, pictures: Pictures) -> Values:
    """Accuracy, 1-shot, on drawings at their original size, as they are and as the page of --mode draw sends them."""
    plain = one_shot(classifier, pictures)
    sent = one_shot(classifier, [[on_a_canvas(picture) for picture in row] for row in pictures])
    yield ("accuracy", "as they are"), plain
    yield ("accuracy", "centred and scaled"), sent
    yield ("accuracy", "difference"), sent - plain


class Measure(NamedTuple):
    """A measure. images: pictures of each class of a task. statistics: those of the classifier. originals: True if it
    needs pictures of their original size, not those that the run was trained on. way: classes of the support set.
    others: further classes of a task."""

    values: Callable[[Classifier, Pictures], Values]
    images: int = IMAGES
    statistics: str = SUPPORT
    originals: bool = False
    way: int = WAY
    others: int = 0

    @property
    def classes(self) -> int:
        """Classes of a task."""
        return self.way + self.others


MEASURES = {
    "mixtures": Measure(measure_mixtures),
    "support_sets": Measure(measure_support_sets),
    "leave_one_out": Measure(measure_leave_one_out),
    "drawings": Measure(measure_drawings, 1 + QUERIES, TOGETHER, originals=True),
    "rejection": Measure(measure_rejection, others=WAY),
    "rejection_20way": Measure(measure_rejection, way=20, others=20),
}


@dataclass(frozen=True)
class MeasureSettings(Settings):
    """The run, and what is measured."""

    measure: str = setting(
        "mixtures",
        "; ".join(f"{name}: {measure.values.__doc__.rstrip('.')}" for name, measure in MEASURES.items()),
        choices=MEASURES,
    )
    savedir: Path | None = setting(None, "folder of the run", to_path, metavar="D")
    weights: Path | None = setting(None, "weights file to start D from", to_path, metavar="FILE")
    data_dir: str = setting("data", "folder that holds the datasets", path_text, metavar="DIR")
    tasks: int = setting(100, "test tasks", whole(2))
    samples: int = setting(10, "noise samples of an inner step's loss", whole(1, 100_000))
    gpu_id: str | None = setting(None, "GPU to use; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)", gpus)

    def facts(self, dataset: str) -> dict:
        """Return what distinguishes the result from others of the same run. dataset: the name of the run's."""
        settings = {"measure": self.measure, "dataset": dataset, "way": MEASURES[self.measure].way}
        return {"settings": settings, "tasks": self.tasks, "n_test_mc_samp": self.samples}

    def is_of(self, record: Record, result: dict) -> bool:
        """True if a run's result of --measure is what these settings measure."""
        wanted = self.facts(record.config["dataset"])
        settings = wanted.pop("settings")
        return settings.items() <= result["settings"].items() and wanted.items() <= result.items()


def task_pictures(split: data.Split, prepare: Preparation, task: int, images: int, classes: int = WAY) -> Pictures:
    """Return the original pictures of the test task of this number: `images` of each of so many classes."""
    (classes,), (numbers,) = data.sample(split, "test", 0, task, 1, classes, images)
    return [[prepare.picture_of(split.image(c, i)) for i in row] for c, row in zip(classes, numbers, strict=True)]


def load(config: Config, settings: MeasureSettings, size: int) -> data.Dataset:
    """Return the dataset of the test tasks. Raise UserError if it is not the data that the run was trained on, but for
    the originals; or if these are not larger than the learner's images, of this size."""
    measure = MEASURES[settings.measure]
    tested = config.with_run(data_dir=settings.data_dir, way=measure.classes, shot=1, query=measure.images - 1)
    if measure.originals:
        tested = replace(tested, facts={})
    dataset, _ = load_data(tested, "test")
    if measure.originals and dataset.image_shape[0] <= size:
        raise UserError(
            f"{settings.data_dir}/{dataset.name} has no originals, its images are not larger than the learner's: make "
            f"them with get_data.py --size 105, and give their folder as --data_dir"
        )
    return dataset


def over_tasks(settings: MeasureSettings) -> int:
    """Measure over the test tasks, and write D/measure.json. Return the exit code of `run_study`."""
    savedir, measure = settings.savedir, MEASURES[settings.measure]
    config, machine = Config.read(savedir), start(RunSettings(gpu_id=settings.gpu_id, metabatch=1))
    trained, saved = Trained.read(savedir, "last"), read_run(savedir)
    trained.weights_for(measure.way)
    dataset = load(config, settings, trained.image_shape[0])
    split, prepare = dataset.splits["test"], preparation_of({"dataset": dataset.name} | dataset.facts)
    classifier = Classifier(savedir, statistics=measure.statistics, samples=settings.samples)
    identity = settings.facts(config.run.dataset)
    identity |= {"iteration": saved.about["iteration"], "weights_sha256": digest(saved.params)}
    identity["settings"] |= {"data_sha256": dataset.sha256, "device": "GPU" if machine.gpu else "CPU"}
    files, places = ResultFiles(savedir, "measure", identity), []
    if files.read() is None:
        refuse_unwritable(savedir)

    def compute(first: int) -> Iterator[np.ndarray]:
        for task in range(first, settings.tasks):
            pictures = task_pictures(split, prepare, task, measure.images, measure.classes)
            places[:], values = zip(*measure.values(classifier, pictures), strict=True)
            yield 100 * np.array([values])

    def summarise(values: np.ndarray) -> dict:
        table = {row: {} for row, _ in places}
        for (row, column), of_tasks in zip(places, values.T, strict=True):
            table[row][column] = of_tasks.tolist()
        return {"values": table, "provenance": provenance(machine.name)}

    return run_study(files, settings.tasks, "task", compute, summarise, show)


def show(result: dict) -> None:
    """Print a line for each row and column."""
    for row, columns in result["values"].items():
        for column, values in columns.items():
            mean, half = mean_and_interval(np.array(values) / 100)
            print(f"{row}, {column}: {mean:.2f} +- {half:.2f}")


def read_command(argv: list[str] | None = None) -> dict:
    """Return the flags of the command line by name, and the mode of the result. Exit with one sentence and code 2 at a
    wrong flag."""
    head, usage, more = __doc__.strip().split("\n\n")
    usage = usage.replace("python runfiles/", "").strip()
    line = CommandLine("measures.py", "measures.py", head, more, usage=usage)
    line.add(MeasureSettings.__doc__, fields(MeasureSettings))
    return {"mode": "measure"} | line.read(argv)


def main() -> int:
    settings = MeasureSettings.of(read_command())
    if settings.savedir is None:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    file = settings.weights
    with start_from(file, settings.savedir, "measure", {}) if file else contextlib.nullcontext():
        return over_tasks(settings)


if __name__ == "__main__":
    run(main)
