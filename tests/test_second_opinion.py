"""A second opinion: JAX's and PyTorch's autodiff give the same meta-gradients, exact and published, in float64."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

import learners
import optimizers
import parity
import second_opinion

GOLDEN = Path(__file__).parent / "golden"
CASES = ["omniglot_maml_as_shipped", "omniglot_metadrop", "omniglot_metadrop_as_shipped"]


def jaxs(settings, params, x_s, x_q, noise):
    """Return JAX's loss and gradients. Its float64 is a switch of the whole process."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    import jax_maml

    rest = settings["n_steps"], settings["inner_lr"], settings["as_shipped"]
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        draws = [noise] * len(x_s)
        loss, grads = jax_maml.meta_gradient(params, x_s, x_q, draws, lambda noise, *at: noise[at[:2]], *rest)
        return float(loss), {name: np.asarray(gradient) for name, gradient in grads.items()}
    finally:
        jax.config.update("jax_enable_x64", before)


def pytorchs(settings, params, x_s, x_q, noise):
    """Return PyTorch's loss and gradients."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_maml

    params = {name: torch.tensor(value).requires_grad_() for name, value in params.items()}

    def noise_of(step):
        return lambda layer, shape: torch.tensor(noise[step, layer])

    rest = settings["way"], settings["n_steps"], settings["inner_lr"], settings["as_shipped"]
    loss, grads = torch_maml.meta_gradient(params, torch.tensor(x_s), torch.tensor(x_q), noise_of, *rest)
    return float(loss), {name: gradient.numpy() for name, gradient in grads.items()}


@functools.cache
def ours(case):
    """Return the settings of a golden file, the project's values on its inputs, and these inputs, all in float64."""
    settings, _ = parity.read(GOLDEN / f"{case}.npz")
    image_shape, channels = parity.SHAPES[settings["dataset"]]
    base = {"image_shape": image_shape, "channels": channels, "way": settings["way"]}
    weights, x_s, x_q, noise = parity.redraw(settings, learners.make("metadrop", **base), parity.variables())
    names = learners.make("maml" if settings["maml"] else "metadrop", **base).parameters()
    params = {name: weights[name].astype("float64") for name in names}
    noise = {at: draw[0].astype("float64") for at, draw in noise.items()}
    return settings, parity.compute(settings, "float64"), params, x_s.astype("float64"), x_q.astype("float64"), noise


@pytest.mark.slow
@pytest.mark.parametrize("theirs", [jaxs, pytorchs])
@pytest.mark.parametrize("case", CASES)
def test_the_meta_gradient_is_ours(case, theirs):
    """On the inputs of the golden values, every parameter; what batch norm takes away is rounding in both."""
    settings, expected, *inputs = ours(case)
    loss, grads = theirs(settings, *inputs)
    assert loss == pytest.approx(float(expected["query_loss"]), rel=1e-12)
    for name, other in grads.items():
        mine = expected[f"grad/{name}"]
        assert np.linalg.norm(mine - other) <= 1e-9 * max(np.linalg.norm(other), 1e-2), name


@pytest.mark.parametrize("dataset", parity.SHAPES)
@pytest.mark.parametrize("model", ["maml", "metadrop"])
def test_the_timed_iteration_has_the_projects_parameters_and_images(dataset, model, monkeypatch, capsys):
    (side, _, depth), channels = image_shape, _ = parity.SHAPES[dataset]
    flags = f"--way 5 --shot 2 --query 3 --metabatch 4 --iterations 2 --dataset {dataset} --model {model}"
    monkeypatch.setattr("sys.argv", ["x_maml.py", *flags.split()])
    calls = []

    def prepare(args, params, x_s, x_q):
        assert (x_s.shape, x_q.shape) == ((4, 10, side, side, depth), (4, 15, side, side, depth))
        wanted = learners.make(model, image_shape=image_shape, channels=channels, way=args.way).parameters()
        assert {name: value.shape for name, value in params.items()} == {k: v.shape for k, v in wanted.items()}
        assert {array.dtype.name for array in (x_s, x_q, *params.values())} == {"float32"}
        return lambda: calls.append(1), {"library": "1.0"}

    second_opinion.time_iterations("x", prepare)
    line = json.loads(capsys.readouterr().out)
    assert line.keys() > {"ms_per_step", "ms_fastest", "compile_s", "peak_mb", "way", "meta_gradient", "library"}
    assert len(calls) == 4 and line["model"] == model


def test_jaxs_adam_is_ours():
    """Clipping included; the two formulas differ in where they add epsilon."""
    pytest.importorskip("jax", reason="JAX is not installed")
    import jax_maml

    rng = np.random.default_rng(0)
    weights, gradients = rng.standard_normal(50), 3 * rng.standard_normal((3, 50))
    theirs = [{"w": np.float32(value)} for value in (weights, 0 * weights, 0 * weights)]
    slots = optimizers.empty_slots(50, "float64")
    for t, gradient in enumerate(gradients, 1):
        theirs = jax_maml.adam(*theirs, {"w": np.float32(gradient)}, t)
        step, slots = optimizers.adam(optimizers.clip(gradient, None), slots, second_opinion.OUTER_LR)
        weights = weights - step
    np.testing.assert_allclose(theirs[0]["w"], weights, atol=1e-6)
