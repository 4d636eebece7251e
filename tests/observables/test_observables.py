"""What an observable says of itself, and what the drivers make of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import observables
from sgdsim.common.checks import InputError
from sgdsim.observables import KINDS, Observable, needed, parse_all
from sgdsim.regimes import _sampled_plain

PROBLEM = ss.QuadraticProblem.power_law(12, 1.5, 1.0)
REGIMES = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()]


@dataclass(frozen=True)
class Slowest(Observable):
    """An observable of the reader's own: the second moment of the last mode, times a factor."""

    name: ClassVar[str] = "slowest"
    needs: ClassVar[tuple[str, ...]] = ("moments",)
    label: ClassVar[str] = "slowest mode"
    words: ClassVar[str] = "{times} c_N"

    times: float = 1.0

    def compute(self, problem: ss.problem.Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.times * given["moments"][..., -1]


def test_texts_and_what_they_need():
    observe = parse_all(["moments", "loss", "moments"])
    assert [item.spec for item in observe] == ["loss", "moments"]
    assert needed(observe) == ("loss", "moments")
    assert needed(parse_all("loss")) == ("loss",)  # the loss alone asks for no moments
    assert all(KINDS[name].name == name and KINDS[name].needs for name in KINDS)


@pytest.mark.parametrize(
    ("observe", "words"),
    [
        ("speed", "observe: expected names from loss, test_loss, moments"),
        ([0.5], "observe: expected names from"),
        (None, "observe: expected names from"),
        ("loss:k=3", "observe: loss: expected no arguments; got 'k=3'"),
        ([Slowest(), type("Other", (Slowest,), {"label": "other"})()], "got slowest twice"),
    ],
)
def test_what_is_no_observable(observe, words):
    with pytest.raises(InputError, match=words):
        parse_all(observe)


def test_the_loss_alone_asks_a_regime_for_no_moments(monkeypatch):
    asked = []
    run = _sampled_plain.HeavyBall
    real = run.observe
    monkeypatch.setattr(run, "observe", lambda self, what: asked.append(what) or real(self, what))
    ss.simulate(PROBLEM, ss.SGD(0.5, 0.0, 3), ss.SampledLinearized(), 5)
    assert {*asked} == {("loss",)}
    ss.simulate(PROBLEM, ss.SGD(0.5, 0.0, 3), ss.SampledLinearized(), 5, observe=[Slowest()])
    assert asked[-1] == ("loss", "moments")


@pytest.mark.parametrize("regime", REGIMES)
def test_one_of_ones_own_is_computed_saved_and_gone_on_with(regime, tmp_path):
    grid = ss.Grid.product(lr=[0.2, 0.5, 50.0], batch_size=[3])
    options = {"replicates": 2, "seed": 1, "observe": ["moments", Slowest(2.0)], "path": tmp_path / "r.nc"}
    run = ss.sweep(PROBLEM, grid, regime, 60, **options)
    expected = 2.0 * run["moments"].values[..., -1]
    np.testing.assert_array_equal(run["slowest_times2"].values, expected)
    assert run["slowest_times2"].attrs["long_name"] == "2.0 c_N"
    assert np.isinf(run["slowest_times2"].values[2, 0, 0, 0, -1])  # diverged, as the loss
    again = ss.sweep(PROBLEM, grid, regime, 60, **options)  # from the file
    np.testing.assert_array_equal(again["slowest_times2"].values, expected)
    assert observables.label("slowest_times2") == "slowest times2"


def test_a_regime_that_does_not_give_it_refuses(monkeypatch):
    monkeypatch.setattr(ss.SpectralDiagonal, "quantities", ("loss",), raising=False)
    with pytest.raises(InputError, match=r"observe: slowest is not known in the diagonal.*: it needs the moments"):
        ss.simulate(PROBLEM, ss.SGD(0.5), ss.SpectralDiagonal(), 5, observe=[Slowest()])


def test_where_the_problem_is_on_the_grid():
    """Each problem has its own modes, so there is no dim for them; a number at each step is the same for all."""
    grid = ss.Grid.product(n=[10, 20], nu=1.5, kappa=1.0, lr=0.3)
    power = ss.QuadraticProblem.power_law
    run = ss.sweep(power, grid, ss.SpectralDiagonal(), 20, observe=Slowest())
    for at, n in enumerate((10, 20)):
        alone = ss.simulate(power(n, 1.5, 1.0), ss.SGD(0.3), ss.SpectralDiagonal(), 20, observe=[Slowest()])
        np.testing.assert_array_equal(run["slowest"].values[at].ravel(), alone["slowest"].values.ravel())
    with pytest.raises(InputError, match="observe: expected a number at each step where the problem is on the grid"):
        ss.sweep(power, grid, ss.SpectralDiagonal(), 20, observe="moments")
    with pytest.warns(RuntimeWarning, match="test_loss needs a problem with test points"):
        ss.sweep(power, grid, ss.SpectralDiagonal(), 20, observe="test_loss")


def test_a_cell_that_a_regime_cannot_follow_fails_where_the_problem_is_on_the_grid():
    """Such cells were once followed as if their batches were independent."""
    grid = ss.Grid.product(n=10, nu=1.5, kappa=1.0, lr=0.3, batch_size=2, sampling="reshuffle")
    with pytest.warns(RuntimeWarning, match="no closed form for reshuffled epochs"):
        run = ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 20)
    assert np.isnan(run["loss"].values).all()


@pytest.mark.parametrize("name", ["distance", "leading_share:k=3"])
def test_what_two_quadratures_do_not_tell_is_refused(name):
    """Their nodes are no modes: the share of three leading ones was 2.5% off, without a word."""
    whole = ss.QuadraticProblem.power_law(60, 1.5, 1.0)
    problem = ss.QuadraticProblem.from_operator(whole.kernel, whole.residual, n_lanczos=15, n_probes=3)
    run = [problem, ss.SGD(0.5, 0.0, 5), ss.SpectralDiagonal(), 10]
    ss.simulate(*run)
    with pytest.raises(InputError, match="known by Lanczos quadrature alone"):
        ss.simulate(*run, observe=name)
