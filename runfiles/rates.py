"""Print tables of the runs of runfiles/rates.sh: validation accuracy by inner rate and meta rate, and the test of the
best rates.

python runfiles/rates.py [RESULTS] [--best LEARNER GRADIENT]
"""

from pathlib import Path

from tables import EPISODES, ROOT, SAMPLES, TRAINING, last_validation, paired, read_runs, refuse_mixed, tests_of

from errors import Parser, UserError, run
from learners import LEARNERS

NAMES, GRADIENTS = ("maml", "metadrop"), ("published", "exact")


def validations(results: Path, model: str, gradient: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Return (inner rate, meta rate) -> last validation accuracy of seed 0 and its 95 % interval, in percent."""
    folders = sorted(results.glob(f"{model}_{gradient}_*_*_0"))
    accuracies = {tuple(folder.name.split("_")[-3:-1]): last_validation(folder) for folder in folders}
    return {rates: accuracy for rates, accuracy in accuracies.items() if accuracy}


def best(results: Path, model: str, gradient: str) -> tuple[str, str]:
    """Return the inner rate and the meta rate with the highest validation accuracy."""
    accuracies = validations(results, model, gradient)
    if not accuracies:
        raise UserError(f"{results} has no trained runs of {model} with the {gradient} gradient: run runfiles/rates.sh")
    return max(accuracies, key=accuracies.get)


def grid(results: Path, model: str, gradient: str) -> None:
    """Print the validation accuracies, a row per inner rate and a column per meta rate."""
    accuracies = validations(results, model, gradient)
    inner, meta = (sorted(set(rates), key=float) for rates in zip(*accuracies, strict=True))
    chosen = best(results, model, gradient)
    print(f"\n| {LEARNERS[model].title}, {gradient} | {' | '.join(f'meta_lr {rate}' for rate in meta)} |")
    print("|---" * (1 + len(meta)) + "|")
    for i in inner:
        cells = ["{:.2f} ± {:.2f}".format(*accuracies[i, m]) if (i, m) in accuracies else "none" for m in meta]
        cells = [f"**{cell}**" if (i, m) == chosen else cell for cell, m in zip(cells, meta, strict=True)]
        print(f"| inner_lr {i} | {' | '.join(cells)} |")


def main() -> None:
    parser = Parser(prog="rates.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results/rates", type=Path, help="folder of the runs")
    parser.add_argument(
        "--best", nargs=2, metavar=("LEARNER", "GRADIENT"), help="print the best rates and nothing else"
    )
    args = parser.parse_args()
    if args.best:
        print(*best(args.results, *args.best))
        return
    kinds = {}
    for model in NAMES:
        for gradient in GRADIENTS:
            kinds[model, gradient] = "_".join((model, gradient, *best(args.results, model, gradient)))
            grid(args.results, model, gradient)
    runs = {kind: tests for kind, tests in read_runs(args.results).items() if kind in kinds.values()}
    refuse_mixed(tests_of(runs), EPISODES | TRAINING | SAMPLES)
    tests = {key: runs.get(kind, {}) for key, kind in kinds.items()}
    print("\n| each with its best rates | seeds | the first | the second | difference | difference by seed |")
    print("|---|---|---|---|---|---|")
    pairs = [((NAMES[0], a), (NAMES[1], b)) for a in GRADIENTS for b in GRADIENTS]
    pairs += [((model, GRADIENTS[0]), (model, GRADIENTS[1])) for model in NAMES]
    for one, other in pairs:
        cells = paired(tests[one], tests[other])
        if cells:
            words = " and ".join(f"{LEARNERS[model].title}, {gradient}" for model, gradient in (one, other))
            print(f"| {words} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
