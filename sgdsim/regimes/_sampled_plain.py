"""Plain heavy ball on sampled batches: the residuals and velocities of each replicate."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.sgd import SGD, StepValues
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import _kernels
from sgdsim.regimes._outputs import Rows
from sgdsim.regimes.base import Run

_OF_MODES = ("test_loss", "moments", "test_residual")


def observed(
    problem: QuadraticProblem, r: np.ndarray, what: tuple[str, ...], *, over_modes: bool = False, gone: float = 0.0
) -> dict[str, np.ndarray]:
    """`Run.observe` from the residuals r over the points, (R, N), or (R, N, C) of several outputs; over the modes
    where those are what is followed. `gone`: the share of the initial parameters that weight decay has taken away."""
    if r.ndim == 3:
        return _observed_outputs(problem, r, what, over_modes, gone)
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
        out = {"loss": (r**2).mean(1) / 2 if problem.population is None else (r**2).sum(1) / 2}
        out["residual"] = r @ problem.eigenvectors.T if over_modes and "residual" in what else r
        if any(name in what for name in _OF_MODES):
            a = r if over_modes else r @ problem.eigenvectors
        if "test_residual" in what:
            out["test_residual"] = _test_residuals(problem, a, gone)
        if "test_loss" in what:
            out["test_loss"] = problem.test_loss(a, gone=gone)
        if "moments" in what:
            out["moments"] = a**2
    return out


def _observed_outputs(
    problem: QuadraticProblem, r: np.ndarray, what: tuple[str, ...], over_modes: bool, gone: float
) -> dict[str, np.ndarray]:
    """`observed` from residuals (R, N, C), over the modes only where outputs share the kernel."""
    if over_modes:
        modes, r = r, problem.eigenvectors @ r if "residual" in what else r
    vectors, shared = problem.spectrum.eigenvectors, problem.signed is not None
    with np.errstate(over="ignore", invalid="ignore"):
        out = {"loss": (r**2).sum((1, 2)) / (2 * problem.n), "residual": r}
        if any(name in what for name in _OF_MODES):
            a = np.moveaxis(r, 2, 1) @ problem.eigenvectors if shared else r.reshape(len(r), -1) @ vectors
            a = np.moveaxis(modes, 2, 1) if over_modes else a
        if "test_residual" in what:
            out["test_residual"] = _test_residuals(problem, a, gone)
        if "test_loss" in what:
            each = range(problem.n_outputs)
            own = [(problem.output(o), a[:, o]) for o in each] if shared else [(problem, a)]
            out["test_loss"] = np.sum([one.test_loss(modes, gone=gone) for one, modes in own], axis=0)
        if "moments" in what:
            out["moments"] = (a**2).sum(1) if shared else a**2
    return out


def _test_residuals(problem: QuadraticProblem, a: np.ndarray, gone: float) -> np.ndarray:
    """(R, m) from the modes (R, N); of C outputs (R, m, C), from (R, C, N) where they share the kernel, or (R, NC)."""
    points = problem.test
    assert points is not None  # see `TestAccuracy.check`
    aside = gone * problem.test_aside if gone and problem.origin is not None else 0.0
    if problem.signed is not None:
        return points.residual + np.moveaxis((a - problem.signed.T) @ points.transfer.T, 1, 2) + aside
    found = points.residuals(a - problem.coefficients) + aside
    return found if problem.n_outputs == 1 else found.reshape(len(found), -1, problem.n_outputs)


class HeavyBall(Run):
    """The residuals of each replicate; a subclass says where they are and takes the steps."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        self.problem, self.sgd, self.keys, self.rows = problem, sgd, keys, Rows(problem)

    @abstractmethod
    def take(self, values: StepValues, batches: np.ndarray) -> None:
        """Some steps, in place, on batches (rows, T, b) as `Rows` has them, and of sizes as it has."""

    @abstractmethod
    def held(self) -> np.ndarray:
        """The residuals of all rows, on the host."""

    def advance(self, start: int, stop: int) -> None:
        for values, batches, _ in batch_blocks(self.sgd, self.problem.n, self.keys, start, stop):
            sizes = values.batch_size * self.rows.together
            self.take(values._replace(batch_size=sizes), self.rows.batches(batches))

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        return observed(self.problem, self.rows.residuals(self.held()), what)


class Compiled(HeavyBall):
    """Residuals `r` and velocities `v`, (rows, N), in compiled loops."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        super().__init__(problem, sgd, keys)
        self.kernel, self.r = problem.kernel, self.rows.started(len(keys))
        self.v = np.zeros_like(self.r)

    def take(self, values: StepValues, batches: np.ndarray) -> None:
        _kernels.sampled_advance(self.kernel, self.r, self.v, values.lr, values.momentum, values.batch_size, batches)

    def held(self) -> np.ndarray:
        return self.r

    def keep(self, replicates: np.ndarray) -> bool:
        places = self.rows.kept(replicates)
        self.keys, self.r, self.v = self.keys[replicates], self.r[places], self.v[places]
        return True
