"""Print tables of the runs of runfiles/masks.sh: each learner with and without a mask, and the difference.

python runfiles/masks.py [RESULTS]
"""

from pathlib import Path

import numpy as np
from tables import ADAPTATION, EPISODES, ROOT, TRAINING, over_seeds, read_runs, refuse_mixed, tests_of

from errors import Parser, UserError, run
from training.test_results import mean_and_interval

LEARNERS = {"metanet_embedding": "Embedding-based", "metanet_original": "Original", "maml": "MAML"}
KINDS = {
    "none": "none", "mask": "one per task", "scaled": "one per task, scaled by 1/(1-p)",
    "support_only": "one per task, support only", "per_sample": "one per image (dropout)",
}  # fmt: skip
COLUMNS = (
    "learner", "mask", "seeds", "accuracy", "std of tasks", "tasks above 50 / 80 / 90 %", "loss", "difference",
    "difference by seed",
)  # fmt: skip
TASKS = (200, 1000)  # the original's number of test tasks, and this project's


def tables(results: Path) -> None:
    learners = {model: read_runs(results / model) for model in LEARNERS}
    if not any(learners.values()):
        raise UserError(f"there are no tested runs in {results}: run runfiles/masks.sh first")
    refuse_mixed([test for runs in learners.values() for test in tests_of(runs)], EPISODES)
    for runs in learners.values():
        refuse_mixed(tests_of(runs), TRAINING | ADAPTATION)
    for tasks in TASKS:
        print(f"\nThe first {tasks} test tasks:\n")
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for model, runs in learners.items():
            for kind in [k for k in KINDS if k in runs]:
                row(LEARNERS[model], KINDS[kind], runs[kind], runs.get("none", {}), tasks)


def row(learner: str, kind: str, tests: dict[int, dict], plain: dict[int, dict], tasks: int) -> None:
    """Print one row: means over seeds, and the difference from the runs without a mask, paired by seed and by task."""
    accuracies = {seed: test["accuracies"][:tasks] for seed, test in tests.items()}
    values = np.array(list(accuracies.values()))  # [seeds,tasks], percent
    if values.shape[1] < tasks:
        return
    above = " / ".join(f"{100 * np.mean(values > share):.1f}" for share in (50, 80, 90))
    loss = np.mean([test["losses"][:tasks] for test in tests.values()])
    cells = [
        learner,
        kind,
        str(len(values)),
        over_seeds(values.mean(1)),
        f"{values.std(1).mean():.2f}",
        above,
        f"{loss:.4f}",
    ]
    seeds = sorted(tests.keys() & plain.keys())
    if tests is plain or not seeds:
        cells += ["", ""]
    else:
        pairs = [accuracies[s] - plain[s]["accuracies"][:tasks] for s in seeds]
        each = ["{:+.2f} ± {:.2f}".format(*mean_and_interval(pair / 100)) for pair in pairs]
        cells += [over_seeds(np.mean(pairs, 1), "+"), ", ".join(each)]
    print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = Parser(prog="masks.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results/masks/28", type=Path, help="folder of the runs")
    tables(parser.parse_args().results)


if __name__ == "__main__":
    run(main)
