"""The spectral-diagonal system of a problem and an algorithm: where it starts, how it steps and what is seen of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.signals import raise_again
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import kernels, linear
from sgdsim.recurrence.run import Run

_LEAST = -640.0  # log of a loss whose moments are still far from the smallest floats
_PIECE = 100_000  # steps between two looks whether somebody wants to end


@dataclass
class Plain(Run):
    """Second moments of plain heavy ball, mode by mode."""

    problem: QuadraticProblem
    sgd: SGD
    tau: float
    c: np.ndarray  # E a_k²
    j: np.ndarray  # E a_k v_k
    p: np.ndarray  # E v_k²
    total: float  # Σ c_k
    mean: np.ndarray  # E a_k; (0,) where no test losses are observed
    mean_velocity: np.ndarray
    gram_diagonal: np.ndarray  # mean over test points of T_xk²

    def advance(self, start: int, stop: int) -> None:
        values = self.problem.values(self.sgd, start, stop)
        lam = self.problem.eigenvalues
        self.total = kernels.diagonal_advance(
            lam, self.problem.multiplicity, self.c, self.j, self.p, self.total,
            values.lr, values.momentum, values.noise, self.tau,
        )  # fmt: skip
        if self.mean.size:
            kernels.mean_advance(lam, self.mean, self.mean_velocity, values.lr, values.momentum)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        out = {"loss": np.array([self.total / (2 * self.problem.normaliser)])}
        if "test_loss" in what:
            # The mean moves off the diagonal too and is known exactly; only the noise part is diagonal here.
            noise = (self.c - self.mean**2) @ self.gram_diagonal
            out["test_loss"] = self.problem.test_loss(self.mean, noise)
        if "moments" in what:
            out["moments"] = self.c[None].copy()
        return out


def start(problem: QuadraticProblem, sgd: SGD, tau: float, test: bool = False) -> Run:
    """The run before the first step, for any linear method. `test`: whether test losses will be observed."""
    if not problem.with_errors(sgd).is_plain:
        return linear.Diagonal(problem, sgd, tau, test)
    a = problem.coefficients
    gram = linear.gram_diagonal(problem) if test else np.zeros(0)
    mean = a.copy() if test else np.zeros(0)
    zero = np.zeros((2, a.size))
    return Plain(problem, sgd, tau, a**2, zero[0], zero[1], float(a @ a), mean, np.zeros(mean.size), gram)


def log_losses(problem: QuadraticProblem, sgd: SGD, steps: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """log of the losses at ascending `steps`, each stepped to, and what rounding may do to them, relative: (T,) each.

    NaN where a loss is no positive number, ∞ from where it has left the range of floats, −∞ where it has come so near
    its other end that digits are lost: none of these with a known error.
    """
    run, now, out = start(problem, sgd, tau), 0, np.empty(len(steps))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for i, step in enumerate(steps.tolist()):
            while now < step:
                until = min(step, now + _PIECE)
                run.advance(now, until)
                now = until
                raise_again()
            loss = run.observe(("loss",))["loss"][0]
            out[i] = np.log(loss)
            if not np.isfinite(loss):  # diverged
                out[i:] = np.inf
                break
    out[out < _LEAST] = -np.inf
    rounding = 1e-15 * (10.0 + steps) * (1 if sgd.is_plain else sgd.components**2)
    return out, np.where(np.isfinite(out), rounding, np.inf)
