"""Eigendecomposition of the kernel: eigenvalues in units of the largest, and the eigenbasis where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from sgdsim import devices
from sgdsim.checks import InputError, array, number

# Rounding leaves eigenvalues of a positive semidefinite kernel above about -N·eps·λ_max; a kernel computed in float32
# and passed on as float64 above about -1e-6·λ_max.
NEGATIVE_TOLERANCE = 1e-6
SYMMETRY_TOLERANCE = 1e-5


# Errors of LAPACK's eigh are about N·eps, 1e-12 at N = 5000.
QUALITY_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Quality:
    """How good a full decomposition is, measured after the fact.

    `residual`: largest ‖K u_k − λ_k u_k‖ over λ_max; `orthogonality`: largest entry of |UᵀU − 1|; `trace`: |Σλ − tr K|
    over Σ|λ|; `negative`: how many eigenvalues came out below zero by rounding and were set to 0, `most_negative` the
    lowest of them over λ_max.
    """

    residual: float
    orthogonality: float
    trace: float
    negative: int
    most_negative: float


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and eigenvectors of `K̂ = Θ/λ_max(Θ)`.

    Parameters
    ----------
    eigenvalues : (n,) descending, the first equal to 1, none negative.
    eigenvectors : (n, n) with the eigenvectors in columns, or None where only the eigenvalues are known.
    scale : λ_max(Θ), in the units of the kernel.
    quality : what was measured of the decomposition, where there was one.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray | None = None
    scale: float = 1.0
    quality: Quality | None = None

    def __post_init__(self) -> None:
        values = array("eigenvalues", self.eigenvalues, ndim=1)
        if values[0] != 1.0 or (np.diff(values) > 0).any() or values[-1] < 0:
            raise InputError(
                "eigenvalues: expected non-negative values in descending order from 1 (divide by the largest), "
                f"got {values[0]:g} … {values[-1]:g}"
            )
        object.__setattr__(self, "eigenvalues", values)
        if self.eigenvectors is not None:
            vectors = array("eigenvectors", self.eigenvectors, ndim=2, shape=(values.size, values.size))
            object.__setattr__(self, "eigenvectors", vectors)
        if number("scale", self.scale) <= 0:
            raise InputError(f"scale: expected λ_max(Θ) > 0, got {self.scale}")

    @property
    def n(self) -> int:
        """Number of eigenvalues, equal to the number of training points."""
        return self.eigenvalues.size

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
                f"{values[-1]:.3g} to {values[0]:.3g}"
            )
        return cls(np.maximum(values / values[0], 0.0), vectors, float(values[0]), quality)


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
