"""Laws of decay of methods with memory: characteristic polynomials, generating functions, propagators and exponents.

On one eigenvalue a stationary method steps by `R = A + λ k e₀ᵀ` (`sgdsim.algorithm.methods`), and all that the loss
sees of it is `Ψ = P/Q`, where `det(μ − R) = P(μ) − λQ(μ)`: `e₀ᵀ(μ − R)⁻¹k = 1/(Ψ(μ) − λ)`, and
`P/Q = 1/(e₀ᵀ(μ − A)⁻¹k)` (Yarotsky & Velikanov, arXiv:2410.04228, sec. 3). A corner of Ψ(|μ| = 1) at 0 makes the loss
fall faster (Yarotsky, arXiv:2504.12519, here [Y]); with finite memory it does so up to a time, `corner_reach`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.special

from sgdsim.algorithm.methods import AM1, Corner, Method
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import pair_kernels, pair_maps
from sgdsim.theory import linear

_DIGITS = 10  # to which the contour suppresses what comes after the last step asked for


def _parts(method: Method, lr: float, momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """A (m, m) and k (m,) of a stationary method whose step does not depend on where w is; InputError for others."""
    if not method.is_stationary:
        raise InputError(f"theory: expected a method that does not change in time, got {method.spec}")
    maps = method.maps(np.arange(1), np.array([float(lr)]), np.array([float(momentum)]))
    transition, kick = maps.transition[0], maps.kick[0]
    if not np.array_equal(transition[:, 0], np.eye(kick.size)[0]):
        raise InputError(f"theory: expected memory that sees gradients only, not the iterate; got {method.spec}")
    return transition, kick


def polynomials(method: Method, lr: float, momentum: float = 0.0, about: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """P (m + 1,) and Q (m,) of `det(μ − A − λ k e₀ᵀ) = P(μ) − λQ(μ)` in powers of μ − about, the highest first.

    About μ = 1, where decays near 1 would cancel otherwise, coefficients keep their relative precision for `Memory`
    and `Corner`. Heavy ball: `P = (μ−1)(μ−β)`, `Q = −αμ`; Nesterov: the same P, `Q = −α((1+β)μ − β)`.

    Raises InputError for a method that changes in time, and for one whose memory sees the iterate.

    >>> from sgdsim.algorithm.methods import HeavyBall
    >>> [p.tolist() for p in polynomials(HeavyBall(), 0.5, 0.5)]
    [[1.0, -1.5, 0.5], [-0.5, 0.0]]
    """
    transition, kick = _parts(method, lr, momentum)
    read, decay = transition[0, 1:], transition[1:, 1:] - about * np.eye(kick.size - 1)
    if not np.array_equal(decay, np.diag(np.diag(decay))):
        held, adjugate_read = _faddeev_leverrier(decay, read)
    else:  # products instead of sums: nothing cancels
        roots = np.diag(decay)
        held = np.poly(roots)
        adjugate_read = np.array([read[i] * np.poly(np.delete(roots, i)) for i in range(roots.size)]).T
    p = np.convolve([1.0, about - 1.0], held)
    q = kick[0] * held
    q[1:] += adjugate_read @ kick[1:]
    return p, q


def _faddeev_leverrier(matrix: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`det(x − D)` (M + 1,) and `row adj(x − D)` (M, M), a row for each power of x, both leading first."""
    size = matrix.shape[0]
    coefficients, adjugate, rows = [1.0], np.eye(size), []
    for j in range(1, size + 1):
        rows.append(row @ adjugate)
        image = matrix @ adjugate
        coefficients.append(-np.trace(image) / j)
        adjugate = image + coefficients[-1] * np.eye(size)
    return np.array(coefficients), np.array(rows)


def effective_lr(method: Method, lr: float, momentum: float = 0.0) -> float:
    """`α_eff = −Q(1)/P′(1) = −1/Ψ′(1)`, as `linear.effective_lr` finds it without polynomials."""
    p, q = polynomials(method, lr, momentum, about=1.0)
    return -float(q[-1] / p[-2])


def psi(mu: np.ndarray | complex, method: Method, lr: float, momentum: float = 0.0) -> np.ndarray:
    """`Ψ(μ) = P(μ)/Q(μ)` in the shape of μ, by the resolvent of the memory. Raises InputError as `polynomials`."""
    transition, kick = _parts(method, lr, momentum)
    mu = np.asarray(mu, dtype=np.complex128)
    inner = transition[1:, 1:]
    if np.array_equal(inner, np.diag(np.diag(inner))):
        held = ((transition[0, 1:] * kick[1:]) / (mu[..., None] - np.diag(inner))).sum(-1)
    else:
        shifted = mu[..., None, None] * np.eye(kick.size - 1) - inner
        held = np.linalg.solve(shifted, np.broadcast_to(kick[1:, None], (*mu.shape, kick.size - 1, 1)))[..., 0]
        held = held @ transition[0, 1:]
    return (mu - 1) / (kick[0] + held)


def corner_psi(mu: np.ndarray | complex, theta: float, lr: float = 1.0) -> np.ndarray:
    """Ψ of the ideal corner, with infinite memory: what `Corner(theta, M)` tends to ([Y] eq. 28), |μ| ≥ 1.

    `Ψ = −((μ−1)²/(αμ)) / ₂F₁(1, 2−θ; 3−θ; −1/(μ−1))`, so `Ψ ≈ −c(μ−1)^θ` at 1 with `c = sin((2−θ)π)/((2−θ)πα)`;
    stable at full batch for α ≤ 2 (λ_max = 1).
    """
    number("theta", theta, minimum=1.0, maximum=2.0, open_ends=True)
    x = np.asarray(mu, dtype=np.complex128) - 1
    return -(x**2) / ((1 + x) * scipy.special.hyp2f1(1, 2 - theta, 3 - theta, -1 / x) * lr)


@dataclass(frozen=True)
class Transforms:
    """Generating functions at some z: `noise` Ũ and `signal` Ṽ, complex, in the shape of z."""

    z: np.ndarray
    noise: np.ndarray
    signal: np.ndarray

    @property
    def loss(self) -> np.ndarray:
        """`s̃(z) = Σ_t s_t z^t = Ṽ/(1 − zŨ)`, s = 2N·L."""
        return self.signal / (1 - self.z * self.noise)


@of_quadratic
def transforms(problem: QuadraticProblem, sgd: SGD, z: np.ndarray | complex, tau: float = 1.0) -> Transforms:
    """Ũ(z) and Ṽ(z) of any stationary algorithm without an average, spectral-diagonal; for heavy ball those of
    `sgdsim.theory.generating`, and at z = 1 those of `linear.at_one`.

    On each mode the second moments `X` (m, m) follow `X ← M X = R X Rᵀ − γτλ² X₀₀ kkᵀ`, and one unit of noise adds
    `λ² kkᵀ`: `Ũ = Σ γλ²[(1 − zM)⁻¹kkᵀ]₀₀`, `Ṽ = Σ c_k[(1 − zM)⁻¹e₀e₀ᵀ]₀₀`, by one solve of size m(m+1)/2 for each mode
    and z: any z that is no pole, inside the circle of convergence or not.

    Raises InputError for what changes in time, for noisy labels, and for dependent batches.
    """
    if problem.with_errors(sgd).label_noise or sgd.average is not None:
        raise InputError("theory: expected no noisy labels and no average; see linear.floor")
    linear.step(sgd)
    gamma, maps = problem.noise(sgd), pair_maps.of(sgd, problem.noise(sgd) * tau)
    points = np.atleast_1d(np.asarray(z, dtype=np.complex128))
    moves = problem.spectrum.moving
    measures = problem.eigenvalues[moves], problem.spectrum.counts[moves], problem.coefficients[moves] ** 2
    sums = np.empty((points.size, 8), complex)
    for out, point in zip(sums, points.ravel(), strict=True):
        pair_kernels.transforms(*measures, np.stack(maps[:3]), np.stack(maps[3:]), 1 - point, point, False, out)
    noise, signal = gamma * sums[:, 0].reshape(points.shape), sums[:, 2].reshape(points.shape)
    if still := problem.still:
        with np.errstate(divide="ignore", invalid="ignore"):
            signal = signal + np.where(points == 1, np.inf, still / (1 - points))
    shape = np.shape(z)
    return Transforms(np.asarray(z), noise.reshape(shape), signal.reshape(shape))


@dataclass(frozen=True)
class Propagators:
    """What one unit of noise drawn in a step does to s t steps after that step, `noise` (T,), and what is left of the
    initial error after t steps, `signal` (T,): `s_t = signal_t + Σ_{i<t} noise_{t−1−i} s_i`, s = 2N·L."""

    noise: np.ndarray
    signal: np.ndarray

    @property
    def total(self) -> float:
        """Σ of the noise propagators so far, at most Ũ(1); the loss of an infinite run converges where that is < 1."""
        return float(self.noise.sum())

    def losses(self) -> np.ndarray:
        """s_t, (T,), the solution of the renewal equation."""
        delayed = np.concatenate([[1.0], -self.noise[:-1]])
        return _divide(self.signal, delayed)


@of_quadratic
def propagators(
    problem: QuadraticProblem,
    response: Callable[[np.ndarray], np.ndarray],
    n_steps: int,
    *,
    noise: float,
    tau: float = 0.0,
) -> Propagators:
    """U_t and V_t for t < n_steps from Ψ alone, by contour integrals ([Y] eqs. 19, 21).

    `U_{t+1} = γ Σ λ²|(1/2πi)∮ μ^t dμ/(Ψ − λ)|²` and `V_t = Σ c_k |(1/2πi)∮ μ^t Ψ dμ/((μ−1)(Ψ−λ))|²` hold for τ = 0,
    where a mode's second moments are products of its responses. A mode's own −τc_k is a renewal of its own: its
    transforms are divided by `1 + γτλ²z·p(z)`. The circle of radius a little above 1 turns into FFTs of 2·n_steps.

    Parameters
    ----------
    response : Ψ at an array of μ, |μ| > 1: `lambda mu: psi(mu, method, lr)`, or `corner_psi` for infinite memory; of a
        method whose mean is stable at every eigenvalue.
    n_steps : T; time is O(T log T) for each mode.
    noise : γ.
    """
    steps = integer("n_steps", n_steps, minimum=1)
    nodes = scipy.fft.next_fast_len(2 * max(steps, 32), real=True)
    radius = 10.0 ** (_DIGITS / nodes)
    # Real responses: the nodes of the upper half circle are enough.
    mu = radius * np.exp(2j * np.pi * np.arange(nodes // 2 + 1) / nodes)
    at = np.asarray(response(mu))
    scale = radius ** np.arange(steps)
    lam, c = problem.eigenvalues, problem.coefficients**2
    counts = problem.spectrum.counts
    u, v = np.zeros(steps), np.zeros(steps)
    for k in range(lam.size):
        after = mu / (at - lam[k])
        impulse = scipy.fft.irfft(after, nodes)[:steps] * scale
        rest = scipy.fft.irfft(after * at / (mu - 1), nodes)[:steps] * scale
        p, q = impulse**2, rest**2
        if tau and noise:
            own = np.concatenate([[1.0], noise * tau * lam[k] ** 2 * p[:-1]])
            p, q = _divide(p, own), _divide(q, own)
        u += counts[k] * noise * lam[k] ** 2 * p
        v += c[k] * q
    return Propagators(u, v)


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The power series above/below, both (T,), below[0] = 1, by Newton's iteration with FFTs."""
    size, inverse = above.size, np.ones(1)
    while inverse.size < size:
        n = min(2 * inverse.size, size)
        product = _multiply(below[:n], inverse, n)
        product[0] -= 2.0
        inverse = -_multiply(inverse, product, n)
    return _multiply(above, inverse, size)


def _multiply(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """The first n coefficients of the product of two power series."""
    length = scipy.fft.next_fast_len(a.size + b.size - 1, real=True)
    return scipy.fft.irfft(scipy.fft.rfft(a, length) * scipy.fft.rfft(b, length), length)[:n]


def corner_theta_max(nu: float, zeta: float) -> float:
    """The largest angle θ that speeds a corner up under batch noise, `min(2, ν, 2/(ζ + 1/ν))` ([Y] thm. 4).

    Beyond ν the noise propagators of an infinite spectrum have no sum, beyond `2/(ζ + 1/ν)` noise decides the late
    loss. InputError outside the signal-dominated phase, ν > 1 and 0 < ζ < 2 − 1/ν.

    >>> corner_theta_max(4.0, 0.25), corner_theta_max(1.5, 0.5)
    (2.0, 1.5)
    """
    if not (number("nu", nu) > 1 and 0 < number("zeta", zeta) < 2 - 1 / nu):
        raise InputError(f"corner: expected nu > 1 and 0 < zeta < 2 - 1/nu, got nu = {nu:g}, zeta = {zeta:g}")
    return min(2.0, nu, 2 / (zeta + 1 / nu))


def corner_reach(corner: Corner) -> float:
    """Steps up to which a corner of finite memory speeds up, `1/δ_M = e^((M−½)h)`, `h = spread/√M`."""
    return float(np.exp((corner.memory - 0.5) * corner.spread / np.sqrt(corner.memory)))


def signal_exponent(method: Method, nu: float, zeta: float) -> float:
    """ξ of the signal propagators `V_t ∝ t^{−ξ}`, and of the loss where the signal dominates.

    Stationary methods of finite memory: ζ, whatever they are (arXiv:2410.04228, thm. 3). A corner: θζ ([Y] thm. 3) for
    1 ≪ t ≪ `corner_reach`, and ζ beyond. AM1: `ζ(1 + power(1 − 1/ν))`, as its effective time `Σα_t` grows like
    `t^{1 + power(1 − 1/ν)}`; at power 1 the `ζ(2 − 1/ν)` of arXiv:2410.04228, sec. 5. The ν is that of the method.

    Raises InputError for other methods that change in time.
    """
    number("nu", nu), number("zeta", zeta)
    if isinstance(method, Corner):
        return method.theta * zeta
    if isinstance(method, AM1):
        return zeta * (1 + method.power * (1 - 1 / method.nu))
    if not method.is_stationary:
        raise InputError(f"theory: expected a method whose law is known, got {method.spec}")
    return float(zeta)


def noise_exponent(method: Method, nu: float) -> float:
    """ξ of the noise propagators `U_t ∝ t^{−ξ}`: 2 − 1/ν for stationary methods (arXiv:2410.04228, thm. 3), 2 − θ/ν for
    a corner ([Y] thm. 3), for 1 ≪ t ≪ `corner_reach`. InputError for methods that change in time: theirs are no
    function of t alone.
    """
    if not method.is_stationary:
        raise InputError(f"theory: expected a method that does not change in time, got {method.spec}")
    return 2 - (method.theta if isinstance(method, Corner) else 1.0) / number("nu", nu)
