"""Plant the faults of tests/faults/*.toml in copies of the program, one at a time, and see that their tests fail.

    python tests/faults.py                          # all of them
    python tests/faults.py "cut JPEG" training.toml # those whose name or list contains one of these texts
    python tests/faults.py --list                   # only name them
    python tests/faults.py --sound training.toml    # only see that their tests pass where there is no fault

A fault is a table [[fault]] of name, file, old, new and tests: `old` stands once in `file` and is replaced by `new`;
`tests` are below tests/, and each of them has to fail (of a parametrized test, one case). Exit code 1 where a test
lets its fault pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
LISTS = Path(__file__).with_suffix("")
SECONDS = 600  # for the tests of one fault
# A fork server loads these once, so that the tests of a fault do not wait for them.
SLOW_IMPORTS = ["tensorflow", "matplotlib.pyplot", "scipy.stats", "sklearn.manifold", "pytest"]


class Fault(NamedTuple):
    """list: the file of the list. file: the program's file, below the root. tests: below tests/."""

    list: str
    name: str
    file: str
    old: str
    new: str
    tests: list[str]


def read_lists() -> list[Fault]:
    """All faults, in the order of the lists' names."""
    lists = {path.name: tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted(LISTS.glob("*.toml"))}
    return [Fault(name, **row) for name, content in lists.items() for row in content.get("fault", [])]


def planted(fault: Fault, content: str) -> str:
    """The file's content with the fault. ValueError where `old` does not stand there once."""
    if (count := content.count(fault.old)) != 1:
        raise ValueError(f"{fault.file} has the text of {fault.name!r} {count} times, wanted once")
    return content.replace(fault.old, fault.new)


def tracked(*also: str) -> list[str] | None:
    """Return the names of the files that git tracks. also: flags of ls-files that add others. None: there is no git,
    this is no repository, or one that git does not trust because another user owns it."""
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "--cached", "-z", *also]
    if not ((ROOT / ".git").exists() and shutil.which("git")):
        return None
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if listed.returncode else [*filter(None, listed.stdout.split("\0"))]


def copy_tree(target: Path) -> None:
    """Copy what git tracks, and what it does not ignore: what is edited later does not matter to this run. If git does
    not say that, copy everything but what a user adds."""
    listed = tracked("--others", "--exclude-standard")
    if listed is None:
        added = {".venv", ".git", "data", "results"}
        shutil.copytree(ROOT, target, ignore=lambda at, _: added if at == str(ROOT) else (), dirs_exist_ok=True)
        return
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(tree: Path, tests: list[str], log: Path) -> None:
    """Run these tests of the copy `tree`, in this process, and leave pytest's report in `log`."""
    import pytest

    os.chdir(tree)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        words = [f"tests/{test}" for test in tests]
        words += ["--maxfail=1"] * (len(tests) == 1)  # of a parametrized test one case is enough
        sys.exit(pytest.main(["-n", "0", "-q", "--tb=short", "-rfE", "-p", "no:cacheprovider", *words]))


def escaped(tests: list[str], report: str) -> list[str]:
    """The tests that did not fail, by pytest's report."""
    failed = set(re.findall(r"^(?:FAILED|ERROR) tests/(\S+?::\w+)", report, re.MULTILINE))
    return [test for test in tests if test.partition("[")[0] not in failed]


def report_of(tree: Path, tests: list[str], seconds: float = SECONDS) -> str | None:
    """Pytest's report on these tests of the copy `tree`; None where they do not end. ChildProcessError where they do
    not run."""
    log = tree.with_suffix(".log")
    process = multiprocessing.get_context("forkserver").Process(target=run_tests, args=(tree, tests, log))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    report = log.read_text(errors="replace")
    if process.exitcode not in (0, 1):
        raise ChildProcessError(f"the tests did not run (exit code {process.exitcode}):\n{report[-2000:]}")
    return report


def check(fault: Fault, whole: Path) -> str:
    """Plant one fault in a copy of the tree `whole` and run its tests -> what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(dir=whole.parent) as place:
        tree = Path(place) / "tree"
        shutil.copytree(whole, tree)
        file = tree / fault.file
        try:
            file.write_text(planted(fault, file.read_text(encoding="utf-8")), encoding="utf-8")
            report = report_of(tree, fault.tests)
        except (OSError, ValueError) as reason:
            return f"{reason}\n"
        # A test that never ends does not pass.
        return "" if report is None else "".join(f"{test} passes\n" for test in escaped(fault.tests, report))


def unsound(faults: list[Fault], whole: Path) -> list[str]:
    """The faults' tests that fail in a copy without a fault, and so say nothing."""
    tests = sorted({test for fault in faults for test in fault.tests})
    report = report_of(whole, tests, SECONDS * len(tests))
    return tests if report is None else sorted(set(tests) - set(escaped(tests, report)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="texts of the faults' names, or of their lists'")
    parser.add_argument("--list", action="store_true", help="only name the faults")
    parser.add_argument("--sound", action="store_true", help="only see that their tests pass without a fault")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time (default: 2)")
    args = parser.parse_args(argv)
    chosen = [f for f in read_lists() if not args.names or any(n in f.name or n in f.list for n in args.names)]
    if not chosen:
        parser.error("no fault has such a name: --list names them")
    if args.list:
        print(*(f"{fault.list}: {fault.name}" for fault in chosen), sep="\n")
        return 0
    multiprocessing.get_context("forkserver").set_forkserver_preload(SLOW_IMPORTS)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        copy_tree(whole := Path(folder) / "whole")
        if args.sound:
            failing = unsound(chosen, whole)
            print(*(f"fails without a fault: {test}" for test in failing), f"{len(failing)} tests fail", sep="\n")
            return int(bool(failing))
        for fault, fate in zip(chosen, pool.map(lambda fault: check(fault, whole), chosen), strict=True):
            wrong += bool(fate)
            print(f"{'NOT CAUGHT' if fate else 'caught'}: {fault.list}: {fault.name}\n{fate}", end="", flush=True)
    print(f"{len(chosen) - wrong} of {len(chosen)} faults are caught")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
