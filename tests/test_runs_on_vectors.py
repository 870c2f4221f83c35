"""Runs on a dataset of vectors, from get_data.py to comparison, and the modes that are for images alone."""

import json

import numpy as np
import pytest
from PIL import Image

import learners
from conftest import SMALL, assert_refused, call, succeed
from declared import own_settings

D = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a dataset of vectors of twelve classes, which are easy to tell apart."""
    folder, rng = tmp_path_factory.mktemp("vectors"), np.random.default_rng(0)
    means = 3 * rng.standard_normal((12, D))
    features = np.concatenate([mean + rng.standard_normal((6, D)) for mean in means])
    np.savez(folder / "f.npz", features=features, labels=np.repeat(np.arange(12), 6))
    succeed("get_data.py", "--dataset", "mine", "--features", folder / "f.npz", "--data_dir", folder)
    return folder


def train(made, savedir, model, *flags):
    steps = [] if "n_steps" in own_settings(model) else ["--n_steps"]
    small = [word for i, word in enumerate(SMALL) if word not in steps and SMALL[i - 1] not in steps]
    few = ["--dataset", "mine", "--data_dir", made, "--n_train_iters", 2, "--val_every", 0, "--save_freq", 2]
    return call("main.py", "--model", model, "--savedir", savedir, *small, *few, *flags)


def test_learners_are_trained_tested_compared_and_measured(made, tmp_path):
    for model in ("maml", "protonet", "nearest"):
        done = train(made, tmp_path / model, model)
        assert done.returncode == 0, done.stderr
        succeed("main.py", "--mode", "meta_test", "--savedir", tmp_path / model, "--n_test_iters", 10)
    config = json.loads((tmp_path / "maml/config.json").read_text())
    assert config["range"] is None and "prepare" not in config and "brightness" not in config
    assert json.loads((tmp_path / "nearest/meta_test.json").read_text())["accuracy"] > 80  # chance is 33
    done = succeed("main.py", "--mode", "compare", "--savedir", tmp_path / "nearest", tmp_path / "protonet")
    assert "10 test episodes" in done.stdout
    succeed("main.py", "--mode", "collapse", "--savedir", tmp_path / "protonet", "--n_test_iters", 2)
    assert (tmp_path / "protonet/collapse.json").exists()


def test_what_is_for_images_is_refused(made, tmp_path):
    assert train(made, tmp_path / "run", "protonet").returncode == 0
    for mode in ("export", "attack"):
        done = call("main.py", "--mode", mode, "--savedir", tmp_path / "run")
        assert_refused(done, f"--mode {mode} is for images", "holds vectors")
    assert_refused(train(made, tmp_path / "other", "maml", "--adversarial", "linf:0.1"), "--adversarial is for images")
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / "support" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20)).save(tmp_path / "support" / name)
    words = "how the inputs of mine were made from pictures", "--backbone"
    done = call("main.py", "--mode", "classify", "--savedir", tmp_path / "run", "--support", tmp_path / "support",
                "--query", tmp_path / "support/a")  # fmt: skip
    assert_refused(done, *words)
    assert_refused(call("main.py", "--mode", "draw", "--savedir", tmp_path / "run"), *words)


def test_every_learner_is_made_for_vectors():
    """Whatever its perturbation: the shapes of its parameters follow from the vectors' length."""
    for name in learners.LEARNERS:
        learner = learners.make(name, image_shape=(1, 1, D), channels=4, way=3, train_classes=7)
        shapes = {key: parameter.shape for key, parameter in learner.parameters().items()}
        assert all(shape[:2] == (1, 1) for key, shape in shapes.items() if len(shape) == 4), name
