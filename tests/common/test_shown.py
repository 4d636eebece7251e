"""Objects show themselves in a line, and as a small table."""

import html

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.shown import LINE
from sgdsim.recurrence import contour
from sgdsim.studies import comparison, landscape, recommendation
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


def test_parts_of_results_show_themselves_too(problem):
    found = recommendation.recommend(problem, ss.SGD(0.5, batch_size=10), 100)
    grid = ss.Grid.product(lr=[0.1, 0.5], momentum=[0.0, 0.5], batch_size=[10])
    runs = ss.sweep(problem, grid, ss.SpectralDiagonal(), 20)
    compared, maps = comparison.ComparedCells.of(runs, problem, grid), landscape.judged(runs, problem, ss.SGD(1.0))
    for part in (found.answer, compared.rows[0], maps.maps[0], maps.maps[0].panel):
        assert len(repr(part)) <= LINE
        assert "\n" not in repr(part)
        assert part._repr_html_().startswith("<table>")


def test_losses_at_few_steps_are_shown_and_not_their_shapes(problem):
    setting = {"lr": 0.5, "momentum": 0.5, "noise": 0.1}
    found = contour.loss_at(problem, [10, 100_000], **setting)
    assert "100000" in repr(found)
    assert f"{found.loss[1]:.6g}" in found._repr_html_()
    assert found._repr_html_().count("<tr>") == 3
    many = contour.loss_at(problem, np.arange(1, 2000), **setting)
    assert "array(1999)" in many._repr_html_()
    several = contour.loss_at(problem, [10, 100], **(setting | {"lr": np.array([0.1, 0.5])}))
    assert "array(2, 2)" in several._repr_html_()


def test_a_table_is_text_in_a_terminal(problem):
    table = recommendation.recommend(problem, ss.SGD(0.5, batch_size=10), 100).table()
    assert repr(table) == table.text()


def test_files_of_data_are_a_table():
    files = ss.datasets.status()
    assert files._repr_html_().count("<tr>") == len(files) + 1


def test_warnings_are_read_and_not_counted(digits_network):
    fit = ss.fit_power_law(digits_network.quadratic)
    assert fit.warnings
    assert all(html.escape(warning) in fit._repr_html_() for warning in fit.warnings)
