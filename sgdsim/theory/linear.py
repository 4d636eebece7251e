"""Stability, floors and laws of any stationary linear method (`sgdsim.algorithm.methods`), spectral-diagonal and exact.

On one eigenvalue a step is `ψ' = R_k ψ + λ_k ξ k`, `R_k = A + λ_k k e₀ᵀ`, with noise ξ of variance `γ(s − τc_k)` plus
that of the labels. All there is to know of a mode at z = 1 are two sums over time of squared impulse responses,

    p_k = Σ_t (e₀ᵀ R_k^t k)²,   q_k = Σ_t (e₀ᵀ R_k^t ψ_0)²,

of a unit of noise and of the initial error; with the closure's own −τc_k, one mode's renewal is solved by
`Ũ(1) = Σ γλ²p/(1 + γτλ²p)` and `Ṽ(1) = Σ c_k q/(1 + γτλ²p)`. Heavy ball's closed forms (`sgdsim.theory.generating`) are
these sums; the renewal equation is that of Yarotsky & Velikanov, arXiv:2410.04228, sec. 4.

Weight decay, ω in units of the curvature, puts λ_k + ω into R_k and leaves λ_k in front of the noise: gradients are as
noisy as before, and responses to them fade sooner. The mean ends at `r*_k = ω/(λ_k + ω)` times the residual at the
point to which it pulls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sgdsim.algorithm.maps import begins, is_first, readout
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError, number
from sgdsim.problem import QuadraticProblem, compression
from sgdsim.problem.linearised import of_quadratic
from sgdsim.recurrence import diagonal, pair_maps

_DOUBLINGS = 60  # of the time over which responses are summed
_SLOW = 1e-8  # of a mode's decay in a step, aλ: below it 1 − aλ has lost half of its digits
_SLOWEST = 1e-20  # the same, below which nothing is left beside the leading order
_AGREED = 1e-10  # to which few modes are taken for all
_SIGNAL_AGREED = 1e-8  # the same for Ṽ(1), which slow modes dominate: rounding leaves no more of those
LATEST = 1e6  # steps after which it is not looked for when a floor is reached
_NEAR = 1e-7  # of 1: there rounding decides, and the sign of the effective learning rate is asked instead


@dataclass(frozen=True)
class AtOne:
    """Sums over all times. `noise`: Ũ(1); `signal`: Ṽ(1); `stable`: whether the loss converges (spectral-diagonal)."""

    noise: float
    signal: float
    stable: bool


@dataclass(frozen=True)
class Floor:
    """The level that a run with noisy labels or weight decay ends at.

    Parameters
    ----------
    loss : the limit of the loss, of the average where the algorithm has one; infinite where the run is unstable.
    reached : first step, to 2%, at which the loss is within a factor 2 of it; None where that is not before the latest
        step that is looked at.
    """

    loss: float
    reached: int | None


def step(sgd: SGD, averaged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A (m, m) and k (m,) of a stationary algorithm, `averaged`: with the average of its iterates, which does not act
    back. InputError where they change in time or batches are dependent."""
    if not averaged:
        sgd = replace(sgd, average=None)
    found = pair_maps.step(sgd)
    if not (is_first(begins(sgd.linear)) and is_first(readout(sgd.linear))):
        raise InputError(
            "theory: expected a method whose iterate is where gradients are taken and whose memory begins empty, got "
            f"{sgd.method.spec}; simulate shows its losses"
        )
    return found


def effective_lr(sgd: SGD) -> float:
    """α_eff: how far one unit of gradient moves the iterate in the end; heavy ball: α/(1 − β). Infinite with a memory
    that keeps gradients for ever."""
    transition, kick = step(sgd)
    memory = slice(1, 1 + sgd.method.memory)
    forgets = np.eye(sgd.method.memory) - transition[memory, memory]
    if sgd.method.memory and np.linalg.matrix_rank(forgets) < sgd.method.memory:  # a memory that keeps all for ever
        held = np.linalg.solve(forgets + 1e-9 * np.eye(sgd.method.memory), kick[memory])
        return math.copysign(math.inf, -float(transition[0, memory] @ held))
    held = np.linalg.solve(forgets, kick[memory])
    return -float(kick[0] + transition[0, memory] @ held)


def mode_maps(eigenvalues: np.ndarray, sgd: SGD, averaged: bool = False) -> np.ndarray:
    """R_k of all modes, (n, m, m), as `step`."""
    transition, kick = step(sgd, averaged)
    maps = np.tile(transition, (eigenvalues.size, 1, 1))
    maps[:, :, 0] += eigenvalues[:, None] * kick
    return maps


def undecayed(sgd: SGD) -> SGD:
    """`sgd` without its weight decay, which is put into the eigenvalues of `mode_maps` and `responses` instead."""
    return replace(sgd, weight_decay=0.0) if sgd.weight_decay else sgd


@of_quadratic
def mean_is_stable(problem: QuadraticProblem, sgd: SGD) -> bool:
    """Whether the mean converges on every mode that moves: all eigenvalues of R_k inside the unit circle."""
    lam = problem.eigenvalues[problem.spectrum.moving] + problem.pull(sgd)
    sgd = undecayed(sgd)
    values = np.linalg.eigvals(mode_maps(lam, sgd))
    near = np.abs(values - 1) < _NEAR  # slow, or just unstable: by rounding it cannot be told which
    return bool((np.abs(values[~near]) < 1).all() and (not near.any() or effective_lr(sgd) > 0))


def responses(eigenvalues: np.ndarray, sgd: SGD, averaged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """p_k and q_k, (n,) each, where the mean converges; `averaged`: as seen by the average of the iterates."""
    start = sgd.begins if averaged else np.eye(step(sgd)[1].size)[0]
    signal = _summed(eigenvalues, sgd, averaged, start)
    slow = effective_lr(sgd) * eigenvalues < _SLOW
    signal[slow] = _slow(eigenvalues[slow], sgd, averaged, of_noise=False)
    return noise_responses(eigenvalues, sgd, averaged), signal


def noise_responses(eigenvalues: np.ndarray, sgd: SGD, averaged: bool = False) -> np.ndarray:
    """p_k of `responses` alone."""
    noise = _summed(eigenvalues, sgd, averaged, step(sgd, averaged)[1])
    slow = effective_lr(sgd) * eigenvalues < _SLOW
    noise[slow] = _slow(eigenvalues[slow], sgd, averaged, of_noise=True)
    return noise


def _slow(eigenvalues: np.ndarray, sgd: SGD, averaged: bool, *, of_noise: bool) -> np.ndarray:
    """`_summed` where 1 − αλ rounds λ away, (n,): `(1 − M)X = vvᵀ` by M − 1, in which nothing cancels (`pair_maps`).
    Where that is next to singular, e^{−2aλt} summed, with a the effective learning rate. `of_noise`: p, else q."""
    maps = pair_maps.of(sgd if averaged else replace(sgd, average=None), 0.0)
    lr, right = effective_lr(sgd), maps.kick if of_noise else maps.start
    out = (lr if of_noise else 1 / lr) / (2 * eigenvalues)
    known = lr * eigenvalues > _SLOWEST
    out[known] = -np.linalg.solve(maps.changes(eigenvalues[known]), right[:, None])[..., 0] @ maps.read
    return out


def _summed(eigenvalues: np.ndarray, sgd: SGD, averaged: bool, vector: np.ndarray) -> np.ndarray:
    """Σ_t of the squared response to `vector` (m,), (n,), by doubling the time: `X ← X + R X Rᵀ`, `R ← R²`."""
    seen = int(np.flatnonzero(sgd.readout)[0]) if averaged else 0
    maps, total = mode_maps(eigenvalues, sgd, averaged), np.tile(np.outer(vector, vector), (eigenvalues.size, 1, 1))
    todo = np.arange(eigenvalues.size)
    for _ in range(_DOUBLINGS):
        r = maps[todo]
        with np.errstate(over="ignore", invalid="ignore"):  # on the edge of stability sums are infinite
            added = r @ total[todo] @ r.swapaxes(1, 2)
            total[todo] += added
            maps[todo] = r @ r
        # All components: the one that is seen may rest for a step, as at αλ = 1 + β, and move on.
        left = np.abs(added).max((1, 2)) > 1e-17 * np.abs(total[todo]).max((1, 2))
        todo = todo[left]
        if not todo.size:
            break
    return total[:, seen, seen]


@of_quadratic
def noise_at_one(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0) -> float:
    """Ũ(1) as in `at_one`, infinite where the mean, or a mode by itself, does not converge."""
    gamma = problem.noise(sgd)
    number("tau", tau, maximum=1.0 if gamma > 0 else math.inf)
    if not mean_is_stable(problem, sgd):
        return math.inf
    return _noise_sum(problem, _gains(problem, sgd), tau)


def _noise_sum(problem: QuadraticProblem, gains: np.ndarray, tau: float) -> float:
    """Ũ(1) from the `_gains`."""
    own = 1 + tau * gains
    return (
        math.inf if (own <= 0).any() else float(np.sum(problem.spectrum.counts[problem.spectrum.moving] * gains / own))
    )


@of_quadratic
def at_one(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0) -> AtOne:
    """Ũ(1), Ṽ(1) and whether the spectral-diagonal loss converges: the mean does, and Ũ(1) < 1.

    As for heavy ball with γτ < 0, every mode by itself must be stable as well: `1 + γτλ²p > 0`. Raises InputError for
    τ > 1 with γ > 0 (see `stability.diagonal_is_stable`) and for what is not stationary.
    """
    gamma = problem.noise(sgd)
    number("tau", tau, maximum=1.0 if gamma > 0 else math.inf)
    if not mean_is_stable(problem, sgd):
        return AtOne(math.inf, math.inf, False)
    noise = compression.agreed(problem, lambda some: _noise_sum(some, _gains(some, sgd), tau), _AGREED)
    if math.isinf(noise):
        return AtOne(math.inf, math.inf, False)
    if problem.still or sgd.weight_decay:
        return AtOne(noise, math.inf, noise < 1)
    return AtOne(
        noise, compression.agreed(problem, lambda some: _signal_sum(some, sgd, tau), _SIGNAL_AGREED), noise < 1
    )


def _gains(problem: QuadraticProblem, sgd: SGD) -> np.ndarray:
    """γλ²p of the moving modes: what each makes of a unit of loss in the end, without its own closure."""
    lam = problem.eigenvalues[problem.spectrum.moving]
    return problem.noise(sgd) * lam**2 * noise_responses(lam + problem.pull(sgd), undecayed(sgd))


def _signal_sum(problem: QuadraticProblem, sgd: SGD, tau: float) -> float:
    """Ṽ(1) of the moving modes without weight decay."""
    moves = problem.spectrum.moving
    _, signal = responses(problem.eigenvalues[moves], sgd)
    return float(np.sum(problem.coefficients[moves] ** 2 * signal / (1 + tau * _gains(problem, sgd))))


@of_quadratic
def floor(problem: QuadraticProblem, sgd: SGD, tau: float = 1.0, latest: float = LATEST) -> Floor:
    """Where the loss with noisy labels ends: `s_∞ = (Nσ²/(bγ)) Ũ(1)/(1 − Ũ(1))` for the iterate, spectral-diagonal.

    Every mode gains `λ²·(Nσ²/b)` a step, and each unit of it `p/(1 + γτλ²p)` in the end; the sum is fed back by Ũ(1).
    With weight decay the mean's own end r* makes noise for ever too: with `w = λ²p/(1 + γτλ²p)`,
    `s_∞ = (Σ r*² + Σ w(Λ − γτr*²))/(1 − Ũ(1))`, where Λ is the labels' Nσ²/b.
    For an average of the iterates the last response is its own. `latest`: step up to which it is looked for when that
    is reached. Raises InputError as `at_one`.
    """
    step(undecayed(sgd), averaged=True)  # refuses a tail average: it has no stationary state
    sums = at_one(problem, sgd, tau)
    if not sums.stable:
        return Floor(math.inf, None)
    if problem.origin is None:
        loss = compression.agreed(problem, lambda some: _floor_loss(some, sgd, tau, sums.noise), _AGREED)
    else:  # which the few modes do not have
        loss = _floor_loss(problem, sgd, tau, sums.noise)
    return Floor(loss, _reached(problem, sgd, tau, 2 * loss, latest))


def _floor_loss(problem: QuadraticProblem, sgd: SGD, tau: float, noise: float) -> float:
    """The loss of `floor`; `noise`: Ũ(1)."""
    bare, pull, gamma = undecayed(sgd), problem.pull(sgd), problem.noise(sgd)
    moves = problem.spectrum.moving
    lam, counts = problem.eigenvalues[moves], problem.spectrum.counts[moves]
    square = lam**2
    label = float(problem.label_source(problem.with_errors(sgd), problem.values(sgd, 0, 1).batch_size)[0])
    end = mean_end(problem, sgd)[moves]
    still = problem.still + float(end.sum())  # what the model does not fit makes noise for ever
    p = noise_responses(lam + pull, bare)
    own = 1 + gamma * tau * square * p
    fed = counts * label - gamma * tau * end
    total = (still + float(np.sum(fed * square * p / own))) / (1 - noise)
    if sgd.average is not None:
        averaged = noise_responses(lam + pull, bare, averaged=True)
        # A mode's noise is γ(s − τ c_k) + label, with its own c_k; the average sees the same noise.
        drawn = (gamma * total + label) / own
        less = float(np.sum(gamma * tau * end * square * averaged / own))
        total = still + float(np.sum(counts * square * drawn * averaged)) - less
    return total / (2 * problem.normaliser)


@of_quadratic
def mean_end(problem: QuadraticProblem, sgd: SGD) -> np.ndarray:
    """(modes,) the c_k = r*_k² at which the mean ends: 0 in modes that move without weight decay."""
    pull = problem.pull(sgd)
    if not pull:
        return np.where(problem.spectrum.moving, 0.0, problem.coefficients**2)
    return problem.origin_squares * (pull / (problem.eigenvalues + pull)) ** 2


def _reached(problem: QuadraticProblem, sgd: SGD, tau: float, level: float, most: float) -> int | None:
    """The first step, to 2%, with a loss from a quarter of `level` to it, found by stepping up to `most`."""
    state = diagonal.start(problem, sgd, number("tau", tau))
    now, after = 0, 0
    while level > 0 and now <= most:
        if level / 4 <= state.observe(("loss",))["loss"][0] <= level:
            return now
        after = max(now + 1, int(1.02 * now))
        state.advance(now, after)
        now = after
    return None
