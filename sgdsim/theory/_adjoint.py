"""The spectral-diagonal recurrence of heavy ball with its gradient: arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def final_loss(eigenvalues, multiplicity, c0, lr, momentum, noise, label, tau):
    """s_T = Σ c_k after T steps, and its derivatives by every lr and every momentum, (T,) each.

    `noise` γ and `label` (what noisy labels add to the source, per λ²), (T,) each. All states are kept on the way, then
    the transposed steps are taken back from the end.
    """
    n, steps = eigenvalues.size, lr.size
    c, j, p = np.empty((steps + 1, n)), np.empty((steps + 1, n)), np.empty((steps + 1, n))
    sums = np.empty(steps + 1)
    c[0], j[0], p[0] = c0, 0.0, 0.0
    sums[0] = c0.sum()
    for t in range(steps):
        total = 0.0
        for k in range(n):
            x = lr[t] * eigenvalues[k]
            source = noise[t] * (multiplicity[k] * sums[t] - tau * c[t, k]) + multiplicity[k] * label[t]
            pk = x * x * (c[t, k] + source) + momentum[t] * (momentum[t] * p[t, k] - 2.0 * x * j[t, k])
            jk = momentum[t] * j[t, k] - x * c[t, k]
            c[t + 1, k] = c[t, k] + 2.0 * jk + pk
            j[t + 1, k] = jk + pk
            p[t + 1, k] = pk
            total += c[t + 1, k]
        sums[t + 1] = total
    by_lr, by_momentum = np.zeros(steps), np.zeros(steps)
    dc, dj, dp = np.ones(n), np.zeros(n), np.zeros(n)
    for t in range(steps - 1, -1, -1):
        beta, shared = momentum[t], 0.0
        for k in range(n):
            x = lr[t] * eigenvalues[k]
            ck, jk, pk = c[t, k], j[t, k], p[t, k]
            every = dp[k] + dj[k] + dc[k]
            source = noise[t] * (multiplicity[k] * sums[t] - tau * ck) + multiplicity[k] * label[t]
            by_lr[t] += eigenvalues[k] * (
                every * (2.0 * x * (ck + source) - 2.0 * beta * jk) - (dj[k] + 2.0 * dc[k]) * ck
            )
            by_momentum[t] += every * (2.0 * beta * pk - 2.0 * x * jk) + (dj[k] + 2.0 * dc[k]) * jk
            shared += every * x * x * noise[t] * multiplicity[k]
            new_c = dc[k] * (1.0 - 2.0 * x) - x * dj[k] + every * x * x * (1.0 - noise[t] * tau)
            dj[k] = beta * (2.0 * dc[k] + dj[k]) - 2.0 * beta * x * every
            dp[k] = beta * beta * every
            dc[k] = new_c
        for k in range(n):
            dc[k] += shared
    return sums[steps], by_lr, by_momentum
