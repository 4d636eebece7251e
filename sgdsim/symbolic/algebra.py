"""One eigenvalue's second moments in symbols, from the update rule to its generating functions."""

from __future__ import annotations

from typing import NamedTuple

import sympy as sp

X, BETA, G, Z = sp.symbols("x beta g z", real=True)
METHODS = ("heavy-ball", "nesterov")


class Moments(NamedTuple):
    """The step of one mode, x = αλ, g = γτ, and the resolvent of its second moments (c, j, p) = (E r², E rv, E v²).

    mean_map : (2, 2), the mean of (r, v) after a step. noise_direction : (2, 1), the effect of minus a unit of gradient
    noise. moments_map : (3, 3), A with m' = Am + source. determinant : S = det(1 − zA). noise, signal : u and v, so
    that u/S and v/S are the first component of (1 − zA)⁻¹ applied to a unit of noise and to (1, 0, 0).
    """

    mean_map: sp.Matrix
    noise_direction: sp.Matrix
    moments_map: sp.Matrix
    determinant: sp.Expr
    noise: sp.Expr
    signal: sp.Expr


def update(method: str) -> tuple[sp.Matrix, sp.Matrix]:
    """The linear step of (r, v) and the direction in which gradient noise enters, from the algorithm as it is written.

    Nesterov as in `torch.optim.SGD(nesterov=True)`: the parameters are the points at which gradients are taken.
    """
    r, v, noise = sp.symbols("r v xi")
    gradient = X * r + noise
    velocity = BETA * v - gradient
    residual = r + velocity if method == "heavy-ball" else r + BETA * velocity - gradient
    step = sp.Matrix([residual, velocity])
    return step.jacobian([r, v]).applyfunc(sp.expand), -step.jacobian([noise])


def moments(method: str) -> Moments:
    """Resolvent of `M ↦ RMRᵀ − g x² M₁₁ qqᵀ`: the step of the second moments, without the noise from all modes."""
    mean_map, direction = update(method)
    c, j, p = unknowns = sp.symbols("c j p")
    second = sp.Matrix([[c, j], [j, p]])
    unit = direction * direction.T
    image = mean_map * second * mean_map.T - G * X**2 * c * unit
    a = _vector(image).jacobian(unknowns).applyfunc(sp.expand)
    resolvent = sp.eye(3) - Z * a
    cofactors = resolvent.adjugate()[0, :]
    return Moments(
        mean_map,
        direction,
        a,
        sp.expand(resolvent.det(method="berkowitz")),
        sp.expand((cofactors * _vector(unit))[0]),
        sp.expand(cofactors[0]),
    )


def stable_mean(mean_map: sp.Matrix) -> tuple[sp.Expr, ...]:
    """What must be positive for the mean to converge, |β| < 1, x > 0: Jury's conditions on trace and determinant.

    Conditions that |β| < 1 or x > 0 alone make true are left out.
    """
    trace, determinant = mean_map.trace(), mean_map.det()
    conditions = [1 - determinant, 1 + trace + determinant, 1 - trace + determinant]
    known = {sp.expand(X), sp.expand(1 - BETA), sp.expand(1 + BETA)}
    return tuple(tidy(e) for e in map(sp.expand, conditions) if e not in known)


def tidy(expression: sp.Expr) -> sp.Expr:
    """Factored, with factors written as 1 − βz rather than βz − 1."""
    (sign, numerator), (other, denominator) = map(_signed, sp.fraction(sp.cancel(expression)))
    return sign / other * numerator / denominator


def grouped(expression: sp.Expr, symbol: sp.Symbol = G) -> sp.Expr:
    """A polynomial in `symbol` with tidied coefficients."""
    terms = sp.Poly(expression, symbol).terms()
    return sp.Add(*(symbol**power * tidy(coefficient) for (power,), coefficient in terms))


def _signed(polynomial: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A number, and a product of factors whose lowest terms are positive."""
    sign, factors = sp.factor_list(polynomial)
    result = sp.S.One
    for factor, power in factors:
        lowest = sp.Poly(factor, *sorted(factor.free_symbols, key=str)).terms()[-1][1]
        flip = -1 if lowest < 0 else 1
        sign *= flip**power
        result *= (flip * factor) ** power
    return sign, result


def _vector(m: sp.Matrix) -> sp.Matrix:
    return sp.Matrix([m[0, 0], m[0, 1], m[1, 1]])
