"""The loops of meta-training and testing. They use only the contract of a learner (model.Learner)."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
from errors import Stop, UserError
from files import write_if_changed
from lazy import tf
from settings import setting, whole
from training.checkpoints import CheckpointSettings, TrainingState, open_results
from training.config import TrainingSettings
from training.identity import episodes_digest, same_everywhere
from training.intervals import mean_and_interval, over_classes
from training.logs import Logs, progress_bar
from training.steps import Engine
from training.test_results import ResultFiles, read_json, refuse_diverged

LOG_EVERY = 50  # iterations, as in the TF1 code
Numbers = dict[str, list[float]]  # "loss" and "accuracy" of each episode of a test


@dataclass(frozen=True)
class MetaTestSettings(CheckpointSettings):
    """The size of a test."""

    n_test_iters: int = setting(1000, "test episodes, or tasks", whole(1))


def train(
    engine: Engine,
    split: data.Split,
    val: data.Split | None,
    savedir: Path,
    settings: TrainingSettings,
    *,
    val_samples: int,
    config: dict,
    shared_classes: bool = False,
    alone: bool = True,
    chief: bool = True,
    begin: Callable[[int], None] = lambda first: None,
    watch: Callable[[int], None] | None = None,
) -> int:
    """Meta-train from savedir's last checkpoint, or from the start, to iteration --n_train_iters (inclusive, as in the
    TF1 code: n + 1 updates). Return the exit code: 0, or 130 when interrupted and saved.

    val: the validation classes, or None. val_samples: noise samples in their adaptation. config: settings, with which
    the log begins. watch: called with every --collapse_every-th iteration and the last one, after its update. alone:
    True if no other process shares the metabatch. chief: True in the process that writes; the others only read. begin:
    called with the first iteration, after all checks and before the logs are opened.
    """
    state = TrainingState(engine, savedir, chief)
    resumed = state.restore()
    first, last = int(state.next), settings.n_train_iters
    if not alone:
        refuse_unlike_workers(engine, first, config, split)
    if first > last + 1:
        raise UserError(
            f"{savedir} is trained to iteration {first - 1} already, which is past --n_train_iters "
            f"{last}: choose more iterations, or another --savedir"
        )
    begin(first)
    state.forget_best_after(last)
    lengths = list(state.lengths.numpy()) if resumed else None
    logs = Logs(savedir if chief else None, config, lengths, first, int(state.reported))
    if resumed:
        print(f"resumed at iteration {first}")
    bar = progress_bar(total=last + 1, initial=first, unit="it", desc="meta_train", disable=not chief)
    with Stop() as stop, bar:
        training = Training(
            engine=engine,
            state=state,
            logs=logs,
            bar=bar,
            stop=stop,
            validate=engine.test_step(val, "val", val_samples) if val else None,
            settings=settings,
            alone=alone,
            rate=engine.learner.outer_rate(engine.meta_lr, max(first - 1, 0), last),
            began=time.time() - float(state.secs),
        )
        if int(state.reported) < first - 1:  # interrupted during its validation
            training.report(first - 1)
        step = engine.train_step(split)
        for i in range(first, last + 1):
            if training.stopped:
                break
            rate = engine.learner.outer_rate(engine.meta_lr, i, last)
            with training.iteration(i):
                numbers = step(engine.training_inputs(split, i, shared_classes, rate, stop.asked))
                training.count(i, rate, *engine.local(numbers))
            if watch and (i % settings.collapse_every == 0 or i == last):
                watch(i)
            training.report(i)
    if not training.finished:
        done = int(state.next) - 1
        if done >= 0:
            training.save()
        if chief:
            when = f"and saved after iteration {done}" if done >= 0 else "before the first iteration"
            print(f"interrupted {when}; continue with --resume", file=sys.stderr)
        return 130
    return 0


def refuse_unlike_workers(engine: Engine, first: int, settings: dict, split: data.Split) -> None:
    """Raise UserError if the processes that share a metabatch would not train the same run."""
    settings = {name: value for name, value in settings.items() if name not in ("data_dir", "gpu_id")}
    try:
        alike = same_everywhere(engine.strategy, first, settings, zlib.crc32(split.pixels))
    except tf.errors.OpError as fault:
        raise UserError(
            f"another worker did not start ({type(fault).__name__}): see its messages, and start all of them again"
        ) from fault
    if not alike:
        raise UserError(
            "the workers do not have the same flags, data and checkpoint: start all of them with the same command, in "
            "folders that all of them share"
        )


@dataclass
class Training:
    """One session of meta-training: it counts the iterations, logs, validates and saves."""

    engine: Engine
    state: TrainingState
    logs: Logs
    bar: tqdm
    stop: Stop
    validate: Callable | None  # Engine.test_step's, of the validation classes
    settings: TrainingSettings
    alone: bool
    began: float  # time.time() at the start, less the seconds of earlier sessions
    rate: float  # the outer step size of the last iteration
    agreed: bool = False  # all processes have agreed to stop after the same iteration

    @property
    def stopped(self) -> bool:
        return self.agreed or (self.alone and self.stop.asked)

    @property
    def finished(self) -> bool:
        """True if no iteration and no validation is left."""
        updated, reported = int(self.state.next) - 1, int(self.state.reported)
        return (updated >= self.settings.n_train_iters or not self.stopped) and reported >= updated

    @contextlib.contextmanager
    def iteration(self, i: int) -> Iterator[None]:
        """Raise UserError if another process ended while the `with` block computes iteration i."""
        try:
            yield
        except tf.errors.OpError as fault:
            if self.alone or isinstance(fault, tf.errors.ResourceExhaustedError):  # this process's own memory
                raise
            raise UserError(
                f"iteration {i}: another worker ended ({type(fault).__name__}); start all of them again with "
                f"--resume; {self.state.describe_last()}"
            ) from fault

    def count(self, i: int, rate: float, loss, accuracy, finite, agreed) -> None:
        """Add the results of iteration i to the state. rate: the outer step size. Raise UserError if it diverged."""
        loss, accuracy, self.rate, self.agreed = float(loss), float(accuracy), rate, bool(agreed)
        if not finite:
            raise UserError(
                f"iteration {i}: the loss is {loss:g} and its gradient is not finite; lower --meta_lr or "
                f"--inner_lr; {self.state.describe_last()}"
            )
        self.state.next.assign(i + 1)
        self.state.window.assign_add([loss, accuracy, 1])
        self.bar.update()
        speed = (self.bar.format_dict["rate"] or 0) * self.engine.metabatch
        self.bar.set_postfix_str(f"loss {loss:.3f}, acc {accuracy:.3f}, {speed:.1f} tasks/s", refresh=False)

    def report(self, i: int) -> None:
        """Log, validate and save after iteration i, each if it is due; a stop may interrupt the validation."""
        state, is_last = self.state, i == self.settings.n_train_iters
        state.secs.assign(time.time() - self.began)
        validation = None
        validating = self.validate is not None and (i % self.settings.val_every == 0 or is_last)
        if validating:
            validation = self.validation(i)
            if validation is None:
                return
        if i % LOG_EVERY == 0 or validating or is_last:
            loss, accuracy, iterations = state.window.numpy()
            # episodes: as in the TF1 code, without those of this iteration
            row = {"iter": i, "episodes": i * self.engine.metabatch, "secs": float(state.secs)}
            row |= {"lr": self.rate, "loss": loss / iterations, "acc": accuracy / iterations}
            self.logs.write(row | (validation or {}))
            state.window.assign([0, 0, 0])
        state.reported.assign(i)
        if validation and validation["val_acc"] > float(state.best[0]):
            state.best.assign([validation["val_acc"], i])
            state.save("best", self.logs)
        if i % self.settings.save_freq == 0 or is_last:
            state.save("last", self.logs)

    def validation(self, i: int) -> dict[str, float] | None:
        """Validate after iteration i. Return the columns of the log, or None if a stop interrupted it."""
        stop = self.stop if self.alone else None
        numbers = run_episodes(self.validate, self.engine.metabatch, self.settings.n_val_tasks, stop)
        if len(numbers["accuracy"]) < self.settings.n_val_tasks:
            return None
        mean, interval = mean_and_interval(numbers["accuracy"])
        if self.logs.savedir:
            try:
                self.bar.write(f"iteration {i}: validation accuracy {mean:.2f} +- {interval:.2f} %")
            except OSError:  # nobody reads standard output any more, or its disk is full
                self.save()
                raise
        return {"val_loss": float(np.mean(numbers["loss"])), "val_acc": mean / 100, "val_ci95": interval / 100}

    def save(self) -> None:
        self.state.secs.assign(time.time() - self.began)
        self.state.save("last", self.logs)


def run_episodes(
    step: Callable,
    metabatch: int,
    episodes: int,
    stop: Stop | None,
    done: Numbers | None = None,
    after: Callable[[Numbers], None] = lambda numbers: None,
) -> Numbers:
    """Return the losses and accuracies of the first `episodes` episodes, fewer after a stop.

    step: Engine.test_step's. done: those that are computed already. after: called after every metabatch with all of
    them so far.
    """
    numbers = {name: list((done or {}).get(name, [])) for name in ("loss", "accuracy")}
    while len(numbers["accuracy"]) < episodes and not (stop and stop.asked):
        first = len(numbers["accuracy"])
        for name, values in step(first, min(metabatch, episodes - first)).items():
            numbers[name] += values.tolist()
        after(numbers)
    return numbers


def test(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    settings: MetaTestSettings,
    *,
    samples: int,
    identity: dict,
    provenance: dict,
) -> int:
    """Test savedir's checkpoint on the first episodes of `split`, and write meta_test.log and meta_test.json. Return
    the exit code: 0, or 130 when interrupted.

    An existing result is not computed again (test_results.ResultFiles), and an interrupted test is resumed. A result of
    an earlier version gets the classes that it lacks. samples: noise samples in adaptation. identity: distinguishes
    this test from others. provenance: says how it was made.
    """
    episodes = settings.n_test_iters
    files = open_results(
        engine,
        savedir,
        "meta_test",
        checkpoint=settings.checkpoint,
        samples=samples,
        settings=identity,
        episodes=episodes,
        episodes_sha256=episodes_digest(engine, split, episodes),
    )
    result = files.read()
    was_read = result is not None
    if not was_read:
        numbers = test_episodes(engine, split, files, episodes, samples)
        if len(numbers["accuracy"]) < episodes:
            count = len(numbers["accuracy"])
            print(f"interrupted after {count} episodes; the same command continues from there", file=sys.stderr)
            return 130
        result = test_result(numbers) | {"provenance": provenance}
    else:
        print(f"tested before: {files.path} is used (delete it to test again)")
    with files.checked(was_read):
        if "classes" not in result:
            classes = classes_of_episodes(engine, split, episodes)
            wide = over_classes(np.array(result["accuracies"]) / 100, classes)
            result |= {"interval95_classes": wide, "classes": classes}
        write_test(files, result, [f"checkpoint: {settings.checkpoint}, iteration {files.identity['iteration']}"])
    return 0


def test_episodes(engine: Engine, split: data.Split, files: ResultFiles, episodes: int, samples: int) -> Numbers:
    """Return the losses and accuracies of the test episodes; fewer after an interruption, saved in `files.partial`."""
    done = read_json(files.partial) or {}
    done = {"loss": done.get("losses", []), "accuracy": done.get("accs", [])}
    bar = progress_bar(total=episodes, initial=len(done["accuracy"]), unit="episode", desc="meta_test")
    saved = time.time()

    def after(numbers: Numbers) -> None:
        nonlocal saved
        bar.update(len(numbers["accuracy"]) - bar.n)
        mean, interval = mean_and_interval(numbers["accuracy"])
        bar.set_postfix_str(f"accuracy {mean:.2f} +- {interval:.2f} %", refresh=False)
        if time.time() - saved > 10 or stop.asked:
            files.write_partial(json.dumps({"losses": numbers["loss"], "accs": numbers["accuracy"]}))
            saved = time.time()

    compiled = engine.test_step(split, "test", samples)

    def step(first: int, tasks: int) -> dict[str, np.ndarray]:
        values = compiled(first, tasks)
        refuse_diverged(values["loss"], first)
        return values

    with Stop() as stop, bar:
        return run_episodes(step, engine.metabatch, episodes, stop, done, after)


def test_result(numbers: Numbers) -> dict:
    """Return the content of meta_test.json for these episodes: accuracies in percent, losses in nats."""
    mean, interval = mean_and_interval(numbers["accuracy"])
    result = {"accuracy": mean, "interval95": interval, "loss": float(np.mean(numbers["loss"]))}
    return result | {"accuracies": [100 * share for share in numbers["accuracy"]], "losses": numbers["loss"]}


def classes_of_episodes(engine: Engine, split: data.Split, episodes: int) -> list[list[int]]:
    """Return the numbers [episodes,way] of the first test episodes' base classes: the rotations of a character are one
    class."""
    classes = [engine.episode(split, "test", i)[0][0] // split.rotations for i in range(episodes)]
    return np.array(classes).tolist()


def write_test(files: ResultFiles, result: dict, notes: list[str]) -> None:
    """Print the accuracy, and write the result and its log."""
    wide, line = [], f"accuracy : {result['accuracy']:f} +- {result['interval95']:f}"
    if result["interval95_classes"] is not None:
        wide = [f"interval over test classes : +- {result['interval95_classes']:f}"]
    facts = files.identity["settings"] | result["provenance"]
    files.show_and_write(result, lambda _: print(*wide, line, sep="\n"))
    lines = [*(f"{name}: {value}" for name, value in facts.items()), *notes, *wide, "", line]
    write_if_changed(files.latest.with_suffix(".log"), "\n".join(lines) + "\n")
