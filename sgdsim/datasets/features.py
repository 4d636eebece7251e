"""The columns of a table as inputs and targets: which they are, text as a column for each category, missing values."""

from __future__ import annotations

import math

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets.cells import Column
from sgdsim.datasets.preparing import RawData
from sgdsim.datasets.reading import Reading
from sgdsim.datasets.tables import Table

MOST_CATEGORIES = 100
_LISTED = 12


def from_table(table: Table, how: Reading) -> RawData:
    """Inputs and targets of the table."""
    target, features, missing = how.target, how.features, how.missing
    wanted = [target] if isinstance(target, str) else list(target or ())
    if not wanted:
        shown = ", ".join(table.names[:_LISTED]) + (", …" if len(table.names) > _LISTED else "")
        raise InputError(f"target: expected the name of a column of {table.source}, got none; the columns are {shown}")
    outputs = {name: table.column(name) for name in wanted}
    names = list(features) if features is not None else [name for name in table.names if name not in wanted]
    both = [name for name in names if name in wanted or names.count(name) > 1]
    if both:
        raise InputError(f"features: expected each column once, and no target among them, got {both[0]!r}")
    if not names:
        raise InputError(f"features: expected at least one column of {table.source} beside the target, got none")
    inputs = {name: table.column(name) for name in names}
    strange = next((name for name in how.categorical if name not in inputs), None)
    if strange is not None:
        raise InputError(
            f"categorical: expected columns among the inputs ({', '.join(names[:_LISTED])}), got {strange!r}"
        )
    inputs |= {name: _as_categories(inputs[name]) for name in how.categorical}
    kept = _kept(table, inputs, outputs, missing)
    x, plain, labels, one_hot = _inputs(table, inputs, kept)
    facts: dict[str, object] = {
        "target": target if isinstance(target, str) else wanted,
        "columns": labels,
        "one_hot": one_hot,
        "missing": missing,
        "rows_dropped": len(table.places) - kept.size,
        "values_filled": sum(int(column.missing[kept].sum()) for column in inputs.values()),
        "read_as": {name: column.note for name, column in (inputs | outputs).items() if column.note},
        "unnamed_columns_left_out": table.unnamed if features is None else 0,
    }
    return RawData(x, _outputs(outputs, kept), "table", (x.shape[1],), 1.0, False, plain=plain, facts=facts)


def _as_categories(column: Column) -> Column:
    """A column of numbers as texts, of whole numbers without a point."""
    if column.numbers is None:
        return column
    texts = [None if math.isnan(x) else str(int(x)) if x.is_integer() else repr(x) for x in column.numbers.tolist()]
    return Column(None, texts, column.note)


def _kept(table: Table, inputs: dict[str, Column], outputs: dict[str, Column], missing: str) -> np.ndarray:
    """The numbers of the rows that stay; InputError where values are missing that may not be."""
    absent = {name: column.missing for name, column in (inputs | outputs).items()}
    empty = next((name for name, mask in absent.items() if mask.all()), None)
    if empty is not None:
        raise InputError(
            f"{table.source}: column {empty!r}: expected values, got none at all; leave it out (--features)"
        )
    here = absent if missing != "mean" else {name: absent[name] for name in outputs}
    gaps = {name: np.flatnonzero(mask) for name, mask in here.items() if mask.any()}
    incomplete = np.any([*here.values()], axis=0)
    if gaps and missing != "drop":
        shown = "; ".join(f"{rows.size} in {name!r} ({table.where(rows)})" for name, rows in [*gaps.items()][:3])
        more = f"; and in {len(gaps) - 3} more columns" if len(gaps) > 3 else ""
        cure = "" if missing == "mean" else ", --missing mean fills inputs with the mean of the column"
        raise InputError(
            f"{table.source}: expected no missing {'targets' if missing == 'mean' else 'values'}, got {shown}{more}; "
            f"--missing drop leaves {incomplete.sum()} of {incomplete.size} rows out{cure}"
        )
    kept = np.flatnonzero(~incomplete)
    if kept.size < 2:
        raise InputError(f"{table.source}: expected at least 2 rows without missing values, got {kept.size}")
    return kept


def _inputs(
    table: Table, inputs: dict[str, Column], kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, list[str]]]:
    """The inputs (N, d), which of their columns are one-hot, what each is called, and the categories of text.

    A missing category is NaN in all its columns, so that its mean is how often each of the others comes.
    """
    blocks, plain, labels, one_hot = [], [], [], {}
    for name, column in inputs.items():
        if column.numbers is not None:
            blocks.append(column.numbers[kept][:, None])
            plain.append(False)
            labels.append(name)
            continue
        texts = np.array(column.texts, dtype=object)[kept]
        known = np.array([text is not None for text in texts])
        categories = sorted({text for text in texts if text is not None})
        if len(categories) > MOST_CATEGORIES:
            raise InputError(
                f"{table.source}: column {name!r}: expected numbers or at most {MOST_CATEGORIES} categories, got "
                f"{len(categories)} texts such as {categories[0][:40]!r}; name the columns to use (--features)"
            )
        block = np.array([texts == category for category in categories], dtype=np.float64).T
        block[~known] = np.nan
        blocks.append(block)
        plain += [len(categories) > 1] * len(categories)
        labels += [f"{name}={category}" for category in categories]
        one_hot[name] = categories
    return np.concatenate(blocks, axis=1), np.array(plain), labels, one_hot


def _outputs(outputs: dict[str, Column], kept: np.ndarray) -> np.ndarray:
    """The targets: (N,) numbers or text, or (N, C) of C columns of numbers."""
    if len(outputs) == 1:
        (column,) = outputs.values()
        return (
            np.array(column.texts, dtype=object)[kept].astype(str) if column.numbers is None else column.numbers[kept]
        )
    text = next((name for name, column in outputs.items() if column.numbers is None), None)
    if text is not None:
        raise InputError(f"target: expected numbers in each of several target columns, got text in {text!r}")
    return np.stack([column.numbers[kept] for column in outputs.values() if column.numbers is not None], axis=1)
