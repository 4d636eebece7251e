"""Schedules that fall over a given number of steps, as torch's of these names do, after a warm-up if wanted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import integer, number
from sgdsim.common.specs import Spec


@dataclass(frozen=True)
class _Falling(Spec, ABC):
    """From `start` to `final` in `total` steps, of which the first `warmup` rise linearly from `start/warmup`."""

    synonyms: ClassVar[Mapping[str, str]] = {"peak": "start"}
    start: float
    total: int
    final: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        number(f"{self.name}: start", self.start, minimum=0.0)
        number(f"{self.name}: final", self.final, minimum=0.0)
        integer(f"{self.name}: warmup", self.warmup)
        integer(f"{self.name}: total", self.total, minimum=int(self.warmup) + 1)

    @abstractmethod
    def shape(self, phase: np.ndarray) -> np.ndarray:
        """From 1 at phase 0 to 0 at phase 1."""

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        steps = np.asarray(steps, dtype=np.float64)
        phase = np.clip((steps - self.warmup) / (self.total - self.warmup), 0.0, 1.0)
        falling = self.final + (self.start - self.final) * self.shape(phase)
        return np.where(steps < self.warmup, self.start * (steps + 1) / max(self.warmup, 1), falling)


@dataclass(frozen=True)
class Cosine(_Falling):
    """Half a cosine from `start` down to `final` at step `total`, constant from there on: torch's
    `CosineAnnealingLR(T_max=total, eta_min=final)` up to there. The first `warmup` steps of the total rise linearly.

    >>> Cosine(start=1.0, total=4)(np.arange(5))
    array([1.    , 0.8536, 0.5   , 0.1464, 0.    ])
    """

    name: ClassVar[str] = "cosine"

    def shape(self, phase: np.ndarray) -> np.ndarray:
        """`(1 + cos πφ)/2`."""
        return 0.5 * (1 + np.cos(np.pi * phase))


@dataclass(frozen=True)
class Linear(_Falling):
    """A straight line from `start` down to `final` at step `total`, constant from there on: torch's
    `LinearLR(1, final/start, total)`. The first `warmup` steps of the total rise linearly.

    >>> Linear(start=1.0, total=4, warmup=2)(np.arange(5))
    array([0.5, 1. , 1. , 0.5, 0. ])
    """

    name: ClassVar[str] = "linear"

    def shape(self, phase: np.ndarray) -> np.ndarray:
        """`1 − φ`."""
        return 1 - phase
