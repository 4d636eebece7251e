"""A linear warm-up before any schedule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.algorithm._schedule import Schedule
from sgdsim.algorithm.values import Function
from sgdsim.common.checks import InputError, integer

_KEY = re.compile(r"(?:^|,)warmup=([^,]*)")


@dataclass(frozen=True)
class WarmUp:
    """`steps` steps that rise linearly to the first value of `schedule`, which begins then: step t of the warm-up has
    (t + 1)/steps of it, as in `torch.optim.lr_scheduler.LinearLR` before another in `SequentialLR`.

    As text a key of the schedule's own: `power:start=1,exponent=0.5,warmup=100`. Schedules that have a `warmup`
    themselves count it in their `total`.

    Parameters
    ----------
    schedule : any schedule but a function of Python, which may rise by itself.
    steps : ≥ 1.

    >>> from sgdsim.algorithm.schedules import Power
    >>> WarmUp(Power(start=1.0, exponent=0.5), 2)(np.array([0, 1, 2, 5]))
    array([0.5, 1. , 1. , 0.5])
    """

    name: ClassVar[str] = "warmup"
    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        integer("warmup", self.steps, minimum=1)
        if isinstance(self.schedule, Function) or not callable(self.schedule):
            raise InputError("warmup: expected a schedule by name or of values, got a number or a function")

    @property
    def spec(self) -> str:
        """The schedule's text with one more key."""
        return f"{self.schedule.spec},warmup={self.steps}"

    @property
    def n_steps(self) -> float:
        """The steps after which it ends; infinite where the schedule does not."""
        return getattr(self.schedule, "n_steps", math.inf) + self.steps

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        t = np.asarray(steps)
        later = self.schedule(np.maximum(t - self.steps, 0))
        return np.where(t < self.steps, later * (np.minimum(t, self.steps) + 1.0) / self.steps, later)


def without_warmup(parameter: str, text: str, forms: Mapping[str, type]) -> tuple[str, int]:
    """A schedule's text without the key `warmup`, and the steps that it says; 0 where it has none or is a parameter of
    the form itself. `forms`: by name. InputError for what is no whole number ≥ 1."""
    head, colon, tail = text.partition(":")
    found = _KEY.search(tail)
    if found is None or head not in forms or "warmup" in getattr(forms[head], "__dataclass_fields__", {}):
        return text, 0
    try:
        steps = integer("warmup", int(found[1]), minimum=1)
    except ValueError:
        raise InputError(f"{parameter}: {head}: warmup: expected a number of steps >= 1, got {found[1]!r}") from None
    return head + colon + (tail[: found.start()] + tail[found.end() :]).lstrip(","), steps
