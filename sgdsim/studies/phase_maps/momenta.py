"""The best momentum of a spectrum, and of many."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgdsim.common.checks import number
from sgdsim.common.table import Cell, Table
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.recurrence import contour
from sgdsim.studies.base import Findings
from sgdsim.studies.phase_maps.grids import axis
from sgdsim.theory import optimal, stability

_MOMENTA = np.linspace(-0.92, 0.92, 24)
_TOWARD_ONE = 1 - np.geomspace(0.06, 2e-3, 6)  # a budget-like optimum has momentum close to 1
_FRACTIONS = np.geomspace(0.02, 0.97, 14)  # of the largest stable learning rate
_ZOOMS = 8  # each one looks at 7 × 7 points a third as far apart; valleys lie across the grid


@dataclass(frozen=True)
class BestMomentum:
    """The (α, β) of the least loss at a horizon, and the best without momentum; losses `L` at the horizon."""

    lr: float
    momentum: float
    loss: float
    plain_lr: float
    plain_loss: float

    @property
    def gain(self) -> float:
        """1 − loss/plain_loss, from momentum of the best sign and size."""
        return 1 - self.loss / self.plain_loss


def momentum_profile(
    problem: QuadraticProblem, *, noise: float, horizon: float, tau: float = 1.0
) -> tuple[BestMomentum, np.ndarray, np.ndarray]:
    """The best (α, β) by ever finer grids, on few modes and mostly by contour: for maps of many cells.

    Quicker than `optimal.best` and about as good: β to some hundredths where the minimum is flat, the loss to 10⁻⁴. No
    β above 0.998 is looked at. Also returns the first grid's momenta (M,) and the least loss over α at each (M,).

    Raises InputError for a horizon below 100 steps, where few momenta are within the contour's reach.
    """
    horizon = number("horizon", horizon, minimum=100)
    thin = compression.sketch(problem)

    def log_loss(beta: np.ndarray, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At momenta (M,) and fractions (F,) or (M, F) of the threshold there: log L and α, both (M, F)."""
        top = stability.diagonal_max_lr(thin, momentum=beta, noise=noise, tau=tau)
        lr = top[:, None] * fraction
        beta = np.broadcast_to(beta[:, None], lr.shape)
        at_horizon = functools.partial(contour.loss_at, thin, int(horizon), noise=noise, tau=tau)
        inverted = at_horizon(lr=lr, momentum=beta, method="contour")
        logs = inverted.log_loss
        # Close to |β| = 1 the momentum has not faded at the horizon, and the contour does not see it.
        poor = ~(inverted.error < 1e-4)
        if poor.any():
            logs[poor] = at_horizon(lr=lr[poor], momentum=beta[poor], method="recurrence").log_loss
        return np.where(np.isfinite(logs), logs, np.inf), lr

    momenta = np.sort(np.concatenate([_MOMENTA, _TOWARD_ONE]))
    table, _ = log_loss(momenta, _FRACTIONS)
    columns = table.argmin(1)
    low, high = (_FRACTIONS[np.clip(columns + step, 0, _FRACTIONS.size - 1)] for step in (-1, 1))
    finer, _ = log_loss(momenta, np.geomspace(low, high, 13, axis=1))
    profile = np.minimum(table.min(1), finer.min(1))
    # Momenta as log(1 − β), fractions as their log-odds: the grids stay inside their ranges.
    row, column = np.unravel_index(np.argmin(table), table.shape)
    centre = np.array([math.log(1 - momenta[row]), _log_odds(_FRACTIONS[column])])
    spread = np.array([0.12, 0.35])
    for _ in range(_ZOOMS):
        offsets = np.linspace(-1, 1, 7)
        beta = 1 - np.exp(np.clip(centre[0] + spread[0] * offsets, math.log(0.002), math.log(1.98)))
        odds = centre[1] + spread[1] * offsets
        table, lr = log_loss(beta, 1 / (1 + np.exp(-odds)))
        row, column = np.unravel_index(np.argmin(table), table.shape)
        centre = np.array([math.log(1 - beta[row]), odds[column]])
        spread = spread / (1 if {int(row), int(column)} & {0, 6} else 3)  # the minimum left the frame: no zoom
    plain_lr, plain = _best_plain(log_loss)
    best = BestMomentum(
        float(lr[row, column]), float(beta[row]), math.exp(table[row, column]), plain_lr, math.exp(plain)
    )
    if plain < table[row, column]:
        best = BestMomentum(plain_lr, 0.0, math.exp(plain), plain_lr, math.exp(plain))
    return best, momenta, np.exp(profile)


def _best_plain(log_loss) -> tuple[float, float]:
    fractions = _FRACTIONS
    for _ in range(3):
        table, lr = log_loss(np.zeros(1), fractions)
        k = int(np.argmin(table[0]))
        low, high = fractions[max(k - 1, 0)], fractions[min(k + 1, fractions.size - 1)]
        fractions = np.geomspace(low, high, 15)
    return float(lr[0, k]), float(table[0, k])


def _log_odds(fraction: float) -> float:
    return math.log(fraction / (1 - fraction))


@dataclass(frozen=True, eq=False, repr=False)
class MomentumMap(Findings):
    """The best momentum over a grid of spectra.

    Parameters
    ----------
    nu, kappa : (A,), (B,).
    momentum, gain : (A, B) β* of the least loss at `horizon` over all (α, β), and 1 − loss/(best loss at β = 0).
    helps : (A, B) the condition for β* < 0 in the noise-dominated phase (`optimal.negative_momentum_helps`) of these
        finite spectra.
    n, noise, horizon, tau : size N, γ, steps and closure.
    """

    nu: np.ndarray
    kappa: np.ndarray
    momentum: np.ndarray
    gain: np.ndarray
    helps: np.ndarray
    n: int
    noise: float
    horizon: float
    tau: float

    def table(self) -> Table:
        """On how many spectra the best momentum is negative, and the condition for it holds, in either phase."""
        above = self.kappa > 2 * self.nu[:, None] - 1
        rows: list[list[Cell]] = []
        for phase, group in (("signal-dominated", ~above), ("noise-dominated", above)):
            negative = (self.momentum < 0) & group
            largest = float(self.gain[negative].max()) if negative.any() else math.nan
            rows.append([phase, int(group.sum()), int(negative.sum()), int((self.helps & group).sum()), largest])
        return Table(["phase", "spectra", "β* < 0", "condition holds", "largest gain of β* < 0"], rows, "lr")


def momentum_map(
    nu: Sequence[float] | np.ndarray,
    kappa: Sequence[float] | np.ndarray,
    *,
    n: int,
    horizon: float,
    noise: float = 1.0,
    tau: float = 1.0,
) -> MomentumMap:
    """`momentum_profile` for every pair of exponents, each spectrum with N = n."""
    nu, kappa = axis("nu", nu), axis("kappa", kappa)
    momentum, gain = (np.empty((nu.size, kappa.size)) for _ in range(2))
    helps = np.empty((nu.size, kappa.size), dtype=bool)
    for i, k in np.ndindex(*helps.shape):
        problem = QuadraticProblem.power_law(n, float(nu[i]), float(kappa[k]))
        best, _, _ = momentum_profile(problem, noise=noise, horizon=horizon, tau=tau)
        momentum[i, k], gain[i, k] = best.momentum, best.gain
        helps[i, k] = optimal.negative_momentum_helps(problem, float(nu[i]))
    return MomentumMap(nu, kappa, momentum, gain, helps, n, noise, float(horizon), tau)


@dataclass(frozen=True, eq=False, repr=False)
class ClampedMomentum(Findings):
    """The best momentum where the spectrum is bounded below, for several horizons.

    Parameters
    ----------
    floors, horizons : λ_min (F,) and steps (H,).
    momentum, gain, loss : (F, H) as in `MomentumMap`; `loss` at the optimum.
    rate : (F,) with β = 0 and α at half its threshold, σ₁ of the exponential fall `L ~ e^{σ₁t}`.
    """

    nu: float
    kappa: float
    floors: np.ndarray
    horizons: np.ndarray
    momentum: np.ndarray
    gain: np.ndarray
    loss: np.ndarray
    rate: np.ndarray
    n: int
    noise: float

    def table(self) -> Table:
        """β* for each λ_min and horizon, and the time after which the loss falls exponentially."""
        headers = ["λ_min", "tail after", *(f"β* at t = {horizon:g}" for horizon in self.horizons)]
        columns = (self.floors, -1 / self.rate, *self.momentum.T)
        return Table(headers, [list(map(float, row)) for row in zip(*columns, strict=True)])


def clamped_momentum(
    nu: float,
    kappa: float,
    floors: Sequence[float] | np.ndarray,
    horizons: Sequence[float] | np.ndarray,
    *,
    n: int,
    noise: float = 1.0,
) -> ClampedMomentum:
    """`momentum_profile` of spectra `λ_k = λ_min + (1 − λ_min)k^{−ν}` for every λ_min of `floors` and every horizon."""
    floors, horizons = np.asarray(floors, dtype=np.float64), axis("horizons", horizons)
    shape = (floors.size, horizons.size)
    momentum, gain, loss = (np.empty(shape) for _ in range(3))
    rate = np.empty(floors.size)
    for i, floor in enumerate(floors):
        problem = QuadraticProblem.power_law(n, nu, kappa, lambda_min=float(floor))
        half = 0.5 * float(stability.diagonal_max_lr(problem, momentum=0.0, noise=noise))
        rate[i] = contour.rate(problem, lr=half, noise=noise)
        for k, horizon in enumerate(horizons):
            best, _, _ = momentum_profile(problem, noise=noise, horizon=float(horizon))
            momentum[i, k], gain[i, k], loss[i, k] = best.momentum, best.gain, best.loss
    return ClampedMomentum(nu, kappa, floors, horizons, momentum, gain, loss, rate, n, noise)
