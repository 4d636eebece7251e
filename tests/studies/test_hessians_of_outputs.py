"""Hessians along training with several outputs, against autograd on the loss as it is written."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.networks import StandardMLP
from sgdsim.networks.curvature import Curvature
from sgdsim.studies.hessians import hessian_spectra

N, C = 12, 3
LOOK = {"device": "cpu", "lanczos_steps": 5, "n_probes": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def data() -> ss.Dataset:
    rng = np.random.default_rng(0)
    return ss.Dataset(rng.standard_normal((N, 4)), rng.standard_normal((N, C)), "noise")


def dense(module: nn.Module, data: ss.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """∂²L/∂w² and JᵀJ/N, L = ½ Σ_i Σ_o (f_io − y_io)²/N, a number at a time by autograd."""
    names, values = zip(*module.named_parameters(), strict=True)
    sizes, x, y = [v.numel() for v in values], torch.tensor(data.x), torch.tensor(data.y)

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        parts = (p.view_as(v) for p, v in zip(flat.split(sizes), values, strict=True))
        return torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (x,))

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return 0.5 * sum((f - t) ** 2 for f, t in zip(outputs(flat).ravel(), y.ravel(), strict=True)) / N

    at = torch.cat([v.detach().ravel() for v in values])
    j = torch.autograd.functional.jacobian(lambda flat: outputs(flat).ravel(), at)
    assert j.shape[0] == N * C
    return torch.autograd.functional.hessian(loss, at).numpy(), (j.T @ j / N).numpy()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_hessian_and_gauss_newton_are_those_of_the_loss(data, batch_norm):
    module = StandardMLP(3, 2, "tanh", batch_norm=batch_norm, seed=1, n_inputs=4, n_outputs=C)
    hessian, gauss_newton = dense(module, data)
    curvature = Curvature(module, data.x, data.y)
    one = np.eye(curvature.size)
    np.testing.assert_allclose(curvature.hessian() @ one, hessian, atol=1e-12)
    np.testing.assert_allclose(curvature.ggn() @ one, gauss_newton, atol=1e-12)
    found = hessian_spectra(module, data, lr=0.1, steps=[0], top=6, **LOOK).at[0]
    values = np.linalg.eigvalsh(hessian)[::-1]
    np.testing.assert_allclose(found.eigenvalues, values[:6], atol=1e-7 * values[0])
    assert found.smallest == pytest.approx(values[-1], abs=1e-7 * values[0])


def test_one_output_has_the_parameters_that_it_had():
    module = StandardMLP(3, 1, seed=2, n_inputs=4)
    generator = torch.Generator().manual_seed(2)
    first = torch.zeros(3, 4, dtype=torch.float64).normal_(0.0, 0.5**0.5, generator=generator)
    assert torch.equal(module.layers[0].weight, first)
    assert module(torch.ones(5, 4, dtype=torch.float64)).shape == (5,)
    assert "n_outputs" not in module.describe()


class Several(nn.Module):
    """What gives its outputs among other things."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.inner, self.kind = StandardMLP(3, 1, "tanh", seed=1, n_inputs=4, n_outputs=C), kind

    def forward(self, x: torch.Tensor) -> object:
        f = self.inner(x)
        return {"hidden": x, "logits": f} if self.kind is dict else (x, f)


@pytest.mark.parametrize(("kind", "output"), [(dict, "logits"), (tuple, 1)])
def test_one_of_several_things(data, kind, output):
    module = Several(kind)
    found = hessian_spectra(module, data, output=output, lr=0.1, steps=[0, 7], top=4, **LOOK)
    alone = hessian_spectra(module.inner, data, lr=0.1, steps=[0, 7], top=4, **LOOK)
    for one, other in zip(found.at, alone.at, strict=True):
        np.testing.assert_array_equal(one.eigenvalues, other.eigenvalues)
        assert one.loss == other.loss
    assert isinstance(module(torch.as_tensor(data.x)), kind)  # the module itself is as it was
    with pytest.raises(InputError, match="output: expected one of"):
        hessian_spectra(module, data, output="nothing", lr=0.1, steps=[0], top=4, **LOOK)
    with pytest.raises(InputError, match="name one by"):
        hessian_spectra(module, data, lr=0.1, steps=[0], top=4, **LOOK)


def test_command(run, tmp_path):
    small = ["--n", "20", "--steps", "0", "--top", "3", "--lanczos-steps", "4", "--probes", "2", "--batch-size", "5"]
    run("hessian", *small, "--targets", "one-hot", "--width", "4", "--depth", "1", "--out", "found.json")
    runs = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert [found["network"]["n_outputs"] for found in runs.values()] == [10, 10]
    own = (
        "from torch import nn\nclass Own(nn.Linear):\n    def forward(self, x):\n        return 0, super().forward(x)\n"
    )
    (tmp_path / "two_things.py").write_text(own + "def make():\n    return Own(64, 10)\n")
    out = run("hessian", *small, "--targets", "one-hot", "--model", "two_things:make", "--output", "1")
    assert "650 parameters" in out
    assert "--output: expected only beside --model" in run("hessian", *small, "--output", "1", code=2)
