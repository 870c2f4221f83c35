"""--mode export: write what a learner does with test tasks, step by step, in the layout of export_format.py."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import data
import layers
import model
from errors import Stop, UserError
from files import refuse_unwritable, write_atomically
from lazy import tf
from perturbations.draws import TRAINING_SUPPORT, Draw, fold, task_noise
from settings import setting, whole
from studies import export_format
from training.checkpoints import CheckpointSettings, load_parameters
from training.identity import weights_digest
from training.logs import progress_bar
from training.steps import Engine, read


@dataclass(frozen=True)
class ExportSettings(CheckpointSettings):
    """The size of an export."""

    way: int = setting(2, "classes per task", whole(2, 100_000))
    export_tasks: int = setting(10, "test tasks", whole(1))
    export_samples: int = setting(10, "perturbed copies of a support image's features", whole(1))
    export_images: int = setting(2, "support images per task whose maps are exported", whole(1))
    export_channels: int = setting(6, "channels of those maps, evenly spread", whole(1))


def evenly(count: int, size: int) -> list[int]:
    """Return at most `count` of the numbers 0 to size - 1, evenly spread."""
    return sorted({round(x) for x in np.linspace(0, size - 1, min(count, size))})


class Exporter:
    """Exports test episodes, one by one.

    samples: noise samples of an inner step's loss. copies: the number of perturbed copies of each support image's
    features.
    """

    def __init__(self, engine: Engine, split: data.Split, settings: ExportSettings, samples: int, copies: int):
        self.engine, self.learner, self.split, self.way = engine, engine.learner, split, settings.way
        self.samples, self.copies = samples, copies
        self.support = self.way * engine.shot
        by_class = np.arange(self.support).reshape(self.way, -1)  # its columns: the first image of each class, ...
        self.map_images = by_class.T.ravel()[: settings.export_images]
        self.map_channels = evenly(settings.export_channels, engine.learner.channels)
        self.pixels, self.compiled = tf.constant(split.pixels), tf.function(self.task, autograph=False)

    def shared(self) -> dict[str, np.ndarray]:
        """Return the arrays that all tasks share, by name."""
        classes = np.arange(self.way, dtype=np.int32)
        return {
            "support_labels": np.repeat(classes, self.engine.shot),
            "query_labels": np.repeat(classes, self.engine.query),
            "map_images": np.asarray(self.map_images, np.int32),
            "map_channels": np.asarray(self.map_channels, np.int32),
        }

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Return the other arrays of test episode `index`, without the axis K."""
        engine, way = self.engine, self.way
        classes, images = engine.episode(self.split, "test", index, way=way)
        tensors = self.compiled(self.pixels, classes, images, tf.constant(index, tf.int32))
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        digest = hashlib.sha256(repr((way, engine.shot, engine.query)).encode())
        for array in (classes, images, arrays["support_images"], arrays["query_images"]):
            digest.update(array.tobytes())
        return arrays | {"classes": classes[0], "images": images[0], "fingerprints": np.array(digest.hexdigest())}

    def task(self, pixels, classes, images, index) -> dict[str, tf.Tensor]:
        """Return one task's tensors in a graph. The learner adapts exactly as meta_test does on this episode."""
        engine, learner = self.engine, self.learner
        x_s, x_q = engine.images(self.split, pixels, classes, images)
        noise = task_noise(fold(engine.stream_seed("test"), index)[None])
        draw = Draw(noise, learner.unused_step, TRAINING_SUPPORT, self.copies)  # the same noise in every snapshot
        params = learner.narrow(read(engine.params), self.way)
        steps = learner.trajectory(params, x_s, model.labels(self.way, engine.shot), noise, self.samples)
        snapshots = [self.snapshot(params, adapted, x_s, x_q, draw) for adapted in steps]
        arrays = {name: tf.stack([snapshot[name] for snapshot in snapshots]) for name in snapshots[0]}
        for name, x in (("support", x_s), ("query", x_q)):
            arrays[f"{name}_images"] = tf.cast(tf.round(255 * self.split.range.unit(x[0])), tf.uint8)
        return arrays | self.maps(params, steps[-1], x_s, draw)

    def snapshot(self, params, adapted, x_s, x_q, draw: Draw) -> dict[str, tf.Tensor]:
        """Return the head, the features, predictions, losses and accuracies with the learner `adapted`."""
        (w, b), arrays = self.learner.linear(adapted), {}
        arrays["head_w"], arrays["head_b"] = w[0], b[0]
        for name, x in (("support", x_s), ("query", x_q)):
            h = self.learner.features(params, adapted, x)
            logits = layers.dense(h, w, b)
            arrays[f"{name}_features"] = h[0]
            arrays[f"{name}_predictions"] = tf.argmax(logits[0], -1, tf.int32)
            numbers = model.measure(logits, model.labels_of(x, self.way))
            arrays |= {f"{name}_{number}": values[0] for number, values in numbers.items()}
        perturbed = tf.zeros([0])
        if self.copies:
            perturbed = self.learner.features(params, adapted, self.copied(x_s), draw)
        arrays["perturbed_features"] = tf.reshape(perturbed, [self.copies, self.support, h.shape[-1]])
        return arrays

    def maps(self, params, adapted, x_s, draw: Draw) -> dict[str, tf.Tensor]:
        """Return every layer's chosen maps, without noise and with it, and the factors by which noise multiplies
        them."""
        clean, perturbed, arrays = self.learner.maps(params, adapted, x_s), {}, {}
        if self.copies:
            perturbed = self.learner.maps(params, adapted, self.copied(x_s), draw)
        for layer, (h, _) in clean.items():
            chosen = self.choose(h, 1)
            arrays[f"clean_{layer}"] = chosen[0]
            for name, maps in zip(("perturbed", "noise"), perturbed.get(layer, (None, None)), strict=True):
                arrays[f"{name}_{layer}"] = chosen[:0] if maps is None else self.choose(maps, self.copies)
        return arrays

    def copied(self, x):
        return tf.tile(x, [1, self.copies, 1, 1, 1])

    def choose(self, maps, samples: int):
        """Return the chosen images' and channels' maps: [1,samples*S,h,w,C] -> [samples,I,h,w,J], float16."""
        maps = tf.reshape(maps, [samples, self.support, *maps.shape[2:]])
        return tf.cast(tf.gather(tf.gather(maps, self.map_images, axis=1), self.map_channels, axis=-1), tf.float16)


def export(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    settings: ExportSettings,
    *,
    samples: int,
    described: dict,
) -> int:
    """Write savedir's export.npz: the first test episodes. Return the exit code: 0, or 130 if the user stops it.

    samples: noise samples of an inner step's loss. described: settings for the file.
    """
    learner, tasks = engine.learner, settings.export_tasks
    if not learner.inspectable:
        name = type(learner).__name__
        raise UserError(f"an export needs a linear head over features, and the learner {name} has none")
    iteration = load_parameters(engine, savedir, settings.checkpoint)
    refuse_unwritable(savedir, export_format.NAME)
    perturbation = learner.perturbation  # a mixture with another image is no copy of an image
    stochastic = TRAINING_SUPPORT in perturbation.random_in and "labels" not in perturbation.hooks
    exporter = Exporter(engine, split, settings, samples, copies=settings.export_samples if stochastic else 0)
    episodes = []
    with Stop() as stop, progress_bar(total=tasks, unit="task", desc="export") as bar:
        while len(episodes) < tasks and not stop.asked:
            episodes.append(exporter.episode(len(episodes)))
            bar.update()
    if len(episodes) < tasks:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    arrays = exporter.shared() | {name: np.stack([episode[name] for episode in episodes]) for name in episodes[0]}
    export_format.check(arrays)
    described = described | {"checkpoint": settings.checkpoint, "iteration": iteration, "stochastic": stochastic}
    described |= {"weights_sha256": weights_digest(engine)}
    file = io.BytesIO()
    np.savez_compressed(file, format=np.int64(export_format.FORMAT), settings=np.array(json.dumps(described)), **arrays)
    write_atomically(savedir / export_format.NAME, file.getvalue())
    print(f"{savedir / export_format.NAME}: {tasks} tasks, {len(file.getvalue()) / 1e6:.1f} MB")
    return 0
