"""Linear first-order methods with memory, and averages of their iterates; all methods by name.

What a method is to the regimes, and what a new one has to say of itself, is in `sgdsim.algorithm.maps`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from sgdsim.algorithm.maps import Maps, Method
from sgdsim.algorithm.rules import RULES, GradientRule
from sgdsim.algorithm.rules import Adam as Adam  # `methods.Adam` is a name that users know
from sgdsim.algorithm.schedule_free import ScheduleFree
from sgdsim.algorithm.torch_order import TorchOrder
from sgdsim.common import specs
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.rooms import listing
from sgdsim.common.specs import Spec

__dir__ = listing(__name__)


@dataclass(frozen=True)
class HeavyBall(Spec):
    """`v ← βv − αg`, `w ← w + v`."""

    name: ClassVar[str] = "heavy-ball"
    memory: ClassVar[int] = 1
    uses_momentum: ClassVar[bool] = True
    is_stationary: ClassVar[bool] = True

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        return _two(momentum, momentum, lr, lr)


@dataclass(frozen=True)
class Nesterov(Spec):
    """`v ← βv − αg`, `w ← w + βv − αg`: as `torch.optim.SGD(nesterov=True)` for a constant learning rate; the iterates
    are the points at which gradients are taken."""

    name: ClassVar[str] = "nesterov"
    memory: ClassVar[int] = 1
    uses_momentum: ClassVar[bool] = True
    is_stationary: ClassVar[bool] = True

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        return _two(momentum**2, momentum, (1 + momentum) * lr, lr)


def _two(carried: np.ndarray, kept: np.ndarray, direct: np.ndarray, written: np.ndarray) -> Maps:
    """`w' = w + carried·v − direct·g`, `v' = kept·v − written·g`."""
    transition = np.zeros((kept.size, 2, 2))
    transition[:, 0, 0], transition[:, 0, 1], transition[:, 1, 1] = 1.0, carried, kept
    return Maps(transition, np.stack([-direct, -written], 1))


@dataclass(frozen=True)
class Memory(Spec):
    """`w ← w + Σ_m read_m u_m − direct·α g`, `u_m ← decay_m u_m + write_m·α g` (arXiv:2410.04228, with a diagonal D).

    Heavy ball is decay = read = (β,), write = (−1,); Nesterov has read = (β²,) and direct = 1 + β. In Python only.

    Parameters
    ----------
    decay, read, write : M numbers each, M ≥ 1; |decay| ≤ 1.
    direct : share of the gradient that reaches w at once.
    """

    name: ClassVar[str] = "memory"
    uses_momentum: ClassVar[bool] = False
    is_stationary: ClassVar[bool] = True
    decay: tuple[float, ...]
    read: tuple[float, ...]
    write: tuple[float, ...]
    direct: float = 1.0

    def __post_init__(self) -> None:
        for field in ("decay", "read", "write"):
            values = tuple(number(f"memory: {field}", v) for v in np.atleast_1d(getattr(self, field)).tolist())
            object.__setattr__(self, field, values)
        sizes = {len(self.decay), len(self.read), len(self.write)}
        if len(sizes) > 1 or not self.decay:
            raise InputError("memory: expected as many numbers in decay, read and write, at least one")
        if max(map(abs, self.decay)) > 1:
            raise InputError(f"memory: decay: expected numbers from -1 to 1, got {self.decay}")
        number("memory: direct", self.direct)

    @property
    def memory(self) -> int:
        return len(self.decay)

    @property
    def spec(self) -> str:
        vectors = ("decay", "read", "write")
        words = [f"{name}={'/'.join(f'{v:.17g}' for v in getattr(self, name))}" for name in vectors]
        return f"{self.name}:{','.join(words)},direct={self.direct:.17g}"

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        transition = np.diag([1.0, *self.decay])
        transition[0, 1:] = self.read
        kick = np.array([-self.direct, *self.write])
        return Maps(np.tile(transition, (lr.size, 1, 1)), lr[:, None] * kick)


@dataclass(frozen=True)
class Corner(Spec):
    """Corner SGD (Yarotsky, arXiv:2504.12519) with finite memory: slow modes see a gradient whose strength grows.

    An ideal corner of external angle θπ turns the signal exponent ζ of plain SGD into θζ and the noise exponent into
    2 − θ/ν. Here its power function is an exponential sum with `memory` terms: `δ_m = e^(−(m−½)h)`, `h = spread/√M`,
    `w_m = (2−θ) h δ_m^(2−θ)`; `decay = 1 − δ`, `read = 1`, `write = −w(1 − δ)`, `direct = Σ w`. It accelerates up to
    about 1/δ_M steps; beyond, it is plain SGD with learning rate `effective_lr`. Stable at full batch at least up to
    α = 2.

    Parameters
    ----------
    theta : θ, 1 < θ < 2. The largest that helps is `min(2, ν, 2/(ζ + 1/ν))`.
    memory : M ≥ 1 memory vectors.
    spread : l > 0; more of it reaches longer times, with coarser steps between.
    """

    name: ClassVar[str] = "corner"
    uses_momentum: ClassVar[bool] = False
    is_stationary: ClassVar[bool] = True
    theta: float
    memory: int = 5
    spread: float = 5.0

    def __post_init__(self) -> None:
        number("corner: theta", self.theta, minimum=1.0, maximum=2.0, open_ends=True)
        integer("corner: memory", self.memory, minimum=1, maximum=100)
        if number("corner: spread", self.spread) <= 0:
            raise InputError(f"corner: spread: expected a number > 0, got {self.spread}")

    def as_memory(self) -> Memory:
        """The method in full."""
        h = self.spread / np.sqrt(self.memory)
        delta = np.exp(-(np.arange(1, self.memory + 1) - 0.5) * h)
        weights = (2 - self.theta) * h * delta ** (2 - self.theta)
        ones = (1.0,) * self.memory
        return Memory(tuple(1 - delta), ones, tuple(-weights * (1 - delta)), float(weights.sum()))

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        return self.as_memory().maps(steps, lr, momentum)


@dataclass(frozen=True)
class AM1(Spec):
    """Accelerated memory-1 (after Yarotsky & Velikanov, arXiv:2410.04228, sec. 5): `w ← w + u − αg`,
    `u ← (1 − δ_t)u − α a_t δ_t g` with `δ_t = (1 + t/offset)^(−power)` and `a_t = boost·(δ_t^(−(1−1/ν)) − 1)`.

    The effective learning rate α(1 + a_t) grows as fast as mini-batch noise on a spectrum `λ_k ~ k^−ν` allows:
    modes with λ > δ_t/α add noise like `a_t δ_t^(1−1/ν)`. In the signal-dominated phase the loss then falls like
    `t^(−ζ(1 + power(1 − 1/ν)))`, towards `t^(−ζ(2−1/ν))`.

    Parameters
    ----------
    nu : exponent ν of the spectrum, > 1.
    power : from 0 to 1, below 1 to be safe.
    boost, offset : > 0; strength of the memory, and the steps after which it begins to grow.
    """

    name: ClassVar[str] = "am1"
    memory: ClassVar[int] = 1
    uses_momentum: ClassVar[bool] = False
    is_stationary: ClassVar[bool] = False
    nu: float
    power: float = 0.95
    boost: float = 1.0
    offset: float = 1.0

    def __post_init__(self) -> None:
        if number("am1: nu", self.nu) <= 1:
            raise InputError(f"am1: nu: expected a number > 1, got {self.nu}")
        number("am1: power", self.power, minimum=0.0, maximum=1.0)
        for field in ("boost", "offset"):
            if number(f"am1: {field}", getattr(self, field)) <= 0:
                raise InputError(f"am1: {field}: expected a number > 0, got {getattr(self, field)}")

    def maps(self, steps: np.ndarray, lr: np.ndarray, momentum: np.ndarray) -> Maps:
        delta = (1 + np.asarray(steps) / self.offset) ** -self.power
        growth = self.boost * (delta ** -(1 - 1 / self.nu) - 1)
        return _two(np.ones_like(delta), 1 - delta, lr, lr * growth * delta)


@dataclass(frozen=True)
class EMA(Spec):
    """Exponential average `ω ← decay·ω + (1 − decay)w`, from ω_0 = w_0."""

    name: ClassVar[str] = "ema"
    decay: float

    def __post_init__(self) -> None:
        number("ema: decay", self.decay, minimum=0.0, maximum=1.0)

    def weights(self, steps: np.ndarray) -> np.ndarray:
        """The weight κ of the old average in the steps, (T,)."""
        return np.full(np.size(steps), float(self.decay))


@dataclass(frozen=True)
class Tail(Spec):
    """Polyak–Ruppert: the mean of the iterates `w_start, w_(start+every), …`; before `start`, the iterate itself."""

    name: ClassVar[str] = "tail"
    start: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        integer("tail: start", self.start)
        integer("tail: every", self.every, minimum=1)

    def weights(self, steps: np.ndarray) -> np.ndarray:
        """The weight κ of the old average in the steps, (T,)."""
        after = np.asarray(steps, dtype=np.int64) + 1 - self.start  # the step leads to iterate start + after
        counted = (after >= 0) & (after % self.every == 0)
        count = np.maximum(after, 0) // self.every + 1
        return np.where(after < 0, 0.0, np.where(counted, 1 - 1 / count, 1.0))


Average = EMA | Tail
METHODS = {kind.name: kind for kind in (HeavyBall, Nesterov, TorchOrder, Corner, AM1, ScheduleFree)} | RULES
AVERAGES: dict[str, type[Average]] = {kind.name: kind for kind in (EMA, Tail)}


def parse_method(text: str) -> Method | GradientRule:
    """The method called heavy-ball, nesterov, corner:theta=1.8,memory=15, am1:nu=1.5, or a gradient rule such as adam;
    InputError for others."""
    return cast(Method | GradientRule, specs.parse("method", "name", text, METHODS))


def parse_average(text: str) -> Average | None:
    """The average called ema:decay=0.99 (or ema:0.99), tail:start=1000,every=10, or none; InputError for others."""
    if text == "none":
        return None
    head, _, tail = text.partition(":")
    if head == "ema" and tail and "=" not in tail:
        text = f"ema:decay={tail}"
    return specs.parse("average", "name", text, AVERAGES)
