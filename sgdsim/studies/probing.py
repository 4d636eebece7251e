"""Does the real network follow theory at a recommended setting? Some real steps there, and at lower ones if not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import integer
from sgdsim.common.jsonable import finite_or_none
from sgdsim.common.shown import Shown
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short, tuned
from sgdsim.problem import NetworkProblem
from sgdsim.recurrence import contour
from sgdsim.regimes import SpectralDiagonal
from sgdsim.regimes.base import Regime
from sgdsim.runs.follow import has_diverged
from sgdsim.runs.simulation import simulate
from sgdsim.studies.base import Findings
from sgdsim.studies.verification import Trained, compared_points
from sgdsim.theory import stability, thresholds

RUNS = 3  # batch sequences
LEAST, MEMORIES = 50, 4  # steps: so many, and so many times 1/(1 − β), in which momentum builds up
HIGHER, HIGHEST = 1.5, 2.0  # times the predicted loss up to which the runs, and each of them, are said to follow it
WITHIN = 0.9  # of the largest stable learning rate up to which α·λ_t/λ_0 may go
SETTINGS = 6  # that are tried, at most
_LOOKS, _CURVED = 12, 3  # times at which the loss is looked at, and every which of them λ_max
_WORK = 1e12  # parameters × points of all batches in a probe: some seconds
_LOWER = (2.0, 4.0, 16.0)  # by what rate, or 1 − β, is changed
_FRACTIONS = np.array([1.0, 0.7, 0.5, 0.35, 0.25, 0.12])  # of the largest learning rate that is looked at


@dataclass(frozen=True, repr=False)
class Probed(Shown):
    """A setting that was tried on the network.

    Parameters
    ----------
    lr, momentum : α in units of 1/λ_max of the first kernel, and β.
    predicted : its loss at the horizon by theory (spectral-diagonal).
    steps : taken.
    growth : the largest λ_max(Θ_t)/λ_max(Θ_0) seen in any run, on at most 200 training points; NaN where torch cannot
        tell it (an operation without a second derivative), and then the loss alone decides.
    limit : the largest stable learning rate at this momentum, of the first kernel.
    ratios : (RUNS,) each run's loss over that predicted, geometric mean over the later half of the steps.
    """

    lr: float
    momentum: float
    predicted: float
    steps: int
    growth: float
    limit: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Geometric mean of `ratios`; infinite where a run diverged."""
        return float(np.exp(np.mean(np.log(self.ratios)))) if all(map(math.isfinite, self.ratios)) else math.inf

    @property
    def reached(self) -> float:
        """α·growth as a share of `limit`."""
        return self.lr * self.growth / self.limit

    @property
    def accepted(self) -> bool:
        """Whether the network follows theory here: no loss far above it, and curvature well within the limit."""
        return self.ratio <= HIGHER and max(self.ratios) <= HIGHEST and not self.reached > WITHIN

    @property
    def diverged(self) -> int:
        """Runs whose loss became infinite."""
        return sum(not math.isfinite(ratio) for ratio in self.ratios)

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it; None: infinite."""
        names = ("lr", "momentum", "predicted", "growth", "limit", "ratio", "reached")
        facts: dict[str, object] = {name: finite_or_none(getattr(self, name)) for name in names}
        facts |= {"ratios": [finite_or_none(ratio) for ratio in self.ratios]}
        return {"steps": self.steps, **facts, "diverged": self.diverged, "accepted": self.accepted}


@dataclass(frozen=True)
class Probe(Findings):
    """What real steps said: the settings `tried`, theory's own first and an accepted one last, whether Ctrl-C
    (`interrupted`) ended it."""

    tried: tuple[Probed, ...]
    horizon: int
    interrupted: bool = False

    @property
    def chosen(self) -> Probed | None:
        """The one that the network follows; None: none of them."""
        return self.tried[-1] if self.tried and self.tried[-1].accepted else None

    @property
    def lowered(self) -> bool:
        """Whether that is another one than theory's."""
        return self.chosen is not None and len(self.tried) > 1

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        chosen = None if self.chosen is None else len(self.tried) - 1
        facts: dict[str, object] = {"accepted": self.chosen is not None, "chosen": chosen, "lowered": self.lowered}
        facts |= {"tried": [each.as_dict() for each in self.tried], "runs": RUNS}
        return facts | {"interrupted": self.interrupted}

    def table(self) -> Table:
        """Setting by setting; reached: lr·λ_max(Θ_t)/λ_max(Θ_0) over the largest stable learning rate."""
        headers = [
            "tried on the network",
            "lr",
            "momentum",
            "steps",
            "λ_max grew",
            "of the limit",
            "loss/predicted",
            "",
        ]
        rows: list[list[Cell]] = []
        for i, each in enumerate(self.tried):
            ratio = f"×{short(each.ratio)}" if not each.diverged else f"diverged {each.diverged}/{RUNS}"
            row: list[Cell] = ["" if i else "theory's best", each.lr, tuned(each.momentum), str(each.steps)]
            row += [f"×{short(each.growth)}", share(each.reached), ratio, "follows" if each.accepted else "does not"]
            rows.append(row)
        return Table(headers, rows, "lr")


def share(part: float) -> str:
    """A share of the stability limit in words; "-" where it is not known."""
    return "-" if math.isnan(part) else f"{part:.0%}"


def probe(
    problem: NetworkProblem,
    sgd: SGD,
    horizon: int,
    limit: float | None = None,
    *,
    tau: float = 1.0,
    seed: int = 0,
    heard: Callable[[], object] = lambda: None,
) -> Probe:
    """Train the network a little, at the setting `sgd` and at lower ones until it follows what theory predicts.

    A probe has max(50, 4/(1 − β)) steps, `horizon` at most, of the same three batch sequences; of a network so large
    that these take long, 50. It cannot tell what comes later. It is accepted where α·λ_max(Θ_t)/λ_max(Θ_0) stays
    within 90% of the largest stable learning rate, and the loss of the later half of the steps is at most 1.5 times
    that predicted in the geometric mean, at most twice in each run. Less loss is no reason to refuse: the network
    learns features, which theory does not. Else tried, 6 settings in all: the rate at half, a quarter and 1/16; and in
    turn with it, the one with less predicted loss first, momentum with 1 − β twice and four times as large, with the
    best rate within that limit over the growth that was seen.

    Parameters
    ----------
    sgd : plain heavy ball, or with weight decay.
    limit : the largest stable learning rate at its momentum; None: the spectral-diagonal one.
    heard : called after each setting.
    """
    horizon = integer("horizon", horizon, minimum=1)
    course = _Course(problem, sgd, horizon, tau, seed, limit)
    tried: list[Probed] = []
    try:
        tried.append(course.follow(cast(float, sgd.lr), cast(float, sgd.momentum)))
        heard()
        for lr, momentum in course.lower(tried):
            if tried[-1].accepted or len(tried) == SETTINGS:
                break
            tried.append(course.follow(lr, momentum))
            heard()
    except KeyboardInterrupt:
        return Probe(tuple(tried), horizon, interrupted=True)
    return Probe(tuple(tried), horizon)


@dataclass
class _Course:
    """What all probes of a problem share. `share`: the exact threshold over the spectral-diagonal one."""

    problem: NetworkProblem
    sgd: SGD
    horizon: int
    tau: float
    seed: int
    limit: float | None
    share: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        from sgdsim.networks.sharpness import Sharpness
        from sgdsim.regimes.network import RealNetwork

        problem = self.problem
        self.regime: Regime = RealNetwork()
        self.quadratic = problem.quadratic_for(self.sgd)
        self.noise = self.quadratic.noise(self.sgd)
        if self.limit is not None:
            self.share = self.limit / float(self.limits(np.array([self.sgd.momentum]))[0])
        self.sharpness = Sharpness(problem.data.x[compared_points(problem)], problem.n_outputs, problem.device)
        self.flat = self.sharpness.of(problem.network)

    def limits(self, momenta: np.ndarray) -> np.ndarray:
        """The largest stable learning rates."""
        if self.sgd.weight_decay:
            sgds = [replace(self.sgd, momentum=float(beta)) for beta in momenta]
            found = [thresholds.decayed_max_lr(self.quadratic, sgd, self.tau) for sgd in sgds]
            most = [thresholds.decayed_max_lr(self.quadratic, sgd, None) for sgd in sgds]
            return np.minimum(self.share * np.array(found), most)
        known = stability.diagonal_max_lr(self.quadratic, momentum=momenta, noise=self.noise, tau=self.tau)
        return np.minimum(self.share * known, 2 * (1 + momenta))

    def predicted(self, steps: np.ndarray | int, lr: np.ndarray | float, momentum: np.ndarray | float) -> np.ndarray:
        """Theory's losses, (cells…, T)."""
        if self.sgd.weight_decay:
            return self._stepped(steps, lr, float(momentum))
        return contour.loss_at(self.quadratic, steps, lr=lr, momentum=momentum, noise=self.noise, tau=self.tau).loss

    def _stepped(self, steps: np.ndarray | int, lr: np.ndarray | float, momentum: float) -> np.ndarray:
        """`predicted` with weight decay, whose end the contour does not know."""
        times, regime = np.atleast_1d(steps), SpectralDiagonal(self.tau)
        losses = []
        for rate in np.atleast_1d(lr):
            sgd = replace(self.sgd, lr=float(rate), momentum=momentum)
            run = simulate(self.quadratic, sgd, regime, int(times[-1]), record=times.tolist())
            losses.append(run["loss"].sel(step=times).values[0, 0])
        return np.array(losses).reshape(np.shape(lr) + np.shape(steps))

    def steps(self, momentum: float) -> int:
        """How many a probe has."""
        wanted = max(LEAST, math.ceil(MEMORIES / (1 - abs(momentum))))
        each = max(1, self.problem.n_parameters * cast(int, self.sgd.batch_size) * RUNS)
        return min(self.horizon, wanted, max(LEAST, int(_WORK / each)))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # divergence is a result
    def follow(self, lr: float, momentum: float) -> Probed:
        """Train at this setting."""
        sgd, count = replace(self.sgd, lr=lr, momentum=momentum), self.steps(momentum)
        looks = np.unique(np.linspace(0, count, _LOOKS + 1).round().astype(int))
        run = self.regime.start(self.problem, sgd, replicates=RUNS, seed=self.seed, test=False)
        losses, growth = [run.observe(("loss",))["loss"]], 1.0
        for place, (low, high) in enumerate(itertools.pairwise(looks), 1):
            run.advance(int(low), int(high))
            losses.append(run.observe(("loss",))["loss"])
            if has_diverged(losses[-1], losses[0]).any():
                break
            if place % _CURVED == 0 or high == count:
                found = [self.sharpness.of(cast(Trained, run).network(r)) for r in range(RUNS)]
                growth = float(np.max([growth, *(each / self.flat for each in found)]))  # NaN stays
        seen = looks[: len(losses)]
        expected = np.append(losses[0].mean(), self.predicted(seen[1:], lr, momentum))
        ratios = np.exp(np.log(np.array(losses) / expected[:, None])[2 * seen >= seen[-1]].mean(0))
        ratios[has_diverged(losses[-1], losses[0]) | np.isnan(ratios)] = np.inf
        limit = float(self.limits(np.array([momentum]))[0])
        at_horizon = float(self.predicted(self.horizon, lr, momentum))
        return Probed(lr, momentum, at_horizon, int(seen[-1]), growth, limit, tuple(ratios.tolist()))

    def lower(self, tried: list[Probed]) -> Iterator[tuple[float, float]]:
        """Settings with less learning rate, or less momentum than theory's; `tried` grows meanwhile."""
        first = tried[0]
        for factor in _LOWER:
            growth = max([1.0, *(each.growth for each in tried if math.isfinite(each.growth))])
            settings = [(first.lr / factor, first.momentum)]
            if first.momentum > 0 and 1 - factor * (1 - first.momentum) > 0:
                settings.append(self._with_less_momentum(1 - factor * (1 - first.momentum), growth))
            losses = [float(self.predicted(self.horizon, *setting)) for setting in settings]
            yield from (settings[i] for i in np.argsort(losses))

    def _with_less_momentum(self, momentum: float, growth: float) -> tuple[float, float]:
        """The best learning rate there within the limit over `growth`."""
        lrs = WITHIN * float(self.limits(np.array([momentum]))[0]) / growth * _FRACTIONS
        return float(lrs[np.argmin(self.predicted(self.horizon, lrs, momentum))]), momentum
