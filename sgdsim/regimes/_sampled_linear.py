"""Any linear method on sampled batches: all components of each replicate."""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.maps import read
from sgdsim.algorithm.sgd import SGD
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence.linear import Steps
from sgdsim.regimes import _linear_kernels
from sgdsim.regimes._outputs import Rows
from sgdsim.regimes._sampled_plain import observed
from sgdsim.regimes.base import diagonal


class Sampled(Steps):
    """All components of each replicate, over the points; with one pass over a population, over the modes."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        super().__init__(problem, sgd)
        self.keys, self.one_pass, self.diagonal = keys, sgd.is_one_pass, diagonal(problem, sgd)
        self.rows = None if self.one_pass else Rows(problem)
        start = _by_output(problem, problem.coefficients) if self.rows is None else self.rows.start
        origin = problem.origin
        if origin is not None:
            origin = _by_output(problem, origin) if self.rows is None else self.rows.over_points(origin)
        self.components = np.tile(np.moveaxis(self.started(start, origin), -1, 1), (len(keys), 1, 1))

    def advance(self, start: int, stop: int) -> None:
        if self.rows is None:
            self._advance_one_pass(start, stop)
            return
        for low, values, transition, kick, where in self.blocks(start, stop):
            at = 0
            for part, batches, weights in batch_blocks(
                self.sgd, self.problem.n, self.keys, low, low + values.lr.size, self.diagonal
            ):
                errors = label_errors(self.sgd, batches, low + at, self.keys, self.rows.outputs)
                given = np.zeros((*batches.shape[:2], 0)) if weights is None else weights
                window = slice(at, at + part.lr.size)
                _linear_kernels.sampled(
                    self.problem.kernel, self.components, transition[window], kick[window],
                    part.batch_size * self.rows.together, self.rows.batches(batches), self.rows.errors(errors),
                    self.rows.weights(given), *where,
                )  # fmt: skip
                at += part.lr.size

    def _advance_one_pass(self, start: int, stop: int) -> None:
        deviation = self.sgd.label_noise * np.sqrt(self.problem.normaliser)
        step, components = _linear_kernels.one_pass, self.components
        if self.problem.n_outputs > 1:
            step, components = _linear_kernels.one_pass_outputs, self._outputs(components)
        for low, values, transition, kick, where in self.blocks(start, stop):
            step(
                self.problem.eigenvalues, components, transition, kick, values.batch_size, self.keys, low, deviation,
                *where,
            )  # fmt: skip

    def _outputs(self, rows: np.ndarray) -> np.ndarray:
        """A view of rows (R·C, …) as (R, C, …)."""
        return rows.reshape(-1, self.problem.n_outputs, *rows.shape[1:])

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            r = read(self.readout, self.components.swapaxes(0, 1))
        if self.rows is not None:
            r = self.rows.residuals(r)
        elif self.problem.n_outputs > 1:
            r = np.moveaxis(self._outputs(r), 1, 2)
        return observed(self.problem, r, what, over_modes=self.one_pass, gone=self.gone)


def _by_output(problem: QuadraticProblem, of_one: np.ndarray) -> np.ndarray:
    """Values over the modes, (C, modes), of outputs that share the kernel: their own coefficients, or (modes, C)."""
    if problem.signed is None:
        return of_one[None]
    return (problem.signed if of_one.ndim == 1 else of_one).T
