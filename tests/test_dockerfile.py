"""The Dockerfile's steps, as far as they can be followed without Docker."""

import re
import shutil
import subprocess

import pytest

import faults
from conftest import ROOT

STEPS = re.findall(r"^([A-Z]+) (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_what_is_copied_first_is_all_that_the_installation_needs(tmp_path):
    (first, everything) = (words for step, words in STEPS if step == "COPY")
    *names, place = first.split()
    assert (place, everything) == ("./", ". .")
    for name in names:
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(["make", "--dry-run", ".venv"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "-r requirements.txt" in done.stdout, done.stderr
    assert ("RUN", "make .venv") in STEPS and ("CMD", '["make", "demo"]') in STEPS


def test_the_python_is_one_that_the_project_takes():
    (image,) = (words for step, words in STEPS if step == "FROM")
    version = tuple(map(int, re.fullmatch(r"python:(\d+)\.(\d+)-slim", image).groups()))
    low, high = re.search(
        r'requires-python = ">=(\d+\.\d+),<(\d+\.\d+)"', (ROOT / "pyproject.toml").read_text()
    ).groups()
    assert tuple(map(int, low.split("."))) <= version < tuple(map(int, high.split(".")))


def test_no_file_of_the_program_is_left_out():
    if (tracked := faults.tracked()) is None:
        pytest.skip("git lists the files of the program")
    lines = (ROOT / ".dockerignore").read_text().split()
    everywhere = {line.removeprefix("**/") for line in lines if line.startswith("**/")}
    assert len(tracked) > 200
    for name in tracked:
        assert name.split("/")[0] not in lines and not everywhere & set(name.split("/")), name
