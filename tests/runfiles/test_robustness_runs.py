"""runfiles/robustness.py: the runs and attacks of the study, and the tables of their results."""

import collections
import json
import shlex

import pytest

import main
from conftest import ROOT, assert_refused, call, cli
from studies.robustness import AttackSettings


@pytest.fixture(autouse=True)
def runfiles(monkeypatch):
    """Let `call` import the script."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")


def lines(results, part) -> dict[str, list[dict]]:
    """Return folder -> settings of the training, the test and the attacks."""
    done = call("runfiles/robustness.py", results, f"--{part}", "--", "--gpu_id", "-1")
    assert done.returncode == 0, done.stderr
    runs = {}
    for line in done.stdout.splitlines():
        folder, *parts = (part.strip() for part in line.split("|"))
        modes = ["meta_train", "meta_test"] + ["attack"] * len(parts)
        runs[folder.removeprefix(f"{results}/")] = commands = [
            main.read_command(["--mode", mode, *shlex.split(part)]) for mode, part in zip(modes, parts, strict=False)
        ]
        assert all(flags["gpu_id"] == "-1" for flags in commands)
        for flags in commands[2:]:
            AttackSettings.of(flags).refuse_idle(flags)
    assert len(runs) == len(done.stdout.splitlines())
    return runs


def test_the_study_has_its_runs_and_their_curves(tmp_path):
    runs = lines(tmp_path, "runs")
    assert len(runs) == 4 * 3 + 8
    for name in ("maml", "metadrop", "maml_exact", "metadrop_exact", "linf_0.02", "metadrop_5shot"):
        for seed in range(3 if name in ("maml", "metadrop", "maml_exact", "metadrop_exact") else 1):
            train, test, *attacks = runs[f"{name}_{seed}"]
            assert train["seed"] == seed and (train["n_train_iters"], train["metabatch"]) in ((800, 4), (400, 4))
            assert train["shot"] == (5 if "5shot" in name else 1) and test["n_test_iters"] == 400
            assert train["model"] == ("metadrop" if "metadrop" in name else "maml")
            assert train.get("meta_gradient") == ("exact" if "exact" in name else None)
            assert train.get("adversarial") == ("linf:0.02" if name == "linf_0.02" else None)
            more = ["l2", "l1", "l1_dense"] if seed == 0 and "exact" not in name and "shot" not in name else []
            assert [attack["norm"] for attack in attacks] == ["linf", "linf", *more]
            assert [attack["threat"] for attack in attacks[:2]] == ["joint", "remaining"]
            assert all((attack["n_test_iters"], attack["query"]) == (100, 3) for attack in attacks)


def test_the_regularisers_that_have_been_tested_are_attacked_too(tmp_path):
    """They stay in the folder of their study, with its flags and the strength that was tested there."""
    others = tmp_path / "regularisers"
    for name in ("fixed_0", "fixed_1", "head_0", "maml_0", "mixup-1_0"):
        (others / name).mkdir(parents=True)
        (others / name / "meta_test.json").touch()
    for name in ("body_0", "mixup-0.2_0"):
        (others / name).mkdir()
    runs = lines(tmp_path / "robustness", "runs")
    attacked = [str(others / name) for name in ("fixed_0", "mixup-1_0", "head_0")]
    assert [name for name in runs if "regularisers" in name] == attacked
    assert (runs[attacked[1]][0]["perturbation"], runs[attacked[1]][0]["mix_alpha"]) == ("mixup", 1)
    train, test, attack, remaining = runs[str(others / "head_0")]
    assert (train["adapt"], train["seed"], train["n_train_iters"], test["n_test_iters"]) == ("head", 0, 800, 400)
    assert (attack["norm"], attack["query"]) == ("linf", 3) and remaining == attack | {"threat": "remaining"}
    write_attack(others / "head_0", BUDGETS["linf"], [[80, 80]] * 6)
    write_attack(tmp_path / "robustness/maml_0", BUDGETS["linf"], [[70, 70]] * 6)
    write_attack(others / "mixup-1_0", BUDGETS["linf"], [[60, 60]] * 6)
    rows = tables(tmp_path / "robustness")["linf, eps"]
    assert [row[0] for row in rows] == ["MAML", "mixup, support, alpha 1", "ANIL"]
    write_attack(others / "fixed_0", [0.1], [[1, 2]], facts={"iteration": 400})
    assert_refused(call("runfiles/robustness.py", tmp_path / "robustness"), "their training iterations differ")


def test_the_study_tries_more_than_one_attack_on_both_learners_and_gradients(tmp_path):
    probes = lines(tmp_path, "probes")
    assert set(probes) == {f"{name}{kind}_{seed}" for name in ("maml", "metadrop") for kind in ("", "_exact")
                           for seed in range(3)}  # fmt: skip
    train, _, *attacks = probes["metadrop_exact_2"]
    assert train == lines(tmp_path, "runs")["metadrop_exact_2"][0]
    assert [attack["surrogate"] for attack in attacks if "surrogate" in attack] == [
        str(tmp_path / "maml_exact_2"),
        str(tmp_path / "metadrop_exact_2"),
    ]
    assert {(a["attack_method"], a["attack_steps"], a["restarts"]) for a in attacks} == {
        ("pgd", 10, 1), ("pgd", 200, 1), ("pgd", 40, 10), ("pgd", 40, 1), ("square", 500, 1),
    }  # fmt: skip
    assert [a["attack_steps"] for a in attacks if a["threat"] == "single"] == [10]
    assert len(probes["maml_0"]) == len(probes["metadrop_0"]) - 1  # MAML has no noise to draw


# The attacks at 0.1 by the title of their row: the settings that differ from those of the first.
TRIED = {
    "40 steps": {},
    "10 steps": {"steps": 10},
    "200 steps": {"steps": 200},
    "40 steps up the margin": {"loss": "margin"},
    "10 steps, one image at a time": {"steps": 10, "threat": "single"},
    "40 steps, up the loss of the remaining images": {"threat": "remaining"},
    "10 restarts, up the margin of the remaining images": {"restarts": 10, "loss": "margin", "threat": "remaining"},
    "40 steps with the other learner's gradients": {"surrogate": {"weights_sha256": "another run", "draws": 1}},
    "40 steps with gradients over 4 other noise draws": {"surrogate": {"weights_sha256": "metadrop", "draws": 4}},
    "square attack, 500 images": {"method": "square", "steps": 500, "square_share": 0.8},
}
BUDGETS = {"linf": [0, 0.02, 0.04, 0.06, 0.08, 0.1], "l1": [0, 20, 40, 60, 80, 100]}


def write_attack(savedir, eps, accuracies, weights="w", clean=(4, 8, 0.5, 0), facts=None, time=None, **attack):
    """Write a result of --mode attack. time: when it was made. attack: settings that differ from those of the
    curves."""
    recorded = {"method": "pgd", "norm": "linf", "eps": eps, "steps": 40, "start": "random", "restarts": 1} | attack
    recorded = {"step": 2.5 / recorded["steps"], "threat": "joint", "loss": "cross_entropy"} | recorded
    means = [sum(own) / len(own) for own in accuracies]
    content = {"eps": eps, "accuracies": accuracies, "accuracy": means, "interval95": [0] * len(eps)}
    content |= {"episodes_sha256": "a", "weights_sha256": weights, "iteration": 800, "n_test_mc_samp": 10}
    content["clean"] = dict(zip(("margin", "gradient_l1", "gradient_l2", "gradient_gone"), clean, strict=True))
    content["settings"] = {"attack": recorded, "data_sha256": "d", "precision": "float32"}
    content |= {"provenance": {"time": time}} if time else {}
    for name, value in (facts or {}).items():
        (content if name in content else content["settings"])[name] = value
    folder = savedir / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"attack-{len(list(folder.iterdir()))}.json").write_text(json.dumps(content))


def tables(results) -> dict[str, list[list[str]]]:
    """Return the rows of each table, by the first cell of its head."""
    done = call("runfiles/robustness.py", results)
    assert done.returncode == 0, done.stderr
    results = collections.defaultdict(list)
    for table in done.stdout.strip().split("\n\n"):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        assert {len(row) for row in rows} <= {len(head)}
        results[head[0]] = rows
    return results


def test_the_tables_put_attacks_and_learners_side_by_side(tmp_path):
    for seed in (0, 1):
        for name, ahead in (("maml", 0), ("metadrop", 10)):
            savedir = tmp_path / f"{name}_{seed}"
            for title, attack in TRIED.items():
                if title == "40 steps":  # the curve's own
                    accuracies = [[90 - 10 * i + ahead + seed, 80] for i in range(6)]
                    write_attack(savedir, BUDGETS["linf"], accuracies, weights=name)
                elif title == "10 restarts, up the margin of the remaining images":
                    write_attack(savedir, [0.1], [[70, 20 + ahead]], weights=name, **attack)
                elif "other draws" not in title or name == "metadrop":  # MAML has no noise to draw
                    eps, results = ([0.06, 0.1], [[75, 85]]) if title == "10 steps" else ([0.1], [])
                    write_attack(savedir, eps, [*results, [70, 90]], name, (9, 9, 9, 9), **attack)
    results = tables(tmp_path)
    rows = {(title, eps): cells for title, eps, *cells in results["attack, linf"]}
    assert {title for title, _ in rows} == {*TRIED, "the strongest of these attacks in every episode"}
    assert rows["40 steps", "0.1"] == ["60.25 ± 3.18", "65.25 ± 3.18", "+5.00 ± 0.00", ""]
    assert rows["40 steps", "0.06"] == ["70.25 ± 3.18", "75.25 ± 3.18", "+5.00 ± 0.00", ""]
    assert rows["10 restarts, up the margin of the remaining images", "0.1"] == [
        "45.00 ± 0.00",
        "50.00 ± 0.00",
        "+5.00 ± 0.00",
        "",
    ]
    assert rows["10 steps", "0.06"] == ["80.00 ± 0.00", "80.00 ± 0.00", "+0.00 ± 0.00", ""]
    assert rows["40 steps with gradients over 4 other noise draws", "0.1"] == ["", "80.00 ± 0.00", "", ""]
    # of every episode the least, at 0.1: MAML 40 + seed and 20, Meta-dropout 50 + seed and 30
    strongest = ("the strongest of these attacks in every episode", "0.1")
    assert rows[strongest] == ["30.25 ± 3.18", "40.25 ± 3.18", "+10.00 ± 0.00", ""]
    assert results["linf, eps"][0][:4] == ["MAML", "2", "85.25 ± 3.18", "80.25 ± 3.18"]
    assert results[""] == [["MAML", "4", "8", "0.5", "0"], ["Meta-dropout", "4", "8", "0.5", "0"]]  # the curve's alone
    # A run that has not met all of them has none that is the strongest.
    (square,) = (path for path in (tmp_path / "maml_1/tests").iterdir() if '"square"' in path.read_text())
    square.unlink()
    rows = {(title, eps): cells for title, eps, *cells in tables(tmp_path)["attack, linf"]}
    assert rows[strongest] == ["30.00", "40.25 ± 3.18", "+10.00", ""]
    assert rows["square attack, 500 images", "0.1"] == ["80.00", "80.00 ± 0.00", "+0.00", ""]


def test_a_square_attack_of_the_version_that_moved_lost_images_is_another_row(tmp_path):
    """It counts for the strongest attack if there is no new one. One with another share is in no row."""
    for title, attack in TRIED.items():
        if "draws" not in title:
            old = {} if attack.get("method") != "square" else {"square_share": None}
            write_attack(tmp_path / "maml_0", [0.1], [[70, 90]], weights="maml", **attack | old)
    write_attack(tmp_path / "maml_0", [0.1], [[1, 1]], weights="maml", method="square", steps=500, square_share=0.05)
    rows = {row[0]: row[1:3] for row in tables(tmp_path)["attack, linf"]}
    title = "square attack, 500 images"
    assert title not in rows and rows[f"{title}, misclassified ones moved, too"] == ["0.1", "80.00"]
    assert rows["the strongest of these attacks in every episode"] == ["0.1", "80.00"]
    write_attack(tmp_path / "maml_0", [0.1], [[40, 50]], weights="maml", **TRIED[title])
    rows = {row[0]: row[1:3] for row in tables(tmp_path)["attack, linf"]}
    assert rows[title] == ["0.1", "45.00"] and rows[f"{title}, misclassified ones moved, too"] == ["0.1", "80.00"]
    assert rows["the strongest of these attacks in every episode"] == ["0.1", "45.00"]


def test_the_gradients_of_another_run_are_those_of_another_row(tmp_path):
    """The row depends on the surrogate's weights and on how often it adapts."""
    for number, (weights, draws) in enumerate([("maml", 1), ("maml", 4), ("another", 1), ("another", 4)]):
        surrogate = {"weights_sha256": weights, "draws": draws}
        write_attack(tmp_path / "maml_0", [0.1], [[number, number]], weights="maml", surrogate=surrogate)
    assert [row[:3] for row in tables(tmp_path)["attack, linf"]] == [
        ["40 steps with the other learner's gradients", "0.1", "2.00"],
        ["40 steps with gradients over 4 other noise draws", "0.1", "1.00"],
    ]


def test_norms_of_the_same_radii_have_curves_of_their_own(tmp_path):
    for norm, first in (("l1", 90), ("l1_dense", 60)):
        write_attack(tmp_path / "maml_0", BUDGETS["l1"], [[first - i, first - i] for i in range(6)], norm=norm)
    write_attack(tmp_path / "maml_0", BUDGETS["l1"], [[30, 30]] * 6, norm="l1", threat="remaining")
    results = tables(tmp_path)
    assert results["l1, remaining images, eps"] == [["MAML", "1", *["30.00"] * 6]]
    assert results["l1, eps"] == [["MAML", "1", *(f"{90 - i}.00" for i in range(6))]]
    assert results["l1_dense, eps"] == [["MAML", "1", *(f"{60 - i}.00" for i in range(6))]]
    assert results["linf, eps"] == results["l2, eps"] == results[""] == []


OTHERWISE = [
    {"method": "square"}, {"norm": "l2"}, {"steps": 200}, {"steps": 200, "step": 2.5 / 40}, {"step": 0.1},
    {"start": "clean"}, {"restarts": 10}, {"threat": "single"}, {"threat": "remaining"}, {"loss": "margin"},
    {"surrogate": {"weights_sha256": "another run", "draws": 1}},
]  # fmt: skip


@pytest.mark.parametrize("attack", OTHERWISE, ids=lambda attack: "-".join(attack))
def test_an_attack_that_differs_in_one_thing_is_not_that_of_the_curve(attack, tmp_path):
    """Alone it leaves the rows of the curve empty; beside the curve's attack it neither adds a seed nor replaces it."""
    savedir = tmp_path / "maml_0"
    write_attack(savedir, BUDGETS["linf"], [[50, 50]] * 6, **attack)
    results = tables(tmp_path)
    assert results["linf, eps"] == results[""] == []
    assert "40 steps" not in {row[0] for row in results["attack, linf"]}
    write_attack(savedir, BUDGETS["linf"], [[80, 80]] * 6)
    write_attack(savedir, BUDGETS["linf"], [[50, 50]] * 6, **attack)
    results = tables(tmp_path)
    assert results["linf, eps"] == [["MAML", "1", *["80.00"] * 6]]
    assert [row[1:3] for row in results["attack, linf"] if row[0] == "40 steps"] == [
        ["0.06", "80.00"],
        ["0.1", "80.00"],
    ]


def test_two_attacks_on_one_run_are_one_seed(tmp_path):
    """A run that was trained again is attacked again."""
    for weights in ("old", "new"):
        write_attack(tmp_path / "maml_0", BUDGETS["linf"], [[80, 80]] * 6, weights=weights)
    write_attack(tmp_path / "maml_20way_0", BUDGETS["l1"], [[60, 60]] * 6, norm="l1")
    assert tables(tmp_path)["l1, eps"] == [["MAML, 20-way", "1", *["60.00"] * 6]]
    write_attack(tmp_path / "maml_0", [0.1], [[70, 70]])  # the curve's, and not at all of its radii
    assert tables(tmp_path)["linf, eps"] == [["MAML", "1", *["80.00"] * 6]]


def test_of_several_attacks_the_latest_is_in_every_table(tmp_path):
    """The time counts, not the name of the file."""
    for month, accuracy in (("02", 50), ("03", 80), ("01", 20)):
        attack = {"clean": (accuracy, 2, 3, 4), "time": f"2026-{month}-05T10:00:00+00:00"}
        write_attack(tmp_path / "maml_0", BUDGETS["linf"], [[accuracy, accuracy]] * 6, **attack)
        write_attack(tmp_path / "maml_0", [0.1], [[accuracy - 1, accuracy - 1]], steps=10, time=attack["time"])
    results = tables(tmp_path)
    assert results["linf, eps"] == [["MAML", "1", *["80.00"] * 6]] and results[""] == [["MAML", "80", "2", "3", "4"]]
    assert [row[:3] for row in results["attack, linf"]] == [
        ["10 steps", "0.1", "79.00"], ["40 steps", "0.06", "80.00"], ["40 steps", "0.1", "80.00"],
    ]  # fmt: skip


def test_learners_are_paired_by_seed_and_gradient_and_stand_in_their_columns(tmp_path):
    """Each kind lacks a different one of the seeds 0 to 2. The attack has 0.1 before 0.06."""
    means = {
        "maml": {0: 10, 2: 60}, "metadrop": {1: 99, 2: 63}, "maml_exact": {0: 50, 1: 20}, "metadrop_exact": {0: 40},
    }  # fmt: skip
    for name, seeds in means.items():
        for seed, mean in seeds.items():
            write_attack(
                tmp_path / f"{name}_{seed}", [0.1, 0.06], [[mean - 1, mean + 1], [mean / 2, mean / 2]],
                clean=(mean, 2 * mean, 3 * mean, 4 * mean),
            )  # fmt: skip
    done = call("runfiles/robustness.py", tmp_path)
    assert done.returncode == 0, done.stderr
    heads = [line for line in done.stdout.splitlines() if line.startswith(("| attack", "| | "))]
    assert heads == [
        "| attack, linf | eps | MAML | Meta-dropout | MAML, exact gradient | Meta-dropout, exact gradient | "
        "Meta-dropout - MAML | the same, exact gradients |",
        "| | margin | gradient_l1 | gradient_l2 | gradient_gone |",
    ]
    results = tables(tmp_path)
    at_006, at_01 = (row[2:] for row in results["attack, linf"] if row[0] == "40 steps")
    # 12.706 / sqrt(2) times the deviations of (10, 60), (99, 63) and (50, 20)
    assert at_01 == ["35.00 ± 317.66", "81.00 ± 228.71", "35.00 ± 190.59", "40.00", "+3.00", "-10.00"]
    assert at_006 == ["17.50 ± 158.83", "40.50 ± 114.36", "17.50 ± 95.30", "20.00", "+1.50", "-5.00"]
    assert results[""] == [
        ["MAML", "35", "70", "105", "140"],
        ["Meta-dropout", "81", "162", "243", "324"],
        ["MAML, exact gradient", "35", "70", "105", "140"],
        ["Meta-dropout, exact gradient", "40", "80", "120", "160"],
    ]


def test_a_curve_has_its_radii_in_order_and_the_mean_of_its_seeds(tmp_path):
    for seed, first in ((0, 90), (2, 80)):
        accuracies = [[first - i * i * (seed + 1) - 2, first - i * i * (seed + 1) + 2] for i in range(6)]
        write_attack(tmp_path / f"metadrop_{seed}", BUDGETS["linf"], accuracies)
    done = call("runfiles/robustness.py", tmp_path)
    assert "| linf, eps | seeds | 0 | 0.02 | 0.04 | 0.06 | 0.08 | 0.1 |" in done.stdout.splitlines()
    (row,) = tables(tmp_path)["linf, eps"]
    assert row == [
        "Meta-dropout", "2", "85.00 ± 63.53", "83.00 ± 76.24", "77.00 ± 114.36", "67.00 ± 177.89", "53.00 ± 266.83",
        "35.00 ± 381.19",
    ]  # fmt: skip


def test_an_attack_that_was_asked_for_is_that_of_its_row(tmp_path):
    """The settings that attack.json would record belong to one row of the table, with its radii."""
    asked = []
    for flags in (flags for part in ("runs", "probes") for flags in lines(tmp_path, part)["metadrop_1"][2:]):
        assert flags.get("norm", "linf") == "linf"
        recorded = {name: flags[f"attack_{name}"] for name in ("steps", "method", "loss") if f"attack_{name}" in flags}
        recorded |= {name: flags[name] for name in ("restarts", "threat") if name in flags}
        recorded |= {"square_share": 0.8} if recorded.get("method") == "square" else {}
        if surrogate := flags.get("surrogate"):
            assert surrogate in (str(tmp_path / "metadrop_1"), str(tmp_path / "maml_1"))
            weights = "own" if surrogate.endswith("metadrop_1") else "other"
            surrogate = {"weights_sha256": weights, "draws": flags["surrogate_draws"]}
        asked.append((recorded, surrogate, flags.get("eps", BUDGETS["linf"])))
    for recorded, surrogate, eps in asked:
        more = {"surrogate": surrogate} if surrogate else {}
        write_attack(tmp_path / "metadrop_1", eps, [[50, 50]] * len(eps), weights="own", **recorded, **more)
    rows = [(title, eps) for title, eps, *_ in tables(tmp_path)["attack, linf"]]
    wanted = [(title, "0.1") for title in TRIED]
    less = ("", ", one image at a time", " up the margin", ", up the loss of the remaining images")
    wanted += [
        (f"{steps} steps{more}", "0.06") for steps in (10, 40) for more in less if f"{steps} steps{more}" in TRIED
    ]
    wanted += [("40 steps, large balls", "0.2"), ("40 steps, large balls", "0.5")]
    assert sorted(rows) == sorted([*wanted, ("the strongest of these attacks in every episode", "0.1")])


def test_what_cannot_be_a_table_is_refused(tmp_path):
    assert_refused(cli("runfiles/robustness.py", tmp_path), "run runfiles/robustness.sh first")


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("data_sha256", "data"),
        ("episodes_sha256", "test episodes"),
        ("precision", "precisions"),
        ("iteration", "training iterations"),
        ("n_test_mc_samp", "noise samples"),
    ],
)
def test_attacks_that_differ_in_a_fact_are_refused_and_those_of_other_tasks_are_not(fact, words, tmp_path):
    write_attack(tmp_path / "maml_0", [0.1], [[1, 2]])
    for other in ("maml_5shot_0", "maml_20way_0"):
        write_attack(tmp_path / other, [0.1], [[1, 2]], facts={fact: f"other than {other}"})
    assert tables(tmp_path)
    write_attack(tmp_path / "maml_1", [0.1], [[1, 2]], facts={fact: "other"})
    assert_refused(call("runfiles/robustness.py", tmp_path), f"their {words} differ")
