"""Draw what runs have left in their savedirs: python plot.py --savedir D [D2 ...], which writes D/plot/index.html.

Decision boundaries and stochastic features need main.py --mode export, the histogram --mode meta_test; neural
collapse needs --mode collapse, or training with --collapse_every.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

import collapse
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


# The property of a Run that a figure is drawn from, and the flags that only some figures have a use for.
NEEDS = {
    "boundary": "export", "features": "export", "curves": "curves", "histogram": "test", "collapse": "collapse",
}  # fmt: skip
USED_BY = {
    "tasks": ("boundary", "features"), "classes": ("boundary",), "seed": ("boundary",), "layers": ("features",),
    "channels": ("features",),
}  # fmt: skip


@dataclass
class Run:
    """One savedir. What it has left is read when it is asked for: UserError where it is missing or damaged."""

    savedir: Path
    config: dict
    name: str = ""

    @property
    def label(self) -> str:
        """The name in a figure, where a dollar would begin a formula."""
        return self.name.replace("$", r"\$")

    @cached_property
    def export(self) -> dict:
        return exported.read(self.savedir)

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        return read_curves(self.savedir)

    @cached_property
    def test(self) -> dict:
        return read_test(self.savedir, self.config)

    @cached_property
    def collapse(self) -> dict[str, list[dict]]:
        return read_collapse(self.savedir)


def whole(least: int, most: float = float("inf")) -> Callable[[str], int]:
    """An argparse type: a whole number of this range."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            above = f" and at most {most}" if most < float("inf") else ""
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}{above}, not {text!r}")
        return int(text)

    return number


def parser() -> Parser:
    p = Parser(prog="plot.py", description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n")[1])
    p.add_argument("--savedir", nargs="+", action="extend", default=[], metavar="D",
                   help="folders of runs, side by side; the figures go to the first one's plot/")  # fmt: skip
    p.add_argument("--figures", nargs="+", choices=list(FIGURES), metavar="NAME",
                   help=f"of {', '.join(FIGURES)}; what they need must be there (default: what there is)")  # fmt: skip
    p.add_argument("--tasks", nargs="+", type=whole(0), metavar="N",
                   help="numbers of the exported tasks (default: the first three)")  # fmt: skip
    p.add_argument("--classes", nargs=2, type=whole(0), metavar=("A", "B"),
                   help="the two classes of a task that the boundary lies between (default: 0 1)")  # fmt: skip
    p.add_argument("--layers", nargs="+", choices=exported.LAYERS, metavar="LAYER",
                   help="layers whose maps are shown (default: conv1 conv2)")  # fmt: skip
    p.add_argument("--channels", nargs="+", type=whole(0), metavar="N",
                   help="exported channels to show (default: the 3 of each layer that vary most)")  # fmt: skip
    p.add_argument("--format", nargs="+", choices=["png", "pdf", "svg"], default=["png", "pdf"], metavar="KIND",
                   help="png, pdf, svg (default: png pdf); png is always written, for the page")  # fmt: skip
    p.add_argument("--dpi", type=whole(1, 1200), default=200, metavar="N",
                   help="dots an inch of a png, at most 1200 (default: 200)")  # fmt: skip
    p.add_argument("--seed", type=whole(0, 2**32 - 1), metavar="N",
                   help="seed of the t-SNE: what another one changes is an accident (default: 0)")  # fmt: skip
    return p


def name_runs(runs: list[Run]) -> None:
    """A learner's name, and how it is perturbed; with the folder's name where two runs would have the same."""
    for run_ in runs:
        model = str(run_.config["model"])
        run_.name = NAMES.get(model, model)
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
    """What meta_test left, and `quantum`: what one query image is of an episode's accuracy, in percent."""
    test = results.read_test(savedir)
    try:
        accuracies = test["accuracies"]
        if accuracies.ndim != 1 or not accuracies.size or not np.isfinite(accuracies).all():
            raise ValueError("its accuracies are not a list of numbers")
        for name in ("accuracy", "interval95"):
            test[name] = float(test[name])
        settings = config | (test.get("settings") or {})
        if missing := {"way", "query"} - set(settings):
            raise ValueError(f"its settings lack {' and '.join(sorted(missing))}")
        test["quantum"] = 100 / (int(settings["way"]) * int(settings["query"]))
        if not test["quantum"] > 0:
            raise ValueError(f"a way of {settings['way']} and {settings['query']} queries")
    except (ValueError, TypeError, ZeroDivisionError) as fault:
        raise UserError(f"{savedir / 'meta_test.json'} cannot be read ({fault}): run meta_test again") from fault
    return test


def read_collapse(savedir: Path) -> dict[str, list[dict]]:
    """As results.read_collapse, with every place and measure, and logits in each measurement."""
    kinds = results.read_collapse(savedir)
    for kind, rows in kinds.items():
        wanted = {"set", "step", "layer", *collapse.NAMES} | ({"iter", "tasks"} if kind == "watched" else set())
        missing = sorted(set().union(*(wanted - set(row) for row in rows)))
        layers = [] if missing else layers_of(rows)
        if len(layers) < 2 or layers[-1] != "logits":
            fault = f"it lacks {missing[0]}" if missing else f"its layers are {' '.join(map(str, layers))}"
            name = results.COLLAPSE_CSV if kind == "watched" else results.COLLAPSE_JSON
            raise UserError(f"{savedir / name} cannot be read ({fault}): measure again")
    return kinds


def layers_of(rows: list[dict]) -> list[str]:
    """The layers of these measurements in their order: the features before the last, and the logits last."""
    return list(dict.fromkeys(row["layer"] for row in rows))


def gather(runs: list[Run], wanted: list[str], required: bool) -> tuple[dict[str, list[Run]], dict[str, list[str]]]:
    """-> by figure the runs that have what it is drawn from, and by fault the figures that lack a run for it.

    UserError where every run's figure is `required` and one lacks it, and where there is nothing to draw.
    """
    ready, faults = {figure: [] for figure in wanted}, {}
    for figure, having in ready.items():
        for run_ in runs:
            try:
                getattr(run_, NEEDS[figure])
                if having and NEEDS[figure] == "export":
                    refuse_other_tasks(having[0], run_)
                having.append(run_)
            except UserError as fault:
                if required:
                    raise
                faults.setdefault(str(fault), []).append(figure)
    if not any(ready.values()):
        raise UserError(f"there is nothing to draw: {'; '.join(faults)}")
    return ready, faults


def refuse_other_tasks(first: Run, other: Run) -> None:
    prints = [run_.export["fingerprints"] for run_ in (first, other)]
    shared = min(map(len, prints))
    if (prints[0][:shared] != prints[1][:shared]).any():
        raise UserError(
            f"{first.savedir} and {other.savedir} hold different tasks: export both with the same --dataset, --way, "
            f"--shot, --query and --seed"
        )


def refuse_what_is_not_exported(runs: list[Run], args: argparse.Namespace) -> None:
    """UserError where --tasks, --classes or --channels are not all in these runs' exports."""
    for run_ in runs:
        held, way = run_.export["classes"].shape
        if max(args.tasks) >= held:
            raise UserError(
                f"--tasks {max(args.tasks)}: {run_.savedir / exported.NAME} holds the tasks 0 to {held - 1}; "
                f"export more with --export_tasks"
            )
        if max(args.classes) >= way:
            raise UserError(f"--classes {' '.join(map(str, args.classes))}: {way} are exported, 0 to {way - 1}")
        if run_.export["perturbed_features"].shape[2]:
            pick_channels(run_.export, args.layers[0], args.channels)


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


def draw_boundaries(runs: list[Run], page: Page, args: argparse.Namespace, bar: tqdm) -> None:
    section, tasks, pair = FIGURES["boundary"], args.tasks, tuple(args.classes)
    names = tuple(f"class {c} ({side})" for c, side in zip(pair, "AB", strict=True))
    scenes = {run_.label: {} for run_ in runs}
    for task in tasks:
        for run_ in runs:
            scenes[run_.label][task] = geometry.scene(run_.export, task, pair, args.seed)
        bar.update()
    what = (
        "Axis 1 is the last layer's features projected on the difference of the two classes' weights, so the boundary "
        "is exact; axis 2 is a 1-D t-SNE of what is left. The shaded side is where a class is predicted."
    )
    page.add(section, "boundary_tasks", f"After adaptation. {what}", figures.boundary_tasks(scenes, names))
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


def draw_features(runs: list[Run], page: Page, args: argparse.Namespace, bar: tqdm) -> None:
    for number_, run_ in enumerate(runs):
        e = run_.export
        if not e["perturbed_features"].shape[2]:
            page.note(FIGURES["features"], f"{run_.name} perturbs nothing: it has no stochastic features.")
            bar.update(len(args.tasks))
            continue
        chosen = [(layer, j) for layer in args.layers for j in pick_channels(e, layer, args.channels)]
        for task in args.tasks:
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


def draw_curves(runs: list[Run], page: Page, args: argparse.Namespace, bar: tqdm) -> None:
    caption = "Meta-training: loss, and accuracy with its 95 % interval, by iterations and by wall time."
    page.add(FIGURES["curves"], "curves", caption, figures.learning_curves({run_.label: run_.curves for run_ in runs}))
    bar.update()


def draw_histogram(runs: list[Run], page: Page, args: argparse.Namespace, bar: tqdm) -> None:
    paired, section = {}, FIGURES["histogram"]
    for run_ in runs[1:]:
        if run_.test["episodes_sha256"] == runs[0].test["episodes_sha256"]:
            paired[f"{run_.label} − {runs[0].label}"] = run_.test["accuracies"] - runs[0].test["accuracies"]
        else:
            page.note(section, f"{run_.name} and {runs[0].name} were tested on different episodes: not paired.")
    quantum = max(run_.test["quantum"] for run_ in runs)
    fig = figures.accuracy_histogram({run_.label: run_.test for run_ in runs}, paired, quantum)
    caption = f"{len(runs[0].test['accuracies'])} test episodes: accuracies"
    caption += ", and their differences on the same episode" if paired else ""
    page.add(section, "histogram", f"{caption}; mean (dashed) and its 95 % interval.", fig)
    bar.update()


def draw_collapse(runs: list[Run], page: Page, args: argparse.Namespace, bar: tqdm) -> None:
    """By iterations what has been watched in training; by steps and layers what has been tested, or else watched."""
    section = FIGURES["collapse"]
    watched, tested = (
        {run_.label: run_.collapse[kind] for run_ in runs if kind in run_.collapse} for kind in ("watched", "tested")
    )
    for some, what in (
        (watched, "by meta-iterations: not watched in training (--collapse_every)"),
        (tested, "by inner steps and layers: not measured over test tasks (--mode collapse)"),
    ):
        if lacking := [run_.name for run_ in runs if some and run_.label not in some]:
            page.note(section, f"Without {', '.join(lacking)} {what}.")
    if watched:
        features, logits = ({name: layers_of(rows)[at] for name, rows in watched.items()} for at in (-2, -1))
        tasks = next(iter(watched.values()))[0]["tasks"]
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
    features = {name: layers_of(rows)[-2] for name, rows in latest.items()}
    caption = f"NC1 to NC4 of the features by inner steps; {what}."
    page.add(section, "collapse_steps", caption, figures_collapse.by_step(latest, features))
    caption = f"NC1 to NC4 of the query set by layer, blocks' outputs after pooling; {what}."
    page.add(section, "collapse_layers", caption, figures_collapse.by_layer(latest, "query"))
    bar.update()


DRAW = {
    "boundary": draw_boundaries, "features": draw_features, "curves": draw_curves, "histogram": draw_histogram,
    "collapse": draw_collapse,
}  # fmt: skip


def check_flags(args: argparse.Namespace) -> None:
    """Fill in defaults. UserError: a flag that contradicts itself, or that no figure asked for has a use for."""
    if not args.savedir:
        raise UserError("--savedir is missing: name the folder of a run, for example --savedir results/first")
    folders = [Path(d).resolve() for d in args.savedir]
    for d, folder in zip(args.savedir, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(f"--savedir names {d} twice")
    for flag, users in USED_BY.items():
        if args.figures and getattr(args, flag) is not None and not set(users) & set(args.figures):
            raise UserError(f"--{flag} has no meaning for --figures {' '.join(args.figures)}")
    args.classes, args.layers = args.classes or [0, 1], args.layers or ["conv1", "conv2"]
    args.seed = args.seed or 0
    if args.classes[0] == args.classes[1]:
        raise UserError(f"--classes {' '.join(map(str, args.classes))}: two different ones are wanted")
    for flag in ("tasks", "layers", "channels"):
        if numbers := getattr(args, flag):
            setattr(args, flag, list(dict.fromkeys(numbers)))


def main() -> int:
    args = parser().parse_args()
    check_flags(args)
    runs = [Run(Path(d), results.read_config(Path(d), ["model"])) for d in args.savedir]
    name_runs(runs)
    ready, faults = gather(runs, [name for name in FIGURES if name in (args.figures or FIGURES)], bool(args.figures))
    exports = ready.get("boundary") or ready.get("features") or []
    if exports:
        args.tasks = args.tasks or list(range(min(3, *(len(run_.export["classes"]) for run_ in exports))))
        refuse_what_is_not_exported(exports, args)
    if args.figures and "features" in ready and not any(e.export["perturbed_features"].shape[2] for e in exports):
        names = ", ".join(run_.name for run_ in runs)
        raise UserError(f"{names}: nothing is perturbed, so there are no stochastic features")
    page = Page(runs[0].savedir / "plot", list(FIGURES.values()), args.format, args.dpi)
    page.make_folder()
    for fault, names in faults.items():
        print(f"not drawn: {', '.join(names)}: {fault}", file=sys.stderr)
        for name in names:
            page.note(FIGURES[name], f"Not drawn: {fault}.")
    total = {"boundary": 1 + 3 * len(args.tasks or []), "features": len(exports) * len(args.tasks or [])}
    total = sum(total.get(name, 1) for name, having in ready.items() if having)
    slow = 0.5 if sys.stderr.isatty() else 15
    with tqdm(total=total, unit="figure", desc="plot", dynamic_ncols=True, mininterval=slow) as bar:
        for name, having in ready.items():
            if having:
                DRAW[name](having, page, args, bar)
    command = {"--tasks": args.tasks, "--classes": args.classes, "--seed": [args.seed]} if exports else {}
    command = {"--figures": [name for name, having in ready.items() if having]} | command
    command = {flag: " ".join(map(str, values)) for flag, values in command.items()}
    settings = {run_.name: run_.config | (run_.export["settings"] if run_ in exports else {}) for run_ in runs}
    print(page.finish(" and ".join(settings), settings, command))
    return 0


if __name__ == "__main__":
    run(main)
