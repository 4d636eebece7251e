"""Tables of text: one layout for the terminal and for Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


def escaped(text: str) -> str:
    """Text as it stands in a cell of a Markdown table: bars escaped, line ends as spaces."""
    return text.replace("|", "\\|").replace("\n", " ")


@dataclass(frozen=True)
class Table:
    """Cells of text under headers.

    Parameters
    ----------
    headers : one a column; none at all for a table without.
    rows : as many cells each as there are columns.
    align : "l" or "r" for each column from the first; the last letter holds for all further ones.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "r"

    def text(self, *, ruled: bool = True) -> str:
        """Aligned columns, two spaces apart; `ruled`: with a line below the headers."""
        lines = [*([self.headers] if self.headers else []), *self.rows]
        columns = [
            [cell.ljust(width) if side == "l" else cell.rjust(width) for cell in column]
            for side, column in zip(self._sides(), zip(*lines, strict=True), strict=False)
            for width in [max(map(len, column))]
        ]
        out = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        if ruled and self.headers:
            out.insert(1, "-" * max(map(len, out)))
        return "\n".join(out)

    def markdown(self) -> str:
        """The table in Markdown, its cells `escaped`."""
        head, *body = ["| " + " | ".join(map(escaped, line)) + " |" for line in [self.headers, *self.rows]]
        return "\n".join([head, "|---" * len(self.headers) + "|", *body])

    def _sides(self) -> Iterator[str]:
        return itertools.chain(self.align, itertools.repeat(self.align[-1]))
