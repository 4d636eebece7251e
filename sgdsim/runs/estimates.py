"""What a run will need, before anything begins: memory that this machine lacks is refused, long times are told.

Both are rough and on the hopeful side. Memory counts only the arrays that there certainly are; times are those of one
current core, and runs that diverge end earlier.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgdsim.algorithm.methods import Adam
from sgdsim.algorithm.sampling import ONE_PASS
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.problem import NetworkProblem, QuadraticProblem

if TYPE_CHECKING:
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.chunks import Settings
    from sgdsim.runs.grids import Cell

TOLD_FROM = 3600.0  # seconds
_FLOPS = 2e10  # floating point operations of a core in a second, in matrix products
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
_UNITS = (("s", 1), ("minutes", 60), ("hours", 3600), ("days", 86400), ("years", 31557600))


def physical_memory() -> float:
    """Bytes of memory that this machine has; infinite where that is not known."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return math.inf


def require_memory(what: str, needed: float, advice: str) -> None:
    """InputError if `what` needs more bytes than this machine has at all."""
    there = physical_memory()
    if needed > there:
        raise InputError(
            f"memory: expected at most the {size(there)} of this machine, got {what} of about {size(needed)}; {advice}"
        )


def check(
    problem: QuadraticProblem | NetworkProblem | object,
    cells: Sequence[Cell],
    regimes: Sequence[Regime],
    settings: Settings,
) -> None:
    """InputError if the results or states of a sweep cannot fit into memory; a RuntimeWarning if it takes over an hour.

    `problem`: a problem, or a function that makes one for each cell; then N is known where it is on the grid.
    """
    held = settings.replicates if any(regime.stochastic for regime in regimes) else 1
    recorded = len(cells) * len(regimes) * held * settings.steps.size
    numbers = len(settings.observe) + ("moments" in settings.observe) * (modes(problem, cells[0]) - 1)
    require_memory("a result", 8.0 * recorded * numbers, "take fewer replicates, or record fewer steps")
    every = cells[:: max(1, len(cells) // 100)]
    total = 0.0
    for regime in regimes:
        cost = 0.0
        for cell in every:
            n = modes(problem, cell)
            needed = state_bytes(regime, problem, n, cell.sgd, settings.replicates)
            require_memory(
                f"a state of the {regime.name} regime", needed, "take fewer points, replicates, or a narrower network"
            )
            each = seconds(regime, problem, n, cell.sgd, settings)
            if each > TOLD_FROM * settings.steps[-1]:
                raise InputError(
                    f"time: expected steps between which Ctrl-C is heard, got some of about "
                    f"{duration(each / settings.steps[-1])} in the {regime.name} regime; take smaller batches"
                )
            cost += each
        share = 1 if regime.uses_all_cores else min(len(cells), os.cpu_count() or 1)
        total += cost / len(every) * len(cells) / share
    if total > TOLD_FROM:
        warnings.warn(
            f"this will take about {duration(total)}, unless it diverges; Ctrl-C keeps what is done",
            RuntimeWarning,
            stacklevel=3,
        )


def modes(problem: object, cell: Cell) -> float:
    """Number of modes: of points, but for a problem known by quadrature; 1 where it is not known beforehand."""
    if isinstance(problem, QuadraticProblem):
        return float(problem.spectrum.n_modes)
    if isinstance(problem, NetworkProblem):
        return float(problem.n)
    n = cell.problem.get("n") if problem == QuadraticProblem.power_law else None  # to others n may mean anything
    return float(n) if isinstance(n, (int, float)) else 1.0


def state_bytes(regime: Regime, problem: object, n: float, sgd: SGD, replicates: int) -> float:
    """Bytes that a regime holds at once for one cell, at least."""
    kind = regime.name.partition(":")[0]
    components = sgd.components if not sgd.is_plain else 1
    if kind == "network":
        return 8.0 * parameters(problem) * replicates * components
    batch = sgd.batch_size if isinstance(sgd.batch_size, int) and sgd.sampling != ONE_PASS else 1
    drawn = 4.0 * replicates * batch
    if isinstance(sgd.method, Adam):
        return 8.0 * parameters(problem) * (n + 3 * replicates) + drawn
    if kind == "sampled":
        return 8.0 * n * (2 * n * (sgd.sampling != ONE_PASS) + replicates * components) + drawn
    if kind == "averaged":
        return 8.0 * n * n * 2
    return 8.0 * n * (3 if sgd.is_plain else components**2)


def seconds(regime: Regime, problem: object, n: float, sgd: SGD, settings: Settings) -> float:
    """Seconds of one cell on one core, very roughly."""
    from sgdsim.recurrence import contour

    kind, steps, runs = regime.name.partition(":")[0], float(settings.steps[-1]), settings.replicates
    size = float(sgd.batch_size) if isinstance(sgd.batch_size, int) else min(n, 10.0)
    if kind == "network" or isinstance(sgd.method, Adam):
        return steps * (1e-4 + 6 * parameters(problem) * size * runs / _FLOPS)
    if kind == "sampled":
        return steps * runs * (1e-7 + n * size * (1e-9 if sgd.sampling == ONE_PASS else 1e-10))
    if kind == "averaged":
        return steps * (1e-5 + min(4 * n**3, 40 * n**2 + 4e6) / _FLOPS)
    direct = sgd.is_constant and sgd.is_plain and settings.observe == ("loss",)
    method = getattr(regime, "method", "auto")
    if direct and (method == "contour" or (method == "auto" and contour.is_cheaper(settings.steps))):
        return (2e-5 + 6e-8 * n) * settings.steps.size
    return steps * (1e-8 + 4e-10 * n * (1 if sgd.is_plain else 10 * sgd.components**2))


def parameters(problem: object) -> float:
    """Number of trainable parameters; 0 where there is no network."""
    if not isinstance(problem, NetworkProblem):
        return 0.0
    return float(sum(p.numel() for p in problem.network.parameters() if p.requires_grad))


def size(count: float) -> str:
    """Bytes in words: "8 GB", "7.2e+06 TB"."""
    unit, name = next(pair for pair in _BYTES if count >= pair[0] or pair is _BYTES[-1])
    return f"{count / unit:.2g} {name}"


def duration(total: float) -> str:
    """Seconds in words: "3.2 years"."""
    name, unit = next(pair for pair in reversed(_UNITS) if total >= pair[1] or pair[1] == 1)
    return f"{total / unit:.2g} {name}"
