"""What an exhibit is: rows of values, pictures to draw, and a paragraph with the numbers; and what it works with."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sgdsim import datasets
from sgdsim.common.checks import InputError
from sgdsim.reproduction.verdicts import Row

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem import NetworkProblem, QuadraticProblem

_T = TypeVar("_T")


class MissingData(Exception):
    """A data set that is not here; the message says which file, and how to get it."""


@dataclass(frozen=True)
class Drawing:
    """A picture to draw: the name of a function of `sgdsim.plot`, what it is called with, and a caption.

    Exhibits compute and know nothing of matplotlib; whoever writes the report draws.
    """

    name: str
    function: str
    arguments: tuple[object, ...]
    caption: str
    options: Mapping[str, object] = field(default_factory=dict)


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
