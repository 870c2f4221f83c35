"""Print Table 1 as Markdown: the paper, the TF1 repository, and what results/ holds so far.

python runfiles/table1.py [RESULTS]
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from errors import Parser, run  # noqa: E402
from results import read_test  # noqa: E402

CELLS = ("omni_1shot", "omni_5shot", "mimg_1shot", "mimg_5shot")
PUBLISHED = {
    ("maml", "paper"): ("95.23 ± 0.17", "98.38 ± 0.07", "49.58 ± 0.65", "64.55 ± 0.52"),
    ("maml", "TF1 repository"): ("94.63 ± 0.17", "98.26 ± 0.07", "48.73 ± 0.64", "65.70 ± 0.52"),
    ("metadrop", "paper"): ("96.63 ± 0.13", "98.73 ± 0.06", "51.93 ± 0.67", "67.42 ± 0.52"),
    ("metadrop", "TF1 repository"): ("96.17 ± 0.15", "98.86 ± 0.06", "51.67 ± 0.64", "68.12 ± 0.53"),
}
NAMES = {"maml": "MAML", "metadrop": "Meta-dropout"}


def measured(savedir: Path) -> str:
    """The tested accuracy with its interval, or nothing where there is none yet."""
    if not (savedir / "meta_test.json").exists():
        return ""
    test = read_test(savedir)
    return f"{test['accuracy']:.2f} ± {test['interval95']:.2f}"


def main() -> None:
    parser = Parser(prog="table1.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results", type=Path, help="folder of the runs")
    results = parser.parse_args().results
    print("| accuracy, % | Omniglot 20-way 1-shot | Omniglot 20-way 5-shot | miniImageNet 5-way 1-shot | 5-shot |")
    print("|---|---|---|---|---|")
    for (model, source), values in PUBLISHED.items():
        print(f"| {NAMES[model]}, {source} | {' | '.join(values)} |")
        if source == "TF1 repository":
            ours = [measured(results / model / cell) for cell in CELLS]
            print(f"| {NAMES[model]}, this project | {' | '.join(ours)} |")


if __name__ == "__main__":
    run(main)
