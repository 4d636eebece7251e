"""The spectral-diagonal system of any linear method (`sgdsim.algorithm.methods`): what it keeps, steps and shows.

All components of the method are kept; the gradient is taken at
component 0, and losses are read by `sgd.readout`: from the iterate, or its average.
"""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm import maps
from sgdsim.algorithm.maps import read, read_second
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import linear_kernels
from sgdsim.recurrence.run import Run

_HELD = 40_000, 256  # numbers of the maps held at once, and steps at least


def occupied(transition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rows of the maps (T, m, m) may differ from 0: offsets (m + 1,) into column numbers."""
    steps, m, _ = transition.shape
    used = np.ones(steps) @ (transition.reshape(steps, m * m) != 0)  # how often
    columns = [np.flatnonzero(row) for row in used.reshape(m, m)]
    return np.cumsum([0, *map(len, columns)]), np.concatenate(columns)


def times_plain(sgd: SGD) -> float:
    """About how many steps of plain heavy ball a diagonal step costs."""
    if sgd.is_plain:
        return 1.0
    in_one_loop = sgd.components == 2 or (sgd.components == 3 and sgd.average is not None)
    return float(sgd.components) if in_one_loop else 2.0 * sgd.components**2


class Steps(Run):
    """A run that takes the steps of `sgd` on a problem, in blocks."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd, self.readout = problem, problem.with_errors(sgd), sgd.readout

    def blocks(self, start: int, stop: int):
        """Yield (first step, hyperparameters, maps, where they are occupied) for consecutive ranges of steps."""
        block = max(_HELD[0] // self.sgd.components**2, _HELD[1])
        for low in range(start, stop, block):
            high = min(low + block, stop)
            transition, kick = map(np.ascontiguousarray, self.sgd.maps(low, high))
            yield low, self.problem.values(self.sgd, low, high), transition, kick, occupied(transition)

    def label(self, sizes: np.ndarray) -> np.ndarray:
        """What noisy labels add to the noise, per λ², (T,)."""
        return self.problem.label_source(self.sgd, sizes)

    def started(self, values: np.ndarray) -> np.ndarray:
        """(…, m) components before the first step, from the iterate's (…,): no memory, the average at the iterate."""
        return values[..., None] * self.sgd.begins + 0.0  # no −0


def gram_diagonal(problem: QuadraticProblem) -> np.ndarray:
    """Mean over the test points of T_xk², (modes,); InputError without test points."""
    if problem.test is None:
        raise InputError("test_loss: expected a problem with test points, got one without")
    return (problem.test.transfer**2).mean(0) * problem.spectrum.outputs


class Diagonal(Steps):
    """Second moments of all components, mode by mode."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, tau: float, test: bool) -> None:
        super().__init__(problem, sgd)
        self.tau, self.test = tau, test
        first = self.started(problem.coefficients)
        self.second = np.ascontiguousarray(np.moveaxis(first[:, :, None] * first[:, None, :], 0, -1))  # (m, m, modes)
        self.total = float(self.second[0, 0].sum())
        self.first = first
        self.gram_diagonal = gram_diagonal(problem) if test else np.zeros(0)

    def advance(self, start: int, stop: int) -> None:
        modes, second = (self.problem.eigenvalues, self.problem.multiplicity), self.second
        averaged = self.sgd.average is not None and len(second) == 3
        seen = [*maps.readout(self.sgd.linear), 0.0][:2]
        average = (second[0, 2], second[1, 2], second[2, 2]) if averaged else None
        for _, values, transition, kick, where in self.blocks(start, stop):
            steps = self.total, transition, kick, values.noise, self.label(values.batch_size), self.tau
            if len(second) == 2 or averaged:
                moments = second[0, 0], second[0, 1], second[1, 1], average, seen[0], seen[1] or None
                self.total = linear_kernels.diagonal_of_two(*modes, *moments, *steps)
                for i in range(1, len(second)):
                    second[i, :i] = second[:i, i]
            else:
                self.total = linear_kernels.diagonal(*modes, second, *steps, *where)
            if self.test:
                linear_kernels.mean(self.problem.eigenvalues, self.first, transition, kick, *where)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        moments = read_second(self.readout, np.moveaxis(self.second, -1, 0))
        out = {"loss": np.array([moments.sum() / (2 * self.problem.normaliser)])}
        if "test_loss" in what:
            mean = read(self.readout, self.first.T)
            noise = (moments - mean**2) @ self.gram_diagonal
            out["test_loss"] = self.problem.test_loss(mean, noise)
        if "moments" in what:
            out["moments"] = moments[None].copy()
        return out
