"""A disk that is full at a random moment, then has room again."""

from __future__ import annotations

import functools
import os
import random
import resource
import subprocess
from pathlib import Path
from unittest import SkipTest

from kills import oracle
from kills.processes import Running


def limited(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """No file may grow beyond a limit (RLIMIT_FSIZE): not the result, or not even the parts."""
    call = oracle.words(draw.choice(["landscape", "compare"]))
    expected = oracle.reference(*call)
    limits = [int(draw.choice([draw.uniform(0, 3_000), draw.uniform(0, 60_000)])) for _ in range(2)]
    return _run(call, home, expected, limits)


def small_disk(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """A file system of a few pages; only root can make one."""
    place = home / "disk"
    place.mkdir()
    size = draw.randint(2, 40) * 4096
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        raise SkipTest(f"a small file system cannot be made: {made.stderr.strip()}")
    try:
        call = oracle.words(draw.choice(["landscape", "compare"]))
        story = _run(call, place, oracle.reference(*call), [None], f"a disk of {size} bytes", mend=_grow)
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    return story


def _grow(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)


def _limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(call, home: Path, expected, limits, what: str | None = None, mend=lambda home: None) -> tuple[int, list[str]]:
    codes = []
    try:
        for limit in limits:
            before = None if limit is None else functools.partial(_limit, limit)
            running = Running(call, home, before=before)
            codes.append(running.end())
            assert codes[-1] in (0, 2), f"exit {codes[-1]}: {running.told[-1500:]}"
            assert codes[-1] == 0 or running.told.count("\n") == 1, running.told[-1500:]
            assert "Traceback" not in running.told
            oracle.assert_partial(home, expected)
            assert (names := set(os.listdir(home))) <= oracle.LEFT | {"r.nc.parts"}, f"left behind: {names}"
        mend(home)
        running = Running(call, home)
        code = running.end()
        assert code == 0, f"exit {code}: {running.told[-1500:]}"
        oracle.assert_whole(home, expected)
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{call[1]}, {what or limits}, exits {codes}\n{error}") from error
    return codes.count(2), [f"{call[1]}, {what or limits}, exits {codes}"]
