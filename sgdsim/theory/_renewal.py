"""Compiled loops over pairs of modes behind the exact stability threshold: arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, error_model="numpy")
def pair_weight(x, y, beta, gamma, n):
    """`γN·xy·R`, R = T/(1 + γxyT), `T = (1−β²)/((1−β²)² − (1+β²)ab + β(a² + b²))`, a = 1+β−x, b = 1+β−y.

    T sums the product of two modes' impulse responses over time. Its denominator is expanded in x and y: the constant
    terms cancel, and rounding must not bring them back where both are small.
    """
    product, square = x * y, 1.0 - beta * beta
    pair = (1.0 + beta) * (1.0 - beta) ** 2 * (x + y) + beta * (x * x + y * y) - (1.0 + beta * beta) * product
    return gamma * n * product * square / (pair + gamma * product * square)


@numba.njit(cache=True, parallel=True, error_model="numpy")
def weigh(inner, x, beta, gamma, n):
    """`inner` (m, m), symmetric, times the pair weights, in place."""
    for i in numba.prange(x.size):
        for k in range(x.size):
            inner[i, k] *= pair_weight(x[i], x[k], beta, gamma, n)


@numba.njit(cache=True, parallel=True, error_model="numpy")
def weighted_square(inner, x, beta, gamma, n):
    """`Σ_ik w_ik inner_ik²` of a symmetric matrix (m, m)."""
    rows = np.zeros(x.size)
    for i in numba.prange(x.size):
        total = 0.0
        for k in range(i):
            total += pair_weight(x[i], x[k], beta, gamma, n) * inner[i, k] ** 2
        rows[i] = 2.0 * total + pair_weight(x[i], x[i], beta, gamma, n) * inner[i, i] ** 2
    return rows.sum()
