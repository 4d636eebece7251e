"""What is looked at in a run: what each observable needs of a regime, what it is called, and how it is computed.

May import: common, problem. A new observable is a module here with a subclass of `base.Observable`, and its name in
`KINDS`; texts, files, tables, pictures and the command line take it from there.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sgdsim.common import specs
from sgdsim.common.checks import InputError
from sgdsim.common.rooms import listing
from sgdsim.observables.accuracy import Accuracy, TestAccuracy
from sgdsim.observables.base import MOMENTS, QUANTITIES, Observable
from sgdsim.observables.distance import Distance
from sgdsim.observables.leading import LeadingShare
from sgdsim.observables.losses import Loss, TestLoss
from sgdsim.observables.moments import Moments

__dir__ = listing(__name__)

#: By the name that their texts begin with.
KINDS: dict[str, type[Observable]] = {
    kind.name: kind for kind in (Loss, TestLoss, Moments, Distance, LeadingShare, Accuracy, TestAccuracy)
}

__all__ = [
    "KINDS",
    "MOMENTS",
    "QUANTITIES",
    "Accuracy",
    "Loss",
    "Moments",
    "Observable",
    "TestAccuracy",
    "TestLoss",
    "is_linear",
    "label",
    "needed",
    "parse",
    "parse_all",
]


def parse(text: str) -> Observable:
    """The observable that a text such as "loss" describes; InputError for another text."""
    if not isinstance(text, str) or text.partition(":")[0] not in KINDS:
        raise InputError(f"observe: expected names from {', '.join(KINDS)}; got {text!r}"[:300])
    return specs.parse("observe", "observable", text, KINDS)


def parse_all(observe: str | Observable | Iterable[str | Observable]) -> tuple[Observable, ...]:
    """What `simulate` and `sweep` are asked to observe, a text or an `Observable` or several of them: the loss first,
    each once. InputError for anything else, and for two that results would call by one name."""
    if isinstance(observe, (str, Observable)):
        observe = (observe,)
    if not np.iterable(observe):
        raise InputError(f"observe: expected names from {', '.join(KINDS)}; got {observe!r}"[:300])
    given = [item if isinstance(item, Observable) else parse(item) for item in observe]
    out = tuple(dict.fromkeys((Loss(), *given)))
    for number, item in enumerate(out):
        for other in out[:number]:
            if item.variable == other.variable:
                raise InputError(f"observe: expected different names in results, got {item.variable} twice")
    return out


def needed(observe: Iterable[Observable]) -> tuple[str, ...]:
    """The quantities, of `QUANTITIES`, that a regime has to give for all of them; each once, the loss first."""
    return tuple(dict.fromkeys(quantity for item in observe for quantity in item.needs))


def label(variable: str) -> str:
    """How a picture or table calls a variable of a result."""
    return next((kind.label for kind in KINDS.values() if kind.name == variable), variable.replace("_", " "))


def is_linear(variable: str) -> bool:
    """Whether pictures have a variable of a result on a linear axis from 0 to 1."""
    return next((kind.linear for kind in KINDS.values() if kind.name == variable), False)
