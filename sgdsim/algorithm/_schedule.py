"""What a schedule is."""

from __future__ import annotations

from typing import Protocol, TypeGuard, runtime_checkable

import numpy as np

PARAMETERS = ("lr", "momentum", "batch_size")  # what a schedule may give


@runtime_checkable
class Schedule(Protocol):
    """What `SGD` needs of a schedule; any object of this form will do."""

    @property
    def spec(self) -> str: ...

    def __call__(self, steps: np.ndarray) -> np.ndarray: ...


def changes(value: object) -> TypeGuard[Schedule]:
    """Whether a hyperparameter is a schedule. Numbers first: a protocol's check is slow."""
    return not isinstance(value, (int, float)) and isinstance(value, Schedule)
