"""From the generating functions of one mode to the laws at late times, in symbols ([VKY] sec. 5)."""

from __future__ import annotations

import sympy as sp

from sgdsim.symbolic.algebra import BETA, X, Z, tidy

ALPHA, LAMBDA, GAMMA, A, T, DELTA = sp.symbols("alpha lamda gamma alpha_eff t delta", positive=True)
NU, KAPPA, SCALE, AMPLITUDE = sp.symbols("nu kappa Lambda A", positive=True)
# Ũ(1) and Ṽ(1), and the sums Σλ, Σλ², Σc, Σc/λ.
U1, V1, L1, L2, C0, C1 = sp.symbols("U_1 V_1 L_1 L_2 C_0 C_1", positive=True)


def leading_term(term: sp.Expr) -> sp.Expr:
    """A mode's term where x and 1 − z = δ are small alike, in α_eff = α/(1−β)."""
    size = sp.Symbol("epsilon", positive=True)
    near_one = term.subs({X: size * ALPHA * LAMBDA, Z: 1 - size * DELTA}, simultaneous=True)
    lowest = [sp.Poly(sp.expand(part), size).terms()[-1][1] for part in sp.fraction(sp.together(near_one))]
    return sp.factor(sp.cancel((lowest[0] / lowest[1]).subs(ALPHA, A * (1 - BETA))))


def in_time(term: sp.Expr) -> sp.Expr:
    """The sequence whose generating function at z = e^(−δ) is `term`, for late times."""
    return sp.inverse_laplace_transform(term, DELTA, T).subs(sp.Heaviside(T), 1)


def perturbed() -> tuple[sp.Expr, sp.Expr]:
    """What a small singular part of Ṽ and of zŨ at z = 1 is multiplied by in `s̃ = Ṽ/(1 − zŨ)`."""
    s = V1 / (1 - U1)
    return tidy(sp.diff(s, V1)), tidy(sp.diff(s, U1))


def signal_law(mode: sp.Expr) -> sp.Expr:
    """s_t of the signal for `λ_k = Λk^(−ν)`, `Σ_{l≥k} c_l = A k^(−κ)`; `mode`: what remains of a unit in mode λ."""
    k = sp.Symbol("k", positive=True)
    density = -sp.diff(AMPLITUDE * k**-KAPPA, k)
    return perturbed()[0] * _over_modes(density * mode, k)


def noise_law(mode: sp.Expr) -> sp.Expr:
    """s_t of the noise for `λ_k = Λk^(−ν)`; `mode`: U_t of a mode λ; Ṽ(1) is the signal that was turned into it."""
    return perturbed()[1] * _over_modes(mode, sp.Symbol("k", positive=True))


def exponent(law: sp.Expr) -> sp.Expr:
    """ξ of a law t^(−ξ)."""
    return sp.expand(sp.simplify(-T * sp.diff(law, T) / law))


def _over_modes(summand: sp.Expr, k: sp.Symbol) -> sp.Expr:
    """Σ_k as an integral: at late times only modes with λt of order 1 count, and these lie densely."""
    rate = sp.Symbol("s", positive=True)
    integrand = summand.subs(LAMBDA, SCALE * k**-NU).subs(T, rate / (2 * A * SCALE))
    total = sp.simplify(sp.integrate(sp.powsimp(integrand), (k, 0, sp.oo), conds="none"))
    (gamma,) = total.atoms(sp.gamma)
    power = sp.expand(sp.simplify(rate * sp.diff(total, rate) / total))
    factor, argument = total.subs({rate: 1, gamma: 1}), sp.expand(gamma.args[0])
    if argument == 1 - 1 / NU:  # for the reader: Γ(w) = Γ(w+1)/w
        factor, argument = sp.simplify(factor / argument), argument + 1
    return factor * sp.gamma(argument) * (2 * A * SCALE * T) ** power


def floor() -> sp.Expr:
    """s_∞ with additive noise: `lim (1−z) s̃(z)` for `s̃ = Ṽ + zŨs̃ + zW/(1−z)`, `W = Σ ε_k u_k/S_k` at z = 1."""
    s, w = sp.symbols("s W", positive=True)
    solution = sp.solve(sp.Eq(s, V1 + Z * U1 * s + Z / (1 - Z) * w), s)[0]
    return tidy(sp.cancel((1 - Z) * solution).subs(Z, 1))


def effect_of_momentum(noise_at_one: sp.Expr, signal_at_one: sp.Expr) -> tuple[int, sp.Expr]:
    """First order n at which momentum changes the constant of the noise law, and `∂ⁿ log C/∂βⁿ / α_eff` there.

    `C(α_eff, β) ∝ Ṽ(1) α_eff^(1/ν) / (1 − Ũ(1))²`, at β = 0 and the best α_eff, to leading order in α_eff λ_1 (small
    where γΣλ ≫ λ_1, as it is for small batches). By the envelope theorem the first derivative is that of the minimum
    over α_eff. With C_0 = Σc, C_1 = Σc/λ, L_1 = Σλ, L_2 = Σλ², c_k the error coefficients of outputs.
    """
    at_rate = {X: A * (1 - BETA) * LAMBDA}
    noise = sp.cancel(noise_at_one.subs(at_rate))
    signal = sp.cancel(A * signal_at_one.subs(at_rate))
    # Taylor coefficients in α_eff; each carries one power of λ, whose sum over modes takes its place.
    u1, u2 = (sp.cancel(sp.diff(noise, A, n).subs(A, 0) / sp.factorial(n) / LAMBDA**n) for n in (1, 2))
    v0, v1 = (sp.cancel(sp.diff(signal, A, n).subs(A, 0) * LAMBDA ** (1 - n)) for n in (0, 1))
    leading = -sp.log(A) + sp.log(A) / NU - 2 * sp.log(1 - GAMMA * u1 * A * L1)
    best_noise = sp.solve(sp.diff(leading, A), GAMMA)[0]
    u, v = GAMMA * (u1 * A * L1 + u2 * A**2 * L2), v0 * C1 / A + v1 * C0
    log_constant = sp.log(v) - 2 * sp.log(1 - u)
    for order in (1, 2):
        slope = sp.diff(log_constant, BETA, order).subs(BETA, 0).subs(GAMMA, best_noise)
        slope = sp.expand(sp.cancel(slope / A).subs(A, 0))
        if slope != 0:
            break
    return order, sp.collect(slope, L2 / L1, sp.factor)
