"""What a run will need, before anything begins: memory that is not available is refused, long times are told.

Both are rough. Memory is what was measured at the peak, without what depends on the machine; times are those of one
current core, and runs that diverge end earlier.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sgdsim import observables
from sgdsim.common import memory
from sgdsim.common.checks import InputError
from sgdsim.common.text import duration
from sgdsim.common.warning import warn
from sgdsim.problem import Problem, QuadraticProblem, power_modes

if TYPE_CHECKING:
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.chunks import Settings
    from sgdsim.runs.grids import Cell

_LONG = 3600.0  # seconds of a run that users are warned of
_ALIKE = 1.5  # ratio of the times of two cells, up to which one tells of the other


class Cost(NamedTuple):
    """Of a cell in a regime: seconds on average, 0 where there is no estimate, and whether all cells cost alike."""

    seconds: float
    alike: bool


def check(
    problem: Problem | Callable[..., Problem],
    cells: Sequence[Cell],
    regimes: Sequence[Regime],
    settings: Settings,
) -> list[Cost]:
    """InputError if the results or states of a sweep cannot fit into memory; a RuntimeWarning if it takes over an hour.

    `problem`: a problem, or a function that makes one for each cell; then N is known where it is on the grid. Returns
    what a cell costs in each regime.
    """
    replicates = settings.replicates if any(regime.stochastic for regime in regimes) else 1
    recorded = len(cells) * len(regimes) * replicates * settings.steps.size
    sizes = {"mode": modes(problem, cells[0])}
    numbers = sum(math.prod(sizes[dim] for dim in observable.dims) for observable in settings.observe)
    once = 8.0 * recorded * numbers * (1 + 2 / (len(cells) * len(regimes)))  # a cell's own record twice beside it
    memory.require("a result", once, "take fewer --replicates, or record fewer steps (--record-every)")
    every = cells[:: max(1, len(cells) // 100)]
    total, costs = 0.0, list[Cost]()
    parameters = float(problem.n_parameters) if isinstance(problem, Problem) else 0.0
    together = outputs_together(problem)
    for regime in regimes:
        needed, times, quantities = 0.0, list[float](), observables.needed(regime.known(settings.observe))
        for cell in every:
            n = modes(problem, cell)
            needed = max(needed, regime.state_bytes(n, parameters, cell.sgd, settings.replicates))
            each = regime.seconds(n, parameters, cell.sgd, settings.steps, settings.replicates, quantities, together)
            if each > _LONG * settings.steps[-1]:
                raise InputError(
                    f"time: expected steps between which Ctrl-C is heard, got some of about "
                    f"{duration(each / settings.steps[-1])} in the {regime.name} regime; take smaller batches"
                )
            times.append(each)
        what = f"a state of the {regime.name} regime"
        memory.require(what, needed, "take fewer points (--n) or --replicates, a smaller --width, or another --regime")
        alike = isinstance(problem, Problem) and max(times) <= _ALIKE * min(times)
        costs.append(Cost(sum(times) / len(times), alike))
        share = 1 if regime.uses_all_cores else min(len(cells), os.cpu_count() or 1)
        total += costs[-1].seconds * len(cells) / share
    if total > _LONG:
        warn(
            f"this will take about {duration(total)}, unless it diverges; Ctrl-C keeps what is done",
        )
    return costs


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
