"""A learner, a perturbation and a dataset that somebody adds: a class or a function each, and a line in a table.

The examples of CONTRIBUTING.md are executed from that page. A learner and a perturbation of this file test what a
class can declare: a penalty beside the output, step sizes, initializers, adapting and classifying as two calls.
"""

import functools
import json
import re
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import bench
import data
import layers
import learners
import model
import numerics
import perturbations
import sources.table
from conftest import ROOT, assert_refused, call, flags_of, succeed
from declared import own_settings
from numerics import decided, noise_of
from parameters import Parameter, constant, uniform
from perturbations.base import Perturbation
from perturbations.draws import TEST_QUERY, TRAINING_SUPPORT, Draw, fold
from settings import Settings, positive, setting
from studies import export_format
from training import config as run_config
from training import steps

TABLES = (learners.LEARNERS, perturbations.PERTURBATIONS, sources.table.MAKERS)
SMALL = {"way": 3, "query": 2, "metabatch": 2, "val_every": 0, "gpu_id": "-1", "save_freq": 10, "n_train_iters": 20}


@dataclass(frozen=True)
class StepSizesSettings(model.MAMLSettings):
    least_rate: float = setting(0.1, "smallest initial step size", positive)


class StepSizes(model.MAML):
    """MAML with a learned step size for every weight, as in Meta-SGD."""

    settings_class = StepSizesSettings

    def parameters(self):
        declared = super().parameters()
        rates = {
            f"rate/{name}": Parameter(parameter.shape, uniform(self.settings.least_rate, 2 * self.settings.least_rate))
            for name, parameter in declared.items()
            if name.startswith("theta/")
        }
        return declared | rates

    def step_sizes(self, params):
        return {name.removeprefix("rate/theta/"): v for name, v in params.items() if name.startswith("rate/")}

    def narrow(self, params, way):
        heads = ("rate/theta/dense_w", "rate/theta/dense_b")
        return {name: v[..., :way] if name in heads else v for name, v in super().narrow(params, way).items()}


@dataclass(frozen=True)
class DampedSettings(Settings):
    damping: float = setting(0.3, "weight of the penalty", positive)


class Damped(Perturbation):
    """Every convolution times a learned number, and a penalty on the size of the result."""

    summary = "learned damping"
    settings_class = DampedSettings

    def parameters(self, image_shape, channels):
        return {"phi/damping": Parameter((channels,), constant(0.8))}

    hooks = frozenset({"block"})

    def block(self, params, theta, layer, x, mu, draw):
        mu = mu * params["phi/damping"]
        if draw.where == TEST_QUERY:
            return mu, 0.0
        return mu, self.settings.damping * tf.reduce_mean(tf.square(mu), [1, 2, 3, 4])


@pytest.fixture(autouse=True, scope="module")
def tables():
    """Add to the tables for the tests of this file."""
    with mock.patch.dict(TABLES[0]), mock.patch.dict(TABLES[1]), mock.patch.dict(TABLES[2]):
        before = [set(lines) for lines in TABLES]
        learners.LEARNERS["step_sizes"] = learners.Entry(StepSizes, "Learned step sizes")
        perturbations.PERTURBATIONS["damped"] = Damped
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL):
            assert len(block.strip().splitlines()) <= 40
            exec(compile(block, "CONTRIBUTING.md", "exec"), {"__name__": "example"})
        assert [len(set(lines) - names) for lines, names in zip(TABLES, before, strict=True)] == [2, 2, 1]
        yield


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Make the dataset of CONTRIBUTING.md with get_data.py; return its --data_dir."""
    folder = tmp_path_factory.mktemp("data")
    assert "train 40 classes x 20" in succeed("get_data.py", "--dataset", "stripes", "--data_dir", folder).stdout
    return folder


RUNS = {
    "nearest_mean": {"model": "nearest_mean", "sharpness": 0.05},
    "gaussian": {"model": "maml", "perturbation": "gaussian", "n_steps": 1, "channels": 3},
    "step_sizes": {"model": "step_sizes", "perturbation": "damped", "n_steps": 1, "channels": 3, "least_rate": 0.2},
}


@pytest.fixture(scope="module")
def runs(stripes, tmp_path_factory):
    """Train each of RUNS for half of its iterations, resume it, and test it; return the folder of all runs."""
    folder = tmp_path_factory.mktemp("runs")
    for name, own in RUNS.items():
        flags = ("--savedir", folder / name, "--data_dir", stripes, *flags_of(SMALL | {"dataset": "stripes"} | own))
        succeed("main.py", *flags, "--n_train_iters", 9)
        assert "resumed at iteration 10" in succeed("main.py", *flags, "--resume").stdout
        succeed("main.py", "--mode", "meta_test", "--savedir", folder / name, "--n_test_iters", 20)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_it_is_trained_tested_and_resumed_and_config_json_has_its_settings(name, runs):
    config, own = json.loads((runs / name / "config.json").read_text()), RUNS[name]
    assert {key: config[key] for key in own} == own
    declared = own_settings(own["model"], own.get("perturbation"))
    assert declared.keys() <= config.keys()
    owners = (owner for owners in run_config.own_fields().values() for owner in owners.values())
    others = {field.name for fields in owners for field in fields}
    assert not (others - declared.keys()) & config.keys()
    result = json.loads((runs / name / "meta_test.json").read_text())
    assert result["iteration"] == 20 and declared.keys() <= result["settings"].keys()
    assert result["accuracy"] > 40  # stripes are easy; chance is 33


def test_a_resumed_run_is_one_that_was_not_stopped(runs, stripes, tmp_path):
    own = flags_of(SMALL | {"dataset": "stripes"} | RUNS["step_sizes"])
    succeed("main.py", "--savedir", tmp_path / "whole", "--data_dir", stripes, *own)
    readers = [
        tf.train.load_checkpoint(str(d / "checkpoints/last/ckpt-20")) for d in (tmp_path / "whole", runs / "step_sizes")
    ]
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith(("params/", "adam/"))]
    assert any("rate" in name for name in names) and any("damping" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(*(reader.get_tensor(name) for reader in readers), err_msg=name)


def test_compare_pairs_them_and_figures_have_their_names(runs):
    out = succeed("main.py", "--mode", "compare", "--savedir", *(runs / name for name in RUNS)).stdout
    assert len(out.strip().splitlines()) == 4 and "(better in" in out
    succeed("plot.py", "--savedir", *(runs / name for name in RUNS), "--figures", "histogram", "curves", "--dpi", 40)
    page = (runs / "nearest_mean/plot/index.html").read_text()
    assert all(title in page for title in ("Nearest mean", "MAML, gaussian", "Learned step sizes, damped"))


@pytest.mark.parametrize("name", RUNS)
def test_it_is_exported_and_its_collapse_measured(name, runs):
    succeed("main.py", "--mode", "export", "--savedir", runs / name, "--export_tasks", 1)
    arrays = export_format.read(runs / name)
    assert export_format.layers(arrays) == ([] if name == "nearest_mean" else ["conv1", "conv2", "conv3", "conv4"])
    assert arrays["perturbed_features"].shape[2] == (10 if name == "gaussian" else 0)
    logits = arrays["query_features"] @ arrays["head_w"] + arrays["head_b"][:, :, None]
    np.testing.assert_array_equal(logits.argmax(-1), arrays["query_predictions"])
    out = succeed("main.py", "--mode", "collapse", "--savedir", runs / name, "--n_test_iters", 2).stdout
    assert f"features ({'features' if name == 'nearest_mean' else 'conv4'})" in out


def test_an_export_without_maps_is_drawn(runs):
    succeed("main.py", "--mode", "export", "--savedir", runs / "nearest_mean", "--export_tasks", 1)
    succeed("plot.py", "--savedir", runs / "nearest_mean", "--dpi", 40)
    assert (runs / "nearest_mean/plot/boundary_tasks.png").is_file()


def test_bench_times_it(monkeypatch):
    monkeypatch.setattr(bench, "matmul_gflops", functools.partial(bench.matmul_gflops, size=256))
    timed = succeed(
        "bench.py", *flags_of({"model": "nearest_mean", "way": 3, "metabatch": 2, "iterations": 1, "gpu_id": -1})
    )
    line = json.loads(timed.stdout)
    assert (line["model"], line["sharpness"]) == ("nearest_mean", 0.1) and line["gflop_per_step"] > 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model", "maml", "--sharpness", 1),
            "--sharpness is not a flag of --mode meta_train with --model maml",
        ),
        (
            ("--model", "nearest_mean", "--n_steps", 1),
            "--n_steps is not a flag of --mode meta_train with --model nearest",
        ),
        (("--model", "nearest_mean", "--sharpness", 0), "--sharpness: must be a number above 0"),
        (("--model", "nearest_mean", "--perturbation", "damped"), "it takes none"),
        (("--model", "metanet_original", "--perturbation", "gaussian"), "it takes none or mask"),
        (
            ("--model", "maml", "--gaussian_decay", 1),
            "--gaussian_decay is not a flag of --mode meta_train",
        ),
    ],
)
def test_its_flags_are_refused_where_they_mean_nothing(flags, words, stripes, tmp_path):
    refused = call("main.py", "--savedir", tmp_path / "a", "--data_dir", stripes, "--dataset", "stripes", *flags)
    assert_refused(refused, words)
    assert not (tmp_path / "a").exists()


def test_help_names_what_is_added():
    text = call("main.py", "--help").stdout
    assert all(f"--{name}" in text for name in ("sharpness", "least_rate", "damping", "gaussian_decay"))
    assert "nearest_mean" in text and "damped" in text


# ---- the seams

PIXELS = np.random.default_rng(4).integers(0, 256, (6, 5, 16, 16, 1), np.uint8)
SPLIT = data.Split(PIXELS, rotations=4, scale=1 / 255)


def double(values: dict) -> dict:
    return {name: tf.cast(value, tf.float64) for name, value in values.items()}


def inputs(learner, tasks=2):
    """Return parameters so large that no gradient is rounding alone, support and query images, and a seed per task, all
    in float64."""
    rng = np.random.default_rng(5)
    params = double(learner.init(3))
    for name, value in params.items():
        if name.startswith("theta/"):
            params[name] = tf.constant(0.4 * rng.standard_normal(value.shape))
    x_s, x_q = (tf.constant(rng.random((tasks, 3 * images, 16, 16, 1))) for images in (1, 2))
    return params, x_s, x_q, tf.constant([[5, task] for task in range(tasks)])


def toy(**own):
    base = {"image_shape": (16, 16, 1), "channels": 3, "way": 3, "n_steps": 1, "meta_gradient": "exact"}
    return learners.make("step_sizes", "damped", **base | own)


@pytest.mark.parametrize("damping", [0.3, 1e-12])
def test_the_outer_loss_is_the_query_sets_and_its_penalty(damping):
    """Compare the gradient of every parameter with finite differences; penalties and step sizes have gradients too."""
    learner = toy(damping=damping)
    params, x_s, x_q, seeds = inputs(learner)

    @tf.function(autograph=False)
    def objective(params):
        loss, penalty = numerics.outer_loss(learner, params, x_s, x_q, noise_of(seeds))
        return tf.reduce_mean(loss + penalty)

    @tf.function(autograph=False)
    def gradients():
        return numerics.meta_gradients(learner, params, x_s, x_q, seeds, 1, noise_of)

    loss, _, grads = gradients()
    assert (float(objective(params)) - float(loss) > 1e-3) == (damping > 1e-3)  # the loss that is reported has none
    found = numerics.slopes(objective, {name: grads[name] for name in params}, params, 6)
    for name, (slope, bound) in found.items():
        if name.startswith(("rate/theta/conv1_w", "phi/")):
            assert abs(slope) > 100 * bound, name


def test_the_inner_loss_is_the_support_sets_and_its_penalty_and_step_sizes_are_the_learners():
    learner = toy()
    params, x_s, _, seeds = inputs(learner)
    y = model.labels(3, 1, tf.float64)

    @tf.function(autograph=False)
    def adapt():
        before, after = learner.trajectory(params, x_s, y, noise_of(seeds), training=True)
        logits, penalty = learner.forward(params, before, x_s, Draw(noise_of(seeds), 0, TRAINING_SUPPORT))
        names = list(before)
        losses = layers.cross_entropy(logits, y), penalty
        return before, after, *(dict(zip(names, tf.gradients(loss, [before[k] for k in names]), strict=True))
                                for loss in losses)  # fmt: skip

    before, after, of_entropy, of_penalty = adapt()
    for name in ("conv1_w", "conv3_w"):
        assert np.linalg.norm(of_penalty[name]) > 1e-3
        step = params[f"rate/theta/{name}"] * (of_entropy[name] + of_penalty[name])
        np.testing.assert_allclose(before[name] - after[name], step, rtol=1e-9, atol=1e-12)


class CountedMask(Perturbation):
    """Another penalty in every layer, so that their sum says which were added."""

    hooks = frozenset({"mask"})

    def mask(self, params, theta, layer, x, shape, draw):
        return None, 32 * 2.0 ** int(layer[-1])


class Counted(CountedMask):
    """The same, from every hook."""

    hooks = frozenset({"inputs", "block", "mask", "head"})

    def inputs(self, params, theta, layer, x, draw):
        return x, 4096.0 if layer == "dense" else 64 * 32 * 2.0 ** int(layer[-1])

    def block(self, params, theta, layer, x, mu, draw):
        return mu, 2.0 ** int(layer[-1])

    def head(self, params, theta, x, logits, draw):
        return logits, 1024.0


def test_a_pass_adds_the_penalties_of_all_its_layers():
    """MAML's outer loss has those of the query pass; a Meta Network's has those of both passes."""
    settings = {"image_shape": (16, 16, 1), "channels": 3, "way": 3}
    maml = model.MAML(perturbation=Counted(), n_steps=0, **settings)
    original = learners.LEARNERS["metanet_original"].learner
    params, x_s, x_q, seeds = inputs(maml)
    blocks = sum(2.0**block for block in range(1, 5))

    def penalty(learner, params):
        @tf.function(autograph=False)
        def compiled():
            return numerics.outer_loss(learner, params, x_s, x_q, noise_of(seeds))[1]

        return compiled().numpy()

    np.testing.assert_allclose(penalty(maml, params), (64 * 32 + 33) * blocks + 1024 + 4096)
    params = double(original(perturbation=Perturbation(), **settings).init(0))
    counted, plain = (original(perturbation=kind(), **settings) for kind in (CountedMask, Perturbation))
    np.testing.assert_allclose(penalty(counted, params) - penalty(plain, params), 2 * 32 * blocks)


def test_parameters_are_initialized_as_their_owners_declare():
    params = toy(least_rate=0.2).init(1)
    rates = np.concatenate([v.numpy().ravel() for name, v in params.items() if name.startswith("rate/")])
    assert 0.2 <= rates.min() < 0.21 and 0.39 < rates.max() <= 0.4 and rates.mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(params["phi/damping"], np.full(3, np.float32(0.8)))
    plain = learners.make("maml", image_shape=(16, 16, 1), channels=3, way=3).init(1)
    np.testing.assert_array_equal(
        params["theta/conv2_w"], plain["theta/conv2_w"]
    )  # one owner's initializer does not change another's


@pytest.mark.parametrize("name", ["metadrop", "metanet_original", "step_sizes"])
def test_adapting_and_classifying_are_two_calls_and_together_the_test(name):
    own = {} if name == "metanet_original" else {"n_steps": 2}
    learner = learners.make(name, image_shape=(16, 16, 1), channels=3, way=3, **own)
    one = steps.Engine(learner, shot=1, query=2, metabatch=2, seed=3)
    tested = one.test_step(SPLIT, "test", 2)(0, 2)
    episodes = [one.episode(SPLIT, "test", i) for i in range(2)]
    classes, images = (np.concatenate(part) for part in zip(*episodes, strict=True))
    x_s, x_q = one.images(SPLIT, tf.constant(PIXELS), tf.constant(classes), tf.constant(images))
    seeds = tf.stack([fold(one.stream_seed("test"), i) for i in range(2)])
    adapted = one.adapt(x_s, seeds, samples=2)
    numbers = model.measure(one.classify(adapted, x_q), model.labels_of(x_q, 3))
    assert numbers.keys() == tested.keys() == {"loss", "accuracy"}
    for key, values in tested.items():
        np.testing.assert_allclose(numbers[key], values, rtol=1e-4)
    # classified again: other images, and fewer of them
    assert np.abs(one.classify(adapted, 1 - x_q) - one.classify(adapted, x_q)).max() > 1e-6
    assert one.classify(adapted, x_q[:, :4]).shape == (2, 4, 3)


def test_classifying_is_differentiable_by_the_query_images():
    """Compare the gradient that an attack uses, in float32, with float64's."""
    learner = learners.make("metadrop", image_shape=(16, 16, 1), channels=3, way=3, n_steps=1)
    one = steps.Engine(learner, shot=1, query=2, metabatch=1, seed=3)
    rng = np.random.default_rng(0)
    for variable in one.params.values():
        variable.assign(0.4 * rng.standard_normal(variable.shape))
    x_s, x_q = (tf.constant(rng.random((1, 3 * images, 16, 16, 1)), tf.float32) for images in (1, 2))
    adapted, y = one.adapt(x_s, tf.constant([[1, 2]])), model.labels(3, 2)
    with tf.GradientTape() as tape:
        tape.watch(x_q)
        loss = layers.cross_entropy(one.classify(adapted, x_q), y)
    params, theta = double(steps.read(one.params)), double(adapted)

    def exact(x):
        logits, _ = learner.classify(params, theta, x)
        return tf.gradients(layers.cross_entropy(logits, tf.cast(y, tf.float64)), x)[0]

    expected = decided(exact, tf.cast(x_q, tf.float64)).numpy()
    assert np.linalg.norm(tape.gradient(loss, x_q) - expected) < 1e-4 * np.linalg.norm(expected)
