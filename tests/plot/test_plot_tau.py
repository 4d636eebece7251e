"""Which τ is nearest to the exact average: distances, the τ of a mode, and their picture."""

import math

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.notebook import tables
from sgdsim.plot.tau import tau_curves
from sgdsim.studies import closures
from sgdsim.theory import generating, stability

EXACT = ss.BatchAveraged(tolerance=0)
TAUS = (-1, 0, 1, 2)


def compare(problem, lr=(0.4,), batch_size=(3,), momentum=(0.0,), taus=TAUS, n_steps=60, replicates=8):
    grid = ss.Grid.product(lr=list(lr), momentum=list(momentum), batch_size=list(batch_size))
    regimes = [ss.SampledLinearized(), EXACT, *(ss.SpectralDiagonal(tau=tau) for tau in taus)]
    return ss.sweep(problem, grid, regimes, n_steps=n_steps, replicates=replicates)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_in_a_hadamard_basis_tau_1_has_no_distance(hadamard_problem, momentum):
    found = closures.distances(compare(hadamard_problem, momentum=[momentum]))
    typical = {entry.tau: entry.typical for entry in found}
    assert typical[1] < 1e-12
    assert min(typical[tau] for tau in (-1, 0, 2)) > 1e-3
    (best,) = closures.nearest(found)
    assert best.tau == 1
    np.testing.assert_allclose(closures.mode_tau(hadamard_problem), 1, atol=1e-12)
    assert closures.noise_tau(hadamard_problem, 0.4, momentum) == pytest.approx(1, abs=1e-12)


def test_in_a_hadamard_basis_the_map_of_tau_1_is_white(hadamard_problem):
    settings = [(1, 0.0), (2, 0.5), (3, -0.5)]
    found = closures.error_map(hadamard_problem, settings, fractions=(0.1, 0.5, 0.9), steps=(1, 10, 100))
    known = np.isfinite(found.exact)
    assert known.mean() > 0.7
    np.testing.assert_allclose(found.error[0][known], 0, atol=1e-3)
    assert found.error[1][:, 2, 2].min() > 1e-3  # τ = 0 promises too much near the threshold


def test_a_map_of_errors_has_what_runs_have(tiny):
    found = closures.error_map(tiny, [(2, 0.3)], fractions=(0.5,), steps=(5, 60), taus=(1.0, -1.0))
    lr = found.fractions[0] * found.max_lr[0]
    assert found.max_lr[0] == pytest.approx(stability.max_lr(tiny, ss.SGD(1.0, 0.3, 2), "exact"), rel=1e-4)
    run = compare(tiny, [lr], [2], [0.3], (1, -1))["loss"].sel(step=[5, 60]).squeeze().mean("replicate").values
    np.testing.assert_allclose(found.exact[0, 0], run[1], rtol=1e-3)
    np.testing.assert_allclose(found.closure[:, 0, 0], run[2:], rtol=1e-6)
    slopes = -np.diff(np.log(run[1:]), axis=1)[:, 0] / math.log(60 / 5)
    np.testing.assert_allclose(found.exponents[:, 0, 0, 0], slopes, rtol=1e-3)
    frame = tables.late_exponents({"five": found})
    assert frame.index.names == ["", "b", "β", "α"]
    np.testing.assert_allclose(frame["τ = −1: loss / exact"], run[3, 1] / run[1, 1], rtol=1e-3)
    np.testing.assert_allclose(frame[["exact exponent", "τ = 1: exponent"]].iloc[0], slopes[:2], rtol=1e-3)
    figure = ss.plot.closure_errors(found)
    maps = [ax for ax in figure.axes if ax.collections and ax.get_ylim() == (0, 1)]
    assert [round(float(ax.collections[0].get_array()[0, 1]), 6) for ax in maps] == [
        round(100 * float(error), 6) for error in found.error[:, 0, 0, 1]
    ]


def test_distances_are_what_they_say(tiny):
    result = compare(tiny, lr=[0.3, 0.5], batch_size=[2, 3])
    found = {(*entry.cell.values(), entry.regime): entry for entry in closures.distances(result)}
    assert len(found) == 4 * (1 + len(TAUS))
    loss = result["loss"].sel(lr=0.5, momentum=0.0, batch_size=2).isel(step=slice(1, None))
    exact = loss.sel(regime=EXACT.name, replicate=0).values
    one = found[0.5, 0.0, 2, "diagonal:tau=0"]
    gap = np.abs(np.log(loss.sel(regime="diagonal:tau=0", replicate=0).values / exact))
    assert one.typical == pytest.approx(math.sqrt(np.mean(gap**2)), rel=1e-12)
    assert one.worst == pytest.approx(gap.max(), rel=1e-12)
    assert one.worst_step == int(loss["step"][gap.argmax()])
    assert (one.tau, one.stderr) == (0.0, None)
    sampled = found[0.5, 0.0, 2, "sampled"]
    runs = loss.sel(regime="sampled").values
    relative = runs.std(0, ddof=1) / math.sqrt(len(runs)) / runs.mean(0)
    assert sampled.tau is None
    assert sampled.stderr == pytest.approx(math.sqrt(np.mean(relative**2)), rel=1e-12)


def test_a_closure_that_diverges_is_infinitely_far(hadamard_problem):
    limits = [stability.max_lr(hadamard_problem, ss.SGD(1.0, 0.0, 1), tau=tau) for tau in (-1, 1)]
    assert limits[1] > 1.3 * limits[0]
    result = compare(hadamard_problem, lr=[0.95 * limits[1]], batch_size=[1], n_steps=2000, taus=[-1, 1])
    far = {entry.tau: entry.typical for entry in closures.distances(result)}
    assert far[-1] == math.inf
    assert far[1] < 1e-10
    assert len(tau_curves(result).axes[0].lines) == 4


def test_a_tau_of_many_digits_is_drawn(tiny):
    figure = tau_curves(compare(tiny, taus=[0.123456789]))
    assert len(figure.axes[0].lines) == 3


def test_mode_tau_is_exact_for_a_residual_in_one_mode(tiny):
    """One step: the second moment of that mode by the exact average and by the closure with its own τ."""
    for mode, tau in enumerate(closures.mode_tau(tiny)):
        problem = ss.QuadraticProblem(tiny.spectrum, np.eye(5)[mode])
        moments = [
            ss.simulate(problem, ss.SGD(0.7, 0.0, 2), regime, 1, observe=["loss", "moments"])["moments"].values.ravel()
            for regime in (EXACT, ss.SpectralDiagonal(tau=float(tau)))
        ]
        exact, diagonal = (values.reshape(2, 5)[1, mode] for values in moments)
        assert diagonal == pytest.approx(exact, rel=1e-12)


def test_mode_tau_of_random_eigenvectors_is_near_minus_one():
    problem = ss.QuadraticProblem.power_law(200, 1.5, 1.0)
    n, found = problem.n, closures.mode_tau(problem)
    expected = 2 - 3 * n / (n + 2)  # the fourth moment of a component of a random unit vector is 3/(N(N+2))
    spread = np.sqrt(96 / n)  # of N Σ u⁴ for Gaussian entries, x⁴ having variance 96
    assert abs(found.mean() - expected) < 4 * spread / np.sqrt(n)
    assert found.std() < 2 * spread


@pytest.mark.parametrize("momentum", [0.0, 0.6, -0.4])
def test_noise_tau_gives_the_noise_propagator_to_first_order(tiny, momentum):
    """Ũ(1) with a τ for each mode, and with the one mean τ: they differ by O(γ³), where each is of order γ."""
    lam, lr, taus = tiny.eigenvalues, 0.8, closures.mode_tau(tiny)
    one = closures.noise_tau(tiny, lr, momentum)
    gaps = []
    for gamma in (1e-2, 1e-3):
        each = sum(
            generating.noise_propagator_at_one(np.array([value]), lr, momentum, gamma, tau)
            for value, tau in zip(lam, taus, strict=True)
        )
        gaps.append(abs(each - generating.noise_propagator_at_one(lam, lr, momentum, gamma, one)))
        assert gaps[-1] < 10 * gamma**3
    wrong = generating.noise_propagator_at_one(lam, lr, momentum, 1e-3, one + 0.1)
    assert abs(each - wrong) > 10 * gaps[-1]


def test_picture_has_a_line_for_each_curve(hadamard_problem):
    figure = tau_curves(compare(hadamard_problem, lr=[0.2, 0.4]))
    assert len(figure.axes) == 4
    top, bottom = figure.axes[0], figure.axes[2]
    assert len(top.lines) == 2 + len(TAUS)
    assert len(bottom.lines) == 1 + len(TAUS)
    assert "nearest: τ = 1" in top.get_title()
    exact = [line for line in bottom.lines if np.allclose(line.get_ydata(), 0, atol=1e-11)]
    assert len(exact) == 2  # the zero line and τ = 1
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[1:] == ["exact average", "τ = −1", "τ = 0", "τ = 1", "τ = 2"]
    assert ss.plot.show(figure).png.startswith(b"\x89PNG")


def test_picture_without_sampling_and_of_one_cell(hadamard_problem):
    grid = ss.Grid.zip(lr=[0.3], momentum=[0.0], batch_size=[3])
    result = ss.sweep(hadamard_problem, grid, [EXACT, ss.SpectralDiagonal(tau=1)], n_steps=20)
    figure = tau_curves(result)
    assert len(figure.axes[0].lines) == 2
    assert "α = 0.3, β = 0, b = 3" in figure.axes[0].get_title()


def test_tables_hold_the_distances(hadamard_problem):
    result = compare(hadamard_problem, lr=[0.2, 0.4])
    found = closures.distances(result)
    frame = tables.closure_distances(found)
    assert list(frame.index.names) == ["α", "β", "b"]
    assert list(frame["nearest τ"]) == [1, 1]
    entry = next(one for one in found if one.tau == -1 and one.cell["lr"] == 0.4)
    assert frame.loc[(0.4, 0.0, 3), "τ = −1"] == entry.typical
    modes = tables.mode_taus(hadamard_problem, [1, 2, 99])
    assert list(modes.index) == [1, 2]
    assert tables.weighted_taus(hadamard_problem, [0.5])["weighted τ"].item() == pytest.approx(1)


def test_bad_input_is_refused(hadamard_problem):
    grid = ss.Grid.zip(lr=[0.3], momentum=[0.0], batch_size=[3])
    without = ss.sweep(hadamard_problem, grid, [ss.SpectralDiagonal(tau=1)], n_steps=5)
    for ask in (closures.distances, tau_curves):
        with pytest.raises(ss.InputError, match="averaged regime"):
            ask(without)
    alone = ss.sweep(hadamard_problem, grid, [EXACT], n_steps=5)
    with pytest.raises(ss.InputError, match="beside it"):
        closures.distances(alone)
    many = compare(hadamard_problem, lr=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], n_steps=3, taus=[1], replicates=1)
    with pytest.raises(ss.InputError, match="at most 5 cells"):
        tau_curves(many)
    for lr in (0.0, 2.0, 3.0):
        with pytest.raises(ss.InputError, match="lr: expected"):
            closures.noise_tau(hadamard_problem, lr)
