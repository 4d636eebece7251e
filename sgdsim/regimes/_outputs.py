"""Several outputs in loops that know residuals (R, N) of one.

With a kernel that outputs share, K ⊗ 1, nothing couples them but the batches: each is a row, or a run, of its own, and
losses add up. With a kernel over all outputs of all points a row holds them all, those of a point adjacent, and a batch
takes every output of its points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence.run import Run
from sgdsim.regimes.base import Direct


class Rows:
    """The residuals of each replicate as rows: `per_replicate` of them, C where outputs share the kernel, else 1."""

    def __init__(self, problem: QuadraticProblem) -> None:
        self.problem = problem
        self.outputs, self.shared = problem.n_outputs, problem.signed is not None
        self.per_replicate = self.outputs if self.shared else 1
        self.together = 1 if self.shared else self.outputs  # outputs of a point within a row
        self.start = np.atleast_2d(problem.residual.T if self.shared else problem.residual.ravel())

    def started(self, replicates: int) -> np.ndarray:
        """Residuals before the first step, (rows, N) or (rows, NC)."""
        return np.tile(self.start, (replicates, 1))

    def over_points(self, modes: np.ndarray) -> np.ndarray:
        """Rows as `start`, from coefficients as `QuadraticProblem.origin`."""
        vectors = (
            self.problem.eigenvectors if self.problem.spectrum.outputs == 1 else self.problem.spectrum.eigenvectors
        )
        return np.atleast_2d((vectors @ modes).T)

    def keys(self, keys: np.ndarray) -> np.ndarray:
        """(rows, …) of the replicates' (R, …)."""
        return keys if self.per_replicate == 1 else keys.repeat(self.per_replicate, axis=0)

    def batches(self, batches: np.ndarray) -> np.ndarray:
        """Places in the rows of points (R, T, b)."""
        if self.together > 1:
            return (batches[..., None] * self.together + np.arange(self.together, dtype=batches.dtype)).reshape(
                *batches.shape[:2], -1
            )
        return self.keys(batches)

    def weights(self, weights: np.ndarray) -> np.ndarray:
        """As `batches`, of the points' weights (R, T, b)."""
        return weights.repeat(self.together, axis=2) if self.together > 1 else self.keys(weights)

    def errors(self, errors: np.ndarray) -> np.ndarray:
        """As `batches`, of the labels' errors (R, T, b) of one output, or (R, T, b, C)."""
        if errors.ndim == 3:
            return errors
        if self.together > 1:
            return errors.reshape(*errors.shape[:2], -1)
        return np.moveaxis(errors, -1, 1).reshape(-1, *errors.shape[1:3])

    def residuals(self, rows: np.ndarray) -> np.ndarray:
        """(R, N) of one output, (R, N, C) of several."""
        if self.outputs == 1:
            return rows
        if self.shared:
            return np.moveaxis(rows.reshape(-1, self.outputs, rows.shape[1]), 1, 2)
        return rows.reshape(len(rows), -1, self.outputs)

    def kept(self, replicates: np.ndarray) -> np.ndarray:
        """The rows of these replicates."""
        if self.per_replicate == 1:
            return replicates
        return (replicates[:, None] * self.per_replicate + np.arange(self.per_replicate)).ravel()


class Summed(Run):
    """Runs of one output each, on the same batches: what is seen of them adds up."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    def advance(self, start: int, stop: int) -> None:
        for run in self.runs:
            run.advance(start, stop)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        return _added([run.observe(what) for run in self.runs])

    def keep(self, replicates: np.ndarray) -> bool:
        return min([run.keep(replicates) for run in self.runs])  # all are of one kind

    def report(self) -> dict[str, float]:
        return _largest([run.report() for run in self.runs])


def summed(parts: Sequence[Direct]) -> Direct:
    """What `Regime.direct` returns of all outputs, from each one's."""
    values, reports = zip(*parts, strict=True)
    return _added(values), _largest(reports)


def _added(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def _largest(reports: Sequence[dict[str, float]]) -> dict[str, float]:
    """A sum of positive numbers is known as well as the worst of them."""
    return {name: float(np.max([report[name] for report in reports])) for name in reports[0]}
