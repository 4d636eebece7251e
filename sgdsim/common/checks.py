"""Validation of what users pass in: one error type, one message form.

Every message says what was expected, what was given and, where it is not obvious, what to do. The command line
prints an `InputError` as one line and exits with code 2; in Python it is a `ValueError`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence

import numpy as np


class InputError(ValueError):
    """A value that sgdsim cannot work with; the message is one line."""


def _shown(value: object) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def integer(name: str, value: object, *, minimum: int = 0, maximum: int | None = None) -> int:
    """`value` as an int within [minimum, maximum]; bools and fractional numbers are refused."""
    bounds = f">= {minimum}"
    if maximum is not None:
        short = f"{maximum:g}"  # of a round number such as 10¹⁸
        bounds = f"from {minimum} to {short if float(short) == maximum else maximum}"
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Integral | float)
        or (isinstance(value, float) and not value.is_integer())
        or int(value) < minimum
        or (maximum is not None and int(value) > maximum)
    ):
        raise InputError(f"{name}: expected an integer {bounds}, got {_shown(value)}")
    return int(value)


def number(
    name: str,
    value: object,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    open_ends: bool = False,
) -> float:
    """`value` as a finite float within [minimum, maximum], or strictly between them with `open_ends`."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an int beyond the floats
            real = float(value)
            if math.isfinite(real) and (minimum < real < maximum if open_ends else minimum <= real <= maximum):
                return real
    sign = "<" if open_ends else "<="
    left = f"{minimum:g} {sign} " if minimum > -math.inf else ""
    right = f" {sign} {maximum:g}" if maximum < math.inf else ""
    rule = f" with {left}{name}{right}" if left or right else ""
    raise InputError(f"{name}: expected a finite number{rule}, got {_shown(value)}")


def meant(value: object, options: Iterable[str]) -> str:
    """ "; did you mean …?" where one of `options` is spelled much like `value`, else nothing."""
    bare = {option.lstrip("-"): option for option in options}  # dashes make all options alike
    close = difflib.get_close_matches(str(value).lstrip("-"), list(bare), 1)
    return f"; did you mean {bare[close[0]]}?" if close and bare[close[0]] != value else ""


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """`value` if it is one of `options`."""
    options = list(options)
    if not isinstance(value, str) or value not in options:
        raise InputError(f"{name}: expected one of {', '.join(options)}; got {_shown(value)}{meant(value, options)}")
    return value


def array(name: str, value: object, *, ndim: int, shape: Sequence[int | None] | None = None) -> np.ndarray:
    """`value` as a finite, contiguous float64 array of `ndim` dimensions (and of `shape`, None = any length)."""
    try:
        if hasattr(value, "detach") and hasattr(
            value, "resolve_conj"
        ):  # a tensor, which may want a gradient or lie elsewhere
            value = value.detach().cpu().resolve_conj().resolve_neg()
        if np.ma.is_masked(value):
            raise TypeError("masked values")
        given = np.asarray(value)
        if given.dtype.kind not in "biufO":  # complex numbers, text and dates would be converted in silence
            raise TypeError(given.dtype)
        result = np.ascontiguousarray(given, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{name}: expected an array of real numbers, got {_shown(value)}") from error
    if result.ndim != ndim:
        raise InputError(f"{name}: expected {ndim} dimension(s), got shape {result.shape}")
    if shape is not None and any(
        want is not None and want != have for want, have in zip(shape, result.shape, strict=True)
    ):
        wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise InputError(f"{name}: expected shape {wanted}, got {result.shape}")
    if result.size == 0:
        raise InputError(f"{name}: expected at least one value, got an empty array of shape {result.shape}")
    if not np.isfinite(result).all():
        bad = int(result.size - np.isfinite(result).sum())
        raise InputError(f"{name}: expected finite values, got {bad} NaN or infinite of {result.size}")
    return result


def own_array(name: str, value: object, *, ndim: int, shape: Sequence[int | None] | None = None) -> np.ndarray:
    """`array` as a copy that nobody can write to, for whoever keeps it: its memory is that of a `bytes` object.

    Such a copy is passed on as it is.
    """
    checked = array(name, value, ndim=ndim, shape=shape)
    if isinstance(checked.base, bytes):
        return checked
    return np.ndarray(checked.shape, checked.dtype, checked.tobytes())


def freeze(values: np.ndarray) -> np.ndarray:
    """`values`, read-only from now on: for an array that was just made and is handed out."""
    values.setflags(write=False)
    return values


def frozen_state(self: object, state: Mapping[str, object]) -> None:
    """A `__setstate__` for objects whose arrays are read-only: copied and unpickled ones are not, of themselves."""
    for value in state.values():
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, np.ndarray):
                freeze(entry)
    self.__dict__.update(state)


def json_object(name: str, value: object) -> dict[str, object]:
    """`value` as a dict of its own that JSON can hold; InputError otherwise."""
    try:
        copied = json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected a dict that JSON can hold, got an error: {error}") from error
    if not isinstance(copied, dict):
        raise InputError(f"{name}: expected a dict, got {type(value).__name__}")
    return copied
