"""Maps over (ν, κ), derivations checked in numbers, tables, and their pictures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

import sgdsim as ss
from sgdsim.notebook import tables
from sgdsim.recurrence import contour
from sgdsim.studies import phase_maps
from sgdsim.symbolic import series
from sgdsim.symbolic.derive import derive
from sgdsim.theory import optimal, power_law, stability


@pytest.mark.parametrize(
    ("method", "momentum", "tau"),
    [("heavy-ball", 0.5, 1.0), ("heavy-ball", -0.4, -1.0), ("nesterov", 0.5, 1.0), ("nesterov", -0.3, 0.3)],
)
def test_derived_series_is_what_stepping_gives(method, momentum, tau):
    problem = ss.QuadraticProblem.power_law(100, 1.5, 1.0)
    check = series.check(problem, lr=0.3, momentum=momentum, noise=0.1, tau=tau, method=method, n_steps=300)
    assert check.series_error.max() < 1e-11
    if method == "heavy-ball":
        loop = contour.loss_at(
            problem, check.steps, lr=0.3, momentum=momentum, noise=0.1, tau=tau, method="recurrence"
        ).loss
        np.testing.assert_allclose(check.stepped, loop, rtol=1e-12)
        assert check.contour_error[150:].max() < 1e-9
    else:
        assert check.contour is None


def test_nesterov_without_momentum_is_heavy_ball_without():
    problem = ss.QuadraticProblem.power_law(50, 1.5, 1.0)
    one, other = (
        series.check(problem, lr=0.3, momentum=0.0, noise=0.1, method=method, n_steps=50).series
        for method in ("heavy-ball", "nesterov")
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)
    far = series.check(problem, lr=0.3, momentum=0.5, noise=0.1, method="nesterov", n_steps=50).series
    assert np.abs(far / one - 1).max() > 0.01


def test_series_of_modes_with_multiplicity():
    """A merged spectrum is that of the copies it stands for."""
    eigenvalues = np.array([1.0, 0.5, 0.5, 0.25, 0.25, 0.25])
    whole = ss.QuadraticProblem(ss.Spectrum(eigenvalues), np.sqrt([4.0, 1, 2, 0.3, 0.4, 0.5]))
    merged = ss.QuadraticProblem(
        ss.Spectrum(np.array([1.0, 0.5, 0.25]), multiplicity=np.array([1.0, 2, 3])), np.sqrt([4.0, 3, 1.2])
    )
    setting = {"lr": 0.4, "momentum": 0.3, "noise": 0.2, "tau": 0.0, "n_steps": 40}
    np.testing.assert_allclose(
        series.check(whole, **setting).series, series.check(merged, **setting).stepped, rtol=1e-12
    )


@pytest.mark.parametrize(("kappa", "lr", "momentum", "noise"), [(1.0, 0.3, 0.5, 0.1), (3.0, 0.1, -0.2, 1.0)])
def test_derived_law_has_the_librarys_constant(kappa, lr, momentum, noise):
    problem = ss.QuadraticProblem.power_law(30_000, 1.5, kappa)
    found = series.law_check(problem, lr=lr, momentum=momentum, noise=noise, step=30_000)
    law = power_law.PowerLaw.of(problem)
    signal, loud = power_law.constants(problem, law, lr=lr, momentum=momentum, noise=noise)
    assert found.constant == pytest.approx(signal if kappa == 1 else loud, rel=1e-10)
    assert found.exponent == pytest.approx(power_law.exponent(1.5, kappa / 1.5))
    assert 0.9 < found.ratio < 1.1


def test_measured_exponents():
    found = phase_maps.exponents([1.5, 2.0], [1.0, 5.0], n=30_000, window=(1e4, 1e5), lr=0.1, n_times=5)
    np.testing.assert_allclose(found.predicted, [[2 / 3, 4 / 3], [0.5, 1.5]])
    np.testing.assert_allclose(found.measured, found.predicted, atol=0.02)
    assert (found.distance < 0).tolist() == [[True, False], [True, False]]
    # The slope of a curve over two steps is the local exponent.
    problem = ss.QuadraticProblem.power_law(500, 1.5, 1.0)
    low, high = contour.loss_at(problem, [100, 200], lr=0.1, noise=1.0).log_loss
    two = phase_maps.exponents([1.5], [1.0], n=500, window=(100, 200), lr=0.1, n_times=2)
    assert two.measured[0, 0] == pytest.approx((low - high) / np.log(2))
    # Where it diverges there is no exponent.
    assert np.isnan(phase_maps.exponents([1.5], [1.0], n=500, window=(100, 200), lr=1.9).measured).all()
    with pytest.raises(ss.InputError, match="window: expected two increasing steps"):
        phase_maps.exponents([1.5], [1.0], n=500, window=(200, 100), lr=0.1)
    with pytest.raises(ss.InputError, match="nu: expected ascending numbers > 0"):
        phase_maps.exponents([2.0, 1.5], [1.0], n=500, window=(100, 200), lr=0.1)


def test_local_exponents_settle_on_both_sides():
    found = phase_maps.local_exponents(1.5, [1.0, 4.5], n=30_000, last=1e5, lr=0.1)
    settled = found.middle > 1e4
    assert np.abs(found.local[:, settled] - found.predicted[:, None]).max() < 0.03
    assert found.cutoff == pytest.approx(
        [-1 / contour.rate(ss.QuadraticProblem.power_law(30_000, 1.5, k), lr=0.1, noise=1.0) for k in (1.0, 4.5)]
    )
    with pytest.raises(ss.InputError, match="lr: expected a stable learning rate"):
        phase_maps.local_exponents(1.5, [1.0], n=100, last=1e3, lr=1.5)


@pytest.mark.parametrize("floor", [1e-3, 1e-2])
def test_profile_follows_a_flat_valley(floor):
    """With a floor the valley is so flat that losses within 0.03% of the least have momenta 0.15 apart."""
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, 3.0, lambda_min=floor)
    quick, _, _ = phase_maps.momentum_profile(problem, noise=1.0, horizon=3981)
    best = optimal.best(problem, noise=1.0, horizon=3981)
    assert quick.momentum == pytest.approx(best.momentum, abs=0.05)
    assert quick.loss == pytest.approx(best.loss, rel=1e-4)


@pytest.mark.parametrize(("nu", "kappa"), [(1.5, 3.0), (1.25, 0.75), (2.0, 5.0), (2.0, 2.25)])
def test_profile_is_nearly_the_optimum(nu, kappa):
    problem = ss.QuadraticProblem.power_law(1000, nu, kappa)
    quick, _, profile = phase_maps.momentum_profile(problem, noise=1.0, horizon=1000)
    best = optimal.best(problem, noise=1.0, horizon=1000)
    assert quick.momentum == pytest.approx(best.momentum, abs=0.02)
    assert quick.loss == pytest.approx(best.loss, rel=1e-4)
    assert quick.plain_loss == pytest.approx(best.plain_loss, rel=1e-4)
    assert np.sign(quick.momentum) == np.sign(2 * nu - 1 - kappa)
    assert profile.min() == pytest.approx(best.loss, rel=0.01)
    assert (profile >= best.loss * (1 - 1e-4)).all()
    at = contour.loss_at(problem, 1000, lr=quick.lr, momentum=quick.momentum, noise=1.0).loss
    assert at == pytest.approx(quick.loss, rel=1e-3)  # the sketch stands for the spectrum
    assert quick.lr < stability.diagonal_max_lr(problem, momentum=quick.momentum, noise=1.0)


def test_momentum_changes_sign_near_the_transition_and_back_in_the_tail():
    found = phase_maps.momentum_map([1.3, 1.6], [1.0, 4.0], n=30_000, horizon=10_000)
    assert (found.momentum < 0).tolist() == [[False, True], [False, True]]
    assert found.helps[:, 1].all()
    assert (found.gain >= 0).all()
    clamped = phase_maps.clamped_momentum(1.5, 3.0, [0.0, 1e-3], [1000, 30_000], n=1000)
    assert clamped.momentum[1, 0] < clamped.momentum[0, 0] < 0  # before the tail: more negative than without a floor
    assert clamped.momentum[0, 1] < 0 < clamped.momentum[1, 1]  # the tail of the clamped one has begun
    assert 1000 < -1 / clamped.rate[1] < 30_000 < -1 / clamped.rate[0]


def test_condition_holds_throughout_the_noise_dominated_phase():
    """In terms of output coefficients; with c_k/λ_k instead it would deny (1.5, 3), whose optimum is negative."""
    for nu in (1.2, 1.5, 2.0, 3.0):
        for above in (0.05, 0.5, 2.0):
            problem = ss.QuadraticProblem.power_law(10_000, nu, 2 * nu - 1 + above)
            assert optimal.negative_momentum_helps(problem, nu)
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, 3.0)
    lam, c = problem.eigenvalues, problem.coefficients**2
    shifted = ss.QuadraticProblem(ss.Spectrum(lam), np.sqrt(c / lam))
    assert not optimal.negative_momentum_helps(shifted, 1.5)
    assert optimal.best(problem, noise=1.0).momentum < -0.1


def test_tables():
    problem = ss.QuadraticProblem.power_law(60, 1.5, 1.0)
    levels = tables.stability_levels(problem, [1, 60], [0.0, 0.5])
    assert (levels["exact"] <= levels["full batch"] + 1e-9).all()
    assert levels.loc[(1, 0.5), "exact"] == pytest.approx(
        stability.max_lr(problem, ss.SGD(1, 0.5, 1), "exact"), rel=1e-3
    )
    assert np.isnan(levels.loc[(60, 0.5), "asymptote"])
    assert tables.exact_points(levels)[1] == (1, 0.5, levels.loc[(1, 0.5), "exact"])
    assert "exact" not in tables.stability_levels(problem, [1], [0.0], exact=False)
    sizes = tables.size_dependence([0.8, 2.0], [100, 10_000], kappa=1.0)
    assert sizes.loc[0.8, "N = 10000"] < 0.5 * sizes.loc[0.8, "N = 100"]
    assert sizes.loc[2.0, "N = 10000"] > 0.99 * sizes.loc[2.0, "N = 100"]
    found = phase_maps.exponents([1.5, 2.0], [1.0, 5.0], n=300, window=(100, 1000), lr=0.1, n_times=3)
    errors = tables.exponent_errors(found)
    assert errors["spectra"].to_dict() == {
        ("signal-dominated", "0.5 … 1"): 2, ("noise-dominated", "0.5 … 1"): 1, ("noise-dominated", "1 … 2"): 1
    }  # fmt: skip
    error = found.measured[0, 1] - found.predicted[0, 1]
    assert errors.loc[("noise-dominated", "1 … 2"), "mean error"] == pytest.approx(error)
    signs = tables.momentum_signs(phase_maps.momentum_map([1.5], [1.0, 4.0], n=1000, horizon=1000))
    assert signs["β* < 0"].tolist() == [0, 1]
    best = tables.optima({"late": optimal.best(problem=ss.QuadraticProblem.power_law(300, 1.5, 3.0), noise=1.0)})
    assert best.loc["late", "horizon"] == "late times"
    assert best.loc["late", "β*"] < 0
    text = repr(levels)
    assert f"{levels.loc[(1, 0.5), 'exact']:.4g}" in text
    assert "<table" in levels._repr_html_()


def test_formulas_as_mathematics():
    lines = tables.formulas(derive(), "threshold", "S")
    assert lines._repr_markdown_().count("$$") == 4
    assert "the loss converges iff" in str(lines).splitlines()[0]
    assert len(tables.formulas(derive()).lines) == len(derive().formulas())
    with pytest.raises(ss.InputError, match="formula: expected one of mean_map"):
        tables.formulas(derive(), "nothing")


def test_proofs_table():
    pytest.importorskip("z3")
    found = tables.proofs()
    assert (found["verdict"] == "proved").all()
    assert found["control"].str.startswith("counterexample at ").all()
    assert found["control"].max() in found._repr_html_()


def test_pictures(tmp_path):
    problem = ss.QuadraticProblem.power_law(100, 1.5, 1.0)
    checks = [series.check(problem, lr=0.3, momentum=0.5, noise=0.1, n_steps=60)]
    found = phase_maps.exponents([1.0, 1.5], [1.0, 2.0], n=300, window=(100, 1000), lr=0.1, n_times=3)
    best = phase_maps.momentum_profile(problem, noise=1.0, horizon=200)
    drawn = {
        "check": ss.plot.derivation_check(checks),
        "map": ss.plot.exponent_map(found),
        "transition": ss.plot.transition(phase_maps.local_exponents(1.5, [1.0, 4.0], n=300, last=1e4, lr=0.1)),
        "profile": ss.plot.momentum_profile({"it": best}),
        "momentum": ss.plot.momentum_map(phase_maps.momentum_map([1.5, 2.0], [1.0, 5.0], n=300, horizon=300)),
        "clamped": ss.plot.clamped_momentum(phase_maps.clamped_momentum(1.5, 3.0, [0.0, 0.01], [100, 1000], n=100)),
    }
    for figure in drawn.values():
        assert ss.plot.show(figure, dpi=50)._repr_png_().startswith(b"\x89PNG")
    twice = [ss.plot.show(ss.plot.derivation_check(checks), dpi=50).png for _ in range(2)]
    assert twice[0] == twice[1]  # no dates, no versions
    ax = drawn["profile"]
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert star.get_xdata()[0] == best[0].momentum
    points = np.concatenate([line.get_ydata() for line in drawn["map"].axes[1].lines if line.get_marker() == "o"])
    np.testing.assert_array_equal(points, found.measured.ravel())
    assert np.isnan(found.predicted[0]).all()
    ss.plot.save(drawn["clamped"], tmp_path / "clamped.pdf")
    with pytest.raises(ss.InputError, match="checks: expected 1 to 4"):
        ss.plot.derivation_check([])
    with pytest.raises(ss.InputError, match="figure: expected a matplotlib Figure or Axes, got str"):
        ss.plot.show("figure")
    with pytest.raises(ss.InputError, match="dpi"):
        ss.plot.show(Figure(), dpi=10_000)


def test_a_momentum_that_the_contour_misses_is_not_the_best():
    """At β = 0.996 and 1000 steps the momentum is not over; the contour's loss there is 171 times too low."""
    problem = ss.QuadraticProblem.power_law(30_000, 1.2, 1 + 20 / 7)
    best, _, _ = phase_maps.momentum_profile(problem, noise=1.0, horizon=1000)
    at = {"lr": best.lr, "momentum": best.momentum, "noise": 1.0}
    assert contour.loss_at(problem, 1000, **at, method="recurrence").loss == pytest.approx(best.loss, rel=1e-3)
    assert best.momentum < 0


def test_profile_near_momentum_one_is_that_of_the_recurrence():
    problem, horizon = ss.QuadraticProblem.power_law(1000, 2.0, 4.0), 300
    _, momenta, profile = phase_maps.momentum_profile(problem, noise=1.0, horizon=horizon)
    top = stability.diagonal_max_lr(problem, momentum=momenta[-1], noise=1.0)
    coarse, dense = top * np.geomspace(0.02, 0.97, 14), top * np.geomspace(0.01, 0.98, 400)
    at = {"momentum": momenta[-1], "noise": 1.0, "method": "recurrence"}
    least = [contour.loss_at(problem, horizon, lr=lrs, **at).loss.min() for lrs in (dense, coarse)]
    assert least[0] * 0.999 <= profile[-1] <= least[1] * 1.001
