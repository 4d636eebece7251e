"""The derivation against formulas typed independently, against the recurrence, and against the NumPy formulas."""

import json
import subprocess
import sys
from fractions import Fraction

import naive
import numpy as np
import pytest
import scipy.optimize
import sympy as sp

import sgdsim as ss
from sgdsim import cli
from sgdsim.common.checks import InputError
from sgdsim.recurrence import contour_kernels, kernels
from sgdsim.symbolic import asymptotics, printing
from sgdsim.symbolic.algebra import BETA, METHODS, G, X, Z
from sgdsim.symbolic.asymptotics import ALPHA, AMPLITUDE, C0, C1, DELTA, GAMMA, KAPPA, L1, L2, LAMBDA, NU, SCALE, U1, V1
from sgdsim.symbolic.asymptotics import A as ALPHA_EFF
from sgdsim.symbolic.asymptotics import T as TIME
from sgdsim.symbolic.derive import TAU, derive
from sgdsim.theory import generating, power_law

both = pytest.mark.parametrize("method", METHODS)
HEAVY_BALL, NESTEROV = METHODS


def same(one, other):
    return sp.simplify(one - other) == 0


def torch_step(method, buffer, gradient, momentum):
    """One step of torch.optim.SGD with lr = 1 on exact numbers: the new buffer, and what is taken off the parameter."""
    buffer = momentum * buffer + gradient
    return buffer, gradient + momentum * buffer if method == NESTEROV else buffer


def literal_losses(method, xs, c0, momentum, noise, tau, extra, steps):
    """s_t by following each mode as a linear form in the initial error and in the noise of each step, exactly."""
    size = steps + 1
    variance = [[c] + [Fraction(0)] * steps for c in c0]
    residual = [[Fraction(1)] + [Fraction(0)] * steps for _ in xs]
    buffer = [[Fraction(0)] * size for _ in xs]
    losses = []
    for t in range(size):
        c = [sum(r * r * w for r, w in zip(*pair, strict=True)) for pair in zip(residual, variance, strict=True)]
        losses.append(sum(c))
        if t == steps:
            return losses
        for k, x in enumerate(xs):
            variance[k][t + 1] = noise * x**2 * (losses[-1] - tau * c[k]) + extra[k]
            gradient = [x * r for r in residual[k]]
            gradient[t + 1] += 1
            for i in range(size):
                buffer[k][i], move = torch_step(method, buffer[k][i], gradient[i], momentum)
                residual[k][i] -= move


def series(expression, steps):
    """The power series of a rational function of z with rational coefficients."""
    top, bottom = (sp.Poly(part, Z).all_coeffs()[::-1] for part in sp.fraction(sp.cancel(expression)))
    out = []
    for n in range(steps + 1):
        value = top[n] if n < len(top) else 0
        out.append((value - sum(bottom[i] * out[n - i] for i in range(1, min(n, len(bottom) - 1) + 1))) / bottom[0])
    return [Fraction(int(value.p), int(value.q)) for value in map(sp.sympify, out)]


@both
@pytest.mark.parametrize("extra", [0, 1])
def test_generating_functions_are_those_of_the_recurrence(method, extra):
    """Two modes, all noise between them, and label noise: s_t equals the coefficients of s̃, as exact fractions."""
    xs, c0, momentum = [Fraction(3, 4), Fraction(2, 7)], [Fraction(1), Fraction(5, 3)], Fraction(-2, 5)
    noise, tau, added = Fraction(1, 3), Fraction(-1, 2), [Fraction(extra, 9), Fraction(2 * extra, 5)]
    d, rational = derive(method), lambda value: sp.Rational(value.numerator, value.denominator)

    def at(expression, x):
        values = {X: rational(x), BETA: rational(momentum), G: rational(noise * tau)}
        return expression.subs(values)

    u = rational(noise) * sum(at(d.noise_term, x) for x in xs)
    v = sum(rational(c) * at(d.signal_term, x) for c, x in zip(c0, xs, strict=True))
    label = Z / (1 - Z) * sum(rational(e) * at(d.u / d.S, x) for e, x in zip(added, xs, strict=True))
    expected = literal_losses(method, xs, c0, momentum, noise, tau, added, 9)
    assert series((v + label) / (1 - Z * u), 9) == expected
    assert len(set(expected)) == 10


@both
def test_mean_and_moments_are_one_step(method):
    d = derive(method)
    r, v = sp.symbols("r v")
    gradient = sp.Symbol("gradient")
    buffer, move = torch_step(method, -v, gradient, BETA)  # the velocity is minus the buffer
    new = sp.Matrix([r - move, -buffer])
    assert sp.expand(new.subs(gradient, X * r) - d.mean_map * sp.Matrix([r, v])) == sp.zeros(2, 1)
    assert new.diff(gradient) == -d.noise_direction
    # Kronecker products instead of the three moments: the determinant has the antisymmetric eigenvalue det R besides.
    big = sp.kronecker_product(d.mean_map, d.mean_map)
    big -= G * X**2 * sp.kronecker_product(d.noise_direction, d.noise_direction) * sp.Matrix([[1, 0, 0, 0]])
    determinant = (sp.eye(4) - Z * big.applyfunc(sp.expand)).det(method="berkowitz")
    assert sp.expand(determinant - d.S * (1 - Z * d.mean_map.det())) == 0


def test_heavy_ball_has_the_published_formulas():
    d, x, b, g, z = derive(), X, BETA, G, Z
    s = x**2 * b * g * z**2 + x**2 * b * z**2 + x**2 * g * z - x**2 * z - 2 * x * b**2 * z**2 - 2 * x * b * z**2
    s += 2 * x * b * z + 2 * x * z - b**3 * z**3 + b**3 * z**2 + b**2 * z**2 - b**2 * z + b * z**2 - b * z - z + 1
    monotonicity = -2 * x**2 * b * z**2 + 4 * x * b**2 * z**2 + 4 * x * b * z**2 + b**4 * z**4 + 2 * b**3 * z**3
    monotonicity += -2 * b**3 * z**2 - 2 * b**2 * z**2 - 2 * b * z**2 + 2 * b * z + 1
    at_one = x * b * (1 + g) + x * (g - 1) + 2 - 2 * b**2
    for derived, typed in (
        (d.S, s),
        (d.u, b * z + 1),
        (d.v, 2 * x * b * z + b**3 * z**2 - b**2 * z - b * z + 1),
        (d.at_zero, (1 - z) * (1 - b * z) * (1 - b**2 * z)),
        (d.monotonicity, monotonicity),
        (d.noise_at_one, x * (1 + b) / at_one),
        (d.signal_at_one, (2 * x * b + (1 - b) * (1 - b**2)) / (x * at_one)),
        (d.bound, 2 * (1 - b**2) - x * ((1 - g) - b * (1 + g))),
        (d.threshold, 2 * (1 - b) - x * ((1 - b) / (1 + b) - g)),
        (d.noise_floor, (1 + b) / (x * at_one)),
    ):
        assert same(derived, typed)
    assert d.full_batch == (2 * (1 + b) - x,)


def test_nesterov_has_the_formulas_of_its_characteristic_polynomial():
    d, x, b, g, z = derive(NESTEROV), X, BETA, G, Z
    trace, determinant = 1 + b - x * (1 + b), b * (1 - x)
    alone = (1 - z * determinant) * ((1 + z * determinant) ** 2 - z * trace**2)  # eigenvalues μ₁², μ₁μ₂, μ₂²
    gain = 1 + b + b * x * (1 + 2 * b)
    limit = (1 - b + b * x) * (2 * (1 + b) - x * (1 + 2 * b))
    for derived, typed in (
        (d.S, alone + g * x**2 * z * d.u),
        (d.at_zero, (1 - z) * (1 - b * z) * (1 - b**2 * z)),
        (d.u.subs(z, 1), gain),
        (d.u.subs(z, 0), (1 + b) ** 2),
        (d.bound, limit + g * x * gain),
        (d.noise_at_one, x * gain / (limit + g * x * gain)),
        (d.signal_at_one, ((1 - b) * (1 - b**2) + b * x * (1 + 2 * b - b**2)) / (x * (limit + g * x * gain))),
        (d.threshold, 2 - x * (1 - g) - 2 * b * (1 + b) / gain),
    ):
        assert same(derived, typed)
    assert {*d.full_batch} == {sp.expand(e) for e in (1 - b + b * x, 2 * (1 + b) - x * (1 + 2 * b))}


@both
def test_closure_adds_to_the_noiseless_determinant(method):
    """`S = S(g=0) + g x² z u`, so that 1/(zŨ_k) grows by g: what makes the bound at z = 1 sharp for every g."""
    d = derive(method)
    assert same(d.S, d.S.subs(G, 0) + G * X**2 * Z * d.u)
    assert not any(e.has(G) for e in (d.u, d.v, d.monotonicity))
    assert same(sp.diff(Z * d.noise_term, Z), X**2 * d.monotonicity / d.S**2)


@both
def test_mean_conditions_are_the_spectral_radius(method):
    rng = np.random.default_rng(1)
    d = derive(method)
    matrix = sp.lambdify((X, BETA), d.mean_map)
    positive = sp.lambdify((X, BETA), d.full_batch)
    outcomes = set()
    for x, b in np.column_stack([rng.uniform(0, 6, 2000), rng.uniform(-1, 1, 2000)]):
        radius = np.abs(np.linalg.eigvals(np.array(matrix(x, b), dtype=float))).max()
        if abs(radius - 1) > 1e-9:
            stable = all(value > 0 for value in positive(x, b))
            assert stable == (radius < 1)
            outcomes.add(stable)
    assert outcomes == {True, False}


def test_numpy_formulas_are_the_derived_ones():
    """The functions that run are called with symbols."""
    d = derive()
    for value, derived in (
        (generating.denominator(X, BETA, G, Z), d.S),
        (generating.noise_term(X, BETA, G, Z), d.noise_term),
        (generating.signal_term(X, BETA, G, Z), d.signal_term),
        (generating.noise_term_at_one(X, BETA, G), d.noise_at_one),
        (generating.signal_term_at_one(X, BETA, G), d.signal_at_one),
    ):
        assert same(value, derived)


def test_numpy_sums_are_the_derived_ones():
    d = derive().at_tau(TAU)
    lam, c, copies = (np.array(sp.symbols(f"{name}1:3", positive=True), dtype=object) for name in ("l", "c", "m"))
    given = {"lr": ALPHA, "momentum": BETA, "noise": GAMMA, "tau": TAU}

    def total(term, weights):
        return sum(w * term.subs(X, ALPHA * k) for k, w in zip(lam, weights, strict=True))

    def exact(value):  # the float 0.0 with which a sum begins, and the float 1.0 of z = 1
        return sp.nsimplify(value, rational=True)

    u, v = GAMMA * total(d.noise_term, copies), total(d.signal_term, c)
    assert same(exact(generating.noise_propagator(lam, Z, multiplicity=copies, **given)), u)
    assert same(exact(generating.signal_generator(lam, c, Z, **given)), v)
    at_one = generating.noise_propagator_at_one(lam, *given.values(), multiplicity=copies)
    assert same(exact(at_one), GAMMA * total(d.noise_at_one, copies))
    numbers = {ALPHA: 0.3, BETA: -0.4, GAMMA: 0.2, TAU: -0.7, Z: 0.9 + 0.1j, **dict(zip(lam, (1.0, 0.3), strict=True))}
    numbers |= dict(zip((*c, *copies), (1.0, 2.0, 3.0, 4.0), strict=True))
    arrays = [np.array([numbers[symbol] for symbol in group]) for group in (lam, c, copies)]
    values = {name: numbers[symbol] for name, symbol in given.items()}
    expected = complex((v / (1 - Z * u)).subs(numbers))
    u_there = generating.noise_propagator(arrays[0], numbers[Z], multiplicity=arrays[2], **values)
    transform = generating.signal_generator(*arrays[:2], numbers[Z], **values) / (1 - numbers[Z] * u_there)
    literal = naive.loss_transform(*arrays[:2], numbers[Z], multiplicity=arrays[2], **values)
    assert literal == pytest.approx(transform, rel=1e-13)
    assert transform == pytest.approx(expected, rel=1e-12)
    expected = float(total(d.signal_at_one, c).subs(numbers))
    assert generating.signal_at_one(*arrays[:2], *values.values()) == pytest.approx(expected, rel=1e-13)


def test_compiled_step_is_the_derived_one():
    """The loop of the diagonal regime, uncompiled, called with symbols: one step of the moments."""
    moments = sp.Matrix(sp.symbols("c j p"))
    s = sp.Symbol("s")
    arrays = [np.array([value], dtype=object) for value in (LAMBDA, *moments)]
    hyper = [np.array([value], dtype=object) for value in (ALPHA, BETA, GAMMA, TAU)]
    kernels.diagonal_advance.py_func(arrays[0], None, *arrays[1:], s, *hyper[:3], TAU)
    d = derive().at_tau(TAU)
    q = d.noise_direction
    source = GAMMA * X**2 * s * sp.Matrix([q[0] ** 2, q[0] * q[1], q[1] ** 2])
    expected = (d.moments_map * moments + source).subs(X, ALPHA * LAMBDA)
    assert sp.expand(expected - sp.Matrix([a[0] for a in arrays[1:]])) == sp.zeros(3, 1)


def test_compiled_transforms_are_the_derived_ones():
    """The contour's own sums, with their derivatives in z."""
    d = derive()
    eigenvalues, c, copies = np.array([1.0, 0.4, 0.02]), np.array([1.0, 0.5, 2.0]), np.array([1.0, 2.0, 3.0])
    alpha, beta, gamma, g, sigma = 0.7, -0.35, 0.3, 0.2, complex(0.13, 0.4)
    terms = [d.noise_term, d.signal_term]
    terms += [sp.diff(term, Z) for term in terms]
    call = sp.lambdify((X, BETA, G, Z), [sp.cancel(term) for term in terms])
    values = np.array([call(alpha * lam, beta, g, np.exp(-sigma)) for lam in eigenvalues])
    expected = [gamma * copies @ values[:, 0], c @ values[:, 1], gamma * copies @ values[:, 2], c @ values[:, 3]]
    found = contour_kernels.transforms(eigenvalues, copies, c, alpha, beta, gamma, g, sigma)
    assert found == pytest.approx(expected, rel=1e-12)


@both
def test_late_time_laws(method):
    d, a, t = derive(method), ALPHA_EFF, TIME
    assert same(d.signal_leading, 1 / (DELTA + 2 * a * LAMBDA))
    assert same(d.noise_leading, GAMMA * a**2 * LAMBDA**2 / (DELTA + 2 * a * LAMBDA))
    assert same(d.signal_mode, sp.exp(-2 * a * LAMBDA * t))
    assert same(d.noise_mode, GAMMA * a**2 * LAMBDA**2 * sp.exp(-2 * a * LAMBDA * t))
    zeta = KAPPA / NU
    signal = AMPLITUDE * sp.gamma(zeta + 1) * (2 * a * SCALE * t) ** -zeta / (1 - U1)
    noise = V1 * GAMMA * a**2 * SCALE ** (1 / NU) / NU * sp.gamma(2 - 1 / NU) * (2 * a * t) ** (1 / NU - 2)
    noise /= (1 - U1) ** 2
    assert sp.simplify(sp.powsimp(d.signal_law / signal, force=True)) == 1
    assert sp.simplify(sp.expand_power_base(d.noise_law / noise, force=True)) == 1
    assert same(asymptotics.exponent(d.signal_law), zeta)
    assert same(asymptotics.exponent(d.noise_law), 2 - 1 / NU)


def test_numpy_constants_are_the_derived_ones():
    problem = ss.QuadraticProblem.power_law(50, 1.7, 2.3)
    law, d = power_law.PowerLaw.of(problem), derive()
    lr, momentum, noise, tau = 0.3, 0.4, 0.2, -1.0
    u = generating.noise_propagator_at_one(problem.eigenvalues, lr, momentum, noise, tau)
    v = generating.signal_at_one(problem.eigenvalues, problem.coefficients**2, lr, momentum, noise, tau)
    values = {NU: law.nu, KAPPA: law.kappa, SCALE: law.Lambda, AMPLITUDE: law.A, U1: u, V1: v, GAMMA: noise}
    values |= {ALPHA_EFF: lr / (1 - momentum), TIME: 1.0}
    expected = [float(f.subs(values)) / (2 * problem.n) for f in (d.signal_law, d.noise_law)]
    found = power_law.constants(problem, law, lr=lr, momentum=momentum, noise=noise, tau=tau)
    assert found == pytest.approx(expected, rel=1e-12)


def follow(method, x, c, momentum, noise, tau, steps, added=0.0, copies=1.0):
    """s_t at the given steps, from the derived moments map; `copies`: for how many modes each one stands."""
    d = derive(method)
    entries = sp.lambdify((X, BETA, G), list(d.moments_map))(x, momentum, noise * tau)
    a = np.array([np.broadcast_to(entry, x.shape) for entry in entries]).reshape(3, 3, x.size)
    q = np.array(sp.lambdify(BETA, d.noise_direction)(momentum), dtype=float).ravel()
    unit = np.array([q[0] ** 2, q[0] * q[1], q[1] ** 2])
    state = np.array([c, np.zeros_like(c), np.zeros_like(c)])
    out = []
    for t in range(max(steps) + 1):
        s = state[0].sum()
        if t in steps:
            out.append(s)
        state = np.einsum("ijk,jk->ik", a, state) + np.outer(unit, noise * x**2 * s * copies + added)
    return np.array(out)


@both
def test_label_noise_ends_at_the_derived_floor(method):
    d = derive(method)
    x, momentum, noise, tau, added = np.array([0.6, 0.25]), 0.4, 0.3, 1.0, np.array([0.01, 0.03])
    floor, u = (sp.lambdify((X, BETA, G), e)(x, momentum, noise * tau) for e in (d.noise_floor, d.noise_at_one))
    w = sp.Symbol("W", positive=True)
    expected = float(d.floor.subs({w: added @ floor, U1: noise * u.sum()}))
    (reached,) = follow(method, x, np.ones(2), momentum, noise, tau, [2000], added)
    assert reached == pytest.approx(expected, rel=1e-11)
    variance = 0.7  # of labels, seen through the same batches: ε_k = γσ²x²
    (reached,) = follow(method, x, np.ones(2), momentum, noise, tau, [2000], noise * variance * x**2)
    assert reached == pytest.approx(variance * noise * u.sum() / (1 - noise * u.sum()), rel=1e-11)


@both
@pytest.mark.parametrize(("kappa", "steps"), [(0.6, [100, 1000, 10_000]), (4.0, [1000, 10_000])])
def test_losses_approach_the_derived_laws(method, kappa, steps):
    """Signal- and noise-dominated: the ratio to the law tends to 1. Modes in blocks, up to k = 10⁹."""
    nu, momentum, noise, tau, alpha = 1.5, 0.3, 0.3, 1.0, 0.5
    edges = np.unique(np.geomspace(1, 1e9, 1500).round())
    lam, copies = np.sqrt(edges[:-1] * (edges[1:] - 1)) ** -nu, np.diff(edges)
    c = edges[:-1] ** -kappa - edges[1:] ** -kappa
    d = derive(method)
    u, v = (sp.lambdify((X, BETA, G), e)(alpha * lam, momentum, noise * tau) for e in (d.noise_at_one, d.signal_at_one))
    values = {NU: nu, KAPPA: kappa, SCALE: 1, AMPLITUDE: 1, GAMMA: noise, ALPHA_EFF: alpha / (1 - momentum)}
    values |= {U1: noise * copies @ u, V1: c @ v}
    law = sp.lambdify(TIME, (d.signal_law if kappa < 2 else d.noise_law).subs(values))
    found = follow(method, alpha * lam, c, momentum, noise, tau, steps, copies=copies)
    error = np.abs(found / law(np.array(steps)) - 1)
    assert (np.diff(error) < 0).all()
    assert error[-1] < 0.02


def log_constant(d, eigenvalues, c, nu, noise, tau):
    """log C(α_eff, β) of the noise law, exact: no expansion in the learning rate."""
    u, v, positive = (
        sp.lambdify((X, BETA, G), e) for e in (d.noise_at_one, d.signal_at_one, sp.Min(d.bound, *d.full_batch))
    )

    def value(log_rate, momentum):
        rate = np.exp(log_rate)
        x = rate * (1 - momentum) * eigenvalues
        propagator = noise * np.sum(u(x, momentum, noise * tau))
        if positive(x[0], momentum, noise * tau) <= 0 or propagator >= 1:
            return np.inf
        return np.log(c @ v(x, momentum, noise * tau)) + log_rate / nu - 2 * np.log(1 - propagator)

    return value


# Noise-dominated and beyond: the sign of the best momentum changes with κ.
SPECTRA = [
    (1.2, 0.3, 1), (1.2, 1.2, -1), (1.5, 1.2, 1), (1.5, 2.5, -1), (2.0, 2.0, 1), (2.0, 4.0, -1), (3.0, 3.0, 1),
    (3.0, 5.0, -1),
]  # fmt: skip


def minimised(method, nu, kappa, tau):
    """The derived effect of momentum, and min log C and the rate where it is, as a function of momentum.

    Many equal eigenvalues make γΣλ large, where the derivation says it holds.
    """
    k = np.arange(1, 301.0)
    eigenvalues, c = np.repeat(k**-nu, 30), np.repeat(k ** (-kappa - 1), 30)
    d = derive(method)
    sums = {C0: c.sum(), C1: (c / eigenvalues).sum(), L1: eigenvalues.sum(), L2: (eigenvalues**2).sum(), NU: nu}
    constant = log_constant(d, eigenvalues, c, nu, 1.0, tau)

    def best(momentum):
        top = np.log(2 / eigenvalues.sum())
        found = scipy.optimize.minimize_scalar(
            constant, args=(momentum,), bounds=(top - 8, top), method="bounded", options={"xatol": 1e-10}
        )
        return found.fun, np.exp(found.x)

    return float(d.momentum_effect.subs(sums)), best


@pytest.mark.parametrize(("nu", "kappa", "sign"), SPECTRA)
@pytest.mark.parametrize("tau", [1.0, -1.0])
def test_sign_of_the_best_momentum(nu, kappa, sign, tau):
    """The exact constant, minimised, against the derived condition."""
    effect, best = minimised(HEAVY_BALL, nu, kappa, tau)
    step = 1e-3
    slope = (best(step)[0] - best(-step)[0]) / (2 * step)
    assert slope == pytest.approx(best(0)[1] * effect, rel=0.1)
    grid = np.linspace(-0.5, 0.5, 11)
    assert np.sign(grid[np.argmin([best(b)[0] for b in grid])]) == sign == -np.sign(effect)


@pytest.mark.parametrize(("nu", "kappa", "sign"), SPECTRA[2:6])
def test_nesterov_momentum_matters_in_second_order(nu, kappa, sign):
    effect, best = minimised(NESTEROV, nu, kappa, 1.0)
    step = 0.02
    below, at, above = (best(b)[0] for b in (-step, 0, step))
    curvature = (above - 2 * at + below) / step**2
    assert curvature == pytest.approx(best(0)[1] * effect, rel=0.1)
    assert abs(above - below) < 0.1 * abs(above - at)
    assert np.sign(curvature) == -sign


def test_effect_of_momentum_is_first_order_for_heavy_ball_and_second_for_nesterov():
    bracket = C0 / C1 - (NU - 1) / NU * L2 / L1
    assert derive().momentum_order == 1
    assert same(derive().momentum_effect, bracket)
    assert derive(NESTEROV).momentum_order == 2
    assert same(derive(NESTEROV).momentum_effect, 2 * bracket)
    # To first order in β Nesterov momentum is plain SGD with the same α_eff: exactly, not only at small rates.
    for e in (derive(NESTEROV).noise_at_one, derive(NESTEROV).signal_at_one):
        assert sp.cancel(sp.diff(e.subs(X, ALPHA_EFF * (1 - BETA)), BETA).subs(BETA, 0)) == 0


def test_tau_is_taken_exactly():
    d = derive()
    assert same(d.at_tau("1/3").bound, d.bound.subs(G, GAMMA / 3))
    assert same(d.at_tau(-0.1).bound, d.bound.subs(G, -GAMMA / 10))
    assert same(d.at_tau(TAU).S, d.S.subs(G, GAMMA * TAU))
    assert not any(f.right.has(G) for f in d.at_tau(0).formulas())
    for bad in ("one", "1/0", "nan", "inf", "1e999"):
        with pytest.raises(InputError, match="tau: expected a number"):
            d.at_tau(bad)
    with pytest.raises(InputError, match="method: expected one of heavy-ball, nesterov"):
        derive("adam")


@both
def test_json_can_be_read_back(method, capsys):
    assert cli.main(["theory", "derive", "--method", method, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    formulas = derive(method).formulas()
    names = {s.name: s for f in formulas for s in f.right.free_symbols}
    assert sorted(names) == document["symbols"]
    for row, formula in zip(document["formulas"], formulas, strict=True):
        assert row["key"] == formula.key
        read = sp.sympify(row["right"], locals={**names, "Gamma": sp.gamma})
        right = formula.right
        assert (sp.Matrix(read) if isinstance(right, sp.MatrixBase) else read) == right


def test_command_line(capsys):
    assert cli.main(["theory", "derive", "--tau", "-1/2"]) == 0
    plain = capsys.readouterr().out
    assert "d = 2 + x·((-1 + β)/(1 + β) - γ/2) - 2·β" in plain
    assert cli.main(["theory", "derive", "--latex", "--method", "nesterov"]) == 0
    latex = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("%")]
    assert latex[5] == r"S|_{x=0} = \left(1 - z\right) \left(1 - \beta z\right) \left(1 - \beta^{2} z\right)"
    assert all(line.count("{") == line.count("}") and line.isascii() for line in latex)
    assert cli.main(["theory", "derive", "--tau", "much"]) == 2
    assert capsys.readouterr().err == "sgdsim theory: error: tau: expected a number such as 1, -1 or 1/2, got 'much'\n"


def test_printing():
    assert printing.plain(X**2 * BETA >= 1) == "β·x² ≥ 1"
    assert printing.plain(sp.gamma(NU) * GAMMA) == "γ·Γ(ν)"
    assert printing.parsable(sp.gamma(NU) * GAMMA) == "gamma*Gamma(nu)"


def test_derivation_stands_alone():
    """Sympy and the input checks are all it loads, so it runs where the rest of the package cannot."""
    code = (
        "import sys; from sgdsim.symbolic.derive import derive; derive('nesterov');"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'scipy', 'numba', 'z3')"
        " or m.startswith('sgdsim.') and m.count('.') == 1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['sgdsim._moved', 'sgdsim.common', 'sgdsim.symbolic']"
