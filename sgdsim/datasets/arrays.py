"""Arrays `x` and `y` of one's own: from .npz, .npy and torch files, or from what a function returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sgdsim.common.array_files import read_arrays
from sgdsim.common.checks import InputError
from sgdsim.datasets import tables
from sgdsim.datasets.dataset import Dataset, values
from sgdsim.datasets.features import from_table
from sgdsim.datasets.folders import as_pixels, is_grey
from sgdsim.datasets.preparing import RawData
from sgdsim.datasets.reading import Reading

_TARGETS = ("y", "label", "labels", "target", "targets")
_INPUTS = ("x", "image", "img", "input_ids", "pixel_values", "inputs", "input", "features", "data")
_PLACES = 5


def read_file(path: Path, how: Reading) -> RawData:
    """The arrays of a file. Of a .npy file the targets are in another (`target`), or in a column of it, from 0."""
    held: dict[str, np.ndarray] = read_arrays(path, "data")
    if path.suffix != ".npy":
        return from_mapping(held, path.name, how)
    x, target = held["kernel"], how.one_target
    if target is not None and Path(target).suffix == ".npy":
        return from_arrays({"x": x, "y": read_arrays(Path(target), "data")["kernel"]}, path.name, how)
    if x.dtype.names is not None:
        columns = {name: x[name] for name in x.dtype.names}
    elif x.ndim == 2:
        columns = {str(j): x[:, j] for j in range(x.shape[1])}
    else:
        raise InputError(
            f"target: expected the .npy file of the targets, {path.name} being of shape {x.shape}; got none"
        )
    return from_table(_of_columns(columns, path.name), how)


def _of_columns(columns: dict[str, np.ndarray], source: str) -> tables.Table:
    import pandas as pd

    return tables.of_frame(pd.DataFrame(columns), source)


def from_object(given: object, source: str, how: Reading) -> RawData:
    """(x, y) or (x, y, x_test, y_test), a mapping of these or of "train" and "test", a frame, or a sequence of (x, y)
    pairs or of mappings, as torch and Hugging Face have them."""
    if isinstance(given, Mapping):
        if "train" in given:
            return _parts(given, source, how)
        return from_mapping(given, source, how)
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        return from_table(tables.of_frame(given, source), how)
    if isinstance(given, (tuple, list)) and len(given) in (2, 4) and not _is_pair(given[0]):
        names = ("x", "y", "x_test", "y_test")
        return from_arrays(dict(zip(names, given, strict=False)), source, how)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return from_arrays(_gathered(given, source, how), source, how)
    raise InputError(
        f"{source}: expected (x, y), a Dataset, a frame or a sequence of (x, y) pairs, got {type(given).__name__}"
    )


def _is_pair(entry: object) -> bool:
    """Whether an entry of a sequence is a point with its target, and not an array of inputs."""
    return isinstance(entry, Mapping) or (isinstance(entry, tuple) and len(entry) == 2)


def _parts(given: Mapping[str, object], source: str, how: Reading) -> RawData:
    """The parts "train" and "test" (or "validation") of a mapping."""
    raw = from_object(given["train"], source, how)
    part = next((name for name in ("test", "validation") if name in given), None)
    if part is None:
        return raw
    if raw.kind == "table" and raw.facts.get("columns"):
        raise InputError(f"{source}: expected arrays or pairs as parts, got a frame; put all of it into one frame")
    test = from_object(given[part], source, how)
    if test.shape != raw.shape:
        raise InputError(f"{source}: expected inputs of shape {raw.shape} in {part} as in train, got {test.shape}")
    return replace(raw, x_test=test.x, y_test=test.y)


def from_mapping(given: Mapping[str, object], source: str, how: Reading) -> RawData:
    """The arrays by these names, or by x and y."""
    features = how.features
    if features is not None and len(features) != 1:
        raise InputError(f"features: expected the name of one array of {source}, got {', '.join(features)}")
    names = {"x": features[0] if features else "x", "y": how.one_target or "y", "x_test": "x_test", "y_test": "y_test"}
    absent = [name for key, name in names.items() if key in ("x", "y") and name not in given]
    if absent:
        shown = ", ".join(map(str, given)) or "none"
        raise InputError(f"{source}: expected arrays {names['x']} and {names['y']}, got {shown}")
    arrays = {key: given[name] for key, name in names.items() if name in given}
    return from_arrays(arrays, source, how)


def from_arrays(given: Mapping[str, object], source: str, how: Reading) -> RawData:
    """x and y, and x_test and y_test where they are."""
    how.check_no_columns(source)
    if len(given) == 3:
        raise InputError(f"{source}: expected both of x_test and y_test, or neither, got one")
    parts = [_pair(given[f"x{end}"], given[f"y{end}"], source, end, how) for end in ("", "_test")[: len(given) // 2]]
    (x, y, dropped), *more = parts
    kind = "tokens" if how.tokens else "table" if x.ndim == 2 else "images"
    facts: dict[str, object] = {"source": source, "missing": how.missing, "rows_dropped": dropped}
    if kind == "table":
        facts["values_filled"] = int(np.isnan(x).sum())
    raw = RawData(x, y, kind, x.shape[1:], 1.0, False, facts=facts)
    for x_test, y_test, _ in more:
        if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:]:
            raise InputError(
                f"{source}: expected test rows of the shapes of the training rows, got {x_test.shape}, {y_test.shape}"
            )
        raw = replace(raw, x_test=x_test, y_test=y_test)
    return raw


def _pair(x: object, y: object, source: str, end: str, how: Reading) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs (n, …), targets (n,) or (n, C), and how many rows were dropped because values are missing."""
    inputs = _numbers(f"x{end}", x, source)
    targets = _numbers(f"y{end}", y, source, text=True)
    if inputs.ndim == 1:
        inputs = inputs[:, None]
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not inputs.ndim or targets.ndim not in (1, 2) or len(inputs) != len(targets) or not inputs.size:
        raise InputError(
            f"{source}: expected x{end} (n, …) and y{end} (n,) or (n, C), got {inputs.shape} and {targets.shape}"
        )
    if how.tokens:
        if not (np.mod(inputs, 1) == 0).all():
            raise InputError(f"{source}: expected integers as tokens, got others")
        return inputs.astype(np.int64), targets, 0
    holes = (
        np.isnan(inputs.reshape(len(inputs), -1)).any(axis=1)
        if inputs.dtype.kind == "f"
        else np.zeros(len(inputs), bool)
    )
    lost = (
        np.isnan(targets.reshape(len(targets), -1)).any(axis=1)
        if targets.dtype.kind == "f"
        else np.zeros(len(holes), bool)
    )
    gone = lost if how.missing == "mean" and inputs.ndim == 2 else holes | lost
    if gone.any() and how.missing != "drop":
        rows = np.flatnonzero(gone)
        shown = ", ".join(map(str, rows[:_PLACES])) + (", …" if rows.size > _PLACES else "")
        raise InputError(
            f"{source}: expected no missing values, got NaN in {rows.size} of {len(gone)} rows (from 0): {shown}; "
            "--missing drop leaves them out"
        )
    if len(gone) - gone.sum() < 2 and not end:
        raise InputError(f"{source}: expected at least 2 rows without missing values, got {len(gone) - gone.sum()}")
    return inputs[~gone], targets[~gone], int(gone.sum())


def _numbers(name: str, given: object, source: str, text: bool = False) -> np.ndarray:
    """An array of finite numbers or NaN; of text too where that may be."""
    held = values(f"{source}: {name}", given)
    if held.dtype.kind == "O":
        present = held.ravel().tolist()
        if text and all(isinstance(value, str) for value in present):
            held = held.astype(str)
        elif not any(isinstance(value, (str, bytes)) for value in present):
            held = _floats(name, held, source)
    if held.dtype.kind == "S" and text:
        held = held.astype(str)
    if held.dtype.kind not in ("biufU" if text else "biuf"):
        raise InputError(f"{source}: expected {name} as an array of real numbers, got {held.dtype}")
    if held.dtype.kind == "f" and np.isinf(held).any():
        row = int(np.argwhere(np.isinf(held))[0][0]) if held.ndim else 0
        raise InputError(f"{source}: expected finite numbers in {name}, got an infinite one in row {row} (from 0)")
    return held


def _floats(name: str, held: np.ndarray, source: str) -> np.ndarray:
    try:
        return held.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: expected {name} as an array of real numbers, got other objects") from error


def _gathered(given: object, source: str, how: Reading) -> dict[str, object]:
    """x and y of a sequence of points: pairs, or mappings of which keys name the target and the inputs."""
    points = []
    try:
        for i in range(len(given)):  # type: ignore[arg-type]
            points.append(given[i])  # type: ignore[index]
    except Exception as error:  # it is the user's code: anything can happen in it
        reason = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        raise InputError(f"{source}: expected a point as entry {len(points)}, got {reason}") from error
    if not points:
        raise InputError(f"{source}: expected at least one point, got none")
    if not all(_is_pair(point) or (isinstance(point, list) and len(point) == 2) for point in points):
        raise InputError(f"{source}: expected (x, y) pairs or dicts as entries, got {type(points[0]).__name__}")
    if isinstance(points[0], Mapping):
        names, label = _keys(points[0], source, how)
        pairs = [
            (point[names[0]] if len(names) == 1 else [point[name] for name in names], point[label]) for point in points
        ]
    else:
        pairs = [tuple(point) for point in points]
    xs = _as_arrays([x for x, _ in pairs])
    shapes = {x.shape for x in xs}
    if len(shapes) > 1:
        raise InputError(f"{source}: expected inputs of one shape, got {', '.join(map(str, sorted(shapes)[:3]))}")
    return {"x": np.array(xs), "y": np.array(_as_arrays([y for _, y in pairs]))}


def _keys(point: Mapping[str, object], source: str, how: Reading) -> tuple[list[str], str]:
    """The names of the inputs and of the target in each point."""
    label = how.one_target or next((name for name in _TARGETS if name in point), None)
    others = [name for name in point if name != label]
    names = list(how.features or ()) or (
        others if len(others) == 1 else [name for name in _INPUTS if name in others][:1]
    )
    wrong = [name for name in [*names, label] if name not in point]
    if label is None or not names or wrong:
        raise InputError(
            f"{source}: expected keys that say what the inputs and the target are (--features, --target), got "
            f"{', '.join(map(str, point))}"
        )
    return names, label


def _as_arrays(entries: list[object]) -> list[np.ndarray]:
    """Tensors and Pillow images as arrays; images of one folder have the channels first."""
    if hasattr(entries[0], "convert") and hasattr(entries[0], "mode"):
        grey = all(is_grey(image) for image in entries)
        return [as_pixels(image, grey=grey) for image in entries]
    return [values("entry", entry) for entry in entries]


def from_dataset(data: Dataset) -> RawData:
    """A data set as it is, to draw rows from."""
    kind = "tokens" if data.tokens else "images"
    facts: dict[str, object] = {"source": data.name, "source_info": dict(data.info)}
    return RawData(data.x, data.y, kind, data.x.shape[1:], 1.0, False, data.x_test, data.y_test, facts=facts)
