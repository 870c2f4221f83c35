"""A second opinion: PyTorch's autograd gives the same meta-gradients, exact and published, in float64."""

from pathlib import Path

import numpy as np
import pytest

import parity

pytest.importorskip("torch", reason="PyTorch is not installed")
import torch

import torch_maml

GOLDEN = Path(__file__).parent / "golden"
CASES = ["omniglot_maml_as_shipped", "omniglot_metadrop", "omniglot_metadrop_as_shipped"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_pytorchs_meta_gradient_is_ours(case):
    """On the inputs of the golden values, every parameter; what batch norm takes away is rounding in both."""
    import learners

    settings, _ = parity.read(GOLDEN / f"{case}.npz")
    ours = parity.compute(settings, "float64")
    image_shape, channels = parity.SHAPES[settings["dataset"]]
    base = {"image_shape": image_shape, "channels": channels, "way": settings["way"]}
    weights, x_s, x_q, noise = parity.redraw(settings, learners.make("metadrop", **base), parity.variables())
    names = learners.make("maml" if settings["maml"] else "metadrop", **base).parameters()
    params = {name: torch.tensor(weights[name], dtype=torch.float64).requires_grad_() for name in names}

    def noise_of(step):
        return lambda layer, shape: torch.tensor(noise[step, layer][0], dtype=torch.float64)

    loss, grads = torch_maml.meta_gradient(
        params, torch.tensor(x_s).double(), torch.tensor(x_q).double(), noise_of, settings["way"], settings["n_steps"],
        settings["inner_lr"], published=settings["as_shipped"],
    )  # fmt: skip
    assert float(loss) == pytest.approx(float(ours["query_loss"]), rel=1e-12)
    for name, gradient in grads.items():
        mine, other = ours[f"grad/{name}"], gradient.numpy()
        assert np.linalg.norm(mine - other) <= 1e-9 * max(np.linalg.norm(other), 1e-2), name
