"""Seconds that a unit of work takes, once that has settled."""

from __future__ import annotations

from itertools import pairwise

SEEN = 2.0  # seconds of work, before which no rate is known
_DENSER = 1.2  # ratio of the times at which the count is kept
_SAME = 2.0  # ratio of the rates of two stretches of time, up to which they count as one


class Rate:
    """Of work that was seen for `seconds` so far, in which `count` units were done.

    The first quarter of the time does not count. The second quarter and the later half have to agree: what the
    first steps cost once (compiling, a memory's first use) is so never carried over to all others.
    """

    def __init__(self) -> None:
        self.seconds = self.count = 0.0
        self._marks = [(0.0, 0.0)]  # time and count, at times that grow geometrically

    def add(self, seconds: float, count: float) -> None:
        """So many more."""
        self.seconds += seconds
        self.count += count
        if self.seconds > _DENSER * self._marks[-1][0]:
            self._marks.append((self.seconds, self.count))

    @property
    def each(self) -> float | None:
        """Seconds of a unit; None where too little was seen."""
        if self.seconds < SEEN:
            return None
        ends = [self._until(self.seconds / 4), self._until(self.seconds / 2), (self.seconds, self.count)]
        if any(a[0] == b[0] or a[1] >= b[1] for a, b in pairwise(ends)):
            return None
        early, late = ((b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(ends))
        if not 1 / _SAME <= early / late <= _SAME:
            return None
        return (ends[2][0] - ends[0][0]) / (ends[2][1] - ends[0][1])

    def _until(self, seconds: float) -> tuple[float, float]:
        return next(mark for mark in reversed(self._marks) if mark[0] <= seconds)
