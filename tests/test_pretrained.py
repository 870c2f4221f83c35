"""The weights in pretrained/ are what its table says."""

import re

import pytest

from conftest import ROOT, call
from training import weights

FILES = sorted((ROOT / "pretrained").glob("*.npz"))
TABLE = (ROOT / "pretrained" / "README.md").read_text()
EPISODES = 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_table_says_what_the_file_does(file):
    about, row = weights.read(file).about, re.search(rf"^\| `{file.name}` \|.*$", TABLE, re.MULTILINE)[0]
    settings, test = about["settings"], about["test"]
    parts = ["{dataset}_{way}way_{shot}shot_{model}".format(**settings)]
    parts += ["exact"] * (settings.get("meta_gradient") == "exact")
    parts += [settings["adversarial"].replace(":", "_")] if settings.get("adversarial") else []
    parts += [str(settings["seed"])] * (settings["seed"] > 0)
    assert file.stem == "_".join(parts)
    assert f"| {test['accuracy']:.2f} ± {test['interval95']:.2f} |" in row
    assert f"| {about['iteration']} | {test['episodes']} |" in row and test["episodes"] >= 400
    assert file.stat().st_size < 3e6


def test_the_table_has_no_other_files():
    assert re.findall(r"^\| `(.*?)`", TABLE, re.MULTILINE) == [file.name for file in FILES]


@pytest.mark.parametrize("model", ["maml", "metadrop"])
def test_the_glyphs_pair_does_what_the_table_says(model, data_dir, tmp_path):
    """Its first 20 episodes, of 50 images each: within four standard errors of the accuracy over 1000."""
    file = ROOT / "pretrained" / f"glyphs_10way_1shot_{model}.npz"
    done = call("main.py", "--mode", "meta_test", "--savedir", tmp_path, "--weights", file, "--data_dir", data_dir,
                "--gpu_id", "-1", "--n_test_iters", EPISODES, "--n_test_mc_samp", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"accuracy : (\S+) \+-", (tmp_path / "meta_test.log").read_text())[1])
    test = weights.read(file).about["test"]
    standard_error = test["interval95"] / 1.96 * (test["episodes"] / EPISODES) ** 0.5
    assert abs(accuracy - test["accuracy"]) < 4 * standard_error
