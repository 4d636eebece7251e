"""Eigendecomposition of the kernel: eigenvalues in units of the largest, and the eigenbasis where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import scipy.linalg

from sgdsim.common import devices
from sgdsim.common.checks import InputError, array, freeze, frozen_state, integer, number, own_array
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.shown import Shown
from sgdsim.common.statistics import mean_and_error

if TYPE_CHECKING:
    from sgdsim.problem.lanczos import Operator, SpectralDensity, SpectralMeasure, TopEigenpairs

# Rounding leaves eigenvalues of a positive semidefinite kernel above about -N·eps·λ_max; a kernel computed in float32
# and passed on as float64 above about -1e-6·λ_max.
NEGATIVE_TOLERANCE = 1e-6
SYMMETRY_TOLERANCE = 1e-5

LISTED = 2_000_000  # eigenvalues up to which `Spectrum.by_rank` lists them all
_SMALLEST = 1e-290  # of a kernel's largest entry: learning rates in its units, 1/λ_max times N, are still floats

# Errors of LAPACK's eigh are about N·eps, 1e-12 at N = 5000.
QUALITY_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Quality:
    """How good a full decomposition is, measured after the fact.

    `residual`: largest ‖K u_k − λ_k u_k‖ over λ_max; `orthogonality`: largest entry of |UᵀU − 1|; `trace`: |Σλ − tr K|
    over Σ|λ|; `negative`: how many eigenvalues came out below zero by rounding and were set to 0, `most_negative` the
    lowest of them over λ_max. Of a spectrum `from_operator`, residual and orthogonality are those of the eigenpairs
    known one by one, and `trace` is the standard error of Σλ over Σλ (None: from one probe).
    """

    residual: float
    orthogonality: float
    trace: float | None
    negative: int
    most_negative: float


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Shown):
    """Eigenvalues and eigenvectors of `K̂ = Θ/λ_max(Θ)`.

    Parameters
    ----------
    eigenvalues : (modes,) descending, the first equal to 1, none negative.
    eigenvectors : (n, n) with the eigenvectors in columns, or None where only the eigenvalues are known.
    scale : λ_max(Θ), in the units of the kernel.
    quality : what was measured of the decomposition, where there was one.
    multiplicity : (modes,) for how many of the n eigenvalues each mode stands, real numbers ≥ 0 that sum to n; None:
        each for one. A mode with multiplicity 0 is a place where the residual has weight, in a spectrum that is known
        by quadrature alone. Not with eigenvectors.
    size : n, where the multiplicities are floats whose sum does not say it: large, or `math.inf`. The last mode then
        stands for all that are left. None: their sum.
    outputs : C of a kernel over all C outputs of n points, (nC, nC): there are C eigenvalues for each point. 1 also
        where outputs share one kernel over the points.

    Arrays are copied and read-only.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray | None = None
    scale: float = 1.0
    quality: Quality | None = None
    multiplicity: np.ndarray | None = None
    size: float | None = None
    probe: np.ndarray | None = None
    outputs: int = 1
    __setstate__ = frozen_state

    def __post_init__(self) -> None:
        values = own_array("eigenvalues", self.eigenvalues, ndim=1)
        if values[0] != 1.0 or (np.diff(values) > 0).any() or values[-1] < 0:
            raise InputError(
                "eigenvalues: expected non-negative values in descending order from 1 (divide by the largest), "
                f"got {values[0]:g} … {values[-1]:g}"
            )
        object.__setattr__(self, "eigenvalues", values)
        if self.eigenvectors is not None:
            vectors = own_array("eigenvectors", self.eigenvectors, ndim=2, shape=(values.size, values.size))
            object.__setattr__(self, "eigenvectors", vectors)
        if values.size % integer("outputs", self.outputs, minimum=1) and self.multiplicity is None:
            raise InputError(f"eigenvalues: expected {self.outputs} for each point, got {values.size}")
        if number("scale", self.scale) <= 0:
            raise InputError(f"scale: expected λ_max(Θ) > 0, got {self.scale}")
        if self.multiplicity is not None:
            object.__setattr__(self, "multiplicity", self._checked_multiplicity())
        if self.probe is not None:
            object.__setattr__(self, "probe", own_array("probe", self.probe, ndim=1, shape=values.shape))

    def _checked_multiplicity(self) -> np.ndarray:
        counts = own_array("multiplicity", self.multiplicity, ndim=1, shape=self.eigenvalues.shape)
        total = counts.sum()
        n = round(total) if self.size is None else self.size * self.outputs
        if counts.min() < 0 or n < 1 or (math.isfinite(n) and abs(total - n) > 1e-6 * total):
            raise InputError(
                "multiplicity: expected numbers >= 0 that sum to the number of training points, got "
                f"{counts.min():g} to {counts.max():g} with sum {total:.10g}"
            )
        if self.eigenvectors is not None:
            raise InputError("multiplicity: expected a spectrum without eigenvectors, got one with")
        return counts

    def facts(self) -> dict[str, object]:
        """Its sizes, its scale, its trace, and whether eigenvectors are known."""
        modes = {} if self.n_modes == self.n else {"n_modes": self.n_modes}
        trace = (self.eigenvalues if self.multiplicity is None else self.eigenvalues * self.multiplicity).sum()
        return (
            {"n": self.n} | modes | {"trace": trace, "scale": self.scale, "eigenvectors": self.eigenvectors is not None}
        )

    @property
    def n(self) -> int:
        """Number of training points N, one for each eigenvalue of each output; maybe `math.inf`."""
        if self.size is not None:
            return cast(int, self.size)  # infinity is no int, but no array has that length either
        return self.n_eigenvalues // self.outputs

    @property
    def n_eigenvalues(self) -> int:
        """Number of eigenvalues, counted with their multiplicity; maybe `math.inf`."""
        if self.size is not None:
            return cast(int, self.size * self.outputs)
        return self.eigenvalues.size if self.multiplicity is None else round(self.multiplicity.sum())

    @property
    def n_modes(self) -> int:
        """Number of modes: of different places in the spectrum, where there is a multiplicity; else n."""
        return self.eigenvalues.size

    @property
    def counts(self) -> np.ndarray:
        """For how many of the n eigenvalues each mode stands, (modes,): 1 where there is no multiplicity."""
        return np.ones(self.n_modes) if self.multiplicity is None else self.multiplicity

    @property
    def known_by(self) -> str:
        """What made modes with a multiplicity."""
        return "Lanczos quadrature" if self.size is None else "bins"

    @property
    def moving(self) -> np.ndarray:
        """Which modes SGD ever moves, (modes,) bool: λ > 0, and more than rounding, N·eps, where a kernel matrix was
        decomposed. It decides what happens as t → ∞; at any finite t such modes hardly differ."""
        return self.eigenvalues > (0.0 if self.eigenvectors is None else self.n_modes * np.finfo(float).eps)

    @classmethod
    def from_kernel(cls, kernel: np.ndarray, *, device: str = "cpu") -> Spectrum:
        """Full eigendecomposition of a symmetric positive semidefinite kernel matrix Θ, (n, n), on "cpu" or "cuda".

        Negative eigenvalues within rounding of zero become 0 and are counted in `quality`.

        Raises
        ------
        InputError : not square, not finite, not symmetric, zero, or with truly negative eigenvalues; or a
            decomposition that fails its check.
        """
        kernel = array("kernel", kernel, ndim=2)
        if kernel.shape[0] != kernel.shape[1]:
            raise InputError(f"kernel: expected a square matrix, got shape {kernel.shape}")
        size = np.abs(kernel).max()
        if size == 0:
            raise InputError("kernel: expected a matrix with a positive eigenvalue, got all zeros")
        if size < _SMALLEST:
            raise InputError(
                f"kernel: expected entries above {_SMALLEST:g}, got {size:.3g} as the largest; scale it up"
            )
        # Squares and sums of entries beyond 1e100 are no floats. A power of two changes no digit.
        exponent = 0 if 1e-100 < size < 1e100 else int(np.frexp(size)[1])
        if exponent:
            kernel, size = np.ldexp(kernel, -exponent), np.ldexp(size, -exponent)
        asymmetry = np.abs(kernel - kernel.T).max() / size
        if asymmetry > SYMMETRY_TOLERANCE:
            raise InputError(
                f"kernel: expected a symmetric matrix, got |K - Kᵀ| up to {asymmetry:.2g} of its largest entry"
            )
        symmetric = (kernel + kernel.T) * 0.5
        values, vectors = _eigh(symmetric, devices.resolve(device))
        values, vectors = values[::-1], np.ascontiguousarray(vectors[:, ::-1])
        quality = _quality(symmetric, values, vectors)
        if values[0] <= 0 or values[-1] < -NEGATIVE_TOLERANCE * values[0]:
            raise InputError(
                "kernel: expected a positive semidefinite matrix, got eigenvalues from "
                f"{np.ldexp(values[-1], exponent):.3g} to {np.ldexp(values[0], exponent):.3g}"
            )
        with np.errstate(over="ignore"):
            scale = float(np.ldexp(values[0], exponent))
        if not np.isfinite(scale):
            raise InputError("kernel: expected a largest eigenvalue below 1.8e308, got one beyond; scale it down")
        return cls(np.maximum(values / values[0], 0.0), freeze(vectors), scale, quality)

    @classmethod
    def from_operator(
        cls, operator: Operator, *, n_lanczos: int = 80, n_probes: int = 10, n_top: int = 20, seed: int = 0
    ) -> Spectrum:
        """The spectrum of a kernel Θ that is too large to form, from its products with vectors alone.

        The `n_top` largest eigenvalues are exact, with certified residuals; the others are known by stochastic Lanczos
        quadrature, as `n_probes·n_lanczos` modes with a `multiplicity`. Sums `Σ_k f(λ_k)` then carry the probes'
        statistical error, which falls like n_probes^(−1/2). For n = 50,000 the basis takes 400 kB a Lanczos step.

        Parameters
        ----------
        operator : (n, n) array, sparse matrix or `LinearOperator`, such as `sgdsim.networks.ntk.ntk_operator`.
        n_lanczos, n_probes : Lanczos steps (products) of each random probe, and how many probes.
        n_top : at most n; the more, the smaller the statistical error.

        Raises
        ------
        InputError : not square or not symmetric, zero, or with truly negative eigenvalues; counts out of range.
        """
        from sgdsim.problem import lanczos

        if len(shape := np.shape(operator)) != 2 or shape[0] != shape[1]:
            raise InputError(f"operator: expected a square matrix or LinearOperator, got shape {shape}")
        n = shape[0]
        top = cls.top(operator, min(n, integer("n_top", n_top, minimum=1)), seed=seed)
        scale = float(top.eigenvalues[0])
        if scale <= 0:
            raise InputError(f"operator: expected a positive eigenvalue, got {scale:.3g} as the largest")
        values, counts = top.eigenvalues / scale, np.ones(top.eigenvalues.size)
        probe = np.zeros(counts.size)
        error: float | None = 0.0
        if values.size < n:
            nodes, weights = lanczos.quadrature(
                operator, n_steps=n_lanczos, n_probes=n_probes, seed=seed, without=top.eigenvectors
            )
            traces = (n - counts.size) * len(nodes) * (nodes * weights).sum(1) / scale
            mean, spread = mean_and_error(traces)
            error = finite_or_none(float(spread / (values.sum() + mean)))
            values = np.concatenate([values, nodes.ravel() / scale])
            probe = np.concatenate([probe, np.repeat(np.arange(1.0, len(nodes) + 1), nodes.shape[1])])
            counts = np.concatenate([counts, (n - counts.size) * weights.ravel()])
        gram = top.eigenvectors.T @ top.eigenvectors
        quality = Quality(
            float(top.residuals.max() / scale), float(np.abs(gram - np.eye(len(gram))).max()), error,
            int((values < 0).sum()), float(min(values.min(), 0.0)),
        )  # fmt: skip
        values = _in_range(values)
        order = np.argsort(-values, kind="stable")
        return cls(values[order], None, scale, quality, counts[order], probe=probe[order])

    @staticmethod
    def top(operator: Operator, k: int, *, tolerance: float = 1e-8, seed: int = 0) -> TopEigenpairs:
        """The k largest eigenpairs with measured residuals; see `sgdsim.problem.lanczos.top_eigenpairs`."""
        from sgdsim.problem import lanczos

        return lanczos.top_eigenpairs(operator, k, tolerance=tolerance, seed=seed)

    @staticmethod
    def nystrom(
        kernel: Callable[[np.ndarray, np.ndarray], np.ndarray], x: np.ndarray, k: int, *, landmarks: int, seed: int = 0
    ) -> TopEigenpairs:
        """The k largest eigenpairs of `kernel(x, x)` from some of its columns; see `sgdsim.problem.lanczos.nystrom`."""
        from sgdsim.problem import lanczos

        return lanczos.nystrom(kernel, x, k, landmarks=landmarks, seed=seed)

    def density(self, *, sigma: float | None = None, n_grid: int = 1000) -> SpectralDensity:
        """Eigenvalues per unit of λ, as a fraction of all, smoothed by a Gaussian of width `sigma` (in units of λ_max;
        None: 1% of the range). Of a spectrum `from_operator` this is stochastic Lanczos quadrature."""
        from sgdsim.problem import lanczos

        counts = self.counts
        return lanczos.smoothed(self.eigenvalues[None], counts[None] / counts.sum(), sigma=sigma, n_grid=n_grid)

    def by_rank(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """λ_k and c_k at the ranks k = 1…n, (n,) each, from c (modes,): the staircase where modes have a multiplicity,
        with each mode's c at the rank that it reaches. For tables and pictures."""
        if self.multiplicity is None:
            return self.eigenvalues, np.asarray(c, dtype=np.float64)
        reached = np.cumsum(self.multiplicity)
        index = np.searchsorted(reached, np.arange(self.n_eigenvalues) + 0.5)
        rank = np.clip(np.ceil(reached - 0.5), 1, self.n_eigenvalues).astype(int)
        values = self.eigenvalues[np.minimum(index, self.n_modes - 1)]
        return values, np.bincount(rank - 1, weights=c, minlength=self.n_eigenvalues)

    def at_ranks(self, c: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """About `count` ranks k, log-spaced over all, with λ_k and Σ_{l≥k} c_l between the modes as power laws would
        have them. For tables and pictures of more eigenvalues than `by_rank` can list."""
        reached, many = np.cumsum(self.counts), self.counts > 0.5
        many[-1] &= bool(math.isfinite(self.n))  # else that mode stands for infinitely many
        middle = (reached - self.counts / 2 + 0.5)[many]
        ranks = np.unique(np.geomspace(1, middle[-1], count).round())
        left = np.append(c.sum(), c.sum() - np.cumsum(c))[:-1]  # Σ c of this mode and those after it
        values, tails = np.log(np.maximum([self.eigenvalues[many], left[many]], 1e-300))
        begin = np.log((reached - self.counts + 1)[many])
        at = np.log(ranks)
        return ranks, np.exp(np.interp(at, np.log(middle), values)), np.exp(np.interp(at, begin, tails))

    def joined(self, measure: SpectralMeasure) -> tuple[Spectrum, np.ndarray]:
        """One list of modes out of these eigenvalues and a vector's spectral measure (in the kernel's units).

        Returns the spectrum with the measure's nodes as modes of multiplicity 0, and c (modes,), the measure's weights
        there and 0 elsewhere. That is all that the spectral-diagonal regime and its theory ask about.
        """
        nodes = _in_range(np.asarray(measure.nodes) / self.scale)
        counts = self.counts
        values = np.concatenate([self.eigenvalues, nodes])
        order = np.argsort(-values, kind="stable")
        counts = np.concatenate([counts, np.zeros(nodes.size)])[order]
        c = np.concatenate([np.zeros(self.n_modes), measure.weights])[order]
        probe = None if self.probe is None else np.concatenate([self.probe, np.zeros(nodes.size)])[order]
        return Spectrum(values[order], None, self.scale, self.quality, counts, probe=probe, outputs=self.outputs), c


def _in_range(values: np.ndarray) -> np.ndarray:
    """Ritz values over λ_max, with what rounding put outside [0, 1] put back; InputError for more than rounding."""
    if values.min() < -NEGATIVE_TOLERANCE or values.max() > 1 + NEGATIVE_TOLERANCE:
        raise InputError(
            "operator: expected a positive semidefinite one, with the largest eigenvalue found; got eigenvalues from "
            f"{values.min():.3g} to {values.max():.3g} of it"
        )
    return np.clip(values, 0.0, 1.0)


def _eigh(matrix: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    if device == "cpu":
        return scipy.linalg.eigh(matrix, check_finite=False, driver="evd")
    import torch

    values, vectors = torch.linalg.eigh(torch.as_tensor(matrix, device=device))
    return values.cpu().numpy(), vectors.cpu().numpy()


def _quality(matrix: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> Quality:
    """Check the decomposition after the fact; InputError where it is not one (LAPACK has returned zeros silently)."""
    size = np.abs(values).max()
    product = matrix @ vectors
    product -= vectors * values
    residual = np.linalg.norm(product, axis=0).max() / size if size > 0 else np.inf
    del product
    gram = vectors.T @ vectors
    gram[np.diag_indices_from(gram)] -= 1
    orthogonality = np.abs(gram).max()
    trace = abs(values.sum() - np.trace(matrix)) / max(np.abs(values).sum(), 1e-300)
    if not max(residual, orthogonality, trace) <= QUALITY_TOLERANCE:  # NaN counts as bad
        raise InputError(
            f"kernel: expected an eigendecomposition with residual, orthogonality and trace errors below "
            f"{QUALITY_TOLERANCE:g}, got {residual:.2g}, {orthogonality:.2g}, {trace:.2g}; try another device"
        )
    negative = values < 0
    return Quality(
        float(residual), float(orthogonality), float(trace), int(negative.sum()), float(min(values[-1] / size, 0.0))
    )
