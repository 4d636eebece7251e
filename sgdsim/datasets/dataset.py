"""`Dataset`: inputs and targets as arrays that nobody can write to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real

import numpy as np

from sgdsim.common.checks import InputError, frozen_state, json_object, own_array

_SHOWN = 5  # row numbers in a message


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs and targets, float64, with an optional test split.

    Parameters
    ----------
    x, y : arrays (n, …) and (n,) or, of C outputs, (n, C)
        Training inputs and targets: of NumPy, torch tensors (their values, detached), pandas or polars frames of
        numbers, lists. Images keep their shape; a (n, 1) y becomes (n,). Values are taken as they are: standardise your
        own data first, or let `load_file` do it. All four arrays are copied and read-only; for tensors of your own take
        `torch.tensor(data.x)`, which copies.
    name : str
        Shown in results and plots.
    x_test, y_test : arrays (m, …) and (m,) or (m, C), optional
        The test split: both or neither.
    info : dict
        Where the data come from; only values that JSON can hold.
    tokens : bool
        The inputs are tokens, such as an `Embedding` takes: x stays int64. Without it integers become float64, as
        counts, grey levels and other numbers should.

    Raises
    ------
    InputError
        For values that are not finite real numbers, masked ones, or sizes that do not match.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    info: Mapping[str, object] = field(default_factory=dict)
    tokens: bool = False
    __setstate__ = frozen_state

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"name: expected a non-empty string, got {self.name!r}")
        x = _inputs("x", self.x, self.tokens)
        self._set(x=x, y=_targets("y", self.y, len(x)))
        if (self.x_test is None) != (self.y_test is None):
            given, absent = ("y_test", "x_test") if self.x_test is None else ("x_test", "y_test")
            raise InputError(f"{absent}: expected an array beside {given}, got None; give both or neither")
        if self.x_test is not None:
            x_test = _inputs("x_test", self.x_test, self.tokens, x.shape[1:])
            self._set(x_test=x_test, y_test=_targets("y_test", self.y_test, len(x_test), self.y.shape[1:]))
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
        """Number of input values of a row."""
        return int(np.prod(self.x.shape[1:]))

    @property
    def n_outputs(self) -> int:
        """Number of target values of a row."""
        return 1 if self.y.ndim == 1 else int(self.y.shape[1])

    def as_images(self) -> Dataset:
        """The same with inputs (n, channels, height, width), of rows whose `info` says the shape that they had, as that
        of built-in images does; itself where they have such a shape already. InputError where they are no images."""
        if self.x.ndim == 4:
            return self
        shape = self.info.get("input_shape")
        if self.info.get("kind") != "images" or not isinstance(shape, list) or len(shape) not in (2, 3):
            raise InputError(f"{self.name}: expected images, got rows of {self.d} numbers that are none")
        one = (1, *shape)[-3:]
        test = None if self.x_test is None else self.x_test.reshape(-1, *one)
        return Dataset(self.x.reshape(-1, *one), self.y, self.name, test, self.y_test, self.info)

    def __repr__(self) -> str:
        m = 0 if self.x_test is None else len(self.x_test)
        more = "" if self.n_outputs == 1 else f", n_outputs={self.n_outputs}"
        return f"Dataset({self.name!r}, n={self.n}, d={self.d}, n_test={m}{more})"


def values(name: str, given: object) -> np.ndarray:
    """`given`, a tensor, a frame or what else NumPy takes, as an array; InputError where something in it is masked or,
    of a frame, no number, with the rows or columns named."""
    if hasattr(given, "detach") and hasattr(given, "resolve_conj"):  # a tensor
        try:
            tensor = given.detach().cpu().resolve_conj().resolve_neg()
            return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:  # as one without data
            raise InputError(f"{name}: expected an array of real numbers, got a tensor: {error}") from error
    if isinstance(given, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(given)
        if masked.any():
            rows = np.flatnonzero(masked.reshape(len(masked), -1).any(axis=1))
            shown = ", ".join(map(str, rows[:_SHOWN])) + (", …" if rows.size > _SHOWN else "")
            raise InputError(
                f"{name}: expected no masked values, got some in {rows.size} of {len(masked)} rows (from 0): {shown}; "
                "leave these rows out, or fill them"
            )
        return given.data
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):  # a frame
        columns = {str(column): np.asarray(given[column]) for column in given.columns}  # type: ignore[index]
        for column, held in columns.items():
            kind = held.dtype.kind
            numbers = kind in "biuf" or all(isinstance(value, Real) for value in held.ravel())
            if not numbers or (kind == "f" and np.isnan(held).any()):
                raise InputError(
                    f"{name}: expected columns of numbers with none missing, got others in {column!r}; "
                    "datasets.load_file takes text and fills or drops what is missing"
                )
        given = np.stack([*columns.values()], axis=1) if columns else given
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # of rows of different lengths
        raise InputError(f"{name}: expected an array of real numbers, got {type(given).__name__}: {error}") from error


def _inputs(name: str, given: object, tokens: bool, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Inputs (n, …), `shape` that of one row where it is known; integers for tokens."""
    held = values(name, given)
    if held.ndim < 2:
        raise InputError(f"{name}: expected 2 dimensions or more, (n, …), got shape {held.shape}")
    if shape is not None and len(shape) != held.ndim - 1:
        raise InputError(f"{name}: expected rows of shape {shape} as in x, got shape {held.shape}")
    checked = own_array(name, held, ndim=held.ndim, shape=None if shape is None else (None, *shape))
    if not tokens:
        return checked
    if held.dtype.kind not in "iu":
        raise InputError(f"{name}: expected integers with tokens=True, got {held.dtype}")
    whole = held.astype(np.int64)
    return np.ndarray(whole.shape, whole.dtype, whole.tobytes())


def _targets(name: str, given: object, n: int, outputs: tuple[int, ...] | None = None) -> np.ndarray:
    """Targets (n,) or (n, C), `outputs` being (), (C,), or not known yet."""
    held = values(name, given)
    if held.ndim == 2 and held.shape[1] == 1:
        held = held[:, 0]
    checked = own_array(name, held, ndim=2 if held.ndim == 2 else 1, shape=(n, None)[: 2 if held.ndim == 2 else 1])
    if outputs is not None and checked.shape[1:] != outputs:
        raise InputError(f"{name}: expected {outputs or 'one output'} for each row as in y, got shape {checked.shape}")
    return checked
