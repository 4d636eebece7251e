"""`sgdsim budget`: matched learning rates, equal budgets, and where theory expects the budget alone to count."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import plot
from sgdsim.algorithm.sgd import noise_factor
from sgdsim.problem.fits import Estimate
from sgdsim.regimes import SampledLinearized, SpectralDiagonal, _sampled_plain
from sgdsim.studies import budgets
from sgdsim.theory import power_law, stability

POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "0.5", "--n", "400"]


@pytest.fixture(scope="module")
def problem():
    return ss.QuadraticProblem.power_law(400, 1.5, 0.5)


def test_learning_rates_have_equal_noise(problem):
    sizes = [1, 10, 100]
    noise = noise_factor(problem.n, np.array(sizes))
    rates = np.array(budgets.matched_lr(problem, sizes, lr=0.02))
    np.testing.assert_allclose(rates * noise, 0.02, rtol=1e-10)
    with_replacement = budgets.matched_lr(problem, sizes, lr=0.02, sampling="with-replacement")
    np.testing.assert_allclose(with_replacement, [0.02, 0.2, 2.0], rtol=1e-10)
    chosen = budgets.matched_lr(problem, sizes, momentum=0.5)
    bounds = stability.diagonal_max_lr(problem, momentum=0.5, noise=noise)
    assert np.max(chosen / bounds) == pytest.approx(0.5, rel=0.01)


def test_runs_are_those_of_simulate(problem):
    result = budgets.run(problem, SpectralDiagonal(), batch_sizes=[20, 5], lr=0.1, momentum=0.5, n_steps=200)
    small, large = budgets.curves(result, problem)
    assert (small.batch_size, large.batch_size) == (5, 20)
    assert (small.steps[-1], large.steps[-1]) == (200, 50)
    alone = ss.simulate(problem, ss.SGD(large.lr, 0.5, 20), SpectralDiagonal(), 50)
    assert np.array_equal(large.loss, alone["loss"].values[0, 0, 1:])
    call = json.loads(result.attrs["call"])
    assert (call["n_steps"], call["grid"]["batch_size"]) == ([200, 50], [5, 20])


def test_signal_dominated_loss_depends_on_the_budget(problem):
    """ζ = 1/3: at late times, with α ≪ 2(1+β), runs with an eightfold batch lie on one curve over t/γ."""
    result = budgets.run(problem, SpectralDiagonal(), batch_sizes=[1, 2, 4, 8], lr=0.005, momentum=0.5, n_steps=80_000)
    found = budgets.compare(budgets.curves(result, problem))
    assert found.ratio_by_noise[-3:].max() < 1.03
    unmatched = [
        float(ss.simulate(problem, ss.SGD(0.005, 0.5, b), SpectralDiagonal(), 80_000 // b)["loss"].values[0, 0, -1])
        for b in (1, 8)
    ]
    assert unmatched[1] / unmatched[0] > 1.5


def test_noise_dominated_loss_does_not():
    problem = ss.QuadraticProblem.power_law(2000, 1.5, 4.0)
    result = budgets.run(problem, SpectralDiagonal(), batch_sizes=[1, 16], n_steps=50_000)
    found = budgets.compare(budgets.curves(result, problem))
    assert found.ratio[-1] > 5
    assert found.loss[-1, 1] > found.loss[-1, 0]


def test_small_steps_make_even_noise_depend_on_the_budget():
    """Where every mode is slow, all that counts is γα_eff and α_eff·t, in the noise-dominated phase as well."""
    problem = ss.QuadraticProblem.power_law(2000, 1.5, 4.0)
    result = budgets.run(problem, SpectralDiagonal(), batch_sizes=[1, 4], lr=0.002, momentum=0.0, n_steps=1_000_000)
    assert budgets.compare(budgets.curves(result, problem)).ratio_by_noise[-1] < 1.03


def test_replicates_are_averaged(problem):
    result = budgets.run(problem, SampledLinearized(), batch_sizes=[4, 8], lr=0.1, n_steps=40, replicates=3)
    first = budgets.curves(result, problem)[0]
    alone = ss.simulate(problem, ss.SGD(0.1, 0.9, 4), SampledLinearized(), 40, replicates=3)
    np.testing.assert_allclose(first.loss, alone["loss"].values[0].mean(0)[1:], rtol=1e-14)


def test_losses_between_recorded_steps():
    t = np.array([1.0, 10.0, 100.0])
    curve = budgets.Curve(1, 0.1, 1.0, t, 3 * t**-0.5)
    np.testing.assert_allclose(curve.at(np.array([1.0, 5.0, 77.0, 100.0])), 3 / np.sqrt([1, 5, 77, 100]))
    assert np.isnan(curve.at(np.array([0.5, 101.0]))).all()
    gone = budgets.Curve(1, 0.1, 1.0, t, np.array([1.0, 2.0, np.inf]))
    assert np.isnan(gone.at(np.array([50.0])))[0]


def test_command(run):
    words = ["budget", *POWER, "--batch-size", "1", "4", "--n-steps", "2000"]
    document = json.loads(run(*words, "--json", "--out", "b.nc", "--plot", "b.png"))
    assert [entry["batch_size"] for entry in document["runs"]] == [1, 4]
    assert document["law"]["phase"] == "signal-dominated"
    last = document["rows"][-1]
    assert last["budget"] == pytest.approx(2000)
    assert last["ratio"] == pytest.approx(max(last["loss"]) / min(last["loss"]))
    assert last["loss"][1] == pytest.approx(document["runs"][1]["final_loss"])
    stored = ss.load("b.nc")
    assert stored["batch_size"].values.tolist() == [1, 4]
    assert Path("b.png").read_bytes()[:4] == b"\x89PNG"
    text = run(*words)
    assert "loss at equal budget" in text
    assert "signal-dominated" in text


def test_diverged_runs_are_told(run):
    words = ["budget", *POWER, "--batch-size", "1", "100", "--n-steps", "100000", "--lr", "0.2", "--momentum", "0"]
    document = json.loads(run(*words, "--json", "--plot", "b.png"))
    assert [entry["diverged"] for entry in document["runs"]] == [False, True]
    assert document["rows"][-1]["loss"][1] is None
    assert document["rows"][-1]["ratio"] is None
    text = run(*words)
    assert "diverged" in text
    assert "lr at batch 100 is above the largest stable one" in text


def test_ctrl_c_keeps_what_was_done(run, monkeypatch):
    """Interrupted in the second batch size: the first is there, the third is not."""
    advance = _sampled_plain.HeavyBall.advance

    def stop(cell, start, end):
        if cell.sgd.batch_size == 2:
            raise KeyboardInterrupt
        advance(cell, start, end)

    monkeypatch.setattr(_sampled_plain.HeavyBall, "advance", stop)
    words = ["budget", *POWER, "--batch-size", "1", "2", "4", "--n-steps", "100", "--regime", "sampled"]
    document = json.loads(run(*words, "--json", "--out", "b.nc", "--plot", "b.png", code=130))
    assert document["interrupted"]
    assert [entry["batch_size"] for entry in document["runs"]] == [1, 2]
    assert document["runs"][0]["final_loss"] > 0
    assert document["rows"][-1]["ratio"] is None
    assert ss.load("b.nc").attrs["interrupted"] == 1
    assert "Interrupted" in run(*words, code=130)


def test_picture_has_both_axes(problem):
    result = budgets.run(problem, SpectralDiagonal(), batch_sizes=[1, 10], n_steps=1000)
    left, right = plot.budget_curves(result, problem).axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("SGD step t", "budget t·b")
    assert [line.get_xdata()[-1] for line in left.lines] == [1000, 100]
    assert [line.get_xdata()[-1] for line in right.lines] == [1000, 1000]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--batch-size", "4"], "batch_size: expected at least two different sizes, got 4"),
        (["--batch-size", "4", "4"], "batch_size: expected at least two different sizes, got 4, 4"),
        (["--batch-size", "4", "400"], "batch_size: expected sizes below N = 400"),
        (["--batch-size", "4", "401"], "batch_size: expected values from 1 to 400"),
        (["--batch-size", "0", "4"], "batch_size: expected an integer >= 1"),
        (["--lr", "0"], "lr: expected a number > 0"),
        (["--lr", "nan"], "lr: expected a finite number"),
        (["--momentum", "1"], "momentum: expected a finite number"),
        (["--n-steps", "100"], "n_steps: expected at least 640"),
        (["--n-steps", "0"], "n_steps: expected an integer >= 1"),
        (["--replicates", "0"], "replicates: expected an integer >= 1"),
        (["--regime", "typical"], "regime: expected network"),
        (["--out", "nowhere/b.nc"], "nowhere/b.nc"),
        (["--plot", "b.txt"], "b.txt"),
    ],
)
def test_bad_input_is_one_line(run, words, told):
    assert told in run("budget", *POWER, *words, code=2)


def test_in_the_noise_dominated_phase_the_budget_alone_counts_without_momentum(run):
    """α_eff Ṽ(1) does not depend on α while αλ ≪ (1 − β)²; with momentum 0.9 that range is a hundred times smaller."""
    problem = ss.QuadraticProblem.power_law(10_000, 1.5, 4.0)
    at = {"batch_sizes": [1, 4, 16], "lr": 0.005, "n_steps": 50_000}
    last = {}
    for momentum in (0.0, 0.9):
        result = budgets.run(problem, ss.SpectralDiagonal(), momentum=momentum, **at)
        last[momentum] = budgets.compare(budgets.curves(result, problem)).ratio[-1]
    assert last[0.0] < 1.05
    assert last[0.9] > 4
    words = [
        "budget",
        "--dataset",
        "power_law",
        "--nu",
        "1.5",
        "--n",
        "200",
        "--batch-size",
        "1",
        "4",
        "--n-steps",
        "500",
    ]
    told = run(*words, "--kappa", "4")
    assert (
        "noise-dominated; there the budget alone counts at late times, for lr far below 2(1 + momentum) and (1" in told
    )
    assert "lr far below 2(1 + momentum)\n" in run(*words, "--kappa", "1")


def test_a_fitted_phase_comes_with_its_intervals_and_doubts():
    """Of noisy errors near the border of the phases: what the intervals hold is said beside what their middle says."""
    k, draw = np.arange(1, 121), np.random.default_rng(0)
    problem = ss.QuadraticProblem(ss.Spectrum(k**-1.4), np.sqrt(k**-2.8) * draw.normal(size=120))
    data = budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 4], lr=0.05, momentum=0.5, n_steps=50)
    found = budgets.BudgetRuns.of(data, problem)
    assert found.fit is not None
    law, doubt = found.notes()[:2]
    assert re.match(r"nu = 1\.\d+ \(1\.\d to 1\.\d\), zeta = [\d.]+ \([\d.]+ to [\d.]+\): \w+-dominated", law)
    others = {"signal-dominated", "noise-dominated"} - {found.phase}
    assert doubt == f"within these intervals it may be {others.pop()} as well"


def test_a_known_phase_has_no_doubts():
    problem = ss.QuadraticProblem.power_law(100, 1.5, 1.0)
    data = budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 4], lr=0.02, momentum=0.5, n_steps=50)
    assert budgets.BudgetRuns.of(data, problem).notes()[0].startswith("nu = 1.5, zeta = 0.667: signal-dominated; there")


def test_phases_over_the_intervals_of_a_fit():
    """By asking each corner, and the border between them."""
    fit = ss.fit_power_law(ss.QuadraticProblem.power_law(100, 1.5, 1.0))
    cases = {
        ((1.4, 1.6), (0.5, 0.6)): ("signal-dominated",),
        ((1.4, 1.6), (-0.1, 0.6)): ("signal-dominated",),
        ((1.4, 1.6), (1.2, 1.5)): ("signal-dominated", "noise-dominated"),
        ((0.9, 1.6), (0.5, 0.6)): ("signal-dominated", "eventual divergence"),
        ((1.4, 1.6), (-0.6, -0.1)): (),
    }
    for (nu, zeta), expected in cases.items():
        one = replace(fit, nu=Estimate(1.0, *nu), zeta=Estimate(1.0, *zeta))
        assert set(power_law.possible_phases(one)) == set(expected)
