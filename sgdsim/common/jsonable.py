"""Values as JSON holds them, which has no infinity and no NaN."""

from __future__ import annotations

import dataclasses
import math
from typing import SupportsFloat

import numpy as np

from sgdsim.common.specs import shortest


def finite_or_none(value: SupportsFloat | None) -> float | None:
    """The value as a float; None where it is infinite, NaN or None."""
    return float(value) if value is not None and math.isfinite(value) else None


def jsonable(value: object) -> object:
    """A value with all that is in it as JSON holds it; floats by `finite_or_none`, also as keys of a dict their text.

    What has a `spec` (an algorithm, a schedule) is that; another dataclass is the dict of its fields.
    """
    if (spec := getattr(value, "spec", None)) is not None:
        return spec() if callable(spec) else spec
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {shortest(k) if isinstance(k, float) else str(k): jsonable(entry) for k, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    return finite_or_none(value) if isinstance(value, float) else value
