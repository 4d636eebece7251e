"""`sgdsim schedule` for several batch sizes: a row for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from sgdsim.cli.deliver import Delivery, ending, lr_unit
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short

if TYPE_CHECKING:
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import Problem
    from sgdsim.studies.schedule_comparison import ScheduleComparison


def check(args: argparse.Namespace) -> None:
    """InputError for batch sizes that are the same, and for a picture, which is of one."""
    sizes = args.batch_size
    if len(set(sizes)) < len(sizes):
        raise InputError(f"batch_size: expected different sizes, got {', '.join(map(str, sizes))}")
    if args.plot is not None:
        raise InputError(f"--plot: expected one --batch-size, got {len(sizes)}")


def deliver(
    delivery: Delivery,
    problem: Problem,
    algorithms: Sequence[SGD],
    find: Callable[[SGD], ScheduleComparison],
    common: Mapping[str, object],
    head: str,
) -> int:
    """Find the best schedules of each, up to one whose runs Ctrl-C ends; print and write them."""
    found: list[ScheduleComparison] = []
    for sgd in algorithms:
        found.append(find(sgd))
        if found[-1].interrupted:
            break
    sizes = [cast(int, sgd.batch_size) for sgd in algorithms]
    pairs = list(zip(sizes, found, strict=False))
    rows = [row(size, each) for size, each in pairs]
    answers = [{"batch_size": size, "horizon": each.horizon} | each.as_dict() for size, each in pairs]
    told: dict[str, object] = {**common, "rows": rows, "answers": answers, "seed": delivery.args.seed}
    told["interrupted"] = found[-1].interrupted
    delivery.keep(rows, told, problem)
    told |= {"seconds": delivery.seconds, **delivery.files}
    unit = lr_unit(problem.quadratic.torch_lr(1.0))

    def text() -> str:
        lines = [f"{head}: the best schedule of each batch size", table(rows).text(), ""]
        lines += ["loss after the last step (spectral-diagonal theory), and relative to the best constant rate"]
        notes = [(size, note) for size, each in pairs for note in each.warnings()]
        lines += [f"Warning, batch {size}: {note}." for size, note in notes]
        return "\n".join([*lines, *ending(told, unit, "the rest was not looked for")])

    return delivery.tell(told, text)


def row(batch_size: int, found: ScheduleComparison) -> dict[str, object]:
    """The best schedule of a batch size beside its best constant rate; `closed_form`: the best such, for --lr."""
    best, closed = found.rows[0], found.best_closed_form()
    constant = next(each for each in found.rows if each.name == "constant")
    facts = {"batch_size": batch_size, "horizon": found.horizon, "schedule": best.name, "loss": best.scheduled.loss}
    facts |= {"ratio": best.ratio, "largest_lr": best.largest_lr, "stable": best.known.stable}
    facts |= {"constant_lr": constant.largest_lr, "constant_loss": constant.scheduled.loss}
    facts |= {"max_lr": found.max_lr, "max_lr_exact": found.max_lr_exact}
    means = {name: finite_or_none(best.means().get(name)) for name in ("sampled", "sampled_stderr")}
    return facts | means | {"closed_form": None if closed is None else closed.spec}


def table(rows: Sequence[Mapping[str, object]]) -> Table:
    """A line for each batch size."""
    sampled = any(each["sampled"] is not None for each in rows)
    headers = ["batch", "steps", "best", "loss", "to constant", "constant lr", *(["sampled"] if sampled else [])]
    lines = []
    for each in rows:
        line: list[Cell] = [str(each["batch_size"]), str(each["horizon"])]
        line += [cast(Cell, each[name]) for name in ("schedule", "loss", "ratio", "constant_lr")]
        mean, error = each["sampled"], each["sampled_stderr"]
        known = f"{short(mean)} ± {error:.1g}" if isinstance(mean, float) and isinstance(error, float) else "diverges"
        line += [known] if sampled else []
        lines.append([*line, cast(str, each["closed_form"] or "-")])
    return Table([*headers, "best closed form, --lr"], lines, "rrlrrr" + "r" * sampled + "l")
