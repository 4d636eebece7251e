"""`sgdsim landscape`: the final loss over a grid of learning rates, momenta and batch sizes, as tables and maps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sgdsim.cli import outputs
from sgdsim.cli.arguments import (
    add_algorithm,
    add_batch_sizes,
    add_execution,
    add_list,
    add_problem,
    add_regimes,
    algorithm,
    execution,
    named,
)
from sgdsim.cli.base import Commands
from sgdsim.cli.compare import report_shard
from sgdsim.cli.deliver import Delivery, add_output, rule_lr_unit
from sgdsim.cli.problems import add_common, load
from sgdsim.cli.steps import add_steps, check_epochs, settle
from sgdsim.cli.torch_units import add_torch_loss, add_weight_decay, in_torch, take_torch_loss, unit_line
from sgdsim.cli.values import real, several, whole
from sgdsim.common.checks import integer
from sgdsim.common.specs import shortest
from sgdsim.common.text import counted

if TYPE_CHECKING:
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.sweeps import Grid
    from sgdsim.studies.landscape import Landscape

DEFAULTS = {"lr": "0:4:20", "momentum": "-1:1:19"}
_MUCH = 0.1  # weight decay in units of the largest curvature, from which on the grid is another


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim landscape` to the command line's subparsers."""
    parser = commands.add_parser("landscape", help="the final loss over learning rate and momentum, as maps")
    add_problem(parser)
    group = parser.add_argument_group(
        "grid",
        "LOW:HIGH:COUNT stands for COUNT equally spaced values from LOW to HIGH, both included; an end that is no "
        "allowed value (lr 0, momentum 1 or -1) is left out. So --lr 0:4:100 is 0.04 0.08 ... 4 and --momentum -1:1:49 "
        "is -0.96 -0.92 ... 0.96. Plain numbers and ranges can be mixed.",
    )
    for name, words in (("lr", "learning rates in units of 1/lambda_max"), ("momentum", "heavy ball")):
        add_list(group, f"--{name}", real, None, f"{words} (default: {DEFAULTS[name]})")
    add_batch_sizes(group, [10], "a map for each")
    run = parser.add_argument_group("runs")
    words = "maps for each of network, sampled, averaged, diagonal (tau = 1) or diagonal:tau=NUMBER"
    add_regimes(run, "regime", ["diagonal"], words)
    add_steps(run, "n_steps", 10_000, "steps of SGD; the loss after the last is shown")
    run.add_argument("--replicates", type=whole, default=10, help="batch sequences of the stochastic regimes")
    add_common(run)
    add_algorithm(run, many=False)
    add_weight_decay(run, many=False)
    add_torch_loss(run)
    add_execution(parser, always_resumes=True)
    words = "write the result (.nc), or a table of the last losses (.csv, .parquet)"
    add_output(parser, words, "draw the maps (.png, .pdf or .svg)", outputs.RUNS)


def landscape(args: argparse.Namespace) -> int:
    """Follow every cell, print where the least losses lie, save and draw."""
    from sgdsim.runs.sweeps import NotSaved, sweep
    from sgdsim.studies.landscape import judged

    delivery = Delivery(args)
    grid = _grid(args)
    cells = [sgd for _, sgd in grid.cells()]  # refuses bad values before any data are read
    how = execution(args)
    followed = _regimes(args)
    for name in ("n_steps", "replicates"):
        integer(name, getattr(args, name), minimum=1)
    check_epochs(args)
    problem = load(args)
    quadratic = problem.quadratic
    pulled = take_torch_loss(args, quadratic)
    grid = _grid(args, problem.pull(cells[0]) if args.weight_decay else 0.0)
    cells = [sgd for _, sgd in grid.cells()]
    settle(args, "n_steps", problem.n, args.batch_size)
    for sgd in cells[: len(args.batch_size)]:  # the first learning rate and momentum with each batch size
        sgd.check(problem.n, 1)
    try:
        options = named(args, "replicates", "seed") | {"record": [args.n_steps], "progress": True}
        result = sweep(problem, grid, followed, args.n_steps, **options, **how)
    except NotSaved as error:
        result = error.result
        delivery.failed("out", error)
    if args.shard is not None:
        return report_shard(args, result)
    if outputs.is_table(args.out):
        with delivery.writing("out"):
            outputs.save_runs(result, args.out)
    found = judged(result, quadratic, cells[0])
    rule, initial = cells[0].rule, quadratic.initial_loss
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "n_steps": args.n_steps,
        **({"weight_decay": args.weight_decay} if args.weight_decay else {}),
        "initial_loss": initial,
        "torch_lr_per_alpha": quadratic.torch_lr(1.0) if rule is None else rule.torch_lr_per_alpha,
        **(in_torch(args, quadratic) if rule is None else {}),
        "device": result.attrs["device"],
    }
    title = problem.description.get("title", "")
    title += f", weight decay {shortest(args.weight_decay)}" if args.weight_decay else ""
    head = f"{title}: {counted(args.n_steps, 'step')}, initial loss {initial:.4g}, seed {args.seed}"
    unit = unit_line(args, quadratic) if rule is None else rule_lr_unit(rule)
    notes = [*_notes(found, args.replicates, stable=rule is None), *pulled]
    return delivery.deliver(found, facts, lambda: [head, found.table().text(), "", *notes], unit)


def _grid(args: argparse.Namespace, pull: float = 0.0) -> Grid:
    """The cells; with weight decay, `pull` in units of the largest curvature, limits are 1 + pull times lower, and so
    is the default of learning rates."""
    from sgdsim.runs.sweeps import Grid

    axes = {}
    for name, default in DEFAULTS.items():  # read here: parsers are built for every command, maps takes SciPy
        if name == "lr" and pull > _MUCH:
            default = f"0:{4 / (1 + pull):.3g}:20"
        axes[name] = getattr(args, name) or several(real, name)(default)
    return Grid.product(**axes, batch_size=args.batch_size, **algorithm(args))


def _regimes(args: argparse.Namespace) -> list[Regime]:
    """The regimes asked for; InputError where one is twice, or their maps are too many for a picture."""
    from sgdsim import regimes

    followed = regimes.parse_several(args.regime)
    names = [regime.name for regime in followed]
    if args.plot is not None:
        from sgdsim.plot.maps import check_panels

        check_panels(len(names), len(args.batch_size))
    return followed


def _notes(found: Landscape, replicates: int, *, stable: bool) -> list[str]:
    """What the marks and columns of the table mean; `stable`: those of stability too."""
    out, minima = [], [judged.least for judged in found.maps if judged.least is not None]
    if stable:
        out.append(
            "stable: in the exact average; stable lr: the largest at that momentum by spectral-diagonal theory (tau of "
            "the regime, else 1), below which runs may diverge at small batches: sgdsim stability --exact"
        )
        for judged in found.maps:
            if judged.known.stable is None and judged.least is not None:
                out.append(f"? at batch {judged.panel.batch_size}: {judged.known.reason}")
    if any(least.smoothed for least in minima):
        out.append(
            f"~ where the log of the mean loss over {replicates} replicates is least when smoothed over 1 cell; the "
            "loss is that cell's own"
        )
    if any(least.at_edge for least in minima):
        out.append("! at the edge of the grid: the minimum may lie beyond")
    if found.missing:
        out.append("* of the cells that have a result: the minimum may lie in another")
    return out
