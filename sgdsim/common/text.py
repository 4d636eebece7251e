"""Numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sgdsim.common.specs import readable

_UNITS = (("s", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("year", 31557600))


def short(value: float | None) -> str:
    """A number in four digits; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else "infinite"


def counted(count: int, what: str) -> str:
    """ "1 step", "10000 steps"."""
    return f"{count} {what}{'s' if count != 1 else ''}"


def duration(total: float) -> str:
    """Seconds in words, in two digits: "less than a second", "40 s", "3.2 years"."""
    if total < 1:
        return "less than a second"
    name, unit = next(pair for pair in reversed(_UNITS) if total >= pair[1])
    digits = 1 if total / unit < 9.95 else 0
    number = f"{total / unit:.{digits}f}" if total / unit < 1e4 else f"{total / unit:.2g}"
    number = number.removesuffix(".0")
    return f"{number} {name}{'' if name == 's' or number == '1' else 's'}"


def steps(count: int) -> str:
    """`counted` steps; from 10⁷ on "1e+15 steps"."""
    return f"{count:g} steps" if count >= 10**7 else counted(count, "step")


def percent(share: float) -> str:
    """A share in two digits, in four close to 1 and beyond."""
    return f"{100 * share:.2g}%" if share < 0.99 else f"{100 * share:.4g}%"


def tuned(momentum: float) -> str:
    """A momentum that was searched for, in five digits: what the search leaves of 0 is 0."""
    return "0" if abs(momentum) < 1e-9 else readable(momentum, 5)


def estimate(found: Mapping[str, float | None], value: str, ends: str | None = None) -> tuple[str, str, str]:
    """Value, lower and upper end of an estimate as JSON holds it, in the formats `value` and `ends`; None of an end is
    infinite there."""
    parts = (("value", value, "undetermined"), ("low", ends or value, "-∞"), ("high", ends or value, "∞"))
    middle, low, high = (none if (x := found[name]) is None else f"{x:{form}}" for name, form, none in parts)
    return middle, low, high
