"""A schedule of batch sizes: epochs to their last point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import integer
from sgdsim.common.specs import Spec


@dataclass(frozen=True)
class WholeEpochs(Spec):
    """Batches of `size` and, at the end of each epoch of `points` points, one of those that are left: with sampling
    "reshuffle" what a data loader with `drop_last=False` draws. As text `whole-epochs:size=32,points=500`.

    >>> WholeEpochs(size=4, points=10)(np.arange(6))
    array([4., 4., 2., 4., 4., 2.])
    """

    name: ClassVar[str] = "whole-epochs"
    size: int
    points: int

    def __post_init__(self) -> None:
        integer("whole-epochs: points", self.points, minimum=1)
        integer("whole-epochs: size", self.size, minimum=1, maximum=int(self.points))

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        batches = -(-self.points // self.size)
        last = self.points - self.size * (batches - 1)
        return np.where(np.asarray(steps) % batches == batches - 1, float(last), float(self.size))
