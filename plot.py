"""Draw what runs have left in their savedirs: python plot.py --savedir D [D2 ...], which writes D/plot/index.html.

Decision boundaries and stochastic features need main.py --mode export, the histogram --mode meta_test; neural
collapse needs --mode collapse, or training with --collapse_every.
"""

import argparse
import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

import exported
import figures
import figures_collapse
import geometry
import results
from errors import Parser, UserError, run
from page import Page

NAMES = {
    "maml": "MAML", "metadrop": "Meta-dropout", "metanet_embedding": "Meta Network (embedding)",
    "metanet_original": "Meta Network (original)",
}  # fmt: skip
FIGURES = {
    "boundary": "Decision boundaries",
    "features": "Stochastic features",
    "curves": "Learning curves",
    "histogram": "Accuracies of the test episodes",
    "collapse": "Neural collapse",
}


@dataclass
class Run:
    """One savedir, and what of it has been read."""

    savedir: Path
    config: dict
    name: str = ""
    export: dict = field(default_factory=dict)
    curves: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    collapse: dict = field(default_factory=dict)


def number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, not {text!r}")
    return int(text)


def parser() -> Parser:
    p = Parser(prog="plot.py", description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[1])
    p.add_argument("--savedir", nargs="+", action="extend", default=[], metavar="D",
                   help="folders of runs, side by side; the figures go to the first one's plot/")  # fmt: skip
    p.add_argument("--figures", nargs="+", choices=list(FIGURES), metavar="NAME",
                   help=f"of {', '.join(FIGURES)} (default: all that the savedirs hold)")  # fmt: skip
    p.add_argument("--tasks", nargs="+", type=number, metavar="N",
                   help="numbers of the exported tasks (default: the first three)")  # fmt: skip
    p.add_argument("--classes", nargs=2, type=number, default=[0, 1], metavar=("A", "B"),
                   help="the two classes of a task that the boundary lies between (default: 0 1)")  # fmt: skip
    p.add_argument("--layers", nargs="+", choices=exported.LAYERS, default=["conv1", "conv2"], metavar="LAYER",
                   help="layers whose maps are shown (default: conv1 conv2)")  # fmt: skip
    p.add_argument("--channels", nargs="+", type=number, metavar="N",
                   help="exported channels to show (default: the 3 of each layer that vary most)")  # fmt: skip
    p.add_argument("--format", nargs="+", choices=["png", "pdf", "svg"], default=["png", "pdf"], metavar="KIND",
                   help="png, pdf, svg (default: png pdf); png is always written, for the page")  # fmt: skip
    p.add_argument("--dpi", type=number, default=200, metavar="N", help="dots an inch of a png (default: 200)")
    p.add_argument("--seed", type=number, default=0, metavar="N",
                   help="seed of the t-SNE: what another one changes is an accident (default: 0)")  # fmt: skip
    return p


def name_runs(runs: list[Run]) -> None:
    """A learner's name, and how it is perturbed; with the folder's name where two runs would have the same."""
    for run_ in runs:
        run_.name = NAMES.get(run_.config["model"], run_.config["model"])
        if (perturbation := run_.config.get("perturbation") or "none") != "none":
            run_.name += f", {perturbation}"
    names = [run_.name for run_ in runs]
    for run_, name in zip(runs, names, strict=True):
        if names.count(name) > 1:
            run_.name = f"{name} ({run_.savedir.name})"
    if len({run_.name for run_ in runs}) < len(runs):
        for run_ in runs:
            run_.name = str(run_.savedir)


def read_curves(savedir: Path) -> dict[str, np.ndarray]:
    """The columns of meta_train.csv; NaN where a cell is empty."""
    path = savedir / "meta_train.csv"
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError("no row yet")
        wanted = ("iter", "secs", "loss", "acc", "val_loss", "val_acc", "val_ci95")
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in wanted}
    except FileNotFoundError as fault:
        raise UserError(f"there is no {path}: the run has not been trained") from fault
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise UserError(f"{path} cannot be read ({fault})") from fault


def read_exports(runs: list[Run], tasks: list[int] | None, pair: tuple[int, int]) -> list[int]:
    """Read every run's export. -> the tasks to draw, which all must hold, the same, with the classes `pair`."""
    for run_ in runs:
        run_.export = exported.read(run_.savedir)
    if tasks is None:
        tasks = list(range(min(3, *(len(run_.export["classes"]) for run_ in runs))))
    for run_ in runs:
        held, way = run_.export["classes"].shape
        if max(tasks) >= held:
            raise UserError(
                f"--tasks {max(tasks)}: {run_.savedir / exported.NAME} holds the tasks 0 to {held - 1}; "
                f"export more with --export_tasks"
            )
        if max(pair) >= way or pair[0] == pair[1]:
            raise UserError(f"--classes {pair[0]} {pair[1]}: two different ones of 0 to {way - 1} are wanted")
        prints = [e.export["fingerprints"][tasks] for e in (runs[0], run_)]
        if (prints[0] != prints[1]).any():
            raise UserError(
                f"{runs[0].savedir} and {run_.savedir} hold different tasks: export both with the same --dataset, "
                f"--way, --shot, --query and --seed"
            )
    return tasks


def pick_channels(export: dict, layer: str, wanted: list[int] | None) -> list[int]:
    """Places in export's map_channels: those of the channels wanted, or of the 3 whose maps vary most."""
    held = export["map_channels"].tolist()
    if wanted is None:
        maps = export[f"perturbed_{layer}"].astype(np.float32)  # [K,M,I,h,w,J]
        varying = maps.var(1).mean((0, 1, 2, 3))
        return sorted(np.argsort(-varying, kind="stable")[:3].tolist())
    missing = sorted(set(wanted) - set(held))
    if missing:
        raise UserError(f"--channels {missing[0]} was not exported: choose from {' '.join(map(str, held))}")
    return [held.index(channel) for channel in wanted]


def draw_boundaries(runs: list[Run], page: Page, tasks: list[int], pair: tuple[int, int], seed: int, bar) -> None:
    section = FIGURES["boundary"]
    names = tuple(f"class {c} ({side})" for c, side in zip(pair, "AB", strict=True))
    scenes = {run_.name: {} for run_ in runs}
    for task in tasks:
        for run_ in runs:
            scenes[run_.name][task] = geometry.scene(run_.export, task, pair, seed)
        bar.update()
    what = (
        "Axis 1 is the last layer's features projected on the difference of the two classes' weights, so the boundary "
        "is exact; axis 2 is a 1-D t-SNE of what is left. The shaded side is where a class is predicted."
    )
    page.add(
        FIGURES["boundary"],
        "boundary_tasks",
        f"After adaptation. {what}",
        figures.boundary_tasks(scenes, names),
    )
    bar.update()
    for task in tasks:
        here = {name: by_task[task] for name, by_task in scenes.items()}
        if max(len(scene.boundary) for scene in here.values()) == 1:  # no steps, nothing moves
            bar.update(2)
            continue
        caption = f"Task {task}, from before the first inner step to after the last, one t-SNE for all steps."
        page.add(section, f"boundary_task{task}", caption, figures.boundary_strip(here, names))
        bar.update()
        caption = f"Task {task}: the same, moving; between two steps on straight lines."
        page.add_animation(section, f"boundary_task{task}_steps", caption, figures.boundary_frames(here, names))
        bar.update()


def draw_features(runs: list[Run], page: Page, tasks: list[int], layers: list[str], channels, bar) -> None:
    for number_, run_ in enumerate(runs):
        e = run_.export
        if not e["perturbed_features"].shape[2]:
            page.note(FIGURES["features"], f"{run_.name} perturbs nothing: it has no stochastic features.")
            bar.update(len(tasks))
            continue
        chosen = [(layer, j) for layer in layers for j in pick_channels(e, layer, channels)]
        for task in tasks:
            for i, row in enumerate(e["map_images"]):
                maps = [
                    {
                        "label": f"{layer} ch {e['map_channels'][j]}",
                        "clean": e[f"clean_{layer}"][task, i, ..., j].astype(np.float32),
                        "perturbed": e[f"perturbed_{layer}"][task, :, i, ..., j].astype(np.float32),
                        "noise": e[f"noise_{layer}"][task, :, i, ..., j].astype(np.float32),
                    }
                    for layer, j in chosen
                ]
                image = e["support_images"][task, row]
                name = f"features{f'_run{number_}' if len(runs) > 1 else ''}_task{task}_image{i}"
                copies = e["perturbed_features"].shape[2]
                caption = (
                    f"{run_.name}, task {task}, training image {row}: maps after batch norm and relu, mean and "
                    f"standard deviation over {copies} noise samples"
                )
                page.add(FIGURES["features"], name, caption + ".", figures.feature_strip(image, maps))
                page.add_animation(FIGURES["features"], f"{name}_samples", f"{caption}; one sample after the other.",
                    figures.feature_frames(image, maps),
                )  # fmt: skip
            bar.update()


def draw_curves(runs: list[Run], page: Page, bar) -> None:
    caption = "Meta-training: loss, and accuracy with its 95 % interval, by iterations and by wall time."
    page.add(FIGURES["curves"], "curves", caption, figures.learning_curves({run_.name: run_.curves for run_ in runs}))
    bar.update()


def draw_histogram(runs: list[Run], page: Page, bar) -> None:
    paired = {}
    for run_ in runs[1:]:
        if run_.test["episodes_sha256"] == runs[0].test["episodes_sha256"]:
            title = f"{run_.name} − {runs[0].name}"
            paired[title] = run_.test["accuracies"] - runs[0].test["accuracies"]
        else:
            page.note(
                FIGURES["histogram"], f"{run_.name} and {runs[0].name} were tested on different episodes: not paired."
            )
    settings = runs[0].test["settings"]
    fig = figures.accuracy_histogram(
        {run_.name: run_.test for run_ in runs}, paired, quantum=100 / (settings["way"] * settings["query"])
    )
    caption = f"{len(runs[0].test['accuracies'])} test episodes: accuracies"
    caption += ", and their differences on the same episode" if paired else ""
    page.add(FIGURES["histogram"], "histogram", f"{caption}; mean (dashed) and its 95 % interval.", fig)
    bar.update()


def draw_collapse(runs: list[Run], page: Page, bar) -> None:
    """What all runs have been watched, and what all have been tested."""
    section = FIGURES["collapse"]
    watched, tested = (
        {run_.name: run_.collapse[kind] for run_ in runs} if all(kind in run_.collapse for run_ in runs) else {}
        for kind in ("watched", "tested")
    )
    some = {run_.name: next(iter(run_.collapse.values())) for run_ in runs}
    layers = {name: list(dict.fromkeys(row["layer"] for row in rows)) for name, rows in some.items()}
    features, logits = ({name: of[at] for name, of in layers.items()} for at in (-2, -1))
    if watched:
        tasks = runs[0].collapse["watched"][0]["tasks"]
        what = f"mean and standard deviation over the {tasks} training tasks of an iteration"
        for name, part, layer, kind in (
            ("query", "query", features, "features of the query set"),
            ("support", "support", features, "features of the support set"),
            ("logits", "query", logits, "logits of the query set"),
        ):
            caption = f"Traces of the covariances within and between classes, and their shares: {kind}; {what}."
            page.add(section, f"collapse_traces_{name}", caption, figures_collapse.traces(watched, part, layer))
        for part in ("query", "support"):
            caption = f"NC1 to NC4 of the features of the {part} set by meta-iterations; {what}."
            figure = figures_collapse.by_iteration(watched, part, features)
            page.add(section, f"collapse_iterations_{part}", caption, figure)
    if tested:
        latest, what = tested, "mean and 95 % interval over test tasks"
    else:
        latest = {name: [row for row in rows if row["iter"] == rows[-1]["iter"]] for name, rows in watched.items()}
        what = "mean and standard deviation over the training tasks of the last iteration measured"
    if latest:
        caption = f"NC1 to NC4 of the features by inner steps; {what}."
        page.add(section, "collapse_steps", caption, figures_collapse.by_step(latest, features))
        caption = f"NC1 to NC4 of the query set by layer, blocks' outputs after pooling; {what}."
        page.add(section, "collapse_layers", caption, figures_collapse.by_layer(latest, "query"))
    else:
        page.note(section, "Not drawn: some runs were watched in training, and the others measured in testing.")
    bar.update()


def main() -> int:
    args = parser().parse_args()
    if not args.savedir:
        raise UserError("--savedir is missing: name the folder of a run, for example --savedir results/first")
    if not args.dpi:
        raise UserError("--dpi must be above 0")
    runs = [Run(Path(d), results.read_config(Path(d), ["model"])) for d in args.savedir]
    name_runs(runs)
    wanted = args.figures or list(FIGURES)
    pair, tasks = tuple(args.classes), []
    page = Page(runs[0].savedir / "plot", list(FIGURES.values()), args.format, args.dpi)
    if {"boundary", "features"} & set(wanted):
        tasks = read_exports(runs, args.tasks and list(dict.fromkeys(args.tasks)), pair)
    for name, key, read in (
        ("curves", "curves", read_curves),
        ("histogram", "test", results.read_test),
        ("collapse", "collapse", results.read_collapse),
    ):
        if name not in wanted:
            continue
        try:
            for run_ in runs:
                setattr(run_, key, read(run_.savedir))
        except UserError as fault:
            if args.figures:
                raise
            wanted.remove(name)
            page.note(FIGURES[name], f"Not drawn: {fault}.")
    if "features" in wanted:
        perturbed = [run_ for run_ in runs if run_.export["perturbed_features"].shape[2]]
        for run_ in perturbed:
            pick_channels(run_.export, args.layers[0], args.channels)  # refuses before anything is drawn
        if args.figures and not perturbed:
            names = ", ".join(run_.name for run_ in runs)
            raise UserError(f"{names}: nothing is perturbed, so there are no stochastic features")
    total = (1 + 3 * len(tasks)) * ("boundary" in wanted) + len(tasks) * len(runs) * ("features" in wanted)
    total += ("curves" in wanted) + ("histogram" in wanted) + ("collapse" in wanted)
    slow = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=total, unit="figure", desc="plot", dynamic_ncols=True, mininterval=slow) as bar:
        if "boundary" in wanted:
            draw_boundaries(runs, page, tasks, pair, args.seed, bar)
        if "features" in wanted:
            draw_features(runs, page, tasks, args.layers, args.channels, bar)
        if "curves" in wanted:
            draw_curves(runs, page, bar)
        if "histogram" in wanted:
            draw_histogram(runs, page, bar)
        if "collapse" in wanted:
            draw_collapse(runs, page, bar)
    command = {"--tasks": tasks, "--classes": pair, "--seed": args.seed}
    command = {k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in command.items()}
    settings = {run_.name: run_.config | run_.export.get("settings", {}) for run_ in runs}
    print(page.finish(" and ".join(settings), settings, command))
    return 0


if __name__ == "__main__":
    run(main)
