"""The four regimes: how one and the same dynamics is followed. Names load on first use: torch is for one of them.

May import: common, algorithm, networks, problem, observables, recurrence. A new regime is a module here with a subclass
of `base.Regime` and the `Run` that it starts, a line below and one in `names`.
"""

from __future__ import annotations

import importlib
from typing import Any

from sgdsim.common.rooms import listing

__dir__ = listing(__name__)

_HOMES = {
    "BatchAveraged": "averaged",
    "RealNetwork": "network",
    "Regime": "base",
    "Run": "base",
    "SampledLinearized": "sampled",
    "SpectralDiagonal": "diagonal",
    "parse": "names",
    "parse_several": "names",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sgdsim.regimes' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sgdsim.regimes.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
