"""How far the parameters are from an optimum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.observables.base import Observable, refuse_quadrature
from sgdsim.problem import Problem


@dataclass(frozen=True)
class Distance(Observable):
    """Squared distance of the linearised parameters to the nearest optimum, `Σ c_k/(N λ_k)`.

    With the model `f = f_0 + Jδ`, Θ = JJᵀ, that is `‖J⁺r‖²`, the square of the shortest step that removes all of the
    residual that training moves, times λ_max(Θ)/N: in units where the loss's largest curvature is 1, as learning rates
    are, so that `L = ½ Σ_k λ_k d_k` for the terms d_k of the sum. Times `problem.quadratic.torch_lr(1)` = N/λ_max(Θ)
    it is in the network's own parameters. Methods that start at δ = 0 and step along gradients have the optimum of
    smallest norm as their nearest one at all times, `‖δ_t − δ*‖²`; Adam has not.

    Modes that never move (`Spectrum.moving`) are left out: no optimum removes their residual. Of a real network it is
    the same function of its residual: the step that would remove it were the network linear as at its start.
    """

    name: ClassVar[str] = "distance"
    needs: ClassVar[tuple[str, ...]] = ("moments",)
    label: ClassVar[str] = "squared distance to the optimum"
    words: ClassVar[str] = (
        "squared distance of the linearised parameters to the nearest optimum, Σ c_k/(Nλ_k) over the modes that move, "
        "in units where the loss's largest curvature is 1"
    )

    def check(self, problem: Problem) -> None:
        refuse_quadrature("distance", problem)
        if problem.population is None and math.isinf(problem.n):
            raise InputError(
                "observe: distance needs every λ_k, got an infinite spectrum, of which one mode stands for all beyond "
                "the last bin; take a finite n"
            )

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        spectrum = problem.quadratic.spectrum
        moving = spectrum.moving
        return given["moments"][..., moving] @ (1.0 / spectrum.eigenvalues[moving]) / problem.normaliser
