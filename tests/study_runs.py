"""Runs of studies for tests of runfiles/: records and savedirs with invented numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from catalogue import Run, Study, Test
from outcomes import Outcome, config_of, digest_of, outcomes, parse
from records import Record

from studies.robustness import CLEAN, AttackSettings
from training.config import Config
from training.loops import MetaTestSettings

CHIP, OTHER_CHIP = "CPU, 2 cores of A chip with AVX2", "CPU, 2 cores of Another chip"


def curve(last: int, losses=(1.0, 1.0), validation: float | None = 0.9, first=0.99) -> dict:
    """Return a curve of four rows, in its last 200 iterations with these losses. validation: the last one; None if
    there is none after the first update."""
    later = validation is not None
    return {
        "iter": [0, max(last - 200, 1), last - 100, last], "secs": [1.0, 2.0, 3.0, 60.0], "loss": [99.0, 77.0, *losses],
        "val_acc": [first, 0.42 if later else None, None, validation],
        "val_ci95": [0.5, 0.5 if later else None, None, 0.01 if later else None],
    }  # fmt: skip


def made(study, name, seed=0, accuracies=None, *, test="test", values=None, device=CHIP, data="d", **more) -> Record:
    """Return the record of a run of a study, with the result of a test if there are accuracies.

    curve, savedir: the record's. time: of its training. config: further entries of config.json. The others are facts of
    the result.
    """
    config = config_of(study.training(name, seed, values or {})).to_json()
    config |= {"data_sha256": data, "sessions": [{"device": device, "time": more.pop("time", "2026-01-01")}]}
    config |= more.pop("config", {})
    weights = study.runs[name].weights
    own = more.pop("curve", {} if weights else curve(config["n_train_iters"]))
    more = {"weights_sha256": digest_of(weights)} | more if weights else more
    record = Record(config, own, [], savedir=more.pop("savedir", None))
    return record if accuracies is None else with_result(record, study.tests[test].flags, accuracies, **more)


def with_result(record: Record, flags: str, accuracies, **facts) -> Record:
    """Return the record with one more result, as main.py makes it with these flags. facts: other entries of it."""
    given = parse(flags)
    config = Config.of({**Config.of(record.config).for_a_test().values(), **given})
    settings = MetaTestSettings.of(given)
    identity = config.identity() | {"data_sha256": record.data, "precision": config.run.precision, "device": "CPU"}
    if given.get("across"):
        identity |= {"data_sha256": "of another dataset", "trained_on": record.config["dataset"]}
    result = {"mode": given["mode"], "provenance": {"device": record.config["sessions"][-1]["device"], "time": "1"}}
    if given["mode"] == "attack":
        attack = AttackSettings.of(given)
        identity["attack"] = json.loads(json.dumps(attack.attack().identity()))
        if attack.surrogate:
            identity["attack"]["surrogate"] = {"weights_sha256": "s", "draws": attack.surrogate_draws}
        result |= {"eps": identity["attack"]["eps"], "clean": dict.fromkeys(CLEAN, 1.0)}
    accuracies = np.asarray(accuracies, float)
    result |= {
        "accuracies": accuracies.tolist(), "accuracy": accuracies.mean(-1).tolist(),
        "interval95": (0 * accuracies.mean(-1) + 0.25).tolist(),
        "settings": identity, "checkpoint": settings.checkpoint, "iteration": record.config["n_train_iters"],
        "weights_sha256": "w", "n_test_mc_samp": config.testing.n_test_mc_samp,
        "episodes": settings.n_test_iters, "episodes_sha256": "a",
    }  # fmt: skip
    return replace(record, results=[*record.results, result | facts])


def shown(study, records) -> Outcome:
    """Return the only outcome of these records."""
    (outcome,) = outcomes(study, records)
    return outcome


def write(record: Record, savedir: Path) -> Path:
    """Write a savedir that has a record's content, and what is only on the machine: commands and folders."""
    (savedir / "tests").mkdir(parents=True, exist_ok=True)
    sessions = [one | {"command": f"main.py {savedir}"} for one in record.config["sessions"]]
    config = record.config | {"data_dir": str(savedir), "gpu_id": "-1", "sessions": sessions}
    (savedir / "config.json").write_text(json.dumps(config))
    if record.curve:
        names = ("iter", "secs", "loss", "acc", "val_loss", "val_acc", "val_ci95")
        columns = [record.curve.get(name, [0.5] * len(record.curve["iter"])) for name in names]
        rows = [",".join("" if cell is None else f"{cell:g}" for cell in row) for row in zip(*columns, strict=True)]
        (savedir / "meta_train.csv").write_text("\n".join([",".join(names), *rows, ""]))
    for number, result in enumerate(record.results):
        provenance = result["provenance"] | {"command": f"main.py {savedir}"}
        mode, content = result["mode"], result | {"provenance": provenance, "losses": [1.0]}
        del content["mode"]  # a file's name says it
        for name in (f"tests/{mode}-{number:012}", mode):
            (savedir / f"{name}.json").write_text(json.dumps(content))
    return savedir


def cells(table: str) -> list[list[str]]:
    """Return the rows of a Markdown table, its head first."""
    lines = [line for line in table.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


SMALL = Study(
    name="small",
    question="Does it work?",
    time="no time",
    train="--dataset omniglot --way 5 --query 3 --n_train_iters 800",
    runs={
        "maml": Run("MAML", "--model maml", other="metadrop"),
        "metadrop": Run("Meta-dropout", "--model metadrop", other="maml"),
        "vib": Run("VIB", "--model maml --perturbation vib", choose={"vib_beta": ("1e-3", "1e-2")}),
    },
    tests={
        "test": Test("--mode meta_test --n_test_iters 4 --n_test_mc_samp 3"),
        "joint": Test("--mode attack --n_test_iters 2 --eps 0.1", runs=("metadrop",), seeds=(1,)),
        "other": Test("--mode attack --n_test_iters 2 --eps 0.1 --surrogate {other}", runs=("maml",)),
        "self": Test("--mode attack --n_test_iters 2 --surrogate {self} --surrogate_draws 4", runs=("metadrop",)),
        "old": Test("--mode attack --attack_method square", earlier=("square_share",)),
    },
    seeds=(0, 1),
    baseline="maml",
)  # fmt: skip
