"""Two Meta Networks: an embedding, and a linear classifier of it, which is computed from one pass over the support set.

Source of the equations and of the names: Komil Parmar's "meta-learning-from-scratch" (2025). Munkhdalai and Yu's Meta
Networks (ICML 2017) also have loss gradients, memory and attention, and these do not; "original" is that repository's
word for a classifier that generators compute. Shapes as in model.py; E numbers of an embedding, K of a hidden
representation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

import layers
from lazy import tf
from model import Learner, rows
from parameters import (
    BLOCKS,
    Parameter,
    Params,
    features_of,
    kernel_and_bias,
    kernel_size,
    normal,
    ones,
    uniform,
    zeros,
)
from perturbations.draws import TEST_SUPPORT, TRAINING_QUERY, TRAINING_SUPPORT, UNPERTURBED, Draw, Noise
from settings import Settings, setting

EMBEDDING, HIDDEN = 64, 128
MOMENTUM, PASSES = 0.1, 2  # of running averages, for each of a task's two passes, over its support and query set


@dataclass(frozen=True)
class MetaNetworkSettings(Settings):
    test_statistics: str = setting(
        "running",
        "batch norm of Meta Networks in testing: by running averages, or by each batch",
        choices=["running", "batch"],
        overridable_in=["test"],
    )


class MetaNetwork(Learner):
    """The embedding network, which both learners have; a subclass adds `head_parameters` and `classifier`.

    Four blocks of 3x3 convolution, batch norm, relu, a mask, 2x2 max pooling; then a dense layer to E numbers. In
    training the support and the query set are each normalised by their own statistics, in testing by running averages
    of these, or, with test_statistics `batch`, as in training. A test may have any number of classes.

    Differs from the original: running averages move once per metabatch, by the mean of its passes, and not after every
    pass; convolutions have no bias, because batch norm would remove it.
    """

    settings_class = MetaNetworkSettings
    settings: MetaNetworkSettings
    hooks = frozenset({"mask"})
    any_way = inspectable = True

    def running_step(self, tasks: int) -> float:
        """Return the factor for passes that move an average one after the other, each by MOMENTUM. A task's gradient is
        the sum over its PASSES passes."""
        return (1 - (1 - MOMENTUM) ** (PASSES * tasks)) / PASSES

    def head_parameters(self) -> dict[str, Parameter]:
        """Declare the parameters of `classifier`."""
        raise NotImplementedError

    def classifier(self, params: Params, h: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return weights [T,E,way] and biases [T,way] for the support set's embeddings h [T,S,E], labels y [S,way]."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Parameter]:
        """Initializers are PyTorch's, as in the original: weights and biases uniform within 1 / sqrt(inputs) of 0,
        gains 1, offsets 0, running means 0 and variances 1; U, V and e: normal, std 0.01."""
        convolutions, norms, running, depth = {}, {}, {}, self.image_shape[-1]
        for layer in (f"conv{block}" for block in range(1, BLOCKS + 1)):
            kernel = (*kernel_size(self.image_shape), depth)
            convolutions[f"{layer}_w"] = Parameter((*kernel, self.channels), within(math.prod(kernel)))
            depth, shape = self.channels, (self.channels,)
            norms |= {f"{layer}_bn/gamma": Parameter(shape, ones), f"{layer}_bn/beta": Parameter(shape, zeros)}
            running[f"running/{layer}_bn/mean"] = Parameter(shape, zeros, trained=False)
            running[f"running/{layer}_bn/variance"] = Parameter(shape, ones, trained=False)
        dense = dense_parameters("dense", features_of(self.image_shape, self.channels), EMBEDDING)
        phi = self.perturbation.parameters(self.image_shape, self.channels)
        return convolutions | dense | self.head_parameters() | norms | phi | running

    def blocks(self, params, x, draw, batch, shares=None):
        """Yield each block's name, its map before mask and relu, its mask (or None), its output and its penalty.

        batch: True: normalise each sample by its own statistics; the penalty's gradient is then the distance of the
        running averages from these. shares: the weight of each image in these statistics, in testing
        (layers.shared_statistics).
        """
        for block in range(1, BLOCKS + 1):
            layer = f"conv{block}"
            with draw.scope(layer):
                x, w = layers.rounded(x, self.bf16), params[f"{layer}_w"]
                affine = params[f"{layer}_bn/gamma"], params[f"{layer}_bn/beta"]
                running = params[f"running/{layer}_bn/mean"], params[f"running/{layer}_bn/variance"]
                if batch:
                    groups = tf.reshape(x, [x.shape[0] * draw.samples, x.shape[1] // draw.samples, *x.shape[2:]])
                    if shares is None:
                        mu, *statistics = layers.conv_batch_norm(groups, w, *affine)
                        pairs = zip(running, statistics, strict=True)
                        penalty = sum(layers.running_average_penalty(*pair, x.shape[0]) for pair in pairs)
                    else:
                        mu, penalty = layers.batch_norm_shared(layers.conv(groups, w, None), *affine, shares), 0.0
                    mu = tf.reshape(mu, [*x.shape[:2], *mu.shape[2:]])
                else:
                    mu, penalty = layers.conv_normalised(x, w, *affine, *running), 0.0
                mask, mask_penalty = self.perturbation.mask(params, params, layer, x, mu.shape, draw)
                x = layers.relu_pool(mu, mask)
            yield layer, mu, mask, x, penalty + mask_penalty

    def embed(self, params: Params, x: tf.Tensor, draw: Draw, batch: bool, shares=None):
        """Return embeddings [T,N,E] of x [T,N,H,W,C], and the penalty of the pass."""
        *_, outputs, penalties = zip(*self.blocks(params, x, draw, batch, shares), strict=True)
        with draw.scope("head"):
            return self.last(params, outputs[-1]), sum(penalties)

    def last(self, params: Params, output: tf.Tensor) -> tf.Tensor:
        """Return embeddings [T,N,E] from the last block's output [T,N,h,w,C]."""
        return layers.dense(layers.rounded(rows(output), self.bf16), *kernel_and_bias(params, "dense"))

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False):
        """Return the classifier of the support set: weights [T,E,way] and biases [T,way], from the mean over `samples`
        passes if these differ. Raise ValueError if labels are not one-hot, or if a class has no image (the original
        would put e in its place)."""
        if (known := tf.get_static_value(y)) is not None:
            if not (np.isin(known, (0, 1)).all() and (known.sum(1) == 1).all()):
                raise ValueError("the labels are not one-hot")
            if missing := np.flatnonzero(known.sum(0) == 0).tolist():
                raise ValueError(f"the support set has no image of the classes {missing}: every class needs one")
        shares = layers.image_shares(y, layers.class_shares(y))
        where = TRAINING_SUPPORT if training else TEST_SUPPORT
        samples = samples if where in self.perturbation.random_in else 1
        x, y = tf.tile(x, [1, samples, 1, 1, 1]), tf.tile(y, [samples, 1])
        draw = Draw(noise, 0, where, samples, shares)
        h, penalty = self.embed(params, x, draw, training or self.settings.test_statistics == "batch", shares)
        return self.classifier(params, h, y), penalty

    def classify(self, params: Params, adapted, x: tf.Tensor, noise: Noise | None = None, shares=None):
        draw = Draw(noise, 1, TRAINING_QUERY) if noise else UNPERTURBED
        h, penalty = self.embed(params, x, draw, noise is not None or self.settings.test_statistics == "batch", shares)
        return layers.dense(h, *self.linear(adapted)), penalty

    def features(self, params, adapted, x, draw: Draw = UNPERTURBED) -> tf.Tensor:
        """Return embeddings [T,N,E] of x [T,N,H,W,C] in testing, with the masks of `draw`."""
        return self.embed(params, x, draw, self.settings.test_statistics == "batch", draw.shares)[0]

    def activations(self, params, adapted, x) -> dict[str, tf.Tensor]:
        """Return each block's output without mask and the embedding, `dense`, [T,N,D], in testing."""
        blocks = self.blocks(params, x, UNPERTURBED, self.settings.test_statistics == "batch")
        outputs = {layer: output for layer, *_, output, _ in blocks}
        flat = {layer: rows(output) for layer, output in outputs.items()}
        return flat | {"dense": self.last(params, outputs[f"conv{BLOCKS}"])}

    def maps(self, params, adapted, x, draw: Draw = UNPERTURBED) -> dict[str, tuple]:
        """Return mask * relu(batch_norm(.)) before pooling and the mask (or None) of each block, in testing."""
        maps = {}
        for layer, mu, mask, *_ in self.blocks(params, x, draw, self.settings.test_statistics == "batch"):
            factor = None if mask is None else layers.masked(tf.ones_like(mu), mask)
            maps[layer] = layers.masked(tf.nn.relu(mu), mask), factor
        return maps


def within(inputs: int):
    """Uniform within 1 / sqrt(inputs) of 0."""
    bound = float(1 / np.sqrt(inputs))
    return uniform(-bound, bound)


def dense_parameters(name: str, inputs: int, outputs: int) -> dict[str, Parameter]:
    """Declare the weights and biases of a dense layer."""
    return {
        f"{name}_w": Parameter((inputs, outputs), within(inputs)),
        f"{name}_b": Parameter((outputs,), within(inputs)),
    }


class EmbeddingMetaNetwork(MetaNetwork):
    """Metric-based: W_c = mean of U h + e over the support images of class c; logit of c = (V h_q) . W_c.

    As in the original, e adds the same number to all logits of an image, and so has no effect.
    """

    def head_parameters(self):
        shapes = {"U": (HIDDEN, EMBEDDING), "V": (HIDDEN, EMBEDDING), "e": (HIDDEN,)}
        return {name: Parameter(shape, normal(0.01)) for name, shape in shapes.items()}

    def classifier(self, params, h, y):
        classes = layers.class_means(h @ tf.transpose(params["U"]) + params["e"], y)  # [T,way,K]
        w = tf.linalg.matrix_transpose(classes @ params["V"])  # (V h) . W_c = h . (V' W_c)
        return w, tf.zeros([w.shape[0], w.shape[2]], w.dtype)


class OriginalMetaNetwork(MetaNetwork):
    """Model-based: r = tanh(U h + e) with class means r_c; two generators, each of two layers with a relu between them,
    compute class c's column of W and its bias from r_c; logits = h_q W + b.

    The original has a V that it never uses, and this class has none.
    """

    def head_parameters(self):
        return {
            "U": Parameter((HIDDEN, EMBEDDING), normal(0.01)),
            "e": Parameter((HIDDEN,), normal(0.01)),
            **dense_parameters("weight/dense1", HIDDEN, HIDDEN),
            **dense_parameters("weight/dense2", HIDDEN, EMBEDDING),
            **dense_parameters("bias/dense1", HIDDEN, EMBEDDING),
            **dense_parameters("bias/dense2", EMBEDDING, 1),
        }

    def classifier(self, params, h, y):
        classes = layers.class_means(tf.tanh(h @ tf.transpose(params["U"]) + params["e"]), y)

        def generate(name):
            x = tf.nn.relu(layers.dense(classes, *kernel_and_bias(params, f"{name}/dense1")))
            return layers.dense(x, *kernel_and_bias(params, f"{name}/dense2"))

        return tf.linalg.matrix_transpose(generate("weight")), generate("bias")[..., 0]
