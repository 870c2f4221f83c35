"""The settings of a run: what each may be, the flag that gives it, the modes that use it, and config.json.

What only some learners or perturbations have, their classes declare (learners/base.py); all else is here.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from attacks import LOSSES, METHODS, NORMS, SQUARE, THREATS, Adversary
from errors import Parser, UserError
from flags import LEARNING, TESTS, TRAINING, Setting, not_negative, path_text, positive, to_path, whole
from learners import LEARNERS, settings_of
from perturbations import PERTURBATIONS
from ranges import can_be_range
from sources.preparation import can_be_preparation
from training import test_results, weights
from training.devices import PRECISIONS
from training.steps import STATISTICS, SUPPORT

META_TRAIN, EXPORT, COMPARE, WEIGHTS, ATTACK, CLASSIFY, DRAW = (
    frozenset({mode}) for mode in ("meta_train", "export", "compare", "weights", "attack", "classify", "draw")
)
# What config.json has to say; a setting that is newer than the run has its default.
NEEDED = ("dataset", "model", "way", "shot", "query", "seed")
# The groups of --help.
RUN, TASKS, LEARNER, TRAIN = "run", "data and tasks", "learner", "meta_train"
TEST = "meta_test, collapse and attack"
ATTACKS = "attack (and those of meta_test)"
LOOK = "export (and those of meta_test; --way: the tasks' classes, default 2)"


def gpus(text: str) -> str:
    if text != "-1" and not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be a GPU's number, several as in 0,1, or -1 for none, not {text!r}")
    return text


def host(text: str) -> str:
    if not re.fullmatch(r"([a-z0-9][a-z0-9.-]*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text.lower()):
        raise argparse.ArgumentTypeError(
            f"must be a host's name or address, alone or with a port as in box:9000, not {text!r}"
        )
    return text.lower()  # as browsers write it


def adversary(text: str) -> str:
    norm, colon, eps = text.partition(":")
    if norm not in NORMS or not colon:
        raise argparse.ArgumentTypeError(f"must be a norm and a radius, as in linf:0.02, not {text!r}")
    positive(eps)
    return text


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    if (value := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and of at most 1, not {text!r}")
    return value


def folder_name(text: str) -> str:
    if not text or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"must be a dataset's name, the folder's below --data_dir, not {text!r}")
    return text


def parts(text: str) -> int:
    """Read a number of parts: 0, or at least 2."""
    if text == "1":
        raise argparse.ArgumentTypeError("must be 0, or a whole number of at least 2: one part is all pictures")
    return whole(0)(text)


parts.metavar = "N"


def count_or_folder(text: str) -> int | Path:
    number = text.lstrip("-").isdigit() and text == str(int(text))  # a folder may be named 007
    return whole(1)(text) if number else to_path(text)


def setting(group: str, default: object, help: str, *reader, kept: bool = True, fresh: bool = False, **declared):
    """A field of Settings. group: of --help. reader, declared: flags.Setting's. kept: config.json has it.
    fresh: a test begins with the default, not with the trained run's."""
    metadata = {"group": group, "setting": Setting(default, help, *reader, **declared), "kept": kept, "fresh": fresh}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides a run or its test. `--help` says what each is; `own` are those of its learner and perturbation,
    by name, and `facts` what else config.json says: data_sha256, sessions."""

    seed: int = setting(
        RUN,
        0,
        "seed of weights, episodes and noise; in meta_test of its episodes and noise, the same for every learner",
        whole(0, 2**31 - 1),
        modes=LEARNING | CLASSIFY,
        free=("test",),
        fresh=True,
    )
    gpu_id: str | None = setting(
        RUN,
        None,
        "GPU to use, or several to share a metabatch: 0,1; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)",
        gpus,
        metavar="N[,N]",
        modes=LEARNING | CLASSIFY | DRAW,
        free=("test", "resume"),
        fresh=True,
    )
    jit: str = setting(
        RUN,
        "auto",
        "compile a metabatch into one XLA program; auto: on a GPU",
        choices=["auto", "on", "off"],
        free=("test", "resume"),
        fresh=True,
    )
    precision: str = setting(
        RUN,
        "float32",
        "of convolutions and matrix products; tf32: on GPUs that have it; bf16: their factors in bfloat16",
        choices=PRECISIONS,
        free=("test",),
    )

    dataset: str = setting(
        TASKS, "omniglot", "as made by get_data.py: a folder of --data_dir", folder_name, metavar="NAME"
    )
    data_dir: str = setting(
        TASKS,
        "data",
        "folder that holds the datasets",
        path_text,
        metavar="DIR",
        modes=LEARNING | DRAW,
        free=("test", "resume"),
    )
    split: str = setting(
        TASKS,
        "shuffled",
        "background: Omniglot's own, 964 characters to train on and 659 to test, upright; shuffled: as the dataset was "
        "dealt",
        choices=["shuffled", "background"],
    )
    train_split: str = setting(
        TASKS,
        "train",
        "classes to train on: trainval adds the validation classes (Omniglot: the paper's 4800), which are then not "
        "monitored",
        modes=TRAINING,
        choices=["train", "trainval"],
    )
    way: int = setting(TASKS, 20, "classes a task", whole(2, 100_000))
    shot: int = setting(TASKS, 1, "support images a class", whole(1), free=("test",))
    query: int = setting(
        TASKS,
        5,
        "query images a class; classify: folder of the pictures to classify",
        count_or_folder,
        metavar="N|DIR",
        modes=LEARNING | CLASSIFY,
        free=("test",),
    )
    metabatch: int = setting(
        TASKS,
        16,
        "tasks a meta-iteration; in meta_test and attack, tasks computed together (no effect on the result)",
        whole(1),
        modes=TRAINING | {"meta_test", "attack"},
        free=("test",),
    )
    legacy_shared_classes: bool = setting(
        TASKS,
        False,
        "all tasks of a metabatch have the same classes, as in the TF1 code's last revision",
        modes=META_TRAIN,
    )

    model: str = setting(
        LEARNER, "metadrop", "which learner; metadrop is maml with the perturbation noise", choices=LEARNERS
    )
    perturbation: str | None = setting(
        LEARNER,
        None,
        "; ".join(f"{name}: {kind.summary}" for name, kind in PERTURBATIONS.items())
        + " (default: noise for metadrop, none for the others)",
        choices=PERTURBATIONS,
    )
    channels: int | None = setting(
        LEARNER, None, "channels of a convolution (default: 64 for grey images, 32 for colour)", whole(1, 4096)
    )
    own: dict = dataclasses.field(default_factory=dict)

    meta_lr: float = setting(TRAIN, 1e-3, "Adam's step size in the outer loop", positive, modes=TRAINING)
    clip_norm: float | None = setting(
        TRAIN, None, "clip the meta-gradient's norm to X (default: every element to 3)", positive, modes=TRAINING
    )
    adversarial: str | None = setting(
        TRAIN,
        None,
        "train on query images that are attacked after adaptation, in a ball of this norm and radius, as in linf:0.02, "
        "for images in [0, 1]",
        adversary,
        metavar="NORM:EPS",
        modes=TRAINING,
    )
    adversarial_steps: int = setting(TRAIN, 7, "steps of that attack", whole(1), modes=TRAINING)
    n_train_iters: int = setting(
        TRAIN,
        60000,
        "meta-iterations (one update more, as in the TF1 code)",
        whole(0),
        modes=META_TRAIN,
        free=("resume",),
    )
    save_freq: int = setting(
        TRAIN, 1000, "iterations between checkpoints", whole(1), modes=META_TRAIN, free=("resume",)
    )
    val_every: int = setting(TRAIN, 1000, "iterations between validations; 0 for none", whole(0), modes=META_TRAIN)
    n_val_tasks: int = setting(TRAIN, 200, "episodes of a validation", whole(1), modes=META_TRAIN)
    collapse_every: int = setting(
        TRAIN,
        0,
        "iterations between measurements of neural collapse, into collapse.csv; 0 for none",
        whole(0),
        modes=META_TRAIN,
        free=("resume",),
    )

    n_test_iters: int = setting(TEST, 1000, "test episodes, or tasks", whole(1), modes=TESTS, kept=False)
    n_test_mc_samp: int = setting(
        TEST,
        1,
        "noise samples of an inner step's loss, in testing (the paper: 30) and in validations; training takes 1; "
        "classify takes 10",
        whole(1, 100_000),
        modes=LEARNING | CLASSIFY,
        free=("test",),
    )
    checkpoint: str = setting(
        TEST,
        "last",
        "last: the paper's choice; best: highest validation accuracy",
        modes=TESTS | EXPORT | WEIGHTS | CLASSIFY,
        choices=["last", "best"],
        kept=False,
    )

    export_tasks: int = setting(LOOK, 10, "test tasks", whole(1), modes=EXPORT, kept=False)
    export_samples: int = setting(
        LOOK, 10, "perturbed copies of a support image's features", whole(1), modes=EXPORT, kept=False
    )
    export_images: int = setting(
        LOOK, 2, "support images a task whose lower layers' maps are kept", whole(1), modes=EXPORT, kept=False
    )
    export_channels: int = setting(LOOK, 6, "channels of those maps, evenly spread", whole(1), modes=EXPORT, kept=False)

    attack_method: str = setting(
        ATTACKS,
        "pgd",
        "pgd: projected gradient descent; square: a random search without gradients, for linf",
        choices=METHODS,
        modes=ATTACK,
        kept=False,
    )
    norm: str = setting(ATTACKS, "linf", "of a perturbation", choices=NORMS, modes=ATTACK, kept=False)
    eps: tuple[float, ...] | None = setting(
        ATTACKS,
        None,
        "largest norms of a perturbation, for images whose pixels are mapped onto [0, 1] (default: the paper's, for "
        "linf 0 0.02 .. 0.1)",
        not_negative,
        nargs="+",
        modes=ATTACK,
        kept=False,
    )
    attack_steps: int = setting(ATTACKS, 40, "steps of a restart", whole(1), modes=ATTACK, kept=False)
    attack_step: float | None = setting(
        ATTACKS, None, "size of a step, as a share of eps (default: 2.5 / steps)", positive, modes=ATTACK, kept=False
    )
    square_share: float = setting(
        ATTACKS,
        SQUARE,
        "share of the image that the first squares of square cover; later ones are smaller (its authors take 0.05, and "
        "0.8 for MNIST)",
        share,
        metavar="X",
        modes=ATTACK,
        kept=False,
    )
    attack_start: str = setting(
        ATTACKS,
        "random",
        "where a restart of pgd begins: anywhere in the ball, or at the clean image",
        choices=["random", "clean"],
        modes=ATTACK,
        kept=False,
    )
    restarts: int = setting(
        ATTACKS, 1, "restarts; the worst of all steps of all counts", whole(1), modes=ATTACK, kept=False
    )
    threat: str = setting(
        ATTACKS,
        "joint",
        "joint: all query images of a task are attacked together, up the sum of their losses; remaining: together, up "
        "the losses of those that are not lost yet; single: each with the others clean, which takes as many times the "
        "time as there are",
        choices=THREATS,
        modes=ATTACK,
        kept=False,
    )
    attack_loss: str = setting(
        ATTACKS,
        "cross_entropy",
        "what pgd climbs; margin: the largest logit of another class less the own one",
        choices=LOSSES,
        modes=ATTACK,
        kept=False,
    )
    surrogate: str | None = setting(
        ATTACKS,
        None,
        "run whose gradients pgd follows in place of those of --savedir's: another learner's, or the same run's with "
        "other noise",
        path_text,
        metavar="D2",
        modes=ATTACK,
        kept=False,
    )
    surrogate_draws: int = setting(
        ATTACKS,
        1,
        "adaptations of the surrogate, each with noise of its own, over which its loss is averaged",
        whole(1),
        modes=ATTACK,
        kept=False,
    )
    facts: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, values: dict, facts: dict | None = None) -> Settings:
        """Settings of these values by name, with defaults for the others; what another learner has is left out.
        UserError where the learner cannot have the perturbation."""
        settings = cls(**{name: value for name, value in values.items() if name in COMMON}, facts=facts or {})
        try:
            declared = settings_of(settings.model, settings.perturbation)
        except ValueError as fault:
            raise UserError(f"{fault}") from fault
        own = {name: values.get(name, setting.default) for name, setting in declared.items()}
        return dataclasses.replace(settings, own=own)

    @classmethod
    def given(cls, flags: dict) -> Settings:
        """Those of a new run. flags: what is on the command line, by name. UserError as `of` and `refuse_foreign`."""
        settings = cls.of(flags)
        settings.refuse_foreign(flags)
        if settings.adversarial is None and settings.adversarial_steps != cls.adversarial_steps:
            raise UserError("--adversarial_steps is of an attack: give it with --adversarial, or leave it out")
        return settings

    @classmethod
    def read(cls, run: Path) -> Settings:
        """Read the settings of a run, which is a savedir or a file of weights. UserError where there is no run, or
        where a setting has a value that neither its flag nor the program could have given it."""
        if weights.is_weights_file(run):
            place, config = run, weights.read(run).about["settings"]
        else:
            place, config = run / "config.json", test_results.read_config(run, NEEDED)
        changed = "it was changed, or is of another version of this program, so restore it"
        if missing := [name for name in NEEDED if name not in config]:
            raise UserError(f"{place} does not say its {missing[0]}: {changed}")
        declared = all_settings()
        for name, value in config.items():
            if name in declared and not declared[name].accepts(value):
                raise UserError(f"{place} has {name} {short(value)}, which no --{name} can be: {changed}")
            if name in FACTS and not FACTS[name](value):
                raise UserError(f"{place} has {name} {short(value)}, which no run can have: {changed}")
        values = {name: value for name, value in config.items() if name in declared}
        return cls.of(values, {name: value for name, value in config.items() if name not in declared})

    def for_a_test(self) -> Settings:
        """With a test's own defaults in place of the training's, so that all runs meet the same test episodes."""
        return dataclasses.replace(self, **{f.name: f.default for f in COMMON.values() if f.metadata["fresh"]})

    def refuse_foreign(self, flags: Iterable[str]) -> None:
        """UserError where one of these flags is another learner's, or another perturbation's."""
        if foreign := sorted(set(flags) - COMMON.keys() - COMMAND.keys() - self.own.keys()):
            learner = self.model + (f" --perturbation {self.perturbation}" if self.perturbation else "")
            raise UserError(f"--{foreign[0]} has no meaning for --model {learner}: leave it out, or choose another")

    def merged(self, given: dict, where: str, remedy: str, free: Iterable[str] = ()) -> Settings:
        """With what was `given` on the command line. UserError at what contradicts the run: all but the `free` and
        those that are free `where`, in a "test" or a "resume"."""
        values, declared = self.values(), all_settings() | settings_of(self.model, self.perturbation)
        for name, value in given.items():
            of_the_run = name in values and is_kept(name) and name not in free and where not in declared[name].free
            if of_the_run and value != values[name]:
                raise UserError(f"--{name} {value} contradicts the run, which has {values[name]}: {remedy}")
        self.refuse_foreign(given)
        return self.of(values | given, self.facts)

    def adversary(self) -> Adversary | None:
        """Who perturbs the query images of training."""
        if self.adversarial is None:
            return None
        norm, _, eps = self.adversarial.partition(":")
        return Adversary(norm, float(eps), self.adversarial_steps)

    @property
    def train_way(self) -> int:
        """Classes of a training task."""
        return self.own.get("train_way") or self.way

    def values(self) -> dict:
        """All by name, its learner's own among them."""
        return {name: getattr(self, name) for name in COMMON} | self.own

    def config(self) -> dict:
        """What config.json says: all that describes the run, but not how it is tested or looked at."""
        return {name: value for name, value in self.values().items() if is_kept(name)} | self.facts

    def portable(self) -> dict:
        """`config` without what is of one machine, its folders above all: for files that travel."""
        config = {name: value for name, value in self.config().items() if name not in ("data_dir", "gpu_id", "jit")}
        if "sessions" in config:
            config["sessions"] = [{k: v for k, v in one.items() if k != "command"} for one in config["sessions"]]
        return config

    def identity(self) -> dict:
        """What tells one test from another, but for the data, the weights and the device."""
        names = ("dataset", "split", "model", "perturbation", "way", "shot", "query", "seed")
        return {name: getattr(self, name) for name in names} | dict(sorted(self.own.items()))


def short(value: object) -> str:
    """The value as Python writes it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# What config.json holds besides the settings: True for a value that it can have.
FACTS = {
    "data_sha256": lambda value: value is None or isinstance(value, str),
    "prepare": lambda value: value is None or can_be_preparation(value),
    "range": lambda value: value is None or can_be_range(value),
    "brightness": lambda value: (  # mean and standard deviation
        isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) and 0 <= x <= 1 for x in value)
    ),
    "sessions": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
}
COMMON = {field.name: field for field in dataclasses.fields(Settings) if "setting" in field.metadata}


def is_kept(name: str) -> bool:
    """Does config.json have this setting?"""
    return name not in COMMON or COMMON[name].metadata["kept"]


def all_settings() -> dict[str, Setting]:
    """The declaration of every setting there is, of all learners and perturbations; where two have one of the same
    name, that of the first."""
    owners = (*(entry.learner for entry in LEARNERS.values()), *PERTURBATIONS.values())
    own = {name: declared for owner in reversed(owners) for name, declared in owner.settings.items()}
    return {name: field.metadata["setting"] for name, field in COMMON.items()} | own


# ---- the command line

COMMAND = {  # what says how a mode is called, and is no setting of a run
    "mode": Setting("meta_train", "what to do", modes=LEARNING | COMPARE | WEIGHTS | CLASSIFY | DRAW),
    "savedir": Setting(
        None, "folder of the run; compare takes two or more, and draw may", path_text, nargs="+", metavar="D",
        modes=LEARNING - {"bench"} | COMPARE | WEIGHTS | CLASSIFY | DRAW,
    ),
    "resume": Setting(False, "meta_train: go on from D's last checkpoint", modes=META_TRAIN),
    "weights": Setting(
        None, "file of weights that D begins with, to test or export them or to train on from them (written with "
        "--slots: to the same bits); classify and draw take it in place of --savedir, draw two or more", to_path,
        metavar="FILE", nargs="+", modes=LEARNING - {"bench"} | CLASSIFY | DRAW,
    ),
    "slots": Setting(False, "weights: Adam's slots too, so that training can go on from the file", modes=WEIGHTS),
    "support": Setting(
        None, "classify: folder that holds a folder of labelled pictures for each class", to_path, metavar="DIR",
        modes=CLASSIFY,
    ),
    "skip_bad": Setting(
        False, "classify: leave out pictures that cannot be read, and name them", modes=CLASSIFY,
    ),
    "out": Setting(
        Path("predictions.csv"), "classify: the table that is written, and a page beside it", to_path,
        metavar="FILE", modes=CLASSIFY,
    ),
    "query_statistics": Setting(
        SUPPORT, "classify: the pictures that batch norm takes its statistics from: the support set; or, if there are "
        "about equally many query pictures of each class, the support set and all of them together, or the query alone",
        choices=STATISTICS, modes=CLASSIFY,
    ),
    "invert": Setting(
        False, "classify: invert the pictures, which are light on dark where the training data's are dark on light, or "
        "vice versa",
        modes=CLASSIFY,
    ),
    "folds": Setting(
        20, "classify: leave out the support pictures in at most N parts, and classify each by the others, to estimate "
        "the accuracy; 0: do not", parts, modes=CLASSIFY,
    ),
    "port": Setting(8765, "draw: of the page on this machine's loopback address", whole(0, 65535), modes=DRAW),
    "host": Setting(
        None, "draw: further addresses of the page, behind a tunnel or a proxy, as a browser's address line has them",
        host, metavar="NAME[:PORT]", nargs="+", modes=DRAW,
    ),
    "attack": Setting(False, "compare: attacks in place of tests", modes=COMPARE),
    "maml": Setting(False, "the same as --model maml"),
}  # fmt: skip


def parser(modes: Iterable[str], description: str, epilog: str, prog: str = "main.py") -> Parser:
    """The command line of all settings. modes: what --mode may be."""
    p = Parser(prog=prog, description=description, epilog=epilog, argument_default=argparse.SUPPRESS)
    groups = {name: p.add_argument_group(name) for name in (RUN, TASKS, LEARNER, TRAIN, TEST, LOOK, ATTACKS)}
    dataclasses.replace(COMMAND["mode"], choices=list(modes)).add(groups[RUN], "mode")
    for name in [name for name in COMMAND if name not in ("mode", "maml")]:
        COMMAND[name].add(groups[RUN], name)
    for name, declared in all_settings().items():
        declared.add(groups[COMMON[name].metadata["group"] if name in COMMON else LEARNER], name)
        if name == "model":
            COMMAND["maml"].add(groups[LEARNER], "maml")
    return p


def read_flags(p: Parser, argv: list[str] | None = None) -> dict:
    """What is on the command line, by name; UserError where two flags contradict each other."""
    given = vars(p.parse_args(argv))
    if given.pop("maml", False) and given.setdefault("model", "maml") != "maml":
        raise UserError(f"--maml contradicts --model {given['model']}: give one of them")
    return given


def refuse_unused(given: Iterable[str], mode: str) -> None:
    """UserError where `mode` (or bench.py: "bench") does not use one of these flags."""
    declared = all_settings() | COMMAND
    for name in given:
        if mode not in declared[name].modes:
            place = "bench.py" if mode == "bench" else f"--mode {mode}"
            raise UserError(f"--{name} has no meaning in {place}: leave it out")
    if isinstance(given, dict) and isinstance(given.get("query"), Path) and mode not in CLASSIFY:
        raise UserError(f"--query must be a whole number of at least 1, not {str(given['query'])!r}")
