"""The compiled steps: an iteration of meta-training, the test of a metabatch of episodes, adapting and classifying."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import data
import layers
import model
from attacks import Adversary
from flags import Configured
from lazy import tf
from learners.base import Learner
from parameters import Params
from perturbations.draws import fold, task_noise
from training import weights

CLIP = 3.0  # every element of the meta-gradient is clipped to [-CLIP, CLIP], unless its norm is clipped
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's; Keras' default epsilon is 1e-7
# The images that batch norm takes its statistics from where pictures are classified.
STATISTICS = SUPPORT, TOGETHER, QUERY = "support", "together", "query"
MOMENTUM, PASSES = 0.1, 2  # of running averages, for each of a task's two passes, over its support and query set
PROGRAMS = collections.OrderedDict()  # compiled steps by what decides them, the last one used last
REMEMBERED = 32  # compiled steps


class Engine:
    """A learner's parameters, Adam's slots, and its compiled steps over one split's pixels.

    A step is traced once, and all engines of this process that differ only in their variables' values share it
    (`program`): pixels stay on the device as they are stored, a call sends indices.
    metabatch: tasks of one call. Where the learner is made for jit, XLA compiles all tasks into one program;
    else they go one by one, `parallel` of them at the same time. A tf.distribute `strategy` gives each of its
    replicas an equal share of a training step's tasks; ValueError where the metabatch cannot be shared so.
    clip_norm: the largest norm of a meta-gradient, all parameters together; None: clip its elements to CLIP.
    adversary: who perturbs the query images of training.
    """

    def __init__(
        self,
        learner: Learner,
        *,
        shot: int,
        query: int,
        metabatch: int,
        seed: int,
        meta_lr: float = 1e-3,
        clip_norm: float | None = None,
        adversary: Adversary | None = None,
        parallel: int = 1,
        strategy: tf.distribute.Strategy | None = None,
    ):
        self.learner, self.seed, self.meta_lr, self.parallel = learner, seed, meta_lr, parallel
        self.clip_norm, self.adversary = clip_norm, adversary
        self.shot, self.query, self.metabatch = shot, query, metabatch
        self.strategy = strategy or tf.distribute.get_strategy()
        self.replicas = self.strategy.num_replicas_in_sync
        if metabatch % self.replicas:
            raise ValueError(f"a metabatch of {metabatch} cannot be shared by {self.replicas} replicas")
        initial = learner.init(seed)
        trained = [not k.startswith("running/") for k in initial]
        if trained != sorted(trained, reverse=True):
            raise ValueError("the learner's running averages do not come last")
        self.trained = sum(v.shape.num_elements() for v, t in zip(initial.values(), trained, strict=True) if t)
        with self.strategy.scope():
            self.params = {k: tf.Variable(v, name=k) for k, v in initial.items()}
            zeros = tf.zeros(self.trained)
            self.slots = {"m": tf.Variable(zeros), "v": tf.Variable(zeros), "t": tf.Variable(0.0)}
        self.compiled = partial(tf.function, autograph=False, jit_compile=learner.jit)

    def episode(self, split: data.Split, stream: str, index: int, tasks=1, shared=False, way=None) -> tuple:
        """The indices of `tasks` episodes: classes [tasks,way], images [tasks,way,shot+query].

        stream: train, val or test. shared: all have the same classes. way: if it is another one than in testing.
        """
        way, images = way or self.learner.way, self.shot + self.query
        return data.sample(split, stream, self.seed, index, tasks, way, images, shared)

    def training_episodes(self, split: data.Split, iteration: int, shared=False) -> tuple:
        """The indices of an iteration's metabatch, as `episode`."""
        return self.episode(split, "train", iteration, self.metabatch, shared, self.learner.train_way)

    def group_of_episodes(self, split: data.Split, stream: str, first: int) -> list[tf.Tensor]:
        """A metabatch of a stream's episodes, the `first` one and those behind it: their classes and images, as
        `episode`, and their numbers [metabatch]."""
        numbers = range(first, first + self.metabatch)
        # every episode has its own seed: the same 1000 whatever the metabatch
        episodes = [self.episode(split, stream, i) for i in numbers]
        classes, images = (np.concatenate(part) for part in zip(*episodes, strict=True))
        return [tf.constant(classes), tf.constant(images), tf.constant(list(numbers), tf.int32)]

    def stream_seed(self, stream: str) -> tf.Tensor:
        """The seed [2] of all episodes of a stream; an episode's own is `fold(stream_seed, its number)`."""
        return tf.constant([self.seed, data.STREAMS[stream]])

    def images(self, split: data.Split, pixels: tf.Tensor, classes, images) -> tuple[tf.Tensor, tf.Tensor]:
        """Support images [T,S,H,W,C] and query images [T,Q,H,W,C] of `episode`'s indices; pixels: split's."""
        return data.gather(pixels, classes, images, split.rotations, split.scale, self.shot, split.counts)

    def same_everywhere(self, *facts) -> bool:
        """Are these facts the same in all processes?"""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
        own = tf.constant(int.from_bytes(digest[:6], "big"), tf.float64)

        @tf.function(autograph=False)
        def spread():
            return self.strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("MEAN", own))

        return float(self.strategy.experimental_local_results(spread())[0]) == float(own)

    def program(self, make: Callable, *facts) -> Callable:
        """Return the compiled function `make(engine, *facts)` of this engine, or of an earlier one that computes the
        same: with an equal learner, equal settings and equal facts.

        make: a function that is always the same object. What it compiles takes the variables as its arguments and
        reads none of the engine's.
        """
        key = make, self.kind(), frozen(facts)
        found = PROGRAMS.pop(key, None) or make(self, *facts)
        PROGRAMS[key] = found
        if len(PROGRAMS) > REMEMBERED:
            PROGRAMS.popitem(last=False)
        return found

    def kind(self):
        """Return a key that is equal for engines whose steps compute the same. An engine that cannot share is its own
        key: variables on several devices cannot be arguments, and a learner's attribute may have no hash."""
        settings = (self.shot, self.query, self.metabatch, self.seed, self.meta_lr, self.clip_norm, self.adversary)
        kind = self.compiled.keywords["jit_compile"], self.parallel, settings, frozen(self.learner)
        try:
            hash(kind)
        except TypeError:
            return self
        return self if isinstance(self.slots["t"], tf.distribute.DistributedValues) else kind

    def train_step(self, split: data.Split, shared_classes: bool = False) -> Callable:
        """-> step(iteration, stop), one Adam update.

        It returns mean loss, mean accuracy, whether all was finite, and whether any process asked to `stop`.
        """
        pixels = self.strategy.run(lambda: tf.constant(split.pixels))  # a copy on every device
        compiled = self.program(Engine.compile_training, without_pixels(split))

        def step(iteration: int, stop: bool = False):
            classes, images = self.training_episodes(split, iteration, shared_classes)
            seed, stop = tf.constant([self.seed, iteration], tf.int32), tf.constant([stop], tf.float64)
            return compiled(self.params, self.slots, pixels, tf.constant(classes), tf.constant(images), seed, stop)

        return step

    def compile_training(self, split: data.Split) -> Callable:
        """-> a function of parameters and slots, which it updates, pixels, classes, images, seed, and stop [1]."""
        share = self.metabatch // self.replicas
        means, update = self.compiled(partial(self.means, split)), self.compiled(self.update)

        def replica(params, slots, pixels, classes, images, seed, stop):
            context = tf.distribute.get_replica_context()
            first = share * context.replica_id_in_sync_group
            classes, images = (tf.slice(x, [first] + [0] * (len(x.shape) - 1), [share, *x.shape[1:]])
                               for x in (classes, images))  # fmt: skip
            params, slots = read(params), read(slots)
            own = tf.concat([means(params, pixels, classes, images, seed, first), stop], 0)
            shared = layers.freed_with_graph(context.all_reduce(tf.distribute.ReduceOp.MEAN, own))
            return *update(params, slots, shared[:-1]), shared[-1] > 0

        # One program; collectives cannot be inside, so that several replicas compile the two parts.
        @tf.function(autograph=False, jit_compile=self.learner.jit and self.replicas == 1)
        def compiled(params, slots, *args):
            new_params, new_slots, *report = self.strategy.run(replica, (params, slots, *args))
            for variables, values in ((params, new_params), (slots, new_slots)):
                for name, variable in variables.items():
                    self.strategy.extended.update(variable, assign, (values[name],), group=False)
            return [self.strategy.experimental_local_results(x)[0] for x in report]

        return compiled

    def pure_step(self, split: data.Split, params: Params, slots: Params, pixels, classes, images, seed):
        """A training step as a pure function, for export: -> params, slots, loss, accuracy, finite.

        pixels: split's. classes [T,way] and images [T,way,shot+query]: `episode`'s. seed: int32, the run's and
        the iteration.
        """
        return self.update(params, slots, self.means(split, params, pixels, classes, images, seed))

    def pure_test(self, split: data.Split, params: Params, pixels, classes, images, indices, seed, samples: int):
        """The test of some episodes as a pure function: -> `model.measure`'s numbers, by name, [T] each.

        indices: int32 [T], the episodes' numbers. seed: int32 [2], the test's and its stream. The others as in
        `pure_step`; samples: noise samples of a loss.
        """
        x_s, x_q = self.images(split, pixels, classes, images)
        seeds = tf.stack([fold(seed, i) for i in tf.unstack(indices)])

        def group(x_s, x_q, seeds):
            return model.evaluate(self.learner, params, x_s, x_q, task_noise(seeds), samples)[0]

        at_once = seeds.shape[0] if self.learner.jit else 1
        dtypes = {"loss": tf.float32, "accuracy": tf.float32}
        numbers = model.by_task(group, [x_s, x_q, seeds], dtypes, at_once, self.parallel)
        return {name: tf.reshape(values, [-1]) for name, values in numbers.items()}

    def means(self, split: data.Split, params: Params, pixels, classes, images, seed, first=0, dtype="float32"):
        """Means over these tasks, of which `first` is the number of the first one in the metabatch: the
        meta-gradient, all parameters in a row, then loss and accuracy. float64; dtype: that of the computation."""
        x_s, x_q = self.images(split, pixels, classes, images)
        x_s, x_q, noise_of = tf.cast(x_s, dtype), tf.cast(x_q, dtype), partial(task_noise, dtype=dtype)
        seed = fold(tf.stack([seed[0], data.STREAMS["train"]]), seed[1])  # seed[0] is an argument of a pure step
        tasks = classes.shape[0]
        seeds = tf.stack([fold(seed, first + task) for task in range(tasks)])
        at_once = tasks if self.learner.jit else 1
        adversary = self.adversary and self.adversary._replace(range=split.range)
        loss, acc, grads = model.meta_gradients(
            self.learner, params, x_s, x_q, seeds, at_once, self.parallel, noise_of, adversary
        )
        return flat([*grads.values(), loss, acc])

    def update(self, params: Params, slots: Params, means: tf.Tensor):
        """Adam on the clipped meta-gradient (Keras' formula; Keras cannot apply it as a pure function), and the
        running averages where this metabatch's passes move them on average."""
        finite = tf.reduce_all(tf.math.is_finite(means))
        loss, acc = tf.unstack(tf.cast(means[-2:], tf.float32))
        grads, distance = tf.split(tf.cast(means[:-2], tf.float32), [self.trained, -1])
        grads = tf.clip_by_norm(grads, self.clip_norm) if self.clip_norm else tf.clip_by_value(grads, -CLIP, CLIP)
        t = slots["t"] + 1
        m = slots["m"] + (grads - slots["m"]) * (1 - BETA_1)
        v = slots["v"] + (tf.square(grads) - slots["v"]) * (1 - BETA_2)
        rate = self.meta_lr * tf.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        follow = distance / PASSES * (1 - (1 - MOMENTUM) ** (PASSES * self.metabatch))
        sizes = [p.shape.num_elements() for p in params.values()]
        steps = tf.split(tf.concat([m * rate / (tf.sqrt(v) + EPSILON), follow], 0), sizes)
        params = {k: p - tf.reshape(s, p.shape) for (k, p), s in zip(params.items(), steps, strict=True)}
        return params, {"m": m, "v": v, "t": t}, loss, acc, finite

    def test_step(self, split: data.Split, stream: str, samples: int) -> Callable:
        """-> step(first, tasks): `model.measure`'s numbers by name, [tasks] each, of the episodes first, first + 1, ...

        samples: noise samples of a loss in adaptation.
        """
        pixels = tf.constant(split.pixels)
        compiled = self.program(Engine.compile_test, without_pixels(split), stream, samples)

        def step(first: int, tasks: int) -> dict[str, np.ndarray]:
            numbers = compiled(self.params, pixels, *self.group_of_episodes(split, stream, first))
            return {name: values.numpy()[:tasks] for name, values in numbers.items()}

        return step

    def compile_test(self, split: data.Split, stream: str, samples: int) -> Callable:
        """-> a function of parameters, pixels, classes, images and the episodes' numbers."""

        @self.compiled
        def compiled(params, pixels, classes, images, indices):
            seed = self.stream_seed(stream)
            return self.pure_test(split, read(params), pixels, classes, images, indices, seed, samples)

        return compiled

    # ---- as two calls, for whoever changes the query images between them, or classifies many times

    def adapt(self, x_s, seeds, samples: int = 1):
        """What the learner learns, as in testing, from the support images x_s [T,S,H,W,C]; compiled once a shape.

        seeds: int32 [T,2], each task's; that of a test episode is `fold(stream_seed("test"), its number)`.
        samples: noise samples of a loss. -> the learner's own structure of tensors [T,...].
        """
        x_s, seeds = tf.convert_to_tensor(x_s), tf.convert_to_tensor(seeds)
        return self.program(Engine.compile_adapting)(self.params, x_s, seeds, samples=samples)

    def classify(self, adapted, x_q) -> tf.Tensor:
        """Logits [T,Q,way] of query images x_q [T,Q,H,W,C], any number Q of them; compiled once a shape. Inside a
        tf.GradientTape, or another tf.function, it is differentiable by x_q."""
        return self.program(Engine.compile_classifying)(self.params, adapted, tf.convert_to_tensor(x_q))

    def compile_adapting(self) -> Callable:
        def adapt_tasks(params, x_s, seeds, samples):
            y = model.labels_of(x_s, self.learner.way)
            return self.learner.adapt(read(params), x_s, y, task_noise(seeds), samples)[0]

        return self.compiled(adapt_tasks)

    def compile_classifying(self) -> Callable:
        def classify_tasks(params, adapted, x_q):
            return self.learner.classify(read(params), adapted, x_q)[0]

        return self.compiled(classify_tasks)

    # ---- what identifies a result

    def weights_digest(self) -> str:
        """SHA-256 of all parameters, by name."""
        return weights.digest({name: variable.numpy() for name, variable in self.params.items()})

    def assign(self, path: Path, params: dict[str, np.ndarray], slots: dict[str, np.ndarray] | None = None) -> None:
        """Take the parameters, and Adam's slots, that the file at `path` holds. UserError where they are not of this
        learner's shapes."""
        for variables, values in ((self.params, params), (self.slots, slots)):
            if values:
                shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
                weights.refuse_other_shapes(path, values, shapes)
                for name, variable in variables.items():
                    variable.assign(values[name])

    def episodes_digest(self, split: data.Split, episodes: int) -> str:
        """SHA-256 of the first test episodes: their images, and which of those are support and which are query."""
        tasks = f"{zlib.crc32(split.pixels)} {self.learner.way} {self.shot} {self.query}"
        tasks += f" {split.counts.tolist()}" if split.counts is not None else ""
        digest = hashlib.sha256(tasks.encode())
        for i in range(episodes):
            for indices in self.episode(split, "test", i):
                digest.update(indices.tobytes())
        return digest.hexdigest()


def without_pixels(split: data.Split) -> data.Split:
    """The split as a compiled step keeps it: without pixels, which are an argument, but with their range."""
    return dataclasses.replace(split, pixels=None, declared=split.range)


def frozen(value):
    """Turn a value into a part of a dictionary's key, equal for learners, splits and lists that compute the same."""
    if isinstance(value, Configured | data.Split):
        return type(value), *((name, frozen(own)) for name, own in sorted(vars(value).items()))
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def read(variables: dict[str, tf.Variable]) -> Params:
    return {k: v.value() for k, v in variables.items()}


def assign(variable, value):
    return variable.assign(value)


def flat(tensors) -> tf.Tensor:
    return tf.concat([tf.reshape(t, [-1]) for t in tensors], 0)
