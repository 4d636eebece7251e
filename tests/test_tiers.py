"""The averaged regime to a tolerance: noise in three tiers, against the exact full-rank form."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.regimes import _kernels, _tiers, averaged


@pytest.fixture(scope="module")
def digits():
    data = ss.datasets.load("digits", n=200, n_test=50, seed=0)
    return ss.QuadraticProblem.from_kernel(
        ss.ntk.analytic_ntk(data.x),
        -data.y,
        cross_kernel=ss.ntk.analytic_ntk(data.x_test, data.x),
        test_residual=-data.y_test,
    )


def run(problem, sgd, tolerance, n_steps, **options):
    return ss.simulate(problem, sgd, ss.BatchAveraged(tolerance), n_steps, **options)


def literal_step(problem, exact, diagonal, state, lr, momentum, noise):
    """One step of the tiers as full matrices: what is not kept is set to zero."""
    n, u, lam = problem.n, problem.eigenvectors, problem.eigenvalues
    mean, c, j, p = state
    kept = np.eye(n, dtype=bool)
    kept[:exact, :exact] = True
    tail = np.arange(n) >= exact + diagonal
    leading = np.where(tail, 0, 1)
    squares = (u @ mean) ** 2 + np.diag(u @ (c * np.outer(leading, leading)) @ u.T) + np.diag(c)[tail].sum() / n
    source = n * u.T @ np.diag(squares) @ u
    source[tail, tail] = squares.sum()
    a = np.diag(lr * lam)
    q = a @ c @ a + noise * a @ (source - c - np.outer(mean, mean)) @ a
    p = momentum**2 * p - momentum * (a @ j + (a @ j).T) + q
    drift = momentum * j - c @ a
    return c * 0 + np.where(kept, c + drift + drift.T + p, 0), np.where(kept, drift + p, 0), np.where(kept, p, 0)


@pytest.mark.parametrize("momentum", [0.0, 0.7, -0.3])
@pytest.mark.parametrize(("exact", "diagonal"), [(4, 5), (3, 0), (12, 0), (2, 10)])
def test_tiers_equal_their_literal_twin(momentum, exact, diagonal):
    problem = ss.QuadraticProblem.power_law(12, 1.2, 1.0, seed=3)
    sgd = ss.SGD(0.6, momentum, 3)
    path = _tiers.MeanPath(problem, sgd)
    tiers = _tiers.Tiers(problem, exact, diagonal, momentum != 0)
    side = _tiers.Side(problem, [tiers, _tiers.Tiers(problem, 2, 3, momentum != 0)])
    c, j, p = np.zeros((3, 12, 12))
    for t in range(25):
        mean, residual = path.at(t)
        np.testing.assert_allclose(residual, problem.eigenvectors @ mean, atol=1e-14)
        lr, beta, noise = path.hyperparameters(t)
        c, j, p = literal_step(problem, exact, diagonal, (mean, c, j, p), lr, beta, noise)
        side.step(mean, residual, lr, beta, noise)
        np.testing.assert_allclose(tiers.variances(), np.diag(c), rtol=1e-11, atol=1e-16)
        np.testing.assert_allclose(tiers.blocks[0].c, c[:exact, :exact], rtol=1e-10, atol=1e-15)


def test_all_modes_exact_is_the_exact_form(digits):
    sgd = ss.SGD(0.8, 0.5, 10)
    path = _tiers.MeanPath(digits, sgd)
    side = _tiers.Side(digits, [_tiers.Tiers(digits, digits.n, 0, True)])
    expected = run(digits, sgd, 0.0, 70, record=1)["loss"].values.ravel()
    for t in range(70):
        mean, residual = path.at(t)
        assert (mean @ mean + side.tiers[0].total()) / (2 * digits.n) == pytest.approx(expected[t], rel=1e-11)
        side.step(mean, residual, *path.hyperparameters(t))


@pytest.mark.parametrize(
    ("lr", "momentum", "batch_size"), [(1.0, 0.0, 10), (1.7, 0.0, 10), (0.3, 0.9, 10), (0.7, 0.5, 10), (1.0, -0.3, 3)]
)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_the_true_error_is_below_the_tolerance(digits, lr, momentum, batch_size, tolerance):
    """Up to near the stability threshold; the estimate is not below the error either."""
    sgd = ss.SGD(lr, momentum, batch_size)
    expected = run(digits, sgd, 0.0, 150, record=1)["loss"].values.ravel()
    found = run(digits, sgd, tolerance, 150, record=1)
    error = np.abs(found["loss"].values.ravel() / expected - 1).max()
    assert error < tolerance
    assert error <= found["error_estimate"].values.item() + 1e-12
    assert found["error_estimate"].values.item() <= tolerance


def test_a_tight_tolerance_takes_more_modes(digits):
    sgd = ss.SGD(0.3, 0.9, 10)
    modes = [run(digits, sgd, tolerance, 60)["exact_modes"].values.item() for tolerance in (1e-2, 2e-6, 1e-9)]
    assert modes[0] == averaged._FIRST[0]
    assert modes[0] < modes[1] <= modes[2] == digits.n


def test_how_a_run_is_cut_changes_no_digit(digits):
    """Also across a restart with more modes, and across blocks of the mean."""
    sgd = ss.SGD(0.3, 0.9, 10)
    whole, cut = (run(digits, sgd, 5e-6, 150, record=record) for record in ([150], 1))
    assert whole["exact_modes"].values.item() > averaged._FIRST[0]
    assert whole["loss"].values.ravel()[-1] == cut["loss"].values.ravel()[-1]


def test_schedules_test_losses_and_moments(digits):
    sgd = ss.SGD(
        ss.schedules.Power(1.0, 0.3), 0.4, ss.schedules.Steps(start=5, factor=2, every=30), sampling="with-replacement"
    )
    options = {"observe": ["test_loss", "moments"], "record": 10}
    exact, found = (run(digits, sgd, tolerance, 100, **options) for tolerance in (0.0, 1e-4))
    assert found["exact_modes"].values.item() < digits.n
    np.testing.assert_allclose(found["test_loss"], exact["test_loss"], rtol=1e-3)
    largest = exact["moments"].values.max()
    np.testing.assert_allclose(found["moments"], exact["moments"], atol=1e-3 * largest)


def test_a_batch_ramp_to_the_full_batch_at_the_end(digits):
    """The last block of the mean looks beyond the end of the run, where the schedule is out of range."""
    sgd = ss.SGD(1.0, 0.0, ss.schedules.Steps(start=50, factor=2, every=20))
    exact, found = (run(digits, sgd, tolerance, 60)["loss"].values.ravel()[-1] for tolerance in (0.0, 1e-4))
    assert found == pytest.approx(exact, rel=1e-4)


def test_divergence_is_a_result(digits):
    result = run(digits, ss.SGD(2.5, 0.0, 1), 1e-4, 300)
    assert result["diverged_at"].values.item() > 0
    assert np.isinf(result["loss"].values.ravel()[-1])


def test_full_batch_has_no_noise(digits):
    found = run(digits, ss.SGD(1.0, 0.5, digits.n), 1e-4, 50)["loss"].values
    expected = ss.simulate(digits, ss.SGD(1.0, 0.5, digits.n), ss.SpectralDiagonal(), 50)["loss"].values
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_names_and_bad_tolerances():
    assert ss.BatchAveraged().name == "averaged"
    assert ss.regimes.parse("averaged:tolerance=0") == ss.BatchAveraged(0.0)
    assert ss.BatchAveraged(0.0).name == "averaged:tolerance=0"
    for bad in (-1e-4, 2.0, np.nan, "much"):
        with pytest.raises(ss.InputError, match="tolerance"):
            ss.BatchAveraged(bad)


def test_mean_path_is_the_mean():
    lam, a = np.array([1.0, 0.3]), np.array([1.0, -2.0])
    m, w = a.copy(), np.zeros(2)
    path = _kernels.mean_path(lam, m, w, np.full(7, 0.4), np.full(7, 0.5))
    n, u = a.copy(), np.zeros(2)
    for t in range(7):
        np.testing.assert_array_equal(path[t], n)
        _kernels.mean_advance(lam, n, u, np.array([0.4]), np.array([0.5]))
    np.testing.assert_array_equal(m, n)
