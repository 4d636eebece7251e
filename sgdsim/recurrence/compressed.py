"""Losses of a long spectrum by a short one (`sgdsim.problem.compression`), with the error that this makes.

The bins that a run needs depend on its momentum and its length: they are halved until nodes more or less make no
difference that counts, or the spectrum would hardly be shorter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgdsim.problem import QuadraticProblem, compression

TOLERANCE = 1e-9  # of the told relative error of a loss
_WORTH = 1e-6  # seconds a mode that a compression takes, very roughly

Found = tuple[np.ndarray, ...]


def worth(problem: QuadraticProblem, seconds: float) -> bool:
    """Whether work of so many seconds may be done sooner on fewer modes. What Lanczos quadrature made stays as it is:
    its own error is larger."""
    return seconds > _WORTH * problem.spectrum.n_modes and not problem.alternatives


def follow(problem: QuadraticProblem, found: Callable[[QuadraticProblem], Found]) -> tuple[Found, np.ndarray] | None:
    """What `found` gives on fewer modes, with the relative error that this makes.

    `found` gives the log of what is wanted, any shape, its own relative error, and whatever else. None where no
    compression at most half as long, both that are compared, meets the tolerance, or is as good as `found` itself.
    """
    for width in compression.WIDTHS:
        fine, coarse = compression.pair(problem, width)
        if 2 * (fine.spectrum.n_modes + coarse.spectrum.n_modes) > problem.spectrum.n_modes:
            return None
        values = found(fine)
        error = _difference(values[0], found(coarse)[0])
        if (error <= np.maximum(TOLERANCE, values[1])).all():
            return values, error
    return None


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of logs; 0 where both are the same infinity, or neither is a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(np.expm1(other - one)))
