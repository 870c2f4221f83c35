"""Measure how much accuracy is lost because the page of --mode draw centres and scales a drawing: Omniglot's test
drawings at their original size, classified as they are and as the page sends them, on the same test tasks.

python runfiles/drawings.py ORIGINALS [WEIGHTS ...] [--tasks N]

ORIGINALS: a folder of Omniglot at 105 x 105 as get_data.py --size 105 leaves it, below its --data_dir.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from tables import ROOT, task_pictures
from tqdm import tqdm

import data
from errors import Parser, run
from settings import whole
from sources.table import MAKERS
from studies.classifier import Classifier
from studies.draw import SAMPLES, SIDE, centred
from training.steps import TOGETHER
from training.test_results import mean_and_interval

WAY, QUERY = 5, 15


def on_a_canvas(picture: Image.Image) -> Image.Image:
    """Return the picture as the page would show and send it."""
    return centred(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


WAYS = {"as they are": lambda picture: picture, "centred and scaled": on_a_canvas}


def main() -> None:
    parser = Parser(prog="drawings.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("originals", metavar="ORIGINALS", help="--data_dir of get_data.py --size 105")
    shipped = [ROOT / f"pretrained/omniglot_5way_1shot_{name}.npz" for name in ("maml", "metadrop")]
    parser.add_argument("weights", nargs="*", default=shipped, type=Path, metavar="WEIGHTS", help="files of weights")
    parser.add_argument("--tasks", type=whole(2), default=200, metavar="N", help="test tasks (default: 200)")
    args = parser.parse_args()
    split, prepare = data.load(args.originals, "omniglot").splits["test"], MAKERS["omniglot"].prepare
    print(f"| weights | {' | '.join(WAYS)} | difference |\n|---|---|---|---|")
    for file in args.weights:
        classifier = Classifier.load(file, samples=SAMPLES, statistics=TOGETHER)
        accuracies = {way: [] for way in WAYS}
        for task in tqdm(range(args.tasks), unit="task", desc=file.stem):
            pictures = task_pictures(split, prepare, task, WAY, 1 + QUERY)
            right = np.repeat(np.arange(WAY), QUERY)
            for way, sent in WAYS.items():
                classifier.fit([sent(row[0]) for row in pictures], np.arange(WAY))
                predicted = classifier.predict([sent(one) for row in pictures for one in row[1:]])
                accuracies[way].append(np.mean(predicted == right))
        one, other = (np.array(accuracies[way]) for way in WAYS)
        cells = ["{:.2f} ± {:.2f}".format(*mean_and_interval(values)) for values in (one, other)]
        print(f"| {file.stem} | {' | '.join(cells)} | {'{:+.2f} ± {:.2f}'.format(*mean_and_interval(other - one))} |")


if __name__ == "__main__":
    run(main)
