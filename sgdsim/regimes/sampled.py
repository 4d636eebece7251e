"""Sampled linearised regime: the linearised network on random batches, in function space."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sgdsim import devices, sampling
from sgdsim.checks import InputError
from sgdsim.methods import Adam
from sgdsim.problem import NetworkProblem, QuadraticProblem
from sgdsim.regimes import _kernels, _linear
from sgdsim.regimes.base import Regime
from sgdsim.sgd import SGD

if TYPE_CHECKING:
    import torch

# Batch indices drawn ahead at once, over all replicates (int32: 64 MB).
_DRAWN = 16_000_000


@dataclass
class _State:
    problem: QuadraticProblem
    sgd: SGD
    keys: np.ndarray
    r: np.ndarray | torch.Tensor  # (R, N) residuals
    v: np.ndarray | torch.Tensor  # (R, N) velocities
    kernel: np.ndarray | torch.Tensor  # (N, N); all three are tensors on one device, or none is


def batch_blocks(sgd: SGD, n_samples: int, keys: np.ndarray, start: int, stop: int, width: int = 1):
    """Yield (values, batches) for consecutive ranges of steps, each range short enough for memory.

    `width`: numbers needed per index beside the index itself. Both stochastic regimes draw their batches here.
    """
    values = sgd.values(n_samples, start, stop)
    largest = int(values.batch_size.max(initial=1))
    block = max(1, _DRAWN // (keys.shape[0] * largest * width))
    places = _places(sgd, n_samples) if sgd.sampling == sampling.RESHUFFLE else None
    for low in range(start, stop, block):
        high = min(low + block, stop)
        window = slice(low - start, high - start)
        place = (0, 0) if places is None else places.at(low)
        batches = sampling.minibatch_indices(n_samples, values.batch_size[window], low, high, keys, sgd.sampling, place)
        yield type(values)(*(v[window] for v in values)), batches


def _places(sgd: SGD, n_samples: int) -> sampling.EpochPlaces:
    """One for all pieces of a run (and for other runs of the same algorithm, which does no harm)."""
    try:
        return _kept_places(sgd, n_samples)
    except TypeError:  # a schedule of the user's that has no hash
        return sampling.EpochPlaces(n_samples, sgd.batch_sizes)


@functools.lru_cache(maxsize=64)
def _kept_places(sgd: SGD, n_samples: int) -> sampling.EpochPlaces:
    return sampling.EpochPlaces(n_samples, sgd.batch_sizes)


def label_errors(sgd: SGD, batches: np.ndarray, start: int, keys: np.ndarray) -> np.ndarray:
    """The labels' errors of `batches` (R, T, b) from step `start` on, (R, T, b); (R, T, 0) where there are none."""
    replicates, steps, size = batches.shape
    if not sgd.label_noise:
        return np.zeros((replicates, steps, 0))
    return sgd.label_noise * sampling.label_errors(start, start + steps, size, keys)


@dataclass(frozen=True)
class SampledLinearized(Regime):
    """`v ← βv − α(N/b) K̂[:,B] r_B`, `r ← r + v`: O(Nb) per step and replicate.

    The batches are those of `RealNetwork` for the same seed; the numbers do not depend on the number of threads.

    Parameters
    ----------
    device : "cpu" (default): compiled loops, one replicate per core. "cuda", "cuda:K" or "auto" (CUDA where there is
        one): all replicates together in torch on that device, in float64, the same numbers up to rounding.

    Raises InputError for another device, or one that is not there.
    """

    device: str = "cpu"
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", devices.resolve(self.device))

    @property
    def name(self) -> str:
        return "sampled"

    def check(self, problem: QuadraticProblem | NetworkProblem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if isinstance(sgd.method, Adam):
            from sgdsim.regimes import _adam

            _adam.check(problem, sgd)
        if self.device != "cpu" and not sgd.is_plain:
            raise InputError(f"device: expected cpu for anything but plain heavy ball, got {self.device}")

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        size = sgd.batch_size if isinstance(sgd.batch_size, int) else n / 10
        return 1e-3 + 1e-10 * n * (size + 2) * replicates * float(steps[-1])

    def init(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool
    ) -> Any:
        if isinstance(sgd.method, Adam):
            from sgdsim.regimes import _adam

            return _adam.State(problem, sgd, sampling.replicate_keys(seed, replicates), test)
        problem = problem.quadratic
        if not sgd.is_plain:
            return _linear.Sampled(problem, sgd, sampling.replicate_keys(seed, replicates))
        kernel, r = self._kernel(problem), np.tile(problem.residual, (replicates, 1))
        v = np.zeros_like(r)
        if self.device != "cpu":
            r, v = kernel.new_tensor(r), kernel.new_tensor(v)
        return _State(problem, sgd, sampling.replicate_keys(seed, replicates), r, v, kernel)

    def advance(self, state: Any, start: int, stop: int) -> None:
        if not isinstance(state, _State):
            state.advance(start, stop)
            return
        loop = _kernels.sampled_advance
        if not isinstance(state.r, np.ndarray):
            from sgdsim.regimes._sampled_torch import sampled_advance as loop
        for values, batches in batch_blocks(state.sgd, state.problem.n, state.keys, start, stop):
            loop(state.kernel, state.r, state.v, values.lr, values.momentum, values.batch_size, batches)

    def keep(self, state: Any, replicates: np.ndarray) -> bool:
        if isinstance(state, _State):
            state.keys, state.r, state.v = state.keys[replicates], state.r[replicates], state.v[replicates]
        return isinstance(state, _State)

    def observe(self, state: Any, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        if not isinstance(state, _State):
            return state.observe(what)
        r = state.r if isinstance(state.r, np.ndarray) else state.r.cpu().numpy()
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            out = {"loss": (r**2).mean(1) / 2}
            if "test_loss" in what or "moments" in what:
                a = r @ state.problem.eigenvectors
            if "test_loss" in what:
                test = state.problem.test
                e = test.residual + (a - state.problem.coefficients) @ test.transfer.T
                out["test_loss"] = (e**2).mean(1) / 2
            if "moments" in what:
                out["moments"] = a**2
        return out

    def _kernel(self, problem: QuadraticProblem) -> np.ndarray | torch.Tensor:
        """K̂ (N, N) where the steps are taken."""
        if self.device == "cpu":
            return problem.kernel
        from sgdsim.regimes import _sampled_torch

        return _sampled_torch.kernel_on(problem, self.device)
