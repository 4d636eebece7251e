"""The spectral-diagonal system of any linear method (`sgdsim.algorithm.methods`): what it keeps, steps and shows.

All components of the method are kept; the gradient is taken at
component 0, and losses are read by `sgd.readout`: from the iterate, or its average. With weight decay there is one more
component, the residual at the point to which it pulls, which stays.
"""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm import maps
from sgdsim.algorithm.maps import read, read_second, with_origin
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
    components = sgd.components + (sgd.weight_decay > 0)
    in_one_loop = components == 2 or (sgd.components == 3 and sgd.average is not None and not sgd.weight_decay)
    return float(components) if in_one_loop else 2.0 * components**2


class Steps(Run):
    """A run that takes the steps of `sgd` on a problem, in blocks."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd, self.readout = problem, problem.with_errors(sgd), sgd.readout
        self.decays = sgd.weight_decay > 0
        self.n_components = sgd.components + self.decays
        if self.decays:
            self.readout = np.append(self.readout, 0.0)
        self._left = sgd.begins  # of the initial parameters, in each component

    def blocks(self, start: int, stop: int):
        """Yield (first step, hyperparameters, maps, where they are occupied) for consecutive ranges of steps."""
        block = max(_HELD[0] // self.n_components**2, _HELD[1])
        for low in range(start, stop, block):
            high = min(low + block, stop)
            maps = self.problem.maps(self.sgd, low, high)
            if self.decays:
                self._decay(maps.transition)
                maps = with_origin(maps, self.sgd.begins)
            transition, kick = map(np.ascontiguousarray, maps)
            yield low, self.problem.values(self.sgd, low, high), transition, kick, occupied(transition)

    def label(self, sizes: np.ndarray) -> np.ndarray:
        """What noisy labels add to the noise, per λ², (T,)."""
        return self.problem.label_source(self.sgd, sizes)

    def started(self, values: np.ndarray, origin: np.ndarray | None = None) -> np.ndarray:
        """(…, m) components before the first step, from the iterate's (…,): no memory, the average at the iterate.
        `origin` (…,): to where weight decay pulls; None: to the start."""
        components = values[..., None] * self.sgd.begins + 0.0  # no −0
        if not self.decays:
            return components
        return np.append(components, (values if origin is None else origin)[..., None], -1)

    @property
    def gone(self) -> float:
        """The share of the initial parameters that weight decay has taken away."""
        return 1.0 - float(self.sgd.readout @ self._left) if self.decays else 0.0

    def _decay(self, transition: np.ndarray) -> None:
        """`gone` after these steps, where test losses ask for it."""
        if self.problem.origin is not None and self.problem.test is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                for each in transition:
                    self._left = each @ self._left


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
        first = self.started(problem.coefficients, problem.origin if problem.signed is None else None)
        self.second = np.ascontiguousarray(np.moveaxis(first[:, :, None] * first[:, None, :], 0, -1))  # (m, m, modes)
        if self.decays and problem.signed is not None:
            of_outputs = self.started(problem.signed, problem.origin)
            self.second = np.einsum("koi,koj->ijk", of_outputs, of_outputs)
        self.total = float(self.second[0, 0].sum())
        self.first = first
        self.gram_diagonal = gram_diagonal(problem) if test else np.zeros(0)

    def advance(self, start: int, stop: int) -> None:
        modes, second = (self.problem.eigenvalues, self.problem.multiplicity), self.second
        averaged = self.sgd.average is not None and len(second) == 3 and not self.decays
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
            out["test_loss"] = self.problem.test_loss(mean, noise, self.gone)
        if "moments" in what:
            out["moments"] = moments[None].copy()
        return out
