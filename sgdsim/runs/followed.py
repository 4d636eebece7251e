"""What a result knows of its regimes: stored beside the call, so that nothing is read off their names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from sgdsim.regimes.base import Regime

_ATTRIBUTE = "followed"


class Followed(NamedTuple):
    """A regime: `Regime.kind`, whether its replicates differ, and τ where it has one closure for all cells."""

    kind: str
    stochastic: bool
    tau: float | None


def stored(regimes: Sequence[Regime]) -> dict[str, str]:
    """The attribute."""
    facts = {regime.name: (regime.kind, regime.stochastic, getattr(regime, "tau", None)) for regime in regimes}
    return {_ATTRIBUTE: json.dumps(facts)}


def followed(result: xr.Dataset) -> dict[str, Followed]:
    """The regimes of a result by name, in its order; of a file of an earlier version as their names say."""
    known = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        known = {name: Followed(*facts) for name, facts in json.loads(result.attrs[_ATTRIBUTE]).items()}
    names = [str(name) for name in np.atleast_1d(result["regime"].values)] if "regime" in result.coords else []
    return {name: known.get(name) or _named(name) for name in names}


def _named(name: str) -> Followed:
    kind, _, tau = name.partition(":tau=")
    own = float(tau) if kind == "diagonal" and tau else None
    return Followed(kind.partition(":")[0], kind in ("network", "sampled"), own)
