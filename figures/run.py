"""Read the files in a run's savedir, for drawing."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from attacks import NORMS
from errors import UserError, user_error
from learners import LEARNERS
from studies import collapse_measures, export_format
from training import test_results

# {setting: (default, words)}: a run's name mentions the setting in these words if it is not the default.
MENTIONED = {
    "perturbation": ("none", "{}"), "mix_set": ("support", "{} set"), "adapt": ("all", "{} adapted"),
    "meta_gradient": ("published", "{} gradient"), "adversarial": (None, "adversarial {}"),
}  # fmt: skip


@dataclass
class Run:
    """One savedir. Its files are read at their first use, with a UserError if they are missing or damaged."""

    savedir: Path
    config: dict
    name: str = ""

    @property
    def label(self) -> str:
        """The name, escaped for matplotlib."""
        return escape_label(self.name)

    @property
    def learner(self) -> str:
        """The result of `describe`, escaped for matplotlib. Runs that differ only in their tasks or seed share it."""
        return escape_label(describe(self.config))

    @cached_property
    def export(self) -> dict:
        """The arrays of export.npz by name, and its settings."""
        return export_format.read(self.savedir)

    @property
    def perturbs(self) -> bool:
        """True if the export holds perturbed copies."""
        return self.export["perturbed_features"].shape[2] > 0

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """The columns of meta_train.csv by name."""
        return read_curves(self.savedir)

    @cached_property
    def test(self) -> dict:
        """The result in meta_test.json, and `quantum`: one query image's share of an episode's accuracy, in percent."""
        test = test_results.read_test(self.savedir)
        place, damage = self.savedir / "meta_test.json", test_results.DAMAGE
        with user_error(f"{place} cannot be read", "run meta_test again", *damage):
            settings = self.config | (test.get("settings") or {})
            if missing := {"way", "query"} - set(settings):
                raise ValueError(f"its settings lack {' and '.join(sorted(missing))}")
            way, query = int(settings["way"]), int(settings["query"])
            if min(way, query) < 1:
                raise ValueError(f"its settings have way {way} and query {query}")
        return test | {"quantum": 100 / (way * query)}

    @cached_property
    def collapse(self) -> dict[str, list[dict]]:
        """The rows of neural collapse by kind: "watched" (measured in training), "tested" (on test tasks), or both."""
        kinds = test_results.read_collapse(self.savedir)
        for kind, rows in kinds.items():
            columns = {"set", "step", "layer", *collapse_measures.NAMES, *(("iter", "tasks") * (kind == "watched"))}
            if missing := set().union(*(columns - set(row) for row in rows)):
                fault = f"it lacks {min(missing)}"
            elif len(layers := layers_of(rows)) < 2 or layers[-1] != "logits":
                fault = f"its layers are {' '.join(map(str, layers))}"
            else:
                continue
            name = test_results.COLLAPSE_CSV if kind == "watched" else test_results.COLLAPSE_JSON
            raise UserError(f"{self.savedir / name} cannot be read ({fault}): measure neural collapse again")
        return kinds

    @cached_property
    def attacks(self) -> dict[tuple[str, str], dict]:
        """The attack to draw for each norm and threat: the latest usual one (see `rank`) or, without one, the latest.

        An attack is the content of its .json, and `sheet` as read_sheet returns it.
        """
        paths = [self.savedir / test_results.ATTACK_JSON, *(self.savedir / "tests").glob("attack-*.json")]
        attacks = [test_results.read_attack(path) | {"sheet": read_sheet(path.with_suffix(".npz"))} for path in paths]
        return {kind_of(attack): attack for attack in sorted(attacks, key=rank)}  # the last one of a kind remains


def open_runs(savedirs: list[Path]) -> list[Run]:
    """Return the runs in these folders, with distinct names: `describe` and, if runs share that, the folder's name.

    Raise UserError if a folder holds no run.
    """
    runs = [Run(savedir, test_results.read_config(savedir, ["model"])) for savedir in savedirs]
    names = [describe(run.config) for run in runs]
    for run, name in zip(runs, names, strict=True):
        run.name = f"{name} ({run.savedir.resolve().name})" if names.count(name) > 1 else name
    if len({run.name for run in runs}) < len(runs):
        for run in runs:
            run.name = str(run.savedir)
    return runs


def escape_label(text: str) -> str:
    """Return the text so that matplotlib shows all of it: a dollar sign would start a formula, and a legend leaves out
    labels that start with an underscore."""
    return (" " * text.startswith("_") + text).replace("$", r"\$")


def describe(config: dict) -> str:
    """Return the learner's title and the settings that are not the default, as in "MAML, mixup, query set"."""
    model, way, train_way = str(config["model"]), config.get("way"), config.get("train_way")
    words = [LEARNERS[model].title if model in LEARNERS else model]
    for name, (default, phrase) in MENTIONED.items():
        if config.get(name) not in (None, default):
            words.append(phrase.format(config[name]))
    if train_way not in (None, way):
        words.append(f"trained {train_way}-way")
    return ", ".join(words).replace("first_order", "first order")


def has_query_loss(config: dict) -> bool:
    """True if a run's training loss is of the kind of its tests' losses: of query sets, with plain labels, and with as
    many classes."""
    entry, mixed = LEARNERS.get(str(config.get("model"))), config.get("mix_set") not in (None, "support")
    other_way = config.get("train_way") not in (None, config.get("way"))
    return not (mixed or other_way or (entry and not entry.learner.has_query_loss))


def refuse_other_tasks(first: Run, other: Run) -> None:
    """Raise UserError if the exports of these runs hold different tasks; one may hold more tasks than the other."""
    shared = min(len(run.export["fingerprints"]) for run in (first, other))
    if (first.export["fingerprints"][:shared] != other.export["fingerprints"][:shared]).any():
        raise UserError(
            f"{first.savedir} and {other.savedir} hold different tasks: export both with the same --dataset, --way, "
            f"--shot, --query and --seed"
        )


def read_curves(savedir: Path) -> dict[str, np.ndarray]:
    """Return the columns [rows] of meta_train.csv by name, with NaN for an empty cell. Raise UserError if it is missing
    or damaged."""
    path, line = savedir / "meta_train.csv", 0
    if not path.is_file():
        raise UserError(f"there is no {path}: run main.py --mode meta_train --savedir {savedir} first")
    columns = {name: [] for name in ("iter", "secs", "loss", "acc", "val_loss", "val_acc", "val_ci95")}
    try:
        with open(path, newline="") as file:
            for row in (reader := csv.DictReader(file)):
                line = reader.line_num
                if None in row or None in row.values():
                    raise ValueError(f"expected {len(reader.fieldnames)} cells")
                for name, cells in columns.items():
                    cells.append(float(row[name] or "nan"))
        if not line:
            raise ValueError("it has no row yet")
    except (OSError, ValueError, KeyError, csv.Error) as fault:
        raise UserError(f"{path} cannot be read (line {line}: {fault}): correct or delete that line") from fault
    return {name: np.array(cells) for name, cells in columns.items()}


def rank(attack: dict) -> tuple[bool, str]:
    """Return the sort key of an attack: True for the usual attack (PGD with the run's gradients, at the usual radii of
    the norm), then the time."""
    settings = attack["settings"]["attack"]
    usual = settings.get("method", "pgd") == "pgd" and "surrogate" not in settings
    usual &= tuple(attack["eps"]) == NORMS[settings["norm"]].budgets
    return usual, test_results.time_of(attack)


def kind_of(attack: dict) -> tuple[str, str]:
    """Return an attack's norm and threat model."""
    settings = attack["settings"]["attack"]
    return settings["norm"], settings.get("threat", "joint")


def read_sheet(path: Path) -> dict | None:
    """Read images [E,way,H,W,C] by radius, labels [E,way] and the clean images of an attack; None if they are missing
    or damaged, since the curves do not need them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in ("images", "labels", "clean")}
    except Exception:
        return None


def layers_of(rows: list[dict]) -> list[str]:
    """Return the names of the measured layers in order; the last two are the features and the logits."""
    return list(dict.fromkeys(row["layer"] for row in rows))
