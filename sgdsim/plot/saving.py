"""Pictures as files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdsim.common.checks import InputError
from sgdsim.common.files import replacing
from sgdsim.plot.styles import style


def save(figure: Figure | Axes, path: str | os.PathLike[str]) -> None:
    """Write a figure (or the figure of an Axes) to a .png (200 dpi), .pdf or .svg file, whole or not at all.

    Text stays text in the vector formats, and files carry no dates. Raises InputError for another ending or a path
    that cannot be written.
    """
    kind = check_path(path)
    drawn = figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(drawn, Figure):
        raise InputError(f"figure: expected a matplotlib Figure or its Axes, got {type(drawn).__name__}")
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with style(), replacing(Path(path)) as temporary:
        drawn.savefig(temporary, format=kind, metadata=undated.get(kind))


def check_path(path: str | os.PathLike[str], name: str = "path") -> str:
    """The kind of picture that `path` names: "png", "pdf" or "svg"; InputError for any other ending, beginning with the
    `name` of what was given."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"{name}: expected a name ending in .png, .pdf or .svg, got {Path(path).name!r}")
    return kind
