"""Hyperparameter cells: combinations of values of the problem's, the algorithm's and the regime's parameters."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
import numbers
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdsim.algorithm import schedules
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(SGD)}  # of lr there is none
_SCHEDULED = schedules.PARAMETERS
MAX_CELLS = 10_000_000  # some kB each
_OWNERS = (*_SCHEDULED, "method", "average")  # what may have parameters of its own
Axes = dict[str, tuple[Any, ...]]  # by name; the values are whatever the parameter of that name takes


@dataclass(frozen=True)
class Cell:
    """One cell: its index on the grid, its algorithm, and the values for the problem and the regime."""

    index: tuple[int, ...]
    sgd: SGD
    problem: dict[str, Hashable]
    tau: float | None


@dataclass(frozen=True)
class Grid:
    """Hyperparameter cells; made by `Grid.product` (all combinations), `Grid.zip` (paired) or `Grid.from_table`.

    Axes, each one value or several: the fields of `SGD`, such as `lr`, `batch_size` or `method`; parameters of a
    schedule as `"lr.exponent"` (with one schedule for `lr` itself), of a method or an average likewise; `tau` of the
    diagonal regime; any other name is handed to the problem, which is then a function, such as `nu`, `kappa` and `n` to
    `QuadraticProblem.power_law`. A dim `method` of the result is selected by `.sel({"method": …})`.
    """

    axes: Axes
    zipped: bool

    @classmethod
    def product(cls, **given: object) -> Grid:
        """All combinations of the values of the axes."""
        axes = _axes(given)
        for name, values in axes.items():
            if len(set(map(_plain, values))) < len(values):
                raise InputError(f"{name}: expected different values, got {', '.join(map(str, values))}"[:300])
        return cls(axes, zipped=False)._checked()

    @classmethod
    def zip(cls, **given: object) -> Grid:
        """Cells that pair the i-th values; all lengths equal, or 1 (repeated)."""
        axes = _axes(given)
        lengths = {name: len(values) for name, values in axes.items()}
        longest = max(lengths.values())
        if any(length not in (1, longest) for length in lengths.values()):
            shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise InputError(f"zip: expected lists of equal length (or length 1), got {shown}")
        return cls({name: values * (longest // len(values)) for name, values in axes.items()}, zipped=True)._checked()

    @classmethod
    def from_table(cls, table: str | os.PathLike | Mapping[str, Iterable[object]]) -> Grid:
        """A cell for each row of a table: a CSV file with the axes' names in its first line, or columns by name (a
        dict or a pandas DataFrame). Raises InputError for a file that cannot be read or columns that are no axes."""
        if not isinstance(table, (str, os.PathLike)):
            return cls.zip(**{str(name): list(table[name]) for name in table})
        try:
            with open(table, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, restkey="", strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{table}: expected a CSV file of cells, got: {error}") from error
        if not rows:
            raise InputError(f"{table}: expected a first line of names and a line per cell, got no cells")
        for line, row in enumerate(rows, start=2):
            if "" in row or None in row.values():
                raise InputError(f"{table}: expected a value for each of {', '.join(filter(None, row))}; line {line}")
        return cls.zip(**{name: [value(name, row[name]) for row in rows] for name in rows[0]})

    def _checked(self) -> Grid:
        """Itself; InputError for more cells than anyone could hold or wait for."""
        if self.size > MAX_CELLS:
            shape = " × ".join(map(str, self.shape))
            raise InputError(f"grid: expected at most {MAX_CELLS} cells, got {shape}; take fewer values of some axis")
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the grid's dims."""
        lengths = tuple(len(values) for values in self.axes.values())
        return lengths[:1] if self.zipped else lengths

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def problem_axes(self) -> tuple[str, ...]:
        """The axes that are handed to the problem."""
        return tuple(name for name in self.axes if name not in (*_DEFAULTS, "tau") and "." not in name)

    def cells(self) -> Iterator[tuple[tuple[int, ...], SGD]]:
        """Every cell's index on the grid and its algorithm; InputError for values that `SGD` refuses."""
        for cell in self.whole_cells():
            yield cell.index, cell.sgd

    def whole_cells(self) -> Iterator[Cell]:
        """`cells` with the values of the other axes."""
        names, for_problem, values = list(self.axes), self.problem_axes, self.axes.values()
        combinations = zip(*values, strict=True) if self.zipped else itertools.product(*values)
        for index, combination in zip(np.ndindex(self.shape), combinations, strict=True):
            given = dict(zip(names, combination, strict=True))
            algorithm = {name: given.get(name, default) for name, default in _DEFAULTS.items()}
            for name in given:
                owner, dot, parameter = name.partition(".")
                if dot:
                    algorithm[owner] = dataclasses.replace(algorithm[owner], **{parameter: given[name]})
            yield Cell(index, SGD(**algorithm), {name: given[name] for name in for_problem}, given.get("tau"))

    def over(self, n_steps: int) -> Grid:
        """For runs of `n_steps`: functions become their values, which files hold."""
        held = {n: tuple(schedules.over(v, n_steps) for v in self.axes[n]) for n in _SCHEDULED if n in self.axes}
        if all(values == self.axes[name] for name, values in held.items()):
            return self
        make = Grid.zip if self.zipped else Grid.product
        return make(**{**self.axes, **held})

    def coordinates(self) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, np.ndarray]]]:
        """Dims with their coordinates, and coordinates along a dim, as `results.allocate` takes them."""
        labels = {name: _labels(values) for name, values in self.axes.items()}
        if self.zipped:
            return {"cell": np.arange(self.shape[0])}, {name: ("cell", values) for name, values in labels.items()}
        return labels, {}

    def spec(self) -> dict[str, list[object]]:
        """The axes as JSON-able values."""
        return {name: [_plain(value) for value in values] for name, values in self.axes.items()}


def value(name: str, text: str) -> int | float | str | schedules.Schedule:
    """A value of the axis `name` from text: a number where it is one, a schedule where the axis takes one."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return schedules.parse(name, text) if name in _SCHEDULED else text


def _listed(name: str, values: object) -> tuple[object, ...]:
    """The values of an axis; InputError for what is neither one value nor a list of them."""
    if isinstance(values, np.ndarray) and values.ndim == 0:
        values = values.item()
    if isinstance(values, str) or hasattr(values, "spec") or not isinstance(values, Iterable):
        return (schedules.of(values) if name in _SCHEDULED else values,)
    if isinstance(values, (Mapping, Set)):
        raise InputError(f"{name}: expected one value, or a list of them, got a {type(values).__name__}")
    if isinstance(values, np.ndarray) and values.ndim > 1:  # schedules come as a list of arrays
        raise InputError(f"{name}: expected one value, or a list of them, got a ndarray in it")
    listed = tuple(v.item() if isinstance(v, np.ndarray) and v.ndim == 0 else v for v in values)
    if name in _SCHEDULED:
        listed = tuple(map(schedules.of, listed))
    for value in listed:
        simple = isinstance(value, Hashable) and (isinstance(value, str) or not isinstance(value, Iterable))
        if not simple and not hasattr(value, "spec"):
            raise InputError(f"{name}: expected one value, or a list of them, got a {type(value).__name__} in it")
    return listed


def _axes(axes: Mapping[str, object]) -> Axes:
    """The values of each axis; InputError for what no axis may have."""
    if "lr" not in axes:
        raise InputError("grid: expected values for lr, got none")
    out: Axes = {}
    for name, values in axes.items():
        out[name] = tuple(_python(value) for value in _listed(name, values))
        if not out[name]:
            raise InputError(f"{name}: expected at least one value, got an empty list")
        for value in out[name] if name not in (*_DEFAULTS, "tau") and "." not in name else ():
            _check_storable(name, _plain(value))
    for name in (name for name in out if "." in name):
        owner, _, parameter = name.partition(".")
        base = out.get(owner, ())
        if owner not in _OWNERS or any(not dataclasses.is_dataclass(schedule) for schedule in base) or not base:
            raise InputError(f"{name}: expected a parameter of a schedule or method, and one such for {owner}")
        known = [field.name for field in dataclasses.fields(base[0])]
        if parameter not in known:
            raise InputError(f"{name}: expected a parameter from {', '.join(known)}, got {parameter}")
    return out


def _python(value: object) -> object:
    """NumPy's numbers and fractions as plain ones, which files hold."""
    if isinstance(value, np.generic):
        return value.item()
    return float(value) if isinstance(value, numbers.Rational) and not isinstance(value, int) else value


def _check_storable(name: str, value: object) -> None:
    """InputError for what a result cannot hold as a coordinate: told before the work, not when it is saved."""
    whole = isinstance(value, int) and not -(2**63) <= value < 2**63
    if whole or not isinstance(value, (bool, int, float, str)):
        raise InputError(f"{name}: expected numbers (integers of 64 bits), names or schedules, got {value!r}"[:300])


def _plain(value: object) -> object:
    """As files hold it: schedules as their text."""
    return "none" if value is None else getattr(value, "spec", value)


def _labels(values: tuple[object, ...]) -> np.ndarray:
    """The coordinate of an axis."""
    if any(isinstance(_plain(v), str) for v in values):
        return np.array([str(_plain(v)) for v in values], dtype=object)
    return np.array(values)
