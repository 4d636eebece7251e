"""Schedules that are given value by value: a list or array, a file of them, or a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError, array, freeze
from sgdsim.common.specs import Spec, shortest

MOST = 1_000_000  # values; a result file holds each, as text


@dataclass(frozen=True)
class Values(Spec):
    """`values[t]` at step t; runs longer than the list are refused. As text `values:0.1/0.2/0.15`, and so in files.

    Parameters
    ----------
    values : finite numbers, at least one and at most 10⁶; any list or array of one dimension. Kept as a tuple.
    """

    name: ClassVar[str] = "values"
    values: Sequence[float] | np.ndarray

    def __post_init__(self) -> None:
        checked = array("values", self.values, ndim=1)
        if checked.size > MOST:
            raise InputError(f"values: expected at most {MOST} values, got {checked.size}; take a schedule by name")
        object.__setattr__(self, "values", tuple(checked.tolist()))

    @classmethod
    def from_text(cls, text: str) -> Values:
        """What `spec` says, read back."""
        try:
            return cls(tuple(map(float, text.split("/"))))
        except ValueError as error:
            reason = f"values: expected numbers such as 0.1/0.2/0.15, got {text[:40]!r}"
            raise (error if isinstance(error, InputError) else InputError(reason)) from None

    @property
    def n_steps(self) -> int:
        """How many steps it is for."""
        return len(self.values)

    @cached_property
    def spec(self) -> str:  # type: ignore[override]
        return f"{self.name}:{'/'.join(map(shortest, self.values))}"

    @cached_property
    def _array(self) -> np.ndarray:
        return freeze(np.array(self.values))

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        return self._array[np.minimum(np.asarray(steps), self.n_steps - 1)]

    def __getstate__(self) -> dict[str, object]:
        return {"values": self.values}


class File:
    """`file:rates.npy` or `file:rates.csv`: the `Values` that stand there, an array or a column (a line of a name may
    stand above it). Results hold the values and not the path."""

    name: ClassVar[str] = "file"

    @staticmethod
    def from_text(text: str) -> Values:
        """Read the file; InputError where that cannot be done."""
        path = Path(text)
        try:
            if path.suffix == ".npy":
                values = np.load(path, allow_pickle=False)
            else:
                values = _column(path.read_text(encoding="utf-8-sig").split("\n"))
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
            raise InputError(f"file: {text}: expected one column of numbers, .csv or .npy, got: {reason}") from None
        return Values(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)


def _column(lines: list[str]) -> np.ndarray:
    """The numbers of a column, (T,), below its name if it has one; ValueError for other lines."""
    texts = [line.strip() for line in lines]
    while texts and not texts[-1]:
        texts.pop()
    try:
        float(texts[0])
    except (IndexError, ValueError):
        if "," in "".join(texts[:1]):
            raise
        texts = texts[1:]
    return np.array([float(text) for text in texts])


@dataclass(frozen=True)
class Function:
    """A function of the steps, (T,) integers to as many values (or one): `lambda t: 0.5 / (1 + t / 100)`.

    A run replaces it by its `Values`, so that files hold them and no process has to know the function.
    """

    function: Callable[[np.ndarray], np.ndarray | float]

    @property
    def spec(self) -> str:
        return f"function {getattr(self.function, '__name__', '')} at {id(self.function):#x}"

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        try:
            given = self.function(np.array(steps))  # a copy: it is the user's
        except Exception as error:
            raise InputError(f"schedule: expected a function of an array of steps, got an error: {error}") from error
        values = np.full(np.shape(steps), given) if np.ndim(given) == 0 else given
        return array("schedule", values, ndim=1, shape=np.shape(steps))

    def over(self, n_steps: int) -> Values:
        """Its values in a run of `n_steps`; InputError for what is not finite, or too long for a file."""
        if n_steps > MOST:
            raise InputError(
                f"schedule: expected at most {MOST} steps with a function, got {n_steps}; take one by name"
            )
        return Values(self(np.arange(max(n_steps, 1))))
