"""Neural collapse of learners: what is measured, in training and over test tasks, and its figures."""

import csv
import io
import json
import re
import shutil
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import data
import learners
import model
from conftest import SMALL, assert_refused, call, succeed
from errors import UserError
from model import Learner
from perturbations import draws
from perturbations.base import Perturbation
from runs import checkpoint
from studies import collapse as study
from studies import collapse_measures
from training import steps, test_results

WATCHED = ("--model", "maml", "--n_train_iters", 12, "--save_freq", 5, "--val_every", 0, "--shot", 2)


def train(data_dir, savedir, *flags):
    succeed("main.py", "--savedir", savedir, "--data_dir", data_dir, *SMALL, *WATCHED, *flags)


@pytest.fixture(scope="module")
def watched(data_dir, tmp_path_factory):
    """Two runs alike: one watched, one not."""
    folder = tmp_path_factory.mktemp("study")
    train(data_dir, folder / "whole", "--collapse_every", 4)
    train(data_dir, folder / "plain")
    return folder


@pytest.mark.parametrize(
    ("name", "perturbation"),
    [
        pytest.param("metadrop", "noise", marks=pytest.mark.slow),
        ("maml", "mask"),
        ("metanet_embedding", "mask"),
        ("metanet_embedding", "information_dropout"),  # it has noise in tests
    ],
)
def test_what_is_measured_is_what_the_learner_does_in_testing(name, perturbation):
    rng = np.random.default_rng(0)
    split = data.Split(rng.integers(0, 256, (4, 5, 18, 18, 1), dtype=np.uint8), 4, 1 / 255)
    own = {"n_steps": 2, "inner_lr": 0.4} if name != "metanet_embedding" else {}
    learner = learners.make(name, perturbation, image_shape=(18, 18, 1), channels=5, way=3, **own)
    e = steps.Engine(learner, shot=2, query=3, metabatch=1, seed=1)
    for key, variable in e.params.items():  # untrained outputs are nearly equal: what is measured would be rounding
        if not key.startswith("running/"):
            variable.assign_add(0.3 * rng.standard_normal(variable.shape))
    classes, images = e.episode(split, "test", 0)
    seed = tf.constant([8, 9])
    samples = 2 if draws.TEST_SUPPORT in learner.perturbation.random_in else 1
    rows, values = study.measure(study.snapshots_step(e, split, samples)(classes, images, seed), 2, 3)

    @tf.function(autograph=False)
    def expected():
        x_s, x_q = data.gather(tf.constant(split.pixels), tf.constant(classes), tf.constant(images), 4, 1 / 255, 2)
        params, noise = steps.read(e.params), draws.task_noise(seed[None])
        adapted, _ = learner.adapt(params, x_s, model.labels(3, 2), noise, samples)
        logits, _ = learner.classify(params, adapted, x_q)
        return learner.features(params, adapted, x_q), logits, learner.linear(adapted)[0]

    h, logits, w = (x[0].numpy() for x in expected())
    labels = np.repeat(np.arange(3), 3)
    inner_steps, features = learner.n_steps, "dense" if name == "metanet_embedding" else "conv4"
    for layer, material in (
        (features, (h, labels, w, logits.argmax(1))),
        ("logits", (logits, labels, None, logits.argmax(1))),
    ):
        found = dict(zip(collapse_measures.NAMES, values[rows.index(("query", inner_steps, layer))], strict=True))
        for key, value in collapse_measures.measures(*material).items():
            tolerance = 1e-3 if layer == features else 0.03  # NC1 divides by the squares of small distances of logits
            assert found[key] == pytest.approx(value, rel=tolerance, abs=1e-6), (layer, key)
    layers = 5 + (name == "metanet_embedding")
    assert len(rows) == len(set(rows)) == 2 * (inner_steps + 1) * layers
    assert np.isfinite(values[[r[2] == features for r in rows]]).all()
    first = values[rows.index(("support", 0, "conv1"))]
    if inner_steps:  # adaptation changes what there is
        assert not np.allclose(first[:4], values[rows.index(("support", inner_steps, "conv1"))][:4])


def test_means_and_spreads_leave_out_what_is_undefined():
    values = np.full((3, 1, len(collapse_measures.NAMES)), np.nan)
    values[:, 0, 0] = [1, 2, 6]
    values[:2, 0, 1] = [4, 8]
    values[:, 0, 2] = 0.1
    (row,) = study.summarise([("query", 0, "conv1")], values, "ci95")
    assert row["trace_within"] == 3 and row["trace_within_ci95"] == pytest.approx(1.96 * np.std([1, 2, 6]) / 3**0.5)
    assert row["trace_between"] == 6 and row["trace_between_ci95"] == pytest.approx(1.96 * 2 / 2**0.5)
    assert row["share_within_ci95"] == 0
    assert row["nc1"] is None and (row["set"], row["step"], row["layer"]) == ("query", 0, "conv1")


def read_rows(savedir) -> list[dict]:
    return list(csv.DictReader((savedir / study.CSV).read_text().splitlines()))


def test_watching_changes_nothing(watched):
    rows = read_rows(watched / "whole")
    assert sorted({int(row["iter"]) for row in rows}) == [0, 4, 8, 12]
    assert len(rows) == 4 * 2 * 2 * 5 and {row["tasks"] for row in rows} == {"2"}
    kept = [row for row in rows if row["layer"] == "conv4" and row["iter"] == "12"]
    assert all(float(row["nc1"]) > 0 and float(row["nc3"]) > 0 for row in kept)
    a, b = checkpoint(watched / "whole"), checkpoint(watched / "plain")
    for name in a:
        if name.startswith(("params", "adam")):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert not (watched / "plain" / study.CSV).exists()


@pytest.mark.slow
def test_a_resumed_run_watches_the_same(watched, data_dir, tmp_path):
    train(data_dir, tmp_path / "cut", "--collapse_every", 4, "--n_train_iters", 6)
    train(data_dir, tmp_path / "cut", "--collapse_every", 4, "--resume")
    # The run that was cut short ended, and so measured, at 6 too.
    assert [row for row in read_rows(tmp_path / "cut") if row["iter"] != "6"] == read_rows(watched / "whole")


def test_a_killed_runs_rows_are_written_once(watched, tmp_path):
    """What a run wrote after its last checkpoint is written again when it does that again."""
    path = tmp_path / study.CSV
    path.write_text((watched / "whole" / study.CSV).read_text())
    rows = test_results.read_collapse(tmp_path)["watched"]
    watch = study.Watch.__new__(study.Watch)
    watch.savedir, watch.board, watch.engine = tmp_path, None, type("", (), {"metabatch": 2})
    new = [{k: v for k, v in row.items() if k not in ("iter", "tasks")} for row in rows if row["iter"] == 8]
    watch._write(8, new)
    assert [row["iter"] for row in test_results.read_collapse(tmp_path)["watched"]] == [0] * 20 + [4] * 20 + [8] * 20


@pytest.mark.parametrize("damage", ["x,set\n1,2\n", "iter,set\nfour,2\n", "iter,set\n4\n", "iter,more\n1,2\n"])
def test_a_table_that_cannot_be_continued_is_refused_before_the_training(damage, watched, tmp_path):
    shutil.copytree(watched / "whole", tmp_path / "run")
    (tmp_path / "run" / study.CSV).write_text(damage)
    done = call("main.py", "--savedir", tmp_path / "run", "--resume", "--n_train_iters", 13)
    assert_refused(done, "collapse.csv cannot be read", "correct it, or move it elsewhere")
    assert "resumed at iteration" not in done.stdout


def test_tasks_of_more_classes_than_there_are_are_refused_before_the_training(watched, data_dir, tmp_path):
    flags = ("--model", "protonet", "--train_way", 3, "--way", 500, "--val_every", 0, "--collapse_every", 2)
    done = call("main.py", "--savedir", tmp_path / "a", "--data_dir", data_dir, "--dataset", "glyphs", *flags)
    assert_refused(done, "--way 500 is more than the 400 train classes")


def test_mode_collapse_measures_test_tasks_and_goes_on_where_it_was(watched):
    flags = ("--mode", "collapse", "--savedir", watched / "whole", "--n_test_iters", 3)
    assert "features (conv4)" in succeed("main.py", *flags).stdout
    path = watched / "whole" / study.JSON
    three = json.loads(path.read_text())
    assert three["tasks"] == 3 and three["settings"]["model"] == "maml" and three["iteration"] == 12
    assert three["settings"]["data_sha256"] == json.loads((watched / "whole/config.json").read_text())["data_sha256"]
    assert three["provenance"]["tensorflow"] == tf.__version__
    store = test_results.ResultFiles(watched / "whole", "collapse", test_results.identity_of(three))
    store.path.unlink()
    file = io.BytesIO()
    np.save(file, np.full((2, 20, len(collapse_measures.NAMES)), 1e6))  # what two tasks never measure
    store.write_partial(file.getvalue())
    for other, made_up in (((), True), (("--seed", 1), False), (("--n_test_mc_samp", 2), False)):
        succeed("main.py", *flags, *other)
        assert (json.loads(path.read_text())["rows"][0]["trace_within"] > 1e5) == made_up, other
    assert not store.partial.exists()
    store.path.unlink()
    store.write_partial(b"no array")  # damaged: it is only time that is lost
    succeed("main.py", *flags)
    assert json.loads(path.read_text())["rows"] == three["rows"]
    done = call("main.py", *flags)
    assert "computed before" in done.stdout and "features (conv4)" in done.stdout
    assert_refused(call("main.py", *flags, "--metabatch", 2), "--metabatch is not a flag of --mode collapse")


def test_the_figures_are_on_the_runs_page(watched, tmp_path):
    other = shutil.copytree(watched / "whole", tmp_path / "other")
    succeed("plot.py", "--savedir", watched / "whole", other, "--figures", "collapse", "--format", "png", "--dpi", 40)
    page = (watched / "whole/plot/index.html").read_text()
    names = set(re.findall(r'src="(collapse_\w+)\.png"', page))
    assert names == {
        "collapse_traces_query", "collapse_traces_support", "collapse_traces_logits", "collapse_iterations_query",
        "collapse_iterations_support", "collapse_steps", "collapse_layers",
    }  # fmt: skip
    done = call("plot.py", "--savedir", watched / "plain", "--figures", "collapse", "--dpi", 40)
    assert_refused(done, "there is no measurement of neural collapse in", "--mode collapse")
    (watched / "plain" / study.JSON).write_text('{"rows": 3}')
    assert_refused(call("plot.py", "--savedir", watched / "plain", "--figures", "collapse"), "cannot be read")


def test_a_learner_without_features_is_refused():
    class Opaque(Learner):
        """With what a learner has to have alone."""

    learner = Opaque(image_shape=(16, 16, 1), channels=2, way=2, perturbation=Perturbation())
    with pytest.raises(UserError, match="Opaque has no features"):
        study.refuse_uninspectable(mock.Mock(learner=learner))
