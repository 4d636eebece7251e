"""What an exhibit is: rows with published values beside ours, pictures to draw, and a paragraph with the numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.stats

from sgdsim import datasets
from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem import NetworkProblem, QuadraticProblem
    from sgdsim.problem.fits import Estimate

REPRODUCED, PRECISE = "reproduced", "reproduced, more precisely"
DIFFERS, UNDETERMINED, EVIDENCE = "differs", "not determined by the data", "evidence"
VERDICTS = {
    REPRODUCED: "the published value agrees with ours to the digits it is given in, or lies in our interval",
    PRECISE: "the published value lies in our interval, and ours is computed without the grid that limited it",
    DIFFERS: "the published value lies outside our interval; the reason is given",
    UNDETERMINED: "the published value lies in our interval, or does as well as ours, but so do very different ones",
    EVIDENCE: "nothing published to compare with; the row supports a reason given elsewhere, or shows a known trap",
}


_T = TypeVar("_T")


class MissingData(Exception):
    """A data set that is not here; the message says which file, and how to get it."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    quantity : what is compared, with its setting.
    published : as printed, with its source where that is not the paper itself; "–" where there is nothing.
    ours, interval : our value, and the interval around it with a word on what kind of interval it is.
    verdict : one of `VERDICTS`.
    reason : one or two sentences; required where ours differs.
    values : the numbers behind, JSON-able.
    """

    quantity: str
    published: str
    ours: str
    interval: str
    verdict: str
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"verdict: expected one of {', '.join(VERDICTS)}; got {self.verdict!r}")
        if self.verdict == DIFFERS and not self.reason:
            raise InputError(f"reason: expected one for {self.quantity!r}, as it differs; got none")


@dataclass(frozen=True)
class Drawing:
    """A picture to draw: the name of a function of `sgdsim.plot`, what it is called with, and a caption.

    Exhibits compute and know nothing of matplotlib; whoever writes the report draws.
    """

    name: str
    function: str
    arguments: tuple[Any, ...]
    caption: str
    options: dict[str, Any] = field(default_factory=dict)


Picture = Drawing  # as it was called before `plot.showing` had one too


@dataclass(frozen=True)
class Finding:
    """What an exhibit found."""

    rows: tuple[Row, ...]
    text: str
    pictures: tuple[Drawing, ...] = ()


@dataclass(frozen=True)
class Exhibit:
    """A named part of the report: its title, and the function that works it out."""

    name: str
    title: str
    work: Callable[[Context], Finding]


class Context:
    """Sizes, seed and data of one run of the report; problems that several exhibits use are made once.

    Parameters
    ----------
    full : the paper's sizes rather than those that take seconds.
    data_dir : folder of the data sets; None: `$SGDSIM_DATA`, else data/.
    seed : of samples of data, networks and batches.
    """

    def __init__(self, full: bool = False, data_dir: str | os.PathLike[str] | None = None, seed: int = 0) -> None:
        self.full, self.data_dir, self.seed = full, data_dir, seed
        self._made: dict[Hashable, Any] = {}

    def size(self, small: int, full: int) -> int:
        """`full` with the paper's sizes, else `small`."""
        return full if self.full else small

    def once(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """`make()`, or what it gave when the same key was asked for before."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def data(self, name: str, n: int, seed: int | None = None) -> datasets.Dataset:
        """`n` training points without test points; MissingData where the files are not here."""
        seed = self.seed if seed is None else seed

        def load() -> datasets.Dataset:
            try:
                return datasets.load(name, n, seed, n_test=0, data_dir=self.data_dir)
            except InputError as error:
                if self.has(name):
                    raise
                raise MissingData(str(error)) from error

        return self.once(("data", name, n, seed), load)

    def has(self, name: str) -> bool:
        """Whether all files of a data set are here."""
        return all(file["present"] for file in datasets.status(name, self.data_dir))

    def present(self, names: Sequence[str]) -> list[str]:
        """Those that are here; MissingData where none is."""
        here = [name for name in names if self.has(name)]
        if not here:
            self.data(names[0], 1)  # tells which file is missing
        return here

    def absent(self, names: Sequence[str]) -> str:
        """A sentence about those that are not here; empty where all are."""
        gone = [name for name in names if not self.has(name)]
        return f"Not here, so left out: {', '.join(gone)}." if gone else ""

    def network(self, name: str, n: int, width: int, seed: int | None = None) -> NetworkProblem:
        """A network with one hidden layer of ReLU units on a data set."""
        from sgdsim.networks import MLP
        from sgdsim.problem import NetworkProblem

        seed = self.seed if seed is None else seed
        data = self.data(name, n, seed)
        return self.once(("network", name, n, width, seed), lambda: NetworkProblem(MLP(width, seed=seed), data))

    def analytic(self, name: str, n: int, kind: str, seed: int | None = None) -> QuadraticProblem:
        """The infinitely wide network on a data set, from zero outputs (r_0 = −y); `kind`: of `kernels.KERNELS`."""
        from sgdsim.problem import QuadraticProblem
        from sgdsim.reproduction.kernels import KERNELS, SHORT

        seed = self.seed if seed is None else seed
        data = self.data(name, n, seed)
        title = f"{name}, N = {n}, {SHORT[kind]}"

        def make() -> QuadraticProblem:
            facts = {"kind": "kernel", "title": title, "n": n}
            return QuadraticProblem.from_kernel(KERNELS[kind](data.x), -data.y, description=facts)

        return self.once(("analytic", name, n, kind, seed), make)


def finished(result: xr.Dataset) -> xr.Dataset:
    """The result of a sweep; KeyboardInterrupt where Ctrl-C cut it short, RuntimeError where a cell failed."""
    if result.attrs["interrupted"]:
        raise KeyboardInterrupt
    if "error" in result and (result["error"].values != "").any():
        raise RuntimeError(f"a cell failed: {next(text for text in result['error'].values.ravel() if text)}")
    return result


def next_sample(values: np.ndarray) -> tuple[float, float]:
    """95% prediction interval of one more value like these, taken for normal (Student's t); two values at least."""
    values = np.asarray(values, dtype=np.float64)
    half = scipy.stats.t.ppf(0.975, values.size - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / values.size)
    return float(values.mean() - half), float(values.mean() + half)


def within(value: float, low: float, high: float, decimals: int) -> bool:
    """Whether a value printed with so many decimals can lie in the interval [low, high]."""
    half = 0.5 * 10.0**-decimals
    return low - half <= value <= high + half


def judged(value: float, decimals: int, estimate: Estimate, loose: float) -> str:
    """The verdict on a published value beside an estimate; intervals wider than `loose` determine nothing."""
    if not within(value, estimate.low, estimate.high, decimals):
        return DIFFERS
    return REPRODUCED if estimate.high - estimate.low <= loose else UNDETERMINED


def shown(value: float, digits: int = 3) -> str:
    """A number for the table, with a true minus sign and powers of ten written out."""
    if not math.isfinite(value):
        return "infinite" if value > 0 else "undefined"
    text, _, power = f"{value:.{digits}g}".partition("e")
    return (text if not power else f"{text}·10^{int(power)}").replace("-", "−")


def span(low: float, high: float, decimals: int = 2, kind: str = "") -> str:
    """An interval for the table, and in brackets what kind it is."""
    text = f"{low:.{decimals}f} … {high:.{decimals}f}".replace("-", "−")
    return f"{text} ({kind})" if kind else text
