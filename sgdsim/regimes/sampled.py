"""Sampled linearised regime: the linearised network on random batches, in function space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from sgdsim.algorithm import draws
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import devices
from sgdsim.common.checks import InputError
from sgdsim.observables import QUANTITIES
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes import _sampled_linear, _sampled_plain
from sgdsim.regimes.base import Regime, Run, batch_size, training_seconds


@dataclass(frozen=True)
class SampledLinearized(Regime):
    """`v ← βv − α(N/b) K̂[:,B] r_B`, `r ← r + v`: O(Nb) per step and replicate; O(N) with one pass over a population.

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
    follows_outputs: ClassVar[bool] = True
    quantities: ClassVar[tuple[str, ...]] = QUANTITIES

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
        if sgd.rule is not None and problem.loss != "squared":
            raise InputError(
                f"method: {sgd.rule.name} is followed on the linearised parameters with the squared loss, got "
                f"{problem.loss}; use the network regime"
            )
        if self.device != "cpu" and not sgd.is_plain:
            raise InputError(f"device: expected cpu for anything but plain heavy ball, got {self.device}")

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        size = sgd.batch_size if isinstance(sgd.batch_size, int) else n / 10
        return 1e-3 + 1e-10 * n * (size + 2) * replicates * float(steps[-1])

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        batch = sgd.batch_size if isinstance(sgd.batch_size, int) and not sgd.is_one_pass else 1
        drawn = 4.0 * replicates * batch
        if sgd.rule is not None:
            return 8.0 * parameters * (2 * n + sgd.components * replicates) + drawn  # Jacobians are joined of parts
        components = 2 + (sgd.components if not sgd.is_plain else 1)  # two more: what a record is made of
        return 8.0 * n * (2 * n * (not sgd.is_one_pass) + replicates * components) + drawn

    def seconds(
        self,
        n: float,
        parameters: float,
        sgd: SGD,
        steps: np.ndarray,
        replicates: int,
        observe: tuple[str, ...],
        outputs: int = 1,
    ) -> float:
        if sgd.rule is not None:
            return training_seconds(n, parameters, sgd, steps, replicates)
        each = n * (3e-8 if sgd.is_one_pass else 1e-10 * batch_size(sgd, n))
        return float(steps[-1]) * replicates * (1e-7 + each)

    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Run:
        keys = draws.replicate_keys(seed, replicates)
        if sgd.rule is not None:
            from sgdsim.regimes import _sampled_rules

            return _sampled_rules.State(cast(NetworkProblem, problem), sgd, sgd.rule, keys, test)  # see `check`
        if not sgd.is_plain:
            return _sampled_linear.Sampled(problem.quadratic_for(sgd), sgd, keys)
        if self.device == "cpu":
            return _sampled_plain.Compiled(problem.quadratic, sgd, keys)
        from sgdsim.regimes import _sampled_torch

        return _sampled_torch.OnTorch(problem.quadratic, sgd, keys, self.device)
