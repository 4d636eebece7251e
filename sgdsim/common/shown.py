"""Objects that show themselves: one line in a terminal, a small table in a notebook."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, cast

import numpy as np

from sgdsim.common.specs import brief, readable
from sgdsim.common.table import Table

LINE = 100  # characters that a repr takes at most
ROWS = 20  # of a table of steps, at most
_FEW = 4  # values that stand in a line themselves


class Shown:
    """What dataclasses with arrays or many fields are derived from, made with `repr=False`: nobody reads a thousand
    eigenvalues."""

    title: ClassVar[str | None] = None  # None: the class's name

    def facts(self) -> dict[str, object]:
        """What is shown, by name: the fields that are not at their defaults."""
        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type]  # of its subclasses
        given = {f.name: getattr(self, f.name) for f in fields}
        return {f.name: given[f.name] for f in fields if not _is_default(given[f.name], f.default)}

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={_word(value)}" for name, value in self.facts().items())
        line = f"{self.title or type(self).__name__}({words})"
        return line if len(line) <= LINE else f"{line[: LINE - 5]} ...)"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, str]] = []
        for name, value in self.facts().items():
            words = _sentences(value) or [_word(value)]
            rows += zip([name.replace("_", " "), *[""] * len(words)], words, strict=False)
        return Table([self.title or type(self).__name__, ""], rows, align="l")._repr_html_()


class ShownBySteps(Shown):
    """Fields that are arrays over `steps`: a notebook shows them as columns; where there are several cells or more than
    `ROWS` steps, their shapes."""

    steps: np.ndarray

    def _repr_html_(self) -> str:
        columns = {name: np.asarray(held) for name, held in self.facts().items()}
        if any(held.shape != np.shape(self.steps) for held in columns.values()) or not 0 < np.size(self.steps) <= ROWS:
            return super()._repr_html_()
        rows = zip(*(np.ravel(held).tolist() for held in columns.values()), strict=True)
        return Table([name.replace("_", " ") for name in columns], [[*map(_word, row)] for row in rows])._repr_html_()


def _is_default(value: object, default: object) -> bool:
    return value is None or value is default or (not isinstance(value, np.ndarray) and bool(value == default))


def _sentences(value: object) -> list[str]:
    """Several texts, such as warnings, which need a line each."""
    several = isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return list(cast("tuple[str, ...]", value)) if several else []


def _word(value: object) -> str:
    """A value as a part of a line: numbers in six digits, of an array its shape, of other objects what they are."""
    if isinstance(value, (bool, np.bool_, str)) or value is None:
        return repr(value)
    if isinstance(value, (int, float, np.number)):
        return readable(value if isinstance(value, int) else float(value))
    if isinstance(value, (tuple, list)):
        if len(value) > _FEW:
            return f"{len(value)} values"
        return f"({', '.join(map(_word, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and value.size <= _FEW and value.dtype.kind in "biuf":
            return _word(tuple(value.tolist()))
        return f"array{value.shape}".replace(",)", ")")
    spec = getattr(value, "spec", None)
    if isinstance(spec, str):
        return brief(spec, 40).partition(" at 0x")[0]
    if dataclasses.is_dataclass(value) and "\n" not in repr(value) and len(repr(value)) <= LINE // 2:
        return repr(value)
    return type(value).__name__
