"""`sgdsim budget`: does the loss depend on the budget t·b alone? Batch sizes at matched learning rates."""

from __future__ import annotations

import argparse
from dataclasses import replace

from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_batch_sizes, add_problem, add_regimes, named
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output
from sgdsim.cli.problems import add_common, load
from sgdsim.cli.steps import add_steps, check_epochs, settle
from sgdsim.cli.torch_units import add_torch_loss, add_weight_decay, in_torch, take_torch_loss, unit, unit_line
from sgdsim.cli.values import whole
from sgdsim.common.checks import InputError, integer
from sgdsim.common.specs import readable, shortest


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
    add_weight_decay(group, many=False)
    add_torch_loss(group)
    words = "steps at the smallest batch size; the others get the same t*b"
    add_steps(group, "n_steps", 10_000, words, "the same for all, in epochs")
    add_regimes(group, "regime", ["diagonal"], "one or several of network, sampled, averaged, diagonal:tau=NUMBER")
    group.add_argument("--replicates", type=whole, default=10, help="batch sequences of the stochastic regimes")
    add_common(group)
    words = "write the result (.nc), a cell for each batch size, or a table of the last losses (.csv, .parquet)"
    add_output(parser, words, "draw it (.png, .pdf or .svg)", outputs.RUNS)


def budget(args: argparse.Namespace) -> int:
    """Follow every batch size up to the same budget, print the losses at equal t·b, save and draw."""
    from sgdsim import regimes
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.studies import budgets

    delivery = Delivery(args)
    args.weight_decay = args.weight_decay or 0.0
    rate = 1.0 if args.lr is None else args.lr
    SGD(rate, args.momentum, weight_decay=args.weight_decay)  # refuses bad values before any data are read
    for name in ("n_steps", "replicates"):
        integer(name, getattr(args, name), minimum=1)
    check_epochs(args)
    followed = regimes.parse_several(args.regime)
    if args.plot is not None and len(followed) > 1:
        raise InputError(f"--plot: expected one --regime, got {len(followed)}")
    problem = load(args)
    pulled = take_torch_loss(args, problem.quadratic)
    settle(args, "n_steps", problem.n, [min(args.batch_size)])
    options = named(args, "lr", "momentum", "weight_decay", "n_steps", "sampling", "replicates", "seed")
    result = budgets.run(problem, followed, batch_sizes=args.batch_size, progress=True, **options)
    if args.out is not None:
        with delivery.writing("out"):
            outputs.save_runs(result, args.out)
    found = budgets.BudgetRuns.of(result, problem)
    if args.torch_loss is not None:
        one = unit(args, problem.quadratic)
        found = replace(found, runs=tuple(replace(run, torch_lr=run.lr * one) for run in found.runs))
    names = [regime.name for regime in followed]
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "regime": names[0] if len(names) == 1 else names,
        "momentum": args.momentum,
        **({"weight_decay": args.weight_decay} if args.weight_decay else {}),
        "device": result.attrs["device"],
        **in_torch(args, problem.quadratic),
    }
    title = f"{problem.description.get('title', '')}: {', '.join(names)}, momentum {readable(args.momentum)}"
    title += f", weight decay {shortest(args.weight_decay)}" if args.weight_decay else ""
    lines = [
        f"{title}, learning rates matched by gamma*lr",
        found.matched().text(),
        "",
        "loss at equal budget",
        found.table().text(),
        "",
        "ratio: largest loss over the least, 1 if the budget alone counts. t/gamma is t*b times (N - 1)/(N - b):",
        "by theory it is what counts at late times where batches are not far below N",
        *found.notes(),
        *pulled,
    ]
    return delivery.deliver(found, facts, lambda: lines, unit_line(args, problem.quadratic))
