"""`sgdsim recommend` for several batch sizes: a row for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from sgdsim.cli.deliver import Delivery, ending
from sgdsim.cli.torch_units import BEST, in_torch, unit_line
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.specs import shortest
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short, tuned
from sgdsim.theory.verdicts import WORDS

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.studies.method_recommendation import MethodRecommendation
    from sgdsim.studies.recommendation import Recommendation

    Advised: TypeAlias = Recommendation | MethodRecommendation


def check(args: argparse.Namespace) -> None:
    """InputError for batch sizes that are the same, and for options that are of one."""
    sizes = args.batch_size
    if len(set(sizes)) < len(sizes):
        raise InputError(f"batch_size: expected different sizes, got {', '.join(map(str, sizes))}")
    if args.weight_decay == BEST:
        raise InputError(f"--weight-decay: expected a number, or best with one --batch-size, got {len(sizes)} sizes")
    for name in ("plot", "verify", "jacobi"):
        if getattr(args, name) not in (None, False):
            raise InputError(f"--{name}: expected one --batch-size, got {len(sizes)}")


def facts(problem: Problem, sgd: SGD, tau: float, seed: int) -> dict[str, object]:
    """What all answers have in common, for JSON."""
    return {
        "problem": problem.description,
        "n": problem.n,
        "lambda_max": problem.quadratic.spectrum.scale,
        "torch_lr_per_alpha": problem.quadratic.torch_lr(1.0),
        **{name: value for name, value in sgd.spec().items() if name not in ("lr", "momentum")},
        "tau": tau,
        "seed": seed,
    }


def deliver(
    delivery: Delivery, problem: Problem, algorithms: Sequence[SGD], answer: Callable[[SGD], tuple[Advised, int]]
) -> int:
    """Find the `answer` of each, up to one that Ctrl-C ends; print and write them."""
    found: list[Advised] = []
    for sgd in algorithms:
        found.append(answer(sgd)[0])
        if found[-1].interrupted:
            break
    args = delivery.args
    told = facts(problem, algorithms[0], args.tau, args.seed)
    told |= in_torch(args, problem.quadratic)
    told |= {"batch_size": [sgd.batch_size for sgd in algorithms]}
    rows = [each.row() for each in found]
    told |= {"rows": rows, "answers": [each.as_dict() for each in found], "interrupted": found[-1].interrupted}
    delivery.keep(rows, told, problem)
    told |= {"seconds": delivery.seconds, **delivery.files}
    return delivery.tell(told, lambda: "\n".join(_lines(problem, found, told, unit_line(args, problem.quadratic))))


def _lines(problem: Problem, found: Sequence[Advised], told: dict[str, object], unit: str) -> list[str]:
    """The table and what the single answers say of doubts, once each."""
    sgd = found[0].sgd
    what = [sgd.method.spec, *([f"weight decay {shortest(sgd.weight_decay)}"] if sgd.weight_decay else [])]
    title = problem.description.get("title", "")
    head = f"{title}: {', '.join(what)}, tau {shortest(found[0].tau)}: the best constant setting of each batch size"
    notes: dict[str, list[str]] = {}
    for each in found:
        for note in each.notes():
            notes.setdefault(note, []).append(str(each.sgd.batch_size))
    lines = [head, table(found).text(), ""]
    lines += [f"Note, batch {', '.join(sizes)}: {note}" for note, sizes in notes.items()]
    said = "loss: predicted (spectral-diagonal); stable: in the exact average; stable lr: the largest at that momentum"
    return [*lines, said, *ending(told, unit, "the rest was not looked for")]


def table(found: Sequence[Advised]) -> Table:
    """A row for each batch size; (torch): the lr for `torch.optim.SGD`."""
    rows: list[list[Cell]] = []
    for each in found:
        answer, row = each.answer, each.row()
        line: list[Cell] = [str(row["batch_size"]), str(row["horizon"])]
        if answer is None:
            rows.append([*line, None, "-", "none", None, "-", "-"])
            continue
        torch, stable = each.torch_lr(), row["stable"]
        line += [answer.lr, "-" if torch is None else f"({short(torch)})", tuned(answer.momentum)]
        word = WORDS[stable if isinstance(stable, bool) else None]
        limits = [each.max_lr[-1][name] for name in ("exact", "spectral_diagonal")]
        line += [finite_or_none(each.loss_of(answer.loss)), word, next((v for v in limits if v is not None), None)]
        rows.append(line)
    return Table(["batch", "steps", "lr", "(torch)", "momentum", "loss", "stable", "stable lr"], rows)
