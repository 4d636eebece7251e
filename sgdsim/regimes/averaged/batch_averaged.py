"""Batch-averaged regime: the expectation of the sampled dynamics over all batches, exact or to a tolerance."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, number
from sgdsim.common.specs import shortest
from sgdsim.common.warning import warn
from sgdsim.problem import Problem
from sgdsim.recurrence import exact as generating
from sgdsim.regimes import _outputs
from sgdsim.regimes.averaged import adaptive, exact, linear, over_outputs
from sgdsim.regimes.base import FLOPS, Direct, Regime, Run

TOLERANCE = 1e-4  # relative error of the loss, by default
_EXACT = 1e-9  # relative error of the contour where stepping would be exact
_MARGINS = 0.1, 0.01  # shares of the error that is allowed for which the contour is laid out, one after the other
_LATEST = 10_000.0  # steps that are taken until the contour begins
_PATIENCE = 60.0  # seconds that stepping may take where the contour's error is too large
_LARGEST = 5000  # points up to which the contour, which takes 100 to 300 n² bytes, is taken without being asked for
_LARGEST_OVER_OUTPUTS = 2000  # modes, of 500 to 1000 n² bytes
_DIVERGED = 1e10  # times the first loss: no loss from there on is shown
_PAIRS = 1.5e6  # operations of a contour over all outputs, times outputs and modes²
_SMALL = 128  # modes up to which everything is exact: tiers would save nothing


@dataclass(frozen=True)
class BatchAveraged(Regime):
    """`E L_t` over all batch sequences.

    The mean obeys plain heavy ball; only the noise `E[aaᵀ] − E[a]E[a]ᵀ` needs a matrix. It is kept in the eigenbasis,
    where products with K̂ are elementwise, and symmetric by construction: the recursion as usually written amplifies
    the antisymmetric part of rounding errors like `(1 + α²(1−γ)λ_iλ_j)^t`.

    Parameters
    ----------
    tolerance : relative error of the training loss that is allowed. The noise is then kept in tiers that are stepped
        as often as they need (see `averaged.tiers`), beside a copy that is twice as coarse in everything. Where the
        two differ by more than the tolerance, the run starts again, finer; the result reports the largest difference
        as `error_estimate` (the error itself is smaller as a rule: it falls with the square of the coarseness). With
        0, for N ≤ 128, and for all algorithms but heavy ball, all is exact, at two products of N × N matrices a step.
    method : "recurrence" steps; "contour" finds the losses at the recorded steps by `sgdsim.recurrence.exact`, so that
        10⁹ steps cost hardly more than 10³ (N = 1000: seconds): exact, for heavy ball and nesterov with constant
        hyperparameters; "auto" does that where it is cheaper.
    device : "cpu" (default). "cuda", "cuda:K" or "auto" (CUDA where there is one): the contour's matrices in torch
        there, if asked for by method, else steps of the exact form, whatever the tolerance, for heavy ball only.
    dtype : "float64" (default), or on a CUDA device "float32": within 1e-5 of the loss after 500 steps at 0.9 of the
        stability threshold (200 digits, momentum 0 and 0.9).

    Raises InputError for another device or dtype, or one that is not there.
    """

    tolerance: float = TOLERANCE
    device: str = "cpu"
    dtype: str = "float64"
    method: str = "auto"
    stochastic: ClassVar[bool] = False
    uses_all_cores: ClassVar[bool] = True
    follows_weights: ClassVar[bool] = True
    follows_outputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, minimum=0.0, maximum=1.0))
        object.__setattr__(self, "device", devices.resolve(self.device))
        if choice("dtype", self.dtype, ("float64", "float32")) != "float64" and self.device == "cpu":
            raise InputError("dtype: expected float64 on the CPU, got float32, which is for CUDA devices")
        choice("method", self.method, ("auto", "recurrence", "contour"))

    @property
    def name(self) -> str:
        return "averaged" if self.tolerance == TOLERANCE else f"averaged:tolerance={shortest(self.tolerance)}"

    def check(self, problem: Problem, sgd: SGD) -> None:
        super().check(problem, sgd)
        if self.device != "cpu" and not sgd.is_plain and self.method != "contour":
            raise InputError(f"device: expected cpu for anything but plain heavy ball, got {self.device}")
        if self.method == "contour" and not generating.follows(sgd):
            raise InputError(
                "method: contour needs heavy ball or nesterov with constant hyperparameters, no average, got another "
                "algorithm; use recurrence or auto"
            )

    def check_outputs(self, problem: Problem, sgd: SGD) -> None:
        super().check_outputs(problem, sgd)
        if problem.quadratic.spectrum.outputs > 1 and self.device != "cpu":
            raise InputError(
                f"regime: {self.name} of a kernel over {problem.n_outputs} outputs is followed on the CPU, got device "
                f"{self.device}"
            )

    def direct(self, problem: Problem, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...]) -> Direct | None:
        outputs, n = problem.quadratic.spectrum.outputs, problem.quadratic.spectrum.n_modes
        if problem.quadratic.n_outputs > outputs:
            parts = [self.direct(output, sgd, steps, observe) for output in problem.quadratic_for(sgd).by_output()]
            return None if None in parts else _outputs.summed([part for part in parts if part is not None])
        if not self._by_contour(n, sgd, steps, observe, outputs):
            return None
        allowed = _EXACT if self.tolerance == 0 or n <= _SMALL else self.tolerance
        averaged = generating.Averaged(problem.quadratic, sgd, self._coupling())
        if not self._begins_soon(averaged, sgd, steps, allowed):
            return None
        for margin in _MARGINS:
            known = averaged.losses(steps, allowed * margin)
            if np.isnan(known.loss).any():
                return None
            shown = (known.loss > 0) & (known.loss < _DIVERGED * known.loss[0])
            error = float(known.error[shown].max(initial=0.0))
            if "test_loss" in observe and known.test_error is not None:
                error = max(error, float(known.test_error[shown].max(initial=0.0)))
            if error <= allowed:
                break
        if not error <= allowed:
            if self.method == "auto" and self._stepping(n, sgd, steps, outputs) < _PATIENCE:
                return None
            warn(
                f"{self.name}: losses by contour are known to a relative error of {error:.1g} only, as they have "
                "fallen far or some modes still oscillate; ask for fewer steps, or method recurrence",
            )
        values = {"loss": known.loss[None]}
        if "test_loss" in observe and known.test_loss is not None:
            values["test_loss"] = known.test_loss[None]
        return values, {"error_estimate": error, "exact_modes": n, "diagonal_modes": 0}

    def _coupling(self) -> generating.Make | None:
        if self.device == "cpu":
            return None
        from sgdsim.regimes.averaged.coupling_on_torch import OnTorch

        return functools.partial(OnTorch, device=self.device)

    def _begins_soon(self, averaged: generating.Averaged, sgd: SGD, steps: np.ndarray, allowed: float) -> bool:
        """Whether modes that oscillate die out, so that the contour serves most of the run; where it was asked for and
        they do not, InputError."""
        first, n, outputs = averaged.begins(float(steps[-1]), allowed * _MARGINS[0]), averaged.x.size, averaged.outputs
        if self.method == "auto":
            stepping = self._stepping(n, sgd, steps, outputs)
            stepped = generating.stepped_until(n, first) * 4 * n**3 / FLOPS
            serves = first < steps[-1] and stepped + _contour_seconds(n, steps, outputs) < stepping
            if not serves and stepping > _PATIENCE * 60:
                warn(
                    f"{self.name}: modes that oscillate do not die out, so that all {steps[-1]:g} steps are taken: "
                    f"about {stepping / 86_400:.2g} days; Ctrl-C keeps what is done by then",
                )
            return serves
        if first > max(float(steps[-1]), _LATEST):
            raise InputError(
                f"method: contour begins where modes that oscillate have died out, after {first:.3g} steps here; use "
                "recurrence or auto"
            )
        return True

    def _by_contour(self, n: int, sgd: SGD, steps: np.ndarray, observe: tuple[str, ...], outputs: int) -> bool:
        """Whether the generating function is to be used: where it can, and unless asked for, where it is cheaper."""
        can = generating.follows(sgd) and set(observe) <= {"loss", "test_loss"}
        large = n > (_LARGEST if outputs == 1 else _LARGEST_OVER_OUTPUTS)
        if self.method != "auto" or not can or self.tolerance == 0 or large or self.device != "cpu":
            return can and self.method == "contour"
        return _contour_seconds(n, steps, outputs) < self._stepping(n, sgd, steps, outputs)

    def state_bytes(self, n: float, parameters: float, sgd: SGD, replicates: int) -> float:
        # Measured: the kernel, three matrices of heavy ball, or all pairs of components of another method.
        return 8.0 * n * n * (4 if sgd.is_plain else 4 + sgd.components**2)

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
        if self._by_contour(int(n), sgd, steps, observe, outputs):
            return _contour_seconds(n, steps, outputs)
        return self._stepping(n, sgd, steps, outputs)

    def _stepping(self, n: float, sgd: SGD, steps: np.ndarray, outputs: int) -> float:
        if outputs > 1:
            return over_outputs.seconds(n, float(steps[-1]))
        return float(steps[-1]) * (1e-5 + min(4 * n**3, 40 * n**2 + 4e6) / FLOPS)

    def start(self, problem: Problem, sgd: SGD, *, replicates: int, seed: int, test: bool) -> Run:
        if problem.quadratic.n_outputs > 1:
            if problem.quadratic.signed is None:
                return over_outputs.OverOutputs(problem.quadratic_for(sgd), sgd, test)
            parts = problem.quadratic_for(sgd).by_output()
            return _outputs.Summed([self.start(o, sgd, replicates=1, seed=seed, test=test) for o in parts])
        if not sgd.is_plain:
            return linear.Averaged(problem.quadratic_for(sgd), sgd, test)
        if self.device != "cpu":
            from sgdsim.regimes.averaged import on_torch

            return on_torch.OnTorch(problem.quadratic, sgd, test, self.device, self.dtype)
        if self.tolerance == 0 or problem.n <= _SMALL:
            return exact.Exact(problem.quadratic, sgd)
        return adaptive.Adaptive(problem.quadratic, sgd, test, self.tolerance)


def _contour_seconds(n: float, steps: np.ndarray, outputs: int) -> float:
    """Matrices of the size of some products, and what each decade adds to their number; over outputs, what all pairs of
    matrices make of each vector."""
    decades = np.log10(max(float(steps[-1]) / max(generating.EARLIEST, float(steps[steps > 0].min(initial=1))), 1)) + 1
    if outputs > 1:
        return float(_PAIRS * outputs * n**2 * (1 + decades / 4) / FLOPS + 0.5 + 0.1 * decades)
    return float((8 * n**3 + n**2 * (3e4 + 1e4 * decades) + 3e8 * decades) / FLOPS + 0.03)
