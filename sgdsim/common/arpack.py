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
    return scipy.sparse.linalg.eigsh(operator, k, which="LA", v0=start, tol=tolerance, ncv=basis, **_SEEDED)
