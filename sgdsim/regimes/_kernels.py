"""The compiled loops: arrays in, arrays out. Each has a slow literal twin in `tests/naive.py`."""

from __future__ import annotations

import numba
import numpy as np

# Sums may be reordered and multiply-adds fused (that is what lets them use SIMD); NaN and infinity keep their meaning,
# because divergence is a result.
_FAST = {"reassoc", "contract", "nsz"}


@numba.njit(cache=True, fastmath=_FAST)
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


@numba.njit(cache=True)
def mean_advance(eigenvalues, m, w, lr, momentum):
    """Heavy ball without noise on the mean residual m and its velocity w, mode by mode, `lr.size` steps in place."""
    for t in range(lr.size):
        for k in range(eigenvalues.size):
            w[k] = momentum[t] * w[k] - lr[t] * eigenvalues[k] * m[k]
            m[k] += w[k]


@numba.njit(cache=True)
def mean_path(eigenvalues, m, w, lr, momentum):
    """`mean_advance` that also keeps m before each of the `lr.size` steps, (T, n)."""
    path = np.empty((lr.size, m.size))
    for t in range(lr.size):
        for k in range(m.size):
            path[t, k] = m[k]
            w[k] = momentum[t] * w[k] - lr[t] * eigenvalues[k] * m[k]
            m[k] += w[k]
    return path


@numba.njit(cache=True, parallel=True)
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


@numba.njit(cache=True)
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


@numba.njit(cache=True, parallel=True)
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


@numba.njit(cache=True, parallel=True, fastmath=_FAST)
def weigh_rows(weights, variances, squares):
    """Adds `weights @ variances` to `squares` (copies, N) and returns `squares @ weights`, (copies, modes).

    weights (N, modes) = U∘U is read once for both and for all copies. The rows are summed in eight fixed parts, so
    that the result does not depend on the number of threads.
    """
    n, copies, modes = weights.shape[0], squares.shape[0], weights.shape[1]
    parts = np.zeros((8, copies, modes), weights.dtype)
    for part in numba.prange(8):
        for i in range(part * n // 8, (part + 1) * n // 8):
            row = weights[i]
            for a in range(copies):
                total, own, sums = row[0] * variances[a, 0], variances[a], parts[part, a]
                for k in range(1, modes):
                    total += row[k] * own[k]
                squares[a, i] += total
                square = weights.dtype.type(squares[a, i])
                for k in range(modes):
                    sums[k] += square * row[k]
    return parts.sum(0)


@numba.njit(cache=True, fastmath=_FAST)
def tiers_advance(
    eigenvalues, c, j, p, dc, dj, dp, m, source, d_source, tail_source, n_samples, alpha, beta, gamma, with_momentum
):
    """One step of `sgdsim.regimes._tiers.Tiers`: `averaged_advance` among the first b modes, variances of the others.

    c, j, p (b, b) and dc, dj, dp (n − b,) in place; source (b, b), d_source (d,) and tail_source are
    Σ_i U_ik U_il E r_i², Σ_i U_ik² E r_i² and its mean over all modes.
    """
    b = c.shape[0]
    for i in range(b):
        x_i = alpha * eigenvalues[i]
        for k in range(i + 1):
            x_k = alpha * eigenvalues[k]
            c_ik = c[i, k]
            noise = gamma * (n_samples * source[i, k] - c_ik - m[i] * m[k])
            _pair(c, j, p, i, k, x_i, x_k, beta, noise, with_momentum)
    for k in range(dc.size):
        x = alpha * eigenvalues[b + k]
        ck, jk = dc[k], dj[k]
        per_mode = n_samples * (d_source[k] if k < d_source.size else tail_source)
        pk = x * x * (ck + gamma * (per_mode - ck - m[b + k] ** 2)) + beta * (beta * dp[k] - 2.0 * x * jk)
        jk = beta * jk - x * ck
        dc[k] = ck + 2.0 * jk + pk
        dj[k], dp[k] = jk + pk, pk
