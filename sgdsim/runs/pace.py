"""How long the rest of a sweep takes, by what its cells took until now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sgdsim.regimes.base import Regime
from sgdsim.runs.chunks import Chunk, Done


@dataclass
class _Begun:
    """A chunk under way: when it first moved and from how many cells, when it last moved and to how many."""

    regime: int
    since: float
    start: float
    now: float
    to: float


class Pace:
    """Seconds that the rest takes: of each regime by what its cells took, and before one of them moved by `seconds` a
    cell. Work before a chunk's first move, such as compiling, does not count."""

    def __init__(self, regimes: Sequence[Regime], seconds: Sequence[float]) -> None:
        self.alone, self.seconds = [regime.uses_all_cores for regime in regimes], list(seconds)
        self.spent = [(0.0, 0)] * len(regimes)
        self.begun: dict[int, _Begun] = {}
        self.together, self.ticking = 1, False

    def tick(self, chunk: Chunk, done: float) -> None:
        """So many of the chunk's cells are done."""
        now = time.monotonic()
        held = self.begun.setdefault(chunk.number, _Begun(chunk.regime, now, done, now, done))
        held.now, held.to = now, done
        self.together, self.ticking = max(self.together, len(self.begun)), True

    def add(self, chunk: Chunk, done: Done) -> None:
        """The chunk is done."""
        self.begun.pop(chunk.number, None)
        spent, cells = self.spent[chunk.regime]
        self.spent[chunk.regime] = (spent + float(done.seconds.sum()), cells + len(chunk.cells))

    def left(self, cells: Sequence[float]) -> float | None:
        """Of so many cells that are left of each regime; None where workers elsewhere do not tell how far they are."""
        if not self.ticking:
            return None
        total = 0.0
        for regime, (rest, (spent, done)) in enumerate(zip(cells, self.spent, strict=True)):
            mine = [held for held in self.begun.values() if held.regime == regime]
            took = spent + sum(held.now - held.since for held in mine)
            moved = done + sum(held.to - held.start for held in mine)
            each = took / moved if moved > 0 else self.seconds[regime]
            total += rest * each / (1 if self.alone[regime] else self.together)
        return total
