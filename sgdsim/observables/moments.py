"""The residual, mode by mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.observables.base import Observable
from sgdsim.problem import Problem


@dataclass(frozen=True)
class Moments(Observable):
    """The second moments c_k of every mode: `Σ c_k/(2N)` is the loss."""

    name: ClassVar[str] = "moments"
    needs: ClassVar[tuple[str, ...]] = ("moments",)
    dims: ClassVar[tuple[str, ...]] = ("mode",)
    label: ClassVar[str] = "moments"
    words: ClassVar[str] = "second moments c_k of the residual in the eigenbasis"

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        return given["moments"]
