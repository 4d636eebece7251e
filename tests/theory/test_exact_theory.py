"""The exact average as theory offers it, beside the regime that steps it."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.theory import exact, inside, stability


def test_losses_are_those_of_the_averaged_regime():
    problem = ss.QuadraticProblem.power_law(30, 1.5, 1.0, seed=1)
    for sgd in (ss.SGD(0.3, 0.5, 3), ss.SGD(0.2, -0.3, 3, method="nesterov"), ss.SGD(0.3, 0.5, 3, label_noise=0.1)):
        run = ss.simulate(problem, sgd, ss.BatchAveraged(method="recurrence"), 900, record=[0, 7, 900])
        found = ss.theory.exact.losses(problem, sgd, [0, 7, 900])
        assert found.loss == pytest.approx(run["loss"].values.ravel(), rel=1e-8)


@pytest.mark.parametrize(
    ("sgd", "steps", "message"),
    [
        (ss.SGD(0.1), [5, 3], "steps: expected ascending"),
        (ss.SGD(0.1), [0.5], "steps: expected ascending"),
        (ss.SGD(0.1), [-1], "steps: expected ascending"),
        (ss.SGD(0.1), [np.inf], "steps: expected ascending"),
        (ss.SGD(0.1), [], "steps: expected ascending"),
        (ss.SGD(lambda t: 0.1 / (1 + t)), [3], "constant hyperparameters"),
        (ss.SGD(0.1, sampling="one-pass"), [3], "exact average: expected"),
    ],
)
def test_what_it_refuses(sgd, steps, message):
    with pytest.raises(ss.InputError, match=message):
        ss.theory.exact.losses(ss.QuadraticProblem.power_law(12, 1.5, 1.0), sgd, steps)


# The best setting


def localised(n, seed=0):
    vectors = np.linalg.qr(20 * np.eye(n) + np.random.default_rng(seed).standard_normal((n, n)))[0]
    return ss.QuadraticProblem(ss.Spectrum(np.arange(1.0, n + 1) ** -1.5, vectors), np.arange(1.0, n + 1) ** -1.0)


def on_a_grid(problem, batch_size, horizon, momenta, fractions):
    """Losses (momenta, fractions of the exact threshold): the recursion of E rrᵀ, E rvᵀ and E vvᵀ, of all at once."""
    n, u, gamma = problem.n, problem.eigenvectors, ss.SGD(1.0, 0.0, batch_size).noise(problem.n)
    tops = [stability.max_lr(problem, ss.SGD(1.0, float(beta), batch_size), "exact") for beta in momenta]
    lr, beta = (np.multiply.outer(tops, fractions)).ravel(), np.repeat(momenta, len(fractions))[:, None, None]
    x = lr[:, None] * problem.eigenvalues
    left, right = x[:, :, None], x[:, None, :]
    rr = np.tile(np.multiply.outer(problem.coefficients, problem.coefficients), (lr.size, 1, 1))
    rv, vv = np.zeros_like(rr), np.zeros_like(rr)
    for _ in range(horizon):
        squares = ((u @ rr) * u).sum(2)
        noise = gamma * (n * ((u.T * squares[:, None, :]) @ u) - rr)
        mixed = beta * left * rv
        vv = beta**2 * vv - mixed - mixed.transpose(0, 2, 1) + left * right * (rr + noise)
        rv = beta * rv - right * rr
        rr = rr + rv + rv.transpose(0, 2, 1) + vv
        rv = rv + vv
        rr = (rr + rr.transpose(0, 2, 1)) / 2  # what is not symmetric is rounding, and would grow
    return np.trace(rr, axis1=1, axis2=2).reshape(len(momenta), -1) / (2 * n)


@pytest.mark.parametrize(
    ("problem", "batch_size", "horizon"),
    [
        (ss.QuadraticProblem.power_law(16, 1.5, 1.0, seed=16), 1, 40),
        (localised(16), 1, 40),
        (localised(16), 4, 40),
        (localised(12), 1, 120),
        (ss.QuadraticProblem.power_law(12, 1.5, 3.0, seed=1), 6, 60),
        (ss.QuadraticProblem.power_law(30, 1.5, 3.0), 4, 1),  # was 15% above it, after 2 settings
    ],
)
def test_the_best_setting_is_that_of_a_dense_grid(problem, batch_size, horizon):
    momenta, fractions = np.append(1 - np.geomspace(1.7, 0.02, 18), 0.0), np.linspace(0.03, 0.999, 20)
    grid = on_a_grid(problem, batch_size, horizon, momenta, fractions)
    found = exact.best(problem, ss.SGD(1.0, 0.0, batch_size), horizon)
    best, plain = found.trusted.error.loss, found.trusted.plain_error.loss
    assert best <= 1.01 * grid.min()
    assert plain <= 1.01 * grid[-1].min()
    assert found.settings <= exact.SETTINGS
    assert found.trusted.stable.stable is True
    at = found.trusted.best
    for lr, momentum, loss in ((at.lr, at.momentum, best), (at.plain_lr, 0.0, plain)):
        fraction = lr / stability.max_lr(problem, ss.SGD(1.0, momentum, batch_size), "exact")
        assert on_a_grid(problem, batch_size, horizon, np.array([momentum]), [fraction])[0, 0] == pytest.approx(
            loss, rel=5e-3
        )


def test_it_is_never_worse_than_what_the_closure_recommends():
    for problem, batch_size in ((localised(24), 2), (ss.QuadraticProblem.power_law(24, 1.5, 3.0, seed=0), 1)):
        sgd = ss.SGD(1.0, 0.0, batch_size)
        found, known = exact.best(problem, sgd, 80).trusted, inside.trusted(problem, sgd, 80)
        assert found.error.loss <= min(known.error.loss, known.plain_error.loss, found.plain_error.loss) * (1 + 1e-4)
        assert found.plain_error.loss <= known.plain_error.loss * (1 + 1e-4)
        assert found.closure == known.closure


def test_interrupted_it_gives_the_best_so_far():
    heard = []

    def stop():
        heard.append(1)
        if len(heard) == 3:
            raise KeyboardInterrupt

    found = exact.best(localised(16), ss.SGD(1.0, 0.0, 2), 40, heard=stop)
    assert (found.interrupted, found.settings) == (True, 3)
    assert found.trusted.error.loss <= found.trusted.plain_error.loss


def test_of_full_batches_the_closure_is_exact():
    problem = localised(20)
    found = exact.best(problem, ss.SGD(1.0, 0.0, 20), 50)
    assert (found.settings, found.trusted.best) == (0, found.trusted.closure)


@pytest.mark.parametrize(
    ("problem", "sgd", "message"),
    [
        (ss.QuadraticProblem.power_law(1001, 1.5, 1.0), ss.SGD(1.0), "exact: expected at most 1000 training points"),
        (ss.QuadraticProblem.power_law(12, 1.5, 1.0), ss.SGD(1.0, sampling="one-pass"), "independent batches"),
    ],
)
def test_what_it_does_not_search(problem, sgd, message):
    with pytest.raises(ss.InputError, match=message):
        exact.best(problem, sgd, 10)


def test_a_search_that_its_limit_ends_says_so():
    v = np.random.default_rng(0).standard_normal(20)  # one mode: the closure sees no noise, and jumps to 0 at lr 1
    problem = ss.QuadraticProblem.from_kernel(np.outer(v, v), residual=v)
    assert not exact.best(problem, ss.SGD(1.0, 0.0, 2), 50).settled


def test_without_a_residual_there_is_nothing_to_search():
    with pytest.raises(ss.InputError, match="residual"):
        exact.best(ss.QuadraticProblem(ss.Spectrum(np.ones(3), np.eye(3)), np.zeros(3)), ss.SGD(1.0, 0.0, 2), 50)
