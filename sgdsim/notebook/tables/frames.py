"""The frame that every table is."""

from __future__ import annotations

import pandas as pd

_SHOWN = ("display.max_colwidth", None, "display.float_format", "{:.4g}".format)


class Frame(pd.DataFrame):
    """A frame that is shown with four digits and whole texts; otherwise a frame like any other."""

    @property
    def _constructor(self) -> type[Frame]:
        return Frame

    def _repr_html_(self) -> str | None:
        with pd.option_context(*_SHOWN):
            return super()._repr_html_()

    def __repr__(self) -> str:
        with pd.option_context(*_SHOWN):
            return self.to_string()
