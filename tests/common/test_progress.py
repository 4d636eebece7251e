"""Plain lines without a terminal, bars on one, and the line about long work: with a clock of the test's own."""

import io
import sys

import pytest
import tqdm

from sgdsim.common import progress
from sgdsim.common.progress import Bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets: `clock[0]`."""
    monkeypatch.setattr(progress, "FIRST", 10.0)
    monkeypatch.setattr(progress, "LONG", 60.0)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def run(clock, capsys):
    """What a bar says while each second takes `pace` of its count, with the second."""

    def run(seconds, pace, **options):
        said = []
        with Bar(True, "sampled", **options) as bar:
            for second in range(1, seconds + 1):
                clock[0] = float(second)
                bar.update(pace)
                said += [(second, line) for line in capsys.readouterr().err.splitlines()]
        return said

    return run


def test_lines_come_at_growing_intervals(run):
    said = run(80, 125, total=10_000)
    assert said == [
        (10, "sampled: 1,250 of 10,000 steps, about 1.2 minutes left"),
        (30, "sampled: 3,750 of 10,000 steps, about 50 s left"),
        (70, "sampled: 8,750 of 10,000 steps, about 10 s left"),
    ]


def test_short_work_says_nothing(run):
    assert run(9, 1, total=9, work="9 steps") == []


def test_a_minute_and_more_is_told_once_at_the_start(run):
    said = run(9, 10, total=2400, work="3 regimes × 800 steps")
    assert said == [(3, "about 4 minutes: 3 regimes × 800 steps; Ctrl-C keeps what is done")]


def test_compiling_does_not_count_for_the_pace(clock, capsys):
    with Bar(True, "sampled", 100, work="100 steps") as bar:
        for second in (20.0, 21.0, 22.0, 23.0, 24.0, 50.0):  # 20 seconds until the first step
            clock[0] = second
            bar.update(10)
    assert capsys.readouterr().err.splitlines() == [
        "sampled: 10 of 100 steps, 20 s so far",
        "sampled: 60 of 100 steps, 50 s so far",  # the pace is another by now
    ]


def test_a_slow_step_among_the_first_is_not_carried_over(clock, capsys):
    """The demo said 3.5 hours: one of the first thousandths of a cell took seconds."""
    with Bar(True, "network", 1000, work="1,000 steps") as bar:
        for step in range(1, 1001):
            clock[0] += 8.0 if step == 2 else 0.04
            bar.update()
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("of 1,000 steps, 10 s so far")
    assert not any("about" in line or "Ctrl-C" in line for line in said)


def test_long_work_that_is_nearly_done_is_not_told(clock, capsys):
    with Bar(True, "network", 10, work="10 cells", paced=False) as bar:
        for second, left in ((10.0, None), (55.0, 8.0)):
            clock[0] = second
            bar.at(second / 10, left=left)
    assert "Ctrl-C" not in capsys.readouterr().err


def test_the_caller_may_know_better_how_long_the_rest_takes(clock, capsys):
    with Bar(True, "network", 10, unit="cell", work="10 cells") as bar:
        for second, left in ((1.0, None), (3.0, 600.0)):
            clock[0] = second
            bar.at(second, left=left)
    assert capsys.readouterr().err == "about 10 minutes: 10 cells; Ctrl-C keeps what is done\n"


def test_a_guess_is_told_as_one_and_once_more_when_it_is_none(clock, capsys):
    with Bar(True, "network", 10, unit="cell", work="10 cells") as bar:
        for second, sure in ((3.0, False), (5.0, False), (7.0, True), (8.0, True)):
            clock[0] = second
            bar.at(second, left=100.0 * second, sure=sure)
    assert capsys.readouterr().err.splitlines() == [
        "perhaps 5 minutes: 10 cells; Ctrl-C keeps what is done",
        "about 12 minutes: 10 cells; Ctrl-C keeps what is done",
    ]


def test_without_a_total(run):
    assert run(10, 2, unit="setting") == [(10, "sampled: 20 settings, 10 s so far")]


def test_a_round_that_is_no_known_part(run):
    assert run(10, 0, total=1, unit="threshold", work="1 exact threshold") == [
        (10, "sampled: 0 of 1 thresholds, 10 s so far")
    ]


def test_what_is_not_shown_says_nothing(clock, capsys):
    with Bar(False, "sampled", 10, work="10 steps") as bar:
        for second in range(100):
            clock[0] = second
            bar.update(0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_standard_error_that_is_gone(clock, monkeypatch, stream):
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(True, "sampled", 10, work="10 steps") as bar:
        for second in range(100):
            clock[0] = float(second)
            bar.update(0.1)
    assert bar.n == pytest.approx(10)


@pytest.mark.parametrize("total", [None, 5])
def test_bars_have_one_colon(monkeypatch, total):
    """tqdm adds one to what `set_description` was given, and without a total a second one: "sampled: : 2run"."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(True, total=total, unit="run") as bar:
        bar.describe("b = 10, sampled")
        bar.update(2)
        bar.describe("b = 10, network")
    assert "b = 10, sampled: " in terminal.getvalue()
    assert ": :" not in terminal.getvalue()


def test_the_line_about_long_work_leaves_the_bar_alone(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(True, "sampled", 1000, work="1,000 steps") as bar:
        for second in (1.0, 2.0, 3.0, 4.0, 20.0):
            clock[0] = second
            bar.update(1)
    shown = terminal.getvalue()
    assert shown.count("about 17 minutes: 1,000 steps; Ctrl-C keeps what is done\n") == 1
    assert "about 33" not in shown  # plain lines are for where there is no bar


def test_a_bar_that_waits_shows_nothing_of_short_work(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(True, "probe, at most", 6, unit="setting", delay=100.0) as bar:
        bar.update()
    assert terminal.getvalue() == ""


class Kernel:
    config = {"IPKernelApp": {}}  # noqa: RUF012


@pytest.mark.parametrize("widgets", [True, False])
def test_jupyter_gets_its_own_bar(monkeypatch, widgets):
    """The notebook's where ipywidgets are there, else text; neither warns."""
    import IPython
    import tqdm.notebook

    monkeypatch.setattr(IPython, "get_ipython", Kernel)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", IPython)
    for name in ("tqdm.auto", "tqdm.autonotebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if not widgets:
        monkeypatch.setattr(tqdm.notebook, "IProgress", None)
    found = progress._drawn()
    assert found is not None
    assert issubclass(found, tqdm.notebook.tqdm) is widgets
    for name in ("tqdm.auto", "tqdm.autonotebook"):
        sys.modules.pop(name, None)


def test_no_terminal_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert progress._drawn() is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert progress._drawn() is tqdm.tqdm
