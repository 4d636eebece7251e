"""The table of stable rates beside the theory that it is made of."""

import pytest

import sgdsim as ss
from sgdsim.studies.stable_rates import stable_rates
from sgdsim.theory import stability


def test_limits_are_those_of_theory(tiny):
    algorithms = [ss.SGD(1.0, momentum, size) for size in (1, 3) for momentum in (0.0, 0.5)]
    found = stable_rates(tiny, algorithms, [1.0, 1.5], exact=True)
    assert len(found.rows) == 8
    for row in found.rows:
        sgd = ss.SGD(1.0, row.momentum, row.batch_size)
        assert row.spectral_diagonal == stability.max_lr(tiny, sgd, tau=row.tau)
        assert row.exact == stability.max_lr(tiny, sgd, "exact")
        assert row.surely_stable <= row.exact * (1 + 1e-6)
        assert (row.note is not None) == (row.tau > 1)
    products = [entry.effective_lr * entry.noise * entry.critical_eigenvalue for entry in found.critical]
    assert products == pytest.approx([2.0] * 4, rel=1e-12)
    assert found.table().headers[-2:] == ["surely stable", "exact"]
    assert stable_rates(tiny, algorithms).table().headers[-1] == "surely stable"


def test_methods_of_their_own_have_no_critical_eigenvalue(tiny):
    found = stable_rates(tiny, [ss.SGD(1.0, 0.5, 3, method="nesterov")])
    assert (found.critical, found.rows[0].surely_stable) == ((), None)
    with pytest.raises(ss.InputError):
        found.plot()
