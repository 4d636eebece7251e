"""`sgdsim recommend` for what is not plain heavy ball: another method, noisy labels, averages, one pass."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from sgdsim.cli.arguments import algorithm
from sgdsim.cli.deliver import Delivery, lr_unit
from sgdsim.cli.problems import load
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import readable, shortest
from sgdsim.common.text import short

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import QuadraticProblem
    from sgdsim.studies.recommendation import LawHere
    from sgdsim.theory.verdicts import Verdict

_LONGEST = 1_000_000  # steps of an average that changes in time: there is no contour, they are stepped
TIMES = ("problem", "theory", "exact", "jacobi", "verify", "total")  # keys of "seconds"


def recommend(args: argparse.Namespace) -> int:
    """Print the best constant learning rate and momentum, thresholds there, the floor of noisy labels."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.recurrence import contour
    from sgdsim.theory import best_schedules, linear, stability
    from sgdsim.theory.verdicts import verdict

    delivery = Delivery(args)
    options = {name: values[0] for name, values in algorithm(args).items()}
    sgd = SGD(1.0, 0.0, args.batch_size, **options)
    if sgd.rule is not None:
        raise InputError(f"--method: expected one that is linear in the gradient, got {sgd.rule.spec}; try compare")
    if not sgd.is_constant:
        raise InputError(f"--method: expected one that does not change in time, got {sgd.method.spec}; try compare")
    for name in ("verify", "plot", "replicates"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name}: expected only with heavy ball, without noisy labels, averages or one pass; try compare"
            )
    for name in ("jacobi", "exact"):
        if getattr(args, name):
            raise InputError(f"--{name}: expected only with heavy ball, without noisy labels, averages or one pass")
    tail = getattr(sgd.average, "name", "") == "tail"  # has neither law nor floor
    if tail and args.horizon > _LONGEST:
        raise InputError(f"--horizon: expected at most {_LONGEST:g} steps with a tail average, got {args.horizon:g}")
    problem = load(args)
    sgd.check(problem.n, 1)
    quadratic = problem.quadratic
    there, loss = best_schedules.best_constant(quadratic, sgd, args.horizon, tau=args.tau)
    lr = float(there.lr)  # type: ignore[arg-type] # constant
    floor = linear.floor(quadratic, there, args.tau) if sgd.label_noise and not tail else None
    law, rate = _law(quadratic, there, args.tau, args.horizon, loss), None
    if not tail:
        rate = contour.rate_of(quadratic, there, tau=args.tau)
    levels = {
        "full_batch": finite_or_none(stability.max_lr(quadratic, there, "full-batch")),
        "spectral_diagonal": finite_or_none(stability.max_lr(quadratic, there, tau=args.tau)),
        "exact": _exact(quadratic, there),
    }
    torch = {name: None if lr is None else quadratic.torch_lr(lr) for name, lr in levels.items()}
    known = verdict(quadratic, there)
    # The keys of the plain form, in its order; None where nothing is known for this algorithm.
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": quadratic.spectrum.scale,
        "torch_lr_per_alpha": quadratic.torch_lr(1.0),
        **algorithm_facts(sgd),
        "noise": sgd.noise(problem.n),
        "tau": args.tau,
        "horizon": args.horizon,
        "seed": args.seed,
        "best": {
            "lr": lr,
            "torch_lr": quadratic.torch_lr(lr),
            "momentum": there.momentum,
            "loss": finite_or_none(loss),
            "effective_lr": finite_or_none(linear.effective_lr(there)),
            "exact_loss": None,
            "closure_error": None,
        },
        "plain": None,
        "closure_best": None,
        "exact": None,
        "loss_error": None,
        "stable": known.stable,
        "stable_reason": known.reason,
        "gain": None,
        "negative_momentum": None,
        "max_lr": [{"momentum": there.momentum, **levels, "torch_lr": torch}],
        "rate": finite_or_none(rate),
        "cutoff": 1 / abs(rate) if rate is not None and -math.inf < rate < 0 else None,
        "law": law.as_dict(),
        "jacobi": None,
        "notes": _notes(known),
        "floor": None if floor is None else finite_or_none(floor.loss),
        "floor_reached": None if floor is None else floor.reached,
        "verify": None,
        "interrupted": False,
        "seconds": dict.fromkeys(TIMES) | {"total": delivery.seconds},
        "plot": None,
    }
    return delivery.tell(facts, lambda: _text(facts))


def algorithm_facts(sgd: SGD) -> dict[str, float | int | str]:
    """What the algorithm is, but for the learning rate and momentum that are looked for."""
    return {name: value for name, value in sgd.spec().items() if name not in ("lr", "momentum")}


def _notes(known: Verdict) -> list[str]:
    if known.stable:
        return []
    what = "this setting is unstable" if known.stable is False else "whether this setting is stable is not known"
    return [f"{what}: {known.reason}."]


def _exact(quadratic: QuadraticProblem, sgd: SGD) -> float | None:
    """The exact threshold where it takes seconds."""
    from sgdsim.theory import stability

    found = None
    fast = quadratic.n <= stability.EXACT_BESIDE_OF_METHODS
    if fast and quadratic.multiplicity is None and not sgd.is_one_pass:
        found = stability.max_lr(quadratic, sgd, "exact", tolerance=1e-4)
    return finite_or_none(found)


def _law(quadratic: QuadraticProblem, sgd: SGD, tau: float, horizon: int, loss: float) -> LawHere:
    """The late law at a setting and its ratio to the loss at the horizon, None where not known."""
    from sgdsim.problem import fits
    from sgdsim.studies.recommendation import LawHere
    from sgdsim.theory import power_law

    try:
        fit = None if quadratic.exponents is not None else fits.fit_power_law(quadratic)
        law = power_law.PowerLaw.of(quadratic)
        found = power_law.predict(quadratic, sgd, law, tau=tau)
    except InputError as error:
        return LawHere(None, None, str(error))
    ratio = None
    if found.exponent is not None and found.constant is not None and math.isfinite(found.constant) and loss > 0:
        ratio = finite_or_none((found.constant * float(horizon) ** -found.exponent + (found.floor or 0.0)) / loss)
    return LawHere(law, fit, None, found, ratio)


def _text(facts: dict[str, Any]) -> str:
    what = [facts["method"], f"batch {facts['batch_size']}", facts["sampling"]]
    what += [f"label noise {facts['label_noise']:g}"] if facts["label_noise"] else []
    what += [f"average {facts['average']}"] if facts["average"] else []
    best, level = facts["best"], facts["max_lr"][0]
    lines = [
        f"{facts['problem'].get('title', '')}: {', '.join(what)}",
        f"best constant setting for {facts['horizon']:g} steps: lr {short(best['lr'])}, momentum "
        f"{readable(best['momentum'], 4)}; loss {short(best['loss'])} (spectral-diagonal, "
        f"tau {shortest(facts['tau'])})",
        f"effective lr {short(best['effective_lr'])}; stable up to lr {short(level['spectral_diagonal'])} at this "
        f"momentum (full batch: {short(level['full_batch'])})",
    ]
    if level["exact"] is not None:
        lines[-1] = lines[-1][:-1] + f", exactly at this N: {short(level['exact'])})"
    lines += [f"Warning: {note}" for note in facts["notes"]]
    law = facts["law"]
    if law["constant"] is not None:
        above = "" if facts["floor"] is None else f"{short(facts['floor'])} + "
        window = law["window"]
        where = f"within 10% from step {window[0]:.3g} to {window[1]:.3g}" if window else "nowhere within 10%"
        lines += [
            f"late law ({law['phase']}, ν = {law['nu']:.3g}, κ = {law['kappa']:.3g}): L ≈ {above}{law['constant']:.4g}·"
            f"t^(−{law['exponent']:.4g}), {where}; at the horizon {short(law['ratio'])} times that loss"
        ]
    if facts["cutoff"] is not None:
        lines.append(f"the loss falls exponentially beyond step {facts['cutoff']:.3g}")
    if facts["floor"] is not None:
        when = "" if facts["floor_reached"] is None else f", within a factor 2 from step {facts['floor_reached']}"
        lines.append(f"noisy labels leave a loss of {short(facts['floor'])} at this setting (spectral-diagonal){when}")
    lines.append(f"{lr_unit(facts['torch_lr_per_alpha'])}. {facts['seconds']['total']:.1f} s.")
    return "\n".join(lines)
