"""Values as JSON holds them."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

from sgdsim.algorithm.schedules import Power
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.jsonable import finite_or_none, jsonable


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


@dataclass(frozen=True)
class Held:
    loss: float
    steps: np.ndarray


def test_a_value_with_all_that_is_in_it():
    sgd = SGD(Power(1.0, 0.5), batch_size=3)
    held = {1.0: Held(math.inf, np.array([[1, 2]])), -0.5: (np.float64("nan"), np.int64(3), None), 2: np.bool_(True)}
    plain = jsonable({"held": held, "sgd": sgd, "lr": sgd.lr, "text": "a", "flags": [True, np.array([0.5, np.inf])]})
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain == {
        "held": {"1": {"loss": None, "steps": [[1, 2]]}, "-0.5": [None, 3, None], "2": True},
        "sgd": sgd.spec(),
        "lr": sgd.lr.spec,
        "text": "a",
        "flags": [True, [0.5, None]],
    }
    assert type(plain["held"]["2"]) is bool
