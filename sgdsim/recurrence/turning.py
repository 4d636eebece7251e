"""Where the transforms of heavy ball are singular off the positive real axis of m = 1/z = e^σ.

A contour around the real σ left of σ₁ misses what modes do that turn, m complex, or change sign from step to step, m
negative. Where noise comes back s̃ has its singularities at the roots of `zŨ(z) = 1` alone: at a zero of a mode's own S
Ũ and Ṽ have a pole both. At negative z with |z| < 1/|β|, as long as all S > 0, each term of `zŨ = γα²z(1 + βz) Σ nλ²/S`
is negative: *no alternating root is right of all modes' own zeros* (of S, and −|β|), whatever the spectrum, γ and τ.
The first one is further left, before the second mode's own zero, and may be far left: at γ = τ = 1 and β = 0 a mode's
own m is 1 − 2x < −1 for x > 1, where the loss may converge and hardly alternate. Complex roots are right of all modes'
own now and then (10 of 5751 random small systems), but then more than 0.6 left of σ₁: at step 40, the first of a
contour, they are less than 10⁻¹¹ of the loss.
"""

from __future__ import annotations

import math

import numpy as np

from sgdsim.common.compiled import numba
from sgdsim.recurrence.hyperbola import OPTIONS

_SCANNED = 40  # sizes at which the first alternating root is looked for
_LEAST = 1e-3  # of the mode's own size, below which it does not matter where it is


@numba.njit(**OPTIONS)
def _turning(x, beta, g):
    """The largest moduli of the zeros m = 1/z of one mode's S that are complex, and of those that are negative; 0 if
    there is none."""
    mean = 1.0 + beta * beta - 2.0 * x * (1.0 + beta) + x * x
    a2, a1, a0 = g * x * x - mean - beta, beta * (beta + mean + g * x * x), -(beta**3)
    p, q = (a1 - a2 * a2 / 3.0) / 3.0, a2 * (2.0 * a2 * a2 / 27.0 - a1 / 3.0) / 2.0 + a0 / 2.0
    inside = q * q + p * p * p
    if inside > 0.0:  # one real zero and a pair
        edge = -q - math.copysign(math.sqrt(inside), q)
        edge = math.copysign(abs(edge) ** (1.0 / 3.0), edge)
        real = edge - p / edge - a2 / 3.0
        return math.sqrt(abs(a1 + real * (a2 + real))), max(0.0, -real)
    size = 2.0 * math.sqrt(max(-p, 0.0))
    angle = math.acos(min(max(-8.0 * q / size**3, -1.0), 1.0)) / 3.0 if size > 0.0 else 0.0
    return 0.0, max(0.0, a2 / 3.0 - size * math.cos(angle + 2.0 * math.pi / 3.0))


@numba.njit(**OPTIONS)
def sizes(eigenvalues, alpha, beta, g):
    """`_turning` of the modes where it is largest, (2, cells): of complex zeros, or |β|, and of negative ones."""
    out = np.zeros((2, alpha.size))
    for i in range(alpha.size):
        out[0, i] = abs(beta[i])
        for lam in eigenvalues:
            turns, changes = _turning(alpha[i] * lam, beta[i], g[i])
            out[0, i], out[1, i] = max(out[0, i], turns), max(out[1, i], changes)
    return out


@numba.njit(**OPTIONS)
def _alternating_gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, size):
    """`1 − zŨ(z)` at z = −1/size, and how many S are negative there."""
    z = -1.0 / size
    bz, plus = 1.0 - beta * z, 1.0 + beta * z
    a0 = (1.0 - z) * bz * (1.0 - beta * beta * z)
    a1 = alpha * 2.0 * z * (1.0 + beta) * bz
    a2 = alpha * alpha * z * (g * plus - bz)
    total, negative = 0.0, 0
    for k in range(occupied):
        lam = eigenvalues[k]
        s = a0 + lam * (a1 + lam * a2)
        total += weights[k] * lam * lam / s
        negative += s < 0.0
    return 1.0 - z * gamma * plus * total * alpha * alpha, negative


@numba.njit(**OPTIONS)
def _alternating(eigenvalues, weights, occupied, alpha, beta, gamma, g, low, high):
    """The largest m > low of a root of `zŨ(z) = 1` at z = −1/m, never below it, or `low`; `high`: the largest own zero
    of a mode there.

    Past the own zero zŨ jumps from −∞ to ∞, and comes to −∞ again at the second mode's: the root is between, where one
    S is negative.
    """
    right, seen = high, False
    left = low
    for k in range(1, _SCANNED + 1):
        size = high * (low / high) ** (k / _SCANNED)
        gap, negative = _alternating_gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, size)
        if negative > 1 or (negative == 1 and gap > 0.0) or (negative == 0 and seen):
            left = size
            break
        right, seen = size, seen or negative == 1
    else:
        return low
    while right - left > 1e-9 * right:
        size = 0.5 * (left + right)
        gap, negative = _alternating_gap(eigenvalues, weights, occupied, alpha, beta, gamma, g, size)
        if negative == 0 or (negative == 1 and gap <= 0.0):
            right = size
        else:
            left = size
    return right


@numba.njit(**OPTIONS)
def alternating(eigenvalues, weights, occupied, alpha, beta, gamma, g, found, first, end):
    """`_alternating` of each cell, in place of the mode's own in `found`, (2, cells) from `sizes`."""
    for i in range(first, end):
        low, high = found[0, i], found[1, i]
        if high > low:
            low = max(low, _LEAST * high)
            found[1, i] = _alternating(eigenvalues, weights, occupied, alpha[i], beta[i], gamma[i], g[i], low, high)
