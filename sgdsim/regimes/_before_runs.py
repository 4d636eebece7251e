"""Regimes written for sgdsim 0.1, whose methods are handed a state in place of a `Run`: for one release more."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from sgdsim.recurrence.run import Run


class _Adapted(Run):
    def __init__(self, regime: Any, state: object) -> None:
        self.regime, self.state = regime, state

    def advance(self, start: int, stop: int) -> None:
        self.regime.advance(self.state, start, stop)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        return self.regime.observe(self.state, what)

    def keep(self, replicates: np.ndarray) -> bool:
        return hasattr(self.regime, "keep") and self.regime.keep(self.state, replicates)

    def report(self) -> dict[str, float]:
        return self.regime.report(self.state) if hasattr(self.regime, "report") else {}


def adapted(regime: Any, *arguments: object, **options: object) -> Run:
    """The run of a regime that has `init` in place of `start`; NotImplementedError where it has neither."""
    if not hasattr(regime, "init"):
        raise NotImplementedError(f"the {regime.name} regime: expected a method `start`, got none")
    warnings.warn(
        f"the {regime.name} regime: init, advance and observe with a state are now a `Run` that `start` returns; they "
        "work for one release more",
        DeprecationWarning,
        stacklevel=3,
    )
    return _Adapted(regime, regime.init(*arguments, **options))
