"""The tables of studies have numbers calculated by hand. The runs have no symmetry: each has other seeds, each seed has
another accuracy, and there are several attacks.

A table that pairs runs by their position, shows columns in another order or halves an interval shows other numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
import tables
from catalogue import (
    LEADS,
    Study,
    baselines_omniglot,
    collapse,
    exact,
    gradients,
    masks,
    rates,
    regularisers,
    robustness,
    table1,
)

from errors import UserError
from studies.robustness import CLEAN
from study_runs import cells, curve, made, shown, with_result
from training import intervals

SEEDS = (0, 1, 2, 3, 10)
ONE = {0: (10, 20), 3: (50, 70), 10: (60, 68)}
OTHER = {1: (1, 3), 2: (97, 99), 3: (54, 72), 10: (64, 76)}
# Seeds 3 and 10 are shared: 60 and 64, then 63 and 70; Student's t of one degree of freedom is 12.706, and 12.706 std /
# sqrt(2) = 25.41, 44.47. By seed: 3 ± 1.96 * 1 / sqrt(2), and 6 ± 1.96 * 2 / sqrt(2).
PAIRED = ["62.00 ± 25.41", "66.50 ± 44.47", "+4.50 ± 19.06", "+3.00 ± 1.39, +6.00 ± 2.77", ""]


def pair(study: Study, one: str, other: str, **more) -> list:
    """Return runs with the accuracies above."""
    both = {one: ONE, other: OTHER}
    return [made(study, name, seed, values, **more) for name, of in both.items() for seed, values in of.items()]


def rows(study: Study, table: str, records) -> list[list[str]]:
    return cells(study.tables[table](shown(study, records)))


def test_intervals_over_seeds_are_students():
    """t of two degrees of freedom is 4.303; 1, 2 and 6 have the mean 3 and the deviation sqrt(7)."""
    assert tables.over_seeds([1, 2, 6]) == "3.00 ± 6.57" and tables.over_seeds([1.5], "+") == "+1.50"


def test_pairs_have_the_seeds_that_both_runs_share():
    study = replace(gradients, seeds=(*SEEDS, 4))
    records = pair(study, "maml_exact", "metadrop_exact")
    records += [
        made(study, "maml", 4, [20, 30]),
        made(study, "metadrop", 4, [21, 35]),
        made(study, "maml", 1, [99, 99]),
    ]
    assert rows(study, "pairs", records) == [
        ["", "seeds", "the first", "the second", "difference", "by seed", "over classes"],
        ["published", "1", "MAML 25.00", "Meta-dropout 28.00", "+3.00", "+3.00 ± 2.77", ""],
        ["exact", "2", f"MAML, exact gradient {PAIRED[0]}", f"Meta-dropout, exact gradient {PAIRED[1]}", *PAIRED[2:]],
    ]
    records[0] = made(study, "maml_exact", 3, [1, 2], episodes_sha256="b")
    with pytest.raises(UserError, match="tested on different episodes"):
        rows(study, "pairs", records[:1] + records[3:])


def test_a_difference_has_an_interval_over_the_classes_of_the_seeds_mean():
    """The differences of both seeds have the mean 90, 90, 50 and 50; test_intervals.py calculates this interval."""
    classes = {"classes": [[0, 1], [0, 2], [1, 2], [1, 2]]}
    records = [made(gradients, "maml", seed, [10, 10, 10, 10], **classes) for seed in (0, 1)]
    records += [made(gradients, "metadrop", 0, [90, 110, 60, 60]), made(gradients, "metadrop", 1, [110, 90, 60, 60])]
    _, (*_, over_classes) = rows(gradients, "pairs", records)
    assert over_classes == f"± {intervals.over_classes([0.9, 0.9, 0.5, 0.5], classes['classes']):.2f}"


def test_differences_are_from_the_baseline_by_seed_and_means_over_a_runs_own_seeds():
    """Each run has other training losses and validations. The loss is that of the last 200 iterations."""
    study = replace(exact, seeds=SEEDS)
    facts = {"maml": {0: (1, 0.5), 3: (2, 0.6), 10: (3, 0.7)}}
    facts["weight"] = {1: (5, 0.8), 2: (5, 0.8), 3: (9, 0.9), 10: (9, 0.94)}
    records = pair(study, "maml", "weight")
    for i, record in enumerate(records):
        loss, validation = facts["weight" if record.config["perturbation"] else "maml"][record.config["seed"]]
        records[i] = replace(record, curve=curve(800, (loss, 2 * loss), validation))
    head, maml, weight = rows(study, "accuracy", records)
    # 1.5 times the means of 1, 2, 3 and of 5, 5, 9, 9. Of all seeds: 15, 60, 64 and 2, 98, 63, 70, with t of 2 and 3
    # degrees of freedom. No value was chosen.
    wanted = ["", "parameters", "training loss", "validation", "seeds", "accuracy", "from MAML", "by seed"]
    assert head == wanted
    assert maml == ["MAML", "112,005", "3.000", "60.00", "3", "46.33 ± 67.59", "", ""]
    assert weight[2:] == ["10.500", "86.00", "4", "58.25 ± 64.34", *PAIRED[2:4]]
    assert weight[0] == "noise on the weights" and maml[1] < weight[1]


def test_a_training_loss_is_the_mean_of_its_iterations():
    """A row is the mean of the iterations since the one before: here of 1, 49 and 75."""
    columns = {"iter": [0, 49, 124], "loss": [8.0, 2.0, 1.0], "secs": [0.0] * 3}
    record = made(masks, "original", curve=columns | {name: [None] * 3 for name in ("val_acc", "val_ci95")})
    assert tables.training_loss(record) == pytest.approx((8 + 49 * 2 + 75) / 125)


def test_a_loss_that_is_not_of_mamls_kind_is_left_out_and_a_strength_is_shown():
    records = [made(regularisers, "maml", 0, [95]), made(regularisers, "protonet_wide", 0, [94])]
    records += [replace(made(regularisers, "metasgd", 0, [96]), curve={})]  # it was not trained here
    for name in ("mixup", "mixup_query"):
        records += [made(regularisers, name, 0, [97], values={"mix_alpha": alpha}) for alpha in ("0.2", "1", "2")]
    found = {row[0]: row[1:4] for row in rows(regularisers, "accuracy", records)}
    assert found == {
        "": ["chosen", "parameters", "training loss"], "MAML": ["", "112,005", "1.000"],
        "mixup, support": ["0.2", "112,005", "1.000"], "mixup, query": ["0.2", "112,005", ""],
        "Meta-SGD": ["", "223,754", ""], "Prototypical Network, trained 60-way": ["", "111,680", ""],
    }  # fmt: skip
    assert tables.parameters(made(regularisers, "maml", config={"channels": 32})) < 112005
    more = {"values": {"meta_lr": "1e-3"}, "config": {"train_classes": 64}}
    assert tables.training_loss(made(baselines_omniglot, "baseline", **more)) is None  # of all training classes
    reptile = made(baselines_omniglot, "reptile", values={"meta_lr": "1"})
    assert tables.training_loss(reptile) is None  # of the support set


def test_losses_and_validations_are_those_of_the_tested_seeds():
    records = [made(exact, "maml", 0, [95], curve=curve(800, (1, 1), 0.9))]
    records += [made(exact, "maml", 1, curve=curve(800, (9, 9), 0.5))]
    _, row = rows(exact, "accuracy", records)
    assert row[2:5] == ["1.000", "90.00", "1"]


def test_a_baseline_has_a_row_per_head_and_all_are_paired_with_the_test_of_maml():
    study, values = replace(baselines_omniglot, seeds=(0,)), {"meta_lr": "1e-3"}
    rates = [{"meta_lr": rate} for rate in ("3e-4", "1e-3", "3e-3")]
    records = []
    for name, scores in (("maml", [90, 70]), ("baseline", [95, 85]), ("nearest", [60, 50])):
        for own in rates if name != "nearest" else [{}]:
            facts = {"curve": curve(800, validation=0.9 if own == values else 0.8)} if own else {}
            records.append(made(study, name, 0, scores if own in (values, {}) else None, values=own, **facts))
    heads = [
        with_result(record, study.tests["ridge"].flags, [80, 84]) if record.results else record
        for record in records[3:]
    ]
    head, *found = rows(study, "accuracy", records[:3] + heads)
    paired = head.index("from MAML")
    assert {row[0]: row[paired - 1 : paired + 1] for row in found} == {
        "Nearest mean in pixels": ["55.00", "-25.00"], "Nearest mean in pixels, ridge": ["82.00", "+2.00"],
        "Baseline": ["90.00", "+10.00"], "Baseline, ridge": ["82.00", "+2.00"], "MAML": ["80.00", ""],
    }  # fmt: skip
    validations = {row[0]: row[head.index("validation")] for row in found}
    own = {"Nearest mean in pixels": "42.00", "Baseline": "90.00", "MAML": "90.00"}  # not of the other heads
    assert validations == {row[0]: own.get(row[0], "") for row in found}
    budgets = rows(study, "budgets", records)
    assert budgets[0] == ["", "updates", "images per update", "images", "minutes"]
    assert budgets[1:] == [[title, "801", "320", "256,320", "1"] for title in ("Baseline", "MAML")]


def test_strengths_show_the_first_seeds_validations_and_the_best():
    accuracies = {"1e-4": 0.9, "1e-3": 0.95, "1e-2": 0.8}
    records = [
        made(regularisers, "vib", 0, [97], values={"vib_beta": beta}, curve=curve(800, validation=value))
        for beta, value in accuracies.items()
    ]
    records += [made(regularisers, "vib", 1, [9], values={"vib_beta": "1e-2"}, curve=curve(800, validation=0.99))]
    assert rows(regularisers, "strengths", records) == [
        ["", "flag", "validation accuracy by value, %"],
        ["VIB", "vib_beta", "1e-4: 90.00 / 1e-3: **95.00** / 1e-2: 80.00"],
    ]


def test_rates_are_shown_for_what_they_are_and_the_best_are_paired():
    grid = {("0.05", "3e-4"): 0.5, ("0.05", "1e-3"): 0.6, ("0.2", "3e-4"): 0.9, ("0.2", "1e-3"): 0.7}
    choose = {"inner_lr": ("0.05", "0.2"), "meta_lr": ("3e-4", "1e-3")}
    study = replace(rates, seeds=SEEDS, runs={name: replace(run, choose=choose) for name, run in rates.runs.items()})
    records = []
    for name in study.runs:
        for (inner, meta), accuracy in grid.items():
            of = {"values": {"inner_lr": inner, "meta_lr": meta}}
            records.append(made(study, name, curve=curve(800, validation=accuracy), **of))
            records.append(
                made(study, name, 1, curve=curve(800, validation=0.99), **of)
            )  # another seed does not choose
    best = {"values": {"inner_lr": "0.2", "meta_lr": "3e-4"}, "curve": curve(800, validation=0.9)}
    records += pair(study, "maml", "metadrop_exact", **best)
    records.append(made(study, "maml_exact", 3, [51, 75], **best))
    records.append(made(study, "metadrop", 3, [1, 2], values={"inner_lr": "0.05", "meta_lr": "3e-4"}))  # not the best
    shown_grid = "0.05, 3e-4: 50.00 / 0.05, 1e-3: 60.00 / 0.2, 3e-4: **90.00** / 0.2, 1e-3: 70.00"
    names = "inner_lr, meta_lr"
    assert rows(study, "strengths", records)[1:] == [[run.title, names, shown_grid] for run in study.runs.values()]
    assert rows(study, "pairs", records)[1:] == [
        ["published, exact", "2", f"MAML, published {PAIRED[0]}", f"Meta-dropout, exact {PAIRED[1]}", *PAIRED[2:]],
        ["exact, exact", "1", "MAML, exact 63.00", "Meta-dropout, exact 63.00", "+0.00", "+0.00 ± 4.16", ""],
        ["MAML, published and exact", "1", "MAML, published 60.00", "MAML, exact 63.00", "+3.00", "+3.00 ± 2.77", ""],
    ]


def test_masks_are_paired_with_the_same_without_and_tasks_are_counted():
    """The tasks' means are 70 and 87.5; of all four 3 are above 50, 2 above 80, 1 above 90."""
    records = [made(masks, "original", 2, [40, 90]), made(masks, "original", 0, [0, 0])]
    records += [
        made(masks, "original_mask", 2, [50, 90]),
        made(masks, "original_mask", 1, [80.000001, 95]),
    ]  # float32's 80
    head, *found = rows(masks, "tasks", records)
    assert head == ["", "seeds", "accuracy", "std of tasks", "tasks above 50 / 80 / 90 %"]
    assert found[1] == ["Original, one mask per task", "2", "78.75 ± 111.18", "13.75", "75.0 / 50.0 / 25.0"]
    head, _, masked = rows(masks, "accuracy", records)
    assert head[-2:] == ["from its baseline", "by seed"] and masked[-2:] == ["+5.00", "+5.00 ± 6.93"]


# ---- attacks

RADII = [0, 0.02, 0.04, 0.06, 0.08, 0.1]


def attacked(name, seed, **tests):
    """Return a run of the study with attacks: two episodes' accuracies at each radius, by the test's name."""
    record = made(robustness, name, seed)
    for title, accuracies in tests.items():
        record = with_result(record, robustness.tests[title].flags, accuracies, **clean_of(title))
    return record


def clean_of(title):
    return {"clean": dict(zip(CLEAN, (4, 8, 0.5, 0) if title == "joint" else (9, 9, 9, 9), strict=True))}


def test_accuracy_by_attack_and_radius_is_the_mean_of_the_seeds():
    """12.706 / sqrt(2) times the deviations of 90 and 80, 81 and 53, 65 and 5."""
    records = [
        attacked("metadrop", seed, joint=[[first - n * i * i - 2, first - n * i * i + 2] for i in range(6)])
        for seed, first, n in ((0, 90, 1), (2, 80, 3))
    ]  # fmt: skip
    assert rows(robustness, "other", records) == []
    records += [attacked("maml", 0, l2=[[60, 50]] * 2 + [[30, 20]] * 4, l1_dense=[[40, 30]] * 6)]
    assert rows(robustness, "linf", records) == [
        ["", "seeds", "clean", "joint 0.06", "joint 0.1", "remaining 0.06", "remaining 0.1"],
        ["Meta-dropout", "2", "85.00 ± 63.53", "67.00 ± 177.89", "35.00 ± 381.19", "", ""],
    ]
    assert rows(robustness, "other", records) == [
        ["", "seeds", "l2 1", "l2 2", "l1 20", "l1_dense 20"], ["MAML", "1", "55.00", "25.00", "", "35.00"],
    ]  # fmt: skip


def test_leads_are_paired_by_seed_or_by_episode_for_a_single_seed():
    """Means of -4 and -8, with 12.706 std / sqrt(2) = 25.41; of a single seed 10 ± 1.96 * 5 / sqrt(2)."""
    records = [attacked("maml", seed, joint=[[50, 60]] * 5 + [[20, 30]]) for seed in (0, 1)]
    records += [attacked("metadrop", 0, joint=[[50, 60]] * 5 + [[16, 26]])]
    records += [attacked("metadrop", 1, joint=[[50, 60]] * 5 + [[10, 24]]), attacked("metadrop", 2, joint=[[9, 9]] * 6)]
    records += [attacked("head", 0, joint=[[55, 75]] * 6)]
    head, *found = rows(robustness, "linf_leads", records)
    found = {row[0]: row[1:] for row in found}
    assert head == ["", "seeds", "joint 0.06", "joint 0.1", "remaining 0.06", "remaining 0.1"]
    assert found["Meta-dropout - MAML"] == ["2", "+0.00 ± 0.00", "-6.00 ± 25.41", "", ""]
    assert found["ANIL - MAML"] == ["1", "+10.00 ± 6.93", "+40.00 ± 6.93", "", ""]
    assert set(found) == {"Meta-dropout - MAML", "ANIL - MAML"} < set(LEADS)


def test_attacks_stand_side_by_side_with_the_strongest_of_all():
    """Each run lacks a different one of the seeds. The strongest attack takes the least of every episode."""
    hard, margin = "10 restarts, up the margin of the remaining images", "40 steps up the margin"
    means = {
        "maml": {0: 10, 2: 60},
        "metadrop": {1: 99, 2: 63},
        "maml_exact": {0: 50, 1: 20},
        "metadrop_exact": {0: 40},
    }
    records = []
    for name, seeds in means.items():
        for seed, mean in seeds.items():
            attacks = {"joint": [[mean, mean]] * 3 + [[mean / 2, mean / 2]] * 2 + [[mean - 1, mean + 1]]}
            attacks |= {margin: [[mean, mean], [mean + 1, mean - 1]]}
            records.append(attacked(name, seed, **attacks, **({hard: [[9, 2]]} if name == "metadrop" else {})))
    head, *found = rows(robustness, "attacks", records)
    assert head == ["attack, linf", "eps", "MAML", "Meta-dropout", "MAML, exact gradient",
                    "Meta-dropout, exact gradient", "Meta-dropout - MAML", "the same, exact gradients"]  # fmt: skip
    at = {(title, eps): own for title, eps, *own in found}
    # 12.706 / sqrt(2) times the deviations of (10, 60), (99, 63) and (50, 20)
    seeds = ["35.00 ± 317.66", "81.00 ± 228.71", "35.00 ± 190.59", "40.00", "+3.00", "-10.00"]
    assert at["joint", "0.1"] == at[margin, "0.1"] == at[margin, "0.06"] == seeds
    assert at["joint", "0.06"] == ["17.50 ± 158.83", "40.50 ± 114.36", "17.50 ± 95.30", "20.00", "+1.50", "-5.00"]
    assert at[hard, "0.1"] == ["", "5.50 ± 0.00", "", "", "", ""]
    strongest = at["the strongest of these attacks in every episode", "0.1"]
    assert strongest == ["34.00 ± 317.66", "5.50 ± 0.00", "34.00 ± 190.59", "39.00", "-53.50", "-10.00"]
    # A seed that has not met all of them has none that is the strongest.
    records[3] = attacked("metadrop", 2, joint=[[63, 63]] * 6)
    _, *found = rows(robustness, "attacks", records)
    assert found[-1][2:4] == ["34.00 ± 317.66", "5.50"] and found[-1][6] == ""


def test_an_attack_that_is_made_for_the_first_seed_is_no_row():
    _, *found = rows(robustness, "attacks", [attacked("maml", 0, l2=[[50, 50]] * 6, joint=[[50, 50]] * 6)])
    assert [row[:2] for row in found[:-1]] == [["joint", "0.06"], ["joint", "0.1"]]


def test_clean_measures_are_those_of_the_joint_attack():
    records = [attacked("maml", seed, joint=[[5, 5]] * 6, remaining=[[5, 5]] * 6) for seed in (0, 1)]
    assert rows(robustness, "clean", records) == [
        ["", "margin", "gradient_l1", "gradient_l2", "gradient_gone"], ["MAML", "4", "8", "0.5", "0"],
    ]  # fmt: skip


# ---- neural collapse


def test_collapse_shows_the_features_before_the_first_step_and_after_the_last():
    """The last layer is the logits; the one before it has the features."""

    def row(kind, step, layer, value):
        values = {key: value + i / 10 for i, key in enumerate(tables.FEATURES.values())}
        return {"set": kind, "step": step, "layer": layer} | values | {f"{key}_ci95": 0.0625 for key in values}

    measured = [row(kind, step, layer, own) for kind, value in (("query", 1), ("support", 2)) for step in (0, 1, 5)
                for layer, own in (("block3", 9), ("block4", value + step), ("logits", 7))]  # fmt: skip
    measured[1] |= {"nc1": None, "share_within_ci95": 0.0004}
    del measured[1]["nc1_ci95"]  # what is undefined has no interval
    record = with_result(made(collapse, "maml"), collapse.tests["collapse"].flags, [1], rows=measured)
    head, *found = rows(collapse, "features", [record])
    assert head == ["", "", *tables.FEATURES] and {row[1] for row in found} == {"MAML, seed 0"}
    assert [(row[0], row[2].split()[0]) for row in found] == [
        ("query, before", "1.000"), ("query, after", "6.000"), ("support, before", "2.000"),
        ("support, after", "7.000"),
    ]  # fmt: skip
    assert found[0][2:5] == ["1.000", "", "1.200 ± 0.062"] and found[1][9] == "6.700 ± 0.062"


# ---- Table 1

LAST = {"omni_1shot": 40000, "omni_5shot": 40000, "mimg_1shot": 60000, "mimg_5shot": 60000}


def test_table_1_quotes_the_paper_and_the_tf1_repository_beside_the_runs():
    """The paper's numbers are those of its Table 1, the repository's those of its README of 24 April 2020."""
    numbers = {("maml", cell): [10 + i, 12 + i] for i, cell in enumerate(LAST)}
    numbers |= {("metadrop", cell): [20 + i, 22 + i] for i, cell in enumerate(LAST)}
    records = [made(table1, "_".join(where), 0, values) for where, values in numbers.items()]
    assert rows(table1, "accuracy", records) == [
        ["accuracy, %", "Omniglot 20-way 1-shot", "Omniglot 20-way 5-shot", "miniImageNet 5-way 1-shot",
         "miniImageNet 5-way 5-shot"],
        ["MAML, paper", "95.23 ± 0.17", "98.38 ± 0.07", "49.58 ± 0.65", "64.55 ± 0.52"],
        ["MAML, TF1 repository", "94.63 ± 0.17", "98.26 ± 0.07", "48.73 ± 0.64", "65.70 ± 0.52"],
        ["MAML, this project", *(f"{11 + i}.00 ± 0.25" for i in range(4))],
        ["Meta-dropout, paper", "96.63 ± 0.13", "98.73 ± 0.06", "51.93 ± 0.67", "67.42 ± 0.52"],
        ["Meta-dropout, TF1 repository", "96.17 ± 0.15", "98.86 ± 0.06", "51.67 ± 0.64", "68.12 ± 0.53"],
        ["Meta-dropout, this project", *(f"{21 + i}.00 ± 0.25" for i in range(4))],
    ]  # fmt: skip


def test_table_1_says_how_far_a_training_is():
    records = [
        made(table1, f"maml_{cell}", 0, [5], curve=curve(last - 1), iteration=last - 1) for cell, last in LAST.items()
    ]
    found = {row[0]: row[1:] for row in rows(table1, "accuracy", records)}
    assert found["MAML, this project"] == [
        f"5.00 ± 0.25 ({last - 1:,} of {last:,} iterations)" for last in LAST.values()
    ]
    assert found["Meta-dropout, this project"] == [""] * 4
    trial = made(table1, "maml_omni_1shot", 0, [5], curve=curve(800), config={"n_train_iters": 800}, iteration=800)
    assert rows(table1, "accuracy", [trial])[3][1] == "5.00 ± 0.25 (800 of 40,000 iterations)"
    other = table1.tests["test"].flags.replace("--n_test_iters 1000", "--n_test_iters 20")
    short = with_result(made(table1, "metadrop_omni_1shot"), other, [7], iteration=40000)
    assert shown(table1, [trial, short]).by_iteration("metadrop_omni_1shot") == {}


def progress_of(name, tests):
    """Return a run of Table 1 with tests at several iterations: accuracy and interval."""
    record = made(table1, name)
    for iteration, (accuracy, interval) in tests.items():
        more = {"iteration": iteration, "interval95": interval}
        record = with_result(record, table1.tests["test"].flags, np.atleast_1d(accuracy), **more)
    return record


def test_progress_pairs_the_iterations_that_both_learners_were_tested_at():
    records = [progress_of("maml_omni_1shot", {2000: (90, 0.3), 1000: (80, 0.3), 3000: (91, 1)})]
    records += [progress_of("metadrop_omni_1shot", {1000: (81.5, 0.4), 2000: (89.75, 0.4)})]
    assert rows(table1, "omni_1shot", records) == [
        ["iteration", "MAML", "Meta-dropout", "difference"],
        ["1,000", "80.00 ± 0.30", "81.50 ± 0.40", "+1.50 ± 0.50"],
        ["2,000", "90.00 ± 0.30", "89.75 ± 0.40", "-0.25 ± 0.50"],
    ]
    assert rows(table1, "mimg_5shot", records) == []
    # 1.96 times the deviation 1 of the differences +4 and +2, by the root of two episodes
    records = [progress_of(f"{name}_omni_1shot", {1000: ([80, 84], 0.3)}) for name in ("maml", "metadrop")]
    records[1].results[0] |= {"accuracies": [84, 86], "accuracy": 85}
    assert rows(table1, "omni_1shot", records)[1][3] == "+3.00 ± 1.39"
    records[1].results[0] |= {"episodes_sha256": "others"}
    assert rows(table1, "omni_1shot", records)[1][3] == "+3.00 ± 0.42"
