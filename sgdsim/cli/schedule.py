"""`sgdsim schedule`: learning-rate schedules and averages of iterates for a run of T steps, each at its best."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sgdsim.algorithm.samplers import CLOSED, OF_POINTS
from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_batch_sizes, add_device, add_problem, add_seed, named
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, lr_unit
from sgdsim.cli.problems import load
from sgdsim.cli.steps import add_steps, check_epochs, steps_of
from sgdsim.cli.torch_units import add_no_weight_decay, refuse_weight_decay
from sgdsim.cli.values import whole
from sgdsim.common import memory
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.specs import readable, shortest
from sgdsim.common.text import steps as counted

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.studies.schedule_comparison import ScheduleComparison

REPLICATES, PIECES = 100, 12


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim schedule` to the command line's subparsers."""
    parser = commands.add_parser("schedule", help="the best schedules of the learning rate for a horizon")
    add_problem(parser)
    group = parser.add_argument_group(
        "algorithm", "Heavy ball; losses are those after --horizon steps, by spectral-diagonal theory."
    )
    add_steps(group, "horizon", 1000, "steps of the run")
    add_batch_sizes(group, [10], "several: a row for each")
    group.add_argument("--momentum", type=float, default=0.0, help="the same at all steps")
    group.add_argument(
        "--label-noise", type=float, default=0.0, metavar="SIGMA", help="error of labels, in units of the targets"
    )
    add_no_weight_decay(group)
    group.add_argument(
        "--pieces", type=whole, metavar="K", help="of the piecewise-constant schedule (default: 12 or T)"
    )
    group.add_argument("--tau", type=float, default=1.0, help="closure")
    group.add_argument(
        "--sampling",
        default=CLOSED[0],
        choices=[name for name in CLOSED if name in OF_POINTS],
        help="how batches are drawn",
    )
    group.add_argument(
        "--verify", action="store_true", help="run them all on sampled batches as well, the same for all"
    )
    group.add_argument("--replicates", type=whole, help=f"batch sequences of --verify (default: {REPLICATES})")
    add_seed(group)
    add_device(group)
    add_output(
        parser, outputs.ROWS_HELP, "draw the learning rates and the final losses (.png, .pdf or .svg)", outputs.ROWS
    )


def schedule(args: argparse.Namespace) -> int:
    """Find the best of every form, print their losses, run and draw them."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.cli import _schedule_sizes
    from sgdsim.studies import schedule_comparison

    delivery = Delivery(args)
    refuse_weight_decay(args, "as the best schedules are not known with it; recommend and compare take it")
    check_epochs(args)
    if args.epochs is None:  # else known only with N
        _size(args)
    number("tau", args.tau, maximum=1.0)
    sizes = args.batch_size
    how = {"sampling": args.sampling, "label_noise": args.label_noise}
    algorithms = [SGD(1.0, args.momentum, size, **how) for size in sizes]
    if args.replicates is not None and not args.verify:
        raise InputError("--replicates: expected only with --verify, got it without")
    replicates = integer("replicates", REPLICATES if args.replicates is None else args.replicates, minimum=2)
    if len(sizes) > 1:
        _schedule_sizes.check(args)
    problem = load(args)
    for sgd in algorithms:
        sgd.check(problem.n, 1)
    quadratic = problem.quadratic
    if not quadratic.coefficients.any():
        raise InputError("residual: expected one that is not zero, got all zeros: there is nothing to learn")
    options = {"replicates": replicates if args.verify else None, "seed": args.seed, "progress": True}

    def find(sgd: SGD) -> ScheduleComparison:
        args.horizon = steps_of(args, "horizon", problem.n, sgd.batch_size)
        return schedule_comparison.compare(quadratic, sgd, *_size(args), tau=args.tau, **options)

    common = {
        "problem": problem.description,
        "n": problem.n,
        **named(args, "batch_size", "momentum", "label_noise", "sampling", "tau"),
        "torch_lr_per_alpha": quadratic.torch_lr(1.0),
        "initial_loss": quadratic.initial_loss,
        "replicates": options["replicates"],
    }
    noise = f", label noise {args.label_noise:g}" if args.label_noise else ""
    initial = quadratic.initial_loss
    rest = f"momentum {readable(args.momentum)}{noise}, tau {shortest(args.tau)}, initial loss {initial:.4g}"
    title = problem.description.get("title", "")
    if len(sizes) > 1:
        return _schedule_sizes.deliver(delivery, problem, algorithms, find, common, f"{title}: {rest}")
    args.batch_size, found = sizes[0], find(algorithms[0])
    facts = {**common, "batch_size": sizes[0], "horizon": found.horizon}
    head = f"{title}: {counted(found.horizon)}, batch {args.batch_size}, {rest}"
    rows = [row.as_dict() for row in found.rows]
    delivery.keep(rows, facts | found.as_dict() | {"interrupted": found.interrupted}, problem)
    unit, left = lr_unit(quadratic.torch_lr(1.0)), "the schedules were not run on samples"
    return delivery.deliver(found, facts, lambda: [head, *_lines(found)], unit, left, title=_title(args, problem))


def _size(args: argparse.Namespace) -> tuple[int, int]:
    """Steps and pieces; InputError where there are too many."""
    from sgdsim.runs.follow import MAX_STEPS

    steps = integer("horizon", args.horizon, minimum=1, maximum=MAX_STEPS)
    memory.require("learning rates of all steps and what goes with them", 96.0 * steps, "take a smaller --horizon")
    most = min(PIECES, steps) if args.pieces is None else args.pieces
    return steps, integer("pieces", most, minimum=1, maximum=steps)


def _title(args: argparse.Namespace, problem: Problem) -> str:
    """Of the picture."""
    title = f"{problem.description.get('title', '')}: b = {args.batch_size}, β = {readable(args.momentum)}"
    title += f", T = {args.horizon}"
    title += f", σ = {args.label_noise:g}" if args.label_noise else ""
    return title.replace("= -", "= −")


def _lines(found: ScheduleComparison) -> list[str]:
    out = [
        found.table().text(),
        "",
        *_stability(found),
        "loss after the last step (spectral-diagonal theory), and relative to the best constant learning rate;",
        "ema, tail: averages of the iterates of a constant learning rate; pieces: first, largest and last rate",
    ]
    if verified := found.losses is not None:
        count = found.losses.shape[1]
        out.append(f"sampled: mean ± standard error over {count} batch sequences, the same for all rows")
    if (best := found.best_closed_form()) is not None:
        out.append(
            f"the best closed form by {'sampled' if verified else 'loss'}, for sgdsim simulate: --lr {best.spec}"
        )
    exact = "" if found.max_lr_exact is None else f", {found.max_lr_exact:.4g} exactly at this N"
    out.append(f"constant rates are stable up to lr {found.max_lr:.4g} by this theory{exact}")
    return out + [f"Warning: {text}." for text in found.warnings()]


def _stability(found: ScheduleComparison) -> list[str]:
    """What the column says, and why it is not known or not so: a line for each reason."""
    out = ["stable: whether the largest rate of each is, held, in the exact average over batches"]
    names: dict[tuple[str, str], list[str]] = {}
    for row in found.rows:
        if not row.known.stable:
            names.setdefault((row.known.word, row.known.reason), []).append(row.name)
    return out + [f"{word} for {', '.join(some)}: {reason}" for (word, reason), some in names.items()]
