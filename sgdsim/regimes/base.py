"""What every regime offers to `simulate`: `check`, and `start`, which gives a `Run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.observables import MOMENTS, Observable
from sgdsim.problem import Problem
from sgdsim.recurrence.run import Run
from sgdsim.regimes import _before_runs

__all__ = ["Direct", "Regime", "Run", "batch_size", "diagonal", "training_seconds"]

#: What `Run.observe` would give at all of some steps, (1, T) each, and what `Run.report` would.
Direct = tuple[dict[str, np.ndarray], dict[str, float]]

FLOPS = 2e10  # floating point operations of a core in a second, in matrix products


@dataclass(frozen=True)
class Regime(ABC):
    """One way to follow SGD. A regime is frozen and holds its own parameters only; what changes is the `Run`."""

    stochastic: ClassVar[bool]
    """Whether replicates differ; a deterministic regime has one."""
    uses_all_cores: ClassVar[bool] = False
    """Whether one cell keeps all cores busy by itself, through BLAS or torch."""
    needs_basis: ClassVar[bool] = True
    """Whether it needs eigenvectors, or at least every eigenvalue by itself."""
    follows_rules: ClassVar[bool] = False
    """Whether it follows gradient rules, which are not linear in the gradient and need parameters."""
    follows_weights: ClassVar[bool] = False
    """Whether it follows samplers whose points have chances and weights of their own."""
    follows_outputs: ClassVar[bool] = False
    """Whether it follows several outputs."""
    follows_one_pass: ClassVar[bool] = False
    """Whether it follows batches of new Gaussian points, on no fixed set of them."""

    quantities: ClassVar[tuple[str, ...]] = MOMENTS
    """What its runs can `observe`, by the names that observables need."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which users read and type it, such as "sampled" or "diagonal:tau=1"."""

    @property
    def kind(self) -> str:
        """The name without parameters: "diagonal" of "diagonal:tau=1"."""
        return self.name.partition(":")[0]

    def check(self, problem: Problem, sgd: SGD) -> None:
        """InputError, with the reason, if this regime cannot follow `sgd` on `problem`."""
        if not self.stochastic and not sgd.sampler.independent:
            raise InputError(
                f"sampling: the {self.name} regime has no closed form for reshuffled epochs (the batches of an epoch "
                "depend on each other); use the sampled or network regime, or without-replacement"
            )
        if sgd.rule is not None:
            self._check_rule(problem, sgd, sgd.rule.name)
        if sgd.is_one_pass and not self.follows_one_pass:
            raise InputError(
                f"sampling: the {self.name} regime has a fixed set of points, got one-pass, which draws new ones "
                "from a Gaussian population; use the sampled regime, or diagonal:tau=-1, which is exact there"
            )
        if problem.population is not None and not sgd.is_one_pass:
            raise InputError(
                f"sampling: expected one-pass on a population, which has no fixed points, got {sgd.sampling}"
            )
        if sgd.sampler.weighted:
            self._check_weights(problem, sgd)
        if problem.loss != "squared":
            _check_model(problem, sgd)
        if problem.n_outputs > 1:
            self.check_outputs(problem, sgd)
        if self.needs_basis and not problem.has_every_eigenvalue:
            raise InputError(
                f"regime: {self.name} needs the kernel's eigenvectors, got a problem known by "
                f"{problem.quadratic.spectrum.known_by} alone; use the diagonal regime, or build the problem from its "
                "kernel matrix"
            )

    def check_outputs(self, problem: Problem, sgd: SGD) -> None:
        """InputError, with the reason, where this regime cannot follow `sgd` on the problem's several outputs."""
        if not self.follows_outputs:
            raise InputError(f"regime: {self.name} follows one output, got a problem of {problem.n_outputs}")
        if sgd.is_one_pass and problem.quadratic.spectrum.outputs > 1:
            raise InputError(
                "sampling: one-pass needs one output or a kernel that all share, got one over all "
                f"{problem.n_outputs}, which does not say how the outputs of a new point differ"
            )

    def lacks(self, observable: Observable) -> str:
        """Why this regime does not know what `observable` is computed from, in a few words; empty where it does."""
        missing = [quantity for quantity in observable.needs if quantity not in self.quantities]
        if any("residual" in quantity for quantity in missing):
            return "it is not a function of second moments, which are all that is followed there"
        return f"it needs the {' and '.join(missing)} of each replicate" if missing else ""

    def check_observable(self, observable: Observable) -> None:
        """InputError, with the reason, if this regime `lacks` what `observable` is computed from."""
        why = self.lacks(observable)
        if why:
            raise InputError(
                f"observe: {observable.spec} is not known in the {self.name} regime: {why}; ask one that knows it "
                "beside, such as sampled"
            )

    def known(self, observe: Iterable[Observable]) -> tuple[Observable, ...]:
        """Those of them that it does not lack."""
        return tuple(observable for observable in observe if not self.lacks(observable))

    def _check_rule(self, problem: Problem, sgd: SGD, rule: str) -> None:
        if not self.follows_rules:
            raise InputError(
                f"method: {rule} is not linear in the gradient, and the {self.name} regime follows linear methods "
                "only; use the network regime, or sampled, which follows it on the linearised network's parameters"
            )
        if not problem.has_network:
            raise InputError(f"method: {rule} needs the parameters of a network, got a problem without one")
        if sgd.average is not None or sgd.is_one_pass:
            raise InputError(
                f"method: {rule} is followed on the data set's batches, without averages; got another algorithm"
            )

    def _check_weights(self, problem: Problem, sgd: SGD) -> None:
        if not self.follows_weights:
            raise InputError(
                f"sampling: the {self.name} regime knows the noise of equally likely points only, got {sgd.sampling}, "
                "whose points have weights; use the averaged, sampled or network regime"
            )
        if not problem.has_every_eigenvalue:
            raise InputError(
                f"sampling: {sgd.sampling} needs the kernel's diagonal, got a problem known by Lanczos quadrature alone"
            )

    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Run:
        """The run before its first step, by the fastest way for this `sgd`. `test`: whether test losses will be
        observed."""
        return _before_runs.adapted(self, problem, sgd, replicates=replicates, seed=seed, test=test)

    def direct(self, problem: Problem, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...]) -> Direct | None:
        """What is to be observed at all `steps`, where that is known without stepping."""
        return None

    def direct_cells(
        self,
        problem: Problem,
        algorithms: list[SGD],
        regimes: list[Self],
        steps: np.ndarray,
        observe: tuple[str, ...],
    ) -> list[Direct] | None:
        """`direct` for many cells together, each with its own algorithm and its own version of this regime; None where
        any of them has to be stepped."""
        return None

    def shown(self, problem: Problem, quantities: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What `Run.observe` or `direct` gave, as results show it: of a quadratic model of another loss with its
        offsets, and with residuals that are those of outputs."""
        if problem.loss == "squared":
            return quantities
        out, quadratic = dict(quantities), problem.quadratic
        out["loss"] = out["loss"] + quadratic.loss_offset
        if "test_loss" in out and quadratic.test is not None:
            out["test_loss"] = out["test_loss"] + quadratic.test.loss_offset
        for name, known in zip(("residual", "test_residual"), problem.expansions, strict=True):
            if name in out and known is not None:
                with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
                    out[name] = known.outputs_of(out[name].reshape(-1, *known.start.shape)) - known.y
        return out

    def offset(self, problem: Problem) -> dict[str, float]:
        """What its losses count from, as a part of `Run.report`; empty where that is 0."""
        return {} if problem.loss == "squared" else {"loss_offset": problem.loss_offset}

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        """Seconds of a cell, very roughly: it decides how many cells a sweep takes together. Unfinished sweeps go on in
        the chunks that they began with, so it stays as it is; what users are told is `seconds`."""
        return np.inf

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        """Bytes that it takes at its peak for a cell of `n` modes and a network of `parameters` (0: none), beside the
        problem. By default 0, no estimate: nothing is refused."""
        return 0.0

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
        """Seconds of such a cell on one core, very roughly; `outputs`: C of which all n modes are together. By default
        0, no estimate: nothing is told beforehand."""
        return 0.0


def _check_model(problem: Problem, sgd: SGD) -> None:
    """InputError where batches are drawn in a way that the model of another loss does not know."""
    if sgd.label_noise:
        raise InputError(
            f"label_noise: expected 0 with {problem.loss}, whose targets are classes, got {sgd.label_noise}"
        )
    if sgd.is_one_pass:
        raise InputError(f"sampling: one-pass is of the squared loss, got the quadratic model of {problem.loss}")


def diagonal(problem: Problem, sgd: SGD) -> np.ndarray | None:
    """Of K̂, (N,), where the points' chances depend on it: what `algorithm.batches.batch_blocks` takes. Of several
    outputs the sum over those of a point, ‖j_i‖² in units of λ_max."""
    if not sgd.sampler.weighted:
        return None
    quadratic = problem.quadratic
    return np.diag(quadratic.kernel).reshape(-1, quadratic.spectrum.outputs).sum(1)


def batch_size(sgd: SGD, n: float) -> float:
    """The batch size that an estimate reckons with: of a schedule, a small one."""
    return float(sgd.batch_size) if isinstance(sgd.batch_size, int) else min(n, 10.0)


def training_seconds(n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
    """`Regime.seconds` where each step computes gradients by all parameters."""
    return float(steps[-1]) * (1e-4 + 6 * parameters * batch_size(sgd, n) * replicates / FLOPS)
