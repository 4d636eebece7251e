"""What tells one problem from another, and what is computed from a problem once.

A digest says the same of equal things in every process. It goes into functions and objects of the user's as far as
Python shows them: code (not its comments), bound values, attributes, and the globals that the code names. Of a
library's objects it takes the name and, where that is not an address, the `repr`.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    import torch

_making = threading.RLock()
_LIBRARIES = {*sys.stdlib_module_names, "numba", "numpy", "pandas", "scipy", "sgdsim", "sympy", "torch", "xarray"}
_LIBRARIES -= {"__main__"}
_STATE = ("_parameters", "_buffers", "_modules")  # of a torch module; its other private attributes are torch's own


class made_once(functools.cached_property):
    """A `cached_property` that several threads may ask for: one makes it, the others wait for it."""

    def __get__(self, instance, owner=None):
        if instance is None or self.attrname in instance.__dict__:
            return super().__get__(instance, owner)
        with _making:  # one lock for all, so that problems can be pickled; what is made here keeps all cores busy
            return super().__get__(instance, owner)


def of_function(function: Callable[..., object]) -> str:
    """What tells a function (or an object that can be called) from others: its name and, outside sgdsim, a digest."""
    bound = getattr(function, "__self__", None)
    plain = isinstance(function, (FunctionType, MethodType, BuiltinFunctionType, type)) and _is_library(function)
    if plain and (bound is None or (isinstance(bound, type) and _is_library(bound))):
        return name_of(function)
    return f"{name_of(function)} {digest(function)[:16]}"


def name_of(thing: object) -> str:
    """Module and qualified name of a function, class or an object's class: the same in every process.

    Of sgdsim's own without the module: files name them, and where they live may change.
    """
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    home = getattr(named, "__module__", None) or ""
    return f"{'sgdsim' if home.startswith('sgdsim.') else home}.{named.__qualname__}"


def digest(*facts: object) -> str:
    """SHA-256, in hexadecimal, of the facts in their order."""
    return _hashed(b"facts", (_content(fact, ()) for fact in facts)).hex()


def _hashed(kind: bytes, parts: Iterator[bytes]) -> bytes:
    total = hashlib.sha256(kind)
    for part in parts:
        total.update(b"%d:" % len(part))
        total.update(part)
    return total.digest()


def _content(thing: object, within: tuple[int, ...]) -> bytes:
    """A hash of one thing; `within`: the ids of what it is part of, as a thing may hold itself."""
    if id(thing) in within:
        return b"itself"
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes)):
        return f"{type(thing).__name__} {thing!r}".encode(errors="surrogatepass")
    if isinstance(thing, (np.ndarray, np.generic)) and not np.asarray(thing).dtype.hasobject:
        array = np.asarray(thing)
        return _hashed(f"{array.dtype.str}{array.shape}".encode(), iter([array.tobytes()]))
    inside = (*within, id(thing))
    return _hashed(name_of(type(thing)).encode(), (_content(part, inside) for part in _parts(thing, inside)))


def _parts(thing: object, within: tuple[int, ...]) -> Iterator[object]:
    """What a thing consists of."""
    if isinstance(thing, np.ndarray):
        yield thing.tolist()
    elif isinstance(thing, (list, tuple)):
        yield from thing
    elif isinstance(thing, Mapping):
        yield sorted(_content(key, within) + _content(value, within) for key, value in thing.items())
    elif isinstance(thing, (set, frozenset)):
        yield sorted(_content(entry, within) for entry in thing)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, CodeType):
        yield from (thing.co_code, thing.co_names, thing.co_consts)
    elif isinstance(thing, (FunctionType, type)):
        yield name_of(thing)
        if not _is_library(thing):
            yield from _of_function(thing) if isinstance(thing, FunctionType) else _of_class(thing)
    elif isinstance(thing, CellType):
        yield getattr(thing, "cell_contents", None) if _is_filled(thing) else "empty"
    elif isinstance(thing, (ModuleType, BuiltinFunctionType)):
        yield getattr(thing, "__qualname__", thing.__name__)
    else:
        yield from _of_object(thing)


def _of_function(function: FunctionType) -> Iterator[object]:
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__, function.__closure__)
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        yield from (name, function.__globals__[name])


def _names(code: CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names}.union(*map(_names, nested))


def _of_class(kind: type) -> Iterator[object]:
    for base in kind.__mro__:
        yield name_of(base)
        if not _is_library(base):
            for name, value in sorted(vars(base).items()):
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, (FunctionType, str, int, float, tuple)) and name not in ("__module__", "__doc__"):
                    yield from (name, value)


def _of_object(thing: object) -> Iterator[object]:
    """Of an object of a user's class, a torch module or tensor, or a problem; else of a library's."""
    yield type(thing)
    fingerprint = getattr(thing, "fingerprint", None)
    if isinstance(fingerprint, str):
        yield fingerprint
    elif hasattr(thing, "detach") and hasattr(thing, "numpy"):
        tensor = cast("torch.Tensor", thing)
        content = tensor.detach().cpu().reshape(-1).view(sys.modules["torch"].uint8)
        yield from (str(tensor.dtype), tuple(tensor.shape), tensor.requires_grad, content.numpy())
    elif all(hasattr(thing, name) for name in _STATE):
        yield {name: value for name, value in vars(thing).items() if name in _STATE or name[:1] != "_"}
    elif hasattr(thing, "__dict__") and (not _is_library(thing) or type(thing).__module__.startswith("sgdsim.")):
        yield vars(thing)
    else:
        text = repr(thing)
        yield name_of(thing) if " at 0x" in text else text


def _is_library(thing: object) -> bool:
    function = getattr(thing, "__func__", thing)
    if isinstance(function, FunctionType):  # a wrapper may bear the name of what it wraps
        home = function.__globals__.get("__name__") or ""
    else:
        home = getattr(thing, "__module__", None) or type(thing).__module__
    return home.partition(".")[0] in _LIBRARIES


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
