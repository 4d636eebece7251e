"""Objects show themselves in a line, and as a small table."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.shown import LINE
from sgdsim.studies import recommendation
from sgdsim.theory import optimal, power_law


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(100, 1.5, 0.5)


def shown(problem, digits_network):
    sgd = ss.SGD(0.3, 0.5, batch_size=10)
    yield from (problem, problem.spectrum, digits_network, digits_network.quadratic, digits_network.quadratic.test)
    yield from (sgd, ss.SGD(np.linspace(1, 0.1, 1000), batch_size=ss.schedules.Steps(4, 2, 50)))
    yield from (ss.SGD(lambda t: 0.5 + 0 * t, method="nesterov", average="ema:0.9"), ss.fit_power_law(problem))
    yield from (ss.networks.MLP(width=10), ss.networks.StandardMLP(width=10, batch_norm=True))
    yield power_law.predict(problem, sgd, horizon=100)
    yield optimal.best(problem, batch_size=10, horizon=100)


def test_one_line_each_and_no_address(problem, digits_network):
    for thing in shown(problem, digits_network):
        line = repr(thing)
        assert len(line) <= LINE, line
        assert line.startswith(type(thing).__name__ + "(")
        assert "\n" not in line
        assert "0x" not in line
        html = thing._repr_html_()
        assert html.startswith("<table>")
        assert len(html) < 3000


def test_what_a_line_says(problem, digits_network):
    assert repr(ss.SGD(0.5, 0.9, batch_size=10)) == "SGD(lr=0.5, momentum=0.9, batch_size=10)"
    assert repr(ss.SGD(0.5, method="nesterov", label_noise=0.1)) == "SGD(lr=0.5, method=nesterov, label_noise=0.1)"
    assert "batch_size=steps:start=4,factor=2,every=50" in repr(ss.SGD(1, 0, ss.schedules.Steps(4, 2.0, 50)))
    assert repr(problem) == "QuadraticProblem(title='power law ν = 1.5, κ = 0.5, N = 100', n=100)"
    assert "n=60, n_test=30" in repr(digits_network)
    assert repr(ss.networks.MLP(5)) == "MLP(width=5, depth=1, activation='relu', weight_std=1, bias_std=1, seed=0)"


def test_a_study_shows_its_table(problem):
    found = recommendation.recommend(problem, ss.SGD(0.5, batch_size=10), 100)
    assert found._repr_html_() == found.table()._repr_html_()
    assert len(repr(found)) <= LINE
