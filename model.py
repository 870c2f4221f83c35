"""MAML and Meta-dropout: parameters, inner loop, meta-loss and its gradient.

Source of the equations: Lee, Nam, Yang and Hwang, "Meta Dropout: Learning to Perturb Latent Features for
Generalization", ICLR 2020, and its TF1 code. Shapes: T tasks, S support and Q query images, M noise samples.

A learner has
    init(seed, dtype)                                -> {name: tensor}, the meta-learned parameters
    adapt(params, x, y, noise, samples, training)    -> whatever it has learnt from the support set
    logits(params, adapted, x, noise)                -> [T,Q,way] for the query set; noise: in training only
and the loops see nothing else. A new learner or perturbation is one class and one line in learners.py.
Running averages are parameters too, come last, and are named running/...: their gradient is their distance from
what they follow, and the engine moves them by it.
A learner with a linear head over features can be looked into (export.py) when it also has
    narrow(params, way)                              -> params whose head has the first `way` classes only
    trajectory(params, x, y, noise, samples)         -> what adapt had before each inner step and at the end
    features(params, adapted, x, draw, samples)      -> [T,N,D], the input of the last layer
    activations(params, adapted, x)                  -> {layer: [T,N,D]}, what each layer puts out, the features last
    linear(adapted)                                  -> that layer, [T,D,way] and [T,way]
    maps(params, adapted, x, draw, samples)          -> {layer: its map, and what multiplied it or None}
"""

import numpy as np
import tensorflow as tf

import layers
from perturbations import BLOCKS, Draw, Noise, NoPerturbation, Params, check_size, conv_net, task_noise

META_GRADIENTS = ("published", "exact", "first_order")


class MAML:
    """Second-order MAML over four conv blocks and a dense head, with a perturbation of the support pass.

    image_shape: (H, W, C), from 16 x 16. inner_lr: step size of the inner loop. meta_gradient: `published`
    holds batch norm's backward pass constant when the inner gradient is differentiated, `exact` is the full second
    order, `first_order` none. remat: keep no maps of the inner steps; the backward pass computes them again.
    bf16: the factors of convolutions and matrix products are rounded to bfloat16;
    parameters, batch norm and losses stay as they are. jit: will XLA compile it? The right pooling depends on that.
    Only theta is adapted; phi and batch norm's offsets are not.
    """

    settings = ("n_steps", "inner_lr", "meta_gradient", "remat")  # main.py's flags that it takes
    any_way = False  # the head has a column a class

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        way: int,
        n_steps: int,
        inner_lr: float,
        perturbation: NoPerturbation,
        meta_gradient: str = "published",
        remat: bool = False,
        bf16: bool = False,
        jit: bool = False,
    ):
        if meta_gradient not in META_GRADIENTS:
            raise ValueError(f"meta_gradient is {meta_gradient!r}, wanted one of {META_GRADIENTS}")
        check_size(image_shape)
        self.image_shape, self.channels, self.way = tuple(image_shape), channels, way
        self.n_steps, self.inner_lr = n_steps, inner_lr
        self.perturbation, self.meta_gradient = perturbation, meta_gradient
        self.remat, self.bf16, self.jit = remat, bf16, jit
        self.stochastic = perturbation.stochastic

    def init(self, seed: int, dtype=tf.float32) -> Params:
        """Conv kernels: truncated normal, std 0.02; dense: normal, std 0.02; biases and offsets: zeros."""
        shapes = conv_net("theta", self.image_shape, self.channels, self.way)
        shapes |= self.perturbation.shapes(self.image_shape, self.channels)
        shapes |= {f"conv{block}_bn/beta": (self.channels,) for block in range(1, BLOCKS + 1)}
        params = {}
        for i, (name, shape) in enumerate(shapes.items()):
            if len(shape) == 1:
                params[name] = tf.zeros(shape, dtype)
            else:
                normal = tf.random.stateless_truncated_normal if len(shape) == 4 else tf.random.stateless_normal
                params[name] = normal(shape, [seed, i], stddev=0.02, dtype=dtype)
        return params

    def blocks(self, params, theta, x, draw, samples):
        """Yield each block's name, input, perturbed convolution, mask (or None) and output."""
        for block in range(1, BLOCKS + 1):
            layer, x = f"conv{block}", layers.rounded(x, self.bf16)
            mu = layers.conv(x, theta[f"{layer}_w"], theta[f"{layer}_b"])
            mu = self.perturbation.block(params, layer, x, mu, draw)
            mask = self.perturbation.mask(layer, mu.shape, samples, draw)
            held = self.meta_gradient == "published"
            out = layers.norm_relu_pool(mu, params[f"{layer}_bn/beta"], samples, held, self.jit, mask)
            yield layer, x, mu, mask, out
            x = out

    def features(self, params, theta, x, draw: Draw | None = None, samples=1) -> tf.Tensor:
        """Input of the last layer: x [T,N,H,W,C] -> [T,N,D]; unperturbed without `draw`."""
        *_, (*_, x) = self.blocks(params, theta, x, draw, samples)
        return tf.reshape(x, [x.shape[0], x.shape[1], -1])  # NHWC order

    def activations(self, params, theta, x) -> dict[str, tf.Tensor]:
        """By block, its unperturbed output [T,N,D]; that of the last is `features`."""
        outs = {layer: out for layer, *_, out in self.blocks(params, theta, x, None, 1)}
        return {layer: tf.reshape(out, [*x.shape[:2], -1]) for layer, out in outs.items()}

    def maps(self, params, theta, x, draw: Draw | None = None, samples=1) -> dict[str, tuple]:
        """By layer: mask * relu(batch_norm(.)) of the perturbed convolution, before pooling, [T,N,H,W,C], and
        what the perturbation multiplied by (or None)."""
        found = {}
        for layer, inputs, mu, mask, _ in self.blocks(params, theta, x, draw, samples):
            groups = tf.reshape(mu, [mu.shape[0] * samples, -1, *mu.shape[2:]])
            normal = layers.batch_norm(groups, params[f"{layer}_bn/beta"])
            if mask is None:
                factor = self.perturbation.factor(params, layer, inputs, draw)
            else:
                factor = layers.masked(tf.ones_like(mu), mask)
            found[layer] = layers.masked(tf.nn.relu(tf.reshape(normal, mu.shape)), mask), factor
        return found

    def head(self, params, theta, x, draw: Draw | None = None) -> tf.Tensor:
        """Features [T,N,D] -> logits [T,N,way]."""
        x = layers.rounded(x, self.bf16)
        logits = layers.dense(x, theta["dense_w"], theta["dense_b"])
        return self.perturbation.head(params, x, logits, draw)

    def linear(self, theta: Params) -> tuple[tf.Tensor, tf.Tensor]:
        """The last layer's weights [T,D,way] and biases [T,way]."""
        return theta["dense_w"], theta["dense_b"]

    def narrow(self, params: Params, way: int) -> Params:
        """The same parameters with only the head's first `way` columns."""
        heads = ("theta/dense_w", "theta/dense_b")
        return {k: v[..., :way] if k in heads else v for k, v in params.items()}

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> Params:
        """theta of every task after n_steps gradient steps on its support set; see `trajectory`."""
        return self.trajectory(params, x, y, noise, samples, training)[-1]

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> list[Params]:
        """theta of every task before the first and after each of n_steps gradient steps on its support set.

        x [T,S,H,W,C] in [0,1], y one-hot [S,way]. The LOSS is averaged over `samples` noise samples, which
        are drawn afresh in every step and normalised apart from each other. training: masks apply.
        """
        tasks = x.shape[0]
        if not (training or self.perturbation.in_testing):
            samples = 1  # all would be equal
        x, y = tf.tile(x, [1, samples, 1, 1, 1]), tf.tile(y, [samples, 1])
        theta = {
            name.removeprefix("theta/"): tf.broadcast_to(value, [tasks, *value.shape])
            for name, value in params.items()
            if name.startswith("theta/")
        }
        thetas = [theta]
        for step in range(self.n_steps):
            # What is differentiated has to be an argument, if it is to be computed again.
            def one(*values, step=step):
                given = dict(zip(params, values, strict=False))
                theta = dict(zip(thetas[0], values[len(params) :], strict=True))
                draw = Draw(noise, step, masked=training)
                return list(self.inner_step(given, theta, x, y, draw, samples).values())

            one = tf.recompute_grad(one) if self.remat else one
            theta = dict(zip(theta, one(*params.values(), *theta.values()), strict=True))
            thetas.append(theta)
        return thetas

    def inner_step(self, params: Params, theta: Params, x, y, draw: Draw, samples: int) -> Params:
        """One gradient step on the support loss."""
        h = self.features(params, theta, x, draw, samples)
        loss = layers.cross_entropy(self.head(params, theta, h, draw), y)
        grads = tf.gradients(loss, list(theta.values()))
        if self.meta_gradient == "first_order":
            grads = [tf.stop_gradient(g) for g in grads]
        return {k: v - self.inner_lr * g for (k, v), g in zip(theta.items(), grads, strict=True)}

    def logits(self, params: Params, theta: Params, x: tf.Tensor, noise: Noise | None = None) -> tf.Tensor:
        """Logits [T,Q,way] of the query images x [T,Q,H,W,C]; with `noise`, in training, masks apply."""
        draw = Draw(noise, self.n_steps, query=True, masked=True) if noise else None
        return self.head(params, theta, self.features(params, theta, x, draw), draw)


def labels(way: int, images: int, dtype=tf.float32) -> tf.Tensor:
    """One-hot labels [way*images,way] of an episode's rows, which are ordered by class."""
    return tf.constant(np.repeat(np.eye(way), images, axis=0), dtype)


def evaluate(learner, params: Params, x_s, x_q, noise: Noise, samples: int = 1, training: bool = False):
    """Adapt to the support sets x_s [T,S,H,W,C] and classify the query sets x_q [T,Q,H,W,C].

    -> query loss [T] (nats), query accuracy [T] (0 to 1).
    """
    way, dtype = learner.way, x_s.dtype
    adapted = learner.adapt(params, x_s, labels(way, x_s.shape[1] // way, dtype), noise, samples, training)
    logits = learner.logits(params, adapted, x_q, noise if training else None)
    y_q = labels(way, x_q.shape[1] // way, dtype)
    return layers.cross_entropy(logits, y_q), layers.accuracy(logits, y_q)


def by_task(f, tensors, dtypes, tasks_at_once: int, parallel: int) -> list[tf.Tensor]:
    """Call f on groups of `tasks_at_once` tasks of `tensors` [T,...], and stack the results [groups,...].

    On a CPU one task at a time, on as many cores as there are (`parallel`), is fastest: a task's maps stay
    in the cache and its kernels need no task axis. On a GPU all tasks go in one call.
    """
    tasks = tensors[0].shape[0]
    if tasks == tasks_at_once:
        return [out[None] for out in f(*tensors)]
    if tasks % tasks_at_once:
        raise ValueError(f"{tasks} tasks cannot be split into groups of {tasks_at_once}")
    groups = [tf.reshape(x, [tasks // tasks_at_once, tasks_at_once, *x.shape[1:]]) for x in tensors]
    return tf.map_fn(lambda group: f(*group), groups, fn_output_signature=dtypes, parallel_iterations=parallel)


def meta_gradients(
    learner, params: Params, x_s, x_q, seeds, tasks_at_once=1, parallel=1, noise_of=task_noise
) -> tuple[tf.Tensor, tf.Tensor, Params]:
    """Mean query loss and accuracy over tasks, and the gradient of that loss by every parameter: float64, so
    that the sum over tasks does not depend on how they are grouped.

    x_s [T,S,H,W,C], x_q [T,Q,H,W,C]; noise_of(seeds of a group) -> its Noise, seeds [T,2].
    """

    def group(x_s, x_q, seeds):
        loss, acc = evaluate(learner, params, x_s, x_q, noise_of(seeds), training=True)
        grads = tf.gradients(loss, list(params.values()), unconnected_gradients="zero")
        return [tf.reduce_sum(loss), tf.reduce_sum(acc), *grads]

    dtypes = [x_s.dtype, tf.float32] + [x_s.dtype] * len(params)
    sums = by_task(group, [x_s, x_q, seeds], dtypes, tasks_at_once, parallel)
    loss, acc, *grads = [tf.reduce_sum(tf.cast(s, tf.float64), 0) / x_s.shape[0] for s in sums]
    return loss, acc, dict(zip(params, grads, strict=True))
