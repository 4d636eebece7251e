"""Compiled loops of plain heavy ball: the spectral-diagonal step, and the path of the mean.

Arrays in, arrays out; each has a slow literal twin in `tests/naive.py`.
"""

from __future__ import annotations

import numpy as np

from sgdsim.common.compiled import numba

# Sums may be reordered and multiply-adds fused (that is what lets them use SIMD); NaN and infinity keep their meaning,
# because divergence is a result.
FAST = {"reassoc", "contract", "nsz"}


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def diagonal_advance(eigenvalues, multiplicity, c, j, p, total, lr, momentum, noise, tau):
    """Spectral-diagonal recurrence, `lr.size` steps in place; returns s = Σ c_k. `multiplicity`: (modes,), None: 1."""
    for t in range(lr.size):
        alpha, beta, gamma = lr[t], momentum[t], noise[t]
        s = total
        total = 0.0
        for k in range(eigenvalues.size):
            x = alpha * eigenvalues[k]
            ck, jk = c[k], j[k]
            source = s if multiplicity is None else multiplicity[k] * s
            pk = x * x * (ck + gamma * (source - tau * ck)) + beta * (beta * p[k] - 2.0 * x * jk)
            jk = beta * jk - x * ck
            ck = ck + 2.0 * jk + pk  # c − 2xc + 2βj + p'
            jk += pk
            c[k], j[k], p[k] = ck, jk, pk
            total += ck
    return total


@numba.njit(cache=True, nogil=True)
def mean_advance(eigenvalues, m, w, lr, momentum):
    """Heavy ball without noise on the mean residual m and its velocity w, mode by mode, `lr.size` steps in place."""
    for t in range(lr.size):
        for k in range(eigenvalues.size):
            w[k] = momentum[t] * w[k] - lr[t] * eigenvalues[k] * m[k]
            m[k] += w[k]


@numba.njit(cache=True, nogil=True)
def mean_path(eigenvalues, m, w, lr, momentum):
    """`mean_advance` that also keeps m before each of the `lr.size` steps, (T, n)."""
    path = np.empty((lr.size, m.size))
    for t in range(lr.size):
        for k in range(m.size):
            path[t, k] = m[k]
            w[k] = momentum[t] * w[k] - lr[t] * eigenvalues[k] * m[k]
            m[k] += w[k]
    return path
