"""The parsers of the command line."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypedDict

from sgdsim.algorithm.rules import RULES
from sgdsim.algorithm.samplers import SAMPLINGS
from sgdsim.cli.deliver import add_output
from sgdsim.cli.own_data import POINTS, add_own_data
from sgdsim.common.checks import InputError
from sgdsim.problem.kinds import KINDS

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from sgdsim.algorithm.schedules import Schedule

Group: TypeAlias = argparse._ActionsContainer  # a group of options, or a parser
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"  # what `add_subparsers` gives

DATASETS = ("digits", "mnist", "cifar10", "olivetti", "bike_sharing", "sgemm_product")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "erf", "linear")
# What `compare` takes where a list is not given; with --cells only the first of each.
LISTS: dict[str, list[float]] = {"lr": [1.0], "momentum": [0.0, 0.5], "batch_size": [10]}
DEFAULTS = {"n": POINTS, "width": 500, "depth": 1, "activation": "relu", "lambda_min": 0.0}


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one and does not say it in its own words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or "default" in text:
            return text
        default = action.default if isinstance(action.default, list) else [action.default]
        return f"{text} (default: {' '.join(map(str, default))})".replace("%", "%%").lstrip()


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, no abbreviations, and values such as -1e-3 not taken for options."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(**options, allow_abbrev=False)
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|inf|nan)")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """argparse would pass over a standard output that is full or closed."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def whole(text: str) -> int:
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


def _points(text: str) -> int | float:
    """A whole number, or inf."""
    return math.inf if text in ("inf", "∞") else whole(text)


def schedule_of(parameter: str) -> Callable[[str], float | Schedule]:
    def read(text: str) -> float | Schedule:
        from sgdsim.algorithm.schedules import parse

        try:
            if parameter == "batch_size" and ":" not in text:
                with contextlib.suppress(argparse.ArgumentTypeError):
                    return whole(text)
            return parse(parameter, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def add_seed(group: Group, decides: str = "decides data split, network, basis and batches") -> None:
    """`--seed`."""
    group.add_argument("--seed", type=whole, default=0, help=decides)


def add_device(group: Group) -> None:
    """`--device`."""
    group.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="auto: CUDA where there is one"
    )


def add_dtype(group: Group, of: str) -> None:
    """`--dtype`, of networks."""
    group.add_argument("--dtype", default="float64", choices=["float64", "float32"], help=of)


def add_data_dir(group: Group) -> None:
    """`--data-dir`."""
    group.add_argument("--data-dir", metavar="DIR", help="folder of the data sets (default: $SGDSIM_DATA, else data/)")


def add_batch_sizes(group: Group, default: list[int] | None, words: str = "one or several") -> None:
    """`--batch-size` where it takes several whole numbers."""
    group.add_argument("--batch-size", type=whole, nargs="+", default=default, metavar="B", help=words)


def _entry(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def add_problem(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("problem")
    source = group.add_mutually_exclusive_group()
    synthetic = [kind.source for kind in KINDS.values() if not kind.option]
    source.add_argument(
        "--dataset", default="digits", choices=[*DATASETS, *synthetic], help="data, or a synthetic spectrum"
    )
    for kind in KINDS.values():
        if kind.option:
            source.add_argument(kind.source, metavar="FILE", help=f"{kind.help}, instead of --dataset")
    source.add_argument("--spectrum", metavar="FILE", help="a spectrum written by sgdsim spectrum --out")
    group.add_argument("--residual", metavar="FILE", help="initial residual (.npy, .csv) for --kernel")
    add_own_data(source, group)
    add_data_dir(group)
    # Left open here, so that one that does not apply to the problem can be refused; see DEFAULTS.
    group.add_argument(
        "--n",
        type=_points,
        help="training points N (default: 500, of --data at most 80%%); power_law: up to 1e18, or inf",
    )
    group.add_argument("--n-test", type=whole, help="test points (default: as many as N, at most 1000)")
    group.add_argument("--width", type=whole, help="hidden units of the network (default: 500)")
    group.add_argument("--depth", type=whole, help="hidden layers (default: 1)")
    group.add_argument("--activation", choices=ACTIVATIONS, help="of the hidden units (default: relu)")
    group.add_argument(
        "--model",
        metavar="MODULE:FACTORY",
        help="your own torch model instead of the MLP: a function that returns it",
    )
    group.add_argument(
        "--output", type=_entry, help="key or index of the outputs, of a --model that gives several things"
    )
    group.add_argument("--nu", type=float, help="power_law: eigenvalues k^-nu")
    group.add_argument("--kappa", type=float, help="power_law: tail sums of c_k fall as k^-kappa")
    group.add_argument("--lambda-min", type=float, help="power_law: smallest eigenvalue of the infinite spectrum")


def add_run(parser: argparse.ArgumentParser, many: bool) -> None:
    group = parser.add_argument_group("algorithm")
    words = {
        "lr": "learning rate in units of 1/lambda_max, or a schedule such as power:start=1,exponent=0.5 or "
        "file:rates.csv",
        "momentum": "heavy ball, or a schedule",
        "batch_size": "or a schedule",
    }
    for name, text in words.items():
        values = LISTS[name] if many else LISTS[name][:1]
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=schedule_of(name),
            nargs="+" if many else None,
            default=None if many else values[0],
            help=f"{text} (default: {' '.join(f'{v:g}' for v in values)})",
        )
    group.add_argument(
        "--sampling",
        default=SAMPLINGS[0],
        choices=SAMPLINGS,
        help="how batches are drawn; one-pass: fresh Gaussian samples with this spectrum",
    )
    add_algorithm(group, many)
    group.add_argument(
        "--weight-decay",
        type=float,
        nargs="+" if many else None,
        metavar="OMEGA",
        help="as of torch.optim.SGD: pulls a network's parameters to 0, other problems to their start (default: 0)",
    )
    group.add_argument("--n-steps", type=whole, default=1000, help="steps of SGD")
    group.add_argument("--replicates", type=whole, default=10, help="batch sequences of the stochastic regimes")
    add_seed(group, "decides data split, network and batches")
    add_dtype(group, "of the real network")
    add_device(group)
    group.add_argument("--record-every", type=whole, metavar="K", help="record every K steps (default: log-spaced)")
    group.add_argument(
        "--observe",
        nargs="+",
        default=[],
        metavar="NAME",
        help="also record these beside the losses, such as moments (see sgdsim.observables)",
    )
    add_output(parser, "write the result (netCDF)", "draw the losses (.png, .pdf or .svg)")


def add_algorithm(group: Group, many: bool) -> None:
    """What may be there instead of plain heavy ball; `algorithm` takes it up."""
    count: dict[str, Any] = {"nargs": "+"} if many else {}
    group.add_argument(
        "--method",
        **count,
        help="heavy-ball (default), nesterov, corner:theta=1.8,memory=15, am1:nu=1.5, schedule-free, or, with an lr of "
        f"its own, {', '.join(RULES)}; those but nesterov take no momentum",
    )
    group.add_argument(
        "--label-noise", type=float, **count, metavar="SIGMA", help="error of labels, in units of the targets"
    )
    group.add_argument(
        "--average", **count, help="losses of averaged iterates: ema:DECAY or tail:start=S,every=C (default: none)"
    )


def named(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The arguments of these names, for a function that calls them the same."""
    return {name: getattr(args, name) for name in names}


def algorithm(args: argparse.Namespace) -> dict[str, list[Any]]:
    """The grid axes that `add_algorithm` and --sampling asked for."""
    axes = {"sampling": [args.sampling]}
    for name in ("method", "label_noise", "average", "weight_decay"):
        given = getattr(args, name, None)
        if given is not None:
            axes[name] = given if isinstance(given, list) else [given]
    return axes


def add_execution(parser: argparse.ArgumentParser, always_resumes: bool) -> None:
    """How the cells are worked on; `execution` takes them up."""
    group = parser.add_argument_group("execution")
    group.add_argument(
        "--executor",
        choices=["serial", "threads", "dask"],
        help="dask: a process for each core, or --scheduler's workers (default: threads)",
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://10.0.0.1:8786")
    group.add_argument("--shard", metavar="I/K", help="only the I-th of K shares; sgdsim merge brings them together")
    group.add_argument("--retry-failed", action="store_true", help="run the cells again that failed before")
    group.add_argument("--log-file", metavar="FILE", help="append a line of JSON for each group of cells that is done")
    if not always_resumes:
        group.add_argument(
            "--resume", action="store_true", help="go on with the sweep that was begun at --out, instead of a new one"
        )


class Execution(TypedDict, total=False):
    """Arguments of `sweep` that say how it is worked on, not what comes out."""

    executor: str | None
    shard: tuple[int, int] | None
    resume: bool
    retry_failed: bool
    log_file: str | None
    path: str | None
    on_error: str


def execution(args: argparse.Namespace) -> Execution:
    """The arguments of `sweep` that `add_execution` asked for; InputError for those that go together badly."""
    executor, shard = args.executor, None
    if args.scheduler is not None:
        if executor not in (None, "dask"):
            raise InputError(f"--scheduler: expected only with --executor dask, got {executor}")
        executor = f"dask:{args.scheduler}"
    if args.shard is not None:
        share = re.fullmatch(r"(\d+)/(\d+)", args.shard)
        if share is None or not 1 <= int(share[1]) <= int(share[2]):
            raise InputError(f"--shard: expected I/K with I from 1 to K, such as 3/16, got {args.shard!r}")
        shard = (int(share[1]), int(share[2]))
    resume = getattr(args, "resume", True) or shard is not None
    for name in ("shard", "resume", "retry_failed"):
        if args.out is None and getattr(args, name, None):
            raise InputError(f"--{name.replace('_', '-')}: expected together with --out, where the sweep is kept")
    resume = resume or args.retry_failed
    return Execution(
        executor=executor,
        shard=shard,
        resume=resume,
        retry_failed=args.retry_failed,
        log_file=args.log_file,
        path=args.out,
    )
