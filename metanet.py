"""Two Meta Networks: an embedding, and a linear classifier of it that one pass over the support set writes.

Source of the equations: Komil Parmar's "meta-learning-from-scratch" (2025), whose names they are. Munkhdalai and
Yu's Meta Networks (ICML 2017) have loss gradients, memory and attention; of those there is nothing here, and
"original" is that repository's word for a classifier that generators write. Shapes as in model.py; E numbers of
an embedding, K of a hidden representation.
"""

import numpy as np
import tensorflow as tf

import layers
from perturbations import BLOCKS, Draw, Noise, NoPerturbation, Params, check_size

EMBEDDING, HIDDEN = 64, 128
STATISTICS = ("running", "batch")


class MetaNetwork:
    """The embedding network, and what both learners share; a subclass has `head_shapes` and `classifier`.

    Four blocks of 3x3 convolution, batch norm, relu, a mask, 2x2 max pooling; then a dense layer to E numbers.
    image_shape: (H, W, C), from 16 x 16. Training normalises the support and the query set by their own
    statistics; testing by running averages of those, or, with test_statistics `batch`, as in training.
    bf16, jit: as MAML's (model.py). Any number of classes may be classified, whatever `way` was in training.

    Differs from the original: running averages move once a metabatch, to where its passes, in any order, move them
    on average, and not after every pass; convolutions have no bias, which batch norm takes away again.
    """

    settings = ("test_statistics",)  # main.py's flags that it takes
    any_way = True
    n_steps = 0

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        way: int,
        perturbation: NoPerturbation,
        test_statistics: str = "running",
        bf16: bool = False,
        jit: bool = False,
    ):
        if test_statistics not in STATISTICS:
            raise ValueError(f"test_statistics is {test_statistics!r}, wanted one of {STATISTICS}")
        check_size(image_shape)
        self.image_shape, self.channels, self.way = tuple(image_shape), channels, way
        self.perturbation, self.test_statistics = perturbation, test_statistics
        self.stochastic, self.bf16, self.jit = perturbation.stochastic, bf16, jit

    def head_shapes(self) -> dict[str, tuple]:
        """Shapes of what writes the classifier, by name."""
        raise NotImplementedError

    def classifier(self, params: Params, h: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """From the support set's embeddings h [T,S,E] and labels y [S,way]: weights [T,E,way], biases [T,way]."""
        raise NotImplementedError

    def init(self, seed: int, dtype=tf.float32) -> Params:
        """PyTorch's defaults, as in the original: uniform within 1 / sqrt(inputs) of 0, gains 1, offsets 0,
        running means 0 and variances 1; U, V and e: normal, std 0.01."""
        height, width, depth = self.image_shape
        shapes = {}
        for block in range(1, BLOCKS + 1):
            shapes[f"conv{block}_w"] = (3, 3, depth, self.channels)
            depth, height, width = self.channels, height // 2, width // 2
        shapes |= {"dense_w": (height * width * depth, EMBEDDING), "dense_b": (EMBEDDING,)} | self.head_shapes()
        params = {}
        for i, (name, shape) in enumerate(shapes.items()):
            if name in ("U", "V", "e"):
                params[name] = tf.random.stateless_normal(shape, [seed, i], stddev=0.01, dtype=dtype)
            else:
                inputs = np.prod((shapes[name.replace("_b", "_w")] if name.endswith("_b") else shape)[:-1])
                bound = float(1 / np.sqrt(inputs))
                params[name] = tf.random.stateless_uniform(shape, [seed, i], -bound, bound, dtype)
        ones, zeros = tf.ones([self.channels], dtype), tf.zeros([self.channels], dtype)
        norms = [f"conv{block}_bn" for block in range(1, BLOCKS + 1)]
        params |= {f"{norm}/{name}": value for norm in norms for name, value in (("gamma", ones), ("beta", zeros))}
        return params | {
            f"running/{norm}/{name}": value for norm in norms for name, value in (("mean", zeros), ("variance", ones))
        }

    def blocks(self, params, x, draw, samples, batch):
        """Yield each block's name, its map before mask and relu, its mask (or None), its output and its statistics'
        distance from the running ones. batch: normalise by the batch's own statistics, every sample's apart."""
        for block in range(1, BLOCKS + 1):
            layer = f"conv{block}"
            x, w = layers.rounded(x, self.bf16), params[f"{layer}_w"]
            affine = params[f"{layer}_bn/gamma"], params[f"{layer}_bn/beta"]
            running = params[f"running/{layer}_bn/mean"], params[f"running/{layer}_bn/variance"]
            if batch:
                groups = tf.reshape(x, [x.shape[0] * samples, x.shape[1] // samples, *x.shape[2:]])
                mu, *met = layers.conv_batch_norm(groups, w, *affine)
                mu = tf.reshape(mu, [*x.shape[:2], *mu.shape[2:]])
                follow = tf.add_n([layers.follow(*pair) for pair in zip(running, met, strict=True)])
            else:
                mu, follow = layers.conv_normalised(x, w, *affine, *running), 0
            mask = self.perturbation.mask(layer, mu.shape, samples, draw)
            x = layers.relu_pool(mu, mask, self.jit)
            yield layer, mu, mask, x, follow

    def embed(self, params: Params, x: tf.Tensor, draw: Draw | None, samples: int, batch: bool) -> tf.Tensor:
        """x [T,N,H,W,C] -> embeddings [T,N,E]."""
        *_, outs, follows = zip(*self.blocks(params, x, draw, samples, batch), strict=True)
        return self.last(params, outs[-1]) + sum(follows)

    def last(self, params: Params, out: tf.Tensor) -> tf.Tensor:
        """The last block's output [T,N,h,w,C] -> embeddings [T,N,E]."""
        out = layers.rounded(tf.reshape(out, [*out.shape[:2], -1]), self.bf16)
        return layers.dense(out, params["dense_w"], params["dense_b"])

    def adapt(self, params: Params, x, y, noise: Noise, samples: int = 1, training: bool = False) -> Params:
        """The classifier of the support set x [T,S,H,W,C], y one-hot [S,way]. ValueError where y is of other than
        one class a row, or where a class has no row (the original would put e in its place)."""
        if (known := tf.get_static_value(y)) is not None:
            if not (np.isin(known, (0, 1)).all() and (known.sum(1) == 1).all()):
                raise ValueError("the labels are not one-hot")
            if missing := np.flatnonzero(known.sum(0) == 0).tolist():
                raise ValueError(f"the support set has no image of the classes {missing}: every class needs one")
        draw = Draw(noise, 0, masked=True) if training else None
        h = self.embed(params, x, draw, 1, training or self.test_statistics == "batch")
        w, b = self.classifier(params, h, y)
        return {"w": w, "b": b}

    def logits(self, params: Params, adapted: Params, x: tf.Tensor, noise: Noise | None = None) -> tf.Tensor:
        """Logits [T,Q,way] of the query images x [T,Q,H,W,C]; with `noise`: in training."""
        draw = Draw(noise, 1, query=True, masked=True) if noise else None
        h = self.embed(params, x, draw, 1, noise is not None or self.test_statistics == "batch")
        return layers.dense(h, *self.linear(adapted))

    def trajectory(self, params: Params, x, y, noise: Noise, samples: int = 1) -> list[Params]:
        """There are no inner steps: what `adapt` gives, alone."""
        return [self.adapt(params, x, y, noise)]

    def features(self, params, adapted, x, draw: Draw | None = None, samples=1) -> tf.Tensor:
        """Embeddings [T,N,E] of x [T,N,H,W,C] in testing, with the masks of `draw`."""
        return self.embed(params, x, draw, samples, self.test_statistics == "batch")

    def activations(self, params, adapted, x) -> dict[str, tf.Tensor]:
        """In testing: by block, its unmasked output, and the embedding, as `dense`, [T,N,D]."""
        outs = {layer: out for layer, *_, out, _ in self.blocks(params, x, None, 1, self.test_statistics == "batch")}
        flat = {layer: tf.reshape(out, [*x.shape[:2], -1]) for layer, out in outs.items()}
        return flat | {"dense": self.last(params, outs[f"conv{BLOCKS}"])}

    def maps(self, params, adapted, x, draw: Draw | None = None, samples=1) -> dict[str, tuple]:
        """By layer, in testing: mask * relu(batch_norm(.)) before pooling [T,N,H,W,C], and the mask or None."""
        found = {}
        for layer, mu, mask, *_ in self.blocks(params, x, draw, samples, self.test_statistics == "batch"):
            factor = None if mask is None else layers.masked(tf.ones_like(mu), mask)
            found[layer] = layers.masked(tf.nn.relu(mu), mask), factor
        return found

    def linear(self, adapted: Params) -> tuple[tf.Tensor, tf.Tensor]:
        """The classifier's weights [T,E,way] and biases [T,way]."""
        return adapted["w"], adapted["b"]

    def narrow(self, params: Params, way: int) -> Params:
        """The same parameters: none belongs to a class."""
        return params


def class_means(r: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Mean of r [T,S,K] over the rows of each class, y one-hot [S,way] -> [T,way,K]."""
    return tf.einsum("sc,tsk->tck", y / tf.reduce_sum(y, 0), r)


class EmbeddingMetaNetwork(MetaNetwork):
    """Metric-based: W_c = mean of U h + e over the support images of class c; logit of c = (V h_q) . W_c.

    e, as in the original, adds the same number to all logits of an image, and so changes nothing.
    """

    def head_shapes(self):
        return {"U": (HIDDEN, EMBEDDING), "V": (HIDDEN, EMBEDDING), "e": (HIDDEN,)}

    def classifier(self, params, h, y):
        classes = class_means(h @ tf.transpose(params["U"]) + params["e"], y)  # [T,way,K]
        w = tf.linalg.matrix_transpose(classes @ params["V"])  # (V h) . W_c = h . (V' W_c)
        return w, tf.zeros([w.shape[0], w.shape[2]], w.dtype)


class OriginalMetaNetwork(MetaNetwork):
    """Model-based: r = tanh(U h + e), its class means r_c; two generators, each of two layers with a relu between,
    write class c's column of W and its bias from r_c; logits = h_q W + b.

    The original declares a V that it never uses; it is left out.
    """

    def head_shapes(self):
        return {
            "U": (HIDDEN, EMBEDDING), "e": (HIDDEN,),
            "weight/dense1_w": (HIDDEN, HIDDEN), "weight/dense1_b": (HIDDEN,),
            "weight/dense2_w": (HIDDEN, EMBEDDING), "weight/dense2_b": (EMBEDDING,),
            "bias/dense1_w": (HIDDEN, EMBEDDING), "bias/dense1_b": (EMBEDDING,),
            "bias/dense2_w": (EMBEDDING, 1), "bias/dense2_b": (1,),
        }  # fmt: skip

    def classifier(self, params, h, y):
        classes = class_means(tf.tanh(h @ tf.transpose(params["U"]) + params["e"]), y)

        def generate(name):
            x = tf.nn.relu(layers.dense(classes, params[f"{name}/dense1_w"], params[f"{name}/dense1_b"]))
            return layers.dense(x, params[f"{name}/dense2_w"], params[f"{name}/dense2_b"])

        return tf.linalg.matrix_transpose(generate("weight")), generate("bias")[..., 0]
