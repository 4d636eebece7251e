"""The commands: each unpacks its arguments, calls public functions and prints; returns the exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from sgdsim.cli.arguments import LISTS, algorithm, execution
from sgdsim.cli.deliver import Delivery, interrupted, lr_unit, rule_lr_unit, rule_of, wrote
from sgdsim.cli.problems import _check_distinct, _problem
from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.common.table import Table


def _regimes(names: list[str] | None, taus: list[float], problem: Any, args: argparse.Namespace) -> list[Any]:
    from sgdsim import regimes

    if names is None:
        with_basis = ["sampled", "averaged"] if problem.has_every_eigenvalue else []
        names = [*(["network"] if problem.has_network else []), *with_basis, "diagonal"]
    closures = [regimes.SpectralDiagonal(tau) for tau in taus]
    out: list[Any] = []
    for name in names:
        if name == "diagonal":
            out += closures
        else:
            regime = regimes.parse(name)
            if name == "network":
                regime = regimes.RealNetwork(args.dtype)
            # auto: compiled loops, as no GPU was measured yet
            elif name == "sampled" and args.device not in ("auto", "cpu"):
                regime = regimes.SampledLinearized(args.device)
            elif name == "averaged" and args.device not in ("auto", "cpu"):
                regime = regimes.BatchAveraged(device=args.device)
            out.append(regime)
    return out


def compare(args: argparse.Namespace) -> int:
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
        grid = Grid.zip(**columns.axes, **{name: v for name, v in rest.items() if name not in columns.axes})
    else:
        combine = Grid.zip if args.zip else Grid.product
        given = {name: values or LISTS[name] for name, values in given.items()}
        grid = combine(**given, **algorithm(args))
    how = execution(args)
    return _run(args, grid, lambda problem: _regimes(args.regimes, args.tau, problem, args), args.observe, how)


def _able(regimes: list[Any], problem: Any, cells: list[Any]) -> tuple[list[Any], dict[str, str]]:
    """The regimes that can follow at least one of the algorithms, and why the others cannot, by name; InputError where
    none can."""
    able, left_out = [], {}
    for regime in regimes:
        reason = ""
        for _, sgd in cells:
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


def simulate(args: argparse.Namespace) -> int:
    from sgdsim.runs.sweeps import Grid

    grid = Grid.zip(lr=[args.lr], momentum=[args.momentum], batch_size=[args.batch_size], **algorithm(args))
    observe = [*args.observe, *(["moments"] if args.moments else [])]
    how = {"path": args.out, "resume": False, "executor": "serial", "on_error": "raise"}
    return _run(args, grid, lambda problem: _regimes([args.regime], [1.0], problem, args), observe, how)


def _run(args: argparse.Namespace, grid: Any, choose: Any, observe: list[str], how: dict[str, Any]) -> int:
    """Simulate every cell of `grid`, then print, save and draw."""
    from sgdsim.observables import parse_all
    from sgdsim.regimes import SpectralDiagonal
    from sgdsim.runs import parts
    from sgdsim.runs.results import curves
    from sgdsim.runs.sweeps import NotSaved, sweep
    from sgdsim.studies import comparison

    delivery = Delivery(args)
    cells = list(grid.cells())  # refuse bad values before any data are read
    parse_all(observe)
    if args.plot is not None:
        from sgdsim import plot

        plot.check_path(args.plot)
        files.check_writable(args.plot)
        if len(cells) > plot.MAX_CELLS:
            raise InputError(f"--plot: expected at most {plot.MAX_CELLS} cells to draw, got {len(cells)}; use --out")
    if args.out is not None:
        files.check_writable(args.out)
        if not how["resume"] and parts.unfinished(args.out):
            left = parts.folder(args.out)
            raise InputError(f"{left}: holds a sweep that was not finished; --resume goes on with it, or remove it")
    _check_distinct(args)
    problem = _problem(args)
    regimes, left_out = choose(problem), {}
    if getattr(args, "regimes", ()) is None:  # compare's default: all that can
        regimes, left_out = _able(regimes, problem, cells)
    if problem.has_test:
        observe = ["test_loss", *observe]
    try:
        result = sweep(
            problem,
            grid,
            regimes,
            args.n_steps,
            record=args.record_every,
            observe=observe,
            replicates=args.replicates,
            seed=args.seed,
            progress=True,
            **how,
        )
    except NotSaved as error:
        result = error.result
        delivery.failed("out", error)
    if how.get("shard") is not None:
        return told_shard(args, result)
    if args.plot is not None:
        with delivery.writing("plot"):
            plot.save(plot.comparison(result), args.plot)
    taus = [regime.tau for regime in regimes if isinstance(regime, SpectralDiagonal)]
    facts = {
        "rows": comparison.rows(result, problem, grid, taus),
        "problem": json.loads(result.attrs["problem"]),
        "lambda_max": problem.quadratic.spectrum.scale,
        "n": problem.n,
        "n_steps": int(result["step"].values[-1]),
        "seed": args.seed,
        "device": result.attrs["device"],
        "interrupted": bool(result.attrs["interrupted"]),
        "failed": comparison.failures(result),
        "left_out": left_out,
        "seconds": delivery.seconds,
        "out": args.out,
        "plot": args.plot,
    }
    unit = problem.quadratic.torch_lr(1.0)
    code = delivery.tell(facts, lambda: _text(_headline(args, problem, result), facts, curves(result), unit))
    return code or int(bool(facts["failed"]))


def _text(headline: str, facts: dict[str, Any], observed: list[str], torch_lr: float) -> str:
    from sgdsim.observables import label
    from sgdsim.studies import comparison

    rows = facts["rows"]
    out = [headline, "final training loss", comparison.table(rows)]
    for name in observed[1:]:
        out += ["", f"final {label(name)}", comparison.table(rows, f"final_{name}")]
    return "\n".join([*out, "", _footnote(rows, facts, torch_lr)])


def told_shard(args: argparse.Namespace, result: Any) -> int:
    """Say what a shard left in the parts; 130 after Ctrl-C."""
    from sgdsim.runs import parts

    done = result["done"].values
    facts = {"parts": str(parts.folder(args.out)), "done": int(done.sum()), "of": int(done.size)}
    text = f"shard {args.shard}: {facts['done']} of {facts['of']} cells are in {facts['parts']}; then: sgdsim merge"
    print(json.dumps(facts) if args.json else f"{text} {args.out}")
    return 130 if result.attrs["interrupted"] else 0


def merge(args: argparse.Namespace) -> int:
    from sgdsim.runs.assembly import merge

    result = merge(args.out, args.parts)
    done = result["done"].values
    print(f"wrote {args.out}: {int(done.sum())} of {done.size} cells")
    return 0 if done.all() else 1


def export(args: argparse.Namespace) -> int:
    from sgdsim.runs import results
    from sgdsim.studies import comparison

    result = results.load(args.file)
    with _as_written(args.file):
        rows = comparison.export(result, args.out, curves=args.curves)
    print(f"wrote {args.out}: {rows} rows")
    return 0


@contextlib.contextmanager
def _as_written(file: str) -> Iterator[None]:
    """InputError for a file whose variables or attributes are not of the kinds that sgdsim writes."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{file}: expected a result as sgdsim writes it, got another ({reason})") from error


def _headline(args: argparse.Namespace, problem: Any, result: Any) -> str:
    title = json.loads(result.attrs["problem"]).get("title", "")
    initial, population = problem.quadratic.initial_loss, problem.population
    above = f" above a floor of {population.floor:.4g}" if population is not None and population.floor else ""
    run = f"{args.n_steps} steps, initial loss {initial:.4g}{above}, {args.replicates} replicates, seed {args.seed}"
    return f"{title}: {run}"


def _footnote(rows: list[dict[str, Any]], facts: dict[str, Any], torch_lr: float) -> str:
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
    notes += interrupted(facts)
    notes += comparison.stability_notes(rows)
    notes += [f"left out: {name}: {reason}" for name, reason in facts["left_out"].items()]
    notes += [f"failed: {failed['cell']}, {failed['regime']}: {failed['error']}" for failed in facts["failed"][:10]]
    if len(facts["failed"]) > 10:
        notes.append(f"and {len(facts['failed']) - 10} more failed")
    return "\n".join([*notes, *wrote(facts)])


def plot(args: argparse.Namespace) -> int:
    from sgdsim import plot
    from sgdsim.runs import results

    plot.check_path(args.out)
    files.check_writable(args.out)
    result = results.load(args.file)
    with _as_written(args.file):
        if args.what == "landscape":
            figure = plot.loss_maps(result, results.problem_of(result))
        else:
            figure = plot.spectrum(result) if args.what == "spectrum" else plot.comparison(result, args.observable)
    plot.save(figure, args.out)
    print(f"wrote {args.out}")
    return 0


def data(args: argparse.Namespace) -> int:
    from sgdsim.datasets import fetching

    if args.action == "fetch":
        paths = [str(p) for p in fetching.fetch(args.name, args.data_dir, mirror=args.mirror, progress=True)]
        print(json.dumps({"files": paths}) if args.json else "\n".join(paths))
        return 0
    files = (fetching.status if args.action == "list" else fetching.verify)(args.name, args.data_dir)
    if args.json:
        print(json.dumps({"files": files}))
    else:
        columns = (
            ("dataset", "path", "present", "size", "licence")
            if args.action == "list"
            else ("dataset", "path", "status", "message")
        )
        lines = [
            [
                ("yes" if v else "no") if isinstance(v := file[c], bool) else "-" if v is None else str(v)
                for c in columns
            ]
            for file in files
        ]
        print(Table(columns, lines, "l").text(ruled=False))
    if args.action == "list":
        return 0
    needed = args.name is not None  # asked for by name, a data set has to be there
    bad = (f["status"] == "corrupt" or (needed and f["required"] and f["status"] == "missing") for f in files)
    return 1 if any(bad) else 0
