"""Tables of what theory says, and derived formulas as mathematics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import choice
from sgdsim.notebook.tables.frames import Frame
from sgdsim.problem import QuadraticProblem

if TYPE_CHECKING:
    from sgdsim.studies.phase_maps import ClampedMomentum, ExponentMap, MomentumMap
    from sgdsim.symbolic.derive import Derivation
    from sgdsim.symbolic.series import LawCheck, SeriesCheck
    from sgdsim.theory.optimal import Optimum


class Formulas:
    """Lines of a derivation; notebooks show them as mathematics, `print` as plain text."""

    def __init__(self, lines: Sequence[tuple[str, str, str]]) -> None:
        self.lines = list(lines)  # meaning, LaTeX, plain text

    def __str__(self) -> str:
        return "\n".join(f"{meaning}\n    {plain}" for meaning, _, plain in self.lines)

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return "\n\n".join(f"*{meaning}*\n\n$$ {formula} $$" for meaning, formula, _ in self.lines)


def formulas(derivation: Derivation, *keys: str) -> Formulas:
    """The lines of `derivation.formulas()` named by `keys`, in that order; all of them where none are named.

    Raises InputError for an unknown key.
    """
    from sgdsim.symbolic.printing import latex, plain

    have = {f.key: f for f in derivation.formulas()}
    chosen = [have[choice("formula", key, have)] for key in keys] or list(have.values())
    return Formulas(
        [
            (f.meaning, f"{f.latex} {f.relation} {latex(f.right)}", f"{f.left} {f.relation} {plain(f.right)}")
            for f in chosen
        ]
    )


def series(checks: Sequence[SeriesCheck]) -> Frame:
    """How far losses from the derived generating functions are from stepping: the worst relative difference.

    The contour is compared from step 40 on, where it begins.
    """
    rows = [
        {
            "update rule": check.method,
            "steps": int(check.steps[-1]),
            "loss at the end": check.stepped[-1],
            "series against stepping": check.series_error.max(),
            "contour against stepping": math.nan if (error := check.contour_error) is None else error[40:].max(),
        }
        for check in checks
    ]
    return Frame(rows).set_index("update rule")


def laws(checks: Mapping[str, LawCheck]) -> Frame:
    """Derived late-time laws beside exact losses."""
    rows = {
        name: {
            "phase": check.phase,
            "exponent": check.exponent,
            "constant": check.constant,
            "step": check.step,
            "law": check.constant * check.step**-check.exponent,
            "exact": check.exact,
            "law / exact": check.ratio,
        }
        for name, check in checks.items()
    }
    return Frame.from_dict(rows, orient="index")


def proofs(effort: int | None = None) -> Frame:
    """The facts about both update rules that an SMT solver decides, each with its control, which must fail.

    `effort`: as for `sgdsim.symbolic.prove.check`; None for its default. Raises InputError if z3 is not installed.
    """
    from sgdsim.symbolic import printing, prove

    rows = []
    for result in prove.prove(effort=prove.EFFORT if effort is None else effort):
        values = result.control.values or {}
        at = ", ".join(f"{printing.plain(symbol)} = {value}" for symbol, value in values.items())
        rows.append(
            {
                "update rule": result.claim.method,
                "statement": result.claim.name,
                "verdict": result.answer.verdict,
                "control": f"{result.control.verdict} at {at}" if at else result.control.verdict,
            }
        )
    return Frame(rows).set_index("update rule")


def stability_levels(
    problem: QuadraticProblem,
    batch_sizes: Sequence[int],
    momenta: Sequence[float],
    *,
    tau: float = 1.0,
    exact: bool = True,
    tolerance: float = 1e-4,
) -> Frame:
    """The largest stable learning rate by each level of `sgdsim.theory.stability`, a row for each (b, β).

    "asymptote" is 2(1−β)/(γλ_crit), the spectral-diagonal limit at β → 1; NaN without noise. The exact level needs
    eigenvectors.
    """
    from sgdsim.theory import stability

    critical, rows = stability.critical_eigenvalue(problem, tau), []
    for b in batch_sizes:
        for beta in momenta:
            sgd = SGD(1.0, beta, b)
            gamma = problem.noise(sgd)
            noisy = gamma * critical > 0
            row = {
                "b": b,
                "β": beta,
                "full batch": stability.max_lr(problem, sgd, "full-batch"),
                "spectral-diagonal": stability.max_lr(problem, sgd, tau=tau),
                "asymptote": 2 * (1 - beta) / (gamma * critical) if noisy else math.nan,
            }
            if exact:
                row["exact"] = stability.max_lr(problem, sgd, "exact", tolerance=tolerance)
            rows.append(row)
    return Frame(rows).set_index(["b", "β"])


def exact_points(levels: Frame) -> list[tuple[int, float, float]]:
    """(batch size, momentum, exact threshold) of every row of `stability_levels`, as `ss.plot.stability_map` takes."""
    return [(int(b), float(beta), float(lr)) for (b, beta), lr in levels["exact"].items()]


def size_dependence(nus: Sequence[float], sizes: Sequence[int], *, kappa: float, batch_size: int = 1) -> Frame:
    """The largest stable learning rate (spectral-diagonal, β = 0) of power-law spectra: a row for each ν, a column for
    each N. It has a limit for ν > 1 and falls to 0 otherwise."""
    from sgdsim.theory import stability

    sgd = SGD(1.0, 0.0, batch_size)
    rows = {
        nu: {f"N = {n}": stability.max_lr(QuadraticProblem.power_law(n, nu, kappa), sgd) for n in sizes} for nu in nus
    }
    return Frame.from_dict(rows, orient="index").rename_axis("ν")


def exponent_errors(found: ExponentMap, edges: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)) -> Frame:
    """How far measured exponents are from predicted ones, by distance |ζ − (2 − 1/ν)| from the transition and phase."""
    return Frame(found.table(edges).frame()).set_index(["phase", "distance"])


def optima(found: Mapping[str, Optimum]) -> Frame:
    """Optima of `sgdsim.theory.optimal.best`, a row each."""
    rows = {
        name: {
            "horizon": "late times" if best.horizon is None else f"{best.horizon:g}",
            "α*": best.lr,
            "β*": best.momentum,
            "α at β = 0": best.plain_lr,
            "gain over β = 0": best.gain,
        }
        for name, best in found.items()
    }
    return Frame.from_dict(rows, orient="index")


def momentum_signs(found: MomentumMap) -> Frame:
    """On how many spectra the best momentum is negative, and the condition for it holds, in either phase."""
    return Frame(found.table().frame()).set_index("phase").rename_axis(None)


def clamped(found: ClampedMomentum) -> Frame:
    """β* for each λ_min (rows) and horizon (columns), and the time after which the loss falls exponentially."""
    frame = Frame(found.table().frame())
    return frame.assign(**{"λ_min": [f"{value:g}" for value in found.floors]}).set_index("λ_min")
