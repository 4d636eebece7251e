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
    matrix, cross, e = _matrix(kernel, n, n_outputs), None, None
    if cross_kernel is not None and test_residual is not None:
        e = _numbers("test residual", test_residual)
        if e.shape[1:] != residual.shape[1:]:
            raise InputError(f"test residual: expected {n_outputs} output(s) as in training, got shape {e.shape}")
        cross = _cross_matrix(cross_kernel, n, n_outputs, e)
    if n_outputs > 1:
        matrix, cross = _alike(matrix, cross, n, n_outputs)
    spectrum = Spectrum.from_kernel(matrix)
    shared, vectors = n_outputs > 1 and spectrum.n_modes == n, np.asarray(spectrum.eigenvectors)
    if n_outputs > 1 and not shared:
        spectrum = replace(spectrum, outputs=n_outputs)
    test = None if cross is None or e is None else TestPoints.from_cross_kernel(spectrum, cross, e)
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


def _matrix(kernel: np.ndarray, n: int, outputs: int) -> np.ndarray:
    """The kernel of n points as a matrix, (n, n) or (nC, nC); also from (n, n, C, C), as `empirical_ntk(output="full")`
    gives it. InputError for another shape."""
    shape = np.shape(kernel)
    if shape == (n, n, outputs, outputs):
        return point_major(kernel)
    if outputs == 1:
        if len(shape) == 2 and shape != (n, n):
            raise InputError(f"kernel: expected shape {(n, n)} to match the residual, got {shape}")
        return kernel
    if shape not in ((n, n), (n * outputs,) * 2):
        raise InputError(
            f"kernel: expected shape {(n, n)}, {(n * outputs,) * 2} or {(n, n, outputs, outputs)} for {n} points and "
            f"{outputs} outputs, got {shape}"
        )
    return np.asarray(kernel)


def _cross_matrix(cross_kernel: np.ndarray, n: int, outputs: int, test_residual: np.ndarray) -> np.ndarray:
    """The kernel between m test points and n training points as a matrix, (m, n) or (mC, nC); InputError for another
    shape."""
    m, shape = len(test_residual), np.shape(cross_kernel)
    if shape == (m, n, outputs, outputs):
        return point_major(cross_kernel)
    if outputs > 1 and shape not in ((m, n), (m * outputs, n * outputs)):
        raise InputError(
            f"cross_kernel: expected the shape of the kernel between {m} test points and {n} training points with "
            f"{outputs} outputs, got {shape}"
        )
    return cross_kernel if outputs == 1 else np.asarray(cross_kernel)


def point_major(blocks: np.ndarray) -> np.ndarray:
    """(mC, nC) of (m, n, C, C)."""
    m, n, outputs, _ = np.shape(blocks)
    return np.asarray(blocks).transpose(0, 2, 1, 3).reshape(m * outputs, n * outputs)


def _alike(kernel: np.ndarray, cross: np.ndarray | None, n: int, outputs: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Both over the points alone where they are K ⊗ 1 and X ⊗ 1, to rounding; else both over all outputs."""
    block = _block(kernel, (n, n), outputs)
    beside = None if cross is None else _block(cross, (len(cross) * n // cross.shape[1], n), outputs)
    if block is not None and (cross is None or beside is not None):
        return block, beside
    one = np.eye(outputs)
    return (
        kernel if kernel.shape[1] > n else np.kron(kernel, one),
        cross if cross is None or cross.shape[1] > n else np.kron(cross, one),
    )


def _block(matrix: np.ndarray, points: tuple[int, int], outputs: int) -> np.ndarray | None:
    """K of a matrix over points, or K ⊗ 1 to rounding; None of another."""
    if matrix.shape == points:
        return matrix
    blocks = matrix.reshape(points[0], outputs, points[1], outputs)
    first = blocks[:, 0, :, 0]
    apart = np.abs(blocks - first[:, None, :, None] * np.eye(outputs)[:, None, :]).max()
    return first if apart <= _SHARED * np.abs(first).max() else None
