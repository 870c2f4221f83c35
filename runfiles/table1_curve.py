"""Print and draw accuracy by iterations, for one run of each learner that train_jax.py --test_every has tested.

python runfiles/table1_curve.py [MAML.npz METADROP.npz] [--figure FILE.png]
"""

from pathlib import Path

import numpy as np
from table1 import NAMES, PUBLISHED
from tables import ROOT

from errors import Parser, UserError, run
from settings import to_path
from training import weights

FILES = [ROOT / f"pretrained/omniglot_20way_1shot_{model}.npz" for model in NAMES]
COLORS = {"maml": "C0", "metadrop": "C1"}
ALIKE = ("data_sha256", "train_split", "way", "shot", "query", "metabatch")  # equal in runs that are compared


def read_curves(paths: list[Path]) -> dict[str, dict[int, dict]]:
    """Read model -> iteration -> test from files of weights. UserError if they are not one run of each learner, have no
    tests from training, or cannot be compared."""
    curves, facts = {}, {}
    for path in paths:
        about = weights.read(path).about
        settings = about["settings"]
        curves[settings["model"]] = {test["iteration"]: test for test in about.get("tests", [])}
        if not about.get("tests"):
            raise UserError(f"{path} has no tests from training: make it with train_jax.py --test_every")
        for name in ALIKE:
            if facts.setdefault(name, settings[name]) != settings[name]:
                raise UserError(f"{paths[0]} and {path} cannot be compared: their {name} differ")
    if set(curves) != set(NAMES):
        raise UserError(f"these are files of {' and '.join(curves)}: give one of {' and one of '.join(NAMES)}")
    return curves


def table(curves: dict[str, dict[int, dict]]) -> None:
    """Print the table. The interval of the difference assumes independent tests. These share their episodes, so it is
    too wide."""
    print(f"| iteration | {' | '.join(NAMES.values())} | difference |")
    print("|---|---|---|---|")
    for iteration in sorted(set.intersection(*map(set, curves.values()))):
        one, other = (curves[model][iteration] for model in NAMES)
        cells = [f"{test['accuracy']:.2f} ± {test['interval95']:.2f}" for test in (one, other)]
        half = np.hypot(one["interval95"], other["interval95"])
        print(f"| {iteration} | {' | '.join(cells)} | {other['accuracy'] - one['accuracy']:+.2f} ± {half:.2f} |")


def figure(curves: dict[str, dict[int, dict]], file: Path) -> None:
    """Draw 95 % intervals over the test episodes as bars, and the paper's final accuracies as dashed lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for model, tests in curves.items():
        iterations = sorted(tests)
        accuracy, interval = ([tests[i][name] for i in iterations] for name in ("accuracy", "interval95"))
        axis.errorbar(iterations, accuracy, interval, color=COLORS[model], marker="o", ms=3, label=NAMES[model])
        paper = PUBLISHED[model, "paper"][0]
        axis.axhline(float(paper.split()[0]), color=COLORS[model], ls="--", lw=0.8, label=f"{NAMES[model]}, paper")
    episodes = min(test["episodes"] for tests in curves.values() for test in tests.values())
    axis.set(xlabel="meta-iteration", ylabel=f"test accuracy (%), {episodes} episodes")
    axis.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = Parser(prog="table1_curve.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "files",
        nargs="*",
        default=FILES,
        type=Path,
        metavar="FILE",
        help="files of weights, one per learner (default: the 20-way pair of pretrained/)",
    )
    parser.add_argument("--figure", type=to_path, metavar="FILE", help="draw the curves into this file")
    args = parser.parse_args()
    curves = read_curves(args.files)
    table(curves)
    if args.figure:
        figure(curves, args.figure)


if __name__ == "__main__":
    run(main)
