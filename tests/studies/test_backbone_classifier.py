"""The classifier of the features of a network of keras.applications, with random weights that the test makes."""

import csv
import pickle

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone

from conftest import ROOT, assert_refused, call, succeed
from sources.backbone import Backbone
from studies.classifier import Classifier

NAME = "MobileNetV3Small"
MAML = ROOT / "pretrained/glyphs_10way_1shot_maml.npz"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV3Small(
        weights=None, include_top=False, pooling="avg", input_shape=(224, 224, 3)
    ).save_weights(file)
    return file


@pytest.fixture(scope="module")
def pictures():
    """Four pictures of each of three textures: stripes along each axis, and a chessboard, in any place."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:64, :64]
    made = []
    for wave in (
        lambda a, b: np.sin((y + a) / 3),
        lambda a, b: np.sin((x + b) / 3),
        lambda a, b: np.sign(np.sin((y + a) / 3) * np.sin((x + b) / 3)),
    ):
        for _ in range(4):
            grey = 127 + 100 * wave(*rng.uniform(0, 20, 2)) + rng.normal(0, 4, (64, 64))
            made.append(Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB"))
    return made


LABELS = np.repeat(["rows", "columns", "squares"], 4)
SUPPORT = [0, 1, 2, 4, 5, 8]  # classes have different numbers of pictures
QUERY = [3, 6, 7, 9, 10, 11]


def pick(things, places):
    return [things[i] for i in places]


@pytest.mark.parametrize("head", [None, "ridge", "logistic"])
def test_it_needs_no_training_and_classifies_the_backbones_vectors(weights, pictures, head):
    one = Classifier(backbone=NAME, backbone_weights=str(weights), head=head)
    one = pickle.loads(pickle.dumps(clone(one).fit(pick(pictures, SUPPORT), pick(LABELS, SUPPORT))))
    likely = one.predict_proba(pick(pictures, QUERY))
    vectors = Backbone(NAME, weights)(pictures)
    h = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array(pick(LABELS, SUPPORT))
    if head is None:
        means = np.stack([h[SUPPORT][labels == label].mean(0) for label in one.classes_])
        logits = -10 * np.square(h[QUERY][:, None] - means).sum(-1)
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(likely, expected, rtol=1e-3, atol=1e-5)
        assert (one.nearest_mean().predict_proba(pick(pictures, QUERY)) == likely).all()
    else:
        plain = clone(one).set_params(head=None).fit(pick(pictures, SUPPORT), labels)
        assert np.abs(plain.predict_proba(pick(pictures, QUERY)) - likely).max() > 1e-3
    np.testing.assert_allclose(one.predict_proba(pick(pictures, QUERY[:1])), likely[:1], rtol=1e-4, atol=1e-6)
    assert one.inputs_name == "features" and np.isnan(one.leave_one_out()[-1])


def test_wrong_settings_are_one_sentence(weights, pictures):
    def refused(match, **settings):
        with pytest.raises(ValueError, match=match):
            Classifier.load(**settings)

    refused("neither of run and backbone is given, wanted one of them")
    refused("both of run and backbone is given", run=MAML, backbone=NAME)
    refused("keras.applications has no network MobileNetV3: choose .*MobileNetV3Small", backbone="MobileNetV3")
    refused("head is 'knn', wanted one of nearest, logistic", backbone=NAME, head="knn")
    refused("--head is for baselines, and .* holds a maml: leave it out", run=MAML, head="ridge")
    refused(
        "--backbone_weights .* is for runs on vectors of a network: leave it out",
        run=MAML,
        backbone_weights=weights,
    )
    refused("does not fit", backbone="MobileNetV2", backbone_weights=weights)


def test_folders_are_classified_without_a_run(weights, pictures, tmp_path):
    for i, (picture, label) in enumerate(zip(pictures, LABELS, strict=True)):
        folder = tmp_path / ("support" if i in SUPPORT else "query") / label
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{i}.png")
    words = (
        "--support",
        tmp_path / "support",
        "--query",
        tmp_path / "query",
        "--out",
        tmp_path / "p.csv",
        "--baseline",
    )
    done = succeed("main.py", "--mode", "classify", "--backbone", NAME, "--backbone_weights", weights, *words)
    assert "the nearest class mean in features: leave-one-out accuracy" in done.stdout
    assert "; right 0 pictures only by the learner, 0 only by the nearest mean" in done.stdout  # they are the same
    one = Classifier(backbone=NAME, backbone_weights=weights).fit(pick(pictures, SUPPORT), pick(LABELS, SUPPORT))
    expected = dict(zip(QUERY, one.predict(pick(pictures, QUERY)), strict=True))
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert {int(row["file"].split("/")[-1][:-4]): row["prediction"] for row in rows} == expected
    assert_refused(call("main.py", "--mode", "classify", *words), "or give a file of --weights or a --backbone")
