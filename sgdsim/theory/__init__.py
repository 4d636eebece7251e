"""What generating functions say without simulating: stability, laws, optima, schedules.

May import: common, algorithm, problem, recurrence. A new result is a module here, of functions from a problem and an
algorithm to a frozen answer; where symbols are needed it belongs to `sgdsim.symbolic`. Losses are those of squares: of
a quadratic model of another loss, those above its `loss_offset`.
"""

import importlib
from pathlib import Path
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """The modules of this room, loaded on first use: `ss.theory.exact`."""
    if (Path(__file__).parent / f"{name}.py").is_file():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
