"""The solver's proofs: all hold, none is empty, and what is false comes back as a counterexample."""

import dataclasses
import json
import signal
import sys
import threading

import numpy as np
import pytest
import sympy as sp
import z3

from sgdsim import cli
from sgdsim.common.checks import InputError
from sgdsim.symbolic import prove
from sgdsim.symbolic.algebra import BETA, METHODS, G, X, Z
from sgdsim.symbolic.derive import derive

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
    wider = dataclasses.replace(claim, statement=sp.And(*claim.control), lemmas=())
    assert prove.check(wider).answer.verdict == prove.PROVED
    nothing = dataclasses.replace(
        claim, statement=sp.Gt(X, 10**9), lemmas=()
    )  # false wherever the domain has a point of its own
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


def hard_claim():
    """Directly in g the Nesterov bound takes the solver minutes; that is why the claim is in σ."""
    claim, d = of("nesterov", "sufficient"), derive("nesterov")
    domain = (*claim.domain[:-1], G < 0, sp.expand(d.bound) > 0)
    return dataclasses.replace(claim, domain=domain, statement=d.S > 0, lemmas=())


def test_too_little_effort_is_unknown_and_not_a_pass():
    """The limit is z3's own count, so that it ends at the same point each time."""
    claim = hard_claim()
    results = [prove.check(claim, effort=20_000) for _ in range(3)]
    assert [r.answer.verdict for r in results] == [prove.UNKNOWN] * 3
    assert not any(r.ok for r in results)
    assert len({r.answer.effort for r in results}) == 1
    assert 20_000 <= results[0].answer.effort < 40_000 <= prove.check(claim, effort=40_000).answer.effort < 60_000
    assert results[0].answer.values is None


def test_no_wall_time_unless_asked(monkeypatch):
    """Nothing that a busy machine could spend is set on the solver, but for `timeout`."""
    told = []
    setting = z3.Solver.set
    monkeypatch.setattr(z3.Solver, "set", lambda self, *args: (told.append(args), setting(self, *args))[1])
    claim = of("heavy-ball", "u > 0")
    prove.check(claim)
    assert told == [("rlimit", prove.EFFORT)] * 2
    told.clear()
    prove.check(claim, timeout=2)
    assert told == [("rlimit", prove.EFFORT), ("timeout", 2000)] * 2


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.method}: {claim.name}")
def test_every_claim_takes_less_than_a_tenth_of_the_effort(claim):
    """Counted alike on every machine, and whatever was asked before."""
    few, many = (prove.check(claim, effort) for effort in (prove.EFFORT // 10, prove.EFFORT))
    assert few.ok
    assert (few.answer.effort, few.control.effort) == (many.answer.effort, many.control.effort)
    assert few.answer.values == many.answer.values


@pytest.mark.parametrize("method", METHODS)
def test_lemmas_imply_the_claim(method):
    """Linear in σ: the end σ = 0 and the slope; and not without one of them, or with more than they are about."""
    claim = of(method, "sufficient")
    assert prove.follows(claim)
    assert set(claim.lemmas) <= set(prove.claims(method))  # shown, and checked, on their own
    end, slope = claim.lemmas
    assert sp.expand(_left(end) + prove.SIGMA * _left(slope) - _left(claim)) == 0
    below = dataclasses.replace(end, domain=(*end.domain, X < 1))  # a case that leaves x ≥ 1 out
    square = dataclasses.replace(slope, statement=sp.expand(_left(slope) + prove.SIGMA) > 0)
    broken = [
        {"lemmas": (end,)},
        {"lemmas": (slope,)},
        {"lemmas": ()},
        {"lemmas": (below, slope)},
        {"lemmas": (dataclasses.replace(end, statement=_left(end) >= 0), slope)},
        {"lemmas": (dataclasses.replace(end, statement=_left(end) > -1), slope)},
        {"domain": claim.domain[:-1]},
        {"domain": (*claim.domain[:-1], prove.SIGMA > -1)},
        {"domain": claim.domain[1:]},
        {"domain": (*claim.domain, prove.SIGMA < X)},
        {"statement": _left(claim) > 1},
        {"statement": sp.expand(_left(claim) - 1) > 0},
        {"statement": sp.expand(_left(claim) + prove.SIGMA**2) > 0, "lemmas": (end, slope, square)},
    ]
    for change in broken:
        assert not prove.follows(dataclasses.replace(claim, **change)), change
    one_case = prove.check(dataclasses.replace(claim, lemmas=(end,)))
    assert (one_case.answer.verdict, one_case.ok) == (prove.UNKNOWN, False)


def _left(claim):
    return claim.statement.lhs - claim.statement.rhs


def test_a_lemma_that_is_not_shown_carries_nothing():
    """A lemma that fails, or whose control does not, leaves the claim undecided."""
    claim = of("nesterov", "sufficient")
    end, slope = claim.lemmas
    for bad in (dataclasses.replace(end, control=end.domain), dataclasses.replace(end, domain=end.control)):
        assert prove.check(dataclasses.replace(claim, lemmas=(bad, slope))).answer.verdict == prove.UNKNOWN
    few = prove.check(claim, effort=5_000)
    assert (few.answer.verdict, few.ok) == (prove.UNKNOWN, False)


def test_ctrl_c_stops_the_solver(monkeypatch):
    """z3 takes the signal for itself and answers "unknown": no verdict comes of that, and no other claim is begun."""
    asked, claim = [], dataclasses.replace(hard_claim(), control=hard_claim().domain)
    check = z3.Solver.check

    def interrupted(self):
        asked.append(self)
        threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        return check(self)

    monkeypatch.setattr(z3.Solver, "check", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prove.prove([claim, CLAIMS[0]], effort=2**32 - 1, timeout=900)
    assert len(asked) == 1


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
    assert 0 < row["effort"] < prove.EFFORT
    assert [r["follows_from"] for r in document["rows"] if "follows_from" in r] == [
        ["S > 0 at σ = 0", "S increases with σ"]
    ]
    values = {sp.Symbol(name, real=True): sp.Rational(value) for name, value in row["control"]["values"].items()}
    assert derive().S.subs(values) <= 0


def test_bad_input_is_one_line(monkeypatch, capsys):
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="timeout: expected"):
            prove.check(CLAIMS[0], timeout=timeout)
    for effort in (0, -1, 1.5, 2**32, float("nan")):
        with pytest.raises(InputError, match="effort: expected an integer from 1 to 4294967295"):
            prove.check(CLAIMS[0], effort)
    assert cli.main(["theory", "prove", "--effort", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="method: expected one of heavy-ball, nesterov"):
        prove.claims("adam")
    monkeypatch.setitem(sys.modules, "z3", None)
    assert cli.main(["theory", "prove"]) == 2
    assert capsys.readouterr().err == (
        "sgdsim theory: error: prove: expected the package z3-solver, got an installation without it; "
        "try: pip install 'sgdsim[proofs]'\n"
    )
