"""The command line: each subcommand unpacks its arguments and calls public functions.

Exit codes: 0 done, 1 a check found something (`data verify`) or standard output failed, 2 bad input or an output file
that could not be written (one line on standard error), 130 Ctrl-C (what was done is printed and saved).
With `--json` standard output carries one JSON document and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
import warnings
from typing import Any, NoReturn

from sgdsim.checks import InputError

DATASETS = ("digits", "mnist", "cifar10", "olivetti", "bike_sharing", "sgemm_product")
POWER_LAW = "power_law"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one and does not say it in its own words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default is None or action.default is False or "default" in text:
            return text
        default = action.default if isinstance(action.default, list) else [action.default]
        return f"{text} (default: {' '.join(map(str, default))})".replace("%", "%%").lstrip()


class _Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and values such as -1e-3 not taken for options."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(**options, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def _whole(text: str) -> int:
    """An integer, also in the forms 1e6 and 1_000."""
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = 0.5
        if not value.is_integer():
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        return int(value)


def _schedule(parameter: str):
    def read(text: str):
        from sgdsim.schedules import parse

        try:
            if parameter == "batch_size" and ":" not in text:
                with contextlib.suppress(argparse.ArgumentTypeError):
                    return _whole(text)
            return parse(parameter, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _add_problem(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("problem")
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--dataset", default="digits", choices=[*DATASETS, POWER_LAW], help="data, or a synthetic spectrum"
    )
    source.add_argument(
        "--kernel", metavar="FILE", help="your own kernel: .npz, .npy or torch file, instead of --dataset"
    )
    group.add_argument("--residual", metavar="FILE", help="initial residual (.npy) for --kernel")
    group.add_argument("--targets", metavar="FILE", help="targets (.npy) for --kernel: the residual is minus them")
    group.add_argument("--data-dir", metavar="DIR", help="folder of the data sets (default: $SGDSIM_DATA, else data/)")
    group.add_argument("--n", type=_whole, default=500, help="training points N")
    group.add_argument("--n-test", type=_whole, help="test points (default: as many as N, at most 1000)")
    group.add_argument("--width", type=_whole, default=500, help="hidden units of the network")
    group.add_argument("--depth", type=_whole, default=1, help="hidden layers")
    group.add_argument(
        "--activation",
        default="relu",
        choices=["relu", "gelu", "silu", "tanh", "erf", "linear"],
        help="of the hidden units",
    )
    group.add_argument("--nu", type=float, help="power_law: eigenvalues k^-nu")
    group.add_argument("--kappa", type=float, help="power_law: tail sums of c_k fall as k^-kappa")
    group.add_argument("--lambda-min", type=float, help="power_law: smallest eigenvalue of the infinite spectrum")


def _add_run(parser: argparse.ArgumentParser, many: bool) -> None:
    group = parser.add_argument_group("algorithm")
    count: dict[str, Any] = {"nargs": "+"} if many else {}

    def default(*values):
        return list(values) if many else values[0]

    group.add_argument(
        "--lr",
        type=_schedule("lr"),
        default=default(1.0),
        **count,
        help="learning rate in units of 1/lambda_max, or a schedule such as power:start=1,exponent=0.5",
    )
    group.add_argument(
        "--momentum", type=_schedule("momentum"), default=default(0.0, 0.5), **count, help="heavy ball, or a schedule"
    )
    group.add_argument("--batch-size", type=_schedule("batch_size"), default=default(10), **count, help="or a schedule")
    group.add_argument(
        "--sampling",
        default="without-replacement",
        choices=["without-replacement", "with-replacement", "reshuffle"],
        help="how batches are drawn",
    )
    group.add_argument("--n-steps", type=_whole, default=1000, help="steps of SGD")
    group.add_argument("--replicates", type=_whole, default=10, help="batch sequences of the stochastic regimes")
    group.add_argument("--seed", type=_whole, default=0, help="decides data split, network and batches")
    group.add_argument("--dtype", default="float64", choices=["float64", "float32"], help="of the real network")
    group.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: CUDA where there is one"
    )
    group.add_argument("--record-every", type=_whole, metavar="K", help="record every K steps (default: log-spaced)")
    out = parser.add_argument_group("output")
    out.add_argument("--out", metavar="FILE", help="write the result (netCDF)")
    out.add_argument("--plot", metavar="FILE", help="draw the losses (.png, .pdf or .svg)")
    out.add_argument("--json", action="store_true", help="print one JSON document instead of the table")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="sgdsim", description="Theory and simulation of mini-batch SGD on quadratic models.")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    compare = commands.add_parser("compare", help="the regimes side by side, for every combination of values")
    _add_problem(compare)
    _add_run(compare, many=True)
    compare.add_argument(
        "--regimes",
        nargs="+",
        metavar="REGIME",
        help="of network, sampled, averaged, diagonal (default: all that the problem has)",
    )
    compare.add_argument("--tau", type=float, nargs="+", default=[1.0], help="closures of the diagonal regime")
    compare.add_argument(
        "--zip", action="store_true", help="pair the lists (equal lengths, or 1) instead of combining them"
    )
    compare.set_defaults(run=_compare)

    simulate = commands.add_parser("simulate", help="one regime, one set of values")
    _add_problem(simulate)
    _add_run(simulate, many=False)
    simulate.add_argument(
        "--regime", default="diagonal:tau=1", help="network, sampled, averaged or diagonal:tau=NUMBER"
    )
    simulate.add_argument(
        "--moments", action="store_true", help="also record the second moments c_k (N numbers per recorded step)"
    )
    simulate.set_defaults(run=_simulate)

    plot = commands.add_parser("plot", help="draw a saved result")
    plot.add_argument("what", choices=["loss", "spectrum"])
    plot.add_argument("file", metavar="FILE", help="a result written with --out")
    plot.add_argument("--out", metavar="FILE", required=True, help="picture to write (.png, .pdf or .svg)")
    plot.add_argument("--observable", default="loss", help="loss or test_loss")
    plot.set_defaults(run=_plot)

    data = commands.add_parser("data", help="list, fetch or verify the data sets")
    actions = data.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    for action, text in (
        ("list", "what there is, and what is here"),
        ("fetch", "download"),
        ("verify", "check sizes and hashes"),
    ):
        sub = actions.add_parser(action, help=text)
        sub.add_argument(
            "name",
            nargs="?" if action != "fetch" else None,
            choices=DATASETS[1:],
            metavar="NAME",
            help=", ".join(DATASETS[1:]),
        )
        sub.add_argument("--data-dir", metavar="DIR", help="folder (default: $SGDSIM_DATA, else data/)")
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        if action == "fetch":
            sub.add_argument("--mirror", metavar="URL", help="take the files from below this address instead")
        sub.set_defaults(run=_data)
    return parser


def _problem(args: argparse.Namespace):
    """The problem that the arguments describe."""
    from sgdsim.problem import NetworkProblem, QuadraticProblem

    for name in ("nu", "kappa", "lambda_min"):
        if getattr(args, name) is not None and (args.dataset != POWER_LAW or args.kernel is not None):
            raise InputError(f"--{name.replace('_', '-')}: expected only with --dataset power_law")
    if args.kernel is None and not (args.residual is None and args.targets is None):
        raise InputError("--residual, --targets: expected only with --kernel")
    if args.kernel is not None:
        from sgdsim.kernel_files import load_kernel

        return load_kernel(args.kernel, residual=args.residual, targets=args.targets)
    if args.dataset == POWER_LAW:
        if args.nu is None or args.kappa is None:
            raise InputError("--dataset power_law: expected --nu and --kappa, got none; for example --nu 1.5 --kappa 3")
        return QuadraticProblem.power_law(args.n, args.nu, args.kappa, args.lambda_min or 0.0, args.seed)
    from sgdsim import datasets, networks

    data = datasets.load(args.dataset, args.n, args.seed, n_test=args.n_test, data_dir=args.data_dir)
    network = networks.MLP(args.width, args.depth, args.activation, seed=args.seed)
    return NetworkProblem(network, data, device=args.device)


def _regimes(names: list[str] | None, taus: list[float], problem: Any, dtype: str) -> list[Any]:
    from sgdsim import regimes
    from sgdsim.problem import NetworkProblem

    if names is None:
        names = ["network"] if isinstance(problem, NetworkProblem) else []
        names += ["sampled", "averaged", "diagonal"]
    closures = [regimes.SpectralDiagonal(tau) for tau in taus]
    out: list[Any] = []
    for name in names:
        if name == "diagonal":
            out += closures
        else:
            regime = regimes.parse(name)
            out.append(regimes.RealNetwork(dtype) if isinstance(regime, regimes.RealNetwork) else regime)
    return out


def _compare(args: argparse.Namespace) -> int:
    from sgdsim.sweeps import Grid

    combine = Grid.zip if args.zip else Grid.product
    grid = combine(lr=args.lr, momentum=args.momentum, batch_size=args.batch_size, sampling=[args.sampling])
    return _run(args, grid, lambda problem: _regimes(args.regimes, args.tau, problem, args.dtype), ())


def _simulate(args: argparse.Namespace) -> int:
    from sgdsim.sweeps import Grid

    grid = Grid.zip(lr=[args.lr], momentum=[args.momentum], batch_size=[args.batch_size], sampling=[args.sampling])
    observe = ("moments",) if args.moments else ()
    return _run(args, grid, lambda problem: _regimes([args.regime], [1.0], problem, args.dtype), observe)


def _run(args: argparse.Namespace, grid: Any, choose: Any, observe: tuple[str, ...]) -> int:
    """Simulate every cell of `grid`, then print, save and draw."""
    from sgdsim import report, results
    from sgdsim.regimes import SpectralDiagonal
    from sgdsim.simulation import has_test
    from sgdsim.sweeps import sweep

    began = time.perf_counter()
    cells = list(grid.cells())  # refuse bad values before any data are read
    if args.plot is not None:
        from sgdsim import plot

        plot.check_path(args.plot)
        results.check_writable(args.plot)
        if len(cells) > plot.MAX_CELLS:
            raise InputError(f"--plot: expected at most {plot.MAX_CELLS} cells to draw, got {len(cells)}; use --out")
    if args.out is not None:
        results.check_writable(args.out)
    _check_distinct(args)
    problem = _problem(args)
    regimes = choose(problem)
    if has_test(problem):
        observe = ("test_loss", *observe)
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
    )
    interrupted = bool(result.attrs["interrupted"])
    taus = [regime.tau for regime in regimes if isinstance(regime, SpectralDiagonal)]
    rows = report.rows(result, problem, grid, taus)
    failure = None  # told after the numbers: they may be the work of hours
    if args.out is not None:
        try:
            results.save(result, args.out)
        except InputError as error:
            args.out, failure = None, error
    if args.plot is not None:
        try:
            plot.save(plot.comparison(result), args.plot)
        except InputError as error:
            args.plot, failure = None, failure or error
    facts = {
        "problem": json.loads(result.attrs["problem"]),
        "lambda_max": problem.quadratic.spectrum.scale,
        "n": problem.n,
        "n_steps": int(result["step"].values[-1]),
        "seed": args.seed,
        "device": result.attrs["device"],
        "interrupted": interrupted,
        "seconds": round(time.perf_counter() - began, 3),
        "out": args.out,
        "plot": args.plot,
    }
    if args.json:
        print(json.dumps({"rows": rows, **facts}, allow_nan=False))
    else:
        print(_headline(args, problem, result))
        print(report.table(rows))
        print(_footnote(rows, facts))
    if failure is not None:
        raise failure
    return 130 if interrupted else 0


def _check_distinct(args: argparse.Namespace) -> None:
    """InputError if one file would be written twice, or over an input."""
    files = [(name, getattr(args, name)) for name in ("kernel", "residual", "targets", "out", "plot")]
    given = [(f"--{name}", os.path.realpath(path)) for name, path in files if path is not None]
    for i, (name, path) in enumerate(given):
        for other, same in given[:i]:
            if path == same and name in ("--out", "--plot"):
                raise InputError(f"{name}: expected another file than that of {other}, got {os.path.basename(path)!r}")


def _headline(args: argparse.Namespace, problem: Any, result: Any) -> str:
    title = json.loads(result.attrs["problem"]).get("title", "")
    initial = problem.quadratic.initial_loss
    return f"{title}: {args.n_steps} steps, initial loss {initial:.4g}, {args.replicates} replicates, seed {args.seed}"


def _footnote(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    reference = next(iter(rows[0]["regimes"]))
    notes = ["final training loss: mean ± standard error over replicates"]
    if len(rows[0]["regimes"]) > 1:
        notes[0] += f"; × is the ratio to {reference}"
    notes[0] += f". lr 1 is {facts['n'] / facts['lambda_max']:.4g} in torch.optim.SGD. {facts['seconds']:.1f} s."
    if facts["interrupted"]:
        notes.append("Interrupted: the rest was not run.")
    notes += [f"wrote {path}" for path in (facts["out"], facts["plot"]) if path]
    return "\n".join(notes)


def _plot(args: argparse.Namespace) -> int:
    from sgdsim import plot, results

    plot.check_path(args.out)
    results.check_writable(args.out)
    result = results.load(args.file)
    plot.save(plot.spectrum(result) if args.what == "spectrum" else plot.comparison(result, args.observable), args.out)
    print(f"wrote {args.out}")
    return 0


def _data(args: argparse.Namespace) -> int:
    from sgdsim import fetching

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
        widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
        for line in [columns, *lines]:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if args.action == "list":
        return 0
    needed = args.name is not None  # asked for by name, a data set has to be there
    bad = (f["status"] == "corrupt" or (needed and f["required"] and f["status"] == "missing") for f in files)
    return 1 if any(bad) else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    program = "sgdsim"

    def tell(message: str) -> None:
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"sgdsim: {message}", file=sys.stderr)
        try:
            try:
                args = _parse(argv)
                program = f"sgdsim {args.command}"
                code = args.run(args)
            except SystemExit as stop:  # argparse: help was printed, or an error
                code = int(stop.code or 0)
            sys.stdout.flush()  # here, where a failure can still be told
            return code
        except InputError as error:
            tell(f"error: {error}")
            return 2
        except KeyboardInterrupt:
            tell("interrupted")
            return 130
        except MemoryError as error:
            tell(f"error: expected a problem that fits into memory, got: {error or 'no memory left'}")
            return 2
        except RuntimeError as error:  # torch's forms of the same
            if not re.search("can't allocate|out of memory|invalid for input of size", str(error)):
                raise
            tell(f"error: expected a problem that fits into memory, got: {str(error).splitlines()[0]}")
            return 2
        except OSError as error:
            if error.filename is not None:
                tell(f"error: {error.filename}: {error.strerror}")
                return 2
            # Standard output: its reader went away, or its disk is full.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                tell(f"error: output: {error.strerror or error}")
            return 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; SystemExit after help, the version, or an error."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = " ".join(filter(None, ("sgdsim", args.command, getattr(args, "action", None))))
        _Parser(prog=command).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.version:
        import importlib.metadata

        print(f"sgdsim {importlib.metadata.version('sgdsim')}")
        raise SystemExit(0)
    if args.command is None:
        parser.error("expected a command: compare, simulate, plot or data")
    return args


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
