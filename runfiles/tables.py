"""The tables of studies, as Markdown, from an Outcome (outcomes.py)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

import numpy as np
from records import Record, last_validation

from errors import UserError
from figures.run import has_query_loss
from studies.robustness import CLEAN
from studies.trained import preparation_of
from training import intervals
from training.config import Config
from training.intervals import mean_and_interval


def markdown(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; there is none without rows."""
    rows = [list(map(str, row)) for row in rows]
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows] if rows else []
    return "\n".join(f"| {' | '.join(line)} |" if line[0] != "---" else "|---" * len(columns) + "|" for line in lines)


def over_seeds(values, sign: str = "") -> str:
    """Return mean and 95 % interval (Student's t) as text. sign: "+" shows a plus."""
    mean, half = intervals.over_seeds(values)
    return f"{mean:{sign}.2f}" + ("" if half is None else f" ± {half:.2f}")


def accuracies(results: dict[int, dict]) -> list[float]:
    return [result["accuracy"] for result in results.values()]


def shared(one: dict[int, dict], other: dict[int, dict]) -> dict[int, tuple[dict, dict]]:
    """Return the pairs of results of two runs, by the seeds that both have. Raise UserError if their test episodes
    differ."""
    pairs = {seed: (one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())}
    if any(a["episodes_sha256"] != b["episodes_sha256"] for a, b in pairs.values()):
        raise UserError("these runs were tested on different episodes: test all of them on the same data again")
    return pairs


DIFFERENCE = ("by seed", "over classes")  # the columns of `difference` after the first one


def difference(one: dict[int, dict], other: dict[int, dict]) -> list[str]:
    """Return the cells of the paired difference other - one over the seeds that both have: the mean over the seeds;
    each seed's mean with its interval over the episodes; and, if the tests recorded their classes, the half-width over
    test classes of the mean over the seeds. The cells are empty if there is no such seed."""
    both = list(shared(one, other).values())
    if not both:
        return ["", "", ""]
    pairs = [[np.array(result["accuracies"]) / 100 for result in pair] for pair in both]
    classes = next((result["classes"] for pair in both for result in pair if "classes" in result), None)
    each = [intervals.paired_difference(*pair)[:2] for pair in pairs]
    *_, wide = intervals.paired_difference(*np.mean(pairs, 0), classes)
    by_seed = ", ".join(f"{mean:+.2f} ± {half:.2f}" for mean, half in each)
    return [over_seeds([mean for mean, _ in each], "+"), by_seed, "" if wide is None else f"± {wide:.2f}"]


def parameters(record: Record) -> int:
    """Return the number of parameters of a run that are trained."""
    shape = preparation_of(record.config).image_shape
    learner = Config.of(record.config, record.config).make_learner(shape)
    return sum(int(np.prod(parameter.shape)) for parameter in learner.parameters().values() if parameter.trained)


def training_loss(record: Record) -> float | None:
    """Return the mean training loss of the last 200 iterations, in nats. None if it was not trained here, or
    cannot be compared with MAML's: of mixed labels, of more classes than in testing, or of no query set."""
    config, curve = record.config, record.curve
    if not (curve and has_query_loss(config)):
        return None
    rows = zip(curve["iter"], np.diff(curve["iter"], prepend=-1), curve["loss"], strict=True)
    last = [(count, loss) for i, count, loss in rows if i > record.iteration - 200]  # each the mean of its iterations
    counts, losses = zip(*last, strict=True)
    return float(np.average(losses, weights=counts))


def mean_of(values: Iterable[float | None], form: str) -> str:
    values = [value for value in values if value is not None]
    return format(np.mean(values), form) if values else ""


def differences(outcome, tests: tuple[str, ...] = ("test",)) -> str:
    """A row per run and test that it has had: chosen value, parameters, training loss, validation accuracy, test
    accuracy, and the paired difference from the baseline. tests: the study's tests that are shown. A test is paired
    with the same test of the baseline or, if it has not had that one, with its first test."""
    study, rows = outcome.study, []
    for name, test in itertools.product(study.runs, tests):
        run, results = study.runs[name], outcome.results(name, test)
        if not results:
            continue
        records = [outcome.runs[name][seed] for seed in results]
        baseline, paired = run.baseline or study.baseline, ["", "", ""]
        if baseline not in (None, name):
            paired = difference(outcome.results(baseline, test) or outcome.results(baseline, tests[0]), results)
        title = run.title if test == tests[0] else f"{run.title}, {test}"
        of_training = records if test == next(iter(study.tests)) else []  # others have another head, data or statistics
        cells = [title, ", ".join(outcome.chosen[name].values()), f"{parameters(records[0]):,}"]
        cells += [mean_of(map(training_loss, of_training), ".3f")]
        cells += [mean_of([(last_validation(record) or [None])[0] for record in of_training], ".2f")]
        rows.append([*cells, len(results), over_seeds(accuracies(results)), *paired])
    baseline = f"from {study.runs[study.baseline].title}" if study.baseline else "from its baseline"
    columns = ["", "chosen", "parameters", "training loss", "validation", "seeds", "accuracy", baseline, *DIFFERENCE]
    used = [i for i in range(len(columns)) if i == 0 or any(str(row[i]) for row in rows)]
    return markdown([columns[i] for i in used], ([row[i] for i in used] for row in rows))


def budgets(outcome) -> str:
    """A row per run that was trained: updates, images that were drawn for an update and for all of them, and the mean
    minutes that a training took, with its validations; the machine did other things, too."""
    rows = []
    for name, run in outcome.study.runs.items():
        if trained := [record for record in outcome.runs[name].values() if record.iteration > 0]:
            config, updates = Config.of(trained[0].config), trained[0].iteration + 1
            images = getattr(config.learner, "batch", config.train_way * (config.run.shot + config.run.query))
            images *= config.run.metabatch
            minutes = np.mean([record.curve["secs"][-1] / 60 for record in trained])
            rows.append([run.title, f"{updates:,}", f"{images:,}", f"{updates * images:,}", f"{minutes:.0f}"])
    return markdown(["", "updates", "images per update", "images", "minutes"], rows)


def strengths(outcome) -> str:
    """A row per run that chooses: the values and their validation accuracies, the highest one in bold."""
    rows = []
    for name, run in outcome.study.runs.items():
        if run.choose and (found := outcome.validations[name]):
            best = max(found, key=lambda values: found[values][0])
            cells = [f"{', '.join(v)}: {'**' * (v == best)}{a:.2f}{'**' * (v == best)}" for v, (a, _) in found.items()]
            rows.append([run.title, ", ".join(run.choose), " / ".join(cells)])
    return markdown(["", "flag", "validation accuracy by value, %"], rows)


def pairs(titles: dict[str, tuple[str, str]]) -> Callable:
    """Return a table of pairs of runs, a row each. titles: the two runs by the row's title."""

    def table(outcome) -> str:
        rows = []
        for title, names in titles.items():
            one, other = (outcome.results(name) for name in names)
            if both := sorted(one.keys() & other.keys()):
                first, second = (over_seeds([of[seed]["accuracy"] for seed in both]) for of in (one, other))
                titles_of = [outcome.study.runs[name].title for name in names]
                rows.append(
                    [title, len(both), f"{titles_of[0]} {first}", f"{titles_of[1]} {second}", *difference(one, other)]
                )
        return markdown(["", "seeds", "the first", "the second", "difference", *DIFFERENCE], rows)

    return table


def tasks(outcome) -> str:
    """A row per run: the spread of the tasks' accuracies, and how many tasks are above three accuracies."""
    rows = []
    for name, run in outcome.study.runs.items():
        if results := outcome.results(name):
            values = np.round([result["accuracies"] for result in results.values()], 3)  # as kept results are
            above = " / ".join(f"{100 * np.mean(values > bound):.1f}" for bound in (50, 80, 90))
            rows.append([run.title, len(results), over_seeds(values.mean(1)), f"{values.std(1).mean():.2f}", above])
    return markdown(["", "seeds", "accuracy", "std of tasks", "tasks above 50 / 80 / 90 %"], rows)


# ---- attacks


def heads(places: tuple[tuple[str, float], ...]) -> list[str]:
    """Return the heads of the columns of attacks and radii."""
    return ["", "seeds", *(f"{test} {eps:g}" if eps else "clean" for test, eps in places)]


def attacked(outcome, names: tuple[str, ...], test: str, eps: float, of: str = "accuracies") -> dict[int, np.ndarray]:
    """Return the accuracies of an attack's episodes at a radius, by seed; of two runs the paired differences, the first
    one minus the second. A seed without this radius is left out. of: "accuracy" takes the mean, which is kept with more
    digits."""

    def at(result: dict) -> np.ndarray:
        return np.array(result[of][result["eps"].index(eps)])

    found = [{seed: one for seed, one in outcome.results(name, test).items() if eps in one["eps"]} for name in names]
    if len(found) == 1:
        return {seed: at(one) for seed, one in found[0].items()}
    return {seed: at(one) - at(other) for seed, (one, other) in shared(*found).items()}


def estimate(values: Iterable[np.ndarray], sign: str = "", single: bool = True) -> str:
    """Return mean and 95 % interval of percents, an array per seed: over the seeds or, of one seed, over its episodes
    (without an interval, unless `single`). Empty without a seed."""
    values = list(values)
    if len(values) != 1 or not single:
        return over_seeds([one.mean() for one in values], sign) if values else ""
    mean, half = mean_and_interval(values[0] / 100)
    return f"{mean:{sign}.2f} ± {half:.2f}"


def by_radius(*places: tuple[str, float]) -> Callable:
    """Return a table of accuracies: a row per run, and a column per attack and radius."""

    def table(outcome) -> str:
        titles = {run.title: (name,) for name, run in outcome.study.runs.items()}
        return of_attacks(outcome, titles, places)

    return table


def leads(pairs: dict[str, tuple[str, str]], *places: tuple[str, float]) -> Callable:
    """Return a table of paired differences of two runs, a column per attack and radius: over seeds or, of a single
    seed, over its episodes. pairs: the first run and the one that is subtracted, by the row's title."""
    return lambda outcome: of_attacks(outcome, pairs, places)


def of_attacks(outcome, titles: dict[str, tuple[str, ...]], places: tuple[tuple[str, float], ...]) -> str:
    """Return a table with a row for each run, or pair of runs that are subtracted, by title."""
    rows = []
    for title, names in titles.items():
        paired = len(names) > 1
        columns = [attacked(outcome, names, *place, "accuracies" if paired else "accuracy") for place in places]
        if any(columns):
            cells = [estimate(of.values(), "+" * paired, single=paired) for of in columns]
            rows.append([title, max(map(len, columns)), *cells])
    return markdown(heads(places), rows)


LEADS = {"Meta-dropout - MAML": ("maml", "metadrop"), "the same, exact gradients": ("maml_exact", "metadrop_exact")}


def attacks(outcome) -> str:
    """A row per attack and radius that all seeds of two runs were attacked with: accuracies of LEADS' runs, and their
    paired differences. The last row takes the strongest of all attacks in every episode."""
    names = [name for pair in LEADS.values() for name in pair]
    rows, strongest = [], {}
    for test, declared in outcome.study.tests.items():
        if declared.seeds:
            continue
        radii = sorted(
            {eps for name in names for one in outcome.results(name, test).values() for eps in one["eps"]} - {0}
        )
        for eps in radii if declared.runs else [eps for eps in radii if eps in (0.06, 0.1)]:
            here = {name: attacked(outcome, (name,), test, eps) for name in names}
            rows.append([test, f"{eps:g}", *attack_cells(here)])
            for pair in LEADS.values():
                shared(*(outcome.results(name, test) for name in pair))  # refuses attacks on different episodes
            for name, of_seed in here.items() if eps == 0.1 else ():
                for seed, values in of_seed.items():
                    strongest.setdefault(name, {}).setdefault(seed, []).append(values)
    counts = {name: max(map(len, of.values())) for name, of in strongest.items()}
    worst = {n: {s: np.min(v, 0) for s, v in of.items() if len(v) == counts[n]} for n, of in strongest.items()}
    if rows:
        rows.append(["the strongest of these attacks in every episode", "0.1", *attack_cells(worst)])
    return markdown(["attack, linf", "eps", *(outcome.study.runs[name].title for name in names), *LEADS], rows)


def attack_cells(by_run: dict[str, dict[int, np.ndarray]]) -> list[str]:
    """Return the cells of `attacks` for the episodes' accuracies by run and seed."""
    cells = [estimate(by_run.get(name, {}).values(), single=False) for pair in LEADS.values() for name in pair]
    for a, b in ([by_run.get(name, {}) for name in pair] for pair in LEADS.values()):
        cells.append(estimate([b[seed] - a[seed] for seed in sorted(a.keys() & b.keys())], "+", single=False))
    return cells


def clean(outcome) -> str:
    """A row per run: measures of the logits and gradients of the clean images, means over the seeds."""
    rows = []
    for name, run in outcome.study.runs.items():
        if results := outcome.results(name, "joint"):
            cells = [f"{np.mean([result['clean'][measure] for result in results.values()]):.3g}" for measure in CLEAN]
            rows.append([run.title, *cells])
    return markdown(["", *CLEAN], rows)


# ---- measures of the classifier (measures.py)


def over_tasks(values: list[list[float]]) -> str:
    """Return mean and 95 % interval of percents [seeds][tasks]: over the seeds, or over the tasks of a single seed. A
    difference, which can be negative, has a sign."""
    return estimate(map(np.array, values), "+" if np.min(values) < 0 else "")


def measured(test: str, title: str, *others: str, only: str = "", columns: tuple[str, ...] = ()) -> Callable:
    """Return a table of a measure: a row per run and row of its values. title: what these rows are. others: tests of
    the same measure, of other runs. only: a regular expression that the name of a row has to contain. columns: those
    of the values, if not all."""

    def table(outcome) -> str:
        rows, head = [], []
        for name, run in outcome.study.runs.items():
            found = (outcome.results(name, one).values() for one in (test, *others))
            results = [result["values"] for result in itertools.chain(*found)]
            for row, of_row in results[0].items() if results else ():
                if re.search(only, row):
                    shown = columns or tuple(of_row)
                    cells = [over_tasks([values[row][column] for values in results]) for column in shown]
                    rows.append([run.title, row, *cells])
                    head = ["learner", title, *shown]
        return markdown(head, rows)

    return table


def tests(name: str, title: str, names: tuple[str, ...]) -> Callable:
    """Return a table of tests of a run, a row each: accuracy, and the paired difference from the first one. title: the
    tests'."""

    def table(outcome) -> str:
        rows, first = [], outcome.results(name, names[0])
        for test in names:
            if results := outcome.results(name, test):
                lead = difference(first, results)[1] if test != names[0] else ""
                rows.append([test, over_tasks([one["accuracies"] for one in results.values()]), lead])
        return markdown([title, "accuracy", f"from {names[0]}"], rows)

    return table


# ---- neural collapse

FEATURES = {
    "share of Tr S_W": "share_within", "NC1": "nc1",
    "equinorm, means": "nc2_norm_means", "angles, means": "nc2_angle_means",
    "equinorm, weights": "nc2_norm_weights", "angles, weights": "nc2_angle_weights", "NC3": "nc3", "NC4": "nc4",
}  # fmt: skip


def collapse(outcome) -> str:
    """A row per set, inner step and run: measures of the last block's features, means over the test tasks with 95 %
    intervals; before the first inner step and after the last one."""
    rows = []
    for name, run in outcome.study.runs.items():
        for seed, result in outcome.results(name, "collapse").items():
            *_, features, _ = dict.fromkeys(row["layer"] for row in result["rows"])
            steps = [row["step"] for row in result["rows"]]
            for row in result["rows"]:
                if row["layer"] == features and row["step"] in (min(steps), max(steps)):
                    when = "before" if row["step"] == min(steps) else "after"
                    cells = [with_interval(row[key], row.get(f"{key}_ci95")) for key in FEATURES.values()]
                    rows.append([f"{row['set']}, {when}", f"{run.title}, seed {seed}", *cells])
    return markdown(["", "", *FEATURES], sorted(rows, key=lambda row: (row[0].split(",")[0], "after" in row[0])))


def with_interval(mean: float | None, half: float | None) -> str:
    """Return a mean with its interval to three decimals, or without one that is smaller."""
    if mean is None:
        return ""
    return f"{mean:.3f}" + (f" ± {half:.3f}" if half and half >= 0.0005 else "")


# ---- Table 1

CELLS = {
    "omni_1shot": "Omniglot 20-way 1-shot", "omni_5shot": "Omniglot 20-way 5-shot",
    "mimg_1shot": "miniImageNet 5-way 1-shot", "mimg_5shot": "miniImageNet 5-way 5-shot",
}  # fmt: skip
TITLES = {"maml": "MAML", "metadrop": "Meta-dropout"}
PUBLISHED = {
    ("maml", "paper"): ("95.23 ± 0.17", "98.38 ± 0.07", "49.58 ± 0.65", "64.55 ± 0.52"),
    ("maml", "TF1 repository"): ("94.63 ± 0.17", "98.26 ± 0.07", "48.73 ± 0.64", "65.70 ± 0.52"),
    ("metadrop", "paper"): ("96.63 ± 0.13", "98.73 ± 0.06", "51.93 ± 0.67", "67.42 ± 0.52"),
    ("metadrop", "TF1 repository"): ("96.17 ± 0.15", "98.86 ± 0.06", "51.67 ± 0.64", "68.12 ± 0.53"),
}


def table1(outcome) -> str:
    """Table 1: the paper, the TF1 repository, and the latest test of each cell, with its iteration if the training has
    not reached the last one."""
    rows = []
    for (model, source), values in PUBLISHED.items():
        rows.append([f"{TITLES[model]}, {source}", *values])
        if source == "TF1 repository":
            rows.append([f"{TITLES[model]}, this project", *(latest(outcome, f"{model}_{cell}") for cell in CELLS)])
    return markdown(["accuracy, %", *CELLS.values()], rows)


def latest(outcome, name: str) -> str:
    for test in outcome.results(name).values():
        last = outcome.last_iteration(name)
        accuracy = f"{test['accuracy']:.2f} ± {test['interval95']:.2f}"
        return accuracy if test["iteration"] >= last else f"{accuracy} ({test['iteration']:,} of {last:,} iterations)"
    return ""


def progress(cell: str) -> Callable:
    """Return a table of both learners' tests in a cell of Table 1, a row per iteration. The interval of the difference
    is paired if the accuracies of the same episodes are known; otherwise it takes the tests for independent, and is too
    wide."""

    def table(outcome) -> str:
        one, other = (outcome.by_iteration(f"{model}_{cell}") for model in TITLES)
        rows = []
        for i in sorted(one.keys() & other.keys()):
            cells = [f"{test['accuracy']:.2f} ± {test['interval95']:.2f}" for test in (one[i], other[i])]
            half = np.hypot(one[i]["interval95"], other[i]["interval95"])
            pair = [np.array(test.get("accuracies", ())) / 100 for test in (one[i], other[i])]
            if len(pair[0]) == len(pair[1]) > 1 and one[i]["episodes_sha256"] == other[i]["episodes_sha256"]:
                half = intervals.paired_difference(*pair)[1]
            rows.append([f"{i:,}", *cells, f"{other[i]['accuracy'] - one[i]['accuracy']:+.2f} ± {half:.2f}"])
        return markdown(["iteration", *TITLES.values(), "difference"], rows)

    return table
