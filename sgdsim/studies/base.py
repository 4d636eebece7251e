"""What the result of every study offers: a dict, a table, a picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import jsonable
from sgdsim.common.shown import Shown
from sgdsim.common.table import Table

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Who draws which result, by the name of its class: `plot` enters its functions here, so that studies need not know it
# and it need not load them.
DRAWERS: dict[str, Callable[..., Figure | Axes]] = {}


class Findings(Shown):
    """A study's result, a frozen dataclass: its fields are the numbers, `table` what a reader sees first of them."""

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON holds it; what is infinite or undefined becomes None."""
        return {name: jsonable(value) for name, value in vars(self).items()}

    def table(self) -> Table:
        """The main numbers; it shows itself in notebooks, `.text()` and `.markdown()` give it as text, `.frame()` as a
        pandas frame."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def plot(self, **options: object) -> Figure | Axes:
        """The picture of `sgdsim.plot` for this result; `options` go to it. InputError where there is none."""
        importlib.import_module("sgdsim.plot")
        name = type(self).__name__
        if name not in DRAWERS:
            raise InputError(f"plot: expected a result with a picture, got {name}; use its table")
        return DRAWERS[name](self, **options)


class OfRuns(Findings):
    """A result of runs, which `data` holds in the schema of `sgdsim.runs.results`."""

    data: xr.Dataset

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended them."""
        return bool(self.data.attrs["interrupted"])
