"""Read the runs that the tables show, refuse those that cannot be compared, and format cells.

Importing this module lets a script of this folder import the programs of the folder above.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data  # noqa: E402
from errors import UserError  # noqa: E402
from figures.run import read_curves  # noqa: E402
from sources.preparation import Preparation  # noqa: E402
from training.test_results import mean_and_interval, read_test  # noqa: E402

# Facts that a test records, and the words for them in the message if two tests of one table differ.
DATA = {"data_sha256": "data"}
EPISODES = DATA | {"episodes_sha256": "test episodes", "precision": "precisions"}
TRAINING = {"iteration": "training iterations"}
SAMPLES = {"n_test_mc_samp": "noise samples"}
ADAPTATION = SAMPLES | {
    "n_steps": "inner steps",
    "inner_lr": "inner rates",
    "test_statistics": "statistics of batch norm in testing",
}


def split_command(words: list[str]) -> tuple[list[str], str]:
    """Return the arguments of the script itself, and as one text the flags after --, which are main.py's."""
    end = words.index("--") if "--" in words else len(words)
    return words[:end], " ".join(words[end + 1 :])


def read_runs(folder: Path) -> dict[str, dict[int, dict]]:
    """Return kind -> seed -> test (`read_run`) for the tested runs KIND_SEED in `folder`."""
    runs = {}
    for path in sorted(folder.glob("*_*/meta_test.json")):
        kind, seed = path.parent.name.rsplit("_", 1)
        if seed.isdigit():
            runs.setdefault(kind, {})[int(seed)] = read_run(path.parent)
    return runs


def read_run(savedir: Path) -> dict:
    """Return the run's meta_test.json, with its savedir."""
    return read_test(savedir) | {"savedir": savedir}


def last_validation(savedir: Path) -> tuple[float, float] | None:
    """Return accuracy and 95 % interval, in percent, of the run's last validation; None if there is none after the
    first update."""
    path = savedir / "meta_train.csv"
    if not path.exists() or len(path.read_text(errors="replace").splitlines()) < 2:  # the names of the columns alone
        return None
    curves = read_curves(savedir)
    updated = np.flatnonzero(np.isfinite(curves["val_acc"]) & (curves["iter"] > 0))
    return tuple(100 * curves[name][updated[-1]] for name in ("val_acc", "val_ci95")) if updated.size else None


def task_pictures(split: data.Split, prepare: Preparation, task: int, way: int, images: int) -> list[list]:
    """Return the original pictures (Pillow's) of the test task of this number: `images` of each of `way` classes."""
    (classes,), (numbers,) = data.sample(split, "test", 0, task, 1, way, images)
    return [[prepare.picture_of(split.image(c, i)) for i in row] for c, row in zip(classes, numbers, strict=True)]


def tests_of(runs: dict[str, dict[int, dict]]) -> list[dict]:
    """Return all tests in a result of `read_runs`."""
    return [test for seeds in runs.values() for test in seeds.values()]


def refuse_mixed(tests: Iterable[dict], facts: dict[str, str]) -> None:
    """UserError if two of these tests differ in one of these facts.

    A fact that a test does not record (it may be of an older version) agrees with everything.
    """
    recorded = {}  # fact -> the savedir of the first test that records it, and the value
    for test in tests:
        facts_of_test = test.get("settings", {}) | test
        for name in facts.keys() & facts_of_test.keys():
            first, value = recorded.setdefault(name, (test["savedir"], facts_of_test[name]))
            if facts_of_test[name] != value:
                values = f"{str(value)[:12]} and {str(facts_of_test[name])[:12]}"
                raise UserError(
                    f"{first} and {test['savedir']} cannot be in one table, because their {facts[name]} differ "
                    f"({values}): train and test both with the same flags"
                )


def over_seeds(values, sign: str = "-") -> str:
    """Return mean and 95 % interval (Student's t) as text. sign: "+" shows a plus."""
    values = np.asarray(values)
    mean = f"{values.mean():{sign}.2f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.2f}"


def paired(one: dict[int, dict], other: dict[int, dict]) -> list[str] | None:
    """Return table cells for the seeds that two kinds of runs (seed -> test) share: their number, the accuracy of each
    kind, the difference other - one, and this difference by seed with its interval over the paired episodes. None if
    they share no seed."""
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        return None
    a, b = (np.array([tests[seed]["accuracy"] for seed in seeds]) for tests in (one, other))
    differences = [mean_and_interval((other[seed]["accuracies"] - one[seed]["accuracies"]) / 100) for seed in seeds]
    each = ", ".join(f"{mean:+.2f} ± {interval:.2f}" for mean, interval in differences)
    return [str(len(seeds)), over_seeds(a), over_seeds(b), over_seeds(b - a, "+"), each]
