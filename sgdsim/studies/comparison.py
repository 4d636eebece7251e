"""Results as rows: what `sgdsim compare` tells of every cell, and as a table of data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.shown import Shown
from sgdsim.common.specs import brief, readable
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.table import Table
from sgdsim.common.text import short
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.followed import followed
from sgdsim.runs.results import absent, has_offset
from sgdsim.runs.results import curves as observed
from sgdsim.runs.sweeps import Grid
from sgdsim.studies import rows
from sgdsim.studies.base import OfRuns
from sgdsim.studies.cross_entropy import CrossEntropyHorizon
from sgdsim.theory import stability
from sgdsim.theory.verdicts import Verdict, verdicts

Numbers: TypeAlias = dict[str, float | None]
_HYPERPARAMETERS = {"lr": "lr", "momentum": "momentum", "batch": "batch_size"}
# Columns of a table that are left out where no row has anything else.
_USUAL: dict[str, float | str | None] = {
    "sampling": "without-replacement", "method": "heavy-ball", "label_noise": 0.0, "average": None, "weight_decay": 0.0
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class ComparedCell(Shown):
    """One cell: its algorithm, what torch's optimizer is given (None: nothing of the kind), whether it is exactly
    stable, what each closure says of that (None: not known), each regime's final numbers, by name, and until when the
    quadratic model of cross-entropy holds (None: not of such, or not known)."""

    sgd: SGD
    torch_lr: float | None
    known: Verdict
    stable_by_closure: dict[str, bool | None]
    regimes: dict[str, Numbers]
    horizon: CrossEntropyHorizon | None = None

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it, hyperparameters first."""
        stable = {"torch_lr": self.torch_lr, "stable": self.known.stable, "stable_reason": self.known.reason}
        facts = self.sgd.spec() | stable | {"stable_by_closure": self.stable_by_closure, "regimes": self.regimes}
        return facts if self.horizon is None else facts | {"cross_entropy": self.horizon.as_dict()}


@dataclass(frozen=True, eq=False, repr=False)
class ComparedCells(OfRuns):
    """All cells of a result, which `data` is, in the order of the grid; `failed`: where on the grid and in which regime
    an exception was raised, and its message."""

    rows: tuple[ComparedCell, ...]
    failed: tuple[dict[str, str], ...]
    data: xr.Dataset

    @classmethod
    def of(
        cls,
        data: xr.Dataset,
        problem: Problem,
        grid: Grid,
        horizons: Sequence[CrossEntropyHorizon | None] = (),
    ) -> ComparedCells:
        """Of a result of a sweep over this grid; `horizons`: of `cross_entropy.of_cells`."""
        quadratic, cells = problem.quadratic, list(grid.cells())
        names = [str(name) for name in data["regime"].values]
        taus = {name: known.tau for name, known in followed(data).items() if known.kind == "diagonal"}
        with np.errstate(over="ignore", invalid="ignore"):  # far beyond any stable rate
            known = verdicts(quadratic, [sgd for _, sgd in cells])
            closures = [{name: _converges(quadratic, sgd, tau) for name, tau in taus.items()} for _, sgd in cells]
        out, each = [], horizons or [None] * len(cells)
        for (index, sgd), stable, closure, horizon in zip(cells, known, closures, each, strict=True):
            numbers = {name: _final(data, index, position) for position, name in enumerate(names)}
            base = numbers[names[0]]["final_loss"]
            for own in numbers.values():
                final = None if has_offset(data) else own["final_loss"]  # a model's losses may be negative
                own[f"ratio_to_{names[0]}"] = finite_or_none(final / base) if final is not None and base else None
            out.append(ComparedCell(sgd, _torch_lr(quadratic, sgd), stable, closure, numbers, horizon))
        return cls(tuple(out), tuple(failures(data)), data)

    def as_dict(self) -> dict[str, object]:
        """The cells and what failed."""
        return {"rows": [row.as_dict() for row in self.rows], "failed": list(self.failed)}

    def table(self, observable: str = "loss", *, unit: float | None = None) -> Table:
        """Hyperparameters, whether they are stable (beside losses), and a column per regime with the final mean of an
        observable. `unit`: what the learning rate 1 is in torch, where torch's are shown beside."""
        label, losses = f"final_{observable}", observable == "loss"
        specs = [{**_USUAL, **row.sgd.spec()} for row in self.rows]
        regimes = list(self.rows[0].regimes)
        named = [name for name in _USUAL if any(spec[name] != _USUAL[name] for spec in specs)]
        torch = [] if unit is None else ["torch lr"]
        headers = ["lr", *torch, *list(_HYPERPARAMETERS)[1:], *(name.replace("_", " ") for name in named)]
        limited = losses and any(row.horizon is not None for row in self.rows)
        headers += [*(["stable"] if losses else []), *(["model until"] if limited else []), *regimes]
        lines, missing = [], absent(self.data, observable)
        for row, spec in zip(self.rows, specs, strict=True):
            cells = [_short(spec[name]) for name in (*_HYPERPARAMETERS.values(), *named)]
            cells[1:1] = [] if unit is None else [_in_torch(row.sgd, unit)]
            cells += [row.known.word] if losses else []
            cells += [row.horizon.until() if row.horizon is not None else "not known"] if limited else []
            for name in regimes:
                cells += ["-" if name in missing else _outcome(row.regimes[name], label, regimes[0], name)]
            lines.append(cells)
        return Table(headers, lines, "l", keys=len(_HYPERPARAMETERS) + len(named))

    def notes(self) -> list[str]:
        """Why it is not known whether cells are stable, and why they are not where a closure says that they are: a line
        for each reason. What is not known in some regimes, and why."""
        cells: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            stable, reason, spec = row.known.stable, row.known.reason, row.sgd.spec()
            converging = [name for name, converges in row.stable_by_closure.items() if converges]
            if stable is None or (stable is False and converging):
                reason += "" if stable is None else f", although {' and '.join(converging)} converges"
                at = (f"{name} {_short(spec[key])}" for name, key in _HYPERPARAMETERS.items())
                cells.setdefault((row.known.word, reason), []).append(", ".join(at))
        more = {key: f" and {len(where) - 1} more" if len(where) > 1 else "" for key, where in cells.items()}
        return [
            *(f"stable: {word} at {where[0]}{more[word, reason]}: {reason}" for (word, reason), where in cells.items()),
            *_missing(self.data),
        ]


def _missing(result: xr.Dataset) -> list[str]:
    """A line for each reason why some regimes do not know what was observed."""
    lines: dict[tuple[str, str], list[str]] = {}
    for name in observed(result):
        by_reason: dict[str, list[str]] = {}
        for regime, why in absent(result, name).items():
            by_reason.setdefault(why, []).append(regime)
        for why, regimes in by_reason.items():
            lines.setdefault((", ".join(regimes), why), []).append(name)
    return [f"{', '.join(names)}: none in {regimes}: {why}" for (regimes, why), names in lines.items()]


def _converges(problem: QuadraticProblem, sgd: SGD, tau: float | None) -> bool | None:
    """Whether the loss of the diagonal regime converges; None for schedules, reshuffled epochs, τ above 1."""
    try:
        return stability.diagonal_is_stable(problem, sgd, 1.0 if tau is None else tau)
    except InputError:
        return None


def _in_torch(sgd: SGD, unit: float) -> str:
    """A constant learning rate of `torch.optim.SGD`, of which 1 is `unit`; "-" for a schedule, and for a rule."""
    return short(sgd.lr * unit) if isinstance(sgd.lr, (int, float)) and sgd.rule is None else "-"


def _torch_lr(problem: QuadraticProblem, sgd: SGD) -> float | None:
    """What torch's optimizer is given: `torch.optim.SGD` α·N/λ_max, others what their rule says; None: a schedule, or a
    rule that torch has not."""
    if not isinstance(sgd.lr, (int, float)):
        return None
    if sgd.rule is None:
        return finite_or_none(problem.torch_lr(sgd.lr))
    unit = sgd.rule.torch_lr_per_alpha
    return None if unit is None else float(sgd.lr) * unit


def _final(result: xr.Dataset, index: tuple[int, ...], position: int) -> Numbers:
    """Final numbers of one regime in one cell. A mean with a diverged replicate in it is infinite: None."""
    outcome = result["outcome"].values[(*index, position)]
    run = outcome != OUTCOMES.index("not_run")
    numbers: Numbers = {
        "replicates": int(run.sum()),
        "diverged": int((outcome == OUTCOMES.index("diverged")).sum()),
        "failed": bool((outcome == OUTCOMES.index("failed")).any()),
        "done": bool(result["done"].values[(*index, position)]),
        "seconds": float(result["seconds"].values[(*index, position)]),
    }
    for name in ("error_estimate", "known_until"):  # not of files of earlier versions
        numbers[name] = finite_or_none(result[name].values[(*index, position)]) if name in result else None
    for name in observed(result):
        values, label = result[name].values[(*index, position)][run], f"final_{name}"
        if not numbers["done"]:
            numbers |= _so_far(name, values, result["step"].values)
        final = values[:, -1]
        mean, error = mean_and_error(final)
        numbers[label] = finite_or_none(mean)
        numbers[f"{label}_stderr"] = finite_or_none(error)
        median = np.quantile(final, 0.5, method="inverted_cdf") if final.size else None
        numbers[f"{label}_median"] = finite_or_none(median)
    return numbers


def _so_far(name: str, values: np.ndarray, steps: np.ndarray) -> Numbers:
    """The last step that all replicates (R, T) of a cell that is not done have recorded, and their mean there."""
    known = np.flatnonzero(~np.isnan(values).any(0))
    if not values.size or not known.size:
        return {}
    return {"last_step": int(steps[known[-1]]), f"last_{name}": finite_or_none(values[:, known[-1]].mean())}


def failures(result: xr.Dataset) -> list[dict[str, str]]:
    """The cells that raised an exception: where on the grid, in which regime, and the message."""
    out = []
    if "error" in result:
        texts = result["error"]
        for index in np.argwhere(texts.values != ""):
            one = texts[tuple(index)]
            where = ", ".join(f"{name} = {value.item()}" for name, value in one.coords.items() if name != "regime")
            out.append({"cell": where, "regime": str(one["regime"].item()), "error": str(one.item())})
    return out


def frame(result: xr.Dataset, *, curves: bool = False) -> pd.DataFrame:
    """A row for each cell, regime and replicate that was run: hyperparameters, outcome, what was observed at the last
    step that it recorded, and that `step`; with `curves`, for each step that it recorded. InputError for no result."""
    dims = check_result(result)
    names = observed(result)
    wanted = result[["outcome", "diverged_at", "done", "seconds", *names, *(["error"] if "error" in result else [])]]
    wanted = wanted.drop_vars([name for name in wanted.coords if name not in wanted.dims and name == "mode"])
    table = wanted.to_dataframe(dim_order=[*dims, "step"]).reset_index()
    # Cells may have recorded different steps (`sgdsim.studies.budgets.run`); one that failed at once recorded none.
    recorded = result["loss"].notnull().transpose(*dims, "step").values
    count = recorded.shape[-1]
    last = np.where(recorded.any(-1), count - 1 - recorded[..., ::-1].argmax(-1), count - 1)
    kept = last[..., None] == np.arange(count)
    table = table[(kept | recorded if curves else kept).ravel() & (table["outcome"] != OUTCOMES.index("not_run"))]
    return table.assign(outcome=np.array(OUTCOMES)[table["outcome"].to_numpy()]).reset_index(drop=True)


def check_result(result: xr.Dataset) -> tuple[str, ...]:
    """The dims of a result's outcomes; InputError where variables are missing or go over other dims."""
    for name, needed in (("outcome", {"regime", "replicate"}), ("loss", {"regime", "replicate", "step"})):
        if name not in result or not needed <= set(result[name].dims):
            have = ", ".join(map(str, result[name].dims)) if name in result else "no such variable"
            raise InputError(f"result: expected {name} over {', '.join(sorted(needed))}, got {have or 'no dims'}")
    dims = tuple(str(dim) for dim in result["outcome"].dims)
    recorded = [str(name) for name, held in result.data_vars.items() if "step" in held.dims and "mode" not in held.dims]
    over = dict.fromkeys(["loss", *recorded], (*dims, "step")) | {"diverged_at": dims}
    over |= dict.fromkeys(("done", "seconds", "error"), tuple(dim for dim in dims if dim != "replicate"))
    for name, expected in over.items():
        if name not in result and name != "error":
            raise InputError(f"result: expected a variable {name}, got none")
        if name in result and set(result[name].dims) != set(expected):
            have = ", ".join(map(str, result[name].dims))
            raise InputError(f"result: expected {name} over {', '.join(expected)}, got {have}")
    codes = result["outcome"].values
    if codes.dtype.kind not in "iu" or not ((codes >= 0) & (codes < len(OUTCOMES))).all():
        raise InputError(f"result: expected outcomes from 0 to {len(OUTCOMES) - 1}, got others")
    if result["loss"].dtype.kind != "f":
        raise InputError(f"result: expected losses as floats, got {result['loss'].dtype}")
    return dims


def export(result: xr.Dataset, path: str | os.PathLike, *, curves: bool = False) -> int:
    """Write `frame`, or the rows of a result of such (`sgdsim.studies.rows`), to a .csv or .parquet file, all or
    nothing; returns the number of rows. InputError otherwise."""
    if os.path.splitext(os.fspath(path))[1].lower() not in (".csv", ".parquet"):
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    table = rows.as_frame(result) if rows.is_rows(result) and not curves else frame(result, curves=curves)
    rows.write_frame(table, path)
    return len(table)


def _short(value: float | str | None) -> str:
    return readable(value) if isinstance(value, (int, float)) else brief(value or "none")


def _outcome(numbers: Numbers, label: str, reference: str, name: str) -> str:
    """Final loss of one regime in one cell, with its ratio to the reference regime's."""
    if not numbers["done"]:
        last = numbers.get(label.replace("final", "last", 1))
        return "not finished" if last is None else f"not finished: {last:.4g} at step {numbers['last_step']}"
    if numbers["failed"]:
        return "failed"
    mean, error, median = (numbers[f"{label}{end}"] for end in ("", "_stderr", "_median"))
    if numbers["diverged"]:
        rest = f", median {median:.3g}" if median is not None and numbers["replicates"] != 1 else ""
        return f"diverged {numbers['diverged']}/{numbers['replicates']}{rest}"
    if mean is None:
        return "infinite"
    text = f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.1g}"
    ratio = numbers.get(f"ratio_to_{reference}") if label == "final_loss" and name != reference else None
    # A ratio of numbers that are both close to nothing says nothing.
    return text if ratio is None or not 1e-3 < ratio < 1e3 else f"{text} ×{ratio:.3g}"
