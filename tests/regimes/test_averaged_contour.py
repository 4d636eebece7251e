"""The averaged regime by its generating function: where it is taken, and that it is what stepping gives."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import cli
from sgdsim.common.checks import InputError


@pytest.fixture(scope="module")
def problem():
    data = ss.datasets.load("digits", n=40, n_test=20, seed=0)
    kernel, cross = ss.ntk.analytic_ntk(data.x), ss.ntk.analytic_ntk(data.x_test, data.x)
    return ss.QuadraticProblem.from_kernel(kernel, -data.y, cross_kernel=cross, test_residual=-data.y_test)


@pytest.mark.parametrize(
    "sgd", [ss.SGD(1.0, 0.0, 4), ss.SGD(0.3, 0.8, 4, label_noise=0.05), ss.SGD(0.5, 0.6, 4, method="nesterov")]
)
def test_it_is_what_stepping_gives(problem, sgd):
    options = {"record": [0, 3, 100, 700, 3000], "observe": ["test_loss"]}
    contour, recurrence = (
        ss.simulate(problem, sgd, ss.BatchAveraged(method=method), 3000, **options)
        for method in ("contour", "recurrence")
    )
    for name in ("loss", "test_loss"):
        np.testing.assert_allclose(contour[name], recurrence[name], rtol=1e-7)
    assert float(contour["error_estimate"].max()) < 1e-6


def test_auto_takes_the_cheaper_one(problem):
    sgd = ss.SGD(1.0, 0.0, 4)
    short, long = (ss.simulate(problem, sgd, ss.BatchAveraged(), n, record=[100, n]) for n in (200, 10**8))
    stepped = ss.simulate(problem, sgd, ss.BatchAveraged(method="recurrence"), 200, record=[100, 200])
    np.testing.assert_array_equal(short["loss"], stepped["loss"])
    np.testing.assert_allclose(long["loss"].sel(step=100), short["loss"].sel(step=100), rtol=1e-9)
    assert float(long["seconds"].sum()) < 3600  # so many steps of all pairs are days


def test_the_command_line_follows_it_for_a_thousand_million_steps(capsys):
    call = "simulate --dataset power_law --nu 1.5 --kappa 1 --n 30 --lr 0.3 --momentum 0.5 --batch-size 3 --n-steps 1e9"
    assert cli.main([*call.split(), "--regime", "averaged"]) == 0
    assert "1000000000 steps" in capsys.readouterr().out


def test_what_the_contour_does_not_follow_is_refused(problem):
    for sgd in (ss.SGD.jacobi(1.0, 0.5, 0.5, batch_size=4), ss.SGD(0.3, batch_size=4, average="ema:0.9")):
        with pytest.raises(InputError, match="contour needs"):
            ss.simulate(problem, sgd, ss.BatchAveraged(method="contour"), 100)
    with pytest.raises(InputError, match="method"):
        ss.BatchAveraged(method="guess")
    with pytest.raises(InputError, match="oscillate"):
        ss.simulate(problem, ss.SGD(2.5, 0.0, 40), ss.BatchAveraged(method="contour"), 10**6)


@pytest.mark.parametrize(
    ("n", "sgd", "diverges"),
    [(40, ss.SGD(2.5, 0.0, 4), True), (40, ss.SGD(1.9999, 0.0, 40), False), (1, ss.SGD(1.0, 0.0, 1), False)],
)
def test_where_nothing_dies_out_it_steps(n, sgd, diverges):
    """Beyond the full-batch threshold, just below it, and where one step leaves nothing."""
    problem = ss.QuadraticProblem(ss.Spectrum(np.ones(n)), np.ones(n), basis_seed=0)
    run = ss.simulate(problem, sgd, ss.BatchAveraged(), 20_000, record=[1, 20_000])
    assert (float(run["diverged_at"].max()) >= 0) == diverges
