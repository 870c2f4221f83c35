"""How many attacked query images a learner still classifies: accuracy by the attack's budget, over test tasks.

A task's support images are clean, and the learner adapts to them as in a test. Then its query images are attacked
(attacks), with the gradient through the classifier that was adapted and not through the adaptation. Batch norm
couples the query images of a task: by the threat `joint` all of them are attacked together, up the sum of their losses;
by `remaining` together, up the losses of those that are not lost yet; by `single` each with the others clean. An image
counts as lost if it is misclassified at any place that the attack visited, or at the clean one.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import attacks
import data
import model
from errors import Stop
from files import write_atomically
from lazy import tf
from perturbations.draws import fold, standard_normal, task_noise
from ranges import UNIT, Range
from training.checkpoints import load_parameters, open_results
from training.identity import episodes_digest, weights_digest
from training.logs import progress_bar
from training.steps import Engine, read
from training.test_results import ATTACK_JSON as JSON
from training.test_results import ResultFiles, mean_and_interval

SEED = 2**20  # that of a task's attack, among the numbers that its own seed is folded with; the noise's are smaller
# Of the clean query images, means over a task: the margin by which the own logit is above the largest other one; the
# norms of the gradient that the attack follows; the share of images that have none to speak of (an L2 norm below GONE).
CLEAN = ("margin", "gradient_l1", "gradient_l2", "gradient_gone")
GONE = 1e-7


@dataclasses.dataclass(frozen=True)
class Attack:
    """method, norm, loss: of attacks.METHODS, NORMS and LOSSES. eps: radii of the ball. steps: of a restart. step: its
    size, as a share of eps. start: where a restart begins, `random` in the ball or at the `clean` image. threat:
    of attacks.THREATS. square_share: the first squares', as a share of the image, of a method that sets squares."""

    method: str
    norm: str
    eps: tuple[float, ...]
    steps: int
    step: float
    start: str
    restarts: int
    threat: str
    loss: str
    square_share: float | None = None

    def told(self) -> dict:
        """The settings that tell it from other attacks."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class Surrogate(NamedTuple):
    """A run whose gradients an attack follows: its engine, its folder and what tells it from others. draws: of how many
    adaptations to a task, each with noise of its own."""

    engine: Engine
    savedir: Path
    settings: dict
    draws: int


def classifier(engine: Engine, x_s, seeds, samples: int, inputs: Range = UNIT) -> Callable:
    """Return a function that classifies images x [T,Q,H,W,C] in [0, 1] -> logits [K*T,Q,way], after adaptation to
    network inputs x_s [T,S,H,W,C] with the noise of each of seeds [K*T,2]. inputs: the range of network inputs."""
    learner, params = engine.learner, read(engine.params)
    y = model.labels_of(x_s, learner.way)
    # One draw after the other: on a CPU a task's kernels are faster without a task axis.
    adapted = [
        learner.adapt(params, x_s, y, task_noise(own), samples)[0]
        for own in tf.split(seeds, seeds.shape[0] // x_s.shape[0])
    ]

    def classify(x):
        x = inputs.inputs(x)
        return tf.concat([learner.classify(params, one, x)[0] for one in adapted], 0)

    return classify


def attack_step(
    engine: Engine, split: data.Split, samples: int, attack: Attack, surrogate: Surrogate | None = None
) -> Callable:
    """-> step(first, tasks): of the test episodes first, first + 1, ...: is a query image lost, [tasks,E,Q], by the E
    radii; its worst place, [tasks,E,Q,H,W,C] in [0, 1]; the class that it is taken for there, [tasks,E,Q]; the measures
    of CLEAN, [tasks,4]; and the clean query images, [tasks,Q,H,W,C] in [0, 1].

    samples: noise samples of a loss in adaptation.
    """
    learner, pixels, eps = engine.learner, tf.constant(split.pixels), tf.constant(attack.eps, tf.float32)
    queries, method, loss = learner.way * engine.query, attacks.METHODS[attack.method], attacks.LOSSES[attack.loss]
    more = {"clean_start": True} if attack.start == "clean" else {}
    more |= {"share": attack.square_share} if method.squares else {}

    def group(tensors):
        x_s, x_q, seeds = tensors
        y, surrogate_classifier = model.labels_of(x_q, learner.way), None
        classify = classifier(engine, x_s, seeds, samples, split.range)
        if surrogate:
            others = [fold(seed, SEED + 1 + draw) for draw in range(surrogate.draws) for seed in tf.unstack(seeds)]
            surrogate_classifier = classifier(surrogate.engine, x_s, tf.stack(others), samples, split.range)

        def normals(number, k):
            own = [fold(fold(seed, SEED), number) for seed in tf.unstack(seeds)]
            return tf.concat([standard_normal([queries, k], seed) for seed in own], 0)

        if attack.threat == "single":
            oracle = attacks.single_oracle(classify, x_q, y, engine.parallel, loss, surrogate_classifier)
        else:
            oracle = attacks.joint_oracle(classify, y, loss, surrogate_classifier, attack.threat == "remaining")

        def of_eps(radius):
            norm, step = attacks.NORMS[attack.norm], attack.step * radius
            worst = method.run(oracle, x_q, y, norm, radius, step, attack.steps, attack.restarts, normals, **more)
            return worst.lost, worst.images, worst.labels

        dtypes = (tf.bool, tf.float32, tf.int32)
        results = tf.map_fn(of_eps, eps, fn_output_signature=dtypes, parallel_iterations=1)
        results = (tf.stack(tf.unstack(values), 1) for values in results)  # tasks first
        return *results, clean_measures(oracle, x_q, y), x_q

    @engine.compiled
    def compiled(pixels, classes, images, indices):
        x_s, x_q = engine.images(split, pixels, classes, images)
        seeds = tf.stack([fold(engine.stream_seed("test"), i) for i in tf.unstack(indices)])
        dtypes = (tf.bool, tf.float32, tf.int32, tf.float32, tf.float32)
        return engine.by_task(group, dtypes, [x_s, split.range.unit(x_q), seeds])

    def step(first: int, tasks: int) -> list[np.ndarray]:
        results = compiled(pixels, *engine.group_of_episodes(split, "test", first))
        return [values.numpy()[:tasks] for values in results]

    return step


def clean_measures(oracle: attacks.Oracle, x, y) -> tf.Tensor:
    """CLEAN, [T,4], of the images x [T,Q,H,W,C] with one-hot labels y [Q,way]."""
    logits, gradient = oracle(x)
    gradient = tf.reshape(gradient, [*x.shape[:2], -1])
    size = tf.norm(gradient, axis=-1)
    gone = tf.cast(size < GONE, x.dtype)
    measures = [-attacks.margin(logits, y), tf.norm(gradient, 1, -1), size, gone]
    return tf.reduce_mean(tf.stack(measures, -1), 1)


def over_tests(
    engine: Engine,
    split: data.Split,
    savedir: Path,
    *,
    attack: Attack,
    surrogate: Surrogate | None = None,
    episodes: int,
    samples: int,
    checkpoint: str,
    settings: dict,
    provenance: dict,
) -> int:
    """Attack savedir's checkpoint in the first test episodes; writes attack.json. Returns 0, or 130 when interrupted.

    A result that is there already is not computed again (test_results.ResultFiles); an interrupted attack continues.
    """
    told = attack.told()
    if split.range != UNIT:
        told["range"] = list(split.range)
    if surrogate:
        load_parameters(surrogate.engine, surrogate.savedir, checkpoint)
        digest = weights_digest(surrogate.engine)
        told["surrogate"] = surrogate.settings | {"weights_sha256": digest, "draws": surrogate.draws}
    files = open_results(
        engine,
        savedir,
        Path(JSON).stem,
        checkpoint=checkpoint,
        samples=samples,
        settings=settings | {"attack": told},
        episodes=episodes,
        episodes_sha256=episodes_digest(engine, split, episodes),
    )
    result = files.read()
    if result is None:
        kept = attack_episodes(engine, split, files, episodes, samples, attack, surrogate)
        if len(kept) < episodes:
            print(f"interrupted after {len(kept)} episodes; the same command goes on from there", file=sys.stderr)
            return 130
        result = result_of(kept, attack) | {"provenance": provenance}
    else:
        print(f"attacked before: {files.path} is taken as it is (delete it to attack again)")
    print_table(result)
    files.write(result)
    return 0


def attack_episodes(
    engine: Engine, split, files: ResultFiles, episodes: int, samples: int, attack: Attack, surrogate: Surrogate | None
) -> np.ndarray:
    """The share of query images that are still classified, by radius, and CLEAN's measures, [episodes,E+4]; of fewer
    where it was interrupted: they are in `partial`."""
    step, saved = attack_step(engine, split, samples, attack, surrogate), time.time()
    kept = done_before(files.partial, attack)[:episodes]
    with Stop() as stop, progress_bar(total=episodes, initial=len(kept), unit="episode", desc="attack") as bar:
        while len(kept) < episodes and not stop.asked:
            tasks = min(engine.metabatch, episodes - len(kept))
            lost, worst, label, measures, clean = step(len(kept), tasks)
            if not len(kept):
                write_sheet(files.path.with_suffix(".npz"), worst[0], label[0], clean[0], engine.query)
            kept = np.concatenate([kept, np.concatenate([1 - lost.mean(-1), measures], -1)])
            bar.update(tasks)
            shares = kept.mean(0)[: len(attack.eps)]
            bar.set_postfix_str(" ".join(f"{100 * share:.1f}" for share in shares), refresh=False)
            if stop.asked or time.time() - saved > 10:
                file = io.BytesIO()
                np.save(file, kept)
                files.write_partial(file.getvalue())
                saved = time.time()
    return kept


def write_sheet(path: Path, worst: np.ndarray, label: np.ndarray, clean: np.ndarray, query: int) -> None:
    """Of the first episode each class' first query image, for figures: `images` [E,way,H,W,C], in [0, 1], by radius,
    `labels` [E,way], what each is taken for, and `clean` [way,H,W,C]."""
    file = io.BytesIO()
    np.savez_compressed(file, images=worst[:, ::query], labels=label[:, ::query], clean=clean[::query])
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, file.getvalue())


def done_before(part: Path, attack: Attack) -> np.ndarray:
    """What an interrupted attack left, as `attack_episodes`."""
    nothing = np.zeros((0, len(attack.eps) + len(CLEAN)))
    try:
        kept = np.load(part, allow_pickle=False)
    except Exception:  # there is none, or it is damaged: it is only time that is lost
        return nothing
    return kept if kept.ndim == 2 and kept.shape[1] == nothing.shape[1] else nothing


def result_of(kept: np.ndarray, attack: Attack) -> dict:
    """What attack.json says: by radius, accuracy and its 95 % interval in percent, and the episodes' accuracies; and of
    the clean images, `clean`, CLEAN's measures."""
    shares, clean = np.split(kept.T, [len(attack.eps)])
    means = [mean_and_interval(column) for column in shares]
    return {
        "eps": list(attack.eps),
        "accuracy": [mean for mean, _ in means],
        "interval95": [interval for _, interval in means],
        "accuracies": (100 * shares).tolist(),
        "clean": dict(zip(CLEAN, clean.mean(-1).tolist(), strict=True)),
    }


def print_table(result: dict) -> None:
    print("eps      accuracy +- 95 % interval over episodes")
    for eps, accuracy, interval in zip(result["eps"], result["accuracy"], result["interval95"], strict=True):
        print(f"{eps:<7g}  {accuracy:.2f} +- {interval:.2f}")
    told = "clean images: margin {margin:.2f}; norm of the gradient L1 {gradient_l1:.2g}, L2 {gradient_l2:.2g}; none: "
    print(told.format(**result["clean"]) + f"{100 * result['clean']['gradient_gone']:.1f} %")
