"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping


def short(value: float | None) -> str:
    """A number in four digits; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def estimate(found: Mapping[str, float | None], value: str, ends: str | None = None) -> tuple[str, str, str]:
    """Value, lower and upper end of an estimate as JSON holds it, in the formats `value` and `ends`; None of an end is
    infinite there."""
    parts = (("value", value, "undetermined"), ("low", ends or value, "-∞"), ("high", ends or value, "∞"))
    middle, low, high = (none if (x := found[name]) is None else f"{x:{form}}" for name, form, none in parts)
    return middle, low, high
