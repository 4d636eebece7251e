"""Adam on the linearised network: against torch.optim.Adam on the same linear model, and who may follow it."""

import copy

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import sampling
from sgdsim.common.checks import InputError
from sgdsim.regimes import _adam


@pytest.fixture(scope="module")
def linear() -> ss.NetworkProblem:
    """A network that is its own linearisation."""
    torch.manual_seed(0)
    data = ss.datasets.load("digits", n=30, seed=0, n_test=10)
    return ss.NetworkProblem(torch.nn.Sequential(torch.nn.Linear(64, 1)).double(), data)


@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_it_is_that_of_torch_on_the_same_batches(linear, label_noise):
    steps, sgd = 40, ss.SGD(0.02, batch_size=4, method="adam:beta1=0.8,beta2=0.99", label_noise=label_noise)
    options = {"record": 1, "replicates": 2, "seed": 3, "observe": "test_loss"}
    run = ss.simulate(linear, sgd, ss.SampledLinearized(), steps, **options)
    keys = sampling.replicate_keys(3, 2)
    batches = sampling.minibatch_indices(30, np.full(steps, 4), 0, steps, keys)
    errors = label_noise * sampling.label_errors(0, steps, 4, keys)
    data = linear.data
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
    for r in range(2):
        network = copy.deepcopy(linear.network)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02, betas=(0.8, 0.99))
        for t in range(steps + 1):
            with torch.no_grad():
                for name, inputs, targets in (("loss", x, y), ("test_loss", data.x_test, data.y_test)):
                    f = network(torch.as_tensor(inputs))[:, 0]
                    expected = 0.5 * float(((f - torch.as_tensor(targets)) ** 2).mean())
                    assert float(run[name].values[0, r, t]) == pytest.approx(expected, rel=1e-9)
            if t < steps:
                chosen = batches[r, t]
                optimizer.zero_grad()
                target = y[chosen] + torch.as_tensor(errors[r, t])
                (0.5 * ((network(x[chosen])[:, 0] - target) ** 2).mean()).backward()
                optimizer.step()


def test_the_jacobian_makes_the_kernel(digits_network):
    j = _adam.jacobian(digits_network, digits_network.data.x).numpy()
    quadratic = digits_network.quadratic
    np.testing.assert_allclose(j @ j.T / quadratic.spectrum.scale, quadratic.kernel, atol=1e-10)


@pytest.mark.parametrize("regime", [ss.RealNetwork(), ss.BatchAveraged(), ss.SpectralDiagonal()])
def test_no_other_regime_follows_it(linear, regime):
    with pytest.raises(InputError, match="method: adam is not linear in the gradient"):
        ss.simulate(linear, ss.SGD(0.01, batch_size=4, method="adam"), regime, 3)


def test_it_needs_parameters(tiny):
    with pytest.raises(InputError, match="adam needs the parameters of a network"):
        ss.simulate(tiny, ss.SGD(0.01, batch_size=2, method="adam"), ss.SampledLinearized(), 3)
    with pytest.raises(InputError, match="momentum: expected 0 with adam"):
        ss.SGD(0.01, 0.5, method="adam")
    with pytest.raises(InputError, match="adam: beta1: expected a number below 1"):
        ss.SGD(0.01, method="adam:beta1=1")
