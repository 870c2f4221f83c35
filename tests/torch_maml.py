"""MAML and Meta-dropout a second time, by PyTorch's autograd alone: for a comparison of gradients, and of time.

    python tests/torch_maml.py --way 20 --query 15 --metabatch 4 --model metadrop      # times iterations, as bench.py

Nothing of the project's is used but the names and shapes of its parameters. Images are [N,H,W,C] as there, tasks are a
loop. PyTorch is an extra: pip install torch.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch.nn import functional as F

LAYERS, EPSILON = ("conv1", "conv2", "conv3", "conv4"), 1e-3


class HeldBatchNorm(torch.autograd.Function):
    """Batch norm of x [N,C,H,W] whose gradient by x is a constant to the second derivative: the published one."""

    @staticmethod
    def forward(ctx, x, beta):
        normal, rstd = normalise(x)
        ctx.save_for_backward(normal, rstd)
        return normal + beta[:, None, None]

    @staticmethod
    def backward(ctx, dy):
        normal, rstd = ctx.saved_tensors
        mean = lambda t: t.mean((0, 2, 3), keepdim=True)  # noqa: E731
        return (rstd * (dy - mean(dy) - normal * mean(dy * normal))).detach(), dy.sum((0, 2, 3))


def normalise(x):
    centred = x - x.mean((0, 2, 3), keepdim=True)
    rstd = torch.rsqrt(centred.square().mean((0, 2, 3), keepdim=True) + EPSILON)
    return centred * rstd, rstd


def forward(params: dict, theta: dict, x, noise, published: bool):
    """Logits [N,way] of x [N,H,W,C]. noise(layer, shape NHWC) on the support set, None on the query set."""

    def conv(x, w, b):
        return F.conv2d(x, w.permute(3, 2, 0, 1), b, padding=1)

    x, noisy = x.permute(0, 3, 1, 2), "phi/conv1_w" in params
    for layer in LAYERS:
        mu = conv(x, theta[f"{layer}_w"], theta[f"{layer}_b"])
        if noisy:
            a = conv(x, params[f"phi/{layer}_w"], params[f"phi/{layer}_b"])
            if noise:
                a = a + noise(layer, a.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
            mu = mu * F.softplus(a)
        beta = params[f"{layer}_bn/beta"]
        normal = HeldBatchNorm.apply(mu, beta) if published else normalise(mu)[0] + beta[:, None, None]
        x = F.max_pool2d(F.relu(normal), 2)
    h = x.permute(0, 2, 3, 1).flatten(1)
    logits = h @ theta["dense_w"] + theta["dense_b"]
    if noisy and noise:
        sigma = F.softplus(h @ params["phi/dense_w"] + params["phi/dense_b"])
        logits = logits + sigma * noise("dense", logits.shape)
    return logits


def meta_gradient(params: dict, x_s, x_q, noise_of, way: int, n_steps: int, inner_lr: float, published: bool):
    """Mean query loss, and its gradient by every parameter, of tasks x_s [T,S,H,W,C] and x_q [T,Q,H,W,C].

    params: tensors by name that require a gradient. noise_of(step) -> `forward`'s noise.
    """
    labels = [torch.arange(way).repeat_interleave(x.shape[1] // way) for x in (x_s, x_q)]
    total = 0
    for support, query in zip(x_s, x_q, strict=True):
        theta = {name.removeprefix("theta/"): v for name, v in params.items() if name.startswith("theta/")}
        for step in range(n_steps):
            loss = F.cross_entropy(forward(params, theta, support, noise_of(step), published), labels[0])
            grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {name: v - inner_lr * g for (name, v), g in zip(theta.items(), grads, strict=True)}
        total = total + F.cross_entropy(forward(params, theta, query, None, published), labels[1]) / len(x_s)
    grads = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    return total.detach(), dict(zip(params, grads, strict=True))


def shapes(way: int, side: int, depth: int, channels: int, noisy: bool) -> dict[str, tuple]:
    """The parameters' shapes, as in the project."""
    sizes, d = {}, depth
    for net, outputs in (("theta", way), ("phi", 1))[: 1 + noisy]:
        for layer, inputs in zip(LAYERS, (d, channels, channels, channels), strict=True):
            sizes |= {f"{net}/{layer}_w": (3, 3, inputs, channels), f"{net}/{layer}_b": (channels,)}
        sizes |= {f"{net}/dense_w": ((side // 16) ** 2 * channels, outputs), f"{net}/dense_b": (outputs,)}
    return sizes | {f"{layer}_bn/beta": (channels,) for layer in LAYERS}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in {"way": 20, "shot": 1, "query": 15, "metabatch": 4, "n_steps": 5, "iterations": 5}.items():
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--model", choices=["maml", "metadrop"], default="metadrop")
    p.add_argument("--meta_gradient", choices=["published", "exact"], default="published")
    args, side, depth, channels = p.parse_args(), 28, 1, 64
    torch.manual_seed(0)
    sizes = shapes(args.way, side, depth, channels, args.model == "metadrop")
    params = {name: (0.02 * torch.randn(size)).requires_grad_() for name, size in sizes.items()}
    adam = torch.optim.Adam(params.values(), 1e-3)
    x_s, x_q = (torch.rand(args.metabatch, args.way * n, side, side, depth) for n in (args.shot, args.query))
    seconds = []
    for _ in range(args.iterations + 1):
        start = time.perf_counter()
        settings = (args.way, args.n_steps, 0.1, args.meta_gradient == "published")
        _, grads = meta_gradient(params, x_s, x_q, lambda step: lambda layer, shape: torch.randn(shape), *settings)
        for name, parameter in params.items():
            parameter.grad = grads[name].clamp(-3, 3)
        adam.step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    line = {"ms_per_step": round(1e3 * statistics.median(seconds[1:]), 1), "peak_mb": round(peak)}
    print(json.dumps(line | vars(args) | {"torch": torch.__version__, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
