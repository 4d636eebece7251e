"""`sgdsim.recommend`: the best learning rate and momentum of any linear method, tried on the network where there is
one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from sgdsim.algorithm.sgd import SGD
from sgdsim.problem import NetworkProblem, Problem
from sgdsim.studies import method_recommendation, probing, recommendation
from sgdsim.studies.method_recommendation import MethodRecommendation
from sgdsim.studies.recommendation import Recommendation


def recommend(
    problem: Problem,
    sgd: SGD | int,
    horizon: int,
    *,
    tau: float = 1.0,
    search: bool = False,
    jacobi: bool = False,
    probe: bool = True,
    seed: int = 0,
) -> Recommendation | MethodRecommendation:
    """The best constant learning rate and momentum after `horizon` steps.

    Parameters
    ----------
    problem : a `NetworkProblem`, a `QuadraticProblem` or any other.
    sgd : an algorithm, whose own learning rate and momentum count for nothing; or the batch size of heavy ball.
    tau, search, jacobi : as `sgdsim.studies.recommendation.recommend` has them; the last two of heavy ball alone.
    probe : try the setting on the network, and lower ones where that does not follow theory there
        (`sgdsim.studies.probing.probe`; of heavy ball alone, with weight decay or without).
    seed : of the probe's batches.

    Returns
    -------
    A frozen result: `answer` (lr in units of 1/λ_max, momentum, predicted loss), `torch_line(loss)`, `notes()`,
    `table()`, `as_dict()`, and of heavy ball `plot()`, `probe` and theory's own optimum `known.best`.

    Raises
    ------
    InputError : what theory refuses.

    >>> found = ss.recommend(ss.QuadraticProblem.power_law(n=1000, nu=1.5, kappa=1.0), 10, horizon=500)
    >>> f"{found.answer.lr:.1f}, {found.answer.momentum:.2f}"
    '0.5, 0.86'
    """
    sgd = sgd if isinstance(sgd, SGD) else SGD(1.0, batch_size=sgd)
    found: Recommendation | MethodRecommendation
    if sgd.is_plain:
        found = recommendation.recommend(problem, sgd, horizon, tau=tau, search=search, jacobi=jacobi)
    else:
        found = method_recommendation.recommend(problem, sgd, horizon, tau=tau)
    return probed(problem, found, seed) if probe else found


def is_probed(sgd: SGD) -> bool:
    """Whether `probing.probe` knows such an algorithm: heavy ball, with weight decay or without."""
    return replace(sgd, weight_decay=0.0).is_plain


def probed(
    problem: Problem,
    found: Recommendation | MethodRecommendation,
    seed: int = 0,
    heard: Callable[[], object] = lambda: None,
) -> Recommendation | MethodRecommendation:
    """What was found with a probe of it, where there is a network with the squared loss, whose losses theory predicts
    to the end, an algorithm that it knows, and the search was not interrupted."""
    best = found.answer
    if not problem.has_network or problem.loss != "squared" or found.interrupted or best is None:
        return found
    if not is_probed(found.sgd):
        return found
    began = time.perf_counter()
    sgd, network = replace(found.sgd, lr=best.lr, momentum=best.momentum), cast(NetworkProblem, problem)
    limit = cast("float | None", found.max_lr[-1]["exact"])
    seen = probing.probe(network, sgd, found.horizon, limit, tau=found.tau, seed=seed, heard=heard)
    return replace(found, probe=seen, seconds=found.seconds | {"probe": time.perf_counter() - began})
