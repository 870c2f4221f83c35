"""The figures of studies. Each takes its numbers from an Outcome (outcomes.py), and draws what these numbers say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from records import last_validation
from tables import CELLS, PUBLISHED, TITLES, shared, training_loss


class Plot(NamedTuple):
    """numbers: a function of an Outcome that returns what the figure shows, as JSON can hold it; empty if there is
    nothing. draw: a function of these numbers that returns matplotlib's figure."""

    numbers: Callable
    draw: Callable


def paired(one: dict[int, dict], other: dict[int, dict]) -> list[float]:
    """Return by seed the accuracy of `other` minus that of `one`, in points."""
    return [b["accuracy"] - a["accuracy"] for a, b in shared(one, other).values()]


def numbers_of_differences(outcome) -> dict:
    """Return by run: its title, the differences of its test accuracy from the baseline's by seed (points), its training
    loss (nats, or None) and its validation accuracy (percent)."""
    study, rows = outcome.study, {}
    plain = outcome.results(study.baseline)
    for name, run in study.runs.items():
        results = outcome.results(name)
        records = [outcome.runs[name][seed] for seed in results]
        validations = [found[0] for record in records if (found := last_validation(record))]
        losses = [loss for record in records if (loss := training_loss(record)) is not None]
        if results:
            rows[name] = {
                "title": run.title,
                "differences": paired(plain, results),
                "loss": float(np.mean(losses)) if losses else None,
                "validation": float(np.mean(validations)) if validations else None,
                "baseline": name == study.baseline,
            }
    return {"machine": outcome.machine, "rows": rows} if study.baseline in rows and len(rows) > 1 else {}


def draw_differences(numbers: dict):
    """Draw each run's difference from the baseline by seed and on average, and its training loss and validation
    accuracy."""
    from matplotlib.figure import Figure

    from figures.style import BLUE, ORANGE

    rows = numbers["rows"].values()
    fig = Figure(figsize=(10, 0.26 * len(rows) + 1.2))
    left, right = fig.subplots(1, 2, width_ratios=(1, 1.1))
    base = next(row["title"] for row in rows if row["baseline"])
    draw_by_seed(left, {row["title"]: row["differences"] for row in rows if not row["baseline"]}, BLUE)
    left.set_xlabel(f"difference from the test accuracy of {base} with the same seed (points)")
    shown = [row for row in rows if row["loss"] is not None and row["validation"] is not None]
    for row in shown:
        right.plot(row["loss"], row["validation"], "o", ms=4, color=ORANGE if row["baseline"] else BLUE)
    right.set(xlabel="training loss, last 200 iterations (nats)", ylabel="validation accuracy (%)")
    write_titles(right, {row["title"]: (row["loss"], row["validation"]) for row in shown})
    return fig


def draw_by_seed(ax, differences: dict[str, list[float]], colour: str) -> None:
    """Draw a row for each title: a point per seed, and their mean; and a line at 0."""
    for place, of_seeds in enumerate(differences.values()):
        if of_seeds:
            ax.plot(of_seeds, [place] * len(of_seeds), "o", ms=3, color=colour, alpha=0.5)
            ax.plot(np.mean(of_seeds), place, "|", ms=12, mew=2, color=colour)
    ax.axvline(0, color="grey", lw=0.8)
    ax.set_yticks(range(len(differences)), [*differences])
    ax.set_ylim(len(differences) - 0.5, -0.5)


def numbers_of_tests(outcome, titles: dict[str, str], left_out: tuple[str, ...] = ()) -> dict:
    """Return by test its title and, by run, the run's title and the differences of its accuracy in this test from the
    baseline's in the same test, by seed (points). titles: of the tests. left_out: runs that are not shown."""
    study, tests = outcome.study, {}
    for test, title in titles.items():
        plain, rows = outcome.results(study.baseline, test), {}
        for name, run in study.runs.items():
            found = [] if name in (study.baseline, *left_out) else paired(plain, outcome.results(name, test))
            if found:
                rows[name] = {"title": run.title, "differences": found}
        if rows:
            tests[test] = {"title": title, "rows": rows}
    return {"machine": outcome.machine, "baseline": study.runs[study.baseline].title, "tests": tests} if tests else {}


def draw_tests(numbers: dict):
    """Draw a panel per test: each run's differences from the baseline by seed, and their mean."""
    from matplotlib.figure import Figure

    from figures.style import BLUE

    titles = {name: row["title"] for one in numbers["tests"].values() for name, row in one["rows"].items()}
    fig = Figure(figsize=(10, 0.26 * len(titles) + 1.4))
    panels = fig.subplots(1, len(numbers["tests"]), sharey=True, squeeze=False)[0]
    for ax, one in zip(panels, numbers["tests"].values(), strict=True):
        found = {title: one["rows"].get(name, {}).get("differences", []) for name, title in titles.items()}
        draw_by_seed(ax, found, BLUE)
        ax.set(title=one["title"], xlabel=f"difference from {numbers['baseline']} with the same seed (points)")
    return fig


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


def numbers_of_curves(outcome) -> dict:
    """Return by run: its title, the iterations, and by seed the training loss (nats) and the validation accuracy
    (percent) at them, None where there is none."""
    rows = {}
    for name, run in outcome.study.runs.items():
        if curves := [record.curve for record in outcome.runs[name].values() if record.curve]:
            accuracies = [[None if one is None else 100 * one for one in curve["val_acc"]] for curve in curves]
            losses = [curve["loss"] for curve in curves]
            rows[name] = {"title": run.title, "iter": curves[0]["iter"], "loss": losses, "accuracy": accuracies}
    return rows


def draw_curves(numbers: dict):
    """Draw training loss and validation accuracy: thin lines are seeds, thick ones their means."""
    from matplotlib.figure import Figure

    from figures.curves import scale_losses
    from figures.style import coloured

    fig = Figure(figsize=(10, 4))
    axes = fig.subplots(1, 2)
    for colour, _, row in coloured(numbers):
        for axis, key in zip(axes, ("loss", "accuracy"), strict=True):
            of_seeds = np.array(row[key], float)
            shown = (np.array(row["iter"]) > 0) & np.isfinite(of_seeds).all(0)
            iterations = np.array(row["iter"])[shown]
            axis.plot(iterations, of_seeds[:, shown].T, color=colour, lw=0.6, alpha=0.4)
            axis.plot(iterations, of_seeds[:, shown].mean(0), color=colour, lw=2, label=row["title"])
    axes[0].set(xlabel="meta-iteration", ylabel="training loss, mean of 50 iterations (nats)")
    scale_losses(axes[0])
    axes[1].set(xlabel="meta-iteration", ylabel="validation accuracy (%)")
    axes[1].legend()
    return fig


differences = Plot(numbers_of_differences, draw_differences)


def tests(titles: dict[str, str], left_out: tuple[str, ...] = ()) -> Plot:
    """Return the figure of `numbers_of_tests` with these arguments."""
    return Plot(partial(numbers_of_tests, titles=titles, left_out=left_out), draw_tests)


curves = Plot(numbers_of_curves, draw_curves)


RADII = ("joint", "remaining", "l2", "l1", "l1_dense")  # the attacks that are drawn by their radius


def robustness(*names: str, tests: tuple[str, ...] = RADII) -> Plot:
    """Return the figure of accuracy by the radius of these attacks, for these runs of the first seed: a panel for each
    norm, threat and kind of task (figures/robustness.py)."""

    def numbers(outcome) -> dict:
        rows = {}
        for name in names:
            seed = outcome.study.seeds_of(name)[0]
            found = {test: outcome.results(name, test).get(seed) for test in tests}
            if any(found.values()):
                columns = ("eps", "accuracy", "interval95", "accuracies", "settings")
                attacks = {test: {key: one[key] for key in columns} for test, one in found.items() if one}
                rows[name] = {"config": outcome.runs[name][seed].config, "attacks": attacks}
        return rows

    return Plot(numbers, draw_robustness)


def draw_robustness(numbers: dict):
    from figures.robustness import panels
    from figures.run import Run, describe, kind_of

    runs = []
    for name, row in numbers.items():
        one = Run(Path(name), row["config"], describe(row["config"]))
        attacks = [attack | {"accuracies": np.array(attack["accuracies"])} for attack in row["attacks"].values()]
        one.attacks = {kind_of(attack): attack for attack in attacks}
        runs.append(one)
    return panels(runs)


def collapse(drawing: str, part: str = "query") -> Plot:
    """Return a figure of neural collapse of the first seed (figures/collapse.py): `traces` and `by_iteration` were
    measured in training, `by_step` and `by_layer` on test tasks."""

    def numbers(outcome) -> dict:
        rows = {}
        for name, run in outcome.study.runs.items():
            seed = outcome.study.seeds_of(name)[0]
            tested = outcome.results(name, "collapse").get(seed)
            in_training = drawing in ("traces", "by_iteration")
            found = outcome.runs[name][seed].collapse if in_training and tested else (tested or {}).get("rows")
            if found:
                rows[run.title] = found
        return rows

    def draw(numbers: dict):
        from figures import collapse
        from figures.run import layers_of

        rows = {
            title: [{k: np.nan if v is None else v for k, v in row.items()} for row in found]
            for title, found in numbers.items()
        }
        features = {title: layers_of(found)[-2] for title, found in rows.items()}
        arguments = {"by_step": (features,), "by_layer": (part,)}.get(drawing, (part, features))
        return getattr(collapse, drawing)(rows, *arguments)

    return Plot(numbers, draw)


def progress(cell: str) -> Plot:
    """Return the figure of a cell of Table 1: accuracy by iterations, and by hours of training where they are known;
    tests with 95 % intervals over the episodes as bars, validations with them as bands, and the paper's final
    accuracies as dashed lines."""

    def numbers(outcome) -> dict:
        rows = {}
        for model, title in TITLES.items():
            name = f"{model}_{cell}"
            tests = outcome.by_iteration(name)
            curve = next((record.curve for record in outcome.runs[name].values()), {})  # of the only seed
            watched = validations(curve)
            if tests or watched:
                rows[model] = {"title": title} | {
                    column: [test[column] for test in tests.values()]
                    for column in ("iteration", "accuracy", "interval95", "episodes")
                }
                rows[model]["hours"] = [hour_of(iteration, curve) for iteration in tests]
                rows[model]["validations"] = watched
                rows[model]["paper"] = float(PUBLISHED[model, "paper"][[*CELLS].index(cell)].split()[0])
        return rows

    return Plot(numbers, draw_progress)


def validations(curve: dict) -> list[list[float]]:
    """Return iteration, hours of training, and accuracy and 95 % interval in percent of each validation after the first
    update."""
    rows = zip(*(curve.get(name, []) for name in ("iter", "secs", "val_acc", "val_ci95")), strict=True)
    return [
        [i, secs / 3600, 100 * accuracy, 100 * interval]
        for i, secs, accuracy, interval in rows
        if i and accuracy is not None
    ]


def hour_of(iteration: int, curve: dict) -> float | None:
    """Return the hours of training at an iteration; None if the curve does not have it."""
    if not curve or not curve["iter"][0] <= iteration <= curve["iter"][-1]:
        return None
    return float(np.interp(iteration, curve["iter"], curve["secs"])) / 3600


def draw_progress(numbers: dict):
    from matplotlib.figure import Figure

    from figures.style import coloured, draw_curve

    timed = any(row["validations"] or any(row["hours"]) for row in numbers.values())
    figure = Figure(figsize=(10, 4) if timed else (6, 4))
    axes = figure.subplots(1, 1 + timed, squeeze=False, sharey=True)[0]
    for place, axis in enumerate(axes):
        for colour, _, row in coloured(numbers):
            if row["validations"]:
                columns = np.array(row["validations"]).T
                at, accuracy, interval = columns[place], *columns[2:]
                draw_curve(axis, at, accuracy, interval, color=colour, marker="", label=f"{row['title']}, validation")
            where = row["hours"] if place else row["iteration"]
            points = [one for one in zip(where, row["accuracy"], row["interval95"], strict=True) if one[0] is not None]
            if points:
                at, accuracy, interval = zip(*points, strict=True)
                axis.errorbar(at, accuracy, interval, color=colour, marker="o", ms=3, label=f"{row['title']}, test")
            axis.axhline(row["paper"], color=colour, ls="--", lw=0.8, label=f"{row['title']}, paper")
        axis.set_xlabel("hours of training" if place else "meta-iteration")
    episodes = [least for row in numbers.values() for least in row["episodes"]]
    axes[0].set_ylabel("accuracy (%)" + f", tests of {min(episodes or [0])} episodes" * bool(episodes))
    axes[0].legend()
    return figure
