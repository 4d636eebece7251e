"""The least value of a function of one number: on a grid, then between the neighbours of its best point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import SupportsFloat

import numpy as np
import scipy.optimize


def between(cost: Callable[[float], SupportsFloat], low: float, high: float, tolerance: float) -> tuple[float, float]:
    """Where `cost` is least between two ends, to an absolute `tolerance`, and that value (Brent's bounded method)."""
    least = scipy.optimize.minimize_scalar(
        lambda at: float(cost(at)), bounds=(low, high), method="bounded", options={"xatol": tolerance}
    )
    return float(least.x), float(least.fun)


def near_grid(
    cost: Callable[[float], SupportsFloat],
    grid: Sequence[float] | np.ndarray,
    tolerance: float,
    *,
    on_grid: np.ndarray | None = None,
    ends: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """`between` the neighbours of the point of an ascending `grid` where `cost` is least; NaN counts as no value.

    `on_grid`: the values there, where they are known together; `ends`: the neighbours of the first and the last point,
    by default these themselves.
    """
    k = int(np.nanargmin([float(cost(at)) for at in grid] if on_grid is None else on_grid))
    first, last = (grid[0], grid[-1]) if ends is None else ends
    return between(cost, grid[k - 1] if k else first, grid[k + 1] if k + 1 < len(grid) else last, tolerance)
