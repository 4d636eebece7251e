"""`load_file`: data of one's own, from files, folders, functions or objects in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sgdsim.common import own_code
from sgdsim.common.checks import InputError, integer
from sgdsim.datasets import arrays, folders, tables
from sgdsim.datasets.dataset import Dataset
from sgdsim.datasets.features import from_table
from sgdsim.datasets.preparing import RawData, prepared
from sgdsim.datasets.reading import Reading
from sgdsim.datasets.targets import with_targets

_ARRAYS = (".npz", ".npy", ".pt", ".pth")


def load_file(
    source: object,
    n: int | None = None,
    seed: int = 0,
    *,
    target: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    categorical: Sequence[str] = (),
    targets: str | None = None,
    missing: str = "refuse",
    standardise: bool = True,
    tokens: bool = False,
    n_test: int | None = None,
    n_at_most: int | None = None,
    flat: bool = False,
) -> Dataset:
    """Data of one's own as a `Dataset`, split and standardised as `load` does.

    Numbers are standardised with the statistics of the training rows: columns of tables one by one, images and other
    arrays of three dimensions or more by one mean and one spread. Columns of text become a column of 0 and 1 for each
    category, which stay so, as do targets of classes. A column that is constant in the training rows becomes 0. All of
    it stands in `info`; `standardise=False` leaves numbers as they are.

    Parameters
    ----------
    source : path, text or object
        A table with a line of column names (`.csv` with commas, semicolons or tabs, plain or gzipped; `.parquet`);
        arrays `x` and `y` (and `x_test`, `y_test`) in `.npz` or a torch file; `x` in `.npy`; a folder with a subfolder
        of images for each class (in `train` and `test`, if these are there); `MODULE:FUNCTION`, a function that
        returns one of the following, or such an object itself: (x, y) or (x, y, x_test, y_test), a pandas or polars
        frame, a `Dataset` (not changed), a sequence of (x, y) pairs or dicts as torch and Hugging Face have them.
    n, seed : int
        Training rows (default: 80 %, at most `n_at_most`, or all where there is a test part), drawn by the seed.
    target : str
        The column of the targets, or several of numbers; of arrays the name of `y`, of `.npy` another such file.
    features : list of str, optional
        The columns that are inputs; default: all others.
    categorical : list of str
        Inputs that are categories though they are numbers, such as a zip code: one-hot, as columns of text are.
    targets : str, optional
        "number"; "one-hot", a column of 0 and 1 for each class; "class:A,B", rows of these two classes alone, as −1
        and 1. Default: one-hot for text (and folders), number for numbers, integers too.
    missing : str
        Where values are missing: "refuse", "drop" the row, or fill inputs with the "mean" of the column in train.
    standardise : bool
        Whether numbers are.
    tokens : bool
        The inputs are integers for an `Embedding`: they stay as they are.
    n_test : int, optional
        Test rows; default: min(n, 1000, what is left). 0 for none.
    flat : bool
        Rows as (d,), whatever their shape.

    Raises
    ------
    InputError
        For files that cannot be read for sure, with the line, row or column; for data that nothing can be learnt from.
    """
    n = None if n is None else integer("n", n, minimum=2)
    n_test = None if n_test is None else integer("n_test", n_test)
    seed = integer("seed", seed)
    how = Reading(target, features, missing, tokens, tuple(categorical))
    if own_code.is_name(source) and not os.path.exists(str(source)):
        name, given = str(source), own_code.call(str(source), "data", "MODULE:FUNCTION", "data")
    else:
        name, given = _name(source), source
    if isinstance(given, Dataset):
        how.check_no_columns(given.name)
        raw, name, standardise = arrays.from_dataset(given), given.name, False
        if n is None and not n_test and targets is None and not flat:
            test = (None, None) if n_test == 0 else (given.x_test, given.y_test)
            return Dataset(given.x, given.y, name, *test, given.info, given.tokens)
    else:
        raw = _raw(given, name, how)
    raw = with_targets(raw, targets, name)
    if n is None:
        n = len(raw.x) if raw.x_test is not None else (4 * len(raw.x)) // 5
        n = max(2, n if n_at_most is None else min(n, n_at_most))
    raw.facts["standardised"] = standardise and not tokens
    data = prepared(raw, name, n, n_test, seed, standardise=standardise, flat=flat)
    _check_varied(data)
    return data


def _name(source: object) -> str:
    return Path(source).name or str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__


def _raw(given: object, name: str, how: Reading) -> RawData:
    """The rows of a file, a folder or an object."""
    if not isinstance(given, (str, os.PathLike)):
        return arrays.from_object(given, name, how)
    path = Path(given)
    if path.is_dir():
        if how.target is not None or how.features is not None:
            raise InputError("target, features: expected none for a folder, whose subfolders are the classes")
        how.check_no_columns("a folder")
        return folders.read_folder(path)
    if not path.is_file():
        raise InputError(f"{given}: expected a file, a folder or MODULE:FUNCTION, found none")
    if path.suffix in _ARRAYS:
        return arrays.read_file(path, how)
    table = tables.read_parquet(path) if path.suffix in (".parquet", ".pq") else tables.read_csv(path)
    return from_table(table, how)


def _check_varied(data: Dataset) -> None:
    """InputError where all training rows have one target, or the same inputs."""
    for what, values in (("targets", data.y), ("inputs", data.x)):
        if bool(np.all(values == values[0])):
            raise InputError(f"{data.name}: expected {what} that differ, got {data.n} training rows with the same")


def sentence(data: Dataset) -> str:
    """What was made of the file, in one line."""
    info = data.info
    columns, one_hot = info.get("columns"), info.get("one_hot")
    parts = []
    if "target" in info:
        target = info["target"]
        parts.append("target " + (", ".join(target) if isinstance(target, list) else str(target)))
    kinds = {"number": "numbers", "one-hot": f"{data.n_outputs} columns of 0 and 1, one for each class"}
    kind = str(info.get("targets", "number"))
    parts.append(
        "targets are " + kinds.get(kind, "−1 and 1 for " + " and ".join(kind.removeprefix("class:").split(",")))
    )
    if isinstance(columns, list) and isinstance(one_hot, dict):
        text = f", of them {', '.join(one_hot)} one-hot" if one_hot else ""
        parts.append(f"{len(columns)} input column{'' if len(columns) == 1 else 's'}{text}")
    else:
        parts.append(f"inputs of shape {tuple(data.x.shape[1:])}")
    if isinstance(read := info.get("read_as"), dict):
        parts += [f"in {name} {note}" for name, note in read.items()]
    dropped, filled = info.get("rows_dropped"), info.get("values_filled")
    parts += [f"rows with missing values, left out: {dropped}"] if dropped else []
    parts += [f"missing values, filled with means: {filled}"] if filled else []
    if info.get("standardised"):
        parts.append("numbers standardised")
        spread = info.get("input_std")
        if isinstance(columns, list) and isinstance(spread, list):
            constant = [name for name, value in zip(columns, spread, strict=True) if value == 0]
            parts += [f"constant and so 0: {', '.join(constant[:5])}"] if constant else []
    else:
        parts.append("numbers as they are")
    return f"{data.name}: " + "; ".join(parts)
