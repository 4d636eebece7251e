"""The line through means over bins in log k: bins of λ and of c, where they lie on a line, and its posterior.

`sgdsim.problem.fits` says what is fitted, and why in this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, gammaln, stdtr

from sgdsim.common.checks import InputError

BINS = 12  # more would let the fine structure decide how far a smooth deviation may bend the line
MODES_PER_BIN = {"lambda": 2, "c": 6}  # the logarithm of a sum of 6 χ²₁ variates is nearly Gaussian
DRAWS = 20_000
WIDEST, STEEPEST = 100.0, 50.0  # bounds for φ and p while fitting, far from all that is a power law
OFF = 0.25  # in log λ or log c: less is no reason to cut the window
LARGEST_BEND = 2.0  # in log λ at the end of the window: all sizes up to it are equally probable beforehand
FLOOR = 1e-9  # relative noise that is always assumed: an exact power law gets an interval wider than rounding


@dataclass(frozen=True)
class Bins:
    """Points of a line, y = const − exponent·x + noise.

    The noise variances hold up to a common factor, known to be about 1 with `dof` degrees of freedom; `plain` is the
    prior probability that there is no smooth deviation besides.
    """

    edges: np.ndarray
    x: np.ndarray
    y: np.ndarray
    noise: np.ndarray
    dof: float
    plain: float


MakeBins = Callable[[np.ndarray, tuple[int, int]], Bins]  # of λ or c (N,), on a window of modes


def _edges(k_min: int, k_max: int, fewest: int) -> np.ndarray:
    """First modes of up to 12 bins, equally wide in log k but of at least `fewest` modes each, and k_max + 1."""
    edges = [k_min]
    for edge in np.rint(np.geomspace(k_min, k_max + 1, BINS + 1)).astype(int)[1:]:
        if edge - edges[-1] >= fewest and k_max + 1 - edge >= fewest:
            edges.append(int(edge))
    return np.array([*edges, k_max + 1])


def lambda_bins(values: np.ndarray, window: tuple[int, int]) -> Bins:
    edges = _edges(*window, MODES_PER_BIN["lambda"])
    sizes, starts = np.diff(edges), edges[:-1] - edges[0]
    k = np.arange(window[0], window[1] + 1)
    x, y = (np.add.reduceat(np.log(v), starts) / sizes for v in (k, values[k - 1]))
    return Bins(edges, x, y, 1.0 / sizes, dof=0.0, plain=0.2)


def c_bins(c: np.ndarray, window: tuple[int, int]) -> Bins:
    """Logs of bin sums of c, less those of `Σ k^{−p}`, linearised in p at its estimate, and their noise.

    The dispersion φ of single c_k (2 for χ²₁) comes from their scatter within bins; a bin's sum is then nearly a Gamma
    variate, whose logarithm has mean ψ(shape) − log(shape) and variance ψ'(shape).
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    modes = window[1] - window[0] + 1
    edges = _edges(*window, min(MODES_PER_BIN["c"], modes // 5))
    sizes, starts = np.diff(edges), edges[:-1] - edges[0]
    k = np.arange(window[0], window[1] + 1)
    log_k, c = np.log(k), c[k - 1]
    sums = np.add.reduceat(c, starts)
    if (sums == 0).any():
        raise InputError(
            f"coefficients: expected some that are not zero among any few neighbouring modes, got zeros around mode "
            f"{int(edges[np.argmin(sums)])} (choose another window)"
        )
    p, tiny = 1.0, FLOOR**2

    def scattered(f: float) -> float:
        return float((sizes * (sizes - 1) * f / (sizes + f)).sum())

    for _ in range(20):
        law = k**-p
        law_sums = np.add.reduceat(law, starts)
        x = np.add.reduceat(law * log_k, starts) / law_sums
        ratios = c / law * np.repeat(law_sums / sums, sizes)  # of mean about 1 within each bin
        scatter = ((ratios / np.repeat(np.add.reduceat(ratios, starts) / sizes, sizes) - 1) ** 2).sum()
        # Gamma variates of shape 1/φ, divided by the mean of n of them, scatter by n(n − 1)φ/(n + φ).
        phi = WIDEST if scatter >= scattered(WIDEST) else brentq(lambda f, s=scatter: scattered(f) - s, 0.0, WIDEST)
        shape = 1 / (max(phi, tiny) * np.add.reduceat(law**2, starts) / law_sums**2)
        noise = polygamma(1, shape)
        y = np.log(sums) - np.log(law_sums) - p * x - (digamma(shape) - np.log(shape))
        old, p = p, float(np.clip(-np.polyfit(x, y, 1, w=noise**-0.5)[0], -STEEPEST, STEEPEST))
        if abs(p - old) < 1e-12:
            break
    # The variance of a χ²₁-like scatter over n modes is 14/n of its square: as good as n/7 degrees of freedom.
    return Bins(edges, x, y, noise, dof=modes / 7, plain=0.5)


@dataclass(frozen=True)
class Posterior:
    """Of a line's value at k = 1 and its exponent: mean (2,) and draws (DRAWS, 2); the bins' total variances; and the
    logarithm of how likely the bins are under it."""

    mean: np.ndarray
    draws: np.ndarray
    variances: np.ndarray
    log_evidence: float


def posterior(bins: Bins, rng: np.random.Generator, shape: np.ndarray | None = None) -> Posterior:
    """The line through the bins; with `shape` (bins,), a deviation of that shape and any positive size besides."""
    centre = bins.x.mean()
    distance = np.abs(bins.x[:, None] - bins.x)
    far = distance / (distance.max() / np.array([8.0, 4.0, 2.0, 1.0])[:, None, None])
    # Rough and smooth deviations. No squared exponential: it takes them for analytic, and extrapolates wildly.
    shapes = np.concatenate([np.exp(-far), (1 + math.sqrt(3) * far) * np.exp(-math.sqrt(3) * far)])
    taus = bins.noise.mean() * np.logspace(-2, 6, 17)
    smooth = (taus[:, None, None, None] * shapes).reshape(-1, *distance.shape)
    covariance = np.concatenate([np.zeros((1, *distance.shape)), smooth]) + np.diag(bins.noise)
    columns = [np.ones_like(bins.x), centre - bins.x, *([] if shape is None else [shape])]
    design = np.stack([*columns, bins.y], axis=1)
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, np.broadcast_to(design, (len(factor), *design.shape)))
    x, y = white[..., :-1], white[..., -1:]
    precision = x.mT @ x
    beta = np.linalg.solve(precision, x.mT @ y)
    dof = bins.dof + bins.x.size - len(columns)
    rss = bins.dof + ((y - x @ beta) ** 2).sum((1, 2)) + dof * FLOOR**2 / bins.noise.mean()
    log_weight = (
        -np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1)
        - 0.5 * np.linalg.slogdet(precision)[1]
        - 0.5 * dof * np.log(rss)
    )
    if shape is not None:
        size = beta[:, 2, 0] / np.sqrt(rss / dof * np.linalg.inv(precision)[:, 2, 2])
        log_weight += np.log(np.maximum(stdtr(dof, size), 1e-300))
    log_weight[0] += math.log(bins.plain)
    log_weight[1:] += math.log((1 - bins.plain) / len(smooth))
    weight = np.exp(log_weight - log_weight.max())
    evidence = log_weight.max() + math.log(weight.sum()) + gammaln(dof / 2) - 0.5 * dof * math.log(math.pi)
    weight /= weight.sum()
    pick = rng.choice(weight.size, DRAWS, p=weight)
    spread = np.linalg.cholesky(np.linalg.inv(precision))[pick]
    scale = np.sqrt(rss[pick] / rng.chisquare(dof, DRAWS))
    draws = beta[pick, :, 0] + scale[:, None] * (spread @ rng.standard_normal((DRAWS, len(columns), 1)))[..., 0]
    mean = weight @ beta[..., 0]
    at_one = np.array([[1.0, centre], [0.0, 1.0]])  # from the value at the centre to that at k = 1
    variances = (weight * rss / dof) @ np.diagonal(covariance, axis1=1, axis2=2)
    return Posterior(at_one @ mean[:2], draws[:, :2] @ at_one.T, variances, float(evidence))


@dataclass(frozen=True)
class Bend:
    """A law that ends, "cut-off" or "floor": how probable it is, beside a plain line; the exponent before its end, and
    draws of the line's value at k = 1 and that exponent, (DRAWS, 2)."""

    shape: str
    probability: float
    exponent: float
    draws: np.ndarray


def bend(bins: Bins, line: Posterior, rng: np.random.Generator) -> Bend:
    """Cut-offs and floors as competing models: the same posterior with a deviation of their shape besides, weighed by
    how likely they make the bins. A smooth deviation explains a bend too, but not as cheaply."""
    shapes = _bends(bins, float(line.mean[1]))
    found = [posterior(bins, rng, shape) for _, shape in shapes]
    log = np.array([one.log_evidence for one in found])
    share = np.exp(log - log.max())
    odds = log.max() + math.log(share.sum()) - math.log(len(found) * LARGEST_BEND) - line.log_evidence
    share /= share.sum()
    pick = rng.choice(len(found), DRAWS, p=share)
    draws = np.stack([one.draws for one in found])[pick, np.arange(DRAWS)]
    exponent = float(share @ [one.mean[1] for one in found])
    return Bend(shapes[int(share.argmax())][0], float(expit(odds)), exponent, draws)


def _bends(bins: Bins, exponent: float) -> list[tuple[str, np.ndarray]]:
    """What they do to the bins, up to its size: cut-offs `e^{−k/K}` and `e^{−(k/K)²}`, and floors of several heights
    under `k^−ν`, with ν about `exponent`."""
    sizes, starts = np.diff(bins.edges), bins.edges[:-1] - bins.edges[0]
    u = np.arange(bins.edges[0], bins.edges[-1]) / bins.edges[-1]
    power = u ** max(exponent, 0.1)
    cuts = [("cut-off", -(u**order)) for order in (1, 2)]
    floors = [("floor", np.log1p(height * power) / math.log1p(height)) for height in (0.1, 3.0, 30.0)]
    return [(name, np.add.reduceat(shape, starts) / sizes) for name, shape in cuts + floors]


def trimmed(make: MakeBins, values: np.ndarray, window: tuple[int, int]) -> tuple[int, int]:
    """The rule's second step, for bins made by `make(values, window)`: see `sgdsim.problem.fits.fit_power_law`."""
    while window[1] >= 10 * window[0]:
        bins = make(values, window)
        # λ is off by about as much in every bin, c by what its noise says
        noise = bins.noise if bins.dof else np.ones_like(bins.noise)
        place = (bins.x - bins.x[0]) / (bins.x[-1] - bins.x[0])
        best, cut = 1.0, None
        for eighths in (1, 2):
            head, end = place < eighths / 8, place > 1 - eighths / 8
            rest = ~(head | end)
            line = np.polynomial.Polynomial.fit(bins.x[rest], bins.y[rest], 1, w=noise[rest] ** -0.5)
            off = bins.y - line(bins.x)
            usual = math.sqrt((off[rest] ** 2 / noise[rest]).sum() / max(rest.sum() - 2, 1))
            for edge in (head, end):
                bound = max(5 * eighths * usual * math.sqrt(noise[edge].mean()), OFF)
                if abs(off[edge].mean()) > best * bound:
                    best, cut = abs(off[edge].mean()) / bound, edge
        if cut is None:
            return window
        kept = np.flatnonzero(~cut)
        new = int(bins.edges[kept[0]]), int(bins.edges[kept[-1] + 1]) - 1
        if new[1] < 10 * new[0]:
            return window
        window = new
    return window
