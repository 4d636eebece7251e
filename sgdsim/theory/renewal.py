"""The renewal operator of the exact averaged regime: mean-square stability at this N and in this eigenbasis.

The expected squared residuals `D_i = E r_i²` of the batch-averaged regime obey a renewal equation. Its total kernel

    M_ij = Σ_kl U_ik U_jk U_il U_jl W_kl,   W_kl = γN λ_kλ_l T_kl/(1 + γλ_kλ_l T_kl),   T_kl = Σ_t g_k(t) g_l(t),

with g_k the impulse response of mode k, is never formed: `M v = diag(U [W ∘ (Uᵀ diag(v) U)] Uᵀ)` (compare Mulayoff &
Michaeli, arXiv:2306.07850). The regime is mean-square stable iff the mean converges and `ρ(M) < 1`. For heavy ball:

* M has no negative entries: `M_ij = wᵀWw` with w_k = U_ik U_jk, and W is a positive kernel, for
  `W_kl ∝ x y/(f(x) + f(y) − Cxy)`, `f = (1+β)(1−β)²x + βx²`, `C = 1 + β² − γ(1−β²) ≥ 0`, is an integral over s > 0 of
  `x e^{−sf(x)} y e^{−sf(y)} e^{sCxy}`, positive kernels each (f(x) > Cx²/2 where the
  mean converges; the solver proves both, `sgdsim theory prove`).
* ρ grows with α, as every W_kl does and `vᵀMv = Σ W_kl (Uᵀ diag(v) U)_kl²`. At the first α where the averaged step has
  radius 1 it has an eigenvector that is a second moment (Krein–Rutman), whose diagonal M keeps: there ρ ≥ 1. Where
  ρ ≥ 1, `M(z)`, which starts at 0, has the eigenvalue 1 at some z ≤ 1: the averaged step has one of 1/z ≥ 1.
* So any v > 0 with `(Mv)_i < v_i` at every point proves stability (Collatz–Wielandt), any v with `vᵀMv ≥ vᵀv` disproves
  it. For v = 1 these are sums over modes: `(M1)_i = N Σ_k U_ik² ũ_k`, a local Ũ(1) of each training point, whose mean
  over points is the closure's Ũ(1) at τ = 1: that bounds ρ from below in every eigenbasis.

Nesterov's W has a closed form as well, other methods' comes from the modes' responses in time; that their M has no
negative entries is not proved.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.optimize
import scipy.sparse.linalg

from sgdsim.algorithm.methods import HeavyBall
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import arpack
from sgdsim.common.blas import calm
from sgdsim.problem import QuadraticProblem
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import pairs, skeleton
from sgdsim.theory import linear
from sgdsim.theory.generating import noise_term_at_one

_BLOCK = 4_000_000  # pairs of modes weighed at once
_BASIS = 8  # vectors of Lanczos between two looks
_CONDITION = 1e3  # of eigenvectors; the weights' error is rounding times its square
_PRODUCTS = 300  # after which a matter that is not settled is left open
_LEADING = 3  # share of the modes, one in so many, that finds a vector to begin with
_NODES = 1e-10  # relative error of W at modes between nodes
_ROUNDING = 1e-9  # of a number, within which it is not called smaller than another one


@of_quadratic
def local_noise(problem: QuadraticProblem, sgd: SGD) -> np.ndarray:
    """Ũ(1) of each training point, `(M1)_i = N Σ_k U_ik² ũ_k`, (N,), where the mean converges.

    Their mean is the closure's Ũ(1) at τ = 1, their spread says how far it can be trusted at this basis: it is exact
    where they are equal. All below 1: stable.
    """
    moving = problem.spectrum.moving
    return problem.n * (problem.eigenvectors[:, moving] ** 2 @ mode_noise(problem, sgd))


@of_quadratic
def mode_noise(problem: QuadraticProblem, sgd: SGD) -> np.ndarray:
    """Share of each mode that moves in Ũ(1) at τ = 1, (modes that move,): W_kk/N, or W_kk/(NC) where each mode is of
    all C outputs, with what it does to itself in full."""
    lam, gamma = problem.eigenvalues[problem.spectrum.moving], problem.noise(sgd) / problem.share
    if isinstance(sgd.method, HeavyBall) and not sgd.weight_decay:
        values = problem.values(sgd, 0, 1)
        return problem.share * gamma * noise_term_at_one(values.lr[0] * lam, values.momentum[0], gamma)
    response, _ = linear.responses(lam + problem.pull(sgd), linear.undecayed(sgd))
    return problem.share * gamma * lam**2 * response / (1 + gamma * lam**2 * response)


def closed_pairs(form: pairs.Form, x: np.ndarray, momentum: float, gamma: float, n: int) -> np.ndarray:
    """W of a method with a closed form, (m, m), from x = αλ (m,)."""
    out = np.empty((x.size, x.size))
    rows = max(1, _BLOCK // x.size)
    for low in range(0, x.size, rows):
        part = slice(low, low + rows)
        out[part] = n * pairs.responses(form, x[part, None], x, momentum, gamma, 1.0, 0.0)[0]
    return out


def method_pairs(lam: np.ndarray, sgd: SGD, gamma: float, n: int, pull: float = 0.0) -> np.ndarray:
    """W of any stationary linear method, (m, m), on eigenvalues `lam` (m,); `pull`: its weight decay in their units.

    From the eigenvalues μ of R and the responses' weights w on them, `T_kl = Σ_ab w_ka w_lb/(1 − μ_ka μ_lb)`. Near a
    double eigenvalue the weights grow without bound and cancel: such a mode's row is `T_kl = X_00` of
    `X = R_k X R_lᵀ + k kᵀ`.
    """
    sgd = replace(linear.undecayed(sgd), average=None)
    _, kick = linear.step(sgd)
    maps = linear.mode_maps(lam + pull, sgd)
    modes, m = lam.size, kick.size
    mu, vectors = np.linalg.eig(maps)
    double = ~(np.linalg.cond(vectors) < _CONDITION)
    vectors[double] = np.eye(m)
    weights = vectors[:, 0, :] * np.linalg.solve(vectors, np.broadcast_to(kick[:, None], (modes, m, 1)))[..., 0]
    total = np.zeros((modes, modes))
    for a in range(m):
        for b in range(a, m):
            term = ((weights[:, a, None] * weights[:, b]) / (1 - mu[:, a, None] * mu[:, b])).real
            total += term if a == b else term + term.T
    source = np.broadcast_to(np.outer(kick, kick).reshape(-1, 1), (modes, m * m, 1))
    for k in np.flatnonzero(double):
        twice = np.einsum("ab,lcd->lacbd", maps[k], maps).reshape(modes, m * m, m * m)
        total[k] = total[:, k] = np.linalg.solve(np.eye(m * m) - twice, source)[:, 0, 0]
    product = gamma * np.outer(lam, lam) * total
    return n * product / (1 + product)


class Renewal:
    """M of one problem. Asked for one algorithm after the other, it begins each time at the vector found last.

    `modes`: of so many leading modes only, with which ρ is smaller: `vᵀMv = Σ W_kl (Uᵀ diag(v) U)_kl²` loses terms.
    """

    def __init__(self, problem: QuadraticProblem, modes: int | None = None) -> None:
        moving = np.flatnonzero(problem.spectrum.moving)[:modes]  # the others make no noise either
        self.problem, self.lam = problem, problem.eigenvalues[moving]
        self.u = np.ascontiguousarray(problem.eigenvectors[:, moving])
        self.v = np.full(problem.n, problem.n**-0.5)  # ≥ 0, of length 1

    def pairs(self, sgd: SGD) -> np.ndarray:
        """W, (modes that move,) twice; the mean must converge."""
        return self._weights(self.lam, sgd)

    def _weights(self, lam: np.ndarray, sgd: SGD) -> np.ndarray:
        n, gamma = self.problem.n, self.problem.noise(sgd)
        form = pairs.form_of(sgd)
        if form is None:
            return method_pairs(lam, sgd, gamma, n, self.problem.pull(sgd))
        values = sgd.values(n, 0, 1)
        return closed_pairs(form, values.lr[0] * lam, float(values.momentum[0]), gamma, n)

    def _at_nodes(self, squares: np.ndarray, sgd: SGD, top: float) -> tuple[np.ndarray, np.ndarray]:
        """Nodes in λ, and `squares` (modes, modes) gathered there: with weights as smooth in log λ as W is for learning
        rates up to `top` their sums are the same to `_NODES`."""
        form, values = pairs.form_of(sgd), self.problem.values(sgd, 0, 1)
        if form is None:
            return self.lam, squares
        momentum, gamma = float(values.momentum[0]), float(values.noise[0])
        rates, others = top * np.geomspace(1e-3, 1.0, 5)[:, None, None], self.lam[:: max(1, self.lam.size // 9)]

        def family(nodes: np.ndarray) -> np.ndarray:
            weights = pairs.responses(form, rates * nodes[:, None], rates * others, momentum, gamma, 1.0, 0.0)[0]
            return np.moveaxis(weights, 1, 0).reshape(nodes.size, -1)

        bins = skeleton.bins(self.lam, family, _NODES)
        for _ in range(2):
            squares = np.concatenate([squares[:, b.low : b.high] @ b.shares for b in bins], 1).T
        return np.concatenate([b.nodes for b in bins]), squares

    def image(self, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
        """`M v`, (n,): two products of N × N matrices."""
        return _image(self.u, weights, v)

    @calm
    def below_one(self, sgd: SGD) -> bool | None:
        """Whether ρ(M) < 1, by a vector that proves it; None where rounding or 300 products leave it open.

        Conjugate gradients on `(I − M)x = 1`. A direction of no positive curvature is one with `pᵀMp ≥ pᵀp`. With the
        residual q of an x > 0, `(Mx)_i = x_i − 1 + q_i`, below x_i as soon as all q_i < 1: long before it is solved.
        """
        weights = self.pairs(sgd)
        image = self.image(weights, self.v)  # perhaps the vector found last settles it
        if self.v @ image > 1 + _ROUNDING:
            return False
        if (image < (1 - _ROUNDING) * self.v).all():
            return True
        x, residual = np.zeros(self.problem.n), np.ones(self.problem.n)
        direction, square = residual, residual @ residual
        for _ in range(_PRODUCTS):
            image = direction - self.image(weights, direction)
            curvature = direction @ image
            if curvature <= -_ROUNDING * (direction @ direction):
                self.v = np.abs(direction) / np.linalg.norm(direction)  # with a quotient as large, or larger
                return False
            if curvature <= _ROUNDING * (direction @ direction):
                return None
            length = square / curvature
            x, residual = x + length * direction, residual - length * image
            if x.min() > 0 and residual.max() < 1 - _ROUNDING * x.max():
                self.v = x / np.linalg.norm(x)
                return True
            before, square = square, residual @ residual
            if square < _ROUNDING**2:
                return None
            direction = residual + square / before * direction
        return None

    @calm
    def radius(self, weights: np.ndarray, tolerance: float) -> float:
        """ρ(M) to a relative `tolerance`, and its eigenvector in `v`, by Lanczos from there on.

        A power iteration would stop too early where the two largest eigenvalues lie close: its quotient errs by the
        square of the residual over their distance. Here the residual itself is within the tolerance.
        """
        n = self.problem.n
        if n < 3:
            values, vectors = np.linalg.eigh(np.stack([self.image(weights, unit) for unit in np.eye(n)], 1))
        else:
            first = self.v + 1e-3 * self.v.max()  # something of every point: an eigenvector may live on a few
            if not self.image(weights, first).any():
                return 0.0
            matrix = scipy.sparse.linalg.LinearOperator((n, n), lambda v: self.image(weights, v), dtype=np.float64)
            values, vectors = arpack.largest(matrix, 1, first, tolerance, min(n, _BASIS))
        self.v = np.abs(vectors[:, -1])
        return float(values[-1])

    @calm
    def max_lr(
        self, sgd: SGD, start: float, top: float, tolerance: float, heard: Callable[[], object] = lambda: None
    ) -> float:
        """The learning rate of heavy ball at which ρ(M) is 1, from `start` on; at most `top`, where the mean diverges.

        Each round takes some power iterations and then the α at which the vector's quotient is 1: errors are squared,
        and so iterations in single precision do, the first of the leading modes alone. Above that α no run is stable;
        that just below it all are is then proved. `heard` is called after each round.
        """
        lr = start
        for number in range(100):
            leading = self.lam.size if number else -(-self.lam.size // _LEADING)
            self._approach(replace(sgd, lr=lr), self.u[:, :leading].astype(np.float32), 3 if number else 6)
            before, lr = lr, self._quotient_one(sgd, lr * 0.1, top)
            heard()
            if number and abs(lr - before) <= 0.1 * tolerance * lr:
                break
        # The quotient is 1 for a mixture of eigenvectors with nearly the same eigenvalue as well.
        for _ in range(10):
            if lr >= top or self._proves(replace(sgd, lr=lr * (1 - tolerance))):
                break
            self.radius(self.pairs(replace(sgd, lr=lr)), 0.1 * tolerance)
            lr = self._quotient_one(sgd, lr * 0.1, top)
            heard()
        return lr

    def _proves(self, sgd: SGD) -> bool:
        """Whether ρ(M) < 1, by the present vector if a few iterations make it right at every point."""
        weights = self.pairs(sgd)
        for _ in range(_BASIS):
            image = self.image(weights, self.v)
            if (image < self.v * (1 - _ROUNDING)).all():
                return True
            if not (image > 0).all():
                break
            self.v = image / np.linalg.norm(image)
        return self.below_one(sgd) is True

    def _approach(self, sgd: SGD, u: np.ndarray, steps: int) -> None:
        """Power iterations with the leading modes in `u`, in its precision."""
        weights = self._weights(self.lam[: u.shape[1]], sgd).astype(u.dtype)
        for _ in range(steps):
            image = np.maximum(_image(u, weights, self.v.astype(u.dtype)).astype(np.float64), 0.0)
            if not image.any():  # lr² is no float: nothing moves
                return
            self.v = image / np.linalg.norm(image)

    def _quotient_one(self, sgd: SGD, low: float, high: float) -> float:
        """The α where `vᵀMv = 1` for the present v: with U's part fixed, α enters W only, at a few nodes."""
        nodes, squares = self._at_nodes(_inner(self.u, self.v) ** 2, sgd, high)

        def excess(log_lr: float) -> float:
            return math.log(np.vdot(self._weights(nodes, replace(sgd, lr=math.exp(log_lr))), squares))

        if excess(math.log(high)) <= 0:
            return high
        while excess(math.log(low)) > 0:
            low *= 0.1
        return math.exp(scipy.optimize.brentq(excess, math.log(low), math.log(high), xtol=1e-12))


def _image(u: np.ndarray, weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    inner = _inner(u, v)
    inner *= weights
    return np.einsum("ik,ik->i", u @ inner, u)


def _inner(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`Uᵀ diag(v) U`; where v ≥ 0 as a matrix times its transpose, which takes BLAS half the time."""
    if v.min() < 0:
        return (u * v[:, None]).T @ u
    scaled = u * np.sqrt(v)[:, None]
    return scaled.T @ scaled
