"""Accuracies in pictures: on a linear axis from 0 to 1, whatever losses are on."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import plot


@pytest.fixture(scope="module")
def result():
    data = ss.datasets.load("digits", 30, 0, n_test=0, targets="class:3,8")
    problem = ss.NetworkProblem(ss.networks.MLP(20, 1, seed=0), data, device="cpu")
    grid, regimes = ss.Grid.product(lr=[0.5], batch_size=[5]), [ss.SampledLinearized(), ss.RealNetwork()]
    found = ss.sweep(problem, grid, regimes, 20, record=1, replicates=2, observe="accuracy", executor="serial")
    found["accuracy"].values[..., 0, :, 1] = 0.0  # which a log axis would lose
    return found


def test_they_have_a_linear_axis(result):
    ax = plot.loss_curves(result, observable="accuracy")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    low, high = ax.get_ylim()
    assert -0.1 < low < 0
    assert 1 < high < 1.1
    assert ax.get_xlim() == (1, 20)
    drawn = ax.lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, result["accuracy"].values.reshape(2, 2, -1)[0].mean(0)[1:])
    assert drawn[0] == 0
    assert ax.get_ylabel() == "train accuracy"


def test_panels_too_and_losses_as_before(result):
    panel = plot.comparison(result, "accuracy").axes[0]
    assert panel.get_yscale() == "linear"
    assert plot.comparison(result).axes[0].get_yscale() == "log"
    assert plot.loss_curves(result).get_yscale() == "log"
