"""Is a run stable? Three levels: full batch, spectral-diagonal, and exact at finite N."""

from __future__ import annotations

import numpy as np

from sgdsim.checks import InputError
from sgdsim.problem import QuadraticProblem
from sgdsim.sampling import RESHUFFLE
from sgdsim.sgd import SGD
from sgdsim.theory.generating import noise_propagator_at_one


def _constants(problem: QuadraticProblem, sgd: SGD) -> tuple[float, float, float]:
    if not sgd.is_constant or sgd.sampling == RESHUFFLE:
        raise InputError(
            "stability: expected constant hyperparameters and independent batches, got a schedule or reshuffling"
        )
    values = sgd.values(problem.n, 0, 1)
    return float(values.lr[0]), float(values.momentum[0]), float(values.noise[0])


def full_batch_is_stable(problem: QuadraticProblem, sgd: SGD) -> bool:
    """`α < 2(1+β)/λ_max`: the mean converges (Polyak 1964). Necessary for every kind of stability below."""
    lr, momentum, _ = _constants(problem, sgd)
    return lr < 2 * (1 + momentum)


def diagonal_is_stable(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0) -> bool:
    """Whether the loss of the spectral-diagonal regime converges: `Ũ(1) < 1` ([VKY] thm. 1), with `S > 0` on (0, 1).

    `S > 0` holds for `x < 2(1+β)` if `0 ≤ γτ ≤ 1`, and iff `x((1−g) − β(1+g)) < 2(1−β²)` if `−1 ≤ g = γτ < 0`.

    Raises
    ------
    InputError : γτ outside [−1, 1], where neither is proved; schedules or reshuffled epochs.
    """
    lr, momentum, noise = _constants(problem, sgd)
    g = noise * tau
    if abs(g) > 1:
        raise InputError(f"stability: expected γτ from -1 to 1, where the criterion is proved; got {g:g}")
    if not full_batch_is_stable(problem, sgd) or lr * ((1 - g) - momentum * (1 + g)) >= 2 * (1 - momentum**2):
        return False
    return noise_propagator_at_one(problem.eigenvalues, lr, momentum, noise, tau) < 1


def averaged_radius(
    problem: QuadraticProblem, sgd: SGD, *, tolerance: float = 1e-4, max_iterations: int = 200
) -> float:
    """Spectral radius ρ(M) of the renewal operator of the exact averaged regime; mean-square stable iff ρ < 1.

    The variances `D_i = E r_i²` of the batch-averaged regime obey a renewal equation with total kernel
    `M_ij = γα²N Σ_kl U_ik U_jk U_il U_jl λ_k λ_l R_kl` (compare Mulayoff & Michaeli, arXiv:2306.07850). M is not
    formed: a power iteration costs two products of N × N matrices. `R_kl = T/(1 + γ x_k x_l T)` with
    `T = (1−β²) / ((1−β²)² − (1+β²) a_k a_l + β(a_k² + a_l²))`, `a = 1 + β − x`: the sum over time of the product of
    the two modes' impulse responses, with the noise's own −γ K̂CK̂ part taken into account.

    Returns infinity if the mean diverges already. Raises InputError for schedules or reshuffled epochs.
    """
    lr, beta, noise = _constants(problem, sgd)
    if not full_batch_is_stable(problem, sgd):
        return float("inf")
    if noise == 0:
        return 0.0
    x, u = lr * problem.eigenvalues, problem.eigenvectors
    moving = x > 0  # a mode with λ = 0 neither moves nor makes noise
    x, u = x[moving], u[:, moving]
    products = np.outer(x, x)
    # The denominator of T, expanded in x: the constant terms cancel, and rounding must not bring them back for x → 0.
    pair = (1 + beta) * (1 - beta) ** 2 * np.add.outer(x, x)
    pair += beta * np.add.outer(x**2, x**2) - (1 + beta**2) * products
    # γN·x_k x_l·R_kl
    weight = noise * problem.n * products * (1 - beta**2) / (pair + noise * products * (1 - beta**2))
    v, radius = np.full(problem.n, problem.n**-0.5), 0.0
    for _ in range(max_iterations):
        scaled = u * np.sqrt(v)[:, None]
        inner = (scaled.T @ scaled) * weight
        image = np.maximum(np.einsum("ik,ik->i", u @ inner, u), 0.0)
        previous, radius = radius, float(np.linalg.norm(image))
        v = image / radius
        if abs(radius - previous) <= tolerance * radius:
            break
    return radius


def averaged_is_stable(problem: QuadraticProblem, sgd: SGD) -> bool:
    """Whether `E L_t` over batches stays bounded and decays, exactly at finite N: `averaged_radius < 1`."""
    return averaged_radius(problem, sgd) < 1
