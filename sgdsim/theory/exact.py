"""The exact average over batches at any time, without a closure: losses, local exponents, the best setting.

Exact at this N and in this eigenbasis, where `sgdsim.theory.optimal` and `generating` know the spectrum alone. The
mathematics, and the class whose losses these are, stand in `sgdsim.recurrence.exact`.
"""

from __future__ import annotations

import math

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, number
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence.exact import Averaged, ExactLosses, follows

__all__ = ["ExactLosses", "exponents", "follows", "losses"]

_APART = 1.1  # factor between a time and those whose losses give the exponent there


def losses(problem: QuadraticProblem, sgd: SGD, steps: np.ndarray | list[int], tolerance: float = 1e-9) -> ExactLosses:
    """Training and test loss after so many steps, averaged over all batch sequences.

    A late step costs what an early one does: some 0.1 s at N = 250, some seconds at N = 1000, where a decade of steps
    costs twice what one does.

    Parameters
    ----------
    steps : (T,) ascending whole numbers from 0 on.
    tolerance : relative; `error`, (T,), is what each training loss can be off by, more than that where a loss has
        fallen far. An unstable run's losses are right as well: they grow.

    Raises
    ------
    InputError : steps that are no such numbers; an algorithm that `follows` does not (heavy ball or Nesterov, with
        constant hyperparameters and independent batches of equally likely points, labels noisy or not); a problem
        without eigenvectors.
    """
    at, tolerance = np.asarray(steps, dtype=np.float64), number("tolerance", tolerance, minimum=1e-13, maximum=0.1)
    if at.ndim != 1 or not at.size or (at % 1 != 0).any() or at[0] < 0 or (np.diff(at) < 0).any():
        raise InputError(f"steps: expected ascending whole numbers from 0 on, got {steps}")
    return Averaged(problem, sgd).losses(at, tolerance)


def exponents(
    problem: QuadraticProblem, sgd: SGD, steps: np.ndarray | list[int], tolerance: float = 1e-6
) -> np.ndarray:
    """The local exponent −d ln L/d ln t of the training loss at `steps`, (T,), from its values 10% before and after;
    NaN where these are not known to a thousandth. Raises InputError as `losses`, and for steps below 10.
    """
    at = np.asarray(steps, dtype=np.float64)
    if at.size and at.min() < 10:
        raise InputError(f"steps: expected numbers from 10 on, got {steps}")
    around = np.round(np.multiply.outer(at, [1 / _APART, _APART]))
    times, places = np.unique(around, return_inverse=True)
    found = losses(problem, sgd, times, tolerance)
    with np.errstate(divide="ignore"):
        log_loss = np.where(found.error < 1e-3, np.log(found.loss), math.nan)[places.reshape(around.shape)]
    return -np.diff(log_loss)[:, 0] / np.diff(np.log(around))[:, 0]
