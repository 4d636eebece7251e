"""All pairs of modes of the averaged regime, step by step and in full: for early times, and to check later ones by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.common.blas import one_blas_thread

if TYPE_CHECKING:
    from sgdsim.recurrence.averaged_modes import AveragedModes


class Stepped:
    """Second moments of all pairs of modes: (n, n) each of residuals, residual and velocity, velocities."""

    def __init__(self, averaged: AveragedModes) -> None:
        self.of, self.now = averaged, 0
        self.rr = np.multiply.outer(averaged.a, averaged.a)
        self.rv, self.vv = np.zeros_like(self.rr), np.zeros_like(self.rr)
        x, beta = averaged.x, averaged.momentum
        self.kick = averaged.form.kick(beta)
        self.maps = (1 - self.kick * x, averaged.form.carry(beta)), (-x, beta)

    def to(self, step: int) -> tuple[float, float]:
        """The loss and `Σ gram ∘ E aaᵀ` (NaN without test points) at `step`, not before the last one asked for."""
        with np.errstate(over="ignore", invalid="ignore"), one_blas_thread():
            while self.now < step:
                self._step()
        loss = float(np.trace(self.rr)) / (2 * self.of.n)
        if self.of.gram is None:
            return loss, math.nan
        return loss, float(np.vdot(self.of.gram, self.rr))

    def _step(self) -> None:
        of, (from_r, from_v), (to_r, to_v) = self.of, *self.maps
        noise = of.gamma * (of.n * of.points.feed(of.points.seen(self.rr)) - self.rr)
        noise[np.diag_indices(of.x.size)] += of.label
        noise *= np.multiply.outer(of.x, of.x)
        left_r, left_v = from_r[:, None], to_r[:, None]
        mixed = left_r * from_v * self.rv
        rr = left_r * from_r * self.rr + mixed + mixed.T + from_v**2 * self.vv + self.kick**2 * noise
        rv = left_r * to_r * self.rr + left_r * to_v * self.rv + from_v * to_r * self.rv.T
        rv += from_v * to_v * self.vv + self.kick * noise
        mixed = left_v * to_v * self.rv
        vv = left_v * to_r * self.rr + mixed + mixed.T + to_v**2 * self.vv + noise
        self.rr, self.rv, self.vv = (rr + rr.T) / 2, rv, (vv + vv.T) / 2
        self.now += 1
