"""The lists of planted faults: each can be planted, and its tests are there. tests/faults.py plants them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import faults
from conftest import ROOT

LISTED = faults.read_lists()


def test_names_are_distinct():
    assert len({fault.name for fault in LISTED}) == len(LISTED) > 0


@pytest.mark.parametrize("name", sorted({fault.list for fault in LISTED}))
def test_each_fault_can_be_planted_and_its_tests_are_there(name):
    for fault in (fault for fault in LISTED if fault.list == name):
        content = (ROOT / fault.file).read_text(encoding="utf-8")
        assert faults.planted(fault, content) != content, fault.name
        assert fault.tests, fault.name
        for test in fault.tests:
            file, _, function = test.partition("[")[0].partition("::")
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {re.escape(function)}\(", text, re.MULTILINE), (fault.name, test)


def test_no_fault_is_an_undefined_name(tmp_path):
    """Any test would catch that."""
    for number, fault in enumerate(LISTED):
        if fault.file.endswith(".py"):
            content = faults.planted(fault, (ROOT / fault.file).read_text(encoding="utf-8"))
            (tmp_path / f"{number}.py").write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "json"]
    done = subprocess.run([*command, "--no-cache", tmp_path], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert not [(LISTED[int(Path(one["filename"]).stem)].name, one["message"]) for one in found]


def test_a_test_that_lets_its_fault_pass_is_named():
    report = "FAILED tests/a/test_b.py::test_one[3] - assert 1 == 2\nFAILED tests/test_c.py::test_two - x\n"
    tests = ["a/test_b.py::test_one", "test_c.py::test_two", "test_c.py::test_three", "a/test_b.py::test_on"]
    assert faults.escaped(tests, report) == ["test_c.py::test_three", "a/test_b.py::test_on"]


def test_a_text_that_is_not_there_once_is_refused():
    fault = faults.Fault("x.toml", "twice", "x.py", "a", "b", [])
    with pytest.raises(ValueError, match="2 times"):
        faults.planted(fault, "a a")


def test_a_test_that_fails_without_a_fault_is_named(monkeypatch):
    made = [faults.Fault("x.toml", name, "x.py", "a", "b", [f"test_x.py::test_{name}"]) for name in ("one", "two")]
    monkeypatch.setattr(faults, "report_of", lambda *_: "FAILED tests/test_x.py::test_two - x")
    assert faults.unsound(made, ROOT) == ["test_x.py::test_two"]
    monkeypatch.setattr(faults, "report_of", lambda *_: None)  # they do not end
    assert faults.unsound(made, ROOT) == ["test_x.py::test_one", "test_x.py::test_two"]


@pytest.mark.parametrize(
    ("report", "fate"),
    [
        ("FAILED tests/test_x.py::test_x - x", ""),
        (None, ""),  # a test that never ends does not pass
        ("1 passed", "test_x.py::test_x passes\n"),
        (ChildProcessError("the tests did not run"), "the tests did not run\n"),
    ],
)
def test_a_fault_is_caught_where_its_test_fails_in_a_copy(report, fate, tmp_path, monkeypatch):
    (whole := tmp_path / "whole").mkdir()
    (whole / "x.py").write_text("a = 1")

    def report_of(tree, tests):
        assert (tree / "x.py").read_text() == "a = 2" and tests == ["test_x.py::test_x"]
        if isinstance(report, Exception):
            raise report
        return report

    monkeypatch.setattr(faults, "report_of", report_of)
    fault = faults.Fault("x.toml", "one", "x.py", "1", "2", ["test_x.py::test_x"])
    assert faults.check(fault, whole) == fate and (whole / "x.py").read_text() == "a = 1"
    assert "0 times" in faults.check(fault._replace(old="5"), whole)
