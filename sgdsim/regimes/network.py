"""Real network regime: mini-batch SGD on the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch

from sgdsim.algorithm import draws
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice
from sgdsim.networks.ntk import with_gradients
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes import _network_rules, _training
from sgdsim.regimes.base import Regime, training_seconds

DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True)
class RealNetwork(Regime):
    """The network itself, trained on `½·mean((f − y)²)` of each batch at the torch learning rate that equals α, or by a
    gradient rule.

    All replicates start from the problem's network and differ in their batches only; they are trained together in one
    batched computation.

    Parameters
    ----------
    dtype : "float64" (default) or "float32".
    compile : compile the step with `torch.compile`: about 30% faster after 5 to 20 s, the same numbers up to rounding;
        on a CPU it needs a C++ compiler. InputError, at the first step, where that fails. Not with gradient rules.
    """

    dtype: str = "float64"
    compile: bool = False
    stochastic: ClassVar[bool] = True
    uses_all_cores: ClassVar[bool] = True
    follows_rules: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, DTYPES)

    @property
    def name(self) -> str:
        return "network"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if not problem.has_network:
            raise InputError(
                "regime: network needs a NetworkProblem (a network and data), got a problem without a network"
            )
        if sgd.rule is not None and self.compile:
            raise InputError(f"compile: expected False with {sgd.rule.name}, whose steps are not compiled; got True")

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        return 8.0 * parameters * replicates * (sgd.components if not sgd.is_plain else 1)

    def seconds(
        self, n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int, observe: tuple[str, ...]
    ) -> float:
        return training_seconds(n, parameters, sgd, steps, replicates)

    @with_gradients
    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> _training.Training:
        problem = cast(NetworkProblem, problem)  # see `check`
        how = (problem, sgd, draws.replicate_keys(seed, replicates), DTYPES[self.dtype], test)
        if sgd.rule is not None:
            return _network_rules.Rows(sgd.rule, *how)
        run = _training.HeavyBall(*how) if sgd.is_plain else _training.Linear(*how)
        if self.compile:
            run.step = _training.compiled(run.step)
        return run
