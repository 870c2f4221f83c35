"""Loss and meta-gradient against values that the TF1 reference computed (tests/golden)."""

import sys
from pathlib import Path

import numpy as np
import pytest

import parity
from conftest import cli

pytestmark = pytest.mark.usefixtures("rewritten_graphs")
GOLDEN = Path(__file__).parent / "golden"
# How far the reference's own float32 is off: a few maxima of the miniImageNet case are flipped there.
CASES = {
    "omniglot_metadrop_test_mc3": 1e-5,
    "mimgnet_metadrop": 3.5e-3,
    "omniglot_metadrop": 4e-5,
    "omniglot_metadrop_as_shipped": 6e-5,
}
SLOW = {"omniglot_metadrop", "omniglot_metadrop_as_shipped"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES])
def test_float64_is_the_reference(case):
    settings, theirs = parity.read(GOLDEN / f"{case}.npz")
    found = parity.errors(parity.compute(settings, "float64"), theirs)
    gradients = 0 if settings["test"] else 14 if settings["maml"] else 24
    # MAML's convolution biases have no gradient (batch norm takes them away), and are left out
    assert len(found) == 1 + gradients - (4 if settings["maml"] else 0)
    assert parity.largest(found) <= CASES[case], found


@pytest.fixture
def run(monkeypatch, capsys):
    """run(arguments) -> exit code and lines printed, in this process."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["parity.py", *map(str, args)])
        code = parity.main()
        return code, capsys.readouterr().out.splitlines()

    return run


def test_command_line_prints_both_and_passes(run):
    code, lines = run(GOLDEN / "omniglot_maml_as_shipped.npz", "--tolerance", 1e-5)
    assert code == 0 and lines[-1].startswith("worst of float64 ")
    assert [line.split()[0] for line in lines[1:-1]] == ["float32"] * 11 + ["float64"] * 11
    assert cli("tests/parity.py", "--help").returncode == 0  # it starts, from any folder


@pytest.mark.parametrize(("off", "code"), [("float32", 0), ("float64", 1)])
def test_float64_decides(run, monkeypatch, off, code):
    path = GOLDEN / "omniglot_metadrop_test_mc3.npz"
    _, theirs = parity.read(path)
    values = {"float32": theirs["query_loss"], "float64": theirs["query_loss"]}
    values[off] = 1.01 * values[off]
    monkeypatch.setattr(parity, "compute", lambda _, dtype: {"query_loss": values[dtype]})
    found, lines = run(path)
    assert found == code and lines[-1] == f"worst of float64 {0.01 * code:.2e}, tolerance 1.00e-03"
    assert f"{off}   1.00e-02  query_loss" in lines
    assert run(path, "--tolerance", "0.02")[0] == 0


def test_a_missing_gradient_is_an_infinite_error():
    assert parity.errors({}, {"grad/theta/conv1_w": np.ones(3)}) == {"grad/theta/conv1_w": np.inf}
