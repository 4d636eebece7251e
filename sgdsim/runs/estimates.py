"""What a run will need, before anything begins: memory that this machine lacks is refused, long times are told.

Both are rough and on the hopeful side. Memory counts only the arrays that there certainly are; times are those of one
current core, and runs that diverge end earlier.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sgdsim import observables
from sgdsim.common.checks import InputError
from sgdsim.common.warning import warn
from sgdsim.problem import Problem, QuadraticProblem, power_modes

if TYPE_CHECKING:
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.chunks import Settings
    from sgdsim.runs.grids import Cell

_LONG = 3600.0  # seconds of a run that users are warned of
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
    memory = physical_memory()
    if needed > memory:
        raise InputError(
            f"memory: expected at most the {size(memory)} of this machine, got {what} of about {size(needed)}; {advice}"
        )


def check(
    problem: Problem | Callable[..., Problem],
    cells: Sequence[Cell],
    regimes: Sequence[Regime],
    settings: Settings,
) -> None:
    """InputError if the results or states of a sweep cannot fit into memory; a RuntimeWarning if it takes over an hour.

    `problem`: a problem, or a function that makes one for each cell; then N is known where it is on the grid.
    """
    replicates = settings.replicates if any(regime.stochastic for regime in regimes) else 1
    recorded = len(cells) * len(regimes) * replicates * settings.steps.size
    sizes = {"mode": modes(problem, cells[0])}
    numbers = sum(math.prod(sizes[dim] for dim in observable.dims) for observable in settings.observe)
    require_memory("a result", 8.0 * recorded * numbers, "take fewer replicates, or record fewer steps")
    every = cells[:: max(1, len(cells) // 100)]
    total, quantities = 0.0, observables.needed(settings.observe)
    parameters = float(problem.n_parameters) if isinstance(problem, Problem) else 0.0
    together = outputs_together(problem)
    for regime in regimes:
        cost = 0.0
        for cell in every:
            n = modes(problem, cell)
            needed = regime.state_bytes(n, parameters, cell.sgd, settings.replicates)
            require_memory(
                f"a state of the {regime.name} regime", needed, "take fewer points, replicates, or a narrower network"
            )
            each = regime.seconds(n, parameters, cell.sgd, settings.steps, settings.replicates, quantities, together)
            if each > _LONG * settings.steps[-1]:
                raise InputError(
                    f"time: expected steps between which Ctrl-C is heard, got some of about "
                    f"{duration(each / settings.steps[-1])} in the {regime.name} regime; take smaller batches"
                )
            cost += each
        share = 1 if regime.uses_all_cores else min(len(cells), os.cpu_count() or 1)
        total += cost / len(every) * len(cells) / share
    if total > _LONG:
        warn(
            f"this will take about {duration(total)}, unless it diverges; Ctrl-C keeps what is done",
        )


def outputs_together(problem: object) -> int:
    """C where each mode is of all outputs together, as those of a network are as a rule; else 1."""
    if isinstance(problem, QuadraticProblem):
        return problem.spectrum.outputs
    return problem.n_outputs if isinstance(problem, Problem) else 1


def modes(problem: object, cell: Cell) -> float:
    """Number of modes: of points, but for a problem known by quadrature; 1 where it is not known beforehand."""
    if isinstance(problem, Problem):
        return float(problem.n_modes)
    n = cell.problem.get("n") if problem == QuadraticProblem.power_law else None  # to others n may mean anything
    if not isinstance(n, (int, float)):
        return 1.0
    return float(n) if n <= power_modes.EXPLICIT else float(power_modes.ABOUT)


def size(count: float) -> str:
    """Bytes in words: "8 GB", "7.2e+06 TB"."""
    unit, name = next(pair for pair in _BYTES if count >= pair[0] or pair is _BYTES[-1])
    return f"{count / unit:.2g} {name}"


def duration(total: float) -> str:
    """Seconds in words: "3.2 years"."""
    name, unit = next(pair for pair in reversed(_UNITS) if total >= pair[1] or pair[1] == 1)
    return f"{total / unit:.2g} {name}"
