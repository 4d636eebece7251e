"""The sentences of `sgdsim compare` and `sgdsim simulate` around the tables of their result."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from sgdsim.cli.deliver import interrupted, lr_unit, rule_lr_unit, wrote
from sgdsim.common.text import counted

if TYPE_CHECKING:
    from sgdsim.problem import Problem
    from sgdsim.studies.comparison import ComparedCells


_SHRINKS = (
    "under weight decay a network's parameters shrink, and its kernel with them: its linearisation and the verdicts on "
    "stability, which are of the kernel at the start, err more than without"
)


def lines(found: ComparedCells, unit: float | None) -> list[str]:
    """The tables, one for each observable; `unit`: of torch's learning rates, where they are shown."""
    from sgdsim.observables import label
    from sgdsim.runs.results import curves

    out = ["final training loss", found.table(unit=unit).text()]
    for name in curves(found.data)[1:]:
        out += ["", f"final {label(name)}", found.table(name, unit=unit).text()]
    return out


def headline(args: argparse.Namespace, problem: Problem) -> str:
    initial = problem.quadratic.initial_loss + problem.loss_offset
    population = problem.population
    above = f" above a floor of {population.floor:.4g}" if population is not None and population.floor else ""
    title, steps = problem.description.get("title", ""), counted(args.n_steps, "step")
    replicates = counted(args.replicates, "replicate")
    return f"{title}: {steps}, initial loss {initial:.4g}{above}, {replicates}, seed {args.seed}"


def _unit(facts: Mapping[str, object]) -> float:
    """What the learning rate 1 is in torch, of half the mean of squares."""
    return cast(float, facts["n"]) / cast(float, facts["lambda_max"])


def _pulled(facts: Mapping[str, object]) -> str:
    """Where weight decay pulls, and its unit."""
    unit = _unit(facts)
    words = "" if math.isinf(unit) else f"; weight decay 1 is {unit:.4g} in units of the largest curvature"
    to = (
        "parameters to 0"
        if cast("dict[str, object]", facts["problem"]).get("kind") == "network"
        else "to the start, as where parameters begin at 0"
    )
    return f"weight decay is that of torch.optim.SGD and pulls {to}{words}"


def notes(found: ComparedCells, facts: Mapping[str, object], on: str, pulled: list[str]) -> list[str]:
    """What the tables mean, the units of learning rates, `on` which loss, and of weight decay as it was `pulled`, the
    time taken; what was not run, and why."""
    from sgdsim.runs.results import has_offset

    rows, regimes = found.rows, list(found.rows[0].regimes)
    several = any((numbers["replicates"] or 0) > 1 for row in rows for numbers in row.regimes.values())
    what = ["mean ± standard error over replicates"] if several else []
    ratios = len(regimes) > 1 and not has_offset(found.data)
    what += [f"× is the ratio to {regimes[0]}"] if ratios else []
    rules = {row.sgd.rule.name: row.sgd.rule for row in rows if row.sgd.rule is not None}
    first = ["; ".join(what)] if what else []
    one = cast(float, facts.get("torch_lr_per_alpha", _unit(facts)))
    first += [lr_unit(one) + on] if any(row.sgd.rule is None for row in rows) else []
    first += [*map(rule_lr_unit, rules.values()), f"{cast(float, facts['seconds']):.1f} s."]
    out = ["", ". ".join(first), *_of_model(found)]
    others = [name for name in regimes if ":loss=" in name]
    if any(row.sgd.weight_decay for row in rows):
        out += [_pulled(facts), *pulled]
        out += [_SHRINKS] if any(name.startswith("network") for name in regimes) else []
    if not has_offset(found.data):
        out += [f"losses of {name} are those of the name; stable and lr are of the squared loss" for name in others]
    out += [*interrupted(facts), *found.notes()]
    out += [f"left out: {name}: {reason}" for name, reason in cast("dict[str, str]", facts["left_out"]).items()]
    out += [f"failed: {failed['cell']}, {failed['regime']}: {failed['error']}" for failed in found.failed[:10]]
    out += [f"and {len(found.failed) - 10} more failed"] if len(found.failed) > 10 else []
    return out + wrote(facts)


def _of_model(found: ComparedCells) -> list[str]:
    """What the losses of a quadratic model of cross-entropy are, and until when they hold."""
    from sgdsim.runs.results import has_offset, problem_of

    horizons = [row.horizon for row in found.rows if row.horizon is not None]
    if not has_offset(found.data) and not horizons:
        return []
    of = problem_of(found.data)
    lines = [
        f"losses but the network's are those of the quadratic model of {of.loss} at the start, whose least value is "
        f"{of.loss_offset:.4g}; stable and lr are of its curvature there, which changes as probabilities do"
    ]
    if not horizons:
        return [*lines, "until when the model holds is not known here, without the network that it is of"]
    if len({one.until() for one in horizons}) == 1:
        return [*lines, horizons[0].sentence()]
    return [
        *lines,
        "the quadratic model of cross-entropy holds until the steps under model until (losses within "
        f"{horizons[0].tolerance:.0%} of the decrease, measured at full batch, without the noise of batches); beyond "
        "them only the network regime is cross-entropy",
    ]
