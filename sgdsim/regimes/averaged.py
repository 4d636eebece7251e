"""Batch-averaged regime: the expectation of the sampled dynamics over all batches, exact or to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sgdsim.checks import number
from sgdsim.problem import NetworkProblem, QuadraticProblem
from sgdsim.regimes import _kernels
from sgdsim.regimes._tiers import MeanPath, Side, Tiers, one_blas_thread
from sgdsim.regimes.base import Regime
from sgdsim.sgd import SGD, has_momentum

TOLERANCE = 1e-4  # relative error of the loss, by default
_SMALL = 128  # modes up to which everything is exact: tiers would save nothing
_FIRST = (32, 256)  # exact and diagonal modes to begin with
_SAFETY = 4  # how much of the difference between the copies is reported: they may err alike
_SAMPLE = 48  # modes beyond the exact ones whose covariances are followed to see what leaving them out costs
_SINGLE = 1e-5  # tolerance down to which U∘U may be in float32


@dataclass
class _Exact:
    """Noise parts of E a aᵀ, E a vᵀ, E v vᵀ in the eigenbasis, (n, n) each, and the mean they go with."""

    mean: np.ndarray
    velocity: np.ndarray
    c: np.ndarray
    j: np.ndarray
    p: np.ndarray


@dataclass
class _State:
    problem: QuadraticProblem
    sgd: SGD
    with_momentum: bool
    test: bool
    now: int = 0
    exact: _Exact | None = None  # either this
    path: MeanPath | None = None  # or these two
    side: Side | None = None  # the tiers, beside copies that tell the error
    pairs: float = 0.0  # pairs of modes left out, for each one in the sample
    error: float = 0.0
    grams: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def fine(self) -> Tiers:
        """The tiers that give the answer."""
        return self.side.tiers[0]


@dataclass(frozen=True)
class BatchAveraged(Regime):
    """`E L_t` over all batch sequences.

    The mean obeys plain heavy ball; only the noise `E[aaᵀ] − E[a]E[a]ᵀ` needs a matrix. It is kept in the eigenbasis,
    where products with K̂ are elementwise, and symmetric by construction: the recursion as usually written amplifies
    the antisymmetric part of rounding errors like `(1 + α²(1−γ)λ_iλ_j)^t`.

    Parameters
    ----------
    tolerance : relative error of the training loss that is allowed. The noise is then kept in three tiers (see
        `sgdsim.regimes._tiers`), beside copies that tell the error: with fewer exact modes, with fewer diagonal ones,
        and with the covariances of a sample of the others. Where that passes the tolerance, the run starts again with
        more modes; the result reports it as `error_estimate`. With 0, and for N ≤ 128, all is exact, at two products
        of N × N matrices a step.
    """

    tolerance: float = TOLERANCE
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, minimum=0.0, maximum=1.0))

    @property
    def name(self) -> str:
        return "averaged" if self.tolerance == TOLERANCE else f"averaged:tolerance={self.tolerance:g}"

    def init(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool
    ) -> _State:
        state = _State(problem.quadratic, sgd, has_momentum(sgd), test)
        if self.tolerance == 0 or state.problem.n <= _SMALL:
            _make_exact(state)
        else:
            _make_tiers(state, *_FIRST, self.tolerance >= _SINGLE)
        return state

    def advance(self, state: _State, start: int, stop: int) -> None:
        while state.now < stop:
            if state.exact is not None:
                values = state.sgd.values(state.problem.n, state.now, stop)
                for t in range(stop - state.now):
                    _exact_step(state, values.lr[t], values.momentum[t], values.noise[t])
                state.now = stop
            else:
                with one_blas_thread():
                    self._advance_tiers(state, stop)

    def _advance_tiers(self, state: _State, stop: int) -> None:
        """To `stop`, or to where the error passes the tolerance: back to the start then, with more modes."""
        while state.now < stop:
            mean, residual = state.path.at(state.now)
            hyper = state.path.hyperparameters(state.now)
            state.side.step(mean, residual, *hyper)
            state.now += 1
            signal = float(np.square(state.path.at(state.now)[0]).sum())
            fine, probed, fewer, *fewest = (tiers.total() for tiers in state.side.tiers)
            if not np.isfinite(fine):
                continue  # diverged: there is no error to speak of
            scale = _SAFETY / max(signal + fine, 1e-300)
            # The pairs left out: near the leading modes, and, from a sample of them, among all the others.
            off_diagonal = scale * (abs(fine - fewer) + state.pairs * abs(fine - probed))
            tail = scale * abs(fewer - fewest[0]) if fewest else 0.0
            if off_diagonal + tail > self.tolerance:
                self._refine(state, off_diagonal > tail)
                return
            state.error = max(state.error, off_diagonal + tail)

    def _refine(self, state: _State, off_diagonal: bool) -> None:
        """Back to the start, with more modes in the tier that the error comes from."""
        exact, diagonal = state.fine.exact, state.fine.diagonal
        if off_diagonal:
            exact *= 2
        else:
            diagonal *= 4
        if 3 * exact > state.problem.n:
            _make_exact(state)
        else:
            _make_tiers(state, exact, diagonal, self.tolerance >= _SINGLE)

    def observe(self, state: _State, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        problem = state.problem
        if state.exact is not None:
            mean, variances = state.exact.mean, np.diag(state.exact.c)
        else:
            mean, variances = state.path.at(state.now)[0], state.fine.variances()
        moments = mean**2 + variances
        out = {"loss": np.array([moments.sum() / (2 * problem.n)])}
        if "test_loss" in what:
            e = problem.test.residual + problem.test.transfer @ (mean - problem.coefficients)
            covariance = state.fine.blocks[0].c if state.exact is None else state.exact.c
            gram, diagonal = _test_grams(state, covariance.shape[0])
            noise = np.vdot(gram, covariance) + variances[covariance.shape[0] :] @ diagonal
            out["test_loss"] = np.array([(np.mean(e**2) + noise) / 2])
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self, state: _State) -> dict[str, float]:
        modes = (state.problem.n, 0) if state.exact is not None else (state.fine.exact, state.fine.diagonal)
        return {"error_estimate": state.error, "exact_modes": modes[0], "diagonal_modes": modes[1]}


def _make_exact(state: _State) -> None:
    n = state.problem.n
    extra = (n, n) if state.with_momentum else (0, 0)
    state.exact = _Exact(
        state.problem.coefficients.copy(), np.zeros(n), np.zeros((n, n)), np.zeros(extra), np.zeros(extra)
    )
    state.path, state.side, state.now = None, None, 0


def _make_tiers(state: _State, exact: int, diagonal: int, single: bool) -> None:
    problem, momentum, few = state.problem, state.with_momentum, exact // 2
    state.path, state.now = MeanPath(problem, state.sgd), 0
    last = min(exact + diagonal, problem.n)
    sample = np.unique(np.linspace(exact, last - 1, min(_SAMPLE, last - exact)).astype(int))
    state.pairs = ((problem.n - exact) / sample.size) ** 2
    tiers = [
        Tiers(problem, exact, diagonal, momentum),
        Tiers(problem, exact, diagonal, momentum, sample),
        Tiers(problem, few, exact - few + diagonal, momentum),
    ]
    if last < problem.n:
        tiers.append(Tiers(problem, few, diagonal // 2, momentum))
    state.side = Side(problem, tiers, single)


def _exact_step(state: _State, lr: float, momentum: float, noise: float) -> None:
    work, u, lam = state.exact, state.problem.eigenvectors, state.problem.eigenvalues
    if noise > 0 or work.c.any():
        squares = (u @ work.mean) ** 2 + np.einsum("ik,ik->i", u @ work.c, u)  # E r_i²
        scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
        source = scaled.T @ scaled  # NumPy sees the one array and computes half of it
        _kernels.averaged_advance(
            lam, work.c, work.j, work.p, work.mean, source, state.problem.n, lr, momentum, noise, state.with_momentum
        )
    _kernels.mean_advance(lam, work.mean, work.velocity, np.array([lr]), np.array([momentum]))


def _test_grams(state: _State, exact: int) -> tuple[np.ndarray, np.ndarray]:
    """TᵀT/m among the first `exact` modes of the test points' transfer T, and its diagonal for the others."""
    if exact not in state.grams:
        transfer = state.problem.test.transfer
        block = np.ascontiguousarray(transfer[:, :exact])
        state.grams[exact] = block.T @ block / len(transfer), (transfer[:, exact:] ** 2).mean(0)
    return state.grams[exact]
