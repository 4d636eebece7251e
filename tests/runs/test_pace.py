"""How long the rest of a sweep takes, with a clock of the test's own."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common import progress
from sgdsim.runs import pace
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.estimates import Cost
from sgdsim.runs.pace import Pace

REGIMES = (ss.SampledLinearized(), ss.RealNetwork())


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def chunk(number, regime, cells=1):
    return Chunk(number, regime, (), tuple(range(cells)))


def costs(*seconds):
    return [Cost(each, True) for each in seconds]


def done(of, seconds):
    shape = (len(of.cells), 1)
    each = np.full(len(of.cells), seconds / len(of.cells))
    return Done(of.regime, np.array(of.cells), {}, np.ones(shape, np.int8), np.full(shape, -1), each)


def moves(clock, known, of, parts, seconds, begin=0.0):
    """So many equal parts of the chunk's cell, each of which takes so long."""
    for part in range(1, parts + 1):
        clock[0] += seconds
        known.tick(of, begin + (1 - begin) * part / parts, moved=True)


def test_a_regime_goes_by_its_own_pace_once_that_has_settled(clock):
    known = Pace(REGIMES, costs(2.0, 30.0), 120)
    known.tick(chunk(0, 0), 0.0, moved=False)
    clock[0] = 100.0  # compiled until now
    moves(clock, known, chunk(0, 0), 101, 0.03)
    assert known.left([9, 0]) == (pytest.approx(9 * 3.03, rel=0.02), True)
    assert known.left([19, 1]) == (pytest.approx(19 * 3.03 + 30, rel=0.02), False)
    assert known.left([1, 4]) == (None, False)  # by far the most would be a guess
    known.add(chunk(0, 0), done(chunk(0, 0), 103.0))  # with what it had compiled
    assert known.left([9, 0]) == (pytest.approx(9 * 3.03, rel=0.02), True)


def test_nothing_is_known_before_anything_was_seen(clock):
    known = Pace(REGIMES, costs(2.0, 30.0), 120)
    assert known.left([4, 4]) == (None, False)
    known.tick(chunk(0, 1), 0.001, moved=True)
    clock[0] = 6.3  # a first step that compiles: of all thousand it would be hours
    known.tick(chunk(0, 1), 0.002, moved=True)
    assert known.left([0, 1.998]) == (None, False)


def test_cells_that_cost_differently_are_guessed(clock):
    known = Pace(REGIMES, [Cost(2.0, False), Cost(2.0, True)], 120)
    moves(clock, known, chunk(0, 0), 100, 0.03)
    assert known.left([3, 0]) == (pytest.approx(9, rel=0.05), False)


@pytest.mark.parametrize(("recorded", "seconds"), [(120, 3.0), (100_000, 6.0)])
def test_a_few_recorded_steps_are_no_part_of_the_pace(clock, recorded, seconds):
    known = Pace(REGIMES, costs(2.0, 30.0), recorded)
    for part in range(101):
        clock[0] += 0.03
        known.tick(chunk(0, 0), part / 100, moved=False)
        clock[0] += 0.03
        known.tick(chunk(0, 0), (part + 1) / 100, moved=True)
    assert known.left([1, 0]) == (pytest.approx(seconds, rel=0.02), True)


def test_chunks_side_by_side_share_the_time_but_not_with_networks(clock):
    known = Pace(REGIMES, costs(2.0, 2.5), 120)
    for part in range(101):
        clock[0] += 0.03
        for number in range(2):
            known.tick(chunk(number, 0), part / 100, moved=True)
    assert known.left([4, 0])[0] == pytest.approx(4 * 3 / 2, rel=0.02)
    assert known.left([4, 2])[0] == pytest.approx(4 * 3 / 2 + 2 * 2.5, rel=0.02)


def test_workers_that_only_tell_what_is_done(clock):
    """Two at a time, by their seconds and the time passed."""
    known = Pace(REGIMES, costs(2.0, 30.0), 120)
    for number in range(20):
        clock[0] += 0.5
        known.add(chunk(number, 1), done(chunk(number, 1), 1.0))
    assert known.left([0, 10]) == (pytest.approx(5.0, rel=0.05), False)
    assert known.left([5, 10]) == (pytest.approx(10.0, rel=0.05), False)


def test_a_single_run_counts_steps(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "LONGEST", 0.0)
    ss.simulate(tiny, ss.SGD(0.5, batch_size=2), ss.SampledLinearized(), 1000, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("sampled: 1,000 of 1,000 steps, ")
    assert lines[-1].endswith(" so far")


def test_sweeps_count_the_cells_of_each_regime(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "LONGEST", 0.0)
    monkeypatch.setattr("sgdsim.runs.progress._SOON", 0.0)
    grid = ss.Grid.product(lr=[0.1, 0.2, 0.3], batch_size=[2])
    regimes = [ss.SampledLinearized(), ss.BatchAveraged()]
    ss.sweep(tiny, grid, regimes, 1000, progress=True, executor="serial")
    lines = capsys.readouterr().err.splitlines()
    assert all(" of 6" not in line for line in lines)
    assert any(line.startswith("sampled 1 of 3, averaged 0 of 3 cells, ") for line in lines)
    assert any(line.startswith("averaged 2 of 3 cells, ") for line in lines)
    assert lines[-1].startswith("3 cells done, ")


def test_sweeps_say_what_long_work_is(tiny, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 60.0)
    monkeypatch.setattr("sgdsim.runs.progress.Pace.left", lambda self, cells: (600.0, True))
    grid = ss.Grid.product(lr=[0.1, 0.2, 0.3], batch_size=[2])
    regimes = [ss.SampledLinearized(), ss.BatchAveraged()]
    ss.sweep(tiny, grid, regimes, 1000, progress=True, executor="serial")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "about 10 minutes: 3 cells × 2 regimes × 1,000 steps; Ctrl-C keeps what is done"
