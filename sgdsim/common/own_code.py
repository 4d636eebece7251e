"""Functions of a user's own, named as MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import re
import sys

from sgdsim.common.checks import InputError

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_name(text: object) -> bool:
    """Whether `text` has the form MODULE:FUNCTION."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def call(text: str, option: str, form: str, returns: str) -> object:
    """What the function named `text` returns, looked up from the current folder as well; `form` and `returns` are what
    messages say is expected."""
    home, _, function = text.partition(":")
    if not home or not function:
        raise InputError(f"{option}: expected {form}, got {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(home), function)()
    except Exception as error:  # it is the user's code: anything can happen in it
        reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        raise InputError(f"{option}: expected {text!r} to import and return {returns}, got {reason}") from error
