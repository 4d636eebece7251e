"""Plain heavy ball on sampled batches: the residuals and velocities of each replicate."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.sgd import SGD, StepValues
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import _kernels
from sgdsim.regimes.base import Run


def observed(
    problem: QuadraticProblem, r: np.ndarray, what: tuple[str, ...], *, over_modes: bool = False
) -> dict[str, np.ndarray]:
    """`Run.observe` from the residuals r (R, N) over the points; over the modes where those are what is followed."""
    with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
        out = {"loss": (r**2).mean(1) / 2 if problem.population is None else (r**2).sum(1) / 2}
        if "test_loss" in what or "moments" in what:
            a = r if over_modes else r @ problem.eigenvectors
        if "test_loss" in what:
            out["test_loss"] = problem.test_loss(a)
        if "moments" in what:
            out["moments"] = a**2
    return out


class HeavyBall(Run):
    """The residuals of each replicate; a subclass says where they are and takes the steps."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        self.problem, self.sgd, self.keys = problem, sgd, keys

    @abstractmethod
    def take(self, values: StepValues, batches: np.ndarray) -> None:
        """Some steps, in place, on batches (R, T, b) as `batch_blocks` gives them."""

    @abstractmethod
    def residuals(self) -> np.ndarray:
        """(R, N) on the host."""

    def advance(self, start: int, stop: int) -> None:
        for values, batches, _ in batch_blocks(self.sgd, self.problem.n, self.keys, start, stop):
            self.take(values, batches)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        return observed(self.problem, self.residuals(), what)


class Compiled(HeavyBall):
    """Residuals `r` and velocities `v`, (R, N), in compiled loops."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        super().__init__(problem, sgd, keys)
        self.kernel, self.r = problem.kernel, np.tile(problem.residual, (len(keys), 1))
        self.v = np.zeros_like(self.r)

    def take(self, values: StepValues, batches: np.ndarray) -> None:
        _kernels.sampled_advance(self.kernel, self.r, self.v, values.lr, values.momentum, values.batch_size, batches)

    def residuals(self) -> np.ndarray:
        return self.r

    def keep(self, replicates: np.ndarray) -> bool:
        self.keys, self.r, self.v = self.keys[replicates], self.r[replicates], self.v[replicates]
        return True
