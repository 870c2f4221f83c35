"""The studies. Each one is a table: its runs, their flags, seeds and tests, and the tables and figures of its results.

Add a study here: about twenty lines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import plots
import tables
import timings
from records import ROOT


@dataclass(frozen=True)
class Run:
    """A run of a study: its title in tables, and the flags of main.py that distinguish it from the study's other runs.

    choose: flags and the values to try. The first seed trains each combination, the validation classes choose one, and
    only that one is tested and trained with the other seeds. baseline: the run that this one is paired with, if it is
    not the study's. other: the surrogate run of attacks on this one. seeds: if they are not the study's.
    weights: a file of weights in place of a training.
    """

    title: str
    flags: str = ""
    choose: dict[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: str | None = None
    other: str | None = None
    seeds: tuple[int, ...] | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Test:
    """A test of the runs: the flags of main.py, or those of measures.py, which begin with --measure. {self} stands for
    the run's savedir, and {other} for that of the run's `other` with the same seed.

    runs, seeds: if not all of the study's. earlier: the names of an attack's settings that an earlier version of the
    program did not have; its results are shown, and no new one is made.
    """

    flags: str
    runs: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    earlier: tuple[str, ...] = ()

    def is_of(self, name: str, seed: int) -> bool:
        """Return True if the test is made for this run and seed."""
        return name in (self.runs or (name,)) and seed in (self.seeds or (seed,)) and not self.earlier


@dataclass(frozen=True)
class Study:
    """A study: its question, the time that it takes, the flags of all trainings, and the parts of the table.

    baseline: the run that the others are paired with. tables: functions of an Outcome (outcomes.py) that return
    Markdown, by name. figures: functions that return matplotlib's figure and the numbers that it shows, by name.
    unfinished: True if scripts make the runs, and a run that has not made all its iterations is shown as well.
    """

    name: str
    question: str
    time: str
    train: str
    runs: dict[str, Run]
    tests: dict[str, Test]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str | None = None
    tables: dict[str, Callable] = field(default_factory=dict)
    figures: dict[str, Callable] = field(default_factory=dict)
    unfinished: bool = False

    def seeds_of(self, name: str) -> tuple[int, ...]:
        return self.runs[name].seeds or self.seeds

    def pairs(self) -> list[tuple[int, str]]:
        """Return the seeds and names of all runs, seed by seed."""
        seeds = sorted({seed for name in self.runs for seed in self.seeds_of(name)})
        return [(seed, name) for seed in seeds for name in self.runs if seed in self.seeds_of(name)]

    def training(self, name: str, seed: int, values: dict[str, str]) -> str:
        """Return the flags of a run's training, or the file that it begins with."""
        run = self.runs[name]
        if run.weights:
            return f"--weights {shlex.quote(run.weights)}"
        chosen = [f"--{flag} {value}" for flag, value in values.items()]
        return " ".join([self.train, run.flags, *chosen, f"--seed {seed}"])


MAML, DROP = "--model maml", "--model metadrop"
EXACT = "--meta_gradient exact"
ONE_SHOT = (
    "--dataset omniglot --way 5 --shot 1 --query 15 --metabatch 4 --n_train_iters 800 --val_every 200 "
    "--n_val_tasks 200 --save_freq 100"
)
FIVE_SHOT = ONE_SHOT.replace("--shot 1", "--shot 5").replace("--n_train_iters 800", "--n_train_iters 400")
TESTED = {"test": Test("--mode meta_test --n_test_iters 400 --n_test_mc_samp 10")}
ALPHA, BETAS = {"mix_alpha": ("0.2", "1", "2")}, {"vib_beta": ("1e-4", "1e-3", "1e-2")}


def perturbed(title: str, flags: str, **more) -> Run:
    return Run(title, f"{MAML} --perturbation {flags}", **more)


ABLATIONS = {
    "fixed": "fixed noise", "independent": "independent noise", "weight": "noise on the weights",
    "additive": "additive noise", "deterministic": "factor without noise", "variance": "learned variance",
    "parameters": "extra parameters",
}  # fmt: skip
PAIR = {"maml": Run("MAML", MAML, other="metadrop"), "metadrop": Run("Meta-dropout", DROP, other="maml")}
EXACT_PAIR = {
    "maml_exact": Run("MAML, exact gradient", f"{MAML} {EXACT}", other="metadrop_exact"),
    "metadrop_exact": Run("Meta-dropout, exact gradient", f"{DROP} {EXACT}", other="maml_exact"),
}
REGULARISERS = {
    "mixup": perturbed("mixup, support", "mixup", choose=ALPHA),
    "mixup_query": perturbed("mixup, query", "mixup --mix_set query", choose=ALPHA),
    "manifold": perturbed("manifold mixup, support", "manifold_mixup", choose=ALPHA),
    "manifold_query": perturbed("manifold mixup, query", "manifold_mixup --mix_set query", choose=ALPHA),
    "vib": perturbed("VIB", "vib", choose=BETAS),
    "information": perturbed(
        "information dropout", "information_dropout", choose={"information_beta": ("6e-6", "6e-5", "6e-4")}
    ),
}
LEARNERS = {
    "metasgd": Run("Meta-SGD", "--model metasgd"),
    "metasgd_noise": Run("Meta-SGD, Meta-dropout", "--model metasgd --perturbation noise"),
    "head": Run("ANIL", f"{MAML} --adapt head"),
    "body": Run("BOIL", f"{MAML} --adapt body"),
    "protonet": Run("Prototypical Network", "--model protonet"),
    "protonet_wide": Run("Prototypical Network, trained 60-way", "--model protonet --train_way 60 --metabatch 1"),
}

regularisers = Study(
    name="regularisers",
    question="Regularisers of MAML, the parts of Meta-dropout, and other learners, each paired with MAML",
    time="five hours on two cores",
    train=ONE_SHOT,
    runs=PAIR | {name: perturbed(title, name) for name, title in ABLATIONS.items()} | REGULARISERS | LEARNERS,
    tests=TESTED,
    baseline="maml",
    tables={
        "accuracy": tables.differences,
        "strengths": tables.strengths,
        "parts": tables.pairs({
            ABLATIONS[name]: ("metadrop", name) for name in ("deterministic", "variance", "parameters", "fixed")
        }),
    },
    figures={"accuracy": plots.differences},
)  # fmt: skip

exact = Study(
    name="exact",
    question="The parts of Meta-dropout with the exact meta-gradient, each paired with MAML",
    time="two and a half hours on two cores",
    train=f"{ONE_SHOT} {EXACT}",
    runs=PAIR | {name: perturbed(title, name) for name, title in ABLATIONS.items()},
    tests=TESTED,
    baseline="maml",
    tables={"accuracy": tables.differences},
    figures={"accuracy": plots.differences},
)

gradients = Study(
    name="gradients",
    question="MAML and Meta-dropout with the published and with the exact meta-gradient",
    time="an hour and a half on two cores",
    train=ONE_SHOT,
    runs=PAIR | EXACT_PAIR,
    tests=TESTED,
    tables={"pairs": tables.pairs({
        "published": ("maml", "metadrop"), "exact": ("maml_exact", "metadrop_exact"),
        "each with its better gradient": ("maml_exact", "metadrop"),
        "MAML, published and exact": ("maml", "maml_exact"),
        "Meta-dropout, published and exact": ("metadrop", "metadrop_exact"),
    })},
    figures={"curves": plots.curves},
)  # fmt: skip

five_shot = Study(
    name="five_shot",
    question="MAML and Meta-dropout with five shots",
    time="an hour on two cores",
    train=FIVE_SHOT,
    runs=PAIR,
    tests=TESTED,
    tables={"pairs": tables.pairs({"5-shot, published": ("maml", "metadrop")})},
    figures={"curves": plots.curves},
)

RATES = {"inner_lr": ("0.05", "0.1", "0.2"), "meta_lr": ("3e-4", "1e-3", "3e-3")}
rates = Study(
    name="rates",
    question="MAML and Meta-dropout, each with the inner rate and the meta rate that the validation classes choose",
    time="four hours on two cores",
    train=ONE_SHOT.replace("--val_every 200 --n_val_tasks 200", "--val_every 800 --n_val_tasks 400"),
    runs={
        "maml": Run("MAML, published", MAML, RATES), "metadrop": Run("Meta-dropout, published", DROP, RATES),
        "maml_exact": Run("MAML, exact", f"{MAML} {EXACT}", RATES),
        "metadrop_exact": Run("Meta-dropout, exact", f"{DROP} {EXACT}", RATES),
    },
    tests=TESTED,
    tables={
        "strengths": tables.strengths,
        "pairs": tables.pairs({
            "published, published": ("maml", "metadrop"), "published, exact": ("maml", "metadrop_exact"),
            "exact, published": ("maml_exact", "metadrop"), "exact, exact": ("maml_exact", "metadrop_exact"),
            "MAML, published and exact": ("maml", "maml_exact"),
            "Meta-dropout, published and exact": ("metadrop", "metadrop_exact"),
        }),
    },
)  # fmt: skip

BF16 = "--precision bf16"
precision = Study(
    name="precision",
    question="Training in bfloat16 against float32; all runs are tested in float32",
    time="two hours on two cores",
    train=ONE_SHOT,
    runs=PAIR | {
        "maml_bf16": Run("MAML, bf16", f"{MAML} {BF16}"), "metadrop_bf16": Run("Meta-dropout, bf16", f"{DROP} {BF16}"),
    },
    tests={"test": Test(f"{TESTED['test'].flags} --precision float32")},
    tables={"pairs": tables.pairs({"MAML": ("maml", "maml_bf16"), "Meta-dropout": ("metadrop", "metadrop_bf16")})},
)  # fmt: skip

MASK = "--perturbation mask"
METANET = {  # the original's metabatches
    "embedding": Run("Embedding-based", "--model metanet_embedding --metabatch 8 --n_train_iters 249"),
    "original": Run("Original", "--model metanet_original --metabatch 16 --n_train_iters 124"),
    "maml": Run("MAML", f"{MAML} --metabatch 16 --n_train_iters 124 --n_steps 5 --inner_lr 0.01 {EXACT}"),
}


def masked(name: str, kind: str, flags: str = "") -> Run:
    run = METANET[name]
    return Run(f"{run.title}, {kind}", f"{run.flags} {MASK} {flags}", baseline=name)


MASKED = {
    **METANET,
    **{f"{name}_mask": masked(name, "one mask per task") for name in METANET},
    "embedding_scaled": masked("embedding", "scaled by 1/(1-p)", "--mask_scaled"),
    "original_scaled": masked("original", "scaled by 1/(1-p)", "--mask_scaled"),
    "embedding_dropout": masked("embedding", "one mask per image", "--mask_per_sample"),
    "original_dropout": masked("original", "one mask per image", "--mask_per_sample"),
}
ON_TASKS = "--mode meta_test --metabatch 4 --n_test_iters 1000"
masks = Study(
    name="masks",
    question="One mask per task, and none: Meta Networks and MAML on Omniglot's background set",
    time="two hours on two cores",
    train="--dataset omniglot --split background --way 5 --shot 1 --query 15 --meta_lr 1e-3 --clip_norm 1 "
    "--val_every 0 --save_freq 50",
    runs=MASKED,
    tests={
        "test": Test(ON_TASKS),
        "batch": Test(f"{ON_TASKS} --test_statistics batch", runs=tuple(name for name in MASKED if "maml" not in name)),
    },
    tables={
        "accuracy": tables.differences,
        "batch": partial(tables.differences, tests=("batch",)),
        "tasks": tables.tasks,
    },
)  # fmt: skip

collapse = Study(
    name="collapse",
    question="Neural collapse in MAML and Meta-dropout, 5-way 5-shot",
    time="an hour and a quarter on two cores",
    train="--dataset omniglot --way 5 --shot 5 --query 15 --metabatch 4 --n_steps 5 --inner_lr 0.1 --meta_lr 1e-3 "
    "--n_train_iters 2000 --collapse_every 100 --val_every 200 --n_val_tasks 100 --save_freq 200",
    runs=PAIR,
    tests={
        "test": Test("--mode meta_test --n_test_iters 1000"),
        "collapse": Test("--mode collapse --n_test_iters 1000"),
    },
    seeds=(0,),
    tables={"accuracy": tables.pairs({"5-shot": ("maml", "metadrop")}), "features": tables.collapse},
    figures={name: plots.collapse(name) for name in ("traces", "by_iteration", "by_step", "by_layer")},
)

reptile = Study(
    name="reptile",
    question="Reptile with the published settings and fewer updates",
    time="three quarters of an hour on a core",
    train="--model reptile --dataset omniglot --way 5 --shot 1 --query 9 --train_split trainval",
    runs={
        "1000": Run("1,001 updates", "--n_train_iters 1000"),
        "5000": Run("5,001 updates", "--n_train_iters 5000"),
    },
    tests={"test": Test("--mode meta_test --query 1 --n_test_iters 1000")},
    seeds=(0,),
    tables={"accuracy": tables.differences},
)


HEADS = ("logistic", "ridge", "finetune")  # of the baselines, besides the nearest mean
BEST = ("metasgd", "metadrop", "protonet", "ridge")  # of the learners that meta-learn; the baseline is paired with them
META_LR = {"meta_lr": ("3e-4", "1e-3", "3e-3")}


def baselines(
    name: str, question: str, time: str, task: str, *, shot: int, inner_lr: str, across: str, protonet: dict
) -> Study:
    """Return the study of learners that meta-learn and of others that do not, on as many images. task: flags of all
    trainings. inner_lr: of the learners with MAML's inner loop. across: another dataset that all are tested on.
    protonet: what the Prototypical Network chooses from besides the outer rate."""
    inner = f"--inner_lr {inner_lr}"
    images, query = 5 * (shot + 15), f"--way 5 --shot {shot} --query 15 --metabatch 4"
    heads = {head: Test(f"{TESTED['test'].flags} --head {head}", runs=("nearest", "baseline")) for head in HEADS}
    heads["batch statistics"] = Test(f"{TESTED['test'].flags} --test_statistics batch", runs=("baseline",))
    others = {"across": Test(f"{TESTED['test'].flags} --dataset {across} --across")}
    others["with batch statistics"] = Test(f"{others['across'].flags} --test_statistics batch", runs=("baseline",))
    runs = {
        "nearest": Run("Nearest mean in pixels", "--model nearest --n_train_iters 0", seeds=(0,)),
        "baseline": Run("Baseline", f"--model baseline --batch {images}", META_LR),
        "maml": Run("MAML", f"{MAML} {inner}", META_LR),
        "head": Run("ANIL", f"{MAML} {inner} --adapt head", META_LR),
        "reptile": Run("Reptile", f"--model reptile --inner_batch {images // 5}", {"meta_lr": ("0.3", "1")}),
        "metasgd": Run("Meta-SGD", f"--model metasgd {inner}", META_LR),
        "metadrop": Run("Meta-dropout", f"{DROP} {inner}", META_LR),
        "protonet": Run("Prototypical Network", "--model protonet", protonet | META_LR),
        "ridge": Run("Ridge regression (R2-D2)", "--model ridge", META_LR),
    }
    return Study(
        name=name,
        question=question,
        time=time,
        train=f"{task} {query} --val_every 200 --n_val_tasks 200 --save_freq 100",
        runs=runs,
        tests=TESTED | heads | others,
        baseline="maml",
        tables={
            "accuracy": partial(tables.differences, tests=("test", *heads)),
            "across": partial(tables.differences, tests=tuple(others)),
            "pairs": tables.pairs({f"Baseline - {runs[name].title}": (name, "baseline") for name in BEST}),
            "budgets": tables.budgets,
            "strengths": tables.strengths,
        },
        figures={"accuracy": plots.tests({"test": "test classes of the same dataset", "across": across}, ("nearest",))},
    )


BENCHMARKS = "Learners that meta-learn, and baselines that do not, on as many training images: "
baselines_omniglot = baselines(
    "baselines_omniglot", f"{BENCHMARKS}Omniglot 5-way 1-shot, Vinyals' split", "two and a half hours on two cores",
    "--dataset omniglot_vinyals --n_train_iters 800", shot=1, inner_lr="0.1", across="glyphs", protonet={},
)  # fmt: skip
baselines_1shot, baselines_5shot = (
    baselines(
        f"baselines_{shot}shot", f"{BENCHMARKS}miniImageNet 5-way {shot}-shot", f"{hours} hours on two cores",
        "--dataset mimgnet --n_train_iters 400", shot=shot, inner_lr="0.01", across="omniglot_84",
        protonet={"temperature": ("1", "64")},
    )
    for shot, hours in {1: "four", 5: "six"}.items()
)  # fmt: skip


def shipped(task: str, title: str = "", **more) -> dict[str, Run]:
    """Return the pair of pretrained/ for this task."""
    file = f"{ROOT}/pretrained/{task}_{{}}.npz"
    return {name: Run(f"{run.title}{title}", weights=file.format(name), **more) for name, run in PAIR.items()}


glyphs = Study(
    name="glyphs",
    question="The pair of pretrained/ that the demo shows, on 1000 episodes",
    time="five minutes on two cores",
    train="",
    runs=shipped("glyphs_10way_1shot"),
    tests={"test": Test("--mode meta_test --n_test_iters 1000 --n_test_mc_samp 10")},
    seeds=(0,),
    tables={"pairs": tables.pairs({"10-way 1-shot": ("maml", "metadrop")})},
)

FOUR = ("maml", "metadrop", "maml_exact", "metadrop_exact")
ATTACK = "--mode attack --query 3 --n_test_iters 100 --n_test_mc_samp 10"
TRAINED_ON = {"linf_0.02": "linf:0.02", "linf_0.1": "linf:0.1", "l2_1": "l2:1", "l2_5": "l2:5"}
FIRST = {"seeds": (0,)}
OF_FIVE = "--shot 5 --n_train_iters 400"


def attack(flags: str, **more) -> Test:
    return Test(f"{ATTACK} {flags}", **more)


def trained_on(ball: str, flags: str = "", title: str = "") -> Run:
    """Return MAML that is trained on attacked images."""
    return Run(f"MAML, trained on {ball.replace(':', ' ')}{title}", f"{MAML} --adversarial {ball} {flags}", **FIRST)


LEADS = {
    "Meta-dropout - MAML": ("metadrop", "maml"),
    "Meta-dropout - MAML, exact gradient": ("metadrop_exact", "maml_exact"),
    "MAML, exact gradient - MAML": ("maml_exact", "maml"),
    "Meta-dropout - MAML, 5-shot": ("metadrop_5shot", "maml_5shot"),
    "Meta-dropout - MAML, 20-way": ("metadrop_20way", "maml_20way"),
    "trained on linf 0.02 - Meta-dropout": ("linf_0.02", "metadrop"),
    "trained on linf 0.1 - Meta-dropout": ("linf_0.1", "metadrop"),
    "trained on linf 0.02 - Meta-dropout, 5-shot": ("linf_0.02_5shot", "metadrop_5shot"),
    "fixed noise - Meta-dropout": ("fixed", "metadrop"),
    "independent noise - Meta-dropout": ("independent", "metadrop"),
    "information dropout - Meta-dropout": ("information", "metadrop"),
    "mixup, query - MAML": ("mixup_query", "maml"),
    "Meta-SGD - MAML": ("metasgd", "maml"),
    "ANIL - MAML": ("head", "maml"),
    "BOIL - MAML": ("body", "maml"),
    "Prototypical Network - Meta-dropout": ("protonet", "metadrop"),
}
LINF = [(test, eps) for test in ("joint", "remaining") for eps in (0.06, 0.1)]
OTHER_NORMS = ("l2", 1), ("l2", 2), ("l1", 20), ("l1_dense", 20)

robustness = Study(
    name="robustness",
    question="Attacks on the query images, and whether Meta-dropout's robustness is real",
    time="half a day on two cores, mostly for the attacks",
    train=ONE_SHOT,
    runs={
        **PAIR, **EXACT_PAIR, **{name: trained_on(ball) for name, ball in TRAINED_ON.items()},
        "maml_5shot": Run("MAML, 5-shot", f"{MAML} {OF_FIVE}", **FIRST),
        "metadrop_5shot": Run("Meta-dropout, 5-shot", f"{DROP} {OF_FIVE}", **FIRST),
        "linf_0.02_5shot": trained_on("linf:0.02", OF_FIVE, ", 5-shot"),
        "linf_0.1_5shot": trained_on("linf:0.1", OF_FIVE, ", 5-shot"),
        **{f"{name}_20way": run for name, run in shipped("omniglot_20way_1shot", ", 20-way", **FIRST).items()},
        "fixed": perturbed("fixed noise", "fixed", **FIRST),
        "independent": perturbed("independent noise", "independent", **FIRST),
        "mixup": perturbed("mixup, support, alpha 0.2", "mixup --mix_alpha 0.2", **FIRST),
        "mixup_query": perturbed("mixup, query, alpha 2", "mixup --mix_set query --mix_alpha 2", **FIRST),
        "vib": perturbed("VIB, beta 1e-4", "vib --vib_beta 1e-4", **FIRST),
        "information": perturbed(
            "information dropout, beta 6e-6", "information_dropout --information_beta 6e-6", **FIRST
        ),
        **{name: replace(LEARNERS[name], **FIRST) for name in ("metasgd", "head", "body", "protonet", "protonet_wide")},
    },
    tests={
        "joint": attack("--threat joint"),
        "remaining": attack("--threat remaining"),
        "l2": attack("--norm l2", runs=("maml", "metadrop", *TRAINED_ON, "maml_20way", "metadrop_20way"), **FIRST),
        "l1": attack("--norm l1", runs=("maml", "metadrop", *TRAINED_ON), **FIRST),
        "l1_dense": attack("--norm l1_dense", runs=("maml", "metadrop", *TRAINED_ON), **FIRST),
        "10 steps": attack("--eps 0.06 0.1 --attack_steps 10", runs=FOUR),
        "200 steps": attack("--eps 0.1 --attack_steps 200", runs=FOUR),
        "40 steps up the margin": attack("--eps 0.06 0.1 --attack_loss margin", runs=FOUR),
        "10 steps, one image at a time, 0.06": attack("--eps 0.06 --attack_steps 10 --threat single", runs=FOUR),
        "10 steps, one image at a time": attack("--eps 0.1 --attack_steps 10 --threat single", runs=FOUR),
        "10 restarts, up the margin of the remaining images": attack(
            "--eps 0.1 --restarts 10 --attack_loss margin --threat remaining", runs=FOUR
        ),
        "40 steps with the other learner's gradients": attack("--eps 0.1 --surrogate {other}", runs=FOUR),
        "40 steps with gradients over 4 other noise draws": attack(
            "--eps 0.1 --surrogate {self} --surrogate_draws 4", runs=("metadrop", "metadrop_exact")
        ),
        "square attack, 500 images, misclassified ones moved, too": attack(
            "--eps 0.1 --attack_method square --attack_steps 500", runs=FOUR, earlier=("square_share",)
        ),
        "40 steps, large balls": attack("--eps 0.2 0.5", runs=FOUR),
    },
    tables={
        "linf": tables.by_radius(("joint", 0), *LINF), "linf_leads": tables.leads(LEADS, *LINF),
        "other": tables.by_radius(*OTHER_NORMS), "other_leads": tables.leads(LEADS, *OTHER_NORMS),
        "attacks": tables.attacks, "clean": tables.clean,
    },
    figures={
        "curves": plots.robustness(*FOUR, *TRAINED_ON, "maml_5shot", "metadrop_5shot", "linf_0.02_5shot",
                                   "linf_0.1_5shot", "maml_20way", "metadrop_20way"),
        "regularisers": plots.robustness(
            "maml", "metadrop", "fixed", "independent", "mixup", "mixup_query", "vib", "information",
            tests=("joint", "remaining"),
        ),
        "learners": plots.robustness(
            "maml", "metadrop", "metasgd", "head", "body", "protonet", "protonet_wide", tests=("joint", "remaining")
        ),
    },
)  # fmt: skip

UNBALANCED = ("mixtures", "support_sets", "leave_one_out")
DRAWS = ("1", "3", "10")
pictures = Study(
    name="pictures",
    question="The classifier of pictures that are no balanced episode: the shipped pair",
    time="half an hour on two cores",
    train="",
    runs=shipped("omniglot_5way_1shot"),
    tests={
        **{name: Test(f"--measure {name} --tasks 60 --samples 3") for name in UNBALANCED},
        **{n: Test(f"--mode meta_test --n_test_iters 200 --n_test_mc_samp {n}", ("metadrop",)) for n in DRAWS},
    },
    seeds=(0,),
    tables={
        "mixtures": tables.measured("mixtures", "statistics of"),
        "support_sets": tables.measured("support_sets", "support pictures of each class"),
        "leave_one_out": tables.measured("leave_one_out", "pictures of each class"),
        "samples": tables.tests("metadrop", "noise samples", DRAWS),
    },
)

drawings = Study(
    name="drawings",
    question="What centring and scaling of a drawing cost; --data_dir has Omniglot at 105 x 105",
    time="ten minutes on two cores",
    train="",
    runs=shipped("omniglot_5way_1shot"),
    tests={"drawings": Test("--measure drawings --tasks 200 --samples 5")},
    seeds=(0,),
    tables={"drawings": tables.measured("drawings", "")},
)

OF_20 = {f"{name}_20way": run for name, run in shipped("omniglot_20way_1shot", ", 20-way").items()}
rejection = Study(
    name="rejection",
    question="Pictures of classes that are not in the support set: how well --reject distinguishes them",
    time="ten minutes on two cores",
    train="",
    runs=shipped("omniglot_5way_1shot") | OF_20,
    tests={
        "5way": Test("--measure rejection --tasks 60 --samples 3", ("maml", "metadrop")),
        "20way": Test("--measure rejection_20way --tasks 10 --samples 3", tuple(OF_20)),
    },
    seeds=(0,),
    tables={
        "scores": tables.measured("5way", "%", "20way", only="-shot: others"),
        "thresholds": tables.measured(
            "5way", "%", "20way", only="-shot, (rejected|others)", columns=("0.6", "0.7", "0.75", "0.8", "0.85", "0.9")
        ),
    },
)


def command_in(script: str, mode: str) -> str:
    """Return the flags of main.py in a script of Table 1, without the savedir and those that it is called with."""
    text = (ROOT / "runfiles" / f"{script}.sh").read_text().replace("\\\n", " ")
    (words,) = re.findall(rf"main\.py (--mode {mode} .*?)\$\{{", text)
    return re.sub(r"--savedir \$D|--resume|--mode meta_train", "", words)


CELL_SCRIPTS = [f"{model}_{cell}" for cell in tables.CELLS for model in tables.TITLES]
table1 = Study(
    name="table1",
    question="Table 1 of the paper",
    time="days on a GPU; the runs are those of the scripts of the same names",
    train="",
    runs={name: Run(name, command_in(name, "meta_train")) for name in CELL_SCRIPTS},
    tests={"test": Test(command_in("metadrop_omni_1shot", "meta_test"))},
    seeds=(0,),
    tables={"accuracy": tables.table1} | {cell: tables.progress(cell) for cell in tables.CELLS},
    figures={cell: plots.progress(cell) for cell in tables.CELLS},
    unfinished=True,
)

speed = Study(
    name="speed",
    question="Time and memory of an iteration; runfiles/timings.py measures them",
    time="half an hour on two cores that do nothing else",
    train="",
    runs={},
    tests={},
    tables={
        "rows": timings.rows,
        "others": timings.others,
        "memory": timings.memory,
        "learners": timings.learners("omniglot"),
        "learners_mimgnet": timings.learners("mimgnet"),
        "metadrop": timings.profile("--dataset omniglot --way 20 --model metadrop"),
    },
)

STUDIES = {study.name: study for study in list(globals().values()) if isinstance(study, Study)}
