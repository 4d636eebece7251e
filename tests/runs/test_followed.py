"""What a result knows of its regimes."""

from dataclasses import dataclass

import sgdsim as ss
from sgdsim.runs.followed import followed
from sgdsim.studies import landscape


@dataclass(frozen=True)
class Own(ss.SampledLinearized):
    name = "own:closure=2"
    tau: float = 2.0


GRID = ss.Grid.product(lr=[0.2, 0.5], momentum=[0.0], batch_size=[3])
REGIMES = [Own(), ss.BatchAveraged(0.0), ss.SpectralDiagonal(-1 / 3), ss.SampledLinearized()]


def test_what_a_regime_is_is_stored_not_read_off_its_name(tmp_path):
    problem = ss.QuadraticProblem.power_law(12, 1.5, 1.0)
    ss.sweep(problem, GRID, REGIMES, 10, path=tmp_path / "r.nc")
    result = ss.load(tmp_path / "r.nc")
    known = followed(result)
    assert known["own:closure=2"] == ("own", True, 2.0)
    assert [regime.kind for regime in known.values()] == ["own", "averaged", "diagonal", "sampled"]
    assert [each.stochastic for each in landscape.panels(result, problem)] == [True, False, False, True]

    del result.attrs["followed"]  # as earlier versions wrote them
    assert {name: followed(result)[name] for name in list(known)[1:]} == {name: known[name] for name in list(known)[1:]}
    assert followed(result)["own:closure=2"] == ("own", False, None)
    assert [*followed(result.isel(regime=1))] == [REGIMES[1].name]
