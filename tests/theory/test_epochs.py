"""Reshuffled epochs: the mean over all orders against the literal one, and sampled runs against both."""

import itertools

import naive
import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.theory import epochs


@pytest.fixture(scope="module")
def five() -> ss.QuadraticProblem:
    rng = np.random.default_rng(2)
    features = rng.standard_normal((5, 6))
    return ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(5))


OPTIONS = [{"momentum": 0.5}, {"momentum": 0.4, "method": "nesterov"}, {"average": "ema:0.8"}]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_mean_over_all_orders(five, options):
    """Two epochs of batches of 2 of 5 points, one left over: 30 orders each, every pair of epochs walked literally."""
    sgd = ss.SGD(0.5, batch_size=2, sampling="reshuffle", **options)
    orders = [[list(p[:2]), list(p[2:4])] for p in itertools.permutations(range(5)) if p[0] < p[1] and p[2] < p[3]]
    assert len(orders) == 30
    maps, total = sgd.maps(0, 4), 0.0
    for first, second in itertools.product(orders, repeat=2):
        path = naive.linear(five.kernel, five.residual, maps, sgd.begins, sgd.readout, first + second)
        total = total + (path**2).mean(1) / 2
    np.testing.assert_allclose(epochs.reshuffled_loss(five, sgd, 2), total / 900, rtol=1e-12)


def test_sampled_runs_have_this_mean(five):
    sgd = ss.SGD(0.6, 0.3, 2, sampling="reshuffle")
    exact = epochs.reshuffled_loss(five, sgd, 10)
    runs = ss.simulate(five, sgd, ss.SampledLinearized(), 20, record=1, replicates=4000)["loss"].values[0]
    error = runs[:, 1:].std(0, ddof=1) / np.sqrt(4000)
    assert (abs(runs.mean(0)[1:] - exact[1:]) < 4 * error).all()
    independent = ss.simulate(five, ss.SGD(0.6, 0.3, 2), ss.BatchAveraged(0), 20, record=1)["loss"].values.ravel()
    assert exact[-1] < 0.9 * independent[-1]  # reshuffling is a different process


def test_refusals(five):
    big = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    with pytest.raises(InputError, match="epochs: expected at most 20000 orders, got"):
        epochs.reshuffled_loss(big, ss.SGD(0.5, batch_size=2, sampling="reshuffle"), 1)
    with pytest.raises(InputError, match="sampling reshuffle"):
        epochs.reshuffled_loss(five, ss.SGD(0.5, batch_size=2), 1)
