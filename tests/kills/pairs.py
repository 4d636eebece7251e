"""Two sweeps at one path: together, one after a kill of the other, and with files of one among those of the other."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from signal import SIGKILL

from kills import oracle
from kills.processes import Running, files, lines


def _finish(call: list[str], home: Path, expected, *, refusable: bool) -> int:
    """Run the call to its end: whole and alone, or refused in one line where that may be."""
    running = Running(call, home)
    code = running.end()
    _check(running, code)
    if code == 0:
        oracle.assert_whole(home, expected)
    else:
        assert refusable, f"{running} refused: {running.told}"
    return code


def _check(running: Running, code: int) -> None:
    """Whole, or refused in one line."""
    assert code in (0, 2), f"exit {code} of {running}: {running.told[-1500:]}"
    assert code == 0 or running.told.count("\n") == 1, f"more than a line: {running.told[-1500:]}"
    assert "Traceback" not in running.told, running.told


def _killed(call: list[str], home: Path, chunks: int) -> None:
    """Begin the call and kill it with so many chunks done; the parts are there then."""
    running, before = Running(call, home), lines(home)
    try:
        assert running.until(lambda: lines(home) >= before + chunks), f"{running} ended: {running.told[-1500:]}"
        running.send(SIGKILL, group=True)
    finally:
        running.destroy()
    assert files(home), "no parts after a kill"


def _calls(draw: random.Random) -> tuple[list[str], list[str]]:
    """A sweep, and another one of the same size."""
    name = draw.choice(["landscape", "compare"])
    return oracle.words(name), oracle.words(name, seed=1)


def together(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """Different ones begun at once: one is refused. Identical ones: as well, or both give the whole. In half of the
    cases one is killed; the path then goes on with the sweep that it belongs to."""
    first, second = _calls(draw)
    if draw.random() < 0.4:
        second = first
    expected = [oracle.reference(*first), oracle.reference(*second)]
    (home / "wait").touch()
    pair = [Running(call, home) for call in (first, second)]
    kills = 0
    try:
        for running in pair:
            running.until(lambda p=running: (home / f"ready{p.process.pid}").exists())
        for running in pair:
            (home / f"ready{running.process.pid}").unlink()
        (home / "wait").unlink()
        if draw.random() < 0.5:
            victim, chunks = draw.choice(pair), draw.randint(1, 5)
            victim.until(lambda: lines(home) >= chunks)
            time.sleep(draw.uniform(0, 0.2))
            kills += not victim.ended
            victim.send(SIGKILL)
        codes = [running.end() for running in pair]
    finally:
        for running in pair:
            running.destroy()
    story = f"{'identical' if first == second else 'different'} {first[1]}, exits {codes}"
    try:
        for running, code, whole in zip(pair, codes, expected, strict=True):
            if code != -SIGKILL:
                _check(running, code)
            if code == 0:
                oracle.assert_partial(home, whole)
        assert first == second or codes != [0, 0], "both were let in"
        assert kills or 0 in codes, "neither was let in"
        oracle.assert_partial(home, *expected)
        again = [
            _finish(call, home, whole, refusable=first != second)
            for call, whole in zip((first, second), expected, strict=True)
        ]
        assert 0 in again, f"neither goes on: {again}"
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{story}\n{error}") from error
    return kills, [story, f"again {again}"]


def followed(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """A killed sweep, another one at its path, which is refused, and the first one's end; or the other one anew."""
    chunks = draw.randint(1, 6)
    if draw.random() < 0.5:
        first, second = _calls(draw)
        _killed(first, home, chunks)
        other = _finish(second, home, oracle.reference(*second), refusable=True)
        assert other == 2, "another sweep was let in"
        if "--resume" in second:
            other = _finish([word for word in second if word != "--resume"], home, None, refusable=True)
            assert other == 2, "another sweep was let in without --resume"
        _finish(first, home, oracle.reference(*first), refusable=False)
        return 1, [f"{first[1]} killed after {chunks} chunks, refused the other"]
    first, second = oracle.script("power", "serial"), oracle.script("power", "serial", seed=1)
    _killed(first, home, chunks)
    anew, before = Running([*second, "fresh"], home), lines(home)
    anew.until(lambda: lines(home) > before)
    anew.send(SIGKILL)
    anew.destroy()
    codes = [_finish(call, home, oracle.reference(*call), refusable=True) for call in (first, second)]
    assert codes != [2, 2], "neither goes on"
    return 2, [f"killed after {chunks} chunks, another one anew and killed; going on: {codes}"]


def copied(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """Files of another sweep among the parts. Those of new names are not taken, nor is a foreign one under a name of
    the sweep's own; where the one that both have is another's, the path may be refused."""
    first, second = _calls(draw)
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    try:
        _killed(first, home, draw.randint(1, 3))
        _killed(second, elsewhere, draw.randint(4, 9))
        own, others = ({p.name for p in (place / "r.nc.parts").iterdir()} for place in (home, elsewhere))
        how = draw.choice(["beside", "in place of its own", "common"])
        names = {name: name for name in sorted(others - own)}
        if how == "common":
            names = {name: name for name in draw.sample(sorted(own & others), 1)}
        elif how == "in place of its own" and names and own - others:
            names = {draw.choice(sorted(names)): draw.choice(sorted(own - others))}
        for theirs, ours in names.items():
            shutil.copy(elsewhere / "r.nc.parts" / theirs, home / "r.nc.parts" / ours)
    finally:
        shutil.rmtree(elsewhere)
    story = f"{first[1]} with copies {how}: {names}"
    try:
        _finish(first, home, oracle.reference(*first), refusable=how == "common")
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{story}\n{error}") from error
    return 2, [story]
