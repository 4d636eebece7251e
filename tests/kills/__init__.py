"""Kills that can be aimed: however a sweep is stopped, the same call finishes it, to the last bit, and leaves nothing.

`make kills [SEED=0 COUNT=5 KIND=commands]` runs COUNT cases of each kind, or of one. A case is decided by its kind and
its seed alone; each is printed, and a failure with the words that run it again. The moments are drawn relative to what
can be seen of a sweep (its files, its log), and whatever the moment, the same must come out; so no case depends on
how fast a machine is.
"""

from __future__ import annotations

import importlib
import random
from pathlib import Path

#: kind → the module of its cases; each is a function (random numbers, an empty folder) → (stops, its story), which
#: raises AssertionError where something is wrong.
KINDS = {
    "commands": "stops", "scripts": "stops", "workers": "workers", "together": "pairs", "followed": "pairs",
    "copied": "pairs", "limited": "disks", "small_disk": "disks", "injected": "injected",
}  # fmt: skip


def case(kind: str, seed: int, home: Path) -> tuple[int, list[str]]:
    """Run the case: how many stops there were, and what happened."""
    run = getattr(importlib.import_module(f"kills.{KINDS[kind]}"), kind)
    return run(random.Random(f"{kind} {seed}"), home)
