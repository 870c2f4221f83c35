"""What the images that are classified together do to each other: accuracy by their number, and by whose images batch
norm takes its statistics from, on the test tasks of a file of weights.

python runfiles/query_statistics.py WEIGHTS [WEIGHTS ...] [--data_dir DIR] [--tasks N]
"""

from pathlib import Path

import numpy as np
from tables import ROOT, task_pictures
from tqdm import tqdm

import data
from errors import Parser, run
from flags import path_text, whole
from studies.classifier import Classifier, preparation_of
from training import weights
from training.engine import STATISTICS
from training.results import summary

NUMBERS = (1, 5, 75)  # of images that are classified together
SHOWN = 15  # images of a task that are classified alone


def accuracies(file: Path, data_dir: str, tasks: int, samples: int) -> dict[tuple[str, int], list[float]]:
    """By statistics and number of images, each task's accuracy."""
    settings = weights.read(file).about["settings"]
    split = data.load(data_dir, settings["dataset"]).splits["test"]
    way, shot, query = settings["way"], settings["shot"], settings["query"]
    data.check_episode(split, "test", way, shot, query)
    prepare = preparation_of(settings)
    shares = {}
    classifier = Classifier.load(file, samples=samples)
    for task in tqdm(range(tasks), unit="task", desc=file.stem):
        pictures = task_pictures(split, prepare, task, way, shot + query)
        labels = np.arange(way)
        classifier.fit([picture for own in pictures for picture in own[:shot]], np.repeat(labels, shot))
        images, right = [picture for own in pictures for picture in own[shot:]], np.repeat(labels, query)
        order = np.random.default_rng(task).permutation(len(images))
        for number in [number for number in NUMBERS if number <= len(images)]:
            groups = np.split(order[: len(order) // number * number], max(1, len(order) // number))
            for statistics in STATISTICS:
                classifier.statistics = statistics
                hits = [classifier.predict([images[i] for i in g]) == right[g] for g in groups[:SHOWN]]
                shares.setdefault((statistics, number), []).append(np.mean(hits))
    return shares


def main() -> None:
    parser = Parser(prog="query_statistics.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", nargs="+", type=Path, metavar="WEIGHTS", help="files of weights")
    parser.add_argument(
        "--data_dir", type=path_text, default=ROOT / "data", metavar="DIR", help="folder of the datasets"
    )
    parser.add_argument("--tasks", type=whole(2), default=100, metavar="N", help="test tasks (default: 100)")
    parser.add_argument("--samples", type=whole(1), default=10, metavar="N", help="noise samples (default: 10)")
    args = parser.parse_args()
    print(f"| weights | statistics of | {' | '.join(f'{number} together' for number in NUMBERS)} |")
    print("|---|---|" + "---|" * len(NUMBERS))
    for file in args.weights:
        shares = accuracies(file, args.data_dir, args.tasks, args.samples)
        for statistics in STATISTICS:
            known = [shares.get((statistics, number)) for number in NUMBERS]
            cells = ["{:.2f} ± {:.2f}".format(*summary(np.array(own))) if own else "" for own in known]
            print(f"| {file.stem} | {statistics} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
