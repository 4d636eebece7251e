"""Does the late-time law of a fitted spectrum describe the loss? If not, what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.common.jsonable import jsonable
from sgdsim.common.table import Cell, Table
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.problem.fits import PowerLawFit, fit_power_law
from sgdsim.recurrence import contour
from sgdsim.studies.base import Findings
from sgdsim.theory import power_law


@dataclass(frozen=True, eq=False, repr=False)
class Asymptote(Findings):
    """A problem's fitted power law and what follows from it for one run.

    Parameters
    ----------
    problem, sgd : the run.
    fit : of the spectrum; its point estimates make the law.
    prediction : the law beside the exact curve; None where the fit gives no law (`reason`).
    reason : why there is no law, or why it should not be relied on; empty where it holds.
    steps, loss : the exact curve of the spectral-diagonal theory, (T,) each.
    cutoff : t beyond which the loss falls exponentially, None for one that grows.
    """

    problem: QuadraticProblem
    sgd: SGD
    fit: PowerLawFit
    prediction: power_law.Prediction | None
    reason: str
    steps: np.ndarray
    loss: np.ndarray
    cutoff: float | None

    @property
    def holds(self) -> bool:
        """Whether the law is within 10% of the exact curve for half a decade at least."""
        return self.prediction is not None and self.prediction.window is not None

    def as_dict(self) -> dict[str, object]:
        """Everything but the problem, of which the description, as JSON holds it."""
        described = {"problem": self.problem.description, "fit": self.fit.as_dict()}
        return {name: jsonable(described.get(name, value)) for name, value in vars(self).items()}

    def table(self) -> Table:
        """The fitted exponents with their intervals, the law, and where it holds."""
        fits = (("ν", self.fit.nu), ("κ", self.fit.kappa), ("ζ", self.fit.zeta))
        rows: list[list[Cell]] = [
            [symbol, *((None,) * 3 if estimate is None else vars(estimate).values())] for symbol, estimate in fits
        ]
        law = self.prediction
        rows.append(["exponent of the loss", None if law is None else law.exponent, None, None])
        low, high = (None, None) if law is None or law.window is None else law.window
        rows.append(["law within 10% from step, to step", None, low, high])
        return Table(["", "value", "low", "high"], rows, "lr")


def asymptote(problem: Problem, sgd: SGD, *, tau: float = 1.0, horizon: float = 1e6) -> Asymptote:
    """Fit the spectrum and predict the loss from the fitted constants; the exact curve reaches to `horizon` at most.

    Raises InputError for schedules, reshuffled epochs, and spectra that are too short to fit.
    """
    problem.check_squared("asymptote")
    quadratic = problem.quadratic
    sgd.pull(None)  # refuses weight decay
    fit = fit_power_law(quadratic)
    prediction, reason = None, ""
    try:
        law = power_law.PowerLaw.of(quadratic)
    except InputError:
        reason = "the fitted ν or κ is not above 0"
    else:
        prediction = power_law.predict(quadratic, sgd, law, tau=tau, horizon=horizon)
        if prediction.exponent is None:
            reason = "unstable" if not prediction.stable else f"ν = {law.nu:.2f} ≤ 1: {prediction.phase}"
            prediction = None
        elif prediction.window is None:
            low = "; κ may be 0" if fit.kappa is not None and fit.kappa.low <= 0 else ""
            reason = f"nowhere within {prediction.within:.0%} of the exact loss{low}"
    if prediction is not None:
        curve = prediction.steps, prediction.loss, prediction.cutoff
        return Asymptote(quadratic, sgd, fit, prediction, reason, *curve)
    lr, momentum, noise = cast(float, sgd.lr), cast(float, sgd.momentum), quadratic.noise(sgd)
    rate = float(contour.rate(quadratic, lr=lr, momentum=momentum, noise=noise, tau=tau))
    cutoff = 1 / abs(rate) if rate < 0 else None
    steps = np.unique(np.geomspace(1, min(horizon, 40 * (cutoff or 1.0) + 100), 241).round())
    loss = contour.loss_at(quadratic, steps, lr=lr, momentum=momentum, noise=noise, tau=tau).loss
    return Asymptote(quadratic, sgd, fit, None, reason, steps, loss, cutoff)
