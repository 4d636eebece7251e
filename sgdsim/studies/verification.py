"""Is a recommended learning rate and momentum a minimum? Simulations there and beside it, on the same batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.shown import Shown
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import percent, steps, tuned
from sgdsim.observables import Loss
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.recurrence import contour
from sgdsim.regimes.base import Regime, Run
from sgdsim.runs.follow import follow
from sgdsim.runs.sweeps import Grid, sweep
from sgdsim.studies.base import Findings

if TYPE_CHECKING:
    from torch import nn

HIGHER, LOWER, SAME, DIVERGES = "higher", "lower", "not distinguishable", "diverges"
_RECORDED = 20  # often enough that a diverged run ends soon
_KERNEL_POINTS = 200  # training points on which the tangent kernel is compared


@dataclass(frozen=True)
class Point:
    """A setting that is simulated: its name, α, β and the spectral-diagonal loss (infinite beyond floating point)."""

    name: str
    lr: float
    momentum: float
    theory: float


@dataclass(frozen=True, repr=False)
class Simulated(Shown):
    """What one regime found at every point, arrays (points,); the first point is the recommended one.

    Parameters
    ----------
    regime : its name.
    mean, stderr : of the loss at the horizon over replicates; infinite where a replicate diverged.
    difference, difference_stderr : from the recommended point, paired by replicate; NaN where one of them is infinite.
    log_ratio, log_ratio_stderr : of log(loss/recommended), paired as well: what a typical run shows. Near the stability
        threshold few runs decide the mean, and the mean of logarithms is known far better.
    diverged : replicates that diverged.
    verdicts : for the points after the first: "higher" or "lower" where the mean difference is over 2 standard errors,
        or where that of logarithms is and has the same sign; else "not distinguishable"; or "diverges".
    kernel_moved : of a network, `‖Θ_T − Θ_0‖/‖Θ_0‖` (Frobenius) of the tangent kernel in the first replicate, NaN where
        that diverged. None for other regimes.
    """

    regime: str
    mean: np.ndarray
    stderr: np.ndarray
    difference: np.ndarray
    difference_stderr: np.ndarray
    log_ratio: np.ndarray
    log_ratio_stderr: np.ndarray
    diverged: np.ndarray
    verdicts: tuple[str, ...]
    kernel_moved: np.ndarray | None = None

    @property
    def is_minimum(self) -> bool:
        """Whether the loss at the recommended point is finite, and at no other point "lower"."""
        return bool(np.isfinite(self.mean[0])) and LOWER not in self.verdicts

    def moved(self, i: int) -> float | None:
        """How far the kernel moved at point i; None where that is not known."""
        return None if self.kernel_moved is None else finite_or_none(self.kernel_moved[i])

    def beside(self, i: int) -> tuple[str, str]:
        """At point i, with errors: the mean's difference from the recommended point, and the ratio to it in a typical
        run; nothing where they are not known."""
        if not math.isfinite(self.difference[i]):
            return "", ""
        difference = f"{self.difference[i]:+.2g} ± {self.difference_stderr[i]:.1g}"
        return difference, f"×{math.exp(self.log_ratio[i]):.3g} ± {100 * self.log_ratio_stderr[i]:.2g}%"

    def as_dict(self) -> dict[str, object]:
        """Whether it is a minimum, and the numbers point by point, as JSON-able values."""
        names = ("mean", "stderr", "difference", "difference_stderr", "log_ratio", "log_ratio_stderr")
        points: list[dict[str, object]] = [
            {name: finite_or_none(getattr(self, name)[i]) for name in names} for i in range(self.mean.size)
        ]
        for point, diverged, verdict in zip(points, self.diverged, (None, *self.verdicts), strict=True):
            point |= {"diverged": int(diverged), "verdict": verdict}
        for i, point in enumerate(points):
            point["kernel_moved"] = self.moved(i)
        return {"is_minimum": self.is_minimum, "points": points}


@dataclass(frozen=True, repr=False)
class Verification(Findings):
    """All points, what each regime found (only regimes that finished) after `horizon` steps with so many `replicates`,
    and whether Ctrl-C ended it early. `kernel_points`: on how many training points tangent kernels were compared."""

    points: tuple[Point, ...]
    regimes: tuple[Simulated, ...]
    interrupted: bool
    horizon: int
    replicates: int
    kernel_points: int = 0

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON-able values; what is infinite or undefined becomes None."""
        return {
            "replicates": self.replicates,
            "points": [
                {"name": p.name, "lr": p.lr, "momentum": p.momentum, "predicted_loss": finite_or_none(p.theory)}
                for p in self.points
            ],
            "regimes": {simulated.regime: simulated.as_dict() for simulated in self.regimes},
            "kernel_points": self.kernel_points,
            "interrupted": self.interrupted,
        }

    def table(self) -> Table:
        """Theory's loss at each point, and the mean of each regime, its standard error and its verdict."""
        headers = ["", "lr", "momentum", "theory"]
        rows: list[list[Cell]] = [[p.name, p.lr, p.momentum, p.theory] for p in self.points]
        for simulated in self.regimes:
            headers += [simulated.regime, f"± {simulated.regime}", f"{simulated.regime} is"]
            columns = zip(simulated.mean, simulated.stderr, (None, *simulated.verdicts), strict=True)
            for row, (mean, error, verdict) in zip(rows, columns, strict=True):
                row += [float(mean), float(error), verdict]
        return Table(headers, rows, "lr")

    def compared(self, found: Simulated) -> Table:
        """One regime in full: the mean, its difference from the recommended point and, typical, the ratio to it; what
        that says; of a network how far its kernel moved."""
        headers = [f"after {steps(self.horizon)}", "lr", "momentum", "theory", f"{found.regime}, mean", "difference"]
        headers += ["typical", "verdict", *([] if found.kernel_moved is None else ["kernel moved"])]
        rows = []
        for i, point in enumerate(self.points):
            verdict = found.verdicts[i - 1] if i else ""
            line: list[Cell] = [point.name, point.lr, tuned(point.momentum), finite_or_none(point.theory)]
            if found.diverged[i]:
                line += [f"diverged {found.diverged[i]}/{self.replicates}", "", ""]
            else:
                line += [f"{found.mean[i]:.4g} ± {found.stderr[i]:.1g}", *(found.beside(i) if i else ("", ""))]
            moved = found.moved(i)
            rows.append(
                [*line, verdict, *([] if found.kernel_moved is None else ["" if moved is None else percent(moved)])]
            )
        return Table(headers, rows, "lr")


def verify(
    problem: Problem,
    lr: float,
    momentum: float,
    *,
    batch_size: int,
    horizon: int,
    regimes: Sequence[Regime],
    sampling: str = WITHOUT_REPLACEMENT,
    tau: float = 1.0,
    change: float = 0.2,
    plain_lr: float | None = None,
    replicates: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> Verification:
    """Simulate (α, β), α(1 ± change) at the same β, and 1 − β times 1 ± change at the same α, for `horizon` steps; with
    `plain_lr` that learning rate without momentum, too.

    All points see the same batches, so that differences are far better known than the losses themselves. A point with
    β ≤ −1 is left out. The optimum is flat: neighbours are often not distinguishable. Losses over batches are
    heavy-tailed near the stability threshold, where standard errors say too little. A network is trained once more at
    every point, on the first replicate's batches, to see how far its tangent kernel moves (on 200 points at most).

    Raises
    ------
    InputError : fewer than 2 replicates, change outside (0, 1), a horizon below 1, and what `sweep` refuses.
    """
    problem.check_squared("verify")
    replicates = integer("replicates", replicates, minimum=2)
    horizon = integer("horizon", horizon, minimum=1)
    change = number("change", change, minimum=0.0, maximum=1.0, open_ends=True)
    for regime in regimes:
        if not regime.stochastic:
            raise InputError(f"regimes: expected some that sample batches, got {regime.name}")
    settings = _settings(lr, momentum, change, plain_lr)
    _, lrs, momenta = zip(*settings, strict=True)
    follow = partial(contour.loss_at, problem.quadratic, horizon, batch_size=batch_size, sampling=sampling, tau=tau)
    theory = follow(lr=np.array(lrs), momentum=np.array(momenta)).loss
    points = tuple(Point(*setting, float(loss)) for setting, loss in zip(settings, theory, strict=True))
    grid = Grid.zip(lr=lrs, momentum=momenta, batch_size=[batch_size], sampling=[sampling])
    record = np.unique(np.geomspace(1, horizon, _RECORDED).round().astype(int)).tolist()
    result = sweep(problem, grid, regimes, horizon, record=record, replicates=replicates, seed=seed, progress=progress)
    final = result["loss"].values[..., -1]  # (points, regimes, replicates)
    done = np.atleast_1d(result["done"].values.all(axis=0))
    compared = [_compare(regime.name, final[:, i]) for i, regime in enumerate(regimes) if done[i]]
    interrupted, count = bool(result.attrs["interrupted"]), 0
    for i, simulated in enumerate(compared):
        if simulated.regime == "network" and not interrupted:
            algorithms = [SGD(point.lr, point.momentum, batch_size, sampling) for point in points]
            moved, interrupted = _kernel_moved(cast(NetworkProblem, problem), algorithms, regimes[i], record, seed)
            compared[i], count = replace(simulated, kernel_moved=moved), compared_points(problem).size
    return Verification(points, tuple(compared), interrupted, horizon, replicates, count)


def _settings(lr: float, momentum: float, change: float, plain_lr: float | None) -> list[tuple[str, float, float]]:
    """Name, learning rate and momentum of each point."""
    settings = [("recommended", lr, momentum)]
    settings += [(f"lr {sign}{change:.0%}", lr * factor, momentum) for sign, factor in _factors(change)]
    settings += [
        (f"1-momentum {sign}{change:.0%}", lr, 1 - factor * (1 - momentum))
        for sign, factor in _factors(change)
        if factor * (1 - momentum) < 2
    ]
    return settings + ([("without momentum", plain_lr, 0.0)] if plain_lr is not None and momentum != 0 else [])


class Trained(Protocol):
    """The run of a network."""

    def network(self, replicate: int) -> nn.Module: ...


def compared_points(problem: Problem) -> np.ndarray:
    """Places of the training points, 200 at most, on which tangent kernels are compared along a run."""
    return np.unique(np.linspace(0, problem.n - 1, min(int(problem.n), _KERNEL_POINTS)).round().astype(int))


def _kernel_moved(
    problem: NetworkProblem, algorithms: list[SGD], regime: Regime, record: list[int], seed: int
) -> tuple[np.ndarray, bool]:
    """`Simulated.kernel_moved` of each algorithm, and whether Ctrl-C came before the last."""
    from sgdsim.networks import ntk

    x = problem.data.x[compared_points(problem)]
    began, out = ntk.empirical_ntk(problem.network, x, device=problem.device), np.full(len(algorithms), np.nan)
    for i, sgd in enumerate(algorithms):

        def look(step: int, run: Run, followed: np.ndarray, i: int = i) -> None:
            if step == record[-1]:
                kernel = ntk.empirical_ntk(cast(Trained, run).network(0), x, device=problem.device)
                out[i] = np.linalg.norm(kernel - began) / np.linalg.norm(began)

        if follow(problem, sgd, regime, np.array(record), (Loss(),), 1, seed, None, look).interrupted:
            return out, True
    return out, False


def _factors(change: float) -> tuple[tuple[str, float], ...]:
    return ("-", 1 - change), ("+", 1 + change)


def _compare(regime: str, losses: np.ndarray) -> Simulated:
    """`losses`: (points, replicates)."""
    mean, stderr = mean_and_error(losses, 1)
    with np.errstate(all="ignore"):
        finite = np.isfinite(mean)
        known = finite & finite[0]
        paired = [*mean_and_error(losses - losses[0], 1), *mean_and_error(np.log(losses / losses[0]), 1)]
    difference, error, log_ratio, log_error = (np.where(known, values, np.nan) for values in paired)
    verdicts = []
    for i in range(1, len(losses)):
        agree = difference[i] * log_ratio[i] > 0 and abs(log_ratio[i]) > 2 * log_error[i]
        if not known[i]:
            verdicts.append(LOWER if finite[i] else DIVERGES)
        elif abs(difference[i]) > 2 * error[i] or agree:
            verdicts.append(HIGHER if difference[i] > 0 else LOWER)
        else:
            verdicts.append(SAME)
    return Simulated(
        regime,
        mean,
        np.where(finite, stderr, np.inf),
        difference,
        error,
        log_ratio,
        log_error,
        np.isinf(losses).sum(1),
        tuple(verdicts),
    )
