"""The Hessian of one network: density, outliers, and the share of the gradient that lies in their span."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator

from sgdsim.common.jsonable import jsonable
from sgdsim.common.statistics import mean_and_error
from sgdsim.networks.curvature import Curvature
from sgdsim.problem import lanczos


@dataclass(frozen=True, eq=False)
class HessianAt:
    """The full-batch loss L = ½·mean((f − y)²), summed over outputs, after `step` updates, and its Hessian in P
    parameters.

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
    density: lanczos.SpectralDensity

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

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON-able values; NaN becomes None."""
        derived = ("gradient_fraction", "bulk_edge", "leading_ratio")
        own = [name for name in vars(self) if name != "density"]
        return {name: jsonable(getattr(self, name)) for name in (*own, *derived, "density")}


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


@dataclass(frozen=True)
class Look:
    """How to look at a Hessian."""

    top: int
    gap: float
    lanczos_steps: int
    n_probes: int
    seed: int
    tolerance: float

    def at(self, curvature: Curvature, step: int) -> HessianAt:
        hessian, gradient = curvature.hessian(), curvature.gradient()
        top = self.extreme(hessian, self.top, 1.0)
        density, traces = self.density(hessian, top)
        trace, trace_error = mean_and_error(traces)
        bottom = self.extreme(hessian, 1, -1.0)
        smallest = float(bottom.eigenvalues[0])
        floor = self.tolerance * max(abs(top.eigenvalues[0]), abs(smallest))
        length = float(np.linalg.norm(gradient))
        along = top.eigenvectors.T @ (gradient / length) if length > 0 else np.full(self.top, np.nan)
        return HessianAt(
            step=step,
            loss=curvature.loss(),
            gradient_norm=length,
            eigenvalues=top.eigenvalues,
            residuals=top.residuals,
            smallest=smallest,
            smallest_residual=float(bottom.residuals[0]),
            trace=float(trace),
            trace_error=float(trace_error),
            captured=np.cumsum(along**2),
            n_outliers=count_outliers(top.eigenvalues, smallest, self.gap, floor),
            density=density,
        )

    def density(
        self, hessian: LinearOperator, top: lanczos.TopEigenpairs
    ) -> tuple[lanczos.SpectralDensity, np.ndarray]:
        """The density of all P eigenvalues, and the trace by each probe, (probes,).

        The eigenvalues in `top` are exact in it, each of weight 1/P; the probes see what lies beyond them only.
        """
        size, known = top.eigenvectors.shape
        exact = np.tile(top.eigenvalues, (self.n_probes, 1))
        if known == size:
            nodes, weights = exact, np.full(exact.shape, 1.0 / (size * self.n_probes))
        else:
            nodes, weights = lanczos.quadrature(
                hessian, n_steps=self.lanczos_steps, n_probes=self.n_probes, seed=self.seed, without=top.eigenvectors
            )
            nodes = np.hstack([exact, nodes])
            weights = np.hstack([np.full(exact.shape, 1 / self.n_probes), weights * (size - known)]) / size
        return lanczos.smoothed(nodes, weights), size * self.n_probes * (nodes * weights).sum(1)

    def extreme(self, hessian: LinearOperator, k: int, sign: float) -> lanczos.TopEigenpairs:
        """The k largest (`sign` 1) or smallest (−1) eigenpairs, outermost first.

        A multiple of the identity is added, about as large as the Hessian: then the residual that counts as converged
        is relative to the spectrum's range, and not to each eigenvalue, however close to 0 it lies.
        """
        probe = np.random.default_rng(self.seed).standard_normal(hessian.shape[0])
        diagonal, off, _ = lanczos.tridiagonal(hessian, probe, 20)
        shift = float(np.abs(scipy.linalg.eigvalsh_tridiagonal(diagonal, off)).max()) or 1.0
        shifted = LinearOperator(hessian.shape, matvec=lambda v: sign * (hessian @ v) + shift * v, dtype=np.float64)
        pairs = lanczos.top_eigenpairs(shifted, k, tolerance=self.tolerance, seed=self.seed)
        # Not `pairs.eigenvalues − shift`, which has the rounding errors of the shift: the Hessian may be 0.
        values = np.einsum("ij,ij->j", pairs.eigenvectors, hessian @ pairs.eigenvectors)
        order = np.argsort(-sign * values, kind="stable")
        return lanczos.TopEigenpairs(values[order], pairs.eigenvectors[:, order], pairs.residuals[order])
