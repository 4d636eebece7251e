"""Compiled loops over pairs of modes behind the exact stability threshold: arrays in, arrays out.

They do the rows [low, high), for `sgdsim.recurrence.share`.
"""

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True, error_model="numpy")
def pair_weight(x, y, beta, gamma, n):
    """`γN·xy·R`, R = T/(1 + γxyT), `T = (1−β²)/((1−β²)² − (1+β²)ab + β(a² + b²))`, a = 1+β−x, b = 1+β−y.

    T sums the product of two modes' impulse responses over time. Its denominator is expanded in x and y: the constant
    terms cancel, and rounding must not bring them back where both are small.
    """
    product, square = x * y, 1.0 - beta * beta
    pair = (1.0 + beta) * (1.0 - beta) ** 2 * (x + y) + beta * (x * x + y * y) - (1.0 + beta * beta) * product
    return gamma * n * product * square / (pair + gamma * product * square)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weigh(inner, x, beta, gamma, n, low, high):
    """`inner` (m, m), symmetric, times the pair weights, in place."""
    for i in range(low, high):
        for k in range(x.size):
            inner[i, k] *= pair_weight(x[i], x[k], beta, gamma, n)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weighted_squares(inner, x, beta, gamma, n, rows, low, high):
    """The parts of `Σ_ik w_ik inner_ik²` of a symmetric matrix (m, m) that its rows give: with k ≤ i, twice k < i."""
    for i in range(low, high):
        total = 0.0
        for k in range(i):
            total += pair_weight(x[i], x[k], beta, gamma, n) * inner[i, k] ** 2
        rows[i] = 2.0 * total + pair_weight(x[i], x[i], beta, gamma, n) * inner[i, i] ** 2
