"""The weights in pretrained/ are what their table and their model cards say."""

import re
import shlex

import pytest

import main
from conftest import ROOT, succeed
from training import config, weights

FILES = sorted((ROOT / "pretrained").glob("*.npz"))
TABLE = (ROOT / "pretrained" / "README.md").read_text()
EPISODES = 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_table_and_the_card_say_what_the_file_does(file):
    about, row = (
        weights.read(file).about,
        re.search(rf"^\| \[`{file.name}`\]\({file.stem}.md\) \|.*$", TABLE, re.MULTILINE)[0],
    )
    settings, test = about["settings"], about["test"]
    assert file.stem == "{dataset}_{way}way_{shot}shot_{model}".format(**settings)
    accuracy = f"{test['accuracy']:.2f} ± {test['interval95']:.2f}"
    assert row.endswith(f"| {about['iteration']} | {test['episodes']} | {accuracy} |") and test["episodes"] >= 400
    card = file.with_suffix(".md").read_text()
    samples = f" with {test['n_test_mc_samp']} noise samples" * (settings["model"] == "metadrop")
    assert f"| {accuracy} % on {test['episodes']} test episodes{samples} (95 % interval over episodes) |" in card
    for words in (f"{about['iteration']:,}", settings["data_sha256"][:12], about["weights_sha256"][:12], file.name):
        assert words in card
    command = re.search(r"`python main.py (--mode meta_train .*?)`", card)[1]
    trained = config.Config.of_flags(main.read_command(shlex.split(command))).values()
    free = ("data_dir", "gpu_id", "jit", "save_freq", "val_every", "n_val_tasks", "n_test_mc_samp")
    for name in trained.keys() & settings.keys() - {*free}:
        assert trained[name] == settings[name], name


def test_the_table_has_no_other_files():
    assert re.findall(r"^\| \[`(.*?)`", TABLE, re.MULTILINE) == [file.name for file in FILES]
    assert all(file.stat().st_size < 3e6 for file in FILES)


@pytest.mark.parametrize("model", ["maml", "metadrop"])
def test_the_glyphs_pair_does_what_the_table_says(model, data_dir, tmp_path):
    """Its first 20 episodes, of 50 images each: within four standard errors of the accuracy over 1000."""
    file = ROOT / "pretrained" / f"glyphs_10way_1shot_{model}.npz"
    succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path, "--weights", file, "--data_dir", data_dir,
            "--gpu_id", "-1", "--n_test_iters", EPISODES, "--n_test_mc_samp", 2)  # fmt: skip
    accuracy = float(re.search(r"accuracy : (\S+) \+-", (tmp_path / "meta_test.log").read_text())[1])
    test = weights.read(file).about["test"]
    standard_error = test["interval95"] / 1.96 * (test["episodes"] / EPISODES) ** 0.5
    assert abs(accuracy - test["accuracy"]) < 4 * standard_error
