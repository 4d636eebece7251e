"""What studies tell of a kernel over several outputs agrees with the diagonal regime and its thresholds there."""

from __future__ import annotations

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.problem.quadratic import QuadraticProblem
from sgdsim.studies import asymptotes, budgets, recommendation, stable_rates
from sgdsim.theory import stability

N, C, HORIZON = 20, 3, 200


@pytest.fixture(scope="module")
def problem() -> QuadraticProblem:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((N * C, 80)) * np.arange(1, 81) ** -0.7
    return QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((N, C)))


def loss(problem: QuadraticProblem, sgd: ss.SGD, n_steps: int) -> float:
    result = ss.simulate(problem, sgd, ss.SpectralDiagonal(method="recurrence", compress=False), n_steps)
    return float(result["loss"].values.ravel()[-1])


def test_a_recommendation_has_the_loss_and_the_threshold_of_its_setting(problem):
    found = recommendation.recommend(problem, ss.SGD(1.0, 0.0, 4), HORIZON)
    best = found.known.best
    assert found.noise == pytest.approx(ss.SGD(1.0, 0.0, 4).noise(N) / C)
    sgd = ss.SGD(best.lr, best.momentum, 4)
    assert best.loss == pytest.approx(loss(problem, sgd, HORIZON), rel=1e-8)
    assert found.max_lr[-1]["spectral_diagonal"] == pytest.approx(stability.max_lr(problem, sgd), rel=1e-9)
    assert found.rate < 0  # the loss of a stable setting falls


def test_the_late_curve_is_the_regimes(problem):
    sgd = ss.SGD(0.3, 0.5, 4)
    known = asymptotes.asymptote(problem, sgd, horizon=1000)
    at = int(known.steps[-1])
    assert known.loss[-1] == pytest.approx(loss(problem, sgd, at), rel=1e-8)


def test_matched_rates_are_half_of_what_is_stable_at_all_sizes(problem):
    first, second = (ss.SGD(1.0, 0.5, size) for size in (1, 4))
    ratio = problem.noise(second) / problem.noise(first)
    limit = min(stability.max_lr(problem, first), stability.max_lr(problem, second) * ratio)
    found = budgets.matched_lr(problem, [1, 4], momentum=0.5)
    np.testing.assert_allclose(found, [limit / 2, limit / 2 / ratio], rtol=5e-3)  # half is a round number


def test_a_table_of_rates_says_the_noise_of_a_mode(problem):
    (row,) = stable_rates.stable_rates(problem, [ss.SGD(1.0, 0.5, 4)], [1.0]).rows
    assert row.noise == pytest.approx(problem.noise(ss.SGD(1.0, 0.5, 4)))
    assert row.spectral_diagonal == pytest.approx(stability.diagonal_max_lr(problem, momentum=0.5, noise=row.noise))


def test_a_recommendation_has_the_exact_threshold(problem):
    found = recommendation.recommend(problem, ss.SGD(1.0, 0.0, 4), HORIZON).max_lr[-1]
    sgd = ss.SGD(1.0, found["momentum"], 4)
    assert found["exact"] == pytest.approx(stability.max_lr(problem, sgd, "exact"), rel=1e-3)
    assert stability.averaged_radius(problem, ss.SGD(found["exact"], found["momentum"], 4)) == pytest.approx(
        1, rel=1e-3
    )
