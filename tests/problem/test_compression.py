"""A long spectrum as a short one, against the sums over all of it."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import results
from sgdsim.common.checks import InputError
from sgdsim.problem import compression
from sgdsim.recurrence import contour


def random_problem(seed, n=3000):
    """Eigenvalues and coefficients that no power law has: disturbed, in clusters, with zeros."""
    rng = np.random.default_rng(seed)
    values = np.arange(1, n + 1.0) ** -rng.uniform(0.4, 2.0) * np.exp(0.5 * rng.standard_normal(n))
    values[rng.random(n) < 0.05] = values.max()
    values[rng.random(n) < 0.05] = 0.0
    values = np.sort(values)[::-1] / values.max()
    a = rng.standard_normal(n) * rng.exponential(size=n) * values ** rng.uniform(0, 0.7)
    return ss.QuadraticProblem(ss.Spectrum(values), a)


@pytest.mark.parametrize("seed", range(6))
def test_sums_over_all_modes_at_every_time(seed):
    problem = random_problem(seed)
    short = problem.compress(1e-10)
    assert short.spectrum.n_modes < problem.n / 5
    assert short.n == problem.n
    assert short.spectrum.counts.min() >= 0
    last = problem.eigenvalues[problem.eigenvalues > 0][-1]
    for s in np.geomspace(0.01, 3e3 / last, 60):
        sums = []
        for one in (problem, short):
            lam = one.eigenvalues
            decays = np.exp(-np.maximum(lam - last, 0.0) * s) * (lam > 0)
            sums.append([decays @ one.coefficients**2, decays @ (one.spectrum.counts * lam**2)])
        assert np.allclose(sums[1], sums[0], rtol=2e-10, atol=0)
    assert short.still == pytest.approx(problem.still, rel=1e-13)
    assert short.initial_loss == pytest.approx(problem.initial_loss, rel=1e-13)
    assert short.fingerprint != problem.fingerprint


@pytest.mark.parametrize("seed", range(20))
def test_quadrature_is_gaussian(seed):
    """Exact for polynomials up to degree 2m − 1, all weights positive, all places inside."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-30, 1, rng.integers(1, 60)))
    if seed % 3 == 0:
        x = np.repeat(x[:3], 5)  # fewer different places than nodes
    weights = rng.exponential(size=x.size) ** rng.uniform(0, 6) * (rng.random(x.size) < 0.9)
    weights[0] = 1.0
    for places, shares in compression.gauss(x, weights, (8, 7)):
        assert places.size <= 8
        assert (shares >= 0).all()
        assert x.min() <= places.min() <= places.max() <= x.max()
        middle, half = (x[0] + x[-1]) / 2, max(np.ptp(x) / 2, 1e-9)
        for degree in range(2 * places.size):
            polynomial = np.polynomial.chebyshev.Chebyshev.basis(degree)
            exact = weights @ polynomial((x - middle) / half)
            assert shares @ polynomial((places - middle) / half) == pytest.approx(exact, abs=1e-11 * weights.sum())


def test_few_eigenvalues_stay_as_they_are():
    problem = ss.QuadraticProblem.power_law(60, 1.5, 1.0)
    assert problem.compress() is problem


def test_a_spectrum_with_eigenvectors_keeps_what_never_moves():
    """A kernel of lower rank: rounding's eigenvalues move no more than before."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((600, 300)) * np.arange(1, 301.0) ** -0.7
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(600))
    short = problem.compress()
    assert short.eigenvalues[-1] == 0
    assert short.still == pytest.approx(problem.still, rel=1e-13)
    assert short.spectrum.scale == problem.spectrum.scale


@pytest.mark.parametrize("n", [10**9, float("inf")])
def test_bins_of_bins(n):
    """Power laws too long to list are in bins already: their late losses are the same on fewer modes."""
    problem = ss.QuadraticProblem.power_law(n, 1.5, 1.0)
    short = problem.compress()
    assert short.spectrum.n_modes < problem.spectrum.n_modes
    steps = np.array([10, 1000, 10**6, 10**9])
    losses = [
        contour.loss_at(one, steps, lr=0.3, momentum=0.5, noise=0.2, compress=False).loss for one in (problem, short)
    ]
    assert np.allclose(losses[1], losses[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("problem", [random_problem(0), ss.QuadraticProblem.power_law(float("inf"), 1.5, 1.0)])
def test_files_of_fewer_modes(problem, tmp_path):
    """Read again they are the same, not taken for what Lanczos quadrature made, whose modes have c or a count too."""
    short = problem.compress()
    run = ss.simulate(short, ss.SGD(0.1, 0.5, 10), ss.SpectralDiagonal(), 5)
    results.save(run, tmp_path / "run.nc")
    results.save_problem(short, tmp_path / "problem.nc")
    for again in (results.problem_of(results.load(tmp_path / "run.nc")), results.load_problem(tmp_path / "problem.nc")):
        assert again.fingerprint == short.fingerprint
        assert again.description["compressed"]["modes"] == short.spectrum.n_modes
        assert again.alternatives == ()


@pytest.mark.parametrize("kept", [120, 300])
def test_what_lanczos_made_stays_as_it_is(kept):
    """It keeps its estimates of errors, which a shorter one could not have."""
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((kept, kept))
    made = ss.QuadraticProblem.from_operator(factor @ factor.T, rng.standard_normal(kept), n_lanczos=60, n_probes=8)
    assert made.alternatives
    assert made.compress() is made


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -1e-3, float("nan"), 1e-30])
def test_tolerances_that_cannot_be(tolerance):
    with pytest.raises(InputError, match="tolerance: expected"):
        ss.QuadraticProblem.power_law(3000, 1.5, 1.0).compress(tolerance)
