"""Real network regime: mini-batch SGD on the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch

from sgdsim.algorithm import draws
from sgdsim.algorithm.sgd import SGD, has_momentum
from sgdsim.common.checks import InputError, choice
from sgdsim.networks.ntk import with_gradients
from sgdsim.observables import QUANTITIES, Observable
from sgdsim.observables.accuracy import check_classes
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.regimes import _network_rules, _training
from sgdsim.regimes._replicates import cross_entropy, squared
from sgdsim.regimes.base import Regime, training_seconds

DTYPES = {"float64": torch.float64, "float32": torch.float32}
LOSSES = {"squared": squared, "cross-entropy": cross_entropy}


@dataclass(frozen=True)
class RealNetwork(Regime):
    """The network itself, trained on `½·mean((f − y)²)` of each batch, summed over outputs, at the torch learning rate
    that equals α, or by a gradient rule.

    All replicates start from the problem's network and differ in their batches only; they are trained together in one
    batched computation, or one after another where torch has no batching rule for what the module does (a GRU,
    checkpoints, masks, `.item()`): the same numbers, slower.

    Parameters
    ----------
    dtype : "float64" (default) or "float32".
    compile : compile the step with `torch.compile`: about 30% faster after 5 to 20 s, the same numbers up to rounding;
        on a CPU it needs a C++ compiler. InputError, at the first step, where that fails. Not with gradient rules.
    loss : None: the problem's (`NetworkProblem(loss=…)`). "cross-entropy" on a problem of the squared loss: the network
        alone trains on that, and α keeps its unit, in which the torch learning rate is αN/λ_max(Θ).
    """

    dtype: str = "float64"
    compile: bool = False
    loss: str | None = None
    stochastic: ClassVar[bool] = True
    uses_all_cores: ClassVar[bool] = True
    follows_rules: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True
    follows_outputs: ClassVar[bool] = True
    quantities: ClassVar[tuple[str, ...]] = QUANTITIES

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, DTYPES)
        if self.loss is not None:
            choice("loss", self.loss, LOSSES)

    @property
    def name(self) -> str:
        return "network" if self.loss in (None, "squared") else f"network:loss={self.loss}"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if not problem.has_network:
            raise InputError(
                "regime: network needs a NetworkProblem (a network and data), got a problem without a network"
            )
        if sgd.rule is not None and self.compile:
            raise InputError(f"compile: expected False with {sgd.rule.name}, whose steps are not compiled; got True")
        if self.loss == "squared" != problem.loss:
            raise InputError(f"loss: expected the problem's, {problem.loss}, got squared; make a problem of that loss")
        if self.loss == "cross-entropy":
            check_classes("loss: cross-entropy", problem)
            if sgd.label_noise:
                raise InputError(
                    f"label_noise: expected 0 with cross-entropy, whose targets are classes, got {sgd.label_noise}"
                )

    def lacks(self, observable: Observable) -> str:
        if self.loss == "cross-entropy" and "moments" in observable.needs:
            return f"it is of the squared loss, and this network trains on {self.loss}"
        return super().lacks(observable)

    def shown(self, problem: Problem, quantities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return quantities  # its own loss, no model

    def offset(self, problem: Problem) -> dict[str, float]:
        return {}

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        # Measured: every replicate's components, with an average's or a method's one copy more, and six networks that
        # a step takes whatever the replicates are (gradients together and alone, the copies that are compared).
        each = 1 + has_momentum(sgd) if sgd.is_plain else sgd.components + 1
        return 8.0 * parameters * (6 + each * replicates)

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
        return training_seconds(n, parameters, sgd, steps, replicates)

    @with_gradients
    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> _training.Training:
        problem = cast(NetworkProblem, problem)  # see `check`
        keys = draws.replicate_keys(seed, replicates)
        how = (problem, sgd, keys, DTYPES[self.dtype], test, LOSSES[self.loss or problem.loss], self.compile)
        if sgd.rule is not None:
            return _network_rules.Rows(sgd.rule, *how)
        run = _training.HeavyBall(*how) if sgd.is_plain else _training.Linear(*how)
        if self.compile:
            run.step = _training.compiled(run.step)
        return run
