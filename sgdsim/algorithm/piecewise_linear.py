"""A schedule of straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common import specs
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.specs import Spec, shortest


@dataclass(frozen=True)
class PiecewiseLinear(Spec):
    """Straight lines through `values[i]` at step `at[i]`, constant after the last: as text
    `piecewise-linear:0=0,1000=1,5000=0.1`.

    Parameters
    ----------
    at : steps in ascending order, from 0.
    values : a finite number for each.
    """

    name: ClassVar[str] = "piecewise-linear"
    at: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        at = tuple(integer("piecewise-linear: at", step) for step in self.at)
        if not at or at[0] != 0 or list(at) != sorted(set(at)) or len(at) != len(self.values):
            raise InputError("piecewise-linear: expected steps 0 < … in ascending order and as many values")
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "values", tuple(number("piecewise-linear: values", value) for value in self.values))

    @classmethod
    def from_text(cls, text: str) -> PiecewiseLinear:
        """What `spec` says, read back."""
        at, values = zip(*specs.pairs(cls.name, text), strict=True)
        return cls(at, values)

    @property
    def spec(self) -> str:
        return f"{self.name}:" + ",".join(f"{t}={shortest(v)}" for t, v in zip(self.at, self.values, strict=True))

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        return np.interp(np.asarray(steps), self.at, self.values)
