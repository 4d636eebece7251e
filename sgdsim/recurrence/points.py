"""What the noise of a batch acts on, and how modes feed it: each point's E r², or its C × C block of E r rᵀ.

Batches take points. Of one output, or of outputs that share the kernel, a vector holds one number for each of n points;
of a kernel over all C outputs of all points, the n blocks one after the other, C² numbers each.
"""

from __future__ import annotations

import numpy as np

from sgdsim.problem import QuadraticProblem


class Points:
    """`u` (n, modes): a row for each point."""

    def __init__(self, u: np.ndarray) -> None:
        self.u, self.first = u, np.ones(len(u))

    def feed(self, v: np.ndarray) -> np.ndarray:
        """`Uᵀ diag(v) U`, (modes, modes)."""
        return (self.u.T * v) @ self.u

    def seen(self, moments: np.ndarray) -> np.ndarray:
        """The diagonal of `U moments Uᵀ`: what moments of pairs of modes are at the points."""
        return np.einsum("ik,ik->i", self.u @ moments, self.u)

    def of_variances(self, variances: np.ndarray) -> np.ndarray:
        """`seen` of a diagonal matrix."""
        return self.u**2 @ variances

    def of_rows(self, rows: np.ndarray, inner: np.ndarray) -> np.ndarray:
        """`seen` of moments of which `rows inner rowsᵀ` are those of u's rows."""
        return np.einsum("ia,ia->i", rows @ inner, rows)

    def largest(self, variances: np.ndarray) -> float:
        """Of `of_variances`."""
        return float(self.of_variances(variances).max())

    def total(self, v: np.ndarray) -> np.ndarray:
        """The sum of E r² over points and outputs, of columns v."""
        return v.sum(0)

    def positive(self, v: np.ndarray) -> np.ndarray:
        """An eigenvector of positive numbers, of whatever sign it was found."""
        return np.abs(v)


class Blocks(Points):
    """`u` (nC, modes), the rows of a point's C outputs adjacent."""

    def __init__(self, u: np.ndarray, outputs: int) -> None:
        self.flat, self.u = u, u.reshape(-1, outputs, u.shape[1])
        self.first = np.tile(np.eye(outputs), (len(self.u), 1, 1)).ravel()

    def feed(self, v: np.ndarray) -> np.ndarray:
        """`Uᵀ blockdiag(V) U`, (modes, modes)."""
        outputs = self.u.shape[1]
        return self.flat.T @ (v.reshape(-1, outputs, outputs) @ self.u).reshape(self.flat.shape)

    def seen(self, moments: np.ndarray) -> np.ndarray:
        return ((self.flat @ moments).reshape(self.u.shape) @ self.u.transpose(0, 2, 1)).ravel()

    def of_variances(self, variances: np.ndarray) -> np.ndarray:
        return ((self.u * variances) @ self.u.transpose(0, 2, 1)).ravel()

    def of_rows(self, rows: np.ndarray, inner: np.ndarray) -> np.ndarray:
        own = rows.reshape(*self.u.shape[:2], -1)
        return ((own @ inner) @ own.transpose(0, 2, 1)).ravel()

    def largest(self, variances: np.ndarray) -> float:
        outputs = self.u.shape[1]
        return float(np.linalg.eigvalsh(self.of_variances(variances).reshape(-1, outputs, outputs)).max())

    def total(self, v: np.ndarray) -> np.ndarray:
        outputs = self.u.shape[1]
        return v.reshape(-1, outputs, outputs, *v.shape[1:]).trace(axis1=1, axis2=2).sum(0)

    def positive(self, v: np.ndarray) -> np.ndarray:
        return v * np.sign(float(self.total(v[:, None])[0]) or 1.0)


def vectors(problem: QuadraticProblem) -> np.ndarray:
    """(n, modes) or (nC, modes)."""
    return problem.eigenvectors if problem.spectrum.outputs == 1 else np.asarray(problem.spectrum.eigenvectors)


def of(u: np.ndarray, outputs: int) -> Points:
    """`outputs`: of which each mode is."""
    return Points(u) if outputs == 1 else Blocks(np.ascontiguousarray(u), outputs)
