"""What every regime offers to `simulate`: `check`, `init`, `advance` (many steps), `observe`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from sgdsim.algorithm.methods import Adam
from sgdsim.algorithm.sampling import ONE_PASS, RESHUFFLE
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.problem import NetworkProblem, QuadraticProblem

OBSERVABLES = ("loss", "test_loss", "moments")


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

    @property
    @abstractmethod
    def name(self) -> str:
        """The name by which users read and type it, such as "sampled" or "diagonal:tau=1"."""

    def check(self, problem: QuadraticProblem | NetworkProblem, sgd: SGD) -> None:
        """InputError, with the reason, if this regime cannot follow `sgd` on `problem`."""
        if not self.stochastic and sgd.sampling == RESHUFFLE:
            raise InputError(
                f"sampling: the {self.name} regime has no closed form for reshuffled epochs (the batches of an epoch "
                "depend on each other); use the sampled or network regime, or without-replacement"
            )
        if isinstance(sgd.method, Adam) and self.name != "sampled":
            raise InputError(
                f"method: adam is not linear in the gradient, and the {self.name} regime follows linear methods only; "
                "use the sampled regime, which follows it on the linearised network's parameters"
            )
        if sgd.sampling == ONE_PASS and self.name.partition(":")[0] in ("network", "averaged"):
            raise InputError(
                f"sampling: the {self.name} regime has a fixed set of points, got one-pass, which draws new ones "
                "from a Gaussian population; use the sampled regime, or diagonal:tau=-1, which is exact there"
            )
        matrix_free = isinstance(problem, QuadraticProblem) and problem.multiplicity is not None
        if self.needs_basis and matrix_free:
            raise InputError(
                f"regime: {self.name} needs the kernel's eigenvectors, got a problem known by Lanczos quadrature "
                "alone; use the diagonal regime, or build the problem from its kernel matrix"
            )

    @abstractmethod
    def init(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, *, replicates: int, seed: int, test: bool
    ) -> Any:
        """The state before the first step. `test`: whether test losses will be observed."""

    @abstractmethod
    def advance(self, state: Any, start: int, stop: int) -> None:
        """Take the steps start..stop-1 in place."""

    def keep(self, state: Any, replicates: np.ndarray) -> bool:
        """Follow from now on only these `replicates`, by their places in the state: the others have diverged. False,
        and nothing done, where the regime carries all on."""
        return False

    def direct(
        self, problem: QuadraticProblem | NetworkProblem, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...]
    ) -> tuple[dict[str, np.ndarray], dict[str, float]] | None:
        """Where it is known without stepping: what `observe` would see at all `steps`, (1, T) each, and the report."""
        return None

    def direct_cells(
        self,
        problem: QuadraticProblem | NetworkProblem,
        algorithms: list[SGD],
        regimes: list[Any],
        steps: np.ndarray,
        observe: tuple[str, ...],
    ) -> list[tuple[dict[str, np.ndarray], dict[str, float]]] | None:
        """`direct` for many cells together, each with its own algorithm and its own version of this regime; None where
        any of them has to be stepped."""
        return None

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        """Seconds of a cell, very roughly: it decides how many cells a sweep takes together."""
        return np.inf

    def report(self, state: Any) -> dict[str, float]:
        """What the run says about itself in the end, such as "error_estimate" (see `sgdsim.runs.results.REPORTED`)."""
        return {}

    @abstractmethod
    def observe(self, state: Any, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Present values: "loss" and "test_loss" (R,), "moments" c_k (R, modes) of the R replicates in the state (1 if
        deterministic)."""
