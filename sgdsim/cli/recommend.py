"""`sgdsim recommend`: the best learning rate and momentum for a batch size and a horizon, and the loss to expect."""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdsim.cli import _recommend_method, _recommend_text
from sgdsim.cli._recommend_method import TIMES, algorithm_facts
from sgdsim.cli.arguments import Commands, add_algorithm, add_problem, algorithm, whole
from sgdsim.cli.deliver import Delivery, add_output
from sgdsim.cli.problems import add_common, infinite_spectrum, load
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import finite_or_none

if TYPE_CHECKING:
    from sgdsim.theory.inside import ClosureError

SIMULATED = ("sampled", "network")
REPLICATES = 20


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim recommend` to the command line's subparsers."""
    parser = commands.add_parser("recommend", help="the best learning rate and momentum, and the loss to expect")
    add_problem(parser)
    group = parser.add_argument_group("algorithm")
    group.add_argument("--batch-size", type=whole, default=10, metavar="B", help="points in a batch")
    group.add_argument("--horizon", type=whole, default=10_000, metavar="STEPS", help="after how many steps to be best")
    group.add_argument("--tau", type=float, default=1.0, help="closure of the spectral-diagonal theory")
    add_common(group)
    add_algorithm(group, many=False)
    group.add_argument(
        "--exact", action="store_true",
        help="the best by the exact average over batches, not by the closure (N <= 1000; at 500 minutes)",
    )  # fmt: skip
    group.add_argument("--jacobi", action="store_true", help="also the best Jacobi schedule for full batches (slower)")
    check = parser.add_argument_group("check by simulation")
    check.add_argument(
        "--verify",
        nargs="*",
        metavar="REGIME",
        help="simulate the recommended point, four beside it and the best without momentum; sampled, network (default: "
        "all the problem has)",
    )
    check.add_argument("--replicates", type=whole, help=f"batch sequences of --verify (default: {REPLICATES})")
    add_output(parser, None, "draw the loss over momentum and lr, the law and the phase (.png, .pdf or .svg)")


def recommend(args: argparse.Namespace) -> int:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.runs.follow import MAX_STEPS

    began = time.perf_counter()
    delivery = Delivery(args)
    horizon = integer("horizon", args.horizon, minimum=1, maximum=MAX_STEPS)
    number("tau", args.tau, maximum=1.0)  # beyond, losses of the closure may be negative
    options = {name: values[0] for name, values in algorithm(args).items()}
    if not SGD(1.0, 0.0, args.batch_size, **options).is_plain:
        return _recommend_method.recommend(args)
    SGD(1.0, 0.0, args.batch_size, args.sampling)  # refuses bad values before any data are read
    if args.replicates is None:
        args.replicates = REPLICATES
    elif args.verify is None:
        raise InputError("--replicates: expected only with --verify, got it without")
    integer("replicates", args.replicates, minimum=2)
    problem = load(args)
    noise = SGD(1.0, 0.0, args.batch_size, args.sampling).noise(problem.n)
    regimes = None if args.verify is None else _regimes(args.verify, problem)
    quadratic = problem.quadratic
    seconds: dict[str, Any] = dict.fromkeys(TIMES) | {"problem": time.perf_counter() - began}
    facts: dict[str, Any] = {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": quadratic.spectrum.scale,
        "torch_lr_per_alpha": quadratic.torch_lr(1.0),
        **algorithm_facts(SGD(1.0, 0.0, args.batch_size, args.sampling)),
        "noise": noise,
        "tau": args.tau,
        "horizon": horizon,
        "seed": args.seed,
    }
    with np.errstate(all="ignore"):  # losses that underflow to 0 are results
        best, found, law, answers = _answer(args, quadratic, horizon, noise, seconds)
    facts |= answers
    checked, interrupted = None, bool(facts["exact"] and facts["exact"]["interrupted"])
    if regimes is not None and not interrupted:
        checked = _verify(args, problem, best, horizon, regimes, seconds)
        interrupted = checked["interrupted"]
    facts |= {"floor": None, "floor_reached": None, "verify": checked, "interrupted": interrupted}
    if args.plot is not None:
        from sgdsim import plot

        with delivery.writing("plot"):
            figure = plot.recommendation(quadratic, best, noise=facts["noise"], tau=args.tau, found=found, law=law)
            plot.save(figure, args.plot)
    seconds["total"] = time.perf_counter() - began
    facts |= {"seconds": {name: value and round(value, 3) for name, value in seconds.items()}, "plot": args.plot}
    return delivery.tell(facts, lambda: _recommend_text.text(facts))


def _answer(
    args: argparse.Namespace, quadratic: Any, horizon: int, noise: float, seconds: dict[str, float]
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The optimum, the prediction at it and the law (each None where there is none), and everything as JSON."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.recurrence import contour
    from sgdsim.theory import inside

    began = time.perf_counter()
    sgd, searched = SGD(1.0, 0.0, args.batch_size, args.sampling), None
    if args.exact:
        known, searched = _search(quadratic, sgd, horizon, args.tau)
    else:
        known = inside.trusted(quadratic, sgd, horizon, args.tau)
    best = known.best
    hyper = {"momentum": best.momentum, "noise": noise, "tau": args.tau}
    rate = float(contour.rate(quadratic, lr=best.lr, **hyper))
    law, facts, notes = _law(quadratic)
    error, doubts = _doubt(quadratic, best, noise, args.tau, horizon)
    notes += doubts
    found = None
    facts |= _prediction(None) | {"asymptotic": None, "ratio": None}
    if law is not None:
        found = _predict(args, quadratic, best, law)
        facts |= _prediction(found)
        if found.exponent is not None and math.isfinite(found.constant) and best.loss > 0:
            facts["ratio"] = finite_or_none(found.constant * float(horizon) ** -found.exponent / best.loss)
        asymptotic, more = _asymptotic(quadratic, law, noise, args.tau)
        facts["asymptotic"] = asymptotic
        notes += more
        if found.exponent is not None and found.window is None:
            notes.append("The law is nowhere within 10% of the exact curve at this N: do not rely on it.")
    cutoff = 1 / abs(rate) if -math.inf < rate < 0 else None
    if cutoff is not None and horizon > cutoff:
        notes.append(
            f"{_recommend_text.steps(horizon)} is beyond the cut-off at {cutoff:.3g}. The loss falls exponentially "
            "there, and the best setting depends on the smallest eigenvalues of this N."
        )
    seconds["theory"] = time.perf_counter() - began
    levels = _levels(args, quadratic, best, seconds)
    if known.stable.stable is None:
        notes.append(f"Whether it is exactly stable is not known: {known.stable.reason}. --verify sampled tells more.")
    notes += infinite_spectrum(quadratic) if noise > 0 else []
    jacobi = None
    if args.jacobi:
        jacobi = _jacobi(quadratic, horizon, noise, args.tau, seconds)
    answers = {
        "best": _setting(quadratic, best.lr, best.momentum, best.loss, known.error),
        "plain": _setting(quadratic, best.plain_lr, 0.0, best.plain_loss, known.plain_error),
        "closure_best": _setting(quadratic, known.closure.lr, known.closure.momentum, known.closure.loss),
        "exact": searched,
        "loss_error": error,
        "stable": known.stable.stable,
        "stable_reason": known.stable.reason,
        "gain": known.gain,
        "negative_momentum": best.negative_momentum,
        "max_lr": levels,
        "rate": finite_or_none(rate),
        "cutoff": cutoff,
        "law": facts,
        "jacobi": jacobi,
        "notes": notes,
    }
    fit = facts.pop("fitted", None)
    return best, found, fit or law, answers


def _search(quadratic: Any, sgd: Any, horizon: int, tau: float) -> tuple[Any, dict[str, Any]]:
    """The best by the exact average, and how it was found as JSON."""
    from tqdm import tqdm

    from sgdsim.theory import exact

    with tqdm(total=exact.SETTINGS, desc="exact average, at most", unit="setting", disable=None) as bar:
        found = exact.best(quadratic, sgd, horizon, tau, heard=bar.update)
    facts = {"settings": found.settings, "interrupted": found.interrupted, "settled": found.settled}
    return found.trusted, facts


def _doubt(quadratic: Any, best: Any, noise: float, tau: float, horizon: int) -> tuple[float | None, list[str]]:
    """The relative error of the best loss where Lanczos quadrature made the problem (None elsewhere), with a note."""
    from sgdsim.recurrence import contour, doubt

    if not quadratic.alternatives:
        return None, []
    follow = partial(contour.loss_at, steps=horizon, lr=best.lr, momentum=best.momentum, noise=noise, tau=tau)
    error = float(doubt.of(quadratic, np.array(best.loss), follow))
    if error <= doubt.KNOWN:
        return error, []
    return finite_or_none(error), [
        f"The loss at the horizon may be off {doubt.off(error)}: Lanczos quadrature does not tell the eigenvalues that "
        "decide it, nor then the best setting. Take more Lanczos steps, or a shorter horizon."
    ]


def _setting(
    quadratic: Any, lr: float, momentum: float, loss: float, error: ClosureError | None = None
) -> dict[str, float | None]:
    facts = {
        "lr": lr, "torch_lr": quadratic.torch_lr(lr), "momentum": momentum, "loss": finite_or_none(loss),
        "effective_lr": lr / (1 - momentum),
    }  # fmt: skip
    if error is not None:
        facts |= {"exact_loss": error.loss, "closure_error": error.relative}
    return facts


def _law(quadratic: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """The spectrum's power law (None where there is none), what it is as JSON, and what makes it doubtful."""
    from sgdsim.problem import fits
    from sgdsim.theory import power_law

    law, fit, reason = None, None, None
    made = quadratic.exponents is not None
    try:
        fit = None if made else fits.fit_power_law(quadratic)
        law = power_law.PowerLaw.of(quadratic)
    except InputError as error:
        reason = str(error)
    facts: dict[str, Any] = {
        "source": None if law is None else "given" if made else "fitted",
        "reason": reason,
        "nu": None if law is None else law.nu,
        "kappa": None if law is None else law.kappa,
        "zeta": None if law is None else law.zeta,
        "fit": None if fit is None else fit.as_dict(),
    }
    if law is not None and fit is not None:
        facts["fitted"] = fit
    return law, facts, [] if fit is None else list(fit.warnings)


def _predict(args: argparse.Namespace, quadratic: Any, best: Any, law: Any) -> Any:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.theory import power_law

    sgd = SGD(best.lr, best.momentum, args.batch_size, args.sampling)
    return power_law.predict(quadratic, sgd, law, tau=args.tau)


def _prediction(found: Any) -> dict[str, Any]:
    """A `Prediction` as JSON; where there is none, everything is None."""
    if found is None:
        names = ("phase", "exponent", "constant", "signal", "noise", "crossover", "window", "within")
        return dict.fromkeys(names)

    def pair(law: tuple[float, float] | None) -> dict[str, float | None] | None:
        return None if law is None else {"exponent": law[0], "constant": finite_or_none(law[1])}

    return {
        "phase": found.phase,
        "exponent": found.exponent,
        "constant": finite_or_none(found.constant),
        "signal": pair(found.signal),
        "noise": pair(found.noise),
        "crossover": found.crossover,
        "window": None if found.window is None else list(found.window),
        "within": found.within,
    }


def _asymptotic(quadratic: Any, law: Any, noise: float, tau: float) -> tuple[dict[str, Any] | None, list[str]]:
    """The setting with the least constant of the late law, or why there is none."""
    from sgdsim.theory import optimal, power_law

    if noise == 0:
        return None, []
    phase = power_law.phase(law.nu, law.zeta)
    if phase == power_law.SIGNAL:
        # At given α/(1−β) more momentum always helps a little: the optimum is the limit β → 1.
        effective, constant, exponent = power_law.budget(quadratic, law, noise, tau=tau)
        constant *= noise**exponent  # it belongs to t/γ
        return {"effective_lr": effective, "momentum": None, "constant": constant, "exponent": exponent}, []
    if phase != power_law.NOISE:
        return None, [f"No late law: ν = {law.nu:.3g} ≤ 1 ({phase} of the infinite spectrum)."]
    best = optimal.best(quadratic, noise=noise, tau=tau, law=law)
    facts = {
        "lr": best.lr,
        "momentum": best.momentum,
        "constant": best.loss,
        "exponent": best.exponent,
        "plain_lr": best.plain_lr,
        "plain_constant": best.plain_loss,
        "gain": best.gain,
        "negative_momentum": best.negative_momentum,
    }
    return facts, []


def _levels(args: argparse.Namespace, quadratic: Any, best: Any, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """The largest stable learning rates without momentum and at the best momentum."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.theory import stability

    began = time.perf_counter()
    spectrum = quadratic.spectrum
    with_basis = spectrum.eigenvectors is not None or quadratic.basis_seed is not None
    exact = with_basis and quadratic.n <= stability.EXACT_IN_TABLES
    rows = []
    for momentum in (0.0, best.momentum):
        sgd = SGD(1.0, momentum, args.batch_size, args.sampling)
        levels = {
            "full_batch": stability.max_lr(quadratic, sgd, "full-batch"),
            "spectral_diagonal": stability.max_lr(quadratic, sgd, tau=args.tau),
            "exact": stability.max_lr(quadratic, sgd, "exact") if exact else None,
        }
        torch = {name: None if lr is None else quadratic.torch_lr(lr) for name, lr in levels.items()}
        rows.append({"momentum": momentum, **levels, "torch_lr": torch})
    seconds["exact"] = time.perf_counter() - began
    return rows


def _jacobi(quadratic: Any, horizon: int, noise: float, tau: float, seconds: dict[str, float]) -> dict[str, Any]:
    from sgdsim.theory import optimal

    began = time.perf_counter()
    found = optimal.best_jacobi(quadratic, horizon=horizon, noise=noise, tau=tau)
    seconds["jacobi"] = time.perf_counter() - began
    return {name: finite_or_none(value) for name, value in vars(found).items()}


def _regimes(names: list[str], problem: Any) -> list[Any]:
    """The regimes to simulate; InputError for those that do not sample batches."""
    from sgdsim import regimes

    for name in names:
        if name not in SIMULATED:
            raise InputError(f"--verify: expected {' or '.join(SIMULATED)}, got {name!r}")
    return [regimes.parse(name) for name in names or SIMULATED[: 1 + problem.has_network]]


def _verify(
    args: argparse.Namespace, problem: Any, best: Any, horizon: int, regimes: list[Any], seconds: dict[str, float]
) -> dict[str, Any]:
    from sgdsim.studies.verification import verify

    began = time.perf_counter()
    found = verify(
        problem,
        best.lr,
        best.momentum,
        batch_size=args.batch_size,
        horizon=horizon,
        plain_lr=best.plain_lr,
        regimes=regimes,
        sampling=args.sampling,
        tau=args.tau,
        replicates=args.replicates,
        seed=args.seed,
        progress=True,
    )
    seconds["verify"] = time.perf_counter() - began
    return {"replicates": args.replicates, **found.as_dict()}
