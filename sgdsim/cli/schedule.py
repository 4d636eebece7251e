"""`sgdsim schedule`: learning-rate schedules and averages of iterates for a run of T steps, each at its best."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdsim.algorithm.samplers import CLOSED, OF_POINTS
from sgdsim.cli._recommend_text import steps as counted
from sgdsim.cli.arguments import Commands, add_device, add_problem, add_seed, named, whole
from sgdsim.cli.deliver import Delivery, add_output, ending, lr_unit
from sgdsim.cli.problems import load
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import readable, shortest
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem, QuadraticProblem
    from sgdsim.theory.horizon import Scheduled

REPLICATES, PIECES = 100, 12
_NEAR = 0.1  # relative difference from which on the theory is said to be off


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim schedule` to the command line's subparsers."""
    parser = commands.add_parser("schedule", help="the best schedules of the learning rate for a horizon")
    add_problem(parser)
    group = parser.add_argument_group(
        "algorithm", "Heavy ball; losses are those after --horizon steps, by spectral-diagonal theory."
    )
    group.add_argument("--horizon", type=whole, default=1000, metavar="T", help="steps of the run")
    group.add_argument("--batch-size", type=whole, default=10, metavar="B")
    group.add_argument("--momentum", type=float, default=0.0, help="the same at all steps")
    group.add_argument(
        "--label-noise", type=float, default=0.0, metavar="SIGMA", help="error of labels, in units of the targets"
    )
    group.add_argument(
        "--pieces", type=whole, metavar="K", help="of the piecewise-constant schedule (default: 12 or T)"
    )
    group.add_argument("--tau", type=float, default=1.0, help="closure")
    group.add_argument(
        "--sampling",
        default=CLOSED[0],
        choices=[name for name in CLOSED if name in OF_POINTS],
        help="how batches are drawn",
    )
    group.add_argument(
        "--verify", action="store_true", help="run them all on sampled batches as well, the same for all"
    )
    group.add_argument("--replicates", type=whole, help=f"batch sequences of --verify (default: {REPLICATES})")
    add_seed(group)
    add_device(group)
    add_output(parser, None, "draw the learning rates and the final losses (.png, .pdf or .svg)")


def schedule(args: argparse.Namespace) -> int:
    """Find the best of every form, print their losses, run and draw them."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.runs import estimates
    from sgdsim.runs.follow import MAX_STEPS
    from sgdsim.theory import best_schedules

    delivery = Delivery(args)
    steps = integer("horizon", args.horizon, minimum=1, maximum=MAX_STEPS)
    estimates.require_memory(
        "learning rates of all steps and what goes with them", 96.0 * steps, "take a smaller --horizon"
    )
    pieces = integer("pieces", min(PIECES, steps) if args.pieces is None else args.pieces, minimum=1, maximum=steps)
    number("tau", args.tau, maximum=1.0)
    sgd = SGD(1.0, args.momentum, args.batch_size, args.sampling, label_noise=args.label_noise)
    if args.replicates is not None and not args.verify:
        raise InputError("--replicates: expected only with --verify, got it without")
    replicates = integer("replicates", REPLICATES if args.replicates is None else args.replicates, minimum=2)
    problem = load(args)
    sgd.check(problem.n, 1)
    quadratic = problem.quadratic
    if not quadratic.coefficients.any():
        raise InputError("residual: expected one that is not zero, got all zeros: there is nothing to learn")
    compared = best_schedules.compare(quadratic, sgd, steps, pieces, tau=args.tau, averages=True)
    limits = _limits(quadratic, sgd, args.tau)
    sampled = _verify(quadratic, sgd, compared, steps, replicates, args.seed) if args.verify else None
    delivery.draw(lambda plot: plot.schedules(compared, steps, sampled=sampled, title=_title(args, problem)))
    facts = {
        "problem": problem.description,
        "n": problem.n,
        "horizon": steps,
        **named(args, "batch_size", "momentum", "label_noise", "sampling", "tau"),
        "torch_lr_per_alpha": quadratic.torch_lr(1.0),
        "initial_loss": quadratic.initial_loss,
        "max_lr": limits["spectral_diagonal"],
        "max_lr_exact": limits["exact"],
        "rows": (rows := _rows(compared, quadratic, sgd, steps, args.tau, sampled)),
        "warnings": _warnings(rows, limits),
        "replicates": replicates if args.verify else None,
        "interrupted": args.verify and sampled is None,
        "seed": args.seed,
        "seconds": delivery.seconds,
        **delivery.files,
    }
    return delivery.tell(facts, lambda: _text(facts, compared))


def _title(args: argparse.Namespace, problem: Problem) -> str:
    """Of the picture."""
    title = f"{problem.description.get('title', '')}: b = {args.batch_size}, β = {readable(args.momentum)}"
    title += f", T = {args.horizon}"
    title += f", σ = {args.label_noise:g}" if args.label_noise else ""
    return title.replace("= -", "= −")


def _verify(
    quadratic: QuadraticProblem, sgd: SGD, compared: list[Scheduled], steps: int, replicates: int, seed: int
) -> np.ndarray | None:
    """Final losses on sampled batches, (schedules, replicates); the batches are the same for all schedules.

    None after Ctrl-C.
    """
    from sgdsim.regimes import SampledLinearized
    from sgdsim.runs.simulation import simulate

    options: dict[str, Any] = {"record": [steps], "replicates": replicates, "seed": seed, "progress": True}
    losses = []
    for scheduled in compared:
        own = replace(sgd, lr=scheduled.lr, average=scheduled.average)
        result = simulate(quadratic, own, SampledLinearized(), steps, **options)
        if result.attrs["interrupted"]:
            return None
        losses.append(result["loss"].values[0, :, -1])
    return np.array(losses)


def _limits(quadratic: QuadraticProblem, sgd: SGD, tau: float) -> dict[str, float | None]:
    """The largest stable constant rates, the exact one where it takes seconds."""
    from sgdsim.theory import stability

    plain = replace(sgd, label_noise=0.0)
    exact = None
    if quadratic.n <= stability.EXACT_BESIDE and quadratic.multiplicity is None:
        exact = stability.max_lr(quadratic, plain, "exact", tolerance=1e-4)
    return {"spectral_diagonal": stability.max_lr(quadratic, plain, tau=tau), "exact": exact}


def _warnings(rows: list[dict[str, Any]], limits: dict[str, float | None]) -> list[str]:
    """Where the theory's losses are not to be relied on: by the exact threshold, sampled runs, Lanczos quadrature."""
    from sgdsim.recurrence import doubt

    out = []
    exact, theory = limits["exact"], limits["spectral_diagonal"]
    if exact is not None and theory is not None and exact < (1 - _NEAR) * theory:
        fast = [row["name"] for row in rows if row["largest_lr"] > (1 - 2 * _NEAR) * exact]
        if fast:
            out.append(
                f"at this momentum the exact threshold is {1 - exact / theory:.0%} below that of the theory, and these "
                f"have rates near or above it: {', '.join(fast)}; their losses are larger than the theory's"
            )
    if "sampled" in rows[0]:
        off = [row["name"] for row in rows if _is_off(row)]
        if off:
            out.append(
                f"sampled runs do not confirm the theory's loss to {_NEAR:.0%} for: {', '.join(off)}; "
                "go by the column sampled"
            )
    off = [row["name"] for row in rows if row["loss_error"] is None or row["loss_error"] > doubt.KNOWN]
    if off:
        out.append(
            f"Lanczos quadrature does not tell the final loss to {doubt.KNOWN:.0%} for: {', '.join(off)}; more Lanczos "
            "steps or probes tell more"
        )
    return out


def _is_off(row: dict[str, Any]) -> bool:
    """Whether the sampled loss is off the theory's by more than three standard errors and more than `_NEAR`."""
    if row["sampled"] is None:
        return True
    distance = abs(row["sampled_to_theory"] - 1)
    # Where a mean is several times too large, few runs decide it, and its standard error says nothing.
    return distance > 1 or distance > max(_NEAR, 3 * row["sampled_stderr_to_theory"])


def _rows(
    compared: list[Scheduled], quadratic: QuadraticProblem, sgd: SGD, steps: int, tau: float, sampled: np.ndarray | None
) -> list[dict[str, Any]]:
    """One dict per schedule, the best first; None: infinite, not known, or not asked for."""
    from sgdsim.theory.verdicts import verdicts

    constant = next(scheduled.loss for scheduled in compared if scheduled.name == "constant")
    largest = [float(np.max(one.lr(np.arange(steps)))) if callable(one.lr) else one.lr for one in compared]
    known = verdicts(quadratic, [replace(sgd, lr=lr) for lr in largest])
    rows = []
    for i, scheduled in enumerate(compared):
        lr, average = scheduled.lr, scheduled.average
        own = {"lr": lr} if isinstance(lr, float) else _parameters(lr)
        row: dict[str, Any] = {
            "name": scheduled.name,
            "lr": getattr(lr, "spec", lr),
            "average": None if average is None else average.spec,
            "parameters": own if average is None else own | _parameters(average),
            "largest_lr": largest[i],
            "stable": known[i].stable,
            "stable_reason": known[i].reason,
            "loss": scheduled.loss,
            "loss_error": _loss_error(quadratic, replace(sgd, lr=lr, average=average), steps, tau),
            "ratio": scheduled.loss / constant,
        }
        if sampled is not None:
            row |= _sampled(sampled[i], scheduled.loss)
        rows.append(row)
    return rows


def _loss_error(quadratic: QuadraticProblem, sgd: SGD, steps: int, tau: float) -> float | None:
    """The relative error of the final loss where Lanczos quadrature made the problem, None: infinite; 0 elsewhere."""
    from sgdsim.recurrence import doubt

    if not quadratic.alternatives:
        return 0.0
    runs = doubt.Doubted("schedule", quadratic, sgd, tau)
    runs.advance(0, steps)
    runs.observe(("loss",))
    return finite_or_none(float(runs.errors()[0]))


def _stability(rows: list[dict[str, Any]]) -> list[str]:
    """What the column says, and why it is not known or not so: a line for each reason."""
    from sgdsim.theory.verdicts import WORDS

    out = ["stable: whether the largest rate of each is, held, in the exact average over batches"]
    names: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row["stable"]:
            names.setdefault((WORDS[row["stable"]], row["stable_reason"]), []).append(row["name"])
    return out + [f"{word} for {', '.join(some)}: {reason}" for (word, reason), some in names.items()]


def _parameters(part: Any) -> dict[str, Any]:
    """Of a schedule or an average, as its dataclass has them."""
    return {field.name: getattr(part, field.name) for field in fields(part)}


def _sampled(losses: np.ndarray, theory: float) -> dict[str, float | None]:
    """Mean over replicates with its standard error, as it is and relative to the theory; None where a run diverged."""
    with np.errstate(all="ignore"):
        numbers = dict(zip(("sampled", "sampled_stderr"), mean_and_error(losses), strict=True))
        numbers |= {f"{name}_to_theory": value / theory for name, value in numbers.items()}
    return {name: finite_or_none(value) for name, value in numbers.items()}


def _text(facts: dict[str, Any], compared: list[Scheduled]) -> str:
    from sgdsim.theory.verdicts import WORDS

    rows, steps = facts["rows"], facts["horizon"]
    verified = "sampled" in rows[0]
    headers = ["schedule", "at its best", "stable", "loss", "to constant"]
    headers += ["sampled", "to theory"] if verified else []
    lines = []
    for row, scheduled in zip(rows, compared, strict=True):
        cells: list[Cell] = [row["name"], _shown(scheduled, steps), WORDS[row["stable"]], row["loss"]]
        cells.append(_ratio(row["ratio"], ".4f"))
        if verified:
            for end, shown in (("", short), ("_to_theory", lambda mean: _ratio(mean, ".3f"))):
                mean, error = row[f"sampled{end}"], row[f"sampled_stderr{end}"]
                cells.append("diverges" if mean is None else f"{shown(mean)} ± {error:.1g}")
        lines.append(cells)
    noise = f", label noise {facts['label_noise']:g}" if facts["label_noise"] else ""
    title = f"{facts['problem'].get('title', '')}: {counted(steps)}, batch {facts['batch_size']}"
    out = [
        f"{title}, momentum {readable(facts['momentum'])}{noise}, tau {shortest(facts['tau'])}, initial loss "
        f"{facts['initial_loss']:.4g}",
        Table(headers, lines, "llr").text(),
        "",
        *_stability(rows),
        "loss after the last step (spectral-diagonal theory), and relative to the best constant learning rate;",
        "ema, tail: averages of the iterates of a constant learning rate; pieces: first, largest and last rate",
    ]
    if verified:
        out.append(f"sampled: mean ± standard error over {facts['replicates']} batch sequences, the same for all rows")
    by = "sampled" if verified else "loss"
    closed = [
        (row[by], scheduled.lr)
        for row, scheduled in zip(rows, compared, strict=True)
        if getattr(scheduled.lr, "name", "piecewise") != "piecewise" and row[by] is not None
    ]
    if closed:
        _, best = min(closed, key=lambda pair: pair[0])
        out.append(f"the best closed form by {by}, for sgdsim simulate: --lr {_rounded(best).spec}")
    exact = "" if facts["max_lr_exact"] is None else f", {facts['max_lr_exact']:.4g} exactly at this N"
    out.append(f"constant rates are stable up to lr {facts['max_lr']:.4g} by this theory{exact}")
    out += [f"Warning: {text}." for text in facts["warnings"]]
    unit = lr_unit(facts["torch_lr_per_alpha"])
    return "\n".join([*out, *ending(facts, unit, "the schedules were not run on samples")])


def _ratio(value: float, digits: str) -> str:
    return f"{value:{digits}}" if value < 1e4 else f"{value:.3g}"


def _rounded(lr: Any) -> Any:
    """A schedule with four digits."""
    return replace(lr, **{f.name: float(f"{v:.4g}") for f in fields(lr) if isinstance(v := getattr(lr, f.name), float)})


def _shown(scheduled: Scheduled, steps: int) -> str:
    """The parameters of a schedule in words."""
    lr: Any = scheduled.lr  # of which form, its name says
    average: Any = scheduled.average
    if average is not None:
        own = f"decay {average.decay:.4g}" if scheduled.name == "ema" else f"from step {average.start}"
        return f"lr {lr:.4g}, {own}"
    if isinstance(lr, float):
        return f"lr {lr:.4g}"
    if lr.name == "piecewise":
        # Three digits: the loss is so flat in the single pieces that the fourth is the optimizer's.
        return f"lr {lr.values[0]:.3g} … {max(lr.values):.3g} … {lr.values[-1]:.3g}"
    if lr.name == "warmup-cosine":
        return f"from lr {lr.peak:.4g}"
    if lr.name == "polynomial":
        return f"{lr.start:.4g}·(1 - t/T)" + (f"^{lr.power:.4g}" if scheduled.name != "linear" else "")
    if lr.name == "warmup-stable-decay":
        rise = f"warm-up {lr.warmup}, " if lr.warmup else ""
        return f"lr {lr.peak:.4g}, {rise}decay in the last {lr.decay}"
    return f"{lr.start:.4g}·(1 + t/{lr.offset:g})^-{lr.exponent:.4g}"
