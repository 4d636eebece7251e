"""What `sgdsim validate` has found, cell by cell, as three tables and a picture; also of files that it wrote before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from sgdsim.common.specs import readable
from sgdsim.common.table import Table
from sgdsim.common.text import estimate, short
from sgdsim.studies.base import Findings


class ValidationCell(TypedDict):
    """A data set, network and batch size, as JSON holds it: `thresholds` (`measured_stability.Thresholds`) and
    `training`, `ratios`, `slopes` and `law` (as in `validation`); None: not run."""

    dataset: str
    n: int
    network: dict[str, Any]
    batch_size: int
    momentum: float
    seed: int
    dtype: str
    thresholds: dict[str, Any] | None
    training: dict[str, Any] | None
    ratios: list[dict[str, Any]] | None
    slopes: list[dict[str, Any]] | None
    law: dict[str, Any] | None


@dataclass(frozen=True, repr=False)
class Validation(Findings):
    """All cells."""

    cells: Sequence[ValidationCell]

    def table(self) -> Table:
        """`ratios`."""
        return self.ratios()

    def thresholds(self) -> Table:
        """Predicted and measured largest stable learning rates."""
        headers = ["data", "N", "width", "b", "T", "full batch", "τ = 1", "τ = −1", "exact"]
        headers += ["linearised settles", "within 10×", "network settles", "within 10×"]
        rows = []
        for cell in self.cells:
            if (found := cell["thresholds"]) is None:
                continue
            levels = [found["full_batch"], found["diagonal"]["1"], found["diagonal"]["-1"], found["exact"]]
            measured = [found["measured"][regime][how] for regime in _RUN for how in ("settles", "bounded")]
            row = [*_where(cell), f"{found['n_steps']}", *(f"{level:.3f}" for level in levels)]
            rows.append([*row, *map(bracket, measured)])
        return Table(headers, rows, keys=4)

    def exponents(self) -> Table:
        """Of the law and of the losses, over decades, of the widest network of each data set."""
        widest: dict[tuple[object, ...], ValidationCell] = {}
        for cell in self.cells:
            kind = (data_name(cell), cell["n"], cell["batch_size"], cell["momentum"])
            if cell["slopes"] and _width(cell) >= _width(widest.get(kind, cell)):
                widest[kind] = cell
        rows = []
        for cell in widest.values():
            for slopes in cell["slopes"] or ():
                window = "–".join(f"{step}" for step in slopes["window"])
                row = [*_where(cell), _lr(cell), window, _law(cell["law"])]
                closure = {"value": slopes["diagonal"]["value"], "stderr": None}
                rows.append([*row, *map(_value, (closure, *(slopes[regime] for regime in _RUN)))])
        return Table(["data", "N", "width", "b", "lr", "t", "law", "diagonal", "linearised", "network"], rows, keys=5)

    def ratios(self) -> Table:
        """Network over linearisation, and how far its kernel moved."""
        steps = sorted({ratio["step"] for cell in self.cells for ratio in cell["ratios"] or ()})
        rows = []
        for cell in self.cells:
            if cell["ratios"] is None or (run := cell["training"]) is None:
                continue
            known = {ratio["step"]: ratio for ratio in cell["ratios"]}
            last = run["kernel"][-1] if run["kernel"] else {"relative": None, "top": None}
            row = [*_where(cell), _lr(cell), f"{len(run['network'])}", *(_ratio(known.get(step)) for step in steps)]
            row.append("-" if last["relative"] is None else f"{last['relative']:.3f}")
            rows.append([*row, "-" if last["top"] is None else f"× {last['top']:.3f}"])
        headers = ["data", "N", "width", "b", "lr", "runs", *(f"t = {step}" for step in steps)]
        return Table([*headers, "kernel moved", "λ_max"], rows, keys=5)


_RUN = ("sampled", "network")


def _width(cell: ValidationCell) -> int:
    return cell["network"].get("width", 0)


def data_name(cell: ValidationCell) -> str:
    """The data set's name, with the number of outputs where there are several."""
    outputs = cell["network"].get("n_outputs", 1)
    return cell["dataset"] + (f", {outputs} outputs" if outputs > 1 else "")


def _where(cell: ValidationCell) -> list[str]:
    momentum = f", β = {readable(cell['momentum'])}".replace("-", "−") if cell["momentum"] else ""
    width = cell["network"].get("width", "-")
    return [f"{data_name(cell)}{momentum}", f"{cell['n']}", f"{width}", f"{cell['batch_size']}"]


def _lr(cell: ValidationCell) -> str:
    return "-" if cell["training"] is None else short(cell["training"]["sgd"]["lr"])


def bracket(ends: dict[str, float | None]) -> str:
    """ "1.92–1.98", "> 32" or "< 0.1", of a bracket as JSON holds it, which has no infinity."""
    from sgdsim.studies.measured_stability import Bracket  # loads torch, which pictures of theory do without

    return str(Bracket(ends["low"] or 0.0, ends["high"] or math.inf))


def _value(found: dict[str, Any]) -> str:
    """A value and, where known, its standard error."""
    if found["value"] is None:
        return "-"
    error = "" if found["stderr"] is None else f" ± {found['stderr']:.3f}"
    return f"{found['value']:.3f}{error}".replace("-", "−")


def _law(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    words = "{} ({} to {})".format(*estimate(found["exponent"], ".2f")).replace("-", "−")
    return words if (found["exponent"]["low"] or 0) > 0 else f"none: {words}"


def _ratio(found: dict[str, Any] | None) -> str:
    if found is not None and found["ratio"] is None and found["network_diverged"] + found["sampled_diverged"]:
        return "diverged"
    return "-" if found is None else _value({"value": found["ratio"], "stderr": found["stderr"]})
