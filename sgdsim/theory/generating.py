"""Generating functions of the spectral-diagonal regime ([VKY] sec. 4), numerically.

`s̃(z) = Σ_t s_t z^t = Ṽ(z) / (1 − zŨ(z))`, `s = Σ_k c_k = 2N·L`: Ṽ is what the initial error contributes, Ũ what one
unit of sampling noise does later. x = αλ and g = γτ throughout. `sgdsim.symbolic.derive` derives these formulas, and a
test feeds its symbols through the functions of this module.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Operand = np.ndarray | complex  # the formulas take symbols as well
_BLOCK = 4_000_000  # numbers held at once in a sum over modes


def denominator(x: np.ndarray, momentum: Operand, g: Operand, z: Operand) -> np.ndarray:
    """`S = (1−βz)[(1−z)(1−β²z) + 2xz(1+β) − x²z] + g x²z(1+βz)`, the determinant of one mode's second moments."""
    b = momentum
    return (1 - b * z) * ((1 - z) * (1 - b**2 * z) + 2 * x * z * (1 + b) - x**2 * z) + g * x**2 * z * (1 + b * z)


def noise_term(x: np.ndarray, momentum: Operand, g: Operand, z: Operand) -> np.ndarray:
    """Share of one mode in Ũ/γ: `x²(1 + βz)/S`."""
    return x**2 * (1 + momentum * z) / denominator(x, momentum, g, z)


def signal_term(x: np.ndarray, momentum: Operand, g: Operand, z: Operand) -> np.ndarray:
    """What multiplies c_k in Ṽ: `(2βxz + (1−βz)(1−β²z))/S`."""
    b = momentum
    return (2 * b * x * z + (1 - b * z) * (1 - b**2 * z)) / denominator(x, b, g, z)


def noise_term_at_one(x: np.ndarray, momentum: Operand, g: Operand) -> np.ndarray:
    """`noise_term` at z = 1 with its common factor x taken out: `x(1+β) / (x(β(1+g) + g − 1) + 2(1−β²))`."""
    b = momentum
    return x * (1 + b) / (x * (b * (1 + g) + g - 1) + 2 * (1 - b**2))


def signal_term_at_one(x: np.ndarray, momentum: Operand, g: Operand) -> np.ndarray:
    """`signal_term` at z = 1: `(2βx + (1−β)(1−β²)) / (x(x(β(1+g) + g − 1) + 2(1−β²)))`."""
    b = momentum
    return (2 * b * x + (1 - b) * (1 - b**2)) / (x * (x * (b * (1 + g) + g - 1) + 2 * (1 - b**2)))


def noise_propagator(
    eigenvalues: np.ndarray,
    z: np.ndarray | complex,
    *,
    lr: np.ndarray | float,
    momentum: np.ndarray | float = 0.0,
    noise: np.ndarray | float,
    tau: np.ndarray | float = 1.0,
    multiplicity: np.ndarray | None = None,
) -> np.ndarray:
    """`Ũ(z) = γ Σ_k x_k²(1 + βz)/S(x_k)`, in the broadcast shape of z, α, β, γ and τ.

    Parameters
    ----------
    eigenvalues : (n,). `multiplicity` (n,): for how many eigenvalues each one stands (None: for one).
    z, lr, momentum, noise, tau : numbers or arrays; z may be complex.
    """
    counts = np.ones(np.size(eigenvalues)) if multiplicity is None else multiplicity
    total = _sum(noise_term, eigenvalues, counts, z, lr, momentum, noise, tau)
    return total * noise


def signal_generator(
    eigenvalues: np.ndarray,
    c: np.ndarray,
    z: np.ndarray | complex,
    *,
    lr: np.ndarray | float,
    momentum: np.ndarray | float = 0.0,
    noise: np.ndarray | float,
    tau: np.ndarray | float = 1.0,
) -> np.ndarray:
    """`Ṽ(z) = Σ_k c_k (2βx_kz + (1−βz)(1−β²z))/S(x_k)`, as `noise_propagator`; c (n,) are the coefficients c_k(0)."""
    return _sum(signal_term, eigenvalues, c, z, lr, momentum, noise, tau)


def noise_propagator_at_one(
    eigenvalues: np.ndarray,
    lr: np.ndarray | float,
    momentum: np.ndarray | float,
    noise: np.ndarray | float,
    tau: np.ndarray | float,
    multiplicity: np.ndarray | None = None,
) -> np.ndarray:
    """`Ũ(1) = γ Σ x_k(1+β) / (x_k β(1+g) + x_k(g−1) + 2 − 2β²)` ([VKY] sec. 4), broadcast as in `noise_propagator`.

    Total effect of one unit of noise on the loss; below 1 the loss converges, given that every denominator is positive
    (`sgdsim.theory.stability` checks that).
    """
    counts = np.ones(np.size(eigenvalues)) if multiplicity is None else multiplicity
    total = _sum(lambda x, b, g, _: noise_term_at_one(x, b, g), eigenvalues, counts, 1.0, lr, momentum, noise, tau)
    return total * noise


def signal_at_one(
    eigenvalues: np.ndarray,
    c: np.ndarray,
    lr: np.ndarray | float,
    momentum: np.ndarray | float,
    noise: np.ndarray | float,
    tau: np.ndarray | float,
) -> np.ndarray:
    """`Ṽ(1) = Σ_t` of the signal alone ([VKY] sec. 4); infinite where a mode with c_k > 0 has λ_k = 0."""
    if np.any(c[eigenvalues == 0] > 0):
        return np.full(np.broadcast_shapes(*map(np.shape, (lr, momentum, noise, tau))), np.inf)[()]
    moving = eigenvalues > 0
    return _sum(
        lambda x, b, g, _: signal_term_at_one(x, b, g), eigenvalues[moving], c[moving], 1.0, lr, momentum, noise, tau
    )


def _sum(
    term: Callable[[np.ndarray, Operand, Operand, Operand], np.ndarray],
    eigenvalues: np.ndarray,
    weights: np.ndarray,
    z: Operand,
    lr: Operand,
    beta: Operand,
    noise: Operand,
    tau: Operand,
) -> np.ndarray:
    """`Σ_k weights_k term(αλ_k, β, γτ, z)`, in blocks of modes so that no array of cells × modes is large."""
    cells = np.broadcast(*(np.asarray(v) for v in (z, lr, beta, noise, tau)))
    z, lr, beta, g = (np.asarray(v)[..., None] for v in (z, lr, beta, np.multiply(noise, tau)))
    total = 0.0
    block = max(1, _BLOCK // max(cells.size, 1))
    with np.errstate(divide="ignore", invalid="ignore"):  # poles are results
        for low in range(0, eigenvalues.size, block):
            part = slice(low, low + block)
            total = total + (term(lr * eigenvalues[part], beta, g, z) * weights[part]).sum(-1)
    return np.broadcast_to(total, cells.shape)[()]
