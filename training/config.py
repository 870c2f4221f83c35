"""The settings of a run and its config.json: reading, checking, and overriding by flags."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from attacks import NORMS, Adversary
from errors import UserError, user_error
from learners import LEARNERS, classes_for, make
from model import Learner
from parameters import default_channels
from perturbations import PERTURBATIONS
from ranges import can_be_range
from settings import CommandLine, Settings, by_owners, folder_name, path_text, positive, setting, short, whole
from sources.preparation import can_be_preparation
from training import test_results, weights
from training.devices import BF16, PRECISIONS

# The entries that config.json must have; for a setting that it lacks, the default is taken.
REQUIRED = ("dataset", "model", "way", "shot", "query", "seed")
# The other entries of config.json, besides settings; each function returns True for a value that the entry can have.
FACTS = {
    "train_classes": lambda value: type(value) is int and value > 0,
    "data_sha256": lambda value: value is None or isinstance(value, str),
    "prepare": lambda value: value is None or can_be_preparation(value),
    "range": lambda value: value is None or can_be_range(value),
    "brightness": lambda value: (  # mean and standard deviation
        isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) and 0 <= x <= 1 for x in value)
    ),
    "sessions": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}


def gpus(text: str) -> str:
    """Read GPUs' numbers."""
    if text != "-1" and not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be a GPU's number, several as in 0,1, or -1 for none, not {text!r}")
    return text


gpus.metavar = "N[,N]"


def norm_and_radius(text: str) -> str:
    """Read a ball of perturbations."""
    norm, colon, eps = text.partition(":")
    if norm not in NORMS or not colon:
        raise argparse.ArgumentTypeError(f"must be a norm and a radius, as in linf:0.02, not {text!r}")
    positive(eps)
    return text


@dataclass(frozen=True)
class RunSettings(Settings):
    """Device, data, tasks and learner."""

    seed: int = setting(
        0,
        "seed of weights, episodes and noise; a test takes the default, not the run's, so that all runs get the same "
        "test episodes",
        whole(0),
        overridable_in=("test",),
        reset_for_test=True,
    )
    gpu_id: str | None = setting(
        None,
        "GPU to use, or in training several, as in 0,1; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)",
        gpus,
        overridable_in=("test", "resume"),
        reset_for_test=True,
    )
    jit: str = setting(
        "auto",
        "compile a metabatch into one XLA program; auto: on a GPU",
        choices=["auto", "on", "off"],
        overridable_in=("test", "resume"),
        reset_for_test=True,
    )
    precision: str = setting(
        "float32",
        "precision of convolutions and matrix products; tf32: on GPUs that have it; bf16: of factors and results",
        choices=PRECISIONS,
        overridable_in=("test",),
    )
    dataset: str = setting("omniglot", "dataset of get_data.py: a folder in --data_dir", folder_name, metavar="NAME")
    data_dir: str = setting(
        "data", "folder that holds the datasets", path_text, metavar="DIR", overridable_in=("test", "resume")
    )
    split: str = setting(
        "shuffled",
        "background: Omniglot's own split, 964 characters to train on and 659 to test on, upright; shuffled: the split "
        "of get_data.py",
        choices=["shuffled", "background"],
    )
    train_split: str = setting(
        "train",
        "classes to train on: trainval adds the validation classes (Omniglot: the paper's 4800), and then there is no "
        "validation",
        choices=["train", "trainval"],
        training_only=True,
    )
    way: int = setting(20, "classes per task", whole(2, 100_000), overridable_in=("at_any_way",))
    shot: int = setting(1, "support images per class", whole(1), overridable_in=("test",))
    query: int = setting(5, "query images per class", whole(1), overridable_in=("test",))
    metabatch: int = setting(
        16,
        "tasks per meta-iteration; in meta_test and attack, tasks computed together (without effect on the result)",
        whole(1, 65536),
        overridable_in=("test",),
    )
    legacy_shared_classes: bool = setting(
        False,
        "all tasks of a metabatch have the same classes, as in the TF1 code's last revision",
        training_only=True,
    )
    model: str = setting(
        "metadrop",
        "the learner; metadrop is maml with the perturbation noise",
        choices=LEARNERS,
        shorthand=("maml", "maml"),
    )
    perturbation: str | None = setting(
        None,
        "; ".join(f"{name}: {kind.summary}" for name, kind in PERTURBATIONS.items())
        + " (default: noise for metadrop, none for the others)",
        choices=PERTURBATIONS,
    )
    channels: int | None = setting(
        None, "channels of a convolution (default: 64 for grey images and for vectors, 32 for colour)", whole(1, 4096)
    )


@dataclass(frozen=True)
class UpdateSettings(Settings):
    """Meta-training: how an iteration moves the parameters."""

    meta_lr: float = setting(1e-3, "step size of the outer loop; Reptile's falls to 0 during training", positive)
    clip_norm: float | None = setting(
        None, "clip the meta-gradient's norm to X (default: every element to 3)", positive
    )
    adversarial: str | None = setting(
        None,
        "train on query images that are attacked after adaptation, in a ball of this norm (linf, l2, l1, l1_dense) and "
        "radius, as in linf:0.02, for images in [0, 1]",
        norm_and_radius,
        metavar="NORM:EPS",
    )
    adversarial_steps: int = setting(7, "steps of that attack", whole(1))

    def __post_init__(self):
        super().__post_init__()
        if self.adversarial is None and self.adversarial_steps != type(self).adversarial_steps:
            raise ValueError("--adversarial_steps needs an attack: give --adversarial, or leave it out")

    @property
    def adversary(self) -> Adversary | None:
        """The attacker of the query images of training."""
        if self.adversarial is None:
            return None
        norm, _, eps = self.adversarial.partition(":")
        return Adversary(norm, float(eps), self.adversarial_steps)


@dataclass(frozen=True)
class TrainingSettings(UpdateSettings):
    """Meta-training."""

    n_train_iters: int = setting(
        60000, "meta-iterations (one update more, as in the TF1 code)", whole(0), overridable_in=("resume",)
    )
    save_freq: int = setting(1000, "iterations between checkpoints", whole(1), overridable_in=("resume",))
    val_every: int = setting(1000, "iterations between validations; 0 for none", whole(0))
    n_val_tasks: int = setting(200, "episodes of a validation", whole(1))
    collapse_every: int = setting(
        0,
        "iterations between measurements of neural collapse, into collapse.csv; 0 for none",
        whole(0),
        overridable_in=("resume",),
    )


@dataclass(frozen=True)
class TestingSettings(Settings):
    """Validation and testing."""

    n_test_mc_samp: int = setting(
        1,
        "noise samples of an inner step's loss, in testing (the paper: 30) and in validations; training takes 1",
        whole(1, 100_000),
        overridable_in=("test",),
    )


@dataclass(frozen=True)
class Config:
    """The settings of a run, in the order of config.json. facts: its other entries: FACTS, and entries of other
    versions of this program."""

    run: RunSettings
    training: TrainingSettings
    testing: TestingSettings
    learner: Settings
    perturbation: Settings
    facts: dict = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping, facts: dict | None = None) -> Config:
        """Make a run's settings from values by name, and defaults; values with other names are left out. Raise
        ValueError for a value that no flag could give, or if the learner cannot have the perturbation."""
        run = RunSettings.of(values)
        learner, perturbation = classes_for(run.model, run.perturbation)
        values = learner.run_defaults | values
        run, own = RunSettings.of(values), [kind.settings_class.of(values) for kind in (learner, perturbation)]
        return cls(run, TrainingSettings.of(values), TestingSettings.of(values), *own, facts or {})

    @classmethod
    def of_flags(cls, flags: Mapping, facts: dict | None = None) -> Config:
        """Make a run's settings as `of` does, but raise UserError in place of ValueError."""
        try:
            return cls.of(flags, facts)
        except ValueError as fault:
            raise UserError(f"{fault}") from fault

    @classmethod
    def read(cls, run: Path) -> Config:
        """Read the settings of a run from its savedir or from a weights file. Raise UserError if there is no run, or if
        a value is neither one that a flag could give nor one that the program writes."""
        if weights.is_weights_file(run):
            place, config = run, weights.read(run).about["settings"]
        else:
            place, config = run / "config.json", test_results.read_config(run, REQUIRED)
        changed = "it was edited, or written by another version of this program, so restore it"
        if missing := [name for name in REQUIRED if name not in config]:
            raise UserError(f"{place} lacks {missing[0]}: {changed}")
        for name in FACTS.keys() & config.keys():
            if not FACTS[name](config[name]):
                raise UserError(f"{place} has {name} {short(config[name])}, which no run can have: {changed}")
        known = all_names()
        with user_error(f"{place} holds settings that no run can have", changed, ValueError):
            return cls.of(config, {name: value for name, value in config.items() if name not in known})

    @property
    def parts(self) -> tuple[Settings, ...]:
        return self.run, self.training, self.testing, self.learner, self.perturbation

    def for_a_test(self) -> Config:
        """Return these settings with a test's own defaults, so that all runs are tested on the same episodes."""
        reset = {one.name: one.default for one in fields(self.run) if one.metadata["reset_for_test"]}
        return self.with_run(**reset)

    def with_run(self, **changes: Any) -> Config:
        """Return these settings with changed RunSettings."""
        return dataclasses.replace(self, run=dataclasses.replace(self.run, **changes))

    def with_facts(self, **facts: Any) -> Config:
        """Return these settings with further facts of the run, or other ones."""
        return dataclasses.replace(self, facts=self.facts | facts)

    def merged(self, flags: Mapping, where: Collection[str], remedy: str) -> Config:
        """Return these settings, overridden by the flags. Raise UserError if a flag changes a setting that cannot be
        overridden in any of `where` (settings.setting). remedy: the end of its message."""
        values = self.values()
        for one in (one for part in self.parts for one in fields(part)):
            overridable = set(where) & set(one.metadata["overridable_in"])
            if not overridable and (flag := flags.get(one.name, values[one.name])) != values[one.name]:
                raise UserError(f"--{one.name} {flag} contradicts the run, which has {values[one.name]}: {remedy}")
        return self.of_flags(values | flags, self.facts)

    def refuse_idle(self, flags: Mapping) -> None:
        """Raise UserError if a flag of the learner or of the perturbation does nothing beside their other settings."""
        for part in (self.learner, self.perturbation):
            if idle := sorted(part.idle() & flags.keys()):
                raise UserError(f"--{idle[0]} does nothing here, because of other settings (see --help): leave it out")

    def make_learner(self, image_shape: tuple[int, int, int], jit: bool = False) -> Learner:
        """Make the run's learner for images (H, W, C). jit: compile with XLA. Raise UserError if no learner can have
        these settings."""
        run = self.run
        try:
            return make(
                run.model,
                run.perturbation,
                image_shape=image_shape,
                channels=run.channels or default_channels(image_shape),
                way=run.way,
                bf16=run.precision == BF16,
                train_classes=self.facts.get("train_classes", 0),
                jit=jit,
                **self.own(),
            )
        except ValueError as fault:
            raise UserError(f"{fault}") from fault

    def own(self) -> dict:
        """Return the settings of the learner and of the perturbation, by name."""
        return self.learner.values() | self.perturbation.values()

    def values(self) -> dict:
        """Return all settings by name."""
        return {name: value for part in self.parts for name, value in part.values().items()}

    def to_json(self) -> dict:
        """Return the content of config.json."""
        return self.values() | self.facts

    def portable(self) -> dict:
        """Return the content of config.json without the folders and devices of this machine, for files that are
        published."""
        config = {name: value for name, value in self.to_json().items() if name not in ("data_dir", "gpu_id", "jit")}
        if "sessions" in config:
            config["sessions"] = [{k: v for k, v in one.items() if k != "command"} for one in config["sessions"]]
        return config

    def identity(self) -> dict:
        """Return the settings that distinguish a test from others, besides data, weights and device."""
        names = ("dataset", "split", "model", "perturbation", "way", "shot", "query", "seed")
        return {name: getattr(self.run, name) for name in names} | dict(sorted(self.own().items()))

    @property
    def train_way(self) -> int:
        """Classes of a training task."""
        return getattr(self.learner, "train_way", None) or self.run.way


def own_fields() -> dict[str, dict[str, tuple[dataclasses.Field, ...]]]:
    """Return the fields of all learners' and perturbations' settings, by the flag that chooses one and its name."""
    return {
        "--model": {name: fields(entry.learner.settings_class) for name, entry in LEARNERS.items()},
        "--perturbation": {name: fields(kind.settings_class) for name, kind in PERTURBATIONS.items()},
    }


def all_names() -> set[str]:
    """Return the names of all settings that a run of any learner and perturbation can have."""
    common = map(fields, (RunSettings, TrainingSettings, TestingSettings))
    own = (declared for owners in own_fields().values() for declared in owners.values())
    return {one.name for declared in (*common, *own) for one in declared}


def add_flags(
    line: CommandLine,
    chosen: Mapping[str, str],
    training: type[Settings] | None,
    without: Iterable[str] = (),
    of_run: Collection[str] = (),
) -> None:
    """Add the flags of a run to the command line.

    chosen: add the flags of this `model` and perhaps this `perturbation`; empty: of all learners and perturbations.
    training: the settings of a mode that trains; None: flags for training alone are left out. without: other flags that
    are left out. of_run: as in `CommandLine.add`.
    """

    defaults = LEARNERS[chosen["model"]].learner.run_defaults if chosen else {}

    def add(title: str, declared: Iterable[dataclasses.Field]) -> None:
        used = [one for one in declared if (training or not one.metadata["training_only"]) and one.name not in without]
        if used:
            line.add(title, used, of_run=of_run, defaults=defaults)

    for kind in (RunSettings, training, TestingSettings):
        if kind:
            add(kind.__doc__.rstrip(".") + " (default: the run's)" * bool(of_run), fields(kind))
    if chosen:
        try:
            learner, perturbation = classes_for(chosen["model"], chosen.get("perturbation"))
        except ValueError as fault:
            raise UserError(f"{fault}") from fault
        add(f"--model {chosen['model']}", fields(learner.settings_class))
        add("its perturbation", fields(perturbation.settings_class))
        return
    for option, owners in own_fields().items():
        for names, declared in by_owners(owners, bool(of_run)).items():
            add(f"{option} {' or '.join(names)}", declared)
