"""Results as rows: what `sgdsim compare` prints, as JSON-able numbers and as a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import pandas as pd
import xarray as xr

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.files import replacing
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import brief, readable
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.table import Table
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.regimes import SpectralDiagonal
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.results import curves as observed
from sgdsim.runs.sweeps import Grid
from sgdsim.theory import stability
from sgdsim.theory.verdicts import WORDS, verdicts

# Columns of a table that are left out where no row has anything else.
_USUAL = {"sampling": "without-replacement", "method": "heavy-ball", "label_noise": 0.0, "average": None}


class CellRow(TypedDict):
    """One cell: hyperparameters, whether it is stable (None: not known) and why, what each closure says of it, and each
    regime's final numbers."""

    lr: float | str
    momentum: float | str
    batch_size: int | str
    sampling: str
    method: str
    label_noise: float
    average: str | None
    torch_lr: float | None
    stable: bool | None
    stable_reason: str
    stable_by_closure: dict[str, bool | None]
    regimes: dict[str, dict[str, Any]]


def rows(result: xr.Dataset, problem: Problem, grid: Grid, taus: list[float]) -> list[CellRow]:
    """All cells, in the order of the grid."""
    quadratic, cells = problem.quadratic, list(grid.cells())
    names = [str(name) for name in result["regime"].values]
    reference = names[0]
    with np.errstate(over="ignore", invalid="ignore"):  # far beyond any stable rate
        known = verdicts(quadratic, [sgd for _, sgd in cells])
        closures = [{SpectralDiagonal(tau).name: _converges(quadratic, sgd, tau) for tau in taus} for _, sgd in cells]
    out = []
    for (index, sgd), stable, closure in zip(cells, known, closures, strict=True):
        row: dict[str, Any] = {
            **sgd.spec(),
            "torch_lr": _torch_lr(quadratic, sgd),
            "stable": stable.stable,
            "stable_reason": stable.reason,
            "stable_by_closure": closure,
            "regimes": {name: _final(result, index, position) for position, name in enumerate(names)},
        }
        base = row["regimes"][reference]["final_loss"]
        for numbers in row["regimes"].values():
            final = numbers["final_loss"]
            numbers[f"ratio_to_{reference}"] = finite_or_none(final / base) if final is not None and base else None
        out.append(cast(CellRow, row))
    return out


def _converges(problem: QuadraticProblem, sgd: SGD, tau: float) -> bool | None:
    """Whether the loss of the diagonal regime converges; None for schedules, reshuffled epochs, τ above 1."""
    try:
        return stability.diagonal_is_stable(problem, sgd, tau)
    except InputError:
        return None


def _torch_lr(problem: QuadraticProblem, sgd: SGD) -> float | None:
    """What torch's optimizer is given: `torch.optim.SGD` α·N/λ_max, others what their rule says; None: a schedule, or a
    rule that torch has not."""
    if not isinstance(sgd.lr, (int, float)):
        return None
    if sgd.rule is None:
        return finite_or_none(problem.torch_lr(sgd.lr))
    unit = sgd.rule.torch_lr_per_alpha
    return None if unit is None else float(sgd.lr) * unit


def _final(result: xr.Dataset, index: tuple[int, ...], position: int) -> dict[str, Any]:
    """Final numbers of one regime in one cell. A mean with a diverged replicate in it is infinite: None."""
    outcome = result["outcome"].values[(*index, position)]
    run = outcome != OUTCOMES.index("not_run")
    numbers: dict[str, Any] = {
        "replicates": int(run.sum()),
        "diverged": int((outcome == OUTCOMES.index("diverged")).sum()),
        "failed": bool((outcome == OUTCOMES.index("failed")).any()),
        "done": bool(result["done"].values[(*index, position)]),
        "seconds": float(result["seconds"].values[(*index, position)]),
    }
    for name in ("error_estimate", "known_until"):  # not of files of earlier versions
        numbers[name] = finite_or_none(result[name].values[(*index, position)]) if name in result else None
    for name in observed(result):
        final, label = result[name].values[(*index, position)][run][:, -1], f"final_{name}"
        mean, error = mean_and_error(final)
        numbers[label] = finite_or_none(mean)
        numbers[f"{label}_stderr"] = finite_or_none(error)
        median = np.quantile(final, 0.5, method="inverted_cdf") if final.size else None
        numbers[f"{label}_median"] = finite_or_none(median)
    return numbers


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
    """Write `frame` to a .csv or .parquet file, all or nothing; returns the number of rows. InputError otherwise."""
    kind = os.path.splitext(os.fspath(path))[1].lower()
    if kind not in (".csv", ".parquet"):
        raise InputError(f"{path}: expected a name that ends in .csv or .parquet")
    table = frame(result, curves=curves)
    with replacing(Path(path)) as temporary:
        if kind == ".csv":
            table.to_csv(temporary, index=False)
        else:
            try:
                table.to_parquet(temporary, index=False)
            except ImportError as error:
                raise InputError(
                    f"{path}: expected pyarrow for .parquet; try: pip install 'sgdsim[parquet]'"
                ) from error
    return len(table)


def table(rows: list[CellRow], label: str = "final_loss") -> str:
    """The rows as aligned text: hyperparameters, predicted stability, and a column per regime.

    `label`: "final_loss", or another that the rows have, such as "final_test_loss" (then without stability).
    """
    if not rows:
        return "(no cells)"
    regimes = list(rows[0]["regimes"])
    named = [name for name in _USUAL if any(dict(row)[name] != _USUAL[name] for row in rows)]
    with_stability = label == "final_loss"
    headers = ["lr", "momentum", "batch", *(name.replace("_", " ") for name in named)]
    headers += [*(["stable"] if with_stability else []), *regimes]
    lines = []
    for row in rows:
        cells = [_short(row["lr"]), _short(row["momentum"]), _short(row["batch_size"])]
        cells += [_short("none" if (value := dict(row)[name]) is None else value) for name in named]
        if with_stability:
            cells.append(WORDS[row["stable"]])
        lines.append([*cells, *(_outcome(row["regimes"][name], label, regimes[0], name) for name in regimes)])
    return Table(headers, lines, "l").text()


def _short(value: Any) -> str:
    return readable(value) if isinstance(value, (int, float)) else brief(str(value))


def stability_notes(rows: list[CellRow]) -> list[str]:
    """Why it is not known whether cells are stable, and why they are not where a closure says that they are: a line
    for each reason."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        stable, reason = row["stable"], row["stable_reason"]
        converging = [name for name, converges in row["stable_by_closure"].items() if converges]
        if stable is None or (stable is False and converging):
            reason += "" if stable is None else f", although {' and '.join(converging)} converges"
            where = f"lr {_short(row['lr'])}, momentum {_short(row['momentum'])}, batch {_short(row['batch_size'])}"
            cells.setdefault((WORDS[stable], reason), []).append(where)
    more = {key: f" and {len(where) - 1} more" if len(where) > 1 else "" for key, where in cells.items()}
    return [f"stable: {word} at {where[0]}{more[word, reason]}: {reason}" for (word, reason), where in cells.items()]


def _outcome(numbers: dict[str, Any], label: str, reference: str, name: str) -> str:
    """Final loss of one regime in one cell, with its ratio to the reference regime's."""
    if not numbers["done"]:
        return "not finished"
    if numbers["failed"]:
        return "failed"
    if numbers["diverged"]:
        median = numbers[f"{label}_median"]
        rest = f", median {median:.3g}" if median is not None and numbers["replicates"] > 1 else ""
        return f"diverged {numbers['diverged']}/{numbers['replicates']}{rest}"
    if numbers[label] is None:
        return "infinite"
    text = f"{numbers[label]:.4g}"
    if numbers[f"{label}_stderr"] is not None:
        text += f" ± {numbers[f'{label}_stderr']:.1g}"
    ratio = numbers.get(f"ratio_to_{reference}") if label == "final_loss" and name != reference else None
    # A ratio of numbers that are both close to nothing says nothing.
    return text if ratio is None or not 1e-3 < ratio < 1e3 else f"{text} (×{ratio:.3g})"
