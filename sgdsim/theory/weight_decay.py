"""Weight decay: the mean's path, where it ends, and the best one for the loss at a given step.

`torch.optim.SGD(weight_decay=ω)` pulls parameters to 0; at full batch the linear model ends at kernel ridge regression,
`f = Θ(x, X)(Θ + ωN)⁻¹y`. In mode k, with ω in units of the curvature (`Problem.pull`), residuals end at
`r*_k = ω/(λ_k + ω) r_ok`, r_o being those of the model at parameters 0, and differ from that by what heavy ball, or
another method, makes of eigenvalues λ_k + ω. Mini-batch noise does not vanish there, so that the loss ends above it:
`floor`. Where a run is stable: `stability` and `verdicts`, which know weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.problem import Problem
from sgdsim.recurrence import linear as stepped
from sgdsim.theory import linear

_NAMES = ("loss", "test_loss")
_RANGE = 1e-8, 10.0  # of weight decay that is tried, in units of the curvature
_TRIED = 25  # values in a row, a decade apart by about three
_MOST = 10**18  # points of a full batch, where there is no end of them
_FINE = 1e-4  # of the best one's logarithm


@dataclass(frozen=True)
class Losses:
    """`loss`, and `test_loss` where the problem has test points, else None; a number each, or (T,)."""

    loss: float | np.ndarray
    test_loss: float | np.ndarray | None


@dataclass(frozen=True)
class BestDecay:
    """`weight_decay`: the best one, in torch's units, 0 where none helps; `value`: the loss with it; `without`: that
    with none; `at_edge`: whether it is the largest that was tried."""

    weight_decay: float
    value: float
    without: float
    at_edge: bool


def ridge(problem: Problem, weight_decay: float) -> Losses:
    """Of kernel ridge regression with the penalty ½ω‖w‖² on the loss, (Θ + ωN)⁻¹: where full batches end, whatever the
    method. Of a problem without an origin it is the penalty on the way from the start.

    Raises
    ------
    InputError : ω < 0, or a population or an infinite spectrum with test points, which has none.
    """
    sgd = SGD(1.0, weight_decay=number("weight_decay", weight_decay, minimum=0.0))
    quadratic, pull = problem.quadratic_for(sgd), problem.pull(sgd)
    lam, a = quadratic.eigenvalues, quadratic.coefficients if quadratic.signed is None else quadratic.signed
    moving = quadratic.spectrum.moving
    left = pull / (lam + pull) if pull else np.where(moving, 0.0, 1.0)
    end = (left * (a if quadratic.origin is None else quadratic.origin).T).T
    loss = float((end**2).sum()) / (2 * problem.normaliser)
    if quadratic.test is None:
        return Losses(loss, None)
    gone = float(pull > 0)
    outputs = quadratic.by_output() if quadratic.signed is not None else (quadratic,)
    each = [one.test_loss(part, gone=gone) for one, part in zip(outputs, np.atleast_2d(end.T), strict=True)]
    return Losses(loss, float(np.sum(each)))


def floor(problem: Problem, sgd: SGD, tau: float = 1.0) -> linear.Floor:
    """Where the loss ends, with the noise of mini-batches and of labels, by the spectral-diagonal closure.

    `linear.floor` with the point to which `sgd` pulls on this problem; raises InputError as that.
    """
    return linear.floor(problem.quadratic_for(sgd), sgd, tau)


def mean_path(problem: Problem, sgd: SGD, steps: np.ndarray | list[int]) -> Losses:
    """Losses of the mean residuals at ascending `steps`, (T,): those of full batches, which have no noise.

    Raises InputError for schedules that end before, and for gradient rules.
    """
    times = [integer("steps", step) for step in np.atleast_1d(steps).tolist()]
    if sorted(times) != times:
        raise InputError(f"steps: expected ascending numbers, got {times[:5]}")
    full = int(min(problem.n, _MOST))
    return _followed(
        problem, replace(sgd, batch_size=full, sampling="without-replacement", label_noise=0.0), times, 1.0
    )


def best(
    problem: Problem, sgd: SGD, n_steps: int, *, observe: str = "test_loss", tau: float | None = None
) -> BestDecay:
    """The weight decay with the least test loss, or training loss, after `n_steps` steps; `sgd.weight_decay` itself is
    not looked at.

    The loss is that of the spectral-diagonal regime with closure `tau`; of the mean alone, without noise, where that is
    None. Looked for among 25 values from 10⁻⁸ to 10 in units of the largest curvature, and refined about the best: a
    loss with several minima closer together may have a lower one.

    Raises
    ------
    InputError : no test points, an unknown loss, or an algorithm that the diagonal regime does not follow.
    """
    choice("observe", observe, _NAMES)
    if observe == "test_loss" and not problem.has_test:
        raise InputError("observe: test_loss needs a problem with test points, got one without")
    n_steps, unit = integer("n_steps", n_steps, minimum=1), problem.quadratic.torch_lr(1.0)

    def value(decay: float) -> float:
        tried = replace(sgd, weight_decay=decay / unit)
        path = mean_path(problem, tried, [n_steps]) if tau is None else _followed(problem, tried, [n_steps], tau)
        found = float(np.ravel(getattr(path, observe))[-1])
        return found if np.isfinite(found) else np.inf

    without, tried = value(0.0), np.geomspace(*_RANGE, _TRIED)
    values = np.array([value(decay) for decay in tried])
    at = int(values.argmin())
    if not values[at] < without:
        return BestDecay(0.0, without, without, False)
    near = np.log(tried[[max(at - 1, 0), min(at + 1, _TRIED - 1)]])
    found = scipy.optimize.minimize_scalar(
        lambda log: value(np.exp(log)), bounds=tuple(near), method="bounded", options={"xatol": _FINE}
    )
    decay, least = (np.exp(found.x), float(found.fun)) if found.fun < values[at] else (tried[at], values[at])
    return BestDecay(float(decay) / unit, float(least), without, at == _TRIED - 1)


def _followed(problem: Problem, sgd: SGD, times: list[int], tau: float) -> Losses:
    """By steps of the spectral-diagonal system of each output, at ascending times."""
    quadratic, test = problem.quadratic_for(sgd), problem.has_test
    parts = quadratic.by_output() if quadratic.signed is not None else (quadratic,)
    runs, now = [stepped.Diagonal(one, sgd, tau, test) for one in parts], 0
    found: dict[str, list[float]] = {name: [] for name in _NAMES[: 1 + test]}
    with np.errstate(over="ignore", invalid="ignore"):
        for time in times:
            for run in runs:
                run.advance(now, time)
            now = time
            seen = [run.observe(tuple(found)) for run in runs]
            for name, values in found.items():
                values.append(float(np.sum([one[name] for one in seen])))
    return Losses(np.array(found["loss"]), np.array(found["test_loss"]) if test else None)
