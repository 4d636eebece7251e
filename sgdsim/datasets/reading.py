"""How data of one's own are to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgdsim.common.checks import InputError, choice

MISSING = ("refuse", "drop", "mean")


@dataclass(frozen=True)
class Reading:
    """What `load_file` is told of targets, inputs and values; see there. InputError for another `missing`."""

    target: str | Sequence[str] | None = None
    features: Sequence[str] | None = None
    missing: str = "refuse"
    tokens: bool = False
    categorical: Sequence[str] = ()

    def __post_init__(self) -> None:
        choice("missing", self.missing, MISSING)

    @property
    def one_target(self) -> str | None:
        """The target where it is one name; None where there are several, or none."""
        if self.target is None or isinstance(self.target, str):
            return self.target
        return self.target[0] if len(self.target) == 1 else None

    def check_no_columns(self, source: str) -> None:
        """InputError where columns are named of what has none."""
        if self.categorical:
            raise InputError(f"categorical: expected none for {source}, which is no table with names of columns")
