"""Stability predictions against what the dynamics do."""

import math

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.recurrence import contour, diagonal
from sgdsim.theory import generating, optimal, stability


def growth(problem, sgd, regime, n_steps):
    """Loss at the last step over the loss at half time."""
    run = ss.simulate(problem, sgd, regime, n_steps, record=[n_steps // 2])
    loss = run["loss"].values[0, 0]
    return float(loss[-1]) / float(loss[1]) if np.isfinite(loss[1]) else np.inf


def bisect(question, low, high, steps=40):
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if question(middle) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("batch_size", "momentum", "tau"), [(1, 0.0, 1), (3, 0.6, 1), (2, -0.4, 1), (1, 0.3, -1), (2, 0.0, 0)]
)
def test_diagonal_threshold_is_where_the_recurrence_turns(batch_size, momentum, tau):
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    critical = bisect(
        lambda lr: stability.diagonal_is_stable(problem, ss.SGD(lr, momentum, batch_size), tau),
        1e-3,
        2 * (1 + momentum),
    )
    below, above = (
        growth(problem, ss.SGD(factor * critical, momentum, batch_size), ss.SpectralDiagonal(tau), 4_000)
        for factor in (0.995, 1.005)
    )
    assert below < 1 < above


def averaged_operator_radius(problem, sgd):
    """Radius of the averaged step on all (C, J, P), C and P symmetric, as an explicit matrix."""
    n, kernel, values = problem.n, problem.kernel, sgd.values(problem.n, 0, 1)
    a, b, g = values.lr[0], values.momentum[0], values.noise[0]

    def step(c, j, p):
        c, p = (c + c.T) / 2, (p + p.T) / 2
        q = g * n * kernel @ np.diag(np.diag(c)) @ kernel + (1 - g) * kernel @ c @ kernel
        p = b * b * p - a * b * (kernel @ j + j.T @ kernel) + a * a * q
        drift = b * j - a * c @ kernel
        return c + drift + drift.T + p, drift + p, p

    columns = [np.concatenate([m.ravel() for m in step(*unit.reshape(3, n, n))]) for unit in np.eye(3 * n * n)]
    return np.abs(np.linalg.eigvals(np.array(columns).T)).max()


@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_exact_threshold_is_where_the_averaged_operator_has_radius_one(momentum, batch_size):
    problem = ss.QuadraticProblem.power_law(6, 1.5, 1.0, seed=1)
    critical = bisect(
        lambda lr: stability.averaged_radius(problem, ss.SGD(lr, momentum, batch_size), tolerance=1e-12) < 1,
        0.0 + 1e-6,
        2 * (1 + momentum),
    )
    assert averaged_operator_radius(problem, ss.SGD(critical, momentum, batch_size)) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.6, -0.3])
def test_modes_that_do_not_move_do_not_matter(momentum):
    """A kernel of rank 8 on 12 points: its null space (eigenvalues of rounding size) makes no noise."""
    features = np.random.default_rng(0).standard_normal((12, 8))
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, features[:, 0])
    critical = bisect(
        lambda lr: stability.averaged_is_stable(problem, ss.SGD(lr, momentum, 3)), 1e-6, 2 * (1 + momentum)
    )
    below, above = (
        growth(problem, ss.SGD(factor * critical, momentum, 3), ss.BatchAveraged(), 3_000) for factor in (0.98, 1.02)
    )
    assert below < 1 < above
    assert stability.averaged_radius(problem, ss.SGD(1e-3, momentum, 3)) < 0.1


def test_full_batch_and_limits():
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    for lr, expected in ((2.9, True), (3.1, False)):
        sgd = ss.SGD(lr, 0.5, 20)
        assert stability.full_batch_is_stable(problem, sgd) is expected
        assert stability.diagonal_is_stable(problem, sgd) is expected
        assert stability.averaged_is_stable(problem, sgd) is expected


def test_published_threshold():
    """ν = 1.5, N = 10⁴, b = 1, τ = 1: stable up to 0.77, where the full-batch criterion says 2."""
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, 1.0)
    critical = bisect(lambda lr: stability.diagonal_is_stable(problem, ss.SGD(lr, 0.0, 1)), 0.01, 2.0)
    assert critical == pytest.approx(0.77, abs=0.005)
    assert stability.full_batch_is_stable(problem, ss.SGD(1.99, 0.0, 1))


def test_noise_propagator_sums_its_terms():
    """Ũ(1) is the sum over time of a unit of noise's effect on the loss."""
    eigenvalues = np.array([1.0, 0.3, 0.05])
    lr, momentum, noise, tau = 0.4, 0.5, 0.3, 1.0
    total = 0.0
    for x in lr * eigenvalues:
        step = np.array([[1 - x, momentum], [-x, momentum]])
        m = noise * x**2 * np.ones((2, 2))
        for _ in range(20_000):
            total += m[0, 0]
            m = step @ m @ step.T - noise * tau * x**2 * m[0, 0]
    assert generating.noise_propagator_at_one(eigenvalues, lr, momentum, noise, tau) == pytest.approx(total, rel=1e-10)


def test_questions_without_an_answer_are_refused(tiny):
    with pytest.raises(InputError, match="do not change in time, and independent batches; got"):
        stability.diagonal_is_stable(tiny, ss.SGD.jacobi(1.0, 0.5, 0.5))
    with pytest.raises(InputError, match="do not change in time, and independent batches; got"):
        stability.averaged_radius(tiny, ss.SGD(0.5, sampling="reshuffle"))
    with pytest.raises(InputError, match="tau <= 1"):
        stability.diagonal_is_stable(tiny, ss.SGD(0.5), tau=2.0)


@pytest.mark.parametrize(
    ("batch_size", "momentum", "tau"), [(1, 0.0, 1.0), (3, 0.6, 1.0), (2, -0.4, 0.5), (1, 0.3, -1.0), (30, 0.5, 1.0)]
)
def test_max_lr_is_where_the_answers_change(batch_size, momentum, tau):
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0)
    sgd = ss.SGD(1.0, momentum, batch_size)
    for level, question in (
        ("full-batch", stability.full_batch_is_stable),
        ("spectral-diagonal", lambda p, s: stability.diagonal_is_stable(p, s, tau)),
        ("exact", stability.averaged_is_stable),
    ):
        found = stability.max_lr(problem, sgd, level, tau=tau)
        below, above = (question(problem, ss.SGD(f * found, momentum, batch_size)) for f in (1 - 1e-6, 1 + 1e-6))
        assert below
        assert not above


@pytest.mark.parametrize("momentum", [-0.4, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_exact_max_lr_against_the_whole_averaged_operator(momentum, batch_size):
    problem = ss.QuadraticProblem.power_law(6, 1.5, 1.0, seed=1)
    critical = stability.max_lr(problem, ss.SGD(1.0, momentum, batch_size), "exact", tolerance=1e-11)
    assert averaged_operator_radius(problem, ss.SGD(critical, momentum, batch_size)) == pytest.approx(1, abs=1e-8)


def test_exact_threshold_on_real_data_is_where_the_averaged_regime_turns():
    """Two digits by simulation: bisection on the averaged losses of 60 digits."""
    data = ss.datasets.load("digits", n=60, seed=0)
    problem = ss.QuadraticProblem.from_kernel(ss.ntk.analytic_ntk(data.x), -data.y)
    for momentum in (0.0, 0.8):
        sgd = ss.SGD(1.0, momentum, 2)
        found = stability.max_lr(problem, sgd, "exact")
        simulated = bisect(
            lambda lr, momentum=momentum: growth(problem, ss.SGD(lr, momentum, 2), ss.BatchAveraged(), 1500) < 1,
            0.5 * found, 1.5 * found, steps=8,
        )  # fmt: skip
        assert simulated == pytest.approx(found, rel=0.01)


def test_published_lambda_crit_and_the_limit_of_large_momentum():
    """2.14772 for λ_k = k^−1.5, N = 1000 ([VKY] sec. 4); thresholds in α_eff tend to 2/(γ λ_crit) as β → 1."""
    problem = ss.QuadraticProblem.power_law(1000, 1.5, 1.0)
    found = stability.critical_eigenvalue(problem)
    assert found == pytest.approx(2.14772, abs=5e-6)
    for tau in (1.0, 0.0, -1.0):
        limit = 2 / (0.1 * stability.critical_eigenvalue(problem, tau))
        for momentum, tolerance in ((0.99, 0.05), (0.99999, 5e-5)):
            lr = stability.diagonal_max_lr(problem, momentum=momentum, noise=0.1, tau=tau)
            assert lr / (1 - momentum) == pytest.approx(limit, rel=tolerance)
    assert stability.critical_eigenvalue(ss.QuadraticProblem.power_law(1, 1.5, 1.0)) == 0.0


def test_exact_and_diagonal_can_differ_by_a_factor():
    """N = 10: the closure promises up to twice the learning rate that is stable."""
    for batch_size, momentum in ((2, 0.5), (3, 0.9)):
        problem = ss.QuadraticProblem.power_law(10, 1.5, 1.0, seed=0)
        sgd = ss.SGD(1.0, momentum, batch_size)
        assert stability.max_lr(problem, sgd) > 1.5 * stability.max_lr(problem, sgd, "exact")


def test_thresholds_broadcast_and_count_multiplicities():
    problem = ss.QuadraticProblem.power_law(40, 1.5, 1.0)
    momentum, noise = np.array([[-0.5], [0.0], [0.9]]), np.array([0.0, 0.1, 1.0])
    found = stability.diagonal_max_lr(problem, momentum=momentum, noise=noise)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[:, 0], 2 * (1 + momentum[:, 0]))
    assert (np.diff(found, axis=1) <= 0).all()
    twice = ss.Spectrum(problem.eigenvalues, multiplicity=np.full(40, 2.0))
    doubled = ss.QuadraticProblem(ss.Spectrum(np.repeat(problem.eigenvalues, 2)), np.ones(80))
    merged = ss.QuadraticProblem(twice, np.ones(40))
    args = {"momentum": 0.3, "noise": 0.1}
    expected = stability.diagonal_max_lr(doubled, **args)
    assert stability.diagonal_max_lr(merged, **args) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(InputError, match="momentum"):
        stability.diagonal_max_lr(problem, momentum=1.0, noise=0.1)
    with pytest.raises(InputError, match="level"):
        stability.max_lr(problem, ss.SGD(1.0), "magic")


TWICE = ss.methods.Memory((0.0,), (0.0,), (-1.0,), 1.0)  # plain SGD, by the way of all methods


@pytest.mark.parametrize("method", ["heavy-ball", TWICE])
def test_the_exact_level_where_eigenvalues_nearly_coincide(method):
    """Points that do not see each other: the first has `1 − 2α + Nα² < 1` iff α < 2/N, and the others are close behind.
    A power iteration stopped at a mixture of them and called α = 0.10003 stable."""
    kernel = np.diag([1.0] + [0.999] * 19)
    problem = ss.QuadraticProblem.from_kernel(kernel, np.ones(20))
    above = ss.SGD(0.10003, batch_size=1, method=method)
    assert stability.averaged_radius(problem, above) == pytest.approx(1.0003, rel=1e-8)
    assert not stability.averaged_is_stable(problem, above)
    assert stability.max_lr(problem, above, "exact") == pytest.approx(0.1, rel=1e-7)
    two = ss.QuadraticProblem.from_kernel(kernel[:2, :2], np.ones(2))  # smaller than Lanczos takes
    assert stability.averaged_radius(two, ss.SGD(1.003, batch_size=1, method=method)) == pytest.approx(1.003, rel=1e-8)


@pytest.mark.parametrize("beta", [-0.3, -0.9, -0.999])
def test_negative_momentum_by_the_way_of_all_methods(beta):
    """The eigenvalue that leaves the circle leaves it at −1, and no tolerance lets it."""
    problem = ss.QuadraticProblem.power_law(6, 1.5, 1.0)
    sgd = ss.SGD(1.0, batch_size=2, method=ss.methods.Memory((beta,), (beta,), (-1.0,), 1.0))
    assert stability.max_lr(problem, sgd, "full-batch") == pytest.approx(2 * (1 + beta), rel=1e-7)


def test_critical_eigenvalue_at_its_ends():
    """At τ = 0 the root is the trace itself; a mode that stands for no eigenvalue only bounds it, for τ < 0."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        lam = np.sort([1.0, *rng.uniform(0, 1, 2)])[::-1]
        problem = ss.QuadraticProblem(ss.Spectrum(lam), np.ones(3))
        assert stability.critical_eigenvalue(problem, 0.0) == pytest.approx(lam.sum(), rel=1e-15)
        assert stability.critical_eigenvalue(problem, 1e-14) == pytest.approx(lam.sum(), rel=1e-12)
    spectrum = ss.Spectrum(np.array([1.0, 0.3, 0.2]), multiplicity=np.array([0.0, 1.0, 1.0]))
    problem = ss.QuadraticProblem(spectrum, np.ones(3))
    assert stability.critical_eigenvalue(problem, -3.0) == pytest.approx(3.0)
    near = 1 - 1e-6
    limit = stability.diagonal_max_lr(problem, momentum=near, noise=0.1, tau=-3.0) / (1 - near)
    assert limit == pytest.approx(2 / (0.1 * 3.0), rel=1e-4)


CLOSE = np.array([1.0, 0.9923, 0.7505, 0.5086, 0.1083])


def test_beyond_tau_1_only_no_is_said():
    """One mode's noise `γ(s − τc_k)` may be negative there: Ũ(1) < 1, and yet the loss falls to −3.9e12."""
    problem = ss.QuadraticProblem(ss.Spectrum(CLOSE), np.ones(5))
    sgd = ss.SGD(1.34, 0.0, 2)
    assert generating.noise_propagator_at_one(CLOSE, 1.34, 0.0, sgd.noise(5), 2.0) < 1
    for method in ("auto", "recurrence"):
        run = ss.simulate(problem, sgd, ss.SpectralDiagonal(2.0, method), 200, record=[0, 200])
        assert run["loss"].values.ravel()[-1] == pytest.approx(-3.9e12, rel=0.05)
    for question in (
        lambda: stability.diagonal_is_stable(problem, sgd, 2.0),
        lambda: stability.diagonal_is_stable(problem, ss.SGD(0.1, 0.3, 2, method="nesterov"), 2.0),
        lambda: contour.loss_at(problem, 61, lr=1.34, batch_size=2, tau=2.0),
        lambda: contour.rate(problem, lr=1.34, batch_size=2, tau=[1.0, 2.0]),
        lambda: ss.simulate(problem, sgd, ss.SpectralDiagonal(2.0, "contour"), 100),
        lambda: optimal.best(problem, batch_size=2, horizon=100, tau=1.5),
    ):
        with pytest.raises(InputError, match="tau"):
            question()
    assert stability.diagonal_is_stable(problem, ss.SGD(1.34, 0.0, 5), 2.0)  # full batches make no noise
    beyond = ss.SGD(1.01 * stability.max_lr(problem, sgd, tau=2.0), 0.0, 2)
    assert not stability.diagonal_is_stable(problem, beyond, 2.0)


def test_a_stable_answer_is_what_stepping_shows():
    """Random modes, some of which stand for less than one eigenvalue: where the answer is yes the loss decays."""
    rng = np.random.default_rng(0)
    answers = {True: 0, False: 0, None: 0}
    for _ in range(200):
        n = int(rng.integers(2, 8))
        lam = np.sort(np.append(rng.uniform(0.05, 1, n - 1), 1.0))[::-1]
        weight = rng.choice([0.0, 0.05, 0.3, 1.0, 2.0], n)
        size = max(math.ceil(weight.sum()), 1)
        weight[-1] += size - weight.sum()
        problem = ss.QuadraticProblem(ss.Spectrum(lam, multiplicity=weight, size=size), np.ones(n))
        beta, b = float(rng.choice([0.0, rng.uniform(-0.8, 0.8)])), 1
        top = stability.max_lr(problem, ss.SGD(1.0, beta, b))
        sgd = ss.SGD(float(top * rng.choice([rng.uniform(0.2, 0.97), rng.uniform(1.03, 1.2)])), beta, b)
        if not stability.full_batch_is_stable(problem, sgd):
            continue  # there the mean diverges, whatever second moments with negative noise do
        try:
            stable = stability.diagonal_is_stable(problem, sgd)
        except InputError:
            stable = None
        run = diagonal.start(problem, sgd, 1.0)
        run.advance(0, 3000)
        loss = abs(run.observe(("loss",))["loss"][0])
        assert stable is None or stable == (loss < problem.initial_loss), (lam, weight, sgd, loss)
        answers[stable] += 1
    assert min(answers.values()) > 5, answers
