"""Warnings that point at the line of the user's code, however deep in the package they arise."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import FrameType

_PACKAGE = str(Path(__file__).parents[1])


def warn(message: str) -> None:
    """A RuntimeWarning at the line that called the package: frames of other packages in between do not count."""
    frame: FrameType | None = sys._getframe(1)
    level, inside = 2, 1
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            inside = level
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=inside + 1)
