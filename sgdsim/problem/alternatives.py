"""Other problems that fit what is known of a kernel by Lanczos quadrature as well, and how far losses differ on them.

M Lanczos steps from the residual give 2M moments of its spectral measure. Gauss's quadrature, the problem itself, makes
the least of what they leave open at small eigenvalues: for `Σ c_k (1 − αλ_k)^{2t}` it is a lower bound. Gauss–Radau's
with a node at 0 makes the most of it, an upper bound (Golub & Meurant 2010, ch. 6). Late in a run the two part: that
is where the moments say nothing more. Every probe of the other eigenvalues gets a node below its least one too. That
the probes are random is told by leaving out one of them at a time (jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from scipy.special import stdtrit

from sgdsim.problem import lanczos

if TYPE_CHECKING:
    from sgdsim.problem.quadratic import QuadraticProblem
    from sgdsim.problem.spectrum import Spectrum

_BELOW = 0.3  # place of a probe's extra node, in units of its least one
_ROUNDING = 1e-15  # of eigenvalues

#: Nodes and weights of a quadrature.
_Rule = tuple[np.ndarray, np.ndarray]


def alternatives(problem: QuadraticProblem) -> tuple[QuadraticProblem, ...]:
    """First the problem with Gauss–Radau's quadratures, then those without one of the probes each; where there are no
    two probes, that without any of them. Empty for a problem that is not known by Lanczos quadrature."""
    spectrum, c = problem.spectrum, problem.coefficients**2
    counts = spectrum.multiplicity
    if counts is None or spectrum.size is not None or (c[counts > 0] > 0).any():
        return ()
    random = counts % 1 != 0 if spectrum.probe is None else spectrum.probe > 0
    of_residual, exact = counts == 0, (counts > 0) & ~random
    if spectrum.probe is not None:
        of_residual &= ~random
    values = spectrum.eigenvalues
    fixed: _Rule = (values[exact], counts[exact])
    residual: _Rule = (values[of_residual], c[of_residual])
    probes = _probes(spectrum, random)

    def made(rules: Sequence[_Rule], on: _Rule) -> QuadraticProblem:
        total = sum(float(weights.sum()) for _, weights in rules)
        share = counts[random].sum() / total if total else 1.0
        return _problem(problem, [fixed, *((nodes, weights * share) for nodes, weights in rules)], on)

    # fewer nodes than steps: the Krylov space came to its end, and its quadrature is exact
    steps = _steps(problem)
    lowered = [_radau(rule, _BELOW * rule[0].min()) if rule[0].size >= steps else rule for rule in probes]
    raised = _radau(residual, 0.0) if steps <= residual[0].size < spectrum.n_eigenvalues else residual
    others = [[*probes[:i], *probes[i + 1 :]] for i in range(len(probes))] if len(probes) > 1 else []
    if len(probes) == 1:
        others = [[(np.zeros(1), np.ones(1))]]
    return (made(lowered, raised), *(made(rules, residual) for rules in others))


def relative_error(loss: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Of `loss`, from those of the `alternatives`: what quadratures leave open, and half of what the probes' scatter
    allows (a 98% interval, as the scatter of few is skewed). NaN where the loss is infinite, infinite where it is
    nothing beside another."""
    with np.errstate(all="ignore"):
        bound, *without = (np.abs(other / loss - 1) for other in others)
        error = bound
        if len(without) == 1:
            error = bound + without[0]
        elif without:
            n = len(without)
            spread = np.std([other / loss for other in others[1:]], axis=0) * math.sqrt(n - 1)
            error = bound + spread * stdtrit(n - 1, 0.99) / 2
        error = np.where(np.isnan(error), np.inf, error)
        same = np.all([other == loss for other in others], axis=0)
    return np.where(np.isfinite(loss), np.where(same, 0.0, error), np.nan)


def _steps(problem: QuadraticProblem) -> int:
    """Lanczos steps of each probe, and of the residual; 0 where that is not known."""
    probe = problem.spectrum.probe
    return 0 if probe is None or not probe.any() else int(np.unique(probe[probe > 0], return_counts=True)[1].max())


def _probes(spectrum: Spectrum, random: np.ndarray) -> list[_Rule]:
    """The quadrature of each probe; all in one where it is not known which is whose."""
    if not random.any():
        return []
    of = np.ones(random.size) if spectrum.probe is None else spectrum.probe
    held = random & (spectrum.counts > 0)
    return [
        (spectrum.eigenvalues[mine], spectrum.counts[mine])
        for number in np.unique(of[held])
        for mine in [held & (of == number)]
    ]


def _radau(rule: _Rule, at: float) -> _Rule:
    """The rule with as many nodes, one of them `at` a place below the others, of the same 2m − 2 first moments; the
    rule itself where it is all of its measure."""
    nodes, weights = rule
    kept = weights > 0
    if kept.sum() < 2:
        return rule
    diagonal, off, _ = lanczos.tridiagonal(np.diag(nodes[kept]), np.sqrt(weights[kept]), nodes.size)
    if diagonal.size < nodes.size or scipy.linalg.eigvalsh_tridiagonal(diagonal[:-1], off[:-1])[0] < at + _ROUNDING:
        return rule
    last = np.zeros(off.size)
    last[-1] = off[-1] ** 2
    inner, sides = diagonal[:-1] - at, off[:-1]
    bands = np.array([np.append(0.0, sides), inner, np.append(sides, 0.0)])
    diagonal[-1] = at + scipy.linalg.solve_banded((1, 1), bands, last)[-1]
    found, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off)
    return np.clip(found, 0.0, 1.0), vectors[0] ** 2 * weights.sum()


def _problem(problem: QuadraticProblem, rules: Sequence[_Rule], residual: _Rule) -> QuadraticProblem:
    """A problem with the eigenvalues of `rules`, and c of `residual`."""
    values = np.concatenate([*(nodes for nodes, _ in rules), residual[0]])
    counts = np.concatenate([*(weights for _, weights in rules), np.zeros(residual[0].size)])
    c = np.concatenate([np.zeros(values.size - residual[0].size), residual[1]])
    order = np.argsort(-values, kind="stable")
    spectrum = replace(problem.spectrum, eigenvalues=values[order], multiplicity=counts[order], probe=None)
    return replace(problem, spectrum=spectrum, coefficients=np.sqrt(c[order]))
