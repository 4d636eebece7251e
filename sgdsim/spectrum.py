"""Eigendecomposition of the kernel: eigenvalues in units of the largest, and the eigenbasis where there is one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from sgdsim.checks import InputError, array, number

# Rounding leaves eigenvalues of a positive semidefinite kernel above about -N·eps·λ_max; a kernel computed in float32
# and passed on as float64 above about -1e-6·λ_max.
NEGATIVE_TOLERANCE = 1e-6
SYMMETRY_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues and eigenvectors of `K̂ = Θ/λ_max(Θ)`.

    Parameters
    ----------
    eigenvalues : (n,) descending, the first equal to 1, none negative.
    eigenvectors : (n, n) with the eigenvectors in columns, or None where only the eigenvalues are known.
    scale : λ_max(Θ), in the units of the kernel.
    """

    eigenvalues: np.ndarray
    eigenvectors: np.ndarray | None = None
    scale: float = 1.0

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
    def from_kernel(cls, kernel: np.ndarray) -> Spectrum:
        """Full eigendecomposition of a symmetric positive semidefinite kernel matrix Θ, (n, n).

        Negative eigenvalues within rounding of zero become 0.

        Raises
        ------
        InputError : not square, not finite, not symmetric, zero, or with truly negative eigenvalues.
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
        values, vectors = scipy.linalg.eigh(
            (kernel + kernel.T) * 0.5, overwrite_a=True, check_finite=False, driver="evd"
        )
        values, vectors = values[::-1], vectors[:, ::-1]
        if values[0] <= 0 or values[-1] < -NEGATIVE_TOLERANCE * values[0]:
            raise InputError(
                "kernel: expected a positive semidefinite matrix, got eigenvalues from "
                f"{values[-1]:.3g} to {values[0]:.3g}"
            )
        return cls(np.maximum(values / values[0], 0.0), vectors, float(values[0]))
