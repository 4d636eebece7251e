"""Numbers and tables as text."""

from __future__ import annotations

import math


def table(lines: list[list[str]]) -> str:
    """Aligned columns under a ruled header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(t.rjust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([body[0], "-" * max(map(len, body)), *body[1:]])


def short(value: float | None) -> str:
    """A number in four digits; "-" where there is none."""
    return "-" if value is None else f"{value:.4g}" if math.isfinite(value) else "infinite"
