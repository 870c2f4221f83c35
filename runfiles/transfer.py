"""Measure transfer between datasets: the runs of runfiles/transfer.sh on the test classes of both datasets, beside the
nearest neighbour in pixels.

python runfiles/transfer.py [RESULTS] [--data_dir DIR] [--tasks N]
python runfiles/transfer.py [RESULTS] --runs [-- FLAGS]       the runs, for train_all.py
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from tables import ROOT, over_seeds, split_command, task_pictures
from tqdm import tqdm

import data
from errors import Parser, UserError, run
from learners import LEARNERS
from settings import path_text, whole
from sources.table import MAKERS
from studies.classifier import Classifier
from training.steps import QUERY

DATASETS, MODELS, SEEDS = ("omniglot", "glyphs"), ("maml", "metadrop"), (0, 1, 2)
WAY, QUERIES, SAMPLES = 5, 15, 10
TRAIN = f"--way {WAY} --shot 1 --query {QUERIES} --metabatch 4 --n_train_iters 800 --val_every 200 --n_val_tasks 200"


def lines(results: Path, flags: str) -> list[str]:
    """Return the runs as lines for train_all.py."""
    return [
        f"{results}/{dataset}_{model}_{seed} | --dataset {dataset} --model {model} --seed {seed} {TRAIN} {flags}"
        for seed in SEEDS
        for dataset in DATASETS
        for model in MODELS
    ]


def accuracy(classifier, dataset: data.Dataset, tasks: int, what: str, flat: bool = False) -> float:
    """Return the accuracy over the first test tasks, in percent. flat: the classifier takes rows of numbers."""
    hits, split, prepare = [], dataset.splits["test"], MAKERS[dataset.name].prepare
    labels, right = np.arange(WAY), np.repeat(np.arange(WAY), QUERIES)
    for task in tqdm(range(tasks), desc=what, unit="task"):
        pictures = task_pictures(split, prepare, task, WAY, 1 + QUERIES)
        support, query = [row[0] for row in pictures], [picture for row in pictures for picture in row[1:]]
        if flat:
            support, query = (np.array([np.ravel(one) / 255 for one in images]) for images in (support, query))
        hits.append(np.mean(classifier.fit(support, labels).predict(query) == right))
    return 100 * float(np.mean(hits))


def main() -> None:
    usage, flags = split_command(sys.argv[1:])
    parser = Parser(prog="transfer.py", description=__doc__.split("\n\n")[0])
    default = ROOT / "results/transfer"
    parser.add_argument("results", nargs="?", default=default, type=Path, help="folder of the runs")
    parser.add_argument("--runs", action="store_true", help="print the runs, for train_all.py")
    parser.add_argument(
        "--data_dir", type=path_text, default=ROOT / "data", metavar="DIR", help="folder of the datasets"
    )
    parser.add_argument("--tasks", type=whole(2), default=100, metavar="N", help="test tasks (default: 100)")
    args = parser.parse_args(usage)
    if args.runs:
        print(*lines(args.results, flags), sep="\n")
        return
    trained = sorted(path.parent.parent for path in args.results.glob("*_*_*/checkpoints/last"))
    if not trained:
        raise UserError(f"{args.results} has no runs: run runfiles/transfer.sh first")
    datasets = [data.load(args.data_dir, name) for name in DATASETS]
    print(f"| trained on | learner | seeds | {' | '.join(f'on {name}, %' for name in DATASETS)} |")
    print("|---|---|---|" + "---|" * len(DATASETS))
    nearest = [accuracy(KNeighborsClassifier(1), dataset, args.tasks, "pixels", flat=True) for dataset in datasets]
    print(f"| | nearest neighbour in pixels | | {' | '.join(f'{value:.2f}' for value in nearest)} |")
    for home in DATASETS:
        for model in MODELS:
            runs = [path for path in trained if path.name.startswith(f"{home}_{model}_")]
            classifiers = [Classifier.load(path, statistics=QUERY, samples=SAMPLES) for path in runs]
            if runs:
                cells = [
                    over_seeds(
                        [accuracy(one, dataset, args.tasks, f"{home} {model} on {dataset.name}") for one in classifiers]
                    )
                    for dataset in datasets
                ]
                print(f"| {home} | {LEARNERS[model].title} | {len(runs)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
