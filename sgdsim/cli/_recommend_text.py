"""The sentences of `sgdsim recommend` around the tables of its result."""

from __future__ import annotations

import math
from typing import cast

from sgdsim.cli.deliver import interrupted
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import readable, shortest
from sgdsim.common.text import percent, short, steps, tuned
from sgdsim.studies.advice import LateBudget
from sgdsim.studies.method_recommendation import MethodRecommendation
from sgdsim.studies.probing import RUNS, Probe, Probed
from sgdsim.studies.recommendation import Recommendation
from sgdsim.studies.recommending import is_probed
from sgdsim.studies.verification import LOWER, SAME, Simulated, Verification
from sgdsim.theory.optimal import JacobiOptimum

_LOSSES = {
    "half-mse": "for the loss ½·mean((f − y)²)",
    "mse": "for torch.nn.MSELoss()",
    "cross-entropy": "for the mean cross-entropy of a batch",
}
_SUMMED = "for the loss ½·((f − y)²).sum(1).mean(), summed over outputs"  # half-mse of several
_LEFT = 1.5  # times the predicted loss, up or down, from which on a network is said to leave its linearisation
_FLAT = 1e-3  # a gain below this is not worth having
_OPEN = 5e-3  # a gain below this is not sure, as --exact ends where none larger than 0.2% is likely


def lines(title: str, found: Recommendation | MethodRecommendation, checked: Verification | None) -> list[str]:
    """All but the last line; learning rates in units of 1/λ_max and, in brackets, those of torch.optim.SGD."""
    if isinstance(found, MethodRecommendation):
        return _of_method(title, found)
    return _of_heavy_ball(title, found, checked)


def _of_heavy_ball(title: str, found: Recommendation, checked: Verification | None) -> list[str]:
    head = f"{title}: batch {found.sgd.batch_size}, {steps(found.horizon)}, tau "
    cut = found.beyond_cutoff()
    out = [head + f"{shortest(found.tau)}, noise γ = {found.noise:.4g}", *(f"Note: {note}" for note in cut), ""]
    out += [*_modelled(found), *_linearised(found, checked), *_probe(found), found.table().text()]
    out += [*_trust(found), *_gain(found), ""]
    out += [found.limits().text(), "", *_law(found), *_late(found)]
    if found.jacobi is not None:
        out += ["", *_jacobi(found.jacobi)]
    if notes := [note for note in found.notes() if note not in cut]:
        out += ["", *(f"Note: {note}" for note in notes)]
    return [*out, ""] if checked is None else [*out, "", *_verified(checked), ""]


def _modelled(found: Recommendation) -> list[str]:
    """First of all, until when the quadratic model of cross-entropy holds."""
    if found.horizon_of_model is None:
        return []
    text = f"At the best setting {found.horizon_of_model.sentence()}."
    if found.beyond_model:
        text += (
            f" {steps(found.horizon)} go beyond that: the predicted losses do not hold there, and the setting is not "
            "known to be the best."
        )
    return [text, ""]


def _linearised(found: Recommendation, checked: Verification | None) -> list[str]:
    """First of all, where the real network did not do what its linearisation predicts."""
    networks = [] if checked is None else [known for known in checked.regimes if known.kernel_moved is not None]
    predicted = found.known.error.loss or found.known.best.loss
    if not networks or not predicted:
        return []
    mean, what = float(networks[0].mean[0]), "The real network leaves its linearisation here"
    if not math.isfinite(mean):
        return [f"{what}: it diverged at the best setting, for which theory predicts {short(predicted)}.", ""]
    ratio = mean / predicted
    if 1 / _LEFT < ratio < _LEFT:
        return []
    moved = networks[0].moved(0)
    kernel = "" if moved is None else f" Its tangent kernel moved by {percent(moved)} on the way."
    text = f"{what}: its loss is {short(mean)} at the best setting, {short(ratio)} times what theory predicts."
    return [text + kernel, ""]


def _probe(found: Recommendation | MethodRecommendation) -> list[str]:
    """What is recommended after the network was tried, and why; nothing where it was not."""
    probe, answer = found.probe, found.answer
    if probe is None:
        return []
    if answer is None or probe.chosen is None:
        return [*_none_chosen(probe), ""]
    setting = f"lr {short(answer.lr)}, momentum {tuned(answer.momentum)}"
    what = f"Recommended: {setting}, tried on the network: {_seen(probe.chosen)}."
    lines = [f"{what} {_later(probe.chosen.steps, probe.horizon)}".rstrip()]
    if probe.lowered:
        lines.append(f"Theory's best setting failed there: {_seen(probe.tried[0])}. What was tried:")
        lines += ["", probe.table().text()]
    return [*lines, ""]


def _none_chosen(probe: Probe) -> list[str]:
    if probe.interrupted:
        return ["Interrupted while the network was tried: no setting is recommended. Below is theory alone."]
    last = probe.tried[-1]
    end = f"lr {short(last.lr)}, momentum {tuned(last.momentum)}"
    text = f"Linearised theory does not predict this network: it leaves the prediction at each setting tried, to {end}."
    return [f"{text} None is recommended; below is what theory alone says.", "", probe.table().text()]


def _seen(tried: Probed) -> str:
    """What real steps at a setting showed."""
    grew = "the growth of λ_max is not known"
    if not math.isnan(tried.growth):
        grew = f"λ_max grew ×{short(tried.growth)}, to {tried.reached:.0%} of the stability limit"
    loss = f"{tried.diverged} diverged" if tried.diverged else f"the loss was ×{short(tried.ratio)} of the predicted"
    return f"in {steps(tried.steps)} of {RUNS} runs {grew}, and {loss}"


def _later(done: int, horizon: int) -> str:
    return f"What comes later, up to step {horizon:g}, such a probe cannot tell." if done < horizon else ""


def to_paste(found: Recommendation | MethodRecommendation, has_network: bool) -> list[str]:
    """The optimiser as a line of Python for either loss, and whether it was tried."""
    found_lines = {name: found.torch_line(name) for name in found.torch_losses}
    told = _LOSSES | ({"half-mse": _SUMMED} if found.problem.n_outputs > 1 else {})
    lines = [f"    {line}  # {told.get(name, name)}" for name, line in found_lines.items() if line is not None]
    if not has_network:
        lines.append("No network was given to try this on: it is linearised theory alone.")
    elif not is_probed(found.sgd):
        lines.append("Not tried on the network: heavy ball alone is.")
    elif found.problem.loss != "squared":
        lines.append(f"Not tried on the network, whose {found.problem.loss} theory follows for a while only.")
    elif found.probe is None:
        lines.append("Not tried on the network.")
    return [*lines, ""] if isinstance(found, Recommendation) else lines


def _gain(found: Recommendation) -> list[str]:
    """What momentum is worth."""
    known, gain = found.known, found.known.gain
    if gain is None and known.best.plain_loss == 0:
        return ["Both losses are below the smallest number of floating point."]
    if gain is None:
        return ["No gain of momentum is claimed: the closure's own error here is larger."]
    if known.best.momentum and gain > (_FLAT if found.searched is None else _OPEN):
        what = f"{'Negative' if known.best.momentum < 0 else 'Positive'} momentum wins"
        if known.error.loss is None:
            unsure = ", whose own error is not known here" if known.error.relative is None else ""
            return [f"{what} by this theory{unsure}: {_below(gain, known.best.loss)} the best without momentum."]
        lower = _below(gain, known.error.loss)
        if found.searched is not None:
            return [f"{what} in the exact average: {lower} the best without momentum."]
        return [
            f"{what}: the exact average has {lower} that without momentum. Both settings are the best by this theory; "
            "--exact looks for that average's."
        ]
    return [f"Momentum of either sign brings next to nothing: {100 * gain:.2g}%."]


def _below(gain: float, loss: float) -> str:
    if loss == 0:
        return "a loss below the smallest number of floating point, far below"
    return f"a loss {percent(gain) if gain < 0.99995 else 'more than 99.99%'} below"


def _trust(found: Recommendation) -> list[str]:
    """How far the prediction can be trusted, and where the closure's own optimum lies if that is another."""
    best, closure, searched, lines = found.known.best, found.known.closure, found.searched, list[str]()
    if searched is not None:
        count = f"{searched.settings} settings" if searched.settings else "the closure, which has no error here"
        if searched.settled:
            lines.append(f"Both are the best by the exact average over batches, found with {count}.")
        elif not searched.interrupted:
            lines.append(
                f"Both are the best of {count} by the exact average, where the search ends: others may be better."
            )
        lines += interrupted(vars(searched), "these are the best of what was tried")
    error = found.known.error
    if error.loss is not None:
        lines.append(
            f"The exact average over batches is {_off(error.relative or 0.0)} the prediction at the best setting."
        )
    elif error.relative:
        lines.append(
            f"The exact average amplifies batch noise: {_off(error.relative)} the prediction's, at the best setting."
        )
    if not found.interrupted and (closure.lr, closure.momentum) != (best.lr, best.momentum):
        lines.append(
            f"The closure alone would take lr {short(closure.lr)}, momentum {tuned(closure.momentum)} and "
            f"expect {short(found.loss_of(closure.loss))}; in this eigenbasis that is unstable or worse."
        )
    return lines


def _off(error: float) -> str:
    """A relative error as "27% above" or "11 times"."""
    if error >= 1:
        return f"{1 + error:.2g} times"
    if error == -1:
        return "below the smallest number of floating point, far below"
    return f"{percent(abs(error))} {'above' if error > 0 else 'below'}"


def _law(found: Recommendation) -> list[str]:
    here, prediction, tail = found.law, found.law.prediction, list[str]()
    if found.cutoff is not None:
        tail.append(f"cut-off (exponential fall of this finite spectrum) after {found.cutoff:.3g} steps")
    if here.law is None or prediction is None:
        return [f"law: none ({here.reason})", *tail]
    exponents = f"ν = {here.law.nu:.3g}, κ = {here.law.kappa:.3g}, ζ = {here.law.zeta:.3g}"
    lines = [f"law ({here.source}): {exponents}: {prediction.phase}"]
    loss = _loss(found)
    if prediction.exponent is not None:
        where = "nowhere" if prediction.window is None else "for t from {:.3g} to {:.3g}".format(*prediction.window)
        law = f"{prediction.constant:.4g}·t^(−{prediction.exponent:.4g})"
        lines.append(f"    {loss} ≈ {law}, within {prediction.within:.0%} {where}")
    if prediction.crossover is not None:
        lines.append(f"    the noise's share overtakes the signal's at t = {prediction.crossover:.3g}")
    return [*lines, *(f"    {line}" for line in tail)]


def _loss(found: Recommendation) -> str:
    """What follows a law: the loss above the offset of a quadratic model."""
    offset = found.problem.loss_offset
    return "L" if not offset else f"L {'+' if offset < 0 else '−'} {abs(offset):.4g}"


def _late(found: Recommendation) -> list[str]:
    late, prediction = found.law.late, found.law.prediction
    if late is None or prediction is None or prediction.window is None:
        return []
    left = _loss(found)
    if isinstance(late, LateBudget):
        law = f"{late.constant:.4g}·t^(−{late.exponent:.4g})"
        return [f"    late optimum: lr/(1 − momentum) = {late.effective_lr:.4g} with momentum near 1, {left} ≈ {law}"]
    law = f"{late.loss:.4g}·t^(−{late.exponent:.4g})"
    line = f"    late optimum: lr {late.lr:.4g}, momentum {late.momentum:.4g}, {left} ≈ {law}"
    if late.momentum and late.gain > max(_FLAT, abs(found.known.error.relative or 0.0)):
        line += f"; {'negative' if late.negative_momentum else 'positive'} momentum wins by {percent(late.gain)}"
    return [line]


def _jacobi(best: JacobiOptimum) -> list[str]:
    parameters = f"a={best.a:.6g},b={best.b:.6g}"
    lines = [
        f"full batch, best Jacobi schedule: lr jacobi:lr={best.lr:.6g},{parameters} momentum jacobi:{parameters}",
        f"    loss {short(best.loss)}; the best constant setting: {short(best.constant_loss)}",
    ]
    if not best.loss < best.constant_loss:
        lines[-1] += ", which is better at this horizon"
    noisy = short(best.noisy_loss) if math.isfinite(best.noisy_loss) else "infinite"
    lines.append(f"    Warning: it diverges under batch noise; with these batches its loss would be {noisy}.")
    return lines


def _verified(checked: Verification) -> list[str]:
    lines = []
    for known in checked.regimes:
        lines += [checked.compared(known).text(), _judgement(checked, known), ""]
    if checked.kernel_points:
        lines.append(
            f"Kernel moved: ‖Θ_T − Θ_0‖/‖Θ_0‖ (Frobenius) of the tangent kernel on {checked.kernel_points} training "
            "points, on the first replicate's batches."
        )
    lines.append(
        f"{checked.replicates} replicates, the same batches at every point; ± is one standard error. "
        "Typical: geometric mean of the ratio to the recommended point."
    )
    return lines + interrupted(vars(checked))


def _judgement(checked: Verification, known: Simulated) -> str:
    name, verdicts, mean = known.regime, known.verdicts, float(known.mean[0])
    if LOWER in verdicts:
        where = ", ".join(p.name for p, verdict in zip(checked.points[1:], verdicts, strict=True) if verdict == LOWER)
        ratio = mean / checked.points[0].theory if mean else math.inf
        far = known.kernel_moved is not None and not 0.8 < ratio < 1.25
        why = f" The network has left its linearisation: ×{ratio:.2g} of the predicted loss." if far else ""
        return f"{name}: not a minimum, lower at {where}.{why}"
    if not known.is_minimum:
        return f"{name}: diverges at the recommended point."
    same = verdicts.count(SAME)
    if same == len(verdicts):
        return f"{name}: no neighbour distinguishable from the recommended point; more --replicates would tell more."
    flat = f" ({same} of {len(verdicts)} neighbours not distinguishable from it)" if same else ""
    return f"{name}: a minimum within errors{flat}."


def _of_method(title: str, found: MethodRecommendation) -> list[str]:
    sgd, momentum, (level,) = found.sgd, cast(float, found.best.momentum), found.max_lr
    what = [sgd.method.spec, f"batch {sgd.batch_size}", sgd.sampling]
    what += [f"weight decay {shortest(sgd.weight_decay)}"] if sgd.weight_decay else []
    what += [f"label noise {sgd.label_noise:g}"] if sgd.label_noise else []
    what += [f"average {sgd.average.spec}"] if sgd.average else []
    diagonal, full = short(level["spectral_diagonal"]), short(level["full_batch"])
    exactly = "" if level["exact"] is None else f", exactly at this N: {short(level['exact'])}"
    return [
        f"{title}: {', '.join(what)}",
        *(["", *_probe(found)] if found.probe is not None else []),
        f"best constant setting for {steps(found.horizon)}: lr {short(found.lr)}, momentum {readable(momentum, 4)}; "
        f"loss {short(finite_or_none(found.loss))} (spectral-diagonal, tau {shortest(found.tau)})",
        f"effective lr {short(finite_or_none(found.effective_lr))}; stable up to lr {diagonal} at this momentum "
        f"(full batch: {full}{exactly})",
        *(f"Warning: {note}" for note in found.notes()),
        *_late_law(found),
    ]


def _late_law(found: MethodRecommendation) -> list[str]:
    """What the loss does late: the law, the exponential fall, the floor of noisy labels."""
    here, prediction, floor, lines = found.law, found.law.prediction, found.floor, list[str]()
    level = None if floor is None else finite_or_none(floor.loss)
    if here.law is not None and prediction is not None and finite_or_none(prediction.constant) is not None:
        above = "" if level is None else f"{short(level)} + "
        window = prediction.window
        where = f"within 10% from step {window[0]:.3g} to {window[1]:.3g}" if window else "nowhere within 10%"
        lines += [
            f"late law ({prediction.phase}, ν = {here.law.nu:.3g}, κ = {here.law.kappa:.3g}): L ≈ {above}"
            f"{prediction.constant:.4g}·t^(−{prediction.exponent:.4g}), {where}; at the horizon {short(here.ratio)} "
            "times that loss"
        ]
    if found.cutoff is not None:
        lines.append(f"the loss falls exponentially beyond step {found.cutoff:.3g}")
    if floor is not None and level is not None:
        when = "" if floor.reached is None else f", within a factor 2 from step {floor.reached}"
        both = "noisy labels and weight decay leave", "noisy labels leave", "weight decay leaves"
        what = both[0 if found.sgd.label_noise and found.sgd.weight_decay else 1 if found.sgd.label_noise else 2]
        lines.append(f"{what} a loss of {short(level)} at this setting (spectral-diagonal){when}")
    return lines
