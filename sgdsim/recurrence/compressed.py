"""Losses of a long spectrum by a short one (`sgdsim.problem.compression`), with the error that this makes.

The bins that a run needs depend on its momentum and its length: they are halved until nodes more or less make no
difference that counts, or the spectrum would hardly be shorter. Where modes oscillate that share a bin the difference
does so too, and tells nothing at its zeros, so that the largest of the last tenth of a run counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sgdsim.problem import QuadraticProblem, compression

TOLERANCE = 1e-9  # of the told relative error of a loss
_WORTH = 1e-6  # seconds a mode that a compression takes, very roughly
_LEAST = 400  # modes below which a compression is never half as long, four times the modes that it keeps
_ROUNDING = 1e-13  # of places in a bin, for each unit of the loss's logarithm
_LAST = 0.1, 4.0  # share of a run, or steps, in which differences are looked at
_LOOKS, _FEW_LOOKS = 9, 3  # times there; and for each of many cells, or where times lie close
_LATE = 10  # times from which that is asked: the first ones are whole numbers near 1
_NEIGHBOURS, _CLOSE = 3, 1.6  # times before one that count for it too, where they are at most so many times earlier

Found = tuple[np.ndarray, ...]
Losses = Callable[[QuadraticProblem, np.ndarray], Found]
CellLosses = Callable[[QuadraticProblem, np.ndarray, np.ndarray], Found]  # of a problem, times and cells


class Followed(NamedTuple):
    """What was found on a compression, its relative error, and that compression."""

    values: Found
    error: np.ndarray
    problem: QuadraticProblem


def worth(problem: QuadraticProblem, seconds: float) -> bool:
    """Whether work of so many seconds may be done sooner on fewer modes. What Lanczos quadrature made stays as it is:
    its own error is larger."""
    modes = problem.spectrum.n_modes
    return modes > _LEAST and seconds > _WORTH * modes and not problem.alternatives


def follow(problem: QuadraticProblem, found: Callable[[QuadraticProblem], Found]) -> tuple[Found, np.ndarray] | None:
    """What `found` gives on fewer modes, with the relative error that this makes.

    `found` gives the log of what is wanted, any shape, its own relative error, and whatever else. None where no
    compression at most half as long, both that are compared, meets the tolerance, or is as good as `found` itself.
    """
    known = _tried(problem, found)
    return known and known[:2]


def losses(problem: QuadraticProblem, times: np.ndarray, found: Losses) -> Followed | None:
    """`follow` of what is `found` at ascending times, all arrays (…, T): also looked at shortly before each of them."""
    looks = _looks(times)
    at = _watched(times, looks)
    known = _tried(problem, lambda modes: found(modes, at))
    if known is None:
        return None
    values, error = _at(times, known.values, known.error, at, looks)
    return Followed(values, error + _rounding(values[0]), known.problem)


def of_cells(problem: QuadraticProblem, times: np.ndarray, found: CellLosses, n_cells: int) -> tuple[Found, np.ndarray]:
    """`losses` of many cells, (cells, T), each on the first compression that meets the tolerance for it, or on all
    modes; and the relative error that this makes."""
    looks = _looks(times) if n_cells == 1 else _FEW_LOOKS
    at, todo = _watched(times, looks), np.arange(n_cells)
    parts: list[tuple[np.ndarray, Found, np.ndarray]] = []
    for width in compression.WIDTHS:
        fine, coarse = compression.pair(problem, width)
        if not todo.size or 2 * (fine.spectrum.n_modes + coarse.spectrum.n_modes) > problem.spectrum.n_modes:
            break
        values = found(fine, at, todo)
        values, error = _at(times, values, _difference(values[0], found(coarse, at, todo)[0]), at, looks)
        unknown = np.isinf(values[1])  # and would be so on all modes
        good = ((error <= np.maximum(TOLERANCE, values[1])) | unknown).all(-1)
        error[unknown] = 0.0
        parts.append((todo[good], tuple(each[good] for each in values), (error + _rounding(values[0]))[good]))
        todo = todo[~good]
    if todo.size:
        values = found(problem, times, todo)
        parts.append((todo, values, np.zeros(values[0].shape)))
    order = np.argsort(np.concatenate([cells for cells, _, _ in parts]))
    joined = tuple(np.concatenate(each)[order] for each in zip(*(values for _, values, _ in parts), strict=True))
    return joined, np.concatenate([error for _, _, error in parts])[order]


def log_loss(problem: QuadraticProblem, time: float, found: Losses) -> tuple[float, QuadraticProblem]:
    """The log loss at one time on the first compression with a small told error, or on the problem itself; and which
    it was."""
    times = np.array([time])
    known = losses(problem, times, found) if problem.spectrum.n_modes > _LEAST else None
    values, _, on = known or (found(problem, times), None, problem)
    return float(values[0][..., 0]), on


def _tried(problem: QuadraticProblem, found: Callable[[QuadraticProblem], Found]) -> Followed | None:
    if problem.origin is not None:  # which weight decay sees in every mode by itself
        return None
    for width in compression.WIDTHS:
        fine, coarse = compression.pair(problem, width)
        if 2 * (fine.spectrum.n_modes + coarse.spectrum.n_modes) > problem.spectrum.n_modes:
            return None
        values = found(fine)
        error = _difference(values[0], found(coarse)[0])
        if (error <= np.maximum(TOLERANCE, values[1])).all():
            return Followed(values, error, fine)
    return None


def _looks(times: np.ndarray) -> int:
    """How many looks there are for each of the ascending times: few where those before look there too."""
    return _FEW_LOOKS if _before_are_close(times)[_LATE:].all() and times.size > 4 * _LATE else _LOOKS


def _before_are_close(times: np.ndarray) -> np.ndarray:
    """Whether the `_NEIGHBOURS` before a time lie close to it, (T,)."""
    earlier = np.append(np.full(min(_NEIGHBOURS, times.size), -1.0), times)[: times.size]
    return times <= _CLOSE * earlier


def _watched(times: np.ndarray, looks: int) -> np.ndarray:
    """The ascending times, and whole ones shortly before those that have none there."""
    before = _before(times, looks)
    gaps = np.append(-np.inf, times[:-1]) < before[1]
    return np.union1d(times, before[:, gaps])


def _at(
    times: np.ndarray, values: Found, error: np.ndarray, watched: np.ndarray, looks: int
) -> tuple[Found, np.ndarray]:
    """`values` at the times alone, and the largest error shortly before each; twice it where few looks may miss it."""
    near = np.searchsorted(watched, _before(times, looks))
    error = np.max([error[..., i] for i in near], axis=0) * (2.0 if looks < _LOOKS else 1.0)
    if times.size > 1:
        close = _before_are_close(times)
        before = [
            np.append(error[..., :1].repeat(k, -1), error, -1)[..., : times.size] for k in range(1, _NEIGHBOURS + 1)
        ]
        error = np.where(close, np.max([error, *before], axis=0), error)
    return tuple(each[..., near[0]] for each in values), error


def _rounding(log_loss: np.ndarray) -> np.ndarray:
    """What rounding of the places makes."""
    return np.where(np.isfinite(log_loss), _ROUNDING * np.abs(log_loss), 0.0)


def _before(times: np.ndarray, looks: int) -> np.ndarray:
    """The times and whole numbers up to them, (looks, T)."""
    back = np.multiply.outer(np.linspace(0.0, 1.0, looks), np.maximum(_LAST[0] * times, _LAST[1]))
    return np.maximum(np.ceil(times - back), 0).astype(times.dtype)


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of logs; 0 where both are the same infinity, or neither is a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(np.expm1(other - one)))
