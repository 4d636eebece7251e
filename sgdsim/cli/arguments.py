"""The parsers of the command line."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, TypedDict

from sgdsim.algorithm.rules import RULES
from sgdsim.algorithm.samplers import SAMPLINGS
from sgdsim.cli import outputs
from sgdsim.cli.base import Group
from sgdsim.cli.deliver import add_output
from sgdsim.cli.own_data import POINTS, add_own_data
from sgdsim.cli.steps import add_steps
from sgdsim.cli.torch_units import add_torch, add_weight_decay
from sgdsim.cli.values import add_list as add_list
from sgdsim.cli.values import points, real, schedule_of, whole
from sgdsim.common.checks import InputError
from sgdsim.problem.kinds import KINDS

if TYPE_CHECKING:
    pass


DATASETS = ("digits", "mnist", "cifar10", "olivetti", "bike_sharing", "sgemm_product")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "erf", "linear")
# What `compare` takes where a list is not given; with --cells only the first of each.
LISTS: dict[str, list[float]] = {"lr": [1.0], "momentum": [0.0, 0.5], "batch_size": [10]}
DEFAULTS = {"n": POINTS, "width": 500, "depth": 1, "activation": "relu", "lambda_min": 0.0}


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


def add_loss(group: Group) -> None:
    """`--loss`, of networks on data."""
    words = (
        "squared, or cross-entropy of classes (--targets one-hot, or class:A,B): the network's own, and in linearised "
        "regimes and theory its quadratic model at the start, which holds for a while; it is said how long"
    )
    group.add_argument("--loss", default="squared", choices=["squared", "cross-entropy"], help=words)


def add_data_dir(group: Group) -> None:
    """`--data-dir`."""
    group.add_argument("--data-dir", metavar="DIR", help="folder of the data sets (default: $SGDSIM_DATA, else data/)")


def add_batch_sizes(group: Group, default: list[int] | None, words: str = "one or several") -> None:
    """`--batch-size` where it takes several whole numbers."""
    add_list(group, "--batch-size", whole, default, words, metavar="B")


def add_regimes(group: Group, name: str, default: list[str] | None, words: str) -> None:
    """`--regime`, one or several, whose value is called `name`; `--regimes`, its older name, is not in the help."""
    for option, said, value in (("--regimes", argparse.SUPPRESS, argparse.SUPPRESS), ("--regime", words, default)):
        group.add_argument(option, dest=name, nargs="+", default=value, metavar="REGIME", help=said)


def _entry(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def add_model(group: Group, words: str) -> None:
    """`--model`, and which of the things that it gives are its outputs."""
    group.add_argument("--model", metavar="MODULE:FACTORY", help=words)
    group.add_argument(
        "--output", type=_entry, help="key or index of the outputs, of a --model that gives several things"
    )


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
        type=points,
        help="training points N (default: 500, of --data at most 80%%); power_law: up to 1e18, or inf",
    )
    group.add_argument("--n-test", type=whole, help="test points (default: as many as N, at most 1000)")
    group.add_argument("--width", type=whole, help="hidden units of the network (default: 500)")
    group.add_argument("--depth", type=whole, help="hidden layers (default: 1)")
    group.add_argument("--activation", choices=ACTIVATIONS, help="of the hidden units (default: relu)")
    add_model(group, "your own torch model instead of the MLP: a function that returns it")
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
        option, said = f"--{name.replace('_', '-')}", f"{text} (default: {' '.join(f'{v:g}' for v in values)})"
        if many:
            add_list(group, option, schedule_of(name), None, said)
        else:
            default = None if name == "lr" else values[0]  # --torch-lr may stand there
            group.add_argument(option, type=schedule_of(name), default=default, help=said)
    add_torch(group, "learning rate of torch.optim.SGD, in place of --lr", many=many)
    group.add_argument(
        "--sampling",
        default=SAMPLINGS[0],
        choices=SAMPLINGS,
        help="how batches are drawn; one-pass: fresh Gaussian samples with this spectrum",
    )
    add_algorithm(group, many)
    add_weight_decay(group, many)
    add_steps(group, "n_steps", 1000, "steps of SGD")
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
    written = "write the result (.nc), or a table of the last losses (.csv, .parquet)"
    add_output(parser, written, "draw the losses (.png, .pdf or .svg)", outputs.RUNS)


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
        "--momentum-order",
        choices=["torch", "usual"],
        help="torch: its order of lr and momentum, which differs from v = momentum*v - lr*g under a schedule",
    )
    noise = "error of labels, in units of the targets"
    if many:
        add_list(group, "--label-noise", real, None, noise, metavar="SIGMA")
    else:
        group.add_argument("--label-noise", type=real, metavar="SIGMA", help=noise)
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
    if args.momentum_order == "torch":
        axes["method"] = [_in_torch_order(method) for method in axes.get("method", ["heavy-ball"])]
    return axes


def _in_torch_order(method: str) -> str:
    """The method with its momentum as torch takes it; InputError for those that torch has not."""
    orders = {"heavy-ball": "torch", "nesterov": "torch:nesterov=1"}
    if method not in orders:
        raise InputError(f"--momentum-order: expected torch with --method {' or '.join(orders)} only, got {method}")
    return orders[method]


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
        path=None if outputs.is_table(args.out) else args.out,
    )
