"""Spectral-diagonal regime: the averaged dynamics closed on the diagonal of the second moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice, number
from sgdsim.common.specs import brief, shortest
from sgdsim.common.warning import warn
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.recurrence import any_method, compressed, contour, diagonal, doubt, linear, pair_maps
from sgdsim.regimes import _outputs
from sgdsim.regimes.base import Direct, Regime, Run

_TRUSTED = 1e-6  # relative error of a loss that needs no warning
_SHORT = 3000  # modes, about, of both compressions of a long spectrum, or of one that is followed as it is


@dataclass(frozen=True)
class SpectralDiagonal(Regime):
    """O(N) per step; `γ[N K̂ diag(C) K̂ − K̂CK̂]_kk → γ λ_k² (s − τ c_k)` ([VKY] eq. 12).

    A mode that stands for w eigenvalues of one value holds the sum of their moments, and its noise is
    `γ λ² (w s − τ c)`: eigenvalues and c may come from two quadratures (`QuadraticProblem.from_operator`).

    Parameters
    ----------
    tau : closure parameter τ; +1 is exact for translation-invariant data, −1 for Gaussian features in one pass.
    method : "recurrence" steps; "contour" finds the losses at the recorded steps by `sgdsim.recurrence.contour`, so
        that 10¹² steps cost no more than 10⁵; "auto" does that where it is cheaper: many steps, constant
        hyperparameters and the training loss alone.
    compress : whether few modes may stand for many where losses alone are observed, with a told error of 10⁻⁹ at most
        (`sgdsim.recurrence.compressed`).
    """

    tau: float = 1.0
    method: str = "auto"
    compress: bool = True
    stochastic: ClassVar[bool] = False
    needs_basis: ClassVar[bool] = False
    follows_one_pass: ClassVar[bool] = True
    follows_outputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", number("tau", self.tau) + 0.0)  # -0 is 0
        choice("method", self.method, ("auto", "recurrence", "contour"))
        if not isinstance(self.compress, bool):
            raise InputError(f"compress: expected True or False, got {self.compress!r}")

    @property
    def name(self) -> str:
        return f"diagonal:tau={shortest(self.tau)}"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if self.method == "contour":
            number("tau", self.tau, maximum=1.0)
        if self.method == "contour" and problem.quadratic_for(sgd).origin is not None:
            raise InputError(
                "method: contour knows weight decay towards the start, got a problem with an origin; use recurrence or "
                "auto"
            )
        if self.method == "contour" and not pair_maps.is_stationary(sgd):
            raise InputError(
                "method: contour needs hyperparameters (no schedule), a method and an average that do not change in "
                "time, and independent batches; got "
                f"{brief(str(sgd.spec()), 300)}; use recurrence or auto"
            )

    def direct(self, problem: Problem, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...]) -> Direct | None:
        quadratic = problem.quadratic_for(sgd)
        if quadratic.origin is not None or not self._by_contour(quadratic.spectrum.n_modes, [sgd], steps, observe):
            return self._stepped(quadratic, sgd, steps) if observe == ("loss",) else None
        follow = partial(contour.loss_curve, sgd=sgd, steps=steps, tau=self.tau, compress=self.compress)
        return self._told(quadratic, steps, follow)[0]

    def direct_cells(
        self,
        problem: Problem,
        algorithms: list[SGD],
        regimes: list[SpectralDiagonal],
        steps: np.ndarray,
        observe: tuple[str, ...],
    ) -> list[Direct] | None:
        if any(regime.tau > 1 for regime in regimes) or any(not sgd.is_plain for sgd in algorithms):
            return None
        if not self._by_contour(problem.quadratic.spectrum.n_modes, algorithms, steps, observe):
            return None
        for sgd, regime in zip(algorithms, regimes, strict=True):
            regime.check(problem, sgd)
            sgd.check(problem.n, int(steps[-1]))
        follow = partial(
            contour.loss_at,
            steps=steps,
            lr=np.array([sgd.lr for sgd in algorithms]),
            momentum=np.array([sgd.momentum for sgd in algorithms]),
            noise=np.array([problem.quadratic.noise(sgd) for sgd in algorithms]),
            tau=np.array([regime.tau for regime in regimes]),
            compress=all(regime.compress for regime in regimes),
        )
        return self._told(problem.quadratic, steps, follow)

    def _told(
        self, problem: QuadraticProblem, steps: np.ndarray, follow: Callable[[QuadraticProblem], contour.LossValues]
    ) -> list[Direct]:
        """What `direct` returns for each cell; the contour's error and that of Lanczos quadrature are one number."""
        curves = follow(problem)
        loss, error = np.atleast_2d(curves.loss, curves.error)
        checked = [self._checked(steps, *cell) for cell in zip(loss, error, strict=True)]
        doubts = np.atleast_2d(doubt.of(problem, curves.loss, follow)) + np.where(loss > 0, error, 0.0)
        reports = doubt.reports(problem, self.name, steps, doubts)
        return [(values, report | more) for (values, report), more in zip(checked, reports, strict=True)]

    def _stepped(self, problem: QuadraticProblem, sgd: SGD, steps: np.ndarray) -> Direct | None:
        """By steps of fewer modes; None where that saves nothing."""
        seconds = 4e-10 * problem.spectrum.n_modes * float(steps[-1]) * linear.times_plain(sgd)
        if not (self.compress and compressed.worth(problem, seconds)):
            return None
        found = compressed.losses(problem, steps, lambda modes, at: diagonal.log_losses(modes, sgd, at, self.tau))
        if found is None:
            return None
        with np.errstate(over="ignore", under="ignore"):
            return self._checked(steps, np.exp(found.values[0]), found.error)

    def _by_contour(self, n_modes: float, algorithms: list[SGD], steps: np.ndarray, observe: tuple[str, ...]) -> bool:
        """Whether the contour takes all of `algorithms`, and is to."""
        if self.method == "recurrence" or observe != ("loss",) or self.tau > 1:
            return False
        if not all(pair_maps.is_stationary(sgd) for sgd in algorithms):
            return False
        return self.method == "contour" or all(contour.is_cheaper(n_modes, sgd, steps) for sgd in algorithms)

    def _checked(self, steps: np.ndarray, loss: np.ndarray, error: np.ndarray) -> Direct:
        """What `direct` returns, with a warning where the contour's error is not small; InputError where it tells
        nothing."""
        unknown = ~(error < 1) & ~np.isinf(loss) & (loss != 0)
        if unknown.any():
            raise InputError(
                f"{self.name}: the loss at step {steps[unknown][0]} cannot be told: modes turn there which no contour "
                "goes around, and stepping takes long; ask for fewer steps, or method recurrence"
            )
        known = (loss > 0) & np.isfinite(loss)
        poor = (error > _TRUSTED) & known
        if poor.any():
            warn(
                f"{self.name}: the loss at step {steps[poor][0]} is known to a relative error of "
                f"{error[poor].max():.1g} only; ask for fewer steps, or method recurrence",
            )
        return {"loss": loss[None]}, {"error_estimate": float(error[known].max(initial=0.0))}

    def cost(self, n: int, sgd: SGD, steps: np.ndarray, replicates: int) -> float:
        stepping = 4e-10 * n * float(steps[-1])
        if not sgd.is_plain:
            return 100 * sgd.components**2 * stepping + 1e-3
        if not sgd.is_constant or self.method == "recurrence":
            return stepping + 1e-3
        return min(stepping, (2e-5 + 6e-8 * n) * steps.size) + 1e-5

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        return 8.0 * n * (3 if sgd.is_plain else (sgd.components + (sgd.weight_decay > 0)) ** 2)

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
        modes = min(n, _SHORT) if self.compress and observe == ("loss",) else n
        if self._by_contour(modes, [sgd], steps, observe):
            return (2e-5 + 6e-8 * modes if sgd.is_plain else any_method.seconds(modes, sgd)) * steps.size
        return float(steps[-1]) * (1e-8 + 4e-10 * modes * linear.times_plain(sgd))

    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Run:
        quadratic = problem.quadratic_for(sgd)
        if quadratic.alternatives:
            return doubt.Doubted(self.name, quadratic, sgd, self.tau)
        if test and quadratic.signed is not None:
            return _outputs.Summed([diagonal.start(o, sgd, self.tau, test) for o in quadratic.by_output()])
        return diagonal.start(quadratic, sgd, self.tau, test)
