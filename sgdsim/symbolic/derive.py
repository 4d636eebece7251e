"""The theory of SGD with momentum on a quadratic model, derived from the update rule by computer algebra.

`derive("heavy-ball")` or `derive("nesterov")` starts from the algorithm as it is written, follows the second moments
of one eigenvalue (the recurrence of the spectral-diagonal regime) and returns everything [VKY] state about it:
generating functions, positivity and stability conditions, late-time laws with their constants, and when momentum
helps. Nothing but the update rule is typed in. It takes a few seconds, and loads sympy but nothing else that is large.

x = αλ, g = γτ, `s_t = Σ_k c_k = 2N·L_t`, `s̃(z) = Σ_t s_t z^t = Ṽ/(1 − zŨ)`, `Ũ = γ Σ x_k² u_k/S_k` and
`Ṽ = Σ c_k v_k/S_k`.

[VKY]: Velikanov, Kuznedelev & Yarotsky, ICLR 2023, arXiv:2206.11124.
"""

from __future__ import annotations

import dataclasses
import functools
from fractions import Fraction
from typing import NamedTuple

import sympy as sp

from sgdsim.common.checks import InputError, choice
from sgdsim.symbolic import algebra, asymptotics
from sgdsim.symbolic.algebra import METHODS, G, X, Z, grouped, tidy
from sgdsim.symbolic.asymptotics import GAMMA

TAU = sp.Symbol("tau", real=True)


class Formula(NamedTuple):
    """One line: what it says, its left side in plain text and in LaTeX, the relation, and the right side."""

    key: str
    meaning: str
    left: str
    latex: str
    right: sp.Expr | sp.Matrix
    relation: str = "="


@dataclasses.dataclass(frozen=True)
class Derivation:
    """What follows from one update rule; symbols as in `symbolic.algebra` and `asymptotics`.

    Attributes
    ----------
    mean_map, noise_direction, moments_map : the step of (r, v), where gradient noise enters, and the step of
        (E r², E rv, E v²) in the variables x, β, g.
    S, u, v : polynomials in x, β, g, z; u and v do not contain g, and `S = S(g=0) + g x² z u`.
    at_zero : S at x = 0.
    monotonicity : `S² d(z x² u/S)/dz / x²`; positive where zŨ increases.
    full_batch : positive where the mean converges (|β| < 1, x > 0).
    bound : `S(z=1)/x`; where the mean converges, S > 0 on 0 < z ≤ 1 iff it is positive, for every g.
    noise_at_one, signal_at_one : `Ũ(1) = γ Σ noise_at_one`, `Ṽ(1) = Σ c_k signal_at_one`.
    threshold : d(x) in the stability condition `γ Σ x/d(x) < 1`, as a sum over powers of x.
    noise_floor : s_∞ per unit of additive noise, `Σ_k ε_k noise_floor / (1 − Ũ(1))` with ε_k added to each mode along
        q at every step. Label noise of variance σ² in one pass, `ε_k = γσ²x_k²`, gives `σ²Ũ(1)/(1 − Ũ(1))`.
    floor : the same with W for the sum.
    signal_leading, noise_leading : a mode's v/S and γx²u/S for small x and δ = 1 − z.
    signal_mode, noise_mode : the same as sequences in t.
    signal_law, noise_law : s_t at late times for `λ_k = Λk^(−ν)` and tail sums `A k^(−κ)` of c_k.
    momentum_order, momentum_effect : `∂ⁿ log C/∂βⁿ = α_eff · momentum_effect` of the noise law's constant C at β = 0,
        with n the first order that does not vanish (see `asymptotics.effect_of_momentum`).
    """

    method: str
    mean_map: sp.Matrix
    noise_direction: sp.Matrix
    moments_map: sp.Matrix
    S: sp.Expr
    u: sp.Expr
    v: sp.Expr
    at_zero: sp.Expr
    monotonicity: sp.Expr
    full_batch: tuple[sp.Expr, ...]
    bound: sp.Expr
    noise_at_one: sp.Expr
    signal_at_one: sp.Expr
    threshold: sp.Expr
    noise_floor: sp.Expr
    floor: sp.Expr
    signal_leading: sp.Expr
    noise_leading: sp.Expr
    signal_mode: sp.Expr
    noise_mode: sp.Expr
    signal_law: sp.Expr
    noise_law: sp.Expr
    momentum_order: int
    momentum_effect: sp.Expr

    @property
    def noise_term(self) -> sp.Expr:
        """Share of one mode in Ũ/γ: `x² u/S`."""
        return X**2 * self.u / self.S

    @property
    def signal_term(self) -> sp.Expr:
        """What multiplies c_k in Ṽ: `v/S`."""
        return self.v / self.S

    def at_tau(self, tau: str | float | Fraction | sp.Symbol) -> Derivation:
        """The same with `g = γτ`, for a number (text such as "1/2" or "0.5" is taken exactly) or the symbol TAU."""
        if not isinstance(tau, sp.Symbol):
            try:
                text = str(tau)
                tau = sp.Rational(Fraction(text if "/" in text else repr(float(text))))
            except (ValueError, TypeError, OverflowError, ZeroDivisionError):
                raise InputError(f"tau: expected a number such as 1, -1 or 1/2, got {tau!r}") from None
        changes = {
            field.name: value.subs(G, GAMMA * tau)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), sp.Basic | sp.MatrixBase) and value.has(G)
        }
        return dataclasses.replace(self, **changes)

    def formulas(self) -> list[Formula]:
        """Everything, in the order of the derivation."""
        n = self.momentum_order
        verdict = "momentum helps, and negative momentum iff this is > 0" if n == 1 else "no momentum helps iff > 0"
        mode = "of a mode for small x and δ = 1 − z"
        order = "" if n == 1 else f"^{n}"
        slope = (f"∂{order} log C/∂β{order} / α_eff", rf"\alpha_{{eff}}^{{-1}} \partial_\beta{order} \log C")
        sums = "C_0 = Σc, C_1 = Σc/λ, L_1 = Σλ, L_2 = Σλ²"
        means = [
            Formula(f"full_batch_{i}", "the mean converges, for |β| < 1 and x > 0, where", "0", "0", e, "<")
            for i, e in enumerate(self.full_batch, start=1)
        ]
        return [
            Formula("mean_map", "mean step of (residual, velocity), x = αλ", "R", "R", self.mean_map),
            Formula("noise_direction", "where gradient noise enters", "q", "q", self.noise_direction),
            Formula("S", "det(1 − zA), A the step of the second moments", "S", "S", self.S),
            Formula("u", "noise: Ũ = γ Σ x² u/S", "u", "u", self.u),
            Formula("v", "signal: Ṽ = Σ c v/S", "v", "v", self.v),
            Formula("at_zero", "at λ = 0", "S(x=0)", "S|_{x=0}", self.at_zero),
            Formula(
                "monotonicity",
                "zŨ increases where this is positive",
                "S² ∂(z x² u/S)/∂z / x²",
                r"x^{-2} S^2 \partial_z (z x^2 u/S)",
                self.monotonicity,
            ),
            *means,
            Formula("bound", "there S > 0 on 0 < z ≤ 1 iff also, for any g = γτ", "0", "0", self.bound, "<"),
            Formula("noise_at_one", "Ũ(1) = γ Σ Ũ_k(1)", "Ũ_k(1)", r"\tilde U_k(1)", self.noise_at_one),
            Formula("signal_at_one", "Ṽ(1) = Σ c_k Ṽ_k(1)", "Ṽ_k(1)", r"\tilde V_k(1)", self.signal_at_one),
            Formula("threshold", "the loss converges iff γ Σ x/d < 1, with", "d", "d", self.threshold),
            Formula("noise_floor", "per unit of additive noise ε in each step", "W_k", "W_k", self.noise_floor),
            Formula("floor", "loss floor, W = Σ ε_k W_k", "s_∞", r"s_\infty", self.floor),
            Formula("signal_leading", f"signal {mode}", "v/S", "v/S", self.signal_leading),
            Formula("noise_leading", f"noise {mode}", "γ x² u/S", r"\gamma x^2 u/S", self.noise_leading),
            Formula("signal_mode", "signal of a mode at time t", "v_t", "v_t", self.signal_mode),
            Formula("noise_mode", "noise of a mode at time t", "u_t", "u_t", self.noise_mode),
            Formula("signal_law", "signal-dominated, λ = Λk^(−ν), Σ_{l≥k} c = A k^(−κ)", "s_t", "s_t", self.signal_law),
            Formula("noise_law", "noise-dominated, λ = Λk^(−ν)", "s_t", "s_t", self.noise_law),
            Formula(
                "momentum_effect",
                f"constant C of the noise law at β = 0: {verdict}; {sums}",
                *slope,
                self.momentum_effect,
            ),
        ]


@functools.cache
def derive(method: str = "heavy-ball") -> Derivation:
    """The whole derivation for an update rule, "heavy-ball" or "nesterov"; kept after the first call.

    Raises InputError for any other name.
    """
    m = algebra.moments(choice("method", method, METHODS))
    noise, signal = (sp.cancel(part / m.determinant) for part in (X**2 * m.noise, m.signal))
    bound = grouped(sp.cancel(m.determinant.subs(Z, 1) / X))
    noise_at_one, signal_at_one = X * tidy(m.noise.subs(Z, 1)) / bound, tidy(m.signal.subs(Z, 1)) / (X * bound)
    noise_leading = GAMMA * asymptotics.leading_term(noise)
    signal_leading = asymptotics.leading_term(signal)
    noise_mode, signal_mode = (asymptotics.in_time(term) for term in (noise_leading, signal_leading))
    order, effect = asymptotics.effect_of_momentum(noise_at_one, signal_at_one)
    return Derivation(
        method=method,
        mean_map=m.mean_map,
        noise_direction=m.noise_direction,
        moments_map=m.moments_map,
        S=grouped(m.determinant),
        u=m.noise,
        v=m.signal,
        at_zero=tidy(m.determinant.subs(X, 0)),
        monotonicity=sp.expand(sp.diff(Z * m.noise, Z) * m.determinant - Z * m.noise * sp.diff(m.determinant, Z)),
        full_batch=algebra.stable_mean(m.mean_map),
        bound=bound,
        noise_at_one=noise_at_one,
        signal_at_one=signal_at_one,
        threshold=_by_powers(sp.apart(sp.cancel(X / noise_at_one), X)),
        noise_floor=noise_at_one / X**2,
        floor=asymptotics.floor(),
        signal_leading=signal_leading,
        noise_leading=noise_leading,
        signal_mode=signal_mode,
        noise_mode=noise_mode,
        signal_law=asymptotics.signal_law(signal_mode),
        noise_law=asymptotics.noise_law(noise_mode),
        momentum_order=order,
        momentum_effect=effect,
    )


def _by_powers(expression: sp.Expr) -> sp.Expr:
    """A polynomial in x of degree one and a proper fraction, as sp.apart gives it, with tidied coefficients."""
    whole = sp.Add(*(term for term in sp.Add.make_args(expression) if sp.fraction(term)[1].diff(X) == 0))
    slope = sp.diff(whole, X)
    coefficient = sp.cancel(sp.diff(slope, G)) * G + tidy(slope.subs(G, 0))
    return tidy(whole.subs(X, 0)) + coefficient * X + tidy(expression - whole)
