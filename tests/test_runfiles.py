"""The scripts of Table 1 say what the published README says, and the table shows what they leave."""

import json
import os
import shutil
import subprocess

import pytest

import main
from conftest import ROOT, assert_refused, cli

SETTINGS = ("dataset", "way", "shot", "metabatch", "inner_lr", "n_train_iters")
PUBLISHED = {
    "omni_1shot": ("omniglot", 20, 1, 8, 0.1, 40000),
    "omni_5shot": ("omniglot", 20, 5, 6, 0.4, 40000),
    "mimg_1shot": ("mimgnet", 5, 1, 4, 0.01, 60000),
    "mimg_5shot": ("mimgnet", 5, 5, 4, 0.01, 60000),
}
META_LR = {"omni_1shot": 3e-4, "omni_5shot": 1e-3, "mimg_1shot": 1e-4, "mimg_5shot": 1e-4}


@pytest.mark.parametrize("cell", PUBLISHED)
@pytest.mark.parametrize("model", ["maml", "metadrop"])
def test_a_cell_has_the_published_settings(model, cell):
    script = [str(ROOT / "runfiles" / f"{model}_{cell}.sh"), "--gpu_id", "1"]
    done = subprocess.run(script, env=os.environ | {"PYTHON": "echo"}, capture_output=True, text=True, check=True)
    train, test = (
        main.DEFAULTS | vars(main.parser().parse_args(line.split()[1:])) for line in done.stdout.splitlines()
    )
    meta_lr = 1e-3 if model == "maml" and "omni" in cell else META_LR[cell]
    wanted = dict(zip(SETTINGS, PUBLISHED[cell], strict=True)) | {"meta_lr": meta_lr, "mode": "meta_train"}
    wanted |= {"model": model, "query": 15, "n_steps": 5}
    wanted |= {"meta_gradient": "published", "train_split": "trainval" if "omni" in cell else "train", "gpu_id": "1"}
    assert {k: train[k] for k in wanted} == wanted
    assert test["mode"] == "meta_test" and test["savedir"] == train["savedir"] == [f"results/{model}/{cell}"]
    assert (test["metabatch"], test["n_test_iters"]) == (1, 1000)
    assert test["n_test_mc_samp"] == (30 if model == "metadrop" else 1)


def calls(script: str, folder, **environment) -> list[dict]:
    """The settings of main.py's calls that a copy of this script, in an empty folder, makes."""
    shutil.copytree(ROOT / "runfiles", folder / "runfiles")
    done = subprocess.run(
        ["sh", str(folder / "runfiles" / script), "--gpu_id", "-1"],
        env=os.environ | {"PYTHON": "echo"} | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("main.py")]
    return [main.DEFAULTS | vars(main.parser().parse_args(line)) for line in lines]


def test_masks_has_the_published_protocol(tmp_path):
    made = calls("masks.sh", tmp_path, SIZE="105", SEEDS="1 2")
    train, test = ([s for s in made if s["mode"] == mode] for mode in ("meta_train", "meta_test"))
    assert len(train) == len(test) == 2 * 3 * 2 and len({s["savedir"][0] for s in train}) == 12
    for s in train:
        assert s["metabatch"] * (s["n_train_iters"] + 1) == 2000 and s["seed"] in (1, 2)
        wanted = {"way": 5, "shot": 1, "query": 15, "meta_lr": 1e-3, "clip_norm": 1, "split": "background"}
        wanted |= {
            "data_dir": "data/105",
            "gpu_id": "-1",
            "perturbation": "mask" if "mask_" in s["savedir"][0] else None,
        }
        assert {k: s[k] for k in wanted} == wanted
    assert {s["model"]: s["metabatch"] for s in train} == {"metanet_embedding": 8, "metanet_original": 16, "maml": 16}
    assert all(s["n_test_iters"] == 1000 for s in test)


def test_the_masks_table_pairs_by_seed_and_task(tmp_path):
    for kind, seeds in (("none", (0, 1)), ("mask", (0, 1)), ("per_sample", (1,))):
        for seed in seeds:
            folder = tmp_path / "maml" / f"{kind}_{seed}"
            folder.mkdir(parents=True)
            accuracies = [60 + seed + 40 * (i % 2) + (kind == "mask") * (1 + seed) for i in range(200)]
            test = {"accuracy": 0, "interval95": 0, "accuracies": accuracies, "losses": [0.5 + seed] * 200}
            (folder / "meta_test.json").write_text(json.dumps(test | {"episodes_sha256": "a"}))
    done = cli("runfiles/masks.py", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| MAML")]
    assert lines[0].startswith("| MAML | none | 2 | 80.50 ± 6.35 | 20.00 | 100.0 / 50.0 / 50.0 | 1.0000 |  |  |")
    assert lines[1].endswith("| +1.50 ± 6.35 | +1.00 ± 0.00, +2.00 ± 0.00 |")
    assert "| 1 | 81.00 |" in lines[2] and "| +0.00 | +0.00 ± 0.00 |" in lines[2]
    assert_refused(cli("runfiles/masks.py", tmp_path / "none"), "run runfiles/masks.sh first")


def test_collapse_has_the_studys_settings(tmp_path):
    made = calls("collapse.sh", tmp_path, DATASET="mimgnet", SHOT="1", LEARNERS="maml metanet_original")
    assert [s["mode"] for s in made] == ["meta_train", "meta_test", "collapse"] * 2 + ["compare"]
    wanted = {"dataset": "mimgnet", "way": 5, "shot": 1, "query": 15, "metabatch": 4, "inner_lr": 0.01, "n_steps": 5}
    assert {k: made[0][k] for k in wanted} == wanted and made[0]["collapse_every"] == 100
    assert made[3]["model"] == "metanet_original" and made[2]["n_test_iters"] == 1000
    alone = calls("collapse.sh", tmp_path / "alone", LEARNERS="maml")
    assert [s["mode"] for s in alone] == ["meta_train", "meta_test", "collapse"]


def test_the_table_shows_what_there_is(tmp_path):
    folder = tmp_path / "metadrop" / "omni_5shot"
    folder.mkdir(parents=True)
    test = {"accuracy": 98.7654, "interval95": 0.0612, "accuracies": [98.0], "episodes_sha256": ""}
    (folder / "meta_test.json").write_text(json.dumps(test))
    done = cli("runfiles/table1.py", tmp_path)
    assert done.returncode == 0 and "| Meta-dropout, this project |  | 98.77 ± 0.06 |  |  |" in done.stdout
    assert "| MAML, this project |  |  |  |  |" in done.stdout
