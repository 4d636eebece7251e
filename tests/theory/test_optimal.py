"""The best learning rate and momentum, against dense grids."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.algorithm.sgd import noise_factor
from sgdsim.recurrence import contour
from sgdsim.theory import _basins, optimal, stability


@pytest.mark.parametrize(
    ("n", "nu", "kappa", "batch_size", "horizon"),
    [(60, 1.5, 1.0, 60, 250), (60, 1.5, 1.0, 59, 250), (60, 1.5, 1.0, 50, 250), (30, 2.0, 1.0, 30, 100)],
)
def test_the_best_is_no_worse_than_a_dense_grid(n, nu, kappa, batch_size, horizon):
    """Near full batch every mode that turns makes narrow basins: 90 000 points of the region find many of them."""
    problem = ss.QuadraticProblem.power_law(n, nu, kappa)
    noise = float(noise_factor(n, batch_size))
    momenta = np.linspace(0.8, 0.9, 300)[:, None]
    rates = np.linspace(0.7, 0.999, 300) * stability.diagonal_max_lr(problem, momentum=momenta, noise=noise)
    dense = contour.loss_at(problem, horizon, lr=rates, momentum=momenta + 0 * rates, noise=noise).loss
    best = optimal.best(problem, batch_size=batch_size, horizon=horizon)
    assert best.loss <= 1.001 * dense.min()
    at = contour.loss_at(problem, horizon, lr=best.lr, momentum=best.momentum, noise=noise, method="recurrence")
    assert best.loss == pytest.approx(float(at.loss), rel=1e-6)


def test_the_best_at_full_batch_that_a_grid_of_the_report_found():
    best = optimal.best(ss.QuadraticProblem.power_law(60, 1.5, 1.0), batch_size=60, horizon=250)
    assert best.loss < 1.5e-23


def test_points_of_polyak_are_asked_for_once():
    """Eigenvalues so small that momentum and learning rate end at their bounds all give one point."""
    problem = ss.QuadraticProblem.power_law(2000, 3.0, 1.0)
    momenta, rates = _basins.Plane(problem, lambda lr, momentum: lr, 0.5, 1.0).polyak()
    assert len(set(zip(momenta, rates, strict=True))) == momenta.size < 1300
    assert momenta[-1] == momenta.max() == 1 - 1e-4
