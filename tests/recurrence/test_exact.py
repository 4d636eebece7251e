"""The averaged regime by its generating function against the recursion, in float64 and in 80 bits, and at t = 10⁹."""

import dataclasses

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.recurrence import exact, pairs
from sgdsim.theory import stability


def problem_of(rng, n, *, rank=None, local=False, test=True):
    lam = np.sort(np.append(1.0, rng.uniform(0.01, 1, n - 1) ** rng.integers(1, 4)))[::-1]
    if rank is not None:
        lam[rank:] = 0.0
    vectors = np.linalg.qr((5 if local else 0) * np.eye(n) + rng.standard_normal((n, n)))[0]
    kernel = (vectors * lam) @ vectors.T
    more = {"cross_kernel": rng.standard_normal((4, n)) @ kernel, "test_residual": rng.standard_normal(4)}
    return ss.QuadraticProblem.from_kernel(kernel, rng.standard_normal(n), **(more if test else {}))


def recursion(problem, sgd, steps, number=np.float64):
    """`E L_t` at `steps` by the averaged step on all second moments of (residual, velocity), in precision `number`."""
    n, values = problem.n, sgd.values(problem.n, 0, 1)
    a, b, g = (number(v[0]) for v in (values.lr, values.momentum, values.noise))
    u, lam = problem.eigenvectors.astype(number), problem.eigenvalues.astype(number)
    kernel = (u * lam) @ u.T
    label = number(sgd.label_source(n, values.batch_size)[0])
    ahead = b if sgd.method.spec == "nesterov" else number(0)
    residual = u @ problem.coefficients.astype(number)
    rr, rv, vv = np.outer(residual, residual), np.zeros((n, n), number), np.zeros((n, n), number)
    if ahead:  # r is the point where gradients are taken: r' = r + βv' − αg, v' = βv − αg
        step_v, step_r = (b, -a * kernel), (b * b, np.eye(n, dtype=number) - (1 + b) * a * kernel)
        kick_r, kick_v = 1 + b, number(1)
    else:
        step_v, step_r = (b, -a * kernel), (b, np.eye(n, dtype=number) - a * kernel)
        kick_r = kick_v = number(1)
    out, now = [], 0
    for stop in steps:
        for _ in range(stop - now):
            noise = a * a * kernel @ (g * (n * np.diag(np.diag(rr)) - rr) + label * np.eye(n, dtype=number)) @ kernel
            cv, mv = step_v
            cr, mr = step_r
            new_rr = mr @ rr @ mr.T + cr * (mr @ rv + (mr @ rv).T) + cr * cr * vv + kick_r * kick_r * noise
            new_rv = mr @ rr @ mv.T + cv * mr @ rv + cr * rv.T @ mv.T + cr * cv * vv + kick_r * kick_v * noise
            vv = mv @ rr @ mv.T + cv * (mv @ rv + (mv @ rv).T) + cv * cv * vv + kick_v * kick_v * noise
            rr, rv = (new_rr + new_rr.T) / 2, new_rv
            vv = (vv + vv.T) / 2
        now = stop
        out.append(np.trace(rr) / (2 * n))
    return np.array(out)


@pytest.mark.parametrize("form", ["heavy-ball", "nesterov"])
def test_pairs_are_sums_over_time_of_both_responses(form):
    rng = np.random.default_rng(0)
    for _ in range(100):
        beta = rng.uniform(-0.8, 0.9)
        x, y = rng.uniform(0.01, 1.3, 2)
        z = 0.7 * rng.random() * np.exp(2j * np.pi * rng.random())
        sums = []
        for value in (x, y):
            if form == "heavy-ball":
                step, kick = np.array([[1 - value, beta], [-value, beta]]), np.array([1.0, 1.0])
            else:
                step, kick = np.array([[1 - (1 + beta) * value, beta**2], [-value, beta]]), np.array([1 + beta, 1.0])
            powers = [np.linalg.matrix_power(step, t) for t in range(200)]
            sums.append([np.array([(power @ start)[0] for power in powers]) for start in (kick, np.eye(2)[0])])
        weights = z ** np.arange(200)
        make = pairs.heavy_ball if form == "heavy-ball" else pairs.nesterov
        *numerators, determinant = make(np.array(x), np.array(y), beta, z, 1 - z)
        for k in range(2):
            assert numerators[k] / determinant == pytest.approx((sums[0][k] * sums[1][k] * weights).sum(), rel=1e-11)


@pytest.mark.parametrize("method", ["heavy-ball", "nesterov"])
@pytest.mark.parametrize("momentum", [-0.6, 0.0, 0.5, 0.8])
def test_against_the_recursion(method, momentum):
    """All batch sizes, with and without replacement, noisy labels, below and beyond the threshold, low rank, bases."""
    rng = np.random.default_rng(3)
    late = 0
    for trial in range(6):
        n = int(rng.integers(2, 13))
        problem = problem_of(rng, n, rank=n // 2 if trial == 1 and n > 3 else None, local=trial % 2 == 0)
        sgd = ss.SGD(
            1.0, momentum, int(rng.integers(1, n + 1)), str(rng.choice(["without-replacement", "with-replacement"])),
            method, label_noise=0.1 * (trial == 2),
        )  # fmt: skip
        threshold = stability.max_lr(problem, sgd, "exact", tolerance=1e-4)
        sgd = dataclasses.replace(sgd, lr=threshold * (0.1, 0.5, 0.8, 0.3, 0.95, 1.02)[trial])
        averaged = exact.Averaged(problem, sgd)
        first = averaged.earliest(1e-11, averaged.rightmost(1e-3))
        if first > 600:
            continue
        steps = np.unique(np.append([0, 1, 7], np.geomspace(first + 1, 3 * first, 4).astype(int)))
        found = averaged.losses(steps, tolerance=1e-11)
        expected = recursion(problem, sgd, steps.tolist())
        off = np.abs(found.loss / expected - 1)
        assert (off <= 1e-10 + found.error).all()
        assert (found.error[expected > 1e-4 * problem.initial_loss] < 1e-6).all()
        run = ss.simulate(
            problem, sgd, ss.BatchAveraged(0), int(steps[-1]), record=steps.tolist(), observe=["test_loss"]
        )
        tested = run["test_loss"].sel(step=steps).values.ravel()
        np.testing.assert_allclose(found.test_loss, tested, rtol=1e-7)
        late += 1
    assert late >= 3


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_deep_tail_in_80_bits(momentum):
    """A power law of 12 points until its loss has fallen to 10⁻⁹ of the first one."""
    if np.finfo(np.longdouble).eps > 1e-18:
        pytest.skip("longdouble has no more than 64 bits here")
    problem = ss.QuadraticProblem.power_law(12, 1.5, 1.0, seed=2)
    sgd = ss.SGD(0.2 * (1 - momentum), momentum, 3)
    steps = [300, 1000, 2500]
    expected = recursion(problem, sgd, steps, np.longdouble)
    found = exact.Averaged(problem, sgd).losses(np.array(steps))
    assert expected[-1] < 1e-8 * expected[0]
    assert (np.abs(found.loss / expected.astype(float) - 1) <= np.maximum(found.error, 1e-11)).all()
    assert (found.error < 1e-3).all()


def test_it_grows_from_the_exact_threshold_on():
    """The rate is 0 at the threshold; beyond it, the recursion's own."""
    problem = problem_of(np.random.default_rng(5), 9, test=False)
    for method, momentum in (("heavy-ball", 0.0), ("heavy-ball", 0.6), ("nesterov", 0.5)):
        sgd = ss.SGD(1.0, momentum, 2, method=method)
        threshold = stability.max_lr(problem, sgd, "exact", tolerance=1e-9)
        at = exact.Averaged(problem, dataclasses.replace(sgd, lr=threshold)).rightmost(1e-9)
        assert at == pytest.approx(0.0, abs=1e-7)
        beyond = dataclasses.replace(sgd, lr=1.1 * threshold)
        before, after = recursion(problem, beyond, [400, 500])
        assert exact.Averaged(problem, beyond).rightmost(1e-7) == pytest.approx(np.log(after / before) / 100, rel=1e-3)


def test_a_thousand_million_steps_of_a_power_law():
    """Full batches have a closed form at any time; with noise the loss falls with the slowest mode alone."""
    lam = np.array([1.0, 1e-4, 1e-9])
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    problem = ss.QuadraticProblem(ss.Spectrum(lam, vectors), np.ones(3))
    steps = np.array([10**4, 10**7, 10**9])
    full = exact.Averaged(problem, ss.SGD(1.5, 0.0, 3)).losses(steps)
    closed = np.exp(2 * steps[:, None] * np.log1p(-1.5 * lam[1:])).sum(1) / 6
    np.testing.assert_allclose(full.loss, closed, rtol=1e-9)
    noisy = exact.Averaged(problem, ss.SGD(0.3, 0.0, 1)).losses(np.array([10**9, 2 * 10**9]))
    assert noisy.loss[1] / noisy.loss[0] == pytest.approx(np.exp(-2 * 0.3e-9 * 1e9), rel=1e-6)


def test_what_it_does_not_follow_is_refused():
    problem = ss.QuadraticProblem.power_law(5, 1.5, 1.0)
    for sgd in (
        ss.SGD.jacobi(1.0, 0.5, 0.5), ss.SGD(0.1, sampling="reshuffle"), ss.SGD(0.1, average="ema:0.9"),
        ss.SGD(0.1, sampling="importance"), ss.SGD(0.1, method="adam"), ss.SGD(0.1, sampling="one-pass"),
    ):  # fmt: skip
        with pytest.raises(InputError):
            exact.Averaged(problem, sgd)


@pytest.mark.parametrize(
    ("momentum", "lr", "step"),
    [(0.999, 1e-15, 10**12), (0.99999, 1e-17, 10**12), (0.9999, 1e-19, 10**15), (0.99999, 1e-200, 10**15)],
)
def test_strong_momentum_late_in_a_run(momentum, lr, step):
    """One point: `(1 − α/(1−β))^{2t}/2` to leading order. A rate from a root near 1 had no digits left for it."""
    problem = ss.QuadraticProblem(ss.Spectrum(np.ones(1)), np.ones(1), basis_seed=0)
    found = exact.Averaged(problem, ss.SGD(lr, momentum)).losses(np.array([step]))
    assert found.loss[0] == pytest.approx(np.exp(-2 * lr / (1 - momentum) * step) / 2, rel=1e-9)
    assert found.error[0] < 1e-8


def test_what_is_lost_beside_a_large_start_is_not_called_known():
    """Noisy labels leave 10⁻¹⁸; the contour's rounding is 10⁻¹⁶ of the start, and its value may be negative."""
    problem = ss.QuadraticProblem.from_kernel(np.eye(5) + 0.3, np.arange(1.0, 6))
    found = exact.Averaged(problem, ss.SGD(0.05, label_noise=1e-8)).losses(np.array([1000]))
    assert found.error[0] > 1


@pytest.mark.parametrize("seed", range(3))
def test_estimates_cover_modes_that_change_sign_together(seed):
    """Near the threshold at momentum −0.9 such modes die out as slowly as the loss falls."""
    problem = problem_of(np.random.default_rng(seed), 8, test=False)
    sgd = ss.SGD(1.0, -0.9, 1, method="nesterov")
    sgd = dataclasses.replace(sgd, lr=0.999 * stability.max_lr(problem, sgd, "exact"))
    steps = [200, 400, 600, 1000]
    found = exact.Averaged(problem, sgd).losses(np.array(steps))
    assert (np.abs(found.loss / recursion(problem, sgd, steps) - 1) <= found.error + 1e-11).all()


def eighty_bits(problem, sgd, steps, number=np.longdouble):
    """Test losses at `steps` by all second moments of (residual, velocity) in modes, and their mean, step by step."""
    n, values = problem.n, sgd.values(problem.n, 0, 1)
    a, b, g = (number(v[0]) for v in (values.lr, values.momentum, values.noise))
    u, began = (v.astype(number) for v in (problem.eigenvectors, problem.coefficients))
    x, kick = a * problem.eigenvalues.astype(number), 1 + (b if sgd.method.spec == "nesterov" else number(0))
    one = np.eye(n, dtype=number)
    step = np.block([[one - kick * np.diag(x), b * one * (b if kick != 1 else 1)], [-np.diag(x), b * one]])
    kicks = np.outer(*[np.repeat(np.array([kick, 1]), n)] * 2)
    moments, mean = np.zeros((2 * n, 2 * n), number), np.append(began, np.zeros(n, number))
    moments[:n, :n] = np.outer(began, began)
    transfer = problem.test.transfer.astype(number)
    rest = problem.test.residuals(np.zeros(n)) - transfer @ began
    out, now = [], 0
    for stop in steps:
        for _ in range(stop - now):
            c = moments[:n, :n]
            noise = g * (n * ((u.T * np.einsum("ij,jk,ik->i", u, c, u)) @ u) - c) * np.outer(x, x)
            moments, mean = step @ moments @ step.T + np.tile(noise, (2, 2)) * kicks, step @ mean
        now = stop
        apart = moments[:n, :n] - np.outer(mean[:n], mean[:n])
        square = ((transfer @ mean[:n] + rest) ** 2).mean()
        out.append((square + np.einsum("jk,kl,jl->", transfer, apart, transfer) / len(transfer)) / 2)
    return np.array(out)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long double is double here")
def test_the_error_of_test_losses_covers():
    """Eigenvalues down to 1e-9, where what is left of large numbers is the test loss."""
    rng = np.random.default_rng(5)
    off, told = [], []
    for _ in range(12):
        n = int(rng.integers(3, 10))
        lam = np.sort(np.append(1.0, rng.uniform(0.01, 1, n - 1) ** rng.uniform(1, 7)))[::-1]
        u = np.linalg.qr(rng.standard_normal((n, n)))[0]
        cross = rng.standard_normal((4, n)) @ (u * lam ** rng.uniform(0.3, 1)) @ u.T
        problem = ss.QuadraticProblem.from_kernel(
            (u * lam) @ u.T, rng.standard_normal(n), cross_kernel=cross, test_residual=rng.standard_normal(4)
        )
        sgd = ss.SGD(1.0, float(rng.choice([0, 0.5, -0.4])), int(rng.integers(1, n)), method="heavy-ball")
        sgd = dataclasses.replace(sgd, lr=stability.max_lr(problem, sgd, "exact", tolerance=1e-3) * 0.4)
        averaged = exact.Averaged(problem, sgd)
        first = averaged.begins(500, 1e-9)
        steps = np.unique(np.append([0, 5, 30], np.geomspace(first + 2, 3 * first, 3).astype(int)))
        if first < 300:
            found = averaged.losses(steps, 1e-9)
            off.append(np.abs(found.test_loss / eighty_bits(problem, sgd, steps.tolist()) - 1))
            told.append(found.test_error)
    assert len(told) > 8
    assert (np.array(off) <= np.array(told)).all()
    assert 1e-9 < np.max(off) < np.max(told) < 1


@pytest.mark.parametrize("lr", [1.0, 0.999, 1 + 1e-7, 0.9])
def test_noise_that_falls_far_more_slowly_than_any_mode(lr):
    """Points that do not see each other, near (1 − x)² = 0: each E r² has the factor (1 − x)² + γ(N − 1)x²."""
    problem = ss.QuadraticProblem(ss.Spectrum(np.ones(20), np.eye(20)), np.ones(20))
    sgd = ss.SGD(lr, batch_size=10)
    steps = np.array([5, 1000, 10**5, 10**7])
    found = exact.Averaged(problem, sgd).losses(steps)
    factor = (1 - lr) ** 2 + sgd.noise(20) * lr**2 * 19
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(found.loss, 0.5 * factor**steps, rtol=1e-6)
    assert (found.error[:3] < 1e-6).all()


def test_the_told_error_where_two_contours_cross():
    """Their difference changes sign at some early step, where both may be off by more than it."""
    rng = np.random.default_rng(0)
    problem, steps = problem_of(rng, 8, test=False), np.arange(13, 400)
    for sgd in (ss.SGD(0.05, 0.0, 1), ss.SGD(0.02, 0.8, 1, method="nesterov", label_noise=0.001)):
        expected = recursion(problem, sgd, steps.tolist())
        for tolerance in np.geomspace(1e-8, 1e-3, 12):
            found = exact.Averaged(problem, sgd).losses(steps, tolerance)
            assert (np.abs(found.loss / expected - 1) <= 1e-11 + found.error).all()


def test_the_told_error_where_contours_of_few_nodes_converge_slowly():
    """At the threshold both have less than an e-fold between them; what they miss at the first steps tells that."""
    rng = np.random.default_rng(246)
    lam = np.exp(-rng.uniform(0.1, 1) * np.arange(8))
    lam[int(rng.integers(3, 9)) :] = 0.0
    vectors = np.linalg.qr(5 * np.eye(8) + rng.standard_normal((8, 8)))[0]
    problem = ss.QuadraticProblem.from_kernel((vectors * lam) @ vectors.T, rng.standard_normal(8))
    sgd = ss.SGD(0.1, 0.7, 2, "with-replacement")
    sgd = dataclasses.replace(sgd, lr=float(stability.max_lr(problem, sgd, "exact")))
    steps = np.arange(int(exact.Averaged(problem, sgd).begins(400.0, 1e-4)) + 20, 400, 20)
    expected = recursion(problem, sgd, steps.tolist())
    for tolerance in (1e-4, 3.6e-4, 1e-3):
        found = exact.Averaged(problem, sgd).losses(steps, tolerance)
        assert (np.abs(found.loss / expected - 1) <= found.error).all()


@pytest.mark.parametrize(("n", "second", "lr", "momentum", "method"), [
    (9, 0.1, 0.5, 0.5, "nesterov"), (10, 0.3, 0.9, 0.0, "heavy-ball"), (20, 0.1, 0.5, 0.8, "nesterov"),
])  # fmt: skip
def test_eigenvectors_of_one_point_each_and_two_eigenvalues(n, second, lr, momentum, method):
    """Each point is on its own then, M diagonal with two different entries: Krylov spaces are exhausted at once."""
    kernel = np.diag(np.append(1.0, np.full(n - 1, second)))
    problem = ss.QuadraticProblem.from_kernel(kernel, np.ones(n))
    sgd, steps = ss.SGD(lr, momentum, n // 2, method=method), [1, 20, 60]
    found = exact.Averaged(problem, sgd).losses(np.array(steps))
    assert (np.abs(found.loss / recursion(problem, sgd, steps) - 1) <= 1e-10 + found.error).all()
