"""Numbers as text."""

from sgdsim.common.text import estimate


def test_an_estimate_whose_ends_json_cannot_hold():
    assert estimate({"value": 1.5, "low": 0.25, "high": 2.0}, ".2f", ".3g") == ("1.50", "0.25", "2")
    assert estimate({"value": None, "low": None, "high": None}, ".2f") == ("undetermined", "-∞", "∞")
