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
from sgdsim.runs.grids import Grid
from sgdsim.runs.request import Request


def empty(request: Request, asked: parts.Asked) -> xr.Dataset:
    """The result without numbers, in the schema of `sgdsim.runs.results`."""
    axes, along = request.grid.coordinates()
    settings, problem = request.settings, request.problems.source
    one = None if callable(problem) else problem.quadratic
    spectrum: tuple = (np.zeros(0), np.zeros(0), None)
    if one is not None:
        spectrum = (one.eigenvalues, one.coefficients, one.multiplicity)
    held = (settings.replicates, settings.steps, settings.observe)
    result = results.allocate(axes, along, request.names, *held, *spectrum)
    if one is not None and one.population is not None:
        words = "risk that no training removes, residual risk and label noise: the losses are those above it"
        result["floor"] = ((), one.population.floor, {"long_name": words})
    kept = ("grid", "zip", "regimes", "regime_parameters", "n_steps", "record", "observe", "replicates")
    description = {"title": "problems on the grid", "made_by": asked["problem"]} if one is None else problem.description
    result.attrs = results.provenance(
        {key: asked[key] for key in kept}, description, asked["problem"] if one is None else one.fingerprint,
        settings.seed, "cpu" if callable(problem) else problem.device,
    )  # fmt: skip
    result.attrs["asked"] = json.dumps(asked)
    return result


def take_over(result: xr.Dataset, path: str | os.PathLike, asked: parts.Asked) -> None:
    """Take what is done from the result at `path`, if there is one; InputError if it is of another sweep."""
    if not os.path.exists(path):
        return
    before = results.load(path)
    parts.check_same(os.fspath(path), results.asked_of(before, path), asked)
    for name, variable in result.variables.items():
        if name not in before.variables or before[name].dims != variable.dims or before[name].shape != variable.shape:
            raise InputError(f"{path}: expected a sweep with {name} {dict(variable.sizes)}, got one without; remove it")
    done = before["done"].values.astype(bool)
    for name, variable in result.data_vars.items():
        if variable.dims[: done.ndim] == result["done"].dims:
            variable.values[done] = before[name].values[done]
    if "error" in before:
        result["error"] = before["error"].astype(object)


def is_done(result: xr.Dataset, grid: Grid, chunk: Chunk, retry_failed: bool) -> bool:
    """Whether all cells of the chunk have a result; with `retry_failed`: and none of them failed."""
    where = (*np.unravel_index(np.array(chunk.cells), grid.shape), chunk.regime)
    if retry_failed and (result["outcome"].values[where] == OUTCOMES.index("failed")).any():
        return False
    return bool(result["done"].values[where].all())


def enter(result: xr.Dataset, grid: Grid | tuple[int, ...], done: Done) -> None:
    """Write what a chunk gave into the result."""
    shape = grid if isinstance(grid, tuple) else grid.shape
    where = (*np.unravel_index(done.cells, shape), np.full(done.cells.size, done.regime))
    rows = slice(0, done.outcome.shape[1])
    for name, values in done.values.items():
        result[name].values[(*where, rows)] = values
    result["outcome"].values[(*where, rows)] = done.outcome
    result["diverged_at"].values[(*where, rows)] = done.diverged_at
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


def merge(path: str | os.PathLike, folders: Iterable[str | os.PathLike] = ()) -> xr.Dataset:
    """Bring the shards of a sweep together, into one result at `path`.

    `folders`: where the parts are; by default `PATH.parts`, where shards of one file system are. They stay there.
    Returns the result; cells that no shard has done are NaN, `done` is False there and `interrupted` is 1. Raises
    InputError for folders that hold no parts, or those of different sweeps.
    """
    homes = [Path(folder) for folder in folders] or [parts.folder(path)]
    result, asked = None, None
    files.check_writable(path)
    for home in homes:
        begun, other, chunks = parts.read(home)
        if result is None:
            result, asked = begun, other
        parts.check_same(os.fspath(home), other, asked)
        shape = result["done"].shape[:-1]
        for done in chunks:
            enter(result, shape, done)
    result.attrs["interrupted"] = int(not result["done"].values.all())
    results.save(result, path)
    return result
