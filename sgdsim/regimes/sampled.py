"""Sampled linearised regime: the linearised network on random batches, in function space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sgdsim.algorithm import draws
from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import devices
from sgdsim.common.checks import InputError
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.regimes import _kernels, _sampled_linear
from sgdsim.regimes.base import Regime, batch_size, training_seconds

if TYPE_CHECKING:
    import torch


@dataclass
class _State:
    problem: QuadraticProblem
    sgd: SGD
    keys: np.ndarray
    r: np.ndarray | torch.Tensor  # (R, N) residuals
    v: np.ndarray | torch.Tensor  # (R, N) velocities
    kernel: np.ndarray | torch.Tensor  # (N, N); all three are tensors on one device, or none is


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
    follows_rules: ClassVar[bool] = True
    follows_one_pass: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", devices.resolve(self.device))

    @property
    def name(self) -> str:
        return "sampled"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if sgd.rule is not None:
            from sgdsim.regimes import _sampled_rules

            _sampled_rules.check(problem, sgd.rule)
        if self.device != "cpu" and not sgd.is_plain:
            raise InputError(f"device: expected cpu for anything but plain heavy ball, got {self.device}")

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        size = sgd.batch_size if isinstance(sgd.batch_size, int) else n / 10
        return 1e-3 + 1e-10 * n * (size + 2) * replicates * float(steps[-1])

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        batch = sgd.batch_size if isinstance(sgd.batch_size, int) and not sgd.is_one_pass else 1
        drawn = 4.0 * replicates * batch
        if sgd.rule is not None:
            return 8.0 * parameters * (n + sgd.components * replicates) + drawn
        components = sgd.components if not sgd.is_plain else 1
        return 8.0 * n * (2 * n * (not sgd.is_one_pass) + replicates * components) + drawn

    def seconds(
        self, n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int, observe: tuple[str, ...]
    ) -> float:
        if sgd.rule is not None:
            return training_seconds(n, parameters, sgd, steps, replicates)
        each = n * batch_size(sgd, n) * (1e-9 if sgd.is_one_pass else 1e-10)
        return float(steps[-1]) * replicates * (1e-7 + each)

    def init(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Any:
        if sgd.rule is not None:
            from sgdsim.regimes import _sampled_rules

            return _sampled_rules.State(problem, sgd, sgd.rule, draws.replicate_keys(seed, replicates), test)
        problem = problem.quadratic
        if not sgd.is_plain:
            return _sampled_linear.Sampled(problem, sgd, draws.replicate_keys(seed, replicates))
        kernel, r = self._kernel(problem), np.tile(problem.residual, (replicates, 1))
        v = np.zeros_like(r)
        if self.device != "cpu":
            r, v = kernel.new_tensor(r), kernel.new_tensor(v)
        return _State(problem, sgd, draws.replicate_keys(seed, replicates), r, v, kernel)

    def advance(self, state: Any, start: int, stop: int) -> None:
        if not isinstance(state, _State):
            state.advance(start, stop)
            return
        loop = _kernels.sampled_advance
        if not isinstance(state.r, np.ndarray):
            from sgdsim.regimes._sampled_torch import sampled_advance as loop
        for values, batches, _ in batch_blocks(state.sgd, state.problem.n, state.keys, start, stop):
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
                out["test_loss"] = state.problem.test_loss(a)
            if "moments" in what:
                out["moments"] = a**2
        return out

    def _kernel(self, problem: QuadraticProblem) -> np.ndarray | torch.Tensor:
        """K̂ (N, N) where the steps are taken."""
        if self.device == "cpu":
            return problem.kernel
        from sgdsim.regimes import _sampled_torch

        return _sampled_torch.kernel_on(problem, self.device)
