"""Print a table and draw the curves of the runs of runfiles/omni_5way.sh: MAML, Meta-dropout and their difference.

python runfiles/omni_5way.py [RESULTS] [--figure FILE.png]
"""

from pathlib import Path

import numpy as np
from tables import ADAPTATION, EPISODES, ROOT, TRAINING, paired, read_runs, refuse_mixed, tests_of

from errors import Parser, UserError, run
from figures.run import read_curves
from learners import LEARNERS
from settings import to_path

NAMES = {name: LEARNERS[name].title for name in ("maml", "metadrop")}
STYLES = {"maml_published": "C0-", "maml_exact": "C0--", "metadrop_published": "C1-", "metadrop_exact": "C1--"}


def table(results: Path) -> None:
    print("| shots, meta-gradient | seeds | MAML | Meta-dropout | difference | difference by seed |")
    print("|---|---|---|---|---|---|")
    for folder in sorted(results.glob("*shot")):
        runs = read_runs(folder)
        refuse_mixed(tests_of(runs), EPISODES | TRAINING)
        for model in NAMES:
            of_learner = {kind: tests for kind, tests in runs.items() if kind.startswith(f"{model}_")}
            refuse_mixed(tests_of(of_learner), ADAPTATION)
        for gradient in ("published", "exact"):
            cells = paired(*(runs.get(f"{model}_{gradient}", {}) for model in NAMES))
            if cells:
                print(f"| {folder.name}, {gradient} | {' | '.join(cells)} |")


def figure(folder: Path, file: Path) -> None:
    """Draw training loss and validation accuracy: thin lines are seeds, thick lines their means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    runs = read_runs(folder)
    for kind in [k for k in STYLES if k in runs]:
        model, gradient = kind.split("_")
        style, label = STYLES[kind], f"{NAMES[model]}, {gradient}"
        logs = [read_curves(test["savedir"]) for test in runs[kind].values()]
        for axis, column, scale in zip(axes, ("loss", "val_acc"), (1, 100), strict=True):
            shown = (logs[0]["iter"] > 0) & np.isfinite(logs[0][column])
            curves = scale * np.array([log[column][shown] for log in logs])
            axis.plot(logs[0]["iter"][shown], curves.T, style, lw=0.6, alpha=0.4)
            axis.plot(logs[0]["iter"][shown], curves.mean(0), style, lw=2, label=label)
    axes[0].set(yscale="log", xlabel="meta-iteration", ylabel="training loss, mean of 50 iterations (nats)")
    axes[1].set(xlabel="meta-iteration", ylabel="validation accuracy (%)")
    axes[0].set_yticks([0.15, 0.2, 0.3, 0.5, 1], ["0.15", "0.2", "0.3", "0.5", "1"])
    axes[0].minorticks_off()
    axes[1].legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = Parser(prog="omni_5way.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results/omni_5way", type=Path, help="folder of the runs")
    parser.add_argument("--figure", type=to_path, metavar="FILE", help="draw the 1-shot curves into this file")
    args = parser.parse_args()
    if not read_runs(args.results / "1shot"):
        raise UserError(f"there are no tested runs in {args.results}/1shot: run runfiles/omni_5way.sh first")
    table(args.results)
    if args.figure:
        figure(args.results / "1shot", args.figure)


if __name__ == "__main__":
    run(main)
