"""The text of `sgdsim recommend`, from the facts that `--json` prints."""

from __future__ import annotations

import math
from typing import Any

from sgdsim.cli.deliver import interrupted, lr_unit, wrote
from sgdsim.common.specs import readable, shortest
from sgdsim.common.table import Table
from sgdsim.common.text import short

_LEFT = 1.5  # times the predicted loss, up or down, from which on a network is said to leave its linearisation
_FLAT = 1e-3  # a gain below this is not worth having
_OPEN = 5e-3  # a gain below this is not sure, as --exact ends where none larger than 0.2% is likely


def text(facts: dict[str, Any]) -> str:
    """Everything as lines; learning rates in units of 1/λ_max and, in brackets, those of torch.optim.SGD."""
    head = f"{facts['problem'].get('title', '')}: batch {facts['batch_size']}, {steps(facts['horizon'])}, tau "
    lines = [head + f"{shortest(facts['tau'])}, noise γ = {facts['noise']:.4g}", ""]
    lines += [*_linearised(facts), *_best(facts), "", *_levels(facts), "", *_law(facts), *_asymptotic(facts)]
    if facts["jacobi"] is not None:
        lines += ["", *_jacobi(facts["jacobi"])]
    if facts["notes"]:
        lines += ["", *(f"Note: {note}" for note in facts["notes"])]
    if facts["verify"] is not None:
        lines += ["", *_verify(facts["verify"], facts["horizon"])]
    times = ", ".join(f"{name} {value:.1f} s" for name, value in facts["seconds"].items() if value is not None)
    return "\n".join([*lines, "", f"{lr_unit(facts['torch_lr_per_alpha'])}. {times}.", *wrote(facts)])


def steps(count: int) -> str:
    """ "1 step", "10000 steps", "1e+15 steps"."""
    return f"{count:g} steps" if count >= 10**7 else f"{count} step{'s' if count != 1 else ''}"


def _linearised(facts: dict[str, Any]) -> list[str]:
    """First of all, where the real network did not do what its linearisation predicts."""
    network = (facts["verify"] or {"regimes": {}})["regimes"].get("network")
    predicted = facts["best"]["exact_loss"] or facts["best"]["loss"]
    if network is None or not predicted:
        return []
    mean, what = network["points"][0]["mean"], "The real network leaves its linearisation here"
    if mean is None:
        return [f"{what}: it diverged at the best setting, for which theory predicts {short(predicted)}.", ""]
    ratio = mean / predicted
    if 1 / _LEFT < ratio < _LEFT:
        return []
    moved = network["points"][0]["kernel_moved"]
    kernel = "" if moved is None else f" Its tangent kernel moved by {_percent(moved)} on the way."
    text = f"{what}: its loss is {short(mean)} at the best setting, {short(ratio)} times what theory predicts."
    return [text + kernel, ""]


def _best(facts: dict[str, Any]) -> list[str]:
    exact = facts["best"]["exact_loss"] is not None
    rows = []
    for name, key in (("best", "best"), ("best without momentum", "plain")):
        entry = facts[key]
        momentum = f"{_momentum(entry['momentum'])}"
        row = [name, short(entry["lr"]), f"({short(entry['torch_lr'])})", momentum, short(entry["loss"])]
        rows.append([*row, *([short(entry["exact_loss"])] if exact else [])])
    headers = ["", "lr", "(torch)", "momentum", "predicted loss", *(["exact average"] if exact else [])]
    lines = [Table(headers, rows, "lr").text(), *_trust(facts)]
    gain, momentum = facts["gain"], facts["best"]["momentum"]
    if gain is None:
        small = facts["plain"]["loss"] == 0
        lines.append(
            "Both losses are below the smallest number of floating point."
            if small
            else "No gain of momentum is claimed: the closure's own error here is larger."
        )
    elif momentum and gain > (_OPEN if facts["exact"] else _FLAT):
        sign, by = "Negative" if momentum < 0 else "Positive", "in the exact average" if exact else "by this theory"
        by += ", whose own error is not known here" if facts["best"]["closure_error"] is None else ""
        lines.append(f"{sign} momentum wins {by}: a loss {_percent(gain)} below the best without momentum.")
    else:
        lines.append(f"Momentum of either sign brings next to nothing: {100 * gain:.2g}%.")
    return lines


def _trust(facts: dict[str, Any]) -> list[str]:
    """How far the prediction can be trusted, and where the closure's own optimum lies if that is another."""
    best, closure, lines = facts["best"], facts["closure_best"], []
    if searched := facts["exact"]:
        count = f"{searched['settings']} settings" if searched["settings"] else "the closure, which has no error here"
        if searched["settled"]:
            lines.append(f"Both are the best by the exact average over batches, found with {count}.")
        elif not searched["interrupted"]:
            lines.append(
                f"Both are the best of {count} by the exact average, where the search ends: others may be better."
            )
        lines += interrupted(searched, "these are the best of what was tried")
    error = best["closure_error"]
    if best["exact_loss"] is not None:
        lines.append(f"The exact average over batches is {_off(error)} the prediction at the best setting.")
    elif error:
        lines.append(f"The exact average amplifies batch noise: {_off(error)} the prediction's, at the best setting.")
    tried = not (searched and searched["interrupted"])
    if tried and (closure["lr"], closure["momentum"]) != (best["lr"], best["momentum"]):
        lines.append(
            f"The closure alone would take lr {short(closure['lr'])}, momentum {_momentum(closure['momentum'])} and "
            f"expect {short(closure['loss'])}; in this eigenbasis that is unstable or worse."
        )
    return lines


def _off(error: float) -> str:
    """A relative error as "27% above" or "11 times"."""
    if error >= 1:
        return f"{1 + error:.2g} times"
    return f"{100 * abs(error):.2g}% {'above' if error > 0 else 'below'}"


def _momentum(value: float) -> str:
    return "0" if abs(value) < 1e-9 else readable(value, 5)  # what the search for an optimum leaves of 0


def _percent(gain: float) -> str:
    return f"{100 * gain:.2g}%" if gain < 0.99 else f"{100 * gain:.4g}%"


def _levels(facts: dict[str, Any]) -> list[str]:
    names = {"full_batch": "full batch", "spectral_diagonal": "spectral-diagonal", "exact": "exact"}
    if facts["max_lr"][0]["exact"] is None:
        del names["exact"]
    rows = []
    for level in facts["max_lr"][: 1 if facts["best"]["momentum"] == 0 else 2]:
        cells = [f"{short(level[name])} ({short(level['torch_lr'][name])})" for name in names]
        rows.append([f"momentum {_momentum(level['momentum'])}", *cells])
    return [Table(["largest stable lr (torch)", *names.values()], rows, "lr").text()]


def _law(facts: dict[str, Any]) -> list[str]:
    law, cutoff = facts["law"], facts["cutoff"]
    tail = [] if cutoff is None else [f"cut-off (exponential fall of this finite spectrum) after {cutoff:.3g} steps"]
    if law["source"] is None:
        return [f"law: none ({law['reason']})", *tail]
    exponents = f"ν = {law['nu']:.3g}, κ = {law['kappa']:.3g}, ζ = {law['zeta']:.3g}"
    lines = [f"law ({law['source']}): {exponents}: {law['phase']}"]
    if law["exponent"] is not None:
        where = "nowhere"
        if law["window"] is not None:
            where = "for t from {:.3g} to {:.3g}".format(*law["window"])
        lines.append(f"    L ≈ {law['constant']:.4g}·t^(−{law['exponent']:.4g}), within {law['within']:.0%} {where}")
    if law["crossover"] is not None:
        lines.append(f"    the noise's share overtakes the signal's at t = {law['crossover']:.3g}")
    return [*lines, *(f"    {line}" for line in tail)]


def _asymptotic(facts: dict[str, Any]) -> list[str]:
    late = facts["law"].get("asymptotic")
    if late is None or facts["law"]["window"] is None:
        return []
    law = f"{late['constant']:.4g}·t^(−{late['exponent']:.4g})"
    if late["momentum"] is None:
        return [f"    late optimum: lr/(1 − momentum) = {late['effective_lr']:.4g} with momentum near 1, L ≈ {law}"]
    lines = [f"    late optimum: lr {late['lr']:.4g}, momentum {late['momentum']:.4g}, L ≈ {law}"]
    sign = "negative" if late["negative_momentum"] else "positive"
    error = facts["best"]["closure_error"]
    if late["momentum"] and late["gain"] > max(_FLAT, abs(error or 0.0)):
        lines[0] += f"; {sign} momentum wins by {_percent(late['gain'])}"
    return lines


def _jacobi(found: dict[str, Any]) -> list[str]:
    parameters = f"a={found['a']:.6g},b={found['b']:.6g}"
    lines = [
        f"full batch, best Jacobi schedule: lr jacobi:lr={found['lr']:.6g},{parameters} momentum jacobi:{parameters}",
        f"    loss {short(found['loss'])}; the best constant setting: {short(found['constant_loss'])}",
    ]
    if found["loss"] is None or found["loss"] >= found["constant_loss"]:
        lines[-1] += ", which is better at this horizon"
    noisy = found["noisy_loss"]
    lines.append(
        f"    Warning: it diverges under batch noise; with these batches its loss would be "
        f"{'infinite' if noisy is None else short(noisy)}."
    )
    return lines


def _verify(found: dict[str, Any], horizon: int) -> list[str]:
    header = [f"after {steps(horizon)}", "lr", "momentum", "theory"]
    rows = [
        [p["name"], short(p["lr"]), f"{_momentum(p['momentum'])}", short(p["predicted_loss"])] for p in found["points"]
    ]
    lines = []
    for name, regime in found["regimes"].items():
        body = []
        for row, numbers in zip(rows, regime["points"], strict=True):
            if numbers["diverged"]:
                cells = [f"diverged {numbers['diverged']}/{found['replicates']}", "", ""]
            else:
                cells = [f"{numbers['mean']:.4g} ± {numbers['stderr']:.1g}", *_beside(numbers)]
            moved = numbers["kernel_moved"]
            body.append([*row, *cells, numbers["verdict"] or "", "" if moved is None else _percent(moved)])
        last = "kernel moved" if name == "network" else ""
        table = Table([*header, f"{name}, mean", "difference", "typical", "", last], body, "lr")
        lines += [table.text(), _judgement(name, found["points"], regime), ""]
    if found["kernel_points"]:
        lines.append(
            f"Kernel moved: ‖Θ_T − Θ_0‖/‖Θ_0‖ (Frobenius) of the tangent kernel on {found['kernel_points']} training "
            "points, on the first replicate's batches."
        )
    lines.append(
        f"{found['replicates']} replicates, the same batches at every point; ± is one standard error. "
        "Typical: geometric mean of the ratio to the recommended point."
    )
    return lines + interrupted(found)


def _beside(numbers: dict[str, Any]) -> tuple[str, str]:
    """Difference of the means from the recommended point, and ratio to it in a typical run."""
    if numbers["verdict"] is None or numbers["difference"] is None:
        return "", ""
    ratio, error = math.exp(numbers["log_ratio"]), numbers["log_ratio_stderr"]
    return f"{numbers['difference']:+.2g} ± {numbers['difference_stderr']:.1g}", f"×{ratio:.3g} ± {100 * error:.2g}%"


def _judgement(name: str, points: list[dict[str, Any]], regime: dict[str, Any]) -> str:
    verdicts = [numbers["verdict"] for numbers in regime["points"]]
    if verdicts.count("lower"):
        where = ", ".join(p["name"] for p, verdict in zip(points, verdicts, strict=True) if verdict == "lower")
        ratio = regime["points"][0]["mean"] / points[0]["predicted_loss"] if regime["points"][0]["mean"] else math.inf
        far = name == "network" and not 0.8 < ratio < 1.25
        why = f" The network has left its linearisation: ×{ratio:.2g} of the predicted loss." if far else ""
        return f"{name}: not a minimum, lower at {where}.{why}"
    if not regime["is_minimum"]:
        return f"{name}: diverges at the recommended point."
    same = verdicts.count("not distinguishable")
    if same == len(verdicts) - 1:
        return f"{name}: no neighbour distinguishable from the recommended point; more --replicates would tell more."
    flat = f" ({same} of {len(verdicts) - 1} neighbours not distinguishable from it)" if same else ""
    return f"{name}: a minimum within errors{flat}."
