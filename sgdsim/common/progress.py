"""How far work is, on standard error: a bar on a terminal and in Jupyter, elsewhere a plain line now and then.

Where the work turns out to take over a minute, one line says so as soon as its pace is known.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from sgdsim.common.text import counted, duration

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST = 10.0  # seconds until the first plain line; each pause after it is twice as long as the one before
LONGEST = 600.0  # seconds between two lines at most
LONG = 60.0  # seconds of work that are told beforehand
PACE = 2.0  # seconds after the first move in which the pace is found: what comes before may be compiling


class Bar:
    """A count that grows up to `total`, if that is known; nothing is shown where not `shown`.

    Parameters
    ----------
    what : is counted, in front of the numbers; `describe` changes it.
    unit : of the count, in the singular.
    initial : the count at the beginning.
    work : all of it in words, for the line about long work; "" for no such line.
    form : the bar's own format.
    delay : seconds before a bar appears.
    """

    def __init__(
        self,
        shown: bool,
        what: str = "",
        total: float | None = None,
        *,
        unit: str = "step",
        initial: float = 0.0,
        work: str = "",
        form: str | None = None,
        delay: float = 0.0,
    ) -> None:
        self.what, self.total, self.unit, self.n, self.work = what, total, unit, initial, work
        self._began = time.monotonic()
        self._first: tuple[float, float] | None = None  # when it first moved, and to where
        self._guessed = False
        self._next, self._pause = self._began + FIRST, FIRST
        self._plain = shown and sys.stderr is not None
        self._bar: tqdm | None = None
        if self._plain and (kind := _drawn()) is not None:
            self._bar, self._plain = (
                kind(total=total, unit=unit, initial=initial, bar_format=form, delay=delay, miniters=0),
                False,
            )
            self.describe(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The bar is not drawn any more."""
        if self._bar is not None:
            self._bar.close()

    def describe(self, what: str, *, refresh: bool = True) -> None:
        """What is counted from now on."""
        self.what = what
        if self._bar is not None:  # tqdm's own `set_description` adds a colon, and its bars without a total another one
            colon = ": " if what and self.total is not None else ""
            self._bar.set_description_str(what + colon, refresh=refresh)

    def beside(self, facts: Mapping[str, object]) -> None:
        """What a bar shows beside the count."""
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)

    def update(self, count: float = 1.0) -> None:
        """So much more is done."""
        self.at(self.n + count)

    def at(self, n: float, left: float | None = None, sure: bool = True) -> None:
        """The count is `n`; `left`: seconds that the rest takes, where that is known better than by the pace so far;
        not `sure`: a part of it is a guess, and long work is told once more when it is not."""
        moved, self.n = n - self.n, n
        if self._bar is not None:
            self._bar.update(moved)
        if self._bar is None and not self._plain:
            return
        now = time.monotonic()
        if self._first is None and moved > 0:
            self._first = (now, n)
            return
        due = self._plain and now >= self._next
        known = self._first is not None and now - self._first[0] >= PACE
        if not due and not (self.work and known):
            return
        left = self._left(now) if left is None else left
        if self.work and known and left is not None:  # said now or never
            total, about = now - self._began + left, "about" if sure else "perhaps"
            if total > LONG and (sure or not self._guessed):
                self._tell(f"{about} {duration(total)}: {self.work}; Ctrl-C keeps what is done")
            self._guessed = True
            self.work = "" if sure else self.work
        if due:
            ends = (
                f"{duration(now - self._began)} so far"
                if left is None
                else f"{'about' if sure else 'perhaps'} {duration(left)} left"
            )
            self._tell(f"{self._count()}, {ends}")
            self._pause = min(2 * self._pause, LONGEST)
            self._next = now + self._pause

    def _left(self, now: float) -> float | None:
        """Seconds that the rest takes at the pace since the first move."""
        since, from_ = self._first or (now, self.n)
        if self.total is None or self.n <= from_:
            return None
        return (now - since) / (self.n - from_) * (self.total - self.n)

    def _count(self) -> str:
        what = f"{self.what}: " if self.what else ""
        if self.total is None:
            return f"{what}{counted(int(self.n), self.unit)}"
        return f"{what}{int(self.n):,} of {self.total:,.0f} {self.unit}s"

    def _tell(self, line: str) -> None:
        try:
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
        except (OSError, ValueError):  # full or closed: the work goes on
            self._plain = False


def _drawn() -> type[tqdm] | None:
    """The kind of bar that this standard error shows; None: none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None and "IPKernelApp" in shell.config:
        with warnings.catch_warnings(action="ignore"):  # that ipywidgets is not there: the bar is text then
            from tqdm.auto import tqdm as auto
        return auto
    try:
        terminal = sys.stderr.isatty()
    except (AttributeError, ValueError):  # a stream of the caller's, or a closed one
        return None
    if not terminal:
        return None
    from tqdm import tqdm as text

    return text
