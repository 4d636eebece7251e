"""Compiled loops of the sampled and the averaged regime: arrays in, arrays out.

Each has a slow literal twin in `tests/naive.py`.
"""

from __future__ import annotations

import numba
import numpy as np

from sgdsim.recurrence.kernels import FAST

_POINTS = 1024  # whose values in the modes are worked on at once


@numba.njit(cache=True, nogil=True, parallel=True)
def sampled_advance(kernel, r, v, lr, momentum, sizes, batches):
    """Linearised SGD in function space, one replicate per row of r and v (R, N); batches (R, T, b) int32."""
    n = kernel.shape[0]
    for replicate in numba.prange(r.shape[0]):
        residual, velocity = r[replicate], v[replicate]
        weights = np.empty(batches.shape[2])
        for t in range(lr.size):
            beta, b = momentum[t], sizes[t]
            batch = batches[replicate, t]
            scale = lr[t] * n / b
            for i in range(b):
                weights[i] = scale * residual[batch[i]]
            for k in range(n):
                velocity[k] *= beta
            for i in range(b):
                weight, row = weights[i], kernel[batch[i]]
                for k in range(n):
                    velocity[k] -= weight * row[k]
            for k in range(n):
                residual[k] += velocity[k]


@numba.njit(cache=True, nogil=True)
def _pair(c, j, p, i, k, x_i, x_k, beta, noise, with_momentum):
    """One step of the second moments of modes i and k, in place; `noise` is the covariance of the gradients' noise."""
    c_ik = c[i, k]
    p_new = x_i * x_k * (c_ik + noise)
    j_ik, j_ki = -x_k * c_ik, -x_i * c_ik
    if with_momentum:
        old_ik, old_ki = j[i, k], j[k, i]
        p_new += beta * (beta * p[i, k] - x_i * old_ik - x_k * old_ki)
        j_ik += beta * old_ik
        j_ki += beta * old_ki
        p[i, k] = p_new
        p[k, i] = p_new
        j[i, k] = j_ik + p_new
        j[k, i] = j_ki + p_new
    c_new = c_ik + j_ik + j_ki + p_new
    c[i, k] = c_new
    c[k, i] = c_new


@numba.njit(cache=True, nogil=True, parallel=True)
def averaged_advance(eigenvalues, c, j, p, m, source, n_samples, alpha, beta, gamma, with_momentum):
    """One step of the noise part of the averaged regime, in the eigenbasis.

    c, p symmetric and j (n, n) in place: second moments of noise residual and velocity; m (n,) the mean residual before
    the step; source = Uᵀ diag(E r²) U, of which only k ≤ i is read. Each pair (i, k) is computed once and written
    twice, so c and p stay symmetric to the last bit: an antisymmetric rounding error would grow exponentially.
    """
    n = eigenvalues.size
    for chunk in numba.prange((n + 63) // 64):
        low = chunk * 64
        high = min(low + 64, n)
        for left in range(0, high, 64):
            for i in range(low, high):
                x_i = alpha * eigenvalues[i]
                for k in range(left, min(left + 64, i + 1)):
                    x_k = alpha * eigenvalues[k]
                    c_ik = c[i, k]
                    noise = gamma * (n_samples * source[i, k] - c_ik - m[i] * m[k])
                    _pair(c, j, p, i, k, x_i, x_k, beta, noise, with_momentum)


@numba.njit(cache=True, nogil=True)
def impulse_responses(eigenvalues, lr, momentum):
    """What later steps make of a kick to the velocity in each of `lr.size` steps of heavy ball, mode by mode.

    Returns the residual and the velocity after the last step, per kick αλ in step j, (T, n) each; and the map from the
    residual and velocity before the first step to those after the last, (4, n): aa, av, va, vv.
    """
    n, n_steps = eigenvalues.size, lr.size
    residual, velocity = np.empty((n_steps, n)), np.empty((n_steps, n))
    aa, av, va, vv = np.ones(n), np.zeros(n), np.zeros(n), np.ones(n)
    for j in range(n_steps - 1, -1, -1):
        beta = momentum[j]
        for k in range(n):
            x = lr[j] * eigenvalues[k]
            residual[j, k] = x * (aa[k] + av[k])
            velocity[j, k] = x * (va[k] + vv[k])
            aa[k], av[k] = aa[k] - x * (aa[k] + av[k]), beta * (aa[k] + av[k])
            va[k], vv[k] = va[k] - x * (va[k] + vv[k]), beta * (va[k] + vv[k])
    return residual, velocity, np.stack((aa, av, va, vv))


@numba.njit(cache=True, nogil=True, parallel=True)
def slow_pairs_advance(first, exact, c, j, p, maps, level, slope, responses, inverse, with_momentum):
    """One interval of `sgdsim.regimes.averaged.slow_pairs.SlowPairs`, in place, for the pairs of the modes first,
    first + 1, … with
    all before them but for those among the first `exact` modes.

    c, p: their lower triangles; j: all; maps (4, n) as `impulse_responses` has them. The source per squared kick is
    `level − c·inverse` times the weights behind responses[·, 0], plus `slope` times those of [·, 1], less those of
    [·, 2]; responses (1 or 4, 3, rows, columns) for the pairs aa, av, va, vv; level and slope (rows, columns).
    """
    for row in numba.prange(level.shape[0]):
        i = first + row
        if i < exact:
            continue
        aa_i, av_i, va_i, vv_i = maps[0, i], maps[1, i], maps[2, i], maps[3, i]
        for k in range(i):
            c_ik = c[i, k]
            source, rise = level[row, k] - c_ik * inverse, slope[row, k]
            aa_k = maps[0, k]
            added = responses[0, 0, row, k] * source + responses[0, 1, row, k] * rise - responses[0, 2, row, k]
            if not with_momentum:
                c[i, k] = aa_i * aa_k * c_ik + added
                continue
            av_k, va_k, vv_k = maps[1, k], maps[2, k], maps[3, k]
            j_ik, j_ki, p_ik = j[i, k], j[k, i], p[i, k]
            # The residual of mode i, and its velocity, with the residual and the velocity of mode k.
            a_a, a_v = aa_i * c_ik + av_i * j_ki, aa_i * j_ik + av_i * p_ik
            v_a, v_v = va_i * c_ik + vv_i * j_ki, va_i * j_ik + vv_i * p_ik
            c[i, k] = a_a * aa_k + a_v * av_k + added
            added = responses[1, 0, row, k] * source + responses[1, 1, row, k] * rise - responses[1, 2, row, k]
            j[i, k] = a_a * va_k + a_v * vv_k + added
            added = responses[2, 0, row, k] * source + responses[2, 1, row, k] * rise - responses[2, 2, row, k]
            j[k, i] = v_a * aa_k + v_v * av_k + added
            added = responses[3, 0, row, k] * source + responses[3, 1, row, k] * rise - responses[3, 2, row, k]
            p[i, k] = v_a * va_k + v_v * vv_k + added


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def tiers_advance(
    eigenvalues, basis, block, variances, means, squares, trend, shares, hypers, level, rise, offset, with_momentum
):  # fmt: skip
    """Steps of `sgdsim.regimes.averaged.tiers.Tiers`: `averaged_advance` among the first b modes, variances of the
    others. Returns the mean of E r² before each, and the sum of all variances after it, (T,) each.

    In place: block, c, j, p (b, b); variances, dc, dj, dp (n − b,); squares (T, N), of E r and then E r²; level and
    rise (N,), their sum and that of their products with the time, `offset` at first. means (T, n); hypers (T, 3); basis
    (kept, N) float32 or float64: the rows of Uᵀ of modes whose source is exact. trend and shares: weights (T, V) of
    (V, N) what the slow pairs give to E r² per S, and (V, N) how the other variances spread, or (V, n − kept) their
    share of it as a source.
    """
    (c, j, p), (dc, dj, dp), n, b = block, variances, squares.shape[1], block[0].shape[0]
    kept, full, source = basis.shape[0] - b, np.empty((b, b)), np.empty(dc.size)
    scales, totals, scratch = np.empty(means.shape[0]), np.empty(means.shape[0]), np.empty((3, _POINTS), basis.dtype)
    for t in range(means.shape[0]):
        (alpha, beta, gamma), own, far, now = hypers[t], squares[t], dc[kept:].sum(), np.sum(means[t] ** 2) + dc.sum()
        for k in range(b):
            now += c[k, k]
        now /= n
        for v in range(trend[0].shape[1]):
            _add(trend[0][t, v] * now, trend[1][v], own)
            _add(trend[0][t, v] * far, trend[2][v], own)
        full[:], source[:] = 0.0, 0.0
        for low in range(0, n, _POINTS):
            _weigh(basis, low, c, dc, own[low : low + _POINTS], full, source, scratch)
        for v in range(shares[0].shape[1]):
            _add(shares[0][t, v] * now, shares[1][v], source[kept:])
        _add(1.0, own, level)
        _add(offset + t, own, rise)
        for i in range(b):
            for k in range(i + 1):
                noise = gamma * (n * full[i, k] - c[i, k] - means[t, i] * means[t, k])
                _pair(c, j, p, i, k, alpha * eigenvalues[i], alpha * eigenvalues[k], beta, noise, with_momentum)
        for k in range(dc.size):
            x, ck, jk = alpha * eigenvalues[b + k], dc[k], dj[k]
            noise = gamma * (n * source[k] - ck - means[t, b + k] ** 2)
            pk = x * x * (ck + noise) + beta * (beta * dp[k] - 2.0 * x * jk)
            jk = beta * jk - x * ck
            dc[k] = ck + 2.0 * jk + pk
            dj[k], dp[k] = jk + pk, pk
        scales[t], totals[t] = own.sum() / n, dc.sum()
        for k in range(b):
            totals[t] += c[k, k]
    return scales, totals


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _add(factor, x, out):
    for i in range(out.size):
        out[i] += factor * x[i]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _weigh(basis, low, c, dc, squares, full, source, scratch):
    """Of the points from `low` on: adds what c (b, b) and dc give to `squares`, and then what those feed to `full` (its
    lower triangle) and `source`."""
    b, kind, count, high = c.shape[0], basis.dtype.type, squares.size, low + squares.size
    total, row, weights = scratch[0, :count], scratch[1, :count], scratch[2, :count]
    total[:] = 0
    for a in range(b):
        u = basis[a, low:high]
        row[:] = 0
        for k in range(a):
            _add(kind(2.0 * c[a, k]), basis[k, low:high], row)
        _add(kind(c[a, a]), u, row)
        for i in range(count):
            total[i] += u[i] * row[i]
    for k in range(b, basis.shape[0]):
        u, own = basis[k, low:high], kind(dc[k - b])
        for i in range(count):
            total[i] += own * u[i] * u[i]
    for i in range(count):
        squares[i] += total[i]
        weights[i] = kind(squares[i])
    for a in range(basis.shape[0]):
        u = basis[a, low:high]
        for i in range(count):
            row[i] = weights[i] * u[i]
        if a >= b:
            source[a - b] += _dot(row, u)
        for k in range(a + 1 if a < b else 0):
            full[a, k] += _dot(row, basis[k, low:high])


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def _dot(x, y):
    total = x[0] * y[0]
    for i in range(1, x.size):
        total += x[i] * y[i]
    return total
