"""The largest stable learning rates at each level of theory, for algorithms that differ in momentum and batch size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.progress import Bar
from sgdsim.common.specs import readable, shortest
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import counted, short
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.studies.base import Findings
from sgdsim.theory import power_law, stability, verdicts


@dataclass(frozen=True)
class Limits:
    """The largest stable α of one algorithm at each level, with closure `tau`; None: not asked for, or not known.

    `surely_stable`: up to where every training point's own Ũ(1) is below 1. `noise`: γ. `note`: where the
    spectral-diagonal level is not known to be sufficient.
    """

    batch_size: int
    momentum: float
    tau: float
    sampling: str
    method: str
    noise: float
    full_batch: float
    spectral_diagonal: float
    surely_stable: float | None
    exact: float | None
    torch_lr_per_alpha: float
    note: str | None


@dataclass(frozen=True)
class Critical:
    """λ_crit, and the largest stable α/(1 − β) as β → 1 (None: no bound), of heavy ball."""

    batch_size: int
    tau: float
    noise: float
    critical_eigenvalue: float
    effective_lr: float | None


@dataclass(frozen=True)
class Asked:
    """Whether one learning rate α of an algorithm is stable, exactly at this N; `reason`: what decided it, or why it is
    not known (`stable` is None)."""

    batch_size: int
    momentum: float
    lr: float
    stable: bool | None
    reason: str


@dataclass(frozen=True, repr=False)
class StableRates(Findings):
    """Of each algorithm with each τ; `critical`: for each τ and batch size. `interrupted`: by Ctrl-C, exact levels are
    missing."""

    rows: tuple[Limits, ...]
    critical: tuple[Critical, ...]
    interrupted: bool

    def table(self, unit: float = 1.0) -> Table:
        """A row for each algorithm and τ; * where the row has a note. `unit`: what the learning rate 1 is in others."""
        surely = any(row.surely_stable is not None for row in self.rows)
        exact = any(row.exact is not None for row in self.rows)
        headers = ["batch", "momentum", "tau", "full batch", "spectral-diagonal"]
        headers += [*(["surely stable"] if surely else []), *(["exact"] if exact else [])]
        lines = []
        for row in self.rows:
            cells: list[Cell] = [row.batch_size, readable(row.momentum), shortest(row.tau), unit * row.full_batch]
            cells.append(short(unit * row.spectral_diagonal) + ("*" if row.note else ""))
            rest = [*([row.surely_stable] if surely else []), *([row.exact] if exact else [])]
            lines.append([*cells, *(None if level is None else unit * level for level in rest)])
        return Table(headers, lines, keys=3)


def stable_rates(
    problem: QuadraticProblem,
    algorithms: Sequence[SGD],
    taus: Sequence[float] = (1.0,),
    *,
    exact: bool = False,
    progress: bool = False,
) -> StableRates:
    """The limits of each algorithm, whose own learning rate counts for nothing, with each τ.

    `exact`: also the exact level, for N up to `theory.stability.EXACT_UP_TO`; Ctrl-C leaves out the rest of these.
    InputError for what `theory.stability.max_lr` refuses.
    """
    rows = []
    for sgd in algorithms:
        noise, surely = problem.noise(sgd), _surely_stable(problem, sgd)
        for tau in taus:
            rows.append(
                Limits(
                    batch_size=cast(int, sgd.batch_size),  # `max_lr` refuses schedules
                    momentum=cast(float, sgd.momentum),
                    tau=tau,
                    sampling=sgd.sampling,
                    method=sgd.method.spec,
                    noise=noise,
                    full_batch=stability.max_lr(problem, sgd, "full-batch"),
                    spectral_diagonal=stability.max_lr(problem, sgd, tau=tau),
                    surely_stable=surely,
                    exact=None,
                    torch_lr_per_alpha=problem.torch_lr(1.0),
                    note=_necessary_only(noise, tau),
                )
            )
    # The slow level comes last: what Ctrl-C leaves out is no other.
    levels, interrupted = _exact(problem, algorithms, progress) if exact else ([], False)
    levels += [None] * (len(algorithms) - len(levels))
    found = [level for level in levels for _ in taus]
    rows = [replace(row, exact=level) for row, level in zip(rows, found, strict=True)]
    plain = all(sgd.method.spec == "heavy-ball" and not sgd.weight_decay for sgd in algorithms)
    return StableRates(tuple(rows), _critical(problem, rows, taus) if plain else (), interrupted)


def asked(problem: QuadraticProblem, algorithms: Sequence[SGD], lrs: Sequence[float]) -> list[Asked]:
    """Of each learning rate in units of 1/λ_max with each algorithm, whose own counts for nothing."""
    cells = [replace(sgd, lr=lr) for lr in lrs for sgd in algorithms]
    with np.errstate(over="ignore", invalid="ignore"):  # far beyond any stable rate
        known = verdicts.verdicts(problem, cells)
    return [
        Asked(cast(int, sgd.batch_size), cast(float, sgd.momentum), cast(float, sgd.lr), each.stable, each.reason)
        for sgd, each in zip(cells, known, strict=True)
    ]


def _exact(problem: QuadraticProblem, algorithms: Sequence[SGD], progress: bool) -> tuple[list[float | None], bool]:
    """The exact level of each, up to where Ctrl-C came; whether it did."""
    levels: list[float | None] = []
    work = f"{counted(len(algorithms), 'exact threshold')} at N = {problem.n}"
    with Bar(progress, "exact", len(algorithms), unit="threshold", work=work, delay=2) as bar:
        try:
            for sgd in algorithms:
                levels.append(stability.max_lr(problem, sgd, "exact", heard=_rounds(bar, sgd)))
                bar.update()
        except KeyboardInterrupt:
            return levels, True
    return levels, False


def _rounds(bar: Bar, sgd: SGD) -> Callable[[], None]:
    """Counts the rounds of a search in the bar's words: how many there will be is not known."""
    numbers = itertools.count(1)

    def heard() -> None:
        bar.describe(f"exact, batch {sgd.batch_size}, momentum {sgd.momentum}, round {next(numbers)}")
        bar.update(0)

    return heard


def _surely_stable(problem: QuadraticProblem, sgd: SGD) -> float | None:
    known = problem.has_basis and problem.n <= stability.EXACT_UP_TO and not sgd.is_one_pass
    if not known or sgd.method.spec != "heavy-ball" or sgd.weight_decay:
        return None
    momentum = np.array([float(sgd.momentum)])  # type: ignore[arg-type] # constant
    return float(verdicts.surely_stable(problem, momentum, problem.noise(sgd))[0])


def _necessary_only(noise: float, tau: float) -> str | None:
    if noise == 0 or tau <= 1:
        return None
    return f"τ = {tau:.4g} > 1: below this learning rate stability is not proved, above it there is none"


def _critical(problem: QuadraticProblem, rows: Sequence[Limits], taus: Sequence[float]) -> tuple[Critical, ...]:
    noises = {row.batch_size: row.noise for row in rows}
    entries = []
    for tau in taus:
        critical = stability.critical_eigenvalue(problem, tau)
        for size, noise in noises.items():
            bound = 2 / (noise * critical) if noise * critical > 0 else None
            entries.append(Critical(size, tau, noise, critical, bound))
    return tuple(entries)


def infinite_spectrum(problem: Problem) -> list[str]:
    """A note where the infinite power law that the spectrum is the beginning of diverges at every learning rate."""
    made = problem.quadratic.exponents
    if made is None:
        return []
    nu, kappa = made
    phase = power_law.phase(nu, kappa / nu)
    if phase not in (power_law.EVENTUAL, power_law.IMMEDIATE):
        return []
    return [
        f"ν = {nu:g} ≤ 1: on the infinite spectrum SGD with noise diverges at every learning rate ({phase}); "
        f"what is stable here is so at N = {problem.n} only, and less of it at larger N."
    ]
