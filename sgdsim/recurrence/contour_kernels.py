"""Compiled sums over eigenvalues behind `sgdsim.recurrence.contour`: arrays in, arrays out.

All are serial; those with `low, high` do these items alone, for `sgdsim.recurrence.share`.

With `z = e^{−σ}` and x = αλ the common denominator of both generating functions is `S = A0 + x(A1 + x A2)`,
`A0 = (1−z)(1−βz)(1−β²z)`, `A1 = 2z(1+β)(1−βz)`, `A2 = z(g(1+βz) − (1−βz))`; written like this, with 1−z from
`expm1`, it keeps its digits where z → 1 and x → 0.
"""

from __future__ import annotations

import math

import numpy as np

from sgdsim.common.compiled import numba
from sgdsim.recurrence.hyperbola import OPTIONS, expm1, node
from sgdsim.recurrence.kernels import diagonal_advance

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_STRIDE = 64  # steps between two looks at the size of the state: it grows by 1e200 at most in between
LOWEST = -700.0  # e^σ at the end of float64; nothing is left after one step


@numba.njit(**OPTIONS, fastmath=_FAST)
def _real_sum(eigenvalues, weights, occupied, alpha, beta, g, sigma):
    """Σ w x²/S at real σ, and the smallest S; `occupied`: the first modes, those that count (λ > 0)."""
    z = math.exp(-sigma)
    bz = 1.0 - beta * z
    a0 = -math.expm1(-sigma) * bz * (1.0 - beta * beta * z)
    a1 = alpha * 2.0 * z * (1.0 + beta) * bz
    a2 = alpha * alpha * z * (g * (1.0 + beta * z) - bz)
    total, least = 0.0, np.inf
    for k in range(occupied):
        lam = eigenvalues[k]
        s = a0 + lam * (a1 + lam * a2)
        total += weights[k] * lam * lam / s
        least = min(least, s)
    return total * alpha * alpha, least


@numba.njit(**OPTIONS)
def _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, sigma):
    """`1 − zŨ(z)` at z = e^{−σ}; −inf where some S ≤ 0, that is to the left of a singularity of one mode."""
    total, least = _real_sum(eigenvalues, weights, occupied, alpha, beta, g, sigma)
    if not least > 0.0:
        return -np.inf
    z = math.exp(-sigma)
    return 1.0 - z * gamma * (1.0 + beta * z) * total


@numba.njit(**OPTIONS)
def rightmost(eigenvalues, weights, occupied, alpha, beta, gamma, g, tolerance):
    """σ₁ to within `tolerance`, never below it by more: right of it s̃ has no singularity, at it the first one.

    That is `−log z₁` with z₁ the root of `zŨ(z) = 1`, or the first zero of S where no noise comes back (γ = 0). The
    gap is negative left of σ₁ and positive right of it.
    """
    floor = max(math.log(abs(beta)), LOWEST) if beta != 0.0 else LOWEST
    if occupied == 0:
        return floor
    low, high = 0.0, 0.0
    f_high = _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, 0.0)
    if f_high > 0.0:  # it converges: the root is left of 0
        slow = alpha * eigenvalues[occupied - 1] / (1.0 - beta)  # about half the rate of the slowest mode
        step = max(tolerance, min(slow, 0.1))
        low = -step
        f_low = _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, max(low, floor))
        while f_low > 0.0 and low > floor:
            high, f_high = low, f_low
            step *= 4.0
            low = -step
            f_low = -np.inf if low <= floor else _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, low)
        low = max(low, floor)
    else:
        f_low = f_high
        step = max(tolerance, 1e-6)
        high = step
        f_high = _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, high)
        while f_high <= 0.0:
            low, f_low = high, f_high
            step *= 4.0
            high = step
            f_high = _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, high)
    side, count = 0, 0
    while high - low > tolerance and high - low > 1e-13 * abs(low):
        count += 1
        if f_low == -np.inf or count % 4 == 0:  # a bisection now and then, where the other end does not move
            middle = 0.5 * (low + high)
        else:  # regula falsi, Illinois form
            middle = high - f_high * (high - low) / (f_high - f_low)
            width = high - low
            middle = min(max(middle, low + 0.01 * width), high - 0.01 * width)
        f = _gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, middle)
        if f > 0.0:
            high, f_high = middle, f
            if side == 1 and f_low != -np.inf:
                f_low *= 0.5
            side = 1
        else:
            low, f_low = middle, f
            if side == -1:
                f_high *= 0.5
            side = -1
    return high


@numba.njit(**OPTIONS)
def critical(eigenvalues, weights, beta, gamma, g, out, first, end):
    """The learning rate at which Ũ(1) = 1, or 2(1+β), of each cell; eigenvalues > 0."""
    for i in range(first, end):
        top = 2.0 * (1.0 + beta[i])
        if gamma[i] == 0.0 or _gap(eigenvalues, weights, eigenvalues.size, top, beta[i], gamma[i], g[i], 0.0) > 0.0:
            out[i] = top
            continue
        low, high = 0.0, top
        while high - low > 4e-16 * high:
            middle = 0.5 * (low + high)
            if _gap(eigenvalues, weights, eigenvalues.size, middle, beta[i], gamma[i], g[i], 0.0) > 0.0:
                low = middle
            else:
                high = middle
        out[i] = low


@numba.njit(**OPTIONS, fastmath=_FAST)
def _complex_sums(eigenvalues, weights, c, a, b):
    """Σ wλ²/S, Σ wλ²S'/S², Σ c/S, Σ cλ/S, Σ cS'/S², Σ cλS'/S² for `S = Σ_i a_i λ^i`, `S' = Σ_i b_i λ^i`."""
    a0r, a0i, a1r, a1i, a2r, a2i = a[0].real, a[0].imag, a[1].real, a[1].imag, a[2].real, a[2].imag
    b0r, b0i, b1r, b1i, b2r, b2i = b[0].real, b[0].imag, b[1].real, b[1].imag, b[2].real, b[2].imag
    u0r, u0i, u1r, u1i = 0.0, 0.0, 0.0, 0.0
    c0r, c0i, c1r, c1i, c2r, c2i, c3r, c3i = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(eigenvalues.size):
        lam = eigenvalues[k]
        sr, si = a0r + lam * (a1r + lam * a2r), a0i + lam * (a1i + lam * a2i)
        dr, di = b0r + lam * (b1r + lam * b2r), b0i + lam * (b1i + lam * b2i)
        size = 1.0 / (sr * sr + si * si)
        pr, pi = sr * size, -si * size  # 1/S
        hr, hi = pr * dr - pi * di, pr * di + pi * dr  # S'/S
        qr, qi = hr * pr - hi * pi, hr * pi + hi * pr  # S'/S²
        w, ck = weights[k] * lam * lam, c[k]
        u0r += w * pr
        u0i += w * pi
        u1r += w * qr
        u1i += w * qi
        c0r += ck * pr
        c0i += ck * pi
        c2r += ck * qr
        c2i += ck * qi
        ck *= lam
        c1r += ck * pr
        c1i += ck * pi
        c3r += ck * qr
        c3i += ck * qi
    return (
        complex(u0r, u0i), complex(u1r, u1i),
        complex(c0r, c0i), complex(c1r, c1i), complex(c2r, c2i), complex(c3r, c3i),
    )  # fmt: skip


@numba.njit(**OPTIONS)
def transforms(eigenvalues, weights, c, alpha, beta, gamma, g, sigma):
    """Ũ, Ṽ and their derivatives with respect to z, at `z = e^{−σ}` with complex σ."""
    z = np.exp(-sigma)
    one_z = -expm1(-sigma)
    # 1 − βz, 1 − β²z and 1 + βz, with their digits where |β| → 1 too.
    bz, plus = (1.0 - beta) + beta * one_z, (1.0 + beta) - beta * one_z
    b2z = (1.0 - beta) * (1.0 + beta) + beta * beta * one_z
    a = (one_z * bz * b2z, 2.0 * alpha * (1.0 + beta) * z * bz, alpha * alpha * z * (g * plus - bz))
    b = (
        -bz * b2z - beta * one_z * (b2z + beta * bz),
        2.0 * alpha * (1.0 + beta) * (bz - beta * z),
        alpha * alpha * (g * (plus + beta * z) - (bz - beta * z)),
    )
    u0, u1, c0, c1, c2, c3 = _complex_sums(eigenvalues, weights, c, a, b)
    scale = gamma * alpha * alpha
    v0, v1 = bz * b2z, 2.0 * alpha * beta
    v = v0 * c0 + v1 * z * c1
    dv = v1 * c1 - beta * (b2z + beta * bz) * c0 - v0 * c2 - v1 * z * c3
    return scale * plus * u0, v, scale * (beta * u0 - plus * u1), dv


@numba.njit(**OPTIONS)
def _inverse(eigenvalues, weights, c, alpha, beta, gamma, g, shift, t, contour):
    """`e^{−shift·t} s_t` along a contour around everything left of `shift`, and the size of the terms summed.

    By parts, `s_t = −(1/t)(1/2πi)∫ e^{σt} ds̃/dσ dσ`: near σ = 0 the derivative of a loss that falls like t^{−ξ}, ξ < 2,
    is large, while s̃ itself is a constant whose digits would cancel.
    """
    total, size = 0.0, 0.0
    for number in range(contour[3]):
        local, weight = node(number, contour, t)
        sigma = shift + local
        z = np.exp(-sigma)
        u, v, du, dv = transforms(eigenvalues, weights, c, alpha, beta, gamma, g, sigma)
        rest = 1.0 - z * u
        if rest == 0.0:  # a node on a root, whose residue is then infinite
            return np.inf, np.inf
        term = weight * z * (dv + (u + z * du) * v / rest) / rest  # times −ds̃/dσ
        total += term.real
        size += abs(term) * (1.0 + 1.0 / abs(rest))  # near the threshold 1 − zŨ has lost digits
    return total, size


@numba.njit(**OPTIONS)
def invert(eigenvalues, weights, c, alpha, beta, gamma, g, shift, cells, times, contour, out, size, low, high):
    """`e^{−shift·t} s_t` of items (cell, t), and the size of what was summed; hyperparameters are arrays over cells."""
    for i in range(low, high):
        k = cells[i]
        out[i], size[i] = _inverse(
            eigenvalues, weights, c, alpha[k], beta[k], gamma[k], g[k], shift[k], times[i], contour
        )


@numba.njit(**OPTIONS)
def rightmost_of(eigenvalues, weights, occupied, alpha, beta, gamma, g, tolerance, out, low, high):
    """`rightmost` of each cell."""
    for i in range(low, high):
        out[i] = rightmost(eigenvalues, weights, occupied, alpha[i], beta[i], gamma[i], g[i], tolerance[i])


@numba.njit(**OPTIONS)
def recur(eigenvalues, multiplicity, c0, alpha, beta, gamma, tau, steps, counts, out, low, high):
    """log s_t by the recurrence at the first `counts[cell]` of the ascending `steps`, into out (cells, steps).

    Logarithms, and a state rescaled now and then, because a loss may pass the range of float64 both ways.
    """
    for cell in range(low, high):
        lr, momentum = np.full(_STRIDE, alpha[cell]), np.full(_STRIDE, beta[cell])
        noise = np.full(_STRIDE, gamma[cell])
        c, j, p = c0.copy(), np.zeros(c0.size), np.zeros(c0.size)
        s = c.sum()
        scale = 0.0
        now = 0
        for i in range(counts[cell]):
            while now < steps[i]:
                some = min(_STRIDE, int(steps[i]) - now)
                s = diagonal_advance(
                    eigenvalues, multiplicity, c, j, p, s, lr[:some], momentum[:some], noise[:some], tau[cell]
                )
                now += some
                if (s > 1e100 or s < 1e-100) and s > 0.0:
                    scale += math.log(s)
                    for k in range(c.size):
                        c[k] /= s
                        j[k] /= s
                        p[k] /= s
                    s = 1.0
            out[cell, i] = scale + math.log(s) if s > 0.0 else -np.inf if s == 0.0 else np.nan


@numba.njit(**OPTIONS)
def _mean_factor(x, beta, t, slope):
    """`f = e^{−slope·t} r_t/r_0` of one mode without noise: `h_{t+1} − βh_t`, `h_t = (μ₁^t − μ₂^t)/(μ₁ − μ₂)`.

    Also the envelope of f, larger than |f| where a mode oscillates: the rounding of its phase is relative to that.

    μ₁, μ₂ are the roots of `μ² − (1 − x + β)μ + β` (Polyak 1964); `1 − μ₁` is formed without cancellation.
    """
    if beta == 0.0:
        size = abs(1.0 - x)
        log_size = math.log1p(-x) if x < 0.5 else math.log(size) if size > 0.0 else -np.inf
        size = math.exp(t * (log_size - slope))  # up to a sign
        return size, size
    b = 1.0 + x - beta
    discriminant = (b - 2.0 * math.sqrt(x)) * (b + 2.0 * math.sqrt(x))
    middle = 0.5 * (1.0 - x + beta)
    if discriminant < 0.0:
        theta = math.atan2(0.5 * math.sqrt(-discriminant), middle)
        root = math.sqrt(beta)
        wave = math.sin((t + 1.0) * theta) - root * math.sin(t * theta)
        size = math.exp(t * (0.5 * math.log(beta) - slope)) / math.sin(theta)
        return size * wave, size
    root = math.sqrt(discriminant)
    parity = 1.0 if t % 2.0 == 0.0 else -1.0
    if root < 1e-7:
        size = math.exp((t - 1.0) * math.log(abs(middle)) - slope * t)
        size *= abs(middle * (t + 1.0) - beta * t)
        return size, size
    if middle > 0.0:
        gap = 2.0 * x / (b + root)
        one, log_one = 1.0 - gap, math.log1p(-gap)
        two = beta / one
        power_one = math.exp(t * (log_one - slope))
    else:
        two = middle - 0.5 * root
        one = beta / two
        power_one = math.exp(t * (math.log(abs(one)) - slope)) * (1.0 if one > 0.0 else parity)
    power_two = math.exp(t * (math.log(abs(two)) - slope)) * (1.0 if two > 0.0 else parity)
    size = ((one - beta) * power_one + (beta - two) * power_two) / root
    return size, abs(size)


@numba.njit(**OPTIONS)
def noiseless(eigenvalues, c, alpha, beta, shift, cells, times, out, size, low, high):
    """`e^{−shift·t} s_t` without sampling noise, in closed form, of items (cell, t); and the same with envelopes, each
    stretched by how fast a mode's root moves with x: by 1/(μ₁ − μ₂), or a share t of steps where both meet."""
    for i in range(low, high):
        total, most, cell = 0.0, 0.0, cells[i]
        for k in range(c.size):
            if c[k] > 0.0:
                x = alpha[cell] * eigenvalues[k]
                f, envelope = _mean_factor(x, beta[cell], times[i], 0.5 * shift[cell])
                total += c[k] * f * f
                apart = math.sqrt(abs((1.0 + x - beta[cell]) ** 2 - 4.0 * x))
                envelope *= 1.0 + x / max(apart, 1.0 / times[i])
                most += c[k] * envelope * envelope
        out[i], size[i] = total, most
