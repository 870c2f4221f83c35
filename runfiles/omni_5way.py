"""Table and curves of the runs that runfiles/omni_5way.sh leaves: MAML, Meta-dropout and their difference, by seed.

python runfiles/omni_5way.py [RESULTS] [--figure FILE.png]
"""

import csv
import sys
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from errors import Parser, UserError, run  # noqa: E402
from results import read_test, summary  # noqa: E402

NAMES = {"maml": "MAML", "metadrop": "Meta-dropout"}
STYLES = {("maml", "published"): "C0-", ("maml", "exact"): "C0--",
          ("metadrop", "published"): "C1-", ("metadrop", "exact"): "C1--"}  # fmt: skip


def found(folder: Path) -> dict[tuple[str, str], dict[int, Path]]:
    """(model, meta-gradient) -> seed -> savedir, of the tested runs MODEL_GRADIENT_SEED in folder."""
    runs = {}
    for path in sorted(folder.glob("*_*_*/meta_test.json")):
        model, gradient, seed = path.parent.name.split("_")
        runs.setdefault((model, gradient), {})[int(seed)] = path.parent
    return runs


def over_seeds(values, sign: str = "-") -> str:
    """Mean and 95 % interval by Student's t; sign "+": a plus is shown."""
    values = np.asarray(values)
    mean = f"{values.mean():{sign}.2f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.2f}"


def table(results: Path) -> None:
    print("| shots, meta-gradient | seeds | MAML | Meta-dropout | difference | difference by seed |")
    print("|---|---|---|---|---|---|")
    for folder in sorted(results.glob("*shot")):
        runs = found(folder)
        for gradient in ("published", "exact"):
            maml, drop = (runs.get((model, gradient), {}) for model in NAMES)
            seeds = sorted(maml.keys() & drop.keys())
            if not seeds:
                continue
            tests = [[read_test(of[s]) for s in seeds] for of in (maml, drop)]
            if len({t["episodes_sha256"] for both in tests for t in both}) > 1:
                raise UserError(f"the runs in {folder} were tested on different episodes: run meta_test again")
            a, b = (np.array([t["accuracy"] for t in both]) for both in tests)
            pairs = [summary((t["accuracies"] - u["accuracies"]) / 100) for u, t in zip(*tests, strict=True)]
            each = [f"{mean:+.2f} ± {interval:.2f}" for mean, interval in pairs]
            cells = [over_seeds(a), over_seeds(b), over_seeds(b - a), ", ".join(each)]
            print(f"| {folder.name}, {gradient} | {len(seeds)} | {' | '.join(cells)} |")


def figure(folder: Path, file: Path) -> None:
    """Loss in training and accuracy in validation: thin lines are seeds, thick ones their means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for (model, gradient), runs in found(folder).items():
        style, label = STYLES[model, gradient], f"{NAMES[model]}, {gradient}"
        rows = [list(csv.DictReader((d / "meta_train.csv").read_text().splitlines())) for d in runs.values()]
        for axis, column, scale in zip(axes, ("loss", "val_acc"), (1, 100), strict=True):
            curves = [[(int(r["iter"]), scale * float(r[column])) for r in rs if r[column]] for rs in rows]
            x = [i for i, _ in curves[0] if i]
            curves = np.array([[y for i, y in c if i] for c in curves])
            axis.plot(x, curves.T, style, lw=0.6, alpha=0.4)
            axis.plot(x, curves.mean(0), style, lw=2, label=label)
    axes[0].set(yscale="log", xlabel="meta-iteration", ylabel="training loss, mean of 50 iterations (nats)")
    axes[1].set(xlabel="meta-iteration", ylabel="validation accuracy (%)")
    axes[0].set_yticks([0.15, 0.2, 0.3, 0.5, 1], ["0.15", "0.2", "0.3", "0.5", "1"])
    axes[0].minorticks_off()
    axes[1].legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = Parser(prog="omni_5way.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results/omni_5way", type=Path, help="folder of the runs")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the 1-shot curves into this file")
    args = parser.parse_args()
    if not found(args.results / "1shot"):
        raise UserError(f"there are no tested runs in {args.results}/1shot: run runfiles/omni_5way.sh first")
    table(args.results)
    if args.figure:
        figure(args.results / "1shot", args.figure)


if __name__ == "__main__":
    run(main)
