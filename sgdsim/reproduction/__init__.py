"""The published numbers and figures of [VKY], reproduced: a list of small exhibits.

Each exhibit sets published values beside ours, with an interval, a verdict and, where they differ, the reason. Sources
are the paper (arXiv:2206.11124) and, where said so, what its authors' public notebooks print
(github.com/Godofnothing/PowerLawOptimization).

May import: common, algorithm, datasets, networks, problem, recurrence, regimes, theory, runs, studies. A new exhibit is
a function in a module here and a line below.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgdsim.common.checks import InputError
from sgdsim.reproduction import exponents, landscapes, memory, momentum, runs
from sgdsim.reproduction.base import Context, Drawing, Exhibit, Finding, MissingData, Picture
from sgdsim.reproduction.verdicts import VERDICTS, Row

__all__ = [
    "EXHIBITS",
    "VERDICTS",
    "Context",
    "Drawing",
    "Exhibit",
    "Finding",
    "MissingData",
    "Picture",
    "Row",
    "choose",
]

EXHIBITS = (
    Exhibit("best-lr", "Best learning rate without momentum", momentum.best_lr),
    Exhibit("best-momentum", "Best momentum at a fixed learning rate", momentum.best_momentum),
    Exhibit("negative-momentum", "Where negative momentum helps", momentum.negative_momentum),
    Exhibit("critical", "The critical eigenvalue", momentum.critical),
    Exhibit("exponents", "Exponents of bike sharing and MNIST", exponents.exponents),
    Exhibit("phases", "Phases", exponents.phases),
    Exhibit("kernel", "The kernel without its square-root factor", exponents.kernel),
    Exhibit("landscape-power-law", "Landscape of the final loss: a power law", landscapes.power_law),
    Exhibit("landscape-mnist", "Landscape of the final loss: MNIST", landscapes.mnist),
    Exhibit("regimes", "Four regimes on data", runs.regimes),
    Exhibit("unscaled-lr", "A network at an unscaled learning rate", runs.unscaled_lr),
    Exhibit("naive-averaged", "The averaged recursion as usually written", runs.naive_averaged),
    Exhibit("stability", "Stable learning rates", runs.stability_maps),
    Exhibit("budget", "Budget independence", runs.budgets),
    Exhibit("memory", "Corner SGD against plain SGD", memory.corner),
)


def choose(names: Sequence[str] | None = None) -> tuple[Exhibit, ...]:
    """The exhibits of these names in the report's order; all for None. InputError names them for an unknown one."""
    if names is None:
        return EXHIBITS
    known = [exhibit.name for exhibit in EXHIBITS]
    for name in names:
        if name not in known:
            raise InputError(f"figure: expected one of {', '.join(known)}; got {name!r}")
    return tuple(exhibit for exhibit in EXHIBITS if exhibit.name in names)
