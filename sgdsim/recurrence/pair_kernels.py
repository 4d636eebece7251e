"""Compiled sums over modes of what `sgdsim.recurrence.pair_maps` does: arrays in, arrays out; serial, for
`sgdsim.recurrence.share`. Twins in `tests/naive.py`.

`maps`: (3, P, P), `M − 1 = maps[0] + λ(maps[1] + λ maps[2])`; `pairs`: (3, P), kick, start and read. With
`Ũ = Σ nλ²[(1 − zM)⁻¹kkᵀ]`, `Ṽ = Σ c[(1 − zM)⁻¹bbᵀ]` at component 0, where gradients are taken, and Ũ_r, Ṽ_r of what is
read, `s̃ = (Ṽ + zΛŨ/(1 − z))/(1 − γzŨ)` and `s̃_r = Ṽ_r + z(γs̃ + Λ/(1 − z))Ũ_r`; Λ is the noise of labels.
"""

from __future__ import annotations

import numpy as np

from sgdsim.common.compiled import numba
from sgdsim.recurrence.hyperbola import OPTIONS, expm1, node


@numba.njit(**OPTIONS)
def _inverse(value):
    scale = 1.0 / (abs(value.real) + abs(value.imag))  # a square alone may leave the range of floats
    near = value * scale
    return near.conjugate() * (scale / (near.real * near.real + near.imag * near.imag))


@numba.njit(**OPTIONS)
def _factor(a, order):
    """LU decomposition in place, rows exchanged as `order` says; the diagonal of U is inverted."""
    size = a.shape[0]
    for i in range(size):
        best, most = i, 0.0
        for k in range(i, size):
            here = abs(a[k, i].real) + abs(a[k, i].imag)
            if here > most:
                best, most = k, here
        order[i] = best
        if best != i:
            for j in range(size):
                a[i, j], a[best, j] = a[best, j], a[i, j]
        a[i, i] = _inverse(a[i, i])
        for k in range(i + 1, size):
            if a[k, i] != 0.0:
                share = a[k, i] * a[i, i]
                a[k, i] = share
                for j in range(i + 1, size):
                    a[k, j] -= share * a[i, j]


@numba.njit(**OPTIONS)
def _solve(a, order, x):
    """x ← a⁻¹x after `_factor`."""
    size = a.shape[0]
    for i in range(size):
        if order[i] != i:
            x[i], x[order[i]] = x[order[i]], x[i]
    for i in range(1, size):
        value = x[i]
        for j in range(i):
            value -= a[i, j] * x[j]
        x[i] = value
    for i in range(size - 1, -1, -1):
        value = x[i]
        for j in range(i + 1, size):
            value -= a[i, j] * x[j]
        x[i] = value * a[i, i]


@numba.njit(**OPTIONS)
def _fill(a, maps, lam, one_z, z):
    """a = 1 − zM of one mode; `one_z` = 1 − z."""
    for i in range(a.shape[0]):
        for j in range(a.shape[0]):
            a[i, j] = -z * (maps[0, i, j] + lam * (maps[1, i, j] + lam * maps[2, i, j]))
        a[i, i] += one_z


@numba.njit(**OPTIONS)
def transforms(lam, counts, c, maps, pairs, one_z, z, slopes, out):
    """Σ over modes into out (8,): Ũ, Ũ_r, Ṽ, Ṽ_r and, where `slopes`, their derivatives with respect to σ = −log z."""
    size = pairs.shape[1]
    a, x, order = np.empty((size, size), out.dtype), np.empty(size, out.dtype), np.empty(size, np.int64)
    out[:] = 0.0
    for k in range(lam.size):
        weights = (counts[k] * lam[k] * lam[k], c[k])
        if weights[0] == 0.0 and weights[1] == 0.0:
            continue
        _fill(a, maps, lam[k], one_z, z)
        _factor(a, order)
        for which in range(2):
            weight = weights[which]
            if weight == 0.0:
                continue
            for i in range(size):
                x[i] = pairs[which, i]
            _solve(a, order, x)
            out[2 * which] += weight * x[0]
            for i in range(size):
                out[2 * which + 1] += weight * pairs[2, i] * x[i]
            if slopes:  # dx/dσ = −(1 − zM)⁻¹ zM x
                for i in range(size):
                    x[i] = pairs[which, i] - x[i]
                _solve(a, order, x)
                out[4 + 2 * which] += weight * x[0]
                for i in range(size):
                    out[5 + 2 * which] += weight * pairs[2, i] * x[i]


@numba.njit(**OPTIONS)
def gap(lam, counts, c, maps, pairs, gamma, sigma):
    """`1 − γzŨ(z)` at real σ, right of all that is singular in a mode itself as it would be for τ = 0; −inf left of
    what is singular for another τ."""
    size = pairs.shape[1]
    a, x, order = np.empty((size, size)), np.empty(size), np.empty(size, np.int64)
    z, one_z, total = np.exp(-sigma), -np.expm1(-sigma), 0.0
    for k in range(lam.size):
        weight = counts[k] * lam[k] * lam[k]
        if weight == 0.0:
            continue
        _fill(a, maps, lam[k], one_z, z)
        _factor(a, order)
        x[:] = pairs[0]
        _solve(a, order, x)
        if not x[0] >= 0.0:
            return -np.inf
        total += weight * x[0]
    return 1.0 - gamma * z * total


@numba.njit(**OPTIONS)
def _slope(lam, counts, c, maps, pairs, gamma, label, sigma, sums):
    """−ds̃_r/dσ, and |1 − γzŨ|, which has lost digits near the threshold."""
    z, one_z = np.exp(-sigma), -expm1(-sigma)
    transforms(lam, counts, c, maps, pairs, one_z, z, True, sums)
    u, u_read, v, _, du, du_read, dv, dv_read = sums
    drawn, rest = label * z / one_z, 1.0 - gamma * z * u
    d_drawn = -drawn / one_z
    s = (v + drawn * u) / rest
    ds = (dv + d_drawn * u + drawn * du + gamma * z * (du - u) * s) / rest
    slope = -(dv_read + (gamma * z * (ds - s) + d_drawn) * u_read + (gamma * z * s + drawn) * du_read)
    return slope, abs(rest)


@numba.njit(**OPTIONS)
def invert(lam, counts, c, maps, pairs, gamma, label, shift, times, contour, out, size, low, high):
    """`e^{−shift·t} s_t` of what is read, at some times, and the size of what was summed; by parts, as near σ = 0 the
    derivative is large, while s̃ itself is a constant whose digits would cancel."""
    sums = np.empty(8, np.complex128)
    for i in range(low, high):
        out[i], size[i] = 0.0, 0.0
        for number in range(contour[3]):
            local, weight = node(number, contour, times[i])
            slope, rest = _slope(lam, counts, c, maps, pairs, gamma, label, shift + local, sums)
            out[i] += (weight * slope).real
            size[i] += abs(weight * slope) * (1.0 + 1.0 / rest)
