"""Results in a savedir: their files, and the paired comparison of runs. Needs no TensorFlow.

A result's identity is all that decides it: settings, data, weights, episodes, precision, kind of device. The latest
result of a mode is D/<mode>.json. Every result is also kept in D/tests/, under the digest of its identity, and is not
computed again.
"""

import contextlib
import csv
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attacks import METHODS, NORMS, THREATS
from errors import UserError, flush, user_error
from files import parse_json, write_atomically, write_if_changed
from settings import Settings, setting, short
from training.intervals import over_classes, paired_difference

COLLAPSE_CSV, COLLAPSE_JSON = "collapse.csv", "collapse.json"  # measured in training, and over test tasks
ATTACK_JSON = "attack.json"
DAMAGE = ValueError, KeyError, TypeError, AttributeError, OverflowError  # exceptions at the content of a damaged file
# Names of the entries of a result's identity; not every mode has all.
IDENTITY = (
    "settings", "checkpoint", "iteration", "weights_sha256", "n_test_mc_samp", "episodes", "episodes_sha256", "tasks",
)  # fmt: skip


class ResultFiles:
    """The files of one result: `path` (savedir/tests/<mode>-<digest>.json), `latest` (savedir/<mode>.json), and
    `partial`, the finished part of an interrupted computation."""

    def __init__(self, savedir: Path, mode: str, identity: dict):
        self.latest = savedir / f"{mode}.json"
        self.identity = json.loads(json.dumps(identity))  # as a file would return it
        self.path = self._path_of(self.identity)
        self.partial = self.path.with_suffix(".part")

    def _path_of(self, identity: dict) -> Path:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return self.latest.parent / "tests" / f"{self.latest.stem}-{digest[:12]}.json"

    def read(self) -> dict | None:
        """Return the result with this identity, or None if there is none."""
        result = read_json(self.path)
        return result if result and identity_of(result) == self.identity else None

    def checked(self, was_read: bool) -> contextlib.AbstractContextManager:
        """Return a context in which a fault at the content of a result becomes a UserError, if it was read."""
        if not was_read:
            return contextlib.nullcontext()
        return user_error(f"{self.path} is damaged", "delete it, and give the same command again", *DAMAGE)

    def write_partial(self, content: str | bytes) -> None:
        """Save the results so far; print a warning if that fails."""
        try:
            self.partial.parent.mkdir(exist_ok=True)
            write_atomically(self.partial, content)
        except OSError as fault:
            why = f"({fault.strerror}): free some space, or an interruption loses it"
            print(f"warning: cannot save the results so far in {self.partial} {why}", file=sys.stderr)

    def show_and_write(self, result: dict, show: Callable[[dict], None]) -> None:
        """Call show(result), which prints it, before the disk may turn out to be full; then write it, also if nobody
        reads standard output any more."""
        try:
            show(result)
            flush()
        except OSError:
            self.write(result)
            raise
        self.write(result)

    def write(self, result: dict) -> None:
        """Write `result`, with its identity, as the latest one. Earlier ones stay in tests/."""
        self.path.parent.mkdir(exist_ok=True)
        before = read_json(self.latest)
        if before and identity_of(before) != self.identity:
            kept = self._path_of(identity_of(before))
            if not kept.exists():  # an earlier version of this program wrote only the latest one
                write_atomically(kept, self.latest.read_bytes())
            print(f"{self.latest} had the result of another test, which is now in {kept}")
        entries = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in (result | self.identity).items())
        content = "{\n" + ",\n".join(entries) + "\n}\n"
        write_if_changed(self.path, content)
        write_if_changed(self.latest, content)
        if self.partial.exists():
            self.partial.unlink()


def read_json(path: Path) -> dict | None:
    """Return the object in a JSON file; None if there is no file or no object."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def identity_of(result: dict) -> dict:
    return {name: result[name] for name in IDENTITY if name in result}


def read_config(savedir: Path, needed: Iterable[str]) -> dict:
    """Return savedir's config.json. Raise UserError if there is none, or if it lacks a needed setting."""
    path = savedir / "config.json"
    if not path.is_file():
        raise UserError(f"there is no run in {savedir} (no config.json): check --savedir, or meta_train it first")
    with user_error(f"{path} cannot be read", "restore it from a copy, or choose another --savedir", ValueError):
        config = parse_json(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
        if missing := sorted(set(needed) - set(config)):
            raise ValueError(f"it lacks {', '.join(missing)}")
    return config


def read_test(savedir: Path) -> dict:
    """Return savedir's meta_test.json, with arrays. An earlier version recorded no "classes". Raise UserError if it is
    missing or damaged."""
    path = savedir / "meta_test.json"
    test = _read_accuracies(path, "meta_test", 1)
    if "classes" in test:
        with user_error(f"{path} cannot be read", "run --mode meta_test again", *DAMAGE):
            test["classes"] = np.array(test["classes"])
            if test["classes"].ndim != 2 or len(test["classes"]) != len(test["accuracies"]):
                raise ValueError("its lists have different lengths")
            if test["classes"].dtype.kind != "i":
                raise ValueError("its classes are not numbers")
    return test


def read_attack(path: Path) -> dict:
    """Return the result of an attack. Raise UserError if it is missing or damaged."""
    attack = _read_accuracies(path, "attack", 2)
    with user_error(f"{path} cannot be read", "run --mode attack again", *DAMAGE):
        if len({len(attack[name]) for name in ("accuracies", "accuracy", "interval95", "eps")}) > 1:
            raise ValueError("its lists have different lengths")
        settings = attack["settings"]["attack"]
        for name, known in {"norm": NORMS, "threat": THREATS, "method": METHODS}.items():
            if name in (settings.keys() | {"norm"}) and settings[name] not in known:
                raise ValueError(f"its {name} is {short(settings[name])}")
        attack["attack"] = comparable_attack(attack)
        attack["eps"] = np.asarray(attack["eps"], np.float64).tolist()
    return attack


def comparable_attack(result: dict) -> dict:
    """Return the settings of a result's attack with a name in place of its surrogate's settings: `itself`, if each run
    is its own surrogate with other noise."""
    attack = dict(result["settings"]["attack"])
    if surrogate := attack.get("surrogate"):
        digest, attack["surrogate_draws"] = surrogate.get("weights_sha256", ""), surrogate.get("draws")
        of_itself = digest == result.get("weights_sha256")
        attack["surrogate"] = "itself" if of_itself else f"{surrogate.get('model')} {digest[:12]}"
    return attack


def _read_accuracies(path: Path, mode: str, dimensions: int) -> dict:
    """Read a result with accuracies in percent. They have this number of dimensions, the last one for the episodes."""
    if not path.is_file():
        raise UserError(f"there is no {path}: run main.py --mode {mode} --savedir {path.parent} first")
    with user_error(f"{path} cannot be read", f"run --mode {mode} again", *DAMAGE):
        result = parse_json(path.read_text())
        result["accuracies"] = np.asarray(result["accuracies"], np.float64)
        accuracies, _ = result["accuracies"], result["episodes_sha256"]
        dict((result.get("settings") or {}).items())
        dict((result.get("provenance") or {}).items())
        summary = np.asarray([result["accuracy"], result["interval95"]], np.float64)
        if accuracies.ndim != dimensions or not accuracies.size or not np.isfinite(accuracies).all():
            raise ValueError("its accuracies are not a list of numbers")
        if summary.ndim != dimensions or accuracies.shape[-1] != result.get("episodes", accuracies.shape[-1]):
            raise ValueError("its lists have different lengths")
        result["accuracy"], result["interval95"] = summary.tolist()
    return result


def refuse_diverged(values: np.ndarray, first: int) -> None:
    """Raise UserError if values of the test episodes first, first + 1, ... [episodes,...] are not finite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(1)
    if not finite.all():
        raise UserError(
            f"test episode {first + finite.argmin()}: the adapted learner's outputs, or their gradients, are not "
            f"finite: give --checkpoint best or, where the learner has one, a lower --inner_lr, or train again with a "
            f"lower --inner_lr or --meta_lr"
        )


def time_of(result: dict) -> str:
    """Return the time of a result's computation, as a text that sorts by time."""
    return str((result.get("provenance") or {}).get("time"))


def latest_test(savedir: Path, weights_sha256: str) -> dict | None:
    """Return accuracy, its 95 % interval (percent), episodes and noise samples of savedir's latest test; None if that
    test used other weights, or another dataset than the run was trained on."""
    test = read_json(savedir / "meta_test.json")
    if not test or test.get("weights_sha256") != weights_sha256:
        return None
    if not isinstance(test.get("settings") or {}, dict) or trained_elsewhere(test):
        return None
    return {name: test.get(name) for name in ("accuracy", "interval95", "episodes", "n_test_mc_samp")}


def trained_elsewhere(test: dict) -> str | None:
    """Return the name of the dataset that the run was trained on, if it was tested on another one (--across)."""
    return (test.get("settings") or {}).get("trained_on")


def read_collapse(savedir: Path) -> dict[str, list[dict]]:
    """Return the rows that were measured in training (collapse.csv) as "watched" and those over test tasks
    (collapse.json) as "tested"; leave out the name of one without rows.

    A row has set, step, layer, each measure and its spread (NaN where undefined), and in collapse.csv iter.
    """
    tables = {}
    for kind, name in (("watched", COLLAPSE_CSV), ("tested", COLLAPSE_JSON)):
        path = savedir / name
        if path.is_file():
            with user_error(f"{path} cannot be read", "measure again", OSError, *DAMAGE):
                text = path.read_text()
                rows = csv.DictReader(text.splitlines()) if kind == "watched" else parse_json(text)["rows"]
                tables |= {kind: parsed} if (parsed := [parse_row(row) for row in rows]) else {}
    if not tables:
        raise UserError(
            f"there is no measurement of neural collapse in {savedir}: run main.py --mode collapse --savedir "
            f"{savedir}, or train with --collapse_every 100"
        )
    return tables


def parse_row(row: dict) -> dict:
    """Return a row with numbers in place of texts, except the set and the layer; an empty cell becomes NaN."""
    integers = ("iter", "step", "tasks")
    return {
        k: v if k in ("set", "layer") else int(v) if k in integers else math.nan if v in ("", None) else float(v)
        for k, v in row.items()
    }


def compare(savedirs: list[Path], attacks: bool = False) -> int:
    """Print each run's accuracy, and its paired difference from the first run's on the same test episodes.

    Each has two intervals: over episodes, and over test classes if a test recorded the episodes' classes.
    attacks: compare the runs' latest attacks, at each eps, and not their tests. They have no interval over classes.
    """
    tests = [read_attack(d / ATTACK_JSON) if attacks else read_test(d) for d in savedirs]
    for savedir, test in zip(savedirs[1:], tests[1:], strict=True):
        met = [(one["episodes_sha256"], one["accuracies"].shape[-1]) for one in (tests[0], test)]
        if met[0] != met[1]:
            raise UserError(
                f"{savedirs[0]} and {savedir} were tested on different episodes: test both with the same --dataset, "
                f"--way, --shot, --query, --n_test_iters and --seed"
            )
        if attacks and test["attack"] != tests[0]["attack"]:
            raise UserError(f"{savedirs[0]} and {savedir} were attacked differently: attack both with the same flags")
    episodes = tests[0]["accuracies"].shape[-1]
    classes = next((test["classes"] for test in tests if "classes" in test), None)  # the episodes are the same
    header = f"{episodes} test episodes, accuracy and difference in percent, 95 % intervals over episodes"
    print(header if classes is None else f"{header}; classes: also over other test classes")
    if attacks:
        print(", ".join(f"{name} {value}" for name, value in tests[0]["attack"].items() if name != "eps"))
        for i, eps in enumerate(tests[0]["eps"]):
            names = ("accuracy", "interval95", "accuracies")
            print(f"eps {eps:g}")
            print_differences(savedirs, [{name: test[name][i] for name in names} for test in tests], classes)
    else:
        print_differences(savedirs, tests, classes)
    return 0


@dataclass(frozen=True)
class CompareSettings(Settings):
    """The results to compare."""

    results: str = setting(
        "meta_test", "results that are compared", choices=["meta_test", "attack"], shorthand=("attack", "attack")
    )


def print_differences(savedirs: list[Path], tests: list[dict], classes: np.ndarray | None) -> None:
    """Print one line per run. tests: accuracy, interval95 and accuracies [episodes], all in percent. classes: of the
    episodes, as `over_classes` takes them; None if unknown."""
    width = max(len(str(d)) for d in savedirs)
    first = tests[0]["accuracies"] / 100
    for savedir, test in zip(savedirs, tests, strict=True):
        accuracies = test["accuracies"] / 100
        wide = None if classes is None else over_classes(accuracies, classes)
        line = f"{savedir!s:{width}}  {test['accuracy']:6.2f} {intervals_text(test['interval95'], wide)}"
        if test is not tests[0]:
            mean, *intervals = paired_difference(first, accuracies, classes)
            better, worse = 100 * np.mean(accuracies > first), 100 * np.mean(accuracies < first)
            line += f"   {mean:+.2f} {intervals_text(*intervals)}"
            line += f" (better in {better:.0f} %, worse in {worse:.0f} % of episodes)"
        if trained_on := trained_elsewhere(test):
            line += f"; trained on {trained_on}"
        print(line)


def intervals_text(interval: float, wide: float | None) -> str:
    """Return the interval over episodes and, if it is known, the wider one over classes as a text."""
    return f"+- {interval:.2f}" + ("" if wide is None else f", classes +- {wide:.2f}")
