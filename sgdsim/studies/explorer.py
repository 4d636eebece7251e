"""What the explorer shows for one setting: the exact curve, its law, and where a power-law spectrum is stable."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import integer, number
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.theory import power_law, stability

if TYPE_CHECKING:
    pass


DEFAULTS = {"nu": 1.5, "kappa": 3.0, "lr": 0.2, "momentum": 0.0, "batch_size": 1}


BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


_HORIZON = 1e8


@dataclass(frozen=True, eq=False)
class View:
    """What the explorer shows for one setting.

    Parameters
    ----------
    lr, momentum, batch_size, n : the setting. `stable`: by the spectral-diagonal theory (τ = 1).
    max_lr : the largest stable learning rate at this momentum and batch size. `initial_loss`: before any step.
    law, prediction : the power law and what it predicts, with the exact curve.
    momenta, bound, full_batch, asymptote : (M,) boundaries of the stable region; asymptote None without noise.
    """

    lr: float
    momentum: float
    batch_size: int
    n: int
    stable: bool
    max_lr: float
    initial_loss: float
    law: power_law.PowerLaw
    prediction: power_law.Prediction
    momenta: np.ndarray
    bound: np.ndarray
    full_batch: np.ndarray
    asymptote: np.ndarray | None

    @property
    def headline(self) -> str:
        """A few words for the picture."""
        if not self.stable:
            return f"UNSTABLE: α ≥ {self.max_lr:.3g}"
        found = self.prediction
        return found.phase if found.exponent is None else f"{found.phase}: L ∝ t^(−{found.exponent:.3g})"

    @property
    def summary(self) -> str:
        """One line: stable or not, and the law."""
        limit = f"α = {self.lr:.3g}, stable below {self.max_lr:.3g}"
        if not self.stable:
            return f"UNSTABLE: the loss grows like exp({self.prediction.rate:.3g}·t) ({limit})".replace("(-", "(−")
        found = self.prediction
        if found.exponent is None:
            return f"stable at this N, {found.phase} as N grows: no law ({limit})"
        return f"stable ({limit}); {found.phase}: L ≈ {found.constant:.3g} · t^−{found.exponent:.3g}"


@functools.lru_cache(maxsize=64)
def _spectrum(n: int, nu: float, kappa: float) -> tuple[QuadraticProblem, power_law.PowerLaw]:
    """The spectrum on few modes, and its law."""
    problem = QuadraticProblem.power_law(n, nu, kappa)
    return compression.sketch(problem), power_law.PowerLaw.of(problem)


def view(nu: float, kappa: float, lr: float, momentum: float, batch_size: int, *, n: int = 10_000) -> View:
    """Everything the explorer draws for one setting, from the contour evaluator.

    Raises InputError for exponents or a learning rate that are not positive, |β| ≥ 1 or a batch that N cannot fill.
    """
    n, batch_size = integer("n", n, minimum=2), integer("batch_size", batch_size, minimum=1)
    problem, law = _spectrum(n, number("nu", nu), number("kappa", kappa))
    sgd = SGD(lr, momentum, batch_size)
    gamma = problem.noise(sgd)
    found = power_law.predict(problem, sgd, law, horizon=_HORIZON)
    momenta = np.tanh(np.linspace(-3.2, 3.8, 121))
    bound = stability.diagonal_max_lr(problem, momentum=momenta, noise=gamma)
    critical = stability.critical_eigenvalue(problem)
    asymptote = 2 * (1 - momenta) / (gamma * critical) if gamma * critical > 0 else None
    return View(
        float(lr),
        float(momentum),
        batch_size,
        n,
        found.stable,
        stability.max_lr(problem, sgd),
        problem.initial_loss,
        law,
        found,
        momenta,
        bound,
        2 * (1 + momenta),
        asymptote,
    )
