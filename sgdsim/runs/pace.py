"""How long the rest of a sweep takes, by what its cells took until now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sgdsim.regimes.base import Regime
from sgdsim.runs.chunks import Chunk, Done

_FEW = 200  # recorded steps, up to which they are no part of the pace: most come early, where they would mislead


@dataclass
class _Begun:
    """A chunk under way: the seconds since it first moved, from how many cells, to how many; since when it moves."""

    regime: int
    spent: float
    start: float
    to: float
    since: float


class Pace:
    """Seconds that the rest takes: of each regime by what its cells took, and before one of them moved by `seconds` a
    cell. Work before a chunk's first move, such as compiling, does not count. `recorded`: steps of a cell."""

    def __init__(self, regimes: Sequence[Regime], seconds: Sequence[float], recorded: int) -> None:
        self.alone, self.seconds = [regime.uses_all_cores for regime in regimes], list(seconds)
        self.spent = [(0.0, 0)] * len(regimes)
        self.few = recorded <= _FEW
        self.begun: dict[int, _Begun] = {}
        self.together, self.ticking = 1, False

    def tick(self, chunk: Chunk, done: float, *, moved: bool) -> None:
        """So many of the chunk's cells are done; if nothing `moved`, it goes on from a recorded step."""
        now = time.monotonic()
        held = self.begun.get(chunk.number)
        if held is None and moved:
            self.begun[chunk.number] = _Begun(chunk.regime, 0.0, done, done, now)
            self.together, self.ticking = max(self.together, len(self.begun)), True
        elif held is not None and (moved or self.few):
            held.spent += now - held.since if moved else 0.0
            held.to, held.since = done, now

    def add(self, chunk: Chunk, done: Done) -> None:
        """The chunk is done."""
        self.begun.pop(chunk.number, None)
        spent, cells = self.spent[chunk.regime]
        self.spent[chunk.regime] = (spent + float(done.seconds.sum()), cells + len(chunk.cells))

    def left(self, cells: Sequence[float]) -> tuple[float | None, bool]:
        """Of so many cells that are left of each regime, and whether all of these have moved; None where workers
        elsewhere do not tell how far they are."""
        if not self.ticking:
            return None, True
        total, sure = 0.0, True
        for regime, (rest, (spent, done)) in enumerate(zip(cells, self.spent, strict=True)):
            mine = [held for held in self.begun.values() if held.regime == regime]
            took = spent + sum(held.spent for held in mine)
            moved = done + sum(held.to - held.start for held in mine)
            each = took / moved if moved > 0 else self.seconds[regime]
            sure &= moved > 0 or rest == 0
            total += rest * each / (1 if self.alone[regime] else self.together)
        return total, sure
