"""One cell: follow one algorithm on one problem in one regime."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.observables import Observable
from sgdsim.problem import Problem
from sgdsim.regimes.base import Regime

if TYPE_CHECKING:
    import xarray as xr

_ALWAYS = ("lr", "momentum", "batch_size", "sampling")  # coordinates of every result


def simulate(
    problem: Problem,
    sgd: SGD,
    regime: Regime,
    n_steps: int,
    *,
    record: int | Sequence[int] | None = None,
    observe: Sequence[str | Observable] = ("loss",),
    replicates: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Follow `sgd` on `problem` in one regime for `n_steps` steps.

    Parameters
    ----------
    problem : `QuadraticProblem`, or `NetworkProblem` (any regime; the network regime needs one).
    record : steps to record: None for about 120 log-spaced ones, an integer k for every k steps, or the steps.
    observe : texts or objects of `sgdsim.observables`: "loss", "test_loss" (needs test points), "moments" (c_k of every
        mode at every recorded step).
    replicates : independent batch sequences of a stochastic regime; deterministic regimes have one.
    seed : decides all batches, together with the replicate's index.
    progress : show how far it is on standard error: a bar on a terminal and in Jupyter, else a line now and then.

    Returns
    -------
    xarray.Dataset in the schema of `sgdsim.runs.results`, dims (regime, replicate, step), the hyperparameters as scalar
    coordinates. Divergence does not raise (loss `inf`, outcome "diverged"). Ctrl-C returns what was recorded so far,
    with a warning and the attribute `interrupted = 1`.

    Raises
    ------
    InputError : arguments out of range, or a regime that cannot follow this algorithm on this problem.

    >>> problem = ss.QuadraticProblem.power_law(n=100, nu=1.5, kappa=1.0)
    >>> run = simulate(problem, ss.SGD(lr=0.5, batch_size=10), ss.SpectralDiagonal(), n_steps=100, record=50)
    >>> run["loss"].dims, run["step"].values
    (('regime', 'replicate', 'step'), array([  0,  50, 100]))
    """
    from sgdsim.runs.sweeps import Grid, sweep

    if not isinstance(sgd, SGD):
        raise InputError(f"sgd: expected an SGD, such as SGD(lr=0.5), got {sgd!r}"[:300])
    if not isinstance(regime, Regime):
        raise InputError(f"regime: expected one, such as SpectralDiagonal(), got {regime!r}"[:300])
    given = {field.name: getattr(sgd, field.name) for field in dataclasses.fields(sgd)}
    usual = {f.name for f in dataclasses.fields(sgd) if given[f.name] == f.default}
    grid = Grid.zip(**{name: [value] for name, value in given.items() if name in _ALWAYS or name not in usual})
    result = sweep(
        problem,
        grid,
        [regime],
        n_steps,
        record=record,
        observe=observe,
        replicates=replicates,
        seed=seed,
        progress=progress,
        on_error="raise",
    )
    return result.isel(cell=0).drop_vars("cell")
