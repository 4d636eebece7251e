"""Tables with named columns: csv files as people and spreadsheets write them, parquet files, frames in memory."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets import cells
from sgdsim.datasets.cells import Column
from sgdsim.datasets.formats import read_content

_SEPARATORS = (";", "\t", ",")
_SAMPLE = 1 << 16  # letters that decide which of them it is
_LISTED = 12  # columns in a message
_PLACES = 5  # rows in a message


@dataclass(frozen=True, eq=False)
class Table:
    """N rows of named columns, which are read when asked for.

    `unnamed`: how many columns had no name and were left out. `places`: of each row, what `word` counts.
    """

    source: str
    names: tuple[str, ...]
    word: str
    places: np.ndarray
    read: Callable[[str], Column]
    unnamed: int = 0

    def where(self, rows: Sequence[int] | np.ndarray) -> str:
        """The places of these rows in words, such as "lines 4, 7"."""
        shown = ", ".join(str(self.places[row]) for row in rows[:_PLACES])
        return f"{self.word}{'s' if len(rows) > 1 else ''} {shown}" + (", …" if len(rows) > _PLACES else "")

    def column(self, name: str) -> Column:
        """The column of this name; InputError that lists the columns where there is none."""
        if name not in self.names:
            shown = ", ".join(self.names[:_LISTED]) + (", …" if len(self.names) > _LISTED else "")
            raise InputError(f"{self.source}: expected a column {name!r}, got none; the columns are {shown}")
        return self.read(name)


def read_csv(path: Path) -> Table:
    """The table of a csv file, plain or gzipped: commas, semicolons or tabs between fields, with a line of names."""
    rows, lines, separator = _rows(path)
    header = [name.strip() for name in rows[0]]
    if all(_is_number(name) for name in header if name):
        raise InputError(f"{path.name}: expected a line of column names first, got {', '.join(header)[:60]}")
    _check_names(path.name, header)
    body = rows[1:]
    for row, line in zip(body, lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path.name}: line {line}: expected {len(header)} fields as in the header, got {len(row)}"
            )
    if not body:
        raise InputError(f"{path.name}: expected at least one row below the header, got none")
    columns = {name: [row[j].strip() for row in body] for j, name in enumerate(header) if name}
    comma = separator != "," and any(cells.has_decimal_comma(column) for column in columns.values())

    def read(name: str) -> Column:
        def where(row: int) -> str:
            return f"{path.name}: line {lines[1 + row]}, column {name!r}"

        return cells.column(columns[name], separator, where, comma)

    unnamed = len(header) - len(columns)
    return Table(path.name, tuple(columns), "line", np.array(lines[1:]), read, unnamed)


def read_matrix(path: Path) -> np.ndarray:
    """The numbers of a csv file as an array (rows, columns), or (rows,) of a single column; a header is skipped."""
    rows, lines, separator = _rows(path)
    if not all(_is_number(cell.strip()) for cell in rows[0]):
        table = read_csv(path)
        columns = [table.read(name) for name in table.names]
        names: Sequence[str] = table.names
    else:
        table = None
        for row, line in zip(rows, lines, strict=True):
            if len(row) != len(rows[0]):
                raise InputError(f"{path.name}: line {line}: expected {len(rows[0])} numbers, got {len(row)}")
        names = [f"{j + 1}" for j in range(len(rows[0]))]
        columns = []
        for j, name in enumerate(names):
            column = [row[j].strip() for row in rows]

            def where(row: int, name: str = name) -> str:
                return f"{path.name}: line {lines[row]}, column {name}"

            columns.append(cells.column(column, separator, where))
    for name, read in zip(names, columns, strict=True):
        if read.numbers is None or read.missing.any():
            what = "text" if read.numbers is None else "an empty cell"
            raise InputError(f"{path.name}: expected a number in every cell, got {what} in column {name}")
    matrix = np.stack([read.numbers for read in columns if read.numbers is not None], axis=1)
    return matrix[:, 0] if matrix.shape[1] == 1 else matrix


def read_parquet(path: Path) -> Table:
    """The table of a parquet file, through pandas."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise InputError(
            f"{path.name}: expected pyarrow, which reads parquet files, got none installed; pip install pyarrow"
        ) from error
    except Exception as error:  # a damaged file makes pyarrow raise almost anything
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path.name}: expected a readable parquet file, got: {reason}") from error
    return of_frame(frame, path.name)


def of_frame(frame: object, source: str) -> Table:
    """The table of a pandas or polars frame."""
    given = list(getattr(frame, "columns", ()))
    names = [str(name) for name in given]
    _check_names(source, names)
    arrays = {name: np.asarray(frame[column]) for name, column in zip(names, given, strict=True)}  # type: ignore[index]
    n = len(next(iter(arrays.values()), ()))
    if not n:
        raise InputError(f"{source}: expected at least one row of at least one column, got none")

    def read(name: str) -> Column:
        return _of_array(arrays[name], f"column {name!r}", source)

    return Table(source, tuple(names), "row", np.arange(1, n + 1), read)


def _of_array(values: np.ndarray, name: str, source: str) -> Column:
    """The column of an array of numbers, truth values or text, with None, NaN and the like where one is missing."""
    if values.ndim == 1 and values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
        if np.isinf(numbers).any():
            raise InputError(f"{source}: row {int(np.argmax(np.isinf(numbers))) + 1}, {name}: expected a finite number")
        return Column(numbers)
    if values.ndim == 1 and values.dtype.kind in "OUT":
        held = [None if _is_missing(value) else value for value in values.tolist()]
        present = [value for value in held if value is not None]
        if all(isinstance(value, str) for value in present):

            def where(row: int) -> str:
                return f"{source}: row {row + 1}, {name}"

            return cells.column(["" if value is None else value.strip() for value in held], ",", where)
        if all(isinstance(value, (Real, Decimal)) for value in present):
            return Column(np.array([np.nan if value is None else float(value) for value in held]))
    raise InputError(f"{source}: {name}: expected numbers or text, got {values.dtype}")


def _is_missing(value: object) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return cell.lower().lstrip("+-") not in ("nan", "inf", "infinity")


def _check_names(source: str, names: Sequence[str]) -> None:
    given = [name for name in names if name]
    if not given:
        raise InputError(f"{source}: expected column names, got none")
    twice = next((name for at, name in enumerate(given) if name in given[:at]), None)
    if twice is not None:
        raise InputError(f"{source}: expected different column names, got {twice!r} more than once")


def _rows(path: Path) -> tuple[list[list[str]], list[int], str]:
    """The rows of a csv file that are not blank, the line on which each begins, and the separator."""
    text = _text(path)
    skipped = 0
    separator = None
    announced = re.match(r"sep=(.)\r?\n", text)  # spreadsheets write it
    if announced:
        separator, text, skipped = announced[1], text[announced.end() :], 1
    separator = separator or _separator(text)
    # blanks between a closing quote and what separates fields
    between = re.escape(separator)
    text = re.sub(rf'(?<=[^"\s{between}])("(?:"")*)[ \t]+(?={between}|[\r\n]|\Z)', r"\1", text)
    rows, lines, end = [], [], 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(end + 1 + skipped)
            end = reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path.name}: line {end + 1 + skipped}: expected fields that a csv reader can tell apart, got: {error}"
        ) from error
    if not rows:
        raise InputError(f"{path.name}: expected a table, got an empty file")
    return rows, lines, separator


def _text(path: Path) -> str:
    """The text of the file: UTF-8, or what its byte-order mark says, or the western code page of spreadsheets."""
    content = read_content(path)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not re.search(r"[\x00-\x08\x0e-\x1f]", text):
            return text
    raise InputError(f"{path.name}: expected a table of text, got a file with other bytes")


def _separator(text: str) -> str:
    """What stands between fields: that which gives each row as many as the header has."""
    sample = text[:_SAMPLE]
    if len(text) > _SAMPLE:
        sample = sample[: sample.rfind("\n") + 1]
    widths = {}
    for separator in _SEPARATORS:
        try:
            rows = list(csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True))
        except csv.Error:
            continue
        sizes = [len(row) for row in rows if any(cell.strip() for cell in row)]
        if sizes:
            widths[separator] = (sizes[0] > 1 and len(set(sizes)) == 1, sizes[0])
    return max(widths, key=lambda separator: widths[separator], default=",")
