"""Momentum in torch's order: path by path what torch.optim.SGD does under a schedule, and heavy ball without one."""

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.algorithm import draws
from sgdsim.common.checks import InputError


def of_torch(problem, rates, momentum, nesterov, batches):
    """Losses of a plain loop on the linear model `r = r_0 + J(w − w_0)`, with JJᵀ = K̂, on these batches."""
    vectors = problem.spectrum.eigenvectors
    jacobian = torch.tensor(vectors * np.sqrt(problem.eigenvalues))
    start = torch.tensor(vectors @ problem.coefficients)
    weights = torch.nn.Parameter(torch.zeros(problem.n, dtype=torch.float64))
    optimiser = torch.optim.SGD([weights], lr=1.0, momentum=momentum, nesterov=nesterov)
    losses = [0.5 * start.square().mean().item()]
    for rate, batch in zip(rates, batches, strict=True):
        optimiser.param_groups[0]["lr"] = rate * problem.n
        optimiser.zero_grad()
        (0.5 * (start + jacobian @ weights)[batch].square().mean()).backward()
        optimiser.step()
        losses.append(0.5 * (start + jacobian @ weights).square().mean().item())
    return np.array(losses)


CASES = [(0.0, False), (0.7, False), (0.95, False), (0.7, True), (0.95, True)]


@pytest.mark.parametrize(("momentum", "nesterov"), CASES)
def test_full_batch_is_torch_under_a_schedule(tiny, momentum, nesterov):
    schedule = ss.schedules.Cosine(0.6, 40, warmup=5)
    sgd = ss.SGD(schedule, momentum, batch_size=tiny.n, method=f"torch:nesterov={int(nesterov)}")
    expected = of_torch(tiny, schedule(np.arange(40)), momentum, nesterov, [np.arange(tiny.n)] * 40)
    for regime in (ss.SpectralDiagonal(), ss.BatchAveraged(), ss.SampledLinearized()):
        found = ss.simulate(tiny, sgd, regime, 40, record=1)["loss"].values[0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("momentum", "nesterov"), CASES)
def test_batch_by_batch_too(tiny, momentum, nesterov):
    schedule = ss.schedules.Power(0.4, 0.5, offset=3)
    sgd = ss.SGD(schedule, momentum, batch_size=2, method=f"torch:nesterov={int(nesterov)}")
    batches = draws.independent(tiny.n, np.full(30, 2), 0, draws.replicate_keys(4, 1), with_replacement=False)[0]
    expected = of_torch(tiny, schedule(np.arange(30)), momentum, nesterov, batches)
    found = ss.simulate(tiny, sgd, ss.SampledLinearized(), 30, record=1, seed=4)["loss"].values[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_the_order_matters_under_a_schedule(tiny):
    schedule = ss.schedules.Steps(0.5, 0.1, 10)
    ends = []
    for method in ("heavy-ball", "torch"):
        sgd = ss.SGD(schedule, 0.9, batch_size=5, method=method)
        ends.append(ss.simulate(tiny, sgd, ss.SpectralDiagonal(), 15)["loss"].values[0, 0, -1])
    assert abs(ends[0] / ends[1] - 1) > 0.1


@pytest.mark.parametrize(("text", "same"), [("torch", "heavy-ball"), ("torch:nesterov=1", "nesterov")])
def test_at_a_constant_rate_it_is_the_usual_one(text, same):
    assert ss.SGD(0.5, 0.9, batch_size=2, method=text) == ss.SGD(0.5, 0.9, batch_size=2, method=same)


@pytest.mark.parametrize("text", ["torch:nesterov=2", "torch:nesterov=0.5"])
def test_refused(text):
    with pytest.raises(InputError, match="torch"):
        ss.SGD(0.5, 0.9, method=text)
