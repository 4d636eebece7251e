"""Numbers as text."""

import pytest

from sgdsim.common.text import duration, estimate

YEAR = 31557600


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3 * YEAR, "3 years"), (7200, "2 hours"), (86400, "1 day"),
     (0.0051, "less than a second"), (9.96, "10 s"), (300 * 86400, "300 days"),
     (120, "2 minutes"),
     (66, "1.1 minutes"), (60, "1 minute"), (1, "1 s")],
)  # fmt: skip
def test_durations_in_words(seconds, text):
    assert duration(seconds) == text


def test_an_estimate_whose_ends_json_cannot_hold():
    assert estimate({"value": 1.5, "low": 0.25, "high": 2.0}, ".2f", ".3g") == ("1.50", "0.25", "2")
    assert estimate({"value": None, "low": None, "high": None}, ".2f") == ("undetermined", "-∞", "∞")
