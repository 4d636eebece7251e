"""Generating functions of the spectral-diagonal regime ([VKY] sec. 4), numerically."""

from __future__ import annotations

import numpy as np


def noise_propagator_at_one(eigenvalues: np.ndarray, lr: float, momentum: float, noise: float, tau: float) -> float:
    """`Ũ(1) = γ Σ x_k(1+β) / (x_k β(1+g) + x_k(g−1) + 2 − 2β²)`, `x = αλ`, `g = γτ` ([VKY] sec. 4).

    Total effect of one unit of noise on the loss; below 1 the loss converges, given that every denominator is positive
    (`sgdsim.theory.stability` checks that).
    """
    x, g = lr * eigenvalues, noise * tau
    moving = x[x > 0]
    denominator = moving * (momentum * (1 + g) + g - 1) + 2 - 2 * momentum**2
    return float(noise * (1 + momentum) * np.sum(moving / denominator))
