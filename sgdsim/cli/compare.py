"""`sgdsim compare` and `sgdsim simulate`: cells of algorithms, each followed in one or several regimes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from sgdsim.cli import _compare_text, outputs
from sgdsim.cli.arguments import LISTS, Execution, algorithm, execution, named
from sgdsim.cli.deliver import Delivery
from sgdsim.cli.problems import check_kernel, check_output, described
from sgdsim.cli.steps import check_epochs, settle
from sgdsim.cli.torch_units import asked_for, decay_lines, in_alpha, named_loss, take_torch_lr, unit, unit_of
from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.sweeps import Grid
    from sgdsim.studies.comparison import ComparedCells

MOST_MODES = 500  # of all outputs together, up to which compare follows the exact average without being asked


def _regimes(names: list[str] | None, taus: list[float], problem: Problem, args: argparse.Namespace) -> list[Regime]:
    from sgdsim import regimes

    if names is None:
        with_basis = ["sampled", "averaged"] if problem.has_every_eigenvalue else []
        names = [*(["network"] if problem.has_network else []), *with_basis, "diagonal"]
    closures = [regimes.SpectralDiagonal(tau) for tau in taus]
    out: list[Regime] = []
    for name in names:
        if name == "diagonal":
            out += closures
        else:
            own: dict[str, Callable[[], Regime]] = {"network": lambda: regimes.RealNetwork(args.dtype)}
            if args.device not in ("auto", "cpu"):  # auto: compiled loops, as no GPU was measured yet
                own["sampled"] = lambda: regimes.SampledLinearized(args.device)
                own["averaged"] = lambda: regimes.BatchAveraged(device=args.device)
            out.append(own[name]() if name in own else regimes.parse(name))
    return out


def compare(args: argparse.Namespace) -> int:
    take_torch_lr(args, None)
    grid = _grid(args)
    return _run(
        args, grid, lambda problem: _regimes(args.regimes, args.tau, problem, args), args.observe, execution(args)
    )


def _grid(args: argparse.Namespace) -> Grid:
    """The cells that the lists, or the table of --cells, ask for."""
    from sgdsim.runs.sweeps import Grid

    given = {name: getattr(args, name) for name in LISTS}
    if args.cells is not None:
        if args.zip:
            raise InputError("--zip: expected lists to pair, got --cells, where each line is a cell")
        columns = Grid.from_table(args.cells)
        if columns.problem_axes:
            raise InputError(f"{args.cells}: expected columns for the algorithm, got {', '.join(columns.problem_axes)}")
        for name, values in given.items():
            if values is not None and (name in columns.axes or len(values) > 1):
                raise InputError(
                    f"--{name.replace('_', '-')}: expected one value for all cells and no such column, got "
                    f"{len(values)} and columns {', '.join(columns.axes)}"
                )
        rest = {name: (given[name] or LISTS[name])[:1] for name in LISTS} | algorithm(args)
        return Grid.zip(**columns.axes, **{name: v for name, v in rest.items() if name not in columns.axes})
    combine = Grid.zip if args.zip else Grid.product
    return combine(**{name: values or LISTS[name] for name, values in given.items()}, **algorithm(args))


def _able(regimes: list[Regime], problem: Problem, cells: list[SGD]) -> tuple[list[Regime], dict[str, str]]:
    """The regimes that can follow at least one of the algorithms, and why the others cannot, by name; InputError where
    none can."""
    able, left_out = [], {}
    for regime in regimes:
        reason = _too_slow(regime, problem)
        for sgd in cells if not reason else ():
            try:
                regime.check(problem, sgd)
            except InputError as error:
                reason = reason or str(error)
            else:
                able.append(regime)
                break
        else:
            left_out[regime.name] = reason
    if not able:
        raise InputError(next(iter(left_out.values())))
    return able, left_out


def _too_slow(regime: Regime, problem: Problem) -> str:
    """Why a regime is followed only where it is asked for; empty where it is not so."""
    modes = problem.n_modes
    if regime.kind != "averaged" or problem.n_outputs == 1 or modes <= MOST_MODES or modes == problem.n:
        return ""
    return f"each step takes products of {modes} × {modes} matrices, with all outputs; --regime averaged asks for it"


def simulate(args: argparse.Namespace) -> int:
    from sgdsim.runs.sweeps import Grid

    take_torch_lr(args, LISTS["lr"][0])
    grid = Grid.zip(lr=[args.lr], momentum=[args.momentum], batch_size=[args.batch_size], **algorithm(args))
    observe = [*args.observe, *(["moments"] if args.moments else [])]
    how = Execution(
        path=None if outputs.is_table(args.out) else args.out, resume=False, executor="serial", on_error="raise"
    )
    return _run(args, grid, lambda problem: _regimes(args.regime, [1.0], problem, args), observe, how)


def _run(
    args: argparse.Namespace,
    grid: Grid,
    choose: Callable[[Problem], list[Regime]],
    observe: list[str],
    how: Execution,
) -> int:
    """Simulate every cell of `grid` in the regimes that `choose` gives for the problem, then print, save and draw."""
    from sgdsim.observables import parse_all
    from sgdsim.runs.sweeps import NotSaved, sweep
    from sgdsim.studies import cross_entropy
    from sgdsim.studies.comparison import ComparedCells

    delivery = Delivery(args)
    cells = [sgd for _, sgd in grid.cells()]  # refuse bad values before any data are read
    parse_all(observe)
    check_epochs(args)
    _check_files(args, len(cells), resume=how["resume"])
    problem = described(args)
    check_kernel(problem)
    if asked_for(args):
        unit(args, problem.quadratic)  # refuses what has none
        grid = in_alpha(args, grid, problem.quadratic)
        cells = [sgd for _, sgd in grid.cells()]
    settle(args, "n_steps", problem.n, [sgd.batch_size for sgd in cells])
    regimes, left_out = choose(problem), dict[str, str]()
    if getattr(args, "regimes", ()) is None:  # compare's default: all that can
        regimes, left_out = _able(regimes, problem, cells)
    if problem.has_test:
        observe = ["test_loss", *observe]
    options = named(args, "replicates", "seed") | {"record": args.record_every, "observe": observe, "progress": True}
    try:
        result = sweep(problem, grid, regimes, args.n_steps, **options, **how)
    except NotSaved as error:
        result = error.result
        delivery.failed("out", error)
    if how.get("shard") is not None:
        return report_shard(args, result)
    if outputs.is_table(args.out):
        with delivery.writing("out"):
            outputs.save_runs(result, args.out)
    horizons = cross_entropy.of_cells(problem, grid, args.n_steps)
    drawn = cross_entropy.marked(result, horizons) if any(horizons) else result
    delivery.draw(lambda plot: plot.comparison(drawn))  # before verdicts, which may take long
    found = ComparedCells.of(result, problem, grid, horizons)
    facts = _facts(found, problem) | {"left_out": left_out, "seed": args.seed} | _in_torch(args, found, problem)
    facts |= {"seconds": delivery.seconds, **delivery.files}

    def text() -> str:
        one = None if not asked_for(args) else unit(args, problem.quadratic)
        on = "" if one is None else f" on {named_loss(args, problem.quadratic)}"
        pulled = decay_lines(args, problem.quadratic)
        head, notes = _compare_text.headline(args, problem), _compare_text.notes(found, facts, on, pulled)
        return "\n".join([head, *_compare_text.lines(found, one), *notes])

    code = delivery.tell(facts, text)
    return code or int(bool(found.failed))


def _in_torch(args: argparse.Namespace, found: ComparedCells, problem: Problem) -> dict[str, object]:
    """For JSON, where it is asked for: the unit, and the rows with the rate for that loss."""
    if not asked_for(args):
        return {}
    one = unit(args, problem.quadratic)
    rows = found.as_dict()["rows"]
    assert isinstance(rows, list)
    for row, each in zip(rows, found.rows, strict=True):
        if each.sgd.rule is None and isinstance(each.sgd.lr, (int, float)):
            row["torch_lr"] = each.sgd.lr * one
    return {"rows": rows, "torch_loss": unit_of(args, problem.quadratic), "torch_lr_per_alpha": one}


def _facts(found: ComparedCells, problem: Problem) -> dict[str, object]:
    told, result = found.as_dict(), found.data
    return {
        "rows": told["rows"],
        "problem": json.loads(result.attrs["problem"]),
        "lambda_max": problem.quadratic.spectrum.scale,
        "n": problem.n,
        "n_steps": int(result["step"].values[-1]),
        "device": result.attrs["device"],
        "interrupted": found.interrupted,
        "failed": told["failed"],
    }


def _check_files(args: argparse.Namespace, cells: int, *, resume: bool) -> None:
    """InputError where a file cannot be written, holds a sweep that was begun, or is a picture of too many cells."""
    from sgdsim.runs import parts

    check_output(args)
    if args.plot is not None:
        from sgdsim import plot

        if cells > plot.MAX_CELLS:
            raise InputError(f"--plot: expected at most {plot.MAX_CELLS} cells to draw, got {cells}; use --out")
    if args.out is not None and not resume and parts.unfinished(args.out):
        left = parts.folder(args.out)
        raise InputError(f"{left}: holds a sweep that was not finished; --resume goes on with it, or remove it")


def report_shard(args: argparse.Namespace, result: xr.Dataset) -> int:
    """Say what a shard left in the parts; 130 after Ctrl-C."""
    from sgdsim.runs import parts

    done = result["done"].values
    facts = {"parts": str(parts.folder(args.out)), "done": int(done.sum()), "of": int(done.size)}
    text = f"shard {args.shard}: {facts['done']} of {facts['of']} cells are in {facts['parts']}; then: sgdsim merge"
    print(json.dumps(facts) if args.json else f"{text} {args.out}")
    return 130 if result.attrs["interrupted"] else 0
