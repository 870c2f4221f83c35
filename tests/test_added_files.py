"""The examples of CONTRIBUTING.md as files of a copy of the program: its tests pass there with no other edit."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import faults
from conftest import ROOT

# The examples have other names here, since the tests of the copy add them once more.
NAMES = {
    "NearestMean": "AddedLearner", "Nearest mean": "Added learner", "nearest_mean": "added_learner",
    "sharpness": "added_sharpness", "Gaussian": "AddedNoise", "gaussian": "added_noise", "stripes": "added_data",
}  # fmt: skip
TABLE = re.compile(r"\b(LEARNERS|PERTURBATIONS|MAKERS)\b")
# The test files that look over a table, or over what follows from it.
FILES = sorted(
    {f"tests/{name}.py" for name in ("sources/test_get_data", "test_flags_and_modes", "test_imports", "test_settings")}
    | {str(file.relative_to(ROOT)) for file in (ROOT / "tests").glob("**/test_*.py") if TABLE.search(file.read_text())}
    - {str(Path(__file__).relative_to(ROOT))}
)


def add_examples(tree: Path) -> None:
    """Add each example to the program in `tree`: a file in its room, and an import and a line in the table's file."""
    for example in re.findall(r"```python\n(.*?)```", (tree / "CONTRIBUTING.md").read_text(), re.DOTALL):
        for old, new in NAMES.items():
            example = example.replace(old, new)
        *lines, last = example.strip().splitlines()
        table, name, entry = re.fullmatch(r'(\w+)\["(\w+)"\] = (.*)', last).groups()
        module = re.search(rf"^from (\S+) import {table}\b", example, re.MULTILINE)[1]
        made = re.findall(r"^(?:class|def) (\w+)", example, re.MULTILINE)[-1]
        room, content = module.split(".")[0], [line for line in lines if not line.startswith(f"from {module} import ")]
        (tree / room / f"{name}.py").write_text("\n".join(content) + "\n")
        place = tree / module.replace(".", "/")
        file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        head, start, rest = re.split(rf"^({table}\b.*= {{\n)", file.read_text(), maxsplit=1, flags=re.MULTILINE)
        first = re.search(r"^from (?!__future__)", head, re.MULTILINE).start()
        head = f"{head[:first]}from {room}.{name} import {made}\n{head[first:]}"
        file.write_text(head + start + rest.replace("\n}\n", f'\n    "{name}": {entry},\n}}\n', 1))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the program with what is added."""
    tree = tmp_path_factory.mktemp("program") / "tree"
    faults.copy_tree(tree)
    add_examples(tree)
    return tree


def assert_passes(tree: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


def test_the_tests_of_what_is_added_pass(tree):
    """A learner, a perturbation, a dataset, and their files; all tests that have one of them as a parameter."""
    assert_passes(tree, "-m", "not slow", "-k", "added_learner or added_noise or added_data", *FILES)


@pytest.mark.slow
def test_all_tests_that_look_over_the_tables_pass(tree):
    assert_passes(tree, "-m", "not slow", *FILES)
    assert_passes(tree, "-m", "slow", "-k", "added_learner or added_noise or added_data", *FILES)
