"""The study of a learner's neural collapse: watched while it trains, and measured over test tasks.

Rows are the places of a measurement: a set (support, query), a snapshot of the adaptation (0: the meta-model; n: after
the n-th inner step), a layer (each block's pooled output, the features last, then the logits). All is as in testing:
features are unperturbed, learned noise perturbs the adaptation, masks are off.
"""

from __future__ import annotations

import csv
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import data
import model
from errors import Stop, UserError
from files import write_atomically
from lazy import tf
from perturbations.draws import fold, task_noise
from studies.collapse_measures import NAMES, measures
from training.checkpoints import open_results
from training.logs import TensorBoard, progress_bar
from training.programs import without_pixels
from training.steps import Engine, read
from training.test_results import COLLAPSE_CSV as CSV
from training.test_results import COLLAPSE_JSON as JSON
from training.test_results import ResultFiles

PLACE = ("set", "step", "layer")


def snapshots_step(engine: Engine, split: data.Split, samples: int) -> Callable[..., dict]:
    """-> step(classes [1,way], images [1,way,shot+query], seed [2]): what the learner makes of one task, as in testing.

    It returns {"support", "query": {layer: [P,N,D]}, "head": (weights [P,D,way], biases [P,way])} at the P snapshots
    before the first inner step and after each.
    """
    pixels, compiled = tf.constant(split.pixels), engine.program(compile_snapshots, without_pixels(split), samples)

    def step(*task):
        return tf.nest.map_structure(lambda x: x.numpy(), compiled(engine.params, pixels, *map(tf.constant, task)))

    return step


def compile_snapshots(engine: Engine, split: data.Split, samples: int) -> Callable:
    """-> a function of parameters, pixels, classes, images and seed."""
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
    """Of one task, as `snapshots_step` leaves it -> the rows' places, and NAMES of each [R,M], NaN where there is
    none."""
    rows, values = [], []
    w, b = snapshots["head"]
    for part, images in (("support", shot), ("query", query)):
        labels = np.repeat(np.arange(w.shape[-1]), images)
        *_, last = snapshots[part]
        for step in range(len(w)):
            outputs = {layer: h[step] for layer, h in snapshots[part].items()}
            logits = outputs[last] @ w[step] + b[step]
            for layer, h in (outputs | {"logits": logits}).items():
                head = w[step] if layer == last else None
                values.append(measures(h, labels, head, logits.argmax(-1)))
                rows.append((part, step, layer))
    return rows, np.array([[row.get(name, np.nan) for name in NAMES] for row in values])


def summarise(rows: list[tuple], values: np.ndarray, spread: str) -> list[dict]:
    """values [T,R,M] of T tasks -> a dict a row: its place, and each measure's mean and `spread` (std, or ci95:
    1.96 std / sqrt(tasks)) over the tasks where it is defined; None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing defined
        mean = np.nanmean(values, 0)
        deviation = np.nanstd(values - np.nanmin(values, 0), 0)  # of a constant exactly 0
    if spread == "ci95":
        deviation = 1.96 * deviation / np.sqrt(np.maximum(np.isfinite(values).sum(0), 1))
    table = []
    for place, means, deviations in zip(rows, mean, deviation, strict=True):
        row = dict(zip(PLACE, place, strict=True))
        for name, m, s in zip(NAMES, means, deviations, strict=True):
            row |= {name: float(m), f"{name}_{spread}": float(s)} if np.isfinite(m) else {name: None}
        table.append(row)
    return table


def refuse_unfit(engine: Engine) -> None:
    if not engine.learner.inspectable:
        name = type(engine.learner).__name__
        raise UserError(f"the learner {name} declares no features whose collapse could be measured")


class Watch:
    """Measures an iteration's tasks (where training has another way than testing, as many of the testing's), with the
    parameters after its update, into collapse.csv and TensorBoard (there: features and logits, before and after
    adaptation).

    A resumed run writes again what it does again.
    """

    def __init__(self, engine: Engine, split: data.Split, savedir: Path, shared_classes: bool = False):
        self.engine, self.split, self.savedir, self.shared = engine, split, savedir, shared_classes
        refuse_unfit(engine)
        self.step, self.board = snapshots_step(engine, split, 1), None

    def __call__(self, iteration: int) -> None:
        engine, values = self.engine, []
        classes, images = engine.episode(self.split, "train", iteration, engine.metabatch, self.shared)
        seed = fold(engine.stream_seed("train"), iteration)
        for task in range(engine.metabatch):
            snapshots = self.step(classes[task : task + 1], images[task : task + 1], fold(seed, task))
            try:
                rows, of_task = measure(snapshots, engine.shot, engine.query)
            except ValueError as fault:
                raise UserError(
                    f"iteration {iteration}: {fault}, so that their collapse cannot be measured: lower --meta_lr or "
                    f"--inner_lr"
                ) from fault
            values.append(of_task)
        self._write(iteration, summarise(rows, np.array(values), "std"))

    def _write(self, iteration: int, rows: list[dict]) -> None:
        columns = ["iter", *PLACE, "tasks", *(f"{name}{s}" for name in NAMES for s in ("", "_std"))]
        path = self.savedir / CSV
        if self.board is None:
            self.board = TensorBoard(self.savedir)
            cut_back(path, columns, iteration)
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            for row in rows:
                cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                writer.writerow(cells | {"iter": iteration, "tasks": self.engine.metabatch})
        self.board.write(iteration, scalars(rows))


def cut_back(path: Path, columns: list[str], iteration: int) -> None:
    """Leave the rows before this iteration in the table at `path`; a new table has its columns' names alone."""
    with open(path, newline="") if path.exists() else io.StringIO() as file:
        earlier = [row for row in csv.DictReader(file) if int(row["iter"]) < iteration]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(earlier)
    write_atomically(path, text.getvalue())


def scalars(rows: list[dict]) -> dict[str, float]:
    """TensorBoard's values by tag: of the features and the logits, before and after adaptation."""
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
    *,
    tasks: int,
    samples: int,
    checkpoint: str,
    settings: dict,
    provenance: dict,
) -> int:
    """Measure savedir's checkpoint over the first `tasks` test tasks; writes collapse.json. Returns 0, or 130.

    A result that is there already is not measured again (test_results.ResultFiles); what is done so far is kept, and an
    interrupted measurement goes on from there.
    """
    refuse_unfit(engine)
    files = open_results(
        engine, savedir, Path(JSON).stem, checkpoint=checkpoint, samples=samples, settings=settings, tasks=tasks
    )
    result = files.read()
    if result is None:
        rows, values = measure_tasks(engine, split, files, tasks, samples, checkpoint)
        if len(values) < tasks:
            print(f"interrupted after {len(values)} tasks; the same command goes on from there", file=sys.stderr)
            return 130
        result = {"rows": summarise(rows, np.array(values), "ci95"), "provenance": provenance}
    else:
        print(f"measured before: {files.path} is taken as it is (delete it to measure again)")
    print_table(result["rows"])
    files.write(result)
    return 0


def measure_tasks(engine: Engine, split: data.Split, files: ResultFiles, tasks: int, samples: int, checkpoint: str):
    """-> `measure`'s rows, and the values of every task; of fewer after an interruption: then they are in `partial`."""
    step = snapshots_step(engine, split, samples)
    values, rows, saved = done_before(files.partial)[:tasks], [], time.time()
    with Stop() as stop, progress_bar(total=tasks, initial=len(values), unit="task", desc="collapse") as bar:
        while not rows or (len(values) < tasks and not stop.asked):
            index = min(len(values), tasks - 1)
            seed = fold(engine.stream_seed("test"), index)
            try:
                rows, of_task = measure(step(*engine.episode(split, "test", index), seed), engine.shot, engine.query)
            except ValueError as fault:
                raise UserError(f"test task {index}: {fault}; the checkpoint {checkpoint} is of no use") from fault
            if len(values) < tasks:
                values.append(of_task)
                bar.update()
            if stop.asked or time.time() - saved > 10:
                file = io.BytesIO()
                np.save(file, np.array(values))
                files.write_partial(file.getvalue())
                saved = time.time()
    return rows, values


def done_before(part: Path) -> list[np.ndarray]:
    """The values of the tasks that an interrupted measurement left."""
    try:
        return list(np.load(part, allow_pickle=False))
    except Exception:  # there is none, or it is damaged: it is only time that is lost
        return []


def print_table(table: list[dict]) -> None:
    """The features' row of each set and snapshot."""
    *_, features, _ = dict.fromkeys(row["layer"] for row in table)
    shown = ("nc1", "nc2_norm_means", "nc2_angle_means", "nc2_norm_weights", "nc2_angle_weights", "nc3", "nc4")
    print(f"features ({features}), mean +- 95 % interval over tasks")
    print("set     step  " + "  ".join(f"{name:>17}" for name in shown))
    for row in table:
        if row["layer"] == features:
            cells = (f"{row[n]:.3g} +- {row[n + '_ci95']:.2g}" if row[n] is not None else "undefined" for n in shown)
            print(f"{row['set']:7} {row['step']:4}  " + "  ".join(f"{cell:>17}" for cell in cells))
