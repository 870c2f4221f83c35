"""Attacks on learners: their gradients, their threats, and what --mode attack leaves."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

import attacks
import data
import layers
import learners
import main
import model
from conftest import ROOT, SETTINGS, SMALL, assert_refused, call, flags_of, succeed
from declared import own_settings
from errors import UserError
from perturbations.draws import task_noise
from ranges import Range
from sources.arrays import checksum, save
from studies import robustness as study
from training import steps
from training.config import Config

LEARNERS = [(name, None) for name in learners.LEARNERS if name != "protonet"] + [("maml", "vib"), ("protonet", None)]
# Where the way of learning is not the point: without inner steps a graph is small. The second draws noise in tests.
WITHOUT_NOISE, NOISY = ("protonet", None), ("metanet_embedding", "information_dropout")
ATTACK = study.Attack("pgd", "linf", (0.0, 0.2), 3, 0.5, "random", 2, "joint", "cross_entropy")


def make(name, perturbation=None, metabatch=1, **settings):
    split = data.Split(np.random.default_rng(0).integers(0, 256, (6, 8, 16, 16, 1), np.uint8), 1, 1 / 255)
    if "n_steps" in own_settings(name, perturbation):
        settings = {"n_steps": 2, "inner_lr": 0.4} | settings
    learner = learners.make(name, perturbation, image_shape=(16, 16, 1), channels=4, way=3, **settings)
    return steps.Engine(learner, shot=1, query=2, metabatch=metabatch, seed=5), split


def adapted_classifier(name, perturbation=None):
    """A learner that has adapted to a task, in float64: what classifies, the query images and their labels."""
    e, split = make(name, perturbation)
    learner = e.learner
    params = {key: tf.cast(value, tf.float64) for key, value in learner.init(3).items()}
    classes, images = e.episode(split, "test", 0)

    @tf.function(autograph=False)
    def prepare():
        x_s, x_q = (tf.cast(x, tf.float64) for x in e.images(split, tf.constant(split.pixels), classes, images))
        noise = task_noise(tf.constant([[1, 2]]), "float64")
        return learner.adapt(params, x_s, model.labels_of(x_s, 3), noise, 2)[0], x_q

    adapted, x = prepare()
    y = model.labels(3, 2, "float64")
    classify = tf.function(lambda x: learner.classify(params, adapted, x)[0], autograph=False)
    return classify, x, y


@pytest.mark.parametrize(("name", "perturbation"), LEARNERS)
def test_the_gradient_by_an_image_is_a_slope(name, perturbation):
    """Of every learner, against finite differences in float64."""
    classify, x, y = adapted_classifier(name, perturbation)
    _, gradient = tf.function(lambda x: attacks.joint_oracle(classify, y)(x), autograph=False)(x)
    way = np.random.default_rng(1).normal(size=x.shape)

    def loss(t):
        return tf.reduce_sum(layers.cross_entropies(classify(x + t * way), y)).numpy()

    slope, size = (loss(1e-6) - loss(-1e-6)) / 2e-6, np.abs(gradient).max()
    assert size > 1e-6 and slope == pytest.approx(np.sum(gradient * way), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["maml", "metanet_embedding"])
def test_the_gradient_by_an_image_is_the_same_under_xla(name):
    classify, x, y = adapted_classifier(name)
    looks = [
        tf.function(lambda x, oracle=oracle: oracle(x), autograph=False, jit_compile=jit)(x)
        for oracle in (attacks.joint_oracle(classify, y), attacks.single_oracle(classify, x, y))
        for jit in (False, True)
    ]
    for (logits, gradient), (logits_xla, gradient_xla) in (looks[:2], looks[2:]):
        np.testing.assert_allclose(logits_xla, logits, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(gradient_xla, gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())


def test_the_grouping_of_tasks_does_not_matter_and_eps_0_is_the_test():
    """With noise of its own for every task, and the accuracy of a test where nothing is attacked."""
    e, split = make(*NOISY, metabatch=3)
    alone, _ = make(*NOISY, metabatch=1)
    for name, variable in alone.params.items():
        variable.assign(e.params[name])
    together = lost, worst, label, _, clean = study.attack_step(e, split, 2, ATTACK)(0, 3)
    one_by_one = study.attack_step(alone, split, 2, ATTACK)
    for i in range(3):
        for one, all_of_them in zip(one_by_one(i, 1), together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[i])
        _, x_q = e.images(split, tf.constant(split.pixels), *alone.episode(split, "test", i))
        np.testing.assert_array_equal(clean[i], x_q[0])
        np.testing.assert_array_equal(clean[i], worst[i, 0])  # of eps 0
    assert ((label != np.repeat(np.arange(3), 2)) == lost).all()
    numbers = e.test_step(split, "test", 2)(0, 3)
    np.testing.assert_allclose(1 - lost[:, 0].mean(-1), numbers["accuracy"], rtol=1e-6)
    assert (lost[:, 0] <= lost[:, 1]).all() and np.abs(worst[:, 1] - worst[:, 0]).max() == pytest.approx(0.2, abs=1e-6)


def test_single_and_joint_images_do_what_is_said_of_them():
    """The worst places of `single` are put among clean images, those of `joint` at one place need not be."""
    e, split = make(*WITHOUT_NOISE)
    attack = dataclasses.replace(ATTACK, threat="single")
    (lost,), (worst,), *_ = study.attack_step(e, split, 1, attack)(0, 1)
    classes, images = e.episode(split, "test", 0)
    x_s, x_q = e.images(split, tf.constant(split.pixels), classes, images)
    adapted = e.adapt(x_s, study.fold(e.stream_seed("test"), 0)[None])
    right = np.repeat(np.arange(3), 2)
    for i in range(6):
        x = x_q.numpy()
        x[0, i] = worst[1, i]
        assert (e.classify(adapted, x).numpy()[0, i].argmax() != right[i]) == lost[1, i]


def test_tasks_and_restarts_have_starts_of_their_own():
    """All tasks in one group, as under XLA, and one by one; one restart, and three."""
    e, split = make("protonet", metabatch=3)
    alone, _ = make("protonet")
    e.learner.jit = True  # all tasks at once; it is not compiled by XLA, as it was made without
    attack = dataclasses.replace(ATTACK, norm="l2", eps=(0.5,), steps=1, restarts=1)
    worst, one_by_one = study.attack_step(e, split, 1, attack)(0, 3)[1], study.attack_step(alone, split, 1, attack)
    for i in range(3):
        apart = np.sqrt(np.square(worst[i] - one_by_one(i, 1)[1][0]).sum((-3, -2, -1)))
        assert apart.max() < 0.1  # of the radius 0.5; rounding may flip a maximum, and so turn a gradient a little
    more = study.attack_step(e, split, 1, dataclasses.replace(attack, restarts=3))(0, 3)[1]
    assert (np.abs(more - worst).max((-3, -2, -1)) > 1e-3).any()


@pytest.mark.parametrize("threat", ["joint", "single"])
def test_a_step_from_the_clean_image_is_a_share_of_the_radius_up_the_loss_that_is_asked_for(threat):
    """Of L_inf, by the signs of the gradient; a place that is no worse than the clean image is not shown."""
    e, split = make("protonet")
    places = []
    for loss in ("cross_entropy", "margin"):
        attack = study.Attack("pgd", "linf", (0.1, 0.2), 1, 0.25, "clean", 1, threat, loss)
        _, (worst,), _, _, (clean,) = study.attack_step(e, split, 1, attack)(0, 1)
        for radius, images in zip(attack.eps, worst, strict=True):
            sizes = np.abs(images - clean).reshape(6, -1)
            moved = sizes.max(-1) > 0
            assert moved.any()
            np.testing.assert_allclose(sizes.max(), 0.25 * radius, atol=1e-6)
            # but for the few at the edge of the box, and those without a gradient
            np.testing.assert_allclose(np.median(sizes[moved], -1), 0.25 * radius, atol=1e-6)
        places.append(worst)
    assert np.abs(places[0] - places[1]).max() > 0.05


def test_an_attack_up_the_losses_of_those_that_remain_goes_other_ways():
    """From the first place at which an image is lost and another is not; before it the two are the same."""
    e, split = make(*WITHOUT_NOISE)
    one, other = (
        study.attack_step(e, split, 1, dataclasses.replace(ATTACK, eps=(0.002, 0.2), steps=5, threat=threat))(0, 1)
        for threat in ("joint", "remaining")
    )
    assert one[0][0, 0].any() and not one[0][0, 0].all()
    assert np.abs(one[1][0] - other[1][0]).max() > 0.01


@pytest.mark.parametrize("threat", attacks.THREATS)
def test_a_surrogate_of_other_noise_guides_and_the_run_itself_decides(threat):
    """A learner without noise is itself its own surrogate; the gradients of one with noise are those of other draws."""
    attack = dataclasses.replace(ATTACK, threat=threat)
    for kind, same in ((WITHOUT_NOISE, True), (NOISY, False)):
        e, split = make(*kind)
        own, places = study.attack_step(e, split, 1, attack)(0, 1), []
        for draws in (1, 2):
            surrogate = study.Surrogate(e, None, {}, draws)
            lost, worst, label, *_ = study.attack_step(e, split, 1, attack, surrogate)(0, 1)
            assert (np.abs(worst - own[1]).max() < 1e-6) == same
            assert ((label != np.repeat(np.arange(3), 2)) == lost).all()  # what the run itself takes them for
            assert (lost[:, 0] == own[0][:, 0]).all()
            places.append(worst)
        assert (np.abs(places[0] - places[1]).max() < 1e-6) == same


def test_both_runs_adapt_with_as_many_samples_and_take_inputs_of_the_range(monkeypatch):
    e, split = make(*NOISY)
    split, calls = dataclasses.replace(split, declared=Range(-1, 3)), []
    real = study.classifier

    def classifier(engine, x_s, seeds, samples, inputs=study.UNIT):
        calls.append((samples, inputs))
        return real(engine, x_s, seeds, samples, inputs)

    monkeypatch.setattr(study, "classifier", classifier)
    study.attack_step(e, split, 3, dataclasses.replace(ATTACK, steps=1), study.Surrogate(e, None, {}, 1))(0, 1)
    assert calls and set(calls) == {(3, Range(-1, 3))}


def test_the_flags_of_an_attack_reach_its_step(trained, tmp_path, monkeypatch):
    """The noise samples; the surrogate's checkpoint, which --checkpoint chooses, too."""
    loaded = []

    def attack_step(engine, split, samples, attack, surrogate=None):
        raise UserError(f"{samples} samples, {surrogate.draws} draws, radii {attack.eps}")

    def load_parameters(engine, savedir, checkpoint):
        loaded.append((savedir, checkpoint))

    monkeypatch.setattr(study, "attack_step", attack_step)
    monkeypatch.setattr(study, "load_parameters", load_parameters)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    shutil.copytree(trained / "checkpoints/last", tmp_path / "run/checkpoints/best")
    shutil.copytree(trained, tmp_path / "run", dirs_exist_ok=True)
    flags = ("--savedir", tmp_path / "run", *FLAGS, "--surrogate", other, "--surrogate_draws", 2)
    done = call("main.py", *flags, "--n_test_mc_samp", 7, "--checkpoint", "best")
    assert_refused(done, "7 samples, 2 draws, radii (0.0, 0.1)")
    assert loaded == [(other, "best")]


def test_an_attack_on_a_diverged_learner_is_refused(trained, monkeypatch):
    images, measures = np.zeros((1, 2, 3, 28, 28, 1)), np.full((1, 4), np.nan)
    values = np.zeros((1, 2, 3), bool), images, np.zeros((1, 2, 3), int), measures, images[:, 0]
    monkeypatch.setattr(study, "attack_step", lambda *_: lambda first, tasks: values)
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--seed", 3), "test episode 0: ", "not finite")


def test_whole_radii_are_the_same_attack_as_the_defaults():
    """The result's file is named by a digest of a JSON text, in which 0 and 0.0 differ."""
    flags = study.AttackSettings(eps=(0.0, 0.02, 0.04, 0.06, 0.08, 0.1)).attack(), study.AttackSettings().attack()
    assert len({json.dumps(one.identity()) for one in flags}) == 1


def test_several_tasks_and_draws_are_each_what_it_is_alone():
    """The logits of two tasks by two draws under XLA, all of the first draw first, and the gradient of each task's
    mean. They are those of one task and one draw without XLA, up to float64's rounding (in float32 another rounding
    may flip a maximum); those of other noise are far from them."""
    e, split = make(*NOISY, metabatch=2)
    e.params = {name: tf.Variable(tf.cast(value, tf.float64)) for name, value in e.params.items()}
    images = e.images(split, tf.constant(split.pixels), *e.group_of_episodes(split, "test", 0)[:2])
    x_s, x_q = (tf.cast(x, tf.float64) for x in images)
    seeds, y = tf.constant([[1, 2], [3, 4], [5, 6], [7, 8]]), model.labels(3, 2, "float64")

    def oracle(x_s, x_q, seeds):
        return attacks.joint_oracle(study.classifier(e, x_s, seeds, 2), y)(x_q)

    logits, gradient = tf.function(oracle, autograph=False, jit_compile=True)(x_s, x_q, seeds)
    oracle = tf.function(oracle, autograph=False)
    alone = [[oracle(x_s[t : t + 1], x_q[t : t + 1], seeds[2 * k + t][None]) for t in range(2)] for k in range(2)]
    assert logits.shape == (4, 6, 3) and gradient.shape == x_q.shape
    for found, single in (
        (logits, [alone[k][t][0][0] for k in range(2) for t in range(2)]),
        (gradient, [(alone[0][t][1][0] + alone[1][t][1][0]) / 2 for t in range(2)]),
    ):
        assert np.linalg.norm(found - single) < 1e-9 * np.linalg.norm(single)
    for t in range(2):
        for value in range(2):
            one, other = alone[0][t][value], alone[1][t][value]
            assert np.linalg.norm(one - other) > 0.1 * np.linalg.norm(one)


def test_clean_measures_are_those_of_the_clean_images():
    classify, x, y = adapted_classifier(*WITHOUT_NOISE)
    oracle = attacks.joint_oracle(classify, y)
    measured = tf.function(lambda x: study.clean_measures(oracle, x, y), autograph=False)(x).numpy()[0]
    logits, gradient = (value.numpy()[0] for value in tf.function(lambda x: oracle(x), autograph=False)(x))
    gradient = gradient.reshape(6, -1)
    right = np.repeat(np.arange(3), 2)
    margins = [row[c] - np.delete(row, c).max() for row, c in zip(logits, right, strict=True)]
    sizes = np.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose(measured, [np.mean(margins), np.abs(gradient).sum(1).mean(), sizes.mean(), 0])

    def half_constant(x):  # of the first three images of six
        return classify(tf.where(tf.range(6)[:, None, None, None] < 3, tf.stop_gradient(x), x))

    for of_images, gone in ((lambda x: 0 * classify(x), 1), (half_constant, 0.5)):
        oracle = attacks.joint_oracle(of_images, y)
        measured = tf.function(lambda x, oracle=oracle: study.clean_measures(oracle, x, y), autograph=False)(x).numpy()[
            0
        ]
        assert dict(zip(study.CLEAN, measured, strict=True))["gradient_gone"] == gone


def test_a_result_is_of_all_episodes():
    attack = dataclasses.replace(ATTACK, eps=(0.0, 0.1))
    kept = np.array([[0.9, 0.5, 1, 2, 2, 0], [0.7, 0.3, 3, 6, 1, 0.5], [0.5, 0.1, 5, 1, 3, 1]])
    result = study.result_of(kept, attack)
    assert result["clean"] == {"margin": 3, "gradient_l1": 3, "gradient_l2": 2, "gradient_gone": 0.5}
    assert result["accuracy"] == pytest.approx([70, 30]) and result["eps"] == [0, 0.1]
    np.testing.assert_allclose(result["accuracies"], [[90, 70, 50], [50, 30, 10]])


def test_a_sheet_has_the_first_query_image_of_every_class(tmp_path):
    """Two images of each of three classes, at two radii."""
    worst, label = np.arange(12.0).reshape(2, 6, 1, 1, 1), np.arange(12).reshape(2, 6)
    study.write_sheet(tmp_path / "tests/attack-a.npz", worst, label, 100 + worst[0], 2)
    with np.load(tmp_path / "tests/attack-a.npz") as sheet:
        assert sheet["images"][..., 0, 0, 0].tolist() == sheet["labels"].tolist() == [[0, 2, 4], [6, 8, 10]]
        assert sheet["clean"].shape == (3, 1, 1, 1) and sheet["clean"].ravel().tolist() == [100, 102, 104]


FLAGS = ("--mode", "attack", "--n_test_iters", 4, "--attack_steps", 3, "--eps", 0, 0.1)


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    savedir = tmp_path_factory.mktemp("attack") / "run"
    flags = ("--model", "maml", "--n_train_iters", 3, "--val_every", 0)
    succeed("main.py", "--savedir", savedir, "--data_dir", data_dir, *SMALL, *flags)
    return savedir


def test_an_attack_leaves_its_result_and_is_not_made_twice(trained):
    done = succeed("main.py", "--savedir", trained, *FLAGS)
    result = json.loads((trained / study.JSON).read_text())
    assert result["eps"] == [0, 0.1] and np.shape(result["accuracies"]) == (2, 4)
    np.testing.assert_allclose(np.mean(result["accuracies"], -1), result["accuracy"])
    assert f"0.1      {result['accuracy'][1]:.2f} +- {result['interval95'][1]:.2f}" in done.stdout
    told = {"method": "pgd", "norm": "linf", "eps": [0, 0.1], "steps": 3, "step": 2.5 / 3, "start": "random"}
    told |= {"restarts": 1, "threat": "joint", "loss": "cross_entropy"}
    assert result["settings"]["attack"] == told
    assert set(result["clean"]) == set(study.CLEAN) and result["clean"]["gradient_l2"] > 0
    with np.load(next((trained / "tests").glob("attack-*.npz"))) as sheet:
        assert sheet["images"].shape == (2, 3, 28, 28, 1) and sheet["labels"].shape == (2, 3)
        np.testing.assert_array_equal(sheet["clean"], sheet["images"][0])
        assert 0 < np.abs(sheet["images"][1] - sheet["images"][0]).max() <= 0.1 + 1e-6
    assert "computed before" in call("main.py", "--savedir", trained, *FLAGS).stdout
    done = call("main.py", "--savedir", trained, *FLAGS, "--norm", "l2", "--eps", 0, 3, "--restarts", 2)
    assert "computed before" not in done.stdout
    other = json.loads((trained / study.JSON).read_text())
    assert other["settings"]["attack"]["norm"] == "l2" and other["accuracies"] != result["accuracies"]
    assert len(list((trained / "tests").glob("attack-*.json"))) == 2
    succeed("main.py", "--mode", "meta_test", "--savedir", trained, "--n_test_iters", 4)
    clean = json.loads((trained / "meta_test.json").read_text())
    np.testing.assert_allclose(result["accuracies"][0], clean["accuracies"], rtol=1e-6)
    assert result["episodes_sha256"] == clean["episodes_sha256"]


def test_an_interrupted_attack_goes_on_to_the_same_result(trained):
    flags = ("--savedir", trained, *FLAGS, "--n_test_iters", 4, "--metabatch", 1, "--eps", 0, 0.05, 0.1)
    flags += ("--attack_steps", 40)
    words = [sys.executable, ROOT / "main.py", *flags]
    process = subprocess.Popen(list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    seen = b""
    while b" 0/4" not in seen and process.poll() is None:
        seen += process.stderr.read(1)
    time.sleep(0.5)  # it is compiling its first step
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=150)
    assert process.returncode == 130 and b"continues from there" in stderr, seen + stderr
    part = next((trained / "tests").glob("attack-*.part"))
    done = np.load(part)
    assert 0 < len(done) < 4 and done.shape[1] == 3 + 4
    done[0, :3] = [0.25, 0.5, 0.75]  # what was done is not done again
    with open(part, "wb") as file:
        np.save(file, done)
    succeed("main.py", *flags)
    accuracies = np.array(json.loads((trained / study.JSON).read_text())["accuracies"])
    assert accuracies.shape == (3, 4) and accuracies[:, 0].tolist() == [25, 50, 75]
    np.testing.assert_allclose(accuracies.T[1 : len(done)], 100 * done[1:, :3])
    assert not part.exists()


def write_attack(savedir, accuracies, weights="w", **attack):
    savedir.mkdir()
    accuracies = np.array(accuracies, float)
    content = {"eps": [0, 0.1], "accuracies": accuracies.tolist(), "accuracy": accuracies.mean(-1).tolist()}
    content |= {"interval95": [1, 2], "episodes_sha256": "a", "settings": {"attack": {"norm": "linf"} | attack}}
    content |= {"weights_sha256": weights}
    (savedir / study.JSON).write_text(json.dumps(content))


def test_attacks_are_compared_episode_by_episode(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    write_attack(a, [[90, 80], [40, 20]])
    write_attack(b, [[91, 81], [45, 55]])

    def compare():
        return call("main.py", "--mode", "compare", "--attack", "--savedir", a, b)

    done = compare()
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("eps", str(b)))]
    assert lines[0] == "eps 0" and "86.00 +- 1.00   +1.00 +- 0.00 (better in 100 %" in lines[1]
    assert lines[2] == "eps 0.1" and "50.00 +- 2.00   +20.00 +- 20.79 (" in lines[3]
    (b / study.JSON).unlink()
    assert_refused(compare(), "--mode attack --savedir")
    b.rmdir()
    write_attack(b, [[91, 81], [45, 55]], steps=7)
    assert_refused(compare(), "were attacked differently")
    for names, words in (("ab", "surrogate itself, surrogate_draws 3"), ("cc", "surrogate maml c, surrogate_draws 3")):
        for savedir, weights, digest in zip((a, b), "ab", names, strict=True):
            shutil.rmtree(savedir)
            surrogate = {"model": "maml", "weights_sha256": digest, "draws": 3}
            write_attack(savedir, [[90, 80], [40, 20]], weights, surrogate=surrogate)
        done = compare()
        assert done.returncode == 0 and words in done.stdout, done.stderr + done.stdout
    shutil.rmtree(b)
    write_attack(b, [[90, 80], [40, 20]], "b", surrogate=surrogate | {"weights_sha256": "d"})
    assert_refused(compare(), "were attacked differently")
    (b / study.JSON).write_text('{"accuracies": [[1]]}')
    assert_refused(compare(), "cannot be read")
    assert_refused(
        call("main.py", "--mode", "meta_test", "--attack", "--savedir", a), "is not a flag of --mode meta_test"
    )


def test_data_of_another_range_are_attacked_within_it_or_not_at_all(data_dir, tmp_path):
    """Glyphs less 0.1 over 0.3: what is not known is refused, and what the manifest declares is the attack's box."""
    folder, savedir = tmp_path / "data" / "glyphs", tmp_path / "run"
    shutil.copytree(data_dir / "glyphs", folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"scale": 1.0}
    for split in manifest["splits"].values():
        path = folder / split["file"]
        save(path, ((np.load(path) / 255 - 0.1) / 0.3).astype(np.float32))
        split |= {name: value for name, value in checksum(path).items() if name != "name"}

    def declare(**ends):
        (folder / "manifest.json").write_text(json.dumps(manifest | ends))

    declare()
    train = (
        "--savedir",
        savedir,
        "--data_dir",
        folder.parent,
        *SMALL,
        "--maml",
        "--n_train_iters",
        0,
        "--val_every",
        0,
    )
    assert_refused(call("main.py", *train, "--adversarial", "linf:0.1"), "--adversarial needs the range", '"range": [')
    assert not savedir.exists()
    succeed("main.py", *train)
    assert json.loads((savedir / "config.json").read_text())["range"] is None
    flags = ("--mode", "attack", "--savedir", savedir, "--n_test_iters", 4, "--attack_steps", 3, "--eps", 0, 1e-6, 0.2)
    assert_refused(call("main.py", *flags), "--mode attack needs the range")
    assert_refused(call("main.py", "--mode", "export", "--savedir", savedir), "--mode export needs the range")
    declare(range=[0, 1])
    assert_refused(call("main.py", *flags), "hold numbers from -0.333333 to 3")
    declare(range=[-1 / 3, 3])
    succeed("main.py", *flags)
    result = json.loads((savedir / study.JSON).read_text())
    assert result["accuracies"][0] == result["accuracies"][1] and result["settings"]["attack"]["range"] == [-1 / 3, 3]
    succeed("main.py", "--mode", "meta_test", "--savedir", savedir, "--n_test_iters", 4)
    tested = json.loads((savedir / "meta_test.json").read_text())
    assert result["accuracies"][0] == pytest.approx(tested["accuracies"])
    with np.load(next((savedir / "tests").glob("attack-*.npz"))) as sheet:  # in [0, 1], as eps is
        assert sheet["clean"].min() == 0 and sheet["clean"].max() == pytest.approx(1)
        assert np.abs(sheet["images"] - sheet["clean"]).max() == pytest.approx(0.2)
        assert sheet["images"].min() >= 0 and sheet["images"].max() <= 1


def test_images_in_0_1_are_classified_as_the_inputs_that_they_stand_for():
    """Batch norm hides a shift and a scale, but not at the border, where there is 0."""
    e, split = make("protonet")
    x_s, x_q = e.images(split, tf.constant(split.pixels), *e.episode(split, "test", 0))
    seeds = tf.constant([[1, 2]])
    wanted = study.classifier(e, x_s, seeds, 1)(x_q)
    found = study.classifier(e, x_s, seeds, 1, Range(-1, 3))((x_q + 1) / 4)
    other = study.classifier(e, x_s, seeds, 1)((x_q + 1) / 4)
    size = np.abs(wanted).max()
    assert np.abs(found - wanted).max() < 1e-4 * size < 1e-2 * np.abs(other - wanted).max()


def test_a_run_of_one_range_refuses_data_of_another(trained, tmp_path):
    """An old run that was trained on attacked images had them in [0, 1], and one that says its range has that."""
    dataset, known = data.load(json.loads((trained / "config.json").read_text())["data_dir"], "glyphs"), [0.0, 1.0]
    other = dataclasses.replace(dataset, splits={k: dataclasses.replace(split, declared=Range(0, 2))
                                                 for k, split in dataset.splits.items()})  # fmt: skip
    run = Config.read(trained)
    adversarial = dataclasses.replace(run, training=dataclasses.replace(run.training, adversarial="linf:0.1"))
    told = dataclasses.replace(run, facts=run.facts | {"range": known})
    with mock.patch.object(main.data, "load", lambda *_, **__: other):
        main.load_data(run, "test", bounded="an attack")
        main.load_data(dataclasses.replace(adversarial, facts={}), "train")  # a new run
        for settings in (adversarial, told):
            with pytest.raises(UserError, match=re.escape(f"the run was trained on inputs of the range {known}")):
                main.load_data(settings, "test")


def test_a_mistyped_attack_is_refused(trained, tmp_path):
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--eps", -1), "--eps")
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--norm", "l3"), "--norm")
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--way", 4), "contradicts the run")
    assert_refused(
        call("main.py", "--savedir", trained, "--mode", "meta_test", "--norm", "l2"),
        "is not a flag of --mode meta_test",
    )
    assert_refused(call("main.py", "--savedir", tmp_path / "none", *FLAGS), "there is no run")
    several = ("--savedir", trained, *FLAGS, "--attack_start", "clean", "--restarts", 2)
    assert_refused(call("main.py", *several), "start at the clean image")
    square = ("--savedir", trained, *FLAGS, "--attack_method", "square")
    assert_refused(call("main.py", *square, "--norm", "l2"), "--norm linf")
    assert_refused(call("main.py", *square, "--attack_loss", "margin"), "--attack_loss needs a gradient-based attack")
    assert_refused(call("main.py", *square, "--surrogate", trained), "--surrogate needs a gradient-based attack")
    assert_refused(call("main.py", *square, "--attack_start", "clean"), "--attack_start needs a gradient-based attack")
    assert_refused(call("main.py", *square, "--attack_step", 0.1), "--attack_step needs a gradient-based attack")
    assert_refused(
        call("main.py", *square, "--threat", "remaining"), "--threat remaining needs a gradient-based attack"
    )
    assert_refused(call("main.py", *square, "--square_share", 1.1), "a share above 0 and of at most 1")
    idle = ("--savedir", trained, *FLAGS, "--square_share", 0.05)
    assert_refused(call("main.py", *idle), "--square_share needs --attack_method square")
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--surrogate_draws", 3), "needs a surrogate")
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--surrogate", tmp_path / "none"), "there is no run")


def test_a_surrogate_and_a_search_are_other_attacks(trained, data_dir, tmp_path):
    """Each has its own result; a run that follows its own gradients, without noise, is lost as it was."""
    succeed("main.py", "--savedir", trained, *FLAGS)
    own = json.loads((trained / study.JSON).read_text())
    other = tmp_path / "other"
    flags = ("--model", "metasgd", "--n_train_iters", 2, "--val_every", 0, "--seed", 3)
    succeed("main.py", "--savedir", other, "--data_dir", data_dir, *SMALL, *flags)
    results = []
    for more in (
        ["--surrogate", trained],
        ["--surrogate", other, "--surrogate_draws", 2],
        ["--attack_method", "square"],
    ):
        succeed("main.py", "--savedir", trained, *FLAGS, *more)
        results.append(json.loads((trained / study.JSON).read_text()))
    assert results[0]["accuracies"] == own["accuracies"] and results[0]["settings"] != own["settings"]
    assert results[0]["settings"]["attack"]["surrogate"]["weights_sha256"] == own["weights_sha256"]
    told = results[1]["settings"]["attack"]["surrogate"]
    assert told["model"] == "metasgd" and (told["draws"], results[0]["settings"]["attack"]["surrogate"]["draws"]) == (
        2,
        1,
    )
    for result in results[1:]:
        assert result["accuracies"][0] == own["accuracies"][0]
        assert result["settings"]["attack"] != own["settings"]["attack"]
    told = results[2]["settings"]["attack"]
    assert (told["method"], told["square_share"]) == ("square", 0.8)  # without a share: lost images moved on


def test_a_surrogate_of_other_tasks_is_refused(trained, data_dir, tmp_path):
    flags = ("--model", "maml", "--n_steps", 0, "--n_train_iters", 0, "--val_every", 0, "--way", 4)
    other = tmp_path / "other"
    succeed("main.py", "--savedir", other, "--data_dir", data_dir, *SMALL, *flags)
    done = call("main.py", "--savedir", trained, *FLAGS, "--surrogate", other)
    assert_refused(done, f"--surrogate {other} cannot be used for these tasks (--way 3", "choose another run")


def test_the_surrogate_is_compiled_as_the_run_is(trained, data_dir, tmp_path):
    """XLA cannot compile scikit-learn's logistic regression."""
    other = tmp_path / "other"
    settings = {name: value for name, value in SETTINGS.items() if name != "n_steps"}
    settings |= {"model": "baseline", "head": "logistic", "n_train_iters": 0, "val_every": 0, "batch": 6}
    succeed("main.py", "--savedir", other, "--data_dir", data_dir, *flags_of(settings))
    done = call("main.py", "--savedir", trained, *FLAGS, "--surrogate", other, "--jit", "on")
    assert_refused(done, "XLA cannot compile that: give --jit off")


def test_a_surrogate_of_other_data_is_refused(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"data_sha256": "0" * 64}))
    assert_refused(call("main.py", "--savedir", trained, *FLAGS, "--surrogate", other), "trained on other data")
