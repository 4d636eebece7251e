"""Schedules: values of a hyperparameter as a function of the step index t = 0, 1, ….

A schedule is a small frozen object; called with an integer array of steps it returns the float64 values. Its `spec` is
the text that `parse` reads back, the form in which it stands on the command line and in result files. One that ends
says after how many steps by `n_steps`, and repeats its last value beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from sgdsim.algorithm._schedule import PARAMETERS, Schedule, changes
from sgdsim.algorithm.falling import Cosine, Linear
from sgdsim.algorithm.piecewise_linear import PiecewiseLinear
from sgdsim.algorithm.values import File, Function, Values
from sgdsim.algorithm.warmup import WarmUp, without_warmup
from sgdsim.algorithm.whole_epochs import WholeEpochs
from sgdsim.common import specs
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.rooms import listing
from sgdsim.common.specs import Spec

__dir__ = listing(__name__)


def of(value: object) -> object:
    """`value` of a hyperparameter as `SGD` holds it: arrays and functions as schedules, all else as it is."""
    if isinstance(value, (int, float)) or changes(value):
        return value
    if isinstance(value, np.ndarray) and value.ndim:
        return Values(value)
    return Function(value) if callable(value) else value


def over(value: object, n_steps: int) -> object:
    """`of`, for a run of `n_steps`: functions become their values."""
    held = of(value)
    return held.over(n_steps) if isinstance(held, Function) else held


@dataclass(frozen=True)
class Power(Spec):
    """`start · (1 + t/offset)^(−exponent)`.

    >>> Power(start=1.0, exponent=0.5)(np.array([0, 3, 8]))
    array([1.    , 0.5   , 0.3333])
    """

    name: ClassVar[str] = "power"
    start: float
    exponent: float
    offset: float = 1.0

    def __post_init__(self) -> None:
        number("power: start", self.start, minimum=0.0)
        number("power: exponent", self.exponent)
        if number("power: offset", self.offset) <= 0:
            raise InputError(f"power: offset: expected a number > 0, got {self.offset}")

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return self.start * (1.0 + np.asarray(steps) / self.offset) ** -self.exponent


@dataclass(frozen=True)
class WarmupCosine(Spec):
    """Linear from `peak/warmup` at t = 0 to `peak` at warmup − 1, then half a cosine down to `final` at `total`."""

    name: ClassVar[str] = "warmup-cosine"
    synonyms: ClassVar[Mapping[str, str]] = {"start": "peak"}
    peak: float
    warmup: int
    total: int
    final: float = 0.0

    def __post_init__(self) -> None:
        number("warmup-cosine: peak", self.peak, minimum=0.0)
        number("warmup-cosine: final", self.final, minimum=0.0)
        integer("warmup-cosine: warmup", self.warmup)
        integer("warmup-cosine: total", self.total, minimum=int(self.warmup) + 1)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        steps = np.asarray(steps, dtype=np.float64)
        rising = self.peak * (steps + 1) / max(self.warmup, 1)
        phase = np.clip((steps - self.warmup) / (self.total - self.warmup), 0.0, 1.0)
        falling = self.final + (self.peak - self.final) * 0.5 * (1 + np.cos(np.pi * phase))
        return np.where(steps < self.warmup, rising, falling)


@dataclass(frozen=True)
class Polynomial(Spec):
    """`start · (1 − t/total)^power` down to 0 at `total`, and 0 from there on."""

    name: ClassVar[str] = "polynomial"
    start: float
    total: int
    power: float = 1.0

    def __post_init__(self) -> None:
        number("polynomial: start", self.start, minimum=0.0)
        number("polynomial: power", self.power, minimum=0.0)
        integer("polynomial: total", self.total, minimum=1)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        left = np.clip(1 - np.asarray(steps, dtype=np.float64) / self.total, 0.0, 1.0)
        return self.start * left**self.power


@dataclass(frozen=True)
class WarmupStableDecay(Spec):
    """Linear up to `peak` in `warmup` steps, constant, then linear towards 0 in the last `decay` steps before
    `total`."""

    name: ClassVar[str] = "warmup-stable-decay"
    synonyms: ClassVar[Mapping[str, str]] = {"start": "peak"}
    peak: float
    total: int
    decay: int
    warmup: int = 0

    def __post_init__(self) -> None:
        number("warmup-stable-decay: peak", self.peak, minimum=0.0)
        integer("warmup-stable-decay: warmup", self.warmup)
        integer("warmup-stable-decay: decay", self.decay)
        integer("warmup-stable-decay: total", self.total, minimum=max(1, int(self.warmup) + int(self.decay)))

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        steps = np.asarray(steps, dtype=np.float64)
        rising = (steps + 1) / max(self.warmup, 1)
        falling = (self.total - steps) / (self.decay + 1)
        return self.peak * np.clip(np.minimum(rising, falling), 0.0, 1.0)


@dataclass(frozen=True)
class Piecewise(Spec):
    """`values[i]` from step `starts[i]` on, up to the next start; as text `piecewise:0=0.5,100=0.1`."""

    name: ClassVar[str] = "piecewise"
    starts: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        starts = tuple(integer("piecewise: starts", start) for start in self.starts)
        if not starts or starts[0] != 0 or list(starts) != sorted(set(starts)) or len(starts) != len(self.values):
            raise InputError("piecewise: expected starts 0 < … in ascending order and as many values")
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "values", tuple(number("piecewise: values", value) for value in self.values))

    @classmethod
    def from_text(cls, text: str) -> Piecewise:
        """What `spec` says, read back."""
        return cls(*map(tuple, zip(*specs.pairs(cls.name, text), strict=True)))

    @property
    def spec(self) -> str:
        pairs = zip(self.starts, self.values, strict=True)
        return self.name + ":" + ",".join(f"{start}={value:.17g}" for start, value in pairs)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        return np.asarray(self.values)[np.searchsorted(self.starts, np.asarray(steps), side="right") - 1]


@dataclass(frozen=True)
class Steps(Spec):
    """`start · factor^⌊t/every⌋`, at most `maximum`: a ramp of batch sizes, or (factor < 1) step decay of a rate."""

    name: ClassVar[str] = "steps"
    start: float
    factor: float
    every: int
    maximum: float = 1e15

    def __post_init__(self) -> None:
        for field in ("start", "factor", "maximum"):
            if number(f"steps: {field}", getattr(self, field)) <= 0:
                raise InputError(f"steps: {field}: expected a number > 0, got {getattr(self, field)}")
        integer("steps: every", self.every, minimum=1)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.minimum(self.start * self.factor ** (np.asarray(steps) // self.every).astype(float), self.maximum)


def _check_jacobi(a: float, b: float) -> None:
    number("jacobi: a", a, minimum=-1.0, open_ends=True)
    number("jacobi: b", b, minimum=-1.0, open_ends=True)


@dataclass(frozen=True)
class JacobiLR(Spec):
    """Learning rate of the Jacobi-polynomial method: without noise the residual after t steps is
    `P_t^{(a,b)}(1 − αλ) / P_t^{(a,b)}(1)` with α = `lr` (Velikanov & Yarotsky, arXiv:2202.00992)."""

    name: ClassVar[str] = "jacobi"
    lr: float
    a: float
    b: float

    def __post_init__(self) -> None:
        number("jacobi: lr", self.lr, minimum=0.0)
        _check_jacobi(self.a, self.b)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        n, a, b = np.asarray(steps, dtype=np.float64), self.a, self.b
        later = np.maximum(n, 1.0)  # the general term is 0/0 at n = 0 when a + b = −1
        general = (2 * later + a + b + 1) * (2 * later + a + b + 2) / (2 * (later + a + 1) * (later + a + b + 1))
        return self.lr * np.where(n == 0, (a + b + 2) / (2 * (a + 1)), general)


@dataclass(frozen=True)
class JacobiMomentum(Spec):
    """Momentum of the Jacobi-polynomial method (see `JacobiLR`); 0 at t = 0, towards 1 as t grows."""

    name: ClassVar[str] = "jacobi"
    a: float
    b: float

    def __post_init__(self) -> None:
        _check_jacobi(self.a, self.b)

    def __call__(self, steps: np.ndarray) -> np.ndarray:
        n, a, b = np.asarray(steps, dtype=np.float64), self.a, self.b
        later = np.maximum(n, 1.0)
        value = later * (later + b) * (2 * later + a + b + 2)
        value /= (later + a + 1) * (later + a + b + 1) * (2 * later + a + b)
        return np.where(n == 0, 0.0, value)


# Each form with the hyperparameters that it may give.
SCHEDULES: tuple[tuple[type[Spec | File], tuple[str, ...]], ...] = (
    (Power, PARAMETERS),
    (Cosine, ("lr", "momentum")),
    (Linear, ("lr", "momentum")),
    (WarmupCosine, ("lr", "momentum")),
    (Polynomial, ("lr", "momentum")),
    (WarmupStableDecay, ("lr", "momentum")),
    (Steps, PARAMETERS),
    (JacobiLR, ("lr",)),
    (JacobiMomentum, ("momentum",)),
    (Piecewise, PARAMETERS),
    (PiecewiseLinear, PARAMETERS),
    (WholeEpochs, ("batch_size",)),
    (Values, PARAMETERS),
    (File, PARAMETERS),
)


def kinds(parameter: str) -> dict[str, type[Spec | File]]:
    """The forms that `parameter` takes as text, by name."""
    return {form.name: form for form, parameters in SCHEDULES if parameter in parameters}


def parse(parameter: str, text: str) -> float | int | Schedule:
    """Read a number or a schedule such as `power:start=1,exponent=0.5` for `parameter` (lr, momentum, batch_size); any
    takes `warmup=STEPS` among its keys.

    Raises
    ------
    InputError : not a number, an unknown schedule, or arguments that it does not have.
    """
    forms = kinds(parameter)
    if ":" not in text:
        try:
            return int(text) if parameter == "batch_size" else float(text)
        except ValueError:
            kind = "an integer" if parameter == "batch_size" else "a number"
            raise InputError(
                f"{parameter}: expected {kind} or a schedule NAME:key=value,… ({', '.join(forms)}); got {text!r}"
            ) from None
    text, steps = without_warmup(parameter, text, forms)
    schedule = cast(Schedule, specs.parse(parameter, "schedule", text, forms))
    return WarmUp(schedule, steps) if steps else schedule
