"""Tables of runs for notebooks, and whether the law of a fitted spectrum holds."""

import math

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.notebook import tables
from sgdsim.recurrence import contour
from sgdsim.studies import asymptotes, budgets, measured_stability, validation, verification
from sgdsim.theory import optimal, stability

SGD = ss.SGD(0.5, 0.0, 10)


def decaying(exponent, n=500, nu=1.5):
    """Eigenvalues k^−ν and c_k ∝ k^−exponent."""
    k = np.arange(1, n + 1.0)
    return ss.QuadraticProblem(ss.Spectrum(k**-nu), np.sqrt(k**-exponent))


def test_a_power_law_gives_its_own_asymptote():
    problem = decaying(2.0, n=3000)
    found = asymptotes.asymptote(problem, SGD)
    assert found.holds
    assert found.reason == ""
    assert found.prediction.exponent == pytest.approx(1 / 1.5, abs=0.02)
    first, last = found.prediction.window
    inside = (found.steps >= first) & (found.steps <= last)
    np.testing.assert_allclose(found.prediction.law[inside], found.loss[inside], rtol=0.1)


def test_why_there_is_no_law():
    flat = asymptotes.asymptote(decaying(0.5), SGD)
    assert flat.prediction is None
    assert "not above 0" in flat.reason
    assert not flat.holds
    noise = float(SGD.values(500, 0, 1).noise[0])
    expected = contour.loss_at(decaying(0.5), flat.steps, lr=0.5, momentum=0.0, noise=noise).loss
    np.testing.assert_array_equal(flat.loss, expected)
    assert flat.cutoff > 1
    shallow = asymptotes.asymptote(decaying(2.0, nu=0.9), SGD)
    assert shallow.prediction is None
    assert "≤ 1" in shallow.reason
    unstable = asymptotes.asymptote(decaying(2.0), ss.SGD(1.9, 0.0, 1))
    assert unstable.reason == "unstable"
    assert unstable.cutoff is None


def test_tables_and_picture_of_asymptotes():
    found = {name: asymptotes.asymptote(decaying(p), SGD) for name, p in (("steep", 2.0), ("flat", 0.5))}
    frame = tables.power_laws(found)
    assert list(frame["N"]) == [500, 500]
    assert frame.loc["steep", "ν"].startswith("1.50 (")
    assert frame.loc["flat", "exponent of t"] == "–"
    assert frame.loc["flat", "law within 10%"] == found["flat"].reason
    figure = ss.plot.spectra(found)
    assert len(figure.axes) == 4
    assert figure.axes[3].get_title() == "no law"
    with pytest.raises(ss.InputError, match="at least one"):
        ss.plot.spectra({})


def test_budget_tables_are_the_comparison():
    problem = ss.QuadraticProblem.power_law(1000, 1.5, 1.0)
    result = budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 4], momentum=0.0, lr=0.05, n_steps=1000)
    compared = budgets.compare(budgets.curves(result, problem), 5)
    frame = tables.budget_losses(result, problem)
    np.testing.assert_array_equal(frame[["b = 1", "b = 4"]].values, compared.loss)
    np.testing.assert_array_equal(frame["largest / least"], compared.ratio)
    rates = tables.budget_rates(result, problem)
    lr = budgets.matched_lr(problem, [1, 4], lr=0.05, momentum=0.0)
    np.testing.assert_allclose(rates["α"], lr)
    np.testing.assert_allclose(rates["α / 2(1+β)"], np.array(lr) / 2)
    bound = [stability.max_lr(problem, ss.SGD(1.0, 0.0, b)) for b in (1, 4)]
    np.testing.assert_allclose(rates["α / largest stable"], np.array(lr) / bound, rtol=1e-6)
    assert list(rates["steps"]) == [1000, 250]


def test_final_losses_are_means_at_the_end(tiny):
    grid = ss.Grid.zip(lr=[0.3, 0.4], momentum=[0.0, 0.5], batch_size=[2, 3])
    result = ss.sweep(tiny, grid, [ss.SampledLinearized(), ss.BatchAveraged()], n_steps=20, replicates=4)
    frame = tables.final_losses(result)
    assert list(frame.index) == [(0.3, 0.0, 2), (0.4, 0.5, 3)]
    runs = result["loss"].isel(cell=1, step=-1).sel(regime="sampled").values
    assert frame["sampled"].iloc[1] == pytest.approx(runs.mean(), rel=1e-14)
    assert frame["± sampled"].iloc[1] == pytest.approx(runs.std(ddof=1) / 2, rel=1e-14)
    assert "± averaged" not in frame
    product = ss.sweep(
        tiny, ss.Grid.product(lr=[0.3], momentum=[0.0], batch_size=[2]), ss.SpectralDiagonal(), n_steps=5
    )
    assert list(tables.final_losses(product).index) == [(0.3, 0.0, 2)]


def test_recommendation_tells_the_three_limits(tiny):
    best = optimal.best(tiny, batch_size=2, horizon=50)
    frame = tables.recommendation(tiny, best, batch_size=2)
    assert frame.loc["best", "α"] == best.lr
    assert frame.loc["best", "torch lr"] == tiny.torch_lr(best.lr)
    sgd = ss.SGD(1.0, best.momentum, 2)
    assert frame.loc["best", "full-batch limit"] == stability.max_lr(tiny, sgd, "full-batch")
    assert frame.loc["best", "exact limit"] == pytest.approx(stability.max_lr(tiny, sgd, "exact"), rel=1e-3)
    assert "exact limit" not in tables.recommendation(tiny, best, batch_size=2, exact=False)


def test_verification_as_a_table(tiny):
    found = verification.verify(
        tiny, 0.3, 0.2, batch_size=2, horizon=20, regimes=[ss.SampledLinearized()], replicates=3
    )
    frame = tables.verified(found)
    assert list(frame.index) == [point.name for point in found.points]
    np.testing.assert_array_equal(frame["sampled"], found.regimes[0].mean)
    assert list(frame["sampled is"]) == ["–", *found.regimes[0].verdicts]


def test_spectrum_of_a_network_is_that_of_its_linearisation(digits_network):
    ours, theirs = (ss.plot.spectrum(one).lines for one in (digits_network, digits_network.quadratic))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())


def test_final_losses_of_a_zipped_grid_name_what_differs(tiny):
    grid = ss.Grid.zip(method=["heavy-ball", "corner:theta=1.5"], lr=[0.3, 0.2], momentum=[0.5, 0.0], batch_size=[2, 2])
    frame = tables.final_losses(ss.sweep(tiny, grid, ss.SpectralDiagonal(), 10))
    assert list(frame.index) == [("heavy-ball", 0.3, 0.5, 2), ("corner:theta=1.5", 0.2, 0.0, 2)]


def test_small_losses_are_shown_with_four_digits(tiny):
    grid = ss.Grid.product(lr=[0.3], momentum=[0.0], batch_size=[2])
    frame = tables.final_losses(ss.sweep(tiny, grid, ss.SpectralDiagonal(), n_steps=5))
    for scale in (1.0, 1e-6, 1e6):
        shown = f"{scale * frame.iloc[0, 0]:.4g}"
        assert shown in repr(scale * frame)
        assert f"<td>{shown}</td>" in (scale * frame)._repr_html_()


def test_thresholds_stand_beside_theirs_by_theory(digits_network, tiny):
    few = {"n_steps": 40, "replicates": 1, "width": 0.5}
    found = {
        "digits": [measured_stability.thresholds(digits_network, b, **few) for b in (5, 60)],
        "tiny": [measured_stability.thresholds(tiny, 2, **few)],
    }
    frame = tables.thresholds(found)
    assert list(frame.index) == [("digits", 5), ("digits", 60), ("tiny", 2)]
    for row, one in zip(frame.to_dict("records"), [*found["digits"], *found["tiny"]], strict=True):
        assert (row["full batch"], row["τ = 1"], row["τ = −1"]) == (2.0, one.diagonal[1.0], one.diagonal[-1.0])
        assert row["exact"] == one.exact
        bounded = one.measured["sampled"]["bounded"]
        assert row["sampled stays bounded"] == f"{bounded.low:.3g} … {bounded.high:.3g}"
    settles = found["digits"][1].measured["network"]["settles"]
    assert frame.loc[("digits", 60), "network settles"] == f"{settles.low:.3g} … {settles.high:.3g}"


def test_open_brackets():
    shown = [
        tables.runs._bracket(measured_stability.Bracket(*ends)) for ends in ((1.9, 2.0), (128.0, math.inf), (0, 0.5))
    ]
    assert shown == ["1.9 … 2", "> 128", "< 0.5"]


def test_training_tables_are_read_off_the_runs(digits_network):
    run = validation.train(digits_network, ss.SGD(0.5, 0.0, 10), 200, at=[20, 200], replicates=3)
    key = ("digits", 10, 40)
    ratios = tables.training_ratios({key: run}, [20, 200]).loc[key]
    for step in (20, 200):
        at = run.steps == step
        mean, error = ratios[f"t = {step}"].split(" ± ")
        assert float(mean) == pytest.approx(run.network[:, at].mean() / run.sampled[:, at].mean(), abs=5e-4)
        assert 0 < float(error) < 0.5
    assert ratios["kernel moved"] == run.kernel[-1].relative

    row = tables.exponents({key: run}, {"digits": validation.law(digits_network)}).loc[key]
    assert row["t"] == "20 … 200"
    inside = run.steps >= 20
    for name in ("diagonal", "sampled", "network"):
        curve = np.log(np.atleast_2d(getattr(run, name)).mean(0)[inside])
        slope = -np.polyfit(np.log(run.steps[inside]), curve, 1)[0]
        assert float(row[name].split(" ± ")[0]) == pytest.approx(slope, abs=5.1e-3)
    law = validation.law(digits_network).exponent
    assert row["law"].startswith("none: ") == (law.low <= 0)
    assert f"{law.value:.2f}".replace("-", "−") in row["law"]
