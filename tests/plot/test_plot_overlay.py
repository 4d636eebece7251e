"""Several cells on common axes."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sgdsim as ss
from sgdsim import plot
from sgdsim.common.checks import InputError

REGIMES = [ss.SampledLinearized(), ss.SpectralDiagonal()]


@pytest.fixture(scope="module")
def problem():
    return ss.QuadraticProblem.power_law(30, 1.5, 1.0)


def lines(ax: Axes) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [(line.get_label(), line.get_xdata(), line.get_ydata()) for line in ax.get_lines()]


@pytest.mark.parametrize("make", [ss.Grid.product, ss.Grid.zip])
def test_a_curve_for_each_value_and_its_law(problem, make):
    methods = ["heavy-ball", "nesterov"]
    others = {"lr": [0.3], "momentum": [0.5], "batch_size": [2]}
    if make is ss.Grid.zip:
        others = {name: values * 2 for name, values in others.items()}
    result = ss.sweep(problem, make(method=methods, **others), REGIMES, 200, replicates=3)
    ax = plot.overlay(result, "method", regime="sampled", exponents={"nesterov": 0.5})
    (one, t, loss), (two, _, other), (_, decade, law) = lines(ax)
    assert [one, two] == methods
    mean = result.loss.sel(regime="sampled").mean("replicate").squeeze(drop=True)
    np.testing.assert_array_equal(t, result.step.values[1:])
    np.testing.assert_allclose(loss, mean[0].values[1:])
    np.testing.assert_allclose(other, mean[1].values[1:])
    assert decade[0] == 20
    assert decade[-1] == 200
    assert np.log(law[-1] / law[0]) / np.log(10) == pytest.approx(-0.5)
    own = Figure().subplots()
    assert plot.overlay(result, "method", regime="diagonal:tau=1", ax=own) is own


def test_a_diverged_run_ends(problem):
    result = ss.sweep(problem, ss.Grid.product(lr=[0.3, 2.05], batch_size=[30]), ss.SpectralDiagonal(), 200)
    (_, t, _), (_, short, loss) = lines(plot.overlay(result, "lr"))
    assert short.size < t.size
    assert loss.max() <= 3 * problem.initial_loss


def test_what_cannot_be_drawn(problem):
    result = ss.sweep(problem, ss.Grid.product(lr=[0.3, 0.5], batch_size=[2, 3]), REGIMES, 20, replicates=2)
    with pytest.raises(InputError, match=r"^along: expected one of lr, .*got 'method'"):
        plot.overlay(result, "method", regime="sampled")
    with pytest.raises(InputError, match="several values of batch_size"):
        plot.overlay(result, "lr", regime="sampled")
    one = result.isel(batch_size=[0])
    with pytest.raises(InputError, match="as the result has several; got none"):
        plot.overlay(one, "lr")
    with pytest.raises(InputError, match=r"^regime: expected one of sampled, diagonal:tau=1"):
        plot.overlay(one, "lr", regime="network")
    many = ss.sweep(problem, ss.Grid.product(lr=np.linspace(0.1, 0.9, 9)), ss.SpectralDiagonal(), 20)
    with pytest.raises(InputError, match="lr: expected at most 8 values to draw, got 9"):
        plot.overlay(many, "lr")
