"""Stops inside every file operation of a sweep, one after the other: before it takes effect, or after.

The interpreter tells a profile function of each call of a C function, and what that raises comes out of the call: so
no file operation is missed, whoever calls it. Each stop has a child process of its own, which a kill may end; the
regime has no compiled code, so that a child may be forked.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import random
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import xarray as xr

import sgdsim as ss
from kills import oracle, target
from sgdsim.common.checks import InputError
from sgdsim.regimes.base import Regime, Run

_NAMES = re.compile(
    "replace|rename|(un)?link|remove|symlink|mkdir|rmdir|open|p?write|writelines|close|flush|f?truncate|f(data)?sync|"
    "flock|lockf|fcntl|f?chmod|utime"
)
KILLED = 137
_MARK = b"quick "
FAULTS: dict[str, Callable[[], BaseException]] = {
    "kill": lambda: os._exit(KILLED),
    "interrupt": KeyboardInterrupt,
    "full": lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "broken": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
}


@dataclass
class Walker(Run):
    now: np.ndarray
    lr: float

    def advance(self, start, stop):
        for step in range(start, stop):
            self.now = self.now * (0.9 + self.lr * np.sin(step + self.now) ** 2)

    def observe(self, what):
        return {"loss": self.now}


@dataclass(frozen=True)
class Walk(Regime):
    """Numbers that depend on all that is asked, without compiled code; at lr 50 some replicates diverge."""

    stochastic: ClassVar[bool] = True
    left: ClassVar[int] = 10**9  # cells until a kill

    @property
    def name(self) -> str:
        return "walk"

    def start(self, problem, sgd, *, replicates, seed, test):
        Walk.left -= 1
        if Walk.left < 0:
            os._exit(KILLED)
        return Walker(np.arange(1.0, replicates + 1) + seed, sgd.lr)


def sweep(seed: int, resume: bool = True) -> xr.Dataset:
    """The sweep that is stopped, into r.nc."""
    problem = ss.QuadraticProblem.power_law(3, 1.5, 3.0)
    grid = ss.Grid.product(lr=[0.1, 50.0], batch_size=[1, 2])
    return ss.sweep(
        problem, grid, Walk(), 12, record=3, replicates=2, seed=seed, path="r.nc", resume=resume, executor="serial"
    )


# What is at the path before, as (the older sweep's cells until a kill and whether it was also finished), and the call.
NEW, OLD = 0, 1
SCENES: dict[str, tuple[list[Callable[[], object]], bool]] = {
    "nothing": ([], True),
    "its own parts": ([lambda: kill_after(2, NEW)], True),
    "its own result": ([lambda: sweep(NEW)], True),
    "an older result": ([lambda: sweep(OLD)], False),
    "older parts": ([lambda: kill_after(3, OLD)], False),
    "a newer result and older parts": ([lambda: kill_after(2, OLD), lambda: put_aside(NEW)], False),
}


def kill_after(cells: int, seed: int) -> None:
    Walk.left = cells
    sweep(seed)


def put_aside(seed: int) -> None:
    """A whole result beside parts that are there already."""
    os.rename("r.nc.parts", "kept")
    sweep(seed)
    os.rename("kept", "r.nc.parts")


class Injection:
    """The operation number `k` under it fails in this way, before it takes effect or after."""

    def __init__(self, k: int, fault: str, after: bool) -> None:
        self.k, self.fault, self.event, self.count = k, fault, "c_return" if after else "c_call", 0

    def __call__(self, frame, event: str, called) -> None:
        if event != self.event or not is_file_operation(frame, called):
            return
        self.count += 1
        if self.count > self.k:
            (Path.cwd().parent / "where").write_text(
                f"{called.__name__}, {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            )
            raise FAULTS[self.fault]()

    @property
    def reached(self) -> bool:
        return self.count > self.k


def is_file_operation(frame, called) -> bool:
    """Whether a C function is one, on behalf of the sweep: not of the import system, or about the machine."""
    owner = getattr(called, "__self__", None)
    on_file = isinstance(owner, (io.FileIO, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper))
    if not _NAMES.fullmatch(called.__name__) or not (on_file or called.__module__ in ("posix", "io", "_io", "fcntl")):
        return False
    while frame is not None:
        if any(name in frame.f_code.co_filename for name in ("importlib", "sgdsim/common/machine.py")):
            return False
        frame = frame.f_back
    return True


def quick_files() -> contextlib.AbstractContextManager:
    """Within this, a result's bytes are a pickle: netCDF takes a hundred times as long, all of it in memory."""
    load = xr.load_dataset

    def read(file, **options):
        content = file.read() if hasattr(file, "read") else Path(file).read_bytes()
        return pickle.loads(content[len(_MARK) :]) if content.startswith(_MARK) else load(file, **options)

    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(xr.Dataset, "to_netcdf", lambda self, **_: _MARK + pickle.dumps(self)))
    stack.enter_context(mock.patch.object(xr, "load_dataset", read))
    return stack


def in_child(work: Callable[[], object], home: Path) -> int:
    """`work()` in a child process in the folder `home`: 0, or 1 with the reason in the file `failure`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(home)
            warnings.simplefilter("ignore")
            work()
            code = 0
        except BaseException as error:
            last = [at for at in traceback.extract_tb(error.__traceback__) if "_call_" not in at.name][-1]
            reason = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno} {last.name})"
            (home.parent / "failure").write_text(reason)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def goes_on(home: Path, new: xr.Dataset, old: xr.Dataset, resume: bool) -> None:
    """After a stop: what is there is right, and the same call gives the whole. Before that, in copies: where the call
    began anew, going on with either sweep gives its whole or is refused."""
    oracle.assert_partial(home, new, old)
    for seed, expected in [] if resume else [(NEW, new), (OLD, old)]:
        copy = home.with_name(f"copy{seed}")
        shutil.copytree(home, copy)
        os.chdir(copy)
        try:
            sweep(seed)
            oracle.assert_whole(copy, expected)
        except InputError as error:
            if "expected the same sweep" not in str(error):
                raise AssertionError(f"going on with seed {seed}: {error}") from error
        except AssertionError as error:
            raise AssertionError(f"going on with seed {seed}: {error}") from error
        os.chdir(home)
    assert not oracle.same(sweep(NEW, resume), new)
    oracle.assert_whole(home, new)


def stopped(home: Path, injection: Injection, goes: Callable[[], None], resume: bool) -> None:
    """The sweep under the injection, and in the same process what must hold then."""
    sys.setprofile(injection)
    try:
        sweep(NEW, resume)
    except KeyboardInterrupt:
        assert injection.fault == "interrupt"
    except InputError:
        assert injection.fault in ("full", "broken")
    finally:
        sys.setprofile(None)
    if not injection.reached:
        (home.parent / "through").touch()
        return
    goes()


def every_operation(scene: str, fault: str, after: bool, home: Path) -> tuple[int, list[tuple[str, str]]]:
    """Stop at the first file operation, the second, and so on until the sweep comes through; how many, and failures."""
    before, resume = SCENES[scene]
    start = home / "start"
    start.mkdir()
    whole = []
    for seed in (NEW, OLD):  # here: what children need is imported once
        place = home / f"whole{seed}"
        place.mkdir()
        with contextlib.chdir(place):
            whole.append(sweep(seed))
    for step in before:
        in_child(step, start)
    failures: list[tuple[str, str]] = []
    for k in range(10_000):
        case = home / f"stop{k}"
        case.mkdir()
        place = case / "here"
        shutil.copytree(start, place)

        def goes(place: Path = place) -> None:
            goes_on(place, *whole, resume)

        injection = Injection(k, fault, after)
        code = in_child(lambda p=place, i=injection, g=goes: stopped(p, i, g, resume), place)
        if (case / "through").exists():
            return k, failures
        if code == KILLED:
            code = in_child(goes, place)
        if code:
            where, failure = (case / "where").read_text(), (case / "failure").read_text()
            failures.append((f"operation {k} ({where})", re.sub(r"\.[a-z0-9_]{8}\.", ".…", failure)))
        shutil.rmtree(case)
    raise AssertionError("it never came through")


def injected(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """All operations of one scene, with one fault."""
    scene, fault, after = draw.choice(list(SCENES)), draw.choice(list(FAULTS)), draw.random() < 0.5
    with target.small_chunks(1), quick_files():
        stops, failures = every_operation(scene, fault, after, home)
    story = f"{fault} {'after' if after else 'before'} each of {stops} operations over {scene}"
    reasons: dict[str, list[str]] = {}
    for where, reason in failures:
        reasons.setdefault(reason, []).append(where)
    told = [f"{reason}: {len(where)} times, such as at {where[0]}" for reason, where in reasons.items()]
    assert not failures, "\n".join([f"{story}: {len(failures)} failed", *told])
    return stops, [story]
