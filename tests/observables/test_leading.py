"""The share of the loss in the leading modes."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import observables
from sgdsim.common.checks import InputError
from sgdsim.observables.leading import LeadingShare
from sgdsim.problem import QuadraticProblem


def test_its_text_and_its_name_in_results():
    share = observables.parse("leading_share:k=10")
    assert share == LeadingShare(10)
    assert share.spec == "leading_share:k=10"
    assert share.variable == "leading_share_k10"
    assert share.variable.isidentifier()
    assert share.long_name == "share of the loss in the 10 leading modes"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("leading_share", "observe: leading_share: expected k=NUMBER"),
        ("leading_share:k=0", "leading_share: k: expected an integer >= 1"),
        ("leading_share:k=1.5", "leading_share: expected k=NUMBER"),
        ("leading_share:k=13", "leading_share: expected k up to the 12 eigenvalues, got 13"),
        ("leading_share:n=3", "leading_share: expected k=NUMBER"),
    ],
)
def test_bad_ones(text, words):
    with pytest.raises(InputError, match=words):
        ss.simulate(ss.QuadraticProblem.power_law(12, 1.5, 1.0), ss.SGD(0.5), ss.SpectralDiagonal(), 5, observe=text)


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()])
def test_it_is_the_share_of_the_moments_in_their_sum(regime):
    problem = ss.QuadraticProblem.power_law(12, 1.5, 0.5)
    texts = [f"leading_share:k={k}" for k in (1, 3, 12)]
    run = ss.simulate(problem, ss.SGD(0.5, 0.2, 3), regime, 40, replicates=3, observe=["moments", *texts], record=4)
    moments = run["moments"].values
    for k in (1, 3, 12):
        expected = moments[..., :k].sum(-1) / moments.sum(-1)
        np.testing.assert_allclose(run[f"leading_share_k{k}"].values, expected, rtol=1e-12)
    # training takes the leading modes first
    assert run["leading_share_k1"].values[0, 0, -1] < 0.5 * run["leading_share_k1"].values[0, 0, 0]


def test_modes_that_never_move_are_part_of_the_loss():
    problem = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5, 0.0])), np.array([1.0, 2.0, 3.0]))
    run = ss.simulate(problem, ss.SGD(0.1), ss.SpectralDiagonal(), 1, observe="leading_share:k=2")
    assert run["leading_share_k2"].values[0, 0, 0] == pytest.approx(5 / 14, rel=1e-14)


def test_multiplicity_counts_eigenvalues():
    """As if each of them stood by itself, whatever k; places of count 0 count where they stand."""
    counts = np.array([1.0, 3.0, 0.0, 2.0, 4.0])
    values = np.array([1.0, 0.5, 0.4, 0.3, 0.1])
    c = np.array([2.0, 6.0, 5.0, 3.0, 8.0])
    problem = ss.QuadraticProblem(ss.Spectrum(values, multiplicity=counts), np.sqrt(c))
    # each mode's c spread over its eigenvalues; the place of count 0 belongs to the one after it
    alone = [2.0, 2.0, 2.0, 2.0, 5.0 + 1.5, 1.5, 2.0, 2.0, 2.0, 2.0]
    for k in range(1, 11):
        told = LeadingShare(k).compute(problem, {"moments": c[None]})
        assert told[0] == pytest.approx(sum(alone[:k]) / 24.0, rel=1e-14)


def test_divergence_leaves_no_share():
    problem = ss.QuadraticProblem.power_law(12, 1.5, 1.0)
    run = ss.simulate(problem, ss.SGD(50.0), ss.SpectralDiagonal(), 100, observe="leading_share:k=2")
    assert np.isinf(run["loss"].values[0, 0, -1])
    assert np.isnan(run["leading_share_k2"].values[0, 0, -1])


def test_of_a_kernel_over_outputs_all_its_modes_count():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((12, 12))
    problem = QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal((4, 3)))
    LeadingShare(12).check(problem)
    with pytest.raises(InputError, match="up to the 12 eigenvalues"):
        LeadingShare(13).check(problem)
    moments = problem.coefficients**2
    assert LeadingShare(9).compute(problem, {"moments": moments}) == pytest.approx(moments[:9].sum() / moments.sum())
