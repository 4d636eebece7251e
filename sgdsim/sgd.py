"""The algorithm: mini-batch SGD with heavy-ball momentum in velocity form, `v ← βv − αg`, `w ← w + v`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sgdsim import sampling as _sampling
from sgdsim import schedules
from sgdsim.checks import InputError, choice, integer, number
from sgdsim.schedules import Schedule

_CHECKED_STEPS = 10_000_000  # steps of a schedule that are all looked at before a run


class StepValues(NamedTuple):
    """Hyperparameters of a range of steps: `lr`, `momentum`, `noise` (γ) float64 and `batch_size` int64, each (T,)."""

    lr: np.ndarray
    momentum: np.ndarray
    batch_size: np.ndarray
    noise: np.ndarray


def noise_factor(
    n_samples: int, batch_size: np.ndarray | int, sampling: str = _sampling.WITHOUT_REPLACEMENT
) -> np.ndarray:
    """Strength γ of the sampling noise: `(N−b)/((N−1)b)` without replacement (0 at b = N), `1/b` with replacement.

    `E[G C Gᵀ] = γ N K̂ diag(C) K̂ + (1−γ) K̂ C K̂` for one mini-batch gradient operator G.

    >>> float(noise_factor(5, 2)), float(noise_factor(5, 5)), float(noise_factor(5, 2, "with-replacement"))
    (0.375, 0.0, 0.5)
    """
    b = np.asarray(batch_size, dtype=np.float64)
    if sampling == _sampling.WITH_REPLACEMENT:
        return 1.0 / b
    return (n_samples - b) / (max(n_samples - 1, 1) * b)


@dataclass(frozen=True)
class SGD:
    """Mini-batch SGD with heavy-ball momentum.

    Parameters
    ----------
    lr : learning rate α in units of 1/λ_max (see `sgdsim.problem`), > 0; a number or a schedule.
    momentum : β; a number with |β| < 1, or a schedule. Negative values are allowed.
    batch_size : b ≥ 1; an integer or a schedule (rounded down to integers).
    sampling : "without-replacement" (default), "with-replacement" or "reshuffle" (epochs; no closed form, so only the
        sampled and network regimes follow it).

    Raises
    ------
    InputError : values outside these ranges.
    """

    lr: float | Schedule
    momentum: float | Schedule = 0.0
    batch_size: int | Schedule = 1
    sampling: str = _sampling.WITHOUT_REPLACEMENT

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Schedule) and number("lr", self.lr) <= 0:
            raise InputError(f"lr: expected a number > 0, got {self.lr}")
        if not isinstance(self.momentum, Schedule):
            number("momentum", self.momentum, minimum=-1.0, maximum=1.0, open_ends=True)
        if not isinstance(self.batch_size, Schedule):
            integer("batch_size", self.batch_size, minimum=1)
        choice("sampling", self.sampling, _sampling.SAMPLINGS)

    @classmethod
    def jacobi(cls, lr: float, a: float, b: float, batch_size: int | Schedule = 1, **options: str) -> SGD:
        """The Jacobi-polynomial method: learning rate and momentum by `JacobiLR` and `JacobiMomentum`."""
        return cls(schedules.JacobiLR(lr, a, b), schedules.JacobiMomentum(a, b), batch_size, **options)

    @property
    def is_constant(self) -> bool:
        """Whether no hyperparameter changes in time."""
        return not any(isinstance(value, Schedule) for value in (self.lr, self.momentum, self.batch_size))

    def spec(self) -> dict[str, float | int | str]:
        """The parameters as JSON-able values, schedules as their text form."""
        values = {name: getattr(self, name) for name in ("lr", "momentum", "batch_size", "sampling")}
        return {name: value.spec if isinstance(value, Schedule) else value for name, value in values.items()}

    def batch_sizes(self, start: int, stop: int) -> np.ndarray:
        """Batch sizes of steps start..stop-1, (stop - start,) int64."""
        return np.floor(_evaluate(self.batch_size, start, stop)).astype(np.int64)

    def values(self, n_samples: int, start: int, stop: int, checked: bool = True) -> StepValues:
        """Hyperparameters of steps start..stop-1 for `n_samples` training points; InputError where out of range.

        `checked=False`: no errors, for steps that may lie beyond the end of a run.
        """
        lr, momentum = _evaluate(self.lr, start, stop), _evaluate(self.momentum, start, stop)
        batch = self.batch_sizes(start, stop)
        if not checked:
            with np.errstate(divide="ignore"):
                return StepValues(lr, momentum, batch, noise_factor(n_samples, batch, self.sampling))
        _check_range("lr", lr, (lr >= 0) & np.isfinite(lr), start, "finite and >= 0")
        # A schedule may pass 1 for some steps (the second step of Chebyshev's method has momentum 1).
        _check_range("momentum", momentum, np.isfinite(momentum), start, "finite")
        largest = np.inf if self.sampling == _sampling.WITH_REPLACEMENT else n_samples
        _check_range(
            "batch_size", batch, (batch >= 1) & (batch <= largest), start, f"from 1 to {n_samples} (training points)"
        )
        return StepValues(lr, momentum, batch, noise_factor(n_samples, batch, self.sampling))

    def check(self, n_samples: int, n_steps: int) -> None:
        """Refuse a batch that the data cannot fill, or a schedule that leaves its range, before any step is taken."""
        if n_steps == 0:
            return
        if self.is_constant:
            self.values(n_samples, 0, 1)
            return
        block = 100_000
        later = (2**i for i in range(_CHECKED_STEPS.bit_length(), n_steps.bit_length()))
        for start in itertools.chain(range(0, min(n_steps, _CHECKED_STEPS), block), later):
            self.values(n_samples, start, min(start + block, n_steps))


def has_momentum(sgd: SGD) -> bool:
    """Whether the momentum is ever different from 0, so that velocities have to be kept."""
    return isinstance(sgd.momentum, Schedule) or sgd.momentum != 0


def _evaluate(value: float | int | Schedule, start: int, stop: int) -> np.ndarray:
    if isinstance(value, Schedule):
        return np.asarray(value(np.arange(start, stop)), dtype=np.float64)
    return np.full(stop - start, float(value))


def _check_range(name: str, values: np.ndarray, ok: np.ndarray, start: int, rule: str) -> None:
    if not ok.all():
        first = int(np.argmin(ok))
        raise InputError(f"{name}: expected values {rule}, got {values[first]:g} at step {start + first}")
