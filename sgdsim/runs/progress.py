"""What a sweep says while it goes on: one bar over all cells, or over the steps of a single run, and a log."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from sgdsim.common.checks import InputError
from sgdsim.common.progress import Bar
from sgdsim.common.text import counted
from sgdsim.regimes.base import Regime
from sgdsim.runs.chunks import Chunk, Done, Settings
from sgdsim.runs.estimates import Cost
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.grids import Grid
from sgdsim.runs.pace import Pace

_SOON = 0.05  # seconds between two looks at how long the rest takes


def check_log(log_file: str | os.PathLike | None) -> None:
    """InputError now, before anything is begun, if the log could not be written later."""
    if log_file is not None:
        new = not os.path.exists(log_file)
        _opened(log_file).close()
        if new:
            os.unlink(log_file)


def _opened(log_file: str | os.PathLike) -> TextIO:
    try:
        return open(log_file, "a", encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{log_file}: could not be written: {getattr(error, 'strerror', None) or error}") from error


def _work(cells: int, regimes: int, steps: int) -> str:
    """All of it in words: "12 cells × 3 regimes × 10,000 steps"."""
    several = [counted(n, what) for n, what in ((cells, "cell"), (regimes, "regime")) if n > 1]
    return " × ".join([*several, f"{steps:,} step{'s' if steps != 1 else ''}"])


class Progress:
    """One bar over all cells in all regimes, with the cells of each regime, the diverged and failed; and the log. Of a
    single run the bar counts steps.

    `totals` and `ended`: cells of each regime, and those of them that are done; `partial`: regime, and how many cells
    are done, of each chunk in work, by its number; `counts`: cells that came to such an end.
    """

    def __init__(
        self,
        shown: bool,
        chunks: list[Chunk],
        todo: list[Chunk],
        grid: Grid,
        regimes: Sequence[Regime],
        settings: Settings,
        costs: Sequence[Cost],
        log_file: str | os.PathLike | None,
    ) -> None:
        self.names, self.n_cells, self.log_file = [regime.name for regime in regimes], grid.size, log_file
        self.totals, self.ended = [0] * len(regimes), [0] * len(regimes)
        for chunk in chunks:
            self.totals[chunk.regime] += len(chunk.cells)
            self.ended[chunk.regime] += len(chunk.cells)
        for chunk in todo:
            self.ended[chunk.regime] -= len(chunk.cells)
        self.partial: dict[int, tuple[int, float]] = {}
        self.counts = {"diverged": 0, "failed": 0}
        self.lock, self.pace, self.moved = threading.Lock(), Pace(regimes, costs, settings.steps.size), 0.0
        cells, last = sum(self.totals), int(settings.steps[-1])
        self.unit = last if cells == 1 else 1
        self.bar = Bar(
            shown,
            total=cells * self.unit,
            initial=sum(self.ended) * self.unit,
            unit="step" if cells == 1 else "cell",
            work=_work(self.n_cells, len(regimes), last),
            paced=False,
            counts=cells == 1,
        )
        self.log: TextIO | None = None

    def __enter__(self) -> Progress:
        if self.log_file is not None:
            self.log = _opened(self.log_file)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.log is not None:
            self.log.close()

    def tick(self, chunk: Chunk, part: float) -> None:
        """`part` of a cell more is done in the chunk."""
        with self.lock:
            if chunk.number not in self.partial:
                self._name(chunk, refresh=part == 0)
            _, before = self.partial.get(chunk.number, (chunk.regime, 0.0))
            now = min(before + part, len(chunk.cells))
            self.partial[chunk.number] = (chunk.regime, now)
            self.pace.tick(chunk, now, moved=part > 0)
            if part and time.monotonic() - self.moved >= _SOON:
                self._move()

    def _name(self, chunk: Chunk, refresh: bool) -> None:
        """What goes on now, in front of the bar."""
        self.bar.beside(self._said(self._left()) if sum(self.totals) > 1 else "")
        self.bar.describe("" if sum(self.totals) > 1 else self.names[chunk.regime], refresh=refresh)

    def add(self, chunk: Chunk, done: Done) -> None:
        """The chunk is done."""
        with self.lock:
            self.partial.pop(chunk.number, None)
            self.pace.add(chunk, done)
            if done.ended.all():
                self.ended[chunk.regime] += len(chunk.cells)
            outcomes = {name: int((done.outcome == OUTCOMES.index(name)).any(1).sum()) for name in self.counts}
            for name, count in outcomes.items():
                self.counts[name] += count
            self._move()
            if self.log is not None:
                self._write_line(self.log, chunk, done, outcomes)

    def _write_line(self, log: TextIO, chunk: Chunk, done: Done, outcomes: dict[str, int]) -> None:
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "chunk": chunk.number,
            "regime": self.names[chunk.regime],
            "cells": len(chunk.cells),
            "first_cell": chunk.cells[0],
            "seconds": round(float(done.seconds.sum()), 6),
            **outcomes,
            "interrupted": not done.ended.all(),
            "errors": sorted({text for text in done.errors if text})[:3],
        }
        with contextlib.suppress(OSError):  # a full disk does not end the sweep
            log.write(json.dumps(line) + "\n")
            log.flush()

    def _left(self) -> list[float]:
        """Cells of each regime."""
        left = [float(total - ended) for total, ended in zip(self.totals, self.ended, strict=True)]
        for regime, done in self.partial.values():
            left[regime] -= done
        return left

    def _move(self) -> None:
        left = self._left()
        done = sum(self.totals) - sum(left)
        if sum(self.totals) > 1:
            self.bar.beside(self._said(left))
        self.bar.at(done if sum(self.totals) > 1 else round(done * self.unit), *self.pace.left(left))
        self.moved = time.monotonic()

    def _said(self, left: Sequence[float]) -> str:
        """How many cells are done of each regime that goes on, of the last one at the end, and came to a bad end."""
        counts = [
            f"{name} {_rounded(total - rest)} of {total}"
            for name, total, rest in zip(self.names, self.totals, left, strict=True)
            if rest > 0
        ]
        shown = f"{', '.join(counts)} cells" if counts else f"{counted(self.n_cells, 'cell')} done"
        return "; ".join([shown, *(f"{count} {outcome}" for outcome, count in self.counts.items() if count)])


def _rounded(cells: float) -> str:
    """Whole cells, of the first few also tenths."""
    return f"{int(cells)}" if cells >= 10 or cells == int(cells) else f"{int(10 * cells) / 10:g}"
