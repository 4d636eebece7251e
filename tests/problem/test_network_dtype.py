"""In which precision a network's kernel is computed."""

import numpy as np
import pytest
import torch
from torch import nn

import sgdsim as ss
from sgdsim.common.checks import InputError


class Casting(nn.Module):
    """What computes in float32 throughout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.float())


def test_float32_has_its_digits():
    rng = np.random.default_rng(0)
    data = ss.Dataset(rng.standard_normal((10, 4)), rng.standard_normal(10), "noise", np.ones((2, 4)), np.ones(2))
    double, single = (ss.NetworkProblem(Casting().inner, data, dtype=t, device="cpu") for t in ("float64", "float32"))
    assert ss.NetworkProblem(Casting().inner, data, device="cpu").fingerprint == double.fingerprint
    apart = np.abs(single.quadratic.kernel - double.quadratic.kernel).max()
    assert 0 < apart < 1e-5
    assert single.quadratic.spectrum.scale == pytest.approx(double.quadratic.spectrum.scale, rel=1e-5)
    assert single.initial_outputs[0].dtype == np.float64
    casting = ss.NetworkProblem(Casting(), data, dtype="float32", device="cpu")
    np.testing.assert_array_equal(casting.quadratic.eigenvalues, single.quadratic.eigenvalues)
    with pytest.raises(InputError, match="float64 throughout"):
        ss.NetworkProblem(Casting(), data, device="cpu")
    with pytest.raises(InputError, match="dtype: expected one of float64, float32; got 'bfloat16'"):
        ss.NetworkProblem(Casting(), data, dtype="bfloat16", device="cpu")
