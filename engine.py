"""The compiled steps: one iteration of meta-training, and the test of one metabatch of episodes."""

import numpy as np
import tensorflow as tf

import data
import model

CLIP = 3.0  # every element of the meta-gradient is clipped to [-CLIP, CLIP]
fold = tf.random.experimental.stateless_fold_in


class Engine:
    """A learner's parameters and optimiser, and its compiled steps over one split's pixels.

    One step is traced once: pixels stay on the device as they are stored, a call sends indices.
    metabatch: tasks of one call. Where the learner is made for jit, XLA compiles all tasks into one program;
    else they go one by one, `parallel` of them at the same time.
    """

    def __init__(self, learner, *, shot: int, query: int, metabatch: int, seed: int, meta_lr=1e-3, parallel=1):
        self.learner, self.seed, self.parallel = learner, seed, parallel
        self.shot, self.query, self.metabatch = shot, query, metabatch
        self.tasks_at_once = metabatch if learner.jit else 1
        self.params = {k: tf.Variable(v, name=k) for k, v in learner.init(seed).items()}
        self.optimizer = tf.keras.optimizers.Adam(meta_lr, epsilon=1e-8)  # Keras' default is 1e-7
        self.optimizer.build(list(self.params.values()))

    def episode(self, split, stream, index, tasks=1, shared=False):
        """The indices of `tasks` episodes: classes [tasks,way], images [tasks,way,shot+query]."""
        way, images = self.learner.way, self.shot + self.query
        return data.sample(split, stream, self.seed, index, tasks, way, images, shared)

    def train_step(self, split: data.Split, shared_classes=False):
        """-> step(iteration), one Adam update; it returns loss, accuracy and whether all was finite."""
        pixels = tf.constant(split.pixels)
        variables = list(self.params.values())

        @tf.function(autograph=False, jit_compile=self.learner.jit)
        def compiled(pixels, classes, images, iteration):
            x_s, x_q = data.gather(pixels, classes, images, split.rotations, split.scale, self.shot)
            seed = fold(tf.constant([self.seed, data.STREAMS["train"]], tf.int64), iteration)
            seeds = tf.stack([fold(seed, task) for task in range(self.metabatch)])
            params = {k: v.value() for k, v in self.params.items()}
            loss, acc, grads = model.meta_gradients(
                self.learner, params, x_s, x_q, seeds, self.tasks_at_once, self.parallel
            )
            grads = list(grads.values())
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in [loss, *grads]])
            grads = [tf.clip_by_value(g, -CLIP, CLIP) for g in grads]
            self.optimizer.apply(grads, variables)
            return loss, acc, finite

        def step(iteration: int):
            classes, images = self.episode(split, "train", iteration, self.metabatch, shared_classes)
            return compiled(pixels, classes, images, tf.constant(iteration, tf.int64))

        return step

    def test_step(self, split: data.Split, stream: str, samples: int):
        """-> step(first, tasks): losses and accuracies [tasks] of the episodes first, first + 1, ..."""
        pixels = tf.constant(split.pixels)

        @tf.function(autograph=False, jit_compile=self.learner.jit)
        def compiled(pixels, classes, images, indices):
            x_s, x_q = data.gather(pixels, classes, images, split.rotations, split.scale, self.shot)
            seed = tf.constant([self.seed, data.STREAMS[stream]], tf.int64)
            seeds = tf.stack([fold(seed, i) for i in tf.unstack(indices)])
            params = {k: v.value() for k, v in self.params.items()}

            def group(x_s, x_q, seeds):
                return list(model.evaluate(self.learner, params, x_s, x_q, model.task_noise(seeds), samples))

            out = model.by_task(group, [x_s, x_q, seeds], [tf.float32] * 2, self.tasks_at_once, self.parallel)
            return [tf.reshape(x, [-1]) for x in out]

        def step(first: int, tasks: int):
            # every episode has its own seed: the same 1000 whatever the metabatch
            indices = range(first, first + self.metabatch)
            drawn = [self.episode(split, stream, i) for i in indices]
            classes, images = (np.concatenate(part) for part in zip(*drawn, strict=True))
            out = compiled(pixels, classes, images, tf.constant(list(indices), tf.int64))
            return [x.numpy()[:tasks] for x in out]

        return step
