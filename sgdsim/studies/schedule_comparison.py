"""Learning-rate schedules and averages of iterates for a run of T steps, each at its best: what they are worth, and how
far the theory's losses can be relied on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np

from sgdsim.algorithm.methods import EMA, Tail
from sgdsim.algorithm.schedules import Piecewise, Polynomial, Power, WarmupCosine, WarmupStableDecay
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.jsonable import jsonable
from sgdsim.common.shown import Shown
from sgdsim.common.specs import Spec
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import doubt
from sgdsim.regimes import SampledLinearized
from sgdsim.runs.simulation import simulate
from sgdsim.studies.base import Findings
from sgdsim.theory import best_schedules, stability
from sgdsim.theory.best_schedules import Scheduled
from sgdsim.theory.verdicts import Verdict, verdicts

_NEAR = 0.1  # relative difference from which on the theory is said to be off


@dataclass(frozen=True, eq=False, repr=False)
class JudgedSchedule(Shown):
    """A schedule at its best: `largest_lr`, whether that is exactly stable when held, the relative error of the loss
    where Lanczos quadrature made the problem (else 0), the `ratio` of the loss to that of the best constant rate;
    `sampled`: final losses of sampled runs, where they were asked for."""

    scheduled: Scheduled
    largest_lr: float
    known: Verdict
    loss_error: float
    ratio: float
    sampled: np.ndarray | None

    @property
    def name(self) -> str:
        """Of its form."""
        return self.scheduled.name

    def means(self) -> dict[str, float]:
        """The mean of the sampled losses with its standard error, as it is and relative to the theory; infinite or NaN
        where a run diverged, nothing without such runs."""
        if self.sampled is None:
            return {}
        with np.errstate(all="ignore"):
            numbers = dict(zip(("sampled", "sampled_stderr"), mean_and_error(self.sampled), strict=True))
            numbers |= {f"{name}_to_theory": value / self.scheduled.loss for name, value in numbers.items()}
        return {name: float(value) for name, value in numbers.items()}

    @property
    def is_off(self) -> bool:
        """Whether the sampled loss is off the theory's by more than three standard errors and more than a tenth."""
        means = self.means() or {"sampled": 0.0, "sampled_to_theory": 1.0, "sampled_stderr_to_theory": 0.0}
        distance = abs(means["sampled_to_theory"] - 1)
        # Where a mean is several times too large, few runs decide it, and its standard error says nothing.
        far = distance > 1 or distance > max(_NEAR, 3 * means["sampled_stderr_to_theory"])
        return far or not math.isfinite(means["sampled"])

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it; `parameters` are those of the schedule and of the average."""
        one = self.scheduled
        parts = [part for part in (one.lr, one.average) if isinstance(part, Spec)]
        own = {field.name: getattr(part, field.name) for part in parts for field in fields(part)}
        facts: dict[str, object] = {"name": self.name, "lr": one.lr, "average": one.average}
        facts["parameters"] = own if isinstance(one.lr, Spec) else {"lr": one.lr} | own
        facts |= {"largest_lr": self.largest_lr, "stable": self.known.stable, "stable_reason": self.known.reason}
        facts |= {"loss": one.loss, "loss_error": self.loss_error, "ratio": self.ratio} | self.means()
        return {name: jsonable(value) for name, value in facts.items()}


@dataclass(frozen=True, eq=False, repr=False)
class ScheduleComparison(Findings):
    """All schedules, the best first.

    Parameters
    ----------
    horizon : steps of the run.
    max_lr, max_lr_exact : the largest stable constant rates by theory and, where it takes seconds, exactly (else None).
    losses : (schedules, replicates) of sampled runs, the same batches for all; None where there are none.
    interrupted : whether Ctrl-C ended the sampled runs, so that there are none.
    """

    rows: tuple[JudgedSchedule, ...]
    horizon: int
    max_lr: float
    max_lr_exact: float | None
    losses: np.ndarray | None
    interrupted: bool

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON-able values."""
        return {
            "max_lr": self.max_lr,
            "max_lr_exact": self.max_lr_exact,
            "rows": [row.as_dict() for row in self.rows],
            "warnings": self.warnings(),
        }

    def table(self) -> Table:
        """A row for each schedule: its parameters, whether its largest rate is stable, and its final loss."""
        headers = ["schedule", "at its best", "stable", "loss", "to constant"]
        headers += [] if self.losses is None else ["sampled", "to theory"]
        lines = []
        for row in self.rows:
            line: list[Cell] = [row.name, _words(row.scheduled), row.known.word, row.scheduled.loss]
            line.append(_ratio(row.ratio, ".4f"))
            if means := row.means():
                for end, shown in (("", short), ("_to_theory", lambda mean: _ratio(mean, ".3f"))):
                    mean, error = means[f"sampled{end}"], means[f"sampled_stderr{end}"]
                    line.append(f"{shown(mean)} ± {error:.1g}" if math.isfinite(mean) else "diverges")
            lines.append(line)
        return Table(headers, lines, "llr")

    def best_closed_form(self) -> Spec | None:
        """The one with the least loss (by sampled runs, where there are any) of those that a text of few numbers
        describes, in four digits."""
        closed = []
        for row in self.rows:
            lr, loss = row.scheduled.lr, row.means().get("sampled", row.scheduled.loss)
            if isinstance(lr, Spec) and not isinstance(lr, Piecewise) and math.isfinite(loss):
                closed.append((loss, lr))
        return _rounded(min(closed, key=lambda pair: pair[0])[1]) if closed else None

    def warnings(self) -> list[str]:
        """Where the theory's losses are not to be relied on: by the exact threshold, sampled runs, Lanczos
        quadrature."""
        out, exact = [], self.max_lr_exact
        if exact is not None and exact < (1 - _NEAR) * self.max_lr:
            fast = [row.name for row in self.rows if row.largest_lr > (1 - 2 * _NEAR) * exact]
            if fast:
                out.append(
                    f"at this momentum the exact threshold is {1 - exact / self.max_lr:.0%} below that of the theory, "
                    f"and these have rates near or above it: {', '.join(fast)}; their losses are larger than the "
                    "theory's"
                )
        off = [row.name for row in self.rows if row.is_off]
        if off:
            out.append(
                f"sampled runs do not confirm the theory's loss to {_NEAR:.0%} for: {', '.join(off)}; "
                "go by the column sampled"
            )
        off = [row.name for row in self.rows if not row.loss_error <= doubt.KNOWN]
        if off:
            out.append(
                f"Lanczos quadrature does not tell the final loss to {doubt.KNOWN:.0%} for: {', '.join(off)}; more "
                "Lanczos steps or probes tell more"
            )
        return out


def compare(
    problem: QuadraticProblem,
    sgd: SGD,
    horizon: int,
    pieces: int,
    *,
    tau: float = 1.0,
    replicates: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ScheduleComparison:
    """The best of each form after `horizon` steps (`theory.best_schedules.compare`), each judged.

    `replicates`: also run them all on sampled batches, that many sequences of them. Raises InputError for what theory
    and `simulate` refuse.
    """
    problem.check_squared("schedule")
    sgd.pull(None)  # refuses weight decay
    compared = best_schedules.compare(problem, sgd, horizon, pieces, tau=tau, averages=True)
    max_lr, exact = _limits(problem, sgd, tau)
    losses = None if replicates is None else _losses(problem, sgd, compared, horizon, replicates, seed, progress)
    constant = next(scheduled.loss for scheduled in compared if scheduled.name == "constant")
    largest = [float(np.max(one.lr(np.arange(horizon)))) if callable(one.lr) else one.lr for one in compared]
    known = verdicts(problem, [replace(sgd, lr=lr) for lr in largest])
    rows = [
        JudgedSchedule(
            one,
            largest[i],
            known[i],
            _loss_error(problem, replace(sgd, lr=one.lr, average=one.average), horizon, tau),
            one.loss / constant,
            None if losses is None else losses[i],
        )
        for i, one in enumerate(compared)
    ]
    return ScheduleComparison(tuple(rows), horizon, max_lr, exact, losses, replicates is not None and losses is None)


def _losses(
    problem: QuadraticProblem, sgd: SGD, compared: list[Scheduled], horizon: int, replicates: int, seed: int, bar: bool
) -> np.ndarray | None:
    """Final losses on sampled batches, (schedules, replicates); None after Ctrl-C."""
    losses = []
    for scheduled in compared:
        own = replace(sgd, lr=scheduled.lr, average=scheduled.average)
        result = simulate(
            problem, own, SampledLinearized(), horizon, record=[horizon], replicates=replicates, seed=seed, progress=bar
        )
        if result.attrs["interrupted"]:
            return None
        losses.append(result["loss"].values[0, :, -1])
    return np.array(losses)


def _limits(problem: QuadraticProblem, sgd: SGD, tau: float) -> tuple[float, float | None]:
    """The largest stable constant rates, by theory and exactly."""
    plain, exact = replace(sgd, label_noise=0.0), None
    if problem.n <= stability.EXACT_BESIDE and problem.multiplicity is None:
        exact = stability.max_lr(problem, plain, "exact", tolerance=1e-4)
    return stability.max_lr(problem, plain, tau=tau), exact


def _loss_error(problem: QuadraticProblem, sgd: SGD, horizon: int, tau: float) -> float:
    if not problem.alternatives:
        return 0.0
    runs = doubt.Doubted("schedule", problem, sgd, tau)
    runs.advance(0, horizon)
    runs.observe(("loss",))
    return float(runs.errors()[0])


def _ratio(value: float, digits: str) -> str:
    return f"{value:{digits}}" if value < 1e4 else f"{value:.3g}"


def _rounded(lr: Spec) -> Spec:
    return replace(lr, **{f.name: float(f"{v:.4g}") for f in fields(lr) if isinstance(v := getattr(lr, f.name), float)})


def _words(scheduled: Scheduled) -> str:
    """The parameters of a schedule in words."""
    match scheduled.lr, scheduled.average:
        case lr, None if isinstance(lr, float):
            return f"lr {lr:.4g}"
        case lr, EMA(decay):
            return f"lr {lr:.4g}, decay {decay:.4g}"
        case lr, Tail(start):
            return f"lr {lr:.4g}, from step {start}"
        case Piecewise(_, rates), _:
            # Three digits: the loss is so flat in the single pieces that the fourth is the optimizer's.
            return f"lr {rates[0]:.3g} … {max(rates):.3g} … {rates[-1]:.3g}"
        case WarmupCosine(peak), _:
            return f"from lr {peak:.4g}"
        case Polynomial(start, power=power), _:
            return f"{start:.4g}·(1 - t/T)" + (f"^{power:.4g}" if scheduled.name != "linear" else "")
        case WarmupStableDecay(peak, decay=decay, warmup=warmup), _:
            return f"lr {peak:.4g}, {f'warm-up {warmup}, ' if warmup else ''}decay in the last {decay}"
        case Power(start, exponent, offset), _:
            return f"{start:.4g}·(1 + t/{offset:g})^-{exponent:.4g}"
    raise AssertionError(scheduled)
