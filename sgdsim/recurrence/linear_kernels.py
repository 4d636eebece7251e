"""Compiled loops of any linear method (`sgdsim.algorithm.methods`), mode by mode: arrays in, arrays out. Twins in
`tests/naive.py`.

`transition` (T, m, m) and `kick` (T, m) are the steps of the m components; `starts` (m + 1,) and `columns` list where
rows of the transition may differ from 0, as most memory vectors see only themselves.
"""

from __future__ import annotations

import numba
import numpy as np

from sgdsim.recurrence.kernels import FAST

_BLOCK = 256  # modes


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


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def diagonal(eigenvalues, multiplicity, second, total, transition, kick, noise, label, tau, starts, columns):
    """Spectral-diagonal recurrence of the second moments, (m, m, n) in place; returns s = Σ second[0, 0].

    `label` (T,): what noisy labels add to the source, per λ². `multiplicity`: (n,) or None. Blocks of modes stay in the
    processor's first cache from one component to the next, and each loop over a block is one of vectors.
    """
    m, n = second.shape[0], second.shape[2]
    half, source = np.empty((m, m, _BLOCK)), np.empty(_BLOCK)
    for t in range(noise.size):
        s = total
        total = 0.0
        for low in range(0, n, _BLOCK):
            high = min(low + _BLOCK, n)
            size, lam, first = high - low, eigenvalues[low:high], second[0, 0, low:high]
            if multiplicity is None:
                for k in range(size):
                    source[k] = lam[k] * lam[k] * (noise[t] * (s - tau * first[k]) + label[t])
            else:
                many = multiplicity[low:high]
                for k in range(size):
                    source[k] = lam[k] * lam[k] * (noise[t] * (many[k] * s - tau * first[k]) + many[k] * label[t])
            for i in range(m):
                for j in range(m):
                    out = half[i, j, :size]
                    _scaled(kick[t, i], lam, second[0, j, low:high], out)
                    for at in range(starts[i], starts[i + 1]):
                        _added(transition[t, i, columns[at]], second[columns[at], j, low:high], out)
            for i in range(m):
                for j in range(i + 1):
                    out = second[i, j, low:high]
                    _scaled(kick[t, j], lam, half[i, 0, :size], out)
                    for at in range(starts[j], starts[j + 1]):
                        _added(transition[t, j, columns[at]], half[i, columns[at], :size], out)
                    _added(kick[t, i] * kick[t, j], source[:size], out)
                    if j < i:
                        second[j, i, low:high] = out
            for k in range(size):
                total += first[k]
    return total


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def diagonal_of_two(eigenvalues, multiplicity, c, j, p, total, transition, kick, noise, label, tau):
    """`diagonal` of two components, with moments c, j, p of 00, 01 and 11, (n,) each in place: three arrays are few
    enough for the compiler to see that one loop over all is one of vectors."""
    for t in range(noise.size):
        s = total
        total = 0.0
        a1, b1, k0, k1 = transition[t, 0, 1], transition[t, 1, 1], kick[t, 0], kick[t, 1]
        a, b, gamma, labels = transition[t, 0, 0], transition[t, 1, 0], noise[t], label[t]
        for k in range(eigenvalues.size):
            x = eigenvalues[k]
            w = 1.0 if multiplicity is None else multiplicity[k]
            ck, jk, pk = c[k], j[k], p[k]
            source = x * x * (gamma * (w * s - tau * ck) + w * labels)
            a0, b0 = a + x * k0, b + x * k1
            ac, aj = a0 * ck + a1 * jk, a0 * jk + a1 * pk
            bc, bj = b0 * ck + b1 * jk, b0 * jk + b1 * pk
            ck = ac * a0 + aj * a1 + source * k0 * k0
            c[k], j[k], p[k] = ck, bc * a0 + bj * a1 + source * k0 * k1, bc * b0 + bj * b1 + source * k1 * k1
            total += ck
    return total


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _scaled(factor, x, y, out):
    for k in range(out.size):
        out[k] = factor * x[k] * y[k]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _added(factor, x, out):
    for k in range(out.size):
        out[k] += factor * x[k]


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
