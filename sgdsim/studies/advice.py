"""What every recommendation tells: the largest stable learning rates, and the late law at the best setting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

from sgdsim.algorithm.methods import HeavyBall, Nesterov
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, choice
from sgdsim.common.jsonable import finite_or_none, jsonable
from sgdsim.common.shown import Shown
from sgdsim.common.specs import shortest
from sgdsim.common.text import tuned
from sgdsim.problem import QuadraticProblem, fits
from sgdsim.problem.fits import PowerLawFit
from sgdsim.studies.base import Findings
from sgdsim.studies.probing import Probe
from sgdsim.theory import power_law, stability
from sgdsim.theory.optimal import Optimum
from sgdsim.theory.power_law import PowerLaw, Prediction

LEVELS = {"full_batch": "full batch", "spectral_diagonal": "spectral-diagonal", "exact": "exact"}
# ½·mean over points of the sum over outputs and torch.nn.MSELoss, of squares; torch.nn.CrossEntropyLoss or, of one
# output, torch.nn.SoftMarginLoss, of cross-entropy.
TORCH_LOSSES = {"squared": ("half-mse", "mse"), "cross-entropy": ("cross-entropy",)}
_PREDICTED = ("phase", "exponent", "constant", "signal", "noise", "crossover", "window", "within")
# In the order of the JSON form, which is the same for every algorithm.
_SETTINGS = ("best", "plain", "closure_best", "exact", "loss_error", "stable", "stable_reason", "gain")
_KEYS = (
    *_SETTINGS,
    "negative_momentum",
    "max_lr",
    "rate",
    "cutoff",
    "law",
    "jacobi",
    "notes",
    "floor",
    "floor_reached",
    "probe",
    "torch",
)


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """The setting that is recommended: α in units of 1/λ_max, β and the predicted loss at the horizon."""

    lr: float
    momentum: float
    loss: float

    def tried(self, probe: Probe | None) -> Answer | None:
        """What is left of it after a probe: the setting that the network followed, None where it followed none."""
        if probe is None:
            return self
        chosen = probe.chosen
        return None if chosen is None else Answer(chosen.lr, chosen.momentum, chosen.predicted)


@dataclass(frozen=True)
class LateBudget:
    """The law that is left where more momentum always helps a little: α/(1 − β), β → 1."""

    effective_lr: float
    momentum: None
    constant: float
    exponent: float


@dataclass(frozen=True, eq=False)
class LawHere:
    """The spectrum's power law (None, and the `reason`, where it has none or not for this algorithm), the fit that gave
    it (None: it was made with that law), what it predicts at the best setting, its loss at the horizon over the best
    one, and the setting with the least constant."""

    law: PowerLaw | None
    fit: PowerLawFit | None
    reason: str | None
    prediction: Prediction | None = None
    ratio: float | None = None
    late: Optimum | LateBudget | None = None

    @classmethod
    def at(cls, problem: QuadraticProblem, sgd: SGD, horizon: int, loss: float, tau: float) -> LawHere:
        """At a setting which has this `loss` at the horizon; without `late`."""
        fit, ratio = None, None
        try:
            fit = None if problem.exponents is not None else fits.fit_power_law(problem)
            law = PowerLaw.of(problem)
            found = power_law.predict(problem, sgd, law, tau=tau)
        except InputError as error:
            return cls(None, fit, str(error))
        if found.exponent is not None and found.constant is not None and math.isfinite(found.constant) and loss > 0:
            ratio = finite_or_none((found.constant * float(horizon) ** -found.exponent + (found.floor or 0.0)) / loss)
        return cls(law, fit, None, found, ratio)

    @property
    def source(self) -> str | None:
        """ "given" or "fitted"; None without a law."""
        return None if self.law is None else "given" if self.fit is None else "fitted"

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it."""
        facts: dict[str, object] = {"source": self.source, "reason": self.reason}
        facts |= {name: getattr(self.law, name, None) for name in ("nu", "kappa", "zeta")}
        facts["fit"] = None if self.fit is None else self.fit.as_dict()
        facts |= {name: jsonable(getattr(self.prediction, name, None)) for name in _PREDICTED}
        for name in ("signal", "noise"):
            pair = getattr(self.prediction, name, None)
            facts[name] = pair and {"exponent": pair[0], "constant": finite_or_none(pair[1])}
        return facts | {"asymptotic": self._late(), "ratio": self.ratio}

    def _late(self) -> dict[str, object] | None:
        late = self.late
        if not isinstance(late, Optimum):
            return None if late is None else vars(late)
        return {
            "lr": late.lr,
            "momentum": late.momentum,
            "constant": late.loss,
            "exponent": late.exponent,
            "plain_lr": late.plain_lr,
            "plain_constant": late.plain_loss,
            "gain": late.gain,
            "negative_momentum": late.negative_momentum,
        }


def exact_in_seconds(problem: QuadraticProblem, sgd: SGD) -> float | None:
    """The exact threshold of any method, and of a kernel over several outputs, where it takes seconds."""
    if problem.n_modes > stability.EXACT_BESIDE_OF_METHODS or not problem.has_vectors or sgd.is_one_pass:
        return None
    return stability.max_lr(problem, sgd, "exact", tolerance=1e-4)


def limits(problem: QuadraticProblem, sgd: SGD, tau: float, exact: float | None) -> dict[str, float | None]:
    """The momentum and the largest stable learning rates by `LEVELS`, of which `exact` is given (None: not known)."""
    full, diagonal = stability.max_lr(problem, sgd, "full-batch"), stability.max_lr(problem, sgd, tau=tau)
    known = zip(LEVELS, map(finite_or_none, (full, diagonal, exact)), strict=True)
    return {"momentum": cast(float, sgd.momentum), **dict(known)}


@dataclass(frozen=True, eq=False, repr=False)
class Advice(Findings):
    """What is recommended for `horizon` steps of `sgd`, whose own learning rate and momentum count for nothing.

    Parameters
    ----------
    max_lr : `limits` at one momentum or several, the best one last.
    rate : σ₁ of the loss L ~ e^{σ₁t} at the best setting, t → ∞; None: not known.
    seconds : what the parts took.
    torch_loss : of `torch_losses`, the only one that torch's numbers are for; None: for each.
    """

    problem: QuadraticProblem
    sgd: SGD
    horizon: int
    tau: float
    max_lr: tuple[dict[str, float | None], ...]
    rate: float | None
    law: LawHere
    seconds: dict[str, float]
    torch_loss: str | None = field(default=None, kw_only=True)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search."""
        return False

    @property
    def noise(self) -> float:
        """γ."""
        return self.problem.noise(self.sgd)

    @property
    def cutoff(self) -> float | None:
        """Steps from which on the loss of this finite spectrum falls exponentially; None: never, or not known."""
        return 1 / abs(self.rate) if self.rate is not None and -math.inf < self.rate < 0 else None

    @property
    def answer(self) -> Answer | None:
        """The setting to take; None where none can be recommended."""
        raise NotImplementedError

    @property
    def torch_losses(self) -> tuple[str, ...]:
        """Those of `TORCH_LOSSES` that the problem's loss is in torch, or the one that is asked for."""
        if self.torch_loss is not None:
            return (self.torch_loss,)
        return TORCH_LOSSES.get(self.problem.loss, (self.problem.loss,))

    def torch_lr(self, loss: str | None = None) -> float | None:
        """The answer's learning rate for `torch.optim.SGD` and one of `torch_losses` (None: the first); None where
        there is none."""
        loss = choice("loss", loss or self.torch_losses[0], self.torch_losses)
        if self.answer is None or math.isinf(self.problem.n):
            return None
        return finite_or_none(self.in_torch(self.answer.lr, loss))

    def in_torch(self, lr: float, loss: str | None = None) -> float:
        """A learning rate in units of 1/λ_max as one of `torch.optim.SGD` for one of `torch_losses` (None: the
        first)."""
        share = self.problem.n_outputs / 2 if (loss or self.torch_losses[0]) == "mse" else 1.0
        return share * self.problem.torch_lr(lr)

    def torch_weight_decay(self, loss: str | None = None) -> float:
        """The weight decay for `torch.optim.SGD` and one of `torch_losses` (None: the first): of nn.MSELoss, whose
        gradient is 2/C times as large, 2/C times that of half-mse, so that lr·weight_decay is the same."""
        loss = choice("loss", loss or self.torch_losses[0], self.torch_losses)
        return self.sgd.weight_decay * (2 / self.problem.n_outputs if loss == "mse" else 1.0)

    def torch_line(self, loss: str | None = None) -> str | None:
        """The optimiser to paste for one of `torch_losses` (None: the first); None without an answer, of infinitely
        many points, or where `torch.optim.SGD` has no such method. InputError for another loss.

        "half-mse" is `½·mean((f − y)²)`, summed over outputs; "mse" is `torch.nn.MSELoss`, a mean over outputs too;
        "cross-entropy" is the mean over points.
        """
        lr, nesterov = self.torch_lr(loss), isinstance(self.sgd.method, Nesterov)
        if self.answer is None or lr is None or not (nesterov or isinstance(self.sgd.method, HeavyBall)):
            return None
        momentum, decay = tuned(self.answer.momentum), ""
        if self.sgd.weight_decay:
            decay = f", weight_decay={shortest(self.torch_weight_decay(loss))}"
        if momentum.startswith("-"):  # refused as an argument of its own, but not in a group of parameters
            group = f'[{{"params": list(net.parameters()), "momentum": {momentum}}}]'
            return f"torch.optim.SGD({group}, lr={lr:.4g}{decay})" if not nesterov else None
        more = decay + (", nesterov=True" if nesterov and momentum != "0" else "")
        return f"torch.optim.SGD(net.parameters(), lr={lr:.4g}, momentum={momentum}{more})"

    def notes(self) -> list[str]:
        """What makes the answer doubtful, a sentence or two each."""
        raise NotImplementedError

    def loss_of(self, squares: float | None) -> float | None:
        """A loss of theory, which is one of squares, as it is told: with the offset of a quadratic model."""
        return None if squares is None else finite_or_none(squares + self.problem.loss_offset)

    def as_dict(self) -> dict[str, object]:
        """As JSON holds it; None where nothing is known for this algorithm."""
        return dict.fromkeys(_KEYS) | {
            "max_lr": [levels | {"torch_lr": self.torch(levels)} for levels in self.max_lr],
            "rate": finite_or_none(self.rate),
            "cutoff": self.cutoff,
            "law": self.law.as_dict(),
            "notes": self.notes(),
            "torch": self._pasted(),
        }

    def row(self) -> dict[str, object]:
        """The answer in one row, for tables over batch sizes; None: not known, or none is recommended."""
        answer, facts, levels = self.answer, self.as_dict(), self.max_lr[-1]
        best, found = cast("dict[str, object]", facts["best"]), {} if answer is None else vars(answer)
        named = {name: found.get(name) for name in ("lr", "momentum")}
        row = {"batch_size": self.sgd.batch_size, "horizon": self.horizon, "noise": self.noise, **named}
        row |= {"torch_lr": self.torch_lr(), "loss": self.loss_of(cast("float | None", found.get("loss")))}
        row |= {"theory_lr": best["lr"], "theory_momentum": best["momentum"], "exact_loss": best["exact_loss"]}
        row |= {"stable": facts["stable"], "stable_reason": facts["stable_reason"]}
        row |= {f"max_lr_{name}": levels[name] for name in LEVELS}
        return row | {name: facts[name] for name in ("gain", "floor")} | {"torch_line": self.torch_line()}

    def _pasted(self) -> dict[str, object] | None:
        if self.answer is None:
            return None
        lrs: dict[str, dict[str, object]] = {}
        for loss in self.torch_losses:
            lrs[loss] = {"lr": self.torch_lr(loss), "line": self.torch_line(loss)}
            lrs[loss] |= {"weight_decay": self.torch_weight_decay(loss)} if self.sgd.weight_decay else {}
        return {"momentum": self.answer.momentum, **lrs}

    def setting(self, lr: float, momentum: float, loss: float, effective: float) -> dict[str, float | None]:
        """A setting with the loss there and how far it moves in the end, as JSON holds it."""
        facts = {"lr": lr, "torch_lr": self.in_torch(lr), "momentum": momentum, "loss": self.loss_of(loss)}
        return facts | {"effective_lr": finite_or_none(effective)}

    def torch(self, levels: dict[str, float | None]) -> dict[str, float | None]:
        """`limits` as learning rates of `torch.optim.SGD`."""
        return {name: None if (lr := levels[name]) is None else self.in_torch(lr) for name in LEVELS}
