"""`(I − M(z)) d = source` at many z together: all solutions are sought in one space, which grows by what is missing.

The M of all z are combinations of few fixed matrices, so that what these make of the space's basis is worked out once.
At each z there is a small system left then (Galerkin: exact where the space is all), and its solution's residual is
known. The directions in which residuals are largest come into the space next: block Krylov, for all z at once.
"""

from __future__ import annotations

import numpy as np

from sgdsim.recurrence.coupling import Coupling

_DIRECT = 60  # points up to which the space is all
_MOST = 30  # times that the space grows
_TOGETHER = 16  # systems
_KEPT = 0.03  # share of the largest residual from which on a direction counts


def solve(coupling: Coupling, tolerance: float) -> tuple[np.ndarray, float]:
    """d̃ at each z, (n, Z), and the largest relative residual."""
    n, count = coupling.sources.shape
    sizes = np.linalg.norm(coupling.sources, axis=0)
    sources = coupling.sources / np.where(sizes > 0, sizes, 1.0)
    space, images = np.empty((n, 0)), np.empty((n, len(coupling.shares), 0))
    inner = np.empty((len(coupling.shares), 0, 0))
    new = np.eye(n) if n <= _DIRECT else _directions(sources, space, tolerance)
    for _ in range(_MOST):
        seen = coupling.images(new)
        space, images = np.hstack([space, new]), np.concatenate([images, seen], 2)
        inner = _bordered(inner, (space.T @ seen.reshape(n, -1)).reshape(-1, *seen.shape[1:]).transpose(1, 0, 2))
        found = _galerkin(coupling.shares, inner, _of_complex(space.T, sources))
        d = _of_complex(space, found)
        weighted = (coupling.shares[:, None] * found).reshape(-1, count)
        residual = sources - d + _of_complex(images.reshape(n, -1), weighted)
        off = float(np.linalg.norm(residual, axis=0).max())
        if not off > tolerance or space.shape[1] == n:
            break
        new = _directions(residual, space, max(_KEPT * off, tolerance / 3))
        if not new.size:
            break
    return d * sizes, off


def _of_complex(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`matrix @ columns` of a real and a complex one."""
    return matrix @ columns.real + 1j * (matrix @ columns.imag)


def _bordered(inner: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Symmetric matrices (S, q, q) with `new` last columns, (S, all, those)."""
    old = inner.shape[1]
    corner = (new[:, old:] + new[:, old:].transpose(0, 2, 1)) / 2
    upper = np.concatenate([inner, new[:, :old]], 2)
    return np.concatenate([upper, np.concatenate([new[:, :old].transpose(0, 2, 1), corner], 2)], 1)


def _galerkin(shares: np.ndarray, inner: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Coefficients (q, Z) of each z's solution in the space."""
    terms, q, _ = inner.shape
    out = np.empty((q, shares.shape[1]), complex)
    for low in range(0, shares.shape[1], _TOGETHER):
        part = slice(low, low + _TOGETHER)
        systems = np.eye(q) - _of_complex(inner.reshape(terms, -1).T, shares[:, part]).T.reshape(-1, q, q)
        out[:, part] = np.linalg.solve(systems, sources[:, part].T[..., None])[..., 0].T
    return out


def _directions(columns: np.ndarray, space: np.ndarray, least: float) -> np.ndarray:
    """Orthonormal directions of complex columns that are not in the space, those of at least that size."""
    parts = np.hstack([columns.real, columns.imag])
    for _ in range(2):
        parts = parts - space @ (space.T @ parts)
    left, sizes, _ = np.linalg.svd(parts, full_matrices=False)
    return left[:, sizes > max(least, 1e-15 * sizes[0])][:, : len(space) - space.shape[1]]
