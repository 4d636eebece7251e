"""The tables of `sgdsim validate`, plain or in Markdown, from the facts that `--json` prints."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from sgdsim.cli.deliver import ending, interrupted
from sgdsim.common.specs import readable
from sgdsim.common.table import Table
from sgdsim.common.text import estimate, short

THRESHOLDS = (
    "Learning rates in units of 1/λ_max of the tangent kernel at the start. Predicted: full batch 2(1+β), "
    "spectral-diagonal closure with τ = 1 and −1, exact in mean square at this N. Measured by bisection, on the same "
    "batches for linearisation and network: 'settles' while at least half of the replicates end (second half of the "
    "run) below their initial loss and that of the best constant output or, where they never rose 100-fold, below "
    "what they had early (T/20 to T/10); 'within 10×' while the loss never passes 10 times the initial one. A network "
    "that settles though it was not within 10× has catapulted: its loss grew until its kernel had shrunk."
)
EXPONENTS = (
    "Exponents ξ of L ∝ t^−ξ over decades of t, for the widest network of each data set. 'law' is min(ζ, 2 − 1/ν) of "
    "the power laws fitted to eigenvalues and error coefficients, with its 95% interval: none where that reaches 0. "
    "The others are slopes of the losses themselves: spectral-diagonal closure (τ = 1, the whole spectrum), "
    "linearisation and network on the same batches (± standard error over batch sequences)."
)
RATIOS = (
    "Mean loss of the network over that of its linearisation on the same batches (± standard error over batch "
    "sequences, paired; one network per width, so that the scatter from network to network is not in it). 'kernel "
    "moved' is ‖Θ_t − Θ_0‖/‖Θ_0‖ and 'λ_max' λ_max(Θ_t)/λ_max(Θ_0) at the last step, first replicate."
)


def text(facts: dict[str, Any], *, markdown: bool = False) -> str:
    """The three tables, each with what it means; those without a row are left out."""
    parts = (
        ("Stability thresholds", THRESHOLDS, _thresholds(facts["cells"])),
        ("Exponents", EXPONENTS, _exponents(facts["cells"])),
        ("Network against linearisation", RATIOS, _ratios(facts["cells"])),
    )
    out = []
    for title, words, rows in parts:
        if len(rows) == 1:
            continue
        table = Table(rows[0], rows[1:])
        if markdown:
            out += [f"**{title}**", "", table.markdown(), "", words, ""]
        else:
            out += [title, table.text(), "", textwrap.fill(words, 110), ""]
    if not out:
        out.append("Nothing was done.")
    out += interrupted(facts) if markdown else ending(facts)
    return "\n".join(out).rstrip("\n")


def _where(cell: dict[str, Any]) -> list[str]:
    momentum = f", β = {readable(cell['momentum'])}".replace("-", "−") if cell["momentum"] else ""
    return [f"{cell['dataset']}{momentum}", f"{cell['n']}", f"{cell['network'].get('width', '-')}"]


def _thresholds(cells: list[dict[str, Any]]) -> list[list[str]]:
    header = ["data", "N", "width", "b", "T", "full batch", "τ = 1", "τ = −1", "exact"]
    header += ["linearised settles", "within 10×", "network settles", "within 10×"]
    rows = [header]
    for cell in cells:
        found = cell["thresholds"]
        if found is None:
            continue
        levels = [found["full_batch"], found["diagonal"]["1"], found["diagonal"]["-1"], found["exact"]]
        measured = [
            bracket(found["measured"][regime][criterion])
            for regime in ("sampled", "network")
            for criterion in ("settles", "bounded")
        ]
        steps = [f"{cell['batch_size']}", f"{found['n_steps']}"]
        rows.append([*_where(cell), *steps, *(f"{level:.3f}" for level in levels), *measured])
    return rows


def bracket(ends: dict[str, float | None]) -> str:
    """ "1.92–1.98", "> 32" or "< 0.1", of a bracket as JSON holds it, which has no infinity."""
    from sgdsim.studies.measured_stability import Bracket

    return str(Bracket(ends["low"] or 0.0, ends["high"] or math.inf))


def _value(found: dict[str, float | None], digits: int = 3) -> str:
    """A value and, where known, its standard error."""
    if found["value"] is None:
        return "-"
    error = "" if found["stderr"] is None else f" ± {found['stderr']:.{digits}f}"
    return f"{found['value']:.{digits}f}{error}".replace("-", "−")


def _exponents(cells: list[dict[str, Any]]) -> list[list[str]]:
    header = ["data", "N", "width", "b", "lr", "t", "law", "diagonal", "linearised", "network"]
    rows = [header]
    widest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in cells:
        kind = tuple(cell[name] for name in ("dataset", "n", "batch_size", "momentum"))
        width = cell["network"].get("width", 0)
        if cell["slopes"] and width >= widest.get(kind, cell)["network"].get("width", 0):
            widest[kind] = cell
    for cell in widest.values():
        for slopes in cell["slopes"]:
            law = _law(cell["law"])
            window = "–".join(f"{step}" for step in slopes["window"])
            numbers = [f"{slopes['diagonal']['value']:.3f}" if slopes["diagonal"]["value"] is not None else "-"]
            numbers += [_value(slopes[name]) for name in ("sampled", "network")]
            settings = [f"{cell['batch_size']}", short(cell["training"]["sgd"]["lr"])]
            rows.append([*_where(cell), *settings, window, law, *numbers])
    return rows


def _law(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    words = "{} ({} to {})".format(*estimate(found["exponent"], ".2f")).replace("-", "−")
    return words if (found["exponent"]["low"] or 0) > 0 else f"none: {words}"


def _ratios(cells: list[dict[str, Any]]) -> list[list[str]]:
    steps = sorted({ratio["step"] for cell in cells for ratio in cell["ratios"] or []})
    rows = [["data", "N", "width", "b", "lr", "runs", *(f"t = {step}" for step in steps), "kernel moved", "λ_max"]]
    for cell in cells:
        if cell["ratios"] is None:
            continue
        known = {ratio["step"]: ratio for ratio in cell["ratios"]}
        words = [_ratio(known.get(step)) for step in steps]
        run = cell["training"]
        last = run["kernel"][-1] if run["kernel"] else {"relative": None, "top": None}
        moved = "-" if last["relative"] is None else f"{last['relative']:.3f}"
        top = "-" if last["top"] is None else f"× {last['top']:.3f}"
        settings = [f"{cell['batch_size']}", short(run["sgd"]["lr"]), f"{len(run['network'])}"]
        rows.append([*_where(cell), *settings, *words, moved, top])
    return rows


def _ratio(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    gone = found["network_diverged"] + found["sampled_diverged"]
    if found["ratio"] is None:
        return "diverged" if gone else "-"
    return _value({"value": found["ratio"], "stderr": found["stderr"]})
