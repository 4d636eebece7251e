"""Tables: one source for the terminal, Markdown, HTML and pandas."""

from __future__ import annotations

import html
import itertools
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgdsim.common.text import short

if TYPE_CHECKING:
    import pandas as pd

NARROWEST, WIDEST = 60, 100  # letters in a line of text
Cell = str | float | None


def letters() -> int:
    """How many letters a line of text has room for: a terminal's own, within `NARROWEST` and `WIDEST`."""
    if not sys.stdout.isatty():
        return WIDEST
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))


def wrapped(text: str) -> str:
    """Prose as a terminal has room for: lines that are too long for it go on below. Tables, indented lines, which are
    to be pasted, and text that goes elsewhere stay."""
    if not sys.stdout.isatty():
        return text
    width = letters()

    def fitted(line: str) -> str:
        if len(line) <= width or line[:1].isspace() or "  " in line or line.startswith("wrote "):
            return line
        return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)

    return "\n".join(map(fitted, text.split("\n")))


def escaped(text: str) -> str:
    """Text as it stands in a cell of a Markdown table: bars escaped, line ends as spaces."""
    return text.replace("|", "\\|").replace("\n", " ")


@dataclass(frozen=True, repr=False)
class Table:
    """Cells under headers; it shows itself, as text in a terminal.

    Parameters
    ----------
    headers : one a column; none at all for a table without.
    rows : as many cells each as there are columns: text, or a number, which is shown in four digits; None as "-".
    align : "l" or "r" for each column from the first; the last letter holds for all further ones.
    keys : the first columns that say what a row is about; text that is too wide for one table repeats them.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str = "r"
    keys: int = 1

    def __repr__(self) -> str:
        return self.text()

    def text(self, *, ruled: bool = True, width: int | None = None) -> str:
        """Aligned columns, two spaces apart; `ruled`: with a line below the headers. Where lines were longer than
        `width` (None: `letters`), the columns stand in several tables, one below the other, each with the `keys`."""
        lines = [*([self.headers] if self.headers else []), *self._shown()]
        columns = [
            [cell.ljust(longest) if side == "l" else cell.rjust(longest) for cell in column]
            for side, column in zip(self._sides(), zip(*lines, strict=True), strict=False)
            for longest in [max(map(len, column))]
        ]
        tables = []
        for part in self._parts(columns, letters() if width is None else width):
            out = ["  ".join(cells).rstrip() for cells in zip(*part, strict=True)]
            if ruled and self.headers:
                out.insert(1, "-" * max(map(len, out)))
            tables.append("\n".join(out))
        return "\n\n".join(tables)

    def _parts(self, columns: list[list[str]], width: int) -> Iterator[list[list[str]]]:
        """The columns of each table: as many as fit beside the keys, one at least."""
        keys, rest = columns[: self.keys], columns[self.keys :]
        if not self.headers:  # nothing would say what the columns below are
            keys, rest = columns, []
        part = list(keys)
        for column in rest:
            if len(part) > len(keys) and sum(len(held[0]) + 2 for held in part) + len(column[0]) > width:
                yield part
                part = list(keys)
            part.append(column)
        yield part

    def markdown(self) -> str:
        """The table in Markdown, its cells `escaped`."""
        head, *body = ["| " + " | ".join(map(escaped, line)) + " |" for line in [self.headers, *self._shown()]]
        return "\n".join([head, "|---" * len(self.headers) + "|", *body])

    def frame(self) -> pd.DataFrame:
        """The cells as they are, a column for each header."""
        import pandas as pd

        return pd.DataFrame([list(row) for row in self.rows], columns=list(self.headers))

    def _repr_html_(self) -> str:
        rows = [
            "".join(
                f'<{tag} style="text-align: {"left" if side == "l" else "right"}">{html.escape(cell)}</{tag}>'
                for side, cell in zip(self._sides(), line, strict=False)
            )
            for tag, line in [("th", self.headers), *(("td", line) for line in self._shown())]
        ]
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"

    def _shown(self) -> list[list[str]]:
        return [[cell if isinstance(cell, str) else _number(cell) for cell in row] for row in self.rows]

    def _sides(self) -> Iterator[str]:
        return itertools.chain(self.align, itertools.repeat(self.align[-1]))


def _number(value: float | None) -> str:
    return f"{value}" if isinstance(value, int) else short(value)
