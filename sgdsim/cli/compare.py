"""`sgdsim compare` and `sgdsim simulate`: cells of algorithms, each followed in one or several regimes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sgdsim.cli.arguments import LISTS, Execution, algorithm, execution, named
from sgdsim.cli.deliver import Delivery, interrupted, lr_unit, rule_lr_unit, rule_of, wrote
from sgdsim.cli.problems import check_output, described
from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.algorithm.sgd import SGD
    from sgdsim.observables import Observable
    from sgdsim.problem import Problem
    from sgdsim.regimes.base import Regime
    from sgdsim.runs.sweeps import Grid
    from sgdsim.studies.comparison import CellRow


def _regimes(names: list[str] | None, taus: list[float], problem: Problem, args: argparse.Namespace) -> list[Regime]:
    from sgdsim import regimes

    if names is None and args.loss != "squared":
        names = ["network"]
    elif names is None:
        with_basis = ["sampled", "averaged"] if problem.has_every_eigenvalue else []
        names = [*(["network"] if problem.has_network else []), *with_basis, "diagonal"]
    closures = [regimes.SpectralDiagonal(tau) for tau in taus]
    out: list[Regime] = []
    for name in names:
        if name == "diagonal":
            out += closures
        else:
            own: dict[str, Callable[[], Regime]] = {"network": lambda: regimes.RealNetwork(args.dtype, loss=args.loss)}
            if args.device not in ("auto", "cpu"):  # auto: compiled loops, as no GPU was measured yet
                own["sampled"] = lambda: regimes.SampledLinearized(args.device)
                own["averaged"] = lambda: regimes.BatchAveraged(device=args.device)
            out.append(own[name]() if name in own else regimes.parse(name))
    if args.loss != "squared" and (others := [regime.name for regime in out if regime.kind != "network"]):
        raise InputError(f"--loss: expected the network regime alone with {args.loss}, got {', '.join(others)} too")
    return out


def compare(args: argparse.Namespace) -> int:
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


def _able(
    regimes: list[Regime], problem: Problem, cells: list[SGD], observe: Iterable[Observable]
) -> tuple[list[Regime], dict[str, str]]:
    """The regimes that can follow at least one of the algorithms and give what is to be observed, and why the others
    cannot, by name; InputError where none can."""
    able, left_out = [], {}
    for regime in regimes:
        reason = ""
        for sgd in cells:
            try:
                regime.check(problem, sgd)
                for observable in observe:
                    regime.check_observable(observable)
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


def simulate(args: argparse.Namespace) -> int:
    from sgdsim.runs.sweeps import Grid

    grid = Grid.zip(lr=[args.lr], momentum=[args.momentum], batch_size=[args.batch_size], **algorithm(args))
    observe = [*args.observe, *(["moments"] if args.moments else [])]
    how = Execution(path=args.out, resume=False, executor="serial", on_error="raise")
    return _run(args, grid, lambda problem: _regimes([args.regime], [1.0], problem, args), observe, how)


def _run(
    args: argparse.Namespace,
    grid: Grid,
    choose: Callable[[Problem], list[Regime]],
    observe: list[str],
    how: Execution,
) -> int:
    """Simulate every cell of `grid` in the regimes that `choose` gives for the problem, then print, save and draw."""
    from sgdsim.observables import parse_all
    from sgdsim.runs.results import curves
    from sgdsim.runs.sweeps import NotSaved, sweep

    delivery = Delivery(args)
    cells = [sgd for _, sgd in grid.cells()]  # refuse bad values before any data are read
    parse_all(observe)
    _check_files(args, len(cells), resume=how["resume"])
    problem = described(args)
    regimes, left_out = choose(problem), dict[str, str]()
    if getattr(args, "regimes", ()) is None:  # compare's default: all that can
        regimes, left_out = _able(regimes, problem, cells, parse_all(observe))
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
    delivery.draw(lambda plot: plot.comparison(result))
    facts = _facts(args, problem, grid, regimes, result)
    facts |= {"left_out": left_out, "seconds": delivery.seconds, **delivery.files}
    unit = problem.quadratic.torch_lr(1.0)
    code = delivery.tell(facts, lambda: _text(_headline(args, problem, result), facts, curves(result), unit))
    return code or int(bool(facts["failed"]))


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


def _facts(
    args: argparse.Namespace, problem: Problem, grid: Grid, regimes: list[Regime], result: xr.Dataset
) -> dict[str, object]:
    from sgdsim.regimes import SpectralDiagonal
    from sgdsim.studies import comparison

    taus = [regime.tau for regime in regimes if isinstance(regime, SpectralDiagonal)]
    return {
        "rows": comparison.rows(result, problem, grid, taus),
        "problem": json.loads(result.attrs["problem"]),
        "lambda_max": problem.quadratic.spectrum.scale,
        "n": problem.n,
        "n_steps": int(result["step"].values[-1]),
        "seed": args.seed,
        "device": result.attrs["device"],
        "interrupted": bool(result.attrs["interrupted"]),
        "failed": comparison.failures(result),
    }


def _text(headline: str, facts: dict[str, Any], observed: list[str], torch_lr: float) -> str:
    from sgdsim.observables import label
    from sgdsim.studies import comparison

    rows = facts["rows"]
    out = [headline, "final training loss", comparison.table(rows)]
    for name in observed[1:]:
        out += ["", f"final {label(name)}", comparison.table(rows, f"final_{name}")]
    return "\n".join([*out, "", _footnote(rows, facts, torch_lr)])


def report_shard(args: argparse.Namespace, result: xr.Dataset) -> int:
    """Say what a shard left in the parts; 130 after Ctrl-C."""
    from sgdsim.runs import parts

    done = result["done"].values
    facts = {"parts": str(parts.folder(args.out)), "done": int(done.sum()), "of": int(done.size)}
    text = f"shard {args.shard}: {facts['done']} of {facts['of']} cells are in {facts['parts']}; then: sgdsim merge"
    print(json.dumps(facts) if args.json else f"{text} {args.out}")
    return 130 if result.attrs["interrupted"] else 0


def _headline(args: argparse.Namespace, problem: Problem, result: xr.Dataset) -> str:
    title = json.loads(result.attrs["problem"]).get("title", "")
    squared = getattr(args, "loss", "squared") == "squared"
    initial = problem.quadratic.initial_loss if squared else result["loss"].values.flat[0]  # of a replicate at step 0
    population = problem.population
    above = f" above a floor of {population.floor:.4g}" if population is not None and population.floor else ""
    run = f"{args.n_steps} steps, initial loss {initial:.4g}{above}, {args.replicates} replicates, seed {args.seed}"
    return f"{title}: {run}"


def _footnote(rows: list[CellRow], facts: dict[str, Any], torch_lr: float) -> str:
    from sgdsim.studies import comparison

    reference = next(iter(rows[0]["regimes"]))
    several = any(numbers["replicates"] > 1 for row in rows for numbers in row["regimes"].values())
    notes = ["mean ± standard error over replicates"] if several else []
    if len(rows[0]["regimes"]) > 1:
        notes.append(f"× is the ratio to {reference}")
    notes = ["; ".join(notes) + ". " if notes else ""]
    rules = {rule.name: rule for rule in (rule_of(row.get("method")) for row in rows) if rule is not None}
    if any(rule_of(row.get("method")) is None for row in rows):
        notes[0] += f"{lr_unit(facts['n'] / facts['lambda_max'])}. "
    notes[0] += "".join(f"{rule_lr_unit(rule)}. " for rule in rules.values())
    notes[0] += f"{facts['seconds']:.1f} s."
    others = [name for name in rows[0]["regimes"] if ":loss=" in name]
    notes += [f"losses of {name} are those of the name; stable and lr are of the squared loss" for name in others]
    notes += interrupted(facts)
    notes += comparison.stability_notes(rows)
    notes += [f"left out: {name}: {reason}" for name, reason in facts["left_out"].items()]
    notes += [f"failed: {failed['cell']}, {failed['regime']}: {failed['error']}" for failed in facts["failed"][:10]]
    if len(facts["failed"]) > 10:
        notes.append(f"and {len(facts['failed']) - 10} more failed")
    return "\n".join([*notes, *wrote(facts)])
