"""Rows of the report: a published value beside ours, with an interval and a verdict, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats

from sgdsim.common.checks import InputError

REPRODUCED, PRECISE = "reproduced", "reproduced, more precisely"
DIFFERS, UNDETERMINED, EVIDENCE = "differs", "not determined by the data", "evidence"
VERDICTS = {
    REPRODUCED: "the published value agrees with ours to the digits it is given in, or lies in our interval",
    PRECISE: "the published value lies in our interval, and ours is computed without the grid that limited it",
    DIFFERS: "the published value lies outside our interval; the reason is given",
    UNDETERMINED: "the published value lies in our interval, or does as well as ours, but so do very different ones",
    EVIDENCE: "nothing published to compare with; the row supports a reason given elsewhere, or shows a known trap",
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    quantity : what is compared, with its setting.
    published : as printed, with its source where that is not the paper itself; "–" where there is nothing.
    ours, interval : our value, and the interval around it with a word on what kind of interval it is.
    verdict : one of `VERDICTS`.
    reason : one or two sentences; required where ours differs.
    values : the numbers behind, JSON-able.
    """

    quantity: str
    published: str
    ours: str
    interval: str
    verdict: str
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"verdict: expected one of {', '.join(VERDICTS)}; got {self.verdict!r}")
        if self.verdict == DIFFERS and not self.reason:
            raise InputError(f"reason: expected one for {self.quantity!r}, as it differs; got none")

    @classmethod
    def evidence(cls, quantity: str, ours: str, interval: str, values: Mapping[str, object], reason: str = "") -> Row:
        """A row with nothing published to compare with."""
        return cls(quantity, "–", ours, interval, EVIDENCE, reason, values)

    @classmethod
    def compared(
        cls,
        quantity: str,
        published: str,
        ours: str,
        interval: str,
        agrees: bool,
        reason: str,
        values: Mapping[str, object],
    ) -> Row:
        """A row that is reproduced where the values agree; where they do not, it differs for that reason."""
        return cls(
            quantity, published, ours, interval, REPRODUCED if agrees else DIFFERS, "" if agrees else reason, values
        )


def next_sample(values: np.ndarray) -> tuple[float, float]:
    """95% prediction interval of one more value like these, taken for normal (Student's t); two values at least."""
    values = np.asarray(values, dtype=np.float64)
    half = scipy.stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / values.size)
    return float(values.mean() - half), float(values.mean() + half)


def within(value: float, low: float, high: float, decimals: int) -> bool:
    """Whether a value printed with so many decimals can lie in the interval [low, high]."""
    half = 0.5 * 10.0**-decimals
    return low - half <= value <= high + half


def judged(value: float, low: float, high: float, decimals: int, loose: float) -> str:
    """The verdict on a published value beside our interval; one wider than `loose` determines nothing."""
    if not within(value, low, high, decimals):
        return DIFFERS
    return REPRODUCED if high - low <= loose else UNDETERMINED


def shown(value: float, digits: int = 3) -> str:
    """A number for the table, with a true minus sign and powers of ten written out."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "undefined"
    text, _, power = f"{value:.{digits}g}".partition("e")
    return (text if not power else f"{text}·10^{int(power)}").replace("-", "−")


def span(low: float, high: float, decimals: int = 2, kind: str = "") -> str:
    """An interval for the table, and in brackets what kind it is."""
    text = f"{low:.{decimals}f} … {high:.{decimals}f}".replace("-", "−")
    return f"{text} ({kind})" if kind else text
