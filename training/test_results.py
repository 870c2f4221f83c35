"""Results on disk: where they are kept, their mean and interval, and the paired comparison of runs. Needs no
TensorFlow.

A result is identified by all that decides it: settings, data, weights, episodes, precision, kind of device. The latest
one of a mode is D/<mode>.json. Every one stays in D/tests/ under its identity's digest, so that none is lost, and one
that is there is not computed again.
"""

import csv
import hashlib
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from errors import UserError
from files import parse_json, write_atomically, write_if_new

COLLAPSE_CSV, COLLAPSE_JSON = "collapse.csv", "collapse.json"  # watched in training; measured over test tasks
ATTACK_JSON = "attack.json"
# What identifies a result; a mode has those that it knows of.
IDENTITY = (
    "settings", "checkpoint", "iteration", "weights_sha256", "n_test_mc_samp", "episodes", "episodes_sha256", "tasks",
)  # fmt: skip


class Store:
    """Where the result of one identity is kept: in savedir/<mode>.json and savedir/tests/<mode>-<digest>.json."""

    def __init__(self, savedir: Path, mode: str, identity: dict):
        self.latest = savedir / f"{mode}.json"
        self.identity = json.loads(json.dumps(identity))  # as it reads from a file
        self.own = self._place(self.identity)
        self.part = self.own.with_suffix(".part")  # for what is done so far

    def _place(self, identity: dict) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.latest.parent / "tests" / f"{self.latest.stem}-{digest[:12]}.json"

    def read(self) -> dict | None:
        """The result of this identity, if it is there."""
        result = read_json(self.own)
        return result if result and identity_of(result) == self.identity else None

    def write_part(self, content: str | bytes) -> None:
        """Keep what is done so far; where it cannot be written, warn and go on."""
        try:
            self.part.parent.mkdir(exist_ok=True)
            write_atomically(self.part, content)
        except OSError as fault:
            why = f"({fault.strerror}): make room there, or an interruption loses it"
            print(f"warning: cannot keep what is done so far in {self.part} {why}", file=sys.stderr)

    def write(self, result: dict) -> None:
        """Make `result` the latest one, with its identity; the latest one so far stays in tests/."""
        self.own.parent.mkdir(exist_ok=True)
        before = read_json(self.latest)
        if before and identity_of(before) != self.identity:
            place = self._place(identity_of(before))
            if not place.exists():  # a version of this program that kept one result alone
                write_atomically(place, self.latest.read_bytes())
            print(f"{self.latest} held the result of another test, which is in {place}")
        content = json.dumps(result | self.identity, indent=1) + "\n"
        write_if_new(self.own, content)
        write_if_new(self.latest, content)
        if self.part.exists():
            self.part.unlink()


def read_json(path: Path) -> dict | None:
    """The object in this file; None where there is none, or something else."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def identity_of(result: dict) -> dict:
    return {name: result[name] for name in IDENTITY if name in result}


def read_config(savedir: Path, wanted: Iterable[str]) -> dict:
    """savedir's config.json. UserError where there is none, or where it lacks a setting that is wanted."""
    path = savedir / "config.json"
    if not path.is_file():
        raise UserError(f"there is no run in {savedir} (no config.json): check --savedir, or meta_train it first")
    try:
        config = parse_json(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no object of settings")
        if missing := sorted(set(wanted) - set(config)):
            raise ValueError(f"it lacks {', '.join(missing)}")
    except ValueError as fault:
        raise UserError(f"{path} cannot be read ({fault}): it was not written by this version") from fault
    return config


def summary(accuracies: np.ndarray) -> tuple[float, float]:
    """Mean and 95 % interval, 1.96 std / sqrt(episodes), in percent, of accuracies from 0 to 1."""
    percent = 100 * np.asarray(accuracies, np.float64)
    return float(percent.mean()), float(1.96 * percent.std() / np.sqrt(len(percent)))


def read_test(savedir: Path) -> dict:
    """What meta_test left in savedir's meta_test.json."""
    path = savedir / "meta_test.json"
    if not path.is_file():
        raise UserError(f"there is no {path}: run main.py --mode meta_test --savedir {savedir} first")
    try:
        test = json.loads(path.read_text())
        test["accuracies"] = np.asarray(test["accuracies"], np.float64)
        test["accuracy"], test["interval95"], test["episodes_sha256"]
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError(f"{path} cannot be read ({fault}): run meta_test again") from fault
    return test


def test_of(savedir: Path, weights_sha256: str) -> dict | None:
    """Accuracy and its 95 % interval (percent), episodes and noise samples of savedir's latest test, where it was of
    these weights."""
    test = read_json(savedir / "meta_test.json")
    if not test or test.get("weights_sha256") != weights_sha256:
        return None
    return {name: test.get(name) for name in ("accuracy", "interval95", "episodes", "n_test_mc_samp")}


def read_collapse(savedir: Path) -> dict[str, list[dict]]:
    """What there is of "watched", the rows of collapse.csv, and "tested", those of collapse.json.

    A row is a dict of set, step, layer, the measures and their spread (NaN where undefined), and iter if watched.
    """
    kinds, path = {}, savedir / COLLAPSE_CSV
    try:
        if path.is_file():
            with open(path, newline="") as file:
                kinds["watched"] = [numbers(row) for row in csv.DictReader(file)]
        path = savedir / COLLAPSE_JSON
        if path.is_file():
            kinds["tested"] = [numbers(row) for row in json.loads(path.read_text())["rows"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{path} cannot be read ({fault!r}): measure again") from fault
    if not any(kinds.values()):
        raise UserError(
            f"there is no neural collapse in {savedir}: run main.py --mode collapse --savedir {savedir}, or train with "
            f"--collapse_every 100"
        )
    return {kind: rows for kind, rows in kinds.items() if rows}


def numbers(row: dict) -> dict:
    """Text as numbers, but for the places' names; nothing as NaN."""
    whole = ("iter", "step", "tasks")
    return {
        k: v if k in ("set", "layer") else int(v) if k in whole else math.nan if v in ("", None) else float(v)
        for k, v in row.items()
    }


def read_attack(savedir: Path) -> dict:
    """What the latest attack left in savedir's attack.json. UserError where there is none, or where it is damaged."""
    path = savedir / ATTACK_JSON
    if not path.is_file():
        raise UserError(f"there is no {path}: run main.py --mode attack --savedir {savedir} first")
    return attack_in(path)


def attack_in(path: Path) -> dict:
    """The attack in this file. UserError where it is damaged."""
    try:
        attack = json.loads(path.read_text())
        attack["accuracies"] = np.asarray(attack["accuracies"], np.float64)
        if (
            attack["accuracies"].ndim != 2
            or len({len(attack[n]) for n in ("accuracies", "accuracy", "interval95", "eps")}) > 1
        ):
            raise ValueError("its lists are of different lengths")
        attack["settings"]["attack"]["norm"], attack["episodes_sha256"]
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError(f"{path} cannot be read ({fault}): run --mode attack again") from fault
    return attack


def made_at(attack: dict) -> str:
    """When the attack was made, as a text that sorts."""
    return str(attack.get("provenance", {}).get("time"))


def compare(savedirs: list[Path], attacks: bool = False) -> int:
    """Print each run's accuracy and its paired difference from the first run's, on the same test episodes; of their
    latest `attacks`, by eps."""
    tests = [(read_attack if attacks else read_test)(d) for d in savedirs]
    for savedir, test in zip(savedirs[1:], tests[1:], strict=True):
        if test["episodes_sha256"] != tests[0]["episodes_sha256"]:
            raise UserError(
                f"{savedirs[0]} and {savedir} were tested on different episodes: test both with the same --dataset, "
                f"--way, --shot, --query, --n_test_iters and --seed"
            )
        if attacks and test["settings"]["attack"] != tests[0]["settings"]["attack"]:
            raise UserError(f"{savedirs[0]} and {savedir} were attacked differently: give both the same flags")
    episodes = tests[0]["accuracies"].shape[-1]
    print(f"{episodes} test episodes, accuracy and difference in percent, 95 % intervals")
    if not attacks:
        print_paired(savedirs, tests)
        return 0
    print(", ".join(f"{name} {value}" for name, value in tests[0]["settings"]["attack"].items() if name != "eps"))
    for i, eps in enumerate(tests[0]["eps"]):
        print(f"eps {eps:g}")
        print_paired(
            savedirs, [{name: test[name][i] for name in ("accuracy", "interval95", "accuracies")} for test in tests]
        )
    return 0


def print_paired(savedirs: list[Path], tests: list[dict]) -> None:
    """A line a run. tests: accuracy and interval95 (percent), accuracies [episodes] (percent)."""
    width = max(len(str(d)) for d in savedirs)
    for savedir, test in zip(savedirs, tests, strict=True):
        line = f"{savedir!s:{width}}  {test['accuracy']:6.2f} +- {test['interval95']:.2f}"
        if test is not tests[0]:
            difference = (test["accuracies"] - tests[0]["accuracies"]) / 100
            mean, interval = summary(difference)
            better, worse = 100 * np.mean(difference > 0), 100 * np.mean(difference < 0)
            line += f"   {mean:+.2f} +- {interval:.2f} (better in {better:.0f} %, worse in {worse:.0f} % of episodes)"
        print(line)
