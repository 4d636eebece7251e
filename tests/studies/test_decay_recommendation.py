"""The weight decay that is best for the test loss at the setting recommended with it."""

from dataclasses import replace

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.regimes import SpectralDiagonal
from sgdsim.studies import decay_recommendation, method_recommendation

HORIZON = 100


def noisy() -> ss.QuadraticProblem:
    """Ten points of a linear model with noisy labels, which a model without decay overfits; 30 test points without."""
    rng = np.random.default_rng(2)
    x, truth = rng.standard_normal((40, 8)), rng.standard_normal(8)
    joint, y = x @ x.T, x @ truth
    return ss.QuadraticProblem.from_kernel(
        joint[:10, :10], -y[:10] + 2 * rng.standard_normal(10), cross_kernel=joint[10:, :10], test_residual=-y[10:]
    )


def test_no_other_weight_decay_has_a_lower_test_loss_at_that_setting():
    problem, sgd = noisy(), ss.SGD(1.0, batch_size=3)
    found = decay_recommendation.find(problem, sgd, HORIZON)
    assert found.settled
    assert found.weight_decay > 0
    best = method_recommendation.recommend(problem, replace(sgd, weight_decay=found.weight_decay), HORIZON).best

    def test_loss(decay):
        one = replace(best, weight_decay=decay)
        result = ss.simulate(problem, one, SpectralDiagonal(1.0), HORIZON, record=[HORIZON], observe=["test_loss"])
        return float(result["test_loss"].values.ravel()[-1])

    assert test_loss(found.weight_decay) == pytest.approx(found.test_loss, rel=1e-4)
    assert test_loss(0.0) == pytest.approx(found.without, rel=1e-9)
    assert found.test_loss < found.without
    for factor in (0.5, 0.8, 1.25, 2.0):
        assert test_loss(factor * found.weight_decay) > test_loss(found.weight_decay)
    assert "is the best for the test loss at this setting" in found.sentence()


def test_it_needs_test_points():
    with pytest.raises(InputError, match="expected a problem with test points for best"):
        decay_recommendation.check(ss.QuadraticProblem.power_law(n=20, nu=1.5, kappa=3))
