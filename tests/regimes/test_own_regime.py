"""A regime and a kind of problem of the reader's own: what each needs, and that every driver takes them."""

from dataclasses import dataclass

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common import memory
from sgdsim.common.checks import InputError
from sgdsim.plot import regime_style
from sgdsim.problem import Problem
from sgdsim.regimes import Regime, Run, names
from sgdsim.studies import comparison


class Flow(Run):
    """`dr/dt = −αK̂r` without momentum or noise: moments shrink like `exp(−2αλ_k t)`."""

    def __init__(self, problem, lr):
        self.problem, self.lr, self.now = problem, lr, 0

    def advance(self, start, stop):
        self.now = stop

    def observe(self, what):
        moments = self.problem.coefficients**2 * np.exp(-2 * self.lr * self.problem.eigenvalues * self.now)
        return {"loss": np.array([moments.sum() / (2 * self.problem.n)]), "moments": moments[None]}


@dataclass(frozen=True)
class GradientFlow(Regime):
    stochastic, needs_basis, name = False, False, "flow"

    def start(self, problem, sgd, **_):
        return Flow(problem.quadratic, sgd.lr)


class Circulant(Problem):
    """Points on a circle, with a kernel `exp(−distance)`."""

    def __init__(self, n):
        away = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        kernel = np.exp(-np.minimum(away, n - away))
        self.quadratic = ss.QuadraticProblem.from_kernel(kernel, np.cos(np.arange(n)))


@pytest.fixture
def circle():
    return Circulant(12)


GRID = ss.Grid.product(lr=[0.01, 0.02, 0.5], batch_size=[3])


def test_a_regime_of_ones_own_is_simulated(circle):
    """At small α the flow is full-batch descent."""
    run = ss.simulate(circle, ss.SGD(0.001, 0.0, 12), GradientFlow(), 1000, observe=["loss", "moments"])
    descent = ss.simulate(circle, ss.SGD(0.001, 0.0, 12), ss.SpectralDiagonal(), 1000, observe=["loss", "moments"])
    np.testing.assert_allclose(run["loss"].values, descent["loss"].values, rtol=2e-3)
    assert run["moments"].dims == descent["moments"].dims


def test_a_regime_of_ones_own_is_swept_beside_others_and_goes_on(circle, tmp_path):
    """Ctrl-C in its second cell: the same call does the cells that are missing, and those alone."""
    asked = []

    class Counted(Flow):
        def advance(self, start, stop):
            asked.append(self.lr)
            if len(asked) == 2:
                raise KeyboardInterrupt
            super().advance(start, stop)

    @dataclass(frozen=True)
    class CountedFlow(GradientFlow):
        interrupt: bool = False

        def start(self, problem, sgd, **_):
            return Counted(problem.quadratic, sgd.lr)

    how = {"n_steps": 5, "record": [5], "executor": "serial", "path": tmp_path / "own.nc"}
    regimes = [CountedFlow(), ss.SpectralDiagonal(), ss.SampledLinearized()]
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = ss.sweep(circle, GRID, regimes, **how)
    assert partial["done"].sel(regime="flow").values.ravel().tolist() == [True, False, False]
    whole = ss.sweep(circle, GRID, regimes, **how)
    assert asked == [0.01, 0.02, 0.02, 0.5]
    assert whole["done"].values.all()
    np.testing.assert_array_equal(whole["loss"], ss.sweep(circle, GRID, regimes, n_steps=5, record=[5])["loss"])
    np.testing.assert_array_equal(whole["loss"], ss.load(tmp_path / "own.nc")["loss"])
    for i, row in enumerate(comparison.ComparedCells.of(whole, circle, GRID).rows):  # what compare tells
        assert row.regimes["flow"]["final_loss"] == whole["loss"].sel(regime="flow", step=5).values.ravel()[i]


def test_a_regime_of_ones_own_is_typed_and_drawn_as_it_registers(monkeypatch):
    by_name = regime_style("flow")
    own = names.Registered(lambda: GradientFlow, looks={"flow": names.Look("red", (5, 1), 3.0)})
    monkeypatch.setitem(names.REGIMES, "flow", own)
    assert names.parse("flow") == GradientFlow()
    look = {"color": "red", "linestyle": (0, (5, 1)), "linewidth": 3.0, "label": "flow"}
    assert regime_style("flow") == look != by_name
    monkeypatch.setitem(names.REGIMES, "flow", names.Registered(lambda: GradientFlow))
    assert regime_style("flow") == by_name


def test_a_regime_written_for_the_release_before_runs_with_a_warning(circle):
    """It holds no `Run`: its methods are handed a state."""

    @dataclass(frozen=True)
    class Older(Regime):
        stochastic, needs_basis, name = False, False, "older"

        def init(self, problem, sgd, *, replicates, seed, test):
            return {"run": Flow(problem.quadratic, sgd.lr)}

        def advance(self, state, start, stop):
            state["run"].advance(start, stop)

        def observe(self, state, what):
            return state["run"].observe(what)

    sgd = ss.SGD(0.1, 0.0, 12)
    with pytest.warns(DeprecationWarning, match=r"the older regime: init, .* are now a `Run` that `start` returns"):
        older = ss.simulate(circle, sgd, Older(), 10)
    np.testing.assert_array_equal(older["loss"], ss.simulate(circle, sgd, GradientFlow(), 10)["loss"])


@pytest.mark.parametrize(
    ("sgd", "words"),
    [
        (ss.SGD(0.1, method="adam"), "method: adam is not linear in the gradient, and the flow regime"),
        (ss.SGD(0.1, batch_size=3, sampling="one-pass"), "sampling: the flow regime has a fixed set of points"),
        (ss.SGD(0.1, batch_size=3, sampling="reshuffle"), "sampling: the flow regime has no closed form"),
    ],
)
def test_a_regime_of_ones_own_refuses_what_it_does_not_say_it_follows(circle, sgd, words):
    with pytest.raises(InputError, match=words):
        ss.simulate(circle, sgd, GradientFlow(), 5)


def test_a_regime_that_estimates_nothing_is_never_refused(circle, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1e6)
    ss.simulate(circle, ss.SGD(0.1, 0.0, 12), GradientFlow(), 10**15, record=[10])


def test_a_problem_of_ones_own_has_what_its_quadratic_one_has(circle):
    assert (circle.n, circle.n_modes, circle.n_parameters, circle.device) == (12, 12, 0, "cpu")
    assert (circle.has_network, circle.has_test, circle.targets) == (False, False, None)
    assert circle.has_every_eigenvalue
    assert circle.fingerprint == circle.quadratic.fingerprint
    for regime in (ss.SampledLinearized(), ss.BatchAveraged(tolerance=0), ss.SpectralDiagonal()):
        own, plain = (ss.simulate(p, ss.SGD(0.3, 0.5, 3), regime, 50)["loss"] for p in (circle, circle.quadratic))
        np.testing.assert_array_equal(own, plain)
    with pytest.raises(InputError, match="network needs a NetworkProblem"):
        ss.simulate(circle, ss.SGD(0.3), ss.regimes.parse("network"), 5)
    with pytest.raises(InputError, match="adam needs the parameters of a network"):
        ss.simulate(circle, ss.SGD(0.3, method="adam"), ss.SampledLinearized(), 5)
