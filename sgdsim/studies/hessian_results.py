"""What `sgdsim.studies.hessians` finds: the Hessian at each step looked at, and which eigenvalues are outliers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdsim.algorithm.schedules import Schedule
from sgdsim.common.jsonable import jsonable
from sgdsim.common.table import Table
from sgdsim.problem.lanczos import SpectralDensity
from sgdsim.studies.base import Findings


@dataclass(frozen=True, eq=False)
class HessianAt:
    """The full-batch loss L = ½·mean((f − y)²) and its Hessian in P parameters after `step` updates.

    Attributes
    ----------
    loss, gradient_norm : L and ‖∇L‖.
    eigenvalues, residuals : the k largest eigenvalues, descending, and ‖Hu − λu‖ of each, measured; (k,).
    smallest, smallest_residual : the same of the smallest (most negative) eigenvalue.
    trace, trace_error : of the Hessian: mean over the density's probes, and its standard error (NaN for one probe).
    captured : ‖P_j ∇L‖² / ‖∇L‖², j = 1…k, P_j the projection on the j leading eigenvectors, (k,); a random direction
        would have j/P. NaN where the gradient is 0.
    n_outliers : see `count_outliers`.
    density : `sgdsim.problem.lanczos.SpectralDensity` of all P eigenvalues, with its nodes and weights: by stochastic
        Lanczos quadrature, but for the k largest, which are exact.
    """

    step: int
    loss: float
    gradient_norm: float
    eigenvalues: np.ndarray
    residuals: np.ndarray
    smallest: float
    smallest_residual: float
    trace: float
    trace_error: float
    captured: np.ndarray
    n_outliers: int
    density: SpectralDensity

    @property
    def gradient_fraction(self) -> float:
        """‖P∇L‖²/‖∇L‖² for the span of the outliers; 0 where there are none."""
        return float(self.captured[self.n_outliers - 1]) if self.n_outliers else 0.0

    @property
    def bulk_edge(self) -> float:
        """How far the rest of the spectrum reaches: max(λ_{m+1}, |λ_min|) beside m outliers."""
        return max(float(self.eigenvalues[self.n_outliers]), abs(self.smallest))

    @property
    def leading_ratio(self) -> float:
        """λ_1/λ_2; NaN where λ_2 is 0."""
        first, second = (float(value) for value in self.eigenvalues[:2])
        return first / second if second else math.nan

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; NaN becomes None."""
        derived = ("gradient_fraction", "bulk_edge", "leading_ratio")
        own = [name for name in vars(self) if name != "density"]
        return {name: jsonable(getattr(self, name)) for name in (*own, *derived, "density")}


@dataclass(frozen=True, eq=False)
class HessianSpectra(Findings):
    """What `sgdsim.studies.hessians.hessian_spectra` gives: `at`, one `HessianAt` for each of the `steps` reached.

    `lr`: the torch learning rate used, a number or a schedule (None if Ctrl-C came before it was known);
    `diverged_at`: the step at which the loss had passed 1e10 times its start or the mean of y²/2 (or was no
    finite number), None if it never did; `interrupted`: ended early by Ctrl-C.
    """

    at: tuple[HessianAt, ...]
    steps: tuple[int, ...]
    lr: float | Schedule | None
    n_parameters: int
    diverged_at: int | None
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; NaN becomes None, a schedule its text form."""
        lr = self.lr.spec if isinstance(self.lr, Schedule) else self.lr
        return {**vars(self), "lr": lr, "steps": list(self.steps), "at": [record.as_dict() for record in self.at]}

    def table(self) -> Table:
        """A row for each step looked at; shares are of ‖∇L‖², in the span of the outliers and of up to 10 leading."""
        leading = min(10, self.at[0].captured.size) if self.at else 0
        headers = ["step", "loss", "|gradient|", "λ_1", "λ_1/λ_2", "λ_min", "trace", "outliers", "in them"]
        rows = [
            [
                at.step, f"{at.loss:.3g}", f"{at.gradient_norm:.3g}", f"{at.eigenvalues[0]:.3g}",
                f"{at.leading_ratio:.2f}", f"{at.smallest:.3g}", f"{at.trace:.3g} ± {at.trace_error:.2g}",
                at.n_outliers, f"{at.gradient_fraction:.1%}", f"{at.captured[leading - 1]:.1%}",
            ]
            for at in self.at
        ]  # fmt: skip
        return Table([*headers, f"in {leading} leading"], rows)


def count_outliers(eigenvalues: np.ndarray, smallest: float, gap: float = 2.0, floor: float = 0.0) -> int:
    """How many of the leading `eigenvalues` (k,), descending, stand apart from the rest of the spectrum.

    The largest m < k with λ_m > gap · max(λ_{m+1}, |λ_min|, floor); `floor`: what cannot be told from 0. With the
    default gap of 2 and a bulk around 0, the empty interval below the outliers is wider than everything right of 0 that
    lies beyond it, and than all that lies left of 0. A power law λ_k = k^(−a) without negative eigenvalues has as many
    as there are m < 1/(2^(1/a) − 1): none for a ≤ 1, one for a = 1.5, two for a = 2.
    """
    edges = np.maximum(eigenvalues[1:], max(abs(smallest), floor))
    apart = np.flatnonzero(eigenvalues[:-1] > gap * edges)
    return int(apart[-1]) + 1 if apart.size else 0
