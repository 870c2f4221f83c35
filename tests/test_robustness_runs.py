"""runfiles/robustness.py: the runs and attacks of the study, and the tables of what they leave."""

import json
import shlex

import pytest

import main
import settings
from conftest import assert_refused, cli


def lines(results, part) -> dict[str, list[dict]]:
    """folder -> settings of the training, the test, and the attacks."""
    done = cli("runfiles/robustness.py", results, f"--{part}", "--", "--gpu_id", "-1")
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
    assert len(runs) == 10 * 3 + 2
    for name in ("maml", "metadrop", "maml_exact", "metadrop_exact", "linf_0.02", "metadrop_5shot"):
        for seed in range(3):
            train, test, *attacks = runs[f"{name}_{seed}"]
            assert train["seed"] == seed and (train["n_train_iters"], train["metabatch"]) in ((800, 4), (400, 4))
            assert train["shot"] == (5 if "5shot" in name else 1) and test["n_test_iters"] == 400
            assert train["model"] == ("metadrop" if "metadrop" in name else "maml")
            assert train.get("meta_gradient") == ("exact" if "exact" in name else None)
            assert train.get("adversarial") == ("linf:0.02" if name == "linf_0.02" else None)
            more = ["l2", "l1", "l1_dense"] if seed == 0 and "exact" not in name and "shot" not in name else []
            assert [attack["norm"] for attack in attacks] == ["linf", *more]
            assert all((attack["n_test_iters"], attack["query"]) == (100, 5) for attack in attacks)


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
        ("pgd", 10, 1), ("pgd", 200, 1), ("pgd", 40, 10), ("pgd", 40, 1), ("square", 1000, 1),
    }  # fmt: skip
    assert len(probes["maml_0"]) == len(probes["metadrop_0"]) - 1  # MAML has no noise to draw


def write_attack(savedir, eps, accuracies, weights="w", surrogate=None, **attack):
    (savedir / "tests").mkdir(parents=True, exist_ok=True)
    told = {"method": "pgd", "norm": "linf", "eps": eps, "steps": 40, "restarts": 1, "loss": "cross_entropy"} | attack
    told |= {"surrogate": surrogate} if surrogate else {}
    means = [sum(own) / len(own) for own in accuracies]
    content = {"eps": eps, "accuracies": accuracies, "accuracy": means, "interval95": [0] * len(eps)}
    content |= {"episodes_sha256": "a", "weights_sha256": weights, "settings": {"attack": told}}
    content["clean"] = {"margin": 4, "gradient_l1": 8, "gradient_l2": 0.5, "gradient_gone": 0}
    number = len(list((savedir / "tests").glob("*.json")))
    (savedir / "tests" / f"attack-{number}.json").write_text(json.dumps(content))


BUDGETS = [0, 0.02, 0.04, 0.06, 0.08, 0.1]


def test_the_tables_put_attacks_and_learners_side_by_side(tmp_path):
    for seed in (0, 1):
        for name, ahead in (("maml", 0), ("metadrop", 10)):
            savedir = tmp_path / f"{name}_{seed}"
            write_attack(savedir, BUDGETS, [[90 - 10 * i + ahead + seed, 80] for i in range(6)], weights=name)
            write_attack(savedir, [0.1], [[70, 20 + ahead]], weights=name, restarts=10)
            write_attack(savedir, [0.06, 0.1], [[75, 75], [60, 60]], weights=name,
                         surrogate={"weights_sha256": "maml", "draws": 10 if name == "maml" else 1})  # fmt: skip
    done = cli("runfiles/robustness.py", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split(" | ")[0]: line for line in done.stdout.splitlines() if line.startswith("| ")}
    assert "| 40 steps | 0.1 | 60.25 ± 3.18 | 65.25 ± 3.18 | +5.00 ± 0.00 |  |" in done.stdout
    assert "| 40 steps | 0.06 | 70.25 ± 3.18 | 75.25 ± 3.18 | +5.00 ± 0.00 |  |" in done.stdout
    assert rows["| 10 restarts of 40 steps"].endswith("| 0.1 | 45.00 ± 0.00 | 50.00 ± 0.00 | +5.00 ± 0.00 |  |")
    other = rows["| 40 steps of the other learner's gradients"]
    assert other.endswith("| 0.1 |  | 60.00 ± 0.00 |  |  |")  # MAML's has 10 draws of its own: that of another line
    assert rows["| 40 steps, gradients over 10 other draws of the noise"].startswith("| 40 steps, gradients")
    # of every episode the least, at 0.1: MAML 40 + seed and 20, Meta-dropout 50 + seed and 30
    assert rows["| the strongest of these, of every episode"].endswith(
        "| 0.1 | 30.25 ± 3.18 | 40.25 ± 3.18 | +10.00 ± 0.00 |  |"
    )
    assert "| MAML | 2 | 85.25 ± 3.18 | 80.25 ± 3.18 |" in done.stdout
    assert "| MAML | 4 | 8 | 0.5 | 0 |" in done.stdout


@pytest.mark.parametrize("fault", ["none", "mixed"])
def test_what_cannot_be_a_table_is_refused(fault, tmp_path):
    if fault == "none":
        assert_refused(cli("runfiles/robustness.py", tmp_path), "run runfiles/robustness.sh first")
        return
    write_attack(tmp_path / "maml_0", [0.1], [[1, 2]])
    write_attack(tmp_path / "maml_1", [0.1], [[1, 2]])
    path = tmp_path / "maml_1/tests/attack-0.json"
    path.write_text(path.read_text().replace('"episodes_sha256": "a"', '"episodes_sha256": "b"'))
    assert_refused(cli("runfiles/robustness.py", tmp_path), "test episodes differ")
