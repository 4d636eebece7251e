"""Data sets as arrays: `Dataset`, and `load`, which never downloads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sgdsim.common.checks import InputError, choice, frozen_state, integer, json_object, own_array
from sgdsim.datasets.formats import READERS, RawData, data_folder

__all__ = ["NAMES", "Dataset", "load"]

NAMES = tuple(READERS)
"""Names that `load` takes."""

_LARGE = 1e100  # beyond it, and below its inverse, squares come near the ends of float64
MAX_DEFAULT_TEST = 1000  # test rows drawn when the number is left open


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, float64, with an optional test split.

    Parameters
    ----------
    x, y : arrays (n, d) and (n,)
        Training inputs and targets. Their values are taken as they are: standardise your own data first. All four
        arrays are copied and read-only; for tensors of your own take `torch.tensor(data.x)`, which copies.
    name : str
        Shown in results and plots.
    x_test, y_test : arrays (m, d) and (m,), optional
        The test split: both or neither.
    info : dict
        Where the data come from; only values that JSON can hold.

    Raises
    ------
    InputError
        For values that are not finite real numbers, or sizes that do not match.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    info: Mapping[str, object] = field(default_factory=dict)
    __setstate__ = frozen_state

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"name: expected a non-empty string, got {self.name!r}")
        x = own_array("x", self.x, ndim=2)
        self._set(x=x, y=own_array("y", self.y, ndim=1, shape=(len(x),)))
        if (self.x_test is None) != (self.y_test is None):
            given, absent = ("y_test", "x_test") if self.x_test is None else ("x_test", "y_test")
            raise InputError(f"{absent}: expected an array beside {given}, got None; give both or neither")
        if self.x_test is not None:
            x_test = own_array("x_test", self.x_test, ndim=2, shape=(None, x.shape[1]))
            self._set(x_test=x_test, y_test=own_array("y_test", self.y_test, ndim=1, shape=(len(x_test),)))
        self._set(info=json_object("info", self.info))

    def _set(self, **values: object) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def n(self) -> int:
        """Number of training rows."""
        return int(self.x.shape[0])

    @property
    def d(self) -> int:
        """Number of input columns."""
        return int(self.x.shape[1])

    def __repr__(self) -> str:
        m = 0 if self.x_test is None else len(self.x_test)
        return f"Dataset({self.name!r}, n={self.n}, d={self.d}, n_test={m})"


def load(
    name: str,
    n: int | None = None,
    seed: int = 0,
    *,
    n_test: int | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """`n` training rows of a data set with a disjoint test split, standardised with the training statistics.

    Rows are drawn by `seed` alone, class by class where the target is a class label (so that each class keeps its
    share), and come in random order. A smaller or larger test split never changes the training rows. `mnist` and
    `cifar10` train on rows of the official training part only and test on rows of the official test part only.

    Images are centred and scaled by one mean and one standard deviation over all training pixels, tables by those of
    each column (a column that is constant in train becomes 0 in both splits: its scale is unknown), targets by those
    of the training targets (a constant target is only centred).

    Parameters
    ----------
    name : str
        One of `NAMES`.
    n : int, optional
        Training rows; default: the whole official training part, or 80 % of a data set that comes in one piece.
    seed : int
        Decides which rows are drawn and their order.
    n_test : int, optional
        Test rows; default: min(n, 1000, what is left). 0 for none.
    data_dir : path, optional
        Folder of the data files; default: the environment variable SGDSIM_DATA, else `data` in the current folder.

    Returns
    -------
    Dataset
        x (n, d), y (n,), x_test (n_test, d), y_test (n_test,); `info` holds the statistics for going back to the
        original units (pixels on a scale from 0 to 1) and `n_available`, the number of rows to draw training rows from.

    Raises
    ------
    InputError
        Unknown name; a file missing, damaged or of another format; more rows asked for than there are.
    """
    name = choice("name", name, NAMES)
    n = None if n is None else integer("n", n, minimum=1)
    n_test = None if n_test is None else integer("n_test", n_test)
    seed = integer("seed", seed)
    raw = READERS[name](data_folder(data_dir))
    train, test = _split(raw, name, n, n_test, seed)

    x, y = np.divide(raw.x[train], raw.scale, dtype=np.float64), raw.y[train].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # `Dataset` refuses rows that are too far from the others
        return _prepared(raw, name, x, y, train, test, seed)


def _prepared(
    raw: RawData, name: str, x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> Dataset:
    """The data set of the rows `train`, which are `x` and `y`, and `test`."""
    shift, spread = _statistics(x, per_column=raw.kind == "table")
    y_shift, y_spread = (float(value) for value in _statistics(y, per_column=False))
    x_test = y_test = None
    if len(test):
        rows, targets = (raw.x, raw.y) if raw.x_test is None or raw.y_test is None else (raw.x_test, raw.y_test)
        x_test = _standardise(np.divide(rows[test], raw.scale, dtype=np.float64), shift, spread)
        y_test = (targets[test] - y_shift) / (y_spread or 1.0)
    info = {
        "name": name,
        "n": len(train),
        "n_test": len(test),
        "seed": seed,
        "kind": raw.kind,
        "input_shape": list(raw.shape),
        "input_mean": shift.tolist(),
        "input_std": spread.tolist(),
        "target_mean": y_shift,
        "target_std": y_spread,
        "n_available": len(raw.x),
    }
    return Dataset(_standardise(x, shift, spread), (y - y_shift) / (y_spread or 1.0), name, x_test, y_test, info)


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
                stacklevel=3,
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
