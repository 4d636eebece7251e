"""What a power-law fit reports; `sgdsim.problem.fits` makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sgdsim.common.jsonable import jsonable


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Goodness:
    """How well a straight line in log k describes log λ_k, or the log of the bin means of c_k.

    Parameters
    ----------
    rms : root mean square of the bins' log-residuals from the line; bins weigh by their estimated precision.
    r_squared : share of the bins' variance that the line explains, same weights.
    rms_quadratic : as `rms`, from the best parabola in log k.
    exponent_start, exponent_end : local exponents of that parabola at the two ends of the window.
    """

    rms: float
    r_squared: float
    rms_quadratic: float
    exponent_start: float
    exponent_end: float

    @property
    def curved(self) -> bool:
        """Whether the parabola halves the rms and its exponent changes by over a fifth (0.1 at least) on the window."""
        size = max(0.2 * abs(self.exponent_start + self.exponent_end) / 2, 0.1)
        return self.rms > 2 * self.rms_quadratic and abs(self.exponent_end - self.exponent_start) > size


@dataclass(frozen=True)
class PowerLawFit:
    """What `fit_power_law` found; without coefficients, `kappa`, `A`, `zeta` and all about tails are None.

    Parameters
    ----------
    nu, Lambda : of `λ_k ≈ Λ k^{−ν}`.
    kappa, A, zeta : of `Σ_{l≥k} c_l ≈ A k^{−κ}`, and ζ = κ/ν. Ends of A's interval may be infinite: κ near 0.
    window, tail_window : (k_min, k_max) for λ and for c, both ends included, k from 1.
    goodness, tail_goodness : of the line through log λ, and through log c.
    confidence, seed : as given.
    warnings : sentences that say where a power law is a poor description.
    """

    nu: Estimate
    Lambda: Estimate
    kappa: Estimate | None
    A: Estimate | None
    zeta: Estimate | None
    window: tuple[int, int]
    tail_window: tuple[int, int] | None
    goodness: Goodness
    tail_goodness: Goodness | None
    confidence: float
    seed: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; what is infinite or undefined becomes None."""
        return {name: jsonable(value) for name, value in vars(self).items()}
