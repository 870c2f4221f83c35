"""The loop of meta-training around steps that compute nothing: its rows, checkpoints, stops and watch follow from
numbers that are given."""

import csv
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from training import loops
from training.config import TrainingSettings
from training.steps import Engine


class Made:
    """In place of an engine. Iteration i sets the weight to i, and has the loss i and the accuracy i / 1000.

    validations: iteration -> losses and accuracies of its episodes. stop_at: the iteration whose validation is
    interrupted after its first metabatch, once. Everything that is asked for is kept.
    """

    metabatch, meta_lr, assign = 2, 0.001, Engine.assign

    def __init__(self, validations, stop_at=None):
        self.params = {"w": tf.Variable(-1.0)}
        self.slots = {"m": tf.Variable([0.0]), "v": tf.Variable([0.0]), "t": tf.Variable(0.0)}
        self.validations, self.stop_at = validations, stop_at
        self.trained, self.validated, self.asked, self.stop = [], [], None, None

    learner = types.SimpleNamespace(outer_rate=lambda meta_lr, iteration, last: meta_lr)

    def training_inputs(self, split, iteration, shared, rate, stop):
        return iteration

    def local(self, report):
        return report

    def train_step(self, split):
        def step(i):
            self.trained.append(i)
            self.params["w"].assign(i)
            return i, i / 1000, True, False

        return step

    def test_step(self, split, stream, samples):
        self.asked = split, stream, samples

        def step(first, tasks):
            now = int(self.params["w"])
            self.validated.append((now, first, tasks))
            if now == self.stop_at:
                self.stop.asked, self.stop_at = True, None
            losses, accuracies = (np.array(numbers[first : first + tasks]) for numbers in self.validations[now])
            return {"loss": losses, "accuracy": accuracies}

        return step


@pytest.fixture
def train(monkeypatch, tmp_path):
    """train(made, last, ...) -> exit code, and the rows of meta_train.csv by iteration."""

    def run(made, last, val_every=10, n_val_tasks=4, watch=None, **more):
        class Stop(loops.Stop):
            def __enter__(self):
                made.stop = super().__enter__()
                return self

        monkeypatch.setattr(loops, "Stop", Stop)
        settings = {"n_train_iters": last, "val_every": val_every, "n_val_tasks": n_val_tasks, "save_freq": 10} | more
        settings, classes = TrainingSettings(**settings), "the validation classes"
        named = {"val_samples": 3, "config": {"way": 5}, "watch": watch}
        code = loops.train(made, types.SimpleNamespace(), classes, tmp_path, settings, **named)
        with open(tmp_path / "meta_train.csv") as file:
            return code, {int(row["iter"]): row for row in csv.DictReader(file)}

    return run


def constant(loss, accuracy, tasks=4):
    return [loss] * tasks, [accuracy] * tasks


def checkpoints(savedir, kind="best") -> list[int]:
    """The iterations of its checkpoints."""
    return sorted(int(path.stem[5:]) for path in (savedir / "checkpoints" / kind).glob("ckpt-*.index"))


def test_the_best_checkpoint_has_the_highest_validation_accuracy_whatever_its_loss(train, tmp_path):
    """The first of several that are alike; a resumed run knows what was best before."""
    numbers = {0: (1, 0.5), 10: (3, 0.8), 20: (2, 0.8), 30: (0.1, 0.6), 40: (0.1, 0.7)}
    for last in (30, 40):
        made = Made({i: constant(*both) for i, both in numbers.items()})
        assert train(made, last)[0] == 0 and checkpoints(tmp_path) == [10]
    weight = tf.train.load_checkpoint(str(tmp_path / "checkpoints/best/ckpt-10"))
    assert weight.get_tensor("params/w/.ATTRIBUTES/VARIABLE_VALUE") == 10  # after its update
    assert made.asked == ("the validation classes", "val", 3)


def test_a_best_checkpoint_that_the_training_will_not_reach_is_forgotten(train, tmp_path, capsys):
    """A session with more iterations was killed after its best validation, and the next one has fewer."""
    numbers = {0: 0.5, 10: 0.6, 20: 0.9, 30: 0.7}
    assert train(Made({i: constant(1, value) for i, value in numbers.items()}), 10)[0] == 0
    shutil.copytree(tmp_path / "checkpoints/last", tmp_path / "earlier")
    assert train(Made({i: constant(1, value) for i, value in numbers.items()}), 30)[0] == 0
    assert checkpoints(tmp_path) == [20]
    shutil.rmtree(tmp_path / "checkpoints/last")
    shutil.copytree(tmp_path / "earlier", tmp_path / "checkpoints/last")
    assert train(Made({15: constant(1, 0.4)}), 15)[0] == 0
    assert checkpoints(tmp_path) == [15] and "the search for the best starts again" in capsys.readouterr().out


def test_a_validation_is_logged_as_shares_with_its_own_interval(train, capsys):
    """Mean and 1.96 std / sqrt(4) of 0.5, 0.75, 1 and 0.25; the column's numbers are shares, those on the terminal
    percent."""
    accuracies = [0.5, 0.75, 1, 0.25]
    code, rows = train(Made({0: ([1, 2, 3, 6], accuracies), 3: constant(1, 1)}), 3)
    assert code == 0 and "iteration 0: validation accuracy 62.50 +- 27.39 %" in capsys.readouterr().out
    first, last = rows[0], rows[3]
    assert (float(first["val_loss"]), float(first["val_acc"])) == (3, 0.625)
    assert float(first["val_ci95"]) == pytest.approx(0.273918, rel=1e-5)
    assert (last["val_acc"], last["val_ci95"], last["loss"], last["acc"]) == ("1", "0", "2", "0.002")  # of 1, 2 and 3


@pytest.mark.parametrize("last", [10, 15])
def test_a_validation_that_a_stop_cuts_short_is_made_again(last, train, tmp_path):
    """All of it, when the run is resumed, before the next update: of the last iteration and of one before."""
    validations = {i: constant(1, accuracy) for i, accuracy in ((0, 0.5), (10, 0.9), (15, 0.3))}
    made = Made(validations, stop_at=10)
    code, rows = train(made, last)
    assert code == 130 and list(rows) == [0] and checkpoints(tmp_path) == [0] and made.trained == [*range(11)]
    assert made.validated[2:] == [(10, 0, 2)]
    made = Made(validations)
    code, rows = train(made, last)
    assert code == 0 and made.trained == [*range(11, last + 1)]
    assert made.validated[:2] == [(10, 0, 2), (10, 2, 2)]
    assert rows[10]["val_acc"] == "0.9" and list(rows) == sorted({0, 10, last})
    assert float(rows[10]["loss"]) == 5.5  # the mean of 1 to 10, of which the stop lost nothing
    assert checkpoints(tmp_path) == [10]


def test_a_stop_between_validations_saves_and_the_run_goes_on_behind_it(train, tmp_path):
    class Stopping(Made):
        def train_step(self, split):
            step = super().train_step(split)

            def stopping(i):
                self.stop.asked = i == 7
                return step(i)

            return stopping

    validations = {i: constant(1, 0.5) for i in (0, 10, 12)}
    assert train(Stopping(validations), 12)[0] == 130
    assert checkpoints(tmp_path, "last") == [0, 7]
    made = Made(validations)
    code, rows = train(made, 12)
    assert code == 0 and made.trained == [*range(8, 13)]
    assert {i: float(row["loss"]) for i, row in rows.items()} == {0: 0, 10: 5.5, 12: 11.5}


def test_a_training_whose_output_nobody_reads_is_saved(train, tmp_path, monkeypatch):
    """A validation prints to standard output, which `| head` closes."""

    def write(bar, text):
        if "iteration 5" in text:
            raise BrokenPipeError

    monkeypatch.setattr(loops.progress_bar(disable=True).__class__, "write", write)
    with pytest.raises(BrokenPipeError):
        train(Made({i: constant(1, 0.5) for i in (0, 5)}), 12, val_every=5, save_freq=100)
    assert checkpoints(tmp_path, "last") == [0, 5]


@pytest.mark.parametrize(("last", "watched"), [(10, [0, 4, 8, 10]), (8, [0, 4, 8])])
def test_the_watch_sees_every_so_many_iterations_and_the_last_one_after_their_updates(last, watched, train):
    seen, made = [], Made({})
    made.validations = {i: constant(1, 0.5) for i in range(last + 1)}
    train(made, last, watch=lambda i: seen.append((i, int(made.params["w"]))), collapse_every=4)
    assert seen == [(i, i) for i in watched]


def test_checkpoints_and_validations_come_when_they_are_due(train, tmp_path):
    """Every third iteration is validated and every fourth saved, and the last one is both; two are kept."""
    made = Made({i: constant(1, 0.5, 5) for i in range(11)})
    train(made, 10, val_every=3, n_val_tasks=5, save_freq=4)
    assert [now for now, first, _ in made.validated if first == 0] == [0, 3, 6, 9, 10]
    assert made.validated[:3] == [(0, 0, 2), (0, 2, 2), (0, 4, 1)]
    assert checkpoints(tmp_path, "last") == [8, 10]


def test_a_test_records_the_characters_of_its_episodes():
    """Class 4 c + r is character c, turned r times."""
    drawn = [[0, 3, 4], [19, 8, 11]]

    def episode(split, stream, index):
        assert stream == "test"
        return np.array([drawn[index]]), None

    split = types.SimpleNamespace(rotations=4)
    assert loops.classes_of_episodes(types.SimpleNamespace(episode=episode), split, 2) == [[0, 0, 1], [4, 2, 2]]


def test_a_test_of_a_diverged_learner_is_refused_and_names_the_episode(tmp_path):
    """The largest of logits that are NaN would be the first class, which is right for 1 / way of the images."""
    losses = np.array([1.0, 2.0, 3.0, np.nan, 5.0])

    def test_step(split, stream, samples):
        return lambda first, tasks: dict.fromkeys(("loss", "accuracy"), losses[first : first + tasks])

    engine, files = (
        types.SimpleNamespace(metabatch=2, test_step=test_step),
        types.SimpleNamespace(partial=tmp_path / "a"),
    )
    assert loops.test_episodes(engine, None, files, 3, 1)["loss"] == [1, 2, 3]
    with pytest.raises(UserError, match=r"test episode 3: .* not finite: give --checkpoint best"):
        loops.test_episodes(engine, None, files, 5, 1)
