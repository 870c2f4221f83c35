"""scikit-learn's own checks of an estimator, and its tools that copy, keep and send a Classifier."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import check_estimator

import learners
from studies.classifier import Classifier
from training import weights
from training.config import Config

# What is declined, and why; the checks' data are rows of numbers, and pictures are none.
DECLINED = {
    "check_n_features_in_after_fitting": "a picture may have any size, and is squeezed: there is no n_features_in_",
    "check_n_features_in": "the same",
    "check_classifiers_train": "the same: it wants pictures of another size than those of fit refused",
    "check_classifier_data_not_an_array": "several pictures are a sequence, which has a length",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Weights of a small Prototypical Network, untrained."""
    learner = learners.make("protonet", image_shape=(16, 16, 1), channels=2, way=2)
    params = {name: value.numpy() for name, value in learner.init(0).items()}
    settings = Config.of({"dataset": "mine", "model": "protonet", "way": 2, "channels": 2}).to_json()
    settings |= {"prepare": {"size": 16, "channels": 1, "invert": False}}
    about = {"settings": settings, "iteration": 0, "weights_sha256": weights.digest(params)}
    path = tmp_path_factory.mktemp("estimator") / "weights.npz"
    weights.write(path, weights.Weights(about, params))
    return path


class OfRows(Classifier):
    """Takes a row of numbers for a picture of stripes, so that all else can be checked."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string, tags.classifier_tags.poor_score = True, False, True
        return tags

    def _listed(self, images):
        return [np.resize(np.repeat(row, 16), (16, 16)) for row in 1 / (1 + np.exp(-check_array(images)))]


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_that_are_declined(file):
    check_estimator(Classifier(file), on_skip=None)  # what can be checked without data
    done = check_estimator(OfRows(file), on_skip=None, expected_failed_checks=DECLINED)
    assert len(done) > 40
    failed = {check["check_name"] for check in done if check["status"] == "xfail"}
    assert failed == DECLINED.keys()


def pictures_of(classes=2, each=4):
    rng = np.random.default_rng(0)
    levels = np.repeat(np.linspace(0.2, 0.8, classes), each)
    return list(np.clip(levels[:, None, None] + 0.1 * rng.standard_normal((classes * each, 16, 16)), 0, 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # each process loads TensorFlow
def test_a_fitted_classifier_is_validated_and_searched(file, jobs):
    images, labels = pictures_of(), np.repeat(["dark", "light"], 4)
    one = Classifier(file).fit(images, labels)
    before = one.predict_proba(images)
    scores = cross_val_score(one, images, labels, cv=2, n_jobs=jobs)
    search = GridSearchCV(one, {"statistics": ["support", "together"], "samples": [1]}, cv=2, n_jobs=jobs)
    search.fit(images, labels)
    assert scores.shape == (2,) and search.best_params_["samples"] == 1
    np.testing.assert_array_equal(one.predict_proba(images), before)
    np.testing.assert_array_equal(clone(one).fit(images, labels).predict_proba(images), before)
