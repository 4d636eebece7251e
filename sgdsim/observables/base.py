"""What every observable offers."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.common.specs import Spec
from sgdsim.problem import Problem

#: What every regime may be asked for: the training loss and the test loss of each replicate, (R,), and the second
#: moments c_k of its residual in the eigenbasis, (R, modes). A deterministic one has one replicate: expectations.
MOMENTS = ("loss", "test_loss", "moments")
#: What a stochastic regime may be asked for beside these: the residuals f − y, (R, N) and (R, m) on the test points, of
#: several outputs (R, N, C) and (R, m, C).
QUANTITIES = (*MOMENTS, "residual", "test_residual")


@dataclass(frozen=True)
class Observable(Spec):
    """One thing to look at in a run. Its fields, if any, are its parameters, in a text as `NAME:key=value,…`."""

    needs: ClassVar[tuple[str, ...]]
    """Of `QUANTITIES`, what it is computed from: regimes compute nothing that no observable needs."""
    dims: ClassVar[tuple[str, ...]] = ()
    """Its dims in a result beside regime, replicate and step: none, or ("mode",)."""
    label: ClassVar[str]
    """A few words, for axes and headings."""
    words: ClassVar[str]
    """What it is, in a line, with its unit; its parameters stand in it as {name}."""
    linear: ClassVar[bool] = False
    """Whether pictures have it on a linear axis from 0 to 1, a share that may be either; losses fall by decades."""
    diverged: ClassVar[float] = np.inf
    """Its value from where a run has diverged."""

    @property
    def variable(self) -> str:
        """Its name in results: the text, with _ for what no identifier holds."""
        return re.sub(r"\W+", "_", self.spec.replace("=", "")).strip("_")

    @property
    def long_name(self) -> str:
        """`words` with its parameters."""
        return self.words.format(**vars(self))

    def check(self, problem: Problem) -> None:
        """InputError, with the reason, where `problem` has no such thing."""

    @abstractmethod
    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its values, (…) and its own dims, from the quantities that it needs: (…), and (…, modes) the moments."""


def refuse_quadrature(name: str, problem: Problem) -> None:
    """InputError where eigenvalues and coefficients come from two Lanczos quadratures, whose nodes are no single modes:
    sums of c_k are right there, single c_k and sums of c_k/λ_k are not."""
    if (problem.quadratic.spectrum.counts == 0).any():  # a node of the residual's quadrature alone
        raise InputError(
            f"observe: {name} needs every mode, got a spectrum known by Lanczos quadrature alone; build the problem "
            "from its kernel matrix"
        )
