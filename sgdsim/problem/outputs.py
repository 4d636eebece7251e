"""Kernels of several outputs: one that outputs share, K ⊗ 1, or one over all outputs of all points.

Residuals r (N, C); the loss is half their squares, summed over outputs and divided by N. In a flat residual and in a
kernel (NC, NC) the outputs of a point are adjacent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sgdsim.common.checks import InputError, array, freeze
from sgdsim.problem.spectrum import Spectrum
from sgdsim.problem.transfer import TestPoints

_SHARED = 1e-12  # of the largest entry: rounding


@dataclass(frozen=True)
class Decomposed:
    """The fields of a `QuadraticProblem` of several outputs; `facts`: its description where there is no other."""

    spectrum: Spectrum
    coefficients: np.ndarray
    signed: np.ndarray | None
    test: TestPoints | None
    n_outputs: int
    facts: dict[str, object]


def decomposed(
    kernel: np.ndarray, residual: np.ndarray, cross_kernel: np.ndarray | None, test_residual: np.ndarray | None
) -> Decomposed:
    """From what `QuadraticProblem.from_kernel` takes, for a residual (n, C); raises as that."""
    residual = array("residual", residual, ndim=2)
    n, n_outputs = residual.shape
    spectrum = Spectrum.from_kernel(_square(kernel, residual))
    shared, vectors = spectrum.n_modes == n, np.asarray(spectrum.eigenvectors)
    if not shared:
        spectrum = replace(spectrum, outputs=n_outputs)
    test = None
    if cross_kernel is not None and test_residual is not None:
        test_residual = array("test residual", test_residual, ndim=2, shape=(None, n_outputs))
        cross = _oblong(cross_kernel, n, test_residual, shared)
        test = TestPoints.from_cross_kernel(spectrum, cross, test_residual)
    signed = freeze(vectors.T @ residual) if shared else None
    coefficients = np.linalg.norm(signed, axis=1) if signed is not None else vectors.T @ residual.ravel()
    title = f"kernel of {n} points, {n_outputs} outputs"
    facts: dict[str, object] = {"kind": "kernel", "title": title, "n": n, "n_outputs": n_outputs}
    return Decomposed(spectrum, freeze(coefficients), signed, test, n_outputs, facts)


def _square(kernel: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The kernel for a residual (n, C) as a matrix, (n, n) where the outputs share it, else (nC, nC).

    Takes these, or (n, n, C, C) as `empirical_ntk(output="full")` gives it; what is K ⊗ 1 to rounding is shared.
    InputError for another shape.
    """
    n, outputs = residual.shape
    kernel = np.asarray(kernel)
    if kernel.shape == (n, n, outputs, outputs):
        kernel = kernel.transpose(0, 2, 1, 3).reshape(n * outputs, n * outputs)
    if kernel.shape not in ((n, n), (n * outputs,) * 2):
        raise InputError(
            f"kernel: expected shape {(n, n)}, {(n * outputs,) * 2} or {(n, n, outputs, outputs)} for {n} points and "
            f"{outputs} outputs, got {kernel.shape}"
        )
    if kernel.shape == (n, n):
        return kernel
    blocks = kernel.reshape(n, outputs, n, outputs)
    first = blocks[:, 0, :, 0]
    rest = np.abs(blocks - first[:, None, :, None] * np.eye(outputs)[:, None, :]).max()
    return first if rest <= _SHARED * np.abs(first).max() else kernel


def _oblong(cross_kernel: np.ndarray, n: int, test_residual: np.ndarray, shared: bool) -> np.ndarray:
    """The kernel between m test points and n training points as a matrix: (m, n), or (mC, nC); InputError for another
    shape."""
    m, outputs = test_residual.shape
    cross = np.asarray(cross_kernel)
    if cross.shape == (m, n, outputs, outputs):
        cross = cross.transpose(0, 2, 1, 3).reshape(m * outputs, n * outputs)
    if shared and cross.shape == (m * outputs, n * outputs):
        cross = cross[::outputs, ::outputs]
    if cross.shape != ((m, n) if shared else (m * outputs, n * outputs)):
        raise InputError(
            f"cross_kernel: expected the shape of the kernel between {m} test points and {n} training points with "
            f"{outputs} outputs, got {np.shape(cross_kernel)}"
        )
    return cross
