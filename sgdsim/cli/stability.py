"""`sgdsim stability`: the largest stable learning rate at three levels, for batch sizes and momenta."""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

from sgdsim.checks import InputError, integer, number
from sgdsim.cli.arguments import POWER_LAW, _add_problem, _whole, add_algorithm, algorithm
from sgdsim.cli.commands import _check_distinct, _problem
from sgdsim.specs import readable, shortest

SAMPLINGS = ("without-replacement", "with-replacement", "one-pass")
BATCH_SIZES = (1, 10, 100)
EXACT_UP_TO = 4000  # beyond, N × N eigenvectors and their products take gigabytes and many minutes


def add_parser(commands: Any) -> None:
    """Add the parser of `sgdsim stability` to the command line's subparsers."""
    parser = commands.add_parser("stability", help="the largest stable learning rates, and a map of them")
    _add_problem(parser)
    group = parser.add_argument_group("algorithm")
    group.add_argument(
        "--batch-size", type=_whole, nargs="+", metavar="B", help="(default: those of 1 10 100 that the data fill)"
    )
    group.add_argument("--momentum", type=float, nargs="+", help="(default: 0 0.9; 0 for methods without)")
    group.add_argument("--tau", type=float, nargs="+", default=[1.0], help="closures of the spectral-diagonal level")
    add_common(group)
    add_algorithm(group, many=False)
    group.add_argument("--exact", action="store_true", help="also the exact level at this N, in mean square")
    add_output(parser, "draw the stable region over momentum and lr (.png, .pdf or .svg)")


def add_common(group: Any) -> None:
    """Options that every command of this kind has: how batches are drawn, seed, device."""
    group.add_argument(
        "--sampling",
        default=SAMPLINGS[0],
        choices=SAMPLINGS,
        help="how batches are drawn; one-pass: fresh Gaussian samples; epochs have no closed form",
    )
    group.add_argument("--seed", type=_whole, default=0, help="decides data split, network, basis and batches")
    group.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: CUDA where there is one"
    )


def add_output(parser: argparse.ArgumentParser, plot_help: str) -> None:
    """`--plot` and `--json`; there is nothing to write for `--out`."""
    out = parser.add_argument_group("output")
    out.add_argument("--plot", metavar="FILE", help=plot_help)
    out.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.set_defaults(out=None)


def load(args: argparse.Namespace) -> Any:
    """The problem, without test points; before that, the picture's path is checked."""
    from sgdsim import estimates
    from sgdsim.problem import NetworkProblem

    if args.plot is not None:
        from sgdsim import plot, results

        plot.check_path(args.plot)
        results.check_writable(args.plot)
    _check_distinct(args)
    integer("seed", args.seed)
    if args.n_test is not None:
        raise InputError(f"--n-test: expected none, as {args.command} looks at the training loss alone")
    if args.kernel is None and args.spectrum is None and args.dataset != POWER_LAW:
        args.n_test = 0
    problem = _problem(args)
    if isinstance(problem, NetworkProblem):
        estimates.require_memory("a kernel and its eigenvectors", 24.0 * problem.n**2, "take a smaller --n")
    return problem


def infinite_spectrum(problem: Any) -> list[str]:
    """A note where the infinite power law that the spectrum is the beginning of diverges at every learning rate."""
    from sgdsim.theory import power_law

    made = problem.description
    if made.get("kind") != "power_law" or made.get("lambda_min"):
        return []
    phase = power_law.phase(made["nu"], made["kappa"] / made["nu"])
    if phase not in (power_law.EVENTUAL, power_law.IMMEDIATE):
        return []
    return [
        f"ν = {made['nu']:g} ≤ 1: on the infinite spectrum SGD with noise diverges at every learning rate ({phase}); "
        f"what is stable here is so at N = {problem.n} only, and less of it at larger N."
    ]


def stability(args: argparse.Namespace) -> int:
    from sgdsim.sweeps import Grid

    began = time.perf_counter()
    sizes = {} if args.batch_size is None else {"batch_size": args.batch_size}
    plain = args.method in (None, "heavy-ball")
    if args.momentum is None:
        args.momentum = [0.0, 0.9] if plain or args.method == "nesterov" else [0.0]
    if args.plot is not None and not plain:
        raise InputError(f"--plot: expected heavy ball, whose region has closed borders, got --method {args.method}")
    grid = Grid.product(lr=[1.0], momentum=args.momentum, **algorithm(args), **sizes)
    list(grid.cells())  # refuses bad values before any data are read
    taus = [number("tau", tau) for tau in args.tau]
    if len(set(taus)) < len(taus):
        raise InputError(f"tau: expected different values, got {', '.join(f'{tau:g}' for tau in taus)}")
    problem = load(args)
    if args.batch_size is None:
        args.batch_size = [size for size in BATCH_SIZES if size <= problem.n]
    if args.plot is not None:
        from sgdsim import plot, plot_theory

        plot_theory.check_panels(len(args.batch_size), len(taus))
    cells = [sgd for _, sgd in Grid.product(**{**grid.axes, "batch_size": args.batch_size}).cells()]
    cells.sort(key=lambda sgd: args.batch_size.index(sgd.batch_size))
    for sgd in cells:
        sgd.check(problem.n, 1)
    if args.exact and problem.n > EXACT_UP_TO:
        raise InputError(
            f"--exact: expected at most N = {EXACT_UP_TO} points, as it multiplies N × N matrices, got {problem.n}; "
            "use a smaller --n"
        )
    quadratic = problem.quadratic
    levels, interrupted = _exact(quadratic, cells) if args.exact else ([None] * len(cells), False)
    rows = _rows(quadratic, cells, levels, taus)
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": quadratic.spectrum.scale,
        "rows": rows,
        "critical": _critical(quadratic, cells, taus) if plain else [],
        "notes": infinite_spectrum(quadratic) if any(row["noise"] > 0 for row in rows) else [],
        "seed": args.seed,
        "interrupted": interrupted,
    }
    failure = None
    if args.plot is not None:
        known = [(sgd.batch_size, sgd.momentum, lr) for sgd, lr in zip(cells, levels, strict=True) if lr is not None]
        try:
            figure = plot_theory.stability_map(
                quadratic, args.batch_size, taus=taus, sampling=args.sampling, exact=known
            )
            plot.save(figure, args.plot)
        except InputError as error:
            args.plot, failure = None, error
    facts |= {"seconds": round(time.perf_counter() - began, 3), "plot": args.plot}
    print(json.dumps(facts, allow_nan=False) if args.json else _text(facts, args.exact))
    if failure is not None:
        raise failure
    return 130 if interrupted else 0


def _exact(quadratic: Any, cells: list[Any]) -> tuple[list[float | None], bool]:
    """The exact level of each cell (None: not reached before Ctrl-C), and whether it was interrupted."""
    from tqdm import tqdm

    from sgdsim.theory import stability

    levels: list[float | None] = [None] * len(cells)
    try:
        for i, sgd in enumerate(tqdm(cells, desc="exact", disable=None if len(cells) > 1 else True)):
            levels[i] = stability.max_lr(quadratic, sgd, "exact")
    except KeyboardInterrupt:
        return levels, True
    return levels, False


def _rows(quadratic: Any, cells: list[Any], levels: list[float | None], taus: list[float]) -> list[dict[str, Any]]:
    from sgdsim.theory import stability

    rows = []
    for sgd, exact in zip(cells, levels, strict=True):
        noise = float(sgd.values(quadratic.n, 0, 1).noise[0])
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
                    "exact": exact,
                    "torch_lr_per_alpha": quadratic.torch_lr(1.0),
                    "note": necessary_only(noise, tau),
                }
            )
    return rows


def necessary_only(noise: float, tau: float) -> str | None:
    """A note where the spectral-diagonal threshold is not known to be sufficient."""
    if noise * tau <= 1:
        return None
    return f"γτ = {noise * tau:.4g} > 1: below this learning rate stability is not proved, above it there is none"


def _critical(quadratic: Any, cells: list[Any], taus: list[float]) -> list[dict[str, Any]]:
    """λ_crit, and the largest stable α/(1 − β) as β → 1, for each batch size and τ."""
    from sgdsim.theory import stability

    noises = {sgd.batch_size: float(sgd.values(quadratic.n, 0, 1).noise[0]) for sgd in cells}
    found = []
    for tau in taus:
        critical = stability.critical_eigenvalue(quadratic, tau)
        for size, noise in noises.items():
            bound = 2 / (noise * critical) if noise * critical > 0 else None
            numbers = {"critical_eigenvalue": critical, "effective_lr": bound}
            found.append({"batch_size": size, "tau": tau, "noise": noise, **numbers})
    return found


def table(lines: list[list[str]]) -> str:
    """Aligned columns under a ruled header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(t.rjust(w) for t, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([body[0], "-" * max(map(len, body)), *body[1:]])


def short(value: float | None) -> str:
    """A number in four digits; "-" where there is none."""
    return "-" if value is None else f"{value:.4g}" if math.isfinite(value) else "infinite"


def _text(facts: dict[str, Any], exact: bool) -> str:
    rows = facts["rows"]
    header = ["batch", "momentum", "tau", "full batch", "spectral-diagonal", *(["exact"] if exact else [])]
    lines = [header]
    for row in rows:
        levels = [row["full_batch"], row["spectral_diagonal"], *([row["exact"]] if exact else [])]
        cells = [f"{row['batch_size']}", readable(row["momentum"]), shortest(row["tau"]), *map(short, levels)]
        lines.append([*cells[:4], cells[4] + ("*" if row["note"] else ""), *cells[5:]])
    method = "" if rows[0]["method"] == "heavy-ball" else f", {rows[0]['method']}"
    out = [f"{facts['problem'].get('title', '')}{method}: largest stable learning rate", table(lines), ""]
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
    for note in dict.fromkeys(row["note"] for row in rows if row["note"]):
        out.append(f"* {note}")
    out += facts["notes"]
    if facts["interrupted"]:
        out.append("Interrupted: the rest was not computed.")
    out.append(f"lr 1 is {rows[0]['torch_lr_per_alpha']:.4g} in torch.optim.SGD. {facts['seconds']:.1f} s.")
    if facts["plot"]:
        out.append(f"wrote {facts['plot']}")
    return "\n".join(out)
