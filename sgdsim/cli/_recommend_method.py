"""`sgdsim recommend` for what is not plain heavy ball: another method, noisy labels, averages, one pass."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from sgdsim.checks import InputError
from sgdsim.cli.arguments import algorithm
from sgdsim.cli.stability import load, short

_LONGEST = 1_000_000  # steps: there is no contour for these, they are stepped
_LARGEST = 500  # points up to which the exact threshold takes a few seconds


def recommend(args: argparse.Namespace) -> int:
    """Print the best constant learning rate and momentum, thresholds there, the floor of noisy labels."""
    from sgdsim.sgd import SGD
    from sgdsim.theory import horizon, linear, stability

    began = time.perf_counter()
    options = {name: values[0] for name, values in algorithm(args).items()}
    sgd = SGD(1.0, 0.0, args.batch_size, **options)
    if not sgd.is_constant:
        raise InputError(f"--method: expected one that does not change in time, got {sgd.method.spec}; try compare")
    for name in ("verify", "plot", "replicates"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name}: expected only with heavy ball, without noisy labels, averages or one pass; try compare"
            )
    if args.jacobi:
        raise InputError("--jacobi: expected only with heavy ball, without noisy labels, averages or one pass")
    if args.horizon > _LONGEST:
        raise InputError(f"--horizon: expected at most {_LONGEST:g} steps for this algorithm, got {args.horizon:g}")
    problem = load(args)
    sgd.check(problem.n, 1)
    quadratic = problem.quadratic
    there, loss = horizon.best_constant(quadratic, sgd, args.horizon, tau=args.tau)
    tail = getattr(sgd.average, "name", "") == "tail"  # has no floor
    floor = linear.floor(quadratic, there, args.tau) if sgd.label_noise and not tail else None
    facts = {
        "problem": problem.description, "n": problem.n, **there.spec(), "horizon": args.horizon, "tau": args.tau,
        "loss": loss, "effective_lr": linear.effective_lr(there),
        "max_lr": stability.max_lr(quadratic, there, tau=args.tau),
        "max_lr_full_batch": stability.max_lr(quadratic, there, "full-batch"),
        "max_lr_exact": _exact(quadratic, there),
        "law": None if sgd.label_noise or sgd.average else _law(quadratic, there, args.tau, args.horizon, loss),
        "floor": None if floor is None or not math.isfinite(floor.loss) else floor.loss,
        "floor_reached": None if floor is None else floor.reached, "torch_lr_per_alpha": quadratic.torch_lr(1.0),
        "seed": args.seed, "seconds": round(time.perf_counter() - began, 3),
    }  # fmt: skip
    print(json.dumps(facts, allow_nan=False) if args.json else _text(facts))
    return 0


def _exact(quadratic: Any, sgd: Any) -> float | None:
    """The exact threshold where it takes seconds."""
    from sgdsim.theory import stability

    found = None
    if quadratic.n <= _LARGEST and quadratic.multiplicity is None and sgd.sampling != "one-pass":
        found = stability.max_lr(quadratic, sgd, "exact", tolerance=1e-4)
    return found if found is None or math.isfinite(found) else None


def _law(quadratic: Any, sgd: Any, tau: float, horizon: int, loss: float) -> dict[str, Any] | None:
    """The late law at a setting and its ratio to the loss at the horizon; None where there is none."""
    from sgdsim.theory import power_law

    try:
        law = power_law.PowerLaw.of(quadratic)
        signal, noise = power_law.method_constants(quadratic, law, sgd, tau=tau)
    except InputError:
        return None
    phase = power_law.phase(law.nu, law.zeta)
    constant, exponent = {
        power_law.SIGNAL: (signal, law.zeta), power_law.NOISE: (noise, 2 - 1 / law.nu)
    }.get(phase, (None, None))  # fmt: skip
    if constant is None or not math.isfinite(constant):
        return None
    return {
        "phase": str(phase), "nu": law.nu, "kappa": law.kappa, "exponent": exponent, "constant": constant,
        "ratio": constant * horizon**-exponent / loss if loss > 0 else None,
    }  # fmt: skip


def _text(facts: dict[str, Any]) -> str:
    what = [facts["method"], f"batch {facts['batch_size']}", facts["sampling"]]
    what += [f"label noise {facts['label_noise']:g}"] if facts["label_noise"] else []
    what += [f"average {facts['average']}"] if facts["average"] else []
    lines = [
        f"{facts['problem'].get('title', '')}: {', '.join(what)}",
        f"best constant setting for {facts['horizon']:g} steps: lr {short(facts['lr'])}, momentum "
        f"{short(facts['momentum'])}; loss {short(facts['loss'])} (spectral-diagonal, tau {facts['tau']:g})",
        f"effective lr {short(facts['effective_lr'])}; stable up to lr {short(facts['max_lr'])} at this momentum "
        f"(full batch: {short(facts['max_lr_full_batch'])})",
    ]
    if facts["max_lr_exact"] is not None:
        lines[-1] = lines[-1][:-1] + f", exactly at this N: {short(facts['max_lr_exact'])})"
        if facts["lr"] >= facts["max_lr_exact"]:
            lines.append("Warning: this lr is above the exact threshold at this N; stay below that.")
    if facts["law"] is not None:
        law = facts["law"]
        lines.append(
            f"late law ({law['phase']}, ν = {law['nu']:.3g}, κ = {law['kappa']:.3g}): L ≈ {law['constant']:.4g}·"
            f"t^(−{law['exponent']:.4g}), at the horizon {short(law['ratio'])} times that loss"
        )
    if facts["floor"] is not None:
        when = "" if facts["floor_reached"] is None else f", within a factor 2 from step {facts['floor_reached']}"
        lines.append(f"noisy labels leave a loss of {short(facts['floor'])} at this setting (spectral-diagonal){when}")
    lines.append(f"lr 1 is {facts['torch_lr_per_alpha']:.4g} in torch.optim.SGD. {facts['seconds']:.1f} s.")
    return "\n".join(lines)
