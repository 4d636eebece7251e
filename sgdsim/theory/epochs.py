"""Reshuffled epochs, exactly: the mean over all orders in which an epoch's batches can come.

Within an epoch batches are drawn without replacement, so they depend on each other, and no recursion of second moments
closes. But epochs are independent: if P is the product of an epoch's steps for one order, `E ψψᵀ` becomes the mean of
`P (E ψψᵀ) Pᵀ` over the orders.
The number of orders is N!/(b!)^(N/b), so this is for small N; the sampled regime follows reshuffling at any N.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from sgdsim.algorithm.maps import read_second
from sgdsim.algorithm.samplers import RESHUFFLE
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, integer
from sgdsim.problem import Problem, QuadraticProblem
from sgdsim.problem.linearised import of_quadratic

MOST_ORDERS = 20_000


def _orders(points: tuple[int, ...], size: int, batches: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All ordered choices of `batches` disjoint batches."""
    if batches == 0:
        yield ()
        return
    for first in itertools.combinations(points, size):
        rest = tuple(point for point in points if point not in first)
        for others in _orders(rest, size, batches - 1):
            yield (first, *others)


def finite_points(problem: Problem) -> int:
    """N; InputError where that is infinite, as no epoch ends there."""
    if math.isinf(problem.n):
        raise InputError("epochs: expected a finite number of training points, got infinitely many")
    return problem.n


@of_quadratic
@np.errstate(over="ignore", invalid="ignore")  # divergence is a result
def reshuffled_loss(problem: QuadraticProblem, sgd: SGD, n_epochs: int) -> np.ndarray:
    """E L_t at every step of `n_epochs` epochs, (n_epochs·⌊N/b⌋ + 1,), over all orders of every epoch.

    Points left over when the next batch does not fit are skipped, as in the sampled regime. Any method and average that
    do not change in time; no label noise. Infinite beyond floating point. Raises InputError for more than `MOST_ORDERS`
    orders, and for schedules.
    """
    n = finite_points(problem)
    n_epochs = integer("n_epochs", n_epochs, minimum=1)
    if (
        not sgd.is_constant
        or sgd.sampling != RESHUFFLE
        or sgd.label_noise
        or getattr(sgd.average, "name", "") == "tail"
    ):
        raise InputError("epochs: expected constant hyperparameters, sampling reshuffle and labels without noise")
    size = integer("batch_size", sgd.batch_size, minimum=1, maximum=n)
    batches = n // size
    count = math.factorial(n) // (math.factorial(size) ** batches * math.factorial(n - size * batches))
    if count > MOST_ORDERS:
        raise InputError(f"epochs: expected at most {MOST_ORDERS} orders, got {count}; use the sampled regime")
    maps = sgd.maps(0, 1)
    transition, kick = maps.transition[0], maps.kick[0]
    m, kernel, together = kick.size, problem.kernel, problem.spectrum.outputs
    rows = len(kernel)
    plain, iterate = np.kron(transition, np.eye(rows)), np.eye(m)[0]

    def step(batch: tuple[int, ...]) -> np.ndarray:
        gradient, drawn = np.zeros((rows, rows)), np.repeat(np.isin(np.arange(n), batch), together)
        gradient[:, drawn] = n / size * kernel[:, drawn]
        return plain + np.kron(np.outer(kick, iterate), gradient)

    steps = {batch: step(batch) for batch in itertools.combinations(range(n), size)}
    products = np.empty((batches, count, m * rows, m * rows))
    for number, order in enumerate(_orders(tuple(range(n)), size, batches)):
        product = np.eye(m * rows)
        for at, batch in enumerate(order):
            product = steps[batch] @ product
            products[at, number] = product
    start = np.kron(np.asarray(sgd.begins)[:, None], problem.residual.reshape(rows, -1))  # a column an output
    second = start @ start.T

    def seen(second: np.ndarray) -> float:
        blocks = np.trace(second.reshape(m, rows, m, rows), axis1=1, axis2=3)
        return float(read_second(sgd.readout, blocks))

    loss = [seen(second)]
    for _ in range(n_epochs):
        after = [np.einsum("oab,bc,odc->ad", p, second, p, optimize=True) / count for p in products]
        loss += [seen(s) for s in after]
        second = after[-1]
    mean = np.array(loss) / (2 * n) + 0.0  # no −0
    return np.where(np.isfinite(mean), mean, np.inf)
