"""The spectral-diagonal recurrence of heavy ball with its gradient: arrays in, arrays out."""

from __future__ import annotations

import numpy as np

from sgdsim.common.compiled import numba


@numba.njit(cache=True, nogil=True)
def _step(eigenvalues, multiplicity, c, j, p, total, lr, momentum, noise, label, tau):
    """One step of c, j and p (n,) in place; `total` is Σ c_k before it, the sum after it is returned."""
    after = 0.0
    for k in range(eigenvalues.size):
        x = lr * eigenvalues[k]
        source = noise * (multiplicity[k] * total - tau * c[k]) + multiplicity[k] * label
        pk = x * x * (c[k] + source) + momentum * (momentum * p[k] - 2.0 * x * j[k])
        jk = momentum * j[k] - x * c[k]
        c[k] += 2.0 * jk + pk
        j[k] = jk + pk
        p[k] = pk
        after += c[k]
    return after


@numba.njit(cache=True, nogil=True)
def loss_alone(eigenvalues, multiplicity, c0, lr, momentum, noise, label, tau):
    """s_T = Σ c_k after T steps, as `final_loss`, without derivatives."""
    c, j, p = c0.copy(), np.zeros(c0.size), np.zeros(c0.size)
    total = c0.sum()
    for t in range(lr.size):
        total = _step(eigenvalues, multiplicity, c, j, p, total, lr[t], momentum[t], noise[t], label[t], tau)
    return total


@numba.njit(cache=True, nogil=True)
def final_loss(eigenvalues, multiplicity, c0, lr, momentum, noise, label, tau):
    """s_T = Σ c_k after T steps, and its derivatives by every lr and every momentum, (T,) each.

    `noise` γ and `label` (what noisy labels add to the source, per λ²), (T,) each. The transposed steps are taken back
    from the end; of the states on the way every √T-th is kept, the others are computed a second time.
    """
    n, steps = eigenvalues.size, lr.size
    block = max(1, int(np.ceil(np.sqrt(steps))))
    kept = np.empty(((steps + block - 1) // block, 3, n))
    c, j, p = c0.copy(), np.zeros(n), np.zeros(n)
    sums = np.empty(steps + 1)
    sums[0] = c0.sum()
    for t in range(steps):
        if t % block == 0:
            kept[t // block, 0], kept[t // block, 1], kept[t // block, 2] = c, j, p
        sums[t + 1] = _step(
            eigenvalues, multiplicity, c, j, p, sums[t], lr[t], momentum[t], noise[t], label[t], tau
        )  # fmt: skip
    by_lr, by_momentum = np.zeros(steps), np.zeros(steps)
    dc, dj, dp = np.ones(n), np.zeros(n), np.zeros(n)
    path = np.empty((block, 3, n))
    for start in range((steps - 1) // block * block, -1, -block):
        stop = min(start + block, steps)
        path[0] = kept[start // block]
        for t in range(start, stop - 1):
            at = t - start
            path[at + 1] = path[at]
            _step(
                eigenvalues, multiplicity, path[at + 1, 0], path[at + 1, 1], path[at + 1, 2], sums[t], lr[t],
                momentum[t], noise[t], label[t], tau,
            )  # fmt: skip
        for t in range(stop - 1, start - 1, -1):
            beta, shared = momentum[t], 0.0
            for k in range(n):
                x = lr[t] * eigenvalues[k]
                ck, jk, pk = path[t - start, 0, k], path[t - start, 1, k], path[t - start, 2, k]
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
