"""The regimes that texts name, and how each looks in pictures."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sgdsim.common.checks import InputError
from sgdsim.regimes.base import Regime


class Look(NamedTuple):
    """Of a curve: a colour, or its number in the palette that all pictures share; lengths of dashes and gaps (none: a
    solid line); the line's width in points."""

    color: int | str
    dashes: tuple[float, ...]
    width: float


class Registered(NamedTuple):
    """A kind of regime: its class, loaded when it is first used; the `parameter` that its text may have, a number but
    for a loss; the looks that are its own, by the regime's name. Others look by their name."""

    load: Callable[[], type[Regime]]
    parameter: str | None = None
    looks: Mapping[str, Look] = {}


def _here(name: str) -> Callable[[], type[Regime]]:
    return lambda: getattr(importlib.import_module("sgdsim.regimes"), name)


# Thick and solid below, thin and broken above: curves that coincide stay visible, in grey too.
REGIMES = {
    "network": Registered(_here("RealNetwork"), "loss", {"network": Look(0, (), 2.2)}),
    "sampled": Registered(_here("SampledLinearized"), None, {"sampled": Look(1, (), 1.1)}),
    "averaged": Registered(_here("BatchAveraged"), "tolerance", {"averaged": Look("black", (4, 2), 1.2)}),
    "diagonal": Registered(
        _here("SpectralDiagonal"),
        "tau",
        {"diagonal:tau=1": Look(2, (6, 1.5, 1.2, 1.5), 1.5), "diagonal:tau=-1": Look(4, (1.2, 1.2), 1.7)},
    ),
}


def parse(text: str) -> Regime:
    """The regime called `text`: network, network:loss=cross-entropy, sampled, averaged, diagonal (τ = 1) or
    diagonal:tau=VALUE."""
    kind, _, rest = text.partition(":")
    if kind in REGIMES:
        registered, (key, _, value) = REGIMES[kind], rest.partition("=")
        if not rest:
            return registered.load()()
        try:
            if key == registered.parameter and value:
                return registered.load()(**{key: value if key == "loss" else float(value)})
        except ValueError:
            pass
    raise InputError(f"regime: expected network, sampled, averaged or diagonal:tau=NUMBER; got {text!r}")


def parse_several(texts: Sequence[str]) -> list[Regime]:
    """Those called `texts`; InputError as `parse`, and where one is twice."""
    found = [parse(text) for text in texts]
    names = [regime.name for regime in found]
    if len(set(names)) < len(names):
        raise InputError(f"regime: expected different ones, got {', '.join(names)}")
    return found


def look(name: str) -> Look | None:
    """The look that the regime called `name` has of its own."""
    kind = name.partition(":")[0]
    return REGIMES[kind].looks.get(name) if kind in REGIMES else None
