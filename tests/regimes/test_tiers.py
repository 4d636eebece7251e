"""The averaged regime to a tolerance: noise in three tiers, against the exact full-rank form."""

import naive
import numpy as np
import pytest

import sgdsim as ss
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels
from sgdsim.regimes.averaged import adaptive
from sgdsim.regimes.averaged import slow_pairs as _slow
from sgdsim.regimes.averaged import tiers as _tiers
from sgdsim.regimes.averaged.tiers import Sizes
from sgdsim.theory import stability


@pytest.fixture(scope="module")
def digits():
    data = ss.datasets.load("digits", n=200, n_test=50, seed=0)
    return ss.QuadraticProblem.from_kernel(
        ss.ntk.analytic_ntk(data.x),
        -data.y,
        cross_kernel=ss.ntk.analytic_ntk(data.x_test, data.x),
        test_residual=-data.y_test,
    )


def note(slow, step, mean, squares, hyper):
    """A step of the slow pairs' interval."""
    slow.open(step)
    slow.level += squares
    slow.rise += (step - slow.begin) * squares
    slow.note(mean[None], [squares.mean()], np.array([hyper]))


def run(problem, sgd, tolerance, n_steps, **options):
    return ss.simulate(problem, sgd, ss.BatchAveraged(tolerance), n_steps, **options)


def follow_tiers(problem, sgd, sizes, n_steps, *, single=False):
    """Losses after every step, from `sizes` alone."""
    path = _tiers.MeanPath(problem, sgd)
    vectors = problem.eigenvectors.astype(np.float32 if single else np.float64)
    tiers, losses, now = _tiers.Tiers(problem, vectors, sizes, True), [], 0
    while now < n_steps:
        part = path.until(now, n_steps)
        np.testing.assert_allclose(part.residuals, part.means[:-1] @ problem.eigenvectors.T, atol=1e-12)
        losses.append((np.square(part.means[1:]).sum(1) + tiers.advance(part)) / (2 * problem.n))
        now += len(part.hypers)
    return np.concatenate(losses)


ALGORITHMS = [
    ss.SGD(0.8, 0.0, 10),
    ss.SGD(0.8, 0.5, 10),
    ss.SGD(1.0, -0.3, 3),
    ss.SGD(ss.schedules.Power(1.2, 0.3), 0.7, ss.schedules.Steps(start=5, factor=2, every=45)),
]


@pytest.mark.parametrize("sgd", ALGORITHMS)
@pytest.mark.parametrize("exact", [1, 16, 200])
def test_intervals_of_one_step_are_the_exact_recursion(digits, sgd, exact):
    """However the modes are shared out between the full block and the slow pairs."""
    expected = run(digits, sgd, 0.0, 70, record=1)["loss"].values.ravel()[1:]
    found = follow_tiers(digits, sgd, Sizes(exact, 200, 200, 1e-9), 70)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    single = follow_tiers(digits, sgd, Sizes(exact, 200, 200, 1e-9), 70, single=True)
    np.testing.assert_allclose(single, expected, rtol=2e-6)


@pytest.mark.parametrize("sgd", ALGORITHMS)
def test_the_error_falls_faster_than_the_intervals_do(digits, sgd):
    expected = run(digits, sgd, 0.0, 200, record=1)["loss"].values.ravel()[1:]
    errors = [
        np.abs(follow_tiers(digits, sgd, Sizes(16, 200, 200, ratio), 200) / expected - 1).max()
        for ratio in (1 / 2, 1 / 8, 1 / 32)
    ]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 1e-6


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_slow_pairs_equal_their_literal_twin(momentum):
    """Two intervals of pairs, from the second moments that they begin with, against one step after the other."""
    rng = np.random.default_rng(0)
    problem = ss.QuadraticProblem.power_law(9, 1.2, 1.0, seed=3)
    slow = _slow.SlowPairs(problem, problem.eigenvectors, 3, 7, 1.0, momentum != 0)
    c, j, p = (np.zeros((7, 7)) for _ in range(3))
    begin = 0
    for end in (1, 2, 4, 8):
        means, hypers, squares = [], [], []
        level, slope = rng.random(9) + 1, 0.1 * rng.standard_normal(9)
        for t in range(begin, end):
            means.append(rng.standard_normal(9))
            hypers.append((0.7 + 0.01 * t, momentum, 0.1))
            scale = 1 / (1 + t)
            squares.append(level + (t - begin) * slope)
            squares[-1] *= scale / squares[-1].mean()
            assert slow.ends(t, hypers[-1]) == (t == begin and t > 0 and bool(slow.hypers))
            note(slow, t, means[-1], squares[-1], hypers[-1])
        assert slow.ends(end, hypers[-1])
        given, profile, observed = slow.close(gram := rng.standard_normal((7, 7)))
        c, j, p = naive.slow_pairs(problem, 3, (c, j, p), np.array(means), np.array(squares), hypers)
        np.testing.assert_allclose(np.tril(slow.c), np.tril(c), rtol=1e-10, atol=1e-14)
        if momentum:
            np.testing.assert_allclose(slow.j, j, rtol=1e-10, atol=1e-14)
            np.testing.assert_allclose(np.tril(slow.p), np.tril(p), rtol=1e-10, atol=1e-14)
        u = problem.eigenvectors[:, :7]
        np.testing.assert_allclose(given, np.diag(u @ c @ u.T), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(profile, np.sum(squares, 0) / np.mean(squares, 1).sum(), rtol=1e-12)
        assert observed == pytest.approx(2 * np.vdot(np.tril(gram), c), rel=1e-10)
        begin = end


@pytest.mark.parametrize(("kind", "allowed"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_steps_equal_their_literal_twin(kind, allowed):
    """Three steps between others; points beyond one block of them."""
    rng, n, b, kept, steps = np.random.default_rng(1), 1100, 3, 7, 3
    lam = np.sort(rng.random(12))[::-1].copy()
    u = np.linalg.qr(rng.standard_normal((n, kept)))[0].astype(kind)
    root, rest = rng.standard_normal((2 * b, 2 * b)), rng.random((3, 12 - b))
    full = root @ root.T
    block = [full[:b, :b].copy(), full[:b, b:].copy(), full[b:, b:].copy()]
    variances = [rest[0].copy(), (rest[1] - 0.5) / 2, rest[2].copy()]
    means, residuals = rng.standard_normal((steps, 12)), rng.standard_normal((steps, n))
    hypers = np.array([[0.7, 0.5, 0.1], [0.6, 0.4, 0.2], [0.5, -0.3, 0.0]])
    weights, given, spread, shares = rng.random((steps, 2)), *rng.random((2, 2, n)), rng.random((2, 12 - kept))
    level, rise, squares = np.zeros(n), np.zeros(n), residuals**2
    now, others, seen, totals = block, variances, [], []
    for t in range(steps):
        trend = weights[t] @ given, weights[t] @ spread
        found, now, others = naive.tiers(
            lam, u, now, others, means[t], residuals[t], trend, weights[t] @ shares, hypers[t]
        )  # fmt: skip
        seen.append(found)
        totals.append(np.trace(now[0]) + others[0].sum())
    scales = np.mean(seen, 1)
    found = _kernels.tiers_advance(
        lam, np.ascontiguousarray(u.T), tuple(block), tuple(variances), means, squares, (weights, given, spread),
        (weights, shares), hypers, level, rise, 5, True,
    )  # fmt: skip
    times = np.arange(5, 5 + steps)[:, None]
    for ours, twin in (
        (squares, seen), (block, now), (variances, others), (found, (scales, totals)), (level, np.sum(seen, 0)),
        (rise, np.sum(times * seen, 0)),
    ):  # fmt: skip
        np.testing.assert_allclose(ours, twin, rtol=allowed, atol=allowed)


def test_intervals_grow_and_begin_short_again_after_an_abrupt_change():
    problem = ss.QuadraticProblem.power_law(9, 1.2, 1.0, seed=3)
    slow, ends = _slow.SlowPairs(problem, problem.eigenvectors, 3, 7, 0.5, False), []
    for t in range(40):
        hyper = (0.7 if t < 25 else 0.5, 0.0, 0.1)
        if slow.ends(t, hyper):
            ends.append(t)
            slow.close()
        note(slow, t, np.ones(9), np.ones(9), hyper)
    assert ends == [1, 2, 3, 4, 6, 9, 13, 19, 25, 26, 27, 28, 29, 31, 34, 38]


def test_a_trend_is_a_parabola_in_its_time():
    trend = _slow.Trend(np.array([7.0, 8.0]))

    def at(time):
        weights, values = trend.at([0.7, time])
        return weights[1] @ values

    np.testing.assert_array_equal(at(0.3), [7, 8])
    for time in (0.0, 0.5, 1.5, 3.0):
        trend.add(time, np.array([time**2 - time, 3.0]))
    np.testing.assert_allclose(at(5.0), [20, 3])
    trend.add(0.0, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(at(9.0), [1, 2])


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
    modes = [run(digits, sgd, tolerance, 60)["exact_modes"].values.item() for tolerance in (1e-2, 5e-7, 1e-9)]
    assert modes[0] == adaptive.FIRST.exact
    assert modes[0] < modes[1] <= modes[2] == digits.n


def test_how_a_run_is_cut_changes_no_digit(digits):
    """Also across a restart with more modes, and across blocks of the mean."""
    sgd = ss.SGD(0.3, 0.9, 10)
    whole, cut = (run(digits, sgd, 1e-6, 150, record=record) for record in ([150], 1))
    assert whole["exact_modes"].values.item() > adaptive.FIRST.exact
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
    path = kernels.mean_path(lam, m, w, np.full(7, 0.4), np.full(7, 0.5))
    n, u = a.copy(), np.zeros(2)
    for t in range(7):
        np.testing.assert_array_equal(path[t], n)
        kernels.mean_advance(lam, n, u, np.array([0.4]), np.array([0.5]))
    np.testing.assert_array_equal(m, n)


def test_the_test_loss_keeps_to_the_tolerance_too():
    """Test points that see other modes than the training points: the training loss alone asked for nothing finer."""
    rng = np.random.default_rng(3)
    lam = np.arange(1, 201.0) ** -float(rng.uniform(1.1, 2))
    vectors = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    cross = rng.standard_normal((40, 200)) @ ((vectors * lam ** float(rng.uniform(0.5, 1))) @ vectors.T)
    problem = ss.QuadraticProblem.from_kernel(
        (vectors * lam) @ vectors.T, vectors @ (lam**0.5 * rng.standard_normal(200)),
        cross_kernel=cross, test_residual=0.01 * rng.standard_normal(40),
    )  # fmt: skip
    sgd = ss.SGD(0.6 * stability.max_lr(problem, ss.SGD(1.0, 0.8, 4), "exact", tolerance=1e-3), 0.8, 4)
    options = {"record": [16, 48, 96, 192, 320], "observe": ["test_loss"]}
    regimes = (ss.BatchAveraged(method="recurrence"), ss.BatchAveraged(0))
    tiers, exact = (ss.simulate(problem, sgd, regime, 320, **options)["test_loss"] for regime in regimes)
    np.testing.assert_allclose(tiers.values, exact.values, rtol=1e-4)
