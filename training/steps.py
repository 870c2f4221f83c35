"""The compiled steps: an iteration of meta-training, the test of a metabatch of episodes, adapting and classifying."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data
import layers
import optimizers
from attacks import Adversary
from lazy import tf
from model import Learner, labels_of, make_episode
from parameters import Params
from perturbations.draws import fold, task_noise
from training import weights
from training.programs import frozen, shared, without_pixels

# The images that batch norm takes its statistics from when pictures are classified.
STATISTICS = SUPPORT, TOGETHER, QUERY = "support", "together", "query"


class MetaGradient(NamedTuple):
    """Means over the tasks of a metabatch, float64: loss (nats) and accuracy (0 to 1) of the query sets; the gradient
    of each trained parameter, not clipped; the distance of each running average from the statistics of the passes."""

    loss: tf.Tensor
    accuracy: tf.Tensor
    gradients: Params
    distances: Params


class Engine:
    """A learner's parameters, the optimizer's slots, and its compiled steps over one split's pixels.

    A step is traced once, and all engines of this process that differ only in their variables' values share it
    (training/programs.py): pixels stay on the device as they are stored, a call sends indices. metabatch: tasks of one
    call. If the learner is made for jit, XLA compiles all tasks into one program; else each task is computed by itself,
    `parallel` of them at the same time. A tf.distribute `strategy` gives each of its replicas an equal share of a
    training step's tasks; raise ValueError if that is impossible. clip_norm: the largest norm of a meta-gradient, all
    parameters together; None: clip its elements to optimizers.CLIP. adversary: perturbs the query images of training.
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
        self.trained = [name for name, parameter in learner.parameters().items() if parameter.trained]
        initial = learner.init(seed)
        count = sum(initial[name].shape.num_elements() for name in self.trained)
        # All replicas compute the same new value, and each assigns it to its own copy.
        same = {"aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA} if self.replicas > 1 else {}
        with self.strategy.scope():
            self.params = {name: tf.Variable(value, name=name, **same) for name, value in initial.items()}
            self.slots = {k: tf.Variable(v, **same) for k, v in optimizers.empty_slots(count).items()}
        self.compiled = partial(tf.function, autograph=False, jit_compile=learner.jit)

    # ---- episodes, as indices on the host

    def episode(self, split: data.Split, stream: str, index: int, tasks=1, shared=False, way=None) -> tuple:
        """Draw the indices of `tasks` episodes: classes [tasks,way], images [tasks,way,shot+query].

        stream: train, val or test. shared: all have the same classes. way: classes, if not as in testing.
        """
        way, images = way or self.learner.way, self.shot + self.query
        return data.sample(split, stream, self.seed, index, tasks, way, images, shared)

    def training_inputs(
        self, split: data.Split, iteration: int, shared: bool = False, rate: float | None = None, stop: bool = False
    ) -> dict[str, tf.Tensor]:
        """Return what `train_step`'s function takes in this iteration: the classes and images of its metabatch as
        `episode` draws them, its seed, the outer step size `rate` (None: meta_lr), and whether this process was asked
        to stop. For a learner that is trained on minibatches, `data.sample_minibatches` draws classes and images."""
        if self.learner.minibatch:
            numbers = self.seed, iteration, self.metabatch, self.learner.minibatch
            classes, images = data.sample_minibatches(split, *numbers)
        else:
            classes, images = self.episode(split, "train", iteration, self.metabatch, shared, self.learner.train_way)
        return {
            "classes": tf.constant(classes),
            "images": tf.constant(images),
            "seed": tf.constant([self.seed, iteration], tf.int32),
            "rate": tf.constant(self.meta_lr if rate is None else rate, tf.float32),
            "stop": tf.constant(stop, tf.float32),
        }

    def group_of_episodes(self, split: data.Split, stream: str, first: int) -> list[tf.Tensor]:
        """Return the classes and images, as `episode` does, and the numbers [metabatch] of the stream's episodes first,
        first + 1, ..."""
        numbers = range(first, first + self.metabatch)
        # every episode has its own seed: the same 1000 whatever the metabatch
        episodes = [self.episode(split, stream, i) for i in numbers]
        classes, images = (np.concatenate(part) for part in zip(*episodes, strict=True))
        return [tf.constant(classes), tf.constant(images), tf.constant(list(numbers), tf.int32)]

    def stream_seed(self, stream: str) -> tf.Tensor:
        """Return the seed [2] of all episodes of a stream; an episode's seed is `fold(stream_seed, its number)`."""
        return tf.constant([self.seed, data.STREAMS[stream]])

    def images(self, split: data.Split, pixels: tf.Tensor, classes, images) -> tuple[tf.Tensor, tf.Tensor]:
        """Return support images [T,S,H,W,C] and query images [T,Q,H,W,C] from `episode`'s indices and the split's
        pixels. The images of a minibatch are all support images."""
        shot = min(self.shot, images.shape[-1])
        return data.gather(pixels, classes, images, split.rotations, split.scale, shot, split.counts)

    # ---- an iteration of meta-training

    def train_step(self, split: data.Split) -> Callable:
        """Return a compiled function of `training_inputs` that does an iteration and returns what `iteration` does, on
        each replica (`local`)."""
        pixels = self.strategy.run(lambda: tf.constant(split.pixels))  # a copy on every device
        compiled = self.program(Engine.compile_training, without_pixels(split))
        return partial(compiled, (self.params, self.slots, pixels))

    def compile_training(self, split: data.Split) -> Callable:
        """Compile `iteration`: a function of its first arguments and a dictionary of the others."""
        # XLA compiles the whole step, or, because it cannot compile sums over replicas, the tasks alone.
        together = self.learner.jit and self.replicas == 1
        run = partial(self.strategy.run, partial(self.iteration, split))
        return tf.function(run, autograph=False, jit_compile=together)

    def iteration(self, split: data.Split, params, slots, pixels, classes, images, seed, rate, stop) -> tuple:
        """Move the variables `params` and `slots` by one step along the meta-gradient of a metabatch; return its mean
        loss and mean accuracy, whether all numbers were finite, and whether any process was asked to stop.

        split: without its pixels, which are an argument. `training_inputs` returns the other arguments. Each of several
        replicas computes its share of the tasks, and all take the same step.
        """
        tasks, values = self.share_of(classes, images, seed), read(params)
        sums = self.over_tasks(*self.gradient_of(split, values, pixels))(tasks)
        mean = self.mean_of(values, sums)
        new_params, new_slots, finite = self.update(values, read(slots), mean, rate)
        for variables, new in ((params, new_params), (slots, new_slots)):
            for name, variable in variables.items():
                variable.assign(new[name])
        asked = mean_over_replicas(tf.identity(stop)) > 0  # identity: on the replica's own device
        return tf.cast(mean.loss, tf.float32), tf.cast(mean.accuracy, tf.float32), finite, asked

    def share_of(self, classes, images, seed) -> list[tf.Tensor]:
        """Return this replica's share of a metabatch, in the form of `split_tasks`' result: classes, images, and a seed
        for each task."""
        share = self.metabatch // self.replicas
        first = share * tf.distribute.get_replica_context().replica_id_in_sync_group
        # Not self.seed: an exported step takes the seed as an argument.
        seed = fold(tf.stack([seed[0], data.STREAMS["train"]]), seed[1])
        seeds = tf.stack([fold(seed, first + task) for task in range(share)])
        indices = [tf.slice(x, [first] + [0] * (len(x.shape) - 1), [share, *x.shape[1:]]) for x in (classes, images)]
        return self.split_tasks([*indices, seeds])

    def gradient_of(self, split: data.Split, params: Params, pixels, dtype="float32") -> tuple:
        """Return a function of tasks, and the dtypes of its results: the sums over these tasks of loss, accuracy and
        the meta-gradient for every parameter, each [1,...]. dtype: the computation's."""
        adversary = self.adversary and self.adversary._replace(range=split.range)

        def task_gradient(tasks: list[tf.Tensor]) -> list[tf.Tensor]:
            classes, images, seeds = tasks
            support, query = (tf.cast(x, dtype) for x in self.images(split, pixels, classes, images))
            episode = make_episode(support, query, classes.shape[-1], classes)
            numbers, gradients = self.learner.meta_gradient(params, episode, task_noise(seeds, dtype), adversary)
            gradients = [tf.zeros_like(params[name]) if g is None else g for name, g in gradients.items()]
            return [x[None] for x in (*map(tf.reduce_sum, numbers.values()), *gradients)]

        return task_gradient, [dtype, tf.float32, *[dtype] * len(params)]

    def mean_of(self, params: Params, sums: list[tf.Tensor]) -> MetaGradient:
        """Return the means over all tasks, and over all replicas, of the sums that `gradient_of`'s function returned.
        They are float64, so that they do not depend on how the tasks are grouped."""
        share, shapes = self.metabatch // self.replicas, [[], [], *(list(p.shape) for p in params.values())]
        rows = [tf.reshape(x, [-1, *shape]) for x, shape in zip(sums, shapes, strict=True)]
        row = mean_over_replicas(flat([tf.reduce_sum(tf.cast(x, tf.float64), 0) / share for x in rows]))
        means = tf.split(row, [math.prod(shape) for shape in shapes])
        loss, accuracy, *means = (tf.reshape(x, shape) for x, shape in zip(means, shapes, strict=True))
        means = dict(zip(params, means, strict=True))
        gradients = {name: means.pop(name) for name in self.trained}
        return MetaGradient(loss, accuracy, gradients, means)

    def update(
        self, params: Params, slots: optimizers.Slots, mean: MetaGradient, rate
    ) -> tuple[Params, optimizers.Slots, tf.Tensor]:
        """Return the parameters and slots after a step of the size `rate` along the clipped meta-gradient, and whether
        all numbers are finite. A running average moves by its mean distance from the statistics of the metabatch times
        `Learner.running_step`."""
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in tf.nest.flatten(mean)])
        gradient = optimizers.clip(tf.cast(flat(mean.gradients.values()), tf.float32), self.clip_norm)
        step, slots = self.learner.optimizer(gradient, slots, rate)
        sizes = [gradient.shape.num_elements() for gradient in mean.gradients.values()]
        steps = dict(zip(mean.gradients, tf.split(step, sizes) if sizes else [], strict=True))
        for name, distance in mean.distances.items():
            steps[name] = tf.cast(distance, tf.float32) * self.learner.running_step(self.metabatch)
        params = {name: value - tf.reshape(steps[name], value.shape) for name, value in params.items()}
        return params, slots, finite

    def mean_gradient(self, split: data.Split, params: Params, pixels, classes, images, seed, dtype="float32"):
        """Return the MetaGradient of an iteration; a pure function. params: of the type `dtype`."""
        tasks = self.share_of(classes, images, seed)
        return self.mean_of(params, self.over_tasks(*self.gradient_of(split, params, pixels, dtype))(tasks))

    def pure_step(self, split: data.Split, params: Params, slots, pixels, classes, images, seed, rate) -> tuple:
        """Compute an iteration without changing a variable, for export: return parameters, slots, loss, accuracy, and
        whether all numbers are finite."""
        mean = self.mean_gradient(split, params, pixels, classes, images, seed)
        params, slots, finite = self.update(params, slots, mean, rate)
        return params, slots, tf.cast(mean.loss, tf.float32), tf.cast(mean.accuracy, tf.float32), finite

    def run_step(self, step: Callable, split: data.Split, iteration: int) -> list:
        """Do an iteration with `train_step`'s function; return its results as `local` does."""
        return self.local(step(self.training_inputs(split, iteration)))

    def local(self, report: tuple) -> list:
        """Return a step's results on this process' first replica. report: the results on all replicas."""
        return [self.strategy.experimental_local_results(x)[0] for x in report]

    # ---- tasks: XLA computes all in one program; a CPU is fastest with one at a time on each of its cores, because a
    # task's maps stay in the cache and its kernels need no task axis

    def split_tasks(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return tensors [T,...] as arguments of the function that `over_tasks` returns."""
        return tensors if self.learner.jit else [x[:, None] for x in tensors]

    def over_tasks(self, f: Callable, dtypes) -> Callable:
        """Return a function of `split_tasks`' result that calls f once for all tasks, or for each task, and then stacks
        the results. f takes a list of tensors [T,...], and returns a structure of tensors of these dtypes."""
        if self.learner.jit:
            return self.compiled(f)
        return partial(tf.map_fn, f, fn_output_signature=dtypes, parallel_iterations=self.parallel)

    def by_task(self, f: Callable, dtypes, tensors: list[tf.Tensor]):
        """Call f as `over_tasks` does with tensors [T,...]; return the structure of tensors [T,...] that f computes."""
        results = self.over_tasks(f, dtypes)(self.split_tasks(tensors))
        return results if self.learner.jit else tf.nest.map_structure(lambda x: x[:, 0], results)

    # ---- a test

    def test_step(self, split: data.Split, stream: str, samples: int) -> Callable:
        """Return a function of `first` and `tasks`, which returns `model.measure`'s numbers by name, [tasks] each, of
        the stream's episodes first, first + 1, ... samples: as in `Learner.adapt`."""
        pixels = tf.constant(split.pixels)
        compiled = self.program(Engine.compile_test, without_pixels(split), stream, samples)

        def step(first: int, tasks: int) -> dict[str, np.ndarray]:
            numbers = compiled(self.params, pixels, *self.group_of_episodes(split, stream, first))
            return {name: values.numpy()[:tasks] for name, values in numbers.items()}

        return step

    def compile_test(self, split: data.Split, stream: str, samples: int) -> Callable:
        """Compile `pure_test`: a function of parameters, pixels, classes, images and the episodes' numbers."""

        @self.compiled
        def compiled(params, pixels, classes, images, indices):
            seed = self.stream_seed(stream)
            return self.pure_test(split, read(params), pixels, classes, images, indices, seed, samples)

        return compiled

    def pure_test(self, split: data.Split, params: Params, pixels, classes, images, indices, seed, samples: int):
        """The test of some episodes as a pure function: return `model.measure`'s numbers by name, [T] each.

        classes [T,way] and images [T,way,shot+query]: `episode`'s. indices: int32 [T], the episodes' numbers. seed:
        int32 [2], the test's and its stream. samples: as in `Learner.adapt`.
        """

        def evaluate(tensors):
            support, query, seeds = tensors
            episode = make_episode(support, query, self.learner.way)
            return self.learner.evaluate(params, episode, task_noise(seeds), samples)

        seeds = tf.stack([fold(seed, i) for i in tf.unstack(indices)])
        dtypes = {"loss": tf.float32, "accuracy": tf.float32}
        return self.by_task(evaluate, dtypes, [*self.images(split, pixels, classes, images), seeds])

    # ---- as two calls, for callers that change the query images between them, or classify many times

    def adapt(self, x_s, seeds, samples: int = 1):
        """Adapt to the support images x_s [T,S,H,W,C] as in testing; compiled once for each shape. Return the learner's
        structure of tensors [T,...].

        seeds: int32 [T,2], one per task; a test episode's seed is `fold(stream_seed("test"), its number)`. samples:
        noise samples of a loss.
        """
        x_s, seeds = tf.convert_to_tensor(x_s), tf.convert_to_tensor(seeds)
        return self.program(Engine.compile_adapting)(self.params, x_s, seeds, samples=samples)

    def classify(self, adapted, x_q) -> tf.Tensor:
        """Return logits [T,Q,way] of query images x_q [T,Q,H,W,C], any number Q of them; compiled once for each shape.
        A tf.GradientTape or another tf.function can differentiate the logits with respect to x_q."""
        return self.program(Engine.compile_classifying)(self.params, adapted, tf.convert_to_tensor(x_q))

    def compile_adapting(self) -> Callable:
        def adapt_tasks(params, x_s, seeds, samples):
            y = labels_of(x_s, self.learner.way)
            return self.learner.adapt(read(params), x_s, y, task_noise(seeds), samples)[0]

        return self.compiled(adapt_tasks)

    def compile_classifying(self) -> Callable:
        def classify_tasks(params, adapted, x_q):
            return self.learner.classify(read(params), adapted, x_q)[0]

        return self.compiled(classify_tasks)

    # ---- compiled functions and variables

    def program(self, compile: Callable, *facts) -> Callable:
        """Return the compiled function `compile(engine, *facts)` of this engine, or of an earlier one that computes the
        same: with an equal learner, equal settings and equal facts.

        The compiled function takes the variables as arguments, so that it keeps no engine's variables in memory.
        """
        bare = copy.copy(self)
        bare.params = bare.slots = None
        return shared(partial(compile, bare, *facts), compile.__name__, self.key(), frozen(facts))

    def key(self) -> Hashable:
        """Return a key that is equal for two engines if their steps compute the same. An engine with variables on
        several devices is its own key: it shares nothing, and no later engine can get its number in memory."""
        settings = (self.shot, self.query, self.metabatch, self.seed, self.clip_norm, self.adversary, self.parallel)
        return (settings, frozen(self.learner)) if self.replicas == 1 else self

    def assign(self, path: Path, params: dict[str, np.ndarray], slots: dict[str, np.ndarray] | None = None) -> None:
        """Assign the parameters, and the slots, that were read from `path` to the variables. Raise UserError if this
        learner's have other shapes."""
        for variables, values in ((self.params, params), (self.slots, slots)):
            if values:
                shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
                weights.refuse_other_shapes(path, values, shapes)
                for name, variable in variables.items():
                    variable.assign(values[name])


def mean_over_replicas(x: tf.Tensor) -> tf.Tensor:
    """Return the mean of x over all replicas, for a function that each of them runs."""
    return layers.freed_with_graph(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, x))


def read(variables: dict[str, tf.Variable]) -> Params:
    """Return the values of variables, by name."""
    return {name: variable.value() for name, variable in variables.items()}


def flat(tensors: Iterable[tf.Tensor]) -> tf.Tensor:
    """Return all numbers of these tensors in one row; an empty row if there is no tensor."""
    rows = [tf.reshape(tensor, [-1]) for tensor in tensors]
    return tf.concat(rows, 0) if rows else tf.zeros([0])
