"""The derived generating functions against the recurrence they were derived from, in numbers.

`check` takes S, u and v as computer algebra left them, divides the polynomials as power series in z, and solves the
renewal equation that `s̃ = Ṽ/(1 − zŨ)` stands for. Beside it, the same losses by stepping the second moments. The two
ways share the update rule and nothing else, so rounding is all that may tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp

from sgdsim.common.checks import integer
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import contour
from sgdsim.symbolic import asymptotics
from sgdsim.symbolic.algebra import BETA, G, X, Z
from sgdsim.symbolic.asymptotics import AMPLITUDE, GAMMA, KAPPA, NU, SCALE, U1, V1, A, T
from sgdsim.symbolic.derive import Derivation, derive
from sgdsim.theory import power_law


@dataclass(frozen=True, eq=False)
class SeriesCheck:
    """Losses `L_t` of one update rule, t = 0 … n_steps, found in independent ways; each (n_steps + 1,).

    Parameters
    ----------
    stepped : the second moments, step by step with the derived matrix.
    series : coefficients of z^t in the derived `Ṽ/(1 − zŨ)`.
    contour : by the contour integral that the library uses, or None where that does not know the update rule.
    """

    method: str
    steps: np.ndarray
    stepped: np.ndarray
    series: np.ndarray
    contour: np.ndarray | None

    @property
    def series_error(self) -> np.ndarray:
        """(n_steps + 1,) relative difference between series and stepping."""
        return np.abs(self.series / self.stepped - 1)

    @property
    def contour_error(self) -> np.ndarray | None:
        """(n_steps + 1,) relative difference between contour and stepping, or None."""
        return None if self.contour is None else np.abs(self.contour / self.stepped - 1)


def check(
    problem: QuadraticProblem,
    *,
    lr: float,
    momentum: float,
    noise: float,
    tau: float = 1.0,
    method: str = "heavy-ball",
    n_steps: int = 300,
) -> SeriesCheck:
    """Losses from the derived generating functions and from stepping; InputError for a method that has none."""
    derivation, n_steps = derive(method), integer("n_steps", n_steps, minimum=1)
    counts = problem.spectrum.counts
    x, c, g = lr * problem.eigenvalues, problem.coefficients**2, noise * tau
    stepped = _stepped(derivation, x, counts, c, momentum, noise, g, n_steps)
    series = _series(derivation, x, counts, c, momentum, noise, g, n_steps)
    steps, scale, inverted = np.arange(n_steps + 1), 2 * problem.n, None
    if method == "heavy-ball":
        inverted = contour.loss_at(
            problem, steps, lr=lr, momentum=momentum, noise=noise, tau=tau, method="contour"
        ).loss
    return SeriesCheck(method, steps, stepped / scale, series / scale, inverted)


def _stepped(d: Derivation, x, counts, c, momentum, noise, g, n_steps) -> np.ndarray:
    """s_t by `m' = Am + γx² s qqᵀ` for every mode; A holds the closure's own −g x² c."""
    q1, q2 = d.noise_direction
    step = sp.lambdify((X, BETA, G), list(d.moments_map), "numpy")(x, momentum, g)
    matrix = np.array([np.broadcast_to(entry, x.shape) for entry in step]).reshape(3, 3, x.size)
    unit = np.array([float(e.subs(BETA, momentum)) for e in (q1 * q1, q1 * q2, q2 * q2)])
    m = np.array([c, 0 * c, 0 * c])
    out = [m[0].sum()]
    for _ in range(n_steps):
        m = np.einsum("ijk,jk->ik", matrix, m) + noise * unit[:, None] * counts * x**2 * out[-1]
        out.append(m[0].sum())
    return np.array(out)


def _series(d: Derivation, x, counts, c, momentum, noise, g, n_steps) -> np.ndarray:
    """s_t from `s̃ = Ṽ + zŨs̃`, coefficient by coefficient."""
    below = _coefficients(d.S, x, momentum, g)
    noises = _quotient(_coefficients(d.u, x, momentum, g), below, n_steps) @ (noise * counts * x**2)
    signal = _quotient(_coefficients(d.v, x, momentum, g), below, n_steps) @ c
    out = np.empty(n_steps + 1)
    for t in range(n_steps + 1):
        out[t] = signal[t] + noises[:t] @ out[:t][::-1]
    return out


def _coefficients(polynomial: sp.Expr, x: np.ndarray, momentum: float, g: float) -> np.ndarray:
    """(degree + 1, modes) coefficients of 1, z, z², …"""
    rising = sp.Poly(polynomial, Z).all_coeffs()[::-1]
    values = sp.lambdify((X, BETA, G), rising, "numpy")(x, momentum, g)
    return np.array([np.broadcast_to(value, x.shape) for value in values], dtype=np.float64)


def _quotient(above: np.ndarray, below: np.ndarray, n_steps: int) -> np.ndarray:
    """(n_steps + 1, modes) power series of above/below, by long division."""
    out = np.zeros((n_steps + 1, below.shape[1]))
    out[: len(above)] = above
    for t in range(n_steps + 1):
        for i in range(1, min(t, len(below) - 1) + 1):
            out[t] -= below[i] * out[t - i]
        out[t] /= below[0]
    return out


@dataclass(frozen=True)
class LawCheck:
    """The derived late-time law of one spectrum: `constant · t^{−exponent}` for L, and the exact loss at `step`."""

    phase: str
    exponent: float
    constant: float
    step: int
    exact: float

    @property
    def ratio(self) -> float:
        """Law over exact loss."""
        return self.constant * self.step**-self.exponent / self.exact


def law_check(
    problem: QuadraticProblem,
    *,
    lr: float,
    momentum: float,
    noise: float,
    step: int,
    law: power_law.PowerLaw | None = None,
) -> LawCheck:
    """The law that `derive()` finds for heavy ball (τ = 1), with this problem's numbers put in, at one step.

    Ũ(1) and Ṽ(1) are the sums of the derived terms over this spectrum. `law`: None takes `PowerLaw.of(problem)`.
    """
    d = derive().at_tau(1)
    law = power_law.PowerLaw.of(problem) if law is None else law
    counts = problem.spectrum.counts
    x, c = lr * problem.eigenvalues, problem.coefficients**2
    at_one = sp.lambdify((X, BETA, GAMMA), [d.noise_at_one, d.signal_at_one], "numpy")(x, momentum, noise)
    values = {
        U1: noise * float(np.sum(counts * at_one[0])),
        V1: float(np.sum(c * at_one[1])),
        A: lr / (1 - momentum),
        GAMMA: noise,
        NU: law.nu,
        KAPPA: law.kappa,
        SCALE: law.Lambda,
        AMPLITUDE: law.A,
    }
    phase = str(power_law.phase(law.nu, law.zeta))
    formula = d.signal_law if phase == power_law.SIGNAL else d.noise_law
    exponent = float(asymptotics.exponent(formula).subs(values))
    constant = float(formula.subs({**values, T: 1})) / (2 * problem.normaliser)
    exact = contour.loss_at(problem, step, lr=lr, momentum=momentum, noise=noise).loss
    return LawCheck(phase, exponent, constant, int(step), float(exact))
