"""Print a table of the runs of runfiles/precision.sh: each learner trained in float32 and in bf16, by seed.

python runfiles/precision.py [RESULTS]
"""

from pathlib import Path

from tables import ADAPTATION, EPISODES, ROOT, TRAINING, paired, read_runs, refuse_mixed, tests_of

from errors import Parser, UserError, run
from learners import LEARNERS


def main() -> None:
    parser = Parser(prog="precision.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results/precision", type=Path, help="folder of the runs")
    results = parser.parse_args().results
    runs = read_runs(results)
    rows = {name: paired(*(runs.get(f"{name}_{kind}", {}) for kind in ("float32", "bf16"))) for name in LEARNERS}
    if not any(rows.values()):
        raise UserError(f"{results} has no seed that was tested in both precisions: run runfiles/precision.sh first")
    refuse_mixed(tests_of(runs), EPISODES | TRAINING | ADAPTATION)
    print("| | seeds | trained in float32 | trained in bf16 | difference | difference by seed |")
    print("|---|---|---|---|---|---|")
    for name, cells in rows.items():
        if cells:
            print(f"| {LEARNERS[name].title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
