"""What a sweep says while it goes on: one bar over all cells, and a log."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
from typing import TextIO

from tqdm import tqdm

from sgdsim.common.checks import InputError
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.grids import Grid


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


class Progress:
    """One bar over all cells, with counts by regime and of the diverged and failed; and the log.

    `totals` and `ended`: cells of each regime, and those of them that are done; `partial`: how many cells are done of
    each chunk in work, by its number; `counts`: cells that came to such an end.
    """

    def __init__(
        self,
        shown: bool,
        chunks: list[Chunk],
        todo: list[Chunk],
        grid: Grid,
        names: list[str],
        log_file: str | os.PathLike | None,
    ) -> None:
        self.names, self.n_cells, self.log_file = names, grid.size, log_file
        self.totals, self.ended = [0] * len(names), [0] * len(names)
        for chunk in chunks:
            self.totals[chunk.regime] += len(chunk.cells)
            self.ended[chunk.regime] += len(chunk.cells)
        for chunk in todo:
            self.ended[chunk.regime] -= len(chunk.cells)
        self.partial: dict[int, float] = {}
        self.counts = {"diverged": 0, "failed": 0}
        self.lock = threading.Lock()
        form = "{desc}{percentage:3.0f}%|{bar}| {n:.4g}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        self.bar = tqdm(
            total=sum(self.totals),
            initial=sum(self.ended),
            unit="cell",
            bar_format=form,
            miniters=0,  # tqdm's own guess, made on quick cells, would let the bar stand still in a slow one
            disable=None if shown else True,
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
                first, last = chunk.cells[0] + 1, chunk.cells[-1] + 1
                cells = f"cell {first}" if first == last else f"cells {first} to {last}"
                self.bar.set_description(f"{cells} of {self.n_cells}, {self.names[chunk.regime]}", refresh=part == 0)
            self.partial[chunk.number] = min(self.partial.get(chunk.number, 0.0) + part, len(chunk.cells))
            self._move()

    def add(self, chunk: Chunk, done: Done) -> None:
        """The chunk is done."""
        with self.lock:
            self.partial.pop(chunk.number, None)
            if done.ended.all():
                self.ended[chunk.regime] += len(chunk.cells)
            outcomes = {name: int((done.outcome == OUTCOMES.index(name)).any(1).sum()) for name in self.counts}
            for name, count in outcomes.items():
                self.counts[name] += count
            counted = {name: f"{e}/{t}" for name, e, t in zip(self.names, self.ended, self.totals, strict=True)}
            shown = {**(counted if len(self.names) > 1 else {}), **{k: v for k, v in self.counts.items() if v}}
            self.bar.set_postfix(shown, refresh=False)
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

    def _move(self) -> None:
        self.bar.update(sum(self.ended) + sum(self.partial.values()) - self.bar.n)
