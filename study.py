"""Neural collapse of a learner: watched while it trains, and measured over test tasks.

Rows are the places of a measurement: a set (support, query), a snapshot of the adaptation (0: the meta-model; n: after
the n-th inner step), a layer (each block's pooled output, the features last, then the logits). All is as in testing:
features are unperturbed, learned noise perturbs the adaptation, masks are off.
"""

import csv
import io
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf

import collapse
import data
from engine import Engine
from errors import UserError
from files import write_atomically
from perturbations import fold
from records import Stop, progress
from results import COLLAPSE_CSV as CSV
from results import COLLAPSE_JSON as JSON
from results import Store
from train import load_parameters, weights_digest

NEEDS = ("activations", "trajectory", "linear")
PLACE = ("set", "step", "layer")


def measure(found: dict, shot: int, query: int) -> tuple[list[tuple], np.ndarray]:
    """Of one task, as Engine.probe_step leaves it -> the rows' places, and collapse.NAMES of each [R,M], NaN where
    there is none."""
    rows, values = [], []
    w, b = found["head"]
    for part, images in (("support", shot), ("query", query)):
        labels = np.repeat(np.arange(w.shape[-1]), images)
        *_, last = found[part]
        for step in range(len(w)):
            here = {layer: h[step] for layer, h in found[part].items()}
            logits = here[last] @ w[step] + b[step]
            for layer, h in (here | {"logits": logits}).items():
                head = w[step] if layer == last else None
                values.append(collapse.measures(h, labels, head, logits.argmax(-1)))
                rows.append((part, step, layer))
    return rows, np.array([[of.get(name, np.nan) for name in collapse.NAMES] for of in values])


def summarise(rows: list[tuple], values: np.ndarray, spread: str) -> list[dict]:
    """values [T,R,M] of T tasks -> a dict a row: its place, and each measure's mean and `spread` (std, or ci95:
    1.96 std / sqrt(tasks)) over the tasks where it is defined; None where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing defined
        mean = np.nanmean(values, 0)
        deviation = np.nanstd(values - np.nanmin(values, 0), 0)  # of a constant exactly 0
    if spread == "ci95":
        deviation = 1.96 * deviation / np.sqrt(np.maximum(np.isfinite(values).sum(0), 1))
    out = []
    for place, centre, around in zip(rows, mean, deviation, strict=True):
        row = dict(zip(PLACE, place, strict=True))
        for name, m, s in zip(collapse.NAMES, centre, around, strict=True):
            row |= {name: float(m), f"{name}_{spread}": float(s)} if np.isfinite(m) else {name: None}
        out.append(row)
    return out


def refuse_unfit(engine: Engine, settings: dict) -> None:
    if not all(hasattr(engine.learner, name) for name in NEEDS):
        raise UserError(f"the learner {settings['model']} declares no features whose collapse could be measured")


class Watch:
    """Measures every task of an iteration's metabatch, with the parameters after its update, into collapse.csv and
    TensorBoard (there: features and logits, before and after adaptation).

    A resumed run writes again what it does again.
    """

    def __init__(self, engine: Engine, split: data.Split, savedir: Path, shared_classes: bool = False):
        self.engine, self.split, self.savedir, self.shared = engine, split, savedir, shared_classes
        self.step, self.board = engine.probe_step(split, 1), None

    def __call__(self, iteration: int) -> None:
        e = self.engine
        classes, images = e.episode(self.split, "train", iteration, e.metabatch, self.shared)
        seed = fold(tf.constant([e.seed, data.STREAMS["train"]]), iteration)
        values = []
        for task in range(e.metabatch):
            found = self.step(classes[task : task + 1], images[task : task + 1], fold(seed, task))
            try:
                rows, one = measure(found, e.shot, e.query)
            except ValueError as fault:
                raise UserError(
                    f"iteration {iteration}: {fault}, so that their collapse cannot be measured: lower --meta_lr or "
                    f"--inner_lr"
                ) from fault
            values.append(one)
        self._write(iteration, summarise(rows, np.array(values), "std"))

    def _write(self, iteration: int, rows: list[dict]) -> None:
        columns = ["iter", *PLACE, "tasks", *(f"{name}{s}" for name in collapse.NAMES for s in ("", "_std"))]
        path = self.savedir / CSV
        if self.board is None:
            self.board = tf.summary.create_file_writer(str(self.savedir / "tensorboard"))
            with open(path, newline="") if path.exists() else io.StringIO() as file:
                kept = [row for row in csv.DictReader(file) if int(row["iter"]) < iteration]
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
            write_atomically(path, text.getvalue())
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            for row in rows:
                cells = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                writer.writerow(cells | {"iter": iteration, "tasks": self.engine.metabatch})
        last, (*_, features, logits) = rows[-1]["step"], dict.fromkeys(row["layer"] for row in rows)
        with self.board.as_default(step=iteration):
            for row in rows:
                if row["layer"] in (features, logits) and row["step"] in (0, last):
                    when = "adapted" if row["step"] else "meta"
                    for name in collapse.NAMES:
                        if row[name] is not None:
                            tag = f"collapse_{row['set']}_{when}/{row['layer']}_{name}"
                            tf.summary.scalar(tag, row[name])
        self.board.flush()


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

    A result that is there already is not measured again (results.Store); what is done so far is kept, and an
    interrupted measurement goes on from there.
    """
    refuse_unfit(engine, settings)
    iteration = load_parameters(engine, savedir, checkpoint)
    store = Store(
        savedir,
        Path(JSON).stem,
        {
            "settings": settings,
            "checkpoint": checkpoint,
            "iteration": iteration,
            "weights_sha256": weights_digest(engine),
            "n_test_mc_samp": samples,
            "tasks": tasks,
        },
    )
    result = store.read()
    if result is None:
        rows, values = measure_tasks(engine, split, store, tasks, samples, checkpoint)
        if len(values) < tasks:
            print(f"interrupted after {len(values)} tasks; the same command goes on from there", file=sys.stderr)
            return 130
        result = {"rows": summarise(rows, np.array(values), "ci95"), "provenance": provenance}
    else:
        print(f"measured before: {store.own} is taken as it is (delete it to measure again)")
    store.write(result)
    print_table(result["rows"])
    return 0


def measure_tasks(engine: Engine, split: data.Split, store: Store, tasks: int, samples: int, checkpoint: str):
    """-> `measure`'s rows, and the values of every task; of fewer where it was interrupted: the store has those."""
    step = engine.probe_step(split, samples)
    values, rows, saved = done_before(store.part)[:tasks], [], time.time()
    with Stop() as stop, progress(total=tasks, initial=len(values), unit="task", desc="collapse") as bar:
        while not rows or (len(values) < tasks and not stop.asked):
            index = min(len(values), tasks - 1)
            seed = fold(tf.constant([engine.seed, data.STREAMS["test"]]), index)
            try:
                rows, one = measure(step(*engine.episode(split, "test", index), seed), engine.shot, engine.query)
            except ValueError as fault:
                raise UserError(f"test task {index}: {fault}; the checkpoint {checkpoint} is of no use") from fault
            if len(values) < tasks:
                values.append(one)
                bar.update()
            if stop.asked or time.time() - saved > 10:
                file = io.BytesIO()
                np.save(file, np.array(values))
                store.write_part(file.getvalue())
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
