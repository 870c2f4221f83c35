"""runfiles/robustness.py: the runs and attacks of the study, and the tables of what they leave."""

import collections
import json
import shlex

import pytest

import main
import settings
from conftest import ROOT, assert_refused, call, cli


@pytest.fixture(autouse=True)
def runfiles(monkeypatch):
    """The script can be imported, as `call` does."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")


def lines(results, part) -> dict[str, list[dict]]:
    """folder -> settings of the training, the test, and the attacks."""
    done = call("runfiles/robustness.py", results, f"--{part}", "--", "--gpu_id", "-1")
    assert done.returncode == 0, done.stderr
    runs = {}
    for line in done.stdout.splitlines():
        folder, *parts = (part.strip() for part in line.split("|"))
        runs[folder.removeprefix(f"{results}/")] = given = [
            vars(main.parser().parse_args(shlex.split(part))) for part in parts
        ]
        for flags, mode in zip(given, ["meta_train", "meta_test"] + ["attack"] * len(given), strict=False):
            assert flags["gpu_id"] == "-1"
            settings.refuse_unused(flags, mode)
        for flags in given[2:]:
            main.refuse_idle_flags(settings.Settings.of(flags), flags)
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
    """In their study's folder, with its flags: those that are not in this one, with the strength that was tested."""
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


# The attacks at 0.1 whose row has this title, and in what each is another than the first.
TRIED = {
    "40 steps": {},
    "10 steps": {"steps": 10},
    "200 steps": {"steps": 200},
    "40 steps up the margin": {"loss": "margin"},
    "10 steps, one image at a time": {"steps": 10, "threat": "single"},
    "40 steps, up the loss of those that remain": {"threat": "remaining"},
    "10 restarts, up the margin of those that remain": {"restarts": 10, "loss": "margin", "threat": "remaining"},
    "40 steps of the other learner's gradients": {"surrogate": {"weights_sha256": "another run", "draws": 1}},
    "40 steps, gradients over 4 other draws of the noise": {"surrogate": {"weights_sha256": "metadrop", "draws": 4}},
    "square attack, 500 images": {"method": "square", "steps": 500},
}
BUDGETS = {"linf": [0, 0.02, 0.04, 0.06, 0.08, 0.1], "l1": [0, 20, 40, 60, 80, 100]}


def write_attack(savedir, eps, accuracies, weights="w", clean=(4, 8, 0.5, 0), facts=None, **attack):
    """What --mode attack leaves. attack: in what it is another than the attack of the curves."""
    told = {"method": "pgd", "norm": "linf", "eps": eps, "steps": 40, "start": "random", "restarts": 1} | attack
    told = {"step": 2.5 / told["steps"], "threat": "joint", "loss": "cross_entropy"} | told
    means = [sum(own) / len(own) for own in accuracies]
    content = {"eps": eps, "accuracies": accuracies, "accuracy": means, "interval95": [0] * len(eps)}
    content |= {"episodes_sha256": "a", "weights_sha256": weights, "iteration": 800, "n_test_mc_samp": 10}
    content["clean"] = dict(zip(("margin", "gradient_l1", "gradient_l2", "gradient_gone"), clean, strict=True))
    content["settings"] = {"attack": told, "data_sha256": "d", "precision": "float32"}
    for name, value in (facts or {}).items():
        (content if name in content else content["settings"])[name] = value
    folder = savedir / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"attack-{len(list(folder.iterdir()))}.json").write_text(json.dumps(content))


def tables(results) -> dict[str, list[list[str]]]:
    """The first cell of a table's head -> its rows."""
    done = call("runfiles/robustness.py", results)
    assert done.returncode == 0, done.stderr
    found = collections.defaultdict(list)
    for table in done.stdout.strip().split("\n\n"):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        assert {len(row) for row in rows} <= {len(head)}
        found[head[0]] = rows
    return found


def test_the_tables_put_attacks_and_learners_side_by_side(tmp_path):
    for seed in (0, 1):
        for name, ahead in (("maml", 0), ("metadrop", 10)):
            savedir = tmp_path / f"{name}_{seed}"
            for title, attack in TRIED.items():
                if title == "40 steps":  # the curve's own
                    accuracies = [[90 - 10 * i + ahead + seed, 80] for i in range(6)]
                    write_attack(savedir, BUDGETS["linf"], accuracies, weights=name)
                elif title == "10 restarts, up the margin of those that remain":
                    write_attack(savedir, [0.1], [[70, 20 + ahead]], weights=name, **attack)
                elif "other draws" not in title or name == "metadrop":  # MAML has no noise to draw
                    eps, found = ([0.06, 0.1], [[75, 85]]) if title == "10 steps" else ([0.1], [])
                    write_attack(savedir, eps, [*found, [70, 90]], name, (9, 9, 9, 9), **attack)
    found = tables(tmp_path)
    rows = {(title, eps): cells for title, eps, *cells in found["attack, linf"]}
    assert {title for title, _ in rows} == {*TRIED, "the strongest of these, of every episode"}
    assert rows["40 steps", "0.1"] == ["60.25 ± 3.18", "65.25 ± 3.18", "+5.00 ± 0.00", ""]
    assert rows["40 steps", "0.06"] == ["70.25 ± 3.18", "75.25 ± 3.18", "+5.00 ± 0.00", ""]
    assert rows["10 restarts, up the margin of those that remain", "0.1"] == [
        "45.00 ± 0.00",
        "50.00 ± 0.00",
        "+5.00 ± 0.00",
        "",
    ]
    assert rows["10 steps", "0.06"] == ["80.00 ± 0.00", "80.00 ± 0.00", "+0.00 ± 0.00", ""]
    assert rows["40 steps, gradients over 4 other draws of the noise", "0.1"] == ["", "80.00 ± 0.00", "", ""]
    # of every episode the least, at 0.1: MAML 40 + seed and 20, Meta-dropout 50 + seed and 30
    strongest = ("the strongest of these, of every episode", "0.1")
    assert rows[strongest] == ["30.25 ± 3.18", "40.25 ± 3.18", "+10.00 ± 0.00", ""]
    assert found["linf, eps"][0][:4] == ["MAML", "2", "85.25 ± 3.18", "80.25 ± 3.18"]
    assert found[""] == [["MAML", "4", "8", "0.5", "0"], ["Meta-dropout", "4", "8", "0.5", "0"]]  # the curve's alone
    # A run that has not met all of them has none that is the strongest.
    (square,) = (path for path in (tmp_path / "maml_1/tests").iterdir() if '"square"' in path.read_text())
    square.unlink()
    rows = {(title, eps): cells for title, eps, *cells in tables(tmp_path)["attack, linf"]}
    assert rows[strongest] == ["30.00", "40.25 ± 3.18", "+10.00", ""]
    assert rows["square attack, 500 images", "0.1"] == ["80.00", "80.00 ± 0.00", "+0.00", ""]


def test_the_gradients_of_another_run_are_those_of_another_row(tmp_path):
    """By whose weights the surrogate has, and how often it adapts."""
    for number, (weights, draws) in enumerate([("maml", 1), ("maml", 4), ("another", 1), ("another", 4)]):
        surrogate = {"weights_sha256": weights, "draws": draws}
        write_attack(tmp_path / "maml_0", [0.1], [[number, number]], weights="maml", surrogate=surrogate)
    assert [row[:3] for row in tables(tmp_path)["attack, linf"]] == [
        ["40 steps of the other learner's gradients", "0.1", "2.00"],
        ["40 steps, gradients over 4 other draws of the noise", "0.1", "1.00"],
    ]


def test_norms_of_the_same_radii_have_curves_of_their_own(tmp_path):
    for norm, first in (("l1", 90), ("l1_dense", 60)):
        write_attack(tmp_path / "maml_0", BUDGETS["l1"], [[first - i, first - i] for i in range(6)], norm=norm)
    write_attack(tmp_path / "maml_0", BUDGETS["l1"], [[30, 30]] * 6, norm="l1", threat="remaining")
    found = tables(tmp_path)
    assert found["l1, those that remain, eps"] == [["MAML", "1", *["30.00"] * 6]]
    assert found["l1, eps"] == [["MAML", "1", *(f"{90 - i}.00" for i in range(6))]]
    assert found["l1_dense, eps"] == [["MAML", "1", *(f"{60 - i}.00" for i in range(6))]]
    assert found["linf, eps"] == found["l2, eps"] == found[""] == []


OTHERWISE = [
    {"method": "square"}, {"norm": "l2"}, {"steps": 200}, {"steps": 200, "step": 2.5 / 40}, {"step": 0.1},
    {"start": "clean"}, {"restarts": 10}, {"threat": "single"}, {"threat": "remaining"}, {"loss": "margin"},
    {"surrogate": {"weights_sha256": "another run", "draws": 1}},
]  # fmt: skip


@pytest.mark.parametrize("attack", OTHERWISE, ids=lambda attack: "-".join(attack))
def test_an_attack_that_differs_in_one_thing_is_not_that_of_the_curve(attack, tmp_path):
    """Alone it leaves the curve's rows empty; beside the curve's it is not another seed, nor in its place."""
    savedir = tmp_path / "maml_0"
    write_attack(savedir, BUDGETS["linf"], [[50, 50]] * 6, **attack)
    found = tables(tmp_path)
    assert found["linf, eps"] == found[""] == []
    assert "40 steps" not in {row[0] for row in found["attack, linf"]}
    write_attack(savedir, BUDGETS["linf"], [[80, 80]] * 6)
    write_attack(savedir, BUDGETS["linf"], [[50, 50]] * 6, **attack)
    found = tables(tmp_path)
    assert found["linf, eps"] == [["MAML", "1", *["80.00"] * 6]]
    assert [row[1:3] for row in found["attack, linf"] if row[0] == "40 steps"] == [["0.06", "80.00"], ["0.1", "80.00"]]


def test_two_attacks_on_one_run_are_one_seed(tmp_path):
    """A run that was trained again is attacked again."""
    for weights in ("old", "new"):
        write_attack(tmp_path / "maml_0", BUDGETS["linf"], [[80, 80]] * 6, weights=weights)
    write_attack(tmp_path / "maml_20way_0", BUDGETS["l1"], [[60, 60]] * 6, norm="l1")
    assert tables(tmp_path)["l1, eps"] == [["MAML, 20-way", "1", *["60.00"] * 6]]
    write_attack(tmp_path / "maml_0", [0.1], [[70, 70]])  # the curve's, and not at all of its radii
    assert tables(tmp_path)["linf, eps"] == [["MAML", "1", *["80.00"] * 6]]


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
