"""What tells one problem from another, and what is computed from a problem once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import threading
from collections.abc import Callable
from types import CellType

import numpy as np

_making = threading.RLock()


class made_once(functools.cached_property):
    """A `cached_property` that several threads may ask for: one makes it, the others wait for it."""

    def __get__(self, instance, owner=None):
        if instance is None or self.attrname in instance.__dict__:
            return super().__get__(instance, owner)
        with _making:  # one lock for all, so that problems can be pickled; what is made here keeps all cores busy
            return super().__get__(instance, owner)


def of_function(function: Callable[..., object]) -> str:
    """What tells a function from others: its name and, outside sgdsim, a digest of its code and of what is bound."""
    if isinstance(function, functools.partial):
        bound = json.dumps([function.args, function.keywords], default=name_of)
        return f"partial of {of_function(function.func)} with {bound}"
    name = name_of(function)
    if dataclasses.is_dataclass(function) and not isinstance(function, type):
        return name + json.dumps(dataclasses.asdict(function), default=name_of)
    if name.startswith("sgdsim."):
        return name
    code = inspect.unwrap(function)
    cells = [cell.cell_contents for cell in getattr(code, "__closure__", None) or () if not _is_empty(cell)]
    values = [*(getattr(code, "__defaults__", None) or ()), *(getattr(code, "__kwdefaults__", None) or {}).values()]
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # typed in, or an object that can be called
        source = ""
    return f"{name} {digest(source, json.dumps([*cells, *values], default=name_of))[:16]}"


def _is_empty(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def name_of(thing: object) -> str:
    """Module and qualified name of a function, class or an object's class: the same in every process.

    Of sgdsim's own without the module: files name them, and where they live may change.
    """
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    home = getattr(named, "__module__", None) or ""
    return f"{'sgdsim' if home.startswith('sgdsim.') else home}.{named.__qualname__}"


def digest(*facts: np.ndarray | str | int | float | None) -> str:
    """SHA-256, in hexadecimal, of facts in their order: arrays by type, shape and bytes, anything else by `repr`."""
    total = hashlib.sha256()
    for fact in facts:
        if isinstance(fact, np.ndarray):
            total.update(f"{fact.dtype.str}{fact.shape}:".encode())
            total.update(np.ascontiguousarray(fact).data)
        else:
            text = repr(fact).encode()
            total.update(b"%d:" % len(text) + text)
    return total.hexdigest()
