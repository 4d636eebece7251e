"""How the test residuals of a linear model follow its training residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgdsim.common.checks import InputError, array, frozen_state, number, own_array
from sgdsim.common.shown import Shown
from sgdsim.problem.spectrum import Spectrum


@dataclass(frozen=True, eq=False, repr=False)
class TestPoints(Shown):
    """What follows a linear model on m test points: `e_t = e_0 + T (a_t − a_0)`.

    Parameters
    ----------
    residual : (m,) test residuals e_0 = f(x) − y(x) at the start; (m, C) of C outputs that share the kernel.
    transfer : (m, n) matrix `T_xk = K̂(x, ·)·u_k / λ_k`, zero where λ_k is zero within rounding. Where each mode is of
        all C outputs m counts the outputs of all points.
    loss_offset : as `QuadraticProblem.loss_offset`, of the test loss.
    origin : as `residual`, of the linear model with all its parameters at 0, to where weight decay pulls; None where
        that is not known.

    All are copied and read-only. Raises InputError for values that are not finite or sizes that differ.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    residual: np.ndarray
    transfer: np.ndarray
    loss_offset: float = 0.0
    origin: np.ndarray | None = None
    __setstate__ = frozen_state

    def __post_init__(self) -> None:
        residual = own_array("test residual", self.residual, ndim=1 if np.ndim(self.residual) < 2 else 2)
        transfer = own_array("transfer", self.transfer, ndim=2, shape=(len(residual), None))
        object.__setattr__(self, "residual", residual)
        object.__setattr__(self, "transfer", transfer)
        object.__setattr__(self, "loss_offset", number("loss_offset", self.loss_offset))
        if self.origin is not None:
            origin = own_array("test origin", self.origin, ndim=residual.ndim, shape=residual.shape)
            object.__setattr__(self, "origin", origin)

    @property
    def contents(self) -> tuple[object, ...]:
        """What a fingerprint is over."""
        return (self.residual, self.transfer, *(("offset", self.loss_offset) if self.loss_offset else ()))

    def residuals(self, moved: np.ndarray) -> np.ndarray:
        """e_t (m,) from `a_t − a_0` (n,), or (R, m) from (R, n)."""
        return self.residual + (self.transfer @ moved if moved.ndim == 1 else moved @ self.transfer.T)

    @classmethod
    def from_cross_kernel(cls, spectrum: Spectrum, cross_kernel: np.ndarray, residual: np.ndarray) -> TestPoints:
        """From Θ(test, train), (m, n), in the kernel's units, and the test residuals (m,)."""
        if spectrum.eigenvectors is None:
            raise InputError("cross_kernel: expected a spectrum with eigenvectors, got eigenvalues only")
        if spectrum.outputs > 1:
            residual = np.ravel(residual)
        residual = array("test residual", residual, ndim=1 if np.ndim(residual) < 2 else 2)
        cross = array("cross_kernel", cross_kernel, ndim=2, shape=(len(residual), spectrum.n_modes))
        projected = cross @ spectrum.eigenvectors / spectrum.scale
        # K̂(x, ·)·u_k vanishes with λ_k; below this level both are rounding, and the mode does not move.
        kept = spectrum.moving
        return cls(residual, np.where(kept, projected / np.where(kept, spectrum.eigenvalues, 1.0), 0.0))
