"""List the runs of the study runfiles/regularisers.sh, print the table of their results, and draw the figure.

python runfiles/regularisers.py [RESULTS] [--figure FILE.png]
python runfiles/regularisers.py [RESULTS] --runs SEED [SEED ...] [-- FLAGS]     the runs, for train_all.py
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tables import (
    ADAPTATION,
    EPISODES,
    ROOT,
    TRAINING,
    last_validation,
    paired,
    read_runs,
    refuse_mixed,
    split_command,
    tests_of,
)

from errors import Parser, UserError, run
from figures.run import read_curves
from learners import make
from settings import to_path, whole
from training.test_results import read_config

TRAIN = (
    "--dataset omniglot --way 5 --shot 1 --query 15 --metabatch 4 --n_train_iters 800 --val_every 200 "
    "--n_val_tasks 200 --save_freq 100"
)
TEST = "--n_test_iters 400 --n_test_mc_samp 10"
PLAIN = "maml"  # the kind that all others are compared with


class Kind(NamedTuple):
    """A row of the table: its title, its flags and, if it has a strength, the flag and the values to try."""

    title: str
    flags: str
    strength: str = ""
    values: tuple[str, ...] = ()


def perturbed(title: str, name: str, *strength) -> Kind:
    return Kind(title, f"--model maml --perturbation {name}", *strength)


KINDS = {
    "maml": Kind("MAML", "--model maml"),
    "metadrop": Kind("Meta-dropout", "--model metadrop"),
    "fixed": perturbed("fixed noise", "fixed"),
    "independent": perturbed("independent noise", "independent"),
    "weight": perturbed("noise on the weights", "weight"),
    "additive": perturbed("additive noise", "additive"),
    "deterministic": perturbed("factor without noise", "deterministic"),
    "variance": perturbed("learned variance", "variance"),
    "parameters": perturbed("extra parameters", "parameters"),
    "mixup": perturbed("mixup, support", "mixup", "--mix_alpha", ("0.2", "1", "2")),
    "mixup_query": perturbed("mixup, query", "mixup --mix_set query", "--mix_alpha", ("0.2", "1", "2")),
    "manifold": perturbed("manifold mixup, support", "manifold_mixup", "--mix_alpha", ("0.2", "1", "2")),
    "manifold_query": perturbed("manifold mixup, query", "manifold_mixup --mix_set query", "--mix_alpha",
                                ("0.2", "1", "2")),
    "vib": perturbed("VIB", "vib", "--vib_beta", ("1e-4", "1e-3", "1e-2")),
    "information": perturbed("information dropout", "information_dropout", "--information_beta",
                             ("6e-6", "6e-5", "6e-4")),
    "metasgd": Kind("Meta-SGD", "--model metasgd"),
    "metasgd_noise": Kind("Meta-SGD, Meta-dropout", "--model metasgd --perturbation noise"),
    "head": Kind("ANIL", "--model maml --adapt head"),
    "body": Kind("BOIL", "--model maml --adapt body"),
    "protonet": Kind("Prototypical Network", "--model protonet"),
    "protonet_wide": Kind("Prototypical Network, trained 60-way", "--model protonet --train_way 60 --metabatch 1"),
    "maml_exact": Kind("MAML, exact gradient", "--model maml --meta_gradient exact"),
    "metadrop_exact": Kind("Meta-dropout, exact gradient", "--model metadrop --meta_gradient exact"),
    "deterministic_exact": perturbed("factor without noise, exact gradient", "deterministic --meta_gradient exact"),
    "parameters_exact": perturbed("extra parameters, exact gradient", "parameters --meta_gradient exact"),
}  # fmt: skip


def validation(savedir: Path) -> float:
    """Return the run's last validation accuracy, in percent; NaN if it has none yet."""
    return (last_validation(savedir) or (np.nan,))[0]


def chosen(results: Path, name: str) -> str:
    """Return the strength with the highest validation accuracy of seed 0; "" for a kind without strengths.

    UserError if a run of seed 0 has no validation yet.
    """
    values = KINDS[name].values
    accuracies = [validation(results / f"{key(name, value)}_0") for value in values]
    if np.isnan(accuracies).any():
        raise UserError(f"{results} has not all validations of {name} with seed 0: run the lines of --runs 0 first")
    return values[int(np.argmax(accuracies))] if values else ""


def line(results: Path, name: str, value: str, seed: int, flags: str, tested: bool) -> str:
    """Return a run as a line for train_all.py. value: its strength, or ""."""
    kind = KINDS[name]
    words = [TRAIN, kind.flags, *([kind.strength, value] if value else []), f"--seed {seed}", flags]
    columns = [f"{results / key(name, value)}_{seed}", " ".join(words), *[f"{TEST} {flags}"] * tested]
    return " | ".join(columns)


def key(name: str, value: str) -> str:
    """Return the name of the runs of a kind with this strength, without the seed."""
    return f"{name}-{value}" if value else name


def title_of(name: str, value: str) -> str:
    """Return the title of a kind with this strength, for a table."""
    kind = KINDS[name]
    return f"{kind.title}, {kind.strength.rpartition('_')[2]} {value}" if value else kind.title


def lines(results: Path, seeds: list[int], flags: str) -> list[str]:
    """Return the runs of these seeds. With seed 0 every strength is trained, not tested; with another seed the chosen
    strength is trained and tested, and that of seed 0 is tested, too. UserError if none can be chosen yet."""
    runs = []
    for name, kind in KINDS.items():
        if kind.values and 0 in seeds:
            runs += [line(results, name, value, 0, flags, tested=False) for value in kind.values]
        others = [seed for seed in seeds if seed or not kind.values]
        if kind.values and others:
            others = [0, *others]
        runs += [line(results, name, chosen(results, name), seed, flags, tested=True) for seed in others]
    return runs


def parameters(config: dict) -> int:
    """Return the number of parameters of the run's learner, for grey images of 28 x 28."""
    names = ("perturbation", "way", "adapt", "train_way", "random_steps")
    settings = {name: config[name] for name in names if config.get(name) is not None}
    learner = make(config["model"], image_shape=(28, 28, 1), channels=config.get("channels") or 64, **settings)
    return sum(int(np.prod(parameter.shape)) for parameter in learner.parameters().values())


def comparable(config: dict) -> bool:
    """True if the training loss is comparable with MAML's: of unmixed labels, and of as many classes as in testing."""
    return config.get("mix_set") in (None, "support") and config.get("train_way") in (None, config["way"])


def seconds(savedir: Path) -> float:
    """Return the seconds per training iteration: the median over neighbouring lines of meta_train.csv without a
    validation between them; NaN if there are none."""
    curves = read_curves(savedir)
    plain = np.isnan(curves["val_acc"][1:])
    return float(np.median((np.diff(curves["secs"]) / np.diff(curves["iter"]))[plain])) if plain.any() else np.nan


class Row(NamedTuple):
    """The results of a kind over its seeds: the strength, the number of parameters, the seconds per iteration, training
    loss (nats, mean of the last 200 iterations; NaN if it is not `comparable`), validation accuracy (percent), the
    tests by seed, and the cells of `paired` with MAML."""

    title: str
    strength: str
    parameters: int
    seconds: float
    loss: float
    validation: float
    tests: dict[int, dict]
    cells: list[str]


def read_rows(results: Path) -> dict[str, Row]:
    runs, rows = read_runs(results), {}
    tested = {run.partition("-")[0] for run in runs}
    strengths = {name: chosen(results, name) for name in KINDS if name in tested}
    tests = {name: runs[key(name, value)] for name, value in strengths.items() if key(name, value) in runs}
    if PLAIN not in tests:
        raise UserError(f"{results} has no tested runs of MAML: run runfiles/regularisers.sh first")
    refuse_mixed(tests_of(tests), EPISODES | TRAINING | ADAPTATION)
    for name, by_seed in tests.items():
        savedirs = [test["savedir"] for test in by_seed.values()]
        config = read_config(savedirs[0], ["model"])
        losses = [read_curves(savedir)["loss"][-4:] if comparable(config) else np.nan for savedir in savedirs]
        rows[name] = Row(
            KINDS[name].title, strengths[name], parameters(config),
            float(np.mean([seconds(savedir) for savedir in savedirs])), float(np.mean(losses)),
            float(np.mean([validation(savedir) for savedir in savedirs])), by_seed, paired(tests[PLAIN], by_seed) or [],
        )  # fmt: skip
    return rows


def table(rows: dict[str, Row]) -> None:
    print("| | strength | parameters | time | training loss | validation | seeds | accuracy | from MAML | by seed |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        seeds, _, accuracy, difference, each = row.cells or [""] * 5
        loss = "" if np.isnan(row.loss) else f"{row.loss:.3f}"
        time = row.seconds / rows[PLAIN].seconds
        cells = [row.title, row.strength, f"{row.parameters:,}", "" if np.isnan(time) else f"{time:.2f}", loss]
        cells += [f"{row.validation:.2f}", seeds]
        cells += [accuracy, *(("", "") if name == PLAIN else (difference, each))]
        print(f"| {' | '.join(cells)} |")


def figure(rows: dict[str, Row], file: Path) -> None:
    """Draw each kind's difference from MAML by seed and on average, and its training loss and validation accuracy."""
    from matplotlib import pyplot as plt

    from figures.style import BLUE, ORANGE

    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 0.26 * len(rows) + 1.2), width_ratios=(1, 1.1))
    plain, names = rows[PLAIN].tests, [name for name in rows if name != PLAIN]
    for place, name in enumerate(names):
        by_seed = rows[name].tests
        differences = [by_seed[seed]["accuracy"] - plain[seed]["accuracy"] for seed in by_seed.keys() & plain.keys()]
        left.plot(differences, [place] * len(differences), "o", ms=3, color=BLUE, alpha=0.5)
        if differences:
            left.plot(np.mean(differences), place, "|", ms=12, mew=2, color=BLUE)
    left.axvline(0, color="grey", lw=0.8)
    left.set_yticks(range(len(names)), [rows[name].title for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlabel("difference from MAML's test accuracy with the same seed (points)")
    shown = {name: row for name, row in rows.items() if not np.isnan(row.loss)}
    for name, row in shown.items():
        right.plot(row.loss, row.validation, "o", ms=4, color=ORANGE if name == PLAIN else BLUE)
    right.set(xlabel="training loss, last 200 iterations (nats)", ylabel="validation accuracy (%)")
    write_titles(right, {row.title: (row.loss, row.validation) for row in shown.values()})
    fig.savefig(file, dpi=150)


def write_titles(ax, points: dict[str, tuple[float, float]]) -> None:
    """Write each title beside its point (x, y), at the first corner where it covers no other title or point."""
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()  # the layout moves the axes
    pixel = ax.figure.dpi / 72
    taken = [
        Bbox.from_extents(*(place - 3 * pixel), *(place + 3 * pixel))
        for place in ax.transData.transform([*points.values()])
    ]
    for number, (title, point) in enumerate(points.items()):
        others = taken[:number] + taken[number + 1 :]
        for right, offset in ((False, (4, 2)), (False, (4, -7)), (True, (-4, 2)), (True, (-4, -7))):
            text = ax.annotate(
                title, point, offset, textcoords="offset points", fontsize=6, ha="right" if right else "left"
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in others):
                break
            text.remove()
        else:
            text = ax.annotate(title, point, (4, 2), textcoords="offset points", fontsize=6)
        taken.append(text.get_window_extent())


def main() -> None:
    usage, flags = split_command(sys.argv[1:])
    parser = Parser(prog="regularisers.py", description=__doc__.split("\n\n")[0])
    default = ROOT / "results/regularisers"
    parser.add_argument("results", nargs="?", default=default, type=Path, help="folder of the runs")
    parser.add_argument(
        "--runs", nargs="+", type=whole(0), metavar="SEED", help="print the runs of these seeds, for train_all.py"
    )
    parser.add_argument("--figure", type=to_path, metavar="FILE", help="draw the figure into this file")
    args = parser.parse_args(usage)
    if args.runs is not None:
        print(*lines(args.results, args.runs, flags), sep="\n")
        return
    rows = read_rows(args.results)
    table(rows)
    if args.figure:
        figure(rows, args.figure)


if __name__ == "__main__":
    run(main)
