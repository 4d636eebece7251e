"""The result of a sweep put together: empty, filled chunk by chunk, taken over from a file, merged from shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.runs import parts, results
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.followed import stored
from sgdsim.runs.grids import Grid
from sgdsim.runs.request import Request


def empty(request: Request, asked: parts.Asked) -> xr.Dataset:
    """The result without numbers, in the schema of `sgdsim.runs.results`."""
    settings, problem = request.settings, request.problems.only
    quadratic = None if problem is None else problem.quadratic
    axes, along = request.grid.coordinates()
    result = results.allocate(
        axes, along, request.names, settings.replicates, settings.steps, settings.observe, quadratic
    )
    for observable in settings.observe:
        missing = {regime.name: why for regime in request.regimes if (why := regime.lacks(observable))}
        if missing:
            result[observable.variable].attrs[results.ABSENT] = json.dumps(missing)
    if quadratic is not None and quadratic.population is not None:
        words = "risk that no training removes, residual risk and label noise: the losses are those above it"
        result["floor"] = ((), quadratic.population.floor, {"long_name": words})
    kept = ("grid", "zip", "regimes", "regime_parameters", "n_steps", "record", "observe", "replicates")
    call = {key: asked[key] for key in kept}
    if problem is None or quadratic is None:
        made_by = str(asked["problem"])
        description = {"title": "problems on the grid", "made_by": made_by}
        result.attrs = results.provenance(call, description, made_by, settings.seed, "cpu")
    else:
        result.attrs = results.provenance(
            call, problem.description, quadratic.fingerprint, settings.seed, problem.device
        )
    result.attrs |= {"asked": json.dumps(asked), **stored(request.regimes)}
    return result


def take_over(result: xr.Dataset, path: str | os.PathLike, asked: parts.Asked) -> None:
    """Take what is done from the result at `path`, if there is one; InputError if it is of another sweep."""
    if not os.path.exists(path):
        return
    before = results.load(path)
    parts.check_same(os.fspath(path), results.asked_of(before, path), asked)
    for name, variable in result.variables.items():
        if name in results.REPORTED and name not in before:
            continue  # of a version that did not report it
        if name not in before.variables or before[name].dims != variable.dims or before[name].shape != variable.shape:
            raise InputError(f"{path}: expected a sweep with {name} {dict(variable.sizes)}, got one without; remove it")
    done = before["done"].values.astype(bool)
    for name, array in result.data_vars.items():
        if name in before and array.dims[: done.ndim] == result["done"].dims:
            array.values[done] = before[name].values[done]
    if "error" in before:
        result["error"] = before["error"].astype(object)


def is_done(result: xr.Dataset, grid: Grid, chunk: Chunk, retry_failed: bool) -> bool:
    """Whether all cells of the chunk have a result; with `retry_failed`: and none of them failed."""
    where = _places(grid.shape, np.array(chunk.cells), chunk.regime)
    if retry_failed and (result["outcome"].values[where] == OUTCOMES.index("failed")).any():
        return False
    return bool(result["done"].values[where].all())


def enter(result: xr.Dataset, shape: tuple[int, ...], done: Done) -> None:
    """Write what a chunk gave into the result of a grid of that shape."""
    where = _places(shape, done.cells, done.regime)
    replicates: tuple[np.ndarray | slice, ...] = (*where, slice(0, done.outcome.shape[1]))
    for name, values in done.values.items():
        result[name].values[replicates] = values
    result["outcome"].values[replicates] = done.outcome
    result["diverged_at"].values[replicates] = done.diverged_at
    result["seconds"].values[where] = done.seconds
    for name, values in done.report.items():
        result[name].values[where] = values
    result["done"].values[where] = done.ended
    if done.failed and "error" not in result:
        dims = result["done"].dims
        text = {"long_name": "why a cell failed"}
        result["error"] = (dims, np.full(result["done"].shape, "", dtype=object), text)
    if "error" in result:
        result["error"].values[where] = np.array(done.errors, dtype=object)


def _places(shape: tuple[int, ...], cells: np.ndarray, regime: int) -> tuple[np.ndarray, ...]:
    """Where the cells, flat numbers on a grid of `shape`, are in arrays (grid…, regime, …)."""
    return (*(np.asarray(index) for index in np.unravel_index(cells, shape)), np.full(cells.size, regime))


def merge(path: str | os.PathLike, folders: Iterable[str | os.PathLike] = ()) -> xr.Dataset:
    """Bring the shards of a sweep together, into one result at `path`.

    `folders`: where the parts are; by default `PATH.parts`, where shards of one file system are. They stay there.
    Returns the result; cells that no shard has done are NaN, `done` is False there and `interrupted` is 1. Raises
    InputError for folders that hold no parts, or those of different sweeps.
    """
    homes = [Path(folder) for folder in folders] or [parts.folder(path)]
    files.check_writable(path)
    result, asked, _ = parts.read(homes[0])
    shape = result["done"].shape[:-1]
    for home in homes:
        _, other, chunks = parts.read(home)
        parts.check_same(os.fspath(home), other, asked)
        for done in chunks:
            enter(result, shape, done)
    result.attrs["interrupted"] = int(not result["done"].values.all())
    results.save(result, path)
    return result
