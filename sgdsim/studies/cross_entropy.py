"""Until when the quadratic model of cross-entropy holds, measured: beside the loss itself, on linearised outputs.

Both start at the network's outputs and take the same full batches, with the tangent kernel of the start. So the
network's own nonlinearity and the noise of batches are left out, and what is told is the loss's: probabilities that
sharpen flatten the true loss, while its model goes on down to `QuadraticProblem.loss_offset`, which may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.algorithm.maps import read
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.table import Table
from sgdsim.common.text import short
from sgdsim.problem import Problem
from sgdsim.runs.grids import Grid
from sgdsim.studies.base import Findings

if TYPE_CHECKING:
    import xarray as xr

TOLERANCE = 0.1
_BLOCK = 256  # steps whose maps are held at once
_ROUNDING = 1e-12  # of the loss at the start: differences below it are no model's
_WORK = 2e10  # multiplications, about 20 seconds, after which a command stops looking


@dataclass(frozen=True)
class CrossEntropyHorizon(Findings):
    """Until when the model holds.

    Parameters
    ----------
    step : the first at which the two losses differ by more than `tolerance` of the decrease since the start (where the
        loss does not fall: of its largest change by then); None: not within `n_steps`.
    loss, model_loss : cross-entropy and its model at that step, or at the last one; not finite where they diverged.
    initial_loss : of both.
    n_steps : how many were followed at most, of full batches.
    """

    step: int | None
    loss: float
    model_loss: float
    initial_loss: float
    n_steps: int
    tolerance: float = TOLERANCE

    def table(self) -> Table:
        """The losses at the step."""
        when = "never" if self.step is None else str(self.step)
        return Table(
            ["differs at step", "cross-entropy", "its quadratic model", "at the start"],
            [[when, self.loss, self.model_loss, self.initial_loss]],
            "l",
        )

    def until(self) -> str:
        """The step in a few words."""
        return f"step {self.step}" if self.step is not None else f"step {self.n_steps} at least"

    def sentence(self) -> str:
        """What a reader of losses has to know."""
        at = "" if self.step is None else f"; {short(self.loss)} and {short(self.model_loss)} there"
        return (
            f"the quadratic model of cross-entropy holds until {self.until()} (losses within {self.tolerance:.0%} of "
            f"the decrease{at}, measured at full batch, without the noise of batches); beyond it only the network "
            "regime is cross-entropy"
        )


@np.errstate(over="ignore", invalid="ignore")  # divergence is a result
def cross_entropy_horizon(
    problem: Problem, sgd: SGD, n_steps: int, *, tolerance: float = TOLERANCE
) -> CrossEntropyHorizon:
    """The first of `n_steps` at which cross-entropy on linearised outputs and its quadratic model at the start differ
    by more than `tolerance` of the decrease, with the method, lr and momentum (or schedules) of `sgd`, at full batch.

    Steps cost a product with the kernel, (N(C − 1))² multiplications; the first difference ends them.

    Raises
    ------
    InputError : `problem` is no `NetworkProblem` with loss="cross-entropy", or `sgd` a gradient rule, noisy labels or
        one pass.
    """
    n_steps, tolerance = integer("n_steps", n_steps, minimum=1), number("tolerance", tolerance, minimum=0.0)
    known = problem.expansions[0]
    if known is None:
        raise InputError(
            'problem: expected a NetworkProblem with loss="cross-entropy", whose outputs at the start are known; got '
            f"another, of loss {problem.loss}"
        )
    if sgd.rule is not None or sgd.label_noise or sgd.is_one_pass:
        raise InputError("sgd: expected a linear method without noisy labels on a fixed set of points, got another")
    kernel = problem.quadratic.kernel
    both = np.stack([known.start, known.start])  # the loss itself, and its model
    components = sgd.begins[:, None, None, None] * both
    start = loss = float(known.losses(known.f0).mean())
    model, largest = loss, 0.0
    for step in range(1, n_steps + 1):
        at = (step - 1) % _BLOCK
        if at == 0:
            maps = sgd.maps(step - 1, min(step - 1 + _BLOCK, n_steps))
        slopes = np.stack([known.gradient(known.outputs_of(components[0, 0])), components[0, 1]])
        moved = _times(kernel, slopes)
        components = np.tensordot(maps.transition[at], components, 1) + maps.kick[at][:, None, None, None] * moved
        r, r_model = read(sgd.readout, components)
        loss = float(known.losses(known.outputs_of(r)).mean())
        model = float((r_model**2).sum() / (2 * problem.n)) + problem.loss_offset
        largest = max(largest, abs(loss - start))
        if not abs(loss - model) <= tolerance * largest + _ROUNDING * max(start, abs(problem.loss_offset)):
            return CrossEntropyHorizon(step, loss, model, start, n_steps, tolerance)
    return CrossEntropyHorizon(None, loss, model, start, n_steps, tolerance)


def of_cells(problem: Problem, grid: Grid, n_steps: int) -> list[CrossEntropyHorizon | None]:
    """`looked_for` of each cell of a grid, in its order; cells that differ in their batches alone have the same."""
    known: dict[str, CrossEntropyHorizon | None] = {}
    out = []
    for _, sgd in grid.cells():
        key = str({name: value for name, value in sgd.spec().items() if name not in ("batch_size", "sampling")})
        if key not in known:
            known[key] = looked_for(problem, sgd, n_steps)
        out.append(known[key])
    return out


def marked(result: xr.Dataset, horizons: list[CrossEntropyHorizon | None]) -> xr.Dataset:
    """A result of these cells with the steps until which the model holds, `model_until` (grid…), for its picture."""
    steps = np.array([np.nan if one is None or one.step is None else float(one.step) for one in horizons])
    done = result["done"]
    text = {"long_name": "step until which the quadratic model of the loss holds; NaN: none found"}
    return result.assign(model_until=(done.dims[:-1], steps.reshape(done.shape[:-1]), text))


def looked_for(problem: Problem, sgd: SGD, n_steps: int) -> CrossEntropyHorizon | None:
    """`cross_entropy_horizon` as commands tell it: of so many steps as take about 20 seconds; None where there is none
    to tell."""
    if problem.expansions[0] is None or sgd.rule is not None:
        return None
    most = max(int(_WORK / (2 * problem.n_modes**2)), 100)
    return cross_entropy_horizon(problem, sgd, min(n_steps, most))


def _times(kernel: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """K̂ times both (2, n, K), with a kernel over all outputs (nK, nK), or over the points (n, n)."""
    columns = np.moveaxis(slopes.reshape(2, len(kernel), -1), 0, 1).reshape(len(kernel), -1)
    return np.moveaxis((kernel @ columns).reshape(len(kernel), 2, -1), 1, 0).reshape(slopes.shape)
