"""From rows as they are stored to a `Dataset`: which rows are drawn, standardisation, targets as numbers or classes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets.dataset import Dataset

MAX_DEFAULT_TEST = 1000  # test rows drawn when the number is left open
_LARGE = 1e100  # beyond it, and below its inverse, squares come near the ends of float64


class Rows(Protocol):
    """Inputs of which only the rows in use are ever widened, or read: an array, or images in files."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class RawData:
    """Rows as stored: `x` (N, …), `y` (N,) or (N, C); `x_test`, `y_test` where there is an official test part.

    `kind`: "table" (standardised column by column), "images" (by one mean and one spread) or "tokens" (integers that
    stay). `scale` divides the inputs (the white level of images, 1 for others); `labels` says that y holds class labels
    of which each keeps its share. `targets`: "number", or y holds places in `classes`: "one-hot", or "class:A,B" (−1
    and 1). `plain` (d,): columns that are not standardised. NaN in a table is filled with the training mean.
    """

    x: Rows
    y: np.ndarray
    kind: str
    shape: tuple[int, ...]
    scale: float
    labels: bool
    x_test: Rows | None = None
    y_test: np.ndarray | None = None
    targets: str = "number"
    classes: tuple[str, ...] = ()
    plain: np.ndarray | None = None
    facts: dict[str, object] = field(default_factory=dict)


def prepared(
    raw: RawData,
    name: str,
    n: int | None,
    n_test: int | None,
    seed: int,
    *,
    standardise: bool = True,
    flat: bool = False,
) -> Dataset:
    """The data set of `n` training rows of `raw` and `n_test` test rows; see `load` for what the defaults are."""
    train, test = _split(raw, name, n, n_test, seed)
    parts = [(raw.x[train], raw.y[train])]
    if len(test):
        rows, targets = (raw.x, raw.y) if raw.x_test is None or raw.y_test is None else (raw.x_test, raw.y_test)
        parts.append((rows[test], targets[test]))
    with np.errstate(over="ignore", invalid="ignore"):  # `Dataset` refuses rows that are too far from the others
        xs, *input_facts = _inputs(raw, [x for x, _ in parts], standardise)
        ys, *target_facts = _targets(raw, [y for _, y in parts], standardise)
    info = {
        "name": name,
        "n": len(train),
        "n_test": len(test),
        "seed": seed,
        "kind": raw.kind,
        "input_shape": list(raw.shape),
        "input_mean": input_facts[0].tolist(),
        "input_std": input_facts[1].tolist(),
        "target_mean": target_facts[0].tolist(),
        "target_std": target_facts[1].tolist(),
        "n_available": len(raw.x),
        "targets": raw.targets,
        **({"classes": list(raw.classes)} if raw.classes else {}),
        **raw.facts,
    }
    if flat:
        xs = [x.reshape(len(x), -1) for x in xs]
    x_test, y_test = (xs[1], ys[1]) if len(test) else (None, None)
    return Dataset(xs[0], ys[0], name, x_test, y_test, info, tokens=raw.kind == "tokens")


def _inputs(
    raw: RawData, parts: list[np.ndarray], standardise: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The inputs of train (and test), and the mean and spread that they were standardised with."""
    no_shift, no_spread = np.zeros(()), np.ones(())
    if raw.kind == "tokens":
        return parts, no_shift, no_spread
    parts = [np.divide(x, raw.scale, dtype=np.float64) for x in parts]
    table = raw.kind == "table"
    if table:
        parts = _filled(parts)
    if not standardise:
        width = parts[0].shape[1:] if table else ()
        return parts, np.zeros(width), np.ones(width)
    shift, spread = _statistics(parts[0], per_column=table)
    if raw.plain is not None:
        shift, spread = np.where(raw.plain, 0.0, shift), np.where(raw.plain, 1.0, spread)
    return [_standardise(x, shift, spread) for x in parts], shift, spread


def _filled(parts: list[np.ndarray]) -> list[np.ndarray]:
    """NaN replaced by the mean of the column over the training rows that have a value."""
    if not any(np.isnan(x).any() for x in parts):
        return parts
    known = ~np.isnan(parts[0])
    if not known.any(axis=0).all():
        at = int(np.argmin(known.any(axis=0)))
        raise InputError(f"missing: expected a value of input column {at + 1} in a training row, got none to average")
    means = np.where(known, parts[0], 0.0).sum(axis=0) / known.sum(axis=0)
    return [np.where(np.isnan(x), means, x) for x in parts]


def _targets(
    raw: RawData, parts: list[np.ndarray], standardise: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The targets of train (and test), and the mean and spread that they were standardised with."""
    no_shift, no_spread = np.zeros(()), np.ones(())
    if raw.targets == "one-hot":
        return [np.eye(len(raw.classes))[y] for y in parts], no_shift, no_spread
    if raw.classes:
        return [2.0 * y - 1.0 for y in parts], no_shift, no_spread
    numbers = [y.astype(np.float64) for y in parts]
    if not standardise:
        width = numbers[0].shape[1:]
        return numbers, np.zeros(width), np.ones(width)
    shift, spread = _statistics(numbers[0], per_column=numbers[0].ndim > 1)
    return [(y - shift) / np.where(spread > 0, spread, 1.0) for y in numbers], shift, spread


def _split(raw: RawData, name: str, n: int | None, n_test: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (n,) of the training rows in `raw.x`, and (n_test,) of the test rows in their part."""
    available = len(raw.x)
    one_piece = raw.x_test is None
    if n is None:
        n = max(1, (4 * available) // 5) if one_piece else available
    if n > available:
        raise InputError(f"n: expected at most {available}, the rows available for training in {name}, got {n}")
    left = available - n if raw.x_test is None else len(raw.x_test)
    if n_test is None:
        n_test = min(n, MAX_DEFAULT_TEST, left)
        if n_test == 0:
            warnings.warn(
                f"{name}: no row is left for a test split with n = {n} of {available}; take a smaller n, or n_test=0",
                UserWarning,
                stacklevel=4,
            )
    if n_test > left:
        beside = f" beside n = {n} of {available}" if one_piece else ""
        raise InputError(f"n_test: expected at most {left}, the test rows available in {name}{beside}, got {n_test}")

    # One stream per purpose: what one of them draws never moves another.
    draw, draw_test, order, order_test = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    groups = _shuffled_groups(raw.y if raw.labels else np.zeros(available), draw)
    sizes = np.array([len(group) for group in groups])
    shares = _allocate(n, sizes, sizes, draw)
    train = np.concatenate([group[:k] for group, k in zip(groups, shares, strict=True)])
    if one_piece:  # from the other end of the same shuffled groups: disjoint, whatever n and n_test are
        free = sizes - shares
    else:
        groups = _shuffled_groups(raw.y_test if raw.labels and raw.y_test is not None else np.zeros(left), draw_test)
        sizes = free = np.array([len(group) for group in groups])
    shares = _allocate(n_test, sizes, free, draw_test)
    test = np.concatenate([group[len(group) - k :] for group, k in zip(groups, shares, strict=True)])
    return order.permutation(train), order_test.permutation(test)


def _shuffled_groups(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The row numbers of each distinct label, in random order, labels ascending."""
    return [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]


def _allocate(total: int, weights: np.ndarray, capacity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`total` seats in proportion to `weights`, none above its `capacity`: the method of largest remainders.

    Equal remainders are ranked at random, so that a few rows of many equal classes are not always the first classes.
    Integer arithmetic throughout: the result does not depend on rounding.
    """
    quota = total * weights.astype(np.int64)
    shares = np.minimum(quota // weights.sum(), capacity)
    ranking = np.lexsort((rng.permutation(len(weights)), -(quota % weights.sum())))
    while (short := total - int(shares.sum())) > 0:
        open_groups = ranking[shares[ranking] < capacity[ranking]]
        shares[open_groups[:short]] += 1
    return shares


def _statistics(values: np.ndarray, *, per_column: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over all values or per column; constants give exactly themselves and 0."""
    axis = 0 if per_column else None
    low, high = values.min(axis=axis), values.max(axis=axis)
    # Rounding in the mean would leave a constant column a spread of about 1e-17; dividing by that makes it noise.
    constant = low == high
    # Squares of 1e200 and of 1e-200 are no floats. Powers of two change no digit; 1 where they are not needed.
    size = np.maximum(np.abs(low), np.abs(high))
    extreme = (size > _LARGE) | ((size < 1 / _LARGE) & ~constant)
    unit = np.where(extreme, np.exp2(np.frexp(size)[1].clip(-1000, 1000)), 1.0)
    scaled = values if (unit == 1).all() else values / unit
    mean, spread = unit * scaled.mean(axis=axis), unit * scaled.std(axis=axis)
    return np.where(constant, low, mean), np.where(constant, 0.0, spread)


def _standardise(x: np.ndarray, shift: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(x - shift) / spread, in place; 0 where the training data have no spread."""
    if (spread > _LARGE).any() or (spread[spread > 0] < 1 / _LARGE).any():  # 1/spread, or a difference, may overflow
        unit = np.where(spread > 0, np.exp2(np.frexp(spread)[1].clip(-1000, 1000)), 1.0)
        return _standardise(x / unit, shift / unit, spread / unit)
    x -= shift
    x *= np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
    return x
