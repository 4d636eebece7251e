"""The modules of a room, loaded on first use."""

from __future__ import annotations

import importlib
import pkgutil
import sys
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


def listing(name: str) -> Callable[[], list[str]]:
    """`__dir__` of the module `name`: completion lists its `__all__`, or else what is made in it or its room."""

    def offered() -> list[str]:
        module = sys.modules[name]
        known = vars(module)
        if "__all__" in known:
            return sorted(known["__all__"])
        room = name.rpartition(".")[0]
        return sorted(each for each, value in known.items() if not each.startswith("_") and _made_in(room, value))

    return offered


def _made_in(room: str, value: object) -> bool:
    if isinstance(value, (bool, ModuleType)):  # TYPE_CHECKING is a bool
        return False
    home = getattr(value, "__module__", None)
    return type(value).__module__ == "builtins" if home is None else home.startswith(room)
