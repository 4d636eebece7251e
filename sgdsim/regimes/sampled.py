"""Sampled linearised regime: the linearised network on random batches, in function space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim import sampling
from sgdsim.problem import NetworkProblem, QuadraticProblem
from sgdsim.regimes import _kernels
from sgdsim.regimes.base import Regime
from sgdsim.sgd import SGD

# Batch indices drawn ahead at once, over all replicates (int32: 64 MB).
_DRAWN = 16_000_000


@dataclass
class _State:
    problem: QuadraticProblem
    sgd: SGD
    keys: np.ndarray
    r: np.ndarray  # (R, N) residuals
    v: np.ndarray  # (R, N) velocities


def batch_blocks(sgd: SGD, n_samples: int, keys: np.ndarray, start: int, stop: int, width: int = 1):
    """Yield (values, batches) for consecutive ranges of steps, each range short enough for memory.

    `width`: numbers needed per index beside the index itself. Both stochastic regimes draw their batches here.
    """
    values = sgd.values(n_samples, start, stop)
    largest = int(values.batch_size.max(initial=1))
    block = max(1, _DRAWN // (keys.shape[0] * largest * width))
    for low in range(start, stop, block):
        high = min(low + block, stop)
        window = slice(low - start, high - start)
        sizes = sgd.batch_sizes(0, high) if sgd.sampling == sampling.RESHUFFLE else values.batch_size[window]
        batches = sampling.minibatch_indices(n_samples, sizes, low, high, keys, sgd.sampling)
        yield type(values)(*(v[window] for v in values)), batches


@dataclass(frozen=True)
class SampledLinearized(Regime):
    """`v ← βv − α(N/b) K̂[:,B] r_B`, `r ← r + v`: O(Nb) per step and replicate.

    The batches are those of `RealNetwork` for the same seed; the numbers do not depend on the number of threads.
    """

    stochastic: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "sampled"

    def prepare(self, problem: QuadraticProblem | NetworkProblem) -> None:
        problem.quadratic.kernel, problem.quadratic.residual  # noqa: B018

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        size = sgd.batch_size if isinstance(sgd.batch_size, int) else n / 10
        return 1e-3 + 1e-10 * n * (size + 2) * replicates * float(steps[-1])

    def init(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool
    ) -> _State:
        problem = problem.quadratic
        r = np.tile(problem.residual, (replicates, 1))
        return _State(problem, sgd, sampling.replicate_keys(seed, replicates), r, np.zeros_like(r))

    def advance(self, state: _State, start: int, stop: int) -> None:
        kernel = state.problem.kernel
        for values, batches in batch_blocks(state.sgd, state.problem.n, state.keys, start, stop):
            _kernels.sampled_advance(kernel, state.r, state.v, values.lr, values.momentum, values.batch_size, batches)

    def observe(self, state: _State, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            out = {"loss": (state.r**2).mean(1) / 2}
            if "test_loss" in what or "moments" in what:
                a = state.r @ state.problem.eigenvectors
            if "test_loss" in what:
                test = state.problem.test
                e = test.residual + (a - state.problem.coefficients) @ test.transfer.T
                out["test_loss"] = (e**2).mean(1) / 2
            if "moments" in what:
                out["moments"] = a**2
        return out
