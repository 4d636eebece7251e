"""Targets as numbers, as a column for each class, or as ±1 of two classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets.preparing import RawData, Rows

MOST_CLASSES = 1000
_SHOWN = 12  # labels in a message


def with_targets(raw: RawData, targets: str | None, name: str) -> RawData:
    """`raw` with its targets as asked for: "number", "one-hot", "class:A,B"; None: one-hot for text, else numbers.

    For both of the latter y holds places in `classes`, which come in order: numbers by size, text by the alphabet, and
    A before B.
    """
    text = raw.y.dtype.kind in "US"
    if targets is None:
        targets = "one-hot" if text else "number"
    if not isinstance(targets, str) or not (targets in ("number", "one-hot") or targets.startswith("class:")):
        raise InputError(f"targets: expected number, one-hot or class:A,B, got {targets!r}")
    if targets == "number":
        if text:
            raise InputError(f"targets: expected one-hot or class:A,B for {name}, whose targets are text, got number")
        return raw
    labels, *codes = _classes(raw, targets, name)
    shown = tuple(_label(value) for value in labels)
    if targets == "one-hot":
        test = codes[1] if len(codes) > 1 else None
        return replace(raw, y=codes[0], y_test=test, labels=True, targets=targets, classes=shown)
    return _two(raw, _pair(targets, shown, name), shown, codes)


def _classes(raw: RawData, targets: str, name: str) -> list[np.ndarray]:
    """The distinct labels, and the place in them of each target of train (and of the official test part)."""
    if raw.y.ndim > 1:
        raise InputError(f"targets: expected number for {name}, which has several outputs, got {targets}")
    parts = [raw.y] if raw.y_test is None else [raw.y, raw.y_test]
    whole = raw.y.dtype.kind not in "fc" or bool(np.all(np.mod(np.concatenate(parts), 1) == 0))
    built_in_numbers = not raw.labels and not raw.facts
    if not whole or built_in_numbers:
        raise InputError(f"targets: expected number for {name}, whose targets are no class labels, got {targets}")
    labels, places = np.unique(np.concatenate(parts), return_inverse=True)
    if not 2 <= labels.size <= MOST_CLASSES:
        raise InputError(f"targets: expected 2 to {MOST_CLASSES} classes in {name} for {targets}, got {labels.size}")
    return [labels, *np.split(places.astype(np.int64), [len(raw.y)])[: len(parts)]]


def _label(value: object) -> str:
    """3 for 3.0, text as it is."""
    return str(int(value)) if isinstance(value, (int, float, np.number)) else str(value)


def _pair(targets: str, classes: tuple[str, ...], name: str) -> tuple[str, str]:
    """A and B of "class:A,B", which may have commas in them."""
    parts = targets.removeprefix("class:").split(",")
    for at in range(1, len(parts)):
        first, second = ",".join(parts[:at]).strip(), ",".join(parts[at:]).strip()
        if first in classes and second in classes and first != second:
            return first, second
    shown = ", ".join(classes[:_SHOWN]) + (", …" if len(classes) > _SHOWN else "")
    raise InputError(f"targets: expected class:A,B with two of the classes of {name} ({shown}), got {targets!r}")


def _two(raw: RawData, pair: tuple[str, str], classes: tuple[str, ...], codes: list[np.ndarray]) -> RawData:
    """The rows of two classes alone: place 0 for the first, 1 for the second."""
    first, second = (classes.index(label) for label in pair)
    kept = [np.flatnonzero((places == first) | (places == second)) for places in codes]
    y = [(places[rows] == second).astype(np.int64) for places, rows in zip(codes, kept, strict=True)]
    changed = replace(raw, labels=True, targets=f"class:{pair[0]},{pair[1]}", classes=pair)
    if len(kept) == 1 or raw.x_test is None:
        return replace(changed, x=_only(raw.x, kept[0]), y=y[0])
    return replace(changed, x=_only(raw.x, kept[0]), y=y[0], x_test=_only(raw.x_test, kept[1]), y_test=y[1])


def _only(x: Rows, rows: np.ndarray) -> Rows:
    """These rows, images in files without reading them."""
    only = getattr(x, "only", None)
    return x[rows] if only is None else only(rows)
