"""Final losses over learning rate and momentum: the numbers behind a map, and where its minimum lies."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, number
from sgdsim.common.shown import Shown
from sgdsim.common.specs import readable
from sgdsim.common.table import Cell, Table
from sgdsim.common.text import short
from sgdsim.problem import QuadraticProblem
from sgdsim.runs.follow import OUTCOMES
from sgdsim.runs.followed import followed
from sgdsim.runs.results import check_squared
from sgdsim.studies.base import OfRuns
from sgdsim.theory import stability
from sgdsim.theory.verdicts import Verdict, verdict

if TYPE_CHECKING:
    import xarray as xr

_COMPLETED, _DIVERGED = OUTCOMES.index("completed"), OUTCOMES.index("diverged")


@dataclass(frozen=True, eq=False, repr=False)
class LossMap(Shown):
    """One regime and batch size of a result over learning rate (L values) and momentum (M values), both ascending.

    Parameters
    ----------
    loss : (L, M) loss after `n_steps` steps, mean over replicates; NaN where it diverged or is missing.
    diverged : (L, M) whether at least one replicate diverged.
    missing : (L, M) whether a cell was not run, failed or was interrupted.
    noise, tau : γ of the batch size, and the closure of the regime (1 where the regime has none).
    method, weight_decay : of the algorithm, as `SGD.spec` names them.
    stochastic : whether cells of the regime are lucky or unlucky.
    """

    regime: str
    batch_size: int
    noise: float
    tau: float
    n_steps: int
    lr: np.ndarray
    momentum: np.ndarray
    loss: np.ndarray
    diverged: np.ndarray
    missing: np.ndarray
    method: str = "heavy-ball"
    stochastic: bool = False
    weight_decay: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether heavy ball's formulas of stability hold."""
        return self.method == "heavy-ball" and not self.weight_decay


@dataclass(frozen=True)
class Minimum:
    """The least final loss of a map: where, how large in that cell, and whether the map was smoothed to find it.

    `at_edge`: names of those of "lr" and "momentum" whose first or last value it is, so that it may lie beyond.
    """

    lr: float
    momentum: float
    loss: float
    smoothed: bool
    at_edge: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class JudgedMap(Shown):
    """A map with its minimum (None: every cell diverged or is missing), whether the algorithm there is exactly stable,
    and the largest stable learning rates at its momentum; None: not known."""

    panel: LossMap
    least: Minimum | None
    known: Verdict
    max_lr_spectral_diagonal: float | None
    max_lr_full_batch: float | None

    @classmethod
    def of(cls, panel: LossMap, problem: QuadraticProblem, sgd: SGD) -> JudgedMap:
        """`sgd`: the algorithm, whose learning rate, momentum and batch size count for nothing."""
        least, stable, full = minimum(panel), None, None
        if least is None or sgd.rule is not None:
            return cls(panel, least, Verdict(None, "there is no least loss"), None, None)
        sgd = replace(sgd, lr=least.lr, momentum=least.momentum, batch_size=panel.batch_size)
        with contextlib.suppress(InputError):  # none is known where a method changes in time
            stable = stability.max_lr(problem, sgd, tau=panel.tau) if panel.tau <= 1 else None
            full = stability.max_lr(problem, sgd, "full-batch")
        return cls(panel, least, verdict(problem, sgd), stable, full)

    def as_dict(self) -> dict[str, object]:
        """The minimum and what is known there, as JSON holds it."""
        least, panel = self.least, self.panel
        where = dict.fromkeys(("loss", "lr", "momentum")) if least is None else vars(least)
        return {
            "regime": panel.regime,
            "batch_size": panel.batch_size,
            **{name: where[name] for name in ("loss", "lr", "momentum")},
            "smoothed": least is not None and least.smoothed,
            "at_edge": [] if least is None else list(least.at_edge),
            "max_lr_spectral_diagonal": self.max_lr_spectral_diagonal,
            "max_lr_full_batch": self.max_lr_full_batch,
            "stable": self.known.stable,
            "stable_reason": self.known.reason,
            "tau": panel.tau,
            "noise": panel.noise,
            "diverged": int(panel.diverged.sum()),
            "missing": int(panel.missing.sum()),
            "cells": int(panel.loss.size),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Landscape(OfRuns):
    """The judged maps of a result, which `data` is, for a problem."""

    maps: tuple[JudgedMap, ...]
    data: xr.Dataset
    problem: QuadraticProblem

    @property
    def missing(self) -> bool:
        """Whether any map lacks cells."""
        return any(judged.panel.missing.any() for judged in self.maps)

    def as_dict(self) -> dict[str, object]:
        """A row for each map."""
        return {"rows": [judged.as_dict() for judged in self.maps]}

    def table(self) -> Table:
        """The least loss of each map and where it lies. After the loss: ~ found on the smoothed map, ! at the edge of
        the grid, * of a map that lacks cells."""
        headers = ["regime", "batch", "least loss", "lr", "momentum", "stable", "stable lr", "lr/stable", "diverged"]
        headers += ["no result"] if self.missing else []
        lines = []
        for judged in self.maps:
            least, limit, panel = judged.least, judged.max_lr_spectral_diagonal, judged.panel
            line: list[Cell] = [panel.regime, panel.batch_size]
            if least is None:
                line += ["-" + "*" * bool(panel.missing.any()), None, "-"]
            else:
                marks = "~" * least.smoothed + "!" * bool(least.at_edge) + "*" * bool(panel.missing.any())
                line += [short(least.loss) + marks, least.lr, readable(least.momentum, 4)]
            line += [judged.known.word, limit, None if least is None or limit is None else least.lr / limit]
            line.append(f"{int(panel.diverged.sum())}/{panel.loss.size}")
            lines.append([*line, int(panel.missing.sum())] if self.missing else line)
        return Table(headers, lines)


def judged(result: xr.Dataset, problem: QuadraticProblem, sgd: SGD) -> Landscape:
    """The maps of a result (`panels`) of one algorithm `sgd`, whose learning rate, momentum and batch size count for
    nothing."""
    return Landscape(tuple(JudgedMap.of(panel, problem, sgd) for panel in panels(result, problem)), result, problem)


def panels(result: xr.Dataset, problem: QuadraticProblem) -> list[LossMap]:
    """A map for each regime and, within it, each batch size; those over one value of lr or momentum as well.

    `result`: of a product grid over lr, momentum and batch_size, all numbers; `problem` gives N. Other grid axes must
    have length 1. Raises InputError for any other result.
    """
    check_squared("landscape", result)
    flat = _over_axes(result)
    sampling, method = (
        str(result[name].values.ravel()[0]) if name in result.coords else usual
        for name, usual in (("sampling", WITHOUT_REPLACEMENT), ("method", "heavy-ball"))
    )
    decay = float(np.ravel(result["weight_decay"].values)[0]) if "weight_decay" in result.coords else 0.0
    out = []
    for i, (regime, known) in enumerate(followed(flat).items()):
        for j, size in enumerate(map(int, flat["batch_size"].values)):
            loss, diverged, missing = _means(flat.isel(regime=i, batch_size=j))
            out.append(
                LossMap(
                    regime,
                    size,
                    noise=float(problem.noise_factor(size, sampling)),
                    tau=1.0 if known.tau is None else known.tau,
                    n_steps=int(result["step"].values[-1]),
                    lr=flat["lr"].values,
                    momentum=flat["momentum"].values,
                    loss=loss,
                    diverged=diverged,
                    missing=missing,
                    method=method,
                    stochastic=known.stochastic,
                    weight_decay=decay,
                )
            )
    return out


def _over_axes(result: xr.Dataset) -> xr.Dataset:
    """Losses, outcomes and what was done at the last step, over regime, batch size, lr, momentum and replicate."""
    from sgdsim.studies.comparison import check_result

    check_result(result)
    axes = ("lr", "momentum", "batch_size")
    have = [str(name) for name in result["loss"].dims]
    lacking = [name for name in axes if name not in have]
    if lacking:
        raise InputError(f"result: expected a product grid over {', '.join(axes)}; got none over {', '.join(lacking)}")
    if any(result[name].dtype.kind not in "iuf" for name in axes):
        raise InputError("result: expected numbers for lr, momentum and batch_size, got schedules")
    others = [name for name in have if name not in (*axes, "regime", "replicate", "step")]
    if any(result.sizes[name] != 1 for name in others):
        raise InputError(f"result: expected a single value of {', '.join(others)}; select one with result.sel")
    flat = result[["loss", "outcome", "done"]].isel({**dict.fromkeys(others, 0), "step": -1}).sortby(["lr", "momentum"])
    return flat.transpose("regime", "batch_size", "lr", "momentum", "replicate")


def _means(cells: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(L, M) each: the mean over the replicates that were run, which cells diverged, and which are missing."""
    outcome = cells["outcome"].values
    diverged, ran = (outcome == _DIVERGED).any(-1), outcome == _COMPLETED
    missing = ~cells["done"].values & ~diverged
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = np.where(ran, cells["loss"].values, 0.0).sum(-1) / ran.sum(-1)
    loss[diverged | missing] = np.nan
    return loss, diverged, missing


def smoothed(panel: LossMap, width: float = 1.0) -> np.ndarray:
    """(L, M) log10 of the loss, smoothed; NaN where the loss is.

    At each cell the value of the plane fitted to the cells around it, by Gaussian weights of standard deviation `width`
    cells; diverged and missing cells weigh nothing. A plane, as a weighted mean would pull the level of cells at the
    border of divergence, where the loss rises, down to that of their inner neighbours.
    """
    width = number("width", width, minimum=0.0)
    logs = log10_loss(panel)
    known = np.isfinite(logs)
    if width == 0 or not known.any():
        return logs
    shift = float(logs[known].mean())
    values = np.where(known, logs - shift, 0.0)
    offsets = np.arange(-math.ceil(4 * width), math.ceil(4 * width) + 1)
    weights = np.exp(-0.5 * (offsets / width) ** 2)

    def moment(array: np.ndarray, i: int, j: int) -> np.ndarray:
        """Sum over the cells around of weight · di^i · dj^j · array."""
        rows = scipy.ndimage.correlate1d(array, weights * offsets**i, axis=0, mode="constant")
        return scipy.ndimage.correlate1d(rows, weights * offsets**j, axis=1, mode="constant")

    powers = ((0, 0), (1, 0), (0, 1))
    there = known.astype(float)
    left = [[moment(there, i + k, j + m) for k, m in powers] for i, j in powers]
    right = [moment(values, i, j) for i, j in powers]
    normal, sums = np.moveaxis(np.array(left), (0, 1), (-2, -1)), np.moveaxis(np.array(right), 0, -1)
    # The pseudo-inverse: a single row or column of cells has a line, a lone cell its own value.
    level = (np.linalg.pinv(normal, rcond=1e-10, hermitian=True)[..., 0, :] * sums).sum(-1)
    return np.where(known, level + shift, np.nan)


def log10_loss(panel: LossMap) -> np.ndarray:
    """(L, M) log10 of the loss, NaN where there is none; a loss of 0 counts as the smallest float."""
    return np.log10(np.maximum(panel.loss, np.finfo(float).tiny))


def minimum(panel: LossMap, *, width: float | None = None) -> Minimum | None:
    """Where the least final loss lies, or None where every cell diverged or is missing.

    Parameters
    ----------
    width : standard deviation, in cells, of the Gaussian that smooths the log of the loss (`smoothed`) first. None: 1
        for stochastic regimes, else 0. The loss given is the cell's own.
    """
    width = float(panel.stochastic) if width is None else width
    logs = smoothed(panel, width)
    if not np.isfinite(logs).any():
        return None
    row, column = np.unravel_index(np.nanargmin(logs), logs.shape)
    places = {"lr": (row, panel.lr.size), "momentum": (column, panel.momentum.size)}
    edge = tuple(name for name, (index, size) in places.items() if size > 1 and index in (0, size - 1))
    loss = float(panel.loss[row, column])
    return Minimum(float(panel.lr[row]), float(panel.momentum[column]), loss, width > 0, edge)


def spaced(name: str, low: float, high: float, count: int) -> list[float]:
    """`count` equally spaced values from `low` to `high`, both included; an end that is no allowed value is left out.

    Allowed are lr > 0 and −1 < momentum < 1 (`name` says which): lr 0:4:100 gives 0.04, 0.08, … 4; momentum −1:1:49
    gives −0.96, −0.92, … 0.96. Values are rounded to 12 digits, so that 0.3 is 0.3. Raises InputError for ends that lie
    beyond these, `low` ≥ `high` or a count below 2.
    """
    bottom, top = {"lr": (0.0, math.inf), "momentum": (-1.0, 1.0)}[name]
    low, high = number(name, low, minimum=bottom, maximum=top), number(name, high, minimum=bottom, maximum=top)
    if not low < high:
        raise InputError(f"{name}: expected LOW:HIGH:COUNT with LOW < HIGH, got {low:g}:{high:g}:{count}")
    if count < 2:
        raise InputError(f"{name}: expected LOW:HIGH:COUNT with COUNT >= 2, got {low:g}:{high:g}:{count}")
    first, last = int(low == bottom), int(high == top)
    values = np.linspace(low, high, count + first + last)[first : first + count]
    return [float(f"{value:.12g}") for value in values]
