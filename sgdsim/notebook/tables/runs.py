"""Tables of runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.specs import shortest
from sgdsim.notebook.tables.frames import Frame
from sgdsim.problem import Problem
from sgdsim.studies import budgets, closures

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem.fits import Estimate
    from sgdsim.studies.asymptotes import Asymptote
    from sgdsim.studies.measured_stability import Bracket, Thresholds
    from sgdsim.studies.validation import Law, Slope, Training
    from sgdsim.studies.verification import Verification
    from sgdsim.theory.optimal import Optimum

_SYMBOLS = {"lr": "α", "momentum": "β", "batch_size": "b"}


def final_losses(result: xr.Dataset) -> Frame:
    """The mean loss at the last step: a row for each cell, a column for each regime, and ± one standard error where
    there are several replicates. Means with a diverged replicate in them are infinite."""
    dims = [str(name) for name in result["loss"].dims if name not in ("regime", "replicate", "step")]
    names = [str(name) for name in result["regime"].values]
    zipped = [str(name) for name in result.coords if result[name].dims == ("cell",) and name not in (*_SYMBOLS, "cell")]
    labels = [name for name in dims if name != "cell"] + [
        name for name in [*zipped, *_SYMBOLS] if name not in dims and name in result.coords and result[name].ndim
    ]
    rows = []
    for at in itertools.product(*(range(result.sizes[name]) for name in dims)):
        cell = result.isel(dict(zip(dims, at, strict=True)))
        row = {_SYMBOLS.get(name, name): cell[name].item() for name in labels}
        for name in names:
            mean, error = closures.curve(cell, name)
            row[name] = mean[-1]
            if error is not None:
                row[f"± {name}"] = error[-1]
        rows.append(row)
    return Frame(rows).set_index([_SYMBOLS.get(name, name) for name in labels])


def power_laws(asymptotes: Mapping[str, Asymptote]) -> Frame:
    """Fitted exponents with their intervals, and whether the loss follows the law they give: from which step to which
    it is within 10% of the exact loss, or why it is not."""
    rows = {}
    for name, asymptote in asymptotes.items():
        fit, law, row = asymptote.fit, asymptote.prediction, {}
        for symbol, estimate in (("ν", fit.nu), ("κ", fit.kappa), ("ζ", fit.zeta)):
            row[symbol] = _interval(estimate)
        row["exponent of t"] = "–" if law is None or law.exponent is None else f"{-law.exponent:.2f}".replace("-", "−")
        window = None if law is None else law.window
        row["law within 10%"] = asymptote.reason if window is None else "t = {:.3g} … {:.3g}".format(*window)
        rows[name] = {"N": asymptote.problem.n, **row}
    return Frame.from_dict(rows, orient="index")


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.2f} ({estimate.low:.2f} … {estimate.high:.2f})".replace("-", "−")


def budget_losses(result: xr.Dataset, problem: Problem, points: int = 5) -> Frame:
    """Losses of a result of `sgdsim.studies.budgets.run` at equal budgets t·b, a column for each batch size.

    "largest / least" is 1 where the budget alone counts; "at equal t/γ" the same at equal budgets corrected for drawing
    without replacement.
    """
    found = budgets.curves(result, problem)
    compared = budgets.compare(found, points)
    columns = {f"b = {curve.batch_size}": compared.loss[:, i] for i, curve in enumerate(found)}
    columns |= {"largest / least": compared.ratio, "at equal t/γ": compared.ratio_by_noise}
    return Frame(columns, index=pd.Index([f"{at:.0f}" for at in compared.budget], name="t·b"))


def budget_rates(result: xr.Dataset, problem: Problem) -> Frame:
    """The matched learning rates of a result of `sgdsim.studies.budgets.run`: α, its share of the full-batch limit
    2(1+β),
    which has to be small, and of the spectral-diagonal limit (τ = 1)."""
    from sgdsim.theory import stability

    momentum = float(np.ravel(result["momentum"].values)[0])
    found = budgets.curves(result, problem)
    bound = stability.diagonal_max_lr(
        problem.quadratic, momentum=momentum, noise=np.array([curve.noise for curve in found])
    )
    lr = np.array([curve.lr for curve in found])
    columns = {
        "steps": [int(curve.steps[-1]) if curve.steps.size else 0 for curve in found],
        "α": lr,
        "α / 2(1+β)": lr / (2 * (1 + momentum)),
        "α / largest stable": lr / bound,
    }
    return Frame(columns, index=pd.Index([curve.batch_size for curve in found], name="b"))


def closure_distances(found: Sequence[closures.Distance]) -> Frame:
    """Typical relative distance from the exact average (root mean square over log-spaced steps): a row for each cell,
    a column for each τ and for the sampled mean with the standard error it has. Infinite: the closure diverges."""
    best = {tuple(entry.cell.items()): entry.tau for entry in closures.nearest(list(found))}
    rows: dict[tuple, dict] = {}
    for entry in found:
        key = tuple(entry.cell.items())
        row = rows.setdefault(key, {})
        if entry.tau is not None:
            row[f"τ = {shortest(entry.tau)}".replace("-", "−")] = entry.typical
        else:
            row["sampled mean"] = entry.typical
            row["its standard error"] = math.nan if entry.stderr is None else entry.stderr
    for key, row in rows.items():
        row["nearest τ"] = best.get(key, math.nan)
    names = list(dict.fromkeys(name for key in rows for name, _ in key if name != "cell"))
    index = [tuple(dict(key)[name] for name in names) for key in rows]
    labels = [_SYMBOLS.get(name, name) for name in names]
    return Frame(list(rows.values()), index=pd.MultiIndex.from_tuples(index, names=labels))


def late_exponents(maps: Mapping[str, closures.ErrorMap]) -> Frame:
    """Of each problem's map over two steps: local exponents between these of the exact average and of each closure, and
    the closure's loss over the exact one at the last step; a row for each batch size, momentum and learning rate."""
    rows, index = [], []
    for name, found in maps.items():
        for (i, j), limit in np.ndenumerate(found.max_lr[:, None] * found.fractions):
            row = {"exact exponent": found.exponents[0, i, j, -1]}
            for k, tau in enumerate(found.taus):
                symbol = f"τ = {shortest(tau)}".replace("-", "−")
                row |= {f"{symbol}: exponent": found.exponents[1 + k, i, j, -1]}
                row |= {f"{symbol}: loss / exact": 1 + found.error[k, i, j, -1]}
            rows.append(row)
            index.append((name, *found.settings[i], round(float(limit), 3)))
    return Frame(rows, index=pd.MultiIndex.from_tuples(index, names=["", "b", "β", "α"]))


def mode_taus(problem: Problem, modes: Sequence[int] = (1, 2, 3, 5, 10, 30, 100)) -> Frame:
    """The τ that is exact for a residual in one mode, 2 − N Σ_i u_ki⁴, beside the mode's eigenvalue; a mode beyond the
    last is left out."""
    taus = closures.mode_tau(problem)
    chosen = [k for k in modes if 1 <= k <= len(taus)]
    at = np.array(chosen) - 1
    columns = {"λ_k / λ_1": problem.quadratic.eigenvalues[at], "τ of the mode": taus[at]}
    return Frame(columns, index=pd.Index(chosen, name="k"))


def weighted_taus(problem: Problem, lrs: Sequence[float], momentum: float = 0.0) -> Frame:
    """The mean τ of the modes, weighted by their part in the noise (`sgdsim.studies.closures.noise_tau`), by α."""
    values = [closures.noise_tau(problem, lr, momentum) for lr in lrs]
    return Frame({"weighted τ": values}, index=pd.Index(list(lrs), name="α"))


def recommendation(
    problem: Problem,
    best: Optimum,
    *,
    batch_size: int,
    sampling: str = WITHOUT_REPLACEMENT,
    tau: float = 1.0,
    exact: bool = True,
) -> Frame:
    """The best setting and the best without momentum: α, the same for `torch.optim.SGD`, β, the predicted loss at the
    horizon, and by which learning rate full batch, spectral-diagonal and exact theory expect instability."""
    from sgdsim.theory import stability

    quadratic, rows = problem.quadratic, {}
    for name, lr, momentum, loss in (
        ("best", best.lr, best.momentum, best.loss),
        ("best at β = 0", best.plain_lr, 0.0, best.plain_loss),
    ):
        sgd = SGD(1.0, momentum, batch_size, sampling)
        row = {"α": lr, "torch lr": quadratic.torch_lr(lr), "β": momentum, "predicted loss": loss}
        row["full-batch limit"] = stability.max_lr(quadratic, sgd, "full-batch")
        row["spectral-diagonal limit"] = stability.max_lr(quadratic, sgd, tau=tau)
        if exact:
            row["exact limit"] = stability.max_lr(quadratic, sgd, "exact", tolerance=1e-4)
        rows[name] = row
    return Frame.from_dict(rows, orient="index")


def verified(found: Verification) -> Frame:
    """What simulations at the recommended setting and beside it gave, next to theory's loss: mean and standard error
    of each regime, and its verdict: is the neighbour higher, lower, or not distinguishable?"""
    frame = Frame(found.table().frame()).rename(columns={"lr": "α", "momentum": "β"})
    return frame.fillna({f"{simulated.regime} is": "–" for simulated in found.regimes}).set_index("")


def thresholds(found: Mapping[str, Sequence[Thresholds]]) -> Frame:
    """For each data set, predicted stability limits in α beside those measured by bisection: up to which α the typical
    run stays within 10 times its initial loss, and (network) up to which it still ends below it."""
    rows = []
    for name, one in ((name, one) for name, several in found.items() for one in several):
        row = {"data": name, "b": one.batch_size, "full batch": one.full_batch}
        row |= {f"τ = {shortest(tau)}".replace("-", "−"): limit for tau, limit in one.diagonal.items()}
        row["exact"] = one.exact
        for regime, brackets in one.measured.items():
            row[f"{regime} stays bounded"] = _bracket(brackets["bounded"])
        if "network" in one.measured:
            row["network settles"] = _bracket(one.measured["network"]["settles"])
        rows.append(row)
    return Frame(rows).set_index(["data", "b"])


def training_ratios(runs: Mapping[tuple[str, int, int], Training], at: Sequence[int]) -> Frame:
    """The network's mean loss over that of its linearisation on the same batches, ± one standard error, at the steps
    `at`; and by how much the tangent kernel has moved at the last of them. Runs by data set, batch size and width."""
    from sgdsim.studies import validation  # loads torch

    rows = []
    for (name, batch_size, width), run in runs.items():
        row = {"data": name, "b": batch_size, "width": width}
        for one in validation.ratios(run, at):
            error = "" if one.stderr is None else f" ± {one.stderr:.1g}"
            row[f"t = {one.step}"] = "–" if one.ratio is None else f"{one.ratio:.3f}{error}"
        row["kernel moved"] = run.kernel[-1].relative if run.kernel else math.nan
        rows.append(row)
    return Frame(rows).set_index(["data", "b", "width"])


def exponents(runs: Mapping[tuple[str, int, int], Training], laws: Mapping[str, Law]) -> Frame:
    """−d log L/d log t over the last decade of each run, ± one standard error, beside the exponent of the power law
    fitted to the data set's spectrum: none where its 95% interval reaches zero. Runs as in `training_ratios`, laws by
    data set. Raises InputError for a run with fewer than 5 recorded steps in that decade."""
    from sgdsim.studies import validation  # loads torch

    rows = []
    for (name, batch_size, width), run in runs.items():
        found = validation.slopes(run, validation.decades(run.n_steps)[-1])
        law = laws[name].exponent
        row = {"data": name, "b": batch_size, "width": width, "t": "{} … {}".format(*found.window)}
        row["law"] = _interval(law) if law.low > 0 else f"none: {_interval(law)}"
        for regime in ("diagonal", "sampled", "network"):
            row[regime] = _slope(getattr(found, regime))
        rows.append(row)
    return Frame(rows).set_index(["data", "b", "width"])


def _slope(slope: Slope) -> str:
    if slope.value is None:
        return "–"
    error = "" if slope.stderr is None else f" ± {slope.stderr:.1g}"
    return f"{slope.value:.2f}{error}".replace("-", "−")


def _bracket(bracket: Bracket) -> str:
    if math.isinf(bracket.high):
        return f"> {bracket.low:.3g}"
    return f"{bracket.low:.3g} … {bracket.high:.3g}" if bracket.low > 0 else f"< {bracket.high:.3g}"
