"""The algorithm: mini-batch SGD with heavy-ball momentum in velocity form, `v ← βv − αg`, `w ← w + v`, or with another
linear method, weight decay, averaged iterates and noisy labels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypedDict, TypeVar, Unpack, cast

import numpy as np

from sgdsim.algorithm import maps as _maps
from sgdsim.algorithm import samplers, schedules
from sgdsim.algorithm.maps import Maps, Method
from sgdsim.algorithm.methods import Average, HeavyBall, Nesterov, TorchOrder, parse_average, parse_method
from sgdsim.algorithm.rules import GradientRule
from sgdsim.algorithm.samplers import Sampling
from sgdsim.algorithm.samplers import noise_factor as noise_factor
from sgdsim.algorithm.schedules import Schedule
from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.common.shown import Shown
from sgdsim.common.specs import brief

_LARGEST_BATCH = 10**18  # an int64
_LARGEST_ERROR = 1e140  # of labels: its square, times N/b and a learning rate, is still a float
_Kept = TypeVar("_Kept")
_CHECKED_STEPS = 10_000_000  # steps of a schedule that are all looked at before a run


class StepValues(NamedTuple):
    """Hyperparameters of a range of steps: `lr`, `momentum`, `noise` (γ) float64 and `batch_size` int64, each (T,)."""

    lr: np.ndarray
    momentum: np.ndarray
    batch_size: np.ndarray
    noise: np.ndarray


class TextOr(Generic[_Kept]):
    """A field of a frozen dataclass that may be given as text, and holds what `parse` makes of that."""

    def __init__(self, parse: Callable[[str], _Kept], *default: _Kept) -> None:
        self.default, self.parse = default, parse

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> _Kept:
        if instance is not None:
            return instance.__dict__[self.name]
        if not self.default:
            raise AttributeError(self.name)  # which tells `dataclass` that there is no default
        return self.default[0]

    def __set__(self, instance: object, value: _Kept | str) -> None:
        instance.__dict__[self.name] = self.parse(value) if isinstance(value, str) else value


def _parse_size(text: str) -> int | Schedule:
    return cast("int | Schedule", schedules.parse("batch_size", text))


class Options(TypedDict, total=False):
    """Arguments of `SGD` that are no schedules."""

    sampling: str
    method: str | Method | GradientRule
    label_noise: float
    average: str | Average | None
    weight_decay: float


@dataclass(frozen=True, repr=False)
class SGD(Shown):
    """Mini-batch SGD, by default with heavy-ball momentum.

    Parameters
    ----------
    lr : learning rate α in units of 1/λ_max (see `sgdsim.problem`), > 0; a number, a schedule or its text
        ("cosine:start=1,total=1000"), an array of a value for each step, or a function of an array of steps. So may be
        momentum and batch_size. To a gradient rule it is what the rule says.
    momentum : β; a number with |β| < 1, or a schedule. Negative values are allowed.
    batch_size : b ≥ 1; an integer or a schedule (rounded down to integers).
    sampling : "without-replacement" (default), "with-replacement", "reshuffle" (epochs; no closed form, so only the
        sampled and network regimes follow it), "importance" (with replacement, points with chances ∝ Θ_ii and weights
        that make the mean gradient right; in the averaged, sampled and network regimes) or "one-pass" (fresh Gaussian
        samples at every step from a population with the problem's spectrum, where the diagonal regime with τ = −1 is
        exact).
    method : "heavy-ball" (default), "nesterov", "corner:theta=…,memory=…", "am1:nu=…", "schedule-free", "torch"
        (its order of momentum and learning rate, which under a schedule is not ours; "torch:nesterov=1"), a gradient
        rule such as "adam", or an object of `sgdsim.algorithm.methods` or `rules`. All but the first two take no
        momentum.
    label_noise : standard deviation σ ≥ 0 of the error of each label, in units of the targets, drawn anew whenever a
        point is. Losses stay those against the labels without error.
    average : "ema:DECAY", "tail:start=…,every=…" or an object of `sgdsim.algorithm.methods`: all losses are then those
        of the averaged iterate; None (default): of the last one.
    weight_decay : ω ≥ 0: `ω w` is added to the gradient of the loss `½·mean((f − y)²)` before all else, as by
        `torch.optim.SGD(weight_decay=ω)`, in its units; in those of the curvature it is ωN/λ_max(Θ). A network's
        parameters are pulled to 0; a problem without a network knows of no other point than its start, and pulls there
        (`sgdsim.problem`). Not with gradient rules.

    Raises
    ------
    InputError : values outside these ranges.
    """

    lr: TextOr[float | Schedule] = TextOr(partial(schedules.parse, "lr"))
    momentum: TextOr[float | Schedule] = TextOr(partial(schedules.parse, "momentum"), 0.0)
    batch_size: TextOr[int | Schedule] = TextOr(_parse_size, 1)
    sampling: str = samplers.WITHOUT_REPLACEMENT
    method: TextOr[Method | GradientRule] = TextOr(parse_method, HeavyBall())
    label_noise: float = 0.0
    average: TextOr[Average | None] = TextOr(parse_average, None)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in schedules.PARAMETERS:
            object.__setattr__(self, name, schedules.of(getattr(self, name)))
        for name in ("lr", "momentum", "label_noise", "weight_decay"):
            given = getattr(self, name)
            # Text of label noise and weight decay: learning rates and momenta are read by now.
            value = _read(given) if isinstance(given, str) else given
            kept = value is given and isinstance(value, (int, float, Schedule))
            if not kept:  # such as a fraction, which files cannot hold
                object.__setattr__(self, name, number(name, value))
        if not schedules.changes(self.lr) and number("lr", self.lr) <= 0:
            raise InputError(f"lr: expected a number > 0, got {self.lr}")
        if isinstance(self.method, TorchOrder) and not isinstance(self.lr, Schedule):
            object.__setattr__(self, "method", Nesterov() if self.method.nesterov else HeavyBall())
        if not schedules.changes(self.momentum):
            number("momentum", self.momentum, minimum=-1.0, maximum=1.0, open_ends=True)
        if not schedules.changes(self.batch_size):
            integer("batch_size", self.batch_size, minimum=1, maximum=_LARGEST_BATCH)
        choice("sampling", self.sampling, samplers.SAMPLINGS)
        number("label_noise", self.label_noise, minimum=0.0, maximum=_LARGEST_ERROR)
        number("weight_decay", self.weight_decay, minimum=0.0)
        if not isinstance(self.method, (Method, GradientRule)):
            raise InputError(f"method: expected a name or an object of sgdsim.methods, got {self.method!r}")
        if not (self.average is None or isinstance(self.average, Average)):
            raise InputError(f"average: expected None, ema:DECAY or tail:start=…, got {self.average!r}")
        if not self.method.uses_momentum and has_momentum(self):
            raise InputError(f"momentum: expected 0 with {self.method.spec}, which has its own memory")
        if getattr(self.method, "constant_lr", False) and isinstance(self.lr, Schedule):
            raise InputError(f"lr: expected a constant rate with {self.method.spec}, got {brief(self.lr.spec)}")
        if self.rule is None:
            _maps.readout(self.linear)
        elif self.weight_decay:
            own = "; take adamw:weight_decay=…" if self.method.spec.startswith("adam") else ""
            raise InputError(f"weight_decay: expected 0 with {self.method.spec}, got {self.weight_decay:g}{own}")

    @classmethod
    def jacobi(cls, lr: float, a: float, b: float, batch_size: int | Schedule = 1, **options: Unpack[Options]) -> SGD:
        """The Jacobi-polynomial method: learning rate and momentum by `JacobiLR` and `JacobiMomentum`."""
        return cls(schedules.JacobiLR(lr, a, b), schedules.JacobiMomentum(a, b), batch_size, **options)

    @property
    def rule(self) -> GradientRule | None:
        """The method where it is not linear in the gradient; None where it is."""
        return self.method if isinstance(self.method, GradientRule) else None

    @property
    def linear(self) -> Method:
        """The method where it is linear in the gradient; InputError for a gradient rule."""
        if isinstance(self.method, GradientRule):
            raise InputError(
                f"method: expected one that is linear in the gradient, got {self.method.spec}; "
                "use the network or sampled regime"
            )
        return self.method

    @property
    def sampler(self) -> Sampling:
        """How batches are made, by the name in `sampling`."""
        return samplers.named(self.sampling)

    @property
    def is_one_pass(self) -> bool:
        """Whether every point is new, of a population, so that there is no set of points to choose from."""
        return self.sampling == samplers.ONE_PASS

    @property
    def is_constant(self) -> bool:
        """Whether no hyperparameter changes in time."""
        scheduled = any(map(schedules.changes, (self.lr, self.momentum, self.batch_size)))
        return self.method.is_stationary and not scheduled

    @property
    def is_plain(self) -> bool:
        """Whether this is heavy ball on equally likely points of a data set and nothing else: there are faster ways."""
        extras = self.label_noise or self.average is not None or self.is_one_pass or self.sampler.weighted
        return isinstance(self.method, HeavyBall) and not (extras or self.weight_decay)

    def spec(self) -> dict[str, float | int | str]:
        """The parameters as JSON-able values, schedules as their text form; weight decay where there is some."""
        names = ["lr", "momentum", "batch_size", "sampling", "method", "label_noise", "average"]
        names += ["weight_decay"] if self.weight_decay else []
        values = {name: getattr(self, name) for name in names}
        return {name: getattr(value, "spec", value) for name, value in values.items()}

    def maps(self, start: int, stop: int, torch_lr: float | None = None) -> Maps:
        """The linear steps start..stop-1 of all components: iterate, memory vectors and, if there is one, average.

        `torch_lr`: the torch learning rate at α = 1, which `Problem.maps` knows; InputError for weight decay without.
        """
        method, steps = self.linear, np.arange(start, stop)
        maps = method.maps(steps, _evaluate(self.lr, start, stop), _evaluate(self.momentum, start, stop))
        _maps.check_still(maps, _maps.begins(method))
        if self.weight_decay:
            maps = _maps.with_weight_decay(maps, self.pull(torch_lr))
        if self.average is None:
            return maps
        return _maps.with_average(maps, _maps.readout(method), self.average.weights(steps))

    def pull(self, torch_lr: float | None) -> float:
        """Weight decay in units of the curvature, ω times the torch learning rate at α = 1; InputError as of `maps`."""
        return _maps.pull(self.weight_decay, torch_lr)

    @property
    def components(self) -> int:
        """Number of components that `maps` moves."""
        return 1 + self.method.memory + (self.average is not None)

    @property
    def begins(self) -> np.ndarray:
        """The multiple of the initial iterate that each component begins at, (m,); an average begins at the iterate."""
        own = _maps.begins(self.linear)
        return own if self.average is None else np.append(own, 1.0)

    @property
    def readout(self) -> np.ndarray:
        """The weights of the components in what is reported, (m,): the method's iterate, or the average of it."""
        return _maps.readout(self.linear) if self.average is None else np.eye(self.components)[-1]

    def label_source(self, n_samples: int, batch_size: np.ndarray) -> np.ndarray:
        """What noisy labels add to the noise of a gradient: `(N/b)σ²`, times λ_k² in mode k; like batch_size."""
        return n_samples * self.label_noise**2 / np.asarray(batch_size, dtype=np.float64)

    def batch_sizes(self, start: int, stop: int) -> np.ndarray:
        """Batch sizes of steps start..stop-1, (stop - start,) int64."""
        sizes = np.minimum(np.floor(_evaluate(self.batch_size, start, stop)), float(_LARGEST_BATCH))
        return np.where(np.isnan(sizes), 0.0, sizes).astype(np.int64)

    def values(self, n_samples: int, start: int, stop: int, checked: bool = True) -> StepValues:
        """Hyperparameters of steps start..stop-1 for `n_samples` training points; InputError where out of range.

        `checked=False`: no errors, for steps that may lie beyond the end of a run.
        """
        if checked:
            self._check_lengths(stop)
        lr, momentum = _evaluate(self.lr, start, stop), _evaluate(self.momentum, start, stop)
        batch = self.batch_sizes(start, stop)
        if not checked:
            with np.errstate(divide="ignore"):
                return StepValues(lr, momentum, batch, self.sampler.noise(n_samples, batch.astype(np.float64)))
        _check_range("lr", lr, (lr >= 0) & np.isfinite(lr), start, "finite and >= 0")
        # A schedule may have 1 at single steps; Chebyshev's method, a Jacobi one, has it throughout.
        size = np.abs(momentum)
        held = (size >= 1) & np.append(False, size[:-1] >= 1)
        free = isinstance(self.momentum, schedules.JacobiMomentum) & np.isfinite(size)
        _check_range("momentum", momentum, free | ((size <= 1) & ~held), start, "finite with -1 < momentum < 1")
        largest = n_samples if self.sampler.bounded else np.inf
        _check_range(
            "batch_size", batch, (batch >= 1) & (batch <= largest), start, f"from 1 to {n_samples} (training points)"
        )
        return StepValues(lr, momentum, batch, self.sampler.noise(n_samples, batch.astype(np.float64)))

    def noise(self, n_samples: int) -> float:
        """γ of the first step, and of all where the batch size does not change; InputError where it is out of range, or
        where points have weights."""
        return float(noise_factor(n_samples, self.values(n_samples, 0, 1).batch_size, self.sampling)[0])

    def check(self, n_samples: int, n_steps: int) -> None:
        """Refuse a batch that the data cannot fill, or a schedule that leaves its range, before any step is taken."""
        if n_steps == 0:
            return
        if self.is_constant:
            self.values(n_samples, 0, 1)
            return
        self._check_lengths(n_steps)
        points = getattr(self.batch_size, "points", n_samples)  # of epochs: another number would begin them elsewhere
        if points != n_samples:
            raise InputError(f"batch_size: expected epochs of {n_samples} points, got a schedule for {points}")
        block = 100_000
        later = (2**i for i in range(_CHECKED_STEPS.bit_length(), n_steps.bit_length()))
        for start in itertools.chain(range(0, min(n_steps, _CHECKED_STEPS), block), later):
            self.values(n_samples, start, min(start + block, n_steps))

    def check_average(self, n_steps: int) -> None:
        """InputError for an average that would begin after the last of `n_steps`."""
        start = getattr(self.average, "start", 0)
        if start > n_steps:
            raise InputError(f"average: expected one that begins at the last step, {n_steps}, or before; got {start}")

    def _check_lengths(self, n_steps: int) -> None:
        """InputError for a schedule that ends before `n_steps`."""
        for name in schedules.PARAMETERS:
            length = getattr(getattr(self, name), "n_steps", math.inf)
            if length < n_steps:
                raise InputError(f"{name}: expected a value for each of {n_steps} steps, got a schedule of {length}")


def _read(text: str) -> float | str:
    """The number that stands there, else the text."""
    try:
        return float(text)
    except ValueError:
        return text


def has_momentum(sgd: SGD) -> bool:
    """Whether the momentum is ever different from 0, so that velocities have to be kept."""
    return schedules.changes(sgd.momentum) or sgd.momentum != 0


def _evaluate(value: float | int | Schedule, start: int, stop: int) -> np.ndarray:
    if schedules.changes(value):
        with np.errstate(over="ignore", invalid="ignore"):  # who needs the values checks them
            return np.asarray(value(np.arange(start, stop)), dtype=np.float64)
    return np.full(stop - start, float(value))  # type: ignore[arg-type]  # no schedule


def _check_range(name: str, values: np.ndarray, ok: np.ndarray, start: int, rule: str) -> None:
    if not ok.all():
        first = int(np.argmin(ok))
        raise InputError(f"{name}: expected values {rule}, got {values[first]:g} at step {start + first}")
