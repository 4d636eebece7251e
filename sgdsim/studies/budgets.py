"""Budget independence: runs of several batch sizes at matched learning rates, compared at equal t·b ([VKY]).

Matched: `γα_eff` is the same for all batch sizes, so α grows like 1/γ ≈ b at one momentum. In the signal-dominated
phase `s_t ≈ AΓ(ζ+1)(2α_effΛt)^{−ζ}/(1 − Ũ(1))`, and `Ũ(1) = Σ yλ_k/(2 + τyλ_k − αλ_k/(1+β))` with `y = γα_eff`: as long
as α ≪ 2(1+β), t and b enter through `t/γ ≈ t·b` only. In the noise-dominated phase the constant holds `γα_eff²Ṽ(1)` as
well, which at equal y grows with α_eff unless every mode is slow and overdamped (αλ ≪ (1−β)²): large batches then end
higher at the same budget.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.sgd import SGD, noise_factor
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import jsonable
from sgdsim.common.shown import Shown
from sgdsim.common.table import Cell, Table
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.problem.fits import PowerLawFit, fit_power_law
from sgdsim.regimes.base import Regime
from sgdsim.runs.followed import followed
from sgdsim.runs.sweeps import Grid, sweep
from sgdsim.studies.base import Findings, OfRuns
from sgdsim.theory import power_law, stability
from sgdsim.theory.power_law import NOISE, SIGNAL, PowerLaw


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Shown):
    """The loss of one batch size, mean over replicates: `steps` t ≥ 1 and `loss`, (T,) each; infinite once diverged."""

    batch_size: int
    lr: float
    noise: float
    steps: np.ndarray
    loss: np.ndarray

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Loss at any `steps`, log-log between the recorded ones; NaN outside them and where it diverged."""
        seen = np.isfinite(self.loss) & (self.loss > 0)
        if not seen.any():
            return np.full(np.shape(steps), np.nan)
        logs = np.interp(np.log(steps), np.log(self.steps[seen]), np.log(self.loss[seen]), left=np.nan, right=np.nan)
        return np.exp(logs)


def check_sizes(n: int, batch_sizes: Sequence[int], sampling: str = WITHOUT_REPLACEMENT) -> list[int]:
    """The batch sizes in ascending order; InputError unless there are two or more, different, each with noise γ > 0."""
    sizes = sorted(integer("batch_size", size, minimum=1) for size in batch_sizes)
    if len(sizes) < 2 or len(set(sizes)) < len(sizes):
        raise InputError(f"batch_size: expected at least two different sizes, got {', '.join(map(str, sizes))}")
    for size in sizes:
        SGD(1.0, batch_size=size, sampling=sampling).check(n, 1)
    if not noise_factor(n, sizes[-1], sampling) > 0:
        raise InputError(
            f"batch_size: expected sizes below N = {n}, as learning rates are matched by their noise, and full batches "
            f"have none; got {sizes[-1]}"
        )
    return sizes


def matched_lr(
    problem: QuadraticProblem,
    batch_sizes: Sequence[int],
    *,
    lr: float | None = None,
    momentum: float = 0.9,
    sampling: str = WITHOUT_REPLACEMENT,
    tau: float = 1.0,
    weight_decay: float = 0.0,
) -> list[float]:
    """Learning rates of ascending `batch_sizes` with equal γα: `lr` at the smallest, `lr·γ(b_min)/γ(b)` at b.

    `lr` None: half of the largest for which all of them are stable (spectral-diagonal theory with closure `tau`).
    """
    noise = problem.noise_factor(np.asarray(batch_sizes), sampling)
    if lr is None:
        number("tau", tau, maximum=1.0)
        bound = stability.diagonal_max_lr(problem, momentum=momentum, noise=noise, tau=tau)
        if weight_decay:
            each = (SGD(1.0, momentum, b, sampling, weight_decay=weight_decay) for b in batch_sizes)
            bound = np.array([stability.max_lr(problem, sgd, tau=tau) for sgd in each])
        lr = stability.half_of(float(np.min(bound * noise / noise[0])))
    return [float(f"{lr * noise[0] / own:.12g}") for own in noise]


def run(
    problem: Problem,
    regime: Regime | Sequence[Regime],
    *,
    batch_sizes: Sequence[int],
    lr: float | None = None,
    momentum: float = 0.9,
    n_steps: int = 10_000,
    sampling: str = WITHOUT_REPLACEMENT,
    weight_decay: float = 0.0,
    replicates: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Follow every batch size up to the same budget t·b, at matched learning rates.

    Parameters
    ----------
    regime : one or several, all at the same learning rates.
    lr : α at the smallest batch size (`matched_lr`).
    n_steps : at the smallest batch size b_min; `n_steps·b_min/b`, rounded, at b.
    weight_decay : the same for all, as `SGD` has it: over α_eff·t all decay alike.

    Returns
    -------
    xarray.Dataset in the schema of `sgdsim.runs.results`, a cell for each batch size in ascending order; NaN at the
    steps that a cell did not record. Ctrl-C leaves out the batch sizes that were not begun.

    Raises
    ------
    InputError : bad values, full batches, or a batch size that is left with less than 10 steps.
    """
    problem.check_squared("budget")
    sizes = check_sizes(problem.n, batch_sizes, sampling)
    n_steps = integer("n_steps", n_steps, minimum=1)
    steps = [round(n_steps * sizes[0] / size) for size in sizes]
    if steps[-1] < 10:
        raise InputError(
            f"n_steps: expected at least {-(-10 * sizes[-1] // sizes[0])}, so that batches of {sizes[-1]} are left "
            f"with 10 steps at the same budget; got {n_steps}"
        )
    rates = matched_lr(problem.quadratic, sizes, lr=lr, momentum=momentum, sampling=sampling, weight_decay=weight_decay)
    follow = partial(sweep, replicates=replicates, seed=seed, progress=progress, executor="serial")
    parts = []
    for size, rate, count in zip(sizes, rates, steps, strict=True):
        decay = {"weight_decay": [weight_decay]} if weight_decay else {}
        grid = Grid.zip(lr=[rate], momentum=[momentum], batch_size=[size], sampling=[sampling], **decay)
        parts.append(follow(problem, grid, [regime] if isinstance(regime, Regime) else list(regime), count))
        if parts[-1].attrs["interrupted"]:
            break
    joined = xr.concat(
        parts, "cell", data_vars="minimal", coords="minimal", compat="override", join="outer", combine_attrs="override"
    ).assign_coords(cell=np.arange(len(parts)))
    call = json.loads(parts[0].attrs["call"])
    call["grid"] |= {"lr": rates, "batch_size": sizes}
    joined.attrs |= {"call": json.dumps(call | {"n_steps": steps}), "interrupted": parts[-1].attrs["interrupted"]}
    return joined


def curves(result: xr.Dataset, problem: Problem, regime: int = 0) -> list[Curve]:
    """The curve of each cell of a result of `run`, in its order, in one of its regimes; `problem` gives N."""
    out = []
    for i in range(result.sizes["cell"]):
        cell = result.isel(cell=i, regime=regime)
        loss = cell["loss"].transpose("replicate", "step").values
        ran = ~np.isnan(loss).all(1)
        with np.errstate(invalid="ignore"):
            mean = loss[ran].mean(0) if ran.any() else np.full(result.sizes["step"], np.nan)
        steps = result["step"].values
        seen = ~np.isnan(mean) & (steps >= 1)
        size = int(cell["batch_size"])
        noise = float(problem.noise_factor(size, str(cell["sampling"].values)))
        out.append(Curve(size, float(cell["lr"]), noise, steps[seen], mean[seen]))
    return out


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Findings):
    """Losses at equal budgets: `budget` (K,) in t·b, `loss` (K, batch sizes), NaN where a run diverged (`diverged`).

    `ratio` (K,): largest loss over the least; `ratio_by_noise`: the same at equal `t/γ`, the budget with the correction
    for drawing without replacement, which by theory is the one that counts at late times. NaN where a run diverged.
    """

    budget: np.ndarray
    loss: np.ndarray
    ratio: np.ndarray
    ratio_by_noise: np.ndarray
    batch_sizes: tuple[int, ...]
    diverged: tuple[bool, ...]

    def table(self) -> Table:
        """A row for each budget, a column for each batch size."""
        rows: list[list[Cell]] = []
        for budget, losses, *ratios in zip(self.budget, self.loss, self.ratio, self.ratio_by_noise, strict=True):
            ends = zip(losses, self.diverged, strict=True)
            cells = ("diverged" if gone and np.isnan(loss) else float(loss) for loss, gone in ends)
            rows.append([float(budget), *cells, *map(float, ratios)])
        return Table(["t*b", *(f"b = {size}" for size in self.batch_sizes), "ratio", "at equal t/gamma"], rows)


def compare(found: Sequence[Curve], points: int = 6) -> Comparison:
    """The losses at `points` budgets, log-spaced from 10 steps of the largest batch to the end."""
    end = min((curve.steps[-1] * curve.batch_size for curve in found if curve.steps.size), default=1)
    start = min(10 * max(curve.batch_size for curve in found), end)
    budget = np.geomspace(start, end, points) if points > 1 else np.array([end], dtype=float)
    loss = np.stack([curve.at(budget / curve.batch_size) for curve in found], axis=1)
    # t/γ is b·t times (N−1)/(N−b): the step that has it, in units of the smallest batch's budget.
    first = found[0].noise * found[0].batch_size
    same = np.stack([curve.at(np.maximum(budget * curve.noise / first, 1.0)) for curve in found], axis=1)
    sizes = tuple(curve.batch_size for curve in found)
    diverged = tuple(bool(np.isinf(curve.loss[-1:]).any()) for curve in found)
    return Comparison(budget, loss, _ratio(loss), _ratio(same), sizes, diverged)


def _ratio(loss: np.ndarray) -> np.ndarray:
    return loss.max(1) / loss.min(1)


@dataclass(frozen=True)
class MatchedRun:
    """How the run of one batch size was matched and how it ended: γ, α/(1 − β), the largest stable α by
    spectral-diagonal theory (None: not known for this τ); what its regime knows of its own errors."""

    regime: str
    batch_size: int
    lr: float
    noise: float
    effective_lr: float
    max_lr_spectral_diagonal: float | None
    n_steps: int
    final_loss: float
    diverged: bool
    torch_lr: float
    error_estimate: float
    known_until: float


@dataclass(frozen=True, eq=False, repr=False)
class BudgetRuns(OfRuns):
    """The runs of a result of `run`, which `data` is, `compared` at equal budgets, the first regime's; `by_regime`: all
    of them; `law`: of the spectrum, None where it has none."""

    runs: tuple[MatchedRun, ...]
    by_regime: dict[str, Comparison]
    law: PowerLaw | None
    fit: PowerLawFit | None
    data: xr.Dataset
    problem: Problem

    @classmethod
    def of(cls, data: xr.Dataset, problem: Problem) -> BudgetRuns:
        """Of a result of `run` for this problem."""
        names = [str(name) for name in data["regime"].values]
        found = [curves(data, problem, at) for at in range(len(names))]
        runs = tuple(
            _matched(names[at], curve, data.isel(cell=i, regime=at), problem)
            for at, own in enumerate(found)
            for i, curve in enumerate(own)
        )
        law, fit, compared = None, None, {name: compare(own) for name, own in zip(names, found, strict=True)}
        with contextlib.suppress(InputError):
            law = None if _decay(data) else PowerLaw.of(problem.quadratic)  # with weight decay no power law is left
            fit = fit_power_law(problem.quadratic) if law and problem.quadratic.exponents is None else None
        return cls(runs, compared, law, fit, data, problem)

    @property
    def compared(self) -> Comparison:
        """Of the first regime."""
        return next(iter(self.by_regime.values()))

    @property
    def phase(self) -> str | None:
        """Of the law."""
        return None if self.law is None else str(power_law.phase(self.law.nu, self.law.zeta))

    def as_dict(self) -> dict[str, object]:
        """The law, the runs, and a row for each budget."""
        law, columns = self.law, ("budget", "loss", "ratio", "ratio_by_noise")
        rows = []
        for regime, compared in self.by_regime.items():
            named: dict[str, object] = {"regime": regime} if len(self.by_regime) > 1 else {}
            each = zip(*(getattr(compared, name) for name in columns), strict=True)
            rows += [jsonable(named | dict(zip(columns, row, strict=True))) for row in each]
        return {
            "law": law and {"nu": law.nu, "kappa": law.kappa, "zeta": law.zeta, "phase": self.phase},
            "runs": jsonable(self.runs),
            "rows": rows,
        }

    def table(self) -> Table:
        """The losses at equal budgets; with several regimes a column that says which."""
        if len(self.by_regime) == 1:
            return self.compared.table()
        tables = {name: compared.table() for name, compared in self.by_regime.items()}
        rows: list[list[Cell]] = [[name, *row] for name, table in tables.items() for row in table.rows]
        return Table(["regime", *self.compared.table().headers], rows, "lr")

    def matched(self) -> Table:
        """The runs."""
        columns = ("batch_size", "lr", "max_lr_spectral_diagonal", "effective_lr", "n_steps")
        of_one = self.runs[: len(self.runs) // len(self.by_regime)]  # all regimes have the same rates
        rows = [[getattr(run, name) for name in columns] for run in of_one]
        return Table(["batch", "lr", "stable lr", "lr/(1 - momentum)", "steps"], rows)

    def notes(self) -> list[str]:
        """What theory says of the budget here, and which runs cannot be stable."""
        notes = []
        if self.law is not None:
            limits = {SIGNAL: "2(1 + momentum)", NOISE: "2(1 + momentum) and (1 - momentum)^2"}
            there = "there theory has no law"
            if self.phase in limits:
                there = f"there the budget alone counts at late times, for lr far below {limits[self.phase]}"
            notes.append(f"{self._exponents(self.law)}: {self.phase}; {there}")
            notes += self._doubts()
        above = [run for run in self.runs if run.lr >= (run.max_lr_spectral_diagonal or math.inf)]
        return notes + [
            f"lr at batch {run.batch_size} is above the largest stable one: lower --lr, or raise --momentum"
            for run in {run.batch_size: run for run in above}.values()
        ]

    def _exponents(self, law: PowerLaw) -> str:
        if self.fit is None or self.fit.zeta is None:
            return f"nu = {law.nu:.3g}, zeta = {law.zeta:.3g}"
        named = {"nu": self.fit.nu, "zeta": self.fit.zeta}
        return ", ".join(f"{name} = {e.value:.3g} ({e.low:.2g} to {e.high:.2g})" for name, e in named.items())

    def _doubts(self) -> list[str]:
        """What the intervals of a fit leave open."""
        if self.fit is None or self.fit.zeta is None:
            return []
        others = [name for name in power_law.possible_phases(self.fit) if name != self.phase]
        found = [f"within these intervals it may be {' or '.join(others)} as well"] if others else []
        if self.fit.zeta.low <= 0:
            found.append("zeta's interval reaches 0, where there is no power law: do not rely on the phase")
        return found


def _decay(data: xr.Dataset) -> float:
    """The weight decay of a result of `run`."""
    return float(np.ravel(data["weight_decay"].values)[0]) if "weight_decay" in data.coords else 0.0


def _matched(regime: str, curve: Curve, cell: xr.Dataset, problem: Problem) -> MatchedRun:
    quadratic, momentum = problem.quadratic, float(cell["momentum"])
    tau = next(iter(followed(cell).values())).tau
    closure = 1.0 if tau is None else tau
    bound = float(stability.diagonal_max_lr(quadratic, momentum=momentum, noise=curve.noise, tau=closure))
    if decay := _decay(cell):
        sgd = SGD(1.0, momentum, curve.batch_size, str(cell["sampling"].values), weight_decay=decay)
        bound = stability.max_lr(quadratic, sgd, tau=min(closure, 1.0))  # beyond 1 it is not shown
    last = float(curve.loss[-1]) if curve.loss.size else math.nan
    return MatchedRun(
        regime,
        curve.batch_size,
        curve.lr,
        curve.noise,
        effective_lr=curve.lr / (1 - momentum),
        max_lr_spectral_diagonal=bound if tau is None or tau <= 1 else None,  # beyond, no threshold is known
        n_steps=int(curve.steps[-1]) if curve.steps.size else 0,
        final_loss=last,
        diverged=math.isinf(last),
        torch_lr=quadratic.torch_lr(curve.lr),
        **{name: cell[name].item() for name in ("error_estimate", "known_until")},
    )
