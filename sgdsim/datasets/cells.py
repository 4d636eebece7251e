"""The cells of one column of a table as numbers or as text, read as a person would.

Numbers may have a decimal comma where the fields are not separated by commas, and marks between thousands. Where more
than one reading fits, and they differ, the column says what was decided, or nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sgdsim.common.checks import InputError

_MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "-nan", "null", "none", "<na>", "?"))
_POWER = r"([eE][+-]?\d+)?"
_PLAIN = re.compile(rf"[+-]?(\d+\.?\d*|\.\d+){_POWER}", re.ASCII)
_COMMA = re.compile(rf"[+-]?([1-9]\d{{0,2}}(\.\d{{3}})+(,\d+)?|\d+,?\d*{_POWER}|,\d+{_POWER})", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?([1-9]\d{0,2}(,\d{3})+|\d+)(\.\d*)?", re.ASCII)
_ENDLESS = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_ALMOST = re.compile(r"[\s$€£+-]*\d[\d.,'\s]*[\s$€£%]*")  # a number with something to it that is not read
_DECIMAL_COMMA = re.compile(r"[+-]?[\d.]*\d,(\d{1,2}|\d{4,})")  # 1,234 may be a thousand and something
_TRUTH = {"false": "0", "true": "1"}


@dataclass(frozen=True)
class Style:
    """A way of writing numbers: what is one, and how Python would write it."""

    form: re.Pattern[str]
    python: Callable[[str], str]


_AS_PYTHON = Style(_PLAIN, str)
_WITH_COMMA = Style(_COMMA, lambda cell: cell.replace(".", "").replace(",", "."))
_WITH_THOUSANDS = Style(_THOUSANDS, lambda cell: cell.replace(",", ""))


@dataclass(frozen=True, eq=False)
class Column:
    """`numbers` (N,) float64 with NaN where a value is missing, or `texts`, None where one is.

    `note`: how a number was read that could have been another.
    """

    numbers: np.ndarray | None
    texts: list[str | None] | None = None
    note: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Which values are, (N,) bool."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        return np.array([text is None for text in self.texts or ()], dtype=bool)


def has_decimal_comma(cells: Sequence[str]) -> bool:
    """Whether one of them is a number such as 1,5."""
    return any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells)


def column(cells: Sequence[str], separator: str, where: Callable[[int], str], decimal_comma: bool = False) -> Column:
    """The column of these stripped cells. InputError, with the place as `where` names it, for a cell among numbers
    that is none, and for numbers that are infinite or cannot be read for sure.

    `decimal_comma`: whether other columns have one, so that 1.234 may be a thousand and something.
    """
    quick = _quick(cells)
    if quick is not None and not decimal_comma:
        return Column(quick)
    folded = [cell.lower() for cell in cells]
    given = [i for i, cell in enumerate(folded) if cell not in _MISSING]
    numbers = np.full(len(cells), np.nan)
    if given and all(folded[i] in _TRUTH for i in given):
        numbers[given] = [float(_TRUTH[folded[i]]) for i in given]
        return Column(numbers)
    for i in given:
        if _ENDLESS.fullmatch(cells[i]):
            raise InputError(f"{where(i)}: expected a finite number, got {cells[i]!r}")
    styles = (_AS_PYTHON, _WITH_THOUSANDS) if separator == "," else (_AS_PYTHON, _WITH_COMMA, _WITH_THOUSANDS)
    fitting = [style for style in styles if all(style.form.fullmatch(cells[i]) for i in given)]
    if not fitting:
        return _text(cells, given, styles, where)
    read = [np.array([float(style.python(cells[i])) for i in given]) for style in fitting]
    plain, shown = fitting[0] is _AS_PYTHON, [cells[i] for i in given]
    numbers[given], note = _settled(read, shown, plain, separator, decimal_comma, lambda at: where(given[at]))
    for i in given:
        if not np.isfinite(numbers[i]):
            raise InputError(f"{where(i)}: expected a number that float64 holds, got {cells[i]!r}")
    return Column(numbers, note=note)


def _quick(cells: Sequence[str]) -> np.ndarray | None:
    """The numbers where Python reads all of them, and all are finite; None elsewhere."""
    try:
        numbers = np.array([float(cell) for cell in cells])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() and not any("_" in cell for cell in cells) else None


def _settled(
    read: list[np.ndarray],
    cells: list[str],
    plain: bool,
    separator: str,
    decimal_comma: bool,
    where: Callable[[int], str],
) -> tuple[np.ndarray, str]:
    """Which of several readings of a column is meant, and in words what was decided. `plain`: the first is Python's.

    InputError where they differ, and nothing says which it is: 1.234 is what Python reads, unless other columns have
    decimal commas; 1,234 has one where semicolons separate fields.
    """
    first = read[0]
    for other in read[1:]:
        apart = np.flatnonzero(first != other)
        if not apart.size or (plain and not decimal_comma):
            continue
        at = int(apart[0])
        if separator != ";":
            raise InputError(
                f"{where(at)}: {cells[at]!r} may be {first[at]:.10g} or {other[at]:.10g}; write it without a mark "
                "between thousands and with a decimal point, or leave the column out"
            )
        taken = other if plain else first
        return taken, f"{cells[at]} is {taken[at]:.10g}"
    return first, ""


def _text(cells: Sequence[str], given: list[int], styles: tuple[Style, ...], where: Callable[[int], str]) -> Column:
    """The column as text; InputError where most of it are numbers, or where it is almost a number."""
    is_number = [any(style.form.fullmatch(cells[i]) for style in styles) for i in given]
    if 2 * sum(is_number) >= len(given):
        odd = [i for i, number in zip(given, is_number, strict=True) if not number]
        if odd:
            raise InputError(f"{where(odd[0])}: expected a number as in most of the column, got {cells[odd[0]][:40]!r}")
        raise InputError(f"{where(given[0])}: expected numbers with one kind of decimal mark in a column, got several")
    for i in given:
        if _ALMOST.fullmatch(cells[i]) and not any(style.form.fullmatch(cells[i]) for style in styles):
            raise InputError(f"{where(i)}: expected a plain number or text, got {cells[i][:40]!r}")
    keep = set(given)
    return Column(None, [cell if i in keep else None for i, cell in enumerate(cells)])
