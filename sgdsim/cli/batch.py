"""`sgdsim batch`: learning rates, and steps and samples to a target loss, against the batch size."""

from __future__ import annotations

import argparse

from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_batch_sizes, add_problem, named
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, lr_unit
from sgdsim.cli.problems import add_common, load
from sgdsim.cli.torch_units import add_no_weight_decay, refuse_weight_decay
from sgdsim.cli.values import whole
from sgdsim.common.checks import InputError, integer, number

_PAIRS = 50


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim batch` to the command line's subparsers."""
    parser = commands.add_parser("batch", help="largest and best lr, steps to a target and noise scale against b")
    add_problem(parser)
    group = parser.add_argument_group("algorithm")
    add_batch_sizes(group, None, "(default: 1 4 16 … up to N or 4096)")
    group.add_argument("--momentum", type=float, default=0.0, help="heavy ball, the same for all")
    group.add_argument("--reach", type=float, default=0.1, help="share of the initial loss that is to be reached")
    group.add_argument(
        "--tau", type=float, help="closure of the spectral-diagonal theory (default: 1; one-pass: -1, exact there)"
    )
    words = "pairs of batches that estimate the noise scale of a real network; 0: none"
    group.add_argument("--pairs", type=whole, default=_PAIRS, help=words)
    add_no_weight_decay(group)
    add_common(group)
    add_output(parser, outputs.ROWS_HELP, "draw it (.png, .pdf or .svg)", outputs.ROWS)


def batch(args: argparse.Namespace) -> int:
    """Work out every batch size, print the table and what a critical batch is by each reading, draw."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.studies import batch_sizes

    delivery = Delivery(args)
    refuse_weight_decay(args, "as steps to a target are not known with it; stability and recommend take it")
    for size in args.batch_size or [1]:  # refuses bad values before any data are read
        SGD(1.0, args.momentum, size)
    number("reach", args.reach, minimum=0.0, maximum=1.0, open_ends=True)
    if args.tau is not None:
        number("tau", args.tau, maximum=1.0)
    if integer("pairs", args.pairs) in (1, 2):
        raise InputError(f"pairs: expected 0, or 3 or more, got {args.pairs}")
    problem = load(args)
    options = named(args, "reach", "momentum", "tau", "sampling", "pairs", "seed")
    found = batch_sizes.batch_sizes(problem, args.batch_size, **options)
    facts = {"problem": problem.description, "n": problem.n, "lambda_max": problem.quadratic.spectrum.scale}
    heading = batch_sizes.title(found, problem.description.get("title", ""))
    delivery.keep([vars(row) for row in found.rows], facts | found.as_dict(), problem)
    unit = lr_unit(problem.quadratic.torch_lr(1.0))
    return delivery.deliver(found, facts, lambda: [heading, found.table().text(), "", *found.notes()], unit)
