"""What the studies of a run make of numbers that are given: whose images, layers, snapshots, noise and channels they
measure, and what they print. Nothing is compiled."""

import re
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import data
import layers
import learners
import main
import model
from declared import own_settings
from perturbations import draws
from studies import collapse, collapse_measures, export, robustness
from training import steps

NAMES = collapse_measures.NAMES


def made(name, shot=1, query=2, metabatch=1):
    """A small engine, and a split of random images."""
    split = data.Split(np.random.default_rng(0).integers(0, 256, (5, 6, 32, 16, 1), np.uint8), 1, 1 / 255)
    settings = {"n_steps": 1, "inner_lr": 0.1} if "n_steps" in own_settings(name) else {}
    learner = learners.make(name, image_shape=(32, 16, 1), channels=3, way=3, **settings)
    return steps.Engine(learner, shot=shot, query=query, metabatch=metabatch, seed=7), split


# ---- neural collapse


def snapshots(shot, query, way=3, places=3):
    """Random layers of other sizes, heads and biases, of each snapshot their own."""
    rng = np.random.default_rng(1)

    def layers_of(images):
        return {f"conv{i}": rng.standard_normal((places, way * images, 4 + i)) for i in (1, 2)}

    head = rng.standard_normal((places, 6, way)), 2 * rng.standard_normal((places, way))
    return {"support": layers_of(shot), "query": layers_of(query), "head": head}


def test_each_place_is_measured_with_its_own_images_snapshot_and_head():
    """2 support and 4 query images of each of 3 classes, in 3 snapshots."""
    shot, query = 2, 4
    given = snapshots(shot, query)
    rows, values = collapse.measure(given, shot, query)
    assert rows == [(part, step, layer) for part in ("support", "query") for step in range(3)
                    for layer in ("conv1", "conv2", "logits")]  # fmt: skip
    for place, found in zip(rows, values, strict=True):
        part, step, layer = place
        (w, b), images = (x[step] for x in given["head"]), {"support": shot, "query": query}[part]
        features = given[part]["conv2"][step]
        logits = np.array([[h @ w[:, k] + b[k] for k in range(3)] for h in features])
        h = logits if layer == "logits" else given[part][layer][step]
        labels = [k for k in range(3) for _ in range(images)]
        wanted = collapse_measures.measures(h, labels, w if layer == "conv2" else None, logits.argmax(1))
        np.testing.assert_allclose(found, [wanted.get(name, np.nan) for name in NAMES], rtol=1e-12, err_msg=str(place))
        assert np.isnan(found[NAMES.index("nc3")]) == (layer != "conv2")


def test_spreads_over_tasks_are_deviations_in_training_and_intervals_in_tests():
    """Of 1, 2 and 6, whose deviation is sqrt(14 / 3)."""
    values = np.full((3, 1, len(NAMES)), np.nan)
    values[:, 0, 0] = [1, 2, 6]
    (watched,), (tested,) = (collapse.summarise([("query", 1, "conv1")], values, spread) for spread in ("std", "ci95"))
    assert watched["trace_within"] == tested["trace_within"] == 3
    assert watched["trace_within_std"] == pytest.approx((14 / 3) ** 0.5)
    assert tested["trace_within_ci95"] == pytest.approx(1.96 * (14 / 9) ** 0.5)
    assert watched["nc1"] is None and "nc1_std" not in watched


def test_the_watch_takes_the_tasks_and_the_noise_of_its_iteration(monkeypatch):
    """Those that the update of this iteration had."""
    e, split = made("protonet", shot=2, metabatch=2)
    watch = collapse.Watch.__new__(collapse.Watch)
    watch.engine, watch.split, watch.shared, given, written = e, split, False, [], []
    watch.step = lambda *task: given.append([np.array(x) for x in task]) or snapshots(2, 2)
    monkeypatch.setattr(watch, "_write", lambda iteration, rows: written.append((iteration, rows)))
    for iteration in (0, 9):
        watch(iteration)
    for i, iteration in enumerate((0, 9)):
        inputs = e.training_inputs(split, iteration)
        classes, images = inputs["classes"], inputs["images"]
        seed = draws.fold(tf.constant([7, data.STREAMS["train"]]), iteration)  # as `Engine.share_of` has it
        for task, (own, numbers, noise) in enumerate(given[2 * i : 2 * i + 2]):
            np.testing.assert_array_equal(own, classes[task : task + 1])
            np.testing.assert_array_equal(numbers, images[task : task + 1])
            np.testing.assert_array_equal(noise, draws.fold(seed, task))
    assert [iteration for iteration, _ in written] == [0, 9]
    rows, values = collapse.measure(snapshots(2, 2), 2, 2)
    wanted = collapse.summarise(rows, np.array([values, values]), "std")
    assert [row["nc1"] for row in written[0][1]] == [row["nc1"] for row in wanted]
    assert "nc1_std" in written[0][1][0]


def test_the_watch_has_one_noise_sample_and_shared_classes_where_training_has_them(tmp_path):
    e, split = made("protonet", metabatch=2)
    with mock.patch.object(collapse, "snapshots_step") as step:
        watch = collapse.Watch(e, split, tmp_path, shared_classes=True)
    assert step.call_args.args == (e, split, 1) and watch.shared
    watch.step.return_value = snapshots(1, 2)
    with mock.patch.object(watch, "_write"), mock.patch.object(e, "episode", wraps=e.episode) as episode:
        watch(3)
    assert episode.call_args.args == (split, "train", 3, 2, True)


def test_a_test_of_collapse_takes_the_episodes_and_the_noise_of_meta_test(monkeypatch):
    e, split = made("protonet", shot=2)
    given = []
    step = mock.Mock(side_effect=lambda *task: given.append([np.array(x) for x in task]) or snapshots(2, 2))
    monkeypatch.setattr(collapse, "snapshots_step", lambda *args: given.append(args) or step)
    measured = list(collapse.measure_tasks(e, split, range(3), 5, "last"))
    assert given.pop(0) == (e, split, 5) and len(measured) == len(given) == 3
    for i, (classes, images, noise) in enumerate(given):
        own = e.episode(split, "test", i)
        np.testing.assert_array_equal(classes, own[0])
        np.testing.assert_array_equal(images, own[1])
        np.testing.assert_array_equal(noise, draws.fold(tf.constant([7, data.STREAMS["test"]]), i))


def place(part, step, layer, **measures):
    empty = dict.fromkeys(NAMES)
    return {"set": part, "step": step, "layer": layer} | empty | measures


def test_tensorboard_is_told_features_and_logits_before_and_after_adaptation():
    """Of three snapshots the first and the last; not what is undefined, nor other layers."""
    number = {(part, step, layer): 100 * s + 10 * step + k
              for s, part in enumerate(("support", "query")) for step in range(3)
              for k, layer in enumerate(("conv1", "conv2", "logits"))}  # fmt: skip
    told = collapse.scalars([place(*where, nc1=float(n)) for where, n in number.items()])
    assert len(told) == 8 and dict(told) == {
        "collapse_support_meta/conv2_nc1": 1, "collapse_support_meta/logits_nc1": 2,
        "collapse_support_adapted/conv2_nc1": 21, "collapse_support_adapted/logits_nc1": 22,
        "collapse_query_meta/conv2_nc1": 101, "collapse_query_meta/logits_nc1": 102,
        "collapse_query_adapted/conv2_nc1": 121, "collapse_query_adapted/logits_nc1": 122,
    }  # fmt: skip


def test_the_table_of_collapse_has_the_features_alone_and_each_measure_in_its_column(capsys):
    shown = ("nc1", "nc2_norm_means", "nc2_angle_means", "nc2_norm_weights", "nc2_angle_weights", "nc3", "nc4")
    own = {name: 1.5 + i for i, name in enumerate(shown)} | {f"{name}_ci95": 0.25 + i for i, name in enumerate(shown)}
    rows = [
        place("support", 0, "conv1", nc1=9.0, nc1_ci95=9.0), place("support", 0, "conv2", **own),
        place("support", 0, "logits", nc1=9.0, nc1_ci95=9.0), place("query", 5, "conv2", **own | {"nc3": None}),
    ]  # fmt: skip
    collapse.print_table({"rows": rows})
    title, head, support, query = capsys.readouterr().out.splitlines()
    assert title == "features (conv2), mean +- 95 % interval over tasks" and head.split() == ["set", "step", *shown]
    cells = [f"{1.5 + i:g} +- {0.25 + i:.2g}" for i in range(7)]
    assert re.split(r"  +", support) == ["support", "0", *cells]
    assert re.split(r"  +", query) == ["query", "5", *cells[:5], "undefined", cells[6]]


@pytest.mark.parametrize("name", ["maml", "metadrop", "protonet", "metanet_embedding", "metanet_original"])
def test_activations_are_the_pooled_outputs_of_the_blocks(name):
    """Images of 32 x 16 are halved four times; of MAML and Meta-dropout (with noise at its centre) every block's
    numbers, too."""
    e, split = made(name)
    learner, params = e.learner, steps.read(e.params)
    x, _ = e.images(split, tf.constant(split.pixels), *e.episode(split, "test", 0))
    if name in ("maml", "metadrop"):
        h, found = (
            x[0].numpy(),
            learner.activations(params, {k.removeprefix("theta/"): v for k, v in params.items()}, x),
        )
        for block in range(1, 5):
            w, b = (params[f"theta/conv{block}_{part}"] for part in "wb")
            mu = layers.conv(tf.constant(h[None]), w, b)[0].numpy()
            if name == "metadrop":
                phi = [params[f"phi/conv{block}_{part}"] for part in "wb"]
                mu = mu * np.log1p(np.exp(layers.conv(tf.constant(h[None]), *phi)[0].numpy()))
            normal = (mu - mu.mean((0, 1, 2))) / np.sqrt(mu.var((0, 1, 2)) + 1e-3)
            n, height, width, channels = normal.shape
            h = np.maximum(normal, 0).reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
            np.testing.assert_allclose(found[f"conv{block}"][0], h.reshape(n, -1), rtol=1e-3, atol=1e-4)
    else:
        y, noise = model.labels(3, 1), draws.task_noise(tf.constant([[1, 2]]))
        adapted = learner.trajectory(params, x, y, noise, 1)[0]
        found = learner.activations(params, adapted, x)
    sizes = {layer: h.shape[-1] for layer, h in found.items() if layer != "dense"}
    assert sizes == {f"conv{i}": (32 >> i) * (16 >> i) * 3 for i in range(1, 5)}


# ---- the export


def exporter(shot=2, query=3, images=4, channels=4, copies=3):
    """Of two-way tasks, of a Meta-dropout run whose maps have six channels."""
    split = data.Split(np.random.default_rng(0).integers(0, 256, (4, 6, 16, 16, 1), np.uint8), 1, 1 / 255)
    learner = learners.make("metadrop", image_shape=(16, 16, 1), channels=6, way=2, n_steps=1, inner_lr=0.1)
    e = steps.Engine(learner, shot=shot, query=query, metabatch=1, seed=3)
    settings = export.ExportSettings(way=2, export_images=images, export_channels=channels)
    return export.Exporter(e, split, settings, samples=1, copies=copies), e, split


def test_exported_channels_and_images_are_spread():
    """Channels evenly from the first to the last; the first image of each class, and then the second."""
    assert [export.evenly(*numbers) for numbers in ((4, 6), (1, 6), (2, 6), (9, 3), (6, 64))] == [
        [0, 2, 3, 5], [0], [0, 5], [0, 1, 2], [0, 13, 25, 38, 50, 63],
    ]  # fmt: skip
    shared = exporter(images=3)[0].shared()
    assert shared["map_channels"].tolist() == [0, 2, 3, 5] and shared["map_images"].tolist() == [0, 2, 1]
    assert shared["support_labels"].tolist() == [0, 0, 1, 1] and shared["query_labels"].tolist() == [0, 0, 0, 1, 1, 1]


def test_exported_maps_are_of_the_images_and_channels_that_are_named():
    """Of numbers that say the copy, the image and the channel."""
    own, *_ = exporter(images=3)
    numbers = 100 * np.arange(3)[:, None, None] + 10 * np.arange(4)[:, None] + np.arange(6)  # [copy,image,channel]
    maps = np.broadcast_to(numbers.reshape(1, 12, 1, 1, 6), (1, 12, 2, 2, 6)).astype(np.float32)
    chosen = own.choose(tf.constant(maps), 3).numpy()
    assert chosen.shape == (3, 3, 2, 2, 4) and chosen.dtype == np.float16
    np.testing.assert_array_equal(chosen[:, :, 1, 0], numbers[:, [0, 2, 1]][..., [0, 2, 3, 5]])


def test_a_perturbed_map_is_normalised_over_the_images_of_its_own_copy():
    """Two classes of two images, and three copies of them, with noise that grows from copy to copy:
    relu(batch_norm(convolution * noise)) of each."""
    own, e, split = exporter()
    params = steps.read(e.params)
    x, _ = e.images(split, own.pixels, *e.episode(split, "test", 0))
    x = tf.concat([x[:, :2], 0.1 * x[:, 2:]], 1)  # images that are not alike
    theta = {name.removeprefix("theta/"): value for name, value in params.items() if name.startswith("theta/")}

    def noise(step, layer, shape):  # [T,copies*S,...]
        return (
            draws.task_noise(tf.constant([[1, 2]]))(step, layer, shape) + np.repeat([0, 1, 3], 4)[:, None, None, None]
        )

    draw = draws.Draw(noise, 1, draws.TRAINING_SUPPORT, 3)
    maps = {name: tensor.numpy() for name, tensor in own.maps(params, theta, x, draw).items()}
    order, channels = [0, 2, 1, 3], [0, 2, 3, 5]
    mu = layers.conv(x, theta["conv1_w"], theta["conv1_b"])[0].numpy()[order][..., channels]
    factors, found = maps["noise_conv1"].astype(np.float32), maps["perturbed_conv1"]
    assert factors.shape == found.shape == (3, 4, 16, 16, 4) and maps["clean_conv1"].shape == (4, 16, 16, 4)
    assert factors[2].mean() > 2 * factors[0].mean()
    product = mu * factors
    for one, wanted in zip(found, product, strict=True):
        normal = (wanted - wanted.mean((0, 1, 2))) / np.sqrt(wanted.var((0, 1, 2)) + layers.EPSILON)
        np.testing.assert_allclose(one, np.maximum(normal, 0), atol=0.02)


# ---- attacks, and what a run says of itself


def test_the_numbers_of_an_attack_are_means_and_intervals_by_radius(capsys):
    """1.96 std / sqrt(3) of 90, 70 and 50, and of 50, 50 and 20."""
    attack = robustness.Attack("pgd", "linf", (0.0, 0.1), 3, 0.5, "random", 2, "joint", "cross_entropy")
    kept = np.array([[0.9, 0.5, 1, 20, 2, 0], [0.7, 0.5, 3, 60, 1, 0.5], [0.5, 0.2, 5, 10, 3, 1]])
    result = robustness.result_of(kept, attack)
    assert result["interval95"] == pytest.approx([18.479, 16.003], abs=1e-3)
    assert result["accuracy"] == pytest.approx([70, 40])
    robustness.print_table(result)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "0        70.00 +- 18.48",
        "0.1      40.00 +- 16.00",
        "clean images: margin 3.00; norm of the gradient L1 30, L2 2; images without a gradient: 50.0 %",
    ]


def test_sessions_are_kept_in_order_and_one_that_goes_on_alike_is_none():
    first, second = ({"program": "1", "tensorflow": "2", "device": device, "time": device} for device in ("a", "b"))
    assert main.with_session([], first) == [first]
    assert main.with_session([first], second) == [first, second]
    assert main.with_session([first, second], second | {"time": "later"}) == [first, second]
    assert main.with_session([first, second], first) == [first, second, first]
    assert main.with_session([first], first | {"tensorflow": "3"})[-1]["tensorflow"] == "3"
