"""Statistics over replicates."""

from __future__ import annotations

import math

import numpy as np


def mean_and_error(values: np.ndarray, axis: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The mean over replicates, which go along `axis` (None: all values), and its standard error; shapes without it.

    The error is s/√R with s² = Σ(x − mean)²/(R − 1), and NaN for R = 1; for R = 0 both are NaN. A sample with an
    infinite value or a NaN in it has what the sum gives as its mean, infinite or NaN, and NaN as its error.
    """
    values = np.asarray(values)
    count = values.size if axis is None else values.shape[axis]
    with np.errstate(over="ignore", invalid="ignore"):
        undefined = values.sum(axis) * math.nan
        mean = values.mean(axis) if count else undefined
        error = values.std(axis, ddof=1) / math.sqrt(count) if count > 1 else undefined
    return mean, error
