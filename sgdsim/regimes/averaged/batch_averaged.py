"""Batch-averaged regime: the expectation of the sampled dynamics over all batches, exact or to a tolerance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sgdsim.algorithm.sgd import SGD, has_momentum
from sgdsim.common import devices
from sgdsim.common.blas import one_blas_thread
from sgdsim.common.checks import InputError, choice, number
from sgdsim.common.specs import shortest
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.recurrence import kernels
from sgdsim.regimes import _kernels
from sgdsim.regimes.averaged import linear
from sgdsim.regimes.averaged.tiers import MeanPath, Side, Sizes, Tiers
from sgdsim.regimes.base import FLOPS, Regime

TOLERANCE = 1e-4  # relative error of the loss, by default
_SMALL = 128  # modes up to which everything is exact: tiers would save nothing
_FIRST = Sizes(exact=32, diagonal=256, pairs=1024, ratio=1 / 4)  # to begin with
_FINEST = 1 / 128  # ratio beyond which the exact form is taken
_SINGLE = 1e-5  # tolerance down to which U∘U and the slow pairs may be in float32


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
    side: Side | None = None  # the tiers, beside a coarser copy that tells the error
    sizes: Sizes = _FIRST
    error: float = 0.0

    @cached_property
    def gram(self) -> np.ndarray:
        """TᵀT/m of the test points' transfer T, (n, n): the mean test residual's squared dependence on a."""
        transfer = self.problem.test.transfer
        return transfer.T @ transfer / len(transfer)

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
    tolerance : relative error of the training loss that is allowed. The noise is then kept in tiers that are stepped
        as often as they need (see `averaged.tiers`), beside a copy that is twice as coarse in
        everything. Where the two differ by more than the tolerance, the run starts again, finer; the result reports
        the largest difference as `error_estimate` (the error itself is smaller as a rule: it falls with the square of
        the coarseness). With 0, for N ≤ 128, and for all algorithms but heavy ball, all is exact, at two products of N
        × N matrices a step.
    device : "cpu" (default). "cuda", "cuda:K" or "auto" (CUDA where there is one): the exact form in torch there,
        whatever the tolerance, for heavy ball only.
    dtype : "float64" (default), or on a CUDA device "float32": within 1e-5 of the loss after 500 steps at 0.9 of the
        stability threshold (200 digits, momentum 0 and 0.9).

    Raises InputError for another device or dtype, or one that is not there.
    """

    tolerance: float = TOLERANCE
    device: str = "cpu"
    dtype: str = "float64"
    stochastic: ClassVar[bool] = False
    uses_all_cores: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, minimum=0.0, maximum=1.0))
        object.__setattr__(self, "device", devices.resolve(self.device))
        if choice("dtype", self.dtype, ("float64", "float32")) != "float64" and self.device == "cpu":
            raise InputError("dtype: expected float64 on the CPU, got float32, which is for CUDA devices")

    @property
    def name(self) -> str:
        return "averaged" if self.tolerance == TOLERANCE else f"averaged:tolerance={shortest(self.tolerance)}"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if self.device != "cpu" and not sgd.is_plain:
            raise InputError(f"device: expected cpu for anything but plain heavy ball, got {self.device}")

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        return 8.0 * n * n * 2

    def seconds(
        self, n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int, observe: tuple[str, ...]
    ) -> float:
        return float(steps[-1]) * (1e-5 + min(4 * n**3, 40 * n**2 + 4e6) / FLOPS)

    def init(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Any:
        if not sgd.is_plain:
            return linear.Averaged(problem.quadratic, sgd, test)
        if self.device != "cpu":
            from sgdsim.regimes.averaged import on_torch

            return on_torch.State(problem.quadratic, sgd, test, self.device, self.dtype)
        state = _State(problem.quadratic, sgd, has_momentum(sgd), test)
        if self.tolerance == 0 or state.problem.n <= _SMALL:
            _make_exact(state)
        else:
            first = replace(_FIRST, pairs=max(_FIRST.pairs, state.problem.n // 2))
            _make_tiers(state, first, self.tolerance >= _SINGLE)
        return state

    def advance(self, state: Any, start: int, stop: int) -> None:
        if not isinstance(state, _State):
            state.advance(start, stop)
            return
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
        """To `stop`, or to where the error passes the tolerance: back to the start then, finer."""
        while state.now < stop:
            mean, residual = state.path.at(state.now)
            state.side.step(state.now, mean, residual, state.path.hyperparameters(state.now))
            state.now += 1
            signal = float(np.square(state.path.at(state.now)[0]).sum())
            fine, coarse = (tiers.total() for tiers in state.side.tiers)
            if not np.isfinite(fine):
                continue  # diverged: there is no error to speak of
            error = abs(fine - coarse) / max(signal + fine, 1e-300)
            if not error <= self.tolerance:
                self._refine(state)
                return
            state.error = max(state.error, error)

    def _refine(self, state: _State) -> None:
        """Back to the start, finer; the error told stays, as losses from before may have been recorded already."""
        old, n = state.sizes, state.problem.n
        sizes = Sizes(round(1.5 * old.exact), 2 * old.diagonal, 2 * old.pairs, old.ratio / 2)
        if 3 * sizes.exact > n or sizes.ratio < _FINEST:
            _make_exact(state)
        else:
            _make_tiers(state, sizes, self.tolerance >= _SINGLE)

    def observe(self, state: Any, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        if not isinstance(state, _State):
            return state.observe(what)
        problem = state.problem
        if state.exact is not None:
            mean, variances = state.exact.mean, np.diag(state.exact.c)
        else:
            mean, variances = state.path.at(state.now)[0], state.fine.variances()
        moments = mean**2 + variances
        out = {"loss": np.array([moments.sum() / (2 * problem.n)])}
        if "test_loss" in what:
            if state.exact is not None:
                noise = np.vdot(state.gram, state.exact.c)
            else:
                block, exact = state.fine.block.c, state.fine.exact
                noise = np.vdot(state.gram[:exact, :exact], block) + np.diag(state.gram)[exact:] @ variances[exact:]
                noise += state.fine.observed(state.now, mean)
            out["test_loss"] = problem.test_loss(mean, noise)
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self, state: Any) -> dict[str, float]:
        if not isinstance(state, _State):
            return {"error_estimate": 0.0, "exact_modes": state.problem.n, "diagonal_modes": 0}
        n, sizes = state.problem.n, state.sizes
        exact, last = (n, n) if state.exact is not None else (sizes.exact, min(sizes.exact + sizes.diagonal, n))
        return {"error_estimate": state.error, "exact_modes": exact, "diagonal_modes": last - exact}


def _make_exact(state: _State) -> None:
    n = state.problem.n
    extra = (n, n) if state.with_momentum else (0, 0)
    state.exact = _Exact(
        state.problem.coefficients.copy(), np.zeros(n), np.zeros((n, n)), np.zeros(extra), np.zeros(extra)
    )
    state.path, state.side, state.now = None, None, 0


def _make_tiers(state: _State, sizes: Sizes, single: bool) -> None:
    problem = state.problem
    # Pairs left out of the fine copy show by what leaving out more of them changes.
    pairs = sizes.pairs if sizes.pairs >= problem.n else sizes.pairs // 2
    coarse = Sizes(sizes.exact // 2, sizes.diagonal // 2, pairs, 2 * sizes.ratio)
    gram = state.gram if state.test else None
    state.path, state.now, state.sizes = MeanPath(problem, state.sgd), 0, sizes
    state.side = Side(problem, [sizes, coarse], state.with_momentum, single, gram)


def _exact_step(state: _State, lr: float, momentum: float, noise: float) -> None:
    work, u, lam = state.exact, state.problem.eigenvectors, state.problem.eigenvalues
    if noise > 0 or work.c.any():
        squares = (u @ work.mean) ** 2 + np.einsum("ik,ik->i", u @ work.c, u)  # E r_i²
        scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
        source = scaled.T @ scaled  # NumPy sees the one array and computes half of it
        _kernels.averaged_advance(
            lam, work.c, work.j, work.p, work.mean, source, state.problem.n, lr, momentum, noise, state.with_momentum
        )
    kernels.mean_advance(lam, work.mean, work.velocity, np.array([lr]), np.array([momentum]))
