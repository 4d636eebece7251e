"""`(I − M(z)) d = source` at many z together: all solutions are sought in one space, which grows by what is missing.

The M of all z are combinations of few fixed matrices, so that what these make of the space's basis is worked out once;
at each z there is a small system left then (Galerkin: exact where the space is all), and the residual of its solution is
known. The directions in which residuals are largest come into the space next: block Krylov, for all z at once.
"""

from __future__ import annotations

import numpy as np

from sgdsim.recurrence.coupling import Coupling

_DIRECT = 60  # points up to which the space is all
_MOST = 30  # times that the space grows
_KEPT = 0.03  # share of the largest residual from which on a direction counts


def solve(coupling: Coupling, tolerance: float) -> tuple[np.ndarray, float]:
    """d̃ at each z, (n, Z), and the largest relative residual."""
    n, count = coupling.sources.shape
    sizes = np.linalg.norm(coupling.sources, axis=0)
    sources = coupling.sources / np.where(sizes > 0, sizes, 1.0)
    new = np.eye(n) if n <= _DIRECT else _directions(sources, np.empty((n, 0)), 1e-3 * tolerance)
    space, images = np.empty((n, 0)), np.empty((n, len(coupling.shares), 0))
    d, residual = np.zeros_like(sources), sources
    off = np.inf
    for _ in range(_MOST):
        space, images = np.hstack([space, new]), np.concatenate([images, coupling.images(new)], 2)
        found = _galerkin(coupling.shares, space, images, sources)
        weighted = (coupling.shares[:, None] * found).reshape(-1, count)
        flat = images.reshape(n, -1)
        d = space @ found.real + 1j * (space @ found.imag)
        residual = sources - d + flat @ weighted.real + 1j * (flat @ weighted.imag)
        off = float(np.linalg.norm(residual, axis=0).max())
        if not off > tolerance or space.shape[1] == n:
            break
        new = _directions(residual, space, max(_KEPT * off, tolerance / 3))
        if not new.size:
            break
    return d * sizes, off


def _galerkin(shares: np.ndarray, space: np.ndarray, images: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Coefficients (q, Z) of each z's solution in the space."""
    q = space.shape[1]
    inner = (space.T @ images.reshape(len(space), -1)).reshape(q, -1, q)
    inner = (inner + inner.transpose(2, 1, 0)).transpose(1, 0, 2).reshape(-1, q * q) / 2
    right = space.T @ sources.real + 1j * (space.T @ sources.imag)
    out = np.empty((q, shares.shape[1]), complex)
    for j, share in enumerate(shares.T):
        system = np.eye(q) - (share.real @ inner + 1j * (share.imag @ inner)).reshape(q, q)
        out[:, j] = np.linalg.solve(system, right[:, j])
    return out


def _directions(columns: np.ndarray, space: np.ndarray, least: float) -> np.ndarray:
    """Orthonormal directions of complex columns that are not in the space, those of at least that size."""
    parts = np.hstack([columns.real, columns.imag])
    for _ in range(2):
        parts = parts - space @ (space.T @ parts)
    left, sizes, _ = np.linalg.svd(parts, full_matrices=False)
    return left[:, sizes > max(least, 1e-15 * sizes[0])][:, : len(space) - space.shape[1]]
