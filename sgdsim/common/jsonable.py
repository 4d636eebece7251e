"""Values as JSON holds them, which has no infinity and no NaN."""

from __future__ import annotations

import math
from typing import SupportsFloat


def finite_or_none(value: SupportsFloat | None) -> float | None:
    """The value as a float; None where it is infinite, NaN or None."""
    return float(value) if value is not None and math.isfinite(value) else None
