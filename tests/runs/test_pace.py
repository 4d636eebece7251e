"""How long the rest of a sweep takes, with a clock of the test's own."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common import progress
from sgdsim.runs import pace
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.pace import Pace

REGIMES = (ss.SampledLinearized(), ss.RealNetwork())


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def chunk(number, regime, cells=1):
    return Chunk(number, regime, (), tuple(range(cells)))


def done(of, seconds):
    shape = (len(of.cells), 1)
    each = np.full(len(of.cells), seconds / len(of.cells))
    return Done(of.regime, np.array(of.cells), {}, np.ones(shape, np.int8), np.full(shape, -1), each)


def test_what_has_moved_counts_and_the_rest_is_as_estimated(clock):
    known = Pace(REGIMES, [2.0, 30.0], 120)
    assert known.left([4, 4]) == (None, True)  # nothing has moved: perhaps nothing ever tells
    known.tick(chunk(0, 0), 0.0, moved=False)
    clock[0] = 100.0  # compiled until now
    known.tick(chunk(0, 0), 0.25, moved=True)
    assert known.left([3.75, 4]) == (pytest.approx(3.75 * 2 + 4 * 30), False)
    clock[0] = 101.0
    known.tick(chunk(0, 0), 0.5, moved=True)  # a quarter in a second
    assert known.left([3.5, 4]) == (pytest.approx(3.5 * 4 + 4 * 30), False)
    known.add(chunk(0, 0), done(chunk(0, 0), 3.0))
    assert known.left([3, 4]) == (pytest.approx(3 * 3 + 4 * 30), False)
    assert known.left([3, 0]) == (pytest.approx(3 * 3), True)


@pytest.mark.parametrize(("recorded", "seconds"), [(120, 1.0), (100_000, 6.0)])
def test_a_few_recorded_steps_are_no_part_of_the_pace(clock, recorded, seconds):
    known = Pace(REGIMES, [2.0, 30.0], recorded)
    known.tick(chunk(0, 0), 0.25, moved=True)
    clock[0] = 5.0  # recorded until now
    known.tick(chunk(0, 0), 0.25, moved=False)
    clock[0] = 6.0
    known.tick(chunk(0, 0), 0.5, moved=True)
    assert known.left([0.25, 0]) == (pytest.approx(seconds), True)


def test_chunks_side_by_side_share_the_time_but_not_with_networks(clock):
    known = Pace(REGIMES, [2.0, 30.0], 120)
    for number in range(2):
        known.tick(chunk(number, 0), 0.1, moved=True)
    assert known.left([4, 2])[0] == pytest.approx(4 * 2 / 2 + 2 * 30)


def test_a_single_run_counts_steps(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "LONGEST", 0.0)
    ss.simulate(tiny, ss.SGD(0.5, batch_size=2), ss.SampledLinearized(), 1000, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "sampled: 1,000 of 1,000 steps, about 0 s left"


def test_sweeps_count_cells_and_say_what_long_work_is(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "PACE", 0.0)
    monkeypatch.setattr(progress, "LONG", -1.0)
    grid = ss.Grid.product(lr=[0.1, 0.2, 0.3], batch_size=[2])
    regimes = [ss.SampledLinearized(), ss.BatchAveraged()]
    ss.sweep(tiny, grid, regimes, 1000, progress=True, executor="serial")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("about")
    assert line.endswith(": 3 cells × 2 regimes × 1,000 steps; Ctrl-C keeps what is done")
