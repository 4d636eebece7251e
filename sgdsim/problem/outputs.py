"""Kernels of several outputs: one that outputs share, K ⊗ 1, or one over all outputs of all points.

Residuals r (N, C); the loss is half their squares, summed over outputs and divided by N. In a flat residual and in a
kernel (NC, NC) the outputs of a point are adjacent.
"""

from __future__ import annotations

import numpy as np

from sgdsim.common.checks import InputError

_SHARED = 1e-12  # of the largest entry: rounding


def checked_kernel(kernel: np.ndarray, residual: np.ndarray) -> np.ndarray:
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


def checked_cross(cross_kernel: np.ndarray, n: int, test_residual: np.ndarray, shared: bool) -> np.ndarray:
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
