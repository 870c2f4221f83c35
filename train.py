"""The loops: meta_train and meta_test. They know a learner by its interface alone (model.py)."""

import hashlib
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

import data
from engine import Engine
from errors import UserError
from files import write_atomically
from records import UNREADABLE, Logs, State, Stop, checkpoints, progress
from results import Store, read_json, summary

LOG_EVERY = 50  # iterations, as in the TF1 code


def meta_train(
    engine: Engine,
    train: data.Split,
    val: data.Split | None,
    savedir: Path,
    *,
    n_train_iters: int,
    save_freq: int,
    val_every: int,
    n_val_tasks: int,
    val_samples: int,
    settings: dict,
    shared_classes: bool = False,
    alone: bool = True,
    chief: bool = True,
    begin: Callable[[int], None] = lambda first: None,
    watch: Callable[[int], None] | None = None,
    watch_every: int = 0,
) -> int:
    """Meta-train from savedir's last checkpoint, or from the start, to iteration n_train_iters (inclusive,
    as in the TF1 code: n + 1 updates). Returns the exit code: 0, or 130 when interrupted and saved.

    val: the classes that are monitored every val_every iterations with n_val_tasks episodes, and val_samples noise
    samples in adaptation, or None. settings: the log's first lines.
    watch: called with the number of every watch_every-th iteration, and of the last, after its update.
    alone: no other process shares the metabatch. chief: this is the process that writes; the others only read.
    begin: called with the first iteration to do, when nothing is in its way and before the logs are opened.
    """
    state = State(engine, savedir, chief)
    resumed = state.restore()
    if not alone:
        shared = {k: v for k, v in settings.items() if k not in ("data_dir", "gpu_id")}
        try:
            alike = engine.agree(int(state.next), shared, zlib.crc32(train.pixels))
        except tf.errors.OpError as fault:
            raise UserError(
                f"another worker has not begun ({type(fault).__name__}): see what it says, and start all of them again"
            ) from fault
        if not alike:
            raise UserError(
                "the workers have other flags, other data or another checkpoint than each other: start all with the "
                "same command, in folders that all of them share"
            )
    if int(state.next) > n_train_iters + 1:
        raise UserError(
            f"{savedir} is trained to iteration {int(state.next) - 1} already, which is past --n_train_iters "
            f"{n_train_iters}: choose more iterations, or another --savedir"
        )
    begin(int(state.next))
    logs = Logs(savedir if chief else None, settings, list(state.lengths.numpy()) if resumed else None)
    first, lr = int(state.next), engine.meta_lr
    if resumed:
        print(f"resumed at iteration {first}")
    step = engine.train_step(train, shared_classes)
    validate = engine.test_step(val, "val", val_samples) if val else None
    start = time.time() - float(state.secs)
    bar = progress(total=n_train_iters + 1, initial=first, unit="it", desc="meta_train", disable=not chief)

    def report(i: int) -> None:
        """Log, validate and save after iteration i, where they are due; a stop may cut the validation short."""
        last = i == n_train_iters
        state.secs.assign(time.time() - start)
        validating = validate is not None and (i % val_every == 0 or last)
        if i % LOG_EVERY == 0 or validating or last:
            loss, acc, n = state.window.numpy()
            row = {"iter": i, "episodes": i * engine.metabatch, "secs": float(state.secs), "lr": lr}
            row |= {"loss": loss / n, "acc": acc / n}
            if validating:
                losses, accs = run_episodes(validate, engine.metabatch, n_val_tasks, stop if alone else None)
                if len(accs) < n_val_tasks:
                    return
                mean, interval = summary(accs)
                row |= {"val_loss": float(np.mean(losses)), "val_acc": mean / 100, "val_ci95": interval / 100}
                if chief:
                    bar.write(f"iteration {i}: validation accuracy {mean:.2f} +- {interval:.2f} %")
            logs.row(row)
            state.window.assign([0, 0, 0])
        state.reported.assign(i)
        if validating and row["val_acc"] > float(state.best[0]):
            state.best.assign([row["val_acc"], i])
            state.save("best", logs)
        if i % save_freq == 0 or last:
            state.save("last", logs)

    with Stop() as stop, bar:
        if int(state.reported) < first - 1:  # interrupted during its validation
            report(first - 1)
        agreed = False  # processes that share a metabatch stop after the same iteration
        for i in range(first, n_train_iters + 1):
            if agreed or (alone and stop.asked):
                break
            try:
                loss, acc, finite, agreed = step(i, stop.asked)
            except tf.errors.OpError as fault:
                if alone:
                    raise
                raise UserError(
                    f"iteration {i}: another worker is gone ({type(fault).__name__}); start all of them again with "
                    f"--resume; {state.kept()}"
                ) from fault
            if not finite:
                raise UserError(
                    f"iteration {i}: the loss is {float(loss):g} and its gradient is not finite; lower --meta_lr or "
                    f"--inner_lr; {state.kept()}"
                )
            state.next.assign(i + 1)
            state.window.assign_add([float(loss), float(acc), 1])
            bar.update()
            rate = (bar.format_dict["rate"] or 0) * engine.metabatch
            bar.set_postfix_str(f"loss {float(loss):.3f}, acc {float(acc):.3f}, {rate:.1f} tasks/s", refresh=False)
            if watch and (i % watch_every == 0 or i == n_train_iters):
                watch(i)
            report(i)
    stopped = agreed or (alone and stop.asked)
    if (stopped and int(state.next) <= n_train_iters) or int(state.reported) < int(state.next) - 1:
        state.secs.assign(time.time() - start)
        state.save("last", logs)
        if chief:
            print(f"interrupted and saved after iteration {int(state.next) - 1}; go on with --resume", file=sys.stderr)
        return 130
    return 0


def run_episodes(step, metabatch: int, episodes: int, stop: Stop | None, losses=(), accs=(), after=None):
    """Losses and accuracies of the first `episodes` episodes; those given are not computed again.

    after(losses, accs) is called after every metabatch. A stop leaves the rest undone.
    """
    losses, accs = list(losses), list(accs)
    while len(accs) < episodes and not (stop and stop.asked):
        loss, acc = step(len(accs), min(metabatch, episodes - len(accs)))
        losses, accs = losses + loss.tolist(), accs + acc.tolist()
        if after:
            after(losses, accs)
    return losses, accs


def load_parameters(engine: Engine, savedir: Path, kind: str = "last") -> int:
    """Read the parameters of savedir's checkpoint, `last` or `best`; returns its iteration."""
    folder = savedir / "checkpoints" / kind
    paths = checkpoints(folder)
    if not paths:
        what = "meta-train first" if kind == "last" else "the run had no validation classes, or none was validated yet"
        raise UserError(f"there is no checkpoint in {folder}: {what}")
    try:
        reader = tf.train.Checkpoint(params=engine.params).restore(paths[-1])
        reader.assert_existing_objects_matched().expect_partial()
    except UNREADABLE as fault:
        raise UserError(f"{paths[-1]} is damaged or of another model ({str(fault).splitlines()[0]})") from fault
    return int(paths[-1].rsplit("-", 1)[1])


def weights_digest(engine: Engine) -> str:
    """SHA-256 of all parameters, by name."""
    digest = hashlib.sha256()
    for name in sorted(engine.params):
        digest.update(name.encode() + engine.params[name].numpy().tobytes())
    return digest.hexdigest()


def episodes_digest(engine: Engine, split: data.Split, episodes: int) -> str:
    """SHA-256 of the first test episodes: of their images, and which of those are support and which are query."""
    digest = hashlib.sha256(f"{zlib.crc32(split.pixels)} {engine.learner.way} {engine.shot} {engine.query}".encode())
    for i in range(episodes):
        for indices in engine.episode(split, "test", i):
            digest.update(indices.tobytes())
    return digest.hexdigest()


def meta_test(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    *,
    n_test_iters: int,
    samples: int,
    checkpoint: str,
    settings: dict,
    provenance: dict,
) -> int:
    """Test savedir's checkpoint on n_test_iters episodes of `split`; writes meta_test.log and meta_test.json.

    A result that is there already is not computed again (results.Store); what is done so far is kept, and an
    interrupted test goes on from there. settings: what tells this test from another; provenance: what made it.
    Returns the exit code: 0, or 130 when interrupted.
    """
    iteration = load_parameters(engine, savedir, checkpoint)
    store = Store(
        savedir,
        "meta_test",
        {
            "settings": settings,
            "checkpoint": checkpoint,
            "iteration": iteration,
            "weights_sha256": weights_digest(engine),
            "n_test_mc_samp": samples,
            "episodes": n_test_iters,
            "episodes_sha256": episodes_digest(engine, split, n_test_iters),
        },
    )
    result = store.read()
    if result is None:
        losses, accs = test_episodes(engine, split, store, n_test_iters, samples)
        if len(accs) < n_test_iters:
            print(f"interrupted after {len(accs)} episodes; the same command goes on from there", file=sys.stderr)
            return 130
        mean, interval = summary(accs)
        result = {"accuracy": mean, "interval95": interval, "loss": float(np.mean(losses)), "provenance": provenance}
        result |= {"accuracies": [100 * a for a in accs], "losses": losses}
    else:
        print(f"tested before: {store.own} is taken as it is (delete it to test again)")
    line = f"accuracy : {result['accuracy']:f} +- {result['interval95']:f}"
    head = [f"{k}: {v}" for k, v in (settings | result["provenance"]).items()]
    head.append(f"checkpoint: {checkpoint}, iteration {iteration}")
    store.write(result)
    write_atomically(savedir / "meta_test.log", "\n".join([*head, "", line]) + "\n")
    print(line)
    return 0


def test_episodes(engine: Engine, split: data.Split, store: Store, episodes: int, samples: int):
    """Losses and accuracies of the test episodes; fewer where it was interrupted, and then the store has them."""
    done = {name: (read_json(store.part) or {}).get(name, []) for name in ("losses", "accs")}
    bar = progress(total=episodes, initial=len(done["accs"]), unit="episode", desc="meta_test")
    saved = time.time()

    def after(losses, accs):
        nonlocal saved
        bar.update(len(accs) - bar.n)
        bar.set_postfix_str("accuracy {:.2f} +- {:.2f} %".format(*summary(accs)), refresh=False)
        if time.time() - saved > 10 or stop.asked:
            store.write_part(json.dumps({"losses": losses, "accs": accs}))
            saved = time.time()

    step = engine.test_step(split, "test", samples)
    with Stop() as stop, bar:
        return run_episodes(step, engine.metabatch, episodes, stop, **done, after=after)
