"""The export: what a learner does with a task, step by step, as exported.py lays it out."""

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

import data
import exported
import layers
import model
from engine import Engine, read
from errors import UserError
from files import write_atomically
from perturbations import Draw, fold, task_noise
from records import Stop, progress
from train import load_parameters, weights_digest

NEEDS = ("narrow", "trajectory", "features", "linear", "maps")


def spread(n: int, of: int) -> list[int]:
    """At most n of the numbers 0 to of - 1, evenly spread."""
    return sorted({round(x) for x in np.linspace(0, of - 1, min(n, of))})


def probe(engine: Engine, split: data.Split, *, way: int, samples: int, copies: int, images: int, channels: int):
    """-> the arrays that all tasks share, and step(index): the others of test episode `index`, without their K.

    samples: noise samples of an inner step's loss; copies: of a support image's features, 0 for no noise.
    """
    learner, shot, query = engine.learner, engine.shot, engine.query
    support = way * shot
    y_s, y_q = model.labels(way, shot), model.labels(way, query)
    by_class = np.arange(support).reshape(way, shot).T.ravel()  # the first image of each class, then the second
    rows, kept = by_class[:images], spread(channels, learner.channels)
    pixels = tf.constant(split.pixels)

    def choose(maps, samples):  # [1,samples*S,h,w,C] -> [samples,I,h,w,J]
        maps = tf.reshape(maps, [samples, support, *maps.shape[2:]])
        return tf.cast(tf.gather(tf.gather(maps, rows, axis=1), kept, axis=-1), tf.float16)

    def snapshot(params, adapted, x_s, x_q, still):
        (w, b), out = learner.linear(adapted), {}
        out["head_w"], out["head_b"] = w[0], b[0]
        for name, x, y in (("support", x_s, y_s), ("query", x_q, y_q)):
            h = learner.features(params, adapted, x)
            logits = layers.dense(h, w, b)
            out[f"{name}_features"] = h[0]
            out[f"{name}_predictions"] = tf.argmax(logits[0], -1, tf.int32)
            out[f"{name}_loss"] = layers.cross_entropy(logits, y)[0]
            out[f"{name}_accuracy"] = layers.accuracy(logits, y)[0]
        size = h.shape[-1]
        if copies:
            h = learner.features(params, adapted, tf.tile(x_s, [1, copies, 1, 1, 1]), still, copies)
        else:
            h = tf.zeros([0])
        out["perturbed_features"] = tf.reshape(h, [copies, support, size])
        return out

    def lower_maps(params, adapted, x_s, still):
        out = {}
        clean = learner.maps(params, adapted, x_s)
        if copies:
            perturbed = learner.maps(params, adapted, tf.tile(x_s, [1, copies, 1, 1, 1]), still, copies)
        for layer, (h, _) in clean.items():
            one = choose(h, 1)
            out[f"clean_{layer}"] = one[0]
            out[f"perturbed_{layer}"] = choose(perturbed[layer][0], copies) if copies else one[:0]
            factor = perturbed[layer][1] if copies else None
            out[f"noise_{layer}"] = one[:0] if factor is None else choose(factor, copies)
        return out

    @tf.function(autograph=False)
    def compiled(pixels, classes, images, index):
        x_s, x_q = data.gather(pixels, classes, images, split.rotations, split.scale, shot)
        # the seed of this episode in meta_test; its adaptation is that test's
        noise = task_noise(fold(tf.constant([engine.seed, data.STREAMS["test"]]), index)[None])
        # noise that no inner step draws, and the same in every snapshot; masks as in training
        still = Draw(noise, learner.n_steps, masked=True)
        params = learner.narrow(read(engine.params), way)
        steps = learner.trajectory(params, x_s, y_s, noise, samples)
        shots = [snapshot(params, adapted, x_s, x_q, still) for adapted in steps]
        out = {name: tf.stack([shot[name] for shot in shots]) for name in shots[0]}
        for name, x in (("support", x_s), ("query", x_q)):
            out[f"{name}_images"] = tf.cast(tf.round(255 * x[0]), tf.uint8)
        return out | lower_maps(params, steps[-1], x_s, still)

    def step(index: int) -> dict[str, np.ndarray]:
        classes, images = data.sample(split, "test", engine.seed, index, 1, way, shot + query)
        out = {k: v.numpy() for k, v in compiled(pixels, classes, images, tf.constant(index, tf.int32)).items()}
        digest = hashlib.sha256(repr((way, shot, query)).encode())
        for part in (classes, images, out["support_images"], out["query_images"]):
            digest.update(part.tobytes())
        return out | {"classes": classes[0], "images": images[0], "fingerprints": np.array(digest.hexdigest())}

    same = {
        "support_labels": np.repeat(np.arange(way, dtype=np.int32), shot),
        "query_labels": np.repeat(np.arange(way, dtype=np.int32), query),
        "map_images": np.asarray(rows, np.int32),
        "map_channels": np.asarray(kept, np.int32),
    }
    return same, step


def export(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    *,
    way: int,
    tasks: int,
    copies: int,
    images: int,
    channels: int,
    samples: int,
    checkpoint: str,
    settings: dict,
) -> int:
    """Write savedir's export.npz: the first `tasks` test episodes of `way` classes. Returns 0, or 130."""
    learner = engine.learner
    if not all(hasattr(learner, name) for name in NEEDS):
        raise UserError(f"the learner {settings['model']} has no linear head over features that could be exported")
    iteration = load_parameters(engine, savedir, checkpoint)
    copies = copies if learner.stochastic else 0
    same, step = probe(engine, split, way=way, samples=samples, copies=copies, images=images, channels=channels)
    found = []
    with Stop() as stop, progress(total=tasks, unit="task", desc="export") as bar:
        while len(found) < tasks and not stop.asked:
            found.append(step(len(found)))
            bar.update()
    if len(found) < tasks:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    arrays = same | {name: np.stack([task[name] for task in found]) for name in found[0]}
    exported.check(arrays)
    settings = settings | {"checkpoint": checkpoint, "iteration": iteration, "stochastic": learner.stochastic}
    settings |= {"weights_sha256": weights_digest(engine)}
    file = io.BytesIO()
    np.savez_compressed(file, format=np.int64(exported.FORMAT), settings=np.array(json.dumps(settings)), **arrays)
    write_atomically(savedir / exported.NAME, file.getvalue())
    print(f"{savedir / exported.NAME}: {tasks} tasks, {len(file.getvalue()) / 1e6:.1f} MB")
    return 0
