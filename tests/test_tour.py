"""docs/tour.ipynb runs from its first cell to its last, and shows the outputs of such a run."""

import json
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

import faults
from conftest import ROOT

NOTEBOOK = ROOT / "docs/tour.ipynb"
BOOK = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = [cell for cell in BOOK["cells"] if cell["cell_type"] == "code"]
SOURCES = ["".join(cell["source"]) for cell in CODE]
CPU_SECONDS = 600  # of all processes: five minutes of two cores; those of an AMD EPYC take about 100
# Run the cells in one namespace, as Jupyter does, and write what each of them prints.
KERNEL = """
import contextlib, io, json, sys
namespace, printed = {"__name__": "__main__"}, []
for number, source in enumerate(json.load(sys.stdin), 1):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, f"cell {number}", "exec"), namespace)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def files_of(tree):
    paths = (path for path in tree.rglob("*") if "__pycache__" not in path.parts)
    return {path: path.lstat().st_mtime_ns for path in paths if not path.is_dir()}


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Tour:
    """The notebook is run in a new clone. printed: the text that each cell prints. work: the folder of its files."""

    def __init__(self, folder):
        self.tree, temporary = folder / "clone", folder / "temporary"
        temporary.mkdir()
        faults.copy_tree(self.tree)
        self.before, began = files_of(self.tree), cpu_seconds()
        done = subprocess.run(
            [sys.executable, "-W", "ignore:FigureCanvasAgg is non-interactive", "-c", KERNEL],
            input=json.dumps(SOURCES),
            env=os.environ | {"TMPDIR": str(temporary), "MPLBACKEND": "Agg"},
            cwd=self.tree / "docs",  # as Jupyter does
            capture_output=True, text=True, timeout=1200, check=False,
        )  # fmt: skip
        self.seconds, self.exit_code, self.errors = cpu_seconds() - began, done.returncode, done.stderr
        self.printed, self.work = json.loads(done.stdout or "[]"), next(temporary.glob("tour-*"), None)

    def numbers(self, pattern):
        """Return the groups of all matches in the printed text, as floats."""
        found = re.findall(pattern, "".join(self.printed), re.MULTILINE)
        return np.array(found, float).tolist()


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    return Tour(tmp_path_factory.mktemp("tour"))


def test_it_runs_in_time_without_warnings_and_leaves_the_checkout_as_it_is(tour):
    assert tour.exit_code == 0 and "Warning" not in tour.errors, tour.errors
    assert files_of(tour.tree) == tour.before
    assert tour.seconds < CPU_SECONDS


def without_numbers(text):
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d+(\.\d+)?", "#", text)).strip()


def test_the_outputs_that_it_shows_are_those_of_its_cells(tour):
    """Another processor rounds otherwise: the text has to agree but for its numbers."""
    for number, (cell, printed) in enumerate(zip(CODE, tour.printed, strict=True), 1):
        shown = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert without_numbers(shown) == without_numbers(printed), f"cell {number}"


def test_what_the_text_says_comes_out(tour):
    start, end = [], []
    for model in ("maml", "metadrop"):
        curve = np.genfromtxt(tour.work / f"first/{model}/meta_train.csv", delimiter=",", names=True)
        start.append(curve["val_acc"][0])
        end.append(curve["val_acc"][-1])
    assert end[0] > end[1] > 0.5 and start[0] < end[0] and start[1] < end[1]  # "Both learn, Meta-dropout more slowly."
    ((on_strokes, elsewhere),) = tour.numbers(r"^mean factor: (\S+) on the strokes, (\S+) elsewhere")
    assert on_strokes < 0.8 * elsewhere
    maml, metadrop, nearest = tour.numbers(r"^accuracy : (\S+) \+-")
    assert 50 < nearest < 75 < 90 < maml < metadrop < 99
    (promised,) = re.findall(r"^results/demo/maml +(\S+) ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert abs(maml - float(promised)) < 0.3  # the same weights and episodes, without noise: an image of 3000 is 0.03
    (paired, unpaired) = tour.numbers(r"^(?:un)?paired +(\S+) \+- (\S+)")
    assert [paired] == tour.numbers(r"^metadrop .* (\S+) \+- (\S+), classes \S+ \S+ \(better")
    assert paired[0] == unpaired[0] and paired[1] < unpaired[1]
    (own, left_out) = tour.numbers(r"^(\d+) of (\d+) are right")
    assert own[0] >= 12 and own[1] == 15 and left_out[0] >= 7 and left_out[1] == 9


def test_its_outputs_are_complete_and_of_no_particular_machine():
    assert [cell["execution_count"] for cell in CODE] == [*range(1, len(CODE) + 1)]
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}  # no warnings
    for cell, source in zip(CODE, SOURCES, strict=True):
        draws = "plt.show()" in source or source.splitlines()[-1].startswith("Image.")
        assert draws == any("image/png" in output.get("data", {}) for output in cell["outputs"])
    texts = ["".join(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs]
    assert not [text for text in texts if re.search(r"(?:^|\s|['\"(])/\w", text)]  # no path from the root
    assert NOTEBOOK.stat().st_size < 400_000


def test_its_links_lead_to_files():
    texts = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "markdown"]
    links = [link.partition("#")[0] for text in texts for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links and [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
