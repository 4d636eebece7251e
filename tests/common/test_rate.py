"""Seconds of a unit of work, from a first part that cost more than what follows."""

import pytest

from sgdsim.common.rate import Rate


def test_an_even_pace_is_known_after_a_little_work():
    rate = Rate()
    for _ in range(15):
        rate.add(0.125, 1)
        assert rate.each is None
    for _ in range(10):
        rate.add(0.125, 1)
    assert rate.each == pytest.approx(0.125)


@pytest.mark.parametrize("first", [0.5, 6.3, 40.0])
def test_what_the_first_unit_cost_is_never_carried_over(first):
    rate = Rate()
    rate.add(first, 1)
    seen = []
    while rate.count < 20_000:
        rate.add(0.01, 1)
        seen += [] if rate.each is None else [rate.each]
    assert max(seen) <= 0.02
    assert seen[-1] == pytest.approx(0.01, rel=1e-6)


def test_a_pace_that_changes_is_not_known_until_it_has_settled():
    rate = Rate()
    for _ in range(100):
        rate.add(0.1, 1)
    assert rate.each == pytest.approx(0.1)
    while rate.seconds < 20:
        rate.add(1.0, 1)
    assert rate.each is None
    while rate.seconds < 100:
        rate.add(1.0, 1)
    assert rate.each == pytest.approx(1.0)


def test_time_without_a_unit_is_no_pace():
    rate = Rate()
    for _ in range(100):
        rate.add(1.0, 0)
    assert rate.each is None
