"""Reshuffled epochs against independent batches: how far the theory is from a data loader that shuffles.

The theory averages over batches that are drawn independently of each other, without replacement within a batch. A data
loader with `shuffle=True, drop_last=True` draws without replacement across an epoch. Both have the same noise γ in
every single step; only in the second do the batches of an epoch depend on each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import xarray as xr

from sgdsim.algorithm.samplers import RESHUFFLE, WITHOUT_REPLACEMENT
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer
from sgdsim.common.jsonable import jsonable
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.regimes import BatchAveraged, SampledLinearized
from sgdsim.regimes.base import Regime
from sgdsim.runs.follow import MAX_STEPS
from sgdsim.runs.sweeps import Grid, sweep
from sgdsim.studies.base import OfRuns
from sgdsim.theory import epochs as orders
from sgdsim.theory import stability

SAMPLINGS = (WITHOUT_REPLACEMENT, RESHUFFLE)
COVERAGE = 1.96  # standard errors on either side, 95% for normal errors
_EXACT_UP_TO = 10  # points, where the mean over all orders may be asked for
_DRAWN = 30  # numbers of epochs that are recorded for curves, log-spaced


@dataclass(frozen=True)
class AfterEpochs:
    """The losses of one batch size after `epochs` epochs, as `compare` says: `theory`, and of the runs mean, standard
    error and how many diverged. Infinite, or NaN where not known."""

    regime: str
    batch_size: int
    lr: float
    torch_lr: float
    noise: float
    epochs: int
    steps: int
    theory: float
    reshuffled_exact: float
    independent: float
    independent_stderr: float
    independent_diverged: int
    reshuffled: float
    reshuffled_stderr: float
    reshuffled_diverged: int
    ratio: float
    ratio_low: float
    ratio_high: float
    to_theory: float
    to_theory_low: float
    to_theory_high: float

    def losses(self, kind: str) -> str:
        """Mean and error of "independent" or "reshuffled" batches, or that runs diverged."""
        mean, error, diverged = (getattr(self, f"{kind}{end}") for end in ("", "_stderr", "_diverged"))
        return f"diverged {diverged}" if diverged else f"{short(mean)} ± {error:.1g}"


@dataclass(frozen=True, repr=False)
class EpochLosses(OfRuns):
    """What `compare` found after the numbers of epochs that it was asked for, a row each; `data` is its result."""

    rows: tuple[AfterEpochs, ...]
    data: xr.Dataset = field(repr=False, compare=False)

    @classmethod
    def of(cls, data: xr.Dataset, problem: QuadraticProblem) -> EpochLosses:
        """Of a result of `compare` for this problem."""
        parts = [data.sel(regime=name) for name in data["regime"].values] if "regime" in data.dims else [data]
        rows = [
            _after(part.sel(batch_size=b, epoch=e), problem, int(b), int(e))
            for part in parts
            for b, e in itertools.product(data["batch_size"].values, data.attrs["asked"])
        ]
        return cls(tuple(rows), data)

    def as_dict(self) -> dict[str, object]:
        """The rows as JSON holds them."""
        return {"rows": jsonable(self.rows)}

    def table(self) -> Table:
        """A row for each batch size and number of epochs; means with their standard error, ratios with 95%
        intervals."""
        exact = any(not math.isnan(row.reshuffled_exact) for row in self.rows)
        several = len({row.regime for row in self.rows}) > 1
        headers = ["regime"] if several else []
        headers += ["batch", "lr", "epochs", "steps", "theory", "independent", "reshuffled"]
        headers += [*(["exact"] if exact else []), "ratio", "to theory"]
        lines = []
        for i, row in enumerate(self.rows):
            before = self.rows[i - 1] if i else None
            again = before is not None and before.regime == row.regime
            new = before is None or not again or row.batch_size != before.batch_size
            line: list[Cell] = ["" if again else row.regime] if several else []
            line += [row.batch_size, row.lr] if new else ["", ""]
            line += [row.epochs, row.steps, "diverges" if row.theory == math.inf else row.theory]
            line += [row.losses("independent"), row.losses("reshuffled"), *([row.reshuffled_exact] if exact else [])]
            line.append(_interval(row.ratio, row.ratio_low, row.ratio_high))
            lines.append([*line, _interval(row.to_theory, row.to_theory_low, row.to_theory_high)])
        return Table(headers, lines, "lr" if several else "r", keys=5 if several else 4)


def _after(at: xr.Dataset, problem: QuadraticProblem, batch_size: int, epochs: int) -> AfterEpochs:
    ratios = (f"{name}{end}" for name in ("ratio", "to_theory") for end in ("", "_low", "_high"))
    numbers: dict[str, Any] = {name: float(at[name]) for name in ("lr", "noise", "theory", "reshuffled_exact", *ratios)}
    for name, sampling in zip(("independent", "reshuffled"), SAMPLINGS, strict=True):
        own = at.sel(sampling=sampling)
        numbers |= {name: float(own["mean"]), f"{name}_stderr": float(own["stderr"])}
        numbers[f"{name}_diverged"] = int((own["loss"] == math.inf).sum())
    steps, torch_lr = int(epochs * at["steps_per_epoch"]), problem.torch_lr(numbers["lr"])
    regime = str(at["regime"].item()) if "regime" in at.coords else str(at.attrs["regime"])
    return AfterEpochs(regime=regime, batch_size=batch_size, epochs=epochs, steps=steps, torch_lr=torch_lr, **numbers)


def _interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return "{} ({}–{})".format(*(f"{v:.3f}" if 0.01 <= v < 10 else f"{v:.3g}" for v in (value, low, high)))


def compare(
    problem: Problem,
    batch_sizes: Sequence[int],
    *,
    lr: float | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    epochs: Sequence[int] = (1, 2, 5, 10, 20, 50),
    replicates: int = 400,
    seed: int = 0,
    regime: Regime | None = None,
    theory: Regime | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Losses after whole epochs of reshuffled and of independent batches, at the same learning rate and step count.

    Parameters
    ----------
    batch_sizes : different sizes b; an epoch has ⌊N/b⌋ steps, points left over are skipped.
    lr : α, the same for all b; None: half of the largest stable one of each (spectral-diagonal theory, three digits).
    weight_decay : as `SGD` has it; with some the mean over all orders is not known.
    epochs : numbers of epochs that the comparison is for; some more are recorded up to the largest, for curves.
    replicates : batch sequences of each kind, at least 2; those of the two kinds are independent of each other.
    regime : what is run with both kinds of batches: `SampledLinearized()` (None) or `RealNetwork()`.
    theory : the regime that gives the mean over independent batches: `BatchAveraged()` (None) or `SpectralDiagonal()`.

    Returns
    -------
    xarray.Dataset over (batch_size, epoch): `theory`; `loss` with (sampling, replicate) besides, its `mean` and
    `stderr` with sampling; `ratio`, the mean of reshuffled batches over that of independent ones, and `to_theory`,
    over `theory`, both with 95% intervals `…_low`, `…_high` (normal errors of the logarithm: too narrow where few runs
    decide the mean, near the threshold); `reshuffled_exact`, the mean over all orders of an epoch, NaN where there are
    too many. Coordinates `lr`, `noise` (γ) and `steps_per_epoch` of each batch size. A mean with a diverged run in it
    is infinite, ratios with it are NaN. Ctrl-C leaves out the batch sizes that were not finished.

    Raises
    ------
    InputError : arguments out of range, a regime of the wrong kind, and what `sweep` refuses.
    """
    problem.check_squared("epochs")
    n = orders.finite_points(problem)
    sizes, asked = _checked(n, batch_sizes, epochs)
    replicates = integer("replicates", replicates, minimum=2)
    regime, theory = regime or SampledLinearized(), theory or BatchAveraged()
    if not regime.stochastic or theory.stochastic:
        raise InputError(f"regime, theory: expected one that samples and one that averages, got {regime}, {theory}")
    recorded = np.unique(np.concatenate([np.geomspace(1, asked[-1], _DRAWN).round().astype(int), asked]))
    how = partial(sweep, problem, replicates=replicates, seed=seed, progress=progress)
    follow = partial(how, executor="serial", on_error="raise")
    parts, device = [], ""
    for size in sizes:
        rate = half_of_stable(problem.quadratic, size, momentum, weight_decay) if lr is None else lr
        sgd = SGD(rate, momentum, size, weight_decay=weight_decay)
        part, result = _one(problem, sgd, recorded, regime, theory, follow)
        if part is None:
            break
        parts.append(part)
        device = result.attrs["device"]
    if not parts:
        raise KeyboardInterrupt
    found = xr.concat(parts, "batch_size", data_vars="all", coords="different", compat="equals")
    found.attrs |= {
        "problem": result.attrs["problem"],
        "n": n,
        "initial_loss": problem.quadratic.initial_loss,
        "momentum": float(momentum),
        **({"weight_decay": float(weight_decay)} if weight_decay else {}),
        "regime": regime.name,
        "theory": theory.name,
        "replicates": replicates,
        "seed": str(seed),
        "device": device,
        "asked": np.array(asked),
        "interrupted": int(len(parts) < len(sizes)),
    }
    return _with_ratios(found)


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Results of `compare` that differ in their regime alone, with a dim `regime`; one is left as it is. Batch sizes
    that Ctrl-C left out of one are left out of all."""
    if len(parts) == 1:
        return parts[0]
    names = [str(part.attrs["regime"]) for part in parts]
    out = xr.concat(parts, "regime", join="inner", combine_attrs="override").assign_coords(regime=names)
    out.attrs |= {"regime": ", ".join(names), "interrupted": max(int(part.attrs["interrupted"]) for part in parts)}
    return out


def _checked(n: int, batch_sizes: Sequence[int], epochs: Sequence[int]) -> tuple[list[int], list[int]]:
    """Batch sizes, and ascending numbers of epochs; InputError for bad ones."""
    sizes = [integer("batch_size", size, minimum=1, maximum=n) for size in batch_sizes]
    asked = sorted({integer("epochs", count, minimum=1) for count in epochs})
    if not sizes or len(set(sizes)) < len(sizes):
        raise InputError(
            f"batch_size: expected one or more different sizes, got {', '.join(map(str, sizes)) or 'none'}"
        )
    if not asked:
        raise InputError("epochs: expected at least one number of epochs, got none")
    for size in sizes:
        integer(f"n_steps: {asked[-1]} epochs at batch {size}", asked[-1] * (n // size), minimum=1, maximum=MAX_STEPS)
    return sizes, asked


def half_of_stable(
    problem: QuadraticProblem, batch_size: int, momentum: float = 0.0, weight_decay: float = 0.0
) -> float:
    """Half of the largest stable α of spectral-diagonal theory at this batch size, to three digits."""
    return stability.half_of(stability.max_lr(problem, SGD(1.0, momentum, batch_size, weight_decay=weight_decay)))


def _one(
    problem: Problem,
    sgd: SGD,
    recorded: np.ndarray,
    regime: Regime,
    theory: Regime,
    follow: Callable[..., xr.Dataset],
) -> tuple[xr.Dataset | None, xr.Dataset]:
    """One batch size: its part of the comparison (None after Ctrl-C), and the last result it is from. `follow`: `sweep`
    of this problem."""
    n, size = problem.n, cast(int, sgd.batch_size)
    per_epoch = n // size
    steps = recorded * per_epoch
    values = {"lr": [sgd.lr], "momentum": [sgd.momentum], "batch_size": [size]}
    values |= {"weight_decay": [sgd.weight_decay]} if sgd.weight_decay else {}
    runs = []
    for one, samplings in ((theory, SAMPLINGS[:1]), (regime, SAMPLINGS)):
        grid = Grid.product(**values, sampling=list(samplings))
        result = follow(grid, [one], int(steps[-1]), record=steps.tolist())
        if result.attrs["interrupted"]:
            return None, result
        runs.append(result["loss"].sel(step=steps).isel(dict.fromkeys((*values, "regime"), 0)))
    losses = runs[1].transpose("sampling", "replicate", "step").values
    part = xr.Dataset(
        {
            "loss": (("sampling", "replicate", "epoch"), losses),
            "theory": ("epoch", runs[0].values.reshape(-1)[: recorded.size]),
            "reshuffled_exact": ("epoch", _exact(problem.quadratic, sgd, recorded)),
        },
        {
            "sampling": list(SAMPLINGS),
            "epoch": recorded,
            "batch_size": size,
            "lr": sgd.lr,
            "noise": float(problem.quadratic.noise_factor(size)),
            "steps_per_epoch": per_epoch,
        },
    )
    per_size = ("batch_size", "lr", "noise", "steps_per_epoch")
    return part.expand_dims("batch_size").assign_coords({k: ("batch_size", [part[k].item()]) for k in per_size}), result


def _exact(problem: QuadraticProblem, sgd: SGD, recorded: np.ndarray) -> np.ndarray:
    """The mean over all orders after the recorded epochs; NaN where it is out of reach."""
    out = np.full(recorded.size, math.nan)
    if problem.n > _EXACT_UP_TO:
        return out
    try:
        every = replace(sgd, sampling=RESHUFFLE)
        per_epoch = problem.n // cast(int, sgd.batch_size)
        return orders.reshuffled_loss(problem, every, int(recorded[-1]))[recorded * per_epoch]
    except InputError:  # too many orders, no eigenvectors, or weight decay
        return out


def _with_ratios(found: xr.Dataset) -> xr.Dataset:
    with np.errstate(all="ignore"):  # infinite where a run diverged
        mean = found["loss"].mean("replicate")
        stderr = found["loss"].std("replicate", ddof=1) / math.sqrt(found.sizes["replicate"])
        stderr = stderr.where(found["noise"] > 0, 0.0)  # full batches differ by the order of their sums alone
        relative = stderr / mean
        apart, together = (relative.sel(sampling=name, drop=True) for name in SAMPLINGS)
        independent, reshuffled = (mean.sel(sampling=name, drop=True) for name in SAMPLINGS)
        ratios = {
            "ratio": (reshuffled / independent, np.hypot(apart, together)),
            "to_theory": (reshuffled / found["theory"], together),
        }
        new = {"mean": mean, "stderr": stderr}
        for name, (value, error) in ratios.items():
            value = value.where(np.isfinite(independent + reshuffled + error) & (value > 0) & np.isfinite(value))
            new |= {
                name: value,
                f"{name}_low": value * np.exp(-COVERAGE * error),
                f"{name}_high": value * np.exp(COVERAGE * error),
            }
    return found.assign(new)
