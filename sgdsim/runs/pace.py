"""How long the rest of a sweep takes, by what its cells took until now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sgdsim.common.rate import Rate
from sgdsim.regimes.base import Regime
from sgdsim.runs.chunks import Chunk, Done
from sgdsim.runs.estimates import Cost

_FEW = 200  # recorded steps, up to which they are no part of the pace: most come early, where they would mislead
_GUESSED = 0.5  # share of the time left that may be an estimate


@dataclass
class _Begun:
    """A chunk under way: since when and from how many of its cells it moves; what of that the rate of its regime has;
    since when that goes on."""

    first: float
    start: float
    spent: float
    to: float
    since: float


class Pace:
    """Seconds that the rest takes: of each regime by what its cells took, once that has settled; before, by its `cost`.
    Work before a chunk's first move, such as compiling, does not count. `recorded`: steps of a cell."""

    def __init__(self, regimes: Sequence[Regime], costs: Sequence[Cost], recorded: int) -> None:
        self.alone, self.costs = [regime.uses_all_cores for regime in regimes], list(costs)
        self.rates = [Rate() for _ in regimes]
        self.few = recorded <= _FEW
        self.begun: dict[int, _Begun] = {}
        self.together, self.ticking, self.opened = 1, False, time.monotonic()

    def tick(self, chunk: Chunk, done: float, *, moved: bool) -> None:
        """So many of the chunk's cells are done; if nothing `moved`, it goes on from a recorded step."""
        now = time.monotonic()
        held = self.begun.get(chunk.number)
        if held is None and moved:
            self.begun[chunk.number] = _Begun(now, done, 0.0, done, now)
            self.together, self.ticking = max(self.together, len(self.begun)), True
        elif held is not None and (moved or self.few):
            if moved:
                self.rates[chunk.regime].add(now - held.since, done - held.to)
                held.spent += now - held.since
            held.to, held.since = done, now

    def add(self, chunk: Chunk, done: Done) -> None:
        """The chunk is done: what its recorded steps took counts now."""
        held, rate = self.begun.pop(chunk.number, None), self.rates[chunk.regime]
        if held is None:
            rate.add(float(done.seconds.sum()), len(chunk.cells))
        else:
            rate.add(max(time.monotonic() - held.first - held.spent, 0.0), len(chunk.cells) - held.to)

    def left(self, cells: Sequence[float]) -> tuple[float | None, bool]:
        """Of so many cells that are left of each regime, and whether that is more than a guess: the pace of all these
        regimes has settled, and their cells cost alike. None where too little is known."""
        known, guessed, sure, together = 0.0, 0.0, self.ticking, self._together()
        for rest, rate, cost, alone in zip(cells, self.rates, self.costs, self.alone, strict=True):
            if rest <= 0:
                continue
            share, each = (1 if alone and self.ticking else together), rate.each
            sure &= each is not None and cost.alike
            if each is not None:
                known += rest * each / share
            elif cost.seconds and not rate.count:  # else it has begun: its own pace will tell
                guessed += rest * cost.seconds / share
            else:
                return None, False
        if guessed > _GUESSED * (known + guessed):
            return None, False
        return known + guessed, sure

    def _together(self) -> float:
        """How many cells go on side by side; workers elsewhere tell only what is done."""
        if self.ticking:
            return self.together
        passed = time.monotonic() - self.opened
        return max(1.0, sum(rate.seconds for rate in self.rates) / passed) if passed else 1.0
