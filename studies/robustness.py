"""Accuracy on attacked query images of test tasks, for each radius of the attack.

A learner adapts to the clean support images of a task, as in a test. Then the query images are attacked (attacks/),
with gradients through the adapted classifier, not through the adaptation. Batch norm couples the query images of a
task: the threat `joint` attacks all of them together and raises the sum of their losses; `remaining` also together, but
raises the losses of those that are not lost yet; `single` attacks each while the others are clean. An image is lost if
it is misclassified at any point that the attack visits, or when it is clean.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import attacks
import data
import model
from errors import UserError
from files import write_atomically
from lazy import tf
from perturbations.draws import fold, standard_normal, task_noise
from ranges import UNIT, Range
from settings import not_negative, path_text, positive, setting, whole
from studies.resumable import run_study
from training.checkpoints import load_parameters, open_results
from training.identity import episodes_digest, weights_digest
from training.intervals import mean_and_interval
from training.loops import MetaTestSettings
from training.steps import Engine, read
from training.test_results import ATTACK_JSON as JSON
from training.test_results import refuse_diverged

ATTACK = 2**20  # folded into a task's seed to draw the attack's random numbers; the learner's noise folds smaller ones
# Measures of the clean query images, means over a task: the margin of the true class' logit over the largest other one;
# the norms of the attack's gradient; the share of images without a gradient (an L2 norm below GONE).
CLEAN = ("margin", "gradient_l1", "gradient_l2", "gradient_gone")
GONE = 1e-7


@dataclasses.dataclass(frozen=True)
class Attack:
    """method, norm, threat, loss: names in attacks.METHODS, NORMS, THREATS and LOSSES. eps: the ball's radii. steps:
    per restart. step: the size of a step, as a share of eps. start: a restart begins at a `random` point of the ball or
    at the `clean` image. square_share: the share of the image that the first squares cover; None if the method sets no
    squares."""

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

    def identity(self) -> dict:
        """Return the fields by name, without None: they distinguish the attack from others."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def share(text: str) -> float:
    """Read a number above 0 and at most 1."""
    if (value := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and of at most 1, not {text!r}")
    return value


share.metavar = "X"


@dataclasses.dataclass(frozen=True)
class AttackSettings(MetaTestSettings):
    """How the query images are attacked."""

    attack_method: str = setting(
        "pgd",
        "pgd: projected gradient descent; square: a random search without gradients, for linf",
        choices=attacks.METHODS,
    )
    norm: str = setting(
        "linf",
        "norm of a perturbation; l1: steps on the pixels with the largest gradients; l1_dense: along the gradient",
        choices=attacks.NORMS,
    )
    eps: tuple[float, ...] | None = setting(
        None,
        "largest norms of a perturbation, for pixels mapped onto [0, 1] (default: the paper's, for linf 0 0.02 .. 0.1)",
        not_negative,
        nargs="+",
    )
    attack_steps: int = setting(40, "steps of a restart", whole(1))
    attack_step: float | None = setting(None, "size of a step, as a share of eps (default: 2.5 / steps)", positive)
    square_share: float = setting(
        attacks.SQUARE,
        "share of the image that the first squares of --attack_method square cover; later ones are smaller (its "
        "authors take 0.05, and 0.8 for MNIST)",
        share,
    )
    attack_start: str = setting(
        "random",
        "where a restart of pgd starts: anywhere in the ball, or at the clean image",
        choices=["random", "clean"],
    )
    restarts: int = setting(1, "restarts; the worst step of all restarts counts", whole(1))
    threat: str = setting(
        "joint",
        "joint: attack all query images of a task together, to raise the sum of their losses; remaining: together, to "
        "raise the losses of those that are still classified correctly; single: one image at a time, while the others "
        "stay clean (slower)",
        choices=attacks.THREATS,
    )
    attack_loss: str = setting(
        "cross_entropy",
        "loss that pgd raises; margin: the largest logit of another class minus the logit of the true one",
        choices=attacks.LOSSES,
    )
    surrogate: str | None = setting(
        None,
        "run that pgd takes gradients from, in place of --savedir: another learner, or the same run with other noise; "
        "--checkpoint chooses its checkpoint, too",
        path_text,
        metavar="D2",
    )
    surrogate_draws: int = setting(
        1, "adaptations of the surrogate, each with different noise; its loss is averaged over them", whole(1)
    )

    def attack(self) -> Attack:
        """Return the attack with these settings."""
        return Attack(
            method=self.attack_method,
            norm=self.norm,
            eps=tuple(map(float, self.eps or attacks.NORMS[self.norm].budgets)),
            steps=self.attack_steps,
            step=self.attack_step or attacks.MADRY / self.attack_steps,
            start=self.attack_start,
            restarts=self.restarts,
            threat=self.threat,
            loss=self.attack_loss,
            square_share=self.square_share if attacks.METHODS[self.attack_method].squares else None,
        )

    def refuse_idle(self, flags: Collection[str]) -> None:
        """Raise UserError if the attack does not use one of the user's `flags`, or if there is no such attack."""
        name, method = self.attack_method, attacks.METHODS[self.attack_method]
        of_gradients = {"attack_step", "attack_start", "attack_loss", "surrogate"} & set(flags)
        if not method.gradients and (of_gradients or self.threat == "remaining"):
            flag = min(of_gradients, default="threat remaining")
            raise UserError(f"--{flag} needs a gradient-based attack, and {name} uses no gradients: leave it out")
        if "square_share" in flags and not method.squares:
            raise UserError(f"--square_share needs --attack_method square, not {name}: leave it out")
        if self.norm not in method.norms:
            raise UserError(f"--attack_method {name} is made for --norm {' or '.join(method.norms)}")
        if self.attack_start == "clean" and self.restarts > 1:
            raise UserError(
                "all --restarts start at the clean image and are equal: leave --attack_start or --restarts out"
            )
        if "surrogate_draws" in flags and not self.surrogate:
            raise UserError("--surrogate_draws needs a surrogate: give --surrogate, or leave it out")


class Surrogate(NamedTuple):
    """The run that an attack takes its gradients from. settings: they distinguish it from other runs. draws: how many
    times it adapts to a task, each time with different noise."""

    engine: Engine
    savedir: Path
    settings: dict
    draws: int


def classifier(engine: Engine, x_s, seeds, samples: int, inputs: Range = UNIT) -> Callable:
    """Return a function of images x [T,Q,H,W,C] in [0, 1] that returns logits [K*T,Q,way], after K adaptations to the
    network inputs x_s [T,S,H,W,C] with the noise of seeds [K*T,2]. inputs: the range of network inputs."""
    learner, params = engine.learner, read(engine.params)
    y = model.labels_of(x_s, learner.way)
    # One draw after the other: on a CPU a task's kernels are faster without a task axis.
    adapted = [
        learner.adapt(params, x_s, y, task_noise(draw, x_s.dtype), samples)[0]
        for draw in tf.split(seeds, seeds.shape[0] // x_s.shape[0])
    ]

    def classify(x):
        x = inputs.inputs(x)
        return tf.concat([learner.classify(params, one, x)[0] for one in adapted], 0)

    return classify


def attack_step(
    engine: Engine, split: data.Split, samples: int, attack: Attack, surrogate: Surrogate | None = None
) -> Callable[[int, int], list[np.ndarray]]:
    """Return a function of `first` and `tasks`, which attacks the query images of the test episodes first, first + 1,
    ... It returns, for each of the E radii, whether an image is lost, bool [tasks,E,Q], its worst point
    [tasks,E,Q,H,W,C] in [0, 1], and the class predicted there [tasks,E,Q]; and the measures CLEAN [tasks,4] and the
    clean images.

    samples: noise samples of an inner loss.
    """
    learner, pixels, eps = engine.learner, tf.constant(split.pixels), tf.constant(attack.eps, tf.float32)
    queries, method, loss = learner.way * engine.query, attacks.METHODS[attack.method], attacks.LOSSES[attack.loss]
    more = {"clean_start": True} if attack.start == "clean" else {}
    more |= {"share": attack.square_share} if method.squares else {}

    def group(tensors):
        x_s, x_q, seeds = tensors
        y, followed = model.labels_of(x_q, learner.way), None
        classify = classifier(engine, x_s, seeds, samples, split.range)
        if surrogate:
            others = [fold(seed, ATTACK + 1 + draw) for draw in range(surrogate.draws) for seed in tf.unstack(seeds)]
            followed = classifier(surrogate.engine, x_s, tf.stack(others), samples, split.range)

        def normals(number, k):
            draws = [fold(fold(seed, ATTACK), number) for seed in tf.unstack(seeds)]
            return tf.concat([standard_normal([queries, k], draw) for draw in draws], 0)

        if attack.threat == "single":
            oracle = attacks.single_oracle(classify, x_q, y, engine.parallel, loss, followed)
        else:
            oracle = attacks.joint_oracle(classify, y, loss, followed, attack.threat == "remaining")

        def attack_within(radius):
            norm, step = attacks.NORMS[attack.norm], attack.step * radius
            worst = method.run(oracle, x_q, y, norm, radius, step, attack.steps, attack.restarts, normals, **more)
            return worst.lost, worst.images, worst.labels

        dtypes = (tf.bool, tf.float32, tf.int32)
        results = tf.map_fn(attack_within, eps, fn_output_signature=dtypes, parallel_iterations=1)
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
    """Return the measures CLEAN [T,4] of the images x [T,Q,H,W,C] with one-hot labels y [Q,way]."""
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
    settings: AttackSettings,
    surrogate: Surrogate | None = None,
    *,
    samples: int,
    identity: dict,
    provenance: dict,
) -> int:
    """Attack savedir's checkpoint in the first test episodes; write attack.json, and the sheet of the first episode.
    Return the exit code of `run_study`."""
    attack, episodes = settings.attack(), settings.n_test_iters
    described = attack.identity()
    if split.range != UNIT:
        described["range"] = list(split.range)
    if surrogate:
        load_parameters(surrogate.engine, surrogate.savedir, settings.checkpoint)
        digest = weights_digest(surrogate.engine)
        described["surrogate"] = surrogate.settings | {"weights_sha256": digest, "draws": surrogate.draws}
    files = open_results(
        engine,
        savedir,
        Path(JSON).stem,
        checkpoint=settings.checkpoint,
        samples=samples,
        settings=identity | {"attack": described},
        episodes=episodes,
        episodes_sha256=episodes_digest(engine, split, episodes),
    )

    def compute(first: int) -> Iterator[np.ndarray]:
        """Yield the share of query images that are not lost, by radius, and the measures CLEAN: [tasks,E+4]."""
        step = attack_step(engine, split, samples, attack, surrogate)
        for start in range(first, episodes, engine.metabatch):
            lost, worst, labels, measures, clean = step(start, min(engine.metabatch, episodes - start))
            refuse_diverged(measures, start)
            if start == 0:
                write_sheet(files.path.with_suffix(".npz"), worst[0], labels[0], clean[0], engine.query)
            yield np.concatenate([1 - lost.mean(-1), measures], -1)

    def note(values: list[np.ndarray]) -> str:
        return " ".join(f"{100 * share:.1f}" for share in np.mean(values, 0)[: len(attack.eps)])

    def result(values: np.ndarray) -> dict:
        return result_of(values, attack) | {"provenance": provenance}

    return run_study(files, episodes, "episode", compute, result, print_table, note)


def write_sheet(path: Path, worst: np.ndarray, labels: np.ndarray, clean: np.ndarray, query: int) -> None:
    """Write each class' first query image of an episode, for figures: `images` [E,way,H,W,C] in [0, 1] at the worst
    point by radius, `labels` [E,way] predicted there, and `clean` [way,H,W,C]."""
    file = io.BytesIO()
    np.savez_compressed(file, images=worst[:, ::query], labels=labels[:, ::query], clean=clean[::query])
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, file.getvalue())


def result_of(values: np.ndarray, attack: Attack) -> dict:
    """Return the content of attack.json for `compute`'s values [episodes,E+4]: by radius the mean accuracy, its 95 %
    interval, and each episode's accuracy, in percent; and the means of the measures CLEAN."""
    shares, clean = np.split(values.T, [len(attack.eps)])
    means, intervals = zip(*map(mean_and_interval, shares), strict=True)
    return {
        "eps": list(attack.eps),
        "accuracy": list(means),
        "interval95": list(intervals),
        "accuracies": (100 * shares).tolist(),
        "clean": dict(zip(CLEAN, clean.mean(-1).tolist(), strict=True)),
    }


def print_table(result: dict) -> None:
    print("eps      accuracy +- 95 % interval over episodes")
    for eps, accuracy, interval in zip(result["eps"], result["accuracy"], result["interval95"], strict=True):
        print(f"{eps:<7g}  {accuracy:.2f} +- {interval:.2f}")
    text = "clean images: margin {margin:.2f}; norm of the gradient L1 {gradient_l1:.2g}, L2 {gradient_l2:.2g}"
    gone = f"{100 * result['clean']['gradient_gone']:.1f} %"
    print(f"{text.format(**result['clean'])}; images without a gradient: {gone}")
