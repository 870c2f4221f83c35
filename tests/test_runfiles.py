"""The scripts of Table 1 say what the published README says, and the table shows what they leave."""

import json
import os
import subprocess

import pytest

import main
from conftest import ROOT, cli

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


def test_the_table_shows_what_there_is(tmp_path):
    folder = tmp_path / "metadrop" / "omni_5shot"
    folder.mkdir(parents=True)
    test = {"accuracy": 98.7654, "interval95": 0.0612, "accuracies": [98.0], "episodes_sha256": ""}
    (folder / "meta_test.json").write_text(json.dumps(test))
    done = cli("runfiles/table1.py", tmp_path)
    assert done.returncode == 0 and "| Meta-dropout, this project |  | 98.77 ± 0.06 |  |  |" in done.stdout
    assert "| MAML, this project |  |  |  |  |" in done.stdout
