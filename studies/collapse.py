"""Neural collapse of a learner, measured during training and over test tasks.

A measurement has a row for each set (support, query), each snapshot of the adaptation (0: before it; n: after the n-th
inner step) and each layer (every block's pooled output, the features last, and then the logits). As in testing, the
features are not perturbed, and the adaptation has the perturbation that it has in a test.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import data
import model
from errors import UserError, user_error
from files import write_atomically
from lazy import tf
from perturbations.draws import fold, task_noise
from studies.collapse_measures import NAMES, measures
from studies.resumable import run_study
from training.checkpoints import open_results
from training.logs import TensorBoard
from training.loops import MetaTestSettings
from training.programs import without_pixels
from training.steps import Engine, read
from training.test_results import COLLAPSE_CSV as CSV
from training.test_results import COLLAPSE_JSON as JSON

PLACE = ("set", "step", "layer")  # a row's first columns
COLUMNS = ["iter", *PLACE, "tasks", *(f"{name}{s}" for name in NAMES for s in ("", "_std"))]  # of collapse.csv
SHOWN = ("nc1", "nc2_norm_means", "nc2_angle_means", "nc2_norm_weights", "nc2_angle_weights", "nc3", "nc4")


def snapshots_step(engine: Engine, split: data.Split, samples: int) -> Callable[..., dict]:
    """Return a function of one task's classes [1,way], images [1,way,shot+query] and seed [2]. It returns, at the P
    snapshots, "support" and "query": {layer: outputs [P,N,D]}, and "head": (weights [P,D,way], biases [P,way]).

    samples: noise samples of an inner loss.
    """
    pixels, compiled = tf.constant(split.pixels), engine.program(compile_snapshots, without_pixels(split), samples)

    def step(*task):
        return tf.nest.map_structure(lambda x: x.numpy(), compiled(engine.params, pixels, *map(tf.constant, task)))

    return step


def compile_snapshots(engine: Engine, split: data.Split, samples: int) -> Callable:
    """Compile the computation of `snapshots_step`: a function of parameters, pixels, classes, images and seed."""
    learner = engine.learner

    @tf.function(autograph=False)
    def compiled(variables, pixels, classes, images, seed):
        x_s, x_q = engine.images(split, pixels, classes, images)
        params, y = read(variables), model.labels(learner.way, engine.shot)
        snapshots = [
            {
                "support": learner.activations(params, adapted, x_s),
                "query": learner.activations(params, adapted, x_q),
                "head": learner.linear(adapted),
            }
            for adapted in learner.trajectory(params, x_s, y, task_noise(seed[None]), samples)
        ]
        return tf.nest.map_structure(lambda *tensors: tf.concat(tensors, 0), *snapshots)

    return compiled


def measure(snapshots: dict, shot: int, query: int) -> tuple[list[tuple], np.ndarray]:
    """Return the PLACE of each row, and its measures in the order of NAMES, [R,M], NaN if one is undefined. snapshots:
    the result of `snapshots_step`'s function."""
    places, values = [], []
    w, b = snapshots["head"]
    for part, images in (("support", shot), ("query", query)):
        labels = np.repeat(np.arange(w.shape[-1]), images)
        *_, last = snapshots[part]
        for step in range(len(w)):
            outputs = {layer: h[step] for layer, h in snapshots[part].items()}
            logits = outputs[last] @ w[step] + b[step]
            for layer, h in (outputs | {"logits": logits}).items():
                head = w[step] if layer == last else None
                measured = measures(h, labels, head, logits.argmax(-1))
                values.append([measured.get(name, np.nan) for name in NAMES])
                places.append((part, step, layer))
    return places, np.array(values)


def summarise(places: list[tuple], values: np.ndarray, spread: str) -> list[dict]:
    """Return a dictionary for each row of values [T,R,M]: its place, and each measure's mean and `spread` (std, or
    ci95: 1.96 std / sqrt(tasks)) over the tasks where it is defined, or None if there is no such task."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where a measure is undefined in all tasks
        mean = np.nanmean(values, 0)
        deviation = np.nanstd(values - np.nanmin(values, 0), 0)  # of a constant exactly 0
    if spread == "ci95":
        deviation = 1.96 * deviation / np.sqrt(np.maximum(np.isfinite(values).sum(0), 1))
    table = []
    for place, means, deviations in zip(places, mean, deviation, strict=True):
        row = dict(zip(PLACE, place, strict=True))
        for name, m, s in zip(NAMES, means, deviations, strict=True):
            row |= {name: float(m), f"{name}_{spread}": float(s)} if np.isfinite(m) else {name: None}
        table.append(row)
    return table


def refuse_uninspectable(engine: Engine) -> None:
    if not engine.learner.inspectable:
        name = type(engine.learner).__name__
        raise UserError(f"the learner {name} has no features, so their collapse cannot be measured")


class Watch:
    """Measures collapse during training: on an iteration's tasks (with the way of testing, if that differs), with the
    parameters after the iteration's update. Writes collapse.csv, and TensorBoard's scalars of the features and the
    logits before and after adaptation. A resumed run overwrites the rows of the iterations that it repeats."""

    def __init__(self, engine: Engine, split: data.Split, savedir: Path, shared_classes: bool = False):
        self.engine, self.split, self.savedir, self.shared = engine, split, savedir, shared_classes
        refuse_uninspectable(engine)
        if (savedir / CSV).exists():
            earlier_rows(savedir / CSV)  # a damaged table is refused before the training
        self.step, self.board = snapshots_step(engine, split, 1), None

    def __call__(self, iteration: int) -> None:
        engine, values = self.engine, []
        classes, images = engine.episode(self.split, "train", iteration, engine.metabatch, self.shared)
        seed = fold(engine.stream_seed("train"), iteration)
        for task in range(engine.metabatch):
            snapshots = self.step(classes[task : task + 1], images[task : task + 1], fold(seed, task))
            try:
                places, of_task = measure(snapshots, engine.shot, engine.query)
            except ValueError as fault:
                raise UserError(
                    f"iteration {iteration}: {fault}, so that their collapse cannot be measured: lower --meta_lr or "
                    f"--inner_lr"
                ) from fault
            values.append(of_task)
        self._write(iteration, summarise(places, np.array(values), "std"))

    def _write(self, iteration: int, rows: list[dict]) -> None:
        path = self.savedir / CSV
        if self.board is None:
            self.board = TensorBoard(self.savedir)
            cut_back(path, iteration)
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            for row in rows:
                cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                writer.writerow(cells | {"iter": iteration, "tasks": self.engine.metabatch})
        self.board.write(iteration, scalars(rows))


def earlier_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of collapse.csv. Raise UserError if it is damaged, or has other columns."""
    with (
        user_error(f"{path} cannot be read", "correct it, or move it elsewhere", ValueError, TypeError, csv.Error),
        open(path, newline="") as file,
    ):
        rows = list(csv.DictReader(file))
        for row in rows:
            int(row.get("iter"))
            if row.keys() != set(COLUMNS) or None in row.values():
                raise ValueError("it has other columns")
    return rows


def cut_back(path: Path, iteration: int) -> None:
    """Remove the rows of this and later iterations from the table at `path`; if there is no table, write a header."""
    earlier = [row for row in earlier_rows(path) if int(row["iter"]) < iteration] if path.exists() else []
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(earlier)
    write_atomically(path, text.getvalue())


def scalars(rows: list[dict]) -> dict[str, float]:
    """Return TensorBoard's values by tag: measures of the features and logits, before and after adaptation."""
    *_, features, logits = dict.fromkeys(row["layer"] for row in rows)
    last = rows[-1]["step"]
    return {
        f"collapse_{row['set']}_{'adapted' if row['step'] else 'meta'}/{row['layer']}_{name}": row[name]
        for row in rows
        if row["layer"] in (features, logits) and row["step"] in (0, last)
        for name in NAMES
        if row[name] is not None
    }


def over_tests(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    settings: MetaTestSettings,
    *,
    samples: int,
    identity: dict,
    provenance: dict,
) -> int:
    """Measure the collapse of savedir's checkpoint over the first test tasks; write collapse.json. Return the exit code
    of `run_study`."""
    refuse_uninspectable(engine)
    tasks, checkpoint = settings.n_test_iters, settings.checkpoint
    files = open_results(
        engine, savedir, Path(JSON).stem, checkpoint=checkpoint, samples=samples, settings=identity, tasks=tasks
    )
    places = []

    def compute(first: int) -> Iterator[np.ndarray]:
        for of_task, values in measure_tasks(engine, split, range(first, tasks), samples, checkpoint):
            places[:] = of_task
            yield values[None]

    def result(values: np.ndarray) -> dict:
        return {"rows": summarise(places, values, "ci95"), "provenance": provenance}

    return run_study(files, tasks, "task", compute, result, print_table)


def measure_tasks(engine: Engine, split: data.Split, tasks: range, samples: int, checkpoint: str) -> Iterator[tuple]:
    """Yield the result of `measure` for each of these test tasks."""
    step = snapshots_step(engine, split, samples)
    for index in tasks:
        seed = fold(engine.stream_seed("test"), index)
        try:
            yield measure(step(*engine.episode(split, "test", index), seed), engine.shot, engine.query)
        except ValueError as fault:
            raise UserError(f"test task {index}: {fault}; the checkpoint {checkpoint} cannot be used") from fault


def print_table(result: dict) -> None:
    """Print a line for each row of the features."""
    *_, features, _ = dict.fromkeys(row["layer"] for row in result["rows"])
    print(f"features ({features}), mean +- 95 % interval over tasks")
    print("set     step  " + "  ".join(f"{name:>17}" for name in SHOWN))
    for row in result["rows"]:
        if row["layer"] == features:
            cells = (f"{row[n]:.3g} +- {row[n + '_ci95']:.2g}" if row[n] is not None else "undefined" for n in SHOWN)
            print(f"{row['set']:7} {row['step']:4}  " + "  ".join(f"{cell:>17}" for cell in cells))
