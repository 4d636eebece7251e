"""How far work is, on standard error: a bar on a terminal and in Jupyter, elsewhere a plain line now and then.

Where the work turns out to take over a minute, one line says so as soon as its pace has settled (`rate`).
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import TYPE_CHECKING, Self

from sgdsim.common.rate import Rate
from sgdsim.common.text import counted, duration

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST = 10.0  # seconds until the first plain line; each pause after it is twice as long as the one before
LONGEST = 600.0  # seconds between two lines at most
LONG = 60.0  # seconds of work that are told beforehand
_FORM = "{desc}{percentage:3.0f}%|{bar}| {n:,.0f}/{total:,.0f} [{elapsed}{postfix}]"  # without tqdm's guess of the rest
_BESIDE = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}{postfix}]"


class Bar:
    """A count that grows up to `total`, if that is known; nothing is shown where not `shown`.

    Parameters
    ----------
    what : is counted, in front of the numbers; `describe` changes it.
    unit : of the count, in the singular.
    initial : the count at the beginning.
    work : all of it in words, for the line about long work; "" for no such line.
    delay : seconds before a bar appears.
    paced : by its own pace; else only the caller knows how long the rest takes.
    counts : the count is shown; else what is said `beside` it.
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
        delay: float = 0.0,
        paced: bool = True,
        counts: bool = True,
    ) -> None:
        self.what, self.total, self.unit, self.n, self.work = what, total, unit, initial, work
        self._began = time.monotonic()
        self._rate = Rate() if paced and total is not None else None
        self._moved: float | None = None  # when it last did; what comes before the first time may be compiling
        self._guessed, self._beside = False, ""
        self._next, self._pause = self._began + FIRST, FIRST
        self._plain = shown and sys.stderr is not None
        self._bar: tqdm | None = None
        if self._plain and (kind := _drawn()) is not None:
            form = None if total is None else _FORM if counts else _BESIDE
            self._bar = kind(total=total, unit=unit, initial=initial, bar_format=form, delay=delay, miniters=0)
            self._plain = False
            self.describe(what, refresh=not delay)

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

    def beside(self, facts: str) -> None:
        """What is said of the count: by a bar beside it, by a plain line in its place."""
        self._beside = facts
        self._show(None, True)

    def update(self, count: float = 1.0) -> None:
        """So much more is done."""
        self.at(self.n + count)

    def at(self, n: float, left: float | None = None, sure: bool = True) -> None:
        """The count is `n`; `left`: seconds that the rest takes, where the caller knows; not `sure`: a part of it is a
        guess, and long work is told once more when it is not."""
        moved, self.n = n - self.n, n
        if self._bar is None and not self._plain:
            return
        now = time.monotonic()
        left = self._left(now, moved) if left is None else left
        self._show(left, sure)
        if self._bar is not None:
            self._bar.update(moved)
        if self.work and left is not None:  # said now or never
            total = now - self._began + left
            if total > LONG and left > LONG / 2 and (sure or not self._guessed):
                self._tell(f"{_about(sure)} {duration(total)}: {self.work}; Ctrl-C keeps what is done")
            self._guessed = True
            self.work = "" if sure else self.work
        if self._plain and now >= self._next:
            rest = self._rest(left, sure) or f"{duration(now - self._began)} so far"
            self._tell(f"{self._count()}, {rest}")
            self._pause = min(2 * self._pause, LONGEST)
            self._next = now + self._pause

    def _show(self, left: float | None, sure: bool) -> None:
        """What the bar has beside it; the time first, as narrow terminals cut the end off."""
        if self._bar is not None:
            self._bar.set_postfix_str("; ".join(filter(None, (self._rest(left, sure), self._beside))), refresh=False)

    def _rest(self, left: float | None, sure: bool) -> str:
        """How long the rest takes; "" where that is not known, or there is none."""
        ended = self.total is not None and self.n >= self.total
        return "" if left is None or ended else f"{_about(sure)} {duration(left)} left"

    def _left(self, now: float, moved: float) -> float | None:
        """Seconds that the rest takes at the pace since the first move, once that has settled."""
        if self._rate is None or self.total is None:
            return None
        if self._moved is not None:
            self._rate.add(now - self._moved, moved)
        if self._moved is not None or moved > 0:
            self._moved = now
        each = self._rate.each
        return None if each is None else each * (self.total - self.n)

    def _count(self) -> str:
        if self._beside:
            return self._beside
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


def _about(sure: bool) -> str:
    return "about" if sure else "perhaps"


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
