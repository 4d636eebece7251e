"""`sgdsim recommend`: the best learning rate and momentum for a batch size and a horizon, and the loss to expect."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from sgdsim.cli import outputs
from sgdsim.cli.arguments import add_algorithm, add_batch_sizes, add_loss, add_problem, algorithm, named
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, wrote
from sgdsim.cli.problems import add_common, load
from sgdsim.cli.steps import add_steps, check_epochs, steps_of
from sgdsim.cli.torch_units import BEST, add_torch_loss, add_weight_decay, in_torch, take_torch_loss, unit_line
from sgdsim.cli.values import whole
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.progress import Bar

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.regimes.base import Regime
    from sgdsim.studies.decay_recommendation import DecayFound
    from sgdsim.studies.method_recommendation import MethodRecommendation
    from sgdsim.studies.recommendation import Recommendation
    from sgdsim.studies.verification import Verification
    from sgdsim.theory.optimal import Optimum

SIMULATED = ("sampled", "network")
REPLICATES = 20
TIMES = ("problem", "theory", "exact", "jacobi", "probe", "verify", "total")  # keys of "seconds"
# Options for plain heavy ball alone, and what is said where they come with another algorithm.
PLAIN_ALONE = {
    "verify": "; try compare",
    "plot": "; try compare",
    "replicates": "; try compare",
    "jacobi": "",
    "exact": "",
}


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim recommend` to the command line's subparsers."""
    parser = commands.add_parser("recommend", help="the best learning rate and momentum, and the loss to expect")
    add_problem(parser)
    group = parser.add_argument_group("algorithm")
    add_batch_sizes(group, [10], "points in a batch; several: a row for each")
    add_steps(group, "horizon", 10_000, "after how many steps to be best")
    group.add_argument("--tau", type=float, default=1.0, help="closure of the spectral-diagonal theory")
    add_common(group)
    add_loss(group)
    add_algorithm(group, many=False)
    add_weight_decay(group, many=False, best="the one with the least test loss there, by theory")
    add_torch_loss(group)
    group.add_argument(
        "--exact",
        action="store_true",
        help="the best by the exact average over batches, not by the closure (N <= 1000; at 500 minutes)",
    )
    group.add_argument("--jacobi", action="store_true", help="also the best Jacobi schedule for full batches (slower)")
    check = parser.add_argument_group("check by simulation")
    check.add_argument(
        "--no-probe",
        action="store_true",
        help="do not try the setting on the network for some 50 steps, nor look for a lower one where it fails there",
    )
    check.add_argument(
        "--verify",
        nargs="*",
        metavar="REGIME",
        help="simulate the recommended point, four beside it and the best without momentum; sampled, network (default: "
        "all the problem has)",
    )
    check.add_argument("--replicates", type=whole, help=f"batch sequences of --verify (default: {REPLICATES})")
    add_output(
        parser,
        outputs.ROWS_HELP,
        "draw the loss over momentum and lr, the law and the phase (.png, .pdf or .svg)",
        outputs.ROWS,
    )


def recommend(args: argparse.Namespace) -> int:
    """Find the best setting, check it by simulation, print and draw it."""
    from sgdsim.cli import _recommend_sizes, _recommend_text
    from sgdsim.runs.follow import MAX_STEPS
    from sgdsim.studies.recommendation import Recommendation

    delivery = Delivery(args)
    sizes, horizon = args.batch_size, integer("horizon", args.horizon, minimum=1, maximum=MAX_STEPS)
    check_epochs(args)
    number("tau", args.tau, maximum=1.0)  # beyond, losses of the closure may be negative
    algorithms = _algorithms(args)  # refuses bad values before any data are read
    _check(args, algorithms[0], horizon)
    if len(sizes) > 1:
        _recommend_sizes.check(args)
    problem = load(args, test=args.weight_decay == BEST)
    took = {"problem": delivery.seconds}
    pulled, chosen = _decayed(args, problem)
    algorithms = _algorithms(args)
    for sgd in algorithms:
        sgd.check(problem.n, 1)
    _check_model(args, problem)
    regimes = None if args.verify is None else _regimes(args.verify, problem)
    if len(sizes) > 1:
        return _recommend_sizes.deliver(delivery, problem, algorithms, lambda sgd: _answer(args, problem, sgd))
    args.batch_size, (sgd,) = sizes[0], algorithms
    found, horizon = _answer(args, problem, sgd)
    checked = None
    if regimes is not None and isinstance(found, Recommendation) and not found.interrupted:
        began = time.perf_counter()
        checked = _verified(args, problem, found.known.best, horizon, regimes)
        took["verify"] = time.perf_counter() - began
    facts = {
        **_recommend_sizes.facts(problem, sgd, args.tau, args.seed),
        "noise": found.noise,
        "horizon": horizon,
        **found.as_dict(),
        **in_torch(args, problem.quadratic),
        **({} if chosen is None else {"best_weight_decay": asdict(chosen)}),
        "verify": checked and checked.as_dict(),
        "interrupted": found.interrupted or (checked is not None and checked.interrupted),
    }
    delivery.keep([found.row()], facts, problem)
    delivery.draw(lambda plot: found.plot())
    took |= found.seconds | {"total": delivery.seconds}
    facts |= {"seconds": {name: round(took[name], 3) if name in took else None for name in TIMES}, **delivery.files}
    lines = _recommend_text.lines(problem.description.get("title", ""), found, checked)
    lines += _recommend_text.to_paste(found, problem.has_network)
    times = ", ".join(f"{name} {took[name]:.1f} s" for name in TIMES if name in took)
    last = f"{unit_line(args, problem.quadratic)}. {times}."
    return delivery.tell(facts, lambda: "\n".join([*lines, *pulled, last, *wrote(facts)]))


def _algorithms(args: argparse.Namespace) -> list[SGD]:
    """One for each batch size; a weight decay that is to be found is any."""
    from sgdsim.algorithm.sgd import SGD

    options = {name: values[0] for name, values in algorithm(args).items()}
    if args.weight_decay == BEST:
        options["weight_decay"] = 1.0
    return [SGD(1.0, 0.0, size, **options) for size in args.batch_size]


def _decayed(args: argparse.Namespace, problem: Problem) -> tuple[list[str], DecayFound | None]:
    """--weight-decay as a number on half-mse from now on; the lines about it, and what was found where it was best."""
    from sgdsim.studies import decay_recommendation

    if args.weight_decay != BEST:
        return take_torch_loss(args, problem.quadratic), None
    decay_recommendation.check(problem)
    args.weight_decay = 0.0
    take_torch_loss(args, problem.quadratic)
    (sgd,) = _algorithms(args)
    sgd.check(problem.n, 1)
    horizon = integer("horizon", steps_of(args, "horizon", problem.n, sgd.batch_size), minimum=1)
    with Bar(True, "weight decay", unit="setting", delay=2) as bar:
        found = decay_recommendation.find(problem, sgd, horizon, tau=args.tau, heard=bar.update)
    args.weight_decay = found.weight_decay
    return [found.sentence()], found


def _answer(args: argparse.Namespace, problem: Problem, sgd: SGD) -> tuple[Recommendation | MethodRecommendation, int]:
    """What is recommended for one batch size, tried on the network where that is wanted, and its horizon."""
    from sgdsim.runs.follow import MAX_STEPS
    from sgdsim.studies import method_recommendation

    horizon = integer("horizon", steps_of(args, "horizon", problem.n, sgd.batch_size), maximum=MAX_STEPS)
    if args.epochs is not None and not sgd.is_plain:
        method_recommendation.check(sgd, horizon)
    found = _found(args, problem, sgd, horizon)
    if not args.no_probe:
        found = _probed(args, problem, found)
    return replace(found, torch_loss=args.torch_loss), horizon


def _check(args: argparse.Namespace, sgd: SGD, horizon: int) -> None:
    """InputError for options that do not go with the algorithm, or with each other."""
    from sgdsim.studies import method_recommendation

    if not sgd.is_plain:
        method_recommendation.check(sgd, horizon)
        for name, hint in PLAIN_ALONE.items():
            if getattr(args, name) not in (None, False):
                raise InputError(
                    f"--{name}: expected only with heavy ball, without weight decay, noisy labels, averages or one "
                    f"pass{hint}"
                )
    elif args.replicates is not None and args.verify is None:
        raise InputError("--replicates: expected only with --verify, got it without")
    args.replicates = integer("replicates", REPLICATES if args.replicates is None else args.replicates, minimum=2)


def _check_model(args: argparse.Namespace, problem: Problem) -> None:
    """InputError for options that take ratios of losses where these are those of a quadratic model."""
    for name in ("verify", "plot", "jacobi"):
        if problem.loss != "squared" and getattr(args, name) not in (None, False):
            raise InputError(
                f"--{name}: expected only with the squared loss, got the quadratic model of {problem.loss}, whose "
                f"losses may be negative and hold for a while only; try compare --loss {problem.loss}"
            )


def _found(args: argparse.Namespace, problem: Problem, sgd: SGD, horizon: int) -> Recommendation | MethodRecommendation:
    from sgdsim.studies import method_recommendation, recommendation
    from sgdsim.theory import exact

    if not sgd.is_plain:
        with Bar(True, "search", unit="setting", delay=2) as bar:
            return method_recommendation.recommend(problem, sgd, horizon, tau=args.tau, heard=bar.update)
    find = partial(recommendation.recommend, problem, sgd, horizon, tau=args.tau, jacobi=args.jacobi)
    if not args.exact:
        return find()
    work = f"at most {exact.SETTINGS} settings by the exact average"
    with Bar(True, "exact average, at most", exact.SETTINGS, unit="setting", work=work) as bar:
        return find(search=True, heard=bar.update)


def _probed(
    args: argparse.Namespace, problem: Problem, found: Recommendation | MethodRecommendation
) -> Recommendation | MethodRecommendation:
    from sgdsim.studies import probing, recommending

    with Bar(True, "probe, at most", probing.SETTINGS, unit="setting", delay=2) as bar:
        return recommending.probed(problem, found, args.seed, bar.update)


def _regimes(names: list[str], problem: Problem) -> list[Regime]:
    """The regimes to simulate; InputError for those that do not sample batches."""
    from sgdsim import regimes

    for name in names:
        if name not in SIMULATED:
            raise InputError(f"--verify: expected {' or '.join(SIMULATED)}, got {name!r}")
    return [regimes.parse(name) for name in names or SIMULATED[: 1 + problem.has_network]]


def _verified(
    args: argparse.Namespace, problem: Problem, best: Optimum, horizon: int, regimes: list[Regime]
) -> Verification:
    from sgdsim.studies.verification import verify

    options = named(args, "batch_size", "sampling", "tau", "replicates", "seed")
    return verify(
        problem,
        best.lr,
        best.momentum,
        horizon=horizon,
        plain_lr=best.plain_lr,
        regimes=regimes,
        progress=True,
        **options,
    )
