"""Positivity and monotonicity of the generating functions, decided over the reals by an SMT solver (z3).

Each claim is a polynomial inequality on a domain of polynomial inequalities, built from the expressions that
`sgdsim.symbolic.derive` derives, never retyped. The solver looks for a point of the domain where the statement fails:
none exists ("proved"), here is one ("counterexample"), or it gave up ("unknown", which is not a pass). So that a proof
cannot be empty, each claim has a control: a wider domain on which a counterexample must be found.

How long the solver may try is counted in its own resource units, which are the same on every machine and under any
load: so is the verdict. What takes it long is split into lemmas, claims of their own; `follows` checks by exact algebra
that they imply the whole.

Together the claims give the stability criterion of [VKY] (thm. 1) for both kinds of momentum: where the mean converges,
`S_k > 0` on 0 < z ≤ 1 iff it is positive at z = 1, for any g = γτ; u, v > 0, and zŨ increases with z. So s̃ has no
pole up to z = 1 iff all `S_k(1) > 0` and Ũ(1) < 1; and as second moments are not negative if τ ≤ 1, a power series
of theirs without a singularity on (0, 1] converges beyond 1 (Pringsheim).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import sympy as sp

from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.symbolic.algebra import BETA, G, X, Z
from sgdsim.symbolic.derive import METHODS, Derivation, derive

if TYPE_CHECKING:
    import z3

PROVED, COUNTEREXAMPLE, UNKNOWN = "proved", "counterexample", "unknown"
SIGMA = sp.Symbol("sigma", real=True)  # S at z = 1
#: z3's resource units for one query. The hardest one takes 0.51 million (z3 5.0; another one 0.56 million with 4.13).
EFFORT = 10_000_000


@dataclasses.dataclass(frozen=True)
class Claim:
    """`statement` holds wherever all of `domain` does, and fails somewhere on `control`; sympy inequalities.

    With `lemmas` it is not put to the solver (its control is): it `follows` from them, each a claim of its own.
    """

    method: str
    name: str
    domain: tuple[sp.Basic, ...]
    statement: sp.Basic
    control: tuple[sp.Basic, ...]
    lemmas: tuple[Claim, ...] = ()


@dataclasses.dataclass(frozen=True)
class Answer:
    """`verdict` (if TYPE_CHECKING:
        import z3

    PROVED, COUNTEREXAMPLE or UNKNOWN), `seconds`, the resource units that the solver spent (`effort`),
        and the rational `values` of a counterexample."""

    verdict: str
    seconds: float
    effort: int
    values: dict[sp.Symbol, sp.Rational] | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """A claim with the answers on its domain and on its control."""

    claim: Claim
    answer: Answer
    control: Answer

    @property
    def ok(self) -> bool:
        """Proved, and the control came back with a counterexample."""
        return self.answer.verdict == PROVED and self.control.verdict == COUNTEREXAMPLE


def claims(method: str) -> list[Claim]:
    """The facts about "heavy-ball" or "nesterov" momentum; 0 < x, −1 < β < 1 in all of them."""
    d = derive(choice("method", method, METHODS))
    s, u, v, bound = (sp.expand(e) for e in (d.S, d.u, d.v, d.bound))
    mode, beyond = (BETA > -1, BETA < 1, X > 0), (BETA > -2, BETA < 1, X > 0)
    mean = (*mode, *(sp.expand(e) > 0 for e in d.full_batch))
    inside, up_to_one = (*mean, Z > 0, Z < 1), (Z > 0, Z <= 1)
    facts = [
        ("S > 0 for every g ≥ 0", (*inside, G >= 0), s > 0, (*inside, G >= -1)),
        *_sufficient(method, _at_sigma(s, u), inside, (*beyond, Z > 0, Z < 1)),
        (
            "S(z=1) ≤ 0 where the bound on x is violated: necessary",
            (*mean, bound <= 0),
            sp.expand(s.subs(Z, 1)) <= 0,
            (*mean, bound <= 1),
        ),
        ("u > 0: each mode adds to Ũ", mean + up_to_one, u > 0, beyond + up_to_one),
        ("v > 0: each mode adds to Ṽ", mean + up_to_one, v > 0, mode + up_to_one),
        ("zŨ increases with z", mean + up_to_one, sp.expand(d.monotonicity) > 0, mode + up_to_one),
        ("Ũ(1) increases with the learning rate", mean, _growth(d) > 0, beyond),
    ]
    if method == "heavy-ball":  # here also in the form usually quoted; for Nesterov the solver needs σ instead of g
        negative = (*inside, G >= -1, G < 0)
        facts.insert(1, ("S > 0 for −1 ≤ g < 0 where the bound on x holds", (*negative, bound > 0), s > 0, negative))
        facts.append(_pairs())
    return [Claim(method, *fact) for fact in facts + _full_batch(method, mode, sp.And(*mean[len(mode) :]))]


def _pairs() -> tuple[str, tuple[sp.Basic, ...], sp.Basic, tuple[sp.Basic, ...]]:
    """What, with S > 0, makes the responses of pairs of modes a positive kernel (`sgdsim.theory.renewal`): in their
    determinant `F(a) + F(b) − Cab`, a = 1 + β − x, C is not negative. Here g is γ itself."""
    coefficient = sp.expand(Z * (1 + BETA**2 * Z**2) - G * Z * (1 - BETA**2 * Z**2))
    domain = (BETA > -1, BETA < 1, Z > 0, Z <= 1, G >= 0)
    return (
        "C ≥ 0 for every 0 ≤ γ ≤ 1: pairs of modes are a positive kernel",
        (*domain, G <= 1),
        coefficient >= 0,
        domain,
    )


def _sufficient(method: str, s: sp.Expr, inside: tuple[sp.Basic, ...], wider: tuple[sp.Basic, ...]) -> list[tuple]:
    """S > 0 for all σ > 0, given `_at_sigma`: at once it takes z3 seconds, by its two lemmas hundredths."""
    lemmas = [
        ("S > 0 at σ = 0", inside, s.subs(SIGMA, 0) > 0, wider),
        ("S increases with σ", inside, sp.diff(s, SIGMA) > 0, wider),
    ]
    name, control = "S > 0 for every g with σ = S(z=1) > 0: sufficient", (*inside, SIGMA > -1)
    return [*lemmas, (name, (*inside, SIGMA > 0), s > 0, control, tuple(Claim(method, *lemma) for lemma in lemmas))]


def _full_batch(method: str, mode: tuple[sp.Basic, ...], mean: sp.Basic) -> list[tuple]:
    """The learning rates at which the mean converges, as explicit limits."""
    if method == "heavy-ball":
        domain, wider = ((*mode, factor * (1 + BETA) > X) for factor in (2, 3))
        return [("the mean converges for x < 2(1+β)", domain, mean, wider)]
    # Two conditions meet at the largest limit of all, x = 4 at β = −1/3.
    right, left = (*mode, X * (1 + 2 * BETA) < 2 * (1 + BETA)), (*mode, -BETA * X < 1 - BETA)
    return [
        ("the mean converges for β ≥ −1/3, x < 2(1+β)/(1+2β)", (*right, 3 * BETA >= -1), mean, right),
        ("the mean converges for β < −1/3, x < 1 + 1/|β|", (*left, 3 * BETA < -1), mean, left),
    ]


def _at_sigma(s: sp.Expr, u: sp.Expr) -> sp.Expr:
    """`S·u(z=1)` with g, in which S is linear, expressed by sigma = S(z=1)."""
    (g,) = sp.solve(sp.Eq(s.subs(Z, 1), SIGMA), G)
    return sp.expand(sp.cancel(s.subs(G, g) * u.subs(Z, 1)))


def _growth(d: Derivation) -> sp.Expr:
    """Numerator of dŨ_k(1)/dx; its denominator is a square, and g cancels."""
    numerator, denominator = sp.fraction(sp.cancel(d.noise_at_one))
    return sp.expand(sp.diff(numerator, X) * denominator - numerator * sp.diff(denominator, X))


def check(claim: Claim, effort: int = EFFORT, timeout: float | None = None) -> Result:
    """Decide a claim and its control, with at most `effort` of the solver's resource units each.

    Verdicts depend on `effort` alone, unless `timeout` also sets the most seconds for each, whatever the load. Raises
    InputError if z3 is not installed, and for what is not positive.
    """
    most = integer("effort", effort, minimum=1, maximum=2**32 - 1)
    if timeout is not None:
        number("timeout", timeout, minimum=0, open_ends=True)
    control = _decide(claim.control, claim.statement, most, timeout)
    if not claim.lemmas:
        return Result(claim, _decide(claim.domain, claim.statement, most, timeout), control)
    results = [check(lemma, most, timeout) for lemma in claim.lemmas]
    verdict = PROVED if follows(claim) and all(result.ok for result in results) else UNKNOWN
    seconds, spent = (sum(getattr(r.answer, name) for r in results) for name in ("seconds", "effort"))
    return Result(claim, Answer(verdict, seconds, spent), control)


def follows(claim: Claim) -> bool:
    """Whether `P > 0` follows from the claim's lemmas, by exact algebra: the domain is σ > 0 and one without σ, in
    which the lemmas hold; P is linear in σ; and the lemmas say that it is > 0 at σ = 0, and so is its slope."""
    above, whole = sp.Gt(SIGMA, 0), _positive(claim.statement)
    rest = [relation for relation in claim.domain if relation != above]
    if whole is None or above not in claim.domain or any(SIGMA in relation.free_symbols for relation in rest):
        return False
    shown = [_positive(lemma.statement) for lemma in claim.lemmas if set(lemma.domain) <= set(rest)]
    least, slope = whole.subs(SIGMA, 0), sp.expand(sp.diff(whole, SIGMA))
    return SIGMA not in slope.free_symbols and least in shown and slope in shown


def _positive(statement: sp.Basic) -> sp.Expr | None:
    """P, expanded, of a statement `P > 0`; None if it is of another kind."""
    return sp.expand(statement.lhs - statement.rhs) if isinstance(statement, sp.StrictGreaterThan) else None


def prove(which: Iterable[Claim] | None = None, effort: int = EFFORT, timeout: float | None = None) -> list[Result]:
    """`check` each claim; by default all of both methods."""
    if which is None:
        which = [claim for method in METHODS for claim in claims(method)]
    return [check(claim, effort, timeout) for claim in which]


def holds_at(relations: Iterable[sp.Basic], values: dict[sp.Symbol, sp.Rational]) -> bool:
    """Whether all relations hold, by exact substitution of rational numbers."""
    return all(relation.subs(values) == sp.true for relation in relations)


def _decide(domain: tuple[sp.Basic, ...], statement: sp.Basic, effort: int, timeout: float | None) -> Answer:
    z3 = _solver_package()
    start = time.perf_counter()
    symbols = sorted(set().union(*(relation.free_symbols for relation in (*domain, statement))), key=str)
    context = z3.Context()  # its own: resources are counted from 0, whatever was asked before
    variables = {symbol: z3.Real(symbol.name, context) for symbol in symbols}
    solver = z3.Tactic("qfnra-nlsat", ctx=context).solver()
    solver.set("rlimit", effort)
    if timeout is not None:
        solver.set("timeout", min(max(1, int(1000 * timeout)), 2**32 - 1))
    solver.add(*(to_z3(relation, variables) for relation in domain), z3.Not(to_z3(statement, variables)))
    outcome = solver.check()
    spent = int(solver.statistics().get_key_value("rlimit count"))
    if outcome == z3.unknown and "interrupted" in solver.reason_unknown():  # z3 has taken the signal for itself
        raise KeyboardInterrupt
    verdict, values = UNKNOWN, None
    if outcome == z3.unsat:
        verdict = PROVED
    elif outcome == z3.sat:
        values = _rational_point(solver.model(), variables, domain, statement)
        verdict = COUNTEREXAMPLE if values is not None else UNKNOWN
    return Answer(verdict, time.perf_counter() - start, spent, values)


def _rational_point(model: Any, variables: dict, domain: tuple, statement: sp.Basic) -> dict | None:
    """The solver's point, or a rational point beside it, where the statement fails by exact arithmetic."""
    for digits in (3, 10, 30):
        values = {}
        for symbol, variable in variables.items():
            value = model.eval(variable, model_completion=True)
            if hasattr(value, "approx"):  # an algebraic number
                value = value.approx(digits)
            values[symbol] = sp.Rational(value.numerator_as_long(), value.denominator_as_long())
        if holds_at(domain, values) and statement.subs(values) == sp.false:
            return values
    return None


def to_z3(expression: sp.Basic, variables: dict[sp.Symbol, z3.ArithRef]) -> z3.ExprRef:
    """A polynomial with rational coefficients, or an inequality (or conjunction) of such, as a z3 expression."""
    solver = _solver_package()
    context = next((variable.ctx for variable in variables.values()), None)

    def convert(e: sp.Basic) -> Any:
        if e in variables:
            return variables[e]
        if e.is_Rational:
            return solver.RealVal(str(e), context)
        if isinstance(e, sp.And):
            return solver.And(*map(convert, e.args))
        if isinstance(e, sp.core.relational.Relational):
            left, right = map(convert, e.args)
            compare = {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right}
            return compare[e.rel_op]
        if e.is_Add:
            return solver.Sum(*map(convert, e.args))
        if e.is_Mul:
            return solver.Product(*map(convert, e.args))
        if e.is_Pow and e.exp.is_Integer and e.exp > 0:
            return solver.Product(*[convert(e.base)] * int(e.exp))
        raise ValueError(f"not a polynomial inequality: {e}")

    return convert(expression)


def _solver_package() -> Any:
    try:
        import z3
    except ImportError:
        raise InputError(
            "prove: expected the package z3-solver, got an installation without it; try: pip install 'sgdsim[proofs]'"
        ) from None
    return z3
