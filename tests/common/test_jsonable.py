"""Values as JSON holds them."""

import math

import numpy as np
import pytest
import xarray as xr

from sgdsim.common.jsonable import finite_or_none


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.array(np.inf), None])
def test_what_is_not_finite_is_none(value):
    assert finite_or_none(value) is None


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 5e-324, np.float64(0.1), np.float32(0.1), np.array(3), 7, xr.DataArray(2.5)]
)
def test_what_is_finite_is_the_same_number(value):
    plain = finite_or_none(value)
    assert type(plain) is float
    assert plain.hex() == float(value).hex()
