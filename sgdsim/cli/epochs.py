"""`sgdsim epochs`: how far the theory is from a data loader that shuffles."""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_batch_sizes, add_device, add_list, add_problem, add_regimes, add_seed, named
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output
from sgdsim.cli.problems import load
from sgdsim.cli.torch_units import add_torch_loss, add_weight_decay, in_torch, take_torch_loss, unit, unit_line
from sgdsim.cli.values import whole
from sgdsim.common.checks import InputError, integer
from sgdsim.common.specs import readable, shortest

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.studies.epoch_comparison import AfterEpochs, EpochLosses

EPOCHS = (1, 2, 5, 10, 20)
_MANY = 200  # runs from which on their spread is known well


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim epochs` to the command line's subparsers."""
    parser = commands.add_parser("epochs", help="reshuffled epochs against the independent batches of theory")
    add_problem(parser)
    group = parser.add_argument_group(
        "algorithm",
        "Heavy ball, twice with the same learning rate and number of steps: batches drawn independently, which is what "
        "theory averages over, and epochs, as of a data loader with shuffle=True, drop_last=True. The noise of a "
        "single step is the same.",
    )
    add_batch_sizes(group, [10, 100])
    group.add_argument(
        "--lr",
        type=float,
        help="in units of 1/lambda_max, for all batch sizes (default: half of the largest stable one of each)",
    )
    group.add_argument("--momentum", type=float, default=0.0, help="heavy ball")
    add_weight_decay(group, many=False)
    add_torch_loss(group)
    add_list(group, "--epochs", whole, list(EPOCHS), "where to compare", metavar="E")
    add_regimes(group, "regime", ["sampled"], "what runs on the batches: sampled, network or both")
    group.add_argument(
        "--theory",
        default="averaged",
        metavar="REGIME",
        help="averaged, exact for independent batches, or diagonal:tau=NUMBER, faster",
    )
    group.add_argument("--replicates", type=whole, default=400, help="batch sequences of each kind")
    add_seed(group)
    add_device(group)
    add_output(parser, outputs.ROWS_HELP, "draw losses and ratios over epochs (.png, .pdf or .svg)", outputs.ROWS)


def epochs(args: argparse.Namespace) -> int:
    """Run both kinds of batches, print the losses after whole epochs and what they mean, draw."""
    from sgdsim import regimes
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.studies import epoch_comparison

    delivery = Delivery(args)
    args.weight_decay = args.weight_decay or 0.0
    for size in args.batch_size:  # refuses bad values before any data are read
        SGD(1.0 if args.lr is None else args.lr, args.momentum, size, weight_decay=args.weight_decay)
    for count in args.epochs:
        integer("epochs", count, minimum=1)
    integer("replicates", args.replicates, minimum=2)
    theory = regimes.parse(args.theory)
    if theory.stochastic:
        raise InputError(f"--theory: expected averaged or diagonal:tau=NUMBER, got {args.theory!r}")
    followed = regimes.parse_several(args.regime)
    for regime in followed:
        if regime.kind not in ("sampled", "network"):
            raise InputError(f"--regime: expected sampled or network, got {regime.name!r}")
    if args.plot is not None:
        from sgdsim.plot import epoch_losses

        if len(followed) > 1:
            raise InputError(f"--plot: expected one --regime, got {len(followed)}")

        epoch_losses.check_sizes(len(args.batch_size))
    problem = load(args)
    pulled = take_torch_loss(args, problem.quadratic)
    if any(regime.kind == "network" for regime in followed) and not problem.has_network:
        raise InputError("--regime: expected sampled, as this problem has no network, got network")
    options = {"theory": theory, "progress": True}
    options |= named(args, "lr", "momentum", "weight_decay", "epochs", "replicates", "seed")
    parts: list[xr.Dataset] = []
    for regime in followed:
        if not any(part.attrs["interrupted"] for part in parts):
            parts.append(epoch_comparison.compare(problem, args.batch_size, regime=regime, **options))
    compared = epoch_comparison.joined(parts)
    found = epoch_comparison.EpochLosses.of(compared, problem.quadratic)
    if args.torch_loss is not None:
        one = unit(args, problem.quadratic)
        found = replace(found, rows=tuple(replace(row, torch_lr=row.lr * one) for row in found.rows))
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "momentum": args.momentum,
        **({"weight_decay": args.weight_decay} if args.weight_decay else {}),
        **{name: compared.attrs[name] for name in ("regime", "theory", "initial_loss")},
        "replicates": args.replicates,
        "device": compared.attrs["device"],
        **in_torch(args, problem.quadratic),
    }
    rows = [vars(row) for row in found.rows]
    delivery.keep(rows, facts | found.as_dict() | {"interrupted": found.interrupted}, problem, compared)
    title, of = problem.description.get("title", ""), unit_line(args, problem.quadratic)
    return delivery.deliver(found, facts, lambda: [*_lines(title, found), *pulled], of)


def _lines(title: str, found: EpochLosses) -> list[str]:
    rows, runs = found.rows, found.data.attrs
    decay = f", weight decay {shortest(runs['weight_decay'])}" if "weight_decay" in runs else ""
    out = [
        f"{title}: {runs['regime']}, momentum {readable(runs['momentum'])}{decay}, {runs['replicates']} batch "
        f"sequences of each kind, initial loss {runs['initial_loss']:.4g}",
        found.table().text(),
        "",
        f"mean ± standard error; theory ({runs['theory']}): the mean over independent batches",
        "ratio: reshuffled over independent; to theory: reshuffled over theory; with 95% intervals",
    ]
    if runs["replicates"] < _MANY:
        out.append(f"errors are estimated from {runs['replicates']} runs; where losses are skewed that is too few")
    if not all(math.isnan(row.reshuffled_exact) for row in rows):
        out.append("exact: the mean over all orders of an epoch")
    several = len({row.regime for row in rows}) > 1
    for (name, _), own in itertools.groupby(rows, lambda row: (row.regime, row.batch_size)):
        out.append(_meaning(list(own), f" ({name})" if several else ""))
    return out


def _meaning(rows: list[AfterEpochs], of: str) -> str:
    """One sentence for the rows of a batch size, `of` a regime where there are several: what a loader that shuffles
    does that theory does not say."""
    size, end = f"{rows[0].batch_size}{of}", rows[-1]
    known = [row for row in rows if not math.isnan(row.to_theory)]
    if end.noise == 0:
        return f"batch {size}: the whole data in each step, so that there is nothing to shuffle"
    if math.isnan(end.to_theory) or not known:
        return f"batch {size}: runs diverge; lower --lr"
    when = f"after {end.epochs} epoch{'s' * (end.epochs > 1)}"
    loader = f"batch {size}: {when} a loader that shuffles has"
    if not math.isnan(end.reshuffled_exact):
        return f"{loader} {end.reshuffled_exact / end.theory:.3g} times the theory's loss, exactly"
    low, high = end.to_theory_low, end.to_theory_high
    if low <= 1 <= high:
        apart = [row.epochs for row in known if not row.to_theory_low <= 1 <= row.to_theory_high]
        widest = max(1 - low, high - 1)
        equal = f"{when} reshuffling cannot be told from the theory's independent batches (within {widest:.1%})"
        return f"batch {size}: {equal}" + (f", after {apart[-1]} it can" if apart else "")
    if not 0.5 < end.to_theory < 2:
        return f"{loader} {end.to_theory:.3g} times the theory's loss ({low:.3g} to {high:.3g})"
    side = "below" if end.to_theory < 1 else "above"
    low, high = sorted((abs(low - 1), abs(high - 1)))
    return f"{loader} a loss {abs(end.to_theory - 1):.1%} {side} the theory's ({low:.1%} to {high:.1%})"
