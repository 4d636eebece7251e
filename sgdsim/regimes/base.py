"""What every regime offers to `simulate`: `check`, `init`, `advance` (many steps), `observe`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.observables import QUANTITIES, Observable
from sgdsim.problem import Problem

FLOPS = 2e10  # floating point operations of a core in a second, in matrix products


class Regime(ABC):
    """One way to follow SGD. A regime is frozen and holds its own parameters only; what changes is the state.

    `advance` takes many steps at once: the driver owns recording, progress and divergence, the regime owns the loop.
    How a run is cut into calls of `advance` never changes its numbers.
    """

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
    follows_one_pass: ClassVar[bool] = False
    """Whether it follows batches of new Gaussian points, on no fixed set of them."""

    quantities: ClassVar[tuple[str, ...]] = QUANTITIES
    """What `observe` can give, by the names that observables need."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which users read and type it, such as "sampled" or "diagonal:tau=1"."""

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
        if self.needs_basis and not problem.has_every_eigenvalue:
            raise InputError(
                f"regime: {self.name} needs the kernel's eigenvectors, got a problem known by "
                f"{problem.quadratic.spectrum.known_by} alone; use the diagonal regime, or build the problem from its "
                "kernel matrix"
            )

    def check_observable(self, observable: Observable) -> None:
        """InputError, with the reason, if this regime does not know what `observable` is computed from."""
        for quantity in observable.needs:
            if quantity not in self.quantities:
                raise InputError(
                    f"observe: {observable.spec} needs the {quantity.replace('_', ' ')} of each replicate, which the "
                    f"{self.name} regime does not give; it gives {', '.join(self.quantities)}"
                )

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

    @abstractmethod
    def init(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Any:
        """The state before the first step. `test`: whether test losses will be observed."""

    @abstractmethod
    def advance(self, state: Any, start: int, stop: int) -> None:
        """Take the steps start..stop-1 in place."""

    def keep(self, state: Any, replicates: np.ndarray) -> bool:
        """Follow from now on only these `replicates`, by their places in the state: the others have diverged. False,
        and nothing done, where the regime carries all on."""
        return False

    def direct(
        self, problem: Problem, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]] | None:
        """Where it is known without stepping: the quantities that `observe` would give at all `steps`, (1, T) each, and
        the report."""
        return None

    def direct_cells(
        self,
        problem: Problem,
        algorithms: list[SGD],
        regimes: list[Any],
        steps: np.ndarray,
        observe: tuple[str, ...],
    ) -> list[tuple[dict[str, np.ndarray], dict[str, float]]] | None:
        """`direct` for many cells together, each with its own algorithm and its own version of this regime; None where
        any of them has to be stepped."""
        return None

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        """Seconds of a cell, very roughly: it decides how many cells a sweep takes together. Unfinished sweeps go on in
        the chunks that they began with, so it stays as it is; what users are told is `seconds`."""
        return np.inf

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        """Bytes that it holds at once for a cell of `n` modes and a network of `parameters` (0: none), at least. By
        default 0, no estimate: nothing is refused."""
        return 0.0

    def seconds(
        self, n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int, observe: tuple[str, ...]
    ) -> float:
        """Seconds of such a cell on one core, very roughly. By default 0, no estimate: nothing is told beforehand."""
        return 0.0

    def report(self, state: Any) -> dict[str, float]:
        """What the run says about itself in the end, such as "error_estimate" (see `sgdsim.runs.results.REPORTED`)."""
        return {}

    @abstractmethod
    def observe(self, state: Any, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The present quantities named in `what`: "loss" (always there) and "test_loss" (R,), "moments" c_k (R, modes)
        of the R replicates in the state (1 if deterministic)."""


def diagonal(problem: Problem, sgd: SGD) -> np.ndarray | None:
    """Of K̂, (N,), where the points' chances depend on it: what `algorithm.batches.batch_blocks` takes."""
    return np.diag(problem.quadratic.kernel) if sgd.sampler.weighted else None


def batch_size(sgd: SGD, n: float) -> float:
    """The batch size that an estimate reckons with: of a schedule, a small one."""
    return float(sgd.batch_size) if isinstance(sgd.batch_size, int) else min(n, 10.0)


def training_seconds(n: float, parameters: float, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
    """`Regime.seconds` where each step computes gradients by all parameters."""
    return float(steps[-1]) * (1e-4 + 6 * parameters * batch_size(sgd, n) * replicates / FLOPS)
