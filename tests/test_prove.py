"""The solver's proofs: all hold, none is empty, and what is false comes back as a counterexample."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import sympy as sp
import z3

from sgdsim import cli
from sgdsim.checks import InputError
from sgdsim.theory import prove
from sgdsim.theory._algebra import BETA, METHODS, G, X, Z
from sgdsim.theory.derive import derive

HALF = sp.Rational(1, 2)
CLAIMS = [claim for method in METHODS for claim in prove.claims(method)]


def of(method, words):
    (claim,) = (claim for claim in CLAIMS if claim.method == method and words in claim.name)
    return claim


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.method}: {claim.name}")
def test_claim_is_proved_and_its_control_refuted(claim):
    result = prove.check(claim)
    assert result.answer.verdict == prove.PROVED
    assert result.answer.values is None
    assert result.control.verdict == prove.COUNTEREXAMPLE
    values = result.control.values
    assert set(values) == set().union(*(r.free_symbols for r in (*claim.control, claim.statement)))
    assert all(value.is_Rational for value in values.values())
    assert all(relation.subs(values) == sp.true for relation in claim.control)
    assert claim.statement.subs(values) == sp.false
    assert not prove.holds_at(claim.domain, values)
    assert result.ok


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.method}: {claim.name}")
def test_control_is_wider_and_the_domain_not_empty(claim):
    assert prove.check(dataclasses.replace(claim, statement=sp.And(*claim.control))).answer.verdict == prove.PROVED
    nothing = dataclasses.replace(claim, statement=sp.Gt(X, 10**9))  # false wherever the domain has a point of its own
    assert prove.check(nothing).answer.verdict == prove.COUNTEREXAMPLE


def test_known_counterexample_at_negative_g():
    """x = 3/2, β = 0, g = −7/8, z = 1/2 is in the domain in which S > 0 was once claimed."""
    claim = of("heavy-ball", "for every g ≥ 0")
    point = {X: 3 * HALF, BETA: sp.S.Zero, G: sp.Rational(-7, 8), Z: HALF}
    assert prove.holds_at(claim.control, point)
    assert claim.statement.subs(point) == sp.false
    assert derive().S.subs(point) < 0


def test_the_bound_for_heavy_ball_is_the_quoted_one():
    claim = of("heavy-ball", "−1 ≤ g < 0")
    bound = claim.domain[-1]
    quoted = 2 * (1 - BETA**2) - X * ((1 - G) - BETA * (1 + G))
    assert sp.expand(bound.lhs - bound.rhs - quoted) == 0


@pytest.mark.parametrize("method", METHODS)
def test_sigma_stands_for_any_g(method):
    """At g with S(z=1) = σ the statement about σ is that about S, times u(z=1) > 0."""
    d, claim = derive(method), of(method, "sufficient")
    statement = claim.statement.lhs - claim.statement.rhs
    expected = d.S * d.u.subs(Z, 1)
    assert sp.expand(statement.subs(prove.SIGMA, d.S.subs(Z, 1)) - expected) == 0


def test_larger_domains_of_negative_g_are_refuted_for_nesterov_too():
    claim = of("nesterov", "for every g ≥ 0")
    negative = dataclasses.replace(claim, domain=(*claim.control, G < 0))
    answer = prove.check(negative).answer
    assert answer.verdict == prove.COUNTEREXAMPLE
    assert answer.values[G] < 0


def false_claim():
    """u = 1 + βz > 1 fails for β ≤ 0."""
    domain = (BETA > -1, BETA < 1, Z > 0, Z < 1)
    return prove.Claim("heavy-ball", "false on purpose", domain, sp.expand(derive().u) > 1, domain)


def test_false_claim_comes_back_and_fails_the_command(monkeypatch, capsys):
    result = prove.check(false_claim())
    assert result.answer.verdict == prove.COUNTEREXAMPLE
    assert result.answer.values[BETA] <= 0
    assert not result.ok
    true = of("heavy-ball", "u > 0")
    monkeypatch.setattr(prove, "claims", lambda method: [true, false_claim()])
    assert cli.main(["theory", "prove", "--method", "heavy-ball"]) == 1
    text = capsys.readouterr().out
    assert "ok   heavy-ball: u > 0: each mode adds to Ũ" in text
    assert "FAIL heavy-ball: false on purpose" in text
    assert "1 of 2 proved" in text


def test_control_that_holds_is_a_failure():
    """A control that cannot fail shows nothing about the proof."""
    claim = of("heavy-ball", "u > 0")
    result = prove.check(dataclasses.replace(claim, control=claim.domain))
    assert (result.answer.verdict, result.control.verdict, result.ok) == (prove.PROVED, prove.PROVED, False)


def test_no_time_is_unknown_and_not_a_pass():
    """Directly in g the Nesterov bound is beyond the solver; that is why the claim is in σ."""
    claim, d = of("nesterov", "sufficient"), derive("nesterov")
    hard = dataclasses.replace(claim, domain=(*claim.domain[:-1], G < 0, sp.expand(d.bound) > 0), statement=d.S > 0)
    result = prove.check(hard, timeout=0.2)
    assert result.answer.verdict == prove.UNKNOWN
    assert not result.ok


def test_irrational_points_are_replaced_by_rational_ones():
    x = sp.Symbol("x", real=True)
    claim = prove.Claim("", "", (x > 1, x**2 < 3), x**2 < 2, (x > 1,))
    result = prove.check(claim)
    assert result.answer.verdict == prove.COUNTEREXAMPLE
    assert result.answer.values[x].is_Rational
    assert 2 <= result.answer.values[x] ** 2 < 3
    pinned = prove.Claim("", "", (x > 0, x**2 >= 2, x**2 <= 2), x < 1, (x > 0,))  # only √2, which no fraction is
    assert prove.check(pinned).answer.verdict == prove.UNKNOWN


def test_what_is_no_polynomial_is_refused():
    x = sp.Symbol("x", real=True)
    with pytest.raises(ValueError, match="not a polynomial inequality"):
        prove.check(prove.Claim("", "", (x > 1,), sp.sin(x) > 0, (x > 0,)))


def test_translation_means_the_same():
    """Every inequality, at points on both sides of it, by z3's own arithmetic."""
    rng = np.random.default_rng(0)
    seen = set()
    for relation in {r for claim in CLAIMS for r in (*claim.domain, *claim.control, claim.statement)}:
        variables = {symbol: z3.Real(symbol.name) for symbol in relation.free_symbols}
        translated = prove.to_z3(relation, variables)
        for _ in range(10):
            values = {symbol: sp.Rational(int(rng.integers(-40, 41)), 8) for symbol in variables}
            pairs = [(variables[symbol], z3.RealVal(str(value))) for symbol, value in values.items()]
            told = z3.is_true(z3.simplify(z3.substitute(translated, *pairs)))
            assert told == (relation.subs(values) == sp.true)
            seen.add(told)
    assert seen == {True, False}


def test_json(capsys):
    assert cli.main(["theory", "prove", "--method", "heavy-ball", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert len(document["rows"]) == len(prove.claims("heavy-ball"))
    row = document["rows"][0]
    assert row["verdict"] == "proved"
    values = {sp.Symbol(name, real=True): sp.Rational(value) for name, value in row["control"]["values"].items()}
    assert derive().S.subs(values) <= 0


def test_bad_input_is_one_line(monkeypatch, capsys):
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="timeout: expected"):
            prove.check(CLAIMS[0], timeout)
    with pytest.raises(InputError, match="method: expected one of heavy-ball, nesterov"):
        prove.claims("adam")
    monkeypatch.setitem(sys.modules, "z3", None)
    assert cli.main(["theory", "prove"]) == 2
    assert capsys.readouterr().err == (
        "sgdsim theory: error: prove: expected the package z3-solver, got an installation without it; "
        "try: pip install 'sgdsim[proofs]'\n"
    )
