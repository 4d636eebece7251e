"""What must hold: after each stop, and in the end."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr

import sgdsim as ss
from kills import target
from kills.processes import Running

LEFT = {"r.nc", "log"}  # what may be there after a whole sweep
_TOLD = {"created", "versions", "interrupted", "asked"}


def words(name: str, seed: int = 0) -> list[str]:
    """The command `name` of `target.COMMANDS`, into r.nc."""
    return ["cli", *target.COMMANDS[name].split(), "--seed", str(seed), "--out", "r.nc", "--log-file", "log"]


def script(name: str, executor: str, seed: int = 0) -> list[str]:
    """The sweep `name` of `target.sweep`."""
    return ["sweep", name, executor, str(seed)]


@cache
def reference(*call: str) -> xr.Dataset:
    """What the call gives that nothing disturbs."""
    home = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        running = Running(call, home)
        assert running.end() == 0, running.told
        assert {path.name for path in home.iterdir()} == LEFT
        return ss.load(home / "r.nc")
    finally:
        shutil.rmtree(home)


def same(one: xr.Dataset, other: xr.Dataset, where: np.ndarray | None = None) -> list[str]:
    """The variables that differ in any bit, of all cells or of those `where`; times are not compared."""
    out = []
    for name in sorted(set(one.variables) | set(other.variables)):
        if name == "seconds":
            continue
        if name not in one.variables or name not in other.variables:
            out.append(name)
            continue
        a, b = one[name], other[name]
        if where is not None and a.dims[: where.ndim] == one["done"].dims:
            a, b = a.values[where], b.values[where]
        else:
            a, b = a.values, b.values
        text = a.dtype.kind in "OUST"
        if a.shape != b.shape or (a.tolist() != b.tolist() if text else a.tobytes() != b.tobytes()):
            out.append(name)
    return out


def assert_whole(home: Path, expected: xr.Dataset, left: set[str] = LEFT) -> None:
    """The result is there, whole, equal to the last bit, and nothing else is."""
    result = ss.load(home / "r.nc")
    wrong = int((result["loss"].values.tobytes() != expected["loss"].values.tobytes()) and _cells(result, expected))
    assert not same(result, expected), f"differs in {same(result, expected)}, {wrong} cells of {result['done'].size}"
    assert result.attrs["interrupted"] == 0
    assert result.attrs["problem_sha256"] == expected.attrs["problem_sha256"]
    names = {path.name for path in home.iterdir()}
    assert names <= left, f"left behind: {names - left}"


def _cells(one: xr.Dataset, other: xr.Dataset) -> int:
    differ = ~((one["loss"] == other["loss"]) | (np.isnan(one["loss"]) & np.isnan(other["loss"])))
    return int(differ.any(["replicate", "step"]).sum())


def assert_partial(home: Path, *expected: xr.Dataset) -> None:
    """If a result is there it can be read, and each cell that it calls done is right; it is one of those `expected`."""
    if not (home / "r.nc").exists():
        return
    result = ss.load(home / "r.nc")
    differing = []
    for one in expected:
        if one["loss"].shape != result["loss"].shape:
            continue
        done = result["done"].values
        names = [name for name in same(result, one, done) if name not in ("done", "error")]
        if not names:
            return
        differing.append(names)
    raise AssertionError(f"cells that are called done differ in {differing}")
