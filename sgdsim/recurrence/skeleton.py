"""Few modes in place of many: functions of pairs of modes by what they are at a few nodes, smooth as they are in log x.

Modes are cut into bins in log x, as wide as interpolation from Chebyshev nodes in it is right to a tolerance; modes of
a bin that has no more than that are their own nodes, and what is said of them is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_SAMPLED = 40  # points z at which a basis is found
_NEGLIGIBLE = 1e-2  # share of the largest value in a bin from which on a smaller one need not be as right


@dataclass(frozen=True)
class Bin:
    """Modes low … high − 1, their nodes (m,), and what share each node has in each mode, (high − low, m)."""

    low: int
    high: int
    nodes: np.ndarray
    shares: np.ndarray


def bins(x: np.ndarray, family: Callable[[np.ndarray], np.ndarray], tolerance: float) -> list[Bin]:
    """Bins of x ≥ 0, descending, where all of `family`, (m, any) at nodes (m,), is right to a relative `tolerance`."""
    points = max(4, round(1.1 * -np.log10(tolerance)))
    angles = (np.arange(points)[::-1] + 0.5) * np.pi / points
    between = np.cos(np.arange(points + 1) * np.pi / points)  # where interpolation is worst

    def shares(at: np.ndarray) -> np.ndarray:
        away = at[:, None] - np.cos(angles)
        away[away == 0] = 1e-300
        weights = (-1.0) ** np.arange(points) * np.sin(angles) / away
        return weights / weights.sum(1, keepdims=True)

    apart = shares(between)
    moving = int((x > 0).sum())
    out, todo = [], [(0, moving)] if moving else []
    while todo:
        low, high = todo.pop()
        if high - low <= points:
            out.append(Bin(low, high, x[low:high], np.eye(high - low)))
            continue
        middle, half = np.log(x[low] * x[high - 1]) / 2, np.log(x[low] / x[high - 1]) / 2
        if half < 1e-14:
            out.append(Bin(low, high, x[low : low + 1], np.ones((high - low, 1))))
            continue
        nodes, right = np.exp(middle + half * np.cos(angles)), family(np.exp(middle + half * between))
        size = np.abs(right)
        wrong = np.abs(apart @ family(nodes) - right) / (size + _NEGLIGIBLE * size.max(0) + 1e-300)
        if wrong.max() <= tolerance:
            out.append(Bin(low, high, nodes, shares((np.log(x[low:high]) - middle) / half)))
        else:
            cut = low + int(np.searchsorted(-x[low:high], -np.exp(middle)))
            cut = min(max(cut, low + 1), high - 1)
            todo += [(cut, high), (low, cut)]
    if moving < x.size:
        out.append(Bin(moving, x.size, np.zeros(1), np.ones((x.size - moving, 1))))
    return out


def basis(values: list[np.ndarray], tolerance: float) -> np.ndarray:
    """Orthonormal columns (m, r) that span those of all `values`, (m, m) complex each, to `tolerance`."""
    few = values[:: max(1, len(values) // _SAMPLED)]
    parts = np.concatenate([np.stack([v.real, v.imag]) / max(np.linalg.norm(v), 1e-300) for v in few])
    mixed = np.tensordot(np.random.default_rng(0).standard_normal((6, len(parts))), parts, 1)
    left, sizes, _ = np.linalg.svd(np.concatenate(list(mixed), 1), full_matrices=False)
    return left[:, : max(1, int((sizes > tolerance * sizes[0]).sum()))]
