"""Exponents of exact curves, over (ν, κ) and in time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.table import Table
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import contour
from sgdsim.studies.base import Findings
from sgdsim.studies.phase_maps.grids import axis
from sgdsim.theory import power_law, stability


@dataclass(frozen=True, eq=False, repr=False)
class ExponentMap(Findings):
    """Exponents ξ of `L ∝ t^{−ξ}` over a grid of spectra.

    Parameters
    ----------
    nu, kappa : (A,), (B,) exponents of the eigenvalues and of the tail sums of c_k.
    measured : (A, B) minus the least-squares slope of log L against log t at `steps`; NaN where the loss diverges.
    predicted : (A, B) `min(ζ, 2 − 1/ν)`; NaN for ν ≤ 1.
    steps : (T,) the steps in the window.
    n, lr, momentum, noise, tau : the size N and the hyperparameters of the curves.
    """

    nu: np.ndarray
    kappa: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    steps: np.ndarray
    n: int
    lr: float
    momentum: float
    noise: float
    tau: float

    @property
    def distance(self) -> np.ndarray:
        """(A, B) ζ − (2 − 1/ν): negative where theory says signal-dominated, positive where noise-dominated."""
        return self.kappa / self.nu[:, None] - (2 - 1 / self.nu[:, None])

    def table(self, edges: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)) -> Table:
        """How far measured exponents are from predicted ones, by phase and `distance` from the transition."""
        rows = []
        for phase, sign in (("signal-dominated", -1), ("noise-dominated", 1)):
            away = sign * self.distance
            for low, high in itertools.pairwise(edges):
                error = (self.measured - self.predicted)[(away > low) & (away <= high)]
                if error.size:
                    worst = float(error[abs(error).argmax()])
                    rows.append([phase, f"{low:g} … {high:g}", error.size, float(error.mean()), worst])
        return Table(["phase", "distance", "spectra", "mean error", "largest error"], rows, "llr")


def exponents(
    nu: Sequence[float] | np.ndarray,
    kappa: Sequence[float] | np.ndarray,
    *,
    n: int,
    window: tuple[float, float],
    lr: float,
    momentum: float = 0.0,
    noise: float = 1.0,
    tau: float = 1.0,
    n_times: int = 9,
) -> ExponentMap:
    """Slopes of exact spectral-diagonal curves over `window` (first and last step) for every pair of exponents.

    The window should end well before the exponential cut-off, near `N^ν/(2α_eff)` steps, and begin late enough for the
    slower of signal and noise to lead. Raises InputError for a window that is not two increasing steps >= 1.
    """
    first, last = (number("window", step, minimum=1) for step in window)
    if not first < last:
        raise InputError(f"window: expected two increasing steps, got {window!r}")
    steps = np.unique(np.geomspace(first, last, integer("n_times", n_times, minimum=2)).round())
    nu, kappa = axis("nu", nu), axis("kappa", kappa)
    measured = np.full((nu.size, kappa.size), np.nan)
    for i, k in np.ndindex(*measured.shape):
        problem = QuadraticProblem.power_law(n, float(nu[i]), float(kappa[k]))
        if lr < stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau):
            log_loss = contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=noise, tau=tau).log_loss
            measured[i, k] = -np.polyfit(np.log(steps), log_loss, 1)[0]
    predicted = np.asarray(power_law.exponent(nu[:, None], kappa / nu[:, None]))
    return ExponentMap(nu, kappa, measured, predicted, steps, n, lr, momentum, noise, tau)


@dataclass(frozen=True, eq=False, repr=False)
class LocalExponents(Findings):
    """Exact curves of one ν and several κ, and their local exponent `−d log L/d log t`, against time.

    Parameters
    ----------
    nu, kappa : the exponents; kappa (B,).
    steps : (T,); loss : (B, T).
    local : (B, T − 1) slopes between neighbouring steps, at `middle` (T − 1,), the geometric mean of the two.
    predicted : (B,) `min(ζ, 2 − 1/ν)`.
    cutoff : (B,) steps after which the finite spectrum falls exponentially.
    """

    nu: float
    kappa: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    middle: np.ndarray
    local: np.ndarray
    predicted: np.ndarray
    cutoff: np.ndarray
    n: int

    def table(self) -> Table:
        """For each κ the predicted exponent, the local one in the middle of the curve, and the end of the law."""
        local = self.local[:, self.middle.size // 2]
        columns = (self.kappa, self.predicted, local, self.cutoff)
        headers = ["κ", "predicted", f"local at t = {self.middle[self.middle.size // 2]:.3g}", "exponential after"]
        return Table(headers, [list(map(float, row)) for row in zip(*columns, strict=True)])


def local_exponents(
    nu: float,
    kappa: Sequence[float] | np.ndarray,
    *,
    n: int,
    last: float,
    lr: float,
    momentum: float = 0.0,
    noise: float = 1.0,
    tau: float = 1.0,
    n_times: int = 61,
) -> LocalExponents:
    """How the exponent of exact curves settles in time, on both sides of the transition; arguments as `exponents`.

    Raises InputError where the loss diverges or `last` is below 10 steps.
    """
    steps = np.unique(np.geomspace(1, number("last", last, minimum=10), n_times).round())
    kappa = axis("kappa", kappa)
    logs, rates = [], []
    for value in kappa:
        problem = QuadraticProblem.power_law(n, nu, float(value))
        largest = float(stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau))
        if lr >= largest:
            raise InputError(f"lr: expected a stable learning rate, below {largest:.4g}, got {lr:g}")
        logs.append(contour.loss_at(problem, steps, lr=lr, momentum=momentum, noise=noise, tau=tau).log_loss)
        rates.append(float(contour.rate(problem, lr=lr, momentum=momentum, noise=noise, tau=tau)))
    log_loss, log_t = np.array(logs), np.log(steps)
    return LocalExponents(
        nu,
        kappa,
        steps,
        np.exp(log_loss),
        np.exp((log_t[1:] + log_t[:-1]) / 2),
        -np.diff(log_loss) / np.diff(log_t),
        np.asarray(power_law.exponent(nu, kappa / nu)),
        -1 / np.array(rates),
        n,
    )
