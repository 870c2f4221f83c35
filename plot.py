"""Draw figures of runs from the files in their savedirs: python plot.py --savedir D [D2 ...] writes D/plot/index.html.

Run main.py first: --mode export for decision boundaries and stochastic features, meta_test for the histogram, attack
for robustness, and collapse, or training with --collapse_every, for neural collapse.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from errors import Parser, UserError, run
from figures import boundary, collapse, curves, features, histogram, robustness
from figures.page import Page, Section
from figures.run import Run, open_runs, refuse_other_tasks
from figures.selection import Selection
from settings import to_path, whole
from training.logs import progress_bar


class Figure(NamedTuple):
    """One kind of figure."""

    title: str  # the heading of its section on the page
    needs: str  # the property of a Run with its data
    flags: tuple[str, ...]  # flags that it uses and some other figures do not
    draw: Callable[[list[Run], Section, Selection, Callable[..., object]], None]
    count_advances: Callable[[int, int], int] = lambda runs, tasks: 1  # how far `draw` advances the progress bar


FIGURES = {
    "boundary": Figure(
        "Decision boundaries", "export", ("tasks", "classes", "seed"), boundary.draw, boundary.count_advances
    ),
    "features": Figure(
        "Stochastic features", "export", ("tasks", "layers", "channels"), features.draw, features.count_advances
    ),
    "curves": Figure("Learning curves", "curves", (), curves.draw),
    "histogram": Figure("Accuracies of the test episodes", "test", (), histogram.draw),
    "collapse": Figure("Neural collapse", "collapse", (), collapse.draw),
    "attack": Figure("Robustness", "attacks", (), robustness.draw),
}


def main() -> int:
    args = parser().parse_args()
    check_flags(args)
    runs = open_runs(args.savedir)
    ready, faults = gather(runs, [name for name in FIGURES if name in (args.figures or FIGURES)], bool(args.figures))
    exports = next((ready[name] for name in ready if FIGURES[name].needs == "export"), [])
    selection = select(args, exports)
    if "features" in (args.figures or ()) and all(reasons := [features.obstacle(run) for run in exports]):
        raise UserError("; ".join(reasons))
    page = Page(runs[0].savedir / "plot", [figure.title for figure in FIGURES.values()], args.format, args.dpi)
    page.make_folder()
    for fault, names in faults.items():
        print(f"not drawn: {', '.join(names)}: {fault}", file=sys.stderr)
        for name in names:
            page.sections[FIGURES[name].title].note(f"Not drawn: {fault}.")
    draw(ready, page, selection)
    settings = {each.name: each.config | (each.export["settings"] if each in exports else {}) for each in runs}
    flags = {"--figures": list(ready)}
    for name, value in asdict(selection).items() if exports else ():
        if value != ():
            flags[f"--{name}"] = value if isinstance(value, tuple) else [value]
    print(page.finish(" and ".join(settings), settings, flags))
    return 0


def parser() -> Parser:
    description, epilog = (__doc__ or "\n\n").split("\n\n")  # python -OO has no docstrings
    p = Parser(prog="plot.py", description=description, epilog=epilog)
    p.add_argument("--savedir", nargs="+", action="extend", type=to_path, default=[], metavar="D",
                   help="folders of runs, drawn side by side; the figures go to plot/ in the first")  # fmt: skip
    p.add_argument("--figures", nargs="+", action="extend", choices=list(FIGURES), metavar="NAME",
                   help=f"any of {', '.join(FIGURES)} (default: all that the runs have the files for)")  # fmt: skip
    p.add_argument("--tasks", nargs="+", type=whole(0), metavar="N", help="exported tasks (default: the first three)")
    p.add_argument("--classes", nargs=2, type=whole(0), metavar=("A", "B"),
                   help="the two classes of a task on both sides of the boundary (default: 0 1)")  # fmt: skip
    p.add_argument("--layers", nargs="+", metavar="LAYER", help="exported layers (default: the first two)")
    p.add_argument("--channels", nargs="+", type=whole(0), metavar="N",
                   help="exported channels (default: in each layer the 3 that vary most)")  # fmt: skip
    p.add_argument("--format", nargs="+", choices=["png", "pdf", "svg"], default=["png", "pdf"], metavar="KIND",
                   help="png, pdf, svg (default: png pdf); the page needs png, which is always written")  # fmt: skip
    p.add_argument("--dpi", type=whole(10, 1200), default=200, metavar="N",
                   help="dots per inch of a png, 10 to 1200 (default: 200)")  # fmt: skip
    p.add_argument("--seed", type=whole(0, 2**32 - 1), metavar="N",
                   help="seed of the t-SNE; differences between seeds are chance (default: 0)")  # fmt: skip
    return p


def check_flags(args: argparse.Namespace) -> None:
    """Raise UserError if a flag contradicts itself, or if none of the chosen figures uses it."""
    if not args.savedir:
        raise UserError("--savedir is missing: name the folder of a run, for example --savedir results/first")
    if len(set(map(Path.resolve, args.savedir))) < len(args.savedir):
        raise UserError(f"--savedir names a folder twice: {' '.join(map(str, args.savedir))}")
    used = {flag for name in args.figures or FIGURES for flag in FIGURES[name].flags}
    for flag in sorted({flag for figure in FIGURES.values() for flag in figure.flags} - used):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag} has no meaning for --figures {' '.join(args.figures)}: leave it out")
    if args.classes and args.classes[0] == args.classes[1]:
        raise UserError(f"--classes {' '.join(map(str, args.classes))}: give two different classes")


def gather(runs: list[Run], wanted: list[str], required: bool) -> tuple[dict[str, list[Run]], dict[str, list[str]]]:
    """Return {figure: runs that have its data}, and {reason: figures that lack a run}.

    Raise UserError if there is nothing to draw or, with `required`, if a run lacks the data of a figure.
    """
    ready, faults = {name: [] for name in wanted}, {}
    for name, members in ready.items():
        for candidate in runs:
            try:
                getattr(candidate, FIGURES[name].needs)
                if members and FIGURES[name].needs == "export":
                    refuse_other_tasks(members[0], candidate)
                members.append(candidate)
            except UserError as fault:
                if required:
                    raise
                faults.setdefault(str(fault), []).append(name)
    if not any(ready.values()):
        raise UserError(f"there is nothing to draw: {'; '.join(faults)}")
    return {name: members for name, members in ready.items() if members}, faults


def select(args: argparse.Namespace, exports: list[Run]) -> Selection:
    """Return the selection that the flags make, without repetitions. Raise UserError if an export lacks a part of
    it."""
    names = ("tasks", "classes", "layers", "channels")
    chosen = {name: tuple(dict.fromkeys(value)) for name in names if (value := getattr(args, name))}
    selection = Selection(**chosen, seed=args.seed or 0)
    return selection.complete(exports) if exports else selection


def draw(ready: dict[str, list[Run]], page: Page, selection: Selection) -> None:
    """Draw every figure into its section of the page."""
    total = sum(FIGURES[name].count_advances(len(runs), len(selection.tasks)) for name, runs in ready.items())
    with progress_bar(total=total, unit="figure", desc="plot") as bar:
        for name, runs in ready.items():
            figure = FIGURES[name]
            figure.draw(runs, page.sections[figure.title], selection, bar.update)


if __name__ == "__main__":
    run(main)
