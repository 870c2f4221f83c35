"""The parameters of a network: their shapes and their initializers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from lazy import tf

BLOCKS = 4  # of every network here: 3x3 convolution, batch norm, relu, 2x2 max pooling; for vectors: dense layers
Params: TypeAlias = "dict[str, tf.Tensor]"
Initializer: TypeAlias = "Callable[[Sequence[int], Sequence[int], tf.DType], tf.Tensor]"  # shape, seed [2], dtype


class Parameter(NamedTuple):
    """The declaration of a parameter: its shape, its initializer (`zeros`, `normal(0.02)`, ...), and whether the outer
    loop trains it; a running average is not trained."""

    shape: tuple[int, ...]
    initializer: Initializer
    trained: bool = True


def identity(shape, seed, dtype) -> tf.Tensor:
    """Identity matrix."""
    return tf.eye(*shape, dtype=dtype)


def constant(value: float) -> Initializer:
    return lambda shape, seed, dtype: tf.constant(value, dtype, shape)


zeros, ones = constant(0.0), constant(1.0)


def normal(std: float) -> Initializer:
    return lambda shape, seed, dtype: tf.random.stateless_normal(shape, seed, stddev=std, dtype=dtype)


def truncated_normal(std: float) -> Initializer:
    """Normal, without the values beyond two standard deviations."""
    return lambda shape, seed, dtype: tf.random.stateless_truncated_normal(shape, seed, stddev=std, dtype=dtype)


def uniform(low: float, high: float) -> Initializer:
    return lambda shape, seed, dtype: tf.random.stateless_uniform(shape, seed, low, high, dtype)


def initialize(declared: dict[str, Parameter], seed: int, dtype="float32") -> Params:
    """Return all parameters as they are initialized, a pure function of the seed: the i-th is drawn from [seed, i]."""
    dtype = tf.as_dtype(dtype)
    return {name: p.initializer(p.shape, [seed, i], dtype) for i, (name, p) in enumerate(declared.items())}


def kernel_and_bias(params: Params, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `name`_w and `name`_b, the weights of a convolution or a dense layer."""
    return params[f"{name}_w"], params[f"{name}_b"]


def is_vector(image_shape: Sequence[int]) -> bool:
    """Return True if the images (H, W, C) are vectors of C numbers: images of one pixel."""
    return tuple(image_shape[:2]) == (1, 1)


def kernel_size(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the height and width of the convolutions' kernels. A kernel of one pixel makes a block of vectors a dense
    layer."""
    return (1, 1) if is_vector(image_shape) else (3, 3)


def default_channels(image_shape: tuple[int, int, int]) -> int:
    """Return the number of channels of a convolution, if a run does not set it."""
    return 64 if is_vector(image_shape) or image_shape[-1] == 1 else 32


def check_size(image_shape: tuple[int, int, int]) -> None:
    """Raise ValueError if images (H, W, C) are too small for four blocks."""
    height, width, _ = image_shape
    if min(height, width) < 2**BLOCKS and not is_vector(image_shape):
        raise ValueError(f"images of {height} x {width} leave nothing after {BLOCKS} poolings")


def conv_blocks(net: str, image_shape: tuple[int, int, int], channels: int) -> dict[str, Parameter]:
    """Declare the convolutions of four blocks, `net`/conv1_w to `net`/conv4_b, initialized as in the TF1 code: kernels
    truncated normal, std 0.02; biases 0. Batch norm takes an unperturbed convolution's bias away again: its gradient is
    a rounding error, with which Adam moves it, and no output changes."""
    *_, depth = image_shape
    declared = {}
    for block in range(1, BLOCKS + 1):
        shape = (*kernel_size(image_shape), depth, channels)
        declared[f"{net}/conv{block}_w"] = Parameter(shape, truncated_normal(0.02))
        declared[f"{net}/conv{block}_b"] = Parameter((channels,), zeros)
        depth = channels
    return declared


def features_of(image_shape: tuple[int, int, int], channels: int) -> int:
    """Return the number of features that four blocks compute from an image. A single pixel is not pooled."""
    height, width = (max(side // 2**BLOCKS, 1) for side in image_shape[:2])
    return height * width * channels


def conv_net(net: str, image_shape: tuple[int, int, int], channels: int, outputs: int) -> dict[str, Parameter]:
    """Declare `conv_blocks` and a dense layer, initialized as in the TF1 code: `net`/dense_w normal, std 0.02;
    `net`/dense_b 0."""
    return conv_blocks(net, image_shape, channels) | {
        f"{net}/dense_w": Parameter((features_of(image_shape, channels), outputs), normal(0.02)),
        f"{net}/dense_b": Parameter((outputs,), zeros),
    }


def offsets(channels: int) -> dict[str, Parameter]:
    """Declare batch norm's offsets of four blocks, initialized with 0."""
    return {f"conv{block}_bn/beta": Parameter((channels,), zeros) for block in range(1, BLOCKS + 1)}
