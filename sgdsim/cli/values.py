"""Numbers on the command line: whole ones, schedules, and the lists and ranges of them that all options share."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    from sgdsim.algorithm.schedules import Schedule
    from sgdsim.cli.base import Group

_One = TypeVar("_One")
FORMS = "numbers, 1,2,5, LOW:HIGH:COUNT or log:LOW:HIGH:COUNT"  # in help
MAX_VALUES = 100_000  # of a range
_LIST = re.compile(r"[-+]?(\.?\d|inf|nan)")  # how a list or range begins that is no schedule
_LOG = "log:"
_ENDS = ("lr", "momentum")  # ends of their ranges that are no allowed values are left out


class Several(argparse._StoreAction):
    """What `several` read of each word, as one flat list."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Sequence[object]] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, [value for some in values or () for value in some])


def whole(text: str) -> int:
    """An integer, also in the forms 1e6 and 1_000."""
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = 0.5
        if not value.is_integer():
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        return int(value)


def points(text: str) -> int | float:
    """A whole number, or inf."""
    return math.inf if text in ("inf", "∞") else whole(text)


def real(text: str) -> float:
    """A float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def schedule_of(parameter: str) -> Callable[[str], float | Schedule]:
    """The reader of a number or a schedule."""

    def read(text: str) -> float | Schedule:
        from sgdsim.algorithm.schedules import parse

        _check_commas(text)
        if is_list(text):
            raise argparse.ArgumentTypeError(f"expected one value, got {text!r}; sgdsim compare takes several")
        try:
            if parameter == "batch_size" and ":" not in text:
                with contextlib.suppress(argparse.ArgumentTypeError):
                    return whole(text)
            return parse(parameter, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _check_commas(text: str) -> None:
    """ArgumentTypeError where nothing stands between two commas."""
    if ":" not in text and "," in text and not all(part.strip() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected a value on both sides of each comma, got {text!r}")


def is_list(text: str) -> bool:
    """Whether a word stands for several numbers."""
    return text.startswith(_LOG) or (_LIST.match(text) is not None and ("," in text or ":" in text))


def several(one: Callable[[str], _One], name: str = "") -> Callable[[str], list[_One]]:
    """The reader of a word that stands for one value or several, for the action `Several`.

    `one` reads a single value. `1,2,5` are values; `LOW:HIGH:COUNT` equally spaced ones, both ends included,
    `log:LOW:HIGH:COUNT` geometrically; of whole numbers they are rounded, and each comes once. In ranges of `name` lr
    and momentum an end that is no allowed value is left out, as `studies.landscape.spaced` says.
    """

    def read(text: str) -> list[_One]:
        _check_commas(text)
        if not is_list(text):
            return [one(text)]
        out: list[_One] = []
        for part in text.split(","):
            out += [one(word) for word in _words(part, name, one is whole or name == "batch_size")]
        return out

    return read


def _words(part: str, name: str, rounded: bool) -> list[str]:
    """The values that one part of a list stands for, as words."""
    if ":" not in part:
        return [part]
    geometric, ends = part.startswith(_LOG), part.removeprefix(_LOG).split(":")
    try:
        if len(ends) != 3:
            raise ValueError
        low, high, count = float(ends[0]), float(ends[1]), whole(ends[2])
    except (ValueError, argparse.ArgumentTypeError):
        form = "log:LOW:HIGH:COUNT" if geometric else "a number or LOW:HIGH:COUNT"
        raise argparse.ArgumentTypeError(f"expected {form}, got {part!r}") from None
    if count > MAX_VALUES:
        raise argparse.ArgumentTypeError(f"expected a COUNT of at most {MAX_VALUES}, got {part!r}")
    values = (
        _allowed(name, low, high, count) if name in _ENDS and not geometric else _spaced(low, high, count, geometric)
    )
    return list(dict.fromkeys(str(round(value)) if rounded else repr(value) for value in values))


def _allowed(name: str, low: float, high: float, count: int) -> list[float]:
    from sgdsim.studies.landscape import spaced

    try:
        return spaced(name, low, high, count)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _spaced(low: float, high: float, count: int, geometric: bool) -> list[float]:
    import numpy as np

    rule, least = ("0 < LOW < HIGH", 0.0) if geometric else ("LOW < HIGH", -math.inf)
    if not least < low < high < math.inf or count < 2:
        raise argparse.ArgumentTypeError(
            f"expected LOW:HIGH:COUNT with finite {rule} and COUNT >= 2, got {low:g}:{high:g}:{count}"
        )
    values = (np.geomspace if geometric else np.linspace)(low, high, count)
    return [float(f"{value:.12g}") for value in values]


def add_list(
    group: Group,
    option: str,
    one: Callable[[str], object],
    default: Sequence[object] | None,
    words: str,
    metavar: str = "VALUE",
) -> None:
    """An option that takes several values in every form that `values.several` reads; `one` reads a single one."""
    read = several(one, option.strip("-").replace("-", "_"))
    group.add_argument(
        option, type=read, action=Several, nargs="+", default=default, metavar=metavar, help=f"{words}; {FORMS}"
    )
