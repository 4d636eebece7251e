"""Compiled loops of any linear method (`sgdsim.algorithm.methods`), mode by mode: arrays in, arrays out. Twins in
`tests/naive.py`.

`transition` (T, m, m) and `kick` (T, m) are the steps of the m components; `starts` (m + 1,) and `columns` list where
rows of the transition may differ from 0, as most memory vectors see only themselves.
"""

from __future__ import annotations

import numpy as np

from sgdsim.common.compiled import numba
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
def diagonal_of_two(
    eigenvalues, multiplicity, c, j, p, average, seen, other, total, transition, kick, noise, label, tau
):  # fmt: skip
    """`diagonal` of two components, with moments c, j, p of 00, 01 and 11, (n,) each in place; and, where `average` is
    not None, of an average of `seen` of component 0 and `other` of component 1: its moments 02, 12 and 22.

    `other` may be None: 0. The average acts on nothing, and most methods begin with no memory, so that A's first column
    is (1, 0). With that known few products are left, in one loop that the compiler sees to be one of vectors.
    """
    for t in range(noise.size):
        a, feed, drift = transition[t], (noise[t] * total + label[t], 1.0 - noise[t] * tau), transition[t, 0, 0] - 1.0
        if drift == 0.0 and a[1, 0] == 0.0:
            total = _step_of_two(eigenvalues, multiplicity, c, j, p, average, seen, other, a, kick[t], feed, None)
        else:
            total = _step_of_two(eigenvalues, multiplicity, c, j, p, average, seen, other, a, kick[t], feed, drift)
    return total


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _step_of_two(eigenvalues, multiplicity, c, j, p, average, seen, other, transition, kick, feed, drift):
    """One step of `diagonal_of_two`, returns Σ c. `drift`: A_00 − 1, or None where A's first column is (1, 0)."""
    a, a1, b, b1 = transition[0, 0], transition[0, 1], transition[1, 0], transition[1, 1]
    k0, k1, (level, kept), total = kick[0], kick[1], feed, 0.0
    decay = 0.0 if average is None else transition[2, 2]
    for k in range(eigenvalues.size):
        x = eigenvalues[k]
        ck, jk, pk = c[k], j[k], p[k]
        gc, gj = x * ck, x * jk  # the gradient with the components, and its square
        gg = x * x * ((level if multiplicity is None else multiplicity[k] * level) + kept * ck)
        c_new = ck + 2.0 * a * a1 * jk + a1 * a1 * pk + 2.0 * a * k0 * gc + 2.0 * a1 * k0 * gj + k0 * k0 * gg
        j_new = (a * b1 + a1 * b) * jk + a1 * b1 * pk + (a * k1 + b * k0) * gc + (a1 * k1 + b1 * k0) * gj + k0 * k1 * gg
        p_new = b1 * b1 * pk + 2.0 * b1 * k1 * gj + k1 * k1 * gg
        if drift is not None:
            c_new += drift * (a + 1.0) * ck
            j_new += a * b * ck
            p_new += b * b * ck + 2.0 * b * b1 * jk + 2.0 * b * k1 * gc
        c[k], j[k], p[k] = c_new, j_new, p_new
        total += c_new
        if average is not None:
            d, e, f = average
            dk, ek, share = d[k], e[k], (1.0 - decay) * seen
            d_old, e_old = decay * (a * dk + a1 * ek + k0 * (x * dk)), decay * (b1 * ek + k1 * (x * dk))
            if drift is not None:
                e_old += decay * b * dk
            d_new, e_new = d_old + share * c_new, e_old + share * j_new
            if other is not None:
                d_new += (1.0 - decay) * other * j_new
                e_new += (1.0 - decay) * other * p_new
            f_new = decay * decay * f[k] + share * (d_old + d_new)
            if other is not None:
                f_new += (1.0 - decay) * other * (e_old + e_new)
            d[k], e[k], f[k] = d_new, e_new, f_new
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
