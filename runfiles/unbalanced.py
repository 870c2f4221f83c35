"""Measure a classifier of one's own pictures where they are not a balanced episode: accuracy by the mixture of query
pictures and by batch norm's statistics, by the support pictures per class, and the accuracy by leave-one-out.

python runfiles/unbalanced.py WEIGHTS [WEIGHTS ...] [--data_dir DIR] [--tasks N] [--samples N]

Prints three tables over 5-way test tasks of the files' dataset, with 20 pictures per class.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tables import ROOT, task_pictures
from tqdm import tqdm

import data
from errors import Parser, run
from settings import whole
from studies.classifier import Classifier
from training.steps import STATISTICS
from training.test_results import mean_and_interval

WAY, IMAGES = 5, 20
# Query pictures of each class. Their order does not matter: all are classified in one call.
MIXTURES = {
    "1": (1,), "5": (1,) * 5, "20": (4,) * 5, "75": (15,) * 5, "5 of one class": (5,), "19 of one class": (19,),
    "15 and 15 of two": (15, 15), "19, 3, 1, 1, 1": (19, 3, 1, 1, 1),
}  # fmt: skip
SUPPORT = (1, 1, 1, 1, 1), (3, 1, 1, 1, 1), (10, 1, 1, 1, 1)  # pictures of each class
QUERY = 9  # pictures of each class, where the support sets differ
SHOTS = 2, 3, 5  # where leave-one-out is compared with the accuracy on other pictures


def numbered(pictures: list[list], numbers: tuple[int, ...], first: int = 0) -> tuple[list, np.ndarray]:
    """Return pictures and labels: numbers[c] pictures of class c, starting at its picture `first`."""
    chosen = [row[first : first + n] for row, n in zip(pictures, numbers, strict=False)]
    return [picture for row in chosen for picture in row], np.repeat(np.arange(len(numbers)), numbers)


def measure_mixtures(classifier: Classifier, pictures: list[list]) -> Iterator[tuple[tuple, float]]:
    """Yield (statistics, mixture), accuracy for a 1-shot task."""
    classifier.fit(*numbered(pictures, (1,) * WAY))
    for name, mixture in MIXTURES.items():
        images, right = numbered(pictures, mixture, 1)
        for statistics in STATISTICS:
            classifier.statistics = statistics
            yield (statistics, name), np.mean(classifier.predict(images) == right)
    classifier.statistics = STATISTICS[0]


def measure_support_sets(classifier: Classifier, pictures: list[list]) -> Iterator[tuple[tuple, float]]:
    """Yield (pictures per class, measure), value; "first class" is its share among the answers."""
    images, right = numbered(pictures, (QUERY,) * WAY, IMAGES - QUERY)
    for numbers in SUPPORT:
        answers = classifier.fit(*numbered(pictures, numbers)).predict(images)
        yield (numbers, "accuracy"), np.mean(answers == right)
        yield (numbers, "first class"), np.mean(answers == 0)


def measure_leave_one_out(classifier: Classifier, pictures: list[list]) -> Iterator[tuple[tuple, float]]:
    """Yield (shots, measure), accuracy: "left out" is on the support pictures by leave-one-out, "others" on other
    pictures, "one less" on these by a classifier with one support picture less per class."""
    images, right = numbered(pictures, (QUERY,) * WAY, IMAGES - QUERY)
    for shots in SHOTS:
        classifier.fit(*numbered(pictures, (shots - 1,) * WAY))
        yield (shots, "one less"), np.mean(classifier.predict(images) == right)
        classifier.fit(*numbered(pictures, (shots,) * WAY))
        yield (shots, "others"), np.mean(classifier.predict(images) == right)
        yield (shots, "left out"), np.mean(classifier.leave_one_out())


def over_tasks(measure: Callable, classifier: Classifier, tasks: list[list], what: str) -> dict[tuple, str]:
    """Return mean and 95 % interval over the tasks, in percent, by the keys that `measure` yields."""
    shares: dict[tuple, list[float]] = {}
    for pictures in tqdm(tasks, unit="task", desc=what):
        for key, share in measure(classifier, pictures):
            shares.setdefault(key, []).append(float(share))
    return {key: "{:.1f} ± {:.1f}".format(*mean_and_interval(np.array(values))) for key, values in shares.items()}


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = Parser(prog="unbalanced.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", nargs="+", type=Path, metavar="WEIGHTS", help="files of weights")
    parser.add_argument("--data_dir", default=ROOT / "data", metavar="DIR", help="folder of the datasets")
    parser.add_argument("--tasks", type=whole(2), default=100, metavar="N", help="test tasks (default: 100)")
    parser.add_argument("--samples", type=whole(1), default=10, metavar="N", help="noise samples (default: 10)")
    args = parser.parse_args()
    classifiers = {file.stem: Classifier.load(file, samples=args.samples) for file in args.weights}
    tasks = {}
    for name, classifier in classifiers.items():
        trained = classifier.trained()
        split = data.load(args.data_dir, trained.config["dataset"]).splits["test"]
        data.check_episode(split, "test", WAY, 1, IMAGES - 1)
        tasks[name] = [task_pictures(split, trained.preparation, task, WAY, IMAGES) for task in range(args.tasks)]

    def measured(measure: Callable) -> Iterator[tuple[str, dict[tuple, str]]]:
        for name, classifier in classifiers.items():
            yield name, over_tasks(measure, classifier, tasks[name], f"{measure.__name__}, {name}")

    print(row("weights", "statistics of", *MIXTURES), "|---" * (2 + len(MIXTURES)) + "|", sep="\n")
    for name, cells in measured(measure_mixtures):
        for statistics in STATISTICS:
            print(row(name, statistics, *(cells[statistics, mixture] for mixture in MIXTURES)), flush=True)
    titles = [", ".join(map(str, numbers)) for numbers in SUPPORT]
    print("", row("weights", "", *titles), "|---" * (2 + len(titles)) + "|", sep="\n")
    for name, cells in measured(measure_support_sets):
        for what in ("accuracy", "first class"):
            print(row(name, what, *(cells[numbers, what] for numbers in SUPPORT)), flush=True)
    columns = ("left out", "one less", "others")
    print("", row("weights", "pictures of each class", *columns), "|---|---|---|---|---|", sep="\n")
    for name, cells in measured(measure_leave_one_out):
        for shots in SHOTS:
            print(row(name, shots, *(cells[shots, column] for column in columns)), flush=True)


if __name__ == "__main__":
    run(main)
