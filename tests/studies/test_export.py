"""The export, against numbers computed apart from it: the head, the losses, the adaptation, the noise maps."""

import json
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import data
import layers
import learners
import model
from conftest import SMALL, assert_refused, call, succeed
from errors import UserError
from model import Learner
from perturbations import draws
from perturbations.base import Perturbation
from ranges import Range
from studies import export, export_format
from training import steps
from training.checkpoints import load_parameters

SEED, STEPS, COPIES, QUERY = 3, 2, 4, 3


def export_of(savedir, name: str, shot: int, image_shape, inner_lr=0.1, perturbation=None, **changed):
    """An untrained three-way learner's export of two two-way tasks -> the arrays, the engine, the split. MAML's inputs
    are in [-1, 1]."""
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (4, shot + QUERY, *image_shape), dtype=np.uint8), 4, 1 / 255)
    if name == "maml":
        floats = (split.pixels / 127.5 - 1).astype(np.float32)
        split = data.Split(floats, 4, 1.0, declared=Range(-1, 1))
    learner = learners.make(
        name, perturbation, image_shape=image_shape, channels=6, way=3, n_steps=STEPS, inner_lr=inner_lr
    )
    e = steps.Engine(learner, shot=shot, query=QUERY, metabatch=1, seed=SEED)
    tf.train.Checkpoint(params=e.params).save(str(savedir / "checkpoints/last/ckpt"))
    sizes = {"tasks": 2, "samples": COPIES, "images": 3, "channels": 4} | changed
    settings = export.ExportSettings(way=2, **{f"export_{size}": value for size, value in sizes.items()})
    assert export.export(e, split, savedir, settings, samples=1, described={"model": name}) == 0
    return export_format.read(savedir), e, split


CASES = [("metadrop", 1, (84, 84, 3), 0.1), ("metadrop", 2, (28, 28, 1), 1e-4), ("maml", 10, (28, 28, 1), 0.1)]


@pytest.mark.parametrize(
    ("name", "shot", "image_shape", "inner_lr"), [pytest.param(*CASES[0], marks=pytest.mark.slow), *CASES[1:]]
)
def test_the_arrays_are_what_the_learner_does(name, shot, image_shape, inner_lr, tmp_path, capsys):
    found, e, split = export_of(tmp_path, name, shot, image_shape, inner_lr)
    copies = COPIES if name == "metadrop" else 0
    height, width, _ = image_shape
    size = (height // 16) * (width // 16) * 6
    assert found["support_features"].shape == (2, STEPS + 1, 2 * shot, size)
    assert found["perturbed_features"].shape == (2, STEPS + 1, copies, 2 * shot, size)
    for block, layer in enumerate(export_format.layers(found)):
        shape = (min(3, 2 * shot), height >> block, width >> block, 4)
        assert found[f"clean_{layer}"].shape == (2, *shape)
        assert found[f"perturbed_{layer}"].shape == found[f"noise_{layer}"].shape == (2, copies, *shape)
    assert found["settings"]["iteration"] == 1 and found["settings"]["stochastic"] == (name == "metadrop")
    assert "2 tasks" in capsys.readouterr().out

    # predictions, losses and accuracies from the exported features and heads
    for role, labels in (("support", found["support_labels"]), ("query", found["query_labels"])):
        logits = found[f"{role}_features"] @ found["head_w"] + found["head_b"][:, :, None]
        np.testing.assert_array_equal(logits.argmax(-1), found[f"{role}_predictions"])
        np.testing.assert_allclose((logits.argmax(-1) == labels).mean(-1), found[f"{role}_accuracy"], rtol=1e-6)
        own = np.take_along_axis(logits, labels[None, None, :, None], -1)[..., 0]
        loss = (np.log(np.exp(logits).sum(-1)) - own).mean(-1)
        np.testing.assert_allclose(loss, found[f"{role}_loss"], rtol=1e-4)
    np.testing.assert_array_equal(found["head_w"][:, 0], [e.params["theta/dense_w"][:, :2]] * 2)

    # the images are the test episodes', turned as data.py says, and the last snapshot is what adapt() gives
    classes, images = data.sample(split, "test", SEED, 1, 1, 2, shot + QUERY)
    np.testing.assert_array_equal(classes[0], found["classes"][1])
    one = np.rot90(split.pixels[classes[0, 0] // 4][images[0, 0, 0]], classes[0, 0] % 4)
    one = one if name == "metadrop" else np.rint(127.5 * (one + 1))
    np.testing.assert_array_equal(found["support_images"][1, 0], one)
    shown = (found[f"{role}_images"][1:2].astype(np.float32) / 255 for role in ("support", "query"))
    x_s, x_q = (split.range.inputs(x) for x in shown)

    @tf.function(autograph=False)
    def again():
        params = {k: v[..., :2] if "theta/dense" in k else v.value() for k, v in e.params.items()}
        seed = draws.fold(tf.constant([SEED, data.STREAMS["test"]]), tf.constant(1))
        noise = draws.task_noise(seed[None])
        theta, _ = e.learner.adapt(params, tf.constant(x_s), model.labels(2, shot), noise)
        logits, _ = e.learner.classify(params, theta, tf.constant(x_q))
        return logits, layers.cross_entropy(logits, model.labels(2, QUERY)), theta["conv1_w"], theta["conv1_b"]

    logits, loss, w, b = again()
    np.testing.assert_allclose(loss[0], found["query_loss"][1, -1], rtol=1e-4)
    mine = found["query_features"][1, -1] @ found["head_w"][1, -1] + found["head_b"][1, -1]
    np.testing.assert_allclose(mine, logits[0], rtol=1e-3, atol=1e-4)

    # the maps are of the first image of each class, then the second; a noise-free one is
    # relu(batch_norm(convolution)), where learned noise is at its centre
    np.testing.assert_array_equal(found["map_images"], [0, shot, 1][: 2 * shot])
    mu = layers.conv(tf.constant(x_s), w, b).numpy()[0][..., found["map_channels"]]  # [S,H,W,J]
    h = mu
    if copies:
        a = layers.conv(tf.constant(x_s), *(e.params[f"phi/conv1_{what}"] for what in "wb")).numpy()
        h = mu * np.log1p(np.exp(a[0][..., found["map_channels"]]))
    clean = np.maximum((h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + layers.EPSILON), 0)
    np.testing.assert_allclose(found["clean_conv1"][1], clean[found["map_images"]], atol=0.02)

    # a copy has the same noise in every snapshot: where the net hardly moves it is itself, and apart from the others
    if copies and inner_lr == 1e-4:
        first, last = found["perturbed_features"][0, 0], found["perturbed_features"][0, -1]  # [M,S,D]
        same = np.linalg.norm(first - last, axis=-1).max()
        other = np.linalg.norm(first[0] - first[1], axis=-1).min()
        assert 0 < same < other
        assert not np.isclose(found["perturbed_features"], found["support_features"][:, :, None]).all()

    # a perturbed map is relu(batch_norm(convolution * noise)) of its own sample
    if copies:
        noise = found["noise_conv1"][1].astype(np.float32)  # [M,I,H,W,J]
        assert noise.min() > 0 and 0.3 < noise.std() < 1.2
        assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
        if 2 * shot <= 3:  # all images are kept, so the sample's statistics can be computed
            product = mu[None] * noise
            mean = product.mean((1, 2, 3), keepdims=True)
            variance = product.var((1, 2, 3), keepdims=True)
            wanted = np.maximum((product - mean) / np.sqrt(variance + layers.EPSILON), 0)
            np.testing.assert_allclose(found["perturbed_conv1"][1], wanted, atol=0.02)


@pytest.mark.parametrize("perturbation", ["mixup", "manifold_mixup"])
def test_a_mixture_of_two_images_is_no_copy_of_one(perturbation, tmp_path):
    found, _, _ = export_of(tmp_path, "metasgd", 2, (16, 16, 1), perturbation=perturbation)
    assert not found["perturbed_features"].size and not found["settings"]["stochastic"]


def test_a_learner_without_features_is_refused(tmp_path):
    class Opaque(Learner):
        """With what a learner has to have alone."""

    bare = mock.Mock(learner=Opaque(image_shape=(16, 16, 1), channels=2, way=2, perturbation=Perturbation()))
    with pytest.raises(UserError, match="a linear head over features, and the learner Opaque has none"):
        export.export(bare, None, tmp_path, export.ExportSettings(), samples=1, described={"model": "opaque"})


def test_the_command_line_exports_the_episodes_of_meta_test(data_dir, tmp_path):
    d = tmp_path / "run"
    succeed("main.py", "--savedir", d, "--data_dir", data_dir, *SMALL, "--n_train_iters", 0, "--val_every", 0)
    flags = ("--mode", "export", "--savedir", d, "--way", 3, "--export_tasks", 3, "--n_test_mc_samp", 2)
    assert "export.npz: 3 tasks" in succeed("main.py", *flags).stdout
    found = export_format.read(d)
    # meta_test's own compiled step, on the same three episodes
    learner = learners.make("metadrop", image_shape=(28, 28, 1), channels=4, way=3, n_steps=1, inner_lr=0.1)
    e = steps.Engine(learner, shot=1, query=2, metabatch=3, seed=0)
    load_parameters(e, d)
    losses, accuracies = e.test_step(data.load(data_dir, "glyphs").splits["test"], "test", 2)(0, 3).values()
    np.testing.assert_allclose(found["query_accuracy"][:, -1], accuracies, rtol=1e-5)
    np.testing.assert_allclose(found["query_loss"][:, -1], losses, rtol=1e-4)
    assert found["perturbed_features"].shape[2] == 10 and found["settings"]["dataset"] == "glyphs"
    assert not list(d.glob("*.part")) and "export_tasks" not in json.loads((d / "config.json").read_text())
    for wrong, words in (
        (("--way", 4), "--way 4 is more than the 3 classes"),
        (("--maml",), "cannot be changed in an export"),
        (("--metabatch", 2), "--metabatch is not a flag of --mode export"),
        (("--export_samples", 0), "at least 1"),
        (("--query", 20), "need 21 images per class"),
    ):
        assert_refused(call("main.py", "--mode", "export", "--savedir", d, *wrong), words)
