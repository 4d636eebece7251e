"""Numbers as text."""

from __future__ import annotations

import math


def short(value: float | None) -> str:
    """A number in four digits; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"
