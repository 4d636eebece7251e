"""`sgdsim stability`: the largest stable learning rate at three levels, for batch sizes and momenta."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_algorithm, add_batch_sizes, add_list, add_loss, add_problem, algorithm
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, ending, lr_unit
from sgdsim.cli.problems import BATCH_SIZES, add_common, load
from sgdsim.cli.torch_units import (
    add_torch,
    add_weight_decay,
    asked_for,
    check_torch,
    decay_lines,
    decay_unit,
    named_loss,
    unit,
    unit_of,
)
from sgdsim.cli.values import real
from sgdsim.common.checks import InputError, number
from sgdsim.common.specs import readable, shortest
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.runs.sweeps import Grid
    from sgdsim.studies.rows import Rows
    from sgdsim.studies.stable_rates import Asked, StableRates


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim stability` to the command line's subparsers."""
    parser = commands.add_parser("stability", help="the largest stable learning rates, and a map of them")
    add_problem(parser)
    group = parser.add_argument_group("algorithm")
    add_batch_sizes(group, None, "(default: those of 1 10 100 that the data fill)")
    add_list(group, "--momentum", real, None, "heavy ball (default: 0 0.9; 0 for methods without)")
    add_list(group, "--tau", real, [1.0], "closures of the spectral-diagonal level")
    add_torch(group, "are these rates of torch.optim.SGD stable?")
    add_common(group)
    add_loss(group)
    add_algorithm(group, many=False)
    add_weight_decay(group, many=False)
    group.add_argument("--exact", action="store_true", help="also the exact level at this N, in mean square")
    add_output(
        parser, outputs.ROWS_HELP, "draw the stable region over momentum and lr (.png, .pdf or .svg)", outputs.ROWS
    )


def stability(args: argparse.Namespace) -> int:
    from sgdsim.studies.stable_rates import asked, infinite_spectrum, stable_rates

    delivery = Delivery(args)
    plain = args.method in (None, "heavy-ball")
    grid, taus = _grid(args, plain), _taus(args)
    check_torch(args)
    problem = load(args)
    torch = unit(args, problem.quadratic) if asked_for(args) else None
    algorithms = _algorithms(args, grid, problem)
    quadratic = problem.quadratic
    found = stable_rates(quadratic, algorithms, taus, exact=args.exact, progress=True)
    known = [(r.batch_size, r.momentum, r.exact) for r in found.rows if r.exact is not None and r.tau == taus[0]]
    options = {"taus": taus, "sampling": args.sampling, "exact": known}
    delivery.draw(lambda plot: plot.stability_map(quadratic, args.batch_size, **options))
    told = found.as_dict()
    drawn = any(row.noise > 0 for row in found.rows) and not args.weight_decay  # which bounds the slow modes' noise
    notes = infinite_spectrum(quadratic) if drawn else []
    rates = [rate / torch for rate in args.torch_lr or ()] if torch is not None else []
    answers = asked(quadratic, algorithms, rates)
    if problem.loss != "squared":
        notes.append(f"of {problem.loss}: rates of its curvature at the start, which changes on the way, up or down")
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": quadratic.spectrum.scale,
        "rows": told["rows"],
        "critical": told["critical"],
        **({"weight_decay": algorithms[0].weight_decay} if args.weight_decay else {}),
        **_in_torch(unit_of(args, quadratic), torch, answers),
        "notes": notes,
        "seed": args.seed,
        "interrupted": found.interrupted,
    }
    delivery.keep(cast("Rows", told["rows"]), facts, problem)
    facts |= {"seconds": delivery.seconds, **delivery.files}
    own = [] if torch is None else _torch_lines(named_loss(args, quadratic), found, torch, answers)
    own += decay_lines(args, quadratic)
    title = problem.description.get("title", "")
    title += f", weight decay {shortest(algorithms[0].weight_decay)}" if args.weight_decay else ""
    return delivery.tell(facts, lambda: _text(title, facts, found, own))


def _in_torch(loss: str, torch: float | None, answers: Sequence[Asked]) -> dict[str, object]:
    """For JSON: the unit, and what was asked for in it."""
    if torch is None:
        return {}
    rows = [{**vars(each), "torch_lr": each.lr * torch} for each in answers]
    return {"torch_loss": loss, "torch_lr_per_alpha": torch, "asked": rows}


def _torch_lines(loss: str, found: StableRates, torch: float, answers: Sequence[Asked]) -> list[str]:
    """The limits in torch's units for a `loss` in words, and a row for each rate that was asked for."""
    from sgdsim.theory.verdicts import WORDS

    out = [f"the same for torch.optim.SGD on {loss}", found.table(torch).text(), ""]
    if answers:
        rows: list[list[Cell]] = [
            [short(each.lr * torch), each.lr, each.batch_size, readable(each.momentum), WORDS[each.stable]]
            for each in answers
        ]
        out += [Table(["torch lr", "lr", "batch", "momentum", "stable"], rows).text(), ""]
        unknown = dict.fromkeys(each.reason for each in answers if each.stable is None)
        out += [f"?: {reason}" for reason in unknown]
    return out


def _grid(args: argparse.Namespace, plain: bool) -> Grid:
    """Momenta and, where they are given, batch sizes; InputError for bad values, before any data are read."""
    from sgdsim.runs.sweeps import Grid

    if args.momentum is None:
        args.momentum = [0.0, 0.9] if plain or args.method == "nesterov" else [0.0]
    if args.plot is not None and args.weight_decay:
        raise InputError("--plot: expected no --weight-decay, with which the region's borders are not drawn")
    if args.plot is not None and not plain:
        raise InputError(f"--plot: expected heavy ball, whose region has closed borders, got --method {args.method}")
    sizes = {} if args.batch_size is None else {"batch_size": args.batch_size}
    grid = Grid.product(lr=[1.0], momentum=args.momentum, **algorithm(args), **sizes)
    list(grid.cells())
    return grid


def _taus(args: argparse.Namespace) -> list[float]:
    taus = [number("tau", tau) for tau in args.tau]
    if len(set(taus)) < len(taus):
        raise InputError(f"tau: expected different values, got {', '.join(f'{tau:g}' for tau in taus)}")
    return taus


def _algorithms(args: argparse.Namespace, grid: Grid, problem: Problem) -> list[SGD]:
    """The algorithms, batch sizes in the order given; InputError where there are too many, or they do not fit."""
    from sgdsim.runs.sweeps import Grid
    from sgdsim.theory.stability import EXACT_UP_TO

    n = problem.n
    if args.batch_size is None:
        args.batch_size = [size for size in BATCH_SIZES if size <= n]
    if args.plot is not None:
        from sgdsim.plot.theory import check_panels

        check_panels(len(args.batch_size), len(args.tau))
    axes = {**grid.axes, "batch_size": args.batch_size}
    if args.weight_decay:
        axes["weight_decay"] = [args.weight_decay * decay_unit(args, problem.quadratic)]
    cells = [sgd for _, sgd in Grid.product(**axes).cells()]
    cells.sort(key=lambda sgd: args.batch_size.index(sgd.batch_size))
    for sgd in cells:
        sgd.check(n, 1)
    if args.exact and n <= EXACT_UP_TO < problem.n_modes and problem.has_every_eigenvalue:
        raise InputError(
            f"--exact: expected at most {EXACT_UP_TO} modes, N times outputs, as it multiplies such matrices, got "
            f"{problem.n_modes}; use --n {EXACT_UP_TO // problem.n_outputs} or fewer"
        )
    if args.exact and n > EXACT_UP_TO:
        raise InputError(
            f"--exact: expected at most N = {EXACT_UP_TO} points, as it multiplies N × N matrices, got {n}; "
            "use a smaller --n"
        )
    return cells


def _text(title: str, facts: Mapping[str, object], found: StableRates, own: list[str]) -> str:
    rows = found.rows
    method = "" if rows[0].method == "heavy-ball" else f", {rows[0].method}"
    out = [f"{title}{method}: largest stable learning rate", found.table().text(), "", *own]
    for tau in dict.fromkeys(entry.tau for entry in found.critical):
        of_tau = [entry for entry in found.critical if entry.tau == tau]
        bounds = (
            f"{'no bound' if entry.effective_lr is None else short(entry.effective_lr)} at batch {entry.batch_size}"
            for entry in of_tau
        )
        critical = f"λ_crit = {of_tau[0].critical_eigenvalue:.6g}, lr/(1 − momentum) < 2/(γ λ_crit)"
        out.append(f"momentum → 1, tau {shortest(tau)}: {critical}: {', '.join(bounds)}")
    if any(row.surely_stable is not None for row in rows):
        out.append(
            "surely stable: every training point's own Ũ(1) is below 1; beyond spectral-diagonal (tau 1) surely not"
        )
    out += [f"* {note}" for note in dict.fromkeys(row.note for row in rows if row.note)]
    out += cast("list[str]", facts["notes"])
    return "\n".join([*out, *ending(facts, lr_unit(rows[0].torch_lr_per_alpha), "the rest was not computed")])
