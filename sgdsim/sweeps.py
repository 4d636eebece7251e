"""Many cells: hyperparameter grids followed in several regimes, in one labelled result."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from sgdsim import results
from sgdsim.checks import InputError, integer
from sgdsim.problem import NetworkProblem, QuadraticProblem
from sgdsim.regimes.base import Regime
from sgdsim.schedules import Schedule
from sgdsim.sgd import SGD
from sgdsim.simulation import check_observe, follow, record_steps, warn_interrupted

_DEFAULTS = {"lr": None, "momentum": 0.0, "batch_size": 1, "sampling": "without-replacement"}


@dataclass(frozen=True)
class Grid:
    """Hyperparameter cells; made by `Grid.product` (all combinations) or `Grid.zip` (paired)."""

    axes: dict[str, tuple[Any, ...]]
    zipped: bool

    @classmethod
    def product(cls, **axes: Any) -> Grid:
        """All combinations of the values of `lr`, `momentum`, `batch_size` and `sampling` (each one or several)."""
        axes = _axes(axes)
        for name, values in axes.items():
            if len(set(values)) < len(values):
                raise InputError(f"{name}: expected different values, got {', '.join(map(str, values))}")
        return cls(axes, zipped=False)

    @classmethod
    def zip(cls, **axes: Any) -> Grid:
        """Cells that pair the i-th values; all lengths equal, or 1 (repeated)."""
        axes = _axes(axes)
        lengths = {name: len(values) for name, values in axes.items()}
        longest = max(lengths.values())
        if any(length not in (1, longest) for length in lengths.values()):
            shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise InputError(f"zip: expected lists of equal length (or length 1), got {shown}")
        return cls({name: values * (longest // len(values)) for name, values in axes.items()}, zipped=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the grid's dims."""
        lengths = tuple(len(values) for values in self.axes.values())
        return lengths[:1] if self.zipped else lengths

    def cells(self) -> Iterator[tuple[tuple[int, ...], SGD]]:
        """Every cell's index on the grid and its algorithm; InputError for values that `SGD` refuses."""
        names = list(self.axes)
        combine = zip if self.zipped else itertools.product
        combined = combine(*self.axes.values(), strict=True) if self.zipped else combine(*self.axes.values())
        for index, values in zip(np.ndindex(self.shape), combined, strict=True):
            yield index, SGD(**{**_DEFAULTS, **dict(zip(names, values, strict=True))})

    def coordinates(self) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, np.ndarray]]]:
        """Dims with their coordinates, and coordinates along a dim, as `results.allocate` takes them."""
        labels = {name: _labels(values) for name, values in self.axes.items()}
        if self.zipped:
            return {"cell": np.arange(self.shape[0])}, {name: ("cell", values) for name, values in labels.items()}
        return labels, {}


def _axes(axes: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    unknown = set(axes) - set(_DEFAULTS)
    if unknown:
        raise InputError(f"grid: expected axes from {', '.join(_DEFAULTS)}; got {', '.join(sorted(unknown))}")
    if "lr" not in axes:
        raise InputError("grid: expected values for lr, got none")
    out = {}
    for name, values in axes.items():
        if isinstance(values, (str, Schedule)) or np.ndim(values) == 0:
            values = (values,)
        out[name] = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
        if not out[name]:
            raise InputError(f"{name}: expected at least one value, got an empty list")
    return out


def _plain(value: Any) -> float | int | str:
    return value.spec if isinstance(value, Schedule) else value


def _labels(values: tuple[Any, ...]) -> np.ndarray:
    if any(isinstance(v, (str, Schedule)) for v in values):
        return np.array([str(_plain(v)) for v in values], dtype=object)
    return np.array(values)


def sweep(
    problem: QuadraticProblem | NetworkProblem,
    grid: Grid,
    regimes: Sequence[Regime],
    n_steps: int,
    *,
    record: int | Sequence[int] | None = None,
    observe: Sequence[str] = ("loss",),
    replicates: int = 1,
    seed: int = 0,
    progress: bool = False,
    path: str | os.PathLike | None = None,
) -> xr.Dataset:
    """Follow every cell of `grid` in every regime.

    Replicate r sees the same batches in every cell of equal batch size and in every regime, so that differences between
    cells and regimes are not sampling noise. Parameters as in `simulate`; `path`: save the result there, also when
    Ctrl-C ends the sweep early (then the rest is NaN, `done` is False there, and the attribute `interrupted` is 1).

    Returns
    -------
    xarray.Dataset in the schema of `sgdsim.results`, dims (grid…, regime, replicate, step).

    Raises
    ------
    InputError : before any step is taken: bad arguments, an unwritable `path`, or a regime that cannot follow a cell.
    """
    regimes = [regimes] if isinstance(regimes, Regime) else list(regimes)
    names = [regime.name for regime in regimes]
    if not names or len(set(names)) < len(names):
        raise InputError(f"regimes: expected different regimes, at least one; got {names}")
    replicates = integer("replicates", replicates, minimum=1)
    seed = integer("seed", seed)
    steps = record_steps(n_steps, record)
    observe = check_observe(problem, observe)
    cells = list(grid.cells())
    for _, sgd in cells:
        sgd.check(problem.n, int(steps[-1]))
        for regime in regimes:
            regime.check(problem, sgd)
    if path is not None:
        results.check_writable(path)

    quadratic = problem.quadratic
    held = replicates if any(regime.stochastic for regime in regimes) else 1
    axes, along = grid.coordinates()
    result = results.allocate(
        axes, along, names, held, steps, observe,
        quadratic.eigenvalues, quadratic.coefficients, quadratic.multiplicity,
    )  # fmt: skip
    call = {
        "grid": {name: [_plain(value) for value in values] for name, values in grid.axes.items()},
        "zip": grid.zipped,
        "regimes": names,
        "regime_parameters": [dataclasses.asdict(regime) for regime in regimes],
        "n_steps": int(steps[-1]),
        "record": "log" if record is None else np.asarray(record).tolist(),
        "observe": observe,
        "replicates": replicates,
    }
    result.attrs = results.provenance(
        call, problem.description, quadratic.fingerprint, seed, getattr(problem, "device", "cpu")
    )
    with tqdm(
        total=len(cells) * len(regimes) * int(steps[-1]),
        unit="step",
        unit_scale=True,
        disable=None if progress else True,
    ) as bar:
        jobs = itertools.product(enumerate(cells), enumerate(regimes))
        result.attrs["interrupted"] = 1  # until the last job is done
        with contextlib.suppress(KeyboardInterrupt):  # also between two cells
            for finished, ((number, (index, sgd)), (position, regime)) in enumerate(jobs, start=1):
                bar.set_description(f"cell {number + 1} of {len(cells)}, {regime.name}", refresh=False)
                trace = follow(problem, sgd, regime, steps, observe, held, seed, bar.update)
                where = (*index, position)
                rows = slice(0, trace.outcome.size)
                for name, values in trace.values.items():
                    result[name].values[(*where, rows)] = values
                result["outcome"].values[(*where, rows)] = trace.outcome
                result["diverged_at"].values[(*where, rows)] = trace.diverged_at
                result["seconds"].values[where] = trace.seconds
                for name, value in trace.report.items():
                    result[name].values[where] = value
                if trace.interrupted:
                    break
                result["done"].values[where] = True
                bar.update(finished * int(steps[-1]) - bar.n)  # a diverged cell ends early
            else:
                result.attrs["interrupted"] = 0
    if path is not None:
        results.save(result, path)
    if result.attrs["interrupted"]:
        warn_interrupted()
    return result
