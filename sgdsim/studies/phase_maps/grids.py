"""The axes of maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgdsim.common.checks import InputError


def axis(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """(n,) ascending numbers > 0."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if array.ndim != 1 or not (np.isfinite(array) & (array > 0)).all() or (np.diff(array) <= 0).any():
        raise InputError(f"{name}: expected ascending numbers > 0, got {values!r}")
    return array
