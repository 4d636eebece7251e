"""Where in the spectrum the loss is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError, integer
from sgdsim.observables.base import Observable, refuse_quadrature
from sgdsim.problem import Problem


@dataclass(frozen=True)
class LeadingShare(Observable):
    """The share of the loss in the k leading modes, `Σ_{l≤k} c_l / Σ_l c_l`; of modes that never move too.

    Of a regime of expectations it is the ratio of expectations. Where modes have a multiplicity, k counts eigenvalues:
    a mode of w of them that begins above the k-th and ends below it counts for its part, (k − those before it)/w. It is
    NaN where the loss is 0 or the run has diverged.

    Parameters
    ----------
    k : how many, from 1 to the number of eigenvalues: N, or NC of a kernel over all C outputs. InputError otherwise.
    """

    name: ClassVar[str] = "leading_share"
    needs: ClassVar[tuple[str, ...]] = ("moments",)
    label: ClassVar[str] = "share of the loss in the leading modes"
    words: ClassVar[str] = "share of the loss in the {k} leading modes"
    diverged: ClassVar[float] = np.nan

    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", integer("observe: leading_share: k", self.k, minimum=1))

    def check(self, problem: Problem) -> None:
        refuse_quadrature("leading_share", problem)
        eigenvalues = problem.n_modes if problem.has_every_eigenvalue else problem.quadratic.spectrum.n_eigenvalues
        if self.k > eigenvalues:
            raise InputError(f"observe: leading_share: expected k up to the {eigenvalues} eigenvalues, got {self.k}")

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        counts = problem.quadratic.spectrum.counts
        left = self.k - (np.cumsum(counts) - counts)  # of k, before each mode; a mode of count 0 is a place
        part = np.where(counts > 0, np.clip(left / np.where(counts > 0, counts, 1.0), 0.0, 1.0), left > 0)
        moments = given["moments"]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return moments @ part / moments.sum(-1)
