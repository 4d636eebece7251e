"""`sgdsim stability`: the largest stable learning rate at three levels, for batch sizes and momenta."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdsim.cli.arguments import Commands, add_algorithm, add_batch_sizes, add_problem, algorithm
from sgdsim.cli.deliver import Delivery, add_output, ending, lr_unit
from sgdsim.cli.problems import BATCH_SIZES, add_common, infinite_spectrum, load
from sgdsim.common.checks import InputError, number
from sgdsim.common.specs import readable, shortest
from sgdsim.common.table import Table
from sgdsim.common.text import short

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import QuadraticProblem
    from sgdsim.runs.sweeps import Grid


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim stability` to the command line's subparsers."""
    parser = commands.add_parser("stability", help="the largest stable learning rates, and a map of them")
    add_problem(parser)
    group = parser.add_argument_group("algorithm")
    add_batch_sizes(group, None, "(default: those of 1 10 100 that the data fill)")
    group.add_argument("--momentum", type=float, nargs="+", help="(default: 0 0.9; 0 for methods without)")
    group.add_argument("--tau", type=float, nargs="+", default=[1.0], help="closures of the spectral-diagonal level")
    add_common(group)
    add_algorithm(group, many=False)
    group.add_argument("--exact", action="store_true", help="also the exact level at this N, in mean square")
    add_output(parser, None, "draw the stable region over momentum and lr (.png, .pdf or .svg)")


def stability(args: argparse.Namespace) -> int:
    delivery = Delivery(args)
    plain = args.method in (None, "heavy-ball")
    grid, taus = _grid(args, plain), _taus(args)
    problem = load(args)
    cells = _cells(args, grid, problem.n)
    quadratic = problem.quadratic
    levels, interrupted = _exact(quadratic, cells if args.exact else [])
    levels += [None] * (len(cells) - len(levels))
    rows = _rows(quadratic, cells, levels, taus)
    known = [
        (row["batch_size"], row["momentum"], row["exact"])
        for row in rows
        if row["exact"] is not None and row["tau"] == taus[0]
    ]
    options = {"taus": taus, "sampling": args.sampling, "exact": known}
    delivery.draw(lambda plot: plot.stability_map(quadratic, args.batch_size, **options))
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": quadratic.spectrum.scale,
        "rows": rows,
        "critical": _critical(quadratic, cells, taus) if plain else [],
        "notes": infinite_spectrum(quadratic) if any(row["noise"] > 0 for row in rows) else [],
        "seed": args.seed,
        "interrupted": interrupted,
        "seconds": delivery.seconds,
        **delivery.files,
    }
    return delivery.tell(facts, lambda: _text(facts, args.exact))


def _grid(args: argparse.Namespace, plain: bool) -> Grid:
    """Momenta and, where they are given, batch sizes; InputError for bad values, before any data are read."""
    from sgdsim.runs.sweeps import Grid

    if args.momentum is None:
        args.momentum = [0.0, 0.9] if plain or args.method == "nesterov" else [0.0]
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


def _cells(args: argparse.Namespace, grid: Grid, n: int) -> list[SGD]:
    """The algorithms, batch sizes in the order given; InputError where there are too many, or they do not fit n."""
    from sgdsim.runs.sweeps import Grid
    from sgdsim.theory.stability import EXACT_UP_TO

    if args.batch_size is None:
        args.batch_size = [size for size in BATCH_SIZES if size <= n]
    if args.plot is not None:
        from sgdsim.plot.theory import check_panels

        check_panels(len(args.batch_size), len(args.tau))
    cells = [sgd for _, sgd in Grid.product(**{**grid.axes, "batch_size": args.batch_size}).cells()]
    cells.sort(key=lambda sgd: args.batch_size.index(sgd.batch_size))
    for sgd in cells:
        sgd.check(n, 1)
    if args.exact and n > EXACT_UP_TO:
        raise InputError(
            f"--exact: expected at most N = {EXACT_UP_TO} points, as it multiplies N × N matrices, got {n}; "
            "use a smaller --n"
        )
    return cells


def _exact(quadratic: QuadraticProblem, cells: list[SGD]) -> tuple[list[float | None], bool]:
    """The exact level of each cell, up to where Ctrl-C came; whether it did."""
    from tqdm import tqdm

    from sgdsim.theory import stability

    levels: list[float | None] = []
    try:
        for sgd in tqdm(cells, desc="exact", disable=None if len(cells) > 1 else True):
            levels.append(stability.max_lr(quadratic, sgd, "exact"))
    except KeyboardInterrupt:
        return levels, True
    return levels, False


def _rows(
    quadratic: QuadraticProblem, cells: list[SGD], levels: list[float | None], taus: list[float]
) -> list[dict[str, Any]]:
    from sgdsim.theory import stability

    rows = []
    for sgd, exact in zip(cells, levels, strict=True):
        noise, surely = sgd.noise(quadratic.n), _surely_stable(quadratic, sgd)
        for tau in taus:
            rows.append(
                {
                    "batch_size": sgd.batch_size,
                    "momentum": sgd.momentum,
                    "tau": tau,
                    "sampling": sgd.sampling,
                    "method": sgd.method.spec,
                    "noise": noise,
                    "full_batch": stability.max_lr(quadratic, sgd, "full-batch"),
                    "spectral_diagonal": stability.max_lr(quadratic, sgd, tau=tau),
                    "surely_stable": surely,
                    "exact": exact,
                    "torch_lr_per_alpha": quadratic.torch_lr(1.0),
                    "note": necessary_only(noise, tau),
                }
            )
    return rows


def _surely_stable(quadratic: QuadraticProblem, sgd: SGD) -> float | None:
    """Up to where every training point's own Ũ(1) is below 1; None where that is not known."""
    from sgdsim.theory import stability, verdicts

    known = quadratic.has_basis and quadratic.n <= stability.EXACT_UP_TO and not sgd.is_one_pass
    if not known or sgd.method.spec != "heavy-ball":
        return None
    momentum = np.array([float(sgd.momentum)])  # type: ignore[arg-type] # constant
    return float(verdicts.surely_stable(quadratic, momentum, sgd.noise(quadratic.n))[0])


def necessary_only(noise: float, tau: float) -> str | None:
    """A note where the spectral-diagonal threshold is not known to be sufficient."""
    if noise == 0 or tau <= 1:
        return None
    return f"τ = {tau:.4g} > 1: below this learning rate stability is not proved, above it there is none"


def _critical(quadratic: QuadraticProblem, cells: list[SGD], taus: list[float]) -> list[dict[str, Any]]:
    """λ_crit, and the largest stable α/(1 − β) as β → 1, for each batch size and τ."""
    from sgdsim.theory import stability

    noises = {sgd.batch_size: sgd.noise(quadratic.n) for sgd in cells}
    entries = []
    for tau in taus:
        critical = stability.critical_eigenvalue(quadratic, tau)
        for size, noise in noises.items():
            bound = 2 / (noise * critical) if noise * critical > 0 else None
            numbers = {"critical_eigenvalue": critical, "effective_lr": bound}
            entries.append({"batch_size": size, "tau": tau, "noise": noise, **numbers})
    return entries


def _text(facts: dict[str, Any], exact: bool) -> str:
    rows = facts["rows"]
    surely = any(row["surely_stable"] is not None for row in rows)
    headers = ["batch", "momentum", "tau", "full batch", "spectral-diagonal", *(["surely stable"] if surely else [])]
    headers += ["exact"] if exact else []
    lines = []
    for row in rows:
        cells = [row["batch_size"], readable(row["momentum"]), shortest(row["tau"]), row["full_batch"]]
        cells.append(short(row["spectral_diagonal"]) + ("*" if row["note"] else ""))
        cells += [row["surely_stable"]] if surely else []
        lines.append([*cells, row["exact"]] if exact else cells)
    method = "" if rows[0]["method"] == "heavy-ball" else f", {rows[0]['method']}"
    title = f"{facts['problem'].get('title', '')}{method}: largest stable learning rate"
    out = [title, Table(headers, lines).text(), ""]
    for tau in dict.fromkeys(entry["tau"] for entry in facts["critical"]):
        of_tau = [entry for entry in facts["critical"] if entry["tau"] == tau]
        bounds = ", ".join(
            f"{'no bound' if e['effective_lr'] is None else short(e['effective_lr'])} at batch {e['batch_size']}"
            for e in of_tau
        )
        critical = of_tau[0]["critical_eigenvalue"]
        out.append(
            f"momentum → 1, tau {shortest(tau)}: λ_crit = {critical:.6g}, lr/(1 − momentum) < 2/(γ λ_crit): {bounds}"
        )
    if surely:
        out.append(
            "surely stable: every training point's own Ũ(1) is below 1; beyond spectral-diagonal (tau 1) surely not"
        )
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        out.append(f"* {note}")
    out += facts["notes"]
    return "\n".join([*out, *ending(facts, lr_unit(rows[0]["torch_lr_per_alpha"]), "the rest was not computed")])
