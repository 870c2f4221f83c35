"""MAML and Meta-dropout a second time, by PyTorch's autograd alone: for a comparison of gradients, and of time.

    python tests/torch_maml.py --way 20 --query 15 --metabatch 4 --model metadrop      # times iterations, as bench.py

Nothing of the project's is used but the names and shapes of its parameters. Images are [N,H,W,C] as there, tasks are a
loop. PyTorch is an extra: pip install torch.
"""

import torch
from torch.nn import functional as F

from second_opinion import CLIP, EPSILON, INNER_LR, LAYERS, OUTER_LR, theta_of, time_iterations


class StoppedBatchNorm(torch.autograd.Function):
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
        normal = StoppedBatchNorm.apply(mu, beta) if published else normalise(mu)[0] + beta[:, None, None]
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
        theta = theta_of(params)
        for step in range(n_steps):
            loss = F.cross_entropy(forward(params, theta, support, noise_of(step), published), labels[0])
            grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
            theta = {name: v - inner_lr * g for (name, v), g in zip(theta.items(), grads, strict=True)}
        total = total + F.cross_entropy(forward(params, theta, query, None, published), labels[1]) / len(x_s)
    grads = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    return total.detach(), dict(zip(params, grads, strict=True))


def prepare(args, params: dict, x_s, x_q):
    torch.manual_seed(0)
    params = {name: torch.tensor(value).requires_grad_() for name, value in params.items()}
    adam = torch.optim.Adam(params.values(), OUTER_LR)
    images = torch.tensor(x_s), torch.tensor(x_q)
    settings = args.way, args.n_steps, INNER_LR, args.meta_gradient == "published"

    def iteration():
        _, grads = meta_gradient(params, *images, lambda step: lambda layer, shape: torch.randn(shape), *settings)
        for name, parameter in params.items():
            parameter.grad = grads[name].clamp(-CLIP, CLIP)
        adam.step()

    return iteration, {"torch": torch.__version__, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    time_iterations(__doc__.split("\n")[0], prepare)
