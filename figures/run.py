"""What a run has left in its savedir, read for drawing."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from attacks import NORMS
from errors import UserError
from model import LEARNERS
from studies import collapse_measures, export_format
from training import test_results


@dataclass
class Run:
    """One savedir. What it has left is read when it is asked for: UserError where it is missing or damaged."""

    savedir: Path
    config: dict
    name: str = ""

    @property
    def label(self) -> str:
        """The name in a figure."""
        return in_figure(self.name)

    @property
    def learner(self) -> str:
        """As `describe`, in a figure: runs on other tasks, or with another seed, are called so, too."""
        return in_figure(describe(self.config))

    @cached_property
    def export(self) -> dict:
        """The arrays of export.npz by name, and its settings."""
        return export_format.read(self.savedir)

    @property
    def perturbs(self) -> bool:
        """Does its export hold perturbed copies?"""
        return self.export["perturbed_features"].shape[2] > 0

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """The columns of meta_train.csv by name."""
        return read_curves(self.savedir)

    @cached_property
    def test(self) -> dict:
        """The result in meta_test.json, and its quantum."""
        return read_test(self.savedir, self.config)

    @cached_property
    def collapse(self) -> dict[str, list[dict]]:
        """The rows of neural collapse, "watched" in training and "tested" over test tasks; at least one of them."""
        return read_collapse(self.savedir)

    @cached_property
    def attacks(self) -> dict[tuple[str, str], dict]:
        """By norm and threat the latest attack: what attack.json says, and its `sheet`: images [E,way,H,W,C], labels
        [E,way]."""
        return read_attacks(self.savedir)


def open_runs(savedirs: list[Path]) -> list[Run]:
    """The runs in these folders, with names that are all different.

    A run is called as `describe` has it; with its folder's name where another one has the same.
    UserError where a folder holds no run.
    """
    runs = [Run(savedir, test_results.read_config(savedir, ["model"])) for savedir in savedirs]
    names = [describe(run.config) for run in runs]
    for run, name in zip(runs, names, strict=True):
        run.name = f"{name} ({run.savedir.name})" if names.count(name) > 1 else name
    if len({run.name for run in runs}) < len(runs):
        for run in runs:
            run.name = str(run.savedir)
    return runs


def in_figure(text: str) -> str:
    """The text as matplotlib shows it whole: a dollar would begin a formula, and a legend leaves out what begins with
    an underscore."""
    return (" " * text.startswith("_") + text).replace("$", r"\$")


def describe(config: dict) -> str:
    """A run's learner, how it is perturbed, what it adapts, by which meta-gradient and on what it was trained."""
    model, perturbation = str(config["model"]), config.get("perturbation") or "none"
    title = LEARNERS[model].title if model in LEARNERS else model
    adapt, gradient = config.get("adapt") or "all", config.get("meta_gradient") or "published"
    mixed, train_way = config.get("mix_set") or "support", config.get("train_way") or config.get("way")
    parts = [f"{perturbation}"] * (perturbation != "none") + [f"{mixed} set"] * (mixed != "support")
    parts += [f"{adapt} adapted"] * (adapt != "all")
    parts += [f"{gradient.replace('_', ' ')} gradient"] * (gradient != "published")
    parts += [f"adversarial {config['adversarial']}"] if config.get("adversarial") else []
    parts += [f"trained {train_way}-way"] * (train_way != config.get("way"))
    return ", ".join([title, *parts])


def refuse_other_tasks(first: Run, other: Run) -> None:
    """UserError where the exports of these runs hold different tasks; one may hold more of them."""
    prints = [run.export["fingerprints"] for run in (first, other)]
    shared = min(map(len, prints))
    if (prints[0][:shared] != prints[1][:shared]).any():
        raise UserError(
            f"{first.savedir} and {other.savedir} hold different tasks: export both with the same --dataset, --way, "
            f"--shot, --query and --seed"
        )


def read_curves(savedir: Path) -> dict[str, np.ndarray]:
    """The columns [rows] of meta_train.csv by name; NaN where a cell is empty. UserError: it is missing or damaged."""
    path, line = savedir / "meta_train.csv", 0
    if not path.is_file():
        raise UserError(f"there is no {path}: run main.py --mode meta_train --savedir {savedir} first")
    columns = {name: [] for name in ("iter", "secs", "loss", "acc", "val_loss", "val_acc", "val_ci95")}
    try:
        with open(path, newline="") as file:
            for row in (reader := csv.DictReader(file)):
                line = reader.line_num
                if None in row or None in row.values():
                    raise ValueError(f"{len(reader.fieldnames)} cells are wanted")
                for name, cells in columns.items():
                    cells.append(float(row[name] or "nan"))
        if not line:
            raise ValueError("no row yet")
    except (OSError, ValueError, KeyError, csv.Error) as fault:
        raise UserError(f"{path} cannot be read (line {line}: {fault}): mend or delete that line") from fault
    return {name: np.array(cells) for name, cells in columns.items()}


def read_test(savedir: Path, config: dict) -> dict:
    """What meta_test left, and `quantum`: what one query image is of an episode's accuracy, in percent.

    config: the run's settings, for what the test's own do not say. UserError: it is missing or damaged.
    """
    test = test_results.read_test(savedir)
    try:
        accuracies = test["accuracies"]
        if accuracies.ndim != 1 or not accuracies.size or not np.isfinite(accuracies).all():
            raise ValueError("its accuracies are not a list of numbers")
        for name in ("accuracy", "interval95"):
            test[name] = float(test[name])
        test["quantum"] = quantum(config | (test.get("settings") or {}))
    except (ValueError, TypeError, ZeroDivisionError) as fault:
        raise UserError(f"{savedir / 'meta_test.json'} cannot be read ({fault}): run meta_test again") from fault
    return test


def quantum(settings: dict) -> float:
    """What one query image is of an episode's accuracy, in percent. ValueError where the settings do not tell."""
    if missing := {"way", "query"} - set(settings):
        raise ValueError(f"its settings lack {' and '.join(sorted(missing))}")
    share = 100 / (int(settings["way"]) * int(settings["query"]))
    if not share > 0:
        raise ValueError(f"a way of {settings['way']} and {settings['query']} queries")
    return share


def read_collapse(savedir: Path) -> dict[str, list[dict]]:
    """As test_results.read_collapse. UserError where a measurement lacks a place, a measure, or the logits."""
    kinds = test_results.read_collapse(savedir)
    for kind, rows in kinds.items():
        wanted = {"set", "step", "layer", *collapse_measures.NAMES}
        if kind == "watched":
            wanted |= {"iter", "tasks"}
        if fault := fault_of(rows, wanted):
            name = test_results.COLLAPSE_CSV if kind == "watched" else test_results.COLLAPSE_JSON
            raise UserError(f"{savedir / name} cannot be read ({fault}): measure again")
    return kinds


def read_attacks(savedir: Path) -> dict[tuple[str, str], dict]:
    """By norm and threat the attack in savedir that is drawn: the latest by the run's own gradients at the norm's usual
    radii; where there is none, the latest. UserError where there is no attack, or where one is damaged."""
    latest = test_results.read_attack(savedir)
    attacks = {kind_of(latest): latest | {"sheet": None}}
    for path in (savedir / "tests").glob("attack-*.json"):
        attack = test_results.attack_in(path)
        kind = kind_of(attack)
        if kind not in attacks or rank(attack) >= rank(attacks[kind]):
            attacks[kind] = attack | {"sheet": read_sheet(path.with_suffix(".npz"))}
    return attacks


def rank(attack: dict) -> tuple[bool, str]:
    """Of two attacks the greater one is drawn: is it the usual one, and when was it made?"""
    told = attack["settings"]["attack"]
    usual = told.get("method", "pgd") == "pgd" and "surrogate" not in told
    usual &= tuple(attack["eps"]) == NORMS[told["norm"]].budgets
    return usual, test_results.made_at(attack)


def kind_of(attack: dict) -> tuple[str, str]:
    """Norm and threat."""
    told = attack["settings"]["attack"]
    return told["norm"], told.get("threat", "joint")


def read_sheet(path: Path) -> dict | None:
    """The images that an attack kept; None where they are missing or damaged: they are for the eye alone."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("images", "labels", "clean")}
    except Exception:
        return None


def fault_of(rows: list[dict], wanted: set[str]) -> str | None:
    """Why these measurements of neural collapse cannot be drawn, if they cannot."""
    if missing := set().union(*(wanted - set(row) for row in rows)):
        return f"it lacks {min(missing)}"
    layers = layers_of(rows)
    if len(layers) < 2 or layers[-1] != "logits":
        return f"its layers are {' '.join(map(str, layers))}"
    return None


def layers_of(rows: list[dict]) -> list[str]:
    """The layers of these measurements in their order: the features before the last, and the logits last."""
    return list(dict.fromkeys(row["layer"] for row in rows))
