"""Print Table 1 as Markdown: the paper, the TF1 repository, and the results so far in results/.

python runfiles/table1.py [RESULTS]
"""

from pathlib import Path

from tables import DATA, EPISODES, ROOT, SAMPLES, TRAINING, read_run, refuse_mixed

from errors import Parser, run

# cell -> its last iteration
CELLS = {"omni_1shot": 40000, "omni_5shot": 40000, "mimg_1shot": 60000, "mimg_5shot": 60000}
PUBLISHED = {
    ("maml", "paper"): ("95.23 ± 0.17", "98.38 ± 0.07", "49.58 ± 0.65", "64.55 ± 0.52"),
    ("maml", "TF1 repository"): ("94.63 ± 0.17", "98.26 ± 0.07", "48.73 ± 0.64", "65.70 ± 0.52"),
    ("metadrop", "paper"): ("96.63 ± 0.13", "98.73 ± 0.06", "51.93 ± 0.67", "67.42 ± 0.52"),
    ("metadrop", "TF1 repository"): ("96.17 ± 0.15", "98.86 ± 0.06", "51.67 ± 0.64", "68.12 ± 0.53"),
}
NAMES = {"maml": "MAML", "metadrop": "Meta-dropout"}


def read_cells(results: Path) -> dict[tuple[str, str], dict]:
    """Return (model, cell) -> its test, without the missing ones. UserError if the two learners of a cell, the cells of
    a dataset or the cells of a learner cannot be compared."""
    tests = {
        (model, cell): read_run(results / model / cell)
        for model in NAMES
        for cell in CELLS
        if (results / model / cell / "meta_test.json").exists()
    }
    for column in CELLS:
        refuse_mixed([test for (_, cell), test in tests.items() if cell == column], EPISODES | TRAINING)
    for dataset in ("omni", "mimg"):
        refuse_mixed([test for (_, cell), test in tests.items() if cell.startswith(dataset)], DATA)
    for learner in NAMES:
        refuse_mixed([test for (model, _), test in tests.items() if model == learner], SAMPLES)
    return tests


def main() -> None:
    parser = Parser(prog="table1.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="?", default=ROOT / "results", type=Path, help="folder of the runs")
    tests = read_cells(parser.parse_args().results)
    print("| accuracy, % | Omniglot 20-way 1-shot | Omniglot 20-way 5-shot | miniImageNet 5-way 1-shot | 5-shot |")
    print("|---|---|---|---|---|")
    for (model, source), values in PUBLISHED.items():
        print(f"| {NAMES[model]}, {source} | {' | '.join(values)} |")
        if source == "TF1 repository":
            ours = [describe(tests.get((model, cell)), last) for cell, last in CELLS.items()]
            print(f"| {NAMES[model]}, this project | {' | '.join(ours)} |")


def describe(test: dict | None, last: int) -> str:
    """Return the cell of a test; it names the iteration if training had not reached the last one."""
    if not test:
        return ""
    accuracy = "{accuracy:.2f} ± {interval95:.2f}".format(**test)
    iteration = test.get("iteration", last)  # a test of an older version does not record it
    return accuracy if iteration >= last else f"{accuracy} ({iteration:,} of {last:,} iterations)"


if __name__ == "__main__":
    run(main)
