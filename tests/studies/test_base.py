"""What every study's result offers."""

import json

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sgdsim as ss
import sgdsim.plot  # enters its drawers
from sgdsim.common.checks import InputError
from sgdsim.studies import (
    asymptotes,
    batch_sizes,
    budgets,
    comparison,
    method_recommendation,
    phase_maps,
    recommendation,
    verification,
)
from sgdsim.studies.base import DRAWERS, Findings

RESULTS = {
    "exponents": lambda: phase_maps.exponents([1.5, 2.0], [1.0], n=300, window=(10, 100), lr=0.3),
    "local": lambda: phase_maps.local_exponents(1.5, [1.0, 2.0], n=300, last=100, lr=0.3),
    "momentum": lambda: phase_maps.momentum_map([1.5], [1.0, 3.0], n=50, horizon=100),
    "clamped": lambda: phase_maps.clamped_momentum(1.5, 1.0, [1e-2], [100.0, 300.0], n=50),
    "asymptote": lambda: asymptotes.asymptote(ss.QuadraticProblem.power_law(300, 1.5, 1.0), ss.SGD(0.5)),
    "recommendation": lambda: recommendation.recommend(ss.QuadraticProblem.power_law(20, 1.5, 1.0), ss.SGD(1.0), 20),
    "method": lambda: method_recommendation.recommend(
        ss.QuadraticProblem.power_law(20, 1.5, 1.0), ss.SGD(1.0, batch_size=2, average="ema:0.9"), 20
    ),
    "comparison": lambda: comparison.ComparedCells.of(
        ss.sweep(problem := ss.QuadraticProblem.power_law(20, 1.5, 1.0), grid := ss.Grid.product(lr=[0.5, 9.0]),
                 [ss.SampledLinearized(), ss.SpectralDiagonal()], 20, replicates=2), problem, grid,
    ),
    "verification": lambda: verification.verify(
        ss.QuadraticProblem.power_law(20, 1.5, 1.0), 0.3, 0.0, batch_size=2, horizon=20,
        regimes=[ss.SampledLinearized()], replicates=3,
    ),
    "batch sizes": lambda: batch_sizes.batch_sizes(ss.QuadraticProblem.power_law(20, 1.5, 1.0), [1, 4, 16]),
    "budgets": lambda: budgets.BudgetRuns.of(
        budgets.run(problem := ss.QuadraticProblem.power_law(60, 1.5, 1.0), ss.SpectralDiagonal(),
                    batch_sizes=[1, 4], n_steps=200), problem,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=RESULTS)
def found(request) -> Findings:
    return RESULTS[request.param]()


def test_a_result_is_a_dict_and_a_table(found):
    json.dumps(found.as_dict(), allow_nan=False)
    table = found.table()
    assert len(table.text().splitlines()) == 2 + len(table.rows)
    assert table.markdown().count("\n") == 1 + len(table.rows)
    assert table._repr_html_().count("<tr>") == 1 + len(table.rows)
    frame = table.frame()
    assert list(frame.columns) == list(table.headers)
    for name in frame.select_dtypes("number"):
        column = [row[table.headers.index(name)] for row in table.rows]
        np.testing.assert_array_equal(frame[name], [np.nan if cell is None else cell for cell in column])


def test_a_result_draws_itself_where_it_has_a_picture(found):
    if type(found).__name__ in DRAWERS:
        assert isinstance(found.plot(), Figure | Axes)
    else:
        with pytest.raises(InputError, match=f"got {type(found).__name__}; use its table"):
            found.plot()
    assert {"ExponentMap", "MomentumMap"} <= set(DRAWERS)
