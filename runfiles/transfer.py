"""Does what was learned on one dataset serve on another? The runs of runfiles/transfer.sh, each on the test classes of
both datasets, beside the nearest neighbour in pixels.

python runfiles/transfer.py [RESULTS] [--data_dir DIR] [--tasks N]
python runfiles/transfer.py [RESULTS] --runs [-- FLAGS]       the runs, for train_all.py
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from tables import ROOT, over_seeds, split_command
from tqdm import tqdm

import data
from errors import Parser, UserError, run
from flags import whole
from model import LEARNERS
from studies.classifier import Classifier
from training.engine import QUERY

DATASETS, MODELS, SEEDS = ("omniglot", "glyphs"), ("maml", "metadrop"), (0, 1, 2)
WAY, QUERIES, SAMPLES = 5, 15, 10
TRAIN = f"--way {WAY} --shot 1 --query {QUERIES} --metabatch 4 --n_train_iters 800 --val_every 200 --n_val_tasks 100"


def lines(results: Path, flags: str) -> list[str]:
    """The runs, as train_all.py takes them."""
    return [
        f"{results}/{dataset}_{model}_{seed} | --dataset {dataset} --model {model} --seed {seed} {TRAIN} {flags}"
        for seed in SEEDS
        for dataset in DATASETS
        for model in MODELS
    ]


def episodes(split: data.Split, tasks: int):
    """Support pictures, query pictures, and the classes of both, of each of the first test tasks."""
    for task in range(tasks):
        (classes,), (numbers,) = data.sample(split, "test", 0, task, 1, WAY, 1 + QUERIES)
        drawings = [[np.rot90(split.pixels[c // split.rotations, i], c % split.rotations) for i in row]
                    for c, row in zip(classes, numbers, strict=True)]  # fmt: skip
        paper = 255 - np.array(drawings)  # ink on paper, as a picture has it
        yield (
            paper[:, 0],
            paper[:, 1:].reshape(-1, *paper.shape[2:]),
            np.arange(WAY),
            np.repeat(np.arange(WAY), QUERIES),
        )


def accuracy(classifier, split: data.Split, tasks: int, what: str, flat: bool = False) -> float:
    """In percent, over the first test tasks. flat: the classifier takes rows of numbers."""
    hits = []
    for support, query, labels, right in tqdm(episodes(split, tasks), total=tasks, desc=what, unit="task"):
        if flat:
            support, query = (images.reshape(len(images), -1) / 255 for images in (support, query))
        hits.append(np.mean(classifier.fit(support, labels).predict(query) == right))
    return 100 * float(np.mean(hits))


def main() -> None:
    usage, flags = split_command(sys.argv[1:])
    parser = Parser(prog="transfer.py", description=__doc__.split("\n\n")[0])
    default = ROOT / "results/transfer"
    parser.add_argument("results", nargs="?", default=default, type=Path, help="folder of the runs")
    parser.add_argument("--runs", action="store_true", help="print the runs")
    parser.add_argument("--data_dir", default=ROOT / "data", metavar="DIR", help="folder of the datasets")
    parser.add_argument("--tasks", type=whole(2), default=100, metavar="N", help="test tasks (default: 100)")
    args = parser.parse_args(usage)
    if args.runs:
        print(*lines(args.results, flags), sep="\n")
        return
    trained = sorted(path.parent.parent for path in args.results.glob("*_*_*/checkpoints/last"))
    if not trained:
        raise UserError(f"{args.results} has no runs: run runfiles/transfer.sh first")
    splits = {name: data.load(args.data_dir, name).splits["test"] for name in DATASETS}
    print(f"| trained on | learner | seeds | {' | '.join(f'on {name}, %' for name in DATASETS)} |")
    print("|---|---|---|" + "---|" * len(DATASETS))
    nearest = [accuracy(KNeighborsClassifier(1), split, args.tasks, "pixels", True) for split in splits.values()]
    print(f"| | nearest neighbour in pixels | | {' | '.join(f'{value:.2f}' for value in nearest)} |")
    for dataset in DATASETS:
        for model in MODELS:
            own = [path for path in trained if path.name.startswith(f"{dataset}_{model}_")]
            classifiers = [Classifier.load(path, statistics=QUERY, samples=SAMPLES) for path in own]
            if own:
                cells = [
                    over_seeds([accuracy(one, split, args.tasks, f"{dataset} {model}, {name}") for one in classifiers])
                    for name, split in splits.items()
                ]
                print(f"| {dataset} | {LEARNERS[model].title} | {len(own)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
