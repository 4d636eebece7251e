"""What every run offers, whatever follows it: the four regimes, and the theory where it steps the recurrence."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class Run(ABC):
    """One algorithm on one problem, under way: all that changes from step to step. `Regime.start` makes it.

    `advance` takes many steps at once: the driver owns recording, progress and divergence, the run owns the loop.
    How it is cut into calls of `advance` never changes its numbers.
    """

    @abstractmethod
    def advance(self, start: int, stop: int) -> None:
        """Take the steps start..stop-1 in place."""

    @abstractmethod
    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The present quantities named in `what`: "loss" (always there) and "test_loss" (R,), "moments" c_k (R, modes)
        of the R replicates in the run (1 if deterministic)."""

    def keep(self, replicates: np.ndarray) -> bool:
        """Follow from now on only these `replicates`, by their places in the run: the others have diverged. False,
        and nothing done, where all are carried on."""
        return False

    def report(self) -> dict[str, float]:
        """What the run says about itself in the end, such as "error_estimate" (see `sgdsim.runs.results.REPORTED`)."""
        return {}
