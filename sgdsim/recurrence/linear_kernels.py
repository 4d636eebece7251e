"""Compiled loops of any linear method (`sgdsim.algorithm.methods`), mode by mode: arrays in, arrays out. Twins in
`tests/naive.py`.

`transition` (T, m, m) and `kick` (T, m) are the steps of the m components; `starts` (m + 1,) and `columns` list where
rows of the transition may differ from 0, as most memory vectors see only themselves.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def conjugate(second, transition, kick, x, y, starts, columns, half, out):
    """out = R_x · second · R_yᵀ for (m, m) `second`, R_x = transition + x·kick·e₀ᵀ; `half` (m, m) is scratch."""
    m = second.shape[0]
    for i in range(m):
        for j in range(m):
            total = x * kick[i] * second[0, j]
            for at in range(starts[i], starts[i + 1]):
                total += transition[i, columns[at]] * second[columns[at], j]
            half[i, j] = total
    for i in range(m):
        for j in range(m):
            total = y * kick[j] * half[i, 0]
            for at in range(starts[j], starts[j + 1]):
                total += transition[j, columns[at]] * half[i, columns[at]]
            out[i, j] = total


@numba.njit(cache=True, nogil=True)
def diagonal(eigenvalues, multiplicity, second, total, transition, kick, noise, label, tau, starts, columns):
    """Spectral-diagonal recurrence of the second moments, (n, m, m) in place; returns s = Σ second[:, 0, 0].

    `label` (T,): what noisy labels add to the source, per λ². `multiplicity`: (n,) or None.
    """
    n, m = second.shape[0], second.shape[1]
    half, new = np.empty((m, m)), np.empty((m, m))
    for t in range(noise.size):
        s = total
        total = 0.0
        for k in range(n):
            lam = eigenvalues[k]
            w = 1.0 if multiplicity is None else multiplicity[k]
            source = lam * lam * (noise[t] * (w * s - tau * second[k, 0, 0]) + w * label[t])
            conjugate(second[k], transition[t], kick[t], lam, lam, starts, columns, half, new)
            for i in range(m):
                for j in range(m):
                    second[k, i, j] = new[i, j] + source * kick[t, i] * kick[t, j]
            total += second[k, 0, 0]
    return total


@numba.njit(cache=True, nogil=True)
def mean(eigenvalues, first, transition, kick, starts, columns):
    """The mean of all components, (n, m) in place."""
    n, m = first.shape
    old = np.empty(m)
    for t in range(kick.shape[0]):
        for k in range(n):
            for i in range(m):
                old[i] = first[k, i]
            for i in range(m):
                value = eigenvalues[k] * kick[t, i] * old[0]
                for at in range(starts[i], starts[i + 1]):
                    value += transition[t, i, columns[at]] * old[columns[at]]
                first[k, i] = value
