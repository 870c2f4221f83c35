"""Vectors of pictures by a network of keras.applications. No weights of Keras' own download are at hand: these tests
make weights, and load them through the same code."""

import hashlib
import inspect
import json
import shutil
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

import data
from conftest import assert_refused, call, succeed
from errors import UserError
from originals import command, leftovers
from sources import backbone as study
from sources.backbone import Backbone
from sources.preparation import can_be_preparation
from studies.classifier import Classifier

NAME, CLASSES, EACH = "MobileNet", 10, 3  # a network that preprocesses its images outside of the model
WITHOUT_TOP = {"include_top": False, "pooling": "avg", "input_shape": (224, 224, 3), "weights": None}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of the network, so large that its features are not all nearly 0."""
    keras.utils.set_random_seed(0)
    path, model = tmp_path_factory.mktemp("weights") / "own.weights.h5", keras.applications.MobileNet(**WITHOUT_TOP)
    for variable in model.weights:
        if variable.path.endswith("gamma"):
            variable.assign(np.full(variable.shape, 6.0))
    model.save_weights(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of classes of small pictures; those of a class are alike."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for c in range(CLASSES):
        (folder / f"class{c}").mkdir()
        pixels = rng.integers(0, 256, (6, 8, 3))
        for i in range(EACH):
            noisy = (pixels + rng.integers(-9, 10, pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).resize((40, 30)).save(folder / f"class{c}/{i}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights, pictures):
    """The folder of the dataset of these pictures' vectors."""
    folder = tmp_path_factory.mktemp("data")
    done = make(folder, pictures, "--backbone_weights", weights)
    assert done.returncode == 0, done.stderr
    assert "vectors of 1024 numbers" in done.stdout
    return folder


def make(folder, pictures, *flags, backbone=NAME):
    flags = ["--source", pictures, "--backbone", backbone, *flags]
    return command("--dataset", "mine", "--data_dir", folder, *flags)


def test_sizes_are_those_that_keras_takes_by_default(monkeypatch):
    class Found(Exception):
        pass

    def find(*args, default_size=None, **kwargs):
        raise Found(default_size)

    constructors = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    for name, constructor in constructors.items():
        module = inspect.getmodule(constructor)
        assert callable(module.preprocess_input)
        if name.startswith("MobileNetV3"):  # says in its documentation alone that its weights are for 224
            assert Backbone(name).preparation.size == 224
            continue
        monkeypatch.setattr(module.imagenet_utils, "obtain_input_shape", find)
        with pytest.raises(Found) as found:
            constructor(**WITHOUT_TOP | {"input_shape": None})
        assert found.value.args == (Backbone(name).preparation.size,), name
    assert constructors.keys() >= study.SIZES.keys()


def test_a_vector_is_the_networks_output_for_the_preprocessed_picture(weights, monkeypatch):
    monkeypatch.setattr(study, "AT_ONCE", 2)  # the last batch is smaller
    rng = np.random.default_rng(1)
    shown = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).resize((224, 224)) for _ in range(2)]
    shown.append(Image.fromarray(rng.integers(0, 256, (224, 224), np.uint8)))  # grey
    vectors = Backbone(NAME, weights)(shown)
    model = keras.applications.MobileNet(**WITHOUT_TOP)
    model.load_weights(weights)
    x = np.array([np.asarray(picture.convert("RGB")) for picture in shown], np.float32)
    expected = model.predict_on_batch(x / 127.5 - 1)  # keras.applications.mobilenet.preprocess_input
    assert vectors.dtype == np.float32 and vectors.shape == (3, 1024)
    np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4 * expected.max())  # another batch: other kernels
    assert np.ptp(expected, 0).max() > 0.1
    assert Backbone(NAME, weights)([]).shape == (0, 1024)


@pytest.mark.parametrize("number", [np.nan, np.inf, -1e16])
def test_vectors_that_no_learner_could_take_are_refused(number, monkeypatch):
    """Those of a network whose training diverged."""
    network = SimpleNamespace(predict_on_batch=lambda x: np.array([[1.0, number]])), lambda x: x
    monkeypatch.setattr(study, "load_network", lambda *_: network)
    with pytest.raises(UserError, match=r"are not finite, or above 1e\+15: give other --backbone_weights"):
        Backbone(NAME).embed(np.zeros((1, 224, 224, 3), np.uint8))


def test_a_picture_is_taken_when_it_is_needed(weights, monkeypatch):
    """Only the prepared pictures of one batch are in memory."""
    taken, backbone = [], Backbone(NAME, weights)
    monkeypatch.setattr(study, "AT_ONCE", 2)
    monkeypatch.setattr(Backbone, "embed", lambda self, images: np.full((len(images), 1024), len(taken), np.float32))
    pictures = (taken.append(i) or Image.new("RGB", (224, 224)) for i in range(5))
    assert backbone(pictures)[:, 0].tolist() == [2, 2, 4, 4, 5]


def test_a_dataset_holds_the_vectors_of_its_pictures(made, weights, pictures):
    manifest = json.loads((made / "mine/manifest.json").read_text())
    backbone, dataset = Backbone(NAME, weights), data.load(str(made), "mine")
    assert manifest["prepare"] == backbone.description == dataset.prepare
    assert can_be_preparation(manifest["prepare"]) and not can_be_preparation(manifest["prepare"] | {"features": 0})
    assert manifest["source"]["files"][0]["name"] == weights.name and dataset.image_shape == (1, 1, 1024)
    for split, entry in manifest["splits"].items():
        files = [pictures / name / f"{i}.png" for name in entry["names"] for i in range(EACH)]
        expected = backbone([Image.open(file) for file in files])
        found = dataset.splits[split].all_images.reshape(len(files), -1)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())  # batches are others


def test_faults_of_the_network_are_one_sentence(tmp_path, pictures, weights, monkeypatch):
    assert_refused(make(tmp_path, pictures, backbone="mobilnet"), "has no network mobilnet: choose MobileNet")
    assert_refused(make(tmp_path, pictures, backbone="x"), "has no network x", "VGG16")
    with warnings.catch_warnings(record=True) as printed:
        assert_refused(make(tmp_path, pictures, "--backbone_weights", weights, backbone="MobileNetV2"), "does not fit")
    assert not [one for one in printed if one.category is UserWarning]  # nothing but the sentence
    (tmp_path / "text.h5").write_text("no weights")
    assert_refused(make(tmp_path, pictures, "--backbone_weights", tmp_path / "text.h5"), "text.h5 does not fit")
    assert_refused(make(tmp_path, pictures, "--size", 28), "--size is not a flag of mine from --backbone")
    assert_refused(command("--dataset", "mine", "--backbone", NAME), "--source")

    def fail(*args, **kwargs):
        raise Exception("URL fetch failure")  # as Keras does

    monkeypatch.setattr(inspect.getmodule(keras.applications.MobileNet).file_utils, "get_file", fail)
    assert_refused(make(tmp_path, pictures), "could not download", "URL fetch failure", "--backbone_weights")
    assert not leftovers(tmp_path / "data")


def test_an_existing_dataset_is_of_the_same_network_and_weights_or_is_refused(made, tmp_path, weights, pictures):
    shutil.copytree(made / "mine", tmp_path / "mine")
    assert "it is complete" in make(tmp_path, pictures, "--backbone_weights", weights).stdout
    assert_refused(make(tmp_path, pictures), "was made with a file of weights: give it as --backbone_weights, or add")
    assert_refused(make(tmp_path, pictures, backbone="VGG16"), "--backbone MobileNet, not VGG16")
    (tmp_path / "other.h5").write_bytes(b"other")
    assert_refused(make(tmp_path, pictures, "--backbone_weights", tmp_path / "other.h5"), "another --backbone_weights")
    assert_refused(command("--dataset", "mine", "--data_dir", tmp_path, "--source", pictures), "holds vectors")


def test_a_run_on_vectors_classifies_pictures_through_the_same_network(made, tmp_path, weights, pictures):
    run = tmp_path / "run"
    succeed("main.py", "--model", "nearest", "--savedir", run, "--dataset", "mine", "--data_dir", made, "--way", 3,
            "--query", 1, "--val_every", 0, "--gpu_id", -1)  # fmt: skip
    support, query = ([str(pictures / f"class{c}/{i}.png") for c in range(CLASSES)] for i in range(2))
    classifier = Classifier(run, backbone_weights=weights).fit(support, range(CLASSES))
    assert not classifier.trained().doubts(np.zeros(3), np.zeros(3))  # vectors are neither dark nor of one colour
    assert (classifier.predict(query) == range(CLASSES)).mean() >= 0.8  # chance is 0.1
    with pytest.raises(ValueError, match=r"by MobileNet with a file of weights .*: give that file as --backbone_wei"):
        Classifier(run).fit(support, range(CLASSES))
    (tmp_path / "other.h5").write_bytes(b"other")
    with pytest.raises(ValueError, match="has other weights than those that made the vectors"):
        Classifier(run, backbone_weights=tmp_path / "other.h5").fit(support, range(CLASSES))
    out = tmp_path / "out.csv"
    words = ["--mode", "classify", "--savedir", run, "--support", pictures, "--query", pictures, "--out", out]
    succeed("main.py", *words, "--backbone_weights", weights, "--folds", 0, "--gpu_id", -1)
    assert len(out.read_text().splitlines()) == 1 + CLASSES * EACH
    assert_refused(call("main.py", "--mode", "draw", "--savedir", run), "was trained on vectors")


def test_keras_own_weights_of_an_efficientnet_are_refused_as_a_file(tmp_path, monkeypatch):
    """Keras would not scale the images for them."""
    network = keras.applications.EfficientNetB0
    file, other = tmp_path / "own.weights.h5", tmp_path / "other.weights.h5"
    network(**WITHOUT_TOP).save_weights(file)
    other.write_bytes(file.read_bytes() + b"other")  # HDF5 ignores what follows
    digests = {"b0": ("0", hashlib.md5(file.read_bytes()).hexdigest())}
    monkeypatch.setattr(inspect.getmodule(network), "WEIGHTS_HASHES", digests)
    with pytest.raises(UserError, match=r"move .*own.weights.h5 to ~/.keras/models/efficientnetb0_notop.h5, and leave"):
        Backbone("EfficientNetB0", file).features  # noqa: B018
    assert Backbone("EfficientNetB0", other).features == 1280


def test_weights_of_a_network_are_refused_where_there_is_none():
    with pytest.raises(UserError, match=r"cannot read --backbone_weights nowhere.h5"):
        Backbone.of({"backbone": NAME, "weights": "keras", "features": 1024}, study.Path("nowhere.h5"))
    with pytest.raises(ValueError, match="is for runs on vectors of a network: leave it out"):
        Classifier("pretrained/omniglot_5way_1shot_maml.npz", backbone_weights="x.h5").fit(["a", "b"], [0, 1])


def test_a_network_is_the_same_whatever_the_user_told_keras(weights):
    """~/.keras/keras.json may name another type of numbers and another order of axes."""
    kinds = keras.config.floatx(), keras.config.image_data_format()
    try:
        keras.config.set_floatx("float16")
        keras.config.set_dtype_policy("float16")
        keras.config.set_image_data_format("channels_first")
        study.load_network.cache_clear()
        network, _ = study.load_network(NAME, weights, "another file", 32)
        assert network.dtype == keras.config.floatx() == "float32" and network.input_shape == (None, 32, 32, 3)
    finally:
        keras.config.set_floatx(kinds[0])
        keras.config.set_dtype_policy(kinds[0])
        keras.config.set_image_data_format(kinds[1])
        study.load_network.cache_clear()
