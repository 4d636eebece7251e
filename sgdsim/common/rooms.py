"""The modules of a room, loaded on first use."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType


def modules_of(room: str, path: Sequence[str]) -> tuple[Callable[[str], ModuleType], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the package `room` at `path`, its `__path__`: `ss.theory.exact` needs no import of
    its own, and completion lists the public modules and nothing else."""
    names = sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))

    def load(name: str) -> ModuleType:
        if name in names:
            return importlib.import_module(f"{room}.{name}")
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return load, lambda: list(names)
