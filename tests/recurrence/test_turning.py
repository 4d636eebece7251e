"""Singularities that a contour misses: bounds from single modes against the eigenvalues of the whole system."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.recurrence import contour, hyperbola, turning
from sgdsim.theory import stability


def system(lam, counts, lr, momentum, noise, tau):
    """The matrix of a step of all (c_k, j_k, v_k)."""
    x, n = lr * lam, lam.size
    unit, zero = np.eye(n), np.zeros((n, n))
    v = np.hstack(
        [
            np.diag(x**2 * (1 - noise * tau)) + noise * np.outer(counts * x**2, np.ones(n)),
            np.diag(-2 * momentum * x),
            momentum**2 * unit,
        ]
    )
    c = np.hstack([np.diag(1 - 2 * x), 2 * momentum * unit, zero]) + v
    j = np.hstack([np.diag(-x), momentum * unit, zero]) + v
    return np.vstack([c, j, v])


def bounds(lam, counts, lr, momentum, noise, tau):
    """Sizes of complex and of negative zeros of the modes alone, and the same after `alternating`."""
    cell = [np.array([float(h)]) for h in (lr, momentum, noise, noise * tau)]
    alone = turning.sizes(lam, cell[0], cell[1], cell[3])
    found = alone.copy()
    turning.alternating(lam, counts, lam.size, *cell, found, 0, 1)
    return alone[:, 0], found[:, 0]


def draw(rng, edge):
    n = int(rng.choice([1, 2, 2, 3, 6]))
    lam = np.sort(np.append(1.0, rng.uniform(0, 1, n - 1) ** rng.choice([0.05, 0.3, 1, 4])))[::-1]
    counts = rng.choice([np.ones(n), rng.integers(1, 4, n).astype(float)])
    momentum = rng.choice([0.0, rng.uniform(-0.99, 0.99), 1 - 10 ** rng.uniform(-3, -1), 10 ** rng.uniform(-3, -1) - 1])
    noise, tau = rng.choice([1.0, rng.uniform(0, 1), 10 ** rng.uniform(-3, 0)]), rng.choice([1.0, 0.0, -1.0])
    p = ss.QuadraticProblem(ss.Spectrum(lam, multiplicity=counts), np.ones(n))
    top = float(stability.diagonal_max_lr(p, momentum=momentum, noise=noise, tau=tau))
    lr = 2 * (1 + momentum) * (1 - 10 ** rng.uniform(-4, -0.3)) if edge else top * rng.uniform(0.1, 1.02)
    return lam, counts, lr, momentum, noise, tau


@pytest.mark.parametrize("edge", [False, True])
def test_no_singularity_off_the_axis_is_right_of_the_bounds(edge):
    """Small N, both signs of momentum, one point a batch too, up to the threshold and near the alternating edge."""
    rng, tighter = np.random.default_rng(2), 0
    for _ in range(300):
        lam, counts, *hyper = draw(rng, edge)
        m = np.linalg.eigvals(system(lam, counts, *hyper))
        alone, found = bounds(lam, counts, *hyper)
        rounding = 1e-4 * np.abs(m).max()  # of eigenvalues threefold, where a mode is critical
        real = np.abs(m.imag) <= rounding
        where = (lam, counts, *hyper)
        assert -m.real[real].min() <= found.max() + rounding, where
        turns = np.abs(m[~real]).max(initial=0.0)
        unseen = 1e-10 ** (1 / hyperbola.EARLIEST) * np.abs(m).max()
        assert turns <= max(found.max(), unseen) + rounding, where
        tighter += found.max() < 0.99 * alone.max()
    assert tighter > 5


def test_the_alternating_root_is_found():
    """One mode's own would grow, its factor being 1 − 2x at β = 0 and γ = τ = 1; the whole system converges."""
    lam, hyper = np.array([1.0, 0.25, 0.1, 0.05]), (1.1, 0.0, 1.0, 1.0)
    alone, found = bounds(lam, np.ones(4), *hyper)
    assert alone[1] == pytest.approx(1.2)
    m = np.linalg.eigvals(system(lam, np.ones(4), *hyper))
    assert np.abs(m).max() < 1.5
    assert found[1] == pytest.approx(-m.real.min(), rel=1e-8)
    problem = ss.QuadraticProblem(ss.Spectrum(lam), np.ones(4))
    values, stepped = (
        contour.loss_at(problem, 300, lr=1.1, noise=1.0, method=method) for method in ("contour", "recurrence")
    )
    assert values.error < 1e-9
    assert abs(values.loss / stepped.loss - 1) < values.error + stepped.error
