"""The largest eigenvalue of a network's tangent kernel, followed along a run."""

from __future__ import annotations

import numpy as np
from torch import nn

from sgdsim.networks.curvature import Curvature

_TOLERANCE, _PRODUCTS = 3e-3, 40  # relative change of the eigenvalue at which power iteration ends; products at most
_MIXED = 0.1  # share of random numbers in a start, so that another eigenvector can overtake the last one


class Sharpness:
    """λ_max of the tangent kernel on the inputs `x` (m, …), divided by m: that of the Gauss–Newton matrix of
    `½·mean(f²)` there, by power iteration that goes on from the last call's eigenvector.

    A Rayleigh quotient, so never too large, and known to a percent where the next eigenvalue is below 0.9 of it.
    """

    def __init__(self, x: np.ndarray, n_outputs: int, device: str = "cpu") -> None:
        self._x, self._device = x, device
        self._zeros = np.zeros(len(x) if n_outputs == 1 else (len(x), n_outputs))
        self._vector: np.ndarray | None = None

    def of(self, module: nn.Module) -> float:
        """λ_max at the module's present parameters; NaN where they are no numbers, or torch refuses to differentiate
        what the module does twice. Of an operation marked `once_differentiable` it does not refuse, but leaves the
        parameters before it out. InputError as of `Curvature`."""
        curvature = Curvature(module, self._x, self._zeros, device=self._device)
        product, found = curvature.ggn(), 0.0
        vector = np.random.default_rng(0).standard_normal(curvature.size)
        if self._vector is not None:
            vector = self._vector + _MIXED * vector / np.linalg.norm(vector)
        for _ in range(_PRODUCTS):
            vector = vector / np.linalg.norm(vector)
            try:
                image = product @ vector
            except RuntimeError:  # of an operation of the user's without a second derivative
                return np.nan
            last, found = found, float(vector @ image)
            if not np.isfinite(image).all() or found <= 0:
                return found if found == 0 else np.nan
            vector = image
            if abs(found - last) <= _TOLERANCE * found:
                break
        self._vector = vector / np.linalg.norm(vector)
        return found
