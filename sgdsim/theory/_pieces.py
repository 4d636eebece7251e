"""Piecewise-constant schedules: where the pieces begin, and the best values on them by gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import scipy.optimize

UNSTABLE = 1e100  # loss that stands for infinity in an optimisation


def partitions(horizon: int, pieces: int) -> list[np.ndarray]:
    """First steps of the pieces, (pieces,) each: short at both ends (quantiles of the arcsine law), short at the end
    alone (in geometric progression, down to a thousandth of the horizon), and of equal length."""
    shares = np.arange(pieces) / pieces
    arcsine = 0.5 * (1 - np.cos(np.pi * shares))
    geometric = 1 - max(1 / horizon, 1e-3) ** (np.arange(pieces) / max(pieces - 1, 1)) if pieces > 1 else np.zeros(1)
    return [_distinct(horizon, share) for share in (arcsine, geometric, shares)]


def _distinct(horizon: int, shares: np.ndarray) -> np.ndarray:
    """Ascending and different steps nearest to these shares of the horizon, each piece at least one step."""
    starts, count = (horizon * shares).astype(int), np.arange(shares.size)
    starts = np.maximum.accumulate(starts - count) + count
    return np.minimum(starts, horizon - shares.size + count)


def moved(
    loss: Callable[[np.ndarray], float], starts: np.ndarray, rates: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts and rates of no larger `loss`, when single ones are moved, by ever shorter ways: down to one step."""

    def at(starts: np.ndarray, rates: np.ndarray) -> float:
        lengths = np.diff(starts, append=horizon)
        value = loss(np.repeat(rates, lengths)) if (lengths > 0).all() else UNSTABLE
        return value if np.isfinite(value) else UNSTABLE

    least, way = at(starts, rates), max(horizon // 8, 1)
    while way:
        before = least
        for i, sign in itertools.product(range(starts.size), (-1, 1)):
            one = np.arange(starts.size) == i
            tries = [(starts, rates * np.exp(one * sign * way * 8 / horizon))]
            tries += [(starts + sign * way * one, rates)] if i else []
            for tried in tries:
                if (value := at(*tried)) < least:
                    least, (starts, rates) = value, tried
        if least == before:
            way //= 2
    return starts, rates


def minimise(
    loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    starts: np.ndarray,
    horizon: int,
    guesses: list[np.ndarray],
    limit: float,
) -> tuple[float, np.ndarray]:
    """The least `loss` of values that are constant on the pieces, and those values (pieces,).

    `loss`: of the values at all steps (horizon,), with its derivative. L-BFGS on logarithms from each guess (pieces,),
    between e^−25 and e^3 times `limit`.
    """
    owner = np.searchsorted(starts, np.arange(horizon), side="right") - 1

    def cost(logs: np.ndarray) -> tuple[float, np.ndarray]:
        values = np.exp(logs)
        with np.errstate(over="ignore", invalid="ignore"):
            value, slope = loss(values[owner])
        if not np.isfinite(value) or value > UNSTABLE:
            return np.log(UNSTABLE), np.zeros(starts.size)
        if value == 0:  # none is less
            return np.log(np.finfo(float).tiny), np.zeros(starts.size)
        return float(np.log(value)), np.bincount(owner, slope, starts.size) * values / value

    best = min(
        (
            scipy.optimize.minimize(
                cost,
                np.log(guess),
                jac=True,
                method="L-BFGS-B",
                bounds=[(np.log(limit) - 25, np.log(limit) + 3)] * starts.size,
                options={"maxiter": 500, "ftol": 1e-12},
            )
            for guess in guesses
        ),
        key=lambda minimum: minimum.fun,
    )
    return float(np.exp(best.fun)), np.exp(best.x)
