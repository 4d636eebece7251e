"""Results that are rows of answers and not runs, such as what is recommended for each batch size: as files and frames.

In the schema of `sgdsim.runs.results`: a variable for each column along the dim `row`, the problem's `eigenvalues` and
`coefficients`, and the attributes that say how it was made; `facts` has all that the command knows, as JSON. What is
nested in a column is JSON as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from sgdsim.common.checks import InputError
from sgdsim.common.files import replacing
from sgdsim.common.jsonable import jsonable
from sgdsim.problem import Problem
from sgdsim.runs import results

_DIM = "row"
Rows = Sequence[Mapping[str, object]]


def dataset(rows: Rows, facts: Mapping[str, object], problem: Problem, *, seed: int = 0) -> xr.Dataset:
    """The rows, which all have the same keys, and the `facts` that go with them, all as JSON holds them."""
    columns = {name: _column(name, [row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return with_problem(xr.Dataset(columns, {_DIM: np.arange(len(rows))}), facts, problem, seed=seed)


def with_problem(data: xr.Dataset, facts: Mapping[str, object], problem: Problem, *, seed: int = 0) -> xr.Dataset:
    """`data` with the modes of its problem, provenance and `facts`, so that `ss.load` takes the file."""
    quadratic = problem.quadratic
    said = results.provenance({}, problem.description, problem.fingerprint, seed, problem.device)
    modes = xr.Dataset(results.modes(quadratic), {"mode": np.arange(1, quadratic.spectrum.n_modes + 1)})
    # netCDF has no attributes of several kinds: lists stay, truths and None are in the facts.
    kept = {name: value for name, value in data.attrs.items() if name not in said}
    out = data.merge(modes)
    out.attrs = {**kept, **said, "interrupted": int(bool(facts.get("interrupted"))), "facts": json.dumps(facts)}
    return out


def is_rows(result: xr.Dataset) -> bool:
    """Whether `dataset` made it."""
    return _DIM in result.dims and "facts" in result.attrs


def as_frame(result: xr.Dataset) -> pd.DataFrame:
    """The columns of `dataset`, a line for each row; truths as True, False and None."""
    out = {}
    for name, column in result.data_vars.items():
        if column.dims == (_DIM,):
            known = "flag_meanings" in column.attrs
            values = column.values
            out[str(name)] = [{1: True, 0: False}.get(int(v)) for v in values] if known else values
    return pd.DataFrame(out)


def write_frame(table: pd.DataFrame, path: str | os.PathLike) -> None:
    """A frame as .csv or .parquet, all or nothing; InputError for another ending, and for .parquet without pyarrow."""
    kind = os.path.splitext(os.fspath(path))[1].lower()
    if kind not in (".csv", ".parquet"):
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    with replacing(Path(path)) as temporary:
        if kind == ".csv":
            table.to_csv(temporary, index=False)
            return
        try:
            table.to_parquet(temporary, index=False)
        except ImportError as error:
            raise InputError(f"{path}: expected pyarrow for .parquet; try: pip install 'sgdsim[parquet]'") from error


def _column(name: str, values: Sequence[object]) -> xr.Variable:
    """Numbers with NaN for None, truths as flags, all else as text."""
    values = [jsonable(value) for value in values]
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        flags = {"flag_values": np.array([-1, 0, 1], np.int8), "flag_meanings": "unknown no yes"}
        return xr.Variable(_DIM, np.array([-1 if v is None else int(bool(v)) for v in values], np.int8), flags)
    if known and all(type(value) is int for value in values):
        return xr.Variable(_DIM, np.array(values, np.int64), results.COORDINATES.get(name))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known):
        numbers = [np.nan if value is None else value for value in values]
        return xr.Variable(_DIM, np.array(numbers, np.float64), results.COORDINATES.get(name))
    texts = ["" if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
    return xr.Variable(_DIM, np.array(texts, dtype=object))
