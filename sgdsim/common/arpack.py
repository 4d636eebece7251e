"""ARPACK's eigenpairs, the same ones at every call: where its space is exhausted it goes on from random numbers."""

from __future__ import annotations

import inspect

import numpy as np
import scipy.sparse.linalg

# From SciPy 1.17 on they come from a generator that nothing seeds; before, from one of ARPACK's own that starts alike.
_SEEDED = {"rng": 0} if "rng" in inspect.signature(scipy.sparse.linalg.eigsh).parameters else {}


def largest(
    operator: scipy.sparse.linalg.LinearOperator, k: int, start: np.ndarray, tolerance: float, basis: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues of a symmetric operator, ascending, and their eigenvectors in columns, by Krylov spaces
    of dimension `basis` that begin at `start`. Raises `ArpackNoConvergence`."""
    try:
        return scipy.sparse.linalg.eigsh(operator, k, which="LA", v0=start, tol=tolerance, ncv=basis, **_SEEDED)
    except scipy.sparse.linalg.ArpackNoConvergence:
        raise
    except scipy.sparse.linalg.ArpackError:  # as where few eigenvalues differ
        if k > 1:
            raise
        return _largest_one(operator, start, tolerance)


def _largest_one(
    operator: scipy.sparse.linalg.LinearOperator, start: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """`largest` with k = 1, of eigenvectors that `start` has a share in."""
    basis, images, new = np.empty((start.size, 0)), np.empty((start.size, 0)), start
    while True:
        new = new / np.linalg.norm(new)
        basis, images = np.column_stack([basis, new]), np.column_stack([images, operator @ new])
        values, vectors = np.linalg.eigh(basis.T @ images)
        value, vector = values[-1:], vectors[:, -1:]
        new = (images @ vector - value * (basis @ vector))[:, 0]
        if np.linalg.norm(new) <= tolerance * abs(value[0]) or basis.shape[1] == start.size:
            return value, basis @ vector
        for _ in range(2):
            new = new - basis @ (basis.T @ new)
