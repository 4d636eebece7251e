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
    """The fields of a `QuadraticProblem`; `facts`: its description where there is no other."""

    spectrum: Spectrum
    coefficients: np.ndarray
    signed: np.ndarray | None
    test: TestPoints | None
    n_outputs: int
    facts: dict[str, object]


def decomposed(
    kernel: np.ndarray, residual: np.ndarray, cross_kernel: np.ndarray | None, test_residual: np.ndarray | None
) -> Decomposed:
    """What `QuadraticProblem.from_kernel` makes of a residual (n,) or (n, C); raises as that."""
    if (cross_kernel is None) != (test_residual is None):
        raise InputError("test points: expected both cross_kernel and test_residual, got one of them")
    residual = _numbers("residual", residual)
    n, n_outputs = residual.shape if residual.ndim == 2 else (residual.size, 1)
    spectrum = Spectrum.from_kernel(_square(kernel, n, n_outputs))
    shared, vectors = n_outputs > 1 and spectrum.n_modes == n, np.asarray(spectrum.eigenvectors)
    if n_outputs > 1 and not shared:
        spectrum = replace(spectrum, outputs=n_outputs)
    test = None
    if cross_kernel is not None and test_residual is not None:
        test_residual = _numbers("test residual", test_residual)
        if n_outputs > 1:
            cross_kernel = _oblong(cross_kernel, n, n_outputs, test_residual, shared)
        test = TestPoints.from_cross_kernel(spectrum, cross_kernel, test_residual)
    signed = freeze(vectors.T @ residual) if shared else None
    coefficients = vectors.T @ residual.ravel() if signed is None else np.linalg.norm(signed, axis=1)
    facts: dict[str, object] = {"kind": "kernel", "title": f"kernel of {n} points", "n": n}
    if n_outputs > 1:
        facts |= {"title": f"kernel of {n} points, {n_outputs} outputs", "n_outputs": n_outputs}
    return Decomposed(spectrum, freeze(coefficients), signed, test, n_outputs, facts)


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    """(n,), also of (n, 1), which is one output, or (n, C)."""
    several = np.ndim(values) == 2 and np.shape(values)[1] > 1
    one = np.ravel(values) if np.ndim(values) == 2 and not several else values
    return array(name, one, ndim=2 if several else 1)


def _square(kernel: np.ndarray, n: int, outputs: int) -> np.ndarray:
    """The kernel of n points as a matrix, (n, n) where the outputs share it, else (nC, nC).

    Takes these, or (n, n, C, C) as `empirical_ntk(output="full")` gives it; what is K ⊗ 1 to rounding is shared.
    InputError for another shape.
    """
    if outputs == 1:
        if np.ndim(kernel) == 2 and np.shape(kernel) != (n, n):
            raise InputError(f"kernel: expected shape {(n, n)} to match the residual, got {np.shape(kernel)}")
        return kernel
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


def _oblong(cross_kernel: np.ndarray, n: int, outputs: int, test_residual: np.ndarray, shared: bool) -> np.ndarray:
    """The kernel between m test points and n training points as a matrix: (m, n), or (mC, nC); InputError for another
    shape."""
    if test_residual.shape[1:] != (outputs,):
        raise InputError(f"test residual: expected {outputs} outputs, got shape {test_residual.shape}")
    m = len(test_residual)
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
