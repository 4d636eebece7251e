"""`sgdsim budget`: does the loss depend on the budget t·b alone? Batch sizes at matched learning rates."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from sgdsim.cli.arguments import Commands, add_batch_sizes, add_problem, named, whole
from sgdsim.cli.deliver import Delivery, add_output, ending
from sgdsim.cli.problems import add_common, load
from sgdsim.common.checks import InputError, integer
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import readable
from sgdsim.common.table import Table

if TYPE_CHECKING:
    from sgdsim.problem import QuadraticProblem
    from sgdsim.studies.budgets import Comparison, Curve


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim budget` to the command line's subparsers."""
    parser = commands.add_parser("budget", help="the loss at equal t*b for several batch sizes at matched lr")
    add_problem(parser)
    group = parser.add_argument_group(
        "algorithm",
        "Matched: gamma*lr is the same for all batch sizes (gamma: strength of the sampling noise, about 1/b), so lr "
        "grows like b while b is far below N. In the signal-dominated phase theory then expects one curve over t*b, as "
        "long as no lr comes near 2(1 + momentum).",
    )
    add_batch_sizes(group, [1, 4, 16, 64], "two or more")
    group.add_argument(
        "--lr",
        type=float,
        help="at the smallest batch size, in units of 1/lambda_max (default: half of the largest for which all batch "
        "sizes are stable)",
    )
    group.add_argument("--momentum", type=float, default=0.9, help="heavy ball, the same for all; near 1 leaves room")
    group.add_argument(
        "--n-steps", type=whole, default=10_000, help="steps at the smallest batch size; the others get the same t*b"
    )
    group.add_argument("--regime", default="diagonal", help="network, sampled, averaged or diagonal:tau=NUMBER")
    group.add_argument("--replicates", type=whole, default=10, help="batch sequences of the stochastic regimes")
    add_common(group)
    add_output(parser, "write the result (netCDF), a cell for each batch size", "draw it (.png, .pdf or .svg)")


def budget(args: argparse.Namespace) -> int:
    """Follow every batch size up to the same budget, print the losses at equal t·b, save and draw."""
    from sgdsim import regimes
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.runs import results
    from sgdsim.studies import budgets

    delivery = Delivery(args)
    SGD(1.0 if args.lr is None else args.lr, args.momentum)  # refuses bad values before any data are read
    for name in ("n_steps", "replicates"):
        integer(name, getattr(args, name), minimum=1)
    regime = regimes.parse(args.regime)
    problem = load(args)
    options = named(args, "lr", "momentum", "n_steps", "sampling", "replicates", "seed")
    result = budgets.run(problem, regime, batch_sizes=args.batch_size, progress=True, **options)
    if args.out is not None:
        with delivery.writing("out"):
            results.save(result, args.out)
    delivery.draw(lambda plot: plot.budget_curves(result, problem))
    curves = budgets.curves(result, problem)
    compared = budgets.compare(curves)
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "regime": regime.name,
        "momentum": args.momentum,
        "law": _law(problem.quadratic),
        "runs": [
            _run(curve, problem.quadratic, args, getattr(regime, "tau", 1.0))
            | {name: finite_or_none(cell[name].item()) for name in ("error_estimate", "known_until")}
            for curve, cell in zip(curves, (result.isel(cell=i, regime=0) for i in range(len(curves))), strict=True)
        ],
        "rows": _rows(compared),
        "seed": args.seed,
        "device": result.attrs["device"],
        "interrupted": bool(result.attrs["interrupted"]),
        "seconds": delivery.seconds,
        **delivery.files,
    }
    return delivery.tell(facts, lambda: _text(facts, compared))


def _rows(compared: Comparison) -> list[dict[str, object]]:
    """One dict per budget; None where a run diverged."""
    columns = (compared.budget, compared.loss, compared.ratio, compared.ratio_by_noise)
    return [
        {
            "budget": float(budget),
            "loss": [finite_or_none(value) for value in loss],
            "ratio": finite_or_none(ratio),
            "ratio_by_noise": finite_or_none(by_noise),
        }
        for budget, loss, ratio, by_noise in zip(*columns, strict=True)
    ]


def _law(problem: QuadraticProblem) -> dict[str, object] | None:
    """The spectrum's power law and its phase; None where it has none."""
    from sgdsim.theory import power_law

    try:
        law = power_law.PowerLaw.of(problem)
    except InputError:
        return None
    return {"nu": law.nu, "kappa": law.kappa, "zeta": law.zeta, "phase": power_law.phase(law.nu, law.zeta)}


def _run(curve: Curve, problem: QuadraticProblem, args: argparse.Namespace, tau: float) -> dict[str, object]:
    from sgdsim.theory import stability

    bound = stability.diagonal_max_lr(problem, momentum=args.momentum, noise=curve.noise, tau=tau)
    last = curve.loss[-1] if curve.loss.size else math.nan
    return {
        "batch_size": curve.batch_size,
        "lr": curve.lr,
        "noise": curve.noise,
        "effective_lr": curve.lr / (1 - args.momentum),
        "max_lr_spectral_diagonal": float(bound) if tau <= 1 else None,  # beyond, no threshold is known
        "n_steps": int(curve.steps[-1]) if curve.steps.size else 0,
        "final_loss": finite_or_none(last),
        "diverged": bool(math.isinf(last)),
        "torch_lr": problem.torch_lr(curve.lr),
    }


def _text(facts: dict[str, Any], compared: Comparison) -> str:
    runs, law = facts["runs"], facts["law"]
    columns = ("batch_size", "lr", "max_lr_spectral_diagonal", "effective_lr", "n_steps")
    matched = [[run[name] for name in columns] for run in runs]
    title = f"{facts['problem'].get('title', '')}: {facts['regime']}, momentum {readable(facts['momentum'])}"
    out = [
        f"{title}, learning rates matched by gamma*lr",
        Table(["batch", "lr", "stable lr", "lr/(1 - momentum)", "steps"], matched).text(),
        "",
        "loss at equal budget",
        compared.table().text(),
        "",
        "ratio: largest loss over the least, 1 if the budget alone counts. t/gamma is t*b times (N - 1)/(N - b):",
        "by theory it is what counts at late times where batches are not far below N",
    ]
    if law is not None:
        phase = f"nu = {law['nu']:.3g}, zeta = {law['zeta']:.3g}: {law['phase']}"
        limits = {"signal-dominated": "2(1 + momentum)", "noise-dominated": "2(1 + momentum) and (1 - momentum)^2"}
        if law["phase"] in limits:
            limit = limits[law["phase"]]
            out.append(f"{phase}; there the budget alone counts at late times, for lr far below {limit}")
        else:
            out.append(f"{phase}; there theory has no law")
    for run in runs:
        if run["lr"] >= (run["max_lr_spectral_diagonal"] or math.inf):
            out.append(
                f"lr at batch {run['batch_size']} is above the largest stable one: lower --lr, or raise --momentum"
            )
    return "\n".join([*out, *ending(facts)])
