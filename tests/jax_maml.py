"""MAML and Meta-dropout a second time, by JAX's autodiff alone: for a comparison of gradients, and of time.

    python tests/jax_maml.py --way 20 --query 15 --metabatch 4 --model metadrop        # times iterations, as bench.py

Nothing of the project's is used but the names and shapes of its parameters. The gradient of a task, with its inner
steps in a Python loop, is one compiled function, which two threads call for one task after the other. Other
arrangements take more of a CPU's time. jax.vmap over tasks makes convolutions that have a kernel for each task (5-way:
2.7 times the time); jax.lax.map puts the convolutions into a loop, where XLA has only a slow kernel (10 times); a
compiled function for each inner step compiles in half the time, and an iteration takes a tenth more. One thread in
place of two takes a third less memory, and does not fill two cores. JAX is an extra: pip install jax.
"""

import functools
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import jax
from jax import lax
from jax import numpy as jnp

from second_opinion import CLIP, EPSILON, INNER_LR, LAYERS, OUTER_LR, theta_of, time_iterations

AT_A_TIME = 2  # tasks


@jax.custom_vjp
def stopped_normalise(x):
    """`normalise` whose gradient is a constant to the second derivative: the published one."""
    return normalise(x)[0]


def stopped_forward(x):
    normal, rstd = normalise(x)
    return normal, (normal, rstd)


def stopped_backward(kept, dy):
    normal, rstd = kept
    mean = lambda t: t.mean((0, 1, 2))  # noqa: E731
    return (lax.stop_gradient(rstd * (dy - mean(dy) - normal * mean(dy * normal))),)


stopped_normalise.defvjp(stopped_forward, stopped_backward)


def normalise(x):
    centred = x - x.mean((0, 1, 2))
    rstd = lax.rsqrt(jnp.square(centred).mean((0, 1, 2)) + EPSILON)
    return centred * rstd, rstd


def max_pool(x):
    """2x2 maxima of x [N,H,W,C], by comparing neighbours: with lax.reduce_window, whose derivatives are the same, an
    iteration takes 1.4 times as much of a CPU's time."""
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2, channels)
    larger = lambda a, b: jnp.where(a >= b, a, b)  # noqa: E731
    rows = larger(x[:, :, 0], x[:, :, 1])
    return larger(rows[:, :, :, 0], rows[:, :, :, 1])


def conv(x, w, b):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + b


def forward(params: dict, theta: dict, x, noise, published: bool):
    """Logits [N,way] of x [N,H,W,C]. noise(layer, shape NHWC) on the support set, None on the query set."""
    noisy = "phi/conv1_w" in params
    for layer in LAYERS:
        mu = conv(x, theta[f"{layer}_w"], theta[f"{layer}_b"])
        if noisy:
            a = conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"])
            mu = mu * jax.nn.softplus(a + noise(layer, a.shape) if noise else a)
        normal = stopped_normalise(mu) if published else normalise(mu)[0]
        x = max_pool(jax.nn.relu(normal + params[f"{layer}_bn/beta"]))
    h = x.reshape(len(x), -1)
    logits = h @ theta["dense_w"] + theta["dense_b"]
    if noisy and noise:
        sigma = jax.nn.softplus(h @ params["phi/dense_w"] + params["phi/dense_b"])
        logits = logits + sigma * noise("dense", logits.shape)
    return logits


def cross_entropy(params: dict, theta: dict, x, noise, published: bool):
    """Mean loss of x, whose rows are ordered by class."""
    logits = forward(params, theta, x, noise, published)
    way = logits.shape[1]
    labels = jnp.repeat(jnp.eye(way), len(x) // way, 0)
    return -(labels * jax.nn.log_softmax(logits)).sum() / len(x)


@functools.partial(jax.jit, static_argnames=("draw", "n_steps", "published"))
@jax.value_and_grad
def task_gradient(params: dict, support, query, noise, draw, n_steps: int, inner_lr: float, published: bool):
    """Query loss of a task after its inner steps, and its gradient by every parameter."""
    theta = theta_of(params)
    for step in range(n_steps):
        grads = jax.grad(cross_entropy, 1)(params, theta, support, functools.partial(draw, noise, step), published)
        theta = {name: v - inner_lr * grads[name] for name, v in theta.items()}
    return cross_entropy(params, theta, query, None, published)


def meta_gradient(params: dict, x_s, x_q, noise: list, draw, n_steps: int, inner_lr: float, published: bool):
    """Mean query loss, and its gradient by every parameter, of tasks x_s [T,S,H,W,C] and x_q [T,Q,H,W,C].

    draw(noise of the task, step, layer, shape NHWC) -> the noise of a layer in an inner step.
    """

    def one(*task):
        return jax.block_until_ready(task_gradient(params, *task, draw, n_steps, inner_lr, published))

    with ThreadPoolExecutor(AT_A_TIME) as threads:
        return jax.tree.map(lambda *tasks: sum(tasks) / len(tasks), *threads.map(one, x_s, x_q, noise))


@jax.jit
def adam(params: dict, m: dict, v: dict, grads: dict, t: int):
    """Return the next params, m and v. t: the number of the update, from 1."""
    grads = jax.tree.map(lambda g: g.clip(-CLIP, CLIP), grads)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    rate, unbiased = OUTER_LR / (1 - 0.9**t), 1 - 0.999**t
    return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v / unbiased) + 1e-8), params, m, v), m, v


def draw(key, step: int, layer: str, shape: tuple):
    """Return normal noise, which each step and layer has for itself."""
    number = [*LAYERS, "dense"].index(layer)
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), number), shape)


def prepare(args, params: dict, x_s, x_q):
    zeros = jax.tree.map(jnp.zeros_like, params)
    state, numbers = [params, zeros, zeros], itertools.count(1)
    settings = args.n_steps, INNER_LR, args.meta_gradient == "published"

    def iteration():
        t = next(numbers)
        keys = jax.random.split(jax.random.key(t), args.metabatch)
        _, grads = meta_gradient(state[0], x_s, x_q, keys, draw, *settings)
        state[:] = jax.block_until_ready(adam(*state, grads, t))

    return iteration, {"jax": jax.__version__, "threads": os.cpu_count()}


if __name__ == "__main__":
    time_iterations(__doc__.split("\n")[0], prepare)
